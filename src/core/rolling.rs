//! Runs a rolling restart: a canary first, then up to `surge` slots at a time, and the way back after a failure.
//! `requests.rs` and `reconfigure.rs` start it, `reconcile.rs` advances it whenever its pool is dirty, `restart.rs`
//! fails it. The state table is in `roll.rs`.

use crate::activity::Activity;
use crate::output::StopReason;
use crate::pool::Pool;
use crate::roll::{LastRoll, Phase, Roll, RollState};
use crate::slot_queue::SlotQueue;
use crate::timers::Key;
use crate::worker::{Role, State};
use crate::{
    Cause, Command, Engine, Failure, Generation, Notice, OnFailure, Outcome, PoolId, Slot,
    Standing, SupersededBy, Ticket, WorkerId,
};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

impl Engine {
    /// Starts a rolling restart to a new generation.
    pub(crate) fn start_roll(&mut self, id: PoolId, tickets: Vec<Ticket>) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.latest = Generation(pool.latest.0 + 1);
        let generation = pool.latest;
        self.start_roll_to(id, tickets, generation);
    }

    pub(crate) fn start_roll_to(
        &mut self,
        id: PoolId,
        mut tickets: Vec<Ticket>,
        generation: Generation,
    ) {
        tickets.extend(self.join_replacements(id));
        let (now, after) = (self.now, self.last_worker());
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.history.record_policy(generation, &pool.policy);
        let count = pool.policy.count;
        // Empty slots first, since they cost no surge; then the oldest worker.
        let mut todo: Vec<Slot> = (0..count).map(Slot).collect();
        let workers = &self.workers;
        todo.sort_by_key(|slot| {
            let current = pool.slots[slot.0 as usize].current;
            current.and_then(|id| workers.get(&id)).map(|w| w.began)
        });
        // In a rollback, some slots may already have a worker of the older generation.
        todo.retain(|slot| {
            let current = pool.slots[slot.0 as usize]
                .current
                .and_then(|id| workers.get(&id));
            current.is_none_or(|worker| worker.generation != generation || !worker.is_serving())
        });
        let of = todo.len() as u32;
        pool.last = LastRoll {
            state: RollState::Running,
            generation: generation.0,
            of,
            ..LastRoll::default()
        };
        pool.roll = Some(Roll {
            generation,
            after,
            base: pool.target,
            tickets,
            began: now,
            phase: Phase::Canary,
            canary: None,
            pending: todo.iter().copied().collect(),
            todo: todo.into(),
            queued: SlotQueue::default(),
            added: 0..0,
            emptied: None,
            retired_any: false,
            begun: false,
            wait_reported: false,
            replaced: 0,
            of,
            cancellers: Vec::new(),
            watched: BTreeSet::new(),
            ended_well: BTreeSet::new(),
            canary_ended_well: false,
            watch_reported: false,
        });
        self.command(Command::BeginGeneration {
            pool: id,
            generation,
        });
        self.emit(Notice::RollStarted {
            pool: id,
            generation,
            of,
        });
        self.dirty_pools.insert(id);
        if self.is_oneshot(id) {
            self.prepare_run(id);
        }
    }

    pub(crate) fn pinned(&mut self, id: PoolId, generation: Generation, same: bool) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        if let Some(roll) = &pool.roll
            && roll.generation == generation
            && generation != roll.base
        {
            let after = roll.after;
            pool.set_same_source(generation, after, same);
        }
    }

    /// A slot has a serving worker of this generation: the slot is done if that is the goal of the rolling restart.
    pub(crate) fn filled(
        &mut self,
        id: PoolId,
        slot: Slot,
        generation: Generation,
        worker: WorkerId,
    ) {
        self.replacement_done(id, slot, worker);
        self.stop_unreachable(id, slot);
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
        else {
            return;
        };
        if roll.emptied.is_some_and(|(emptied, _)| emptied == slot) {
            roll.emptied = None;
        }
        if generation != roll.goal() || !roll.pending.remove(&slot) {
            return;
        }
        if !matches!(roll.phase, Phase::RollingBack(_)) {
            roll.replaced += 1;
        }
        let (done, of) = (roll.replaced, roll.of);
        self.emit(Notice::SlotReplaced {
            pool: id,
            slot,
            worker,
            done,
            of,
        });
        self.dirty_pools.insert(id);
    }

    pub(crate) fn advance_roll(&mut self, id: PoolId) {
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
        else {
            return;
        };
        match roll.phase {
            Phase::Canary => self.advance_canary(id),
            Phase::Wave | Phase::RollingBack(_) => self.advance_wave(id),
        }
    }

    fn advance_canary(&mut self, id: PoolId) {
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
        else {
            return;
        };
        if let Some(canary) = roll.canary {
            match self.workers.get(&canary) {
                Some(worker) if worker.state == State::Ready => return self.start_wave(id),
                Some(worker) if !worker.is_leaving() => return,
                // Its slot was scaled away: another slot goes first.
                _ => roll.canary = None,
            }
        }
        if self.roll_waits(id) {
            return;
        }
        let Some(Pool {
            roll: Some(roll),
            policy,
            ..
        }) = self.pools.get_mut(&id)
        else {
            return;
        };
        if policy.count == 0 || roll.pending.is_empty() || roll.canary_ended_well {
            return self.start_wave(id);
        }
        let canary = self.next_successor(id);
        if let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
        {
            roll.begun |= canary.is_some() || roll.retired_any;
            roll.canary = canary;
        }
    }

    /// The canary has passed its soak: slots that waited for an operator are filled again.
    fn start_wave(&mut self, id: PoolId) {
        self.end_crash_loop(id);
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        pool.reset_all_slots();
        if let Some(roll) = &mut pool.roll {
            roll.phase = Phase::Wave;
            roll.begun = true;
        }
        self.mark_all_slots(id);
    }

    fn advance_wave(&mut self, id: PoolId) {
        while let Some(slot) = self.pools.get_mut(&id).and_then(|pool| {
            let free = pool.may_drain() && pool.can_spare_one();
            let roll = pool.roll.as_mut()?;
            if free { roll.queued.pop() } else { None }
        }) {
            self.reconcile_slot(id, slot);
        }
        while self.next_successor(id).is_some() {}
        let Some(pool) = self.pools.get(&id) else {
            return;
        };
        let Some(roll) = &pool.roll else { return };
        if !roll.pending.is_empty() || pool.successors > 0 || roll.emptied.is_some() {
            return;
        }
        if self.still_watches(id) {
            return;
        }
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get(&id)
        else {
            return;
        };
        let (generation, took) = (roll.generation, self.now - roll.began);
        let outcome = match &roll.phase {
            Phase::RollingBack(failure) => self.rollback_outcome(id, generation, failure.clone()),
            Phase::Canary | Phase::Wave => Outcome::Done {
                generation,
                replaced: roll.replaced,
                took,
            },
        };
        self.end_roll(id, outcome);
    }

    /// Every slot is done; whether workers that are ready only by age still have to live on for a while.
    fn still_watches(&mut self, id: PoolId) -> bool {
        let now = self.now;
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
        else {
            return false;
        };
        while roll.watched.first().is_some_and(|(until, _)| *until <= now) {
            roll.watched.pop_first();
        }
        let Some((until, _)) = roll.watched.last().copied() else {
            return false;
        };
        self.deadlines.set(Key::Roll(id), Some(until));
        if !core::mem::replace(&mut roll.watch_reported, true) {
            self.emit(Notice::Watched {
                pool: id,
                span: until - now,
            });
        }
        true
    }

    /// Spawns one more successor if `surge` allows it; with surge 0 it empties a slot first.
    fn next_successor(&mut self, id: PoolId) -> Option<WorkerId> {
        let pool = self.pools.get_mut(&id)?;
        let surge = pool.policy.reload.surge;
        if surge == 0 || pool.roll.as_ref()?.emptied.is_some() {
            return self.next_in_place(id);
        }
        if pool.successors >= surge || !pool.has_room() {
            return None;
        }
        if !pool.roll.as_ref()?.todo.is_empty() && !self.may_start_successor(id) {
            return None;
        }
        let slot = self.next_slot(id)?;
        let generation = self.pools.get(&id)?.roll.as_ref()?.goal();
        self.spawn(id, slot, generation, Role::Successor)
    }

    /// Surge 0: stop one worker, wait until it is gone, start one.
    fn next_in_place(&mut self, id: PoolId) -> Option<WorkerId> {
        if self.pools.get(&id)?.roll.as_ref()?.emptied.is_none() {
            if self.pools.get(&id)?.stopping_workers > 0 {
                return None;
            }
            // Ask before the old worker is stopped: its slot must not stay empty while others start.
            if !self.pools.get(&id)?.roll.as_ref()?.todo.is_empty() && !self.may_start_successor(id)
            {
                return None;
            }
            let slot = self.next_slot(id)?;
            let pool = self.pools.get_mut(&id)?;
            let old = pool.slots.get(slot.0 as usize)?.current;
            let serves = old
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|w| w.is_serving());
            if serves && !pool.can_spare_one() {
                pool.roll.as_mut()?.todo.push_front(slot);
                return None;
            }
            let roll = pool.roll.as_mut()?;
            roll.emptied = Some((slot, old));
            if let Some(old) = old {
                roll.retired_any = true;
                self.begin_stop(old, StopReason::MakesRoom);
            }
        }
        let pool = self.pools.get(&id)?;
        let (slot, old) = pool.roll.as_ref()?.emptied?;
        let slot_state = pool.slots.get(slot.0 as usize)?;
        let gone = old.is_none_or(|old| self.workers.get(&old).is_none_or(|w| w.lost));
        if !gone || slot_state.successor.is_some() || slot_state.stopping_workers > 0 {
            return None;
        }
        if pool.policy.max_starting.is_some() && !self.may_start(id) {
            return None;
        }
        let generation = pool.roll.as_ref()?.goal();
        self.spawn(id, slot, generation, Role::Successor)
    }

    /// A successor has exited before its turn came: the slot gets another one.
    pub(crate) fn requeue_slot(&mut self, id: PoolId, slot: Slot) {
        if let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&id)
        {
            roll.todo.push_back(slot);
        }
    }

    /// The next slot that still needs a worker of the goal's generation. After the canary, empty slots are skipped:
    /// they are filled by `reconcile.rs` and cost no surge.
    fn next_slot(&mut self, id: PoolId) -> Option<Slot> {
        loop {
            let pool = self.pools.get_mut(&id)?;
            let count = pool.policy.count;
            let roll = pool.roll.as_mut()?;
            let slot = roll.todo.pop_front()?;
            let Some(slot_state) = pool.slots.get(slot.0 as usize) else {
                continue;
            };
            let fills_itself = slot_state.current.is_none() && roll.phase != Phase::Canary;
            if slot.0 >= count
                || !roll.pending.contains(&slot)
                || slot_state.successor.is_some()
                || fills_itself
            {
                continue;
            }
            let goal = roll.goal();
            if slot_state
                .current
                .and_then(|id| self.workers.get(&id))
                .is_some_and(|w| w.generation == goal)
            {
                continue;
            }
            return Some(slot);
        }
    }

    /// The new generation has failed, or an operator cancelled.
    pub(crate) fn fail_roll(&mut self, id: PoolId, failure: Failure) {
        self.stop_new_workers(id);
        if self.is_oneshot(id) {
            self.oneshot_failed(id);
        }
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let Some(roll) = &mut pool.roll else { return };
        let (fresh, base) = (roll.generation, roll.base);
        // A worker that is made from the same files as the base has nothing to go back to. Whether an adopted one has is
        // not known.
        let mut done: Vec<(crate::Time, Slot)> = Vec::new();
        for (slot, slot_state) in pool.slots.iter().enumerate() {
            if let Some(worker) = slot_state.current.and_then(|id| self.workers.get(&id))
                && worker.generation != base
                && !pool.same_source.contains_key(&worker.generation)
                && !worker.adopted
            {
                // Of the new generation, or left over from an earlier one that was superseded or aborted.
                done.push((worker.began, Slot(slot as u32)));
            }
        }
        let wants_back = pool.policy.on_failure_is_rollback() || failure.cause == Cause::Cancelled;
        if done.is_empty() || !wants_back {
            let standing = self.standing(id, fresh, &failure);
            return self.end_roll(
                id,
                Outcome::Aborted {
                    generation: fresh,
                    failure,
                    standing,
                },
            );
        }
        done.sort();
        roll.pending = done.iter().map(|(_, slot)| *slot).collect();
        roll.todo = done.iter().map(|(_, slot)| *slot).collect();
        roll.phase = Phase::RollingBack(failure.clone());
        roll.canary = None;
        let to = base;
        self.emit(Notice::RollingBack {
            pool: id,
            generation: fresh,
            to,
            failure,
        });
        self.mark_all_slots(id);
    }

    /// Stops new workers that do not serve yet: successors, and current workers of the new generation that never
    /// served.
    pub(crate) fn stop_new_workers(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let Some(roll) = &mut pool.roll else { return };
        let fresh = roll.generation;
        roll.queued = SlotQueue::default();
        roll.watched.clear();
        roll.emptied = None;
        let mut leaving: Vec<WorkerId> = Vec::new();
        for slot_state in &pool.slots {
            leaving.extend(slot_state.successor);
            leaving.extend(slot_state.current.filter(|id| {
                self.workers
                    .get(id)
                    .is_some_and(|w| w.generation == fresh && !w.is_serving())
            }));
        }
        for worker in leaving {
            self.begin_stop(worker, StopReason::Abandoned);
        }
        self.mark_all_slots(id);
    }

    /// The old generation does not start either: workers of both serve, and an operator has to look.
    pub(crate) fn fail_rollback(&mut self, id: PoolId) {
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get(&id)
        else {
            return;
        };
        let Phase::RollingBack(failure) = &roll.phase else {
            return;
        };
        let (generation, failure) = (
            roll.generation,
            Failure {
                mixed: true,
                ..failure.clone()
            },
        );
        self.stop_new_workers(id);
        let standing = self.standing(id, generation, &failure);
        self.end_roll(
            id,
            Outcome::Aborted {
                generation,
                failure,
                standing,
            },
        );
    }

    /// Every slot that could go back has done so; slots of the same files stay as they are.
    fn rollback_outcome(
        &mut self,
        id: PoolId,
        generation: Generation,
        failure: Failure,
    ) -> Outcome {
        let standing = self.standing(id, generation, &failure);
        if standing.others.is_empty() {
            Outcome::RolledBack {
                generation,
                failure,
                standing,
            }
        } else {
            Outcome::Aborted {
                generation,
                failure,
                standing,
            }
        }
    }

    /// Which workers serve as the rolling restart to this generation ends.
    pub(crate) fn standing(
        &mut self,
        id: PoolId,
        tried: Generation,
        failure: &Failure,
    ) -> Standing {
        self.note_outdated(id, tried, failure);
        let outdated = self.outdated(id);
        let Some(pool) = self.pools.get(&id) else {
            return Standing::default();
        };
        let base = pool.roll.as_ref().map_or(pool.target, |roll| roll.base);
        let mut others = Vec::new();
        for (slot, slot_state) in pool.slots.iter().enumerate() {
            let serving = slot_state
                .current
                .and_then(|id| self.workers.get(&id))
                .filter(|worker| worker.is_serving());
            if let Some(worker) = serving.filter(|worker| worker.generation != base) {
                others.push((Slot(slot as u32), worker.generation));
            }
        }
        Standing {
            base,
            of_base: pool.serving_of.get(&base).copied().unwrap_or(0),
            wanted: pool.wanted_slots(),
            others,
            in_place: pool.same_source.contains_key(&tried),
            outdated,
        }
    }

    /// A generation made from the same files as the base has failed, or has left workers behind: workers older than
    /// its rolling restart differ from what a new worker would be made from. Without a failure, and with none of its
    /// workers left, nothing shows that the files have changed.
    fn note_outdated(&mut self, id: PoolId, tried: Generation, failure: &Failure) {
        let Some(pool) = self.pools.get(&id) else {
            return;
        };
        let base = pool.roll.as_ref().map_or(pool.target, |roll| roll.base);
        let serving = |pool: &Pool| -> Vec<(WorkerId, Generation)> {
            let current = pool
                .slots
                .iter()
                .filter_map(|slot_state| slot_state.current);
            let known = current.filter_map(|id| Some((id, self.workers.get(&id)?)));
            known
                .filter(|(_, worker)| worker.is_serving())
                .map(|(id, worker)| (id, worker.generation))
                .collect()
        };
        let serving = serving(pool);
        let counts = |generation: Generation, after: WorkerId| {
            let failed = generation == tried && failure.cause.tells_of_the_files();
            failed
                || serving.iter().any(|(id, of)| {
                    *id > after && (*of == base || pool.same_source.contains_key(of))
                })
        };
        let newest = pool
            .same_source
            .iter()
            .filter(|(of, after)| counts(**of, **after))
            .map(|(_, after)| *after)
            .max();
        // The generation it would have gone back to does not start any more either.
        let stuck = pool
            .roll
            .as_ref()
            .filter(|_| failure.mixed)
            .map(|roll| roll.after);
        if let Some(pool) = self.pools.get_mut(&id) {
            pool.outdated = pool.outdated.max(newest).max(stuck);
        }
    }

    /// How many serving workers are older than the files that they would be made from now.
    pub(crate) fn outdated(&self, id: PoolId) -> u32 {
        let Some((pool, last)) = self
            .pools
            .get(&id)
            .and_then(|pool| Some((pool, pool.outdated?)))
        else {
            return 0;
        };
        let current = pool
            .slots
            .iter()
            .filter_map(|slot_state| slot_state.current)
            .filter(|worker| *worker <= last);
        current
            .filter(|worker| {
                self.workers
                    .get(worker)
                    .is_some_and(|worker| worker.is_serving())
            })
            .count() as u32
    }

    pub(crate) fn end_roll(&mut self, id: PoolId, outcome: Outcome) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let Some(roll) = pool.roll.take() else { return };
        self.deadlines.set(Key::Roll(id), None);
        let (state, failure) = match &outcome {
            Outcome::Done { generation, .. } => {
                pool.full = false;
                pool.target = *generation;
                pool.same_source.clear();
                pool.outdated = None;
                pool.mark_served(*generation);
                (RollState::Done, None)
            }
            Outcome::Aborted { failure, .. } => (RollState::Aborted, Some(failure.clone())),
            Outcome::RolledBack { failure, .. } => {
                pool.full = false;
                (RollState::RolledBack, Some(failure.clone()))
            }
            Outcome::Superseded { .. }
            | Outcome::Cancelled { .. }
            | Outcome::ReplaceFailed { .. }
            | Outcome::HeldUp { .. }
            | Outcome::NothingDone(_)
            | Outcome::Up(_)
            | Outcome::StartFailed(_)
            | Outcome::Stopped
            | Outcome::Removed
            | Outcome::Scaled { .. } => (RollState::Superseded, None),
        };
        pool.last = LastRoll {
            state,
            generation: roll.generation.0,
            failure,
            replaced: roll.replaced,
            of: roll.of,
            took: now - roll.began,
        };
        if let Outcome::Aborted { .. } | Outcome::RolledBack { .. } = &outcome {
            let Pool {
                same_source,
                serving_of,
                ..
            } = pool;
            same_source.retain(|generation, _| serving_of.contains_key(generation));
        }
        let waiting = if pool.activity == Activity::Running {
            pool.waiting.take()
        } else {
            None
        };
        pool.trim_generations();
        let fails = match &outcome {
            Outcome::Aborted { .. } | Outcome::RolledBack { .. } => true,
            Outcome::Done { .. }
            | Outcome::Cancelled { .. }
            | Outcome::Superseded { .. }
            | Outcome::ReplaceFailed { .. }
            | Outcome::HeldUp { .. }
            | Outcome::NothingDone(_)
            | Outcome::Up(_)
            | Outcome::StartFailed(_)
            | Outcome::Stopped
            | Outcome::Removed
            | Outcome::Scaled { .. } => false,
        };
        // A rolling restart that has waited tries the latest configuration once more.
        if fails && waiting.is_none() {
            self.command(Command::RevertConfig(id));
        }
        self.emit(Notice::RollEnded {
            pool: id,
            outcome: outcome.clone(),
        });
        let to_older = matches!(
            outcome,
            Outcome::Superseded {
                by: SupersededBy::RollBack
            }
        );
        self.command(Command::EndGeneration { pool: id, to_older });
        for ticket in roll.cancellers {
            self.reply(Some(ticket), id, outcome.clone().for_the_canceller());
        }
        for ticket in roll.tickets {
            self.reply(Some(ticket), id, outcome.clone());
        }
        self.mark_all_slots(id);
        match waiting {
            // Pools that wait for this rolling restart wait for the next one too.
            Some(tickets) => self.start_roll(id, tickets),
            None => self.roll_ended_for_others(id, fails),
        }
    }
}

impl Outcome {
    fn for_the_canceller(self) -> Self {
        match self {
            // It was not carried out.
            Self::Aborted { ref failure, .. } if failure.cause == Cause::MasterKeepsDying => self,
            Self::Aborted {
                generation,
                failure,
                standing,
            }
            | Self::RolledBack {
                generation,
                failure,
                standing,
            } => Self::Cancelled {
                generation,
                stuck: failure.mixed,
                standing,
            },
            other => other,
        }
    }
}

impl crate::Policy {
    fn on_failure_is_rollback(&self) -> bool {
        match self.reload.on_failure {
            OnFailure::Rollback => true,
            OnFailure::Abort => false,
        }
    }
}
