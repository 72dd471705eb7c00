//! One life: from the order to spawn it until nothing of its tree is left.
//!
//! | state    | means                                              | leaves by                                  |
//! |----------|----------------------------------------------------|--------------------------------------------|
//! | Starting | ordered; not ready yet                             | ready, its death, `ready_by`, a stop       |
//! | Soaking  | ready; the first of its generation, being watched  | `until`, its death, a stop                 |
//! | Ready    | serves                                             | its death, a stop                          |
//! | Unreachable | its listening socket was replaced; finishes what it has | its exit, a stop |
//! | Stopping | got step n of its stop                             | its exit, `until` (next step, then kill)   |
//! | Outliving| has exited in its stop; the rest of its tree may   | swept; `until` (next step, then sweep)     |
//! |          | finish                                             |                                            |
//! | Killing  | got SIGKILL                                        | its exit; at `give_up` it is named as lost |
//! | KillingTree | has exited; the rest of its tree is being ended    | swept; at `give_up` it is named as lost    |

use crate::generations::ReadyPolicy;
use crate::{Exit, Generation, PoolId, Readiness, Slot, Span, StopStep, Time, WorkerId};
use alloc::vec::Vec;

/// How long the kernel has to end what got SIGKILL before it is named as lost: within the second that a stop may
/// take beyond the sum of its waits.
pub(crate) const KILL_GRACE: Span = Span::from_millis(900);
/// A worker may ask for more time, but not for ever.
pub(crate) const MAX_EXTENSION: Span = Span::from_secs(600);
/// Ready for no longer than this: the death counts as one before ready for the crash loop.
pub(crate) const EARLY_DEATH: Span = Span::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Starting { ready_by: Time, latest: Time, alive_at: Option<Time> },
    Soaking { until: Time },
    Ready,
    Unreachable,
    Stopping { step: usize, until: Time, latest: Time },
    StoppingTree { step: usize, until: Time, latest: Time },
    Killing { give_up: Time },
    KillingTree { give_up: Time },
}

/// Where it stands in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Current,
    Successor,
    /// It has been asked to stop, or has died: the slot does not know it any more.
    Leaving,
}

#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) pool: PoolId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) state: State,
    pub(crate) readiness: Readiness,
    /// The steps of its stop, once that has begun.
    pub(crate) stop: Vec<StopStep>,
    pub(crate) role: Role,
    pub(crate) began: Time,
    pub(crate) ready_at: Option<Time>,
    /// It is called ready for its age alone; a rolling restart that made it is not done before this.
    pub(crate) by_age_until: Option<Time>,
    /// When it was asked to stop, or was found wanting.
    pub(crate) stop_began: Option<Time>,
    /// How its first process ended.
    pub(crate) exit: Option<Exit>,
    /// It counts in `Pool::draining`.
    pub(crate) drains: bool,
    /// It fills a slot that has not failed again and again: a rolling restart retires nobody until it is ready.
    pub(crate) awaited: bool,
    /// The kernel could not end it in time.
    pub(crate) lost: bool,
    /// While it starts it is taken for this much of a processor, in percent.
    pub(crate) demand: u32,
    /// It counts among those that start: a run of a oneshot does not.
    pub(crate) counts: bool,
}

impl Worker {
    pub(crate) fn new(pool: PoolId, slot: Slot, generation: Generation, now: Time, ready: ReadyPolicy) -> Self {
        let ready_by = now + ready.ready_timeout;
        Self {
            pool,
            slot,
            generation,
            state: State::Starting { ready_by, latest: ready_by + MAX_EXTENSION, alive_at: None },
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
            lost: false,
            demand: 0,
            counts: false,
        }
    }

    /// When it has to be looked at.
    pub(crate) fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Starting { ready_by, alive_at, .. } => {
                Some(alive_at.map_or(ready_by, |at| at.min(ready_by))).filter(|at| at.0 < Span::FOREVER.0)
            }
            State::Soaking { until } | State::Stopping { until, .. } | State::StoppingTree { until, .. } => Some(until),
            State::Ready | State::Unreachable => None,
            State::Killing { give_up } | State::KillingTree { give_up } => (!self.lost).then_some(give_up),
        }
    }

    /// It serves: a soaking worker counts.
    pub(crate) fn is_serving(&self) -> bool {
        self.role != Role::Leaving && matches!(self.state, State::Soaking { .. } | State::Ready)
    }

    /// Its slot has no other worker, and it is not ready yet.
    pub(crate) fn is_trying(&self) -> bool {
        self.role == Role::Current && matches!(self.state, State::Starting { .. })
    }

    /// It has been asked to stop, has been killed, or has exited; or it is about to be asked.
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

    /// Something of it may still do what it is there for: its first process, or in its stop the rest of its tree.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, State::KillingTree { .. })
    }

    pub(crate) fn extend(&mut self, now: Time, by: Span) {
        match &mut self.state {
            State::Starting { ready_by, latest, .. } => *ready_by = (*ready_by).max((now + by).min(*latest)),
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
    // ±10 %, from the worker's number alone: the core has no random numbers, and a replay is exact.
    let hash = id.0.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let tenth = span.0 / 10;
    let spread = if tenth == 0 { 0 } else { (hash >> 33) % (2 * tenth + 1) };
    Span(span.0 - tenth + spread)
}
