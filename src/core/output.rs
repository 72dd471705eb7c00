//! What an input leads to: commands, which the supervisor executes, and notices, which it reports to people. Everything
//! that acts is a command; nothing is decided by a notice.

use crate::{Exit, Generation, PoolId, Signal, Slot, Span, Ticket, WorkerId};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// What one input leads to, in the order in which the engine decided it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub(crate) entries: Vec<Entry>,
}

/// One part of an [`Output`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Something to do.
    Command(Command),
    /// Something to report.
    Notice(Notice),
}

impl Output {
    /// Nothing follows from the input.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The commands, in order, and the notices, in order.
    pub fn split(self) -> (Vec<Command>, Vec<Notice>) {
        let (mut commands, mut notices) = (Vec::new(), Vec::new());
        for entry in self.entries {
            match entry {
                Entry::Command(command) => commands.push(command),
                Entry::Notice(notice) => notices.push(notice),
            }
        }
        (commands, notices)
    }
}

impl IntoIterator for Output {
    type Item = Entry;
    type IntoIter = alloc::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

/// What the supervisor must do. It executes commands immediately and in order; results come back as later inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Spawn a worker. Answered by [`crate::Input::Started`] or [`crate::Input::SpawnFailed`].
    Spawn {
        /// The new worker.
        worker: WorkerId,
        /// Its pool.
        pool: PoolId,
        /// The slot that it fills, or takes over once it is ready.
        slot: Slot,
        /// The generation that it is made from.
        generation: Generation,
    },
    /// Send this signal, then SIGCONT, to the worker's first process. If the worker is not spawned yet: as soon as it
    /// is.
    Signal(WorkerId, Signal),
    /// Send this signal, then SIGCONT, to every process of the worker's tree.
    SignalTree(WorkerId, Signal),
    /// SIGKILL the worker and its process group.
    Kill(WorkerId),
    /// The worker's first process has exited during its stop: send this signal to the rest of its tree (`None`: the
    /// tree has had it) and let the tree finish. Once it is gone: reap the worker and report
    /// [`crate::Input::TreeGone`].
    SignalRemaining(WorkerId, Option<Signal>),
    /// The worker has exited: kill the rest of its tree, reap the worker, and report [`crate::Input::TreeGone`].
    KillTree(WorkerId),
    /// Report the outcome to the request with this ticket.
    Reply(Ticket, PoolId, Outcome),
    /// A rolling restart to this generation begins: its workers are made from the configuration of this moment.
    BeginGeneration {
        /// The pool.
        pool: PoolId,
        /// The new generation.
        generation: Generation,
    },
    /// The rolling restart of a changed configuration has failed: the configuration of the generation that fills the
    /// slots holds again.
    RevertConfig(PoolId),
    /// A rolling restart is over: forget the generations that no worker can be made from any more.
    EndGeneration {
        /// The pool.
        pool: PoolId,
        /// A rolling restart to an older generation takes its place.
        to_older: bool,
    },
    /// The worker is ready: begin its health checks, watchdog and recycling.
    StartHealth(WorkerId),
    /// The worker has exited or is asked to stop: end its health checks.
    StopHealth(WorkerId),
    /// An essential pool is lost: the master stops everything and exits with a code that tells why.
    GiveUp {
        /// The essential pool.
        pool: PoolId,
        /// How it was lost.
        cause: EssentialLoss,
    },
    /// Everything has stopped: the master exits.
    Exit {
        /// Workers that the kernel could not kill.
        lost: Vec<WorkerId>,
    },
}

/// How an essential pool was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EssentialLoss {
    /// It has had no ready worker for this long.
    NotReady(Span),
    /// All its workers have exited, and none will be started again. `None`: no worker could be started, or it was
    /// killed before it was ready.
    Ended(Option<Exit>),
}

/// How a request ended. Each ticket gets exactly one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Outcome {
    /// Every worker is of the new generation.
    Done {
        /// The new generation.
        generation: Generation,
        /// How many slots got a new worker.
        replaced: u32,
        /// Time since the rolling restart began.
        took: Span,
    },
    /// The new generation failed; slots that were replaced keep their new workers.
    Aborted {
        /// The new generation.
        generation: Generation,
        /// What failed.
        failure: Failure,
        /// Which workers serve now.
        standing: Standing,
    },
    /// The new generation failed; every worker is of the old one again.
    RolledBack {
        /// The new generation.
        generation: Generation,
        /// What failed.
        failure: Failure,
        /// Which workers serve now.
        standing: Standing,
    },
    /// For the request that cancelled: the rolling restart is over.
    Cancelled {
        /// The generation that was being rolled out.
        generation: Generation,
        /// The way back has failed too.
        stuck: bool,
        /// Which workers serve now.
        standing: Standing,
    },
    /// The new worker of a replacement has failed.
    ReplaceFailed {
        /// The slot.
        slot: Slot,
        /// What failed.
        failure: Failure,
        /// The old worker still serves.
        old_serves: bool,
    },
    /// The pool has not begun: it waits for pools that cannot come up.
    HeldUp {
        /// The generation that it will begin with.
        generation: Generation,
        /// The pools that it waits for.
        by: Vec<PoolId>,
    },
    /// Every desired worker serves.
    Up(Up),
    /// The start has failed for now.
    StartFailed(StartFailure),
    /// Nothing is left of the pool's workers that the kernel can end.
    Stopped,
    /// The same, and the pool is forgotten.
    Removed,
    /// The number of workers was changed.
    Scaled {
        /// The number before.
        from: u32,
        /// The number now.
        to: u32,
    },
    /// Another request took its place.
    Superseded {
        /// What that request was.
        by: SupersededBy,
    },
    /// Nothing was done.
    NothingDone(NothingDone),
}

/// How a pool is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Up {
    /// Every desired worker is ready.
    Ready,
    /// Every desired worker is ready, at least one of them by age alone.
    Alive,
    /// Its workers have done their work. `Some`: a oneshot, and how long its run took.
    Done(Option<Span>),
    /// No worker is desired.
    NoneWanted,
}

/// Why a start has failed. The pool is tried on, unless it was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum StartFailure {
    /// A worker has failed before it was ready, or has ended before that again and again, or has failed and is not
    /// started again.
    Worker {
        /// The worker.
        worker: WorkerId,
        /// How it failed.
        cause: Cause,
        /// As in [`Notice::Died`].
        early_exits: u32,
        /// As in [`Notice::Died`].
        given_up: bool,
    },
    /// The pool's workers have not all been ready in time, though none of them was late.
    NotReadyInTime,
    /// Its program goes into the background ([`crate::Input::Daemonized`]).
    Daemonized,
    /// Some slots have ended and are not filled again.
    Ended,
    /// The pool was stopped.
    Stopped,
    /// A pool that it comes after has failed.
    Dependency {
        /// That pool.
        pool: PoolId,
        /// Why it has failed.
        failure: Box<Self>,
    },
}

/// Which workers serve after a rolling restart that did not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Standing {
    /// The generation that empty slots are filled with.
    pub base: Generation,
    /// How many of its workers serve.
    pub of_base: u32,
    /// The desired number of workers.
    pub wanted: u32,
    /// Slots in which a worker of another generation serves and stays.
    pub others: Vec<(Slot, Generation)>,
    /// The generation that was tried is made from exactly the files of `base`, so there is nothing to go back to.
    pub in_place: bool,
    /// How many serving workers are older than the files that they would be made from now.
    pub outdated: u32,
}

impl Standing {
    /// The number of workers that serve.
    pub fn serving(&self) -> u32 {
        self.of_base + self.others.len() as u32
    }
}

/// What superseded a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SupersededBy {
    /// A newer request for a rolling restart.
    Roll,
    /// A changed configuration.
    Change,
    /// A rollback to another generation.
    RollBack,
    /// The pool is started again.
    Start,
    /// The pool is stopped.
    Stop,
    /// The pool is removed.
    Removal,
    /// Everything stops.
    StopOfAll,
    /// It was waiting for a rolling restart, and was cancelled with it.
    Cancel,
    /// The slot was scaled away.
    Scale,
}

/// Why nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum NothingDone {
    /// There is no such pool.
    NoPool,
    /// The pool is stopped.
    Stopped,
    /// No rolling restart is running: there is nothing to cancel.
    NoRoll,
    /// The rolling restart has failed and is already going back to this generation.
    AlreadyRollingBack(Generation),
    /// A oneshot has no generations to go back to, and no number of workers.
    Oneshot,
    /// This generation is not in the pool's history.
    Forgotten(Generation),
    /// No worker serves in this slot, so there is none to replace.
    Empty(Slot),
    /// The slot's worker was replaced or has exited before the request's turn came.
    Gone(Slot),
}

/// Why a rolling restart did not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Failure {
    /// The new worker that failed; `None` if the rolling restart was cancelled.
    pub worker: Option<WorkerId>,
    /// What happened to it.
    pub cause: Cause,
    /// The way back failed as well: workers of both generations serve.
    pub mixed: bool,
}

/// Why a worker is gone or counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Cause {
    /// Its first process exited.
    Exited(Exit),
    /// It could not be spawned.
    SpawnFailed,
    /// It was not ready within `ready_timeout`.
    NotReadyInTime,
    /// Its health check failed.
    Unhealthy,
    /// An operator cancelled the rolling restart.
    Cancelled,
    /// The master has died again and again, and what it was doing was ended.
    MasterKeepsDying,
    /// The rolling restart of a pool that this one comes after did not complete, so no worker of this one was
    /// replaced.
    After(PoolId),
}

impl Cause {
    /// The new generation was tried and failed, which says something about its files.
    pub(crate) fn tells_of_the_files(self) -> bool {
        !matches!(
            self,
            Self::Cancelled | Self::MasterKeepsDying | Self::After(_)
        )
    }
}

/// One notice for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The worker is ready.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Time since its spawn.
        took: Span,
        /// It is ready only because it has lived long enough.
        by_age: bool,
        /// How long it is watched before another worker is replaced; zero if it is not.
        soak: Span,
    },
    /// A worker that was ready only by age has reported ready.
    Confirmed {
        /// The worker.
        worker: WorkerId,
        /// Time since its spawn.
        took: Span,
    },
    /// The first new worker of a rolling restart has passed its soak.
    CanaryPassed {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker is gone, or counts as failed, without having been asked to stop.
    Died {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        cause: Cause,
        /// Its exit code is not one of `success_exit_codes`.
        failure: bool,
        /// It never served.
        before_ready: bool,
        /// Exits in this slot before readiness, this one included, with no failure and no ready worker in between.
        early_exits: u32,
        /// When its slot is filled again. `None`: not by the clock.
        retry_in: Option<Span>,
        /// The slot stays empty until an operator acts, by its policy or by `never_on`.
        given_up: bool,
    },
    /// A worker that was asked to stop is gone with its whole tree.
    Stopped {
        /// The worker.
        worker: WorkerId,
        /// How its first process ended. `None`: it never ran.
        exit: Option<Exit>,
        /// Time since it was asked to stop.
        took: Span,
    },
    /// A worker's stop has begun.
    Retired {
        /// The worker.
        worker: WorkerId,
        /// Why it stops.
        why: StopReason,
    },
    /// The worker, or the rest of its tree, has not exited in time: it is killed.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Which limit has passed.
        reason: KillReason,
        /// Time since it was asked to stop.
        waited: Span,
    },
    /// SIGKILL has not ended the worker: the kernel holds it (state D, uninterruptible sleep).
    Unkillable {
        /// The worker.
        worker: WorkerId,
    },
    /// So many workers have died early that only one is tried at a time.
    CrashLoop {
        /// The pool.
        pool: PoolId,
        /// Early deaths within `span`.
        deaths: u32,
        /// The time that they took.
        span: Span,
    },
    /// In a loop of workers that fail late, one has served for a second: the other slots are started too. The loop is
    /// over once a worker has been ready for `stable_after`.
    CrashLoopEases {
        /// The pool.
        pool: PoolId,
    },
    /// The crash loop is over.
    CrashLoopOver {
        /// The pool.
        pool: PoolId,
    },
    /// A rolling restart has started.
    RollStarted {
        /// The pool.
        pool: PoolId,
        /// The new generation.
        generation: Generation,
        /// How many slots it replaces.
        of: u32,
    },
    /// Every slot is done, but some new workers are ready only by age: they are watched for longer.
    Watched {
        /// The pool.
        pool: PoolId,
        /// How much longer.
        span: Span,
    },
    /// A rolling restart has completed one slot.
    SlotReplaced {
        /// The pool.
        pool: PoolId,
        /// The slot.
        slot: Slot,
        /// Its new worker.
        worker: WorkerId,
        /// How many slots are done.
        done: u32,
        /// How many there are to do.
        of: u32,
    },
    /// The new generation failed; replaced slots go back.
    RollingBack {
        /// The pool.
        pool: PoolId,
        /// The generation that failed.
        generation: Generation,
        /// The generation that they go back to.
        to: Generation,
        /// What failed.
        failure: Failure,
    },
    /// The rolling restart is over.
    RollEnded {
        /// The pool.
        pool: PoolId,
        /// How it ended.
        outcome: Outcome,
    },
    /// The rolling restart waits for those of pools that its own pool comes after.
    RollAfter {
        /// The pool.
        pool: PoolId,
        /// The pools whose rolling restarts must be done first.
        by: Vec<PoolId>,
    },
    /// The pool has not begun, and a request for a rolling restart has changed what it will begin with.
    BeginsWith {
        /// The pool.
        pool: PoolId,
        /// The generation that it will begin with.
        generation: Generation,
        /// The pools that must be up before.
        by: Vec<PoolId>,
    },
    /// A request arrived while a rolling restart that has already stopped an old worker is running: it waits for its
    /// turn.
    RollWaits {
        /// The pool.
        pool: PoolId,
    },
    /// Another request takes over.
    RollSuperseded {
        /// The pool.
        pool: PoolId,
        /// The generation that was being rolled out.
        generation: Generation,
        /// What the other request is.
        by: SupersededBy,
        /// An old worker has already been asked to stop.
        retired_any: bool,
    },
    /// Every desired worker is ready, all of one generation.
    PoolReady {
        /// The pool.
        pool: PoolId,
        /// The generation.
        generation: Generation,
    },
    /// Nothing is left of the pool's workers that the kernel can end.
    PoolStopped {
        /// The pool.
        pool: PoolId,
    },
    /// The pool may not start yet.
    Waiting {
        /// The pool.
        pool: PoolId,
        /// The pools that must be up before.
        by: Vec<PoolId>,
    },
    /// A oneshot has succeeded.
    OneshotDone {
        /// The oneshot.
        pool: PoolId,
        /// The generation that it was made from.
        generation: Generation,
        /// How long it ran.
        took: Span,
    },
    /// One worker was replaced by a new one of the same generation.
    WorkerReplaced {
        /// The pool.
        pool: PoolId,
        /// The slot.
        slot: Slot,
        /// The new worker.
        worker: WorkerId,
        /// Time since the replacement began.
        took: Span,
    },
    /// An essential pool has had no ready worker for too long.
    EssentialLost {
        /// The pool.
        pool: PoolId,
        /// For how long.
        span: Span,
    },
    /// All workers of an essential pool have exited, and none will be started again.
    EssentialEnded {
        /// The pool.
        pool: PoolId,
        /// The exit of the last failure, or else of the last success. `None`: a worker could not be started, or was
        /// killed before it was ready.
        exit: Option<Exit>,
    },
}

/// Why a worker is killed before it has exited by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Its stop steps are used up.
    Steps,
    /// The time limit of the stop of everything has passed.
    Cap,
    /// Everything is being killed.
    Now,
}

/// Why a worker is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A rolling restart replaces it, and its successor is ready.
    Replaced,
    /// A rolling restart replaces it in place: its successor starts once it is gone.
    MakesRoom,
    /// Its rolling restart was superseded or cancelled, or has failed.
    Abandoned,
    /// Its slot was scaled away.
    ScaledDown,
    /// A new worker of the same generation serves in its slot.
    Recycled,
    /// A new worker of the same generation starts once it is gone.
    MakesRoomForFresh,
    /// Its health check has failed.
    Unhealthy,
    /// Its listening socket was replaced, and another worker serves in its slot or the slot is not wanted.
    Unreachable,
    /// When workers were adopted ([`crate::Request::Adopt`]), another one had its slot.
    Surplus,
    /// Its pool, or everything, stops.
    Stop,
}
