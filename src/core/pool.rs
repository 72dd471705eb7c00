//! The state of one pool: its slots, generations and counters. `requests.rs` and `lifecycle.rs` change it,
//! `reconcile.rs` compares it with the policy and closes the gap.
//!
//! What each request does in each activity (`begun` false: the pool runs but waits for the pools in `after`):
//!
//! | activity           | start, ensure | stop     | remove              | roll                         | reconfigure                     | roll back                   | replace          | scale        | stop of everything |
//! |--------------------|---------------|----------|---------------------|------------------------------|---------------------------------|-----------------------------|------------------|--------------|--------------------|
//! | Running, not begun | policy        | Stopping | Stopping, then gone | begins with a new generation | begins with a new generation    | begins with that generation | nothing: empty   | slots change | Stopping           |
//! | Running            | fill slots    | Stopping | Stopping, then gone | rolling restart              | rolling restart                 | rolling restart             | one replacement  | slots change | AwaitingDependents |
//! | AwaitingDependents | refused       | Stopping | Stopping, then gone | superseded                   | superseded                      | superseded                  | superseded       | slots change |                    |
//! | Stopping           | Running       |          | then gone           | superseded                   | policy only; Running if removed | superseded                  | superseded       | slots change |                    |
//! | Stopped            | Running       |          | gone                | nothing: stopped             | policy only                     | nothing: stopped            | nothing: stopped | slots change |                    |
//!
//! AwaitingDependents becomes Stopping once no pool that names this one in `after` is running, and Stopping becomes
//! Stopped once nothing is left that the kernel can end. A removed pool is then forgotten.

use crate::activity::Activity;
use crate::essential::UnreadySince;
use crate::generations::History;
use crate::replace::Replacements;
use crate::roll::{LastRoll, Phase, Roll};
use crate::slot::{Ended, SlotState, Tally};
use crate::starting::StartLoad;
#[cfg(doc)]
use crate::worker::EARLY_DEATH;
use crate::{Exit, Generation, Policy, Slot, Ticket, Time, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

/// A death that counts for a crash loop.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct EarlyDeath {
    pub(crate) at: Time,
    /// The worker had been ready for longer than [`EARLY_DEATH`].
    pub(crate) late: bool,
}

/// The pool is in a crash loop: one slot tries, the other empty slots wait for its success.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Breaker {
    pub(crate) probe: Slot,
    pub(crate) since: Time,
    /// A worker that became ready since the loop began. When the breaker's deadline comes and it still serves, it
    /// counts as a success.
    pub(crate) candidate: Option<WorkerId>,
    /// Some of the workers that died had been ready for longer than [`EARLY_DEATH`]: only a worker that is ready for
    /// `stable_after` ends the loop.
    pub(crate) late: bool,
    /// Such a late loop goes on, but the candidate has served for [`EARLY_DEATH`]: the other slots are started too.
    pub(crate) open: bool,
}

impl Breaker {
    /// Whether this slot may try. Only one does: not while another worker is starting, nor while a candidate may end
    /// the loop. Where workers fail late, a slot's first death is repaired as usual.
    pub(crate) fn allows(&self, slot: Slot, deaths: u32, trying: u32) -> bool {
        let is_turn = self.probe == slot && trying == 0 && self.candidate.is_none();
        is_turn || self.open || self.late && deaths <= 1
    }
}

#[derive(Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Pool {
    pub(crate) policy: Policy,
    pub(crate) activity: Activity,
    pub(crate) slots: Vec<SlotState>,
    /// The newest generation ever made; the one that slots are filled with; the last one that was fully rolled out.
    pub(crate) latest: Generation,
    pub(crate) target: Generation,
    pub(crate) last_good: Generation,
    pub(crate) history: History,
    /// The pool is to be forgotten once nothing of it is left.
    pub(crate) removed: bool,
    /// Its workers may start: no pool that it waits for is left. Set until the pool is stopped.
    pub(crate) begun: bool,
    /// Every desired worker has been ready at the same time since the pool began.
    pub(crate) up: bool,
    pub(crate) replacements: Replacements,
    pub(crate) unready_since: Option<UnreadySince>,
    /// Generations that are made from exactly the files of the target generation (a directory that is changed in
    /// place), each with the last worker that existed before its rolling restart began.
    pub(crate) same_source: BTreeMap<Generation, WorkerId>,
    /// Workers up to this one are older than the files that they would be made from now.
    pub(crate) outdated: Option<WorkerId>,
    /// How the last worker of a slot that stays empty ended. A failure is not overwritten by a later success.
    pub(crate) ended_with: Option<(Option<Exit>, Ended)>,
    /// The end of an essential pool has been reported.
    pub(crate) end_reported: bool,
    pub(crate) roll: Option<Roll>,
    /// Requests for a rolling restart that begins when `roll` is over.
    pub(crate) waiting: Option<Vec<Ticket>>,
    pub(crate) last: LastRoll,
    pub(crate) breaker: Option<Breaker>,
    /// The latest deaths that count for a crash loop, oldest first; as many as make one.
    pub(crate) early_deaths: VecDeque<EarlyDeath>,
    /// Every desired worker has been ready at the same time since the last change.
    pub(crate) full: bool,
    /// Of the desired slots.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) tally: Tally,
    /// Counters, updated with every change of a worker.
    ///
    /// | counter          | counts                                                                                   |
    /// |------------------|------------------------------------------------------------------------------------------|
    /// | alive            | workers of which something may still be working; not the lost ones                       |
    /// | present          | workers with any process left; not the lost ones                                         |
    /// | serving          | workers that are ready or soaking                                                        |
    /// | ready_successors | successors among `serving`                                                               |
    /// | draining         | workers among `alive` that were asked to stop                                            |
    /// | successors       | slots that have a successor                                                              |
    /// | trying           | current workers that are starting                                                        |
    /// | starting         | those of `trying` whose slot has not failed repeatedly: a rolling restart waits for them |
    /// | stopping_workers | workers among `present` that were asked to stop                                          |
    /// | leaving          | workers among `present` that were asked to stop, have exited, or are unreachable         |
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) alive: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) present: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) serving: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) ready_successors: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) draining: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) successors: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) starting: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) trying: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) stopping_workers: u32,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) leaving: u32,
    /// Empty slots that wait for the promised ceiling: a worker that was given up there before it was ready is not
    /// gone yet.
    pub(crate) ceiling_waiters: BTreeSet<Slot>,
    /// Workers whose listening socket was replaced and that finish their work, by slot.
    pub(crate) unreachable: BTreeSet<(Slot, WorkerId)>,
    /// `serving` by generation.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) serving_of: BTreeMap<Generation, u32>,
    /// Since when at least one worker serves, without a gap.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "Option::is_none")
    )]
    pub(crate) serving_since: Option<Time>,
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
            tally: Tally::default(),
            alive: 0,
            present: 0,
            serving: 0,
            ready_successors: 0,
            draining: 0,
            successors: 0,
            starting: 0,
            trying: 0,
            stopping_workers: 0,
            leaving: 0,
            ceiling_waiters: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            serving_of: BTreeMap::new(),
            serving_since: None,
            start_load: StartLoad::default(),
        };
        pool.history.record_policy(Generation(1), &pool.policy);
        pool.fit();
        pool
    }

    /// Adjusts the number of slots to `count`; surplus slots stay until their workers are gone.
    pub(crate) fn fit(&mut self) {
        let count = self.policy.count as usize;
        if self.slots.len() < count {
            self.slots.resize(count, SlotState::default());
        }
        while self.slots.len() > count {
            match self.slots.last() {
                Some(slot)
                    if slot.current.is_none() && slot.successor.is_none() && slot.leaving == 0 =>
                {
                    self.slots.pop();
                }
                _ => break,
            }
        }
    }

    /// How many early deaths make a crash loop: half of the pool, at least two.
    pub(crate) fn breaker_limit(&self) -> usize {
        (self.policy.count.div_ceil(2) as usize).max(2)
    }

    /// Inserts one more early death, in order of time.
    pub(crate) fn remember_early(&mut self, death: EarlyDeath) {
        let index = self
            .early_deaths
            .partition_point(|known| known.at <= death.at);
        self.early_deaths.insert(index, death);
        while self.early_deaths.len() > self.breaker_limit() {
            self.early_deaths.pop_front();
        }
    }

    /// Whether one more successor stays below the promised ceiling, also once every empty slot has its worker.
    pub(crate) fn has_room(&self) -> bool {
        let above = self.max_above_count();
        self.alive < self.policy.count.saturating_add(above)
            && self.successors + self.draining < above
    }

    /// How many empty slots must wait to stay below the promised ceiling.
    pub(crate) fn over_ceiling(&self) -> usize {
        (self.successors + self.draining).saturating_sub(self.max_above_count()) as usize
    }

    /// The promised maximum of workers above `count`.
    fn max_above_count(&self) -> u32 {
        self.policy
            .reload
            .surge
            .saturating_add(self.policy.reload.max_draining)
    }

    /// The rolling restart fills this slot itself when its turn comes.
    pub(crate) fn is_left_to_roll(&self, slot: Slot) -> bool {
        self.roll.as_ref().is_some_and(|roll| {
            let is_new = roll.phase == Phase::Canary && roll.added.contains(&slot.0);
            is_new || roll.emptied.is_some_and(|(emptied, _)| emptied == slot)
        })
    }

    /// The generation that empty slots are filled with.
    pub(crate) fn fill_generation(&self) -> Generation {
        self.roll
            .as_ref()
            .map_or(self.target, Roll::fill_generation)
    }

    pub(crate) fn may_drain(&self) -> bool {
        self.draining < self.policy.reload.max_draining.max(1)
    }

    /// Whether a ready worker may be stopped without going below the guaranteed number: enough others are ready, or
    /// the missing ones are in backoff.
    pub(crate) fn can_spare_one(&self) -> bool {
        let floor = if self.policy.reload.surge == 0 {
            self.policy.count
        } else {
            self.policy.count + 1
        };
        self.serving >= floor
            || self.starting == 0
                && self.start_load.slots.is_empty()
                && self.ceiling_waiters.is_empty()
    }

    /// Every desired slot has a worker that serves.
    pub(crate) fn is_full(&self) -> bool {
        self.serving - self.ready_successors >= self.wanted_slots()
    }

    pub(crate) fn wanted_slots(&self) -> u32 {
        self.policy.count - self.tally.done
    }

    pub(crate) fn set_ended(&mut self, slot: Slot, ended: Option<Ended>) {
        self.change_slot(slot, |slot_state| slot_state.ended = ended);
    }

    /// Changes a slot. What [`Tally`] counts is changed through here, or counted again by [`Pool::count_slots`].
    pub(crate) fn change_slot<T>(
        &mut self,
        slot: Slot,
        with: impl FnOnce(&mut SlotState) -> T,
    ) -> Option<T> {
        let slot_state = self.slots.get_mut(slot.0 as usize)?;
        let before = Tally::of(slot_state);
        let result = with(slot_state);
        if slot.0 < self.policy.count {
            self.tally.take_away(before);
            self.tally.add(Tally::of(slot_state));
        }
        Some(result)
    }

    /// Changes the number of slots. A slot that is scaled away forgets its failures: if it comes back, it starts
    /// fresh.
    pub(crate) fn resize(&mut self, count: u32) {
        self.policy.count = count;
        self.full = false;
        self.slots
            .iter_mut()
            .skip(count as usize)
            .for_each(SlotState::reset);
        self.fit();
        self.count_slots();
    }

    pub(crate) fn count_slots(&mut self) {
        self.tally = Tally::default();
        for slot_state in self.slots.iter().take(self.policy.count as usize) {
            self.tally.add(Tally::of(slot_state));
        }
    }

    /// Lets slots that stay empty until an operator acts be filled again.
    pub(crate) fn reset_ended_slots(&mut self) {
        self.ended_with = None;
        self.slots
            .iter_mut()
            .filter(|slot| slot.ended.is_some())
            .for_each(SlotState::reset);
        self.count_slots();
    }

    pub(crate) fn reset_all_slots(&mut self) {
        self.ended_with = None;
        self.slots.iter_mut().for_each(SlotState::reset);
        self.count_slots();
    }
}
