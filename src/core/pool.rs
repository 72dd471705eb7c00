//! What is known of one pool. `reconcile.rs` compares it with what is wanted.

use crate::essential::UnreadySince;
use crate::generations::History;
use crate::replace::Replacements;
use crate::roll::{LastRoll, Phase, Roll};
use crate::starting::StartLoad;
#[cfg(doc)]
use crate::worker::EARLY_DEATH;
use crate::{Exit, Generation, Policy, Slot, Ticket, Time, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// Whether the pool is wanted at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Running,
    /// Everything stops, and this one serves until those that need it have stopped; nobody new is started.
    AwaitingDependents,
    Stopping,
    Stopped,
}

/// Policy `never`, or `on-failure` after an end: the slot stays empty until a person acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    Failed,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SlotState {
    pub(crate) current: Option<WorkerId>,
    pub(crate) successor: Option<WorkerId>,
    /// Deaths in a row that count, and how many of them were followed by a delay.
    pub(crate) deaths: u32,
    pub(crate) delays: u32,
    /// Ends in a row before ready: they are no failures, but nobody should wait for the next one.
    pub(crate) early_exits: u32,
    /// The first death of the row, where its worker had been ready for a while: it counts for a crash loop only once
    /// the slot fails again.
    pub(crate) first_death: Option<Time>,
    pub(crate) not_before: Option<Time>,
    pub(crate) ended: Option<Ended>,
    /// Starts after deaths that nobody asked for.
    pub(crate) restarts: u32,
    pub(crate) restart_due: bool,
    /// Workers of this slot that are leaving and not gone; those of them that were asked to, the lost left out.
    pub(crate) leaving: u32,
    pub(crate) stopping_workers: u32,
}

impl SlotState {
    /// Forgets what went wrong here: a person has acted, or a new generation has proved itself.
    fn reset(&mut self) {
        self.not_before = None;
        self.ended = None;
        self.early_exits = 0;
        self.reset_deaths();
    }

    /// No death counts any more.
    pub(crate) fn reset_deaths(&mut self) {
        self.deaths = 0;
        self.delays = 0;
        self.first_death = None;
    }
}

/// A death that counts for a crash loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EarlyDeath {
    pub(crate) at: Time,
    /// The worker had been ready for longer than [`EARLY_DEATH`].
    pub(crate) late: bool,
}

/// The pool crash-loops: one slot tries, the other empty ones wait for its success.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Breaker {
    pub(crate) probe: Slot,
    pub(crate) since: Time,
    /// A worker that has become ready since; at that time it counts as a success.
    pub(crate) candidate: Option<WorkerId>,
    /// Workers have died that had been ready for longer than [`EARLY_DEATH`]: only one that stays for `stable_after` shows
    /// that this is over.
    pub(crate) late: bool,
    /// Such a loop goes on, but the candidate has served for [`EARLY_DEATH`]: the others are started as well.
    pub(crate) open: bool,
}

impl Breaker {
    /// One at a time: not beside one that is starting, nor while one that is ready may prove that all is well. Where
    /// workers fail late, a slot's first death is repaired like any other first death.
    pub(crate) fn allows(&self, slot: Slot, deaths: u32, trying: u32) -> bool {
        let is_turn = self.probe == slot && trying == 0 && self.candidate.is_none();
        is_turn || self.open || self.late && deaths <= 1
    }
}

#[derive(Clone)]
pub(crate) struct Pool {
    pub(crate) policy: Policy,
    pub(crate) activity: Activity,
    pub(crate) slots: Vec<SlotState>,
    /// The newest generation ever made; the one that slots are filled with; the last that served in full.
    pub(crate) latest: Generation,
    pub(crate) target: Generation,
    pub(crate) last_good: Generation,
    pub(crate) history: History,
    /// It is not wanted any more: forgotten once nothing of it is left.
    pub(crate) removed: bool,
    /// Its workers may start: nobody it waits for is left. Never taken back until it is stopped.
    pub(crate) begun: bool,
    /// Every wanted worker has been ready at once since then.
    pub(crate) up: bool,
    pub(crate) replacements: Replacements,
    pub(crate) unready_since: Option<UnreadySince>,
    /// Generations that are made from exactly what the wanted one is made from (a folder that is changed in place):
    /// each with the last worker that was there before its rolling restart began.
    pub(crate) same_source: BTreeMap<Generation, WorkerId>,
    /// Workers up to this one are older than what they would be made from now.
    pub(crate) outdated: Option<WorkerId>,
    /// How the last worker ended whose slot stays empty, and whether that was a failure: one of those outlasts ends
    /// that are none.
    pub(crate) ended_with: Option<(Option<Exit>, Ended)>,
    /// The end of an essential pool has been told.
    pub(crate) end_reported: bool,
    pub(crate) roll: Option<Roll>,
    pub(crate) waiting: Option<Vec<Ticket>>,
    pub(crate) last: LastRoll,
    pub(crate) breaker: Option<Breaker>,
    /// The last deaths that count for a crash loop, as many as would make one, in the order of time.
    pub(crate) early_deaths: VecDeque<EarlyDeath>,
    /// Every wanted worker has been ready at once since the last change.
    pub(crate) full: bool,
    /// Slots that have ended well.
    done: u32,
    /// Counted as they change: workers that live, that serve, that got their stop and still finish, slots with a
    /// successor.
    pub(crate) alive: u32,
    /// Lives, or something of its tree does; not counting what the kernel could not end.
    pub(crate) present: u32,
    pub(crate) serving: u32,
    /// Successors among those that serve.
    pub(crate) ready_successors: u32,
    pub(crate) draining: u32,
    pub(crate) successors: u32,
    /// Workers that are awaited in an empty slot.
    pub(crate) starting: u32,
    /// All that are starting in an empty slot.
    pub(crate) trying: u32,
    /// Asked to leave, and something of them is still there; the lost left out.
    pub(crate) stopping_workers: u32,
    /// Empty slots that would have their worker, but for the promised ceiling: one that was given up there before it was
    /// ready is not gone.
    pub(crate) ceiling_waiters: BTreeSet<Slot>,
    /// Workers whose listening socket was replaced and that finish what they have, by their slot.
    pub(crate) unreachable: BTreeSet<(Slot, WorkerId)>,
    pub(crate) serving_of: BTreeMap<Generation, u32>,
    pub(crate) start_load: StartLoad,
}

impl Pool {
    pub(crate) fn new(policy: Policy) -> Self {
        let mut pool = Self {
            policy,
            activity: Activity::Running,
            slots: Vec::new(),
            latest: Generation(1),
            target: Generation(1),
            last_good: Generation::NONE,
            history: History::default(),
            removed: false,
            begun: false,
            up: false,
            replacements: Replacements::default(),
            unready_since: None,
            same_source: BTreeMap::new(),
            outdated: None,
            ended_with: None,
            end_reported: false,
            roll: None,
            waiting: None,
            last: LastRoll::default(),
            breaker: None,
            early_deaths: VecDeque::new(),
            full: false,
            done: 0,
            alive: 0,
            present: 0,
            serving: 0,
            ready_successors: 0,
            draining: 0,
            successors: 0,
            starting: 0,
            trying: 0,
            stopping_workers: 0,
            ceiling_waiters: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            serving_of: BTreeMap::new(),
            start_load: StartLoad::default(),
        };
        pool.history.record_policy(Generation(1), &pool.policy);
        pool.fit();
        pool
    }

    /// Makes room for `count` slots; surplus ones stay until their workers are gone.
    pub(crate) fn fit(&mut self) {
        let count = self.policy.count as usize;
        if self.slots.len() < count {
            self.slots.resize(count, SlotState::default());
        }
        while self.slots.len() > count {
            match self.slots.last() {
                Some(slot) if slot.current.is_none() && slot.successor.is_none() && slot.leaving == 0 => {
                    self.slots.pop();
                }
                _ => break,
            }
        }
    }

    /// Early deaths that make a crash loop: half of the pool, at least two.
    pub(crate) fn breaker_limit(&self) -> usize {
        (self.policy.count.div_ceil(2) as usize).max(2)
    }

    /// One more early death, in its place.
    pub(crate) fn remember_early(&mut self, death: EarlyDeath) {
        let index = self.early_deaths.partition_point(|known| known.at <= death.at);
        self.early_deaths.insert(index, death);
        while self.early_deaths.len() > self.breaker_limit() {
            self.early_deaths.pop_front();
        }
    }

    /// One more successor keeps the promised ceiling, also once every empty slot has its worker.
    pub(crate) fn has_room(&self) -> bool {
        let above = self.max_above_count();
        self.alive < self.policy.count.saturating_add(above) && self.successors + self.draining < above
    }

    /// So many empty slots have to wait for the sake of the promised ceiling.
    pub(crate) fn over_ceiling(&self) -> usize {
        (self.successors + self.draining).saturating_sub(self.max_above_count()) as usize
    }

    /// So many workers above `count` are promised to be the most.
    fn max_above_count(&self) -> u32 {
        self.policy.reload.surge.saturating_add(self.policy.reload.max_draining)
    }

    /// The roll fills this slot itself, when its turn has come.
    pub(crate) fn is_left_to_roll(&self, slot: Slot) -> bool {
        self.roll.as_ref().is_some_and(|roll| {
            let is_new = roll.phase == Phase::Canary && roll.added.contains(&slot.0);
            is_new || roll.emptied.is_some_and(|(emptied, _)| emptied == slot)
        })
    }

    /// The generation that an empty slot is filled with.
    pub(crate) fn fill_generation(&self) -> Generation {
        self.roll.as_ref().map_or(self.target, Roll::fill_generation)
    }

    pub(crate) fn may_drain(&self) -> bool {
        self.draining < self.policy.reload.max_draining.max(1)
    }

    /// A rolling restart may stop a worker that serves without going below what is promised: the others are enough, or
    /// whoever is missing is not about to come.
    pub(crate) fn can_spare_one(&self) -> bool {
        let floor = if self.policy.reload.surge == 0 { self.policy.count } else { self.policy.count + 1 };
        self.serving >= floor
            || self.starting == 0 && self.start_load.slots.is_empty() && self.ceiling_waiters.is_empty()
    }

    /// Every wanted slot has a worker that serves.
    pub(crate) fn is_full(&self) -> bool {
        self.serving - self.ready_successors >= self.wanted_slots()
    }

    pub(crate) fn wanted_slots(&self) -> u32 {
        self.policy.count - self.done
    }

    pub(crate) fn set_ended(&mut self, slot: Slot, ended: Option<Ended>) {
        let Some(slot_state) = self.slots.get_mut(slot.0 as usize) else { return };
        let before = core::mem::replace(&mut slot_state.ended, ended);
        if slot.0 < self.policy.count {
            self.done -= u32::from(before == Some(Ended::Done));
            self.done += u32::from(ended == Some(Ended::Done));
        }
    }

    /// Another number of slots. One that is not wanted any more forgets its past: if it comes back, it is a new one.
    pub(crate) fn resize(&mut self, count: u32) {
        self.policy.count = count;
        self.full = false;
        self.slots.iter_mut().skip(count as usize).for_each(SlotState::reset);
        self.fit();
        self.done = self.slots.iter().take(count as usize).filter(|s| s.ended == Some(Ended::Done)).count() as u32;
    }

    /// Slots that stay empty until a person acts may be filled again.
    pub(crate) fn reset_ended_slots(&mut self) {
        self.done = 0;
        self.ended_with = None;
        self.slots.iter_mut().filter(|slot| slot.ended.is_some()).for_each(SlotState::reset);
    }

    pub(crate) fn reset_all_slots(&mut self) {
        self.done = 0;
        self.ended_with = None;
        self.slots.iter_mut().for_each(SlotState::reset);
    }
}
