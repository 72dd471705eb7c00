//! The protocol of the control socket: one JSON object on each line, so that `nc -U` works too.

use crate::exit_code::ExitCode;
use crate::observe::events::Event;
use crate::observe::metrics::Metrics;
use crate::observe::scrape::ScrapePool;
use crate::observe::status::{SlotState, Status};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Raised when an older client and a newer master would misunderstand each other.
pub const VERSION: u32 = 2;

/// The longest request that the master reads, in bytes; a longer one is answered with an error.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The name of the socket in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// A request: the first and only line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The client's [`VERSION`].
    pub version: u32,
    /// The absolute path of the client's configuration file, as given: the master of another file refuses.
    pub config: PathBuf,
    /// Its real path, if different: a master answers to either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<PathBuf>,
    /// What the client asks for.
    #[serde(rename = "ask")]
    pub method: Method,
}

/// What a request asks for. Pools are given by name, slots by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// Return the runtime directory and configuration of the master. Answered for any `config`.
    Where,
    /// Return the status.
    Status,
    /// Return the numbers for monitoring.
    Metrics,
    /// Return where the metrics of workers are.
    ScrapeTargets,
    /// Return what is under way: what a command that waits shows on a terminal.
    InProgress {
        /// The pools; if empty, all.
        pools: Vec<String>,
    },
    /// Stop pools.
    Stop {
        /// The pools; if empty, everything including the master.
        pools: Vec<String>,
        /// Kill immediately.
        now: bool,
    },
    /// Start stopped pools again.
    Start {
        /// The pools.
        pools: Vec<String>,
        /// When to answer.
        wait: Wait,
    },
    /// Start a rolling restart.
    Roll {
        /// The pools.
        which: Selector,
        /// When to answer.
        wait: Wait,
    },
    /// Replace one worker by a new one of the same generation.
    #[serde(rename = "renew")]
    Replace {
        /// The worker's pool.
        pool: String,
        /// The worker's slot.
        slot: u32,
        /// When to answer.
        wait: Wait,
    },
    /// Read the configuration again, apply what changed, and roll these pools.
    Reload {
        /// The pools to roll.
        which: Selector,
        /// How much to do.
        extent: ReloadScope,
        /// When to answer.
        wait: Wait,
    },
    /// Roll back to an earlier generation.
    Rollback {
        /// The pools; if empty, all.
        pools: Vec<String>,
        /// The generation; by default the previous one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u32>,
        /// Only return what would be done.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
        /// When to answer.
        wait: Wait,
    },
    /// Cancel running rolling restarts.
    Cancel {
        /// The pools; if empty, all.
        pools: Vec<String>,
    },
    /// Change the number of workers.
    Scale {
        /// The pool.
        pool: String,
        /// The new number.
        to: ScaleTo,
    },
    /// Run a hook as if the first event that it is for had happened.
    Hook {
        /// Its name.
        name: String,
    },
    /// Replace the master by another program.
    Upgrade {
        /// The program; by default the path by which the master was started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<PathBuf>,
    },
    /// Send a signal (by number) to ready workers.
    Signal {
        /// The pool.
        pool: String,
        /// One worker; by default all.
        slot: Option<u32>,
        /// The signal's number.
        signal: i32,
    },
    /// Send the last lines that workers printed, and those to come.
    Logs {
        /// The pool; by default all.
        pool: Option<String>,
        /// One worker of the pool; by default all.
        slot: Option<u32>,
        /// More pools or workers, beside that one.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        more: Vec<LogTarget>,
        /// How many of the last lines.
        lines: u32,
        /// Continue with new lines.
        follow: bool,
        /// Instead of the last lines: those behind what was received from the master before this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<LogPlace>,
    },
    /// Send the latest events.
    Events {
        /// Continue with new events.
        follow: bool,
    },
}

/// When the final response is sent; progress comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// Immediately.
    No,
    /// When every slot's new worker is ready and every old one has been asked to stop.
    Done,
    /// When the old ones are gone too.
    Drained,
}

/// The scope of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadScope {
    /// Apply what changed, and roll.
    Everything,
    /// Only apply what changed, like SIGHUP.
    ConfigOnly,
    /// Only return what would be done.
    DryRun,
    /// The same as JSON, in the message of the answer.
    #[serde(rename = "dry-run-json")]
    DryRunJson,
}

impl ReloadScope {
    /// Nothing is done.
    pub fn is_dry_run(self) -> bool {
        matches!(self, Self::DryRun | Self::DryRunJson)
    }
}

/// The desired number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleTo {
    /// This many.
    Exactly(u32),
    /// This many more, or fewer if negative.
    By(i64),
}

/// Selects pools: those named, or by kind; without a name and a kind, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// Names of pools.
    pub pools: Vec<String>,
    /// Pools of kind worker.
    pub workers: bool,
    /// Pools of kind task.
    pub tasks: bool,
}

/// A pool, or one of its workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogTarget {
    /// The pool.
    pub pool: String,
    /// One worker of the pool; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

/// A place in what all workers print. A master that goes on after another one continues its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPlace {
    /// Which log. Places of different logs have nothing to do with each other.
    pub log: u64,
    /// How many bytes had been printed.
    pub end: u64,
}

/// A line that a worker printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When the master read it: RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// The worker's pool.
    pub pool: String,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's pid.
    pub pid: i32,
    /// `stdout`, `stderr`, or `both` if they go to the same place.
    pub stream: String,
    /// Its place in the log that [`Response::LogFrom`] has named.
    #[serde(default)]
    pub end: u64,
    /// Sanitized: control characters and invalid UTF-8 are made visible.
    pub text: String,
}

/// What is under way, at the moment of the answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InProgress {
    /// The pools that have not all of their workers yet.
    pub pools: Vec<PoolProgress>,
    /// Workers that start, soak or stop, and slots that wait for their retry: those that start first, of each kind the
    /// oldest first.
    pub slots: Vec<SlotProgress>,
    /// How many more there are, which are left out.
    pub more: u32,
    /// The last worker that ended unasked.
    pub death: Option<Death>,
}

/// A pool that has not all of its workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolProgress {
    /// Its name.
    pub pool: String,
    /// Its ready workers.
    pub ready: u32,
    /// The desired number of workers.
    pub wanted: u32,
    /// The pools that it waits for.
    pub waits_for: Vec<String>,
    /// Slots that wait because as many workers as allowed are starting.
    pub waiting: u32,
}

/// A slot and what its worker does, or waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotProgress {
    /// The pool.
    pub pool: String,
    /// The slot.
    pub slot: u32,
    /// The worker's pid.
    pub pid: Option<i32>,
    /// `ready`: it is watched until its rolling restart is done.
    pub state: SlotState,
    /// For how long, in seconds. `None`: nothing ends it but itself.
    pub since_s: Option<f64>,
    /// How long it may take in all, in seconds; in a backoff: how long it takes. `None`: no limit.
    pub of_s: Option<f64>,
    /// It is a oneshot, which runs to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oneshot: bool,
    /// The status text that the worker sent.
    pub says: Option<String>,
}

/// The unasked end of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// When: RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// The pool.
    pub pool: String,
    /// The slot.
    pub slot: u32,
    /// How it ended, and what follows.
    pub text: String,
    /// The line of its output that tells most.
    pub line: Option<String>,
}

/// A response line. `Done`, `Status`, `Metrics` or `InProgress` is the last one. After `Done` for a stop, the connection stays open until the
/// master is gone: its end proves the exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// A progress line for the waiting user.
    Progress {
        /// The line.
        text: String,
    },
    /// A rolling restart has completed one slot; `text` says the same for users who read the protocol directly.
    Step {
        /// The pool.
        pool: String,
        /// The slot.
        slot: u32,
        /// The new worker's pid.
        pid: Option<i32>,
        /// Slots completed so far.
        done: u32,
        /// Slots in all.
        of: u32,
        /// How long the new worker took to become ready, in milliseconds.
        took_ms: Option<u64>,
        /// The same as a line of text.
        text: String,
    },
    /// The status.
    Status(Box<Status>),
    /// The numbers for monitoring; the last response, as `Status` is.
    Metrics(Box<Metrics>),
    /// The pools whose workers have metrics; the last response, as `Status` is.
    ScrapeTargets(Vec<ScrapePool>),
    /// What is under way; the last response, as `Status` is.
    InProgress(Box<InProgress>),
    /// An event.
    Event(Box<Event>),
    /// Behind this place the lines begin that a client gets which follows.
    LogFrom(LogPlace),
    /// A line that a worker printed.
    Line(Box<Line>),
    /// Identifies a master. Its presence socket sends this without a request to users who may not send requests.
    Here {
        /// The directory of the control socket.
        runtime_dir: PathBuf,
        /// The configuration; not for users who may not send requests.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<PathBuf>,
    },
    /// A hint for the user at the terminal, such as where to find more.
    Hint {
        /// The hint.
        text: String,
    },
    /// This many events or lines are missing here, since the client did not read fast enough.
    Skipped {
        /// How many are missing.
        count: u64,
    },
    /// The final response.
    Done {
        /// The exit code of the command (docs/cli.md).
        code: ExitCode,
        /// What to print; may be empty.
        message: String,
    },
}
