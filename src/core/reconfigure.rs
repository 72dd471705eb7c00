//! Requests that bring a policy: a changed configuration, and a rollback to an older generation.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::{
    Engine, Generation, NothingDone, Notice, Outcome, Policy, PoolId, PoolKind, Span, SupersededBy,
    Ticket,
};
use alloc::vec::Vec;

impl Engine {
    /// New policy, new generation: a running rolling restart is superseded.
    pub(crate) fn reconfigure(&mut self, ticket: Option<Ticket>, id: PoolId, policy: Policy) {
        if self.stopping {
            return self.reply(
                ticket,
                id,
                Outcome::Superseded {
                    by: SupersededBy::StopOfAll,
                },
            );
        }
        let Some(pool) = self.pools.get(&id) else {
            return self.ensure_pool(ticket, id, policy);
        };
        let (activity, held, removed) = (pool.activity, pool.is_held(), pool.removed);
        match activity {
            Activity::Running if held => {
                self.take_policy(id, policy);
                self.make_next_generation(ticket, id)
            }
            Activity::Running if self.is_oneshot(id) => {
                self.take_policy(id, policy);
                self.roll_oneshot(ticket, id, true);
            }
            Activity::Running => {
                let before = pool.policy.count;
                let mut tickets = self.supersede(id, SupersededBy::Change);
                self.take_policy(id, policy);
                tickets.extend(ticket);
                self.start_roll(id, tickets);
                self.note_added_slots(id, before);
            }
            Activity::AwaitingDependents | Activity::Stopping | Activity::Stopped => {
                self.take_policy(id, policy);
                let Some(pool) = self.pools.get_mut(&id) else {
                    return;
                };
                pool.next_generation();
                let generation = pool.target;
                if removed {
                    self.revive(id);
                    return self.begin_with(ticket, id, generation);
                }
                self.reply_nothing(ticket, id, NothingDone::Stopped);
            }
        }
    }

    /// Rolls back to an older, fully rolled-out generation, under its own number.
    pub(crate) fn roll_back(
        &mut self,
        ticket: Option<Ticket>,
        id: PoolId,
        to: Generation,
        policy: Policy,
    ) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return self.reply_nothing(ticket, id, NothingDone::NoPool);
        };
        let nothing = match pool.activity {
            Activity::AwaitingDependents | Activity::Stopping => {
                let by = self.stopped_by(id);
                return self.reply(ticket, id, Outcome::Superseded { by });
            }
            Activity::Stopped => Some(NothingDone::Stopped),
            Activity::Running if pool.policy.kind == PoolKind::Oneshot => {
                Some(NothingDone::Oneshot)
            }
            Activity::Running if !pool.history.has_served(to) => Some(NothingDone::Forgotten(to)),
            Activity::Running => None,
        };
        if let Some(why) = nothing {
            return self.reply_nothing(ticket, id, why);
        }
        let before = pool.policy.count;
        let done = Outcome::Done {
            generation: to,
            replaced: 0,
            took: Span::ZERO,
        };
        if pool.is_held() {
            pool.target = to;
            pool.same_source.clear();
            self.take_policy(id, policy);
            return self.begin_with(ticket, id, to);
        }
        if pool.roll.is_none() && pool.target == to && self.all_are_of(id, to) {
            self.take_policy(id, policy);
            return self.reply(ticket, id, done);
        }
        let mut tickets = self.supersede(id, SupersededBy::RollBack);
        self.take_policy(id, policy);
        tickets.extend(ticket);
        self.start_roll_to(id, tickets, to);
        self.note_added_slots(id, before);
    }

    /// Slots that the change adds start with the new generation.
    fn note_added_slots(&mut self, id: PoolId, from: u32) {
        if let Some(Pool {
            roll: Some(roll),
            policy,
            ..
        }) = self.pools.get_mut(&id)
        {
            roll.added = from..policy.count;
        }
        self.mark_all_slots(id);
    }

    fn all_are_of(&self, id: PoolId, generation: Generation) -> bool {
        let slots = self.pools.get(&id).into_iter().flat_map(|pool| &pool.slots);
        let mut workers = slots.filter_map(|slot_state| self.workers.get(&slot_state.current?));
        workers.all(|worker| worker.generation == generation)
    }

    /// Ends a running rolling restart in favour of another one, which takes over its waiting requests.
    pub(crate) fn supersede(&mut self, id: PoolId, by: SupersededBy) -> Vec<Ticket> {
        let Some(Pool { roll: Some(_), .. }) = self.pools.get(&id) else {
            return Vec::new();
        };
        self.stop_new_workers(id);
        let Some(Pool {
            roll: Some(roll),
            waiting,
            ..
        }) = self.pools.get_mut(&id)
        else {
            return Vec::new();
        };
        let mut tickets = core::mem::take(&mut roll.tickets);
        tickets.extend(waiting.take().unwrap_or_default());
        let (generation, retired_any) = (roll.generation, roll.retired_any);
        self.emit(Notice::RollSuperseded {
            pool: id,
            generation,
            by,
            retired_any,
        });
        self.end_roll(id, Outcome::Superseded { by });
        tickets
    }

    /// Takes over a policy. The number of workers changes as in a scale request; a running pool keeps its kind.
    pub(crate) fn take_policy(&mut self, id: PoolId, policy: Policy) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let kind = if pool.activity == Activity::Stopped {
            policy.kind
        } else {
            pool.policy.kind
        };
        let policy = Policy { kind, ..policy }.of_its_kind();
        let (count, before) = (policy.count, pool.policy.count);
        pool.policy = Policy {
            count: before,
            ..policy
        };
        self.start_limiter.change(); // `max_starting` may have changed
        self.resize(id, count);
    }

    /// The pool begins with this generation, once it may: the request is answered when the pool is up.
    fn begin_with(&mut self, ticket: Option<Ticket>, id: PoolId, generation: Generation) {
        let by = self.held_by(id);
        self.emit(Notice::BeginsWith {
            pool: id,
            generation,
            by,
        });
        self.await_start(id, ticket, Some(generation));
    }

    /// A new generation is requested for a pool that has not begun: it begins with that one.
    pub(crate) fn make_next_generation(&mut self, ticket: Option<Ticket>, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.next_generation();
        let generation = pool.target;
        self.begin_with(ticket, id, generation);
        self.dirty_pools.insert(id);
    }
}

impl Policy {
    /// A oneshot has one worker.
    pub(crate) fn of_its_kind(self) -> Self {
        let count = if self.kind == PoolKind::Oneshot {
            1
        } else {
            self.count
        };
        Self { count, ..self }
    }
}
