//! The state of one rolling restart of one pool, from its request to its single outcome.
//!
//! | phase       | fills slots with                                   | worker ready                         | new worker fails                     | all slots done                                          | roll request                                        | cancel                                              |
//! |-------------|----------------------------------------------------|--------------------------------------|--------------------------------------|---------------------------------------------------------|-----------------------------------------------------|-----------------------------------------------------|
//! | Canary      | one slot: the new generation; the others: the base | canary: soaks, then Wave             | `on_failure`: RollingBack or Aborted | Done                                                    | superseded, or waits once an old worker was stopped | RollingBack or Aborted                              |
//! | Wave        | the new generation                                 | slot done; the old worker is stopped | `on_failure`: RollingBack or Aborted | Done, after workers ready only by age have been watched | as Canary                                           | RollingBack or Aborted                              |
//! | RollingBack | the base                                           | slot is back                         | a base worker fails: Aborted, mixed  | RolledBack, or Aborted if slots of the same files stay  | waits                                               | answered with this outcome, or already rolling back |
//!
//! A reconfiguration, a rollback request and a stop supersede every phase. The failure of an old worker fails
//! nothing: its slot is filled again. A rolling restart that has not begun waits for those of the pools in `after`,
//! and fails with them.

use crate::slot_queue::SlotQueue;
use crate::{Failure, Generation, Slot, Span, Ticket, Time, WorkerId};
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Phase {
    /// One worker of the new generation, alone, until it has passed its soak.
    Canary,
    /// Slot after slot, `surge` at a time.
    Wave,
    /// The new generation has failed: slots already done go back.
    RollingBack(Failure),
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Roll {
    pub(crate) generation: Generation,
    /// Workers with a higher number were spawned during this rolling restart.
    pub(crate) after: WorkerId,
    /// The generation that served before, and serves again if this one fails.
    pub(crate) base: Generation,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) began: Time,
    pub(crate) phase: Phase,
    pub(crate) canary: Option<WorkerId>,
    /// Slots that have had no ready new worker yet; in `RollingBack`, slots that still have to go back.
    pub(crate) pending: BTreeSet<Slot>,
    /// The order in which slots get their successor: empty slots first, then the oldest worker.
    pub(crate) todo: VecDeque<Slot>,
    /// Slots with a ready successor that waits for `max_draining` to allow the old worker's stop.
    pub(crate) queued: SlotQueue,
    /// Slots added by the reconfiguration that this roll carries out: they start with the new generation.
    pub(crate) added: Range<u32>,
    /// Surge 0: the slot that was emptied, and the worker that must be gone before it is filled.
    pub(crate) emptied: Option<(Slot, Option<WorkerId>)>,
    /// It has asked an old worker to stop: from here on a new request waits.
    pub(crate) retired_any: bool,
    /// It has replaced or started a worker. Until then it waits for the rolling restarts of pools that its pool comes
    /// after.
    pub(crate) begun: bool,
    /// The wait for other pools has been reported.
    pub(crate) wait_reported: bool,
    pub(crate) replaced: u32,
    pub(crate) of: u32,
    /// Requests that cancelled it; they get its outcome.
    pub(crate) cancellers: Vec<Ticket>,
    /// New workers that are ready only by age, and until when each is watched before the roll is done.
    pub(crate) watched: BTreeSet<(Time, WorkerId)>,
    /// Slots in which a new worker has exited successfully: they need no longer be watched.
    pub(crate) ended_well: BTreeSet<Slot>,
    /// The canary has exited successfully: no other worker has to soak.
    pub(crate) canary_ended_well: bool,
    /// The watching has been reported.
    pub(crate) watch_reported: bool,
}

impl Roll {
    /// Whether a worker is of the new generation and was spawned by this roll. In a rollback, other workers of that
    /// generation may have served before.
    pub(crate) fn is_fresh(&self, id: WorkerId, generation: Generation) -> bool {
        generation == self.generation && id > self.after
    }

    /// A new worker is ready only by age: the roll is not done before `until`.
    pub(crate) fn watch(&mut self, id: WorkerId, generation: Generation, slot: Slot, until: Time) {
        let back = matches!(self.phase, Phase::RollingBack(_));
        if !back && self.is_fresh(id, generation) && !self.ended_well.contains(&slot) {
            self.watched.insert((until, id));
        }
    }

    /// The generation that slots are being moved to in this phase.
    pub(crate) fn goal(&self) -> Generation {
        match self.phase {
            Phase::Canary | Phase::Wave => self.generation,
            Phase::RollingBack(_) => self.base,
        }
    }

    /// A worker that was of the new generation before the roll is gone: its slot must be done like any other.
    pub(crate) fn add_slot(&mut self, slot: Slot) {
        if self.pending.insert(slot) {
            self.of += 1;
        }
        self.todo.push_back(slot);
    }

    /// The generation that a slot is filled with when its worker dies: the old one until the canary has soaked.
    pub(crate) fn fill_generation(&self) -> Generation {
        match self.phase {
            Phase::Wave => self.generation,
            Phase::Canary | Phase::RollingBack(_) => self.base,
        }
    }
}

/// How the latest rolling restart went, for the view.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct LastRoll {
    pub(crate) state: RollState,
    pub(crate) generation: u32,
    pub(crate) failure: Option<Failure>,
    pub(crate) replaced: u32,
    pub(crate) of: u32,
    pub(crate) took: Span,
}

/// State of the latest rolling restart; `reload.state` in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RollState {
    /// There was none yet.
    #[default]
    None,
    /// It is running, or going back.
    Running,
    /// Every worker is of the new generation.
    Done,
    /// It has failed or was cancelled; slots that were replaced keep their new workers.
    Aborted,
    /// It has failed or was cancelled; every worker is of the old generation again.
    RolledBack,
    /// Another request took its place.
    Superseded,
}

impl RollState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::None,
        Self::Running,
        Self::Done,
        Self::Aborted,
        Self::RolledBack,
        Self::Superseded,
    ];

    /// Its name in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::RolledBack => "rolled-back",
            Self::Superseded => "superseded",
        }
    }
}
