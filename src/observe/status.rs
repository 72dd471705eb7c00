//! The status as `rotad status --json` prints it: names and shapes are what users rely on.

use crate::plan::Kind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub master: MasterStatus,
    pub pools: Vec<PoolStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MasterStatus {
    pub pid: i32,
    pub version: String,
    pub name: String,
    /// The real path of the configuration.
    pub config: PathBuf,
    /// `running` or `stopping`.
    pub state: String,
    pub uptime_s: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: String,
    /// `worker` or `task`.
    pub kind: String,
    pub state: PoolState,
    pub wanted: u32,
    pub alive: u32,
    pub ready: u32,
    /// The last generation that served in full; 0: none has yet.
    pub generation: u32,
    pub reload: ReloadStatus,
    /// Pools that have to be up before this one is started, while it waits for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// `wanted` is what a person asked for (`rotad scale`), not the file's count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scaled: bool,
    pub workers: Vec<WorkerStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    Starting,
    Ok,
    Degraded,
    Reloading,
    RollingBack,
    CrashLoop,
    Stopping,
    Stopped,
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReloadStatus {
    pub state: ReloadState,
    /// The last generation tried; 0: none.
    pub generation: u32,
    pub reason: Option<String>,
    pub replaced: u32,
    pub of: u32,
    pub took_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadState {
    None,
    Running,
    Done,
    Aborted,
    RolledBack,
    Superseded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub slot: u32,
    /// None between two lives.
    pub pid: Option<i32>,
    pub state: WorkerState,
    pub generation: u32,
    pub age_s: f64,
    pub ready_in_s: Option<f64>,
    /// Starts of this slot after deaths that nobody asked for.
    pub restarts: u32,
    pub rss_bytes: Option<u64>,
    pub cpu_s: Option<f64>,
    pub last_exit: Option<LastExit>,
    pub retry_in_s: Option<f64>,
    /// Its own of the pool's `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What the worker says of itself (STATUS= of sd_notify(3)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    Starting,
    Soaking,
    Ready,
    Stopping,
    Killing,
    Backoff,
    Stopped,
    Done,
    Failed,
}

/// How the slot's last worker ended: `{"code": 3}` or `{"signal": "SEGV", "core": false}`, or a start that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<bool>,
    /// The start itself failed: "exec: no such program …".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it had lived.
    pub after_s: f64,
    /// Its last lines.
    pub log: Vec<String>,
}

/// As in the configuration, the status and `ROTAD_KIND`.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Worker => "worker",
        Kind::Task => "task",
        Kind::Step => "step",
    }
}
