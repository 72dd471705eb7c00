//! Adopts workers that still run although the state of their master is lost: the engine is new, and nothing is known but
//! what each worker tells of itself. `engine.rs` calls it.
//!
//! A worker that serves is not stopped for what is not known of it. It fills its slot; beside another one of its slot,
//! or in a slot that is not desired, it is asked to stop like any other. Empty slots are filled with a new generation,
//! since nothing shows what the adopted workers were made from. A rolling restart replaces them; if that fails, those
//! that it has not replaced yet stay.

use crate::output::StopReason;
use crate::pool::Pool;
use crate::worker::{Role, State, Worker};
use crate::{
    AdoptedWorker, Command, Engine, Generation, Policy, PoolId, PoolKind, Slot, Ticket, WorkerId,
};
use alloc::collections::btree_map::Entry;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// A slot above this is not believed; its worker is put into another one that is not desired.
const HIGHEST_SLOT: Slot = Slot(1 << 16);
/// Nor a generation above this.
const HIGHEST_GENERATION: Generation = Generation(1 << 29);

impl Engine {
    /// The same engine, whose next worker has a number above this one.
    pub fn numbered_after(mut self, last: WorkerId) -> Self {
        self.last_worker = self.last_worker.max(last.0.min(u64::MAX / 4));
        self
    }

    /// Creates a pool that has these workers already.
    pub(crate) fn adopt_pool(
        &mut self,
        ticket: Option<Ticket>,
        id: PoolId,
        policy: Policy,
        latest: Generation,
        mut workers: Vec<AdoptedWorker>,
    ) {
        if self.left || self.stopping && workers.is_empty() {
            return self.reply_stopping(ticket, id);
        }
        for worker in &mut workers {
            worker.generation = worker.generation.clamp(Generation(1), HIGHEST_GENERATION);
        }
        let newest = workers.iter().map(|worker| worker.generation).max();
        if let Entry::Vacant(entry) = self.pools.entry(id) {
            let mut pool = Pool::new(policy.of_its_kind());
            let latest = newest.max(Some(latest.min(HIGHEST_GENERATION)));
            if let Some(latest) = latest.filter(|latest| *latest != Generation::NONE) {
                pool.latest = latest;
                pool.next_generation();
            }
            // Where workers run it has begun long ago, whatever its `after` names.
            pool.begun = !workers.is_empty();
            if !entry.insert(pool).begun {
                self.start_in_order(id);
            }
        } else {
            self.take_policy(id, policy);
            self.revive(id);
        }
        self.await_start(id, ticket, None);
        // Those that stay come first: ready, then newest.
        workers.sort_by_key(|one| Reverse((one.ready, one.generation, one.worker)));
        for worker in workers {
            self.adopt_worker(id, worker);
        }
        self.mark_all_slots(id);
        if self.stopping {
            self.stop_after_dependents(id);
        }
    }

    fn adopt_worker(&mut self, id: PoolId, adopted: AdoptedWorker) {
        let number = adopted.worker;
        if self.workers.contains_key(&number) || number.0 == 0 || number.0 > u64::MAX / 4 {
            return;
        }
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let slot = pool.slot_for(adopted.slot);
        let is_service = pool.policy.kind == PoolKind::Service;
        let ready_policy = pool.ready_policy(adopted.generation);
        let Some(slot_state) = pool.slots.get_mut(slot.0 as usize) else {
            return;
        };
        let stays = slot_state.current.is_none();
        let mut worker = Worker::new(id, slot, adopted.generation, self.now, ready_policy);
        worker.adopted = true;
        worker.awaited = stays;
        worker.counts = is_service;
        if stays {
            slot_state.current = Some(number);
        } else {
            worker.role = Role::Successor;
            slot_state.successor = Some(number);
            pool.successors += 1;
        }
        let serves = adopted.ready && is_service;
        if serves {
            worker.state = State::Ready;
            worker.ready_at = Some(self.now);
        } else {
            worker.demand = self
                .pools
                .get(&id)
                .map_or(0, |pool| self.fresh_demand(pool));
        }
        self.last_worker = self.last_worker.max(number.0);
        self.insert_worker(number, worker);
        if !stays {
            self.begin_stop(number, StopReason::Surplus);
        } else if serves {
            self.command(Command::StartHealth(number));
        } else {
            self.start_tried(id, slot, ready_policy.ready_timeout);
            self.started(number);
        }
    }
}

impl Pool {
    /// The slot of an adopted worker: its own, or one that is not desired if that cannot be.
    fn slot_for(&mut self, slot: Slot) -> Slot {
        let own = self.slots.get(slot.0 as usize);
        let slot = if slot > HIGHEST_SLOT || own.is_some_and(|own| own.successor.is_some()) {
            let unwanted = self
                .slots
                .iter()
                .enumerate()
                .skip(self.policy.count as usize);
            let mut free = unwanted.filter(|(_, of)| of.current.is_none());
            let index = free.next().map_or(self.slots.len(), |(index, _)| index);
            Slot(index as u32)
        } else {
            slot
        };
        let least = slot.0 as usize + 1;
        if self.slots.len() < least {
            self.slots.resize_with(least, Default::default);
        }
        slot
    }
}
