//! The only clock of the master. The time that it gives the engine is time in which the master was running: a pause
//! (SIGSTOP, a starved machine) moves every deadline by at least its length, so no worker is killed for it.

use rotad_core::Time;
use std::time::{Duration, Instant};

/// While a deadline is pending, the loop wakes at least this often, so that a pause can be told from a long wait.
const TICK: Duration = Duration::from_millis(250);
/// A wait that ends this much late means that the master was paused.
const LATE: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    /// Pauses so far.
    shift: Duration,
    woke: Instant,
}

impl Clock {
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            origin: now,
            shift: Duration::ZERO,
            woke: now,
        }
    }

    /// The engine's time. Within one turn of the loop it advances no further than a wait may take before it counts as a
    /// pause: a pause in the middle of a turn is noticed by the next [`Clock::wake`], before any deadline is compared
    /// with it.
    pub fn now(&self) -> Time {
        let woke = self.woke.saturating_duration_since(self.origin);
        let now = woke + self.woke.elapsed().min(TICK + LATE);
        Time(now.saturating_sub(self.shift).as_millis() as u64)
    }

    /// How long the loop may wait: until the engine's deadline, in steps of `TICK`; None: without limit.
    pub fn patience(&self, deadline: Option<Time>) -> Option<Duration> {
        let left = deadline?.0.saturating_sub(self.now().0);
        Some(Duration::from_millis(left).min(TICK))
    }

    /// How long until then, for distant times that need not be told from a pause.
    pub fn until(&self, at: Time) -> Duration {
        Duration::from_millis(at.0.saturating_sub(self.now().0))
    }

    /// To be called right after each wait, with what it was allowed to take. Returns the pause, if there was one. Of a
    /// long wait only what came on top of it, and one tick, counts: nobody knows when in it the pause began, and who was
    /// paused with us gets that tick to speak up.
    pub fn wake(&mut self, allowed: Option<Duration>) -> Option<Duration> {
        let now = Instant::now();
        let took = now - self.woke;
        self.woke = now;
        let paused = allowed
            .filter(|allowed| took > *allowed + LATE)
            .map(|allowed| took - allowed.saturating_sub(TICK));
        self.shift += paused.unwrap_or_default();
        paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_moves_the_time_and_patience_does_not() {
        let mut clock = Clock::start();
        let before = clock.now();
        clock.woke -= Duration::from_secs(7);
        clock.origin -= Duration::from_secs(7);
        let paused = clock
            .wake(Some(Duration::from_millis(250)))
            .expect("seven seconds are a pause");
        assert!(paused >= Duration::from_secs(7));
        assert!(clock.now() - before < rotad_core::Span::from_secs(1));
        clock.woke -= Duration::from_secs(7);
        clock.origin -= Duration::from_secs(7);
        assert_eq!(
            clock.wake(None),
            None,
            "nothing was due: nothing can be late"
        );
        assert!(clock.now() - before >= rotad_core::Span::from_secs(7));
    }

    #[test]
    fn a_pause_in_the_midst_of_a_turn_is_not_seen_before_the_next_wait() {
        let mut clock = Clock::start();
        let before = clock.now();
        clock.woke -= Duration::from_secs(9);
        clock.origin -= Duration::from_secs(9);
        assert!(
            clock.now() - before <= rotad_core::Span::from_millis(401),
            "nobody's time is up for it"
        );
        let paused = clock.wake(Some(Duration::ZERO)).expect("a pause");
        assert!(paused >= Duration::from_secs(9), "{paused:?}");
        assert!(clock.now() - before < rotad_core::Span::from_secs(1));
    }

    #[test]
    fn a_long_wait_is_no_pause() {
        let mut clock = Clock::start();
        clock.woke -= Duration::from_secs(70);
        let paused = clock
            .wake(Some(Duration::from_secs(60)))
            .expect("ten seconds too late");
        assert!(
            paused >= Duration::from_secs(10) && paused < Duration::from_secs(11),
            "{paused:?}"
        );
    }

    #[test]
    fn waits_in_ticks_while_something_is_due() {
        let clock = Clock::start();
        assert_eq!(clock.patience(None), None);
        assert_eq!(
            clock.patience(Some(clock.now() + rotad_core::Span::from_secs(60))),
            Some(TICK)
        );
        assert_eq!(clock.patience(Some(Time(0))), Some(Duration::ZERO));
    }
}
