//! The answer to `rotad status`: from the engine's view and the process table, which the main thread has, and from
//! /proc/PID/stat of each worker, which a blocking job reads. A status waits for that job until [`USAGE_TIMEOUT`].

use crate::control::protocol::Response;
use crate::observe::status::{
    MasterStatus, PoolStatus, ReadyBy, ReloadStatus, SlotState, Status, WorkerStatus, kind_name,
    outdated,
};
use crate::process::rss_sampler::Usage;
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::reason;
use rotad_core::{
    EmptySlot, EmptyState, PoolId, PoolState, PoolView, Span, Time, WorkerState, WorkerView,
};
use std::collections::{BTreeMap, HashMap};

/// How long a status waits for the memory and CPU time of workers. Then it is answered without them.
const USAGE_TIMEOUT: Span = Span::from_secs(1);

/// Jobs that have not come back in time. With this many, no further ones are started.
const MAX_HUNG: usize = 8;

/// Statuses that wait for the memory and CPU time of workers, by client.
#[derive(Debug, Default)]
pub(crate) struct PendingStatuses {
    waiting: BTreeMap<u64, Time>,
    /// Jobs that have not come back.
    jobs: usize,
}

impl PendingStatuses {
    /// When the next status is answered at the latest.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.waiting.values().copied().min()
    }

    /// The client is gone.
    pub(crate) fn forget(&mut self, client: u64) {
        self.waiting.remove(&client);
    }
}

impl Supervisor {
    /// Answers a status request, once the memory and CPU time of workers are known.
    pub(crate) fn status_requested(&mut self, client: u64) {
        let pids: Vec<i32> = self
            .workers
            .processes
            .iter()
            .filter_map(|(_, process)| process.pid())
            .collect();
        let hung = self.clients.statuses.jobs
            - self
                .clients
                .statuses
                .waiting
                .len()
                .min(self.clients.statuses.jobs);
        if pids.is_empty()
            || hung >= MAX_HUNG
            || self.reload.blocking.read_usage(client, pids).is_err()
        {
            return self.answer_status(client, &HashMap::new());
        }
        self.clients.statuses.jobs += 1;
        let until = self.clock.now() + USAGE_TIMEOUT;
        self.clients.statuses.waiting.insert(client, until);
    }

    /// The memory and CPU time of workers, by pid, for the status of this client.
    pub(crate) fn on_usage(&mut self, client: u64, found: Vec<(i32, Usage)>) {
        self.clients.statuses.jobs = self.clients.statuses.jobs.saturating_sub(1);
        if self.clients.statuses.waiting.remove(&client).is_some() {
            self.answer_status(client, &found.into_iter().collect());
        }
    }

    /// Answers statuses that have waited long enough; all of them when the master exits.
    pub(crate) fn answer_overdue_statuses(&mut self, exiting: bool) {
        let now = self.clock.now();
        let waiting = &self.clients.statuses.waiting;
        let overdue = waiting.iter().filter(|(_, at)| exiting || **at <= now);
        for client in overdue.map(|(client, _)| *client).collect::<Vec<_>>() {
            self.clients.statuses.waiting.remove(&client);
            self.answer_status(client, &HashMap::new());
        }
    }

    /// What is so now, not when the client asked.
    fn answer_status(&mut self, client: u64, usage: &HashMap<i32, Usage>) {
        let mut status = self.status();
        for worker in status.pools.iter_mut().flat_map(|pool| &mut pool.workers) {
            if let Some(usage) = worker.pid.and_then(|pid| usage.get(&pid)) {
                worker.rss_bytes = Some(usage.rss_bytes);
                worker.cpu_s = Some(rounded(usage.cpu_s));
            }
        }
        status.cut_last_lines();
        self.answer(client, &Response::Status(Box::new(status)), true);
    }

    /// Without the memory and CPU time of workers.
    fn status(&self) -> Status {
        let view = self.engine.view();
        let mut pools: Vec<(PoolId, PoolStatus)> = view
            .pools()
            .filter_map(|(id, pool)| Some((id, self.pool_status(id, &pool)?)))
            .collect();
        let mut rows: Vec<(PoolId, WorkerStatus)> = view
            .workers()
            .map(|worker| (worker.pool, self.worker_status(&worker)))
            .collect();
        for (id, pool) in view.pools() {
            rows.extend(
                view.empty_slots(id)
                    .map(|slot| (id, self.empty_status(id, &pool, &slot))),
            );
        }
        for (id, row) in rows {
            if let Some((_, pool)) = pools.iter_mut().find(|(pool, _)| *pool == id) {
                pool.workers.push(row);
            }
        }
        let mut pools: Vec<PoolStatus> = pools.into_iter().map(|(_, pool)| pool).collect();
        for pool in &mut pools {
            pool.workers
                .sort_by_key(|worker| (worker.slot, worker.generation));
        }
        Status {
            master: MasterStatus {
                pid: std::process::id() as i32,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                name: self.plan.master.name.clone(),
                config: self.plan.config.clone(),
                state: if view.stopping() {
                    "stopping"
                } else {
                    "running"
                }
                .to_owned(),
                uptime_s: rounded(self.clock.now().0 as f64 / 1000.0),
            },
            pools,
        }
    }

    fn pool_status(&self, id: PoolId, pool: &PoolView) -> Option<PoolStatus> {
        let plan = self.pools.plan(id)?;
        let roll = &pool.roll;
        let culprit = roll
            .failure
            .as_ref()
            .and_then(|f| f.worker)
            .and_then(|w| self.workers.exit_reports.of_worker(w));
        let (unserved, all) = self.unserved_by(id);
        let state = pool.state;
        Some(PoolStatus {
            name: plan.name.clone(),
            kind: kind_name(plan.kind).to_owned(),
            state: if state == PoolState::Ok && !unserved.is_empty() {
                PoolState::Degraded
            } else {
                state
            },
            wanted: pool.wanted,
            alive: pool.alive,
            ready: if all { 0 } else { pool.ready },
            generation: pool.last_good.0,
            reload: ReloadStatus {
                state: roll.state,
                generation: roll.generation,
                reason: roll.failure.as_ref().map(|failure| {
                    let threat = if pool.outdated > 0 {
                        format!("\n{}", outdated(pool.outdated))
                    } else {
                        String::new()
                    };
                    reason(failure, culprit) + &threat
                }),
                replaced: roll.replaced,
                of: roll.of,
                took_s: roll.took.as_secs_f64(),
            },
            waits_for: pool
                .held_by
                .iter()
                .chain(&roll.after)
                .map(|pool| self.pools.name(*pool).to_owned())
                .collect(),
            unserved,
            scaled: self.pools.scaled(id).is_some(),
            outdated: pool.outdated,
            workers: Vec::new(),
        })
    }

    fn worker_status(&self, worker: &WorkerView) -> WorkerStatus {
        let process = self.workers.processes.get(worker.id);
        let pid = process.and_then(|process| process.pid());
        WorkerStatus {
            slot: worker.slot.0,
            pid,
            state: slot_state(worker.state),
            generation: worker.generation.0,
            age_s: (self.clock.now() - worker.began).as_secs_f64(),
            ready_in_s: worker.ready_in.map(|span| span.as_secs_f64()),
            ready_by: worker
                .ready_in
                .filter(|_| worker.by_age)
                .map(|_| ReadyBy::Age),
            restarts: self.engine.view().restarts(worker.pool, worker.slot),
            rss_bytes: None,
            cpu_s: None,
            last_exit: self
                .workers
                .exit_reports
                .of_slot(worker.pool, worker.slot)
                .cloned(),
            retry_in_s: None,
            port: process.and_then(|process| process.port),
            says: process.and_then(|process| process.status_text.clone()),
            waits: false,
        }
    }

    fn empty_status(&self, id: PoolId, pool: &PoolView, empty: &EmptySlot) -> WorkerStatus {
        WorkerStatus {
            slot: empty.slot.0,
            pid: None,
            state: match empty.state {
                EmptyState::Held | EmptyState::Waits => SlotState::Starting,
                EmptyState::Backoff => SlotState::Backoff,
                EmptyState::Stopped => SlotState::Stopped,
                EmptyState::Done => SlotState::Done,
                EmptyState::Failed => SlotState::Failed,
            },
            generation: pool.fill_generation.0,
            age_s: 0.0,
            ready_in_s: None,
            ready_by: None,
            restarts: self.engine.view().restarts(id, empty.slot),
            rss_bytes: None,
            cpu_s: None,
            last_exit: self.workers.exit_reports.of_slot(id, empty.slot).cloned(),
            retry_in_s: empty.retry_in.map(|span| span.as_secs_f64()),
            port: None,
            says: None,
            waits: empty.state == EmptyState::Waits,
        }
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn slot_state(state: WorkerState) -> SlotState {
    match state {
        WorkerState::Starting => SlotState::Starting,
        WorkerState::Soaking => SlotState::Soaking,
        WorkerState::Ready => SlotState::Ready,
        WorkerState::Stopping => SlotState::Stopping,
        // What is left of its tree is being killed.
        WorkerState::Killing | WorkerState::KillingTree => SlotState::Killing,
    }
}
