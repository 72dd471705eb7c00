//! What the threads report to the main thread: one kind of message, through one mailbox, handled in one place.
//!
//! Order: reports are handled in the order in which they were sent, each turn as many as there are, before any deadline
//! counts and before the exits that came in the same batch. A worker's spawn result comes before what its probes
//! report, since those are asked for after it; the exec status, the messages and the exit of a worker come through
//! descriptors that are watched from its spawn result on. A scan of orphans may be reported before the result of a
//! spawn that was under way meanwhile: while one is, no orphan is judged by it (`orphans.rs`).

use super::Supervisor;
use super::health::readiness::Unobservable;
use super::listening;
use super::reload::blocking::JobResult;
use crate::plan::Ready;
use crate::probe::ProbeResult;
use crate::probe::accept::AcceptReport;
use crate::process::SpawnResult;
use crate::process::orphan_scanner::ScanReport;
use crate::process::rss_sampler::TreeMemory;
use crate::watch::WatchReport;
use rotad_core::WorkerId;

/// A report of a thread.
pub(super) enum Report {
    /// The spawner.
    Spawn(SpawnResult),
    /// The accept probe.
    Accept(AcceptReport),
    /// The probe loop.
    Probe(ProbeResult),
    /// The probe loop of the hooks.
    Hook(ProbeResult),
    /// The RSS sampler.
    Memory(Vec<(WorkerId, TreeMemory)>),
    /// The CPU sampler: in percent of a CPU.
    CpuDemand(Vec<(WorkerId, u32)>),
    /// A blocking job.
    Job(JobResult),
    /// The file watcher.
    Files(WatchReport),
    /// The orphan scanner.
    Orphans(ScanReport),
}

impl Supervisor {
    /// Handles the reports that are there. Those that arrive meanwhile wake the loop again.
    pub(super) fn on_reports(&mut self) {
        for _ in 0..self.event_loop.reports.len() {
            let Ok(report) = self.event_loop.reports.try_recv() else {
                return;
            };
            let now = self.clock.now();
            match report {
                Report::Spawn(result) => self.on_spawn_result(result),
                Report::Accept(report) => {
                    let processes = &self.workers.processes;
                    let unobservable = |worker| {
                        let process = processes.get(worker)?;
                        Some(Unobservable {
                            notified: process.ready,
                            auto: process.spec.plan.ready == Ready::Auto,
                        })
                    };
                    let actions = self.health.readiness.on_report(report, unobservable, now);
                    self.perform(actions);
                }
                Report::Probe(result) => {
                    let actions = self.health.probing.on_result(result, now);
                    self.perform(actions);
                }
                Report::Hook(result) => self.on_hook_result(result),
                Report::Memory(sample) => {
                    let actions = self.health.on_rss_sample(sample, now);
                    self.perform(actions);
                }
                Report::CpuDemand(demand) => {
                    let action = self.health.boot_samples.on_demand(demand);
                    self.perform([action]);
                }
                Report::Job(result) => self.on_job_result(result),
                Report::Files(report) => self.on_file_change(report),
                Report::Orphans(report) => self.on_orphan_scan(report),
            }
            self.settle();
        }
    }

    fn on_job_result(&mut self, result: JobResult) {
        match result {
            JobResult::ListenerFailed(name, text) => self.emit(listening::failed(&name, &text)),
            JobResult::ConfigRead(number, read) => self.on_config_read(number, *read),
            JobResult::Bound(number, bound) => self.on_addresses_bound(number, bound),
            JobResult::FileOwnershipSet(name) => {
                tracing::info!("listener {name}: its file has its owner and mode")
            }
            JobResult::ListenerChecked(number, checked) => {
                let (now, poller) = (self.clock.now(), &self.event_loop.poller);
                let actions = self.listening.on_checked(number, checked, now, poller);
                self.perform(actions);
            }
            JobResult::RuntimeDirRepaired(repaired) => {
                if let Some(repaired) = self.runtime.repaired(self.clock.now(), repaired) {
                    let actions = self.apply_repair(repaired);
                    self.perform(actions);
                }
            }
            JobResult::Compared {
                round,
                pool,
                changed,
            } => self.on_compared(round, pool, changed),
            JobResult::Usage { client, found } => self.on_usage(client, found),
            JobResult::CandidateChecked(result) => self.on_candidate(result),
            JobResult::ConfigResolved {
                client,
                request,
                real,
            } => self.on_config_resolved(client, *request, real.as_deref()),
        }
    }
}
