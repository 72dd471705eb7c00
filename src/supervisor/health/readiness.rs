//! Readiness seen from outside: whether a starting worker accepts connections, by the accept probe; and, for workers
//! that /proc does not show to us, by READY=1 or by age.
//!
//! `facts.rs` begins and ends the watch of a worker; the main loop calls [`Supervisor::on_accept_report`] when the probe
//! has reported something, and the timers when a scan hangs or a worker is old enough.

use crate::observe::events::EventKind;
use crate::plan::Ready;
use crate::probe::accept::{AcceptProbe, AcceptReport, Target};
use crate::supervisor::Supervisor;
use crate::supervisor::action::Action;
use crate::supervisor::event_log::EventBuilder;
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::BTreeSet;

/// After this time, a worker that cannot be observed and has not sent READY=1 counts as alive.
const ALIVE_AFTER: Span = Span::from_secs(1);

pub(crate) struct Readiness {
    probe: AcceptProbe,
    /// Workers that the probe watches.
    probed: BTreeSet<WorkerId>,
    /// Workers whose sockets /proc does not show to us (for lack of permission).
    unobservable: BTreeSet<WorkerId>,
    /// That there are such workers was reported.
    reported: bool,
    /// When unobservable workers without READY=1 count as alive.
    alive_deadlines: BTreeSet<(Time, WorkerId)>,
}

impl Readiness {
    pub(crate) fn new(probe: AcceptProbe) -> Self {
        Self {
            probe,
            probed: BTreeSet::new(),
            unobservable: BTreeSet::new(),
            reported: false,
            alive_deadlines: BTreeSet::new(),
        }
    }

    /// Probes a worker until it accepts on all targets.
    pub(crate) fn watch(&mut self, worker: WorkerId, pid: i32, targets: Vec<Target>) {
        self.probe.watch(worker, pid, targets);
        self.probed.insert(worker);
    }

    /// Stops the probe of a worker. A worker that is not probed costs nothing: each message would wake the thread.
    pub(crate) fn stop_probe(&mut self, worker: WorkerId) {
        if self.probed.remove(&worker) {
            self.probe.forget(worker);
        }
    }

    /// The worker has ended.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.stop_probe(worker);
        if self.unobservable.remove(&worker) {
            self.alive_deadlines.retain(|(_, of)| *of != worker);
        }
    }

    /// READY=1 counts for this worker, since nothing else can be seen of it.
    pub(crate) fn is_unobservable(&self, worker: WorkerId) -> bool {
        self.unobservable.contains(&worker)
    }

    /// When a scan has taken too long.
    pub(crate) fn probe_deadline(&self) -> Option<Time> {
        self.probe.deadline()
    }

    /// When the next unobservable worker is old enough.
    pub(crate) fn alive_deadline(&self) -> Option<Time> {
        self.alive_deadlines.first().map(|(at, _)| *at)
    }

    /// True: the worker has sent READY=1 already, so it is ready. Otherwise it counts as alive after a while.
    fn set_unobservable(&mut self, worker: WorkerId, notified: bool, now: Time) -> bool {
        self.unobservable.insert(worker);
        if !notified {
            self.alive_deadlines.insert((now + ALIVE_AFTER, worker));
        }
        notified
    }

    /// Reports unobservable workers that have reached an age of one second.
    pub(crate) fn mark_alive(&mut self, now: Time) -> Vec<Action> {
        let later = self
            .alive_deadlines
            .split_off(&(now + Span(1), WorkerId(0)));
        std::mem::replace(&mut self.alive_deadlines, later)
            .into_iter()
            .map(|(_, worker)| Action::Input(Input::AgeReached(worker)))
            .collect()
    }
}

impl Supervisor {
    pub(crate) fn on_accept_report(&mut self, report: AcceptReport) {
        match report {
            AcceptReport::Accepting(worker) => self.engine.push(Input::Ready(worker)),
            AcceptReport::Unobservable(worker, reason) => self.on_unobservable(worker, &reason),
            AcceptReport::ScanReturned => self.health.readiness.probe.resume(),
        }
    }

    /// Abandons a scan that hangs, so that the other workers are still probed.
    pub(crate) fn check_accept_probe(&mut self, now: Time) {
        let Some(worker) = self.health.readiness.probe.check(now) else {
            return;
        };
        let text = "whether it accepts cannot be seen: looking at it has not come back for 1 s (its memory is locked by a \
                    disk that hangs, or the machine is overloaded); the other workers are looked at meanwhile";
        self.emit(
            EventBuilder::new(EventKind::ProbeFailed, text)
                .worker(worker)
                .cause("hangs")
                .warn(),
        );
    }

    /// We may not read the worker's /proc files. Falls back to READY=1, or to one second of age.
    fn on_unobservable(&mut self, worker: WorkerId, reason: &str) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let (pool, notified) = (process.pool, process.ready);
        if process.spec.plan.ready != Ready::Auto {
            tracing::error!(
                pool = self.pools.name(pool),
                "ready = \"accepting\" cannot be seen here: {reason}"
            );
            return;
        }
        if !std::mem::replace(&mut self.health.readiness.reported, true) {
            tracing::warn!(
                pool = self.pools.name(pool),
                "cannot see whether workers accept ({reason}): READY=1 makes them ready; without it they are called \
                 alive after 1 s, and nothing says more"
            );
        }
        let now = self.clock.now();
        if self
            .health
            .readiness
            .set_unobservable(worker, notified, now)
        {
            self.engine.push(Input::Ready(worker));
        }
    }
}
