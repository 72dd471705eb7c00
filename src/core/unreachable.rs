//! A listening socket was replaced by a new one: no new connection reaches the workers that hold the old one. That is
//! nobody's fault, so nothing is counted, no rolling restart fails, and each slot is filled at once from what it would be
//! filled with after a crash. Who serves keeps what it has (its connections, and other sockets) until another worker
//! serves in its slot; who was still starting goes at once.

use crate::output::StopReason;
use crate::pool::Pool;
use crate::roll::Phase;
use crate::worker::{Role, State};
use crate::{Engine, PoolId, Slot, WorkerId};
use alloc::vec::Vec;

impl Engine {
    pub(crate) fn unreachable(&mut self, ids: &[WorkerId]) {
        // Successors first: none of them takes a slot that is given up in the same moment.
        for wanted in [Role::Successor, Role::Current] {
            for id in ids {
                let Some(worker) = self.workers.get(id) else { continue };
                if worker.place == wanted && !worker.leaves() && !self.is_step(worker.pool) {
                    self.give_up_place(*id);
                }
            }
        }
        // A successor beside one that holds no such socket is of no use to anybody.
        for id in ids {
            let Some((pool, slot)) = self.workers.get(id).map(|worker| (worker.pool, worker.slot)) else { continue };
            let seat = self.pools.get(&pool).and_then(|pool| pool.slots.get(slot.0 as usize));
            let current = seat.and_then(|seat| self.workers.get(&seat.current?));
            if current.is_some_and(|current| current.serves()) {
                self.release(pool, slot);
            }
        }
    }

    fn give_up_place(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else { return };
        let (pool_id, slot, place, generation) = (worker.pool, worker.slot, worker.place, worker.generation);
        let serves = worker.serves();
        self.renewal_lost(pool_id, slot, id);
        let Some(pool) = self.pools.get_mut(&pool_id) else { return };
        let lingers = serves && pool.policy.reload.surge > 0;
        let was_hope = pool.breaker.is_some_and(|breaker| breaker.hope == Some(id));
        if let Some(roll) = &mut pool.roll {
            let is_fresh = roll.is_fresh(id, generation);
            if place == Role::Successor {
                roll.todo.push_back(slot);
            } else if generation == roll.goal() && !roll.pending.contains(&slot) {
                // Its slot had been done: it has to be done again.
                if is_fresh || matches!(roll.phase, Phase::Back(_)) {
                    roll.pending.insert(slot);
                    roll.replaced = roll.replaced.saturating_sub(u32::from(is_fresh));
                    roll.todo.push_back(slot);
                } else {
                    roll.lost(slot);
                }
            }
        }
        if lingers {
            pool.unreachable.insert((slot, id));
            self.detach(id);
            self.change(id, |w| {
                w.asked = Some(now);
                w.state = State::Unreachable;
            });
        } else {
            self.begin_stop(id, StopReason::Unreachable);
        }
        if was_hope {
            self.seek_hope(pool_id, slot);
        }
        self.stirred.insert(pool_id);
    }

    /// Another worker serves in this slot, or none is to: who lingers there gets its stop.
    pub(crate) fn release(&mut self, id: PoolId, slot: Slot) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let lingering: Vec<WorkerId> = pool.lingering(slot).collect();
        for worker in lingering {
            self.begin_stop(worker, StopReason::Unreachable);
        }
    }
}

impl Pool {
    fn lingering(&self, slot: Slot) -> impl Iterator<Item = WorkerId> + '_ {
        self.unreachable.range((slot, WorkerId(0))..=(slot, WorkerId(u64::MAX))).map(|(_, id)| *id)
    }
}
