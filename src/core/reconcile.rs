//! Settle: compare the wish with what is, and order what brings them closer. Right for every state, not for every
//! history: crash, roll, rollback, scale and stop all end here.

use crate::output::StopReason;
use crate::pool::Activity;
use crate::roll::Phase;
use crate::timers::Key;
use crate::worker::{Role, State};
use crate::{Engine, Generation, Notice, PoolId, PoolKind, Slot, WorkerId};

impl Engine {
    pub(crate) fn settle_slot(&mut self, id: PoolId, slot: Slot) {
        self.wait_no_more(id, slot);
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.outstayed.remove(&slot);
        let Some(seat) = pool.slots.get(slot.0 as usize) else {
            return self.deadlines.set(Key::Slot(id, slot), None);
        };
        let (current, successor) = (seat.current, seat.successor);
        let unwanted = match pool.activity {
            Activity::Stopping | Activity::Stopped => Some(StopReason::Stop),
            Activity::Running | Activity::Outlasting => (slot.0 >= pool.policy.count).then_some(StopReason::ScaledDown),
        };
        if let Some(why) = unwanted {
            self.deadlines.set(Key::Slot(id, slot), None);
            for worker in [current, successor].into_iter().flatten() {
                self.begin_stop(worker, why);
            }
            return self.release(id, slot);
        }
        match pool.activity {
            Activity::Outlasting => return self.keep_serving(id, slot, current, successor),
            _ if !pool.begun => return,
            _ if pool.policy.kind == PoolKind::Oneshot => return self.settle_step(id),
            _ => {}
        }
        if let Some(next) = successor
            && self.workers.get(&next).is_some_and(|w| w.state == State::Ready)
        {
            return self.hand_over(id, slot, current, next);
        }
        if current.is_none() {
            self.fill(id, slot, successor);
        }
    }

    /// Nobody new is started: a successor is needed only where there is nobody else.
    fn keep_serving(&mut self, id: PoolId, slot: Slot, current: Option<WorkerId>, successor: Option<WorkerId>) {
        self.deadlines.set(Key::Slot(id, slot), None);
        let Some(next) = successor else { return };
        if current.is_none() && self.workers.get(&next).is_some_and(|w| w.serves()) {
            self.promote(id, slot, next);
        } else {
            self.begin_stop(next, StopReason::Stop);
        }
    }

    /// The successor serves: the old one may go as soon as there is room among the draining.
    fn hand_over(&mut self, id: PoolId, slot: Slot, current: Option<WorkerId>, next: WorkerId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if let Some(old) = current {
            let serves = self.workers.get(&old).is_some_and(|w| w.serves());
            if !pool.may_drain() || serves && !pool.can_spare_one() {
                if let Some(roll) = &mut pool.roll
                    && !roll.queued.contains(&slot)
                {
                    roll.queued.push_back(slot);
                }
                return;
            }
            if let Some(roll) = &mut pool.roll {
                roll.retired_any = true;
            }
            let why = if pool.roll.is_some() { StopReason::Replaced } else { StopReason::Recycled };
            self.begin_stop(old, why);
        }
        self.promote(id, slot, next);
    }

    pub(crate) fn promote(&mut self, id: PoolId, slot: Slot, next: WorkerId) {
        self.change(next, |w| {
            w.place = Role::Current;
            w.awaited = true;
        });
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.set_ended(slot, None);
        let Some(seat) = pool.slots.get_mut(slot.0 as usize) else { return };
        seat.successor = None;
        seat.current = Some(next);
        pool.in_flight -= 1;
        self.stirred.insert(id);
        let Some(worker) = self.workers.get(&next) else { return };
        if worker.serves() {
            let generation = worker.generation;
            self.filled(id, slot, generation, next);
            self.hope(id, generation, next);
        }
    }

    /// An empty slot is filled: at once, or when its delay is over, and in a crash loop only by the probe.
    fn fill(&mut self, id: PoolId, slot: Slot, successor: Option<WorkerId>) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if pool.is_left_to_roll(slot) {
            return;
        }
        // A slot that the roll still has to do is filled whatever its past says.
        let mut is_rolls = false;
        let generation = match &pool.roll {
            None => match successor {
                Some(next) => return self.promote(id, slot, next),
                None => pool.wanted,
            },
            Some(roll) => {
                if let Some(next) = successor
                    && self.workers.get(&next).is_some_and(|w| w.generation == roll.repair())
                {
                    return self.promote(id, slot, next);
                }
                is_rolls = roll.phase != Phase::Canary && roll.pending.contains(&slot);
                roll.repair()
            }
        };
        if is_rolls {
            pool.set_ended(slot, None);
        }
        let in_place = pool.policy.reload.surge == 0;
        let stays_empty = !is_rolls && pool.slots.get(slot.0 as usize).is_some_and(|seat| seat.ended.is_some());
        if in_place || stays_empty {
            self.release(id, slot);
        }
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let Some(seat) = pool.slots.get_mut(slot.0 as usize) else { return };
        if in_place && seat.parting > 0 {
            return; // never two of one slot: the one that was asked to leave comes by here when it is gone
        }
        if !is_rolls && (seat.ended.is_some() || pool.breaker.is_some_and(|b| !b.lets(slot, seat.deaths, pool.trying)))
        {
            return;
        }
        if let Some(at) = seat.not_before
            && at > self.now
        {
            return self.deadlines.set(Key::Slot(id, slot), Some(at));
        }
        seat.not_before = None;
        let may_be_crowded = seat.parting > 0 && !in_place;
        self.deadlines.set(Key::Slot(id, slot), None);
        if may_be_crowded && self.is_outstayed(id, slot) {
            return;
        }
        if !self.may_start(id) {
            return self.wait_for_room(id, slot);
        }
        self.spawn(id, slot, generation, Role::Current);
    }

    /// The ceiling is a promise of rolling restarts: who is given up before it was ready, since its rolling restart is
    /// cancelled or superseded or has failed, or its slot was not wanted for a moment, may have to be gone before its
    /// slot is filled. What replaces a worker that had served, and was found sick, waits for nobody.
    fn is_outstayed(&mut self, id: PoolId, slot: Slot) -> bool {
        let workers = &self.workers;
        let Some(pool) = self.pools.get_mut(&id) else { return false };
        if pool.outstayed.len() >= pool.beyond_ceiling() {
            return false;
        }
        let mut here = workers.values().filter(|worker| worker.pool == id && worker.slot == slot);
        let is = here.any(|w| w.drains && w.lives() && !w.lost && w.ready_at.is_none());
        if is {
            pool.outstayed.insert(slot);
        }
        is
    }

    /// There is room below the ceiling again.
    fn fill_outstayed(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get(&id) else { return };
        if pool.outstayed.len() > pool.beyond_ceiling() {
            self.touched.extend(pool.outstayed.iter().map(|slot| (id, *slot)));
        }
    }

    pub(crate) fn settle_pool(&mut self, id: PoolId) {
        self.successor_waits_no_more(id);
        self.fill_outstayed(id);
        let Some(pool) = self.pools.get(&id) else { return };
        match pool.activity {
            Activity::Running if !pool.begun => self.begin_when_free(id),
            Activity::Running if pool.policy.kind == PoolKind::Oneshot => {}
            Activity::Running => {
                self.notice_up(id);
                self.watch_probe(id);
                self.advance_roll(id);
                self.advance_renewals(id);
                self.proclaim(id);
            }
            Activity::Outlasting => self.stop_when_unneeded(id),
            Activity::Stopping => {
                if pool.present == 0 {
                    self.rest(id);
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
    fn rest(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.activity = Activity::Stopped;
        }
        self.record(Notice::PoolStopped { pool: id });
        self.stirred.insert(id);
        self.stir_needed(id);
    }

    /// Notices when every wanted worker serves: the generation has served in full.
    fn proclaim(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if pool.full || pool.roll.is_some() || !pool.is_full() || pool.wanted_slots() == 0 {
            return;
        }
        pool.full = true;
        let generation: Generation = pool.wanted;
        if pool.serving_of.get(&generation) == Some(&pool.serving) {
            pool.prove(generation);
            self.record(Notice::PoolReady { pool: id, generation });
        }
    }
}
