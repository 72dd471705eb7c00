//! The oracles' model of pools and workers. It is built from inputs, commands and notices, independently of the engine's
//! own state.

use crate::oracle::{Checked, hold};
use rotad_core::{
    Cause, Failure, Generation, Policy, PoolKind, Readiness, RestartPolicy, Slot as SlotId,
    Standing, StopReason, Time, To,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) pool: usize,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) spawned: u64,
    pub(crate) started: Option<u64>,
    pub(crate) ready: Option<u64>,
    /// When it was reported ready. `None`: it is ready by age only, or not ready.
    pub(crate) reported: Option<u64>,
    /// When it has soaked, if it is a canary.
    pub(crate) soaked_at: u64,
    /// Until when it is watched, if it is ready by age only.
    pub(crate) watched_until: u64,
    pub(crate) stop_began: Option<u64>,
    pub(crate) killed: Option<u64>,
    pub(crate) exited: Option<u64>,
    pub(crate) lost: bool,
    pub(crate) extended: bool,
    /// Its tree is gone, or it was never spawned: it is forgotten after this input.
    pub(crate) gone: bool,
    pub(crate) stop_reason: Option<StopReason>,
    /// It was not ready in time.
    pub(crate) overdue: bool,
    pub(crate) signals_sent: usize,
    /// When `KillTree` was commanded.
    pub(crate) tree_killed: Option<u64>,
    /// Its first process has exited in its stop, and the rest of its tree may finish.
    pub(crate) tree_stopping: bool,
    /// Its processor demand when it was last measured, in percent.
    pub(crate) demand: Option<u64>,
    /// Readiness and `ready_timeout` of its generation.
    pub(crate) readiness: Readiness,
    pub(crate) timeout: u64,
    /// The sum of the stop steps' waits, by the policy at the time when its stop began.
    pub(crate) stop_time: u64,
    /// The signals of its stop: how long after its begin each is due, its number, whether it goes to the whole tree.
    pub(crate) stop_signals: Vec<(u64, i32, bool)>,
    pub(crate) exit_code: Option<i32>,
    /// It failed its health check.
    pub(crate) unhealthy: bool,
    /// It is of a master whose state was lost.
    pub(crate) adopted: bool,
    /// `Some`: its listening socket was replaced; whether it was ready by then.
    pub(crate) unreachable: Option<bool>,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            readiness: Readiness::Reported,
            timeout: 0,
            stop_time: 0,
            stop_signals: Vec::new(),
            exit_code: None,
            unhealthy: false,
            adopted: false,
            unreachable: None,
            pool: 0,
            slot: 0,
            generation: 0,
            spawned: 0,
            started: None,
            ready: None,
            reported: None,
            soaked_at: 0,
            watched_until: 0,
            stop_began: None,
            killed: None,
            exited: None,
            lost: false,
            extended: false,
            gone: false,
            stop_reason: None,
            overdue: false,
            signals_sent: 0,
            tree_killed: None,
            tree_stopping: false,
            demand: None,
        }
    }
}

impl Worker {
    pub(crate) fn lives(&self) -> bool {
        (self.exited.is_none() || self.tree_stopping) && self.tree_killed.is_none() && !self.gone
    }

    pub(crate) fn stays(&self) -> bool {
        self.lives() && self.stop_began.is_none() && !self.unhealthy && self.unreachable.is_none()
    }

    pub(crate) fn serves(&self) -> bool {
        self.stays() && self.ready.is_some()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.stop_began.is_some() && !self.gone && !self.lost
    }
}

#[derive(Clone, Default)]
pub(crate) struct Slot {
    pub(crate) retry_at: Option<u64>,
    /// Something has reset its backoff: it may be filled before `retry_at`.
    pub(crate) reset: bool,
    pub(crate) all_deaths: u32,
    /// `deaths` and `delays` are exact: nothing has happened since that may have reset the engine's counters.
    pub(crate) exact: bool,
    pub(crate) deaths: u32,
    pub(crate) delays: u32,
    /// Exits with success before readiness, in a row.
    pub(crate) early_exits: u32,
    /// When a ready worker died early here, if that was the first death in a row: it counts once another follows.
    pub(crate) first_death: Option<u64>,
    /// A worker has exited successfully here.
    pub(crate) ended: bool,
}

#[derive(Clone)]
pub(crate) struct Roll {
    pub(crate) generation: u32,
    pub(crate) rolling_back: bool,
    /// Something else than the rolling restart has acted on the pool, so the number of serving workers may differ.
    pub(crate) disturbed: bool,
    pub(crate) retired_any: bool,
    pub(crate) soaked: bool,
    /// Its first command was given.
    pub(crate) begun: bool,
    /// It rolls out the base generation again, so its workers look the same as those that fill empty slots.
    pub(crate) to_base: bool,
    /// The newest worker before it; those with a higher id were spawned during it.
    pub(crate) newest_before: u64,
    /// Workers of the new generation that have died.
    pub(crate) failed: BTreeSet<u64>,
    /// Slots that have to be done again, because the new worker's listening socket was replaced.
    pub(crate) redo: BTreeSet<u32>,
    /// Slots in which a new worker has exited with success.
    pub(crate) ended_well: BTreeSet<u32>,
    /// One of those had been ready for long enough to count as soaked.
    pub(crate) soaked_by_end: bool,
    /// A new worker has failed, so it must not continue.
    pub(crate) must_end: bool,
}

#[derive(Clone)]
pub(crate) struct Pool {
    pub(crate) policy: Policy,
    pub(crate) running: bool,
    /// It was stopped by a request of its own, not with everything.
    pub(crate) stopped_alone: bool,
    pub(crate) removed: bool,
    /// It no longer waits for other pools.
    pub(crate) begun: bool,
    /// Every desired worker has been ready at a time since its start.
    pub(crate) up: bool,
    /// It was up while no rolling restart ran, so no successor was counted.
    pub(crate) surely_up: bool,
    pub(crate) oneshot_done: bool,
    pub(crate) oneshot_failed: bool,
    /// Generations that were fully rolled out.
    pub(crate) served: Vec<u32>,
    /// The last of them.
    pub(crate) last_good: u32,
    /// For each, the one before.
    pub(crate) served_before: BTreeMap<u32, u32>,
    /// Readiness and `ready_timeout` of each generation.
    pub(crate) made: BTreeMap<u32, (Readiness, u64)>,
    /// Since when no worker of an essential pool has been ready, at the latest.
    pub(crate) unready_since: Option<u64>,
    /// The same, at the earliest: when a pool that waits for others begins is not known exactly.
    pub(crate) may_be_unready_since: Option<u64>,
    /// Since when at least one worker serves, as seen after each input.
    pub(crate) serving_since: Option<Time>,
    pub(crate) unready_reported: bool,
    /// `EssentialEnded` was reported.
    pub(crate) end_reported: bool,
    /// Nothing has failed, and only rolling restarts have acted: promise 1 holds.
    pub(crate) undisturbed: bool,
    /// It has had all its workers while `undisturbed`.
    pub(crate) full_once: bool,
    /// Its policy was changed in the meantime.
    pub(crate) changed: bool,
    pub(crate) roll: Option<Roll>,
    /// The generation that empty slots are filled with when no rolling restart runs.
    pub(crate) base: u32,
    /// The highest generation number given out.
    pub(crate) latest_generation: u32,
    pub(crate) mixed: bool,
    /// Generations made from the same files as `base`, each with the newest worker before its rolling restart.
    pub(crate) same_source: BTreeMap<u32, u64>,
    /// Workers up to this id are older than the files that they would be made from now.
    pub(crate) outdated: Option<u64>,
    /// Which workers served when the last rolling restart ended without success.
    pub(crate) standing: Standing,
    pub(crate) slots: Vec<Slot>,
    /// Since when it is in a crash loop.
    pub(crate) crash_loop: Option<u64>,
    pub(crate) rolled_in_loop: bool,
    /// A worker that had been ready for more than a second has died in the crash loop, or caused it.
    pub(crate) loop_is_late: bool,
    /// Such a death has counted at any time.
    pub(crate) late_ever: bool,
    /// The times of all early deaths.
    pub(crate) all_early_deaths: Vec<u64>,
    /// Those that nothing has reset since.
    pub(crate) early_deaths: Vec<u64>,
    /// There were so many early deaths that this input must report a crash loop.
    pub(crate) crash_loop_due: bool,
    /// A worker was ready immediately, or was measured with little demand: others may count for less than a processor.
    pub(crate) low_demand: bool,
}

impl Pool {
    pub(crate) fn new(policy: Policy) -> Self {
        let made = BTreeMap::from([(1, (policy.readiness, policy.ready_timeout.0))]);
        Self {
            policy,
            running: true,
            stopped_alone: false,
            removed: false,
            begun: false,
            up: false,
            surely_up: false,
            oneshot_done: false,
            oneshot_failed: false,
            served: Vec::new(),
            last_good: 0,
            served_before: BTreeMap::new(),
            made,
            unready_since: None,
            may_be_unready_since: None,
            serving_since: None,
            unready_reported: false,
            end_reported: false,
            undisturbed: true,
            full_once: false,
            changed: false,
            roll: None,
            base: 1,
            latest_generation: 1,
            mixed: false,
            same_source: BTreeMap::new(),
            outdated: None,
            standing: Standing::default(),
            slots: vec![
                Slot {
                    exact: true,
                    ..Slot::default()
                };
                8
            ],
            crash_loop: None,
            rolled_in_loop: false,
            loop_is_late: false,
            late_ever: false,
            all_early_deaths: Vec::new(),
            early_deaths: Vec::new(),
            crash_loop_due: false,
            low_demand: false,
        }
    }

    /// A oneshot that no pool waits for: done, or done once while its latest run has failed for good.
    fn was_done(&self) -> bool {
        self.oneshot_done || self.oneshot_failed && !self.served.is_empty()
    }

    /// Whether some exits leave a slot empty until an operator acts.
    pub(crate) fn may_give_up(&self) -> bool {
        self.policy.restart.policy != RestartPolicy::Always
            || !self.policy.restart.never_on.is_empty()
    }

    pub(crate) fn is_oneshot(&self) -> bool {
        self.policy.kind == PoolKind::Oneshot
    }

    /// It has workers of a master whose state was lost. New ones are of a generation above all that are known.
    pub(crate) fn adopt(&mut self, latest: u32, any: bool) {
        self.undisturbed = false;
        self.begun = any;
        self.mixed = any;
        if latest > 0 {
            self.latest_generation = latest;
            self.next_generation();
        }
    }

    /// A new generation without a rolling restart, since the pool has no workers to replace.
    pub(crate) fn next_generation(&mut self) {
        self.latest_generation += 1;
        self.base = self.latest_generation;
        self.same_source.clear();
        self.made.insert(
            self.base,
            (self.policy.readiness, self.policy.ready_timeout.0),
        );
    }

    pub(crate) fn mark_served(&mut self, generation: u32) {
        self.served_before
            .entry(generation)
            .or_insert(self.last_good);
        self.last_good = generation;
        if self.served.contains(&generation) {
            return;
        }
        self.served.push(generation);
        self.served.sort_unstable();
        if self.served.len() > 8 {
            let oldest = usize::from(self.served[0] == generation);
            let forgotten = self.served.remove(oldest);
            self.served_before.remove(&forgotten);
        }
    }

    /// The generation that `rollback` would return to; 0: none.
    pub(crate) fn previous_good(&self) -> u32 {
        let before = self
            .served_before
            .get(&self.last_good)
            .copied()
            .unwrap_or(0);
        if self.served.contains(&before) {
            before
        } else {
            0
        }
    }

    pub(crate) fn stop_time(&self) -> u64 {
        self.policy.stop.iter().map(|step| step.wait.0).sum()
    }

    /// The signals of a stop: how long after its begin each is due, its number, whether it goes to the whole tree.
    pub(crate) fn stop_signals(&self) -> Vec<(u64, i32, bool)> {
        let mut after = 0;
        let mut all = Vec::new();
        for step in &self.policy.stop {
            if let Some(signal) = step.signal {
                all.push((after, signal.0, step.to == To::Tree));
            }
            after += step.wait.0;
        }
        all
    }

    /// Something has happened that may have reset the engine's counters of deaths.
    pub(crate) fn reset_backoff(&mut self) {
        for slot in &mut self.slots {
            slot.exact = false;
            slot.reset = true;
            slot.first_death = None;
        }
        self.early_deaths.clear();
        self.crash_loop_due = false;
    }

    pub(crate) fn may_fill_with(&self, generation: u32) -> bool {
        generation == self.base
            || self
                .roll
                .as_ref()
                .is_some_and(|roll| roll.generation == generation)
    }

    /// Counts a death. Returns the shortest and the longest backoff that may follow, and whether the counters are exact.
    pub(crate) fn count_death(
        &mut self,
        slot: u32,
        ready_for: Option<u64>,
        is_end: bool,
        spawned_ago: u64,
    ) -> (u64, u64, bool) {
        let restart = &self.policy.restart;
        let slot_state = &mut self.slots[slot as usize];
        if ready_for.is_some_and(|span| span >= restart.stable_after.0) {
            slot_state.deaths = 0;
            slot_state.delays = 0;
            slot_state.first_death = None;
            slot_state.exact |= self.roll.is_none();
        }
        slot_state.early_exits = if is_end && ready_for.is_none() {
            slot_state.early_exits + 1
        } else {
            0
        };
        if is_end {
            let grown = (restart.delay.0 << slot_state.early_exits.saturating_sub(1).min(30))
                .min(restart.max_delay.0.max(restart.delay.0));
            let spread = if slot_state.early_exits > 1 {
                grown / 10
            } else {
                0
            };
            let left = |wait: u64| wait.saturating_sub(spawned_ago);
            return (left(grown - spread), left(grown + spread), slot_state.exact);
        }
        slot_state.deaths += 1;
        if slot_state.deaths == 1 && ready_for.is_some() {
            return (0, 0, slot_state.exact);
        }
        let wait = (restart.delay.0 << slot_state.delays.min(30)).min(restart.max_delay.0);
        slot_state.delays += 1;
        (wait - wait / 10, wait + wait / 10, slot_state.exact)
    }
}

#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) pools: BTreeMap<u32, Pool>,
    pub(crate) workers: BTreeMap<u64, Worker>,
    pub(crate) last_id: u64,
    /// When the worker of the latest `Died` was spawned.
    pub(crate) death_spawned: u64,
    /// It had been ready for more than a second.
    pub(crate) death_late: bool,
    /// It was certainly the first death in a row of its slot.
    pub(crate) death_first: bool,
    pub(crate) tickets: BTreeSet<u64>,
    pub(crate) cancelled: bool,
    /// This input ends all requests.
    pub(crate) dropped: bool,
    /// The pool that this input creates with workers of another master.
    pub(crate) adopting: Option<u32>,
    /// Tickets of cancel requests.
    pub(crate) cancels: BTreeSet<u64>,
    /// The pool that this input asks to roll.
    pub(crate) roll_requested: Option<u32>,
    /// The pool that this input has created with a changed configuration.
    pub(crate) created: Option<u32>,
    /// This input changes a number of workers.
    pub(crate) scaled: bool,
    /// The pool that this input reconfigures.
    pub(crate) reconfigured: Option<u32>,
    /// The pool that this input rolls back, and the generation.
    pub(crate) rolled_back_to: Option<(u32, u32)>,
    /// Pools whose rolling restart has failed during this input.
    pub(crate) rolls_failed: BTreeSet<u32>,
    /// Pools whose configuration was reverted during this input.
    pub(crate) reverted: BTreeSet<u32>,
    /// Workers whose health is checked.
    pub(crate) checked: BTreeSet<u64>,
    /// The worker that this input reports as unhealthy.
    pub(crate) unhealthy: Option<u64>,
    /// The worker that this input reports as ready.
    pub(crate) reported_ready: Option<u64>,
    /// Tickets of replacements that are not answered yet, with pool and slot.
    pub(crate) replacements: BTreeMap<u64, (u32, u32)>,
    pub(crate) stop_at: Option<u64>,
    /// When a stop must be over, without the time that workers have asked for.
    pub(crate) stop_by: u64,
    /// From when on everything may be killed.
    pub(crate) kill_from: Option<u64>,
    pub(crate) any_extended: bool,
    pub(crate) master_exited: bool,
    pub(crate) processors: u64,
}

impl Model {
    pub(crate) fn of(&self, pool: u32) -> impl Iterator<Item = (u64, &Worker)> + Clone {
        self.workers
            .iter()
            .filter(move |(_, w)| w.pool == pool as usize)
            .map(|(id, w)| (*id, w))
    }

    fn starting(&self) -> impl Iterator<Item = &Worker> {
        let service = |w: &&Worker| {
            self.pools
                .get(&(w.pool as u32))
                .is_some_and(|pool| !pool.is_oneshot())
        };
        self.workers
            .values()
            .filter(|w| w.stays() && w.ready.is_none())
            .filter(service)
    }

    fn starting_of(&self, id: u32) -> impl Iterator<Item = &Worker> {
        self.starting().filter(move |w| w.pool == id as usize)
    }

    /// Whether a slot may wait: as many workers are starting as allowed, or they need so much processor time that another
    /// one may be too many.
    pub(crate) fn is_crowded(&self, id: u32) -> bool {
        match self.pools[&id].policy.max_starting {
            Some(most) => self.starting_of(id).count() as u32 >= most,
            None => {
                self.starting()
                    .map(|w| w.demand.unwrap_or(100))
                    .sum::<u64>()
                    > 150 * self.processors - 100
            }
        }
    }

    /// Another worker may start beside those that are starting.
    pub(crate) fn has_room(&self, id: u32) -> Checked {
        let pool = &self.pools[&id];
        if let Some(most) = pool.policy.max_starting {
            let starting = self.starting_of(id).count() as u32;
            hold!(
                starting < most,
                "too many start",
                "{starting} start, at most {most}"
            );
            return Ok(());
        }
        if pool.low_demand {
            return Ok(());
        }
        let least = |w: &Worker| {
            w.demand
                .unwrap_or(if self.pools[&(w.pool as u32)].low_demand {
                    0
                } else {
                    75
                })
        };
        let (all, own): (u64, u64) = (
            self.starting().map(least).sum(),
            self.starting_of(id).map(least).sum(),
        );
        let most = self.processors * if own == 0 { 250 } else { 150 };
        hold!(
            all + 75 <= most,
            "too many start",
            "their demand is {all}, and another one starts"
        );
        Ok(())
    }

    /// Whether pools that come after this one must still wait.
    fn holds_dependents(&self, id: u32) -> bool {
        let Some(pool) = self.pools.get(&id) else {
            return false;
        };
        let up = if pool.is_oneshot() {
            pool.was_done()
        } else {
            pool.up || self.is_full(id)
        };
        pool.running && !up
    }

    /// Whether every desired worker serves. Slots that stay empty after a success are not counted.
    pub(crate) fn is_full(&self, id: u32) -> bool {
        let pool = &self.pools[&id];
        let ends = pool.policy.restart.policy != RestartPolicy::Always;
        let ended = if ends {
            pool.slots.iter().filter(|slot| slot.ended).count() as u32
        } else {
            0
        };
        let serves = |slot: &u32| self.of(id).any(|(_, w)| w.slot == *slot && w.serves());
        let serving = (0..pool.policy.count).filter(serves).count() as u32;
        !self.is_held(id) && serving + ended >= pool.policy.count
    }

    /// Whether every slot has a worker that serves and no rolling restart runs.
    pub(crate) fn is_surely_full(&self, id: u32) -> bool {
        let pool = &self.pools[&id];
        let serves = |slot: u32| self.of(id).any(|(_, w)| w.slot == slot && w.serves());
        pool.begun && pool.roll.is_none() && (0..pool.policy.count).all(serves)
    }

    pub(crate) fn is_held(&self, id: u32) -> bool {
        let pool = &self.pools[&id];
        !pool.begun
            && pool
                .policy
                .after
                .iter()
                .any(|other| other.0 != id && self.holds_dependents(other.0))
    }

    /// Another adopted worker that stays has the slot, and is as good: ready, or of a newer generation.
    pub(crate) fn is_surplus(&self, id: u64) -> bool {
        let worker = &self.workers[&id];
        let rank = |id: u64, w: &Worker| (w.ready.is_some(), w.generation, id);
        self.of(worker.pool as u32).any(|(other, w)| {
            w.slot == worker.slot && w.stays() && rank(other, w) > rank(id, worker)
        })
    }

    /// The listening socket of these workers was replaced.
    pub(crate) fn mark_unreachable(&mut self, ids: &[rotad_core::WorkerId]) {
        for id in ids {
            let Some(worker) = self.workers.get_mut(&id.0).filter(|w| w.stays()) else {
                continue;
            };
            let Some(pool) = self
                .pools
                .get_mut(&(worker.pool as u32))
                .filter(|pool| !pool.is_oneshot())
            else {
                continue;
            };
            worker.unreachable = Some(worker.ready.is_some());
            pool.undisturbed = false;
            if let Some(roll) = &mut pool.roll {
                roll.disturbed = true;
                if worker.ready.is_some()
                    && worker.generation == roll.generation
                    && !roll.rolling_back
                {
                    roll.redo.insert(worker.slot);
                }
            }
        }
    }

    /// By how many workers the promised maximum would be exceeded if every slot were filled. That many slots may wait until
    /// the worker that was given up there before it was ready is gone.
    pub(crate) fn above_ceiling(&self, id: u32) -> u32 {
        let Pool { policy, roll, .. } = &self.pools[&id];
        let reload = policy.reload;
        let leaving = self
            .of(id)
            .filter(|(_, w)| w.lives() && w.is_leaving())
            .count() as u32;
        // A new worker that is alone in its slot may be a successor: the slot may still get its own worker.
        let is_new = |id: u64| roll.as_ref().is_some_and(|roll| id > roll.newest_before);
        let above = |slot: u32| {
            let staying = self.of(id).filter(|(_, w)| w.slot == slot && w.stays());
            (staying.clone().count() as u32)
                .saturating_sub(1)
                .max(u32::from(staying.clone().any(|(id, _)| is_new(id))))
        };
        let successors: u32 = (0..8).map(above).sum();
        (leaving + successors).saturating_sub(reload.surge + reload.max_draining)
    }

    pub(crate) fn wants_replacement(&self, pool: u32, slot: u32) -> bool {
        self.replacements
            .values()
            .any(|wanted| *wanted == (pool, slot))
    }

    /// Pools that this one comes after, directly or through others that are not being rolled.
    pub(crate) fn before(&self, id: u32) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        let mut ask = vec![id];
        while let Some(pool) = ask.pop().and_then(|id| self.pools.get(&id)) {
            for other in &pool.policy.after {
                let rolls = self
                    .pools
                    .get(&other.0)
                    .is_some_and(|other| other.roll.is_some());
                if found.insert(other.0) && !rolls {
                    ask.push(other.0);
                }
            }
        }
        found
    }

    /// The pools whose rolling restarts must be over before that of this pool may begin.
    pub(crate) fn rolls_before(&self, id: u32) -> BTreeSet<u32> {
        let Some(pool) = self.pools.get(&id) else {
            return BTreeSet::new();
        };
        let is_new = pool
            .roll
            .as_ref()
            .is_some_and(|roll| !roll.begun && !roll.rolling_back);
        if !is_new || pool.is_oneshot() {
            return BTreeSet::new();
        }
        let rolls = |other: &u32| {
            self.pools
                .get(other)
                .is_some_and(|other| other.roll.is_some())
        };
        self.before(id).into_iter().filter(rolls).collect()
    }

    /// Whether every pool that it comes after is certainly up or stopped.
    pub(crate) fn may_begin(&self, id: u32) -> bool {
        let free = |pool: &Pool| {
            !pool.running
                || if pool.is_oneshot() {
                    pool.was_done()
                } else {
                    pool.surely_up
                }
        };
        self.pools[&id]
            .policy
            .after
            .iter()
            .all(|other| self.pools.get(&other.0).is_none_or(free))
    }

    /// Whether the pool has a worker that is not gone and not unkillable.
    pub(crate) fn has_processes(&self, id: u32) -> bool {
        self.of(id).any(|(_, w)| !w.gone && !w.lost)
    }

    /// When a pool must have stopped at the latest; pools that come after it stop first.
    pub(crate) fn stopped_by(&self, id: u32, now: u64) -> u64 {
        let pool = &self.pools[&id];
        let needs = self
            .pools
            .iter()
            .filter(|(other, q)| **other != id && q.policy.after.iter().any(|p| p.0 == id));
        let from = needs
            .map(|(other, _)| self.stopped_by(*other, now))
            .max()
            .unwrap_or(now);
        let leaving = self
            .of(id)
            .filter(|(_, w)| w.stop_began.is_some())
            .map(|(_, w)| w.stop_time)
            .max()
            .unwrap_or(0);
        from + pool.stop_time().max(leaving) + 1000
    }

    /// How many serving workers are older than the files that they would be made from now.
    pub(crate) fn outdated(&self, id: u32) -> u32 {
        let Some(last) = self.pools[&id].outdated else {
            return 0;
        };
        self.of(id)
            .filter(|(worker, w)| w.serves() && *worker <= last)
            .count() as u32
    }

    /// How many workers of each generation serve.
    pub(crate) fn generations_that_serve(&self, id: u32) -> BTreeMap<Generation, u32> {
        let mut found = BTreeMap::new();
        for (_, worker) in self.of(id).filter(|(_, w)| w.serves()) {
            *found.entry(Generation(worker.generation)).or_default() += 1;
        }
        found
    }

    /// The rolling restart to generation `tried` ends without success: which workers serve, by the model.
    pub(crate) fn standing_after(
        &mut self,
        id: u32,
        tried: u32,
        failure: &Failure,
        after: u64,
    ) -> Standing {
        let pool = &self.pools[&id];
        let serving: Vec<(u64, u32, u32)> = self
            .of(id)
            .filter(|(_, w)| w.serves())
            .map(|(id, w)| (id, w.slot, w.generation))
            .collect();
        let base = pool.base;
        let of_the_files =
            |generation: u32| generation == base || pool.same_source.contains_key(&generation);
        // The files are known to have changed if the new generation has failed, or if a worker was made from them since.
        let shown = |generation: u32, last: u64| {
            generation == tried
                && !matches!(
                    failure.cause,
                    Cause::Cancelled | Cause::MasterKeepsDying | Cause::After(_)
                )
                || serving
                    .iter()
                    .any(|(id, _, generation)| *id > last && of_the_files(*generation))
        };
        let newest = pool
            .same_source
            .iter()
            .filter(|(of, last)| shown(**of, **last))
            .map(|(_, last)| *last)
            .max();
        let stuck = failure.mixed.then_some(after);
        let outdated = pool.outdated.max(newest).max(stuck);
        let in_place = pool.same_source.contains_key(&tried);
        let wanted = pool.policy.count;
        let Some(pool) = self.pools.get_mut(&id) else {
            return Standing::default();
        };
        pool.outdated = outdated;
        pool.same_source
            .retain(|generation, _| serving.iter().any(|(_, _, of)| of == generation));
        let mut others: Vec<(SlotId, Generation)> = serving
            .iter()
            .filter(|(_, _, generation)| *generation != base)
            .map(|(_, slot, generation)| (SlotId(*slot), Generation(*generation)))
            .collect();
        others.sort_unstable();
        let of_base = serving.len() as u32 - others.len() as u32;
        Standing {
            base: Generation(base),
            of_base,
            wanted,
            others,
            in_place,
            outdated: self.outdated(id),
        }
    }

    pub(crate) fn serving(&self, pool: u32) -> u32 {
        self.of(pool).filter(|(_, w)| w.serves()).count() as u32
    }

    pub(crate) fn generation(&self, id: u64) -> Generation {
        self.workers
            .get(&id)
            .map_or(Generation::NONE, |w| Generation(w.generation))
    }
}

pub(crate) fn is_end(policy: &Policy, cause: Cause) -> bool {
    matches!(cause, Cause::Exited(rotad_core::Exit::Code(code)) if policy.restart.success_exit_codes.contains(&code))
}
