//! Ends all requests after the master has died again and again: what it was doing may be the reason. Workers that serve
//! stay, and slots are filled as ever. `engine.rs` calls it.

use crate::output::StopReason;
use crate::pool::Pool;
use crate::worker::Worker;
use crate::{
    Cause, Command, Engine, Failure, Generation, Outcome, PoolId, PoolKind, Slot, Ticket, WorkerId,
};
use alloc::vec::Vec;

const FAILURE: Failure = Failure {
    worker: None,
    cause: Cause::MasterKeepsDying,
    mixed: false,
};

impl Engine {
    /// Ends every rolling restart as an abort does, without going back, and answers every ticket. A run of a oneshot
    /// that is in progress goes on to its end, which nothing waits for any more.
    pub(crate) fn abandon_requests(&mut self) {
        let pools: Vec<PoolId> = self.pools.keys().copied().collect();
        // First what waits, so that it does not take the place of what ends.
        let mut waiting = Vec::new();
        for id in &pools {
            self.keep_serving_successors(*id);
            waiting.push((*id, self.generation_tried(*id), self.take_waiting(*id)));
            self.abandon_replacements(*id, &FAILURE);
        }
        while let Some(id) = self.last_roll() {
            self.stop_new_workers(id);
            if self.is_oneshot(id) {
                self.oneshot_failed(id);
            }
            let outcome = self.abandoned(id, self.generation_tried(id));
            self.end_roll(id, outcome);
        }
        for (id, generation, mut tickets) in waiting {
            let outcome = self.abandoned(id, generation);
            self.end_start(id, &outcome);
            tickets.extend(self.waiters.take_stops(id));
            for ticket in tickets {
                self.reply(Some(ticket), id, outcome.clone());
            }
        }
        for (ticket, id, outcome) in self.waiters.take_drained() {
            self.command(Command::Reply(ticket, id, outcome));
        }
    }

    /// A successor that serves, in a slot where no other worker does, is not given up with its rolling restart.
    fn keep_serving_successors(&mut self, id: PoolId) {
        let serves = |id: &WorkerId| self.workers.get(id).is_some_and(Worker::is_serving);
        let slots = self.pools.get(&id).into_iter().flat_map(|pool| &pool.slots);
        let kept: Vec<(Slot, Option<WorkerId>, WorkerId)> = slots
            .enumerate()
            .filter_map(|(slot, of)| Some((Slot(slot as u32), of.current, of.successor?)))
            .filter(|(_, current, next)| serves(next) && !current.is_some_and(|of| serves(&of)))
            .collect();
        for (slot, current, next) in kept {
            if let Some(current) = current {
                self.begin_stop(current, StopReason::Abandoned);
            }
            self.promote(id, slot, next);
        }
    }

    /// The generation that is rolled out, or else the one that slots are filled with.
    fn generation_tried(&self, id: PoolId) -> Generation {
        let pool = self.pools.get(&id);
        pool.map_or(Generation::NONE, |pool| {
            pool.roll.as_ref().map_or(pool.target, |r| r.generation)
        })
    }

    fn abandoned(&mut self, id: PoolId, generation: Generation) -> Outcome {
        Outcome::Aborted {
            generation,
            failure: FAILURE,
            standing: self.standing(id, generation, &FAILURE),
        }
    }

    /// Who waits for the next rolling restart, or for the run of a oneshot.
    fn take_waiting(&mut self, id: PoolId) -> Vec<Ticket> {
        let Some(pool) = self.pools.get_mut(&id) else {
            return Vec::new();
        };
        let mut tickets = pool.waiting.take().unwrap_or_default();
        if pool.is_running_oneshot()
            && let Some(roll) = &mut pool.roll
        {
            tickets.append(&mut roll.tickets);
            tickets.append(&mut roll.cancellers);
        }
        tickets
    }

    /// A rolling restart that no other one waits for; that would fail with it.
    fn last_roll(&self) -> Option<PoolId> {
        let rolls =
            |(_, pool): &(&PoolId, &Pool)| pool.roll.is_some() && !pool.is_running_oneshot();
        let rolls: Vec<PoolId> = self.pools.iter().filter(rolls).map(|(id, _)| *id).collect();
        let is_last = |id: &&PoolId| {
            let mut others = rolls.iter().filter(|other| other != id);
            !others.any(|other| self.rolls_before(*other).contains(id))
        };
        rolls.iter().find(is_last).or(rolls.first()).copied()
    }
}

impl Pool {
    fn is_running_oneshot(&self) -> bool {
        let runs = self
            .slots
            .first()
            .is_some_and(|slot| slot.current.is_some());
        self.policy.kind == PoolKind::Oneshot && runs
    }
}
