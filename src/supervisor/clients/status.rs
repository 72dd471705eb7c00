//! The answer to `rotad status`: from the engine's view and the process table, which the main thread has, and from
//! /proc/PID of each worker's processes, which a blocking job reads. A status waits for that job for a second (`pending.rs`).

use crate::control::protocol::Response;
use crate::guardian::{Death, MasterDeaths};
use crate::listener::Listener;
use crate::observe::status::{
    LastDeploy, MasterDeath, MasterStatus, PoolStatus, ReadyBy, ReloadStatus, SlotState, Status,
    TreeStatus, WorkerStatus, kind_name, outdated,
};
use crate::plan::{Kind, Plan};
use crate::process::usage::{Root, TreeUsage, WorkerUsage};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::reason;
use crate::supervisor::clients::pending::Wanted;
use crate::supervisor::deploys::Deploy;
use crate::supervisor::listening::Listening;
use crate::supervisor::pool_registry::PoolRegistry;
use crate::supervisor::workers::Workers;
use crate::supervisor::workers::exit_report::last_exit;
use crate::supervisor::workers::process_table::WorkerProcess;
use rotad_core::{
    EmptySlot, EmptyState, PoolId, PoolState, PoolView, RollState, Time, View, WorkerState,
    WorkerView,
};
use std::collections::HashMap;

impl Supervisor {
    /// Answers a status request, once the memory and CPU time of workers are known.
    pub(crate) fn status_requested(&mut self, client: u64) {
        let roots = self.roots();
        if roots.is_empty()
            || self.clients.statuses.is_full()
            || self
                .reload
                .blocking
                .read_usage(client, roots, self.workers.processes.other_parents())
                .is_err()
        {
            return self.answer_status(client, &HashMap::new());
        }
        self.clients
            .statuses
            .wait(client, Wanted::Status, self.clock.now());
    }

    /// The first processes of all workers.
    pub(super) fn roots(&self) -> Vec<Root> {
        let root = |process: &WorkerProcess| {
            let cgroup = process.tree.as_ref().and_then(|tree| tree.cgroup.as_ref());
            Some(Root {
                pid: process.pid()?,
                cgroup: cgroup.map(|cgroup| cgroup.dir().to_owned()),
            })
        };
        let processes = self.workers.processes.iter();
        processes.filter_map(|(_, process)| root(process)).collect()
    }

    /// The state of a pool and how many of its workers serve, as the status shows them.
    pub(super) fn shown_state(&self, id: PoolId, pool: &PoolView) -> (PoolState, u32) {
        let (state, _, all) = shown_state(&self.pools, &self.listening, id, pool);
        (state, if all { 0 } else { pool.ready })
    }

    /// What is so now, not when the client asked.
    pub(super) fn answer_status(&mut self, client: u64, usage: &HashMap<i32, WorkerUsage>) {
        let view = StatusView {
            now: self.clock.now(),
            plan: &self.plan,
            engine: self.engine.view(),
            pools: &self.pools,
            listening: &self.listening,
            workers: &self.workers,
            guardian: self.guardian.as_ref().map(|link| link.guardian().pid()),
            master_deaths: self.master_deaths,
        };
        let mut status = view.status(usage);
        status.cut_last_lines();
        self.answer(client, &Response::Status(Box::new(status)), true);
    }
}

/// The state of a pool, with that of its listening sockets; why they do not serve, and whether none of them does.
fn shown_state(
    pools: &PoolRegistry,
    listening: &Listening,
    id: PoolId,
    pool: &PoolView,
) -> (PoolState, Vec<String>, bool) {
    let listeners = pools.next_spec(id).map(|spec| &spec.listeners[..]);
    let (unserved, all) = listening.unserved(listeners.unwrap_or_default());
    let state = if pool.state == PoolState::Ok && !unserved.is_empty() {
        PoolState::Degraded
    } else {
        pool.state
    };
    (state, unserved, all)
}

fn tree_status(tree: TreeUsage) -> TreeStatus {
    TreeStatus {
        processes: tree.processes as u32,
        rss_bytes: tree.sum.rss_bytes,
        cpu_s: rounded(tree.sum.cpu_s),
    }
}

fn master_death(death: Death) -> MasterDeath {
    let exit = last_exit(Some(death.exit), None, 0.0, Vec::new());
    MasterDeath {
        signal: exit.signal,
        core: exit.core,
        code: exit.code,
        after_s: rounded(death.after_ms as f64 / 1000.0),
    }
}

/// What a status is made from.
struct StatusView<'a> {
    guardian: Option<i32>,
    master_deaths: MasterDeaths,
    now: Time,
    plan: &'a Plan,
    engine: View<'a>,
    pools: &'a PoolRegistry,
    listening: &'a Listening,
    workers: &'a Workers,
}

impl StatusView<'_> {
    fn status(&self, usage: &HashMap<i32, WorkerUsage>) -> Status {
        let mut status = self.without_usage();
        for worker in status.pools.iter_mut().flat_map(|pool| &mut pool.workers) {
            if let Some(usage) = worker.pid.and_then(|pid| usage.get(&pid)) {
                worker.rss_bytes = Some(usage.main.rss_bytes);
                worker.cpu_s = Some(rounded(usage.main.cpu_s));
                worker.tree = usage.tree.map(tree_status);
            }
        }
        status
    }

    /// Without the memory and CPU time of workers.
    fn without_usage(&self) -> Status {
        let view = &self.engine;
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
                uptime_s: rounded(self.now.0 as f64 / 1000.0),
                guardian: self.guardian,
                restarts: self.master_deaths.count,
                last_death: self.master_deaths.last.map(master_death),
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
        let (state, unserved, all) = shown_state(self.pools, self.listening, id, pool);
        let addresses = self.pools.next_spec(id).map(|spec| {
            let bound = spec
                .listeners
                .iter()
                .filter_map(|id| self.listening.get(*id));
            bound.map(Listener::addr_text).collect()
        });
        Some(PoolStatus {
            name: plan.name.clone(),
            kind: kind_name(plan.kind).to_owned(),
            state,
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
            last_deploy: self
                .pools
                .deploy(id)
                .map(|deploy| self.last_deploy(deploy, pool)),
            uptime_s: pool
                .serving_since
                .filter(|_| !all && plan.kind != Kind::Oneshot)
                .map(|since| rounded((self.now - since).as_secs_f64())),
            listen: addresses.unwrap_or_default(),
            ports: plan
                .ports
                .map(|ports| format!("{}-{}", ports.first, ports.last)),
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

    fn last_deploy(&self, deploy: &Deploy, pool: &PoolView) -> LastDeploy {
        let roll = &pool.roll;
        LastDeploy {
            generation: deploy.generation.0,
            at: deploy.at(),
            age_s: rounded((self.now - deploy.began).as_secs_f64()),
            by: deploy.asker.by.clone(),
            uid: deploy.asker.uid,
            outcome: match roll.state {
                // The first generation is started, not rolled.
                _ if roll.generation == deploy.generation.0 => roll.state,
                _ if pool.last_good >= deploy.generation => RollState::Done,
                _ => RollState::Running,
            },
        }
    }

    fn worker_status(&self, worker: &WorkerView) -> WorkerStatus {
        let process = self.workers.processes.get(worker.id);
        let pid = process.and_then(|process| process.pid());
        WorkerStatus {
            slot: worker.slot.0,
            pid,
            state: slot_state(worker.state),
            generation: worker.generation.0,
            age_s: (self.now - worker.began).as_secs_f64(),
            ready_in_s: worker.ready_in.map(|span| span.as_secs_f64()),
            ready_by: worker
                .ready_in
                .filter(|_| worker.by_age)
                .map(|_| ReadyBy::Age),
            restarts: self.engine.restarts(worker.pool, worker.slot),
            rss_bytes: None,
            cpu_s: None,
            tree: None,
            last_exit: self
                .workers
                .exit_reports
                .of_slot(worker.pool, worker.slot)
                .cloned(),
            retry_in_s: None,
            port: process.and_then(|process| process.port),
            says: process.and_then(|process| process.status_text.clone()),
            adopted: process.is_some_and(|process| process.adopted),
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
            restarts: self.engine.restarts(id, empty.slot),
            rss_bytes: None,
            cpu_s: None,
            tree: None,
            last_exit: self.workers.exit_reports.of_slot(id, empty.slot).cloned(),
            retry_in_s: empty.retry_at.map(|at| (at - self.now).as_secs_f64()),
            port: None,
            says: None,
            adopted: false,
            waits: empty.state == EmptyState::Waits,
        }
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The word of the status for a worker's state.
pub(crate) fn slot_state(state: WorkerState) -> SlotState {
    match state {
        WorkerState::Starting => SlotState::Starting,
        WorkerState::Soaking => SlotState::Soaking,
        WorkerState::Ready => SlotState::Ready,
        WorkerState::Stopping => SlotState::Stopping,
        // What is left of its tree is being killed.
        WorkerState::Killing | WorkerState::KillingTree => SlotState::Killing,
    }
}
