//! Limits how many workers are starting (spawned and not ready yet) at a time. `reconcile.rs`, `rolling.rs` and
//! `replace.rs` ask before each spawn; whatever waits is admitted when the load drops.
//!
//! A pool with `max_starting` has its own limit. All other pools share the machine: each starting worker counts as a
//! share of a processor, and another one is spawned while the sum leaves room. A worker that has been measured counts
//! with its demand ([`crate::Input::Demand`]): one that waits for a network or a clock counts nothing, one that
//! computes counts a processor or more. A new one counts with an estimate from its pool: quick and idle workers lower
//! the estimate until the pool is not limited at all, busy ones reset it. So a thousand workers that are ready at
//! once start together, and a hundred that compute start a few at a time, each within its `ready_timeout`.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::worker::{State, Worker};
use crate::{Engine, PoolId, Slot, Span, WorkerId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// One processor, in the unit of [`crate::Input::Demand`].
const PROCESSOR: u32 = 100;
/// How much demand starting workers may add up to, for each processor: a little more than there is, since they do not
/// compute all the time.
const FULL: u32 = 150;
/// The limit for a pool with no starting worker: its first worker is let in early, to show its demand.
const FULL_FOR_THE_FIRST: u32 = 250;
/// Demand from which a worker counts as busy.
const BUSY: u32 = 50;
/// Up to this age computing says nothing about a worker, since every program has to load. A worker that is ready by
/// then is quick.
const YOUNG: Span = Span::from_millis(50);
/// Up to this age a measurement says nothing at all: the worker may not have run yet.
const NEWBORN: Span = Span::from_millis(10);
/// How many more new workers fit on the machine for each quick start.
const QUICK_STEP: u32 = 3;
/// A window of this size is no limit.
const WIDEST: u32 = 1 << 20;

/// What waits to start, and the summed demand of all starting workers.
#[derive(Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct StartLimiter {
    processors: u32,
    /// The summed demand of all starting workers.
    #[cfg_attr(feature = "serde", serde(skip))]
    demand: u64,
    /// Pools with slots that wait to start, or whose rolling restart or replacement waits.
    #[cfg_attr(feature = "serde", serde(skip))]
    waiting: BTreeSet<PoolId>,
    /// The pool that was admitted last.
    turn: PoolId,
    /// Something has changed that may have made room.
    changed: bool,
}

/// The start load of one pool.
#[derive(Clone, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct StartLoad {
    /// How many new workers of this pool fit on the machine; 0: not known yet.
    window: u32,
    /// Starting workers, successors included; and their summed demand.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) starting: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) demand: u64,
    /// Empty slots that wait to start.
    pub(crate) slots: BTreeSet<Slot>,
    /// A successor waits to start.
    pub(crate) successor: bool,
}

impl Default for StartLimiter {
    fn default() -> Self {
        Self {
            processors: 1,
            demand: 0,
            waiting: BTreeSet::new(),
            turn: PoolId(0),
            changed: false,
        }
    }
}

impl StartLimiter {
    pub(crate) fn processors(&self) -> u32 {
        self.processors
    }

    fn full(&self) -> u32 {
        FULL.saturating_mul(self.processors)
    }

    /// Two for each processor while nothing is known about the pool.
    fn first_window(&self) -> u32 {
        self.processors.saturating_mul(2)
    }

    /// The estimated demand of a new worker of this pool.
    fn fresh(&self, start_load: &StartLoad) -> u32 {
        let window = if start_load.window == 0 {
            self.first_window()
        } else {
            start_load.window
        };
        (self.full() / window.max(1)).min(PROCESSOR)
    }

    /// Updates the sum when a worker's demand changes.
    pub(crate) fn shift(&mut self, before: u32, after: u32) {
        self.demand = self.demand + u64::from(after) - u64::from(before);
        self.changed |= after < before;
    }

    pub(crate) fn change(&mut self) {
        self.changed = true;
    }

    /// The pool has something that waits: as in its saved state.
    #[cfg(feature = "serde")]
    pub(crate) fn rebuild_wait(&mut self, id: PoolId, start_load: &StartLoad) {
        if start_load.waits() {
            self.waiting.insert(id);
        }
    }
}

impl StartLoad {
    pub(crate) fn waits(&self) -> bool {
        self.successor || !self.slots.is_empty()
    }
}

impl Engine {
    /// An engine for a machine with this many processors that workers may use; at least 1.
    pub fn with_processors(processors: u32) -> Self {
        let start_limiter = StartLimiter {
            processors: processors.clamp(1, 1 << 16),
            ..StartLimiter::default()
        };
        Self {
            start_limiter,
            ..Self::default()
        }
    }

    /// Whether one more worker of the pool may start now.
    pub(crate) fn may_start(&self, id: PoolId) -> bool {
        let Some(pool) = self.pools.get(&id) else {
            return false;
        };
        if let Some(most) = pool.policy.max_starting {
            return pool.start_load.starting < most;
        }
        let fresh = self.start_limiter.fresh(&pool.start_load);
        let demand = self.start_limiter.demand + u64::from(fresh);
        let most = if pool.start_load.demand == 0 {
            FULL_FOR_THE_FIRST
        } else {
            FULL
        };
        fresh == 0 || demand <= u64::from(most) * u64::from(self.start_limiter.processors)
    }

    /// The demand that a worker spawned now is counted with.
    pub(crate) fn fresh_demand(&self, pool: &Pool) -> u32 {
        self.start_limiter.fresh(&pool.start_load)
    }

    /// The slot is empty and waits until another worker may start.
    pub(crate) fn wait_for_room(&mut self, id: PoolId, slot: Slot) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.start_load.slots.insert(slot);
            self.start_limiter.waiting.insert(id);
        }
    }

    /// The slot is being reconciled: it no longer waits.
    pub(crate) fn clear_slot_wait(&mut self, id: PoolId, slot: Slot) {
        if self.start_limiter.waiting.contains(&id)
            && let Some(pool) = self.pools.get_mut(&id)
        {
            pool.start_load.slots.remove(&slot);
            self.forget_waiting(id);
        }
    }

    /// Whether a successor may be spawned; if not, the pool is reconciled again when there is room.
    pub(crate) fn may_start_successor(&mut self, id: PoolId) -> bool {
        let may = self.may_start(id);
        if !may && let Some(pool) = self.pools.get_mut(&id) {
            pool.start_load.successor = true;
            self.start_limiter.waiting.insert(id);
        }
        may
    }

    /// The pool is being reconciled: its successor no longer waits.
    pub(crate) fn clear_successor_wait(&mut self, id: PoolId) {
        if self.start_limiter.waiting.contains(&id)
            && let Some(pool) = self.pools.get_mut(&id)
        {
            pool.start_load.successor = false;
            self.forget_waiting(id);
        }
    }

    fn forget_waiting(&mut self, id: PoolId) {
        if self
            .pools
            .get(&id)
            .is_none_or(|pool| !pool.start_load.waits())
        {
            self.start_limiter.waiting.remove(&id);
        }
    }

    /// Admits one waiting slot or pool if there is room: pools in turn, the lowest slot first. Returns whether it
    /// did.
    pub(crate) fn admit_next(&mut self) -> bool {
        if !core::mem::take(&mut self.start_limiter.changed)
            || self.start_limiter.waiting.is_empty()
        {
            return false;
        }
        let turn = self.start_limiter.turn;
        let after = self.start_limiter.waiting.range((
            core::ops::Bound::Excluded(turn),
            core::ops::Bound::Unbounded,
        ));
        let before = self.start_limiter.waiting.range(..=turn);
        let Some(id) = after.chain(before).copied().find(|id| self.may_start(*id)) else {
            return false;
        };
        self.start_limiter.turn = id;
        // There may be room for more than one.
        self.start_limiter.changed = true;
        let next = self
            .pools
            .get(&id)
            .and_then(|pool| pool.start_load.slots.first().copied());
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

    /// Records the demands of starting workers that were measured together.
    pub(crate) fn update_demands(&mut self, found: &[(WorkerId, u32)]) {
        let most = PROCESSOR.saturating_mul(self.start_limiter.processors);
        let (mut busy, mut idle): (BTreeSet<PoolId>, BTreeSet<PoolId>) = Default::default();
        for (id, demand) in found {
            let Some(worker) = self.workers.get(id).filter(|worker| worker.is_booting()) else {
                continue;
            };
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
            let Some(pool) = self.pools.get_mut(id) else {
                continue;
            };
            let window = if pool.start_load.window == 0 {
                start_limiter.first_window()
            } else {
                pool.start_load.window
            };
            pool.start_load.window = if busy.contains(id) {
                start_limiter.full() / PROCESSOR
            } else {
                window.saturating_mul(2).min(WIDEST)
            };
        }
        self.start_limiter.change();
    }

    /// A worker became ready after this time.
    pub(crate) fn note_start_time(&mut self, id: PoolId, took: Span) {
        let first = self.start_limiter.first_window();
        if took <= YOUNG
            && let Some(pool) = self.pools.get_mut(&id)
        {
            let window = if pool.start_load.window == 0 {
                first
            } else {
                pool.start_load.window
            };
            pool.start_load.window = window.saturating_add(QUICK_STEP).min(WIDEST);
            self.start_limiter.change();
        }
    }

    pub(crate) fn processors(&self) -> u32 {
        self.start_limiter.processors()
    }

    pub(crate) fn limits_starts(&self) -> bool {
        !self.start_limiter.waiting.is_empty()
    }

    /// Starting workers of all pools, whatever they are made from.
    pub(crate) fn booting(&self) -> Vec<WorkerId> {
        self.workers
            .iter()
            .filter(|(_, worker)| worker.is_booting())
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Worker {
    /// It is starting and counts towards the start limit.
    pub(crate) fn is_booting(&self) -> bool {
        self.counts
            && matches!(self.state, State::Starting { .. })
            && self.role != crate::worker::Role::Leaving
    }
}

impl Pool {
    /// This empty slot waits only because other workers are starting.
    pub(crate) fn waits_for_room(&self, slot: Slot) -> bool {
        self.activity == Activity::Running
            && self.breaker.is_none()
            && self.start_load.slots.contains(&slot)
    }
}
