//! Notices about workers.

use super::progress::Step;
use super::text::{
    ALIVE_ONLY, death_cause, death_kind, end_reason, failure_cause, kill_text, retire_text,
    retry_text,
};
use crate::control::protocol::Response;
use crate::observe::events::EventKind;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::describer::is_up;
use crate::supervisor::counters::Count;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::exit_report::{describe, exit_text, last_exit, last_known};
use crate::supervisor::workers::orphans::list_members;
use crate::sys::process::Process;
use rotad_core::{Cause, Exit, KillReason, PoolId, Slot, Span, StopReason, WorkerId};

/// The fields of [`Notice::Died`](rotad_core::Notice::Died).
pub(super) struct Death {
    pub(super) cause: Cause,
    pub(super) failure: bool,
    pub(super) early_exits: u32,
    pub(super) retry_in: Option<Span>,
    pub(super) given_up: bool,
}

impl Supervisor {
    pub(super) fn report_ready(&mut self, worker: WorkerId, took: Span, by_age: bool, soak: Span) {
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
        let event = EventBuilder::new(EventKind::Ready, text).worker(worker);
        self.emit(event.counts(Count::Ready(took)));
        let pid = self
            .workers
            .processes
            .get(worker)
            .and_then(|process| process.pid());
        let action = pid.and_then(|pid| self.workers.journal.set_ready(pid));
        self.perform(action);
    }

    pub(super) fn report_confirmed(&mut self, worker: WorkerId, took: Span) {
        let text = format!("says that it is ready, {took} after its start");
        self.emit(EventBuilder::new(EventKind::Ready, text).worker(worker));
    }

    pub(super) fn report_death(&mut self, id: WorkerId, death: &Death) {
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
        let report = self.workers.exit_reports.of_worker(id);
        let hint = report.and_then(|report| report.hint.as_ref());
        let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
        let text = describe(cause, report);
        let next = if given_up && retry_in.is_none() {
            let pool = self.workers.label(id).pool;
            let why = pool.map(|pool| self.describer().no_restart_reason(pool, cause));
            format!("; {}", why.unwrap_or_default())
        } else {
            retry_text(retry_in, early_exits)
        };
        let kind = death_kind(cause);
        let event = EventBuilder::new(kind, format!("{text}{next}{hint}"))
            .worker(id)
            .cause(failure_cause(cause));
        let event = match death_cause(cause, failure) {
            Some(cause) => event.counts(Count::Death(cause)),
            None => event,
        };
        self.emit(if failure { event.warn() } else { event });
    }

    pub(super) fn report_stopped(&mut self, worker: WorkerId, exit: Option<Exit>, took: Span) {
        let how = exit.map_or_else(|| "was never started".to_owned(), exit_text);
        let text = format!("stopped in {took}: {how}");
        let event = EventBuilder::new(EventKind::Stopped, text).worker(worker);
        self.emit(match exit {
            Some(_) => event.counts(Count::Drained(took)),
            None => event,
        });
    }

    pub(super) fn report_retired(&mut self, worker: WorkerId, why: StopReason) {
        let (cause, text) = retire_text(why, self.successor_is_ready_by_age(worker));
        let event = EventBuilder::new(EventKind::Retired, text)
            .worker(worker)
            .cause(cause);
        self.emit(match why {
            StopReason::Recycled | StopReason::MakesRoomForFresh => {
                event.counts(Count::Recycled(self.health.recycle_cause(worker)))
            }
            _ => event,
        });
    }

    /// Whether the worker that has taken the slot of this one counts as ready because of its age alone.
    fn successor_is_ready_by_age(&self, worker: WorkerId) -> bool {
        let view = self.engine.view();
        view.worker(worker)
            .and_then(|old| {
                let mut next = view.in_slot(old.pool, old.slot);
                next.find(|next| is_up(next.state))
            })
            .is_some_and(|next| next.by_age)
    }

    /// Names the processes that are killed: their work is cut short, and this line says which.
    pub(super) fn report_kill(&mut self, id: WorkerId, reason: KillReason, waited: Span) {
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
            KillReason::Steps | KillReason::Cap => {
                event.cause("stop-timeout").counts(Count::Kill).warn()
            }
            KillReason::Now => event.cause("stop-now"),
        });
    }

    pub(super) fn report_unkillable(&mut self, worker: WorkerId) {
        let text = self.workers.why_left(worker).unwrap_or_else(|| {
            "SIGKILL does not end it: the kernel holds it (state D?)".to_owned()
        });
        let event = EventBuilder::new(EventKind::Unkillable, text);
        self.emit(event.worker(worker).error());
    }

    pub(super) fn report_worker_replaced(
        &mut self,
        pool: PoolId,
        slot: Slot,
        worker: WorkerId,
        took: Span,
    ) {
        let event = EventBuilder::new(EventKind::WorkerReplaced, format!("replaced in {took}"));
        self.emit(event.worker(worker));
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
