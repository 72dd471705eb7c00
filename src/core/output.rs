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
    Command(Command),
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

/// What the supervisor must do. It executes commands at once and in order; results come back as later inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Spawn a worker. Answered by [`crate::Input::Started`] or [`crate::Input::SpawnFailed`].
    Spawn {
        worker: WorkerId,
        pool: PoolId,
        slot: Slot,
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
        pool: PoolId,
        generation: Generation,
    },
    /// The rolling restart of a changed configuration has failed: the configuration of the generation that fills the
    /// slots holds again.
    RevertConfig(PoolId),
    /// A rolling restart is over: forget the generations that no worker can be made from any more. `to_older`: another
    /// one to an older generation takes its place.
    EndGeneration { pool: PoolId, to_older: bool },
    /// The worker is ready: begin its health checks, watchdog and recycling.
    StartHealth(WorkerId),
    /// The worker has exited or is asked to stop: end its health checks.
    StopHealth(WorkerId),
    /// An essential pool is lost: the master stops everything and exits with a code that tells why.
    GiveUp { pool: PoolId, cause: EssentialLoss },
    /// Everything has stopped: the master exits. `lost` lists workers that the kernel could not kill.
    Exit { lost: Vec<WorkerId> },
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
pub enum Outcome {
    /// Every worker is of the new generation. `took` counts from the start of the rolling restart.
    Done {
        generation: Generation,
        replaced: u32,
        took: Span,
    },
    /// The new generation failed; slots that were replaced keep their new workers.
    Aborted {
        generation: Generation,
        failure: Failure,
        standing: Standing,
    },
    /// The new generation failed; every worker is of the old one again.
    RolledBack {
        generation: Generation,
        failure: Failure,
        standing: Standing,
    },
    /// For the request that cancelled: the rolling restart to this generation is over. `stuck`: the way back has
    /// failed too.
    Cancelled {
        generation: Generation,
        stuck: bool,
        standing: Standing,
    },
    /// The new worker of a replacement has failed. `old_serves`: the old worker still serves.
    ReplaceFailed {
        slot: Slot,
        failure: Failure,
        old_serves: bool,
    },
    /// The pool has not begun and waits for `by`, which cannot come up; then it begins with this generation.
    HeldUp {
        generation: Generation,
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
    Scaled { from: u32, to: u32 },
    /// Another request took its place.
    Superseded { by: SupersededBy },
    /// Nothing was done.
    NothingDone(NothingDone),
}

/// How a pool is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub enum StartFailure {
    /// A worker has failed before it was ready, or has ended before that again and again, or has failed and is not
    /// started again (`given_up`). `early_exits`: as in [`Notice::Died`].
    Worker {
        worker: WorkerId,
        cause: Cause,
        early_exits: u32,
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
    Dependency { pool: PoolId, failure: Box<Self> },
}

/// Which workers serve after a rolling restart that did not complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The generation that empty slots are filled with, how many of its workers serve, and how many are desired.
    pub base: Generation,
    pub of_base: u32,
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
pub struct Failure {
    /// The new worker that failed; `None` if the rolling restart was cancelled.
    pub worker: Option<WorkerId>,
    pub cause: Cause,
    /// The way back failed as well: workers of both generations serve.
    pub mixed: bool,
}

/// Why a worker is gone or counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The rolling restart of a pool that this one comes after did not complete, so no worker of this one was
    /// replaced.
    After(PoolId),
}

impl Cause {
    /// The new generation was tried and failed, which says something about its files.
    pub(crate) fn tells_of_the_files(self) -> bool {
        !matches!(self, Self::Cancelled | Self::After(_))
    }
}

/// One notice for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The worker is ready. `by_age`: only because it has lived long enough. `soak`: how long it is watched before
    /// another worker is replaced.
    Ready {
        worker: WorkerId,
        took: Span,
        by_age: bool,
        soak: Span,
    },
    /// A worker that was ready only by age has reported ready, this long after its spawn.
    Confirmed { worker: WorkerId, took: Span },
    /// The first new worker of a rolling restart has passed its soak.
    CanaryPassed { worker: WorkerId },
    /// A worker is gone, or counts as failed, without having been asked to stop. `failure`: its exit code is not one
    /// of `success_exit_codes`. `before_ready`: it never served.
    Died {
        worker: WorkerId,
        cause: Cause,
        failure: bool,
        before_ready: bool,
        /// Exits in this slot before readiness, this one included, with no failure and no ready worker in between.
        early_exits: u32,
        retry_in: Option<Span>,
        /// The slot stays empty until an operator acts, by its policy or by `never_on`.
        given_up: bool,
    },
    /// A worker that was asked to stop is gone with its whole tree, `took` after it was asked. `exit`: how its first
    /// process ended.
    Stopped {
        worker: WorkerId,
        exit: Option<Exit>,
        took: Span,
    },
    /// A worker's stop has begun.
    Retired { worker: WorkerId, why: StopReason },
    /// The worker, or the rest of its tree, had not exited `waited` after it was asked to stop: it is killed.
    Killed {
        worker: WorkerId,
        reason: KillReason,
        waited: Span,
    },
    /// SIGKILL has not ended the worker: the kernel holds it (state D, uninterruptible sleep).
    Unkillable { worker: WorkerId },
    /// This many early deaths within this time.
    CrashLoop {
        pool: PoolId,
        deaths: u32,
        span: Span,
    },
    /// In a loop of workers that fail late, one has served for a second: the other slots are started too. The loop is
    /// over once a worker has been ready for `stable_after`.
    CrashLoopEases { pool: PoolId },
    /// The crash loop is over.
    CrashLoopOver { pool: PoolId },
    /// A rolling restart of `of` slots has started.
    RollStarted {
        pool: PoolId,
        generation: Generation,
        of: u32,
    },
    /// Every slot is done, but some new workers are ready only by age: they are watched for this much longer.
    Watched { pool: PoolId, span: Span },
    /// A rolling restart has completed one slot: `done` out of `of`.
    SlotReplaced {
        pool: PoolId,
        slot: Slot,
        worker: WorkerId,
        done: u32,
        of: u32,
    },
    /// The new generation failed; replaced slots go back to `to`.
    RollingBack {
        pool: PoolId,
        generation: Generation,
        to: Generation,
        failure: Failure,
    },
    /// The rolling restart is over.
    RollEnded { pool: PoolId, outcome: Outcome },
    /// The rolling restart waits until those of these pools, which its own pool comes after, are done.
    RollAfter {
        pool: PoolId,
        by: alloc::vec::Vec<PoolId>,
    },
    /// The pool has not begun: it will begin with this generation, once `by` are up.
    BeginsWith {
        pool: PoolId,
        generation: Generation,
        by: Vec<PoolId>,
    },
    /// A request arrived while a rolling restart that has already stopped an old worker is running: it waits for its
    /// turn.
    RollWaits { pool: PoolId },
    /// Another request takes over. `retired_any`: an old worker has already been asked to stop.
    RollSuperseded {
        pool: PoolId,
        generation: Generation,
        by: SupersededBy,
        retired_any: bool,
    },
    /// Every desired worker is ready, all of one generation.
    PoolReady {
        pool: PoolId,
        generation: Generation,
    },
    /// Nothing is left of the pool's workers that the kernel can end.
    PoolStopped { pool: PoolId },
    /// The pool may not start until these pools are up.
    Waiting { pool: PoolId, by: Vec<PoolId> },
    /// A oneshot has succeeded.
    OneshotDone {
        pool: PoolId,
        generation: Generation,
        took: Span,
    },
    /// One worker was replaced by a new one of the same generation.
    WorkerReplaced {
        pool: PoolId,
        slot: Slot,
        worker: WorkerId,
        took: Span,
    },
    /// An essential pool has had no ready worker for this long.
    EssentialLost { pool: PoolId, span: Span },
    /// All workers of an essential pool have exited, and none will be started again. `exit`: that of the last
    /// failure, or else of the last success; `None`: a worker could not be started, or was killed before it was
    /// ready.
    EssentialEnded { pool: PoolId, exit: Option<Exit> },
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
    /// Its pool, or everything, stops.
    Stop,
}
