//! Shutdown: kills what outlived its worker, removes our files, and replies to the clients that wait for the stop.
//! Begins with the engine's `Exit` command; `mod.rs` polls [`Supervisor::can_exit`] each turn, then calls
//! [`Supervisor::finish`].

use super::Supervisor;
use super::event_builder::EventBuilder;
use super::workers::exit_report::exit_text;
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::sys::thread;
use rotad_core::{EssentialLoss, Exit, PoolId, Request, Span, Time, WorkerId};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long orphans may take to die after SIGKILL.
const ORPHAN_TIMEOUT: Span = Span::from_millis(900);

/// How long the stop may take after no pool has started.
const FAILED_START_TIMEOUT: Span = Span::from_secs(5);

/// How often it is checked meanwhile.
const CHECK_INTERVAL: Span = Span::from_millis(100);

/// How long hooks may take once the last worker is gone, that of `master-stopped` among them. `docs/promises.md` has it.
const HOOKS_TIMEOUT: Span = Span::from_secs(5);

/// The same, if everything is to stop at once.
const HOOKS_TIMEOUT_NOW: Span = Span::from_secs(1);

/// How long clients may take to read the last lines of workers.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long removing files may take: they may lie on a disk that hangs.
const FILES_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs `job` on a thread and waits at most `timeout` for it. What hangs is left behind.
fn run_with_timeout(timeout: Duration, what: &str, job: impl FnOnce() + Send + 'static) {
    let (leaves, gone) = crossbeam_channel::bounded::<()>(0);
    let go = move || {
        job();
        drop(leaves);
    };
    // Without a thread the files stay: the next start removes them.
    let begun = thread::spawn("file-removal", 256 << 10, go);
    if begun.is_err()
        || gone.recv_timeout(timeout) == Err(crossbeam_channel::RecvTimeoutError::Timeout)
    {
        tracing::warn!("{what} could not be removed: a disk hangs?");
    }
}

fn remove_files(mut listening: super::listening::Listening) {
    for (_, listener) in listening.iter_mut() {
        if let Err(error) = listener.remove_file() {
            tracing::warn!(
                listen = listener.name(),
                "its file cannot be removed: {error}"
            );
        }
    }
}

/// Whether and how the master stops.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// The engine was asked to stop everything.
    pub stopping: bool,
    /// SIGINT has been received: the next one kills.
    pub interrupted: bool,
    /// Everything is to stop at once.
    pub at_once: bool,
    /// The engine has nothing left to stop.
    pub exiting: Option<Exiting>,
    /// What the kernel cannot end, for the exit message.
    pub unkillable: BTreeMap<Leftover, String>,
    /// The exit code, where it is not 0.
    pub exit_code: Option<ExitCode>,
}

/// Processes that are left when the master exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leftover {
    /// What workers left behind, all together.
    Orphans,
    /// A worker, or its tree.
    Worker(WorkerId),
}

#[derive(Debug)]
pub(super) struct Exiting {
    deadline: Time,
    stage: ExitStage,
}

/// What is waited for, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExitStage {
    /// What workers left behind.
    LeftByWorkers,
    /// The hooks, since then.
    Hooks(Time),
    /// What hooks left behind.
    LeftByHooks,
}

impl Exiting {
    /// Orphans that die cause SIGCHLD; the timeout is for those that do not.
    pub(super) fn next_check(&self, now: Time) -> Time {
        match self.stage {
            ExitStage::LeftByWorkers | ExitStage::LeftByHooks => {
                self.deadline.min(now + CHECK_INTERVAL)
            }
            ExitStage::Hooks(_) => now + CHECK_INTERVAL,
        }
    }
}

impl Supervisor {
    /// Everything is about to stop, once the engine is asked to.
    pub(super) fn begin_stop(&mut self) {
        if self.shutdown.stopping {
            return;
        }
        self.shutdown.stopping = true;
        self.emit(EventBuilder::new(EventKind::MasterStopping, "stopping").silent());
        self.service_manager.tell_stopping();
        self.cancel_reloads();
        self.cancel_comparisons();
        let (now, poller) = (self.clock.now(), &self.event_loop.poller);
        if let Some(inotify) = self.runtime.stop_watching(now, poller) {
            self.reload.blocking.close_inotify(inotify);
        }
    }

    pub(super) fn stop(&mut self, now: bool) {
        self.begin_stop();
        let cap = self.plan.master.stop_timeout.map(Span::from);
        self.shutdown.at_once |= now;
        let request = if now {
            Request::StopNow
        } else {
            Request::Stop { cap }
        };
        self.engine.request(request);
    }

    /// No pool has started: everything stops, and the start fails.
    pub(super) fn stop_failed_start(&mut self) {
        tracing::error!("no pool started; stopping");
        self.begin_stop();
        self.engine.request(Request::Stop {
            cap: Some(FAILED_START_TIMEOUT),
        });
    }

    /// An essential pool is lost: everything stops, and the master exits with a code that tells why.
    pub(super) fn give_up(&mut self, pool: PoolId, cause: EssentialLoss) {
        if self.shutdown.stopping {
            return;
        }
        let (code, text) = loss_text(self.pools.name(pool), cause);
        match cause {
            EssentialLoss::NotReady(_) => tracing::error!("{text}"),
            EssentialLoss::Ended(_) => tracing::info!("{text}"),
        }
        self.clients.start_watch.abandon(code, &text);
        self.shutdown.exit_code = Some(code);
        self.stop(false);
    }

    pub(super) fn begin_shutdown(&mut self, lost: &[WorkerId]) {
        for worker in lost {
            let Some(process) = self.workers.processes.get(*worker) else {
                continue;
            };
            let name = format!("{}/{}", self.pools.name(process.pool), process.slot);
            let text = match self.workers.why_left(*worker) {
                None => format!(
                    "{name}: pid {} cannot be ended by the kernel",
                    process.pid().unwrap_or(0)
                ),
                Some(why) => format!("{name}: {why}"),
            };
            tracing::error!("{text}");
            self.shutdown
                .unkillable
                .insert(Leftover::Worker(*worker), text);
        }
        self.end_orphans(ExitStage::LeftByWorkers);
    }

    fn end_orphans(&mut self, stage: ExitStage) {
        let now = self.clock.now();
        let deadline = now + ORPHAN_TIMEOUT;
        self.shutdown.exiting = Some(Exiting { deadline, stage });
        self.workers.end_orphans(now);
    }

    /// The exit code, once nothing is left to wait for.
    pub(super) fn can_exit(&mut self) -> Option<ExitCode> {
        match self.shutdown.exiting.as_ref()?.stage {
            ExitStage::LeftByWorkers => {
                let code = self.orphans_have_ended()?;
                self.emit(EventBuilder::new(EventKind::MasterStopped, "stopped"));
                self.hooks.close();
                if !self.hooks.is_busy() {
                    return Some(code);
                }
                if let Some(exiting) = &mut self.shutdown.exiting {
                    exiting.stage = ExitStage::Hooks(self.clock.now());
                }
                None
            }
            ExitStage::Hooks(since) => {
                let limit = match self.shutdown.at_once {
                    true => HOOKS_TIMEOUT_NOW,
                    false => HOOKS_TIMEOUT,
                };
                if self.hooks.is_busy() && self.clock.now() < since + limit {
                    return None;
                }
                self.kill_hooks();
                self.end_orphans(ExitStage::LeftByHooks);
                None
            }
            ExitStage::LeftByHooks => self.orphans_have_ended(),
        }
    }

    /// The exit code, once what workers or hooks have left behind is gone, or takes too long.
    fn orphans_have_ended(&mut self) -> Option<ExitCode> {
        let deadline = self.shutdown.exiting.as_ref()?.deadline;
        // None: the scan has not finished.
        let left = self.workers.orphans_left();
        if left != Some(0) && self.clock.now() < deadline {
            return None;
        }
        let left = left.unwrap_or(1);
        if left > 0 {
            let text = self.workers.leftovers_text();
            let event = EventBuilder::new(EventKind::Unkillable, text.clone());
            self.emit(event.error());
            self.shutdown.unkillable.insert(Leftover::Orphans, text);
        }
        Some(if self.shutdown.unkillable.is_empty() {
            ExitCode::DONE
        } else {
            ExitCode::FAILED
        })
    }

    pub(super) fn finish(mut self, code: ExitCode) -> ExitCode {
        let lost: Vec<&str> = self
            .shutdown
            .unkillable
            .values()
            .map(String::as_str)
            .collect();
        let lost = lost.join("\n");
        self.save();
        self.tell_events();
        let listening = std::mem::take(&mut self.listening);
        run_with_timeout(FILES_TIMEOUT, "the files of unix listeners", move || {
            remove_files(listening)
        });
        // If processes are left, the journal stays: the next start has to find them.
        if self.shutdown.unkillable.is_empty() {
            self.workers.journal.remove();
        }
        let message = if code == ExitCode::DONE {
            "stopped".to_owned()
        } else {
            lost.clone()
        };
        self.clients.answer_stop(code, &message);
        self.answer_overdue_statuses(true);
        self.clients.finish_followers(&self.event_loop.poller);
        self.log.writer.drain();
        self.clients.log_clients.end(CLIENT_TIMEOUT);
        let Self {
            runtime,
            mut clients,
            workers,
            shutdown,
            ..
        } = self;
        // Cgroups and runtime directory go before the report: once `rotad start` returns, nothing is left.
        clients.close_presence_sockets();
        drop(workers);
        run_with_timeout(
            FILES_TIMEOUT,
            "the pid file and the control socket",
            move || runtime.leave(),
        );
        let start_code = clients
            .start_watch
            .finish_on_exit((!lost.is_empty()).then_some(lost.as_str()));
        start_code
            .unwrap_or(code)
            .worse(code)
            .worse(shutdown.exit_code.unwrap_or(ExitCode::DONE))
    }
}

/// The exit code of the master, and what is said about the loss of an essential pool.
fn loss_text(name: &str, cause: EssentialLoss) -> (ExitCode, String) {
    let (code, text) = match cause {
        EssentialLoss::NotReady(span) => (
            ExitCode::ESSENTIAL_FAILED,
            format!("{name} is essential, and none of its workers was ready for {span}"),
        ),
        EssentialLoss::Ended(exit) => (
            ended_code(exit),
            format!("{name} is essential and has ended ({})", ended_text(exit)),
        ),
    };
    (code, format!("{text}: everything stops"))
}

/// The exit code of a master whose essential pool has ended: the pool's own, or what a shell reports for a signal.
fn ended_code(exit: Option<Exit>) -> ExitCode {
    match exit {
        Some(Exit::Code(code)) => ExitCode::of_child(u8::try_from(code).unwrap_or(u8::MAX)),
        Some(Exit::Signal { signal, .. }) => ExitCode::of_signal(signal),
        Some(Exit::Unknown) | None => ExitCode::ESSENTIAL_FAILED,
    }
}

/// How the workers of an essential pool have ended.
pub(super) fn ended_text(exit: Option<Exit>) -> String {
    exit.map_or_else(|| "no worker could be started".to_owned(), exit_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_essential_pool_tells_the_exit_code() {
        let signal = Exit::Signal {
            signal: 9,
            core_dumped: false,
        };
        for (exit, code, how) in [
            (Some(Exit::Code(3)), ExitCode::of_child(3), "exited with 3"),
            (
                Some(signal),
                ExitCode::of_signal(9),
                "was killed by SIGKILL",
            ),
            (
                None,
                ExitCode::ESSENTIAL_FAILED,
                "no worker could be started",
            ),
        ] {
            let (is, text) = loss_text("web", EssentialLoss::Ended(exit));
            assert_eq!(is, code);
            assert!(text.contains(how), "{text}");
        }
        let (code, text) = loss_text("web", EssentialLoss::NotReady(Span::from_secs(30)));
        assert_eq!(code, ExitCode::ESSENTIAL_FAILED);
        assert_eq!(
            text,
            "web is essential, and none of its workers was ready for 30.0 s: everything stops"
        );
    }
}
