//! Health: what the master does for workers beyond starting and stopping them (probes, watchdogs, recycling, ports, CPU
//! samples during boot). Each part has its own deadlines; `mod.rs` calls [`Supervisor::run_due_health`] each turn.

use super::Supervisor;
use super::boot_limit::Starts;
use super::ports::PortAllocator;
use super::probes::Probing;
use super::recycling::Recycling;
use super::report::Report;
use super::watchdog::Watchdogs;
use crate::event_loop::mailbox::Mailbox;
use crate::process::SpawnerConfig;
use rotad_core::{Time, WorkerId};
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Health {
    pub probing: Probing,
    pub watchdogs: Watchdogs,
    pub recycling: Recycling,
    pub ports: PortAllocator,
    pub starts: Starts,
    /// Workers that are ready (or soaking) and have not been asked to stop.
    serving: BTreeSet<WorkerId>,
}

impl Health {
    /// `settings`: how commands of probes are spawned; `reports`: the main loop's mailbox.
    pub(super) fn new(settings: SpawnerConfig, reports: &Mailbox<Report>) -> Self {
        Self {
            recycling: Recycling::new(reports.of(Report::Memory)),
            starts: Starts::new(reports.of(Report::CpuDemand), settings.clock.clone()),
            probing: Probing::new(settings, reports.of(Report::Probe)),
            watchdogs: Watchdogs::default(),
            ports: PortAllocator::default(),
            serving: BTreeSet::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let all = [
            self.probing.deadline(),
            self.watchdogs.deadline(),
            self.recycling.deadline(),
            self.ports.deadline(),
            self.starts.deadline(),
        ];
        all.into_iter().flatten().min()
    }

    pub(super) fn serves(&self, worker: WorkerId) -> bool {
        self.serving.contains(&worker)
    }
}

impl Supervisor {
    /// Runs what is due by now.
    pub(super) fn run_due_health(&mut self) {
        if self
            .health
            .deadline()
            .is_none_or(|at| at > self.clock.now())
        {
            return;
        }
        self.run_due_watchdogs();
        self.run_due_probes();
        self.run_due_recycling();
        self.run_due_ports();
        self.run_due_cpu_samples();
    }

    /// The program runs: starts its watchdog and readiness probe.
    pub(super) fn begin_health(&mut self, worker: WorkerId) {
        self.expect_watchdog(worker);
        self.probe_readiness(worker);
    }

    /// The worker is ready: starts its health checks, watchdog and recycling.
    pub(super) fn start_health(&mut self, worker: WorkerId) {
        self.health.serving.insert(worker);
        self.health.probing.forget(worker);
        self.start_watchdog(worker);
        self.probe_health(worker);
        self.start_recycling(worker);
    }

    pub(super) fn stop_health(&mut self, worker: WorkerId) {
        self.health.serving.remove(&worker);
        self.health.probing.forget(worker);
        self.health.watchdogs.forget(worker);
        self.health.recycling.forget(worker);
    }
}
