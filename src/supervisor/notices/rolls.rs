//! Notices about rolling restarts.

use super::progress::Step;
use super::text::{ALIVE_ONLY, failure_cause, outcome_cause, roll_outcome};
use crate::exit_code::ExitCode;
use crate::observe::events::EventKind;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::{reason, superseded, workers};
use crate::supervisor::counters::Count;
use crate::supervisor::event_builder::EventBuilder;
use rotad_core::{Failure, Generation, Outcome, PoolId, Span, SupersededBy, WorkerId};

impl Supervisor {
    pub(super) fn report_roll_started(&mut self, pool: PoolId, generation: Generation, of: u32) {
        let text = format!("rolling restart of {}", workers(of));
        let event = EventBuilder::new(EventKind::RollStarted, text);
        self.emit(event.pool(pool).generation(generation));
        let text = format!("rolling {} to generation {generation}", workers(of));
        self.tell_progress(pool, &text);
    }

    pub(super) fn report_roll_after(&mut self, pool: PoolId, by: &[PoolId]) {
        let names = self.pools.list(by);
        let text = format!("its rolling restart begins after that of {names}");
        let event = EventBuilder::new(EventKind::Waiting, text.as_str());
        self.emit(event.pool(pool).cause("roll"));
        self.tell_progress(pool, &text);
    }

    pub(super) fn report_roll_waits(&mut self, pool: PoolId) {
        let text = "another rolling restart waits for the running one";
        self.emit(EventBuilder::new(EventKind::RollWaits, text).pool(pool));
    }

    pub(super) fn report_canary_passed(&mut self, worker: WorkerId) {
        let text = "the first new worker has served long enough: the others follow";
        self.emit(EventBuilder::new(EventKind::CanaryPassed, text).worker(worker));
    }

    pub(super) fn report_slot_replaced(&mut self, step: &Step) {
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

    pub(super) fn report_watched(&mut self, pool: PoolId, span: Span) {
        let text = format!(
            "every new worker is alive, nothing says that they are ready: watched for {span} before the roll is done"
        );
        self.tell_progress(pool, &text);
        let event = EventBuilder::new(EventKind::RollStep, text);
        self.emit(event.pool(pool).debug());
    }

    pub(super) fn report_rolling_back(
        &mut self,
        pool: PoolId,
        generation: Generation,
        to: Generation,
        failure: &Failure,
    ) {
        let culprit = failure.worker;
        let culprit = culprit.and_then(|worker| self.workers.exit_reports.of_worker(worker));
        let reason = reason(failure, culprit);
        let text = format!("going back to generation {to}");
        let event = EventBuilder::new(EventKind::RollingBack, format!("{text}: {reason}"))
            .pool(pool)
            .generation(generation);
        self.emit(event.cause(failure_cause(failure.cause)).error());
        self.tell_progress(pool, &text);
    }

    pub(super) fn report_roll_superseded(
        &mut self,
        pool: PoolId,
        generation: Generation,
        by: SupersededBy,
        retired_any: bool,
    ) {
        let touched = if retired_any {
            "after some workers had been replaced"
        } else {
            "before anything was touched"
        };
        let text = format!("{}, {touched}", superseded(by));
        let event = EventBuilder::new(EventKind::RollSuperseded, text);
        self.emit(event.pool(pool).generation(generation));
    }

    pub(super) fn report_roll_ended(&mut self, pool: PoolId, outcome: &Outcome) {
        let (code, text) = self.describer().outcome(pool, outcome);
        let view = self.engine.view().pool(pool);
        let took = view.map(|pool| pool.roll.took).unwrap_or_default();
        let event = EventBuilder::new(EventKind::RollEnded, text)
            .pool(pool)
            .cause(outcome_cause(outcome))
            .counts(Count::Roll(roll_outcome(outcome), took));
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
        self.memory_release.later(self.clock.now());
    }
}
