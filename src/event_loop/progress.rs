//! What a thread that may hang is doing, as its owner sees it.
//!
//! The thread says on what it begins and ends to work; the owner asks whether that takes too long, and if so abandons
//! the thread and starts another one. An abandoned thread that comes back finds out, and ends. The accept probe, the
//! probe loop and the orphan scanner work like this. The spawner does not: its thread must never end, since the workers
//! are its children, and before it is abandoned its child is killed (`process/thread_state.rs`).

use super::clock::Clock;
use rotad_core::{Span, Time};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of one thread. Its clones, one of them in the thread, show the same.
#[derive(Clone, Debug)]
pub struct Progress<K> {
    clock: Clock,
    state: Arc<Mutex<State<K>>>,
}

#[derive(Debug)]
struct State<K> {
    /// What it works on, and since when without progress.
    current: Option<(K, Time)>,
    abandoned: bool,
    ended: bool,
}

impl<K: Copy> Progress<K> {
    /// A thread that does nothing yet.
    pub fn new(clock: Clock) -> Self {
        let state = State {
            current: None,
            abandoned: false,
            ended: false,
        };
        Self {
            clock,
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread begins to work on this.
    pub fn begin(&self, on: K) {
        self.lock().current = Some((on, self.clock.now()));
    }

    /// The thread is still at it, and does not hang.
    pub fn advance(&self) {
        if let Some((_, since)) = &mut self.lock().current {
            *since = self.clock.now();
        }
    }

    /// The thread has finished it. `settle` is called with whether the thread was abandoned meanwhile, which cannot
    /// change until it returns; so is this.
    pub fn finish(&self, settle: impl FnOnce(bool)) -> bool {
        let mut state = self.lock();
        state.current = None;
        settle(state.abandoned);
        state.abandoned
    }

    /// Whether the owner has given up on the thread.
    pub fn is_abandoned(&self) -> bool {
        self.lock().abandoned
    }

    /// The thread ends.
    pub fn end(&self) {
        self.lock().ended = true;
    }

    /// What the thread works on.
    pub fn current(&self) -> Option<K> {
        self.lock().current.map(|(on, _)| on)
    }

    /// Since when it has worked on that without progress.
    pub fn since(&self) -> Option<Time> {
        self.lock().current.map(|(_, since)| since)
    }

    /// When it has worked on the same for this long, or could have if it begins now.
    pub fn deadline(&self, limit: Span) -> Time {
        self.since().unwrap_or_else(|| self.clock.now()) + limit
    }

    /// What the thread hangs at: it has made no progress for this long.
    pub fn hangs(&self, now: Time, limit: Span) -> Option<K> {
        let (on, since) = self.lock().current?;
        (now >= since + limit).then_some(on)
    }

    /// Gives up on the thread.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Span = Span::from_secs(1);

    #[test]
    fn only_work_without_progress_hangs() {
        let progress = Progress::new(Clock::start());
        let late = progress.deadline(LIMIT) + LIMIT;
        assert_eq!(progress.hangs(late, LIMIT), None, "it has nothing to do");
        progress.begin(7);
        assert_eq!(progress.hangs(Time(0), LIMIT), None);
        assert_eq!(progress.hangs(late, LIMIT), Some(7));
        progress.advance();
        assert_eq!(progress.current(), Some(7));
        assert!(!progress.finish(|abandoned| assert!(!abandoned)));
        assert_eq!(progress.hangs(late, LIMIT), None);
    }

    #[test]
    fn an_abandoned_thread_finds_out_when_it_is_back() {
        let progress = Progress::new(Clock::start());
        let thread = progress.clone();
        thread.begin(1);
        progress.abandon();
        assert_eq!(progress.current(), Some(1), "it still hangs there");
        assert!(thread.is_abandoned() && !progress.has_ended());
        assert!(thread.finish(|abandoned| assert!(abandoned)));
        thread.end();
        assert!(progress.has_ended());
    }
}
