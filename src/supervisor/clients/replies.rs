//! Replies: the engine's answers to requests go to who asked, in words.
//!
//! `effects.rs` calls [`Supervisor::reply`] for each reply of the engine.

use crate::exit_code::ExitCode;
use crate::plan::Kind;
use crate::supervisor::Supervisor;
use crate::supervisor::bug::bug;
use crate::supervisor::clients::outcome_text::{OutcomeContext, describe_outcome};
use crate::supervisor::clients::tickets::Owner;
use crate::supervisor::workers::exit_report::describe;
use rotad_core::{Cause, Exit, Generation, Outcome, PoolId, StartFailure, Ticket, WorkerId};

impl Supervisor {
    /// The engine's reply to one request.
    pub(crate) fn reply(&mut self, ticket: Ticket, pool: PoolId, outcome: &Outcome) {
        match self.clients.tickets.take(ticket) {
            Some(Owner::Wait(wait)) => {
                let (code, text) = self.outcome(pool, outcome);
                self.clients
                    .settle(wait, code, text, &self.event_loop.poller);
            }
            Some(Owner::Start) => self.start_replied(pool, outcome),
            Some(Owner::Oneshot) => self.oneshot_replied(pool, outcome),
            Some(Owner::Recycling(worker)) => {
                let process = self.workers.processes.get(worker);
                let delay = process.map(|process| process.spec.plan.policy.restart.delay);
                let (delay, now) = (delay.unwrap_or_default(), self.clock.now());
                let actions = self.health.on_replace_reply(worker, outcome, delay, now);
                self.perform(actions);
            }
            None => bug!("a reply to ticket {ticket}, which is not known"),
        }
    }

    /// An outcome as exit code and text.
    pub(crate) fn outcome(&self, pool: PoolId, outcome: &Outcome) -> (ExitCode, String) {
        let culprit = match outcome {
            Outcome::Aborted { failure, .. }
            | Outcome::RolledBack { failure, .. }
            | Outcome::ReplaceFailed { failure, .. } => failure.worker,
            _ => None,
        };
        let blocked_by = match outcome {
            Outcome::Aborted { failure, .. } | Outcome::RolledBack { failure, .. } => {
                match failure.cause {
                    Cause::After(other) => Some(self.pools.name(other).to_owned()),
                    _ => None,
                }
            }
            Outcome::HeldUp { by, .. } => Some(self.pools.list(by)),
            _ => None,
        };
        let start_failure = match outcome {
            Outcome::StartFailed(failure) => Some(self.start_failure_text(pool, failure)),
            _ => None,
        };
        let context = OutcomeContext {
            pool: self.pools.name(pool),
            is_oneshot: self
                .pools
                .plan(pool)
                .is_some_and(|plan| plan.kind == Kind::Oneshot),
            has_served: self
                .engine
                .view()
                .pool(pool)
                .is_some_and(|view| view.last_good != Generation::NONE),
            start_failure: start_failure
                .as_ref()
                .map(|(why, then)| (why.as_str(), then.as_str())),
            stopped_by_operator: self.pools.stopped_by_operator(pool),
            culprit: culprit.and_then(|worker| self.workers.exit_reports.of_worker(worker)),
            blocked_by: blocked_by.as_deref(),
        };
        let (code, mut text) = describe_outcome(context, outcome);
        if let Outcome::Done { replaced: 1.., .. } = outcome
            && self.has_ready_by_age(pool)
        {
            text.push_str("; alive, nothing says that they are ready");
        }
        if code != ExitCode::DONE && self.pools.reverted.contains(&pool) {
            text.push_str("\nthe change of its configuration was put back: the file and what holds differ now");
        }
        (code, text)
    }

    /// Why the start of a pool has failed, and what happens next.
    pub(crate) fn start_failure_text(
        &self,
        pool: PoolId,
        failure: &StartFailure,
    ) -> (String, String) {
        let retrying = "still retrying".to_owned();
        match failure {
            StartFailure::Worker {
                worker,
                cause,
                early_exits,
                given_up,
            } => {
                let why = self.worker_failure_text(*worker, *cause, *early_exits);
                let then = if *given_up {
                    self.no_restart_reason(pool, *cause)
                } else {
                    retrying
                };
                (why, then)
            }
            StartFailure::NotReadyInTime => ("was not ready in time".to_owned(), retrying),
            StartFailure::Daemonized => {
                let why = self
                    .workers
                    .exit_reports
                    .daemonized(pool)
                    .unwrap_or_default();
                (why.to_owned(), retrying)
            }
            StartFailure::Ended => (
                "its workers have ended, and are not started again".to_owned(),
                String::new(),
            ),
            StartFailure::Stopped => ("stopped before it was ready".to_owned(), String::new()),
            StartFailure::Dependency {
                pool: other,
                failure,
            } => {
                let name = self.pools.name(*other);
                let (why, _) = self.start_failure_text(*other, failure);
                let first = why.lines().next().unwrap_or_default();
                (
                    format!("waits for {name}, which failed: {first}"),
                    format!("it starts once {name} is there"),
                )
            }
        }
    }

    /// How a worker has failed, with its last lines.
    fn worker_failure_text(&self, worker: WorkerId, cause: Cause, early_exits: u32) -> String {
        let report = self.workers.exit_reports.of_worker(worker);
        let mut text = describe(cause, report);
        for line in report.map(|of| of.exit.log.as_slice()).unwrap_or_default() {
            text.push_str("\n  | ");
            text.push_str(&crate::observe::sanitize::sanitize(line));
        }
        if early_exits > 1 {
            text.push_str(&format!(
                "\n{early_exits} ends in a row before it was ever ready: no failure, but no worker either"
            ));
        }
        text
    }

    /// Why a slot stays empty, and until when.
    pub(crate) fn no_restart_reason(&self, pool: PoolId, cause: Cause) -> String {
        let policy = self.pools.policy(pool);
        match (cause, policy) {
            (Cause::Exited(Exit::Code(code)), Some(policy))
                if policy.restart.never_on.contains(&code) =>
            {
                format!(
                    "not started again until the next roll or start: {code} is one of `restart.never_on`"
                )
            }
            _ => "not started again until the next roll or start: `restart.policy` says so"
                .to_owned(),
        }
    }
}
