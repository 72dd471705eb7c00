//! The status as `rotad status --json` prints it. Its names and shapes are public. The supervisor fills it in;
//! clients read it.

use crate::plan::Kind;
pub use rotad_core::{PoolState, RollState};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::path::PathBuf;

/// The whole status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The master.
    pub master: MasterStatus,
    /// The pools, in the order of the configuration.
    pub pools: Vec<PoolStatus>,
}

/// The status of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MasterStatus {
    /// Its pid.
    pub pid: i32,
    /// The version of rotad.
    pub version: String,
    /// Its name (`master.name`).
    pub name: String,
    /// The real path of the configuration.
    pub config: PathBuf,
    /// `running` or `stopping`.
    pub state: String,
    /// Seconds since it started, or since the first of those that it goes on after.
    pub uptime_s: f64,
    /// The guardian's pid. None: there is none.
    #[serde(default)]
    pub guardian: Option<i32>,
    /// How many masters before this one have died, each replaced by the guardian.
    #[serde(default)]
    pub restarts: u64,
    /// How the last of them ended.
    #[serde(default)]
    pub last_death: Option<MasterDeath>,
}

/// The end of a master that nothing had asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MasterDeath {
    /// The signal's name, without SIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// It left a core dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<bool>,
    /// The exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// How long it had lived, in seconds.
    pub after_s: f64,
}

/// The status of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// `worker`, `task` or `oneshot`.
    pub kind: String,
    /// Its state.
    #[serde(serialize_with = "pool_state_name", deserialize_with = "pool_state")]
    pub state: PoolState,
    /// The desired number of workers.
    pub wanted: u32,
    /// The number of running workers.
    pub alive: u32,
    /// The number of ready workers.
    pub ready: u32,
    /// The last generation that was fully rolled out; 0: none yet.
    pub generation: u32,
    /// The last rolling restart.
    pub reload: ReloadStatus,
    /// The generation that it was brought to last, or was to be. None: none yet, or what was before is not known.
    #[serde(default)]
    pub last_deploy: Option<LastDeploy>,
    /// How long at least one worker has been ready without a gap, in seconds. None: none is ready.
    #[serde(default)]
    pub uptime_s: Option<f64>,
    /// The addresses that its workers serve, as the configuration writes them.
    #[serde(default)]
    pub listen: Vec<String>,
    /// The range from which each worker gets a port of its own: `3000-3004`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
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
    /// The workers, by slot.
    pub workers: Vec<WorkerStatus>,
}

/// The last rolling restart of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Its state.
    #[serde(serialize_with = "roll_state_name", deserialize_with = "roll_state")]
    pub state: RollState,
    /// The last generation that was tried; 0: none.
    pub generation: u32,
    /// Why it did not succeed.
    pub reason: Option<String>,
    /// The number of slots replaced so far.
    pub replaced: u32,
    /// The number of slots in all.
    pub of: u32,
    /// How long it took or has taken so far, in seconds.
    pub took_s: f64,
}

/// When a generation was begun, by whom, and what has become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastDeploy {
    /// The generation.
    pub generation: u32,
    /// When it began, in UTC (RFC 3339).
    pub at: String,
    /// How long ago that is, in seconds. Pauses of the master do not count.
    pub age_s: f64,
    /// The verb (`reload`, `roll`, `rollback`, `start`), the signal (`USR1`), or `watch`: changed files.
    pub by: String,
    /// The user who ran the verb or sent the signal. None: unknown, or it was no user.
    pub uid: Option<u32>,
    /// `running`, `done`, `aborted`, `rolled-back` or `superseded`.
    #[serde(serialize_with = "roll_state_name", deserialize_with = "roll_state")]
    pub outcome: RollState,
}

/// The status of a slot and its worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The slot's number.
    pub slot: u32,
    /// `None` while the slot has no process.
    pub pid: Option<i32>,
    /// Its state.
    pub state: SlotState,
    /// Its generation.
    pub generation: u32,
    /// Its age, in seconds.
    pub age_s: f64,
    /// How long it took to become ready, in seconds.
    pub ready_in_s: Option<f64>,
    /// Set if the worker is ready only by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_by: Option<ReadyBy>,
    /// How often this slot was filled again after an exit that was not requested.
    pub restarts: u32,
    /// Resident memory of its own process, without its children, in bytes.
    pub rss_bytes: Option<u64>,
    /// Processor time of its own process, without its children, in seconds.
    pub cpu_s: Option<f64>,
    /// Memory and processor time of its whole tree. None: they could not be read.
    #[serde(default)]
    pub tree: Option<TreeStatus>,
    /// How the slot's previous worker ended.
    pub last_exit: Option<LastExit>,
    /// When the slot is filled again, in seconds from now.
    pub retry_in_s: Option<f64>,
    /// The worker's own port, of the pool's `ports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The status text that the worker sent (STATUS= of sd_notify(3)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// It was taken over after the master and its guardian had both died: of `restarts`, `last_exit` and `ready_in_s`, what was
    /// before that is not known, nor whether it is made from the present configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// The slot waits to start, since as many workers as allowed are starting.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// The resources of a worker's tree: its own process, the descendants, and orphans of its session or cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeStatus {
    /// The number of processes.
    pub processes: u32,
    /// The sum of their resident memory, in bytes. Shared pages count for each process.
    pub rss_bytes: u64,
    /// The sum of their processor time, and that of children that they have waited for, in seconds.
    pub cpu_s: f64,
}

/// What shows that a worker is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyBy {
    /// Only its age: it is alive, and nothing more is known.
    Age,
}

/// The state of a slot and its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// It is starting.
    Starting,
    /// The first worker of a generation, being watched.
    Soaking,
    /// It serves.
    Ready,
    /// It was asked to stop.
    Stopping,
    /// It got SIGKILL.
    Killing,
    /// The slot is filled again after a delay.
    Backoff,
    /// The slot is empty, because the pool is stopped.
    Stopped,
    /// A oneshot that has succeeded.
    Done,
    /// It failed and is not tried again.
    Failed,
}

/// How the slot's last worker exited, as `{"code": 3}` or `{"signal": "SEGV", "core": false}`, or why it did not
/// start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    /// The exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// The signal that ended it, without SIG.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Whether it left a core dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<bool>,
    /// Why it did not start: "exec: no such program …".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its age when it ended, in seconds.
    pub after_s: f64,
    /// The last lines that it printed.
    pub log: Vec<String>,
    /// Lines were left out or cut to keep the status within its limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log_cut: bool,
    /// It was asked to stop, by a rolling restart or a stop, and has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
}

pub(super) fn pool_state_name<S: Serializer>(state: &PoolState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.name())
}

pub(super) fn pool_state<'de, D: Deserializer<'de>>(from: D) -> Result<PoolState, D::Error> {
    by_name(from, &PoolState::ALL, |state| state.name())
}

fn roll_state_name<S: Serializer>(state: &RollState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.name())
}

fn roll_state<'de, D: Deserializer<'de>>(from: D) -> Result<RollState, D::Error> {
    by_name(from, &RollState::ALL, |state| state.name())
}

/// The one of `all` with the name that is read.
fn by_name<'de, D: Deserializer<'de>, T: Copy>(
    from: D,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, D::Error> {
    let read = Cow::<str>::deserialize(from)?;
    let known = all.iter().copied().find(|one| name(*one) == read);
    known.ok_or_else(|| de::Error::custom(format!("unknown state {read:?}")))
}

/// The limit for the last lines of all workers in one status, in bytes of JSON.
const MAX_LAST_LINES: usize = 8 << 20;

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
        if total <= MAX_LAST_LINES {
            return;
        }
        let share = MAX_LAST_LINES / count;
        let workers = self.pools.iter_mut().flat_map(|pool| &mut pool.workers);
        for exit in workers.filter_map(|worker| worker.last_exit.as_mut()) {
            exit.cut_last_lines(share);
        }
    }
}

impl LastExit {
    /// Keeps the last lines that fit into `max` bytes of JSON; of a last line that does not fit, its end.
    fn cut_last_lines(&mut self, max: usize) {
        let mut left = max;
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
            len <= max
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
            asked: false,
        }
    }

    #[test]
    fn last_lines_are_cut_from_the_front_and_marked() {
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
