//! One pool of a plan: what it runs, how patiently, and what is done with its output.

use super::Template;
use rotad_core::{Essential, Policy};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct PoolPlan {
    pub name: String,
    pub kind: Kind,
    pub policy: Policy,
    /// Names of the pools that have to be ready (a oneshot: to have ended well) before this one is started.
    pub after: Vec<String>,
    /// When the master stops for the sake of this pool.
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
    /// Runs to its end at start and at each reload, before what comes after it.
    Oneshot,
}

/// Ports of which each worker gets one of its own; both ends belong to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }
}

/// When a worker that is well is replaced all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recycle {
    /// ± 10 %, so that workers of one age do not leave at one moment.
    pub max_age: Option<Duration>,
    /// Bytes of resident memory.
    pub max_rss: Option<u64>,
}

/// How a ready worker shows that it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// WATCHDOG=1 has to come at least this often (sd_watchdog_enabled(3)).
    Watchdog(Duration),
    Probe {
        check: Check,
        every: Duration,
        /// No answer for that long is a failure; never longer than `every`.
        timeout: Duration,
        /// In a row; at least 1.
        failures: u32,
    },
}

/// A question to one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// HOST:PORT takes a connection.
    Connect(Template),
    /// HOST:PORT/PATH answers with a status of 2xx or 3xx.
    Http(Template),
    /// The program ends with 0.
    Command(Vec<Template>),
}

/// What makes a worker ready, as the operating system's side has to find it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// With listeners: seen accepting; without: READY=1 or alive for 1 s.
    Auto,
    Notify,
    Accepting,
    Spawned,
    After(Duration),
    Probe(Check),
}

/// Whether a request for all pools, or for all of a kind, rolls this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RollOn {
    #[default]
    Always,
    /// Only when what it is made from has changed.
    Change,
}

/// Files whose changed content rolls the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// What relative patterns start from.
    pub base: PathBuf,
    /// As written: `src/**/*.py`.
    pub globs: Vec<String>,
    /// How long nothing must have changed before the pool is rolled.
    pub debounce: Duration,
}

/// Where a pool's output goes. `max_size` and `keep` are those of its own files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlan {
    pub stdout: Sink,
    pub stderr: Sink,
    /// Bytes: a file of this size is rotated.
    pub max_size: u64,
    /// Rotated files that are kept.
    pub keep: u32,
    pub access: FileAccess,
}

/// Owner, group and mode of a log's files; what is not named stays as the file before had it.
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
    /// The pool's listeners: indices into [`listeners`](super::Plan::listeners).
    pub listen: Vec<usize>,
    /// So many of them lie at 3, 4, …; one more may lie at 0 alone.
    pub passed: usize,
    /// Which of them is descriptor 0 (index into `listen`); none: /dev/null.
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
