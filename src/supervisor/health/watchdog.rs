//! Watchdogs (sd_notify(3), sd_watchdog_enabled(3)): a ready worker that has not sent WATCHDOG=1 in time, or that sends
//! WATCHDOG=trigger, is unhealthy.

use crate::notify_socket::Message;
use crate::plan::Health;
use crate::supervisor::Supervisor;
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Watchdog {
    interval: Span,
    /// None: the worker is not ready yet, or has disabled its watchdog.
    until: Option<Time>,
}

#[derive(Debug, Default)]
pub(crate) struct Watchdogs {
    of: BTreeMap<WorkerId, Watchdog>,
    due: BTreeSet<(Time, WorkerId)>,
}

impl Watchdogs {
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(crate) fn forget(&mut self, worker: WorkerId) {
        if let Some(until) = self.of.remove(&worker).and_then(|watchdog| watchdog.until) {
            self.due.remove(&(until, worker));
        }
    }

    /// Restarts the interval. An interval of zero disables the watchdog.
    fn rearm(&mut self, worker: WorkerId, now: Time) {
        let Some(watchdog) = self.of.get_mut(&worker) else {
            return;
        };
        if let Some(until) = watchdog.until.take() {
            self.due.remove(&(until, worker));
        }
        if watchdog.interval > Span::ZERO {
            let until = now + watchdog.interval;
            watchdog.until = Some(until);
            self.due.insert((until, worker));
        }
    }

    fn overdue(&mut self, now: Time) -> Option<(WorkerId, Span)> {
        let (_, worker) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        let interval = self
            .of
            .get(&worker)
            .map_or(Span::ZERO, |watchdog| watchdog.interval);
        self.forget(worker);
        Some((worker, interval))
    }
}

impl Supervisor {
    /// Registers the watchdog: the worker may set its interval before it is ready, but nothing is due until then.
    pub(crate) fn expect_watchdog(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        if let Some(Health::Watchdog(interval)) = process.spec.plan.health {
            self.health.watchdogs.of.insert(
                worker,
                Watchdog {
                    interval: span(interval),
                    until: None,
                },
            );
        }
    }

    pub(crate) fn start_watchdog(&mut self, worker: WorkerId) {
        self.health.watchdogs.rearm(worker, self.clock.now());
    }

    /// Handles the watchdog part of a message. A worker may change its interval only where its pool has a watchdog, but
    /// may always report that it is broken.
    pub(crate) fn on_watchdog_message(&mut self, worker: WorkerId, message: &Message) {
        let serves = self.health.serves(worker);
        let watchdogs = &mut self.health.watchdogs;
        if let Some(interval) = message.watchdog_interval
            && let Some(watchdog) = watchdogs.of.get_mut(&worker)
        {
            watchdog.interval = span(interval);
        }
        if serves && (message.watchdog || message.watchdog_interval.is_some()) {
            watchdogs.rearm(worker, self.clock.now());
        }
        if serves && message.trigger {
            self.health.watchdogs.forget(worker);
            self.unhealthy(worker, "it says WATCHDOG=trigger: it is broken".to_owned());
        }
    }

    pub(crate) fn run_due_watchdogs(&mut self) {
        while let Some((worker, interval)) = self.health.watchdogs.overdue(self.clock.now()) {
            self.unhealthy(
                worker,
                format!("no WATCHDOG=1 for {:.1} s", interval.as_secs_f64()),
            );
        }
    }

    /// Reports a worker as unhealthy: the engine stops it and fills its slot.
    pub(crate) fn unhealthy(&mut self, worker: WorkerId, reason: String) {
        if let Some(process) = self.workers.processes.get_mut(worker) {
            process.probe_error = Some(reason);
            self.engine.push(Input::Unhealthy(worker));
        }
    }
}

pub(crate) fn span(duration: Duration) -> Span {
    Span::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
