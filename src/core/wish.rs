//! Wishes: what a person, a signal or a changed configuration asks for.

use crate::pool::{Activity, Pool};
use crate::roll::Phase;
use crate::{Cause, Failure, Generation, Master, Order, Outcome, Policy, PoolId, Record, Slot, Ticket};
use alloc::vec;
use alloc::vec::Vec;

impl Master {
    pub(crate) fn keep(&mut self, id: PoolId, policy: Policy) {
        if self.stopping {
            return;
        }
        match self.pools.get_mut(&id) {
            None => {
                self.pools.insert(id, Pool::new(policy));
            }
            Some(pool) => {
                let count = policy.count;
                pool.removed = false;
                pool.policy = Policy { count: pool.policy.count, ..policy };
                if pool.activity != Activity::Running {
                    pool.activity = Activity::Running;
                    pool.full = false;
                }
                self.scale(id, count);
            }
        }
        self.touch_all(id);
    }

    /// The pool's workers stop; its wishes end.
    pub(crate) fn drop_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        if pool.activity == Activity::Running {
            pool.activity = Activity::Stopping;
        }
        let waiting = pool.waiting.take().unwrap_or_default();
        pool.forgive_all();
        self.forget_crash_loop(id);
        self.end_roll(id, Outcome::Superseded);
        for ticket in waiting {
            self.out.push(Order::Reply(ticket, id, Outcome::Superseded));
        }
        self.touch_all(id);
    }

    /// As drop; what has stopped is forgotten.
    pub(crate) fn remove(&mut self, id: PoolId) {
        self.drop_pool(id);
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.removed = true;
        }
    }

    /// New policy, new generation: whatever runs is superseded.
    pub(crate) fn change_pool(&mut self, ticket: Ticket, id: PoolId, policy: Policy) {
        if self.stopping {
            return self.out.push(Order::Reply(ticket, id, Outcome::Superseded));
        }
        let Some(pool) = self.pools.get_mut(&id).filter(|pool| !pool.removed) else {
            self.keep(id, policy);
            return self.out.push(Order::Reply(ticket, id, Outcome::Nothing));
        };
        let runs = pool.activity == Activity::Running;
        let mut tickets = if runs { self.supersede(id) } else { Vec::new() };
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let count = policy.count;
        pool.policy = policy;
        pool.resize(count);
        if !runs {
            pool.remake();
            return self.out.push(Order::Reply(ticket, id, Outcome::Nothing));
        }
        tickets.push(ticket);
        self.start_roll(id, tickets);
        self.touch_all(id);
    }

    /// Ends a running roll for the sake of another one, which takes over all who wait.
    fn supersede(&mut self, id: PoolId) -> Vec<Ticket> {
        let Some(Pool { roll: Some(_), .. }) = self.pools.get(&id) else { return Vec::new() };
        self.abandon_fresh(id);
        let Some(Pool { roll: Some(roll), waiting, .. }) = self.pools.get_mut(&id) else { return Vec::new() };
        let mut tickets = core::mem::take(&mut roll.tickets);
        tickets.extend(waiting.take().unwrap_or_default());
        let generation = roll.generation;
        self.record(Record::RollSuperseded { pool: id, generation });
        self.end_roll(id, Outcome::Superseded);
        tickets
    }

    /// One roll runs and at most one waits; until the running one has retired a worker, a new wish takes over.
    pub(crate) fn want_roll(&mut self, ticket: Ticket, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return self.out.push(Order::Reply(ticket, id, Outcome::Nothing));
        };
        match pool.activity {
            Activity::Running => {}
            Activity::Stopping => return self.out.push(Order::Reply(ticket, id, Outcome::Superseded)),
            Activity::Stopped => return self.out.push(Order::Reply(ticket, id, Outcome::Nothing)),
        }
        let Some(roll) = &pool.roll else { return self.start_roll(id, vec![ticket]) };
        if roll.retired_any || matches!(roll.phase, Phase::Back(_)) {
            match &mut pool.waiting {
                Some(tickets) => tickets.push(ticket),
                None => {
                    pool.waiting = Some(vec![ticket]);
                    self.record(Record::RollWaits { pool: id });
                }
            }
            return;
        }
        self.abandon_fresh(id);
        let Some(Pool { roll: Some(roll), .. }) = self.pools.get_mut(&id) else { return };
        let mut tickets: Vec<Ticket> = core::mem::take(&mut roll.tickets);
        let same_before = roll.same && roll.same_before;
        tickets.push(ticket);
        let generation: Generation = roll.generation;
        self.record(Record::RollSuperseded { pool: id, generation });
        self.end_roll(id, Outcome::Superseded);
        self.start_roll(id, tickets);
        if let Some(Pool { roll: Some(roll), .. }) = self.pools.get_mut(&id) {
            roll.same_before = same_before;
        }
    }

    pub(crate) fn cancel(&mut self, ticket: Ticket, id: PoolId) {
        let runs = match self.pools.get_mut(&id) {
            Some(Pool { roll: Some(roll), waiting, .. }) if !matches!(roll.phase, Phase::Back(_)) => {
                Some((roll.generation, waiting.take().unwrap_or_default()))
            }
            _ => None,
        };
        let Some((generation, waiting)) = runs else {
            return self.out.push(Order::Reply(ticket, id, Outcome::Nothing));
        };
        for ticket in waiting {
            self.out.push(Order::Reply(ticket, id, Outcome::Superseded));
        }
        self.fail_roll(id, Failure { worker: None, cause: Cause::Cancelled, mixed: false });
        let replaced = self.pools.get(&id).map_or(0, |pool| pool.last.replaced);
        let took = crate::Span::ZERO;
        self.out.push(Order::Reply(ticket, id, Outcome::Done { generation, replaced, took }));
    }

    /// Changes the number without touching the others.
    pub(crate) fn scale(&mut self, id: PoolId, count: u32) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let before = pool.policy.count;
        if count == before {
            return;
        }
        pool.resize(count);
        if let Some(roll) = &mut pool.roll
            && !matches!(roll.phase, Phase::Back(_))
        {
            for slot in (before..count).map(Slot) {
                roll.pending.insert(slot);
                roll.todo.push_back(slot);
            }
            roll.of = (roll.of + count).saturating_sub(before);
        }
        let probe_is_gone = pool.breaker.is_some_and(|b| b.probe.0 >= count);
        if let Some(roll) = &mut pool.roll {
            roll.pending.retain(|slot| slot.0 < count);
            if roll.emptied.is_some_and(|(slot, _)| slot.0 >= count) {
                roll.emptied = None;
            }
        }
        if probe_is_gone {
            self.end_crash_loop(id);
        }
        self.touch_all(id);
    }
}
