//! How many workers may be starting at a time: ordered, and not ready yet.
//!
//! A pool with `max_starting` has a bound of its own. All other pools share the machine: each worker that starts is
//! taken for a share of a processor, and a further one is ordered while all of them together leave room. A worker
//! that was looked at counts for what it wants ([`crate::Input::Demand`]): one that waits for a network or a clock
//! for nothing, one that computes for a processor or more. A fresh one counts for what its pool's workers have shown:
//! quick and waiting ones make the next count for less, until the pool is not held up at all; busy ones take that
//! back. So a thousand workers that are ready at once start at once, and a hundred that compute start a few at a
//! time, each within its patience.

use crate::pool::{Activity, Pool};
use crate::worker::{State, Worker};
use crate::{Engine, PoolId, Slot, Span, WorkerId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// A processor, in the unit of [`crate::Input::Demand`].
const PROCESSOR: u32 = 100;
/// Workers that start may want so much of each processor: a little more than there is, since nobody computes all the
/// time.
const FULL: u32 = 150;
/// A pool of which nobody starts gets its first worker in up to here, so that it shows what it is like.
const FULL_FOR_THE_FIRST: u32 = 250;
/// As much of a processor, and a worker is busy.
const BUSY: u32 = 50;
/// A worker may compute until it is so old and says nothing by it: programs have to be loaded. Ready by then: quick.
const YOUNG: Span = Span::from_millis(50);
/// Before that age nothing at all can be said: it may not even run yet.
const NEWBORN: Span = Span::from_millis(10);
/// More fresh workers that fit on the machine, for each one that was quick.
const QUICK_STEP: u32 = 3;
/// So many at a time are no bound.
const WIDEST: u32 = 1 << 20;

/// Who waits for room, and what all that start are taken for.
#[derive(Clone)]
pub(crate) struct StartLimiter {
    processors: u32,
    /// What all workers that start want together.
    demand: u64,
    /// Pools with slots that wait, or whose rolling restart or replacement does.
    waiting: BTreeSet<PoolId>,
    /// Whose turn it was last.
    turn: PoolId,
    /// Something has changed that may have made room.
    changed: bool,
}

/// What a pool's workers are taken for when they start.
#[derive(Clone, Default)]
pub(crate) struct StartLoad {
    /// So many fresh ones of this pool fit on the machine.
    window: u32,
    /// Workers that are starting, successors included; what they are taken for.
    pub(crate) starting: u32,
    pub(crate) demand: u64,
    /// Empty slots that wait for room.
    pub(crate) slots: BTreeSet<Slot>,
    /// A successor waits for room.
    pub(crate) successor: bool,
}

impl Default for StartLimiter {
    fn default() -> Self {
        Self { processors: 1, demand: 0, waiting: BTreeSet::new(), turn: PoolId(0), changed: false }
    }
}

impl StartLimiter {
    fn full(&self) -> u32 {
        FULL.saturating_mul(self.processors)
    }

    /// Two for each processor, as long as nothing is known.
    fn first_window(&self) -> u32 {
        self.processors.saturating_mul(2)
    }

    /// What a fresh worker of such a pool is taken for.
    fn fresh(&self, start_load: &StartLoad) -> u32 {
        let window = if start_load.window == 0 { self.first_window() } else { start_load.window };
        (self.full() / window.max(1)).min(PROCESSOR)
    }

    /// A worker's share has changed.
    pub(crate) fn shift(&mut self, before: u32, after: u32) {
        self.demand = self.demand + u64::from(after) - u64::from(before);
        self.changed |= after < before;
    }

    pub(crate) fn change(&mut self) {
        self.changed = true;
    }
}

impl StartLoad {
    pub(crate) fn waits(&self) -> bool {
        self.successor || !self.slots.is_empty()
    }
}

impl Engine {
    /// `processors`: how many the workers may use; at least 1.
    pub fn with_processors(processors: u32) -> Self {
        let start_limiter = StartLimiter { processors: processors.clamp(1, 1 << 16), ..StartLimiter::default() };
        let mut engine = Self::default();
        engine.start_limiter = start_limiter;
        engine
    }

    /// Whether one more worker of the pool may start now.
    pub(crate) fn may_start(&self, id: PoolId) -> bool {
        let Some(pool) = self.pools.get(&id) else { return false };
        if let Some(most) = pool.policy.max_starting {
            return pool.start_load.starting < most;
        }
        let fresh = self.start_limiter.fresh(&pool.start_load);
        let demand = self.start_limiter.demand + u64::from(fresh);
        let most = if pool.start_load.demand == 0 { FULL_FOR_THE_FIRST } else { FULL };
        fresh == 0 || demand <= u64::from(most) * u64::from(self.start_limiter.processors)
    }

    /// What a worker that is ordered now is taken for.
    pub(crate) fn fresh_demand(&self, pool: &Pool) -> u32 {
        self.start_limiter.fresh(&pool.start_load)
    }

    /// The slot is empty, and there is no room for another one that starts.
    pub(crate) fn wait_for_room(&mut self, id: PoolId, slot: Slot) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.start_load.slots.insert(slot);
            self.start_limiter.waiting.insert(id);
        }
    }

    /// The slot is looked at anew.
    pub(crate) fn clear_slot_wait(&mut self, id: PoolId, slot: Slot) {
        if self.start_limiter.waiting.contains(&id)
            && let Some(pool) = self.pools.get_mut(&id)
        {
            pool.start_load.slots.remove(&slot);
            self.forget_waiting(id);
        }
    }

    /// Whether a successor may be ordered; if not, its pool is settled again when there is room.
    pub(crate) fn may_start_successor(&mut self, id: PoolId) -> bool {
        let may = self.may_start(id);
        if !may && let Some(pool) = self.pools.get_mut(&id) {
            pool.start_load.successor = true;
            self.start_limiter.waiting.insert(id);
        }
        may
    }

    /// The pool is looked at anew.
    pub(crate) fn clear_successor_wait(&mut self, id: PoolId) {
        if self.start_limiter.waiting.contains(&id)
            && let Some(pool) = self.pools.get_mut(&id)
        {
            pool.start_load.successor = false;
            self.forget_waiting(id);
        }
    }

    fn forget_waiting(&mut self, id: PoolId) {
        if self.pools.get(&id).is_none_or(|pool| !pool.start_load.waits()) {
            self.start_limiter.waiting.remove(&id);
        }
    }

    /// One that waits has room now: pools in turn, the lowest slot first. Whether there was one.
    pub(crate) fn admit_next(&mut self) -> bool {
        if !core::mem::take(&mut self.start_limiter.changed) || self.start_limiter.waiting.is_empty() {
            return false;
        }
        let turn = self.start_limiter.turn;
        let after = self.start_limiter.waiting.range((core::ops::Bound::Excluded(turn), core::ops::Bound::Unbounded));
        let before = self.start_limiter.waiting.range(..=turn);
        let Some(id) = after.chain(before).copied().find(|id| self.may_start(*id)) else { return false };
        self.start_limiter.turn = id;
        // There may be room for more than one.
        self.start_limiter.changed = true;
        let next = self.pools.get(&id).and_then(|pool| pool.start_load.slots.first().copied());
        match next {
            Some(slot) => {
                self.clear_slot_wait(id, slot);
                self.mark_slot(id, slot);
            }
            None => {
                self.clear_successor_wait(id);
                self.dirty_pools.insert(id);
            }
        }
        true
    }

    /// What workers that start want, as they were looked at together.
    pub(crate) fn update_demands(&mut self, found: &[(WorkerId, u32)]) {
        let most = PROCESSOR.saturating_mul(self.start_limiter.processors);
        let (mut busy, mut idle): (BTreeSet<PoolId>, BTreeSet<PoolId>) = Default::default();
        for (id, demand) in found {
            let Some(worker) = self.workers.get(id).filter(|worker| worker.is_booting()) else { continue };
            let (pool, age) = (worker.pool, self.now - worker.began);
            if age < NEWBORN {
                continue;
            } else if *demand < BUSY {
                idle.insert(pool);
            } else if age < YOUNG {
                continue;
            } else {
                busy.insert(pool);
            }
            self.update_worker(*id, |worker| worker.demand = (*demand).min(most));
        }
        let start_limiter = &self.start_limiter;
        for id in idle.union(&busy) {
            let Some(pool) = self.pools.get_mut(id) else { continue };
            let window =
                if pool.start_load.window == 0 { start_limiter.first_window() } else { pool.start_load.window };
            pool.start_load.window =
                if busy.contains(id) { start_limiter.full() / PROCESSOR } else { window.saturating_mul(2).min(WIDEST) };
        }
        self.start_limiter.change();
    }

    /// It was ready after so long.
    pub(crate) fn note_start_time(&mut self, id: PoolId, took: Span) {
        let first = self.start_limiter.first_window();
        if took <= YOUNG
            && let Some(pool) = self.pools.get_mut(&id)
        {
            let window = if pool.start_load.window == 0 { first } else { pool.start_load.window };
            pool.start_load.window = window.saturating_add(QUICK_STEP).min(WIDEST);
            self.start_limiter.change();
        }
    }

    pub(crate) fn processors(&self) -> u32 {
        self.start_limiter.processors
    }

    pub(crate) fn limits_starts(&self) -> bool {
        !self.start_limiter.waiting.is_empty()
    }

    /// Workers that are starting, in all pools; what they are made of does not matter.
    pub(crate) fn booting(&self) -> Vec<WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.is_booting()).map(|(id, _)| *id).collect()
    }
}

impl Worker {
    /// It is starting: it counts for whether another one may.
    pub(crate) fn is_booting(&self) -> bool {
        self.counts && matches!(self.state, State::Starting { .. }) && self.role != crate::worker::Role::Leaving
    }
}

impl Pool {
    /// This empty slot would have its worker, if others were not starting.
    pub(crate) fn waits_for_room(&self, slot: Slot) -> bool {
        self.activity == Activity::Running && self.breaker.is_none() && self.start_load.slots.contains(&slot)
    }
}
