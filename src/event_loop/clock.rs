//! The one clock of the master. A pause of the master (SIGSTOP, a starved machine) is cut out of its time, so it moves
//! every deadline by at least its length, in all threads, and no worker is killed for it.
//!
//! [`LoopClock`] belongs to the main loop, which notices pauses; its threads measure by a [`Clock`]. A [`Deadline`] is
//! for code that supervises nothing: a command, and a master that does not serve yet.

use rotad_core::Time;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// While a deadline is pending, the loop wakes at least this often, so that a pause can be told from a long wait.
const TICK: Duration = Duration::from_millis(250);
/// A wait that ends this much late means that the master was paused.
const LATE: Duration = Duration::from_millis(150);

/// Time since boot, without suspend (clock_gettime(2), CLOCK_MONOTONIC), in milliseconds: what another process reads is
/// comparable.
pub fn monotonic_ms() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| {
        now.tv_sec().cast_unsigned() * 1000 + now.tv_nsec().cast_unsigned() / 1_000_000
    })
}

/// The only call of its kind: clippy refuses others.
#[expect(clippy::disallowed_methods, reason = "the one place")]
fn monotonic() -> Instant {
    Instant::now()
}

/// The master's time, for its threads. Its clones show the same time.
#[derive(Clone, Debug)]
pub struct Clock(Arc<ClockState>);

#[derive(Debug)]
struct ClockState {
    origin: Instant,
    /// The sum of all pauses that the main loop has noticed, in nanoseconds.
    paused: AtomicU64,
}

impl Clock {
    /// A clock that begins at 0. Without a [`LoopClock`] it knows of no pauses.
    pub fn start() -> Self {
        Self(Arc::new(ClockState {
            origin: monotonic(),
            paused: AtomicU64::new(0),
        }))
    }

    /// A clock that goes on at this time: that of a master that has died.
    pub fn start_at(now: Time) -> Self {
        let origin = monotonic();
        Self(Arc::new(ClockState {
            // Cannot fail: the clock of the dead master had begun after the boot of the machine.
            origin: origin
                .checked_sub(Duration::from_millis(now.0))
                .unwrap_or(origin),
            paused: AtomicU64::new(0),
        }))
    }

    /// The time now. Between the end of a pause and the moment at which the main loop notices it, the pause still
    /// counts: the main loop compares deadlines with [`LoopClock::now`] for that reason.
    pub fn now(&self) -> Time {
        Time(self.elapsed().as_millis() as u64)
    }

    /// The same as [`Clock::now`], to the nanosecond: for measurements.
    pub fn elapsed(&self) -> Duration {
        self.at(monotonic().saturating_duration_since(self.0.origin))
    }

    /// When it began, in the time of [`monotonic_ms`], later by all pauses so far.
    pub fn began_ms(&self) -> u64 {
        monotonic_ms().saturating_sub(self.now().0)
    }

    /// How long until then; zero if it has passed.
    pub fn until(&self, at: Time) -> Duration {
        (at - self.now()).into()
    }

    fn at(&self, since_origin: Duration) -> Duration {
        let paused = Duration::from_nanos(self.0.paused.load(Ordering::Relaxed));
        since_origin.saturating_sub(paused)
    }
}

/// The end of a wait, in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment after this much time. None: further away than the clock can tell, which is no limit.
    pub fn checked_after(timeout: Duration) -> Option<Self> {
        monotonic().checked_add(timeout).map(Self)
    }

    /// The moment after this much time, which must be less than centuries.
    pub fn after(timeout: Duration) -> Self {
        Self(monotonic() + timeout)
    }

    /// The time that is left; zero if it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(monotonic())
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }
}

/// The clock of the main loop.
#[derive(Debug)]
pub struct LoopClock {
    clock: Clock,
    /// When the last wait ended.
    woke: Instant,
}

impl LoopClock {
    /// Goes on with the time of `clock`, and cuts pauses out of it from now on.
    pub fn new(clock: Clock) -> Self {
        let woke = monotonic();
        Self { clock, woke }
    }

    /// The same time for the other threads.
    pub fn shared(&self) -> Clock {
        self.clock.clone()
    }

    /// The engine's time. Within one turn of the loop it advances no further than a wait may take before it counts as a
    /// pause: a pause in the middle of a turn is noticed by the next [`LoopClock::wake`], before any deadline is
    /// compared with it.
    pub fn now(&self) -> Time {
        let woke = self.woke.saturating_duration_since(self.clock.0.origin);
        let in_turn = monotonic().saturating_duration_since(self.woke);
        let now = woke + in_turn.min(TICK + LATE);
        Time(self.clock.at(now).as_millis() as u64)
    }

    /// How long the loop may wait: until the engine's deadline, in steps of `TICK`; None: without limit.
    pub fn poll_timeout(&self, deadline: Option<Time>) -> Option<Duration> {
        Some(self.until(deadline?).min(TICK))
    }

    /// How long until then, for distant times that need not be told from a pause.
    pub fn until(&self, at: Time) -> Duration {
        (at - self.now()).into()
    }

    /// To be called right after each wait, with what it was allowed to take. Returns the pause, if there was one. Of a
    /// long wait only the time on top of it, and one tick, counts: when in it the pause began is not known, and workers
    /// that were paused as well get that tick to report.
    pub fn wake(&mut self, allowed: Option<Duration>) -> Option<Duration> {
        let now = monotonic();
        let took = now - self.woke;
        self.woke = now;
        let paused = allowed
            .filter(|allowed| took > *allowed + LATE)
            .map(|allowed| took - allowed.saturating_sub(TICK));
        let nanos = paused.unwrap_or_default().as_nanos() as u64;
        self.clock.0.paused.fetch_add(nanos, Ordering::Relaxed);
        paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rotad_core::Span;

    /// A clock that was started, and woke last, this long ago.
    fn clock(ago: Duration) -> LoopClock {
        let before = monotonic() - ago;
        let state = ClockState {
            origin: before,
            paused: AtomicU64::new(0),
        };
        LoopClock {
            clock: Clock(Arc::new(state)),
            woke: before,
        }
    }

    #[test]
    fn a_pause_moves_the_time_of_all_threads_and_an_unlimited_wait_does_not() {
        let mut paused = clock(Duration::from_secs(7));
        let thread = paused.shared();
        assert!(thread.now() >= Time(7000));
        let pause = paused
            .wake(Some(Duration::from_millis(250)))
            .expect("seven seconds are a pause");
        assert!(pause >= Duration::from_secs(7));
        assert!(paused.now() < Time(1000) && thread.now() < Time(1000));
        let mut waited = clock(Duration::from_secs(7));
        assert_eq!(
            waited.wake(None),
            None,
            "nothing was due: nothing can be late"
        );
        assert!(waited.now() >= Time(7000) && waited.shared().now() >= Time(7000));
    }

    #[test]
    fn a_pause_in_the_midst_of_a_turn_is_not_seen_before_the_next_wait() {
        let mut clock = clock(Duration::from_secs(9));
        assert!(clock.now() <= Time(401), "no time is up because of it");
        let paused = clock.wake(Some(Duration::ZERO)).expect("a pause");
        assert!(paused >= Duration::from_secs(9), "{paused:?}");
        assert!(clock.now() < Time(1000));
    }

    #[test]
    fn a_long_wait_is_no_pause() {
        let paused = clock(Duration::from_secs(70))
            .wake(Some(Duration::from_secs(60)))
            .expect("ten seconds too late");
        assert!(
            paused >= Duration::from_secs(10) && paused < Duration::from_secs(11),
            "{paused:?}"
        );
    }

    #[test]
    fn waits_in_ticks_while_something_is_due() {
        let clock = clock(Duration::ZERO);
        assert_eq!(clock.poll_timeout(None), None);
        let far = clock.now() + Span::from_secs(60);
        assert_eq!(clock.poll_timeout(Some(far)), Some(TICK));
        assert!(clock.until(far) > Duration::from_secs(59));
        assert_eq!(clock.poll_timeout(Some(Time(0))), Some(Duration::ZERO));
    }

    #[test]
    fn a_deadline_passes() {
        let deadline = Deadline::after(Duration::from_secs(60));
        assert!(!deadline.has_passed() && deadline.left() > Duration::from_secs(59));
        assert!(Deadline::after(Duration::ZERO).has_passed());
        assert_eq!(Deadline::checked_after(Duration::MAX), None);
    }
}
