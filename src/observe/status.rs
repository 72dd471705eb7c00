//! The status as `rotad status --json` prints it. Its names and shapes are public. The supervisor fills it in;
//! clients read it.

use crate::plan::Kind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub master: MasterStatus,
    pub pools: Vec<PoolStatus>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MasterStatus {
    pub pid: i32,
    pub version: String,
    pub name: String,
    /// The real path of the configuration.
    pub config: PathBuf,
    /// `running` or `stopping`.
    pub state: String,
    pub uptime_s: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: String,
    /// `worker` or `task`.
    pub kind: String,
    pub state: PoolState,
    pub wanted: u32,
    pub alive: u32,
    pub ready: u32,
    /// The last generation that was fully rolled out; 0: none yet.
    pub generation: u32,
    pub reload: ReloadStatus,
    /// The pools that must be up before this one starts, while it waits for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
    /// Why clients are not served although workers run: the state of the pool's listening sockets. `ready` is 0 if
    /// none of them serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unserved: Vec<String>,
    /// `wanted` was set by an operator (`rotad scale`); it is not the configured count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scaled: bool,
    /// How many serving workers are older than the files that they would be started from now, after new workers have
    /// failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub outdated: u32,
    pub workers: Vec<WorkerStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolState {
    Starting,
    Ok,
    /// Workers of more than one generation serve, and no rolling restart is running.
    Mixed,
    Degraded,
    Reloading,
    RollingBack,
    CrashLoop,
    Stopping,
    Stopped,
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReloadStatus {
    pub state: ReloadState,
    /// The last generation that was tried; 0: none.
    pub generation: u32,
    pub reason: Option<String>,
    pub replaced: u32,
    pub of: u32,
    pub took_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadState {
    None,
    Running,
    Done,
    Aborted,
    RolledBack,
    Superseded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    pub slot: u32,
    /// `None` while the slot has no process.
    pub pid: Option<i32>,
    pub state: WorkerState,
    pub generation: u32,
    pub age_s: f64,
    pub ready_in_s: Option<f64>,
    /// Set if the worker is ready only by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_by: Option<ReadyBy>,
    /// How often this slot was filled again after an exit that was not requested.
    pub restarts: u32,
    pub rss_bytes: Option<u64>,
    pub cpu_s: Option<f64>,
    pub last_exit: Option<LastExit>,
    pub retry_in_s: Option<f64>,
    /// The worker's own port, of the pool's `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The worker's own words (STATUS= of sd_notify(3)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// The slot waits to start, since as many workers as allowed are starting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyBy {
    /// Only its age: it is alive, and nothing more is known.
    Age,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    Starting,
    Soaking,
    Ready,
    Stopping,
    Killing,
    Backoff,
    Stopped,
    Done,
    Failed,
}

/// How the slot's last worker exited, as `{"code": 3}` or `{"signal": "SEGV", "core": false}`, or why it did not
/// start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<bool>,
    /// Why it did not start: "exec: no such program …".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it had lived.
    pub after_s: f64,
    /// The last lines that it printed.
    pub log: Vec<String>,
    /// Lines were left out or cut to keep the status within its limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_cut: bool,
}

/// The limit for the last lines of all workers in one status, in bytes of JSON.
const MOST_LAST_LINES: usize = 8 << 20;

impl Status {
    /// Cuts the last lines of workers, each to its share, if together they exceed the limit.
    pub fn cut_last_lines(&mut self) {
        let exits = || {
            self.pools
                .iter()
                .flat_map(|pool| &pool.workers)
                .filter_map(|worker| worker.last_exit.as_ref())
        };
        let (count, total) = exits()
            .map(|exit| exit.log.iter().map(|line| json_len(line)).sum::<usize>())
            .fold((0, 0), |(count, total), len| (count + 1, total + len));
        if total <= MOST_LAST_LINES {
            return;
        }
        let share = MOST_LAST_LINES / count;
        let workers = self.pools.iter_mut().flat_map(|pool| &mut pool.workers);
        for exit in workers.filter_map(|worker| worker.last_exit.as_mut()) {
            exit.cut_last_lines(share);
        }
    }
}

impl LastExit {
    /// Keeps the last lines that fit into `most` bytes of JSON; of a last line that does not fit, its end.
    fn cut_last_lines(&mut self, most: usize) {
        let mut left = most;
        let kept = self.log.iter().rev().take_while(|line| {
            let len = json_len(line);
            let fits = len <= left;
            left -= len.min(left);
            fits
        });
        let kept = kept.count();
        if kept == self.log.len() {
            return;
        }
        self.log_cut = true;
        if kept > 0 {
            self.log.drain(..self.log.len() - kept);
            return;
        }
        let Some(last) = self.log.pop() else { return };
        let mut len = 0;
        let end = last.char_indices().rev().take_while(|(_, letter)| {
            len += escaped_len(letter.encode_utf8(&mut [0; 4]));
            len <= most
        });
        let from = end.last().map_or(last.len(), |(at, _)| at);
        self.log = vec![last[from..].to_owned()];
    }
}

/// The size of a line in a JSON list, in bytes, with its quotes and a comma.
fn json_len(line: &str) -> usize {
    escaped_len(line) + 3
}

/// The size of a text in JSON, in bytes: a control character takes six, a quote or a backslash two.
fn escaped_len(text: &str) -> usize {
    let of = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(of).sum()
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The warning for a pool in which this many workers are older than their files.
pub fn outdated(count: u32) -> String {
    let serve = if count == 1 {
        "worker serves"
    } else {
        "workers serve"
    };
    format!("{count} {serve} from memory, and a crash would start the changed files")
}

/// The kind's word in the configuration, the status and `ROTAD_KIND`.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Worker => "worker",
        Kind::Task => "task",
        Kind::Oneshot => "oneshot",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(log: Vec<String>) -> LastExit {
        LastExit {
            code: Some(3),
            signal: None,
            core: None,
            error: None,
            after_s: 0.1,
            log,
            log_cut: false,
        }
    }

    #[test]
    fn last_lines_are_cut_from_the_front_and_it_is_said() {
        let mut whole = exit(vec!["one".into(), "two".into()]);
        whole.cut_last_lines(12);
        assert_eq!((whole.log.len(), whole.log_cut), (2, false));
        let mut cut = exit(vec!["one".into(), "two".into()]);
        cut.cut_last_lines(6);
        assert_eq!((cut.log, cut.log_cut), (vec!["two".to_owned()], true));
        let mut long = exit(vec!["ä\u{1}\u{1}end".into()]);
        long.cut_last_lines(10);
        assert_eq!(
            (long.log, long.log_cut),
            (vec!["\u{1}end".to_owned()], true)
        );
    }
}
