//! A listening socket was replaced by a new one, so no new connections reach the workers that hold the old one. That
//! is no worker's fault: nothing counts as a failure, no rolling restart fails, and each slot is filled immediately as
//! after a crash. A worker that serves keeps its connections and other sockets until another worker serves in its
//! slot; a worker that was still starting is stopped immediately.

use crate::output::StopReason;
use crate::pool::Pool;
use crate::roll::Phase;
use crate::worker::{Role, State};
use crate::{Engine, PoolId, Slot, WorkerId};
use alloc::vec::Vec;

impl Engine {
    pub(crate) fn unreachable(&mut self, ids: &[WorkerId]) {
        // Successors first, so that none of them takes a slot that is given up while this input is handled.
        for wanted in [Role::Successor, Role::Current] {
            for id in ids {
                let Some(worker) = self.workers.get(id) else {
                    continue;
                };
                if worker.role == wanted && !worker.is_leaving() && !self.is_oneshot(worker.pool) {
                    self.detach_unreachable(*id);
                }
            }
        }
        // A successor beside a current worker that does not hold the socket is not needed.
        for id in ids {
            let Some((pool, slot)) = self
                .workers
                .get(id)
                .map(|worker| (worker.pool, worker.slot))
            else {
                continue;
            };
            let slot_state = self
                .pools
                .get(&pool)
                .and_then(|pool| pool.slots.get(slot.0 as usize));
            let current = slot_state.and_then(|slot_state| self.workers.get(&slot_state.current?));
            if current.is_some_and(|current| current.is_serving()) {
                self.stop_unreachable(pool, slot);
            }
        }
    }

    fn detach_unreachable(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (pool_id, slot, role, generation) =
            (worker.pool, worker.slot, worker.role, worker.generation);
        let serves = worker.is_serving();
        self.replacement_lost(pool_id, slot, id);
        let Some(pool) = self.pools.get_mut(&pool_id) else {
            return;
        };
        let lingers = serves && pool.policy.reload.surge > 0;
        let was_candidate = pool
            .breaker
            .is_some_and(|breaker| breaker.candidate == Some(id));
        if let Some(roll) = &mut pool.roll {
            let is_fresh = roll.is_fresh(id, generation);
            if role == Role::Successor {
                roll.todo.push_back(slot);
            } else if generation == roll.goal() && !roll.pending.contains(&slot) {
                // The slot was done: it must be done again.
                if is_fresh || matches!(roll.phase, Phase::RollingBack(_)) {
                    roll.pending.insert(slot);
                    roll.replaced = roll.replaced.saturating_sub(u32::from(is_fresh));
                    roll.todo.push_back(slot);
                } else {
                    roll.add_slot(slot);
                }
            }
        }
        if lingers {
            pool.unreachable.insert((slot, id));
            self.detach(id);
            self.update_worker(id, |w| {
                w.stop_began = Some(now);
                w.state = State::Unreachable;
            });
        } else {
            self.begin_stop(id, StopReason::Unreachable);
        }
        if was_candidate {
            self.next_candidate(pool_id, slot);
        }
        self.dirty_pools.insert(pool_id);
    }

    /// Another worker serves in this slot, or the slot is not wanted: its unreachable workers are asked to stop.
    pub(crate) fn stop_unreachable(&mut self, id: PoolId, slot: Slot) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let unreachable: Vec<WorkerId> = pool.unreachable_in(slot).collect();
        for worker in unreachable {
            self.begin_stop(worker, StopReason::Unreachable);
        }
    }
}

impl Pool {
    fn unreachable_in(&self, slot: Slot) -> impl Iterator<Item = WorkerId> + '_ {
        self.unreachable
            .range((slot, WorkerId(0))..=(slot, WorkerId(u64::MAX)))
            .map(|(_, id)| *id)
    }
}
