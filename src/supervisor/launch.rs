//! The start watch: decides when `rotad start` may report success or failure. The command waits until every pool is
//! ready, or has failed. `notices.rs` and `waiters.rs` report the pools; with `run` and `--no-wait` nobody waits.

use crate::daemon::{Report, StartContext};
use crate::observe::clip::join_within;
use rotad_core::{PoolId, Slot, Span, Time};
use std::collections::{BTreeMap, BTreeSet};

/// Added to each deadline so that the engine's own timeout fires first.
const SLACK: Span = Span::from_secs(1);

/// Maximum size of the report of a failed start, in bytes: many pools, each with the last lines of a worker.
const MAX_REPORT_BYTES: usize = 512 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
enum StartState {
    Pending,
    Ready,
    /// It has done its work and ended well.
    Ended,
    /// Ready by the age of its workers alone.
    Alive,
    Failed(String),
}

/// The progress of a start. A pool has failed when its first worker fails before it is ready, or is not ready in time.
pub(super) struct StartWatch {
    report: Option<Report>,
    pools: BTreeMap<PoolId, Pool>,
    /// Exit code and text, reported once all workers are gone.
    final_report: Option<(u8, String)>,
}

struct Pool {
    name: String,
    state: StartState,
    /// How long a worker may take to be ready. None: no limit.
    ready_timeout: Option<Span>,
    /// Slots that have had a worker.
    tried: BTreeSet<Slot>,
    /// Without it, a pool whose workers exit well before they are ready would be waited for without end. In the
    /// engine's time, so that a pause of the master moves it. None: no worker has been spawned yet.
    deadline: Option<Time>,
}

/// What the caller has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StartAction {
    Wait,
    Reported,
    /// No pool started: stop everything, then report.
    StopAll,
}

impl StartWatch {
    /// `pools`: their names and ready timeouts.
    pub(super) fn new(
        context: StartContext,
        pools: impl Iterator<Item = (PoolId, String, Option<Span>)>,
    ) -> Self {
        let pool = |(id, name, ready_timeout): (PoolId, String, Option<Span>)| {
            (
                id,
                Pool {
                    name,
                    state: StartState::Pending,
                    ready_timeout,
                    tried: BTreeSet::new(),
                    deadline: None,
                },
            )
        };
        let waits = !context.foreground;
        let mut watch = Self {
            report: waits.then_some(context.report),
            pools: pools.map(pool).collect(),
            final_report: None,
        };
        if context.no_wait {
            watch.finish(0, "");
        }
        watch
    }

    /// The earliest deadline of a pool that is not ready.
    pub(super) fn deadline(&self) -> Option<Time> {
        if self.report.is_none() || self.final_report.is_some() {
            return None;
        }
        self.pools
            .values()
            .filter(|pool| pool.state == StartState::Pending)
            .filter_map(|pool| pool.deadline)
            .min()
    }

    /// A worker is about to be spawned. The first one of each slot has its whole ready timeout ahead, because its pool
    /// may have waited for others, and the slot for its turn.
    pub(super) fn worker_spawned(&mut self, pool: PoolId, slot: Slot, now: Time) {
        if self.report.is_some()
            && let Some(pool) = self.pools.get_mut(&pool)
            && pool.tried.insert(slot)
            && let Some(ready_timeout) = pool.ready_timeout
        {
            pool.deadline = Some(now + ready_timeout + SLACK);
        }
    }

    /// A worker has asked for more time (EXTEND_TIMEOUT_USEC=).
    pub(super) fn extended(&mut self, pool: PoolId, deadline: Time) {
        if let Some(Pool {
            deadline: Some(before),
            ..
        }) = self.pools.get_mut(&pool)
        {
            *before = (*before).max(deadline + SLACK);
        }
    }

    /// An essential pool is lost: reported at the end if the start is still being waited for.
    pub(super) fn abandon(&mut self, code: u8, why: &str) {
        if self.report.is_some() && self.final_report.is_none() {
            self.final_report = Some((code, format!("{why}; nothing is left running")));
        }
    }

    fn finish(&mut self, code: u8, text: &str) {
        if let Some(report) = self.report.take() {
            report.finish(code, text);
        }
    }

    /// `ended`: it has done its work and serves nothing. `by_age`: only their age says that its workers are ready.
    pub(super) fn up(&mut self, pool: PoolId, ended: bool, by_age: bool) -> StartAction {
        let state = match (ended, by_age) {
            (true, _) => StartState::Ended,
            (false, true) => StartState::Alive,
            (false, false) => StartState::Ready,
        };
        self.set_state(pool, state)
    }

    pub(super) fn failed(&mut self, pool: PoolId, why: String) -> StartAction {
        self.set_state(pool, StartState::Failed(why))
    }

    /// Fails the pools whose deadline has passed.
    pub(super) fn overdue(&mut self, now: Time) -> StartAction {
        for pool in self.pools.values_mut() {
            if pool.state == StartState::Pending
                && pool.deadline.is_some_and(|deadline| deadline <= now)
            {
                pool.state = StartState::Failed("was not ready in time".to_owned());
            }
        }
        self.decide()
    }

    fn set_state(&mut self, pool: PoolId, new: StartState) -> StartAction {
        if self.report.is_none() || self.final_report.is_some() {
            return StartAction::Reported;
        }
        if let Some(pool) = self.pools.get_mut(&pool)
            && pool.state == StartState::Pending
        {
            pool.state = new;
        }
        self.decide()
    }

    fn decide(&mut self) -> StartAction {
        if self
            .pools
            .values()
            .any(|pool| pool.state == StartState::Pending)
        {
            return StartAction::Wait;
        }
        let of = |state: &StartState| -> Vec<&str> {
            self.pools
                .values()
                .filter(|pool| pool.state == *state)
                .map(|pool| pool.name.as_str())
                .collect()
        };
        let (serving, alive, ended) = (
            of(&StartState::Ready),
            of(&StartState::Alive),
            of(&StartState::Ended),
        );
        let only_alive = (!alive.is_empty()).then(|| {
            format!(
                "alive: {} (nothing but their age says that their workers are ready)",
                alive.join(", ")
            )
        });
        let failed = self.pools.values().filter_map(|pool| match &pool.state {
            StartState::Failed(why) => Some(format!("{}: {why}", pool.name)),
            StartState::Pending | StartState::Ready | StartState::Alive | StartState::Ended => None,
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() {
            let up = self
                .pools
                .values()
                .filter(|pool| matches!(pool.state, StartState::Ready | StartState::Ended));
            let up: Vec<&str> = up.map(|pool| pool.name.as_str()).collect();
            // A configuration without pools is ready, too.
            let ready =
                (!up.is_empty() || alive.is_empty()).then(|| format!("ready: {}", up.join(", ")));
            let text = ready
                .into_iter()
                .chain(only_alive)
                .collect::<Vec<_>>()
                .join("; ");
            self.finish(0, &text);
            return StartAction::Reported;
        }
        if serving.is_empty() && alive.is_empty() && ended.is_empty() {
            self.final_report = Some((
                1,
                format!(
                    "{}\nnothing came up; nothing is left running",
                    join_within(&failed, MAX_REPORT_BYTES)
                ),
            ));
            return StartAction::StopAll;
        }
        let mut serve = Vec::new();
        if !serving.is_empty() {
            serve.push(format!("these serve: {}", serving.join(", ")));
        } else if alive.is_empty() {
            serve.push("nobody serves".to_owned());
        }
        serve.extend(only_alive);
        if !ended.is_empty() {
            serve.push(format!("done: {}", ended.join(", ")));
        }
        let serve = serve.join("; ");
        let text = format!(
            "{}\n{serve}; still retrying the others",
            join_within(&failed, MAX_REPORT_BYTES)
        );
        self.finish(1, &text);
        StartAction::Reported
    }

    /// The master exits: reports to a start that still waits. Returns the exit code of a failed start.
    pub(super) fn finish_on_exit(&mut self, lost: Option<&str>) -> Option<u8> {
        let (code, mut text) = self
            .final_report
            .take()
            .unwrap_or_else(|| (1, "stopped before every pool was ready".to_owned()));
        if let Some(lost) = lost {
            text.push('\n');
            text.push_str(lost);
        }
        let waited = self.report.is_some();
        self.finish(code, &text);
        waited.then_some(code)
    }
}
