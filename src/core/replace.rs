//! One worker replaced by a fresh one, made from what an empty slot is filled with: the successor is ready before the
//! old one gets its stop. One at a time in each pool; the others queue.

use crate::output::StopReason;
use crate::pool::{Activity, Pool};
use crate::worker::Role;
use crate::{
    Command, Engine, Failure, NothingDone, Notice, Outcome, PoolId, PoolKind, Slot, Span, SupersededBy, Ticket, Time,
    WorkerId,
};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    slot: Slot,
    old: WorkerId,
    tickets: Vec<Ticket>,
    began: Option<Time>,
    fresh: Option<WorkerId>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Renewals {
    running: Option<Renewal>,
    /// At most one for each slot.
    queue: VecDeque<Renewal>,
}

impl Engine {
    pub(crate) fn want_renewal(&mut self, ticket: Ticket, id: PoolId, slot: Slot) {
        let Some(pool) = self.pools.get_mut(&id) else { return self.reply_nothing(ticket, id, NothingDone::NoPool) };
        match pool.activity {
            Activity::Running => {}
            Activity::Outlasting | Activity::Stopping => {
                let by = self.stopped_by(id);
                return self.out.push(Command::Reply(ticket, id, Outcome::Superseded { by }));
            }
            Activity::Stopped => return self.reply_nothing(ticket, id, NothingDone::Stopped),
        }
        let wanted = pool.policy.kind == PoolKind::Service && slot.0 < pool.policy.count;
        if let Some(roll) = pool.roll.as_mut().filter(|_| wanted) {
            return roll.tickets.push(ticket);
        }
        let current = pool.slots.get(slot.0 as usize).and_then(|seat| seat.current);
        let serves = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| worker.serves());
        let Some(old) = current.filter(serves).filter(|_| wanted) else {
            return self.reply_nothing(ticket, id, NothingDone::Empty(slot));
        };
        let Renewals { running, queue } = &mut pool.renewals;
        match running.iter_mut().chain(queue).find(|renewal| renewal.slot == slot) {
            Some(renewal) => renewal.tickets.push(ticket),
            None => {
                let tickets = vec![ticket];
                pool.renewals.queue.push_back(Renewal { slot, old, tickets, began: None, fresh: None });
            }
        }
        self.stirred.insert(id);
    }

    pub(crate) fn advance_renewals(&mut self, id: PoolId) {
        loop {
            let Some(pool) = self.pools.get_mut(&id) else { return };
            if pool.renewals.running.is_none() {
                pool.renewals.running = pool.renewals.queue.pop_front();
            }
            let Some(renewal) = &pool.renewals.running else { return };
            let (slot, old, fresh) = (renewal.slot, renewal.old, renewal.fresh);
            let current = pool.slots.get(slot.0 as usize).and_then(|seat| seat.current);
            if renewal.began.is_some() {
                if fresh.is_some() && current == Some(old) {
                    self.settle_slot(id, slot); // there may be room for the old one among the draining by now
                }
                return;
            }
            if current == Some(old) {
                return self.begin_renewal(id, slot, old);
            }
            // It has been replaced, or is about to be: by a death.
            self.end_renewal(id, &Outcome::NothingDone(NothingDone::Gone(slot)));
        }
    }

    fn begin_renewal(&mut self, id: PoolId, slot: Slot, old: WorkerId) {
        let now = self.now;
        let serves = self.workers.get(&old).is_some_and(|worker| worker.serves());
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let in_place = pool.policy.reload.surge == 0;
        // In a crash loop one is tried at a time, and that is the probe.
        let waits = if pool.breaker.is_some() {
            true
        } else if in_place {
            pool.parting > 0 || serves && !pool.can_spare_one()
        } else {
            pool.in_flight >= pool.policy.reload.surge || !pool.has_room()
        };
        let generation = pool.wanted;
        if waits || !self.may_succeed(id) {
            return;
        }
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if let Some(renewal) = &mut pool.renewals.running {
            renewal.began = Some(now);
        }
        if in_place {
            self.begin_stop(old, StopReason::MakesRoomForFresh); // the slot fills itself once it is gone
        } else {
            self.spawn(id, slot, generation, Role::Successor);
        }
    }

    /// A worker was ordered for a slot: if a renewal emptied it, or asked for a successor, this is the fresh one.
    pub(crate) fn renewal_spawned(&mut self, id: PoolId, slot: Slot, worker: WorkerId) {
        if let Some(Pool { renewals: Renewals { running: Some(renewal), .. }, .. }) = self.pools.get_mut(&id)
            && renewal.slot == slot
            && renewal.began.is_some()
        {
            renewal.fresh.get_or_insert(worker);
        }
    }

    fn is_fresh(&self, id: PoolId, worker: WorkerId) -> Option<Span> {
        let renewal = self.pools.get(&id)?.renewals.running.as_ref()?;
        (renewal.fresh == Some(worker)).then_some(self.now - renewal.began?)
    }

    /// A slot has a serving worker: the renewal is done, if it is the one.
    pub(crate) fn renewed(&mut self, id: PoolId, slot: Slot, worker: WorkerId) {
        let Some(took) = self.is_fresh(id, worker) else { return };
        let Some(generation) = self.workers.get(&worker).map(|worker| worker.generation) else { return };
        self.record(Notice::Renewed { pool: id, slot, worker, took });
        self.end_renewal(id, &Outcome::Done { generation, replaced: 1, took });
    }

    /// The fresh one has died: the renewal ends; whoever serves goes on. Whether it was one.
    pub(crate) fn renewal_failed(&mut self, id: PoolId, worker: WorkerId, failure: &Failure) -> bool {
        let running = self.pools.get(&id).and_then(|pool| pool.renewals.running.as_ref());
        let Some((slot, old)) = running.filter(|_| self.is_fresh(id, worker).is_some()).map(|of| (of.slot, of.old))
        else {
            return false;
        };
        let old_serves = self.workers.get(&old).is_some_and(|worker| worker.serves());
        self.end_renewal(id, &Outcome::NotRenewed { slot, failure: failure.clone(), old_serves });
        true
    }

    /// The listening socket of the old or of the fresh worker was replaced: the next one in its place is the fresh one.
    pub(crate) fn renewal_lost(&mut self, id: PoolId, slot: Slot, worker: WorkerId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let current = pool.slots.get(slot.0 as usize).and_then(|seat| seat.current);
        let Some(renewal) = pool.renewals.running.as_mut().filter(|renewal| renewal.slot == slot) else { return };
        if renewal.fresh == Some(worker) {
            renewal.fresh = None;
            if current == Some(renewal.old) {
                renewal.began = None;
            }
        } else if renewal.old == worker {
            renewal.began.get_or_insert(now);
        }
    }

    fn end_renewal(&mut self, id: PoolId, outcome: &Outcome) {
        let running = self.pools.get_mut(&id).and_then(|pool| pool.renewals.running.take());
        for ticket in running.into_iter().flat_map(|renewal| renewal.tickets) {
            self.out.push(Command::Reply(ticket, id, outcome.clone()));
        }
        self.stirred.insert(id);
    }

    /// A rolling restart replaces everybody anyway: who waits for a renewal waits for that.
    pub(crate) fn join_renewals(&mut self, id: PoolId) -> Vec<Ticket> {
        let Some(pool) = self.pools.get_mut(&id) else { return Vec::new() };
        let Renewals { running, queue } = core::mem::take(&mut pool.renewals);
        let fresh = running.as_ref().and_then(|renewal| renewal.fresh);
        if let Some(fresh) = fresh.filter(|id| self.workers.get(id).is_some_and(|w| w.place == Role::Successor)) {
            self.begin_stop(fresh, StopReason::Abandoned);
        }
        running.into_iter().chain(queue).flat_map(|renewal| renewal.tickets).collect()
    }

    /// The pool stops, or has fewer slots: renewals of slots from this one on are superseded.
    pub(crate) fn drop_renewals(&mut self, id: PoolId, from: u32, by: SupersededBy) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let Renewals { running, queue } = core::mem::take(&mut pool.renewals);
        let (gone, kept): (Vec<Renewal>, Vec<Renewal>) = queue.into_iter().partition(|renewal| renewal.slot.0 >= from);
        let (lost, running) = match running {
            Some(renewal) if renewal.slot.0 >= from => (Some(renewal), None),
            running => (None, running),
        };
        pool.renewals = Renewals { running, queue: kept.into() };
        for ticket in lost.into_iter().chain(gone).flat_map(|renewal| renewal.tickets) {
            self.out.push(Command::Reply(ticket, id, Outcome::Superseded { by }));
        }
        self.stirred.insert(id);
    }
}
