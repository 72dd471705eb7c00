//! How many workers a pool has, and how patient the master is with them.

use crate::{PoolId, Signal, Span};
use alloc::vec::Vec;

/// All that the core knows of a pool's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub kind: PoolKind,
    /// Workers wanted.
    pub count: u32,
    pub readiness: Readiness,
    /// Not ready this long after its birth: a death before ready.
    pub ready_timeout: Span,
    /// The polite part of a stop; SIGKILL comes after the last step.
    pub stop: Vec<StopStep>,
    pub reload: Reload,
    pub restart: Restart,
    /// At its start the pool waits until all of these are up; everything is stopped against this order.
    pub after: Vec<PoolId>,
    pub essential: Option<Essential>,
    /// So many of its workers may be starting at a time; none: as many as the machine can boot at a time.
    pub max_starting: Option<u32>,
}

/// What becomes of a pool's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolKind {
    /// They serve until somebody wants them to stop.
    Service,
    /// One worker that runs to its end: exit code 0 is success, anything else a failure. It is never ready.
    Oneshot,
}

/// What makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Only [`crate::Input::Ready`].
    Reported,
    /// [`crate::Input::Ready`], or having lived this long since [`crate::Input::Started`]: then it is alive, and nothing
    /// says more.
    Alive(Span),
}

/// One step of a stop: a signal (none: only wait), then patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopStep {
    pub signal: Option<Signal>,
    pub wait: Span,
    pub to: To,
}

/// Who gets the signal of a step while the worker's first process lives. Once that has ended, what is left does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum To {
    /// The worker's first process alone: what it has started is its own affair.
    #[default]
    Main,
    /// Every process of its tree.
    Tree,
}

/// How a rolling restart goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Successors starting or soaking above count; 0: stop one, wait until it is gone, start one.
    pub surge: u32,
    /// Old workers that have got their stop and still finish; at least 1.
    pub max_draining: u32,
    /// How long the first new worker must serve before more are touched. `None`: [`Reload::SOAK`] for one that was
    /// reported ready, [`Restart::stable_after`] for one of which only its age is known.
    pub soak: Option<Span>,
    pub on_failure: OnFailure,
}

impl Reload {
    /// The soak of a worker that was reported ready, where none is given.
    pub const SOAK: Span = Span::from_secs(1);
}

impl Policy {
    /// How long a new worker is watched after it became ready. By age alone that is every new worker of a rolling
    /// restart; of those that were reported ready it is the first.
    pub fn soak(&self, by_age: bool) -> Span {
        let default = if by_age { self.restart.stable_after } else { Reload::SOAK };
        self.reload.soak.unwrap_or(default)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Slots already done go back to the generation before, where it differs.
    Rollback,
    /// Slots already done stay.
    Abort,
}

/// What happens after a death that nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    pub policy: RestartPolicy,
    pub delay: Span,
    pub max_delay: Span,
    pub stable_after: Span,
    /// Exit codes that are an end, not a failure.
    pub success_exit_codes: Vec<i32>,
    /// Exit codes after which the slot stays empty until the next roll or start.
    pub never_on: Vec<i32>,
}

/// What ends the master for the sake of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Essential {
    /// No worker ready for this long: [`crate::Notice::EssentialLost`].
    Ready(Span),
    /// All its workers have ended and none is started again: [`crate::Notice::EssentialEnded`].
    Exit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}
