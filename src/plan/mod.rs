//! Config -> Plan: what is to be, with no "cannot happen" left in it. All names are resolved (users, groups,
//! listeners), all paths absolute, all defaults filled in.

mod sources;
mod template;

pub use sources::changed;
pub use template::{Context, Fault};

use rotad_core::Policy;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One configuration, ready to be carried out.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The real path of the configuration file.
    pub config: PathBuf,
    /// Every file that this plan was read from (configuration, env files) with its content as read: a difference
    /// says that the configuration has changed since.
    pub sources: Vec<Source>,
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
    /// As configured; none: stderr for `run`, `default_log_file` for `start`.
    pub log_file: Option<PathBuf>,
    pub default_log_file: PathBuf,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    /// Bytes.
    pub log_max_size: u64,
    pub log_keep: u32,
    pub stop_timeout: Option<Duration>,
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

#[derive(Clone, Debug)]
pub struct PoolPlan {
    pub name: String,
    pub kind: Kind,
    pub policy: Policy,
    pub ready: Ready,
    pub recipe: Recipe,
    pub stdout: Sink,
    pub stderr: Sink,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Worker,
    Task,
}

/// What makes a worker ready, as the operating system's side has to find it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// With listeners: seen accepting; without: READY=1 or alive for 1 s.
    Auto,
    Notify,
    Accepting,
    Spawned,
    After(Duration),
}

/// Where a worker's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// The master's log, line by line.
    Master,
    /// The master's own stdout or stderr.
    Inherit,
    Null,
    /// `stderr = "stdout"`: wherever stdout goes.
    Stdout,
}

/// How to start a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Program and arguments, with placeholders.
    pub command: Vec<Template>,
    /// Variables set by the configuration (`env_file`, then `env`), with placeholders; later ones win.
    pub env: Vec<(String, Template)>,
    /// Start from an empty environment instead of the master's.
    pub clear_env: bool,
    /// With `clear_env`: names, or prefixes ending in `*`, of the master's own environment that are kept.
    pub pass_env: Vec<String>,
    pub working_directory: PathBuf,
    /// None: the master's own user.
    pub account: Option<Account>,
    pub umask: Option<u32>,
    pub nice: Option<i32>,
    pub limits: Vec<Limit>,
    /// Indices into [`Plan::listeners`]: fd 3, 4, …
    pub listen: Vec<usize>,
}

/// A user, looked up when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, as initgroups(3) would set them.
    pub groups: Vec<u32>,
    pub home: PathBuf,
    pub shell: PathBuf,
}

/// One resource limit (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name in lower case: `nofile`, `core`, `as`.
    pub name: String,
    /// The number of the resource (RLIMIT_*).
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// Text with placeholders, parsed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// The descriptor number of the pool's n-th listener (index into [`Recipe::listen`]).
    Fd(usize),
    /// Its address and its port (indices into [`Recipe::listen`]).
    Addr(usize),
    Port(usize),
    Pool,
    Slot,
    Generation,
    /// The path of the rotad binary.
    Rotad,
}
