//! The plan: a checked configuration, ready to be executed. `config` makes it; every other module reads it. All names
//! are resolved (users, groups, listeners), all paths are absolute, all defaults are filled in, so no later step has
//! to handle an invalid value.

mod diff;
mod diff_pool;
mod event_kind;
mod hook;
mod pattern;
mod pool;
mod sources;
mod template;

pub use diff::{Diff, ListenChange, ListenDiff, PoolChange, PoolDiff, diff};
pub use event_kind::EventKind;
pub use hook::HookPlan;
pub use pattern::{Exclusions, MatchState, PathPattern, PatternSet, WalkError};
pub use pool::{
    Account, Check, FileAccess, Gauges, Health, HttpCheck, Kind, Limit, LogFile, LogPlan,
    MetricsPlan, PoolPlan, Ports, Ready, Recipe, Recycle, RollOn, Sink, TimeOfDay, Watch,
};
pub use sources::{changed, is_missing, read};
pub use template::{Context, Fault, Names};

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Maximum length of a unix socket's path, in bytes: sun_path is 108 bytes with its NUL (unix(7)).
pub const MAX_UNIX_PATH: usize = 107;

/// One configuration, ready to be executed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The configuration file: its absolute path as given, with links unresolved. A reload reads it from here.
    pub config: PathBuf,
    /// Its real path (realpath(3)) when it was read.
    pub real: PathBuf,
    /// Every file that this plan was read from (configuration, env files), with its content: a difference shows that
    /// the configuration has changed since.
    pub sources: Vec<Source>,
    /// The patterns of `include`: a file that matches one of them and is not a source is a change as well.
    pub include: Vec<PathPattern>,
    /// Of `[master]`.
    pub master: MasterPlan,
    /// Of `[control]`.
    pub control: ControlPlan,
    /// Of `[signals]`.
    pub signals: SignalMap,
    /// Of `[listen.NAME]`, then addresses that pools give themselves. [`Recipe::listen`] holds indices into it.
    pub listeners: Vec<ListenPlan>,
    /// Of `[pool.NAME]`, in the order of the files.
    pub pools: Vec<PoolPlan>,
    /// Of `[hooks.NAME]`, in the order of the file.
    #[serde(default)]
    pub hooks: Vec<HookPlan>,
}

/// A file that a plan was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its absolute path, with links unresolved.
    pub path: PathBuf,
    /// All of its bytes, 4 MiB at most ([`read`]).
    pub content: Vec<u8>,
    /// It did not exist, and need not (`env_file = "?…"`).
    #[serde(default)]
    pub missing: bool,
    /// What messages call it, where its path has values of variables. `None`: its path.
    #[serde(default)]
    pub shown: Option<PathBuf>,
}

/// The master's own settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MasterPlan {
    /// By default the file's stem, or the name of its directory if the file is called `rotad.toml`.
    pub name: String,
    /// `rotad start` puts the master into the background. False: it stays in the foreground, as `run` does.
    pub daemonize: bool,
    /// Holds the master's process id and is locked while the master runs.
    pub pid_file: PathBuf,
    /// Holds the lock, the control socket, the journal of workers and their notify sockets.
    pub runtime_dir: PathBuf,
    /// Where a daemonized master stands, `/` by default.
    pub working_directory: PathBuf,
    /// The master's umask (umask(2)), 022 by default. Workers inherit it unless their pool has one.
    pub umask: u32,
    /// As configured; `None`: stderr for `run`, `default_log_file` for `start`.
    pub log_file: Option<PathBuf>,
    /// /var/log/rotad/NAME.log for root, rotad/NAME.log below $XDG_STATE_HOME for other users.
    pub default_log_file: PathBuf,
    /// How the lines of the master log look.
    pub log_format: LogFormat,
    /// The least severe lines that the master log takes.
    pub log_level: LogLevel,
    /// The master log is rotated at this size, in bytes. 0: never.
    pub log_max_size: u64,
    /// How many rotated master logs are kept.
    pub log_keep: u32,
    /// The longest that a stop of everything may take before what is left is killed. `None`: the sum of each pool's
    /// stop steps.
    pub stop_timeout: Option<Duration>,
    /// Apply the configuration when the content of its files changes.
    pub watch_config: bool,
    /// Upgrade when the content of the master's program changes.
    #[serde(default)]
    pub watch_program: bool,
    /// A guardian keeps what the master has open, and starts another one if it dies.
    pub guardian: bool,
    /// The guardian kills and restarts a master whose loop has not turned for this long.
    #[serde(default)]
    pub watchdog: Option<Duration>,
}

/// How lines of the master log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// For people: time, level, message.
    Text,
    /// One JSON object a line.
    Json,
}

/// Severities of master log lines, the most severe first. A level includes all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// What has failed.
    Error,
    /// What needs attention, though rotad goes on.
    Warn,
    /// What changed: the default.
    Info,
    /// Details of each change.
    Debug,
    /// Everything.
    Trace,
}

/// Who may use the control socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ControlPlan {
    /// Permission bits of the control socket's file; connect(2) needs write permission (unix(7)).
    pub mode: u32,
    /// The group id of that file. `None`: the master's own group.
    pub group: Option<u32>,
}

/// What the signals do that an operator may assign (`[signals]`). TERM, QUIT, INT and RTMIN always do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalMap {
    /// SIGHUP; by default [`SignalAction::ApplyConfig`].
    pub hup: SignalAction,
    /// SIGUSR1; by default [`SignalAction::RollWorkers`].
    pub usr1: SignalAction,
    /// SIGUSR2; by default [`SignalAction::RollTasks`].
    pub usr2: SignalAction,
    /// SIGWINCH; by default [`SignalAction::ReopenLogs`], and ignored while the master has a terminal, which sends it
    /// when its window changes size.
    pub winch: SignalAction,
}

/// What a signal to the master does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalAction {
    /// Roll all pools of kind `worker`.
    RollWorkers,
    /// Roll all pools of kind `task`.
    RollTasks,
    /// Roll all pools, oneshots excepted.
    RollAll,
    /// Read the configuration and apply what has changed.
    ApplyConfig,
    /// Apply what has changed and roll all pools, as `rotad reload` does.
    Reload,
    /// Open the log files again, after something else has moved them.
    ReopenLogs,
    /// Do nothing.
    Ignore,
}

/// One listening socket, opened once and shared by its pools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenPlan {
    /// The name in `[listen.NAME]`; for an address written in a pool: the address itself.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// The longest queue of connections that are not accepted yet (listen(2)); the kernel caps it at
    /// net.core.somaxconn.
    pub backlog: u32,
    /// O_NONBLOCK on the shared socket; false: blocking at first, then as the workers set it.
    pub nonblocking: bool,
    /// Unix sockets only: permission bits of the file. `None`: 0666, whatever the umask.
    pub mode: Option<u32>,
    /// Unix sockets only: owner of the file. `None`: the master's user.
    pub uid: Option<u32>,
    /// Unix sockets only: group of the file. `None`: the master's group.
    pub gid: Option<u32>,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// A TCP socket. Port 0: the kernel picks one (ip(7)).
    Tcp(SocketAddr),
    /// A unix socket with this absolute path.
    Unix(PathBuf),
}

/// Text with placeholders, parsed and checked. Its pieces follow one another without separators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template(pub Vec<Piece>);

/// One piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// Stands for itself.
    Text(String),
    /// `{fd:NAME}`: the descriptor number of a listener.
    Fd(usize),
    /// `{addr:NAME}`: the address of a listener, by its position in [`Recipe::listen`].
    Addr(usize),
    /// `{port:NAME}`: the port of a TCP listener, by its position in [`Recipe::listen`].
    ListenerPort(usize),
    /// `{port}`: the worker's own port of [`PoolPlan::ports`].
    Port,
    /// `{pool}`: the pool's name.
    Pool,
    /// `{slot}`: the worker's slot.
    Slot,
    /// `{generation}`: the worker's generation.
    Generation,
    /// `{rotad}`: the path of the rotad binary.
    Rotad,
    /// `{preload:node}`: the path of the preload for Node.
    NodePreload,
    /// `{env:NAME}`: a variable of the master's environment, or its default. The value may be a secret: messages show
    /// the name.
    Env {
        /// NAME.
        name: String,
        /// Its value when the configuration was read.
        value: String,
    },
}
