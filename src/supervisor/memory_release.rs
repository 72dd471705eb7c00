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

    pub(super) fn run(&mut self, now: Time) {
        if self.at.is_some_and(|at| at <= now) {
            self.at = None;
            UnusedPages::find().release();
        }
    }
}
