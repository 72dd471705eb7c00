//! The protocol of the control socket: one JSON object on each line, so that `nc -U` works too.

use crate::observe::events::Event;
use crate::observe::status::Status;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Raised when an older client and a newer master would misunderstand each other.
pub const VERSION: u32 = 2;

/// The longest request that the master reads, in bytes; a longer one is answered with an error.
pub const MAX_QUESTION: usize = 64 * 1024;

/// The name of the socket in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// A request: the first and only line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub version: u32,
    /// The absolute path of the client's configuration file, as given: the master of another file refuses.
    pub config: PathBuf,
    /// Its real path, if different: a master is known by either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<PathBuf>,
    pub ask: Method,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// Which configuration is this master's? Every master answers, whatever `config` says.
    Where,
    Status,
    /// Stop these pools; with none named, everything including the master.
    Stop {
        pools: Vec<String>,
        now: bool,
    },
    /// Start stopped pools again.
    Start {
        pools: Vec<String>,
        wait: Wait,
    },
    /// Start a rolling restart.
    Roll {
        which: Selector,
        wait: Wait,
    },
    /// Replace one worker by a new one of the same generation.
    Renew {
        pool: String,
        slot: u32,
        wait: Wait,
    },
    /// Read the configuration again, apply what changed, and roll these pools.
    Reload {
        which: Selector,
        extent: ReloadScope,
        wait: Wait,
    },
    /// Roll back to the previous generation or to this one, or only say what that would do.
    Rollback {
        pools: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u32>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        dry_run: bool,
        wait: Wait,
    },
    Cancel {
        pools: Vec<String>,
    },
    Scale {
        pool: String,
        to: ScaleTo,
    },
    /// Send a signal (by number) to ready workers.
    Signal {
        pool: String,
        slot: Option<u32>,
        signal: i32,
    },
    /// Send the last lines that workers printed, and those to come.
    Logs {
        pool: Option<String>,
        slot: Option<u32>,
        lines: u32,
        follow: bool,
    },
    /// Send the latest events.
    Events {
        follow: bool,
    },
}

/// When the final response is sent; progress comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// At once.
    No,
    /// When every slot's new worker is ready and every old one has been asked to stop.
    Done,
    /// When the old ones are gone, too.
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
    /// Only say what would be done.
    DryRun,
}

/// The desired number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleTo {
    Exactly(u32),
    By(i64),
}

/// Selects pools: those named, or by kind; without a name and a kind, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    pub pools: Vec<String>,
    pub workers: bool,
    pub tasks: bool,
}

/// A line that a worker printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When the master read it: RFC 3339, UTC, with milliseconds.
    pub time: String,
    pub pool: String,
    pub slot: u32,
    pub pid: i32,
    /// `stdout`, `stderr`, or `both` if they go to the same place.
    pub stream: String,
    /// Sanitized: control characters and invalid UTF-8 are made visible.
    pub text: String,
}

/// A response line. `Done` or `Status` is the last one. After `Done` for a stop, the connection stays open until the
/// master is gone: its end proves the exit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// A progress line for the waiting user.
    Progress {
        text: String,
    },
    /// A rolling restart has completed one slot; `text` says the same for users who read the protocol directly.
    Step {
        pool: String,
        slot: u32,
        pid: Option<i32>,
        done: u32,
        of: u32,
        /// How long the new worker took to become ready, in milliseconds.
        took_ms: Option<u64>,
        text: String,
    },
    Status(Box<Status>),
    Event(Box<Event>),
    Line(Box<Line>),
    /// Identifies a master. For users who may not send requests, its abstract socket says only where its control
    /// socket is, unasked.
    Here {
        runtime_dir: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<PathBuf>,
    },
    /// A hint for the user at the terminal, such as where to find more.
    Hint {
        text: String,
    },
    /// This many events or lines are missing here, since the client did not read fast enough.
    Skipped {
        count: u64,
    },
    /// The end: the exit code (docs/exit-codes.md), and what to print (empty: nothing).
    Done {
        code: u8,
        message: String,
    },
}
