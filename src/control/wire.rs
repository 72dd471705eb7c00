//! What is said over the control socket: one JSON object a line, so that a person can use `nc -U` as well.

use crate::observe::events::Event;
use crate::observe::status::Status;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Raised when an old client and a new master would misunderstand each other.
pub const VERSION: u32 = 2;

/// The longest question that the master reads, in bytes; a longer one is answered with an error.
pub const MAX_QUESTION: usize = 64 * 1024;

/// The name of the socket in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// The first and only line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    pub version: u32,
    /// The absolute path of the client's configuration file, as it was given: the master of another file refuses.
    pub config: PathBuf,
    /// Its real path, if that is another one: the master of a file is known by either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub real: Option<PathBuf>,
    pub ask: Method,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Method {
    /// Which configuration is yours? Answered by every master, whatever the question's `config`.
    Where,
    Status,
    /// Stops these pools; none named: everything, the master included.
    Stop {
        pools: Vec<String>,
        now: bool,
    },
    /// Starts stopped pools again.
    Start {
        pools: Vec<String>,
        wait: Wait,
    },
    /// Rolling restart.
    Roll {
        which: Selector,
        wait: Wait,
    },
    /// Replaces one worker by one of the same generation.
    Renew {
        pool: String,
        slot: u32,
        wait: Wait,
    },
    /// Reads the configuration again, applies what changed, and rolls these pools.
    Reload {
        which: Selector,
        extent: ReloadScope,
        wait: Wait,
    },
    /// Rolls to the generation before, or to this one; or only says what that would do.
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
    /// Passes a signal (by its number) to ready workers.
    Signal {
        pool: String,
        slot: Option<u32>,
        signal: i32,
    },
    /// The last lines that workers printed, and those to come.
    Logs {
        pool: Option<String>,
        slot: Option<u32>,
        lines: u32,
        follow: bool,
    },
    /// What the master did and why.
    Events {
        follow: bool,
    },
}

/// Until when the answer waits; before it comes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// It is given at once.
    No,
    /// Until every slot's new worker is ready and every old one has got its stop.
    Done,
    /// Also until the old ones are gone.
    Drained,
}

/// How much a reload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadScope {
    /// Apply what changed, and roll.
    Everything,
    /// Only apply what changed, as HUP.
    ConfigOnly,
    /// Only say what would be done.
    DryRun,
}

/// The number of workers that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleTo {
    Exactly(u32),
    By(i64),
}

/// Which pools: those named, or by kind; no name and no kind: all.
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
    /// `stdout`, `stderr`, or `both` where they go the same way.
    pub stream: String,
    /// With control characters and broken UTF-8 made visible.
    pub text: String,
}

/// A line of the master. `Done` or `Status` is the last one. After `Done` for a stop the connection stays open until
/// the master is gone: its end is the proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// A line for the person who waits.
    Progress {
        text: String,
    },
    /// One slot of a rolling restart is done; `text` says the same for those who read the wire themselves.
    Step {
        pool: String,
        slot: u32,
        pid: Option<i32>,
        done: u32,
        of: u32,
        /// How long the new worker took until it was ready, in milliseconds.
        took_ms: Option<u64>,
        text: String,
    },
    Status(Box<Status>),
    Event(Box<Event>),
    Line(Box<Line>),
    /// Where a master is. To those who may not ask, its abstract socket says only where its control socket is, and
    /// says so unasked.
    Here {
        runtime_dir: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<PathBuf>,
    },
    /// For the person at the terminal, beside what was asked for: where there is more of it.
    Hint {
        text: String,
    },
    /// So many events or lines are missing here: the client did not read fast enough.
    Skipped {
        count: u64,
    },
    /// The end: an exit code of the contract, and what to print (empty: nothing).
    Done {
        code: u8,
        message: String,
    },
}
