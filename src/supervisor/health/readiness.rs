//! Readiness seen from outside: whether a starting worker accepts connections, by the accept probe; and, for workers
//! that /proc does not show to us, by READY=1 or by age.
//!
//! `facts.rs` begins and ends the watch of a worker; the main loop calls [`Readiness::on_report`] when the probe has
//! reported something, and the timers when a scan hangs or a worker is old enough.

use crate::observe::events::EventKind;
use crate::plan::{PoolPlan, Ready};
use crate::probe::accept::{AcceptProbe, AcceptReport, Target};
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::BTreeSet;

/// After this time, a worker that cannot be observed and has not sent READY=1 counts as alive.
const ALIVE_AFTER: Span = Span::from_secs(1);

/// What has to be known of a worker that cannot be observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unobservable {
    /// It has sent READY=1.
    pub notified: bool,
    /// It may be ready by that: `ready = "auto"`.
    pub auto: bool,
}

/// Whether a worker is ready once it accepts connections.
pub(crate) fn by_accepting(plan: &PoolPlan) -> bool {
    match plan.ready {
        Ready::Accepting => true,
        Ready::Auto => !plan.recipe.listen.is_empty(),
        Ready::Notify | Ready::Spawned | Ready::After(_) | Ready::Probe(_) => false,
    }
}

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

    /// Whether READY=1 counts for this worker. With listeners, it is neither needed nor sufficient: servers send it
    /// before they accept. It is all there is for one that cannot be observed.
    pub(crate) fn by_message(&self, worker: WorkerId, plan: &PoolPlan) -> bool {
        match plan.ready {
            Ready::Notify => true,
            Ready::Auto => plan.recipe.listen.is_empty() || self.unobservable.contains(&worker),
            Ready::Accepting | Ready::Spawned | Ready::After(_) | Ready::Probe(_) => false,
        }
    }

    /// When a scan has taken too long.
    pub(crate) fn probe_deadline(&self) -> Option<Time> {
        self.probe.deadline()
    }

    /// When the next unobservable worker is old enough.
    pub(crate) fn alive_deadline(&self) -> Option<Time> {
        self.alive_deadlines.first().map(|(at, _)| *at)
    }

    /// Takes a report of the probe. `unobservable` tells of a worker what matters when it cannot be observed; None: the
    /// worker is gone.
    pub(crate) fn on_report(
        &mut self,
        report: AcceptReport,
        unobservable: impl FnOnce(WorkerId) -> Option<Unobservable>,
        now: Time,
    ) -> Vec<Action> {
        match report {
            AcceptReport::Accepting(worker) => vec![Action::Input(Input::Ready(worker))],
            AcceptReport::Unobservable(worker, reason) => unobservable(worker)
                .map_or_else(Vec::new, |known| {
                    self.on_unobservable(worker, known, &reason, now)
                }),
            AcceptReport::ScanReturned => {
                self.probe.resume();
                Vec::new()
            }
        }
    }

    /// We may not read the worker's /proc files. Falls back to READY=1, or to one second of age.
    fn on_unobservable(
        &mut self,
        worker: WorkerId,
        known: Unobservable,
        reason: &str,
        now: Time,
    ) -> Vec<Action> {
        let event = |text| {
            let event = EventBuilder::new(EventKind::ProbeFailed, text).worker(worker);
            event.cause("unobservable")
        };
        if !known.auto {
            let text = format!("ready = \"accepting\" cannot be seen here: {reason}");
            return vec![Action::Emit(event(text).error())];
        }
        let mut actions = Vec::new();
        if !std::mem::replace(&mut self.reported, true) {
            let text = format!(
                "cannot see whether workers accept ({reason}): READY=1 makes them ready; without it they are called \
                 alive after 1 s, and nothing says more"
            );
            actions.push(Action::Emit(event(text).warn()));
        }
        self.unobservable.insert(worker);
        if known.notified {
            actions.push(Action::Input(Input::Ready(worker)));
        } else {
            self.alive_deadlines.insert((now + ALIVE_AFTER, worker));
        }
        actions
    }

    /// Abandons a scan that hangs, so that the other workers are still probed.
    pub(crate) fn check_probe(&mut self, now: Time) -> Option<Action> {
        let worker = self.probe.check(now)?;
        let text = "whether it accepts cannot be seen: looking at it has not come back for 1 s (its memory is locked by a \
                    disk that hangs, or the machine is overloaded); the other workers are looked at meanwhile";
        let event = EventBuilder::new(EventKind::ProbeFailed, text).worker(worker);
        Some(Action::Emit(event.cause("hangs").warn()))
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
