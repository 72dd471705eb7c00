//! What the core records, as lines of the diary, progress for those who wait, and the launch's fate.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::exit_report::{describe, exit_text, last_exit, last_known};
use super::launch::Verdict;
use super::orphans::named;
use super::tickets::{About, reason, superseded, verdict};
use crate::control::wire::Response;
use crate::observe::events::EventKind;
use crate::plan::Kind;
use rotad_core::{
    Cause, Exit, Failure, Generation, KillReason, Notice, Outcome, PoolId, PoolState, Slot, Span, StopReason,
    SupersededBy, Ticket, WorkerId, WorkerState,
};

/// Ends of a slot in a row, all before ready and none a failure, after which a start has failed.
const START_FAILS_AFTER: u32 = 5;

/// [`Notice::Died`].
struct Death {
    cause: Cause,
    failure: bool,
    before_ready: bool,
    early_exits: u32,
    retry_in: Option<Span>,
    given_up: bool,
}

impl Supervisor {
    pub(super) fn recorded(&mut self, record: Notice) {
        self.on_notice(&record);
        match record {
            Notice::Ready { worker, took, by_age, soak } => self.ready_line(worker, took, by_age, soak),
            Notice::Confirmed { worker, took } => {
                self.emit(
                    EventBuilder::new(EventKind::Ready, format!("says that it is ready, {took} after its start"))
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
            Notice::Died { worker, cause, failure, before_ready, early_exits, retry_in, given_up } => {
                let death = Death { cause, failure, before_ready, early_exits, retry_in, given_up };
                self.died_line(worker, &death);
            }
            Notice::Stopped { worker, exit, took } => {
                let how = exit.map_or_else(|| "was never born".to_owned(), exit_text);
                self.emit(EventBuilder::new(EventKind::Stopped, format!("stopped in {took}: {how}")).worker(worker));
            }
            Notice::Retired { worker, why } => {
                let (cause, text) = self.retired(worker, why);
                self.emit(EventBuilder::new(EventKind::Retired, text).worker(worker).cause(cause));
            }
            Notice::Killed { worker, reason, waited } => self.killed_line(worker, reason, waited),
            Notice::Unkillable { worker } => {
                let ended = self.processes.get(worker).is_some_and(|body| body.exit.is_some());
                let text = match ended {
                    false => "SIGKILL does not end it: the kernel holds it (state D?)".to_owned(),
                    true => self.orphans.why_left(worker),
                };
                self.emit(EventBuilder::new(EventKind::Unkillable, text).worker(worker).error());
            }
            Notice::SlotReplaced { pool, slot, worker, done, of } => self.step_line(pool, slot, worker, (done, of)),
            Notice::CrashLoop { .. }
            | Notice::CrashLoopEases { .. }
            | Notice::CrashLoopOver { .. }
            | Notice::RollStarted { .. }
            | Notice::RollingBack { .. }
            | Notice::RollEnded { .. }
            | Notice::RollAfter { .. }
            | Notice::RollWaits { .. }
            | Notice::RollSuperseded { .. }
            | Notice::Watched { .. }
            | Notice::PoolReady { .. }
            | Notice::PoolStopped { .. }
            | Notice::Waiting { .. }
            | Notice::OneshotDone { .. }
            | Notice::WorkerReplaced { .. }
            | Notice::EssentialLost { .. }
            | Notice::EssentialEnded { .. } => self.pool_recorded(record),
        }
    }

    fn pool_recorded(&mut self, record: Notice) {
        match record {
            Notice::CrashLoop { pool, deaths, span } => {
                let span = span.max(Span::from_secs(1));
                let text = format!(
                    "crash loop: {deaths} workers died within {span}; one is tried at a time, the others are not touched"
                );
                self.emit(EventBuilder::new(EventKind::CrashLoop, text).pool(pool).error());
            }
            Notice::CrashLoopEases { pool } => {
                let text = "one serves for a second: starting the rest; the crash loop is over once one lasts";
                self.emit(EventBuilder::new(EventKind::CrashLoopEases, text).pool(pool));
            }
            Notice::CrashLoopOver { pool } => {
                self.emit(
                    EventBuilder::new(EventKind::CrashLoopOver, "the crash loop is over: starting the rest").pool(pool),
                );
            }
            Notice::PoolReady { pool, generation } => {
                let text = self.all_up(pool);
                self.emit(EventBuilder::new(EventKind::PoolReady, text).pool(pool).generation(generation));
                self.pool_up(pool, text);
            }
            Notice::PoolStopped { pool } => {
                self.emit(EventBuilder::new(EventKind::PoolStopped, "stopped").pool(pool));
                self.pool_stopped(pool);
            }
            Notice::Waiting { pool, by } => {
                let names: Vec<&str> = by.iter().map(|pool| self.pool_name(*pool)).collect();
                let text = format!("starts after {}", names.join(", "));
                let told = format!("{}: {text}", self.pool_name(pool));
                self.emit(EventBuilder::new(EventKind::Waiting, text).pool(pool));
                self.tell(pool, &told);
            }
            Notice::OneshotDone { pool, generation, took } => {
                let note = EventBuilder::new(EventKind::OneshotDone, format!("done after {took}"));
                self.emit(note.pool(pool).generation(generation));
                self.oneshot_done(pool);
                self.pool_up(pool, &format!("done after {took}"));
            }
            Notice::EssentialLost { pool, span } => {
                let text = format!("essential, and no worker ready for {span}");
                self.emit(EventBuilder::new(EventKind::EssentialLost, text).pool(pool).error());
                self.essential_lost(pool, span);
            }
            Notice::EssentialEnded { pool, exit } => {
                let how = exit.map_or_else(|| "no worker could be started".to_owned(), exit_text);
                let text = format!("essential, and its workers have ended: {how}");
                self.emit(EventBuilder::new(EventKind::EssentialEnded, text).pool(pool).warn());
                self.essential_ended(pool, exit, &how);
            }
            _ => self.roll_recorded(record),
        }
    }

    fn roll_recorded(&mut self, record: Notice) {
        match record {
            Notice::RollStarted { pool, generation, of } => {
                let text = format!("rolling restart of {of} workers");
                self.emit(EventBuilder::new(EventKind::RollStarted, text).pool(pool).generation(generation));
                let text = format!("{}: rolling {of} workers to generation {generation}", self.pool_name(pool));
                self.tell(pool, &text);
            }
            Notice::RollingBack { pool, generation, to, failure } => {
                let reason = reason(&failure, failure.worker.and_then(|w| self.exit_reports.of_worker(w)));
                let text = format!("going back to generation {to}");
                let note = EventBuilder::new(EventKind::RollingBack, format!("{text}: {reason}"))
                    .pool(pool)
                    .generation(generation);
                self.emit(note.cause(failure_word(failure.cause)).error());
                let text = format!("{}: {text}", self.pool_name(pool));
                self.tell(pool, &text);
            }
            Notice::RollEnded { pool, outcome } => self.roll_ended(pool, &outcome),
            Notice::RollAfter { pool, by } => {
                let names: Vec<&str> = by.iter().map(|pool| self.pool_name(*pool)).collect();
                let text = format!("its rolling restart begins after that of {}", names.join(", "));
                let told = format!("{}: {text}", self.pool_name(pool));
                self.emit(EventBuilder::new(EventKind::Waiting, text).pool(pool).cause("roll"));
                self.tell(pool, &told);
            }
            Notice::RollWaits { pool } => {
                let text = "another rolling restart waits for the running one";
                self.emit(EventBuilder::new(EventKind::RollWaits, text).pool(pool));
            }
            Notice::RollSuperseded { pool, generation, by, retired_any } => {
                let touched =
                    if retired_any { "after some workers had been replaced" } else { "before anything was touched" };
                let text = format!("{}, {touched}", superseded(by));
                self.emit(EventBuilder::new(EventKind::RollSuperseded, text).pool(pool).generation(generation));
            }
            Notice::Watched { pool, span } => {
                let text = format!(
                    "every new worker is alive, nothing says that they are ready: watched for {span} before the roll is \
                     done"
                );
                self.tell(pool, &format!("{}: {text}", self.pool_name(pool)));
                self.emit(EventBuilder::new(EventKind::RollStep, text).pool(pool).debug());
            }
            Notice::WorkerReplaced { pool, slot, worker, took } => {
                self.emit(EventBuilder::new(EventKind::WorkerReplaced, format!("replaced in {took}")).worker(worker));
                let pid = self.who(worker).pid;
                let name = self.pool_name(pool).to_owned();
                let how = if self.only_lives(worker) { ALIVE } else { "serves" };
                let text = format!("{name}/{slot}: pid {} {how}, after {took}", pid.unwrap_or(0));
                let took_ms = Some(took.as_millis());
                self.step(pool, Response::Step { pool: name, slot: slot.0, pid, done: 1, of: 1, took_ms, text });
            }
            // Told above.
            _ => {}
        }
    }

    fn step_line(&mut self, pool: PoolId, slot: Slot, worker: WorkerId, (done, of): (u32, u32)) {
        let took = self.engine.view().worker(worker).and_then(|view| view.ready_in);
        let pid = self.who(worker).pid;
        let name = self.pool_name(pool).to_owned();
        let how = match took {
            _ if self.only_lives(worker) => ALIVE.to_owned(),
            Some(took) => format!("serves, ready after {took}"),
            None => "serves".to_owned(),
        };
        let text = format!("{how} ({done} of {of})");
        self.emit(EventBuilder::new(EventKind::RollStep, text.clone()).worker(worker).debug());
        let took_ms = took.map(|took| took.as_millis());
        let text = format!("{name}/{slot}: pid {} {text}", pid.unwrap_or(0));
        self.step(pool, Response::Step { pool: name, slot: slot.0, pid, done, of, took_ms, text });
    }

    /// A worker more, for whoever waits for this pool.
    fn step(&mut self, pool: PoolId, step: Response) {
        for client in self.tickets.clients_of(pool) {
            self.answer(client, &step, false);
        }
    }

    /// Its age alone speaks for it.
    fn only_lives(&self, worker: WorkerId) -> bool {
        self.engine.view().worker(worker).is_some_and(|worker| worker.by_age)
    }

    /// So for one of its workers at least.
    pub(super) fn is_by_age(&self, pool: PoolId) -> bool {
        self.engine.view().workers().any(|worker| worker.pool == pool && worker.by_age && is_up(worker.state))
    }

    /// What is said of a pool that has all its workers.
    pub(super) fn all_up(&self, pool: PoolId) -> &'static str {
        if self.is_by_age(pool) {
            "every worker is alive, nothing says that they are ready"
        } else {
            "every worker is ready"
        }
    }

    fn ready_line(&mut self, worker: WorkerId, took: Span, by_age: bool, soak: Span) {
        let mut text = format!("ready after {took}");
        if by_age {
            text = format!("alive after {took}, nothing says that it is ready");
            if soak > Span::ZERO {
                text.push_str(&format!(": watched for {soak} before others are replaced"));
                let about = self.who(worker);
                if let (Some(pool), Some(slot)) = (about.pool, about.slot) {
                    let (name, pid) = (self.pool_name(pool), about.pid.unwrap_or(0));
                    let told = format!("{name}/{slot}: pid {pid} is {text}");
                    self.tell(pool, &told);
                }
            }
        }
        self.emit(EventBuilder::new(EventKind::Ready, text).worker(worker));
        self.look_away(worker);
        let Some(body) = self.processes.get(worker) else { return };
        let mut shut = Vec::new();
        // Servers call listen(2) on what they inherit, and shrink the queue of all.
        for id in &body.pattern.listeners {
            let Some(listener) = self.listening.get(*id) else { continue };
            if listener.is_shut() {
                shut.push(*id);
            } else if let Err(error) = listener.restore() {
                tracing::warn!(listen = listener.name(), "the socket cannot be put right: {error}");
            }
        }
        for number in shut {
            self.on_listener_hangup(number);
        }
    }

    fn died_line(&mut self, id: WorkerId, death: &Death) {
        let Death { cause, failure, before_ready, early_exits, retry_in, given_up } = *death;
        if let Cause::NotReadyInTime | Cause::Unhealthy = cause
            && let Some(body) = self.processes.get(id)
        {
            // It still lives, and is about to be ended: these are its last words all the same.
            let log = body.output.as_ref().map(|output| self.log.tail(output)).unwrap_or_default();
            let lived = self.engine.view().worker(id).map_or(0.0, |v| (self.clock.now() - v.began).as_secs_f64());
            let mut reason = unwell(cause, body.unwell.as_deref());
            if cause == Cause::NotReadyInTime
                && let Some(crowd) = self.crowd(id)
            {
                reason = format!("{reason}; {crowd}");
            }
            let exit = last_exit(None, Some(reason.clone()), lived, log);
            self.exit_reports.add(id, body.obituary(exit, cause == Cause::Unhealthy));
            if let Some(body) = self.processes.get_mut(id) {
                body.ended_for = Some(reason);
            }
        }
        if early_exits > 0
            && let Some(body) = self.processes.get_mut(id)
        {
            body.ended_in_vain = true;
        }
        let text = describe(cause, self.exit_reports.of_worker(id));
        let next = match retry_in {
            Some(Span::ZERO) => "; started again at once".to_owned(),
            Some(span) if early_exits > 1 => format!(", {early_exits} times in a row; started again in {span}"),
            Some(span) => format!("; started again in {span}"),
            None if given_up => format!("; {}", self.not_again(id, cause)),
            None => String::new(),
        };
        let kind = match cause {
            Cause::SpawnFailed => EventKind::SpawnFailed,
            Cause::NotReadyInTime => EventKind::NotReady,
            Cause::Unhealthy => EventKind::Unhealthy,
            Cause::Exited(_) | Cause::Cancelled | Cause::After(_) => EventKind::Exit,
        };
        let note = EventBuilder::new(kind, format!("{text}{next}")).worker(id).cause(failure_word(cause));
        self.emit(if failure { note.warn() } else { note });
        let is_failure = (failure && before_ready)
            || cause == Cause::NotReadyInTime
            || early_exits == START_FAILS_AFTER
            || (given_up && failure);
        if given_up
            && !failure
            && let Some(pool) = self.who(id).pool
            && self.engine.view().pool(pool).is_some_and(|view| view.state == PoolState::Done)
        {
            self.pool_up(pool, "its workers have done their work");
        }
        if is_failure && let Some(pool) = self.who(id).pool {
            let obituary = self.exit_reports.of_worker(id);
            let mut text = text;
            for line in obituary.map(|o| o.exit.log.as_slice()).unwrap_or_default() {
                text.push_str("\n  | ");
                text.push_str(&crate::observe::harmless::harmless(line));
            }
            if early_exits > 1 {
                text.push_str(&format!(
                    "\n{early_exits} ends in a row before it was ever ready: no failure, but no worker either"
                ));
            }
            let then = if given_up { self.not_again(id, cause) } else { "it is tried on".to_owned() };
            self.pool_failed(pool, text, &then);
        }
    }

    /// Why a slot stays empty, and until when.
    fn not_again(&self, id: WorkerId, cause: Cause) -> String {
        let policy = self.who(id).pool.and_then(|pool| self.pools.policy(pool));
        match (cause, policy) {
            (Cause::Exited(Exit::Code(code)), Some(policy)) if policy.restart.never_on.contains(&code) => {
                format!("not started again until the next roll or start: {code} is one of `restart.never_on`")
            }
            _ => "not started again until the next roll or start: `restart.policy` says so".to_owned(),
        }
    }

    fn retired(&self, worker: WorkerId, why: StopReason) -> (&'static str, &'static str) {
        // By now the slot has its successor.
        let view = self.engine.view();
        let old = view.worker(worker).map(|old| (old.pool, old.slot));
        let next = old.and_then(|of| view.workers().find(|next| (next.pool, next.slot) == of && is_up(next.state)));
        let by_age = next.is_some_and(|next| next.by_age);
        match why {
            StopReason::Replaced if by_age => ("replaced", "its successor is alive: stopping"),
            StopReason::Replaced => ("replaced", "its successor serves: stopping"),
            StopReason::Abandoned => ("abandoned", "what it was started for has ended: stopping"),
            StopReason::MakesRoom => ("replaced", "its successor starts once it is gone: stopping"),
            StopReason::MakesRoomForFresh => ("recycled", "a fresh worker starts once it is gone: stopping"),
            StopReason::Recycled if by_age => ("recycled", "a fresh worker is alive in its place: stopping"),
            StopReason::Recycled => ("recycled", "a fresh worker serves in its place: stopping"),
            StopReason::Unhealthy => ("unhealthy", "failed its health check: stopping"),
            StopReason::Unreachable => ("unreachable", "its listening socket was replaced by a new one: stopping"),
            StopReason::ScaledDown => ("scaled-down", "not wanted any more: stopping"),
            StopReason::Stop => ("stop", "stopping"),
        }
    }

    /// What it was doing is cut short: whoever misses that later finds it named here.
    fn killed_line(&mut self, id: WorkerId, reason: KillReason, waited: Span) {
        let Some(body) = self.processes.get(id) else { return };
        let rest = match &body.outlived {
            // It has just finished.
            Some(Some(rest)) if rest.is_empty() => return,
            Some(Some(rest)) => Some(named(rest)),
            Some(None) => Some("what it is was not found out in time".to_owned()),
            None => None,
        };
        let mut text = match (reason, rest) {
            (KillReason::Steps, Some(rest)) => {
                format!("cut short {waited} after it was asked to stop: its tree had not ended, killed: {rest}")
            }
            (KillReason::Cap, Some(rest)) => {
                format!(
                    "cut short {waited} after it was asked to stop, the stop of everything takes too long: killed: {rest}"
                )
            }
            (KillReason::Now, Some(rest)) => format!("killed at once, as was asked for: {rest}"),
            (KillReason::Steps, None) => format!("did not stop within {waited}: killed"),
            (KillReason::Cap, None) => {
                format!("killed {waited} after it was asked to stop: the stop of everything takes too long")
            }
            (KillReason::Now, None) => "killed at once, as was asked for".to_owned(),
        };
        let log = body.output.as_ref().map(|output| self.log.tail(output)).unwrap_or_default();
        text.push_str(&last_known(body.says.as_deref(), &log));
        let note = EventBuilder::new(EventKind::Kill, text).worker(id);
        self.emit(match reason {
            KillReason::Steps | KillReason::Cap => note.cause("stop-timeout").warn(),
            KillReason::Now => note.cause("stop-now"),
        });
    }

    fn roll_ended(&mut self, pool: PoolId, outcome: &Outcome) {
        let (code, text) = self.outcome(pool, outcome);
        let note = EventBuilder::new(EventKind::RollEnded, text).pool(pool).cause(outcome_word(outcome));
        let note = match outcome {
            Outcome::Done { generation, .. }
            | Outcome::Aborted { generation, .. }
            | Outcome::RolledBack { generation, .. } => note.generation(*generation),
            _ => note,
        };
        let is_failure = matches!(outcome, Outcome::Aborted { .. } | Outcome::RolledBack { .. }) && code != 0;
        self.emit(if is_failure { note.error() } else { note });
        if !matches!(outcome, Outcome::Superseded { by: SupersededBy::RollBack }) {
            self.spawn_specs.hold_to(pool, None);
        }
        self.forget_generations(pool);
    }

    fn outcome(&self, pool: PoolId, outcome: &Outcome) -> (u8, String) {
        let culprit = match outcome {
            Outcome::Aborted { failure, .. }
            | Outcome::RolledBack { failure, .. }
            | Outcome::ReplaceFailed { failure, .. } => failure.worker,
            _ => None,
        };
        let about = About {
            pool: self.pool_name(pool),
            is_oneshot: self.pools.plan(pool).is_some_and(|plan| plan.kind == Kind::Oneshot),
            has_served: self.engine.view().pool(pool).is_some_and(|view| view.last_good != Generation::NONE),
            culprit: culprit.and_then(|worker| self.exit_reports.of_worker(worker)),
            before: match outcome {
                Outcome::Aborted { failure: Failure { cause: Cause::After(other), .. }, .. }
                | Outcome::RolledBack { failure: Failure { cause: Cause::After(other), .. }, .. } => {
                    Some(self.pool_name(*other))
                }
                _ => None,
            },
        };
        let (code, mut text) = verdict(about, outcome);
        if let Outcome::Done { replaced: 1.., .. } = outcome
            && self.is_by_age(pool)
        {
            text.push_str("; alive, nothing says that they are ready");
        }
        if code != 0 && self.reverted.contains(&pool) {
            text.push_str("\nthe change of its configuration was put back: the file and what holds differ now");
        }
        (code, text)
    }

    /// The end of one wish.
    pub(super) fn reply(&mut self, ticket: Ticket, pool: PoolId, outcome: &Outcome) {
        if self.recycled(ticket, outcome) || self.oneshot_ended(ticket, pool, outcome) {
            return;
        }
        if let Outcome::Begins { generation } = outcome {
            return self.will_begin(ticket, pool, *generation);
        }
        let (code, text) = self.outcome(pool, outcome);
        self.settle(ticket, pool, code, text);
    }

    /// A line for whoever waits for this pool.
    pub(super) fn tell(&mut self, pool: PoolId, text: &str) {
        for client in self.tickets.clients_of(pool) {
            self.answer(client, &Response::Progress { text: text.to_owned() }, false);
        }
    }

    pub(super) fn launched(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Wait | Verdict::JobResult => {}
            Verdict::StopAll => {
                tracing::error!("not one pool came up: leaving");
                self.stopping = true;
                let cap = Some(Span::from_secs(5));
                let stop = rotad_core::Request::Stop { cap };
                self.inputs.push_back(rotad_core::Input::Requested(super::NOBODY, stop));
            }
        }
    }

    pub(super) fn start_overdue(&mut self) {
        let verdict = self.start_watch.overdue(self.clock.now());
        self.launched(verdict);
        self.drain_inputs();
    }
}

/// What is said of a worker for which only its age speaks.
const ALIVE: &str = "is alive, nothing says that it is ready";

fn is_up(state: WorkerState) -> bool {
    match state {
        WorkerState::Ready | WorkerState::Soaking => true,
        WorkerState::Starting | WorkerState::Stopping | WorkerState::Killing | WorkerState::KillingTree => false,
    }
}

fn failure_word(cause: Cause) -> &'static str {
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

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { .. } => "done",
        Outcome::Aborted { .. } => "aborted",
        Outcome::RolledBack { .. } => "rolled-back",
        Outcome::Superseded { .. } => "superseded",
        Outcome::Cancelled { .. } => "cancelled",
        Outcome::ReplaceFailed { .. } | Outcome::Begins { .. } | Outcome::NothingDone(_) => "nothing",
    }
}

/// Why a worker that lives is ended, with what its last probe, or its watchdog, has said.
fn unwell(cause: Cause, reason: Option<&str>) -> String {
    match (cause, reason) {
        (Cause::NotReadyInTime, None) => "was not ready in time".to_owned(),
        (Cause::NotReadyInTime, Some(reason)) => format!("was not ready in time: {reason}"),
        (_, None) => "failed its health check".to_owned(),
        (_, Some(reason)) => reason.to_owned(),
    }
}
