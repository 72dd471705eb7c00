//! The answer to `rotad metrics`: the counters, and what is measured: by the main thread what it knows and what a socket
//! tells without a wait, by a blocking job what lies in /proc and what the kernel tells of unix sockets. It waits for that
//! job as a status does (`status.rs`).

use super::pending::Wanted;
use crate::control::protocol::Response;
use crate::listener::Listener;
use crate::observe::metrics::{
    ListenerMetrics, MasterMetrics, Metrics, PoolMetrics, ProcessMetrics, WorkerMetrics,
};
use crate::plan::Address;
use crate::process::usage::WorkerUsage;
use crate::supervisor::Supervisor;
use crate::supervisor::reload::blocking::Measured;
use crate::sys::socket::Queue;
use rotad_core::{EmptyState, PoolId, PoolView, RollState, Time, WorkerId};
use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

/// The newest worker of each slot of each pool.
type Newest = BTreeMap<PoolId, BTreeMap<u32, WorkerId>>;

impl Supervisor {
    /// Answers a request for metrics, once everything is measured.
    pub(crate) fn metrics_requested(&mut self, client: u64) {
        let is_unix = |listener: &&Listener| matches!(listener.bound(), Address::Unix(_));
        let ids = self.listening.ids();
        let unix_sockets = self.listening.of(&ids).into_iter().filter(is_unix);
        let unix_sockets = unix_sockets.map(Listener::inode).collect();
        if self.clients.statuses.is_full()
            || self
                .reload
                .blocking
                .measure(
                    client,
                    self.roots(),
                    self.workers.processes.other_parents(),
                    unix_sockets,
                )
                .is_err()
        {
            return self.answer_metrics(client, Measured::default());
        }
        self.clients
            .statuses
            .wait(client, Wanted::Metrics, self.clock.now());
    }

    /// What is so now, not when the client asked.
    pub(super) fn answer_metrics(&mut self, client: u64, measured: Measured) {
        // A counter that was shown must not fall with the next master.
        self.counters.note_output(self.log.writer.counts());
        self.save();
        let metrics = self.metrics(measured);
        self.answer(client, &Response::Metrics(Box::new(metrics)), true);
    }

    fn metrics(&mut self, measured: Measured) -> Metrics {
        let usage: HashMap<i32, WorkerUsage> = measured.workers.into_iter().collect();
        let newest = self.newest_workers();
        let pools: Vec<PoolId> = self.pools.iter().map(|(id, _)| id).collect();
        let config = self.counters.config();
        Metrics {
            master: MasterMetrics {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                start_time_s: self.counters.began_s(),
                restarts: self.master_deaths.count,
                reload_successful: config.successful,
                reload_success_s: config.success_ms as f64 / 1000.0,
                process: measured.master.map(|usage| ProcessMetrics {
                    start_time_s: usage.start_time_s,
                    cpu_s: Some(usage.main.cpu_s),
                    rss_bytes: Some(usage.main.rss_bytes),
                    open_fds: usage.open_fds,
                    pss_bytes: None,
                }),
            },
            pools: pools
                .into_iter()
                .filter_map(|id| {
                    let workers = self.worker_metrics(newest.get(&id), &usage);
                    self.pool_metrics(id, workers)
                })
                .collect(),
            listeners: self.listener_metrics(&measured.queues.into_iter().collect()),
        }
    }

    fn newest_workers(&mut self) -> Newest {
        let mut newest = Newest::new();
        let processes = &self.workers.processes;
        self.counters
            .retain_workers(|worker| processes.get(worker).is_some());
        for (id, process) in processes.iter() {
            if process.pid().is_some() {
                let slots = newest.entry(process.pool).or_default();
                // They come in the order of their births.
                slots.insert(process.slot.0, id);
            }
        }
        newest
    }

    fn worker_metrics(
        &mut self,
        slots: Option<&BTreeMap<u32, WorkerId>>,
        usage: &HashMap<i32, WorkerUsage>,
    ) -> Vec<WorkerMetrics> {
        let mut workers = Vec::new();
        for (slot, id) in slots.into_iter().flatten() {
            let pid = self.workers.processes.get(*id).and_then(|of| of.pid());
            let Some(usage) = pid.and_then(|pid| usage.get(&pid)) else {
                continue;
            };
            let tree = usage.tree.map(|tree| tree.sum);
            let process = ProcessMetrics {
                start_time_s: usage.start_time_s,
                cpu_s: tree.map(|sum| self.counters.cpu_of(*id, sum.cpu_s)),
                rss_bytes: tree.map(|sum| sum.rss_bytes),
                open_fds: usage.open_fds,
                pss_bytes: None,
            };
            let slot = *slot;
            workers.push(WorkerMetrics { slot, pid, process });
        }
        workers
    }

    fn pool_metrics(&self, id: PoolId, workers: Vec<WorkerMetrics>) -> Option<PoolMetrics> {
        let engine = self.engine.view();
        let view: PoolView = engine.pool(id)?;
        let (state, ready) = self.shown_state(id, &view);
        let name = self.pools.name(id).to_owned();
        let (log_bytes, log_lost_bytes) = self.counters.output_of(&name);
        let waits = engine.empty_slots(id);
        let waits = waits.filter(|slot| slot.state == EmptyState::Backoff);
        let retry_at = waits.filter_map(|slot| slot.retry_at).min();
        Some(PoolMetrics {
            name,
            state,
            wanted: view.wanted,
            ready,
            starting: view.starting,
            draining: view.draining,
            generation: view.last_good.0,
            retry_at_s: retry_at.map(|at| self.real_time_of(at)),
            rolls: view.roll.state == RollState::Running,
            replaced: view.roll.replaced,
            counted: self.counters.of_pool(id),
            log_bytes,
            log_lost_bytes,
            workers,
        })
    }

    /// A time of the master's clock in seconds since 1970, if no pause comes in between; in tenths, so that it stays the same.
    fn real_time_of(&self, at: Time) -> f64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs_f64();
        ((now + (at - self.clock.now()).as_secs_f64()) * 10.0).round() / 10.0
    }

    fn listener_metrics(&self, unix_queues: &HashMap<u64, Queue>) -> Vec<ListenerMetrics> {
        let ids = self.listening.ids();
        let listeners = self.listening.of(&ids).into_iter();
        let mut all: BTreeMap<String, ListenerMetrics> = BTreeMap::new();
        for listener in listeners {
            let of_unix = unix_queues.get(&listener.inode()).copied();
            let queue = listener.queue().or(of_unix);
            let name = listener.name().to_owned();
            // Of two of one name, the older one is about to be closed.
            all.insert(
                name.clone(),
                ListenerMetrics {
                    name,
                    address: listener.addr_text(),
                    queue: queue.map(|queue| queue.waiting),
                    backlog: queue.map(|queue| queue.backlog),
                    overflows: listener.drops().map(u64::from),
                },
            );
        }
        all.into_values().collect()
    }
}
