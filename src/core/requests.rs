//! Requests: what an operator, a signal or a changed configuration asks for. Called by `engine.rs`. The tables in
//! `pool.rs` and `roll.rs` say what each one does in each state.

use crate::pool::{Activity, Pool};
use crate::roll::Phase;
use crate::{
    Cause, Command, Engine, Failure, NothingDone, Outcome, Policy, PoolId, PoolKind, Slot,
    SupersededBy, Ticket,
};
use alloc::collections::btree_map::Entry;
use alloc::vec;

impl Engine {
    pub(crate) fn ensure_pool(&mut self, id: PoolId, policy: Policy) {
        if self.stopping {
            return;
        }
        if let Entry::Vacant(entry) = self.pools.entry(id) {
            entry.insert(Pool::new(policy.of_its_kind()));
            self.start_in_order(id);
            return self.mark_all_slots(id);
        }
        self.adopt(id, policy);
        self.revive(id);
    }

    /// A pool that was stopped or marked for removal should run again.
    pub(crate) fn revive(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.removed = false;
        if pool.activity != Activity::Running {
            pool.activity = Activity::Running;
            pool.full = false;
            self.start_in_order(id);
        }
        self.mark_all_slots(id);
    }

    /// An operator starts the pool: slots that had stayed empty are filled again.
    pub(crate) fn start(&mut self, id: PoolId) {
        if self.stopping {
            return;
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
            self.command(Command::Reply(ticket, id, Outcome::Superseded { by }));
        }
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
    pub(crate) fn request_roll(&mut self, ticket: Ticket, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return self.reply_nothing(ticket, id, NothingDone::NoPool);
        };
        match pool.activity {
            Activity::Running if pool.is_held() => return self.make_next_generation(ticket, id),
            Activity::Running => {}
            Activity::AwaitingDependents | Activity::Stopping => {
                let by = self.stopped_by(id);
                return self.command(Command::Reply(ticket, id, Outcome::Superseded { by }));
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
            return self.start_roll(id, vec![ticket]);
        };
        if roll.retired_any || matches!(roll.phase, Phase::RollingBack(_)) {
            return self.wait_for_roll(ticket, id);
        }
        let mut tickets = self.supersede(id, SupersededBy::Roll);
        tickets.push(ticket);
        self.start_roll(id, tickets);
    }

    /// Cancels a running rolling restart; the reply comes once every slot that can is back.
    pub(crate) fn cancel(&mut self, ticket: Ticket, id: PoolId) {
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
                    return roll.cancellers.push(ticket);
                }
                Phase::RollingBack(_) => NothingDone::AlreadyRollingBack(roll.base),
                Phase::Canary | Phase::Wave => {
                    roll.cancellers.push(ticket);
                    for ticket in waiting.take().unwrap_or_default() {
                        let superseded = Outcome::Superseded {
                            by: SupersededBy::Cancel,
                        };
                        self.command(Command::Reply(ticket, id, superseded));
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

    pub(crate) fn reply_nothing(&mut self, ticket: Ticket, id: PoolId, why: NothingDone) {
        self.command(Command::Reply(ticket, id, Outcome::NothingDone(why)));
    }

    /// Changes the number of workers; the workers that remain are left alone.
    pub(crate) fn scale(&mut self, id: PoolId, count: u32) {
        if !self.is_oneshot(id) {
            self.resize(id, count);
        }
    }

    pub(crate) fn resize(&mut self, id: PoolId, count: u32) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let before = pool.policy.count;
        if count == before {
            return;
        }
        pool.resize(count);
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
