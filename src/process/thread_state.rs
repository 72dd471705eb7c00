//! State of one spawner thread: its current spawn, when that started, and how a hang is handled.

use super::pinned::PinnedPaths;
use super::{SpawnError, SpawnStage};
use crate::event_loop::clock::Clock;
use crate::sys::clone::{ExecFailure, ExecProgress};
use rotad_core::{Span, Time, WorkerId};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A spawn that takes longer is ended: its child is killed.
pub(super) const SPAWN_TIMEOUT: Span = Span::from_secs(5);
/// If the thread has not returned this long after the kill, it is abandoned.
pub(super) const ABANDON_TIMEOUT: Span = Span::from_secs(1);

#[derive(Debug)]
pub(super) struct ThreadState {
    clock: Clock,
    /// Written by the thread, and by the child while the thread sleeps.
    pub(super) progress: ExecProgress,
    /// The thread id; 0 until it runs.
    thread: AtomicI32,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    worker: WorkerId,
    pinned: Arc<PinnedPaths>,
    began: Time,
    killed: Option<Time>,
    abandoned: bool,
}

/// What the main thread sees.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ThreadStatus {
    Idle,
    /// At work; to be checked again at this time.
    Busy(Time),
    /// Abandoned earlier, and not back yet.
    Abandoned,
}

/// How a spawn ended, apart from its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    InTime,
    /// Too late: the child, if any, was killed. The thread still reports it.
    Killed,
    /// It was already reported on behalf of the thread.
    Abandoned,
}

impl ThreadState {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            progress: ExecProgress::default(),
            thread: AtomicI32::new(0),
            current: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the calling thread's id.
    pub(super) fn register_thread(&self) {
        self.thread
            .store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    }

    pub(super) fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread > 0)
    }

    pub(super) fn begin(&self, worker: WorkerId, pinned: Arc<PinnedPaths>) {
        self.progress.enter(SpawnStage::Prepare.number());
        *self.lock() = Some(Current {
            worker,
            pinned,
            began: self.clock.now(),
            killed: None,
            abandoned: false,
        });
    }

    /// Takes what the child left. From here on the main thread no longer knows the child.
    pub(super) fn collect(&self) -> (Option<OwnedFd>, Option<ExecFailure>) {
        let held = self.lock();
        let left = self.progress.take_result();
        drop(held);
        left
    }

    pub(super) fn end(&self) -> Ending {
        let ended = self.lock().take();
        match ended {
            Some(Current {
                abandoned: true,
                pinned,
                ..
            }) => {
                pinned.thread_freed();
                Ending::Abandoned
            }
            Some(Current {
                killed: Some(_), ..
            }) => Ending::Killed,
            _ => Ending::InTime,
        }
    }

    pub(super) fn status(&self) -> ThreadStatus {
        match &*self.lock() {
            None => ThreadStatus::Idle,
            Some(Current {
                abandoned: true, ..
            }) => ThreadStatus::Abandoned,
            Some(Current {
                killed: Some(at), ..
            }) => ThreadStatus::Busy(*at + ABANDON_TIMEOUT),
            Some(Current { began, .. }) => ThreadStatus::Busy(*began + SPAWN_TIMEOUT),
        }
    }

    /// Ends a spawn that takes too long. Some: the thread has just been abandoned, and this is to be reported on its
    /// behalf.
    pub(super) fn check(&self, now: Time) -> Option<(WorkerId, SpawnError)> {
        let mut held = self.lock();
        let current = held.as_mut()?;
        match current.killed {
            _ if current.abandoned => None,
            None if now >= current.began + SPAWN_TIMEOUT => {
                current.killed = Some(now);
                current
                    .pinned
                    .hung(self.clock.now(), self.hung(&current.pinned));
                // With the lock held, as `kill` requires. Without a child the thread itself hangs, and nothing can be
                // done about it.
                self.progress.kill();
                None
            }
            Some(at) if now >= at + ABANDON_TIMEOUT => {
                current.abandoned = true;
                current.pinned.thread_stuck();
                Some((current.worker, self.hung(&current.pinned)))
            }
            _ => None,
        }
    }

    /// The error of a spawn that hangs at the current stage.
    pub(super) fn hung(&self, pinned: &PinnedPaths) -> SpawnError {
        let stage = SpawnStage::of_number(self.progress.stage());
        SpawnError::hung(stage, &pinned.subject(stage))
    }
}
