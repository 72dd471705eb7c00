//! Notices: what the engine reports, as events for people and progress for waiting clients.
//!
//! `effects.rs` calls [`Supervisor::report`] for each notice, in the engine's order. Nothing here decides anything.

use super::Supervisor;
use super::clients::describer::is_up;
use super::clients::outcome_text::{reason, superseded};
use super::event_log::EventBuilder;
use super::notice_text::{
    ALIVE_ONLY, death_kind, end_reason, failure_cause, kill_text, outcome_cause, retire_text,
    retry_text,
};
use super::shutdown::ended_text;
use super::workers::exit_report::{describe, exit_text, last_exit, last_known};
use super::workers::orphans::list_members;
use crate::control::protocol::Response;
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::sys::process::Process;
use rotad_core::{Cause, KillReason, Notice, Outcome, PoolId, Slot, Span, WorkerId};

/// The fields of [`Notice::Died`].
struct Death {
    cause: Cause,
    failure: bool,
    early_exits: u32,
    retry_in: Option<Span>,
    given_up: bool,
}

/// A worker that has taken the place of another one.
struct Step {
    pool: PoolId,
    slot: Slot,
    worker: WorkerId,
    done: u32,
    of: u32,
    /// How long it took; None: it is gone again.
    took: Option<Span>,
}

impl Supervisor {
    pub(super) fn report(&mut self, notice: Notice) {
        match notice {
            Notice::Ready {
                worker,
                took,
                by_age,
                soak,
            } => self.report_ready(worker, took, by_age, soak),
            Notice::Confirmed { worker, took } => {
                self.emit(
                    EventBuilder::new(
                        EventKind::Ready,
                        format!("says that it is ready, {took} after its start"),
                    )
                    .worker(worker),
                );
            }
            Notice::CanaryPassed { worker } => self.emit(
                EventBuilder::new(
                    EventKind::CanaryPassed,
                    "the first new worker has served long enough: the others follow",
                )
                .worker(worker),
            ),
            Notice::Died {
                worker,
                cause,
                failure,
                early_exits,
                retry_in,
                given_up,
                ..
            } => {
                let death = Death {
                    cause,
                    failure,
                    early_exits,
                    retry_in,
                    given_up,
                };
                self.report_death(worker, &death);
            }
            Notice::Stopped { worker, exit, took } => {
                let how = exit.map_or_else(|| "was never started".to_owned(), exit_text);
                self.emit(
                    EventBuilder::new(EventKind::Stopped, format!("stopped in {took}: {how}"))
                        .worker(worker),
                );
            }
            Notice::Retired { worker, why } => {
                let (cause, text) = retire_text(why, self.successor_is_ready_by_age(worker));
                self.emit(
                    EventBuilder::new(EventKind::Retired, text)
                        .worker(worker)
                        .cause(cause),
                );
            }
            Notice::Killed {
                worker,
                reason,
                waited,
            } => self.report_kill(worker, reason, waited),
            Notice::Unkillable { worker } => {
                let text = self.workers.why_left(worker).unwrap_or_else(|| {
                    "SIGKILL does not end it: the kernel holds it (state D?)".to_owned()
                });
                self.emit(
                    EventBuilder::new(EventKind::Unkillable, text)
                        .worker(worker)
                        .error(),
                );
            }
            Notice::SlotReplaced {
                pool,
                slot,
                worker,
                done,
                of,
            } => {
                let took = self.engine.view().worker(worker).and_then(|of| of.ready_in);
                self.report_replaced(&Step {
                    pool,
                    slot,
                    worker,
                    done,
                    of,
                    took,
                });
            }
            Notice::CrashLoop { pool, deaths, span } => {
                let span = span.max(Span::from_secs(1));
                let text = format!(
                    "crash loop: {deaths} workers died within {span}; one is tried at a time, the others are not touched"
                );
                self.emit(
                    EventBuilder::new(EventKind::CrashLoop, text)
                        .pool(pool)
                        .error(),
                );
            }
            Notice::CrashLoopEases { pool } => {
                let text = "one serves for a second: starting the rest; the crash loop is over once one lasts";
                self.emit(EventBuilder::new(EventKind::CrashLoopEases, text).pool(pool));
            }
            Notice::CrashLoopOver { pool } => {
                self.emit(
                    EventBuilder::new(
                        EventKind::CrashLoopOver,
                        "the crash loop is over: starting the rest",
                    )
                    .pool(pool),
                );
            }
            Notice::PoolReady { pool, generation } => {
                let text = self.describer().all_up(pool);
                self.emit(
                    EventBuilder::new(EventKind::PoolReady, text)
                        .pool(pool)
                        .generation(generation),
                );
            }
            Notice::PoolStopped { pool } => {
                self.emit(EventBuilder::new(EventKind::PoolStopped, "stopped").pool(pool));
            }
            Notice::Waiting { pool, by } => {
                let text = format!("starts after {}", self.pools.list(&by));
                self.emit(EventBuilder::new(EventKind::Waiting, text.as_str()).pool(pool));
                self.tell_progress(pool, &text);
            }
            Notice::OneshotDone {
                pool,
                generation,
                took,
            } => {
                let event = EventBuilder::new(EventKind::OneshotDone, format!("done after {took}"));
                self.emit(event.pool(pool).generation(generation));
            }
            Notice::EssentialLost { pool, span } => {
                let text = format!("essential, and no worker ready for {span}");
                self.emit(
                    EventBuilder::new(EventKind::EssentialLost, text)
                        .pool(pool)
                        .error(),
                );
            }
            Notice::EssentialEnded { pool, exit } => {
                let how = ended_text(exit);
                let text = format!("essential, and its workers have ended: {how}");
                self.emit(
                    EventBuilder::new(EventKind::EssentialEnded, text)
                        .pool(pool)
                        .warn(),
                );
            }
            Notice::RollStarted {
                pool,
                generation,
                of,
            } => {
                let text = format!("rolling restart of {of} workers");
                self.emit(
                    EventBuilder::new(EventKind::RollStarted, text)
                        .pool(pool)
                        .generation(generation),
                );
                let text = format!("rolling {of} workers to generation {generation}");
                self.tell_progress(pool, &text);
            }
            Notice::RollingBack {
                pool,
                generation,
                to,
                failure,
            } => {
                let reason = reason(
                    &failure,
                    failure
                        .worker
                        .and_then(|w| self.workers.exit_reports.of_worker(w)),
                );
                let text = format!("going back to generation {to}");
                let event = EventBuilder::new(EventKind::RollingBack, format!("{text}: {reason}"))
                    .pool(pool)
                    .generation(generation);
                self.emit(event.cause(failure_cause(failure.cause)).error());
                self.tell_progress(pool, &text);
            }
            Notice::RollEnded { pool, outcome } => self.roll_ended(pool, &outcome),
            Notice::BeginsWith {
                pool,
                generation,
                by,
            } => {
                let how = if by.is_empty() {
                    "starts".to_owned()
                } else {
                    format!("waits for {}, and starts after that", self.pools.list(&by))
                };
                self.tell_progress(pool, &format!("{how}, with generation {generation}"));
            }
            Notice::RollAfter { pool, by } => {
                let names = self.pools.list(&by);
                let text = format!("its rolling restart begins after that of {names}");
                let event = EventBuilder::new(EventKind::Waiting, text.as_str());
                self.emit(event.pool(pool).cause("roll"));
                self.tell_progress(pool, &text);
            }
            Notice::RollWaits { pool } => {
                let text = "another rolling restart waits for the running one";
                self.emit(EventBuilder::new(EventKind::RollWaits, text).pool(pool));
            }
            Notice::RollSuperseded {
                pool,
                generation,
                by,
                retired_any,
            } => {
                let touched = if retired_any {
                    "after some workers had been replaced"
                } else {
                    "before anything was touched"
                };
                let text = format!("{}, {touched}", superseded(by));
                self.emit(
                    EventBuilder::new(EventKind::RollSuperseded, text)
                        .pool(pool)
                        .generation(generation),
                );
            }
            Notice::Watched { pool, span } => {
                let text = format!(
                    "every new worker is alive, nothing says that they are ready: watched for {span} before the roll is \
                     done"
                );
                self.tell_progress(pool, &text);
                self.emit(
                    EventBuilder::new(EventKind::RollStep, text)
                        .pool(pool)
                        .debug(),
                );
            }
            Notice::WorkerReplaced {
                pool,
                slot,
                worker,
                took,
            } => {
                self.emit(
                    EventBuilder::new(EventKind::WorkerReplaced, format!("replaced in {took}"))
                        .worker(worker),
                );
                let how = if self.is_ready_by_age(worker) {
                    ALIVE_ONLY
                } else {
                    "serves"
                };
                let step = Step {
                    pool,
                    slot,
                    worker,
                    done: 1,
                    of: 1,
                    took: Some(took),
                };
                self.tell_step(&step, &format!("{how}, after {took}"));
            }
        }
    }

    fn report_replaced(&mut self, step: &Step) {
        let how = match step.took {
            _ if self.is_ready_by_age(step.worker) => ALIVE_ONLY.to_owned(),
            Some(took) => format!("serves, ready after {took}"),
            None => "serves".to_owned(),
        };
        let text = format!("{how} ({} of {})", step.done, step.of);
        let event = EventBuilder::new(EventKind::RollStep, text.as_str());
        self.emit(event.worker(step.worker).debug());
        self.tell_step(step, &text);
    }

    /// Tells the clients that wait for this pool that one more worker is replaced.
    fn tell_step(&mut self, step: &Step, text: &str) {
        let Step {
            pool,
            slot,
            worker,
            done,
            of,
            took,
        } = *step;
        let pid = self.workers.label(worker).pid;
        let name = self.pools.name(pool).to_owned();
        let text = format!("{name}/{slot}: pid {} {text}", pid.unwrap_or(0));
        let step = Response::Step {
            pool: name,
            slot: slot.0,
            pid,
            done,
            of,
            took_ms: took.map(Span::as_millis),
            text,
        };
        self.tell_waiting(pool, &step);
    }

    /// Sends a line of progress about this pool to the clients that wait for it.
    fn tell_progress(&mut self, pool: PoolId, text: &str) {
        let text = format!("{}: {text}", self.pools.name(pool));
        self.tell_waiting(pool, &Response::Progress { text });
    }

    fn tell_waiting(&mut self, pool: PoolId, answer: &Response) {
        self.clients
            .tell_waiting(pool, answer, &self.event_loop.poller);
    }

    /// Whether the worker counts as ready because of its age alone.
    fn is_ready_by_age(&self, worker: WorkerId) -> bool {
        self.engine
            .view()
            .worker(worker)
            .is_some_and(|worker| worker.by_age)
    }

    fn report_ready(&mut self, worker: WorkerId, took: Span, by_age: bool, soak: Span) {
        let mut text = format!("ready after {took}");
        if by_age {
            text = format!("alive after {took}, nothing says that it is ready");
            if soak > Span::ZERO {
                text.push_str(&format!(": watched for {soak} before others are replaced"));
                let context = self.workers.label(worker);
                if let (Some(pool), Some(slot)) = (context.pool, context.slot) {
                    let (name, pid) = (self.pools.name(pool), context.pid.unwrap_or(0));
                    let told = format!("{name}/{slot}: pid {pid} is {text}");
                    self.tell_waiting(pool, &Response::Progress { text: told });
                }
            }
        }
        self.emit(EventBuilder::new(EventKind::Ready, text).worker(worker));
    }

    fn report_death(&mut self, id: WorkerId, death: &Death) {
        let Death {
            cause,
            failure,
            early_exits,
            retry_in,
            given_up,
        } = *death;
        if let Cause::NotReadyInTime | Cause::Unhealthy = cause
            && let Some(process) = self.workers.processes.get(id)
        {
            // It still runs and is about to be killed: these are its last lines.
            let log = process.last_lines(&self.log.writer);
            let lived = self
                .engine
                .view()
                .worker(id)
                .map_or(0.0, |v| (self.clock.now() - v.began).as_secs_f64());
            let mut reason = end_reason(cause, process.probe_error.as_deref());
            if cause == Cause::NotReadyInTime
                && let Some(view) = self.engine.view().worker(id)
                && let Some(computed) = process.child().and_then(Process::cpu_time)
                && let Some(crowding) = self.health.boot_samples.crowding(
                    self.engine.view().processors(),
                    self.clock.now() - view.began,
                    computed,
                )
            {
                reason = format!("{reason}; {crowding}");
            }
            let exit = last_exit(None, Some(reason.clone()), lived, log);
            self.workers
                .exit_reports
                .add(id, process.exit_report(exit, cause == Cause::Unhealthy));
            if let Some(process) = self.workers.processes.get_mut(id) {
                process.end_reason = Some(reason);
            }
        }
        let text = describe(cause, self.workers.exit_reports.of_worker(id));
        let next = if given_up && retry_in.is_none() {
            let pool = self.workers.label(id).pool;
            let why = pool.map(|pool| self.describer().no_restart_reason(pool, cause));
            format!("; {}", why.unwrap_or_default())
        } else {
            retry_text(retry_in, early_exits)
        };
        let kind = death_kind(cause);
        let event = EventBuilder::new(kind, format!("{text}{next}"))
            .worker(id)
            .cause(failure_cause(cause));
        self.emit(if failure { event.warn() } else { event });
    }

    /// Whether the worker that has taken the slot of this one counts as ready because of its age alone.
    fn successor_is_ready_by_age(&self, worker: WorkerId) -> bool {
        let view = self.engine.view();
        let old = view.worker(worker).map(|old| (old.pool, old.slot));
        old.and_then(|of| {
            view.workers()
                .find(|next| (next.pool, next.slot) == of && is_up(next.state))
        })
        .is_some_and(|next| next.by_age)
    }

    /// Names the processes that are killed: their work is cut short, and this line says which.
    fn report_kill(&mut self, id: WorkerId, reason: KillReason, waited: Span) {
        let Some(process) = self.workers.processes.get(id) else {
            return;
        };
        let rest = match self.workers.survivors(id) {
            // The last of them has just exited.
            Some(Some([])) => return,
            Some(Some(rest)) => Some(list_members(rest)),
            Some(None) => Some("what it is was not found out in time".to_owned()),
            None => None,
        };
        let mut text = kill_text(reason, waited, rest.as_deref());
        let log = process
            .output
            .as_ref()
            .map(|output| self.log.writer.tail(output))
            .unwrap_or_default();
        text.push_str(&last_known(process.status_text.as_deref(), &log));
        let event = EventBuilder::new(EventKind::Kill, text).worker(id);
        self.emit(match reason {
            KillReason::Steps | KillReason::Cap => event.cause("stop-timeout").warn(),
            KillReason::Now => event.cause("stop-now"),
        });
    }

    fn roll_ended(&mut self, pool: PoolId, outcome: &Outcome) {
        let (code, text) = self.describer().outcome(pool, outcome);
        let event = EventBuilder::new(EventKind::RollEnded, text)
            .pool(pool)
            .cause(outcome_cause(outcome));
        let event = match outcome {
            Outcome::Done { generation, .. }
            | Outcome::Aborted { generation, .. }
            | Outcome::RolledBack { generation, .. } => event.generation(*generation),
            _ => event,
        };
        let is_failure = matches!(
            outcome,
            Outcome::Aborted { .. } | Outcome::RolledBack { .. }
        ) && code != ExitCode::DONE;
        self.emit(if is_failure { event.error() } else { event });
    }
}
