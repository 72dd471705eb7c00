//! State that survives the master: the engine between two inputs, written down and read again. The supervisor saves it
//! now and then ([`Engine::save`]) and records each input before it hands it in. After its death the next master reads
//! the state ([`Engine::restore`]), hands in again what was recorded since ([`Engine::replay`]), and executes what is
//! left of the last output ([`Output::rest`]). The engine is pure, so all that is the same again.
//!
//! What follows from the workers is not written: counters, the workers of slots, the workers' deadlines. `restore`
//! rebuilds it and refuses a state that contradicts itself, so that a damaged one cannot make the engine panic.
//!
//! Two neighbouring versions of rotad read each other's states, since an upgrade may have to go back:
//!
//! - A field that is added has `#[serde(default)]`, with a default that means what the version before did. The version
//!   before ignores it.
//! - A field that is removed gets `#[serde(default)]` in one version and is removed in the next.
//! - A field that changes its meaning or its type gets a new name: it is one that is added and one that is removed.
//! - A variant of an enum is added in one version that reads it and never writes it, and written from the next one on:
//!   an unknown variant is an error.
//! - A derived field that is written after all, or the other way round, is one that is added or removed.

use crate::engine::Share;
use crate::pool::Pool;
use crate::starting::StartLimiter;
use crate::timers::{Deadlines, Key};
use crate::waiters::Waiters;
use crate::worker::{Role, State, Worker};
use crate::{Engine, Generation, Input, Output, PoolId, PoolKind, Ticket, Time, WorkerId};
use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// No counter comes near this: adding to it never overflows.
const MOST: u32 = 1 << 30;

/// For serde: what has its first value is left out, since a snapshot has many slots and workers.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The state of an engine between two inputs, as it is written and read: [`Engine::save`], [`Engine::restore`].
#[derive(Serialize, Deserialize)]
pub struct SavedEngine<'a> {
    now: Time,
    last_worker: u64,
    stopping: bool,
    left: bool,
    pools: Cow<'a, BTreeMap<PoolId, Pool>>,
    workers: Cow<'a, BTreeMap<WorkerId, Worker>>,
    /// Without those of workers.
    deadlines: Vec<(Key, Time)>,
    start_limiter: Cow<'a, StartLimiter>,
    waiters: Cow<'a, Waiters>,
}

/// Why a saved state cannot be continued from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreError(String);

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for RestoreError {}

macro_rules! require {
    ($truth:expr, $($text:tt)*) => {
        if !$truth {
            return Err(RestoreError(format!($($text)*)));
        }
    };
}

impl Engine {
    /// The state between two inputs, to be written by a serializer; nothing is copied but a few deadlines.
    pub fn save(&self) -> SavedEngine<'_> {
        let deadlines = self.deadlines.iter();
        SavedEngine {
            now: self.now,
            last_worker: self.last_worker,
            stopping: self.stopping,
            left: self.left,
            pools: Cow::Borrowed(&self.pools),
            workers: Cow::Borrowed(&self.workers),
            deadlines: deadlines
                .filter(|(key, _)| !matches!(key, Key::Worker(_)))
                .collect(),
            start_limiter: Cow::Borrowed(&self.start_limiter),
            waiters: Cow::Borrowed(&self.waiters),
        }
    }

    /// The engine that was saved. Its clock stands where it stood: no time has passed for it.
    ///
    /// # Errors
    /// The state contradicts itself; the text says where.
    pub fn restore(saved: SavedEngine<'_>) -> Result<Self, RestoreError> {
        let mut engine = Self {
            now: saved.now,
            pools: saved.pools.into_owned(),
            workers: BTreeMap::new(),
            deadlines: Deadlines::default(),
            dirty_slots: BTreeSet::new(),
            dirty_pools: BTreeSet::new(),
            held: BTreeSet::new(),
            start_limiter: saved.start_limiter.into_owned(),
            stopping: saved.stopping,
            left: saved.left,
            waiters: saved.waiters.into_owned(),
            out: Output::default(),
            last_worker: saved.last_worker,
        };
        require!(
            saved.last_worker < u64::MAX / 2,
            "the last worker has number {}",
            saved.last_worker
        );
        engine.start_limiter.check()?;
        for (id, pool) in &engine.pools {
            pool.check(*id, WorkerId(saved.last_worker))?;
        }
        let workers = saved.workers.into_owned();
        for (id, worker) in &workers {
            engine.check_worker(*id, worker)?;
            engine.enter(*id, worker)?;
        }
        engine.workers = workers;
        for (id, pool) in &mut engine.pools {
            pool.count_slots();
            engine.start_limiter.rebuild_wait(*id, &pool.start_load);
            if pool.is_held() {
                engine.held.insert(*id);
            }
        }
        for (key, at) in saved.deadlines {
            engine.check_deadline(key)?;
            engine.deadlines.set(key, Some(at));
        }
        engine.check_tickets()?;
        Ok(engine)
    }

    /// Hands in again, in their order, what was recorded since this state was saved. Returns the last output; what the
    /// ones before said was done by the master that has died.
    ///
    /// # Errors
    /// The times of the inputs run backwards.
    pub fn replay(
        &mut self,
        recorded: impl IntoIterator<Item = (Time, Input)>,
    ) -> Result<Output, RestoreError> {
        let mut last = Output::default();
        for (at, input) in recorded {
            require!(
                at >= self.now,
                "an input was recorded at {at}, before {}",
                self.now
            );
            last = self.handle(at, input);
        }
        Ok(last)
    }

    fn check_worker(&self, id: WorkerId, worker: &Worker) -> Result<(), RestoreError> {
        require!(
            id.0 >= 1 && id.0 <= self.last_worker,
            "worker {id} is newer than the last one, {}",
            self.last_worker
        );
        let Some(pool) = self.pools.get(&worker.pool) else {
            return Err(RestoreError(format!(
                "worker {id} is of pool {}, which does not exist",
                worker.pool
            )));
        };
        require!(
            (worker.slot.0 as usize) < pool.slots.len(),
            "worker {id} is in slot {}, which pool {} does not have",
            worker.slot,
            worker.pool
        );
        require!(
            worker.generation != Generation::NONE && worker.generation <= pool.latest,
            "worker {id} is of generation {}, the latest of pool {} is {}",
            worker.generation,
            worker.pool,
            pool.latest
        );
        require!(
            worker.began <= self.now,
            "worker {id} was spawned at {}, and it is {}",
            worker.began,
            self.now
        );
        let is_leaving = worker.role == Role::Leaving;
        require!(
            worker.is_leaving() == is_leaving,
            "worker {id} is {:?} in state {:?}",
            worker.role,
            worker.state
        );
        let is_tree = matches!(
            worker.state,
            State::StoppingTree { .. } | State::KillingTree { .. }
        );
        require!(
            is_tree == worker.exit.is_some(),
            "worker {id} is in state {:?}, its exit is {:?}",
            worker.state,
            worker.exit
        );
        require!(
            worker.demand <= MOST,
            "worker {id} has a demand of {}",
            worker.demand
        );
        if let State::Stopping { step, .. } | State::StoppingTree { step, .. } = worker.state {
            require!(
                step < worker.stop.len(),
                "worker {id} is at stop step {step} of {}",
                worker.stop.len()
            );
        }
        Ok(())
    }

    /// Counts a worker, and puts it into its slot.
    fn enter(&mut self, id: WorkerId, worker: &Worker) -> Result<(), RestoreError> {
        let share = Share::of(worker);
        self.deadlines.set(Key::Worker(id), worker.deadline());
        self.start_limiter.shift(0, share.demand);
        let Some(pool) = self.pools.get_mut(&worker.pool) else {
            return Ok(());
        };
        pool.apply(worker, Share::default(), share, self.now);
        let Some(slot_state) = pool.slots.get_mut(worker.slot.0 as usize) else {
            return Ok(());
        };
        let place = match worker.role {
            Role::Current => &mut slot_state.current,
            Role::Successor => {
                pool.successors += 1;
                &mut slot_state.successor
            }
            Role::Leaving => {
                slot_state.leaving += 1;
                return Ok(());
            }
        };
        if let Some(other) = place.replace(id) {
            return Err(RestoreError(format!(
                "workers {other} and {id} are both {:?} in slot {} of pool {}",
                worker.role, worker.slot, worker.pool
            )));
        }
        Ok(())
    }

    fn check_deadline(&self, key: Key) -> Result<(), RestoreError> {
        let pool = |id: &PoolId| self.pools.get(id);
        let exists = match &key {
            Key::Worker(_) => false,
            Key::Slot(id, slot) => pool(id).is_some_and(|p| (slot.0 as usize) < p.slots.len()),
            Key::Start(id) => self.waiters.awaits_start(*id),
            Key::Essential(id) => pool(id).is_some_and(|p| p.unready_since.is_some()),
            Key::Breaker(id) => pool(id).is_some_and(|p| p.breaker.is_some()),
            Key::Roll(id) => pool(id).is_some_and(|p| p.roll.is_some()),
            Key::Cap => self.stopping,
        };
        require!(exists, "a deadline of {key:?}, which does not exist");
        Ok(())
    }

    /// Each ticket waits in one place.
    fn check_tickets(&self) -> Result<(), RestoreError> {
        let mut seen = BTreeSet::new();
        let of_pools = self.pools.values().flat_map(Pool::tickets);
        for ticket in of_pools.chain(self.waiters.tickets()) {
            require!(
                seen.insert(ticket.number),
                "ticket {ticket} waits in two places"
            );
        }
        for id in self.waiters.pools() {
            require!(
                self.pools.contains_key(&id),
                "a request waits for pool {id}, which does not exist"
            );
        }
        Ok(())
    }
}

impl Pool {
    fn check(&self, id: PoolId, last_worker: WorkerId) -> Result<(), RestoreError> {
        let count = self.policy.count;
        require!(
            self.slots.len() >= count as usize && self.slots.len() < MOST as usize,
            "pool {id} has {} slots, and {count} workers are desired",
            self.slots.len()
        );
        let is_oneshot = self.policy.kind == PoolKind::Oneshot;
        require!(
            !is_oneshot || count == 1,
            "oneshot {id} has {count} desired workers"
        );
        let latest = self.latest;
        require!(
            latest != Generation::NONE && latest.0 < MOST,
            "pool {id} has generation {latest}"
        );
        let roll = self.roll.iter();
        let of_roll = roll.flat_map(|roll| [roll.generation, roll.base]);
        let known = [self.target, self.last_good].into_iter().chain(of_roll);
        for generation in known.chain(self.history.all()) {
            require!(
                generation <= latest,
                "pool {id} has generation {generation}, the latest is {latest}"
            );
        }
        let candidate = self.breaker.and_then(|breaker| breaker.candidate);
        let of_roll = self
            .roll
            .iter()
            .flat_map(|roll| roll.canary.into_iter().chain([roll.after]));
        let known = candidate.into_iter().chain(of_roll).chain(self.outdated);
        for worker in known.chain(self.replacements.workers()) {
            require!(
                worker <= last_worker,
                "pool {id} knows worker {worker}, the last one is {last_worker}"
            );
        }
        let numbers = self.slots.iter().map(|slot| slot.restarts);
        let of_roll = self
            .roll
            .iter()
            .flat_map(|r| [r.of, r.replaced, r.added.end]);
        let limits = [self.policy.reload.surge, self.policy.reload.max_draining];
        for number in numbers.chain(of_roll).chain(limits) {
            require!(number < MOST, "pool {id} counts {number}");
        }
        Ok(())
    }

    /// The tickets of its rolling restarts and replacements.
    fn tickets(&self) -> impl Iterator<Item = Ticket> + '_ {
        let roll = self.roll.iter();
        let of_roll = roll.flat_map(|roll| roll.tickets.iter().chain(&roll.cancellers));
        let waiting = self.waiting.iter().flatten();
        of_roll
            .chain(waiting)
            .copied()
            .chain(self.replacements.tickets())
    }
}

impl StartLimiter {
    fn check(&self) -> Result<(), RestoreError> {
        let processors = self.processors();
        require!(
            (1..=1 << 16).contains(&processors),
            "a machine with {processors} processors"
        );
        Ok(())
    }
}

impl Output {
    /// What is left of an output of which this many commands have been executed: without those, and without the
    /// notices before the last of them.
    pub fn rest(mut self, executed: usize) -> Self {
        let mut commands = 0;
        let done = self.entries.iter().take_while(|entry| {
            let goes_on = commands < executed;
            commands += usize::from(matches!(entry, crate::Entry::Command(_)));
            goes_on
        });
        let done = done.count();
        self.entries.drain(..done);
        self
    }
}
