//! What is acquired before the supervisor exists. `mod.rs` acquires it, and `assemble.rs` makes the supervisor from it.

use crate::control::server::Server;
use crate::event_loop::clock::Clock;
use crate::event_loop::signals::Signals;
use crate::guardian::Link;
use crate::log::LogWriter;
use crate::process::tree::Identity;
use crate::runtime_dir::RuntimeDir;
use crate::runtime_dir::stale_workers::WorkerJournal;
use crate::supervisor::saver::Saver;
use crate::supervisor::service_manager::ServiceManager;
use crate::supervisor::workers::WorkerCgroups;
use rotad_core::WorkerId;
use std::collections::HashSet;
use std::sync::Arc;

/// What is acquired before the supervisor exists.
pub(super) struct Acquired {
    pub(super) runtime_dir: RuntimeDir,
    pub(super) nofile: (u64, u64),
    pub(super) signals: Signals,
    pub(super) clock: Clock,
    pub(super) log_writer: LogWriter,
    pub(super) server: Server,
    pub(super) journal: WorkerJournal,
    pub(super) tag: String,
    pub(super) cgroups: WorkerCgroups,
    pub(super) service_manager: ServiceManager,
    pub(super) guardian: Option<Arc<Link>>,
    pub(super) saver: Option<Box<Saver>>,
    /// Processes that existed before any master of this start: they are never killed.
    pub(super) preexisting: HashSet<Identity>,
    /// The number of the last worker that has been spawned so far.
    pub(super) last_worker: WorkerId,
}
