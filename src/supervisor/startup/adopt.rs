//! Adopts the workers of a master that was killed together with its guardian, or whose state cannot be read: what startup
//! has found of them (`runtime_dir::stale_workers`) becomes entries of the process table, and the engine gets its pools
//! with the workers in them. None of them is stopped or notices.

use crate::log::WorkerOutput;
use crate::notify_socket::NotifySocket;
use crate::observe::events::EventKind;
use crate::process::procfs;
use crate::process::tree::ProcessTree;
use crate::runtime_dir::stale_workers::{AdoptedProcess, Adoption};
use crate::supervisor::Supervisor;
use crate::supervisor::deploys::Asker;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::process_table::{ProcessStage, WorkerProcess};
use rotad_core::{AdoptedWorker, Generation, Policy, PoolId, Request, Slot, WorkerId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The workers of each pool, as the engine adopts them.
type ByPool = BTreeMap<PoolId, Vec<AdoptedWorker>>;

impl Supervisor {
    /// What the engine is asked for first: each pool, in the order in which they start, with the workers that it has.
    pub(in crate::supervisor) fn first_requests(
        &mut self,
        adoption: Option<Adoption>,
    ) -> Vec<Request> {
        let (mut workers, stopped) = match adoption {
            Some(adoption) => self.adopt(adoption),
            None => Default::default(),
        };
        // In dependency order, wherever they stand in the file: the engine holds a pool back only for pools that it
        // knows.
        let ids: Vec<PoolId> = self.pools.iter().map(|(id, _)| id).collect();
        let ids = self.pools.in_order(&ids);
        let mut requests = Vec::new();
        for pool in ids {
            let Some(policy) = self.pools.policy(pool) else {
                continue;
            };
            let count = policy.count;
            let is_stopped = stopped.contains(&pool);
            if !workers.contains_key(&pool) {
                let uid = nix::unistd::getuid().as_raw();
                self.pools.ask_for(pool, &Asker::verb("start", Some(uid)));
            }
            requests.push(match workers.remove(&pool) {
                Some(workers) => Request::Adopt {
                    pool,
                    policy,
                    latest: Generation::NONE,
                    workers,
                },
                // Nothing is spawned to be stopped at once.
                None if is_stopped => Request::EnsurePool(pool, Policy { count: 0, ..policy }),
                None => Request::EnsurePool(pool, policy),
            });
            if is_stopped {
                requests.extend([Request::StopPool(pool), Request::Scale(pool, count)]);
            }
        }
        requests
    }

    /// Takes over the workers. Returns what the engine adopts, and the pools that an operator has stopped.
    fn adopt(&mut self, adoption: Adoption) -> (ByPool, Vec<PoolId>) {
        let Adoption {
            master,
            workers,
            pools,
            ..
        } = adoption;
        let mut doubts = Vec::new();
        // After a death below this guardian they are its children.
        if let Some(link) = &self.guardian
            && link.last_death().is_some()
        {
            self.workers.processes.guardian = Some(link.clone());
        }
        let mut stopped = Vec::new();
        for note in pools {
            let Some(pool) = self.pools.find(&note.name) else {
                continue;
            };
            self.pools.scale(pool, note.scaled);
            if note.stopped {
                self.pools.set_stopped_by_operator(pool, true);
                stopped.push(pool);
            }
        }
        let (mut by_pool, mut names) = (ByPool::new(), Vec::new());
        for worker in workers {
            let entry = &worker.entry;
            names.push(format!("{}/{}: pid {}", entry.pool, entry.slot, entry.pid));
            let Some(pool) = self.pools.find(&entry.pool) else {
                continue;
            };
            if let Some(adopted) = self.adopt_worker(pool, worker, &mut doubts) {
                by_pool.entry(pool).or_default().push(adopted);
            }
        }
        let text = format!(
            "the master before this one (pid {master}) was killed and nothing went on in its place; its workers serve on, \
             and are this master's now: {}",
            names.join(", ")
        );
        self.emit(EventBuilder::new(EventKind::Adopted, text).warn());
        let mut unknown = "not known: what the workers were made from (a roll replaces them by what the configuration says), \
                           how workers have ended since, and what was being rolled or waited for"
            .to_owned();
        for doubt in doubts {
            unknown.push_str("; ");
            unknown.push_str(&doubt);
        }
        let event = EventBuilder::new(EventKind::Adopted, unknown);
        self.emit(event.cause("not-known").warn());
        self.check_all_listeners();
        (by_pool, stopped)
    }

    fn adopt_worker(
        &mut self,
        pool: PoolId,
        worker: AdoptedProcess,
        doubts: &mut Vec<String>,
    ) -> Option<AdoptedWorker> {
        let AdoptedProcess {
            process: child,
            number,
            entry,
            in_doubt,
            pipes,
            abstract_notify,
        } = worker;
        let (id, slot) = (WorkerId(number), Slot(entry.slot));
        let name = format!("{}/{}", entry.pool, entry.slot);
        let generation = Generation(entry.generation.unwrap_or(1).max(1));
        let spec = self
            .pools
            .spec_for_spawn(pool, generation, self.clock.now())?;
        let plan = &spec.plan;
        let mut ready = entry.ready;
        if in_doubt {
            // Its master would have ended it.
            let timeout = Duration::from(plan.policy.ready_timeout);
            ready = age(entry.start_time).is_some_and(|age| age > timeout);
            let counts_as = if ready { "it is ready" } else { "it starts" };
            doubts.push(format!(
                "{name}: whether it has become ready; by its age {counts_as}"
            ));
        }
        if pipes.len() < entry.pipes.len() {
            doubts.push(format!(
                "{name}: what it prints, its pipe may not be opened (ptrace(2)); it waits once the pipe is full, until it is \
                 replaced"
            ));
        }
        let output = WorkerOutput::adopt((&entry.pool, entry.slot), entry.pid, pipes, &plan.log);
        let output = output
            .map_err(|error| doubts.push(format!("{name}: what it prints ({error})")))
            .ok();
        let owner = plan.recipe.account.as_ref().map(|account| account.uid);
        let dir = &self.workers.notify_dir;
        let notify = NotifySocket::reopen(abstract_notify, dir, id, owner);
        let notify = notify
            .map_err(|error| {
                doubts.push(format!("{name}: what it sends to NOTIFY_SOCKET ({error})"));
            })
            .ok();
        let tree = ProcessTree {
            leader: entry.pid,
            cgroup: self.workers.cgroup_of(id),
        };
        let process = WorkerProcess {
            pool,
            slot,
            generation,
            spec,
            tag: entry.tag.clone(),
            stage: ProcessStage::Alive(child),
            exec_status: None,
            notify,
            output,
            cgroup: None,
            tree: Some(tree),
            status_text: None,
            exit: None,
            error: None,
            ready: entry.ready,
            port: entry.port,
            adopted: true,
            probe_error: None,
            end_reason: None,
        };
        if in_doubt {
            let action = self.workers.journal.add(&process, entry.start_time);
            self.perform(action);
        }
        if let Some(port) = entry.port {
            self.health.ports.hold(id, port);
        }
        self.workers.processes.restore(id, process);
        self.watch_restored(id);
        self.check_readiness(id);
        Some(AdoptedWorker {
            worker: id,
            slot,
            generation,
            ready,
        })
    }
}

/// How long ago a process has started. `start_time`: in clock ticks since boot (field 22 of /proc/PID/stat).
fn age(start_time: u64) -> Option<Duration> {
    let text = procfs::read("/proc/uptime").ok()?;
    let up: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(up)
        .ok()?
        .checked_sub(procfs::ticks(start_time))
}

/// The directory of the cgroups of a dead master, for its workers and those to come.
pub(super) fn cgroup_base(adoption: Option<&Adoption>) -> Option<PathBuf> {
    adoption.and_then(|adoption| adoption.cgroup.clone())
}
