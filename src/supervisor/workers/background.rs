//! Detects programs that daemonize: the first process exits with 0, and a process that it started serves on
//! unsupervised. The sign is a clean exit before ready that leaves a process behind.

use crate::observe::events::EventKind;
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::Workers;
use rotad_core::{Generation, Input, PoolId, Slot, WorkerId};

/// How to keep well-known programs in the foreground, by the beginning of their name.
const IN_THE_FOREGROUND: [(&str, &str); 14] = [
    ("nginx", "`-g 'daemon off;'`"),
    ("redis-server", "`--daemonize no`"),
    ("valkey-server", "`--daemonize no`"),
    ("php-fpm", "`--nodaemonize`"),
    ("memcached", "leave out `-d`"),
    ("httpd", "`-DFOREGROUND`"),
    ("apache2", "`-DFOREGROUND`"),
    ("haproxy", "leave out `-D` (`-W -db`)"),
    ("gunicorn", "leave out `--daemon`"),
    ("uwsgi", "leave out `daemonize`"),
    ("supervisord", "`--nodaemon`"),
    ("sshd", "`-D`"),
    ("cron", "`-f`"),
    ("lighttpd", "`-D`"),
];

/// Maximum length of a process name in the kernel, in bytes (proc_pid_comm(5)).
const LONGEST_NAME: usize = 15;

/// How to keep this program in the foreground; general advice for an unknown one.
fn advice(program: &str) -> String {
    match IN_THE_FOREGROUND.iter().find(|(name, _)| program.starts_with(name)) {
        Some((_, how)) => format!("run it in the foreground: {how}"),
        None => "run it in the foreground (nginx: `-g 'daemon off;'`, redis: `--daemonize no`, php-fpm: \
                 `--nodaemonize`, httpd: `-DFOREGROUND`)"
            .to_owned(),
    }
}

/// A pool whose workers may have gone into the background.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect {
    pub pool: PoolId,
    /// How many workers it wants.
    pub slots: u32,
    /// The generation that its slots are filled with.
    pub generation: Generation,
}

impl Workers {
    /// A worker that exited with 0 before it was ready has left processes behind. They were killed, and the next ones
    /// will be.
    pub(super) fn report_daemonized_worker(&mut self, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(process) = self.processes.get(id) else {
            return;
        };
        let (pool, generation) = (process.pool, process.generation);
        let name = self.program_of(pool, generation).unwrap_or_default();
        let text = format!(
            "ended with 0 before it was ready and left a process behind: it goes into the background, where nobody \
             would supervise it; {}",
            advice(&name)
        );
        let event = EventBuilder::new(EventKind::Background, text.clone());
        actions.push(Action::Emit(event.worker(id).warn()));
        self.exit_reports.set_daemonized(pool, text);
        actions.push(Action::Input(Input::Daemonized(pool)));
    }

    /// An orphan that belongs to no worker may have the name of a program whose workers exit with 0: it serves in their
    /// place.
    pub(crate) fn report_daemonized_orphan(
        &mut self,
        pid: i32,
        name: &str,
        suspects: &[Suspect],
    ) -> Vec<Action> {
        let short = |program: &str| program.bytes().take(LONGEST_NAME).eq(name.bytes());
        let mut actions = Vec::new();
        for suspect in suspects {
            let pool = suspect.pool;
            let is_its = self
                .program_of(pool, suspect.generation)
                .is_some_and(|program| short(&program));
            let ends = |slot| {
                let last = self.exit_reports.of_slot(pool, Slot(slot));
                last.is_some_and(|last| last.code == Some(0))
            };
            if !is_its || !(0..suspect.slots).any(ends) {
                continue;
            }
            let text = format!(
                "its program goes into the background: pid {pid} ({name}) serves on where nobody supervises it, and \
                 keeps its address from those that are started; end it, and {}",
                advice(name)
            );
            let event = EventBuilder::new(EventKind::Background, text.clone());
            actions.push(Action::Emit(event.pool(pool).warn()));
            self.exit_reports.set_daemonized(pool, text);
            actions.push(Action::Input(Input::Daemonized(pool)));
        }
        actions
    }

    /// The file name of the program that the generation's workers run.
    fn program_of(&self, pool: PoolId, generation: Generation) -> Option<String> {
        let resolved = self.spawn_specs.resolved(pool, generation)?;
        Some(resolved.program.file_name()?.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_programs_get_their_own_advice() {
        assert!(advice("nginx").contains("daemon off"));
        assert!(advice("php-fpm8.2").contains("--nodaemonize"));
        assert!(advice("mine").contains("foreground"));
    }
}
