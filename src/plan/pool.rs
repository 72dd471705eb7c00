//! One pool of a plan: what it runs, with which limits, and where its output goes.

use super::Template;
use rotad_core::Policy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// One pool: `[pool.NAME]`, with `[defaults]` applied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolPlan {
    /// NAME in `[pool.NAME]`.
    pub name: String,
    /// Which requests concern it.
    pub kind: Kind,
    /// What the engine needs of it. Pools that it comes after have no ids yet: [`PoolPlan::after`] names them.
    pub policy: Policy,
    /// Names of the pools that must be ready (a oneshot: must have succeeded) before this one starts.
    pub after: Vec<String>,
    /// What makes its workers ready.
    pub ready: Ready,
    /// How to spawn its workers.
    pub recipe: Recipe,
    /// The ports of its workers. `None`: they have none of their own.
    pub ports: Option<Ports>,
    /// When its workers are replaced although they are well.
    pub recycle: Recycle,
    /// `[pool.NAME.health]`. `None`: a ready worker is not checked.
    pub health: Option<Health>,
    /// The files that roll it (`reload.watch`). `None`: it watches none.
    pub watch: Option<Watch>,
    /// `reload.on`.
    pub roll_on: RollOn,
    /// `[pool.NAME.log]`.
    pub log: LogPlan,
}

/// The kind of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Serves; SIGUSR1 rolls it.
    Worker,
    /// Works in the background; SIGUSR2 rolls it, and by default its workers get longer to stop.
    Task,
    /// Runs to its end at startup and at each reload, before the pools that come after it.
    Oneshot,
}

/// A range of ports, both ends included; each worker gets one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port, not below `first`.
    pub last: u16,
}

impl Ports {
    /// The number of ports.
    pub fn count(self) -> u32 {
        u32::from(self.last.saturating_sub(self.first)) + 1
    }
}

/// When a healthy worker is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recycle {
    /// Once it has run for this long, ± 10 %, so that workers that began together do not leave together. `None`: at
    /// any age.
    pub max_age: Option<Duration>,
    /// Once its whole tree takes more resident memory than this, in bytes. `None`: at any size.
    pub max_rss: Option<u64>,
}

/// How a ready worker shows that it is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// WATCHDOG=1 must arrive at least this often (sd_watchdog_enabled(3)).
    Watchdog(Duration),
    /// A check that the master makes.
    Probe {
        /// What is asked.
        check: Check,
        /// Time from one check to the next.
        every: Duration,
        /// No answer for this long is a failure; never longer than `every`.
        timeout: Duration,
        /// Consecutive failures that count; at least 1.
        failures: u32,
    },
}

impl Health {
    /// Whether workers that run with `old` can be watched by `new` from now on. They may not answer another check, and
    /// were told their watchdog interval when they were spawned: that needs new workers.
    pub fn fits_running(old: Option<&Self>, new: Option<&Self>) -> bool {
        match (old, new) {
            (Some(Self::Probe { check: old, .. }), Some(Self::Probe { check: new, .. })) => {
                old == new
            }
            (Some(Self::Probe { .. }), None) => true,
            _ => old == new,
        }
    }
}

/// A check of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Check {
    /// HOST:PORT accepts a connection.
    Connect(Template),
    /// HOST:PORT/PATH answers with a 2xx or 3xx status.
    Http(Template),
    /// The program exits with 0.
    Command(Vec<Template>),
}

/// What makes a worker ready, and so how the supervisor finds out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// With listeners: seen accepting; without: READY=1, or alive for 1 s.
    Auto,
    /// It sends READY=1 (sd_notify(3)).
    Notify,
    /// One of its processes waits for connections on a listener, or holds one, as seen in /proc (`probe::accept`).
    Accepting,
    /// Its program has been executed (execve(2)).
    Spawned,
    /// It has lived for this long.
    After(Duration),
    /// The check succeeds.
    Probe(Check),
}

/// Whether a request for all pools, or for all of one kind, rolls this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollOn {
    /// It always rolls.
    #[default]
    Always,
    /// Only when something that it is made from has changed.
    Change,
}

/// Files that roll the pool when their content changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The directory that relative patterns start from.
    pub base: PathBuf,
    /// As written: `src/**/*.py`.
    pub globs: Vec<String>,
    /// How long nothing must have changed before the pool is rolled.
    pub debounce: Duration,
}

/// Where a pool's output goes. `max_size` and `keep` apply to its own files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// Descriptor 1.
    pub stdout: Sink,
    /// Descriptor 2.
    pub stderr: Sink,
    /// A file of this size is rotated, in bytes.
    pub max_size: u64,
    /// How many rotated files are kept.
    pub keep: u32,
    /// Of its own log files.
    pub access: FileAccess,
}

/// Owner, group and mode of log files; `None`: as the previous file had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAccess {
    /// Permission bits (chmod(2)).
    pub mode: Option<u32>,
    /// The owner's user id.
    pub uid: Option<u32>,
    /// The group id.
    pub gid: Option<u32>,
}

/// Where a worker's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// The master's log, line by line.
    Master,
    /// The master's own stdout or stderr.
    Inherit,
    /// Nowhere: /dev/null.
    Null,
    /// `stderr = "stdout"`: wherever stdout goes.
    Stdout,
    /// A rotating file at this absolute path.
    File(PathBuf),
}

/// How to spawn a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Program and arguments, with placeholders.
    pub command: Vec<Template>,
    /// Variables set by the configuration (`env_file`, then `env`), with placeholders; later ones win.
    pub env: Vec<(String, Template)>,
    /// Start from an empty environment instead of the master's.
    pub clear_env: bool,
    /// With `clear_env`: names, or prefixes ending in `*`, of the master's environment that are kept.
    pub pass_env: Vec<String>,
    /// The directory of its workers: an absolute path, links unresolved until a generation begins.
    pub working_directory: PathBuf,
    /// `None`: the master's own user.
    pub account: Option<Account>,
    /// umask(2). `None`: the master's.
    pub umask: Option<u32>,
    /// The nice value, -20 to 19 (setpriority(2)). `None`: the master's.
    pub nice: Option<i32>,
    /// Resource limits that differ from the master's.
    pub limits: Vec<Limit>,
    /// The pool's listeners: indices into [`listeners`](super::Plan::listeners).
    pub listen: Vec<usize>,
    /// How many of them are at descriptors 3, 4, …; one more may be at descriptor 0.
    pub passed: usize,
    /// Which of them is descriptor 0 (index into `listen`); `None`: /dev/null.
    pub stdin: Option<usize>,
}

/// A user, looked up when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The name in the user database (passwd(5)).
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id; `group` in the configuration overrides the user's own.
    pub gid: u32,
    /// Supplementary groups, as initgroups(3) would set them.
    pub groups: Vec<u32>,
    /// Home directory: HOME of the worker.
    pub home: PathBuf,
    /// Login shell: SHELL of the worker.
    pub shell: PathBuf,
}

/// One resource limit (setrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The name in lower case: `nofile`, `core`, `as`.
    pub name: String,
    /// The number of the resource (RLIMIT_*).
    pub resource: u32,
    /// The limit that is enforced; `u64::MAX`: none (RLIM_INFINITY).
    pub soft: u64,
    /// The highest value that the worker may raise `soft` to; `u64::MAX`: none.
    pub hard: u64,
}
