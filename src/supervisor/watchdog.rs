//! Watchdogs (sd_notify(3), sd_watchdog_enabled(3)): a ready worker that has not said WATCHDOG=1 in time, or that says
//! WATCHDOG=trigger, is unhealthy.

use super::Supervisor;
use crate::notify_socket::Message;
use crate::plan::Health;
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
struct Watchdog {
    interval: Span,
    /// None: it does not serve yet, or has switched it off.
    until: Option<Time>,
}

#[derive(Debug, Default)]
pub(super) struct Watchdogs {
    of: BTreeMap<WorkerId, Watchdog>,
    due: BTreeSet<(Time, WorkerId)>,
}

impl Watchdogs {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn forget(&mut self, worker: WorkerId) {
        if let Some(until) = self.of.remove(&worker).and_then(|dog| dog.until) {
            self.due.remove(&(until, worker));
        }
    }

    /// The interval begins anew; zero: there is none.
    fn wind(&mut self, worker: WorkerId, now: Time) {
        let Some(dog) = self.of.get_mut(&worker) else { return };
        if let Some(until) = dog.until.take() {
            self.due.remove(&(until, worker));
        }
        if dog.interval > Span::ZERO {
            let until = now + dog.interval;
            dog.until = Some(until);
            self.due.insert((until, worker));
        }
    }

    fn overdue(&mut self, now: Time) -> Option<(WorkerId, Span)> {
        let (_, worker) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        let interval = self.of.get(&worker).map_or(Span::ZERO, |dog| dog.interval);
        self.forget(worker);
        Some((worker, interval))
    }
}

impl Supervisor {
    /// It may set its interval before it is ready; nothing is due until then.
    pub(super) fn expect_watchdog(&mut self, worker: WorkerId) {
        let Some(body) = self.processes.get(worker) else { return };
        if let Some(Health::Watchdog(interval)) = body.pattern.plan.health {
            self.health.watchdogs.of.insert(worker, Watchdog { interval: span(interval), until: None });
        }
    }

    pub(super) fn start_watchdog(&mut self, worker: WorkerId) {
        self.health.watchdogs.wind(worker, self.clock.now());
    }

    /// What a message means for the watchdog. An interval is the worker's to change only where the pool has a
    /// watchdog; that it is broken it may always say.
    pub(super) fn watchdog_heard(&mut self, worker: WorkerId, message: &Message) {
        let serves = self.health.serves(worker);
        let watchdogs = &mut self.health.watchdogs;
        if let Some(interval) = message.watchdog_interval
            && let Some(dog) = watchdogs.of.get_mut(&worker)
        {
            dog.interval = span(interval);
        }
        if serves && (message.watchdog || message.watchdog_interval.is_some()) {
            watchdogs.wind(worker, self.clock.now());
        }
        if serves && message.trigger {
            self.health.watchdogs.forget(worker);
            self.unhealthy(worker, "it says WATCHDOG=trigger: it is broken".to_owned());
        }
    }

    pub(super) fn watchdogs_due(&mut self) {
        while let Some((worker, interval)) = self.health.watchdogs.overdue(self.clock.now()) {
            self.unhealthy(worker, format!("no WATCHDOG=1 for {:.1} s", interval.as_secs_f64()));
        }
    }

    /// It serves no more: the core asks it to leave and fills its slot.
    pub(super) fn unhealthy(&mut self, worker: WorkerId, reason: String) {
        if let Some(body) = self.processes.get_mut(worker) {
            body.unwell = Some(reason);
            self.input(Input::Unhealthy(worker));
        }
    }
}

pub(super) fn span(duration: Duration) -> Span {
    Span::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
