//! What the core wants done, and what it has to tell.

use crate::{Exit, Generation, PoolId, Signal, Slot, Span, Ticket, WorkerId};

/// An order to the operating system's side. It is carried out at once; what comes of it is a later fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Spawn {
        worker: WorkerId,
        pool: PoolId,
        slot: Slot,
        generation: Generation,
    },
    /// A polite signal, followed by SIGCONT; to a worker that is not born yet: as soon as it is.
    Signal(WorkerId, Signal),
    /// SIGKILL to the worker and its group.
    Kill(WorkerId),
    /// The worker has exited: kill what is left of its tree, reap it, and report [`crate::Event::Swept`].
    Sweep(WorkerId),
    Reply(Ticket, PoolId, Outcome),
    /// For the diary, the status and whoever waits: nothing is decided by it.
    Record(Record),
    /// Everything has stopped: the master may leave. `lost` names workers that the kernel could not kill.
    Leave {
        lost: alloc::vec::Vec<WorkerId>,
    },
}

/// How a wish ended: exactly one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every worker is of the new generation. For `Cancel`: it ended what ran.
    Done { generation: Generation, replaced: u32, took: Span },
    /// The new generation did not come up; what had been replaced stays.
    Aborted { generation: Generation, failure: Failure },
    /// The new generation did not come up; every worker is of the old one again.
    RolledBack { generation: Generation, failure: Failure },
    /// A stop, or a change of configuration, came between.
    Superseded,
    /// Nothing to do: no rolling restart runs (`Cancel`), no such pool or slot.
    Nothing,
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
}

/// One line of the diary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Ready {
        worker: WorkerId,
        took: Span,
    },
    Soaked {
        worker: WorkerId,
    },
    /// A death that nobody asked for. `failure`: not one of `ends`; `before_ready`: it never served.
    Died {
        worker: WorkerId,
        cause: Cause,
        failure: bool,
        before_ready: bool,
        retry_in: Option<Span>,
    },
    /// A worker that had been asked to stop is gone, so long after it was asked.
    Stopped {
        worker: WorkerId,
        exit: Option<Exit>,
        took: Span,
    },
    /// Its stop has begun; `why` for the diary.
    Retired {
        worker: WorkerId,
        why: Why,
    },
    /// It had not left by itself so long after it was asked to: killed.
    Killed {
        worker: WorkerId,
        cut: Cut,
        waited: Span,
    },
    /// SIGKILL has not ended it: the kernel holds it (state D).
    Lost {
        worker: WorkerId,
    },
    CrashLoop {
        pool: PoolId,
        deaths: u32,
    },
    CrashLoopOver {
        pool: PoolId,
    },
    RollStarted {
        pool: PoolId,
        generation: Generation,
        of: u32,
    },
    /// One slot is done.
    Replaced {
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
    /// A wish came while one runs that has already retired a worker: it waits.
    RollWaits {
        pool: PoolId,
    },
    /// A wish came while one runs: it takes over at once.
    RollSuperseded {
        pool: PoolId,
        generation: Generation,
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
    Held {
        pool: PoolId,
        by: alloc::vec::Vec<PoolId>,
    },
    /// A step has run to its end.
    StepDone {
        pool: PoolId,
        generation: Generation,
        took: Span,
    },
    /// One worker was replaced by another one of its generation.
    Renewed {
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
}

/// Why a worker's patience is over before it has left by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It was deaf to its stop steps.
    Steps,
    /// The stop of everything has taken too long.
    Cap,
    /// Everything has to stop at once.
    Now,
}

/// Why a worker is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its successor serves.
    Replaced,
    /// Its rolling restart was superseded, cancelled or has failed.
    Abandoned,
    ScaledDown,
    /// Its slot gets a fresh worker of the same generation.
    Recycled,
    Unhealthy,
    Stop,
}
