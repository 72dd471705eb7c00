//! Replaces one worker by a new one of the same generation (recycling, or by request): the successor is ready before
//! the old worker is asked to stop. One replacement runs at a time in each pool; others queue.

use crate::activity::Activity;
use crate::output::StopReason;
use crate::slot_queue::SlotQueue;
use crate::worker::Role;
use crate::{
    Engine, Failure, NothingDone, Notice, Outcome, PoolId, PoolKind, Slot, Span, SupersededBy,
    Ticket, Time, WorkerId,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Replacement {
    slot: Slot,
    old: WorkerId,
    tickets: Vec<Ticket>,
    began: Option<Time>,
    fresh: Option<WorkerId>,
}

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Replacements {
    running: Option<Replacement>,
    queue: Queue,
}

/// Those that wait, at most one for each slot.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "Vec<Replacement>", into = "Vec<Replacement>")
)]
struct Queue {
    order: SlotQueue,
    of: BTreeMap<Slot, Replacement>,
}

impl Queue {
    fn push(&mut self, replacement: Replacement) {
        self.order.push(replacement.slot);
        self.of.insert(replacement.slot, replacement);
    }

    fn pop(&mut self) -> Option<Replacement> {
        self.of.remove(&self.order.pop()?)
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut Replacement> {
        self.of.get_mut(&slot)
    }
}

impl Iterator for Queue {
    type Item = Replacement;

    fn next(&mut self) -> Option<Replacement> {
        self.pop()
    }
}

impl From<Vec<Replacement>> for Queue {
    fn from(replacements: Vec<Replacement>) -> Self {
        let mut queue = Self::default();
        for replacement in replacements {
            queue.push(replacement);
        }
        queue
    }
}

impl From<Queue> for Vec<Replacement> {
    fn from(queue: Queue) -> Self {
        queue.collect()
    }
}

#[cfg(feature = "serde")]
impl Replacements {
    fn all(&self) -> impl Iterator<Item = &Replacement> {
        self.running.iter().chain(self.queue.of.values())
    }

    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.all().flat_map(|one| one.tickets.iter().copied())
    }

    /// The workers that are replaced, and those that replace them.
    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.all()
            .flat_map(|one| one.fresh.into_iter().chain([one.old]))
    }
}

impl Engine {
    pub(crate) fn request_replacement(&mut self, ticket: Option<Ticket>, id: PoolId, slot: Slot) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return self.reply_nothing(ticket, id, NothingDone::NoPool);
        };
        match pool.activity {
            Activity::Running => {}
            Activity::AwaitingDependents | Activity::Stopping => {
                let by = self.stopped_by(id);
                return self.reply(ticket, id, Outcome::Superseded { by });
            }
            Activity::Stopped => return self.reply_nothing(ticket, id, NothingDone::Stopped),
        }
        let wanted = pool.policy.kind == PoolKind::Service && slot.0 < pool.policy.count;
        if let Some(roll) = pool.roll.as_mut().filter(|_| wanted) {
            return roll.tickets.extend(ticket);
        }
        let current = pool
            .slots
            .get(slot.0 as usize)
            .and_then(|slot_state| slot_state.current);
        let serves = |id: &WorkerId| {
            self.workers
                .get(id)
                .is_some_and(|worker| worker.is_serving())
        };
        let Some(old) = current.filter(serves).filter(|_| wanted) else {
            return self.reply_nothing(ticket, id, NothingDone::Empty(slot));
        };
        let Replacements { running, queue } = &mut pool.replacements;
        let running = running
            .as_mut()
            .filter(|replacement| replacement.slot == slot);
        match running.or_else(|| queue.get_mut(slot)) {
            Some(replacement) => replacement.tickets.extend(ticket),
            None => {
                let tickets = ticket.into_iter().collect();
                pool.replacements.queue.push(Replacement {
                    slot,
                    old,
                    tickets,
                    began: None,
                    fresh: None,
                });
            }
        }
        self.dirty_pools.insert(id);
    }

    pub(crate) fn advance_replacements(&mut self, id: PoolId) {
        loop {
            let Some(pool) = self.pools.get_mut(&id) else {
                return;
            };
            if pool.replacements.running.is_none() {
                pool.replacements.running = pool.replacements.queue.pop();
            }
            let Some(replacement) = &pool.replacements.running else {
                return;
            };
            let (slot, old, fresh) = (replacement.slot, replacement.old, replacement.fresh);
            let current = pool
                .slots
                .get(slot.0 as usize)
                .and_then(|slot_state| slot_state.current);
            if replacement.began.is_some() {
                if fresh.is_some() && current == Some(old) {
                    self.reconcile_slot(id, slot); // `max_draining` may allow the stop of the old worker by now
                }
                return;
            }
            if current == Some(old) {
                return self.begin_replacement(id, slot, old);
            }
            // The worker has died, and was replaced or is about to be.
            self.end_replacement(id, &Outcome::NothingDone(NothingDone::Gone(slot)));
        }
    }

    fn begin_replacement(&mut self, id: PoolId, slot: Slot, old: WorkerId) {
        let now = self.now;
        let serves = self
            .workers
            .get(&old)
            .is_some_and(|worker| worker.is_serving());
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let in_place = pool.policy.reload.surge == 0;
        // In a crash loop only the breaker's slot tries.
        let waits = if pool.breaker.is_some() {
            true
        } else if in_place {
            pool.stopping_workers > 0 || serves && !pool.can_spare_one()
        } else {
            pool.successors >= pool.policy.reload.surge || !pool.has_room()
        };
        let generation = pool.target;
        if waits || !self.may_start_successor(id) {
            return;
        }
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if let Some(replacement) = &mut pool.replacements.running {
            replacement.began = Some(now);
        }
        if in_place {
            self.begin_stop(old, StopReason::MakesRoomForFresh); // the slot is filled once it is gone
        } else {
            self.spawn(id, slot, generation, Role::Successor);
        }
    }

    /// A worker was spawned for a slot: if a replacement emptied the slot or asked for a successor, this is its new
    /// worker.
    pub(crate) fn replacement_spawned(&mut self, id: PoolId, slot: Slot, worker: WorkerId) {
        if let Some(pool) = self.pools.get_mut(&id)
            && let Some(replacement) = &mut pool.replacements.running
            && replacement.slot == slot
            && replacement.began.is_some()
        {
            replacement.fresh.get_or_insert(worker);
        }
    }

    fn is_fresh(&self, id: PoolId, worker: WorkerId) -> Option<Span> {
        let replacement = self.pools.get(&id)?.replacements.running.as_ref()?;
        (replacement.fresh == Some(worker)).then_some(self.now - replacement.began?)
    }

    /// A slot has a serving worker: the replacement is done if that is its new worker.
    pub(crate) fn replacement_done(&mut self, id: PoolId, slot: Slot, worker: WorkerId) {
        let Some(took) = self.is_fresh(id, worker) else {
            return;
        };
        let Some(generation) = self.workers.get(&worker).map(|worker| worker.generation) else {
            return;
        };
        self.emit(Notice::WorkerReplaced {
            pool: id,
            slot,
            worker,
            took,
        });
        self.end_replacement(
            id,
            &Outcome::Done {
                generation,
                replaced: 1,
                took,
            },
        );
    }

    /// The new worker has died: the replacement ends, and the worker that serves continues. Returns whether it was
    /// one.
    pub(crate) fn replacement_failed(
        &mut self,
        id: PoolId,
        worker: WorkerId,
        failure: &Failure,
    ) -> bool {
        let running = self
            .pools
            .get(&id)
            .and_then(|pool| pool.replacements.running.as_ref());
        let Some((slot, old)) = running
            .filter(|_| self.is_fresh(id, worker).is_some())
            .map(|of| (of.slot, of.old))
        else {
            return false;
        };
        let old_serves = self
            .workers
            .get(&old)
            .is_some_and(|worker| worker.is_serving());
        self.end_replacement(
            id,
            &Outcome::ReplaceFailed {
                slot,
                failure: failure.clone(),
                old_serves,
            },
        );
        true
    }

    /// The listening socket of the old or of the new worker was replaced: the next worker of the slot is the new one.
    pub(crate) fn replacement_lost(&mut self, id: PoolId, slot: Slot, worker: WorkerId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let current = pool
            .slots
            .get(slot.0 as usize)
            .and_then(|slot_state| slot_state.current);
        let Some(replacement) = pool
            .replacements
            .running
            .as_mut()
            .filter(|replacement| replacement.slot == slot)
        else {
            return;
        };
        if replacement.fresh == Some(worker) {
            replacement.fresh = None;
            if current == Some(replacement.old) {
                replacement.began = None;
            }
        } else if replacement.old == worker {
            replacement.began.get_or_insert(now);
        }
    }

    fn end_replacement(&mut self, id: PoolId, outcome: &Outcome) {
        let running = self
            .pools
            .get_mut(&id)
            .and_then(|pool| pool.replacements.running.take());
        for ticket in running
            .into_iter()
            .flat_map(|replacement| replacement.tickets)
        {
            self.reply(Some(ticket), id, outcome.clone());
        }
        self.dirty_pools.insert(id);
    }

    /// A rolling restart replaces every worker: requests for a replacement join it.
    pub(crate) fn join_replacements(&mut self, id: PoolId) -> Vec<Ticket> {
        let Some(pool) = self.pools.get_mut(&id) else {
            return Vec::new();
        };
        let Replacements { running, queue } = core::mem::take(&mut pool.replacements);
        let fresh = running.as_ref().and_then(|replacement| replacement.fresh);
        self.abandon_successor(fresh);
        running
            .into_iter()
            .chain(queue)
            .flat_map(|replacement| replacement.tickets)
            .collect()
    }

    /// Ends all replacements; each worker that has not been asked to stop yet stays.
    pub(crate) fn abandon_replacements(&mut self, id: PoolId, failure: &Failure) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let Replacements { running, queue } = core::mem::take(&mut pool.replacements);
        let fresh = running.as_ref().and_then(|replacement| replacement.fresh);
        self.abandon_successor(fresh);
        for Replacement { slot, tickets, .. } in running.into_iter().chain(queue) {
            let current = self
                .pools
                .get(&id)
                .and_then(|pool| pool.slots.get(slot.0 as usize)?.current);
            let old_serves = current
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|worker| worker.is_serving());
            for ticket in tickets {
                let outcome = Outcome::ReplaceFailed {
                    slot,
                    failure: failure.clone(),
                    old_serves,
                };
                self.reply(Some(ticket), id, outcome);
            }
        }
        self.mark_all_slots(id);
    }

    /// A successor that nothing needs any more.
    fn abandon_successor(&mut self, fresh: Option<WorkerId>) {
        let is_successor = |id: &WorkerId| {
            let worker = self.workers.get(id);
            worker.is_some_and(|worker| worker.role == Role::Successor)
        };
        if let Some(fresh) = fresh.filter(is_successor) {
            self.begin_stop(fresh, StopReason::Abandoned);
        }
    }

    /// The pool stops or shrinks: replacements of slots from `from` on are superseded.
    pub(crate) fn drop_replacements(&mut self, id: PoolId, from: u32, by: SupersededBy) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let Replacements { running, queue } = core::mem::take(&mut pool.replacements);
        let (gone, kept): (Vec<Replacement>, Vec<Replacement>) =
            queue.partition(|replacement| replacement.slot.0 >= from);
        let (lost, running) = match running {
            Some(replacement) if replacement.slot.0 >= from => (Some(replacement), None),
            running => (None, running),
        };
        pool.replacements = Replacements {
            running,
            queue: kept.into(),
        };
        for ticket in lost
            .into_iter()
            .chain(gone)
            .flat_map(|replacement| replacement.tickets)
        {
            self.reply(Some(ticket), id, Outcome::Superseded { by });
        }
        self.dirty_pools.insert(id);
    }
}
