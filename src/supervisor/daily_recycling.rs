//! `recycle.at`: replaces the workers of a pool once a day at a local time. `health/daily.rs` decides when a pool is due, and
//! `health/recycling.rs` replaces its workers, one after another.
//!
//! One timer of the kernel waits for the next moment in wall-clock time, so that a master with nothing to do wakes once a
//! day. It also fires when the clock is set (TFD_TIMER_CANCEL_ON_SET, timerfd_create(2)), and after a suspend. It exists only
//! where a pool has the key.

use super::Supervisor;
use super::action::Action;
use super::health::daily::{Daily, Zone};
use crate::event_loop::poller::{Interest, Source};
use crate::plan::TimeOfDay;
use crate::sys::local_time;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rotad_core::{PoolId, Span, Time, WorkerId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The workers of a pool are replaced this far apart …
const STEP: Span = Span::from_secs(2);
/// … or closer, so that the last one's turn comes by then.
const WHOLE_POOL: Span = Span::from_secs(600);
/// A master that goes on after another one takes up what that had begun, or missed, within this time.
const TAKEN_UP: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct DailyRecycling {
    daily: Daily,
    timer: Option<TimerFd>,
}

impl DailyRecycling {
    /// Called at the start, before the main loop: it may read the zone from a disk.
    pub(super) fn load() -> Self {
        local_time::load();
        Self {
            daily: Daily::default(),
            timer: None,
        }
    }
}

/// The zone of this process.
struct Local;

impl Zone for Local {
    fn day_of(&self, wall: i64) -> i64 {
        local_time::day_of(wall)
    }

    fn instant(&self, day: i64, at: TimeOfDay) -> i64 {
        local_time::instant(day, at.0)
    }
}

/// The time since 1970 (UTC). The real clock: what is printed and what is due daily follow it.
fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// The same in seconds.
fn wall() -> i64 {
    i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX)
}

impl Supervisor {
    /// The plan in force may have changed.
    pub(super) fn schedule_daily(&mut self) {
        let pools = self.pools.iter();
        let pools = pools.filter_map(|(id, plan)| Some((id, plan.recycle.at?)));
        self.daily_recycling.daily.set(pools, wall(), &Local);
        self.arm_wall_timer();
    }

    /// For a master that goes on after another one: the workers of a pool whose time came a moment ago, and that have not
    /// been replaced since.
    pub(super) fn recycle_what_is_left(&mut self) {
        let (since_1970, now) = (since_1970(), self.clock.now());
        for (pool, moment) in self.daily_recycling.daily.last_moments(wall(), &Local) {
            let moment = Duration::from_secs(moment.unsigned_abs());
            let passed = since_1970.saturating_sub(moment);
            if passed < TAKEN_UP {
                self.recycle_pool(pool, now, |since| now - since > Span::from(passed));
            }
        }
    }

    /// The timer has fired, or the clock was set.
    pub(super) fn on_wall_timer(&mut self) {
        // Takes what has fired. What is set again below fires again, also for a clock that is set meanwhile.
        if let Some(timer) = &self.daily_recycling.timer {
            timer.wait().ok();
        }
        let now = self.clock.now();
        for pool in self.daily_recycling.daily.take_due(wall(), &Local) {
            self.recycle_pool(pool, now, |_| true);
        }
        self.arm_wall_timer();
    }

    /// Schedules the workers of a pool that serve. `wanted`: by when they became ready.
    fn recycle_pool(&mut self, pool: PoolId, now: Time, wanted: impl Fn(Time) -> bool) {
        let view = self.engine.view();
        let workers = view.workers().filter(|worker| worker.pool == pool);
        let mut workers: Vec<(u32, WorkerId)> = workers
            .filter(|worker| self.health.serves(worker.id))
            .filter(|worker| wanted(worker.began + worker.ready_in.unwrap_or_default()))
            .map(|worker| (worker.slot.0, worker.id))
            .collect();
        workers.sort_unstable();
        let count = u64::try_from(workers.len()).unwrap_or(u64::MAX).max(1);
        let step = STEP.min(Span(WHOLE_POOL.0 / count));
        let mut at = now;
        for (_, worker) in workers {
            self.health.schedule_recycling(worker, at, now);
            at = at + step;
        }
    }

    /// Has the timer fire at the next moment, and when the clock is set.
    fn arm_wall_timer(&mut self) {
        let Some(next) = self.daily_recycling.daily.next(&Local) else {
            if let Some(timer) = self.daily_recycling.timer.take() {
                self.event_loop.poller.unwatch(&timer);
            }
            return;
        };
        if let Err(error) = self.set_wall_timer(next) {
            let text = format!(
                "there is no timer for recycle.at ({error}): workers are not replaced by it"
            );
            self.perform([Action::Emit(
                super::event_builder::EventBuilder::new(
                    crate::observe::events::EventKind::Unwatched,
                    text,
                )
                .error(),
            )]);
        }
    }

    fn set_wall_timer(&mut self, next: i64) -> nix::Result<()> {
        let timer = match self.daily_recycling.timer.take() {
            Some(timer) => timer,
            None => {
                let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
                let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
                let watched =
                    self.event_loop
                        .poller
                        .watch(&timer, Source::WallTimer, Interest::Read);
                watched
                    .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
                timer
            }
        };
        // A moment that has passed fires at once; 0 would disarm it.
        let next = TimeSpec::new(next.max(1), 0);
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        let set = || timer.set(Expiration::OneShot(next), flags);
        // ECANCELED: it is set, and the clock was set before. That was taken into account.
        let done = match set() {
            Err(Errno::ECANCELED) => set(),
            other => other,
        };
        self.daily_recycling.timer = Some(timer);
        done
    }
}
