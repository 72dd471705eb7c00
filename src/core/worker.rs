//! One worker, from its spawn command until nothing of its tree is left.
//!
//! | state        | meaning                                                 | left by                                               |
//! |--------------|---------------------------------------------------------|-------------------------------------------------------|
//! | Starting     | spawn commanded; not ready yet                          | ready, exit, `ready_by`, a stop                       |
//! | Soaking      | ready; the first of its generation, being watched       | `until`, exit, a stop                                 |
//! | Ready        | serves                                                  | exit, a stop                                          |
//! | Unreachable  | its listening socket was replaced; it finishes its work | exit, a stop                                          |
//! | Stopping     | got the signal of stop step n                           | exit; `until` (next step, after the last one SIGKILL) |
//! | StoppingTree | exited during its stop; the rest of its tree may finish | tree gone; `until` (next step, then tree killed)      |
//! | Killing      | got SIGKILL                                             | exit; reported as lost at `give_up`                   |
//! | KillingTree  | exited; the rest of its tree is being killed            | tree gone; reported as lost at `give_up`              |
//!
//! What each input does in each state (an empty cell: nothing; `died` is `restart.rs`, which decides whether the slot
//! is filled again):
//!
//! | state        | Ready            | Unhealthy      | Exited            | SpawnFailed | TreeGone | stop     | kill        | deadline                             |
//! |--------------|------------------|----------------|-------------------|-------------|----------|----------|-------------|--------------------------------------|
//! | Starting     | Ready or Soaking |                | died, KillingTree | died, gone  |          | Stopping | Killing     | by age: as Ready; else died, Killing |
//! | Soaking      | confirms age     | died, Stopping | died, KillingTree | died, gone  |          | Stopping | Killing     | Ready                                |
//! | Ready        | confirms age     | died, Stopping | died, KillingTree | died, gone  |          | Stopping | Killing     |                                      |
//! | Unreachable  |                  |                | KillingTree       | gone        |          | Stopping | Killing     |                                      |
//! | Stopping     |                  |                | StoppingTree      | gone        |          |          | Killing     | next step, else Killing              |
//! | StoppingTree |                  |                |                   |             | gone     |          | KillingTree | next step, else KillingTree          |
//! | Killing      |                  |                | KillingTree       | gone        |          |          |             | lost                                 |
//! | KillingTree  |                  |                |                   |             | gone     |          |             | lost                                 |

use crate::generations::ReadyPolicy;
use crate::{Exit, Generation, PoolId, Readiness, Slot, Span, StopStep, Time, WorkerId};
use alloc::vec::Vec;

/// How long the kernel has to end a process after SIGKILL before the worker is reported as lost. It fits into the
/// second that a stop may take beyond the sum of its waits.
pub(crate) const KILL_GRACE: Span = Span::from_millis(900);
/// The most that a worker may extend its start, or its stop, in total.
pub(crate) const MAX_EXTENSION: Span = Span::from_secs(600);
/// A worker that fails within this time after becoming ready counts for the crash loop like one that was never ready.
pub(crate) const EARLY_DEATH: Span = Span::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum State {
    Starting {
        ready_by: Time,
        latest: Time,
        alive_at: Option<Time>,
    },
    Soaking {
        until: Time,
    },
    Ready,
    Unreachable,
    Stopping {
        step: usize,
        until: Time,
        latest: Time,
    },
    StoppingTree {
        step: usize,
        until: Time,
        latest: Time,
    },
    Killing {
        give_up: Time,
    },
    KillingTree {
        give_up: Time,
    },
}

/// A worker's role in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Role {
    Current,
    Successor,
    /// It was asked to stop or has died: the slot no longer refers to it.
    Leaving,
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Worker {
    pub(crate) pool: PoolId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) state: State,
    pub(crate) readiness: Readiness,
    /// The stop steps; empty until the stop has begun, so that a later change of the policy does not affect it.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) stop: Vec<StopStep>,
    pub(crate) role: Role,
    pub(crate) began: Time,
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) ready_at: Option<Time>,
    /// Set while the worker is ready only by age: its rolling restart is not complete before this.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) by_age_until: Option<Time>,
    /// When it was asked to stop, or was found not to be ready in time.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) stop_began: Option<Time>,
    /// How its first process ended, once it has.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) exit: Option<Exit>,
    /// It counts in `Pool::draining` while it is leaving.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) drains: bool,
    /// Its slot has not failed repeatedly: a rolling restart stops no old worker until this one is ready.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) awaited: bool,
    /// It is of a master whose state is lost.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) adopted: bool,
    /// The kernel has not ended it in time.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) lost: bool,
    /// While it starts: the processor demand that it is counted with, in percent of one processor.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) demand: u32,
    /// It counts towards the start limit; the run of a oneshot does not.
    #[cfg_attr(
        feature = "serde",
        serde(default, skip_serializing_if = "crate::state::is_default")
    )]
    pub(crate) counts: bool,
}

impl Worker {
    pub(crate) fn new(
        pool: PoolId,
        slot: Slot,
        generation: Generation,
        now: Time,
        ready: ReadyPolicy,
    ) -> Self {
        let ready_by = now + ready.ready_timeout;
        Self {
            pool,
            slot,
            generation,
            state: State::Starting {
                ready_by,
                latest: ready_by + MAX_EXTENSION,
                alive_at: None,
            },
            readiness: ready.readiness,
            stop: Vec::new(),
            role: Role::Current,
            began: now,
            ready_at: None,
            by_age_until: None,
            stop_began: None,
            exit: None,
            drains: false,
            awaited: false,
            adopted: false,
            lost: false,
            demand: 0,
            counts: false,
        }
    }

    /// When the worker must be looked at next.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Starting {
                ready_by, alive_at, ..
            } => Some(alive_at.map_or(ready_by, |at| at.min(ready_by)))
                .filter(|at| at.0 < Span::FOREVER.0),
            State::Soaking { until }
            | State::Stopping { until, .. }
            | State::StoppingTree { until, .. } => Some(until),
            State::Ready | State::Unreachable => None,
            State::Killing { give_up } | State::KillingTree { give_up } => {
                (!self.lost).then_some(give_up)
            }
        }
    }

    /// It serves; a soaking worker does too.
    pub(crate) fn is_serving(&self) -> bool {
        self.role != Role::Leaving && matches!(self.state, State::Soaking { .. } | State::Ready)
    }

    /// It is starting, and its slot has no other worker.
    pub(crate) fn is_trying(&self) -> bool {
        self.role == Role::Current && matches!(self.state, State::Starting { .. })
    }

    /// It was asked to stop, was killed or has exited; or, unreachable, it will be asked to stop.
    pub(crate) fn is_leaving(&self) -> bool {
        match self.state {
            State::Starting { .. } | State::Soaking { .. } | State::Ready => false,
            State::Unreachable
            | State::Stopping { .. }
            | State::StoppingTree { .. }
            | State::Killing { .. }
            | State::KillingTree { .. } => true,
        }
    }

    /// Some of it may still be working: its first process, or during its stop the rest of its tree.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, State::KillingTree { .. })
    }

    pub(crate) fn extend(&mut self, now: Time, by: Span) {
        match &mut self.state {
            State::Starting {
                ready_by, latest, ..
            } => *ready_by = (*ready_by).max((now + by).min(*latest)),
            State::Stopping { until, latest, .. } | State::StoppingTree { until, latest, .. } => {
                *until = (*until).max((now + by).min(*latest));
            }
            State::Soaking { .. }
            | State::Ready
            | State::Unreachable
            | State::Killing { .. }
            | State::KillingTree { .. } => {}
        }
    }
}

pub(crate) fn jitter(id: WorkerId, span: Span) -> Span {
    // ±10 %, derived from the worker's number: the engine has no random numbers, and a replay is exact.
    let hash =
        id.0.wrapping_add(0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    span.spread(hash >> 33)
}
