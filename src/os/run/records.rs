//! What the core records, as lines of the diary, progress for those who wait, and the launch's fate.

use super::Keeper;
use super::launch::Verdict;
use super::obituary::{describe, exit_text, last_exit};
use super::tickets::{reason, verdict};
use crate::control::wire::Answer;
use rotad_core::{Cause, Generation, Outcome, PoolId, PoolState, Record, Slot, Span, Ticket, Why, WorkerId};

/// A worker, for a line.
struct Who {
    pool: PoolId,
    name: String,
    slot: Slot,
    generation: Generation,
    pid: i32,
}

impl Keeper {
    /// Somebody who has just died may be known from the obituary alone.
    fn who(&self, id: WorkerId) -> Who {
        let dead = self.obituaries.of_worker(id);
        let (pool, slot, generation, pid) = match (self.roster.get(id), dead) {
            (Some(body), _) => (body.pool, body.slot, body.generation, body.pid().unwrap_or(0)),
            (None, Some(dead)) => (dead.pool, dead.slot, dead.generation, dead.pid),
            (None, None) => (PoolId(u32::MAX), Slot(0), Generation::NONE, 0),
        };
        Who { pool, name: self.pool_name(pool).to_owned(), slot, generation, pid }
    }

    pub(super) fn recorded(&mut self, record: Record) {
        match record {
            Record::Ready { worker, took } => self.ready_line(worker, took),
            Record::Soaked { worker } => self.line(worker, "has soaked"),
            Record::Died { worker, cause, failure, before_ready, retry_in } => {
                self.died_line(worker, cause, failure, before_ready, retry_in);
            }
            Record::Stopped { worker, exit, took } => {
                let how = exit.map_or_else(|| "was never born".to_owned(), exit_text);
                self.line(worker, &format!("stopped in {took}: {how}"));
            }
            Record::Retired { worker, why } => self.line(worker, retired(why)),
            Record::Killed { worker } => self.line(worker, "did not stop in time: killed"),
            Record::Lost { worker } => {
                let who = self.who(worker);
                tracing::error!(
                    pool = who.name,
                    slot = who.slot.0,
                    pid = who.pid,
                    "SIGKILL does not end it: the kernel holds it (state D?)"
                );
            }
            Record::Replaced { pool, slot, worker, done, of } => {
                let pid = self.who(worker).pid;
                let text = format!("{}/{slot}: pid {pid} serves ({done} of {of})", self.pool_name(pool));
                self.tell(pool, &text);
            }
            Record::CrashLoop { .. }
            | Record::CrashLoopOver { .. }
            | Record::RollStarted { .. }
            | Record::RollingBack { .. }
            | Record::RollEnded { .. }
            | Record::RollWaits { .. }
            | Record::RollSuperseded { .. }
            | Record::PoolReady { .. }
            | Record::PoolStopped { .. }
            | Record::Held { .. }
            | Record::StepDone { .. }
            | Record::Renewed { .. }
            | Record::EssentialLost { .. } => self.pool_recorded(record),
        }
    }

    fn pool_recorded(&mut self, record: Record) {
        match record {
            Record::CrashLoop { pool, deaths } => {
                let name = self.pool_name(pool);
                tracing::error!(
                    pool = name,
                    "crash loop: {deaths} workers died within 10 s; one is tried at a time, those that serve are not touched"
                );
                self.told_manager();
            }
            Record::CrashLoopOver { pool } => {
                tracing::info!(pool = self.pool_name(pool), "the crash loop is over: starting the rest");
            }
            Record::RollStarted { pool, generation, of } => {
                let text = format!("{}: rolling {of} workers to generation {generation}", self.pool_name(pool));
                tracing::info!(
                    pool = self.pool_name(pool),
                    generation = generation.0,
                    "rolling restart of {of} workers"
                );
                self.tell(pool, &text);
            }
            Record::RollingBack { pool, generation, to, failure } => {
                let reason = reason(&failure, failure.worker.and_then(|w| self.obituaries.of_worker(w)));
                let name = self.pool_name(pool).to_owned();
                tracing::error!(pool = name, generation = generation.0, "going back to generation {to}: {reason}");
                self.tell(pool, &format!("{name}: going back to generation {to}"));
            }
            Record::RollEnded { pool, outcome } => self.roll_ended(pool, &outcome),
            Record::RollWaits { pool } => {
                tracing::info!(pool = self.pool_name(pool), "another rolling restart waits for the running one");
            }
            Record::RollSuperseded { pool, generation } => tracing::info!(
                pool = self.pool_name(pool),
                generation = generation.0,
                "superseded by a newer wish, before anything was touched"
            ),
            Record::PoolReady { pool, generation } => {
                tracing::info!(pool = self.pool_name(pool), generation = generation.0, "every worker is ready");
                self.pool_up(pool, "every worker is ready");
                self.told_manager();
            }
            Record::PoolStopped { pool } => {
                tracing::info!(pool = self.pool_name(pool), "stopped");
                self.pool_stopped(pool);
            }
            Record::Held { pool, by } => {
                let names: Vec<&str> = by.iter().map(|pool| self.pool_name(*pool)).collect();
                tracing::info!(pool = self.pool_name(pool), "starts after {}", names.join(", "));
                self.launch.held(pool);
            }
            Record::StepDone { pool, generation, took } => {
                tracing::info!(pool = self.pool_name(pool), generation = generation.0, "done after {took}");
                self.step_done(pool);
                self.pool_up(pool, &format!("done after {took}"));
                self.told_manager();
            }
            Record::Renewed { pool, slot, worker, took } => {
                let pid = self.who(worker).pid;
                let text = format!("{}/{slot}: pid {pid} serves, after {took}", self.pool_name(pool));
                tracing::info!(pool = self.pool_name(pool), slot = slot.0, pid, "replaced in {took}");
                self.tell(pool, &text);
            }
            Record::EssentialLost { pool, span } => {
                tracing::error!(pool = self.pool_name(pool), "essential, and no worker ready for {span}");
                self.essential_lost(pool, span);
            }
            Record::Ready { .. }
            | Record::Soaked { .. }
            | Record::Died { .. }
            | Record::Stopped { .. }
            | Record::Retired { .. }
            | Record::Killed { .. }
            | Record::Lost { .. }
            | Record::Replaced { .. } => {}
        }
    }

    fn ready_line(&mut self, worker: WorkerId, took: Span) {
        self.line(worker, &format!("ready after {took}"));
        self.look_away(worker);
        let Some(body) = self.roster.get(worker) else { return };
        let mut shut = Vec::new();
        // Servers call listen(2) on what they inherit, and shrink the queue of all.
        for id in &body.pattern.listeners {
            let Some(listener) = self.listening.get(*id) else { continue };
            if listener.is_shut() {
                shut.push(*id);
            } else if let Err(error) = listener.restore_backlog() {
                tracing::warn!(listen = listener.name(), "the backlog cannot be restored: {error}");
            }
        }
        for number in shut {
            self.listener_shut(number);
        }
    }

    fn died_line(&mut self, id: WorkerId, cause: Cause, failure: bool, before_ready: bool, retry_in: Option<Span>) {
        if cause == Cause::NotReadyInTime
            && let Some(body) = self.roster.get(id)
        {
            // It still lives, and is about to be killed: these are its last words all the same.
            let log = body.stream.as_ref().map(|stream| stream.last_words()).unwrap_or_default();
            let lived = self.core.view().worker(id).map_or(0.0, |v| (self.clock.now() - v.began).as_secs_f64());
            let exit = last_exit(None, Some("was not ready in time".to_owned()), lived, log);
            self.obituaries.add(id, body.obituary(exit, false));
        }
        let who = self.who(id);
        let obituary = self.obituaries.of_worker(id);
        let mut text = describe(cause, obituary);
        let (name, slot) = (who.name.as_str(), who.slot.0);
        let next = match retry_in {
            Some(Span::ZERO) => "; started again at once".to_owned(),
            Some(span) => format!("; started again in {span}"),
            None => String::new(),
        };
        if failure {
            tracing::warn!(pool = name, slot, generation = who.generation.0, pid = who.pid, "{text}{next}");
        } else {
            tracing::info!(pool = name, slot, generation = who.generation.0, pid = who.pid, "{text}{next}");
        }
        let is_failure = (failure && before_ready) || cause == Cause::NotReadyInTime;
        if is_failure {
            for line in obituary.map(|o| o.exit.log.as_slice()).unwrap_or_default() {
                text.push_str("\n  | ");
                text.push_str(&crate::os::pen::harmless(line.as_bytes()));
            }
            self.pool_failed(who.pool, text);
        }
    }

    fn line(&self, worker: WorkerId, text: &str) {
        let who = self.who(worker);
        tracing::info!(pool = who.name, slot = who.slot.0, generation = who.generation.0, pid = who.pid, "{text}");
    }

    fn roll_ended(&mut self, pool: PoolId, outcome: &Outcome) {
        let (code, text) = self.outcome(pool, outcome);
        if code == 0 {
            tracing::info!("{text}");
        } else {
            tracing::error!("{text}");
        }
        self.forget_generations(pool);
    }

    fn outcome(&self, pool: PoolId, outcome: &Outcome) -> (u8, String) {
        let serving = self.core.view().pool(pool).map_or(Generation::NONE, |view| view.filling);
        let culprit = match outcome {
            Outcome::Aborted { failure, .. } | Outcome::RolledBack { failure, .. } => failure.worker,
            Outcome::Done { .. } | Outcome::Superseded | Outcome::Nothing => None,
        };
        let culprit = culprit.and_then(|worker| self.obituaries.of_worker(worker));
        let (code, mut text) = verdict(self.pool_name(pool), outcome, serving, culprit);
        if code == 10 && self.put_back.contains(&pool) {
            text.push_str("\nthe change of its configuration was put back: the file and what serves differ now");
        }
        (code, text)
    }

    /// The end of one wish.
    pub(super) fn reply(&mut self, ticket: Ticket, pool: PoolId, outcome: &Outcome) {
        if self.step_ended(ticket, pool, outcome) {
            return;
        }
        let (code, text) = self.outcome(pool, outcome);
        self.settle(ticket, pool, code, text);
    }

    /// A line for whoever waits for this pool.
    fn tell(&mut self, pool: PoolId, text: &str) {
        for client in self.tickets.clients_of(pool) {
            self.answer(client, &Answer::Progress { text: text.to_owned() }, false);
        }
    }

    pub(super) fn launched(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Wait | Verdict::Told => {}
            Verdict::StopAll => {
                tracing::error!("not one pool came up: leaving");
                self.stopping = true;
                let cap = Some(Span::from_secs(5));
                let stop = rotad_core::Request::Stop { cap };
                self.facts.push_back(rotad_core::Event::Requested(super::NOBODY, stop));
            }
        }
    }

    pub(super) fn launch_overdue(&mut self) {
        let verdict = self.launch.overdue();
        self.launched(verdict);
        self.drain_facts();
    }

    /// READY=1 once every pool is ready or in a crash loop.
    fn told_manager(&mut self) {
        let settled = |state| match state {
            PoolState::Ok | PoolState::Reloading | PoolState::RollingBack | PoolState::CrashLoop => true,
            PoolState::Done | PoolState::Failed | PoolState::Stopped => true,
            PoolState::Starting | PoolState::Degraded | PoolState::Stopping => false,
        };
        if !self.manager_told && self.core.view().pools().all(|(_, pool)| settled(pool.state)) {
            self.manager_told = true;
            self.manager.tell(&format!("READY=1\nMAINPID={}\nSTATUS=running", std::process::id()));
        }
    }
}

fn retired(why: Why) -> &'static str {
    match why {
        Why::Replaced => "its successor serves: stopping",
        Why::Abandoned => "its rolling restart has ended: stopping",
        Why::Recycled => "a fresh worker serves in its place: stopping",
        Why::Unhealthy => "failed its health check: stopping",
        Why::ScaledDown => "not wanted any more: stopping",
        Why::Stop => "stopping",
    }
}
