//! A oneshot pool: one worker that is never ready and whose exit code is the result. There are never two runs at the
//! same time. `reconcile.rs` starts the run, `restart.rs` reports its end.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::slot::Ended;
use crate::worker::Role;
use crate::{
    Cause, Command, Engine, Exit, Failure, Notice, Outcome, PoolId, PoolKind, Slot, Standing,
    SupersededBy, Ticket, Up, WorkerId,
};

const ONLY: Slot = Slot(0);

impl Engine {
    pub(crate) fn is_oneshot(&self, id: PoolId) -> bool {
        self.pools
            .get(&id)
            .is_some_and(|pool| pool.policy.kind == PoolKind::Oneshot)
    }

    /// Starts the desired run once nothing of the previous one is left.
    pub(crate) fn reconcile_oneshot(&mut self, id: PoolId) {
        let key = crate::timers::Key::Slot(id, ONLY);
        self.deadlines.set(key, None);
        let Some(pool) = self.pools.get(&id) else {
            return;
        };
        let Some(slot_state) = pool.slots.first() else {
            return;
        };
        if slot_state.current.is_some() || pool.present > 0 {
            return;
        }
        let generation = match &pool.roll {
            Some(roll) => roll.generation,
            None if slot_state.ended.is_some() => return,
            None => {
                if let Some(at) = slot_state.not_before.filter(|at| *at > self.now) {
                    return self.deadlines.set(key, Some(at));
                }
                pool.target
            }
        };
        self.spawn(id, ONLY, generation, Role::Current);
    }

    /// Requests another run. A run in progress is never cut short: the new run follows it, and one is enough for all
    /// requests.
    pub(crate) fn roll_oneshot(&mut self, ticket: Option<Ticket>, id: PoolId, is_change: bool) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if pool
            .slots
            .first()
            .is_some_and(|slot_state| slot_state.current.is_some())
        {
            return self.wait_for_roll(ticket, id);
        }
        if let Some(roll) = pool.roll.as_mut().filter(|_| !is_change) {
            return roll.tickets.extend(ticket);
        }
        let mut tickets = self.supersede(
            id,
            if is_change {
                SupersededBy::Change
            } else {
                SupersededBy::Roll
            },
        );
        tickets.extend(ticket);
        self.start_roll(id, tickets);
    }

    /// A rolling restart of a oneshot has begun: the result of the previous run no longer counts.
    pub(crate) fn prepare_run(&mut self, id: PoolId) {
        self.forget_crash_loop(id);
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.reset_all_slots();
        }
        self.mark_all_slots(id);
    }

    /// The run has ended.
    pub(crate) fn oneshot_ended(&mut self, id: WorkerId, cause: Cause) {
        let Some(worker) = self.workers.get(&id).cloned() else {
            return;
        };
        let pool_id = worker.pool;
        self.detach(id);
        if cause == Cause::Exited(Exit::Code(0)) {
            return self.oneshot_done(pool_id, worker.generation, self.now - worker.began);
        }
        let Some(pool) = self.pools.get(&pool_id) else {
            return;
        };
        let (rolls, never_again, exit) =
            (pool.roll.is_some(), pool.never_again(cause), cause.exit());
        if rolls {
            self.oneshot_failed(pool_id);
        }
        let (slot, began, ready_at, is_end) = (ONLY, worker.began, None, false);
        let death = crate::restart::Death {
            id,
            slot,
            began,
            ready_at,
            is_end,
            never_again,
            exit,
        };
        let retry_in = if rolls {
            None
        } else {
            self.count_death(pool_id, &death)
        };
        let given_up = self
            .pools
            .get(&pool_id)
            .is_some_and(|pool| pool.slots[0].ended.is_some());
        self.emit(Notice::Died {
            worker: id,
            cause,
            failure: true,
            before_ready: true,
            early_exits: 0,
            retry_in,
            given_up,
        });
        self.command(Command::StopHealth(id));
        self.death_fails_start(pool_id, id, cause, (true, true, given_up), 0);
        if rolls {
            let failure = Failure {
                worker: Some(id),
                cause,
                mixed: false,
            };
            let standing = Standing::default();
            return self.end_roll(
                pool_id,
                Outcome::Aborted {
                    generation: worker.generation,
                    failure,
                    standing,
                },
            );
        }
        self.count_for_crash_loop(pool_id, &death, false);
        self.mark_held_pools();
        self.start_waiting(pool_id);
    }

    /// The oneshot does not run again until it is requested.
    pub(crate) fn oneshot_failed(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.set_ended(ONLY, Some(Ended::Failed));
        }
        // If an earlier run has succeeded, no pool waits for this one.
        self.mark_held_pools();
    }

    fn oneshot_done(&mut self, id: PoolId, generation: crate::Generation, took: crate::Span) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.reset_all_slots();
        pool.set_ended(ONLY, Some(Ended::Done));
        self.emit(Notice::OneshotDone {
            pool: id,
            generation,
            took,
        });
        self.start_is_up(id, Up::Done(Some(took)));
        self.end_crash_loop(id);
        match self.pools.get_mut(&id) {
            Some(Pool {
                roll: Some(roll), ..
            }) => {
                roll.replaced = 1;
                let took = self.now - roll.began;
                self.end_roll(
                    id,
                    Outcome::Done {
                        generation,
                        replaced: 1,
                        took,
                    },
                );
            }
            Some(pool) => {
                pool.mark_served(generation);
                self.start_waiting(id);
            }
            None => {}
        }
        self.mark_held_pools();
    }

    /// Starts the run that was requested while the first one was in progress.
    fn start_waiting(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get_mut(&id)
            && pool.activity == Activity::Running
            && let Some(tickets) = pool.waiting.take()
        {
            self.start_roll(id, tickets);
        }
    }

    pub(crate) fn wait_for_roll(&mut self, ticket: Option<Ticket>, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        match &mut pool.waiting {
            Some(tickets) => tickets.extend(ticket),
            None => {
                pool.waiting = Some(ticket.into_iter().collect());
                self.emit(Notice::RollWaits { pool: id });
            }
        }
    }
}
