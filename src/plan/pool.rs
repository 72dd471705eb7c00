//! One pool of a plan: what it runs, with which limits, and where its output goes.

use super::Template;
use rotad_core::{Essential, Policy};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct PoolPlan {
    pub name: String,
    pub kind: Kind,
    pub policy: Policy,
    /// Names of the pools that must be ready (a oneshot: must have succeeded) before this one starts.
    pub after: Vec<String>,
    /// Whether and when the master stops because of this pool.
    pub essential: Option<Essential>,
    pub ready: Ready,
    pub recipe: Recipe,
    pub ports: Option<Ports>,
    pub recycle: Recycle,
    pub health: Option<Health>,
    pub watch: Option<Watch>,
    pub roll_on: RollOn,
    pub log: LogPlan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Worker,
    Task,
    /// Runs to its end at startup and at each reload, before the pools that come after it.
    Oneshot,
}

/// A range of ports, both ends included; each worker gets one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// The number of ports.
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }
}

/// When a healthy worker is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycle {
    /// ± 10 %, so that workers of the same age do not leave at the same moment.
    pub max_age: Option<Duration>,
    /// Resident memory, in bytes.
    pub max_rss: Option<u64>,
}

/// How a ready worker shows that it is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// WATCHDOG=1 must arrive at least this often (sd_watchdog_enabled(3)).
    Watchdog(Duration),
    Probe {
        check: Check,
        every: Duration,
        /// No answer for this long is a failure; never longer than `every`.
        timeout: Duration,
        /// Consecutive failures that count; at least 1.
        failures: u32,
    },
}

/// A check of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// HOST:PORT accepts a connection.
    Connect(Template),
    /// HOST:PORT/PATH answers with a 2xx or 3xx status.
    Http(Template),
    /// The program exits with 0.
    Command(Vec<Template>),
}

/// What makes a worker ready, and so how the supervisor finds out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// With listeners: seen accepting; without: READY=1, or alive for 1 s.
    Auto,
    Notify,
    Accepting,
    Spawned,
    After(Duration),
    Probe(Check),
}

/// Whether a request for all pools, or for all of one kind, rolls this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollOn {
    #[default]
    Always,
    /// Only when something that it is made from has changed.
    Change,
}

/// Files that roll the pool when their content changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The directory that relative patterns start from.
    pub base: PathBuf,
    /// As written: `src/**/*.py`.
    pub globs: Vec<String>,
    /// How long nothing must have changed before the pool is rolled.
    pub debounce: Duration,
}

/// Where a pool's output goes. `max_size` and `keep` apply to its own files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    pub stdout: Sink,
    pub stderr: Sink,
    /// A file of this size is rotated, in bytes.
    pub max_size: u64,
    /// How many rotated files are kept.
    pub keep: u32,
    pub access: FileAccess,
}

/// Owner, group and mode of log files; `None`: as the previous file had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAccess {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// Where a worker's output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// The master's log, line by line.
    Master,
    /// The master's own stdout or stderr.
    Inherit,
    Null,
    /// `stderr = "stdout"`: wherever stdout goes.
    Stdout,
    File(PathBuf),
}

/// How to spawn a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Program and arguments, with placeholders.
    pub command: Vec<Template>,
    /// Variables set by the configuration (`env_file`, then `env`), with placeholders; later ones win.
    pub env: Vec<(String, Template)>,
    /// Start from an empty environment instead of the master's.
    pub clear_env: bool,
    /// With `clear_env`: names, or prefixes ending in `*`, of the master's environment that are kept.
    pub pass_env: Vec<String>,
    pub working_directory: PathBuf,
    /// `None`: the master's own user.
    pub account: Option<Account>,
    pub umask: Option<u32>,
    pub nice: Option<i32>,
    pub limits: Vec<Limit>,
    /// The pool's listeners: indices into [`listeners`](super::Plan::listeners).
    pub listen: Vec<usize>,
    /// How many of them are at descriptors 3, 4, …; one more may be at descriptor 0.
    pub passed: usize,
    /// Which of them is descriptor 0 (index into `listen`); `None`: /dev/null.
    pub stdin: Option<usize>,
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
