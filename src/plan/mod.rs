//! The plan: a checked configuration, ready to be executed. `config` makes it; every other module reads it. All names
//! are resolved (users, groups, listeners), all paths are absolute, all defaults are filled in, so no later step has
//! to handle an invalid value.

mod diff;
mod diff_pool;
mod pattern;
mod pool;
mod sources;
mod template;

pub use diff::{Diff, ListenChange, ListenDiff, PoolChange, PoolDiff, diff};
pub use pattern::{Exclusions, MatchState, PathPattern, PatternSet, WalkError};
pub use pool::{
    Account, Check, FileAccess, Health, Kind, Limit, LogPlan, PoolPlan, Ports, Ready, Recipe,
    Recycle, RollOn, Sink, Watch,
};
pub use sources::{changed, read};
pub use template::{Context, Fault, Sockets};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One configuration, ready to be executed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration file: its absolute path as given, with links unresolved. A reload reads it from here.
    pub config: PathBuf,
    /// Its real path when it was read.
    pub real: PathBuf,
    /// Every file that this plan was read from (configuration, env files), with its content: a difference shows that
    /// the configuration has changed since.
    pub sources: Vec<Source>,
    /// The patterns of `include`: a file that matches one of them and is not a source is a change as well.
    pub include: Vec<PathPattern>,
    pub master: MasterPlan,
    pub control: ControlPlan,
    pub signals: SignalMap,
    pub listeners: Vec<ListenPlan>,
    pub pools: Vec<PoolPlan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub path: PathBuf,
    pub content: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct MasterPlan {
    pub name: String,
    pub daemonize: bool,
    pub pid_file: PathBuf,
    pub runtime_dir: PathBuf,
    pub working_directory: PathBuf,
    pub umask: u32,
    /// As configured; `None`: stderr for `run`, `default_log_file` for `start`.
    pub log_file: Option<PathBuf>,
    pub default_log_file: PathBuf,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    /// Bytes.
    pub log_max_size: u64,
    pub log_keep: u32,
    pub stop_timeout: Option<Duration>,
    /// Apply the configuration when the content of its files changes.
    pub watch_config: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Who may use the control socket.
#[derive(Clone, Debug)]
pub struct ControlPlan {
    pub mode: u32,
    pub group: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalMap {
    pub hup: SignalAction,
    pub usr1: SignalAction,
    pub usr2: SignalAction,
    pub winch: SignalAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalAction {
    RollWorkers,
    RollTasks,
    RollAll,
    ApplyConfig,
    Reload,
    ReopenLogs,
    Ignore,
}

/// One listening socket, opened once and shared by its pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenPlan {
    /// The name in `[listen.NAME]`; for an address written in a pool: the address itself.
    pub name: String,
    pub address: Address,
    pub backlog: u32,
    /// O_NONBLOCK on the shared socket; false: blocking at first, then as the workers set it.
    pub nonblocking: bool,
    /// Unix sockets only: mode, owner, group of the file.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Text with placeholders, parsed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The descriptor number of a listener.
    Fd(usize),
    /// Its address and its port (indices into [`Recipe::listen`]).
    Addr(usize),
    ListenerPort(usize),
    /// The worker's own port of [`PoolPlan::ports`].
    Port,
    Pool,
    Slot,
    Generation,
    /// The path of the rotad binary.
    Rotad,
}
