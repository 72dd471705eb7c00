//! Finds the workers that a killed master left, and stops those that are not adopted before anything is started.

use crate::daemon::StartContext;
use crate::event_loop::clock::Deadline;
use crate::event_loop::signals::{Meaning, Signals};
use crate::exit_code::ExitCode;
use crate::log::LogWriter;
use crate::observe::counted::counted;
use crate::observe::events::EventKind;
use crate::plan::{Plan, PoolPlan};
use crate::runtime_dir::RuntimeDir;
use crate::runtime_dir::stale_workers::{StaleWorker, StaleWorkers, StopPlan, TakeOverStep};
use crate::supervisor::Failed;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::service_manager::ServiceManager;
use rotad_core::Span;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

/// How often the processes that are still being stopped are reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum processes named in one line.
const MAX_NAMES: usize = 20;

/// Finds the workers that a killed master left. An error if there are any and --no-take-over forbids stopping them.
pub(super) fn find_stale_workers(
    plan: &Plan,
    context: &StartContext,
    runtime_dir: &RuntimeDir,
) -> Result<StaleWorkers, Failed> {
    let left = StaleWorkers::find_under_lock(runtime_dir.path())
        .map_err(|e| Failed::at("cannot read what a dead master left", e))?;
    if left.found.is_empty() || !context.no_take_over {
        return Ok(left);
    }
    let message = format!(
        "a master of {} was killed, and these processes of it still run:\n{}\nwithout --no-take-over, `rotad start` and \
         `rotad run` adopt them; --take-over stops them by their stop steps before anything is started",
        plan.config.display(),
        list_names(&left.found)
    );
    Err(Failed {
        code: ExitCode::FAILED,
        message,
    })
}

/// Stops the workers that a killed master left. Their output is logged meanwhile, because a worker that blocks on a
/// full pipe could not exit.
pub(super) struct TakeOver<'a> {
    pub(super) plan: &'a Plan,
    pub(super) log_writer: &'a LogWriter,
    pub(super) context: &'a mut StartContext,
    pub(super) signals: &'a mut Signals,
    pub(super) service_manager: &'a mut ServiceManager,
}

impl TakeOver<'_> {
    /// Stops them. Returns the events about that, which are in the log already: there is no event log yet.
    pub(super) fn begin(self, left: StaleWorkers) -> Result<Vec<EventBuilder>, Failed> {
        let mut events = Vec::new();
        for pid in &left.unattributed {
            let text = format!(
                "pid {pid} started after a master that was killed, and cannot be looked into (its memory is locked, a \
                 disk may hang): if it is a worker of that master, it runs on"
            );
            tracing::warn!("{text}");
            events.push(EventBuilder::new(EventKind::Orphan, text).silent());
        }
        if left.found.is_empty() {
            return Ok(events);
        }
        let dead = left.master().unwrap_or(0);
        let stop_plans: BTreeMap<String, StopPlan> = self
            .plan
            .pools
            .iter()
            .map(|pool| (pool.name.clone(), stop_plan(pool)))
            .collect();
        let text = format!(
            "a master that was killed (pid {dead}) has left {}; each is stopped by its stop steps before anything is started",
            summary(&left.found)
        );
        tracing::warn!("{text}");
        self.context.report.progress(&text);
        for pipe in left.pipes() {
            let (pool, slot) = (pipe.pool.clone(), pipe.slot);
            let log = self
                .plan
                .pools
                .iter()
                .find(|plan| plan.name == pool)
                .map(|plan| &plan.log);
            if let Err(error) = self.log_writer.adopt_stale(pipe, log) {
                tracing::warn!(
                    pool,
                    slot,
                    "what a dead master's worker still prints cannot be read: {error}"
                );
            }
        }
        let cap = self.plan.master.stop_timeout.map(Span::from);
        let signal_fd = self.signals.as_fd().try_clone_to_owned().ok();
        let mut stop = Stop::default();
        let mut next_report = Deadline::after(PROGRESS_INTERVAL);
        let Self {
            log_writer,
            context,
            signals,
            service_manager,
            ..
        } = self;
        let done = left.take_over(
            &stop_plans,
            cap,
            signal_fd.as_ref().map(AsFd::as_fd),
            |left| {
                for came in signals.pending() {
                    stop.on_signal(came.meaning, &came.text);
                }
                service_manager.report_take_over(left.len());
                if next_report.has_passed() {
                    next_report = Deadline::after(PROGRESS_INTERVAL);
                    let text = format!("still being stopped: {}", summary(left));
                    tracing::info!("{text}");
                    context.report.progress(&text);
                }
                if stop.now {
                    TakeOverStep::KillNow
                } else {
                    TakeOverStep::Continue
                }
            },
        );
        service_manager.take_over_done();
        log_writer.drain();
        if !done.unkillable.is_empty() {
            let message = format!(
                "these processes of a killed master cannot be ended by the kernel, and nothing is started beside them:\n{}",
                list_names(&done.unkillable)
            );
            return Err(Failed {
                code: ExitCode::FAILED,
                message,
            });
        }
        let killed = match &done.killed[..] {
            [] => String::new(),
            killed => format!(
                "; killed at the end of their stop steps: {}",
                killed.join(", ")
            ),
        };
        let text = format!(
            "what a killed master (pid {dead}) had left is stopped ({}){killed}",
            counted(done.found, "process")
        );
        tracing::warn!("{text}");
        if stop.asked {
            // `run` was asked to stop and has stopped; for `start` that is a failure.
            let code = if context.foreground {
                ExitCode::DONE
            } else {
                ExitCode::FAILED
            };
            return Err(Failed {
                code,
                message: format!("{text}; stopped before anything was started"),
            });
        }
        context.report.progress(&text);
        events.push(EventBuilder::new(EventKind::TookOver, text).silent());
        Ok(events)
    }
}

/// A stop signal that arrives while the workers of a killed master are being stopped.
#[derive(Default)]
struct Stop {
    asked: bool,
    interrupted: bool,
    now: bool,
}

impl Stop {
    fn on_signal(&mut self, meaning: Meaning, text: &str) {
        match meaning {
            Meaning::Stop | Meaning::Interrupt => {
                self.now |= meaning == Meaning::Interrupt && self.interrupted;
                self.interrupted |= meaning == Meaning::Interrupt;
                self.asked = true;
                let how = if self.now {
                    "what is left is killed"
                } else {
                    "nothing will be started"
                };
                tracing::info!("{text}: {how}");
            }
            // The configuration has just been read, and nothing of ours runs yet.
            Meaning::Act(_) | Meaning::Stray | Meaning::Nothing => {}
        }
    }
}

fn stop_plan(pool: &PoolPlan) -> StopPlan {
    StopPlan {
        steps: pool.policy.stop.clone(),
        after: pool.after.clone(),
    }
}

fn list_names(left: &[StaleWorker]) -> String {
    left.iter()
        .map(|one| format!("  {}", one.name()))
        .collect::<Vec<_>>()
        .join("\n")
}

fn summary(left: &[StaleWorker]) -> String {
    let named: Vec<String> = left.iter().take(MAX_NAMES).map(StaleWorker::name).collect();
    let more = left.len().saturating_sub(MAX_NAMES);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", named.join(", "))
}
