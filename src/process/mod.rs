//! Spawning of workers: from a [`SpawnRequest`] to a running program, or to the reason why there is none. The
//! supervisor and the command probes are the callers.
//!
//! The [`Spawner`]'s threads carry the requests out, since a spawn may block: a working directory on a dead mount, a
//! program that is being paged in. Why it is done this way: `docs/decisions/0001-birth-of-a-worker.md`. `tree`
//! and `orphan_scanner` find and end the descendants of workers; `cgroup`, `procfs`, `rss_sampler`, `cpu_sampler`
//! and `usage` read what the kernel tells of them.

pub mod cgroup;
pub mod cpu_sampler;
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
pub mod unreported;
pub mod usage;

pub use error::{SpawnError, SpawnFault, SpawnStage};
pub use pinned::{PinnedPaths, Resolved, SavedPaths};
pub use shim::exec_status;
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

/// A worker to spawn.
#[derive(Clone, Debug)]
pub struct SpawnRequest {
    /// The engine's number for it.
    pub worker: WorkerId,
    /// The generation's program and directory; shared by all spawns of the generation.
    pub pinned: Arc<PinnedPaths>,
    /// The program's name as written, then its arguments.
    pub argv: Vec<OsString>,
    /// The whole environment except LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, which are added if there are
    /// listeners, and removed otherwise.
    pub env: Vec<(OsString, OsString)>,
    /// None: it runs as the master's own user.
    pub account: Option<Account>,
    /// None: the master's umask.
    pub umask: Option<u32>,
    /// None: the master's nice value.
    pub nice: Option<i32>,
    /// Limits that the configuration sets (setrlimit(2)).
    pub limits: Vec<Limit>,
    /// None: /dev/null.
    pub stdin: Option<Arc<OwnedFd>>,
    /// Becomes its stdout.
    pub stdout: Arc<OwnedFd>,
    /// Becomes its stderr.
    pub stderr: Arc<OwnedFd>,
    /// Become descriptors 3, 4, …
    pub listeners: Vec<Arc<OwnedFd>>,
    /// Their names, separated by colons (sd_listen_fds(3)).
    pub listen_names: String,
    /// Adds WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3)).
    pub watchdog: Option<Duration>,
    /// The `cgroup.procs` of a cgroup created for it. If the child cannot join, it runs without.
    pub cgroup: Option<PathBuf>,
    /// The child stores its pid here before exec; 0 until then.
    pub pid: Arc<AtomicI32>,
}

/// The result of a request: exactly one for each.
#[derive(Debug)]
pub enum SpawnResult {
    /// The program runs.
    Started {
        /// The number of the worker.
        worker: WorkerId,
        /// Its process.
        child: SpawnedChild,
    },
    /// The process exists and is about to run its program as another user: [`exec_status`] tells whether it does.
    ExecPending {
        /// The number of the worker.
        worker: WorkerId,
        /// Its process.
        child: SpawnedChild,
        /// The descriptor that [`exec_status`] reads.
        exec_status: OwnedFd,
    },
    /// There is no process.
    Failed {
        /// The number of the worker.
        worker: WorkerId,
        /// Why there is no process.
        error: SpawnError,
        /// The paths of its generation, if they were resolved just now.
        pinned: Option<Resolved>,
        /// The earlier paths of the generation are gone: `pinned` has the new ones.
        repinned: bool,
    },
}

/// A child that the caller must reap.
#[derive(Debug)]
pub struct SpawnedChild {
    /// The process.
    pub process: Process,
    /// Start time in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)); 0 if that cannot be read.
    pub start_time: u64,
    /// The paths of its generation, if they were resolved just now.
    pub pinned: Option<Resolved>,
    /// The earlier paths of the generation are gone: `pinned` has the new ones.
    pub repinned: bool,
}
