//! The workers as processes: what each is spawned from, its process, what it leaves behind, and how it ended.

pub(crate) mod background;
pub(crate) mod cgroups;
pub(crate) mod exit_report;
pub(crate) mod journal;
pub(crate) mod label;
pub(crate) mod notify_sockets;
pub(crate) mod orphans;
pub(crate) mod probe_request;
pub(crate) mod process_table;
pub(crate) mod spawn_spec;

use crate::process::Spawner;
use cgroups::WorkerCgroups;
use exit_report::ExitReports;
use journal::Journal;
use label::WorkerLabel;
use orphans::Orphans;
use process_table::ProcessTable;
use rotad_core::WorkerId;
use spawn_spec::SpawnSpecs;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) struct Workers {
    pub(crate) processes: ProcessTable,
    pub(crate) spawner: Spawner,
    pub(crate) spawn_specs: SpawnSpecs,
    pub(crate) cgroups: WorkerCgroups,
    pub(crate) journal: Journal,
    pub(crate) orphans: Orphans,
    pub(crate) exit_reports: ExitReports,
    /// Labels of workers that were reaped in this turn, kept until the engine's notices about them have been emitted.
    pub(crate) reaped: BTreeMap<WorkerId, WorkerLabel>,
    /// Prefix of ROTAD_WORKER; unique for each master.
    pub(crate) tag: String,
    pub(crate) notify_dir: PathBuf,
    pub(crate) null: Arc<OwnedFd>,
}
