//! Inputs: facts about workers, and requests. The supervisor passes each to [`crate::Engine::handle`].

use crate::{Generation, Policy, PoolId, Slot, Span, Ticket, WorkerId};
use alloc::vec::Vec;

/// One fact or request. Facts about a worker that is already gone are expected and change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[expect(
    clippy::large_enum_variant,
    reason = "one is passed at a time, and a request is rare"
)]
pub enum Input {
    /// The worker's program is running: exec succeeded.
    Started(WorkerId),
    /// The spawn failed: for example fork was refused, or the program or directory does not exist.
    SpawnFailed(WorkerId),
    /// The worker is ready: it said so itself, its probe passed, or it was seen accepting. A worker that was ready
    /// only by age is confirmed by this.
    Ready(WorkerId),
    /// Nothing can tell whether this worker is ready, and it has lived for the time that counts instead.
    AgeReached(WorkerId),
    /// The worker serves, but its health check has failed the configured number of times.
    Unhealthy(WorkerId),
    /// A listening socket that these workers hold was replaced by a new one: no new connections reach them.
    Unreachable(Vec<WorkerId>),
    /// Recent processor demand of these starting workers (time running plus time waiting for a processor), in percent
    /// of one processor. Sent while [`crate::View::limits_starts`].
    Demand(Vec<(WorkerId, u32)>),
    /// The worker asked for this much more time, counted from now, for its start or stop.
    TimeoutExtended(WorkerId, Span),
    /// The worker's first process has exited; the rest of its tree may still be running.
    Exited(WorkerId, Exit),
    /// No process of the worker's tree is left.
    TreeGone(WorkerId),
    /// The working directory and program of the generation have been resolved.
    Pinned {
        /// The pool.
        pool: PoolId,
        /// The generation that its next workers are made from.
        generation: Generation,
        /// They are exactly those of the generation before, so a rollback to that one would change nothing.
        same: bool,
    },
    /// A worker of this pool has ended well before it was ready and has left a process behind, so its program goes into
    /// the background, where nothing supervises it.
    Daemonized(PoolId),
    /// A request, and the ticket that its outcome is reported under: exactly one [`crate::Command::Reply`]. `None`:
    /// nothing waits for it. A stop of everything takes no ticket: [`crate::Command::Exit`] ends it.
    Requested(Option<Ticket>, Request),
    /// The master has died again and again within a short time: all rolling restarts and requests end, and are answered
    /// with [`crate::Cause::MasterKeepsDying`]. Workers that serve stay.
    MasterKeepsDying,
    /// The engine's deadline has come ([`crate::Engine::deadline`]).
    TimerFired,
}

/// How a process ended (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Exit {
    /// It exited with this code (_exit(2)).
    Code(i32),
    /// A signal killed it.
    Signal {
        /// The signal's number (signal(7)).
        signal: i32,
        /// It left a core dump (core(5)).
        core_dumped: bool,
    },
    /// It has exited, but its status is unknown. Counts as a failure.
    Unknown,
}

/// A worker that still runs, of a master whose state is lost: [`Request::Adopt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AdoptedWorker {
    /// Its number. No worker of this engine may have had it: [`crate::Engine::numbered_after`].
    pub worker: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// The generation that it is made from.
    pub generation: Generation,
    /// It serves. Otherwise it is starting, and has its whole `ready_timeout` again.
    pub ready: bool,
}

/// A request: what an operator, a signal or a changed configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Request {
    /// Create the pool with this policy, beginning with generation 1, or update the policy of an existing one, which
    /// keeps its workers.
    EnsurePool(PoolId, Policy),
    /// Create the pool with this policy and with workers that still run, of a master whose state is lost. Missing ones are
    /// spawned. A worker in a slot that is not desired, or beside another one of its slot, is asked to stop: the one that
    /// is ready stays, of several the one of the newest generation. For a pool that exists: as `EnsurePool`, and its empty
    /// slots get these workers.
    Adopt {
        /// The pool.
        pool: PoolId,
        /// Its policy.
        policy: Policy,
        /// The highest generation that is known to have been given out; [`Generation::NONE`]: not known. New workers are of
        /// a higher one.
        latest: Generation,
        /// The workers.
        workers: Vec<AdoptedWorker>,
    },
    /// An operator starts this pool: slots that had stayed empty are filled again, and a stopped pool runs again.
    Start(PoolId),
    /// Stop this pool's workers; the pool stays known, stopped, until it is started again.
    StopPool(PoolId),
    /// Stop this pool's workers; once none is left, forget the pool.
    Remove(PoolId),
    /// Replace every worker by one of a new generation.
    Roll(PoolId),
    /// The pool's configuration has changed: adopt this policy and replace every worker by one of a new generation. A
    /// running rolling restart is superseded. A stopped pool only adopts the policy; an unknown one is created.
    Reconfigure {
        /// The pool.
        pool: PoolId,
        /// Its new policy.
        policy: Policy,
    },
    /// Replace every worker by one of an older generation, with the policy of that generation.
    RollBack {
        /// The pool.
        pool: PoolId,
        /// The generation to return to, one of [`crate::View::served`].
        to: Generation,
        /// The policy of that generation.
        policy: Policy,
    },
    /// Replace the worker of one slot by a new one of the same generation.
    Replace(PoolId, Slot),
    /// Cancel the running rolling restart: go back to the last generation that was fully rolled out.
    Cancel(PoolId),
    /// Change the number of workers; the workers that remain are left alone.
    Scale(PoolId, u32),
    /// Run the stop steps of everything, kill what is left after `cap`, then exit.
    Stop {
        /// How long the stop steps may take in all. `None`: as long as they say.
        cap: Option<Span>,
    },
    /// Kill everything, then exit.
    StopNow,
}
