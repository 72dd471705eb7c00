//! The birth of a worker: from an order to a running program, or to the reason why there is none.
//!
//! One thread, the [`Spawner`]'s, carries the orders out, since a birth may block: a working directory on a dead
//! mount, a program that is being paged in. Why it is done this way: `docs/decisions/0001-birth-of-a-worker.md`.

pub mod cgroup;
pub mod cpu_demand;
pub mod environment;
mod error;
pub mod orphan_scanner;
mod pinned;
pub mod procfs;
pub mod rss_sampler;
pub mod shim;
mod spawn;
mod spawner;
mod staged_fds;
mod thread_state;
pub mod tree;

pub use error::{SpawnError, SpawnFault, SpawnStage};
pub use pinned::{PinnedPaths, Resolved};
pub use shim::verdict;
pub use spawner::{Spawner, SpawnerConfig};

use crate::plan::{Account, Limit};
use crate::sys::process::Process;
use rotad_core::WorkerId;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;
use std::time::Duration;

/// One worker to be born.
#[derive(Clone, Debug)]
pub struct SpawnRequest {
    pub worker: WorkerId,
    /// Where its generation's program and directory are; shared by all births of the generation.
    pub pinned: Arc<PinnedPaths>,
    /// The program's name as written, then its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment except LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which are added if there are
    /// listeners, and removed otherwise.
    pub env: Vec<(OsString, OsString)>,
    /// None: the master's own user.
    pub account: Option<Account>,
    pub umask: Option<u32>,
    pub nice: Option<i32>,
    pub limits: Vec<Limit>,
    /// None: /dev/null.
    pub stdin: Option<Arc<OwnedFd>>,
    pub stdout: Arc<OwnedFd>,
    pub stderr: Arc<OwnedFd>,
    /// They become 3, 4, …
    pub listeners: Vec<Arc<OwnedFd>>,
    /// Their names, separated by colons (sd_listen_fds(3)).
    pub listen_names: String,
    /// Adds WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3)).
    pub watchdog: Option<Duration>,
    /// The `cgroup.procs` of a cgroup that has been made for it. If that cannot be used, it is born without.
    pub cgroup: Option<PathBuf>,
    /// Holds its pid from before its program's first step; 0 until then.
    pub pid: Arc<AtomicI32>,
}

/// What came of an order: exactly one for each.
#[derive(Debug)]
pub enum SpawnResult {
    /// The program runs.
    Born { worker: WorkerId, born: SpawnedChild },
    /// The process exists, and its program is about to run as another user: [`verdict`] tells whether it does.
    Underway { worker: WorkerId, born: SpawnedChild, verdict: OwnedFd },
    /// There is no process.
    Failed { worker: WorkerId, error: SpawnError, pinned: Option<Resolved>, repinned: bool },
}

/// A child that must be reaped one day.
#[derive(Debug)]
pub struct SpawnedChild {
    pub process: Process,
    /// When it began, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)); 0 where that cannot be read.
    pub start_time: u64,
    /// Where its generation is, if that was found out just now.
    pub pinned: Option<Resolved>,
    /// What the generation had been pinned to is gone: `pinned` says where it is now.
    pub repinned: bool,
}
