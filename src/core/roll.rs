//! One rolling restart of one pool, from the wish to its one outcome.

use crate::{Failure, Generation, Slot, Span, Ticket, Time, WorkerId};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// One worker of the new generation, alone, until it has soaked.
    Canary,
    /// Slot after slot, `surge` at a time.
    Wave,
    /// The new generation failed: slots already done go back.
    RollingBack(Failure),
}

#[derive(Clone, Debug)]
pub(crate) struct Roll {
    pub(crate) generation: Generation,
    /// Workers above this one were born during this roll.
    pub(crate) after: WorkerId,
    /// What served before, and serves again if this fails.
    pub(crate) base: Generation,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) began: Time,
    pub(crate) phase: Phase,
    pub(crate) canary: Option<WorkerId>,
    /// Slots without a new worker that has been ready yet; in `Back`: slots that still have to go back.
    pub(crate) pending: BTreeSet<Slot>,
    /// The order in which slots get their successor: empty ones, then the oldest worker first.
    pub(crate) todo: VecDeque<Slot>,
    /// Successors that are ready and wait for room among the draining.
    pub(crate) queued: VecDeque<Slot>,
    /// Slots that came with the change that this roll carries out: they start with the new generation.
    pub(crate) added: Range<u32>,
    /// Surge 0: the slot that was emptied, and the worker that has to be gone before it is filled.
    pub(crate) emptied: Option<(Slot, Option<WorkerId>)>,
    /// It has asked an old worker to stop: from here on a new wish waits.
    pub(crate) retired_any: bool,
    /// It has touched somebody: until then it waits for the rolls of pools that its own comes after.
    pub(crate) begun: bool,
    /// That it waits has been told.
    pub(crate) wait_reported: bool,
    pub(crate) replaced: u32,
    pub(crate) of: u32,
    /// Those who cancelled it: they hear of its end.
    pub(crate) cancellers: Vec<Ticket>,
    /// New workers that are ready for their age alone, and how long each has to live before the roll is done.
    pub(crate) watched: BTreeSet<(Time, WorkerId)>,
    /// Slots in which a new worker has come to a good end: that says more than an age.
    pub(crate) ended_well: BTreeSet<Slot>,
    /// The first new worker has come to a good end: nobody else has to soak.
    pub(crate) canary_ended_well: bool,
    /// It was told that the new workers are watched.
    pub(crate) watch_reported: bool,
}

impl Roll {
    /// Of the new generation, and made by this roll: on the way back to an older one, some may have served before.
    pub(crate) fn is_fresh(&self, id: WorkerId, generation: Generation) -> bool {
        generation == self.generation && id > self.after
    }

    /// A new worker is ready for its age alone: the roll is not done before `until`.
    pub(crate) fn watch(&mut self, id: WorkerId, generation: Generation, slot: Slot, until: Time) {
        let back = matches!(self.phase, Phase::RollingBack(_));
        if !back && self.is_fresh(id, generation) && !self.ended_well.contains(&slot) {
            self.watched.insert((until, id));
        }
    }

    /// The generation that this phase fills a slot with.
    pub(crate) fn goal(&self) -> Generation {
        match self.phase {
            Phase::Canary | Phase::Wave => self.generation,
            Phase::RollingBack(_) => self.base,
        }
    }

    /// A worker that had been of the new generation before the roll is gone: its slot is to be done like any other.
    pub(crate) fn add_slot(&mut self, slot: Slot) {
        if self.pending.insert(slot) {
            self.of += 1;
        }
        self.todo.push_back(slot);
    }

    /// What an emptied slot is repaired with: the old generation until the first new one has soaked.
    pub(crate) fn fill_generation(&self) -> Generation {
        match self.phase {
            Phase::Wave => self.generation,
            Phase::Canary | Phase::RollingBack(_) => self.base,
        }
    }
}

/// How the last one went, for the view.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastRoll {
    pub(crate) state: RollState,
    pub(crate) generation: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) replaced: u32,
    pub(crate) of: u32,
    pub(crate) took: Span,
}

/// `reload.state` of the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollState {
    #[default]
    None,
    Running,
    Done,
    Aborted,
    RolledBack,
    Superseded,
}
