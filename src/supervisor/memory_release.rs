//! Gives back the memory that only a start or a rolling restart needs, a little after it.

use crate::sys::resident_pages::{UnusedPages, keep_free_heap};
use rotad_core::{Span, Time};

/// So many free bytes the heap keeps until the memory is given back.
const FREE_HEAP: i32 = 1 << 20;
/// By then the last events of a start or a rolling restart were handled.
const DELAY: Span = Span::from_secs(1);

/// Before the first thread: a respawn would make the heap longer and shorter again.
pub(super) fn keep_until_released() {
    keep_free_heap(FREE_HEAP);
}

#[derive(Debug, Default)]
pub(super) struct MemoryRelease {
    at: Option<Time>,
}

impl MemoryRelease {
    /// A pool has become ready, or was rolled.
    pub(super) fn later(&mut self, now: Time) {
        self.at = Some(now + DELAY);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.at
    }

    /// Whether [`release`] is to be called before the next wait, for which this is no deadline any more.
    pub(super) fn take_due(&mut self, now: Time) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }
}

/// Gives the memory back. What runs after it is read again from the program's file, so it is the last step before a wait.
pub(super) fn release() {
    UnusedPages::find().release();
}
