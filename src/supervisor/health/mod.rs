//! Health: what the master does for workers beyond starting and stopping them (probes, watchdogs, recycling, ports, CPU
//! samples during boot). Each part has its own deadlines; `mod.rs` calls [`Supervisor::run_due_health`] each turn.

pub(crate) mod boot_limit;
pub(crate) mod ports;
pub(crate) mod probes;
pub(crate) mod readiness;
pub(crate) mod recycling;
pub(crate) mod spread;
#[cfg(test)]
mod stories;
pub(crate) mod watchdogs;

use crate::event_loop::clock::span;
use crate::event_loop::mailbox::Mailbox;
use crate::plan;
use crate::probe::accept::AcceptProbe;
use crate::process::SpawnerConfig;
use crate::supervisor::Supervisor;
use crate::supervisor::action::Action;
use crate::supervisor::health::boot_limit::Starts;
use crate::supervisor::health::ports::PortAllocator;
use crate::supervisor::health::probes::Probing;
use crate::supervisor::health::recycling::Recycling;
use crate::supervisor::health::watchdogs::{WatchdogMessage, Watchdogs};
use crate::supervisor::report::Report;
use readiness::Readiness;
use rotad_core::{Input, Span, Time, WorkerId};
use std::collections::BTreeSet;

/// A worker that has failed its health check: the engine stops it and fills its slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    pub worker: WorkerId,
    pub reason: String,
}

impl Unhealthy {
    fn actions(self) -> [Action; 2] {
        let Self { worker, reason } = self;
        [
            Action::SetProbeError(worker, Some(reason)),
            Action::Input(Input::Unhealthy(worker)),
        ]
    }
}

fn report(unhealthy: Vec<Unhealthy>) -> Vec<Action> {
    unhealthy.into_iter().flat_map(Unhealthy::actions).collect()
}

pub(crate) struct Health {
    pub probing: Probing,
    pub watchdogs: Watchdogs,
    pub recycling: Recycling,
    pub ports: PortAllocator,
    pub starts: Starts,
    pub readiness: Readiness,
    /// Workers that are ready (or soaking) and have not been asked to stop.
    serving: BTreeSet<WorkerId>,
}

impl Health {
    /// `settings`: how commands of probes are spawned; `reports`: the main loop's mailbox.
    pub(crate) fn new(
        settings: SpawnerConfig,
        accept_probe: AcceptProbe,
        reports: &Mailbox<Report>,
    ) -> Self {
        Self {
            recycling: Recycling::new(reports.of(Report::Memory)),
            starts: Starts::new(reports.of(Report::CpuDemand), settings.clock.clone()),
            probing: Probing::new(settings, reports.of(Report::Probe)),
            watchdogs: Watchdogs::default(),
            ports: PortAllocator::default(),
            readiness: Readiness::new(accept_probe),
            serving: BTreeSet::new(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let all = [
            self.probing.deadline(),
            self.watchdogs.deadline(),
            self.recycling.deadline(),
            self.ports.deadline(),
            self.starts.deadline(),
        ];
        all.into_iter().flatten().min()
    }

    pub(crate) fn serves(&self, worker: WorkerId) -> bool {
        self.serving.contains(&worker)
    }

    /// The worker has a watchdog.
    fn watch(&mut self, worker: WorkerId, interval: Span, now: Time) {
        let event = watchdogs::Event::Running { worker, interval };
        self.watchdogs.handle(now, event);
    }

    /// A worker has sent a message about its watchdog.
    pub(crate) fn on_watchdog_message(
        &mut self,
        worker: WorkerId,
        message: WatchdogMessage,
        now: Time,
    ) -> Vec<Action> {
        let event = watchdogs::Event::Message {
            worker,
            serves: self.serves(worker),
            message,
        };
        report(self.watchdogs.handle(now, event))
    }

    /// Reports the workers whose watchdog interval has ended.
    fn end_watchdog_intervals(&mut self, now: Time) -> Vec<Action> {
        report(self.watchdogs.handle(now, watchdogs::Event::TimerFired))
    }
}

impl Supervisor {
    /// Runs what is due by now.
    pub(crate) fn run_due_health(&mut self) {
        if self
            .health
            .deadline()
            .is_none_or(|at| at > self.clock.now())
        {
            return;
        }
        let actions = self.health.end_watchdog_intervals(self.clock.now());
        self.perform(actions);
        self.run_due_probes();
        self.run_due_recycling();
        self.run_due_ports();
        self.run_due_cpu_samples();
    }

    /// The program runs: starts its watchdog and readiness probe.
    pub(crate) fn begin_health(&mut self, worker: WorkerId) {
        if let Some(process) = self.workers.processes.get(worker)
            && let Some(plan::Health::Watchdog(interval)) = process.spec.plan.health
        {
            self.health.watch(worker, span(interval), self.clock.now());
        }
        self.probe_readiness(worker);
    }

    /// The worker is ready: starts its health checks, watchdog and recycling.
    pub(crate) fn start_health(&mut self, worker: WorkerId) {
        self.health.serving.insert(worker);
        self.health.probing.forget(worker);
        self.health
            .watchdogs
            .handle(self.clock.now(), watchdogs::Event::Ready(worker));
        self.probe_health(worker);
        self.start_recycling(worker);
    }

    pub(crate) fn stop_health(&mut self, worker: WorkerId) {
        self.health.serving.remove(&worker);
        self.health.probing.forget(worker);
        self.health
            .watchdogs
            .handle(self.clock.now(), watchdogs::Event::Forgotten(worker));
        self.health.recycling.forget(worker);
    }
}
