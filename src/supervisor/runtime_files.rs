//! Runtime files: repairs what the master needs to be reached (runtime directory, control socket, pid file, journal of
//! workers, notify sockets) after it was removed. It is checked when inotify reports a removal, and at each HUP, reload
//! and reopening of logs.
//!
//! A blocking job does the work. The pauses between attempts grow, so that repeated removals cannot keep the master
//! busy.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::workers::process_table::ProcessStage;
use crate::event_loop::poller::{Interest, Source};
use crate::observe::events::EventKind;
use crate::runtime_dir::{self, NOTIFY_DIR, Repaired, RuntimeDirError};
use nix::sys::inotify::AddWatchFlags;
use rotad_core::{Span, Time, WorkerId};
use std::os::fd::AsFd;
use std::path::Path;

/// Delay of a repair: a directory is removed file by file, so wait until the removal is complete.
const SETTLE_TIME: Span = Span::from_millis(100);

/// The pause after an attempt; it doubles with each attempt that follows soon.
const PAUSE: Span = Span::from_secs(1);
const LONGEST_PAUSE: Span = Span::from_secs(60);

/// After this long without an attempt, the pause starts over.
const CALM_PERIOD: Span = Span::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct RuntimeFiles {
    under_way: bool,
    /// Something may be missing: when to check.
    due: Option<Time>,
    /// When the last attempt without a request began, and the pause after it.
    last: Option<(Time, Span)>,
    /// The last error, logged once.
    problem: Option<String>,
}

impl RuntimeFiles {
    /// When the next attempt is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due.filter(|_| !self.under_way)
    }

    fn want(&mut self, now: Time) {
        let settled = now + SETTLE_TIME;
        let allowed = self
            .last
            .map_or(settled, |(at, pause)| settled.max(at + pause));
        self.due = Some(self.due.map_or(allowed, |due| due.min(allowed)));
    }

    fn begins(&mut self, now: Time) {
        let pause = match self.last {
            Some((at, pause)) if now < at + CALM_PERIOD.max(pause + pause) => {
                (pause + pause).min(LONGEST_PAUSE)
            }
            _ => PAUSE,
        };
        self.last = Some((now, pause));
    }
}

impl Supervisor {
    /// Checks and repairs everything now, because of a request or signal.
    pub(super) fn repair_runtime_dir(&mut self) {
        match self.runtime.files.under_way {
            true => self.runtime.files.want(self.clock.now()),
            false => self.start_runtime_dir_repair(),
        }
    }

    /// The real path of the runtime directory.
    pub(super) fn runtime_dir(&self) -> &Path {
        self.workers.notify_dir.parent().unwrap_or(Path::new("/"))
    }

    /// Something was removed or renamed.
    pub(super) fn on_runtime_dir_change(&mut self) {
        let Some(inotify) = self.runtime.dir.inotify() else {
            return;
        };
        let mut missing = false;
        while let Ok(events) = inotify.read_events() {
            for event in events {
                missing |= match &event.name {
                    // The socket of a worker that is gone goes with it.
                    Some(name) => {
                        let worker = name
                            .to_str()
                            .and_then(|name| name.parse().ok())
                            .map(WorkerId);
                        worker.is_some_and(|worker| self.workers.processes.get(worker).is_some())
                    }
                    None => !event.mask.contains(AddWatchFlags::IN_IGNORED),
                };
            }
        }
        if missing {
            self.runtime.files.want(self.clock.now());
        }
    }

    pub(super) fn run_due_runtime_files(&mut self, now: Time) {
        if self.runtime.files.deadline().is_some_and(|at| at <= now) {
            self.runtime.files.begins(now);
            self.start_runtime_dir_repair();
        }
    }

    fn start_runtime_dir_repair(&mut self) {
        if self.shutdown.exiting.is_some() {
            return;
        }
        let control = &self.plan.control;
        (self.runtime.files.under_way, self.runtime.files.due) = (true, None);
        if let Err(error) = self.reload.blocking.repair_runtime_dir(
            self.runtime.dir.clone(),
            control.mode,
            control.group,
        ) {
            self.runtime.files.under_way = false;
            tracing::warn!("cannot repair the runtime directory: cannot start a thread: {error}");
        }
    }

    pub(super) fn on_runtime_dir_repaired(&mut self, repaired: Result<Repaired, RuntimeDirError>) {
        self.runtime.files.under_way = false;
        match repaired {
            Ok(repaired) => {
                self.apply_repair(repaired);
                self.runtime.files.problem = None;
            }
            Err(error) => {
                // Retried by the clock: when space is freed, nothing tells us.
                let now = self.clock.now();
                self.runtime
                    .files
                    .last
                    .is_none()
                    .then(|| self.runtime.files.begins(now));
                self.runtime.files.want(now);
                if self.runtime.files.problem.as_ref() != Some(&error.message) {
                    tracing::warn!("{}; all pools serve, signals are heard", error.message);
                    self.runtime.files.problem = Some(error.message);
                }
            }
        }
    }

    fn apply_repair(&mut self, repaired: Repaired) {
        if let Some(listener) = repaired.control {
            self.clients
                .replace_control_socket(listener, &self.event_loop.poller);
        }
        if let Some(folder) = &repaired.runtime_dir {
            self.workers.notify_dir = folder.join(NOTIFY_DIR);
            self.clients.set_location(folder);
        }
        if repaired.journal {
            let dir = self.runtime_dir().to_owned();
            let action = self.workers.journal.move_to(&dir);
            self.perform(action);
        }
        let again = self.notify_sockets_again();
        if again > 0 || !repaired.what.is_empty() {
            let mut what = repaired.what;
            what.extend((again > 0).then(|| format!("{again} notify sockets of workers")));
            let text = format!(
                "what this master needs was not in its place, and was made again: {}",
                what.join(", ")
            );
            self.emit(EventBuilder::new(EventKind::Restored, text).warn());
        }
    }

    /// Recreates notify sockets whose files are gone. Workers that are connected already were never cut off.
    fn notify_sockets_again(&mut self) -> usize {
        let workers: Vec<WorkerId> = self.workers.processes.iter().map(|(id, _)| id).collect();
        let mut again = 0;
        for worker in workers {
            let Some(process) = self.workers.processes.get_mut(worker) else {
                continue;
            };
            let Some(notify) = process.notify.as_mut().filter(|notify| notify.is_missing()) else {
                continue;
            };
            match notify.rebind() {
                Ok(old) => {
                    // It is watched only once the spawn result has arrived.
                    let watched = matches!(process.stage, ProcessStage::Alive(_));
                    if let Some(old) = old {
                        self.event_loop.poller.unwatch(&old);
                    }
                    if watched
                        && let Err(error) = self.event_loop.poller.watch(
                            notify.as_fd(),
                            Source::Notify(worker),
                            Interest::Read,
                        )
                    {
                        tracing::error!("cannot listen to a worker: {error}");
                    }
                    again += 1;
                }
                // The directory of its socket is gone.
                Err(error) => {
                    tracing::debug!("a worker's notify socket cannot be made again: {error}")
                }
            }
        }
        again
    }

    /// The configuration was read again, and its symlink may lead to another file now.
    pub(super) fn update_config_links(&mut self, real: &Path) {
        if self.plan.real == real {
            return;
        }
        real.clone_into(&mut self.plan.real);
        let paths = runtime_dir::paths(&self.plan);
        self.clients
            .set_presence_sockets(&paths, &self.event_loop.poller, |path| {
                match runtime_dir::bind_presence_socket(path) {
                    Ok(sign) => Some((sign.path, sign.listener)),
                    Err(error) => {
                        tracing::warn!("{error}");
                        None
                    }
                }
            });
        // A log path through the symlink leads to another file now.
        self.log.writer.reopen();
    }
}
