//! What is said over the control socket: one JSON object a line, so that a person can use `nc -U` as well.

use crate::observe::status::Status;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Raised when an old client and a new master would misunderstand each other.
pub const VERSION: u32 = 1;

/// The longest question that the master reads, in bytes; a longer one is answered with an error.
pub const MAX_QUESTION: usize = 64 * 1024;

/// The name of the socket in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// The first and only line of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub version: u32,
    /// The real path of the client's configuration file: the master of another file refuses.
    pub config: PathBuf,
    pub ask: Ask,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    Status,
    Stop {
        now: bool,
    },
    /// Rolling restart; `wait`: answer when it has ended, with progress before.
    Roll {
        which: Which,
        wait: bool,
    },
    /// As `Roll`, when the configuration is what the master read; else refused (78) until it can change live.
    Reload {
        which: Which,
        wait: bool,
    },
    Cancel {
        pools: Vec<String>,
    },
}

/// Which pools: those named, or by kind; no name and no kind: all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    pub pools: Vec<String>,
    pub workers: bool,
    pub tasks: bool,
}

/// A line of the master. `Done` or `Status` is the last one. After `Done` for a stop the connection stays open until
/// the master is gone: its end is the proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A line for the person who waits.
    Progress {
        text: String,
    },
    Status(Box<Status>),
    /// The end: an exit code of the contract, and what to print (empty: nothing).
    Done {
        code: u8,
        message: String,
    },
}
