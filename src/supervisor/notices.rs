//! Notices: what the engine reports, as events for people and progress for waiting clients.
//!
//! `effects.rs` calls [`Supervisor::report`] for each notice, in the engine's order. Nothing here decides anything.

use super::Supervisor;
use super::clients::describer::is_up;
use super::clients::outcome_text::{reason, superseded};
use super::event_log::EventBuilder;
use super::shutdown::ended_text;
use super::workers::exit_report::{describe, exit_text, last_exit, last_known};
use super::workers::orphans::list_members;
use crate::control::protocol::Response;
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::sys::process::Process;
use rotad_core::{
    Cause, Exit, KillReason, Notice, Outcome, PoolId, Slot, Span, StopReason, WorkerId,
};

/// The fields of [`Notice::Died`].
struct Death {
    cause: Cause,
    failure: bool,
    early_exits: u32,
    retry_in: Option<Span>,
    given_up: bool,
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
                let (cause, text) = self.retire_text(worker, why);
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
            } => self.report_replaced(pool, slot, worker, (done, of)),
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
                let names: Vec<&str> = by.iter().map(|pool| self.pools.name(*pool)).collect();
                let text = format!("starts after {}", names.join(", "));
                let told = format!("{}: {text}", self.pools.name(pool));
                self.emit(EventBuilder::new(EventKind::Waiting, text).pool(pool));
                self.tell_waiting_clients(pool, &told);
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
                let text = format!(
                    "{}: rolling {of} workers to generation {generation}",
                    self.pools.name(pool)
                );
                self.tell_waiting_clients(pool, &text);
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
                let text = format!("{}: {text}", self.pools.name(pool));
                self.tell_waiting_clients(pool, &text);
            }
            Notice::RollEnded { pool, outcome } => self.roll_ended(pool, &outcome),
            Notice::BeginsWith {
                pool,
                generation,
                by,
            } => {
                let name = self.pools.name(pool);
                let how = if by.is_empty() {
                    "starts".to_owned()
                } else {
                    format!("waits for {}, and starts after that", self.pools.list(&by))
                };
                let text = format!("{name}: {how}, with generation {generation}");
                self.tell_waiting_clients(pool, &text);
            }
            Notice::RollAfter { pool, by } => {
                let names: Vec<&str> = by.iter().map(|pool| self.pools.name(*pool)).collect();
                let text = format!(
                    "its rolling restart begins after that of {}",
                    names.join(", ")
                );
                let told = format!("{}: {text}", self.pools.name(pool));
                self.emit(
                    EventBuilder::new(EventKind::Waiting, text)
                        .pool(pool)
                        .cause("roll"),
                );
                self.tell_waiting_clients(pool, &told);
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
                self.tell_waiting_clients(pool, &format!("{}: {text}", self.pools.name(pool)));
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
                let pid = self.workers.label(worker).pid;
                let name = self.pools.name(pool).to_owned();
                let how = if self.is_ready_by_age(worker) {
                    ALIVE_ONLY
                } else {
                    "serves"
                };
                let text = format!(
                    "{name}/{slot}: pid {} {how}, after {took}",
                    pid.unwrap_or(0)
                );
                let took_ms = Some(took.as_millis());
                self.tell_waiting(
                    pool,
                    &Response::Step {
                        pool: name,
                        slot: slot.0,
                        pid,
                        done: 1,
                        of: 1,
                        took_ms,
                        text,
                    },
                );
            }
        }
    }

    fn report_replaced(
        &mut self,
        pool: PoolId,
        slot: Slot,
        worker: WorkerId,
        (done, of): (u32, u32),
    ) {
        let took = self
            .engine
            .view()
            .worker(worker)
            .and_then(|view| view.ready_in);
        let pid = self.workers.label(worker).pid;
        let name = self.pools.name(pool).to_owned();
        let how = match took {
            _ if self.is_ready_by_age(worker) => ALIVE_ONLY.to_owned(),
            Some(took) => format!("serves, ready after {took}"),
            None => "serves".to_owned(),
        };
        let text = format!("{how} ({done} of {of})");
        self.emit(
            EventBuilder::new(EventKind::RollStep, text.clone())
                .worker(worker)
                .debug(),
        );
        let took_ms = took.map(|took| took.as_millis());
        let text = format!("{name}/{slot}: pid {} {text}", pid.unwrap_or(0));
        self.tell_waiting(
            pool,
            &Response::Step {
                pool: name,
                slot: slot.0,
                pid,
                done,
                of,
                took_ms,
                text,
            },
        );
    }

    /// Sends a line of progress to the clients that wait for this pool.
    fn tell_waiting_clients(&mut self, pool: PoolId, text: &str) {
        let text = text.to_owned();
        let progress = Response::Progress { text };
        self.tell_waiting(pool, &progress);
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
                    self.tell_waiting_clients(pool, &told);
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
        let next = match retry_in {
            Some(Span::ZERO) => "; started again at once".to_owned(),
            Some(span) if early_exits > 1 => {
                format!(", {early_exits} times in a row; started again in {span}")
            }
            Some(span) => format!("; started again in {span}"),
            None if given_up => {
                let pool = self.workers.label(id).pool;
                let why = pool.map(|pool| self.describer().no_restart_reason(pool, cause));
                format!("; {}", why.unwrap_or_default())
            }
            None => String::new(),
        };
        let kind = match cause {
            Cause::SpawnFailed => EventKind::SpawnFailed,
            Cause::NotReadyInTime => EventKind::NotReady,
            Cause::Unhealthy => EventKind::Unhealthy,
            Cause::Exited(_) | Cause::Cancelled | Cause::After(_) => EventKind::Exit,
        };
        let event = EventBuilder::new(kind, format!("{text}{next}"))
            .worker(id)
            .cause(failure_cause(cause));
        self.emit(if failure { event.warn() } else { event });
    }

    fn retire_text(&self, worker: WorkerId, why: StopReason) -> (&'static str, &'static str) {
        // The slot has its successor by now.
        let view = self.engine.view();
        let old = view.worker(worker).map(|old| (old.pool, old.slot));
        let next = old.and_then(|of| {
            view.workers()
                .find(|next| (next.pool, next.slot) == of && is_up(next.state))
        });
        let by_age = next.is_some_and(|next| next.by_age);
        match why {
            StopReason::Replaced if by_age => ("replaced", "its successor is alive: stopping"),
            StopReason::Replaced => ("replaced", "its successor serves: stopping"),
            StopReason::Abandoned => ("abandoned", "what it was started for has ended: stopping"),
            StopReason::MakesRoom => ("replaced", "its successor starts once it is gone: stopping"),
            StopReason::MakesRoomForFresh => (
                "recycled",
                "a fresh worker starts once it is gone: stopping",
            ),
            StopReason::Recycled if by_age => {
                ("recycled", "a fresh worker is alive in its place: stopping")
            }
            StopReason::Recycled => ("recycled", "a fresh worker serves in its place: stopping"),
            StopReason::Unhealthy => ("unhealthy", "failed its health check: stopping"),
            StopReason::Unreachable => (
                "unreachable",
                "its listening socket was replaced by a new one: stopping",
            ),
            StopReason::ScaledDown => ("scaled-down", "not wanted any more: stopping"),
            StopReason::Stop => ("stop", "stopping"),
        }
    }

    /// Names the processes that are killed: their work is cut short, and this line says which.
    fn report_kill(&mut self, id: WorkerId, reason: KillReason, waited: Span) {
        let Some(process) = self.workers.processes.get(id) else {
            return;
        };
        let rest = match &process.survivors {
            // The last of them has just exited.
            Some(Some(rest)) if rest.is_empty() => return,
            Some(Some(rest)) => Some(list_members(rest)),
            Some(None) => Some("what it is was not found out in time".to_owned()),
            None => None,
        };
        let mut text = match (reason, rest) {
            (KillReason::Steps, Some(rest)) => {
                format!(
                    "cut short {waited} after it was asked to stop: its tree had not ended, killed: {rest}"
                )
            }
            (KillReason::Cap, Some(rest)) => {
                format!(
                    "cut short {waited} after it was asked to stop, the stop of everything takes too long: killed: {rest}"
                )
            }
            (KillReason::Now, Some(rest)) => format!("killed at once, as was asked for: {rest}"),
            (KillReason::Steps, None) => format!("did not stop within {waited}: killed"),
            (KillReason::Cap, None) => {
                format!(
                    "killed {waited} after it was asked to stop: the stop of everything takes too long"
                )
            }
            (KillReason::Now, None) => "killed at once, as was asked for".to_owned(),
        };
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

/// For a worker that counts as ready because of its age alone.
const ALIVE_ONLY: &str = "is alive, nothing says that it is ready";

fn failure_cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Exited(Exit::Code(_)) => "exited",
        Cause::Exited(Exit::Signal { .. }) => "killed",
        Cause::Exited(Exit::Unknown) => "unknown",
        Cause::SpawnFailed => "spawn-failed",
        Cause::NotReadyInTime => "not-ready",
        Cause::Unhealthy => "unhealthy",
        Cause::Cancelled => "cancelled",
        Cause::After(_) => "after",
    }
}

fn outcome_cause(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { .. } => "done",
        Outcome::Aborted { .. } => "aborted",
        Outcome::RolledBack { .. } => "rolled-back",
        Outcome::Superseded { .. } => "superseded",
        Outcome::Cancelled { .. } => "cancelled",
        Outcome::ReplaceFailed { .. }
        | Outcome::HeldUp { .. }
        | Outcome::NothingDone(_)
        | Outcome::Up(_)
        | Outcome::StartFailed(_)
        | Outcome::Stopped
        | Outcome::Removed
        | Outcome::Scaled { .. } => "nothing",
    }
}

/// Why a running worker is killed, with the last error of its probe or watchdog.
fn end_reason(cause: Cause, reason: Option<&str>) -> String {
    match (cause, reason) {
        (Cause::NotReadyInTime, None) => "was not ready in time".to_owned(),
        (Cause::NotReadyInTime, Some(reason)) => format!("was not ready in time: {reason}"),
        (_, None) => "failed its health check".to_owned(),
        (_, Some(reason)) => reason.to_owned(),
    }
}
