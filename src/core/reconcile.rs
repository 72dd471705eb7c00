//! Compares desired with actual state and emits commands that close the gap. It depends on the state alone and not on
//! how it came about, so crash, rolling restart, rollback, scale and stop all end here. `engine.rs` calls
//! `reconcile_slot` and `reconcile_pool` for everything dirty after each input.

use crate::activity::Activity;
use crate::output::StopReason;
use crate::roll::Phase;
use crate::timers::Key;
use crate::worker::{Role, State};
use crate::{Engine, Generation, Notice, PoolId, PoolKind, Slot, WorkerId};

impl Engine {
    pub(crate) fn reconcile_slot(&mut self, id: PoolId, slot: Slot) {
        self.clear_slot_wait(id, slot);
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.ceiling_waiters.remove(&slot);
        let Some(slot_state) = pool.slots.get(slot.0 as usize) else {
            return self.deadlines.set(Key::Slot(id, slot), None);
        };
        let (current, successor) = (slot_state.current, slot_state.successor);
        let unwanted = match pool.activity {
            Activity::Stopping | Activity::Stopped => Some(StopReason::Stop),
            Activity::Running | Activity::AwaitingDependents => {
                (slot.0 >= pool.policy.count).then_some(StopReason::ScaledDown)
            }
        };
        if let Some(why) = unwanted {
            self.deadlines.set(Key::Slot(id, slot), None);
            for worker in [current, successor].into_iter().flatten() {
                self.begin_stop(worker, why);
            }
            return self.stop_unreachable(id, slot);
        }
        match pool.activity {
            Activity::AwaitingDependents => return self.serve_on(id, slot, current, successor),
            _ if !pool.begun => return,
            _ if pool.policy.kind == PoolKind::Oneshot => return self.reconcile_oneshot(id),
            _ => {}
        }
        if let Some(next) = successor
            && self
                .workers
                .get(&next)
                .is_some_and(|w| w.state == State::Ready)
        {
            return self.hand_over(id, slot, current, next);
        }
        if current.is_none() {
            self.fill(id, slot, successor);
        }
    }

    /// No new worker is started; a successor takes over only where the slot is empty.
    fn serve_on(
        &mut self,
        id: PoolId,
        slot: Slot,
        current: Option<WorkerId>,
        successor: Option<WorkerId>,
    ) {
        self.deadlines.set(Key::Slot(id, slot), None);
        let Some(next) = successor else { return };
        if current.is_none() && self.workers.get(&next).is_some_and(|w| w.is_serving()) {
            self.promote(id, slot, next);
        } else {
            self.begin_stop(next, StopReason::Stop);
        }
    }

    /// The successor is ready: stop the old worker as soon as `max_draining` allows it.
    fn hand_over(&mut self, id: PoolId, slot: Slot, current: Option<WorkerId>, next: WorkerId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if let Some(old) = current {
            let serves = self.workers.get(&old).is_some_and(|w| w.is_serving());
            if !pool.may_drain() || serves && !pool.can_spare_one() {
                if let Some(roll) = &mut pool.roll {
                    roll.queued.push(slot);
                }
                return;
            }
            if let Some(roll) = &mut pool.roll {
                roll.retired_any = true;
            }
            let why = if pool.roll.is_some() {
                StopReason::Replaced
            } else {
                StopReason::Recycled
            };
            self.begin_stop(old, why);
        }
        self.promote(id, slot, next);
    }

    pub(crate) fn promote(&mut self, id: PoolId, slot: Slot, next: WorkerId) {
        self.update_worker(next, |w| {
            w.role = Role::Current;
            w.awaited = true;
        });
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.set_ended(slot, None);
        let Some(slot_state) = pool.slots.get_mut(slot.0 as usize) else {
            return;
        };
        slot_state.successor = None;
        slot_state.current = Some(next);
        pool.successors -= 1;
        self.dirty_pools.insert(id);
        let Some(worker) = self.workers.get(&next) else {
            return;
        };
        if worker.is_serving() {
            let generation = worker.generation;
            self.filled(id, slot, generation, next);
            self.consider_candidate(id, generation, next);
        }
    }

    /// Fills an empty slot: now, after its backoff, or in a crash loop only if its turn has come.
    fn fill(&mut self, id: PoolId, slot: Slot, successor: Option<WorkerId>) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if pool.is_left_to_roll(slot) {
            return;
        }
        // A slot that the rolling restart still has to do is filled regardless of its past failures.
        let mut is_rolls = false;
        let generation = match &pool.roll {
            None => match successor {
                Some(next) => return self.promote(id, slot, next),
                None => pool.target,
            },
            Some(roll) => {
                if let Some(next) = successor
                    && self
                        .workers
                        .get(&next)
                        .is_some_and(|w| w.generation == roll.fill_generation())
                {
                    return self.promote(id, slot, next);
                }
                is_rolls = roll.phase != Phase::Canary && roll.pending.contains(&slot);
                roll.fill_generation()
            }
        };
        if is_rolls {
            pool.set_ended(slot, None);
        }
        let in_place = pool.policy.reload.surge == 0;
        let stays_empty = !is_rolls
            && pool
                .slots
                .get(slot.0 as usize)
                .is_some_and(|slot_state| slot_state.ended.is_some());
        if in_place || stays_empty {
            self.stop_unreachable(id, slot);
        }
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let Some(slot_state) = pool.slots.get_mut(slot.0 as usize) else {
            return;
        };
        if in_place && slot_state.stopping_workers > 0 {
            return; // never two workers in one slot: this runs again when the old one is gone
        }
        if !is_rolls
            && (slot_state.ended.is_some()
                || pool
                    .breaker
                    .is_some_and(|b| !b.allows(slot, slot_state.deaths, pool.trying)))
        {
            return;
        }
        if let Some(at) = slot_state.not_before
            && at > self.now
        {
            return self.deadlines.set(Key::Slot(id, slot), Some(at));
        }
        slot_state.not_before = None;
        let may_be_crowded = slot_state.stopping_workers > 0 && !in_place;
        self.deadlines.set(Key::Slot(id, slot), None);
        if may_be_crowded && self.must_wait_for_ceiling(id, slot) {
            return;
        }
        if !self.may_start(id) {
            return self.wait_for_room(id, slot);
        }
        self.spawn(id, slot, generation, Role::Current);
    }

    /// Rolling restarts promise a ceiling. A worker that was given up before it was ready (its rolling restart was
    /// cancelled or superseded or failed, or its slot was briefly scaled away) may have to be gone before its slot is
    /// filled. The replacement of a worker that had served and became unhealthy does not wait.
    fn must_wait_for_ceiling(&mut self, id: PoolId, slot: Slot) -> bool {
        let Some(pool) = self.pools.get_mut(&id) else {
            return false;
        };
        if pool.ceiling_waiters.len() >= pool.over_ceiling() {
            return false;
        }
        let slot_state = pool.slots.get(slot.0 as usize);
        let is = slot_state.is_some_and(|slot_state| slot_state.stopping_unready > 0);
        if is {
            pool.ceiling_waiters.insert(slot);
        }
        is
    }

    /// Marks waiting slots as dirty when there is room below the ceiling again.
    fn fill_below_ceiling(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get(&id) else {
            return;
        };
        let room = pool
            .ceiling_waiters
            .len()
            .saturating_sub(pool.over_ceiling());
        let waiters = pool.ceiling_waiters.iter().take(room);
        self.dirty_slots.extend(waiters.map(|slot| (id, *slot)));
    }

    pub(crate) fn reconcile_pool(&mut self, id: PoolId) {
        self.clear_successor_wait(id);
        self.fill_below_ceiling(id);
        let Some(pool) = self.pools.get(&id) else {
            return;
        };
        match pool.activity {
            Activity::Running if !pool.begun => self.begin_when_free(id),
            Activity::Running if pool.policy.kind == PoolKind::Oneshot => {}
            Activity::Running => {
                self.notice_up(id);
                self.check_probe(id);
                self.advance_roll(id);
                self.advance_replacements(id);
                self.mark_fully_ready(id);
            }
            Activity::AwaitingDependents => self.stop_when_unneeded(id),
            Activity::Stopping => {
                if pool.present == 0 {
                    self.mark_stopped(id);
                }
            }
            Activity::Stopped => {
                if pool.removed && pool.slots.iter().all(|slot| slot.leaving == 0) {
                    self.pools.remove(&id);
                }
            }
        }
        self.watch_essential(id);
        self.watch_end(id);
    }

    /// Nothing of the pool is left that the kernel can end.
    fn mark_stopped(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.activity = Activity::Stopped;
        }
        self.emit(Notice::PoolStopped { pool: id });
        self.dirty_pools.insert(id);
        self.mark_dependencies(id);
    }

    /// Records that the generation is fully rolled out once every desired worker serves.
    fn mark_fully_ready(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if pool.full || pool.roll.is_some() || !pool.is_full() || pool.wanted_slots() == 0 {
            return;
        }
        pool.full = true;
        let generation: Generation = pool.target;
        if pool.serving_of.get(&generation) == Some(&pool.serving) {
            pool.mark_served(generation);
            self.emit(Notice::PoolReady {
                pool: id,
                generation,
            });
        }
    }
}
