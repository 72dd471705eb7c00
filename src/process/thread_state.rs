//! Where a spawner thread sits: what it is at, since when, and what is done if it does not come back.

use super::pinned::PinnedPaths;
use super::{SpawnError, SpawnStage};
use crate::sys::clone::{Progress, Trouble};
use rotad_core::WorkerId;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A birth that takes longer is ended: its child is killed.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// A thread that has not come back so long after that is written off.
pub(super) const LAST_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct ThreadState {
    /// Written by the thread, and by the child while the thread sleeps.
    pub(super) progress: Progress,
    /// The thread's number; 0 until it runs.
    thread: AtomicI32,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    worker: WorkerId,
    pinned: Arc<PinnedPaths>,
    began: Instant,
    killed: Option<Instant>,
    written_off: bool,
}

/// What the main thread finds when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ThreadStatus {
    Idle,
    /// At work; to be looked at again then at the latest.
    Busy(Instant),
    /// Written off earlier, and not back yet.
    Gone,
}

/// How a birth went, apart from its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    InTime,
    /// Too late: the child, should there be one, has been killed. The thread still reports it.
    Killed,
    /// It has been reported in the thread's place.
    WrittenOff,
}

impl ThreadState {
    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calling thread has taken the seat.
    pub(super) fn taken(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    }

    pub(super) fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread > 0)
    }

    pub(super) fn begin(&self, worker: WorkerId, pinned: Arc<PinnedPaths>) {
        self.progress.enter(SpawnStage::Prepare.number());
        *self.lock() = Some(Current { worker, pinned, began: Instant::now(), killed: None, written_off: false });
    }

    /// Takes over what the child left. From here on the main thread no longer knows of the child.
    pub(super) fn collect(&self) -> (Option<OwnedFd>, Option<Trouble>) {
        let held = self.lock();
        let left = self.progress.settle();
        drop(held);
        left
    }

    pub(super) fn end(&self) -> Ending {
        let ended = self.lock().take();
        match ended {
            Some(Current { written_off: true, pinned, .. }) => {
                pinned.freed();
                Ending::WrittenOff
            }
            Some(Current { killed: Some(_), .. }) => Ending::Killed,
            _ => Ending::InTime,
        }
    }

    pub(super) fn look(&self) -> ThreadStatus {
        match &*self.lock() {
            None => ThreadStatus::Idle,
            Some(Current { written_off: true, .. }) => ThreadStatus::Gone,
            Some(Current { killed: Some(at), .. }) => ThreadStatus::Busy(*at + LAST_PATIENCE),
            Some(Current { began, .. }) => ThreadStatus::Busy(*began + PATIENCE),
        }
    }

    /// The whole process stood still for so long: that counts against no birth.
    pub(super) fn paused(&self, by: Duration) {
        if let Some(current) = &mut *self.lock() {
            current.began += by;
            current.killed = current.killed.map(|at| at + by);
        }
    }

    /// Ends what takes too long. Some: the thread has just been written off, with this to be reported in its place.
    pub(super) fn check(&self, now: Instant) -> Option<(WorkerId, SpawnError)> {
        let mut held = self.lock();
        let current = held.as_mut()?;
        match current.killed {
            _ if current.written_off => None,
            None if now >= current.began + PATIENCE => {
                current.killed = Some(now);
                current.pinned.hung(self.hung(&current.pinned));
                // With the lock held, as `kill` asks for. Without a child the thread itself hangs: nothing helps it.
                self.progress.kill();
                None
            }
            Some(at) if now >= at + LAST_PATIENCE => {
                current.written_off = true;
                current.pinned.stuck();
                Some((current.worker, self.hung(&current.pinned)))
            }
            _ => None,
        }
    }

    /// The error of a birth that hung where the progress stands now.
    pub(super) fn hung(&self, pinned: &PinnedPaths) -> SpawnError {
        let stage = SpawnStage::of_number(self.progress.stage());
        SpawnError::hung(stage, &pinned.subject(stage))
    }
}
