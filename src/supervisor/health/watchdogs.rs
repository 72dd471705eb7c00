//! Watchdogs (sd_notify(3), sd_watchdog_enabled(3)): a ready worker that has not sent WATCHDOG=1 in time, or that sends
//! WATCHDOG=trigger, is unhealthy.
//!
//! [`Watchdogs`] is a state machine without a clock: the health subsystem gives it events by [`Watchdogs::handle`], and
//! reports the workers that it returns. Stories as text test it (`watchdogs/stories.txt`).
//!
//! | state    | `Ready` | a message with WATCHDOG_USEC             | with WATCHDOG=1 | with WATCHDOG=trigger   | the interval ends |
//! |----------|---------|------------------------------------------|-----------------|-------------------------|-------------------|
//! | none     | –       | ignored                                  | ignored         | unhealthy, if it serves | –                 |
//! | Expected | Armed   | changes the interval                     | ignored         | ignored                 | –                 |
//! | Armed    | –       | changes and restarts it; of 0: Disabled  | restarts it     | unhealthy, none         | unhealthy, none   |
//! | Disabled | –       | Armed, unless it is 0                    | ignored         | unhealthy, none         | –                 |
//!
//! `Forgotten` leads to none from everywhere.

use super::unhealthy::Unhealthy;
use rotad_core::{Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// What happened.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// The program of a worker whose pool has a watchdog runs.
    Running { worker: WorkerId, interval: Span },
    /// The worker is ready: its interval begins.
    Ready(WorkerId),
    /// The worker has sent a message about its watchdog.
    Message {
        worker: WorkerId,
        /// The worker is ready and was not asked to stop.
        serves: bool,
        message: WatchdogMessage,
    },
    /// The worker no longer serves.
    Forgotten(WorkerId),
    /// The deadline has come.
    TimerFired,
}

/// What a worker says about its watchdog.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WatchdogMessage {
    /// WATCHDOG=1.
    pub alive: bool,
    /// WATCHDOG=trigger.
    pub broken: bool,
    /// WATCHDOG_USEC; zero disables the watchdog.
    pub interval: Option<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Watchdog {
    interval: Span,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The worker is not ready yet: it may set its interval, but nothing is due.
    Expected,
    /// WATCHDOG=1 has to arrive until then.
    Armed(Time),
    /// The worker has switched it off.
    Disabled,
}

/// The watchdogs of all workers whose pools have one.
#[derive(Debug, Default)]
pub(crate) struct Watchdogs {
    watchdogs: BTreeMap<WorkerId, Watchdog>,
    due: BTreeSet<(Time, WorkerId)>,
}

impl Watchdogs {
    /// When the next interval ends.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Applies one event. Returns the workers that are unhealthy by it.
    pub(crate) fn handle(&mut self, now: Time, event: Event) -> Vec<Unhealthy> {
        match event {
            Event::Running { worker, interval } => {
                self.forget(worker);
                let state = State::Expected;
                self.watchdogs.insert(worker, Watchdog { interval, state });
            }
            Event::Ready(worker) => self.restart_interval(worker, now),
            Event::Message {
                worker,
                serves,
                message,
            } => return self.on_message(worker, serves, message, now),
            Event::Forgotten(worker) => self.forget(worker),
            Event::TimerFired => return self.end_intervals(now),
        }
        Vec::new()
    }

    /// A worker may change its interval only where its pool has a watchdog, but may always report that it is broken.
    fn on_message(
        &mut self,
        worker: WorkerId,
        serves: bool,
        message: WatchdogMessage,
        now: Time,
    ) -> Vec<Unhealthy> {
        if let (Some(interval), Some(watchdog)) =
            (message.interval, self.watchdogs.get_mut(&worker))
        {
            watchdog.interval = interval;
        }
        if !serves {
            return Vec::new();
        }
        if message.broken {
            self.forget(worker);
            let reason = "it says WATCHDOG=trigger: it is broken".to_owned();
            return vec![Unhealthy { worker, reason }];
        }
        if message.alive || message.interval.is_some() {
            self.restart_interval(worker, now);
        }
        Vec::new()
    }

    /// An interval of zero disables the watchdog.
    fn restart_interval(&mut self, worker: WorkerId, now: Time) {
        let Some(watchdog) = self.watchdogs.get_mut(&worker) else {
            return;
        };
        if let State::Armed(until) = watchdog.state {
            self.due.remove(&(until, worker));
        }
        watchdog.state = if watchdog.interval == Span::ZERO {
            State::Disabled
        } else {
            let until = now + watchdog.interval;
            self.due.insert((until, worker));
            State::Armed(until)
        };
    }

    fn end_intervals(&mut self, now: Time) -> Vec<Unhealthy> {
        let mut unhealthy = Vec::new();
        while let Some((_, worker)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            let interval = self
                .watchdogs
                .get(&worker)
                .map(|watchdog| watchdog.interval);
            self.due.pop_first();
            self.watchdogs.remove(&worker);
            let reason = format!(
                "no WATCHDOG=1 for {:.1} s",
                interval.unwrap_or_default().as_secs_f64()
            );
            unhealthy.push(Unhealthy { worker, reason });
        }
        unhealthy
    }

    fn forget(&mut self, worker: WorkerId) {
        if let Some(Watchdog {
            state: State::Armed(until),
            ..
        }) = self.watchdogs.remove(&worker)
        {
            self.due.remove(&(until, worker));
        }
    }
}

#[cfg(test)]
mod tests;
