//! The numbers of a master for monitoring: what it counts, and what it measures when it is asked. The supervisor fills the
//! types in; `page` writes families of metrics in the two text formats, `families` has the names.

mod families;
mod page;

pub use families::{FAMILIES, families, markdown, render};
pub use page::{Family, Format, Label, Page, Type};

use super::status::{PoolState, pool_state, pool_state_name};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$case:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$case])* $variant,)*
        }

        impl $name {
            /// All of them. Their order is part of the saved state: others are added at the end.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value of the label.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    };
}

label! {
    /// How a worker ended, or failed, without having been asked to stop.
    DeathCause {
        /// Its exit code is one of `success_exit_codes`.
        Finished = "finished",
        /// Another exit code.
        Exited = "exited",
        /// A signal ended it.
        Signaled = "signaled",
        /// It could not be spawned.
        SpawnFailed = "spawn_failed",
        /// It was not ready in time.
        NotReady = "not_ready",
        /// It failed its health check.
        Unhealthy = "unhealthy",
        /// How it ended is not known.
        Unknown = "unknown",
    }
}

label! {
    /// Why a worker that serves was replaced by one of the same generation.
    RecycleCause {
        /// `recycle.max_age`.
        MaxAge = "max_age",
        /// `recycle.max_rss`.
        MaxRss = "max_rss",
        /// `recycle.at`.
        At = "at",
        /// `rotad roll POOL/SLOT`.
        Request = "request",
    }
}

label! {
    /// How a rolling restart ended.
    RollOutcome {
        /// Every worker is of the new generation.
        Done = "done",
        /// It failed, and what was replaced stays.
        Aborted = "aborted",
        /// It failed, and every worker is of the old generation again.
        RolledBack = "rolled_back",
        /// Another request took its place.
        Superseded = "superseded",
    }
}

/// The upper bounds of the buckets of `rotad_worker_ready_seconds`, in seconds. Bounds are part of the saved state.
pub const READY_BOUNDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// Those of `rotad_worker_drain_seconds`.
pub const DRAIN_BOUNDS: &[f64] = &[
    0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];
/// Those of `rotad_roll_duration_seconds`.
pub const ROLL_BOUNDS: &[f64] = &[
    0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

/// Durations, counted by their length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many were at most as long as each bound, and longer than the one before; the last count is of those longer than
    /// every bound.
    pub counts: Vec<u64>,
    /// The sum of all, in seconds.
    pub sum_s: f64,
}

/// The numbers of a master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The master.
    pub master: MasterMetrics,
    /// The pools of the configuration, in its order.
    pub pools: Vec<PoolMetrics>,
    /// The listening sockets.
    pub listeners: Vec<ListenerMetrics>,
}

/// The numbers of the master itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MasterMetrics {
    /// The version of rotad.
    pub version: String,
    /// When the present master began, in seconds since 1970.
    pub start_time_s: f64,
    /// How many masters before it have died, each replaced by the guardian.
    pub restarts: u64,
    /// The configuration was read last with success, and is in force.
    pub reload_successful: bool,
    /// When a configuration came into force last, in seconds since 1970.
    pub reload_success_s: f64,
    /// Its own resources. None: they could not be read.
    pub process: Option<ProcessMetrics>,
}

/// Resources of a process, or of a tree of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessMetrics {
    /// When it began, in seconds since 1970.
    pub start_time_s: Option<f64>,
    /// Processor time, in seconds.
    pub cpu_s: Option<f64>,
    /// Resident memory, in bytes.
    pub rss_bytes: Option<u64>,
    /// Open descriptors. None: not ours to read.
    pub open_fds: Option<u64>,
    /// Proportional memory (PSS), in bytes: a shared page counts by its part. The master does not measure it: a client
    /// may. None: it did not, or could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pss_bytes: Option<u64>,
}

/// The numbers of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolMetrics {
    /// Its name.
    pub name: String,
    /// Its state.
    #[serde(serialize_with = "pool_state_name", deserialize_with = "pool_state")]
    pub state: PoolState,
    /// The desired number of workers.
    pub wanted: u32,
    /// Workers that serve.
    pub ready: u32,
    /// Workers that are not ready yet.
    pub starting: u32,
    /// Workers that were asked to stop and are still finishing.
    pub draining: u32,
    /// The last generation that was fully rolled out; 0: none yet.
    pub generation: u32,
    /// When the next slot that waits after a death is filled, in seconds since 1970. None: none waits.
    pub retry_at_s: Option<f64>,
    /// A rolling restart is running.
    pub rolls: bool,
    /// The slots that the last rolling restart has replaced.
    pub replaced: u32,
    /// What was counted since the pool exists.
    pub counted: PoolCounts,
    /// The bytes that its workers have printed and that were written.
    pub log_bytes: u64,
    /// The bytes that were dropped, since the log could not be written.
    pub log_lost_bytes: u64,
    /// The newest worker of each slot that has a process.
    pub workers: Vec<WorkerMetrics>,
}

/// What is counted of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolCounts {
    /// Workers whose process was spawned.
    pub starts: u64,
    /// Ends and failures that nobody had asked for.
    pub deaths: BTreeMap<DeathCause, u64>,
    /// Workers that were replaced by one of the same generation.
    pub recycled: BTreeMap<RecycleCause, u64>,
    /// Workers that were killed at the end of their stop steps.
    pub kills: u64,
    /// From the spawn until ready.
    pub ready: Histogram,
    /// From the request to stop until the whole tree was gone.
    pub drain: Histogram,
    /// Rolling restarts that have ended.
    pub rolls: BTreeMap<RollOutcome, u64>,
    /// How long they took, but for superseded ones.
    pub roll: Histogram,
    /// Failed health checks.
    pub health_failures: u64,
}

/// The newest worker of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerMetrics {
    /// The slot.
    pub slot: u32,
    /// The pid of its first process. None: an older master has not told it.
    #[serde(default)]
    pub pid: Option<i32>,
    /// Its resources: memory and processor time of its whole tree, start and descriptors of its first process.
    pub process: ProcessMetrics,
}

/// The queue of a listening socket. What this kind of socket does not tell is None.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerMetrics {
    /// Its name in the configuration.
    pub name: String,
    /// The address that it is bound to, as the status of a pool writes it.
    #[serde(default)]
    pub address: String,
    /// Connections that wait for accept(2).
    pub queue: Option<u32>,
    /// How many may wait.
    pub backlog: Option<u32>,
    /// Connections that the kernel dropped, mostly since the queue was full.
    pub overflows: Option<u64>,
}
