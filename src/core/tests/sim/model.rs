//! The oracles' own model of the pools and workers, built from inputs and commands only, without the engine's help.

use crate::oracle::{Verdict, hold};
use rotad_core::{
    Cause, Failure, Generation, Policy, PoolKind, Readiness, RestartPolicy, Slot as Place,
    Standing, StopReason, To,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) pool: usize,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) spawned: u64,
    pub(crate) born: Option<u64>,
    pub(crate) ready: Option<u64>,
    /// Its readiness was reported at that time; none: its age alone speaks for it.
    pub(crate) reported: Option<u64>,
    /// When it has soaked, were it the first new one; until when it is watched, if only its age speaks for it.
    pub(crate) soaked_at: u64,
    pub(crate) watched_until: u64,
    pub(crate) asked: Option<u64>,
    pub(crate) killed: Option<u64>,
    pub(crate) exited: Option<u64>,
    pub(crate) lost: bool,
    pub(crate) extended: bool,
    /// Swept, or never born: forgotten after this step.
    pub(crate) gone: bool,
    pub(crate) announced: Option<StopReason>,
    pub(crate) overdue: bool,
    pub(crate) signals: usize,
    /// When what is left of it was ordered to be killed.
    pub(crate) swept: Option<u64>,
    /// Its first process has ended in its stop, and the rest may finish.
    pub(crate) outlived: bool,
    /// What it wanted of processors when it was looked at.
    pub(crate) demand: Option<u64>,
    /// Its generation's.
    pub(crate) readiness: Readiness,
    pub(crate) timeout: u64,
    /// Its stop, as the policy was when it was asked: the sum of the waits, and each signal with its time and whether
    /// it goes to the whole tree.
    pub(crate) waits: u64,
    pub(crate) steps: Vec<(u64, i32, bool)>,
    pub(crate) code: Option<i32>,
    /// It failed its health check.
    pub(crate) sick: bool,
    /// Its listening socket was replaced; whether it was ready by then.
    pub(crate) unreachable: Option<bool>,
}

impl Worker {
    pub(crate) fn lives(&self) -> bool {
        (self.exited.is_none() || self.outlived) && self.swept.is_none() && !self.gone
    }

    pub(crate) fn stays(&self) -> bool {
        self.lives() && self.asked.is_none() && !self.sick && self.unreachable.is_none()
    }

    pub(crate) fn serves(&self) -> bool {
        self.stays() && self.ready.is_some()
    }

    pub(crate) fn parts(&self) -> bool {
        self.asked.is_some() && !self.gone && !self.lost
    }
}

#[derive(Clone, Default)]
pub(crate) struct Slot {
    pub(crate) retry_at: Option<u64>,
    /// It may be filled before that.
    pub(crate) reset: bool,
    pub(crate) died_ever: u32,
    /// The streak is known exactly: nothing that may have forgiven it has come since.
    pub(crate) exact: bool,
    pub(crate) deaths: u32,
    pub(crate) delays: u32,
    /// Ends before ready in a row.
    pub(crate) early_exits: u32,
    /// A late early death that was the first one of its row.
    pub(crate) first_death: Option<u64>,
    /// A worker has exited successfully here.
    pub(crate) ended: bool,
}

#[derive(Clone)]
pub(crate) struct Roll {
    pub(crate) generation: u32,
    pub(crate) back: bool,
    pub(crate) troubled: bool,
    pub(crate) retired: bool,
    pub(crate) soaked: bool,
    /// A worker was stopped for it.
    pub(crate) begun: bool,
    /// It goes to what serves already: its workers and those that fill an empty slot look the same.
    pub(crate) to_base: bool,
    /// Workers above this one were born during it.
    pub(crate) after: u64,
    /// The new generation's workers that died in it.
    pub(crate) failed: BTreeSet<u64>,
    /// Slots whose new worker lost its listening socket: they have to be done again.
    pub(crate) again: BTreeSet<u32>,
    /// Slots in which one of them has come to a good end; one of them after a while that counts as a soak.
    pub(crate) ended_well: BTreeSet<u32>,
    pub(crate) soaked_by_end: bool,
    /// One of them has failed: that generation is not continued.
    pub(crate) has_to_end: bool,
}

#[derive(Clone)]
pub(crate) struct Pool {
    pub(crate) policy: Policy,
    pub(crate) running: bool,
    /// Stopped by itself, not with everything.
    pub(crate) dropped: bool,
    pub(crate) removed: bool,
    /// It need not wait for anybody any more; every wanted worker has been ready since its start.
    pub(crate) begun: bool,
    pub(crate) up: bool,
    /// It was up while no roll ran: with one, it is the roll's successors that make the difference.
    pub(crate) surely_up: bool,
    pub(crate) oneshot_done: bool,
    pub(crate) oneshot_failed: bool,
    /// Generations that served in full, the last that did, and what did before each of them.
    pub(crate) served: Vec<u32>,
    pub(crate) proven: u32,
    pub(crate) before: BTreeMap<u32, u32>,
    pub(crate) made: BTreeMap<u32, (Readiness, u64)>,
    /// Since when no worker of an essential pool has been ready: for certain, and at the earliest. When a pool begins that
    /// waits for others is not known exactly.
    pub(crate) unready_since: Option<u64>,
    pub(crate) may_be_unready_since: Option<u64>,
    pub(crate) unready_reported: bool,
    /// The end of the pool has been told.
    pub(crate) end_reported: bool,
    /// Nothing has failed, and only rolls have acted.
    pub(crate) quiet: bool,
    pub(crate) full_once: bool,
    pub(crate) changed: bool,
    pub(crate) roll: Option<Roll>,
    pub(crate) wanted: u32,
    pub(crate) latest: u32,
    pub(crate) mixed: bool,
    /// Generations made from the same files as the wanted one, each with the last worker there was before its roll.
    pub(crate) alike: BTreeMap<u32, u64>,
    /// Workers up to this one are older than what they would be made from now.
    pub(crate) outdated: Option<u64>,
    /// The workers that served when the last roll ended early.
    pub(crate) standing: Standing,
    pub(crate) slots: Vec<Slot>,
    pub(crate) crash_loop: Option<u64>,
    pub(crate) rolled_in_loop: bool,
    /// A worker that had been ready for more than a second has died in it, or has begun it.
    pub(crate) loop_is_late: bool,
    /// Such a death has counted at some time.
    pub(crate) late_ever: bool,
    /// Early deaths; those of them that nothing has forgiven.
    pub(crate) all_early: Vec<u64>,
    pub(crate) early: Vec<u64>,
    /// So many early deaths that a crash loop has to be noticed in the same step.
    pub(crate) owes_notice: bool,
    /// Some worker of it was ready at once, or was seen waiting: others may count for less.
    pub(crate) light: bool,
}

impl Pool {
    pub(crate) fn new(policy: Policy) -> Self {
        let made = BTreeMap::from([(1, (policy.readiness, policy.ready_timeout.0))]);
        Self {
            policy,
            running: true,
            dropped: false,
            removed: false,
            begun: false,
            up: false,
            surely_up: false,
            oneshot_done: false,
            oneshot_failed: false,
            served: Vec::new(),
            proven: 0,
            before: BTreeMap::new(),
            made,
            unready_since: None,
            may_be_unready_since: None,
            unready_reported: false,
            end_reported: false,
            quiet: true,
            full_once: false,
            changed: false,
            roll: None,
            wanted: 1,
            latest: 1,
            mixed: false,
            alike: BTreeMap::new(),
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
            all_early: Vec::new(),
            early: Vec::new(),
            owes_notice: false,
            light: false,
        }
    }

    /// A oneshot that holds nobody: done, or done once while its latest run has failed for good.
    fn was_done(&self) -> bool {
        self.oneshot_done || self.oneshot_failed && !self.served.is_empty()
    }

    /// Some deaths leave a slot empty until a person acts.
    pub(crate) fn may_give_up(&self) -> bool {
        self.policy.restart.policy != RestartPolicy::Always
            || !self.policy.restart.never_on.is_empty()
    }

    pub(crate) fn is_oneshot(&self) -> bool {
        self.policy.kind == PoolKind::Oneshot
    }

    /// A new generation without a roll: the pool has nobody who would have to be replaced.
    pub(crate) fn next_generation(&mut self) {
        self.latest += 1;
        self.wanted = self.latest;
        self.alike.clear();
        self.made.insert(
            self.wanted,
            (self.policy.readiness, self.policy.ready_timeout.0),
        );
    }

    pub(crate) fn has_served(&mut self, generation: u32) {
        self.before.entry(generation).or_insert(self.proven);
        self.proven = generation;
        if self.served.contains(&generation) {
            return;
        }
        self.served.push(generation);
        self.served.sort_unstable();
        if self.served.len() > 8 {
            let oldest = usize::from(self.served[0] == generation);
            let forgotten = self.served.remove(oldest);
            self.before.remove(&forgotten);
        }
    }

    /// What `rollback` would return to; 0: nothing.
    pub(crate) fn way_back(&self) -> u32 {
        let before = self.before.get(&self.proven).copied().unwrap_or(0);
        if self.served.contains(&before) {
            before
        } else {
            0
        }
    }

    pub(crate) fn waits(&self) -> u64 {
        self.policy.stop.iter().map(|step| step.wait.0).sum()
    }

    /// The signals of a stop, each with how long after the wish it is due, and whether it goes to the whole tree.
    pub(crate) fn signals(&self) -> Vec<(u64, i32, bool)> {
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

    /// Something may have forgiven what slots had done wrong.
    pub(crate) fn reset_backoff(&mut self) {
        for slot in &mut self.slots {
            slot.exact = false;
            slot.reset = true;
            slot.first_death = None;
        }
        self.early.clear();
        self.owes_notice = false;
    }

    pub(crate) fn filling(&self, generation: u32) -> bool {
        generation == self.wanted
            || self
                .roll
                .as_ref()
                .is_some_and(|roll| roll.generation == generation)
    }

    /// The streak as an onlooker counts it, and the wait that follows from it; `None`: it cannot be known exactly.
    pub(crate) fn count_death(
        &mut self,
        slot: u32,
        ready_for: Option<u64>,
        is_end: bool,
        spawned_ago: u64,
    ) -> (u64, u64, bool) {
        let restart = &self.policy.restart;
        let seat = &mut self.slots[slot as usize];
        if ready_for.is_some_and(|span| span >= restart.stable_after.0) {
            seat.deaths = 0;
            seat.delays = 0;
            seat.first_death = None;
            seat.exact |= self.roll.is_none();
        }
        seat.early_exits = if is_end && ready_for.is_none() {
            seat.early_exits + 1
        } else {
            0
        };
        if is_end {
            let grown = (restart.delay.0 << seat.early_exits.saturating_sub(1).min(30))
                .min(restart.max_delay.0.max(restart.delay.0));
            let spread = if seat.early_exits > 1 { grown / 10 } else { 0 };
            let left = |wait: u64| wait.saturating_sub(spawned_ago);
            return (left(grown - spread), left(grown + spread), seat.exact);
        }
        seat.deaths += 1;
        if seat.deaths == 1 && ready_for.is_some() {
            return (0, 0, seat.exact);
        }
        let wait = (restart.delay.0 << seat.delays.min(30)).min(restart.max_delay.0);
        seat.delays += 1;
        (wait - wait / 10, wait + wait / 10, seat.exact)
    }
}

#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) pools: BTreeMap<u32, Pool>,
    pub(crate) workers: BTreeMap<u64, Worker>,
    pub(crate) last_id: u64,
    /// When the last one that died had been ordered.
    pub(crate) died_born: u64,
    /// It had been ready for more than a second; for sure it was the first one of its slot's row.
    pub(crate) died_late: bool,
    pub(crate) died_first: bool,
    pub(crate) tickets: BTreeSet<u64>,
    pub(crate) cancelled: bool,
    /// Tickets of cancel requests.
    pub(crate) cancels: BTreeSet<u64>,
    /// This step is a wish for a roll; another number of workers.
    pub(crate) rolls: Option<u32>,
    /// A change made a pool that was not there.
    pub(crate) created: Option<u32>,
    pub(crate) scales: bool,
    /// What this input is: a change, a rollback (to that generation), or an unhealthy worker.
    pub(crate) changes: Option<u32>,
    pub(crate) returns: Option<(u32, u32)>,
    /// Pools whose rolling restart has failed in this step.
    pub(crate) rolls_failed: BTreeSet<u32>,
    /// Pools whose configuration was reverted during this input.
    pub(crate) reverted: BTreeSet<u32>,
    /// Workers whose health is checked.
    pub(crate) checked: BTreeSet<u64>,
    pub(crate) sick: Option<u64>,
    /// Something says in this step that this worker is ready.
    pub(crate) reports: Option<u64>,
    /// Tickets of renewals that were not answered yet, with pool and slot.
    pub(crate) replacements: BTreeMap<u64, (u32, u32)>,
    pub(crate) stop_at: Option<u64>,
    /// When a stop has to be over, what workers ask for left out.
    pub(crate) stop_by: u64,
    /// From this moment on anything may be killed.
    pub(crate) kill_from: Option<u64>,
    pub(crate) any_extended: bool,
    pub(crate) left: bool,
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

    /// A slot may wait: as many start as may, or those that start want so much that another one might be too many.
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

    /// Another one may start beside those that do.
    pub(crate) fn has_room(&self, id: u32) -> Verdict {
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
        if pool.light {
            return Ok(());
        }
        let least = |w: &Worker| {
            w.demand.unwrap_or(if self.pools[&(w.pool as u32)].light {
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
            "they want {all}, and another one starts"
        );
        Ok(())
    }

    /// Others may not start before this one is up.
    fn is_awaited(&self, id: u32) -> bool {
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

    /// Every wanted worker serves; what has come to its end and stays empty is not wanted.
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

    /// All slots have a worker that serves, and nothing is on its way that could change that.
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
                .any(|other| other.0 != id && self.is_awaited(other.0))
    }

    /// The listening socket of these was replaced.
    pub(crate) fn cut_off(&mut self, ids: &[rotad_core::WorkerId]) {
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
            pool.quiet = false;
            if let Some(roll) = &mut pool.roll {
                roll.troubled = true;
                if worker.ready.is_some() && worker.generation == roll.generation && !roll.back {
                    roll.again.insert(worker.slot);
                }
            }
        }
    }

    /// If every slot had its worker, so many more would live than promised: as many slots may have to wait until the one
    /// is gone that was given up there before it was ready.
    pub(crate) fn beyond_ceiling(&self, id: u32) -> u32 {
        let Pool { policy, roll, .. } = &self.pools[&id];
        let reload = policy.reload;
        let leaving = self.of(id).filter(|(_, w)| w.lives() && w.parts()).count() as u32;
        // A new one that is alone in its slot may be a successor, too: then the slot still gets its worker.
        let is_new = |id: u64| roll.as_ref().is_some_and(|roll| id > roll.after);
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

    /// Pools that this one comes after, also by way of others that are not rolled.
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

    /// The roll of this pool is new, and has to wait for those of these.
    pub(crate) fn rolls_before(&self, id: u32) -> BTreeSet<u32> {
        let Some(pool) = self.pools.get(&id) else {
            return BTreeSet::new();
        };
        let is_new = pool
            .roll
            .as_ref()
            .is_some_and(|roll| !roll.begun && !roll.back);
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

    /// Nobody can say any more that it has to wait.
    pub(crate) fn is_free(&self, id: u32) -> bool {
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

    /// Something of the pool is still there that the kernel could end.
    pub(crate) fn is_there(&self, id: u32) -> bool {
        self.of(id).any(|(_, w)| !w.gone && !w.lost)
    }

    /// The latest moment at which a pool has stopped, those that need it first.
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
            .filter(|(_, w)| w.asked.is_some())
            .map(|(_, w)| w.waits)
            .max()
            .unwrap_or(0);
        from + pool.waits().max(leaving) + 1000
    }

    /// So many that serve are older than what they would be made from now.
    pub(crate) fn outdated(&self, id: u32) -> u32 {
        let Some(last) = self.pools[&id].outdated else {
            return 0;
        };
        self.of(id)
            .filter(|(worker, w)| w.serves() && *worker <= last)
            .count() as u32
    }

    /// How many generations serve.
    pub(crate) fn generations_that_serve(&self, id: u32) -> BTreeMap<Generation, u32> {
        let mut found = BTreeMap::new();
        for (_, worker) in self.of(id).filter(|(_, w)| w.serves()) {
            *found.entry(Generation(worker.generation)).or_default() += 1;
        }
        found
    }

    /// The roll to this generation ends before its time: who serves, as an onlooker counts them.
    pub(crate) fn stand(&mut self, id: u32, tried: u32, failure: &Failure, after: u64) -> Standing {
        let pool = &self.pools[&id];
        let serving: Vec<(u64, u32, u32)> = self
            .of(id)
            .filter(|(_, w)| w.serves())
            .map(|(id, w)| (id, w.slot, w.generation))
            .collect();
        let base = pool.wanted;
        let of_the_files =
            |generation: u32| generation == base || pool.alike.contains_key(&generation);
        // A failure shows that the files are others now; so does anybody who was made from them since.
        let shown = |generation: u32, last: u64| {
            generation == tried && !matches!(failure.cause, Cause::Cancelled | Cause::After(_))
                || serving
                    .iter()
                    .any(|(id, _, generation)| *id > last && of_the_files(*generation))
        };
        let newest = pool
            .alike
            .iter()
            .filter(|(of, last)| shown(**of, **last))
            .map(|(_, last)| *last)
            .max();
        let stuck = failure.mixed.then_some(after);
        let outdated = pool.outdated.max(newest).max(stuck);
        let in_place = pool.alike.contains_key(&tried);
        let wanted = pool.policy.count;
        let Some(pool) = self.pools.get_mut(&id) else {
            return Standing::default();
        };
        pool.outdated = outdated;
        pool.alike
            .retain(|generation, _| serving.iter().any(|(_, _, of)| of == generation));
        let mut others: Vec<(Place, Generation)> = serving
            .iter()
            .filter(|(_, _, generation)| *generation != base)
            .map(|(_, slot, generation)| (Place(*slot), Generation(*generation)))
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
