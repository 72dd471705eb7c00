//! What the core wants done, and what it has to tell.

use crate::{Exit, Generation, PoolId, Signal, Slot, Span, Ticket, WorkerId};
use alloc::vec::Vec;

/// An order to the operating system's side. It is carried out at once; what comes of it is a later fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Spawn {
        worker: WorkerId,
        pool: PoolId,
        slot: Slot,
        generation: Generation,
    },
    /// A polite signal, followed by SIGCONT; to a worker that is not born yet: as soon as it is.
    Signal(WorkerId, Signal),
    /// The same to every process of the worker's tree.
    SignalTree(WorkerId, Signal),
    /// SIGKILL to the worker and its group.
    Kill(WorkerId),
    /// The worker's first process has ended during its stop: what is left of its tree gets this signal (none: it has
    /// had it) and may finish. Once nothing is left: reap the worker, and report [`crate::Input::TreeGone`].
    SignalRemaining(WorkerId, Option<Signal>),
    /// The worker has exited: kill what is left of its tree, reap it, and report [`crate::Input::TreeGone`].
    KillTree(WorkerId),
    Reply(Ticket, PoolId, Outcome),
    /// For the diary, the status and whoever waits: nothing is decided by it.
    Notice(Notice),
    /// Everything has stopped: the master may leave. `lost` names workers that the kernel could not kill.
    Exit {
        lost: Vec<WorkerId>,
    },
}

/// How a wish ended: exactly one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every worker is of the new generation.
    Done { generation: Generation, replaced: u32, took: Span },
    /// The new generation did not come up; what had been replaced stays.
    Aborted { generation: Generation, failure: Failure, standing: Standing },
    /// The new generation did not come up; every worker is of the old one again.
    RolledBack { generation: Generation, failure: Failure, standing: Standing },
    /// To the one who cancelled: this generation's rolling restart is over. `stuck`: going back has failed.
    Cancelled { generation: Generation, stuck: bool, standing: Standing },
    /// The fresh worker of a replacement has failed. `old_serves`: the one that it was to replace serves on.
    ReplaceFailed { slot: Slot, failure: Failure, old_serves: bool },
    /// The pool has not begun, for it waits for others: it will begin with this generation.
    Begins { generation: Generation },
    /// Something else came between.
    Superseded { by: SupersededBy },
    /// Nothing was done.
    NothingDone(NothingDone),
}

/// Who serves when a rolling restart has ended before its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The generation that empty slots are filled with, and how many of its workers serve, of so many wanted.
    pub base: Generation,
    pub of_base: u32,
    pub wanted: u32,
    /// Slots in which a worker of another generation serves: it stays.
    pub others: Vec<(Slot, Generation)>,
    /// The generation that was tried is made from exactly what the base is made from: there is no way back.
    pub in_place: bool,
    /// So many workers that serve are older than what they would be made from now.
    pub outdated: u32,
}

impl Standing {
    /// All that serve.
    pub fn serving(&self) -> u32 {
        self.of_base + self.others.len() as u32
    }
}

/// What superseded a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupersededBy {
    /// A newer wish for a rolling restart.
    Roll,
    /// A changed configuration.
    Change,
    /// The way to another generation.
    RollBack,
    /// The pool is stopped, or to be forgotten; everything stops.
    Stop,
    Removal,
    StopOfAll,
    /// It waited for a rolling restart that was cancelled, and was cancelled with it.
    Cancel,
    /// The slot is not wanted any more.
    Scale,
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NothingDone {
    NoPool,
    Stopped,
    /// No rolling restart runs: there is nothing to cancel.
    NoRoll,
    /// What runs has failed, and goes back already to this generation.
    AlreadyRollingBack(Generation),
    /// A oneshot has no generations to go back to.
    Oneshot,
    /// No such generation is remembered.
    Forgotten(Generation),
    /// Nobody serves in this slot who could be replaced.
    Empty(Slot),
    /// Its worker was replaced, or has ended, before its turn came.
    Gone(Slot),
}

/// Why a rolling restart ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The new worker at fault; none when a person cancelled.
    pub worker: Option<WorkerId>,
    pub cause: Cause,
    /// The way back failed as well: workers of both generations serve.
    pub mixed: bool,
}

/// Why a worker is gone, or counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Exited(Exit),
    SpawnFailed,
    NotReadyInTime,
    Unhealthy,
    Cancelled,
    /// A pool that this one comes after was to be rolled first, and was not: nobody was touched.
    After(PoolId),
}

impl Cause {
    /// The new generation was tried, and did not come up.
    pub(crate) fn tells_of_the_files(self) -> bool {
        !matches!(self, Self::Cancelled | Self::After(_))
    }
}

/// One line of the diary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// `by_age`: it has lived long enough, and nothing says more. `soak`: so long it is watched before anything else
    /// is touched.
    Ready {
        worker: WorkerId,
        took: Span,
        by_age: bool,
        soak: Span,
    },
    /// One that was ready for its age alone says so itself, so long after its start.
    Confirmed {
        worker: WorkerId,
        took: Span,
    },
    CanaryPassed {
        worker: WorkerId,
    },
    /// A death that nobody asked for. `failure`: not one of `success_exit_codes`; `before_ready`: it never served.
    Died {
        worker: WorkerId,
        cause: Cause,
        failure: bool,
        before_ready: bool,
        /// Ends of this slot before ready, this one included, without a failure or a ready worker in between.
        early_exits: u32,
        retry_in: Option<Span>,
        /// The slot stays empty until a person acts: its policy, or one of `never_on`.
        given_up: bool,
    },
    /// A worker that had been asked to stop is gone with its whole tree, so long after it was asked. `exit`: its first
    /// process's.
    Stopped {
        worker: WorkerId,
        exit: Option<Exit>,
        took: Span,
    },
    /// Its stop has begun; `why` for the diary.
    Retired {
        worker: WorkerId,
        why: StopReason,
    },
    /// It had not left by itself so long after it was asked to: killed, or what is left of its tree is.
    Killed {
        worker: WorkerId,
        reason: KillReason,
        waited: Span,
    },
    /// SIGKILL has not ended it: the kernel holds it (state D).
    Unkillable {
        worker: WorkerId,
    },
    /// So many early deaths within so long a time.
    CrashLoop {
        pool: PoolId,
        deaths: u32,
        span: Span,
    },
    /// One has served for a second in a loop of workers that fail later than that: the rest is started, and the loop is
    /// over once one has been ready for `stable_after`.
    CrashLoopEases {
        pool: PoolId,
    },
    CrashLoopOver {
        pool: PoolId,
    },
    RollStarted {
        pool: PoolId,
        generation: Generation,
        of: u32,
    },
    /// Every slot is done, and nothing but their age speaks for the new workers: they are watched for so much longer.
    Watched {
        pool: PoolId,
        span: Span,
    },
    /// One slot is done.
    SlotReplaced {
        pool: PoolId,
        slot: Slot,
        worker: WorkerId,
        done: u32,
        of: u32,
    },
    RollingBack {
        pool: PoolId,
        generation: Generation,
        to: Generation,
        failure: Failure,
    },
    RollEnded {
        pool: PoolId,
        outcome: Outcome,
    },
    /// A rolling restart begins when those of these pools, which its own comes after, are done.
    RollAfter {
        pool: PoolId,
        by: alloc::vec::Vec<PoolId>,
    },
    /// A wish came while one runs that has already retired a worker: it waits.
    RollWaits {
        pool: PoolId,
    },
    /// Another wish takes over at once. `retired_any`: some old worker has got its stop already.
    RollSuperseded {
        pool: PoolId,
        generation: Generation,
        by: SupersededBy,
        retired_any: bool,
    },
    /// Every worker of the pool is ready and of one generation.
    PoolReady {
        pool: PoolId,
        generation: Generation,
    },
    PoolStopped {
        pool: PoolId,
    },
    /// The pool has to wait for others before it may start.
    Waiting {
        pool: PoolId,
        by: Vec<PoolId>,
    },
    /// A oneshot has run to its end.
    OneshotDone {
        pool: PoolId,
        generation: Generation,
        took: Span,
    },
    /// One worker was replaced by another one of its generation.
    WorkerReplaced {
        pool: PoolId,
        slot: Slot,
        worker: WorkerId,
        took: Span,
    },
    /// An essential pool has had no worker ready for the span that its policy names.
    EssentialLost {
        pool: PoolId,
        span: Span,
    },
    /// All workers of an essential pool have ended, and none is started again. `exit`: that of the last failure, else
    /// that of the last end; none: a worker could not be started, or was killed before it was ready.
    EssentialEnded {
        pool: PoolId,
        exit: Option<Exit>,
    },
}

/// Why a worker's patience is over before it has left by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// It was deaf to its stop steps.
    Steps,
    /// The stop of everything has taken too long.
    Cap,
    /// Everything has to stop at once.
    Now,
}

/// Why a worker is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A rolling restart replaces it: its successor serves.
    Replaced,
    /// A rolling restart replaces it: its successor is started once it is gone.
    MakesRoom,
    /// Its rolling restart was superseded, cancelled or has failed.
    Abandoned,
    ScaledDown,
    /// A fresh worker of the same generation serves in its slot.
    Recycled,
    /// A fresh worker of the same generation is started once it is gone.
    MakesRoomForFresh,
    Unhealthy,
    /// Its listening socket was replaced, and another worker serves in its slot, or none is to.
    Unreachable,
    Stop,
}
