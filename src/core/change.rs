//! Wishes that come with a configuration: a changed one, and the way back to an older one.

use crate::pool::{Activity, Pool};
use crate::{Generation, Master, Order, Outcome, Policy, PoolId, PoolKind, Record, Span, Ticket};
use alloc::vec::Vec;

impl Master {
    /// New policy, new generation: whatever runs is superseded.
    pub(crate) fn change_pool(&mut self, ticket: Ticket, id: PoolId, policy: Policy) {
        let nothing = Order::Reply(ticket, id, Outcome::Nothing);
        if self.stopping {
            return self.out.push(Order::Reply(ticket, id, Outcome::Superseded));
        }
        let Some(pool) = self.pools.get(&id) else {
            self.keep(id, policy);
            return self.out.push(nothing);
        };
        let (activity, held, removed) = (pool.activity, pool.is_held(), pool.removed);
        match activity {
            Activity::Running if held => {
                self.adopt(id, policy);
                self.remake(ticket, id)
            }
            Activity::Running if self.is_step(id) => {
                self.adopt(id, policy);
                self.roll_step(ticket, id, true);
            }
            Activity::Running => {
                let before = pool.policy.count;
                let mut tickets = self.supersede(id);
                self.adopt(id, policy);
                tickets.push(ticket);
                self.start_roll(id, tickets);
                self.leave_added(id, before);
            }
            Activity::Outlasting | Activity::Stopping | Activity::Stopped => {
                self.adopt(id, policy);
                if let Some(pool) = self.pools.get_mut(&id) {
                    pool.remake();
                }
                if removed {
                    self.revive(id);
                }
                self.out.push(nothing);
            }
        }
    }

    /// Back to an older generation that has served in full, under its own number.
    pub(crate) fn return_to(&mut self, ticket: Ticket, id: PoolId, to: Generation, policy: Policy) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return self.out.push(Order::Reply(ticket, id, Outcome::Nothing));
        };
        let outcome = match pool.activity {
            Activity::Outlasting | Activity::Stopping => Some(Outcome::Superseded),
            Activity::Stopped => Some(Outcome::Nothing),
            Activity::Running if pool.policy.kind == PoolKind::Step || !pool.history.knows(to) => {
                Some(Outcome::Nothing)
            }
            Activity::Running => None,
        };
        if let Some(outcome) = outcome {
            return self.out.push(Order::Reply(ticket, id, outcome));
        }
        let before = pool.policy.count;
        let done = Outcome::Done { generation: to, replaced: 0, took: Span::ZERO };
        if pool.is_held() {
            pool.wanted = to;
            self.adopt(id, policy);
            return self.out.push(Order::Reply(ticket, id, done));
        }
        if pool.roll.is_none() && pool.wanted == to && self.all_of(id, to) {
            self.adopt(id, policy);
            return self.out.push(Order::Reply(ticket, id, done));
        }
        let mut tickets = self.supersede(id);
        self.adopt(id, policy);
        tickets.push(ticket);
        self.start_roll_to(id, tickets, to);
        self.leave_added(id, before);
    }

    /// Slots that the change adds have nobody of the old generation, and need none.
    fn leave_added(&mut self, id: PoolId, from: u32) {
        if let Some(Pool { roll: Some(roll), policy, .. }) = self.pools.get_mut(&id) {
            roll.added = from..policy.count;
        }
        self.touch_all(id);
    }

    fn all_of(&self, id: PoolId, generation: Generation) -> bool {
        let slots = self.pools.get(&id).into_iter().flat_map(|pool| &pool.slots);
        let mut workers = slots.filter_map(|seat| self.workers.get(&seat.current?));
        workers.all(|worker| worker.generation == generation)
    }

    /// Ends a running roll for the sake of another one, which takes over all who wait.
    pub(crate) fn supersede(&mut self, id: PoolId) -> Vec<Ticket> {
        let Some(Pool { roll: Some(_), .. }) = self.pools.get(&id) else { return Vec::new() };
        self.abandon_fresh(id);
        let Some(Pool { roll: Some(roll), waiting, .. }) = self.pools.get_mut(&id) else { return Vec::new() };
        let mut tickets = core::mem::take(&mut roll.tickets);
        tickets.extend(waiting.take().unwrap_or_default());
        let generation = roll.generation;
        let leftovers = roll.same && roll.same_before;
        self.record(Record::RollSuperseded { pool: id, generation });
        self.end_roll(id, Outcome::Superseded);
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.same_before = leftovers;
        }
        tickets
    }

    /// Takes a policy over. The number of workers changes as when a person changes it; a pool that runs stays what it
    /// is, a service or a step.
    pub(crate) fn adopt(&mut self, id: PoolId, policy: Policy) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let kind = if pool.activity == Activity::Stopped { policy.kind } else { pool.policy.kind };
        let policy = Policy { kind, ..policy }.of_its_kind();
        let (count, before) = (policy.count, pool.policy.count);
        pool.policy = Policy { count: before, ..policy };
        self.resize(id, count);
    }

    /// The wish for a new generation of a pool that has not begun: it begins with that one.
    pub(crate) fn remake(&mut self, ticket: Ticket, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.remake();
        let generation = pool.wanted;
        let done = Outcome::Done { generation, replaced: 0, took: Span::ZERO };
        self.out.push(Order::Reply(ticket, id, done));
        self.stirred.insert(id);
    }
}

impl Policy {
    /// A step has one worker.
    pub(crate) fn of_its_kind(self) -> Self {
        let count = if self.kind == PoolKind::Step { 1 } else { self.count };
        Self { count, ..self }
    }
}
