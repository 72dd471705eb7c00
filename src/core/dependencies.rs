//! Order between pools (`after`): a pool starts after those that it names, stops before them when everything stops,
//! and rolls after them.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::roll::{Phase, Roll};
use crate::slot::Ended;
use crate::{Cause, Engine, Failure, Generation, Notice, PoolId, PoolKind};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

impl Engine {
    /// The pools that this one still waits for before it may start.
    pub(crate) fn held_by(&self, id: PoolId) -> Vec<PoolId> {
        let Some(pool) = self.pools.get(&id).filter(|pool| pool.is_held()) else {
            return Vec::new();
        };
        let holds =
            |other: &PoolId| *other != id && self.pools.get(other).is_some_and(Pool::is_awaited);
        pool.policy.after.iter().copied().filter(holds).collect()
    }

    /// The pool should run, for the first time or again: it starts now or is held.
    pub(crate) fn start_in_order(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.begun = false;
        pool.up = false;
        let by = self.held_by(id);
        if !by.is_empty() {
            self.held.insert(id);
            return self.emit(Notice::Waiting { pool: id, by });
        }
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.begun = true;
        }
    }

    pub(crate) fn begin_when_free(&mut self, id: PoolId) {
        if !self.held.contains(&id) || !self.held_by(id).is_empty() {
            return;
        }
        self.held.remove(&id);
        if let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.is_held()) {
            pool.begun = true;
            self.mark_all_slots(id);
        }
    }

    /// A pool is up, or will not come up: held pools may have waited for that.
    pub(crate) fn mark_held_pools(&mut self) {
        self.dirty_pools.extend(self.held.iter().copied());
    }

    /// Notes when every desired worker has been ready at the same time since the pool's start.
    pub(crate) fn notice_up(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if !pool.up && pool.begun && pool.policy.kind == PoolKind::Service && pool.is_full() {
            pool.up = true;
            self.mark_held_pools();
        }
    }

    /// The rolling restarts that this pool's own waits for: those of pools that it comes after, directly or through
    /// pools that are not being rolled.
    pub(crate) fn rolls_before(&self, id: PoolId) -> Vec<PoolId> {
        match self.pools.get(&id) {
            Some(pool) if pool.roll_is_new() => self
                .before(id)
                .into_iter()
                .filter(|other| self.rolls(*other))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn rolls(&self, id: PoolId) -> bool {
        self.pools.get(&id).is_some_and(|pool| pool.roll.is_some())
    }

    /// Pools that this one comes after. The search stops at pools that are being rolled, since those wait for theirs.
    /// Pools in a cycle do not come after each other.
    fn before(&self, id: PoolId) -> BTreeSet<PoolId> {
        let mut found = BTreeSet::new();
        let mut ask = alloc::vec![id];
        while let Some(pool) = ask.pop().and_then(|id| self.pools.get(&id)) {
            for other in &pool.policy.after {
                if *other != id
                    && !self.comes_after(*other, id)
                    && found.insert(*other)
                    && !self.rolls(*other)
                {
                    ask.push(*other);
                }
            }
        }
        found
    }

    fn comes_after(&self, id: PoolId, other: PoolId) -> bool {
        let mut seen = BTreeSet::from([id]);
        let mut ask = alloc::vec![id];
        while let Some(pool) = ask.pop().and_then(|id| self.pools.get(&id)) {
            if pool.policy.after.contains(&other) {
                return true;
            }
            ask.extend(
                pool.policy
                    .after
                    .iter()
                    .copied()
                    .filter(|next| seen.insert(*next)),
            );
        }
        false
    }

    /// Whether the rolling restart of this pool has to wait; reported once.
    pub(crate) fn roll_waits(&mut self, id: PoolId) -> bool {
        let by = self.rolls_before(id);
        if by.is_empty() {
            return false;
        }
        if let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
            && !core::mem::replace(&mut roll.wait_reported, true)
        {
            self.emit(Notice::RollAfter { pool: id, by });
        }
        true
    }

    /// A pool's rolling restart is over: those that waited for it begin, or fail without replacing a worker if it
    /// failed.
    pub(crate) fn roll_ended_for_others(&mut self, id: PoolId, fails: bool) {
        let waiting = self.pools.iter().filter(|(_, pool)| pool.roll_is_new());
        let waiting: Vec<PoolId> = waiting.map(|(other, _)| *other).collect();
        for other in waiting {
            // It may have ended or gone back by now, through a pool between the two that failed as well.
            let is_new = self.pools.get(&other).is_some_and(Pool::roll_is_new);
            if fails && is_new && self.before(other).contains(&id) {
                let failure = Failure {
                    worker: None,
                    cause: Cause::After(id),
                    mixed: false,
                };
                self.fail_roll(other, failure);
            }
            self.dirty_pools.insert(other);
        }
    }

    /// Everything stops: this pool keeps serving until the pools that depend on it have stopped.
    pub(crate) fn stop_after_dependents(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if pool.is_held() {
            self.stop_pool(id);
        } else if pool.activity == Activity::Running {
            pool.activity = Activity::AwaitingDependents;
            self.end_requests(id);
        }
    }

    pub(crate) fn stop_when_unneeded(&mut self, id: PoolId) {
        let needs = |(other, pool): (&PoolId, &Pool)| {
            *other != id && pool.activity != Activity::Stopped && pool.policy.after.contains(&id)
        };
        if !self.pools.iter().any(needs) {
            self.stop_pool(id);
        }
    }

    /// This pool has stopped: the pools that it names may stop next.
    pub(crate) fn mark_dependencies(&mut self, id: PoolId) {
        if self.stopping
            && let Some(pool) = self.pools.get(&id)
        {
            self.dirty_pools.extend(pool.policy.after.iter().copied());
        }
    }

    /// Pools that wait for each other in a cycle would never stop, so they all stop now. Returns whether there were
    /// any.
    pub(crate) fn break_cycle(&mut self) -> bool {
        let is = |activity| {
            self.pools
                .values()
                .any(|pool: &Pool| pool.activity == activity)
        };
        if !self.stopping || is(Activity::Stopping) || !is(Activity::AwaitingDependents) {
            return false;
        }
        self.stop_all_pools();
        true
    }

    pub(crate) fn stop_all_pools(&mut self) {
        let pools: Vec<PoolId> = self.pools.keys().copied().collect();
        for pool in pools {
            self.stop_pool(pool);
        }
    }
}

impl Pool {
    /// It should run and has not begun.
    pub(crate) fn is_held(&self) -> bool {
        self.activity == Activity::Running && !self.begun
    }

    /// It has a rolling restart that has not replaced a worker yet. A oneshot has no worker to replace.
    fn roll_is_new(&self) -> bool {
        let is_new = |roll: &Roll| !roll.begun && roll.phase == Phase::Canary;
        self.policy.kind == PoolKind::Service && self.roll.as_ref().is_some_and(is_new)
    }

    /// Other pools may not start before this one is up.
    fn is_awaited(&self) -> bool {
        let up = match self.policy.kind {
            PoolKind::Service => self.up,
            // A oneshot that succeeded once and whose later run failed holds no pool: everything keeps serving.
            PoolKind::Oneshot => self.slots.first().is_some_and(|slot| match slot.ended {
                Some(Ended::Done) => true,
                Some(Ended::Failed) => self.last_good != Generation::NONE,
                None => false,
            }),
        };
        self.activity == Activity::Running && !up
    }
}
