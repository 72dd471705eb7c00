//! Requests: what an operator, a signal or a changed configuration asks for. Called by `engine.rs`. The tables in
//! `pool.rs` and `roll.rs` say what each one does in each state.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::roll::Phase;
use crate::timers::Key;
use crate::{
    Cause, Engine, Failure, NothingDone, Outcome, Policy, PoolId, PoolKind, Slot, SupersededBy,
    Ticket,
};
use alloc::collections::btree_map::Entry;

impl Engine {
    pub(crate) fn ensure_pool(&mut self, ticket: Option<Ticket>, id: PoolId, policy: Policy) {
        if self.stopping {
            return self.reply_stopping(ticket, id);
        }
        if let Entry::Vacant(entry) = self.pools.entry(id) {
            entry.insert(Pool::new(policy.of_its_kind()));
            self.start_in_order(id);
            self.mark_all_slots(id);
        } else {
            self.take_policy(id, policy);
            self.revive(id);
        }
        self.await_start(id, ticket, None);
    }

    /// A pool that was stopped or marked for removal should run again.
    pub(crate) fn revive(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.removed = false;
        self.supersede_stops(id);
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if pool.activity != Activity::Running {
            pool.activity = Activity::Running;
            pool.full = false;
            self.start_in_order(id);
        }
        self.mark_all_slots(id);
    }

    /// An operator starts the pool: slots that had stayed empty are filled again.
    pub(crate) fn start(&mut self, ticket: Option<Ticket>, id: PoolId) {
        if self.stopping {
            return self.reply_stopping(ticket, id);
        }
        // A oneshot that has run is not repeated by a start, only by a rolling restart.
        if let Some(pool) = self
            .pools
            .get_mut(&id)
            .filter(|pool| pool.policy.kind == PoolKind::Service)
        {
            pool.reset_ended_slots();
        }
        self.revive(id);
        self.await_start(id, ticket, None);
    }

    /// Stops the pool's workers and ends its requests.
    pub(crate) fn stop_pool(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if matches!(
            pool.activity,
            Activity::Running | Activity::AwaitingDependents
        ) {
            pool.activity = Activity::Stopping;
        }
        self.held.remove(&id);
        self.end_requests(id);
        self.mark_held_pools();
    }

    /// Stops the pool, and forgets it once it has stopped.
    pub(crate) fn remove(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.removed = true;
        }
        self.stop_pool(id);
    }

    pub(crate) fn end_requests(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let waiting = pool.waiting.take().unwrap_or_default();
        pool.reset_all_slots();
        self.forget_crash_loop(id);
        let by = self.stopped_by(id);
        self.end_roll(id, Outcome::Superseded { by });
        self.drop_replacements(id, 0, by);
        for ticket in waiting {
            self.reply(Some(ticket), id, Outcome::Superseded { by });
        }
        self.supersede_starts(id, by);
        self.mark_all_slots(id);
    }

    /// What supersedes the requests of a pool that stops.
    pub(crate) fn stopped_by(&self, id: PoolId) -> SupersededBy {
        match self.pools.get(&id) {
            _ if self.stopping => SupersededBy::StopOfAll,
            Some(pool) if pool.removed => SupersededBy::Removal,
            _ => SupersededBy::Stop,
        }
    }

    /// One rolling restart runs and at most one waits. Until the running one has stopped an old worker, a new request
    /// supersedes it.
    pub(crate) fn request_roll(&mut self, ticket: Option<Ticket>, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return self.reply_nothing(ticket, id, NothingDone::NoPool);
        };
        match pool.activity {
            Activity::Running if pool.is_held() => return self.make_next_generation(ticket, id),
            Activity::Running => {}
            Activity::AwaitingDependents | Activity::Stopping => {
                let by = self.stopped_by(id);
                return self.reply(ticket, id, Outcome::Superseded { by });
            }
            Activity::Stopped => return self.reply_nothing(ticket, id, NothingDone::Stopped),
        }
        if self.is_oneshot(id) {
            return self.roll_oneshot(ticket, id, false);
        }
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get(&id)
        else {
            return self.start_roll(id, ticket.into_iter().collect());
        };
        if roll.retired_any || matches!(roll.phase, Phase::RollingBack(_)) {
            return self.wait_for_roll(ticket, id);
        }
        let mut tickets = self.supersede(id, SupersededBy::Roll);
        tickets.extend(ticket);
        self.start_roll(id, tickets);
    }

    /// Cancels a running rolling restart; the reply comes once every slot that can is back.
    pub(crate) fn cancel(&mut self, ticket: Option<Ticket>, id: PoolId) {
        let nothing = match self.pools.get_mut(&id) {
            None => NothingDone::NoPool,
            Some(Pool {
                activity: Activity::Stopped,
                ..
            }) => NothingDone::Stopped,
            Some(Pool { roll: None, .. }) => NothingDone::NoRoll,
            Some(Pool {
                roll: Some(roll),
                waiting,
                ..
            }) => match &roll.phase {
                Phase::RollingBack(failure) if failure.cause == Cause::Cancelled => {
                    return roll.cancellers.extend(ticket);
                }
                Phase::RollingBack(_) => NothingDone::AlreadyRollingBack(roll.base),
                Phase::Canary | Phase::Wave => {
                    roll.cancellers.extend(ticket);
                    for ticket in waiting.take().unwrap_or_default() {
                        let superseded = Outcome::Superseded {
                            by: SupersededBy::Cancel,
                        };
                        self.reply(Some(ticket), id, superseded);
                    }
                    return self.fail_roll(
                        id,
                        Failure {
                            worker: None,
                            cause: Cause::Cancelled,
                            mixed: false,
                        },
                    );
                }
            },
        };
        self.reply_nothing(ticket, id, nothing);
    }

    pub(crate) fn reply_nothing(&mut self, ticket: Option<Ticket>, id: PoolId, why: NothingDone) {
        self.reply(ticket, id, Outcome::NothingDone(why));
    }

    /// Changes the number of workers; the workers that remain are left alone.
    pub(crate) fn scale(&mut self, ticket: Option<Ticket>, id: PoolId, to: u32) {
        let Some(pool) = self.pools.get(&id) else {
            return self.reply_nothing(ticket, id, NothingDone::NoPool);
        };
        if self.is_oneshot(id) {
            return self.reply_nothing(ticket, id, NothingDone::Oneshot);
        }
        let from = pool.policy.count;
        self.resize(id, to);
        self.reply(ticket, id, Outcome::Scaled { from, to });
    }

    pub(crate) fn resize(&mut self, id: PoolId, count: u32) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let before = pool.policy.count;
        if count == before {
            return;
        }
        let slots = pool.slots.len() as u32;
        pool.resize(count);
        // A slot that is gone now is not reconciled any more.
        for slot in (pool.slots.len() as u32..slots).map(Slot) {
            self.deadlines.set(Key::Slot(id, slot), None);
        }
        if let Some(roll) = &mut pool.roll
            && !matches!(roll.phase, Phase::RollingBack(_))
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
        self.drop_replacements(id, count, SupersededBy::Scale);
        self.mark_all_slots(id);
    }
}
