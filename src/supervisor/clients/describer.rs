//! Describes what has become of a request, in words, from what the master knows: read-only views of the engine, the
//! pools, and how workers have ended. `outcome_text.rs` has the texts.

use crate::exit_code::ExitCode;
use crate::plan::Kind;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::launch::Started;
use crate::supervisor::clients::outcome_text::{
    OutcomeContext, describe_outcome, help, superseded,
};
use crate::supervisor::pool_registry::PoolRegistry;
use crate::supervisor::workers::exit_report::{ExitReports, describe};
use rotad_core::{
    Cause, Exit, Generation, Outcome, PoolId, StartFailure, Up, View, WorkerId, WorkerState,
};

/// Read-only access to what outcomes are described from.
pub(crate) struct Describer<'a> {
    engine: View<'a>,
    pools: &'a PoolRegistry,
    exit_reports: &'a ExitReports,
}

impl Supervisor {
    pub(crate) fn describer(&self) -> Describer<'_> {
        Describer {
            engine: self.engine.view(),
            pools: &self.pools,
            exit_reports: &self.workers.exit_reports,
        }
    }
}

impl Describer<'_> {
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
            Outcome::StartFailed(failure) => Some(self.start_failure(pool, failure)),
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
                .pool(pool)
                .is_some_and(|view| view.last_good != Generation::NONE),
            start_failure: start_failure
                .as_ref()
                .map(|(why, then)| (why.as_str(), then.as_str())),
            stopped_by_operator: self.pools.stopped_by_operator(pool),
            culprit: culprit.and_then(|worker| self.exit_reports.of_worker(worker)),
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
    pub(crate) fn start_failure(&self, pool: PoolId, failure: &StartFailure) -> (String, String) {
        let retrying = "still retrying".to_owned();
        match failure {
            StartFailure::Worker {
                worker,
                cause,
                early_exits,
                given_up,
            } => {
                let why = self.worker_failure(*worker, *cause, *early_exits);
                let then = if *given_up {
                    self.no_restart_reason(pool, *cause)
                } else {
                    retrying
                };
                (why, then)
            }
            StartFailure::NotReadyInTime => ("was not ready in time".to_owned(), retrying),
            StartFailure::Daemonized => {
                let why = self.exit_reports.daemonized(pool).unwrap_or_default();
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
                let (why, _) = self.start_failure(*other, failure);
                let first = why.lines().next().unwrap_or_default();
                (
                    format!("waits for {name}, which failed: {first}"),
                    format!("it starts once {name} is there"),
                )
            }
        }
    }

    /// How a worker has failed, with its last lines.
    fn worker_failure(&self, worker: WorkerId, cause: Cause, early_exits: u32) -> String {
        let report = self.exit_reports.of_worker(worker);
        let mut text = describe(cause, report);
        for line in report.map(|of| of.exit.log.as_slice()).unwrap_or_default() {
            text.push_str("\n  | ");
            text.push_str(&crate::observe::sanitize::sanitize(line));
        }
        text.push_str(&report.map(help).unwrap_or_default());
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

    /// How the first start of a pool has ended. `up_line`: the line for a pool that is up.
    pub(crate) fn start(
        &self,
        pool: PoolId,
        outcome: &Outcome,
        up_line: impl FnOnce(Up) -> String,
    ) -> Started {
        match outcome {
            Outcome::Up(how) => Started::Up(*how, up_line(*how)),
            Outcome::StartFailed(failure) => Started::Failed(self.start_failure(pool, failure).0),
            Outcome::Superseded { by } => Started::Failed(superseded(*by).to_owned()),
            other => Started::Failed(self.outcome(pool, other).1),
        }
    }

    /// Whether at least one worker of the pool counts as ready because of its age alone.
    pub(crate) fn has_ready_by_age(&self, pool: PoolId) -> bool {
        self.engine
            .workers()
            .any(|worker| worker.pool == pool && worker.by_age && is_up(worker.state))
    }

    /// The text for a pool that has all its workers. `at`: where it serves, or empty.
    pub(crate) fn all_up(&self, pool: PoolId, at: &str) -> String {
        match self.has_ready_by_age(pool) {
            true => format!("every worker is alive{at}, nothing says that they are ready"),
            false => format!("every worker is ready{at}"),
        }
    }
}

/// Whether a worker in this state serves.
pub(crate) fn is_up(state: WorkerState) -> bool {
    match state {
        WorkerState::Ready | WorkerState::Soaking => true,
        WorkerState::Starting
        | WorkerState::Stopping
        | WorkerState::Killing
        | WorkerState::KillingTree => false,
    }
}
