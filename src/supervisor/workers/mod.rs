//! The workers as processes: what each is spawned from, its process, what it says, how it ended, and what it leaves
//! behind.
//!
//! [`Workers`] sees neither the engine nor health, reload, clients or the event log. `effects.rs` calls it for the
//! engine's commands and `facts.rs` for what the kernel and the threads report; what has to happen elsewhere it returns
//! as actions.

mod address_in_use;
pub(crate) mod background;
mod cgroups;
mod cleared_env;
mod context;
pub(crate) mod exit_report;
mod exits;
mod journal;
pub(crate) mod label;
mod node_preload;
pub(crate) mod notify_sockets;
pub(crate) mod orphans;
pub(crate) mod probe_request;
pub(crate) mod process_table;
pub(crate) mod saved_worker;
pub(crate) mod spawn_spec;
mod spawning;
mod trees;

pub(crate) use cgroups::{SavedCgroups, WorkerCgroups};
pub(crate) use context::LoopContext;
pub(crate) use exits::Life;
pub(crate) use journal::Journal;
pub(crate) use orphans::Orphans;

use crate::process::cgroup::Cgroup;
use crate::process::{SpawnRequest, Spawner};
use crate::supervisor::event_builder::WorkerLabel;
use exit_report::ExitReports;
use process_table::ProcessTable;
use rotad_core::{PoolId, Time, WorkerId};
use spawn_spec::SpawnSpecs;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use trees::Trees;

pub(crate) struct Workers {
    pub(crate) processes: ProcessTable,
    pub(crate) spawn_specs: SpawnSpecs,
    pub(crate) exit_reports: ExitReports,
    pub(crate) notify_dir: PathBuf,
    pub(crate) journal: Journal,
    pub(crate) null: Arc<OwnedFd>,
    spawner: Spawner,
    /// Those that are to be spawned, in order.
    to_spawn: VecDeque<WorkerId>,
    /// What the spawner gets once the workers are saved.
    prepared: Vec<SpawnRequest>,
    cgroups: WorkerCgroups,
    trees: Trees,
    orphans: Orphans,
    /// Labels of workers that were reaped in this turn, kept until the engine's notices about them have been emitted.
    reaped: BTreeMap<WorkerId, WorkerLabel>,
    /// Prefix of ROTAD_WORKER; unique for each master.
    tag: String,
}

/// What the workers are made of at the start.
pub(crate) struct WorkerParts {
    pub spawner: Spawner,
    pub cgroups: WorkerCgroups,
    pub journal: Journal,
    pub orphans: Orphans,
    /// Prefix of ROTAD_WORKER; unique for each master.
    pub tag: String,
    /// The directory of the notify sockets.
    pub notify_dir: PathBuf,
    /// /dev/null, open for reading and writing.
    pub null: Arc<OwnedFd>,
}

impl Workers {
    pub(crate) fn new(parts: WorkerParts) -> Self {
        let WorkerParts {
            spawner,
            cgroups,
            journal,
            orphans,
            tag,
            notify_dir,
            null,
        } = parts;
        Self {
            processes: ProcessTable::default(),
            spawn_specs: SpawnSpecs::new(notify_dir.parent().unwrap_or(&notify_dir)),
            exit_reports: ExitReports::default(),
            notify_dir,
            journal,
            null,
            spawner,
            to_spawn: VecDeque::new(),
            prepared: Vec::new(),
            cgroups,
            trees: Trees::default(),
            orphans,
            reaped: BTreeMap::new(),
            tag,
        }
    }

    /// The cgroup of an adopted worker. None: it has none.
    pub(crate) fn cgroup_of(&self, worker: WorkerId) -> Option<Cgroup> {
        self.cgroups.existing(worker)
    }

    /// What is saved of the cgroups.
    pub(crate) fn saved_cgroups(&self) -> SavedCgroups {
        self.cgroups.saved()
    }

    /// The pool is gone, and with it its generations.
    pub(crate) fn forget_pool(&mut self, pool: PoolId) {
        self.spawn_specs.retain_generations(pool, |_| false);
        self.exit_reports.forget_pool(pool);
    }

    /// When a spawn takes too long.
    pub(crate) fn spawn_deadline(&self) -> Option<Time> {
        self.spawner.deadline()
    }

    /// Ends spawns that take too long by now.
    pub(crate) fn end_overdue_spawns(&mut self, now: Time) {
        self.spawner.check(now);
    }

    /// When trees that are being killed, or that may finish, are checked.
    pub(crate) fn tree_deadline(&self) -> Option<Time> {
        self.trees.deadline()
    }

    /// When a scan of orphans is due or hangs, or more of them are to be reaped, also by the guardian.
    pub(crate) fn orphan_deadline(&self) -> Option<Time> {
        let asking = self.processes.reaping_deadline();
        self.orphans.deadline().into_iter().chain(asking).min()
    }
}
