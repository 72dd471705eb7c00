//! The part of a pool's configuration that the engine acts on. `config` fills it in; the engine only reads it.

use crate::{PoolId, Signal, Span};
use alloc::vec::Vec;

/// All that the engine knows of a pool's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Policy {
    /// Whether the workers serve, or run once to their end.
    pub kind: PoolKind,
    /// Desired number of workers.
    pub count: u32,
    /// What makes a worker ready.
    pub readiness: Readiness,
    /// A worker that is not ready this long after its spawn counts as failed and is killed.
    pub ready_timeout: Span,
    /// The stop steps, in order; SIGKILL follows the last one.
    pub stop: Vec<StopStep>,
    /// How a rolling restart proceeds.
    pub reload: Reload,
    /// What follows an exit that was not requested.
    pub restart: Restart,
    /// Pools that must be up before this one starts. A stop of everything runs in the reverse order.
    pub after: Vec<PoolId>,
    /// What makes the failure of this pool end the master, if anything does.
    pub essential: Option<Essential>,
    /// How many of its workers may be starting at a time. `None`: limited only by what the machine can start at a
    /// time.
    pub max_starting: Option<u32>,
}

/// The kind of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum PoolKind {
    /// Workers serve until they are asked to stop.
    Service,
    /// One worker runs to its end and is never ready. Exit code 0 is success; anything else is a failure.
    Oneshot,
}

/// What makes a worker ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Readiness {
    /// Only [`crate::Input::Ready`].
    Reported,
    /// [`crate::Input::Ready`], or this much time since [`crate::Input::Started`]: then the worker is alive, and
    /// nothing more is known about it.
    Alive(Span),
}

/// One step of a stop: a signal, then a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StopStep {
    /// The signal to send. `None`: only wait.
    pub signal: Option<Signal>,
    /// How long to wait for the worker's exit before the next step.
    pub wait: Span,
    /// Which processes get the signal.
    pub to: To,
}

/// Which processes get the signal of a stop step while the worker's first process is alive. Once it has exited, every
/// remaining process of the tree gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum To {
    /// The worker's first process only; it stops its own children.
    #[default]
    Main,
    /// Every process of its tree.
    Tree,
}

/// How a rolling restart proceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Reload {
    /// How many successors may be starting or soaking on top of `count`. 0: stop one worker, wait until it is gone,
    /// start one.
    pub surge: u32,
    /// How many old workers may be draining (asked to stop, still finishing) at a time; at least 1.
    pub max_draining: u32,
    /// How long the first new worker must serve before another one is replaced. `None`: [`Reload::SOAK`] for a worker
    /// that was reported ready, [`Restart::stable_after`] for one that is ready only by age.
    pub soak: Option<Span>,
    /// What happens to slots that were replaced already when a new worker fails.
    pub on_failure: OnFailure,
}

impl Reload {
    /// The default soak of a worker that was reported ready.
    pub const SOAK: Span = Span::from_secs(1);
}

impl Policy {
    /// How long a new worker is watched after it became ready. Among workers that are ready only by age this holds
    /// for every new worker of a rolling restart; among those that were reported ready, only for the first.
    pub fn soak(&self, by_age: bool) -> Span {
        let default = if by_age {
            self.restart.stable_after
        } else {
            Reload::SOAK
        };
        self.reload.soak.unwrap_or(default)
    }
}

/// What a failed rolling restart does with the slots that it has replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum OnFailure {
    /// They go back to the previous generation, unless both are made from the same files.
    Rollback,
    /// They keep their new workers.
    Abort,
}

/// What follows an exit that was not requested.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Restart {
    /// After which exits the slot is filled again.
    pub policy: RestartPolicy,
    /// The first backoff delay; it doubles with each further failure.
    pub delay: Span,
    /// The longest backoff delay.
    pub max_delay: Span,
    /// Ready for this long, a worker counts as stable: earlier failures of its slot are forgotten.
    pub stable_after: Span,
    /// Exit codes that count as success.
    pub success_exit_codes: Vec<i32>,
    /// Exit codes after which the slot stays empty until the next rolling restart or start.
    pub never_on: Vec<i32>,
}

/// When the state of one pool ends the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Essential {
    /// No worker has been ready for this long: [`crate::Notice::EssentialLost`].
    Ready(Span),
    /// All its workers have exited and none will be started again: [`crate::Notice::EssentialEnded`].
    Exit,
}

/// After which exits a slot is filled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RestartPolicy {
    /// After every exit.
    Always,
    /// After a failure: an exit code that is not in [`Restart::success_exit_codes`], or a signal.
    OnFailure,
    /// After none.
    Never,
}
