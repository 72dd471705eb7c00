//! Exit reports: how workers ended, for the status, for waiting clients and for the log.

use crate::event_loop::signals;
use crate::observe::sanitize::sanitize;
use crate::observe::status::LastExit;
use rotad_core::{Cause, Exit, Generation, PoolId, Slot, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// How many reports are kept, for replies that are still to be given.
const MAX_REPORTS: usize = 64;
/// Maximum characters quoted from a worker's status or output.
const MAX_QUOTED_CHARS: usize = 200;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ExitReport {
    pub pool: PoolId,
    pub slot: Slot,
    pub generation: Generation,
    pub pid: i32,
    pub exit: LastExit,
    /// It had been ready.
    pub served: bool,
    /// What may help it to start.
    #[serde(default)]
    pub hint: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ExitReports {
    recent: VecDeque<(WorkerId, ExitReport)>,
    #[serde(with = "crate::saved_state::pairs")]
    of_slot: BTreeMap<(PoolId, Slot), LastExit>,
    /// Pools whose program goes into the background, and how that was seen.
    daemonized: BTreeMap<PoolId, String>,
    /// How many of the reports are not saved yet.
    #[serde(skip)]
    unsaved: usize,
    /// More than that has changed since it was saved.
    #[serde(skip)]
    changed: bool,
}

impl ExitReports {
    /// Whether more has changed since it was saved than that reports were added.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed || self.unsaved > self.recent.len()
    }

    /// All of it, which is saved now.
    pub(crate) fn take_all(&mut self) -> &Self {
        self.changed = false;
        self.unsaved = 0;
        self
    }

    /// The reports that were added since it was saved, the oldest first.
    pub(crate) fn take_added(&mut self) -> impl Iterator<Item = &(WorkerId, ExitReport)> {
        let added = std::mem::take(&mut self.unsaved).min(self.recent.len());
        self.recent.range(self.recent.len() - added..)
    }

    pub(crate) fn set_daemonized(&mut self, pool: PoolId, text: String) {
        self.daemonized.insert(pool, text);
        self.changed = true;
    }

    /// How it was seen that the pool's program goes into the background.
    pub(crate) fn daemonized(&self, pool: PoolId) -> Option<&str> {
        self.daemonized.get(&pool).map(String::as_str)
    }

    pub(crate) fn add(&mut self, worker: WorkerId, exit_report: ExitReport) {
        self.restore(worker, exit_report);
        self.unsaved += 1;
    }

    /// Adds a report that is saved already.
    pub(crate) fn restore(&mut self, worker: WorkerId, exit_report: ExitReport) {
        self.of_slot.insert(
            (exit_report.pool, exit_report.slot),
            exit_report.exit.clone(),
        );
        if self.recent.len() == MAX_REPORTS {
            self.recent.pop_front();
        }
        self.recent.push_back((worker, exit_report));
    }

    /// The pool is gone. Replies that are still to be given may quote its latest reports.
    pub(super) fn forget_pool(&mut self, pool: PoolId) {
        self.of_slot.retain(|(of, _), _| *of != pool);
        self.daemonized.remove(&pool);
        self.changed = true;
    }

    pub(crate) fn of_worker(&self, worker: WorkerId) -> Option<&ExitReport> {
        self.recent
            .iter()
            .rev()
            .find(|(id, _)| *id == worker)
            .map(|(_, exit_report)| exit_report)
    }

    /// The last report of a worker with this pid.
    pub(crate) fn of_pid(&self, pid: i32) -> Option<&ExitReport> {
        let mut latest = self.recent.iter().rev();
        latest
            .find(|(_, report)| report.pid == pid)
            .map(|(_, report)| report)
    }

    pub(crate) fn of_slot(&self, pool: PoolId, slot: Slot) -> Option<&LastExit> {
        self.of_slot.get(&(pool, slot))
    }
}

/// An exit in the form that the status shows.
pub(crate) fn last_exit(
    exit: Option<Exit>,
    error: Option<String>,
    after_s: f64,
    log: Vec<String>,
) -> LastExit {
    let (code, signal, core) = match exit {
        Some(Exit::Code(code)) => (Some(code), None, None),
        Some(Exit::Signal {
            signal,
            core_dumped,
        }) => (None, Some(signals::name(signal)), Some(core_dumped)),
        Some(Exit::Unknown) | None => (None, None, None),
    };
    LastExit {
        code,
        signal,
        core,
        error,
        after_s,
        log,
        log_cut: false,
        asked: false,
    }
}

/// "exited with 3 after 0.2 s, before it was ready".
pub(crate) fn describe(cause: Cause, exit_report: Option<&ExitReport>) -> String {
    let what = match cause {
        Cause::Exited(exit) => exit_text(exit),
        Cause::SpawnFailed => {
            let error = exit_report
                .and_then(|o| o.exit.error.as_deref())
                .unwrap_or("unknown reason");
            return format!("cannot start: {error}");
        }
        Cause::NotReadyInTime => {
            return known_reason(exit_report)
                .unwrap_or("was not ready in time")
                .to_owned();
        }
        Cause::Unhealthy => {
            return known_reason(exit_report)
                .unwrap_or("failed its health check")
                .to_owned();
        }
        Cause::Cancelled => return "cancelled".to_owned(),
        Cause::MasterKeepsDying => return "the master has died again and again".to_owned(),
        Cause::After(_) => return "a pool that it comes after was not rolled".to_owned(),
    };
    match exit_report {
        None => what,
        Some(o) => {
            // Why the exit status is unknown: for example, a tracer holds the process.
            let what = match (cause, &o.exit.error) {
                (Cause::Exited(Exit::Unknown), Some(why)) => format!("ended, how is {why}"),
                _ => what,
            };
            let when = if o.served {
                "after it had been ready"
            } else {
                "before it was ready"
            };
            format!("{what}, {:.1} s after its start, {when}", o.exit.after_s)
        }
    }
}

/// `; its status: "job 4711"; its last line: "half of it is done"`: what a worker was doing when it was killed.
pub(crate) fn last_known(status: Option<&str>, log: &[String]) -> String {
    let mut text = String::new();
    let line = log
        .iter()
        .rev()
        .map(|line| line.trim())
        .find(|line| !line.is_empty());
    for (what, said) in [
        ("status", status.filter(|status| !status.is_empty())),
        ("last line", line),
    ] {
        if let Some(said) = said {
            let start: String = sanitize(said).chars().take(MAX_QUOTED_CHARS).collect();
            // Writing to a string cannot fail.
            write!(text, "; its {what}: \"{start}\"").unwrap_or(());
        }
    }
    text
}

fn known_reason(exit_report: Option<&ExitReport>) -> Option<&str> {
    exit_report.and_then(|exit_report| exit_report.exit.error.as_deref())
}

pub(crate) fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with {code}"),
        Exit::Signal {
            signal,
            core_dumped: false,
        } => format!("was killed by SIG{}", signals::name(signal)),
        Exit::Signal {
            signal,
            core_dumped: true,
        } => format!("was killed by SIG{} (core)", signals::name(signal)),
        Exit::Unknown => "ended, how is unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(slot: u32) -> ExitReport {
        ExitReport {
            pool: PoolId(0),
            slot: Slot(slot),
            generation: Generation(1),
            pid: 7,
            exit: last_exit(Some(Exit::Code(1)), None, 0.5, Vec::new()),
            served: false,
            hint: None,
        }
    }

    fn added(reports: &mut ExitReports) -> Vec<u64> {
        reports.take_added().map(|(worker, _)| worker.0).collect()
    }

    #[test]
    fn each_report_is_saved_once() {
        let mut reports = ExitReports::default();
        reports.restore(WorkerId(1), report(0));
        assert_eq!(added(&mut reports), Vec::<u64>::new());
        for worker in 2..=4 {
            reports.add(WorkerId(worker), report(0));
        }
        assert!(!reports.has_changed());
        assert_eq!(added(&mut reports), [2, 3, 4]);
        assert_eq!(added(&mut reports), Vec::<u64>::new());
        reports.add(WorkerId(5), report(1));
        let all = reports.take_all().recent.len();
        assert_eq!((all, added(&mut reports)), (5, Vec::<u64>::new()));
    }

    #[test]
    fn what_is_more_than_an_added_report_is_saved_as_a_whole() {
        let mut reports = ExitReports::default();
        reports.set_daemonized(PoolId(0), "it has forked".to_owned());
        assert!(reports.has_changed());
        reports.take_all();
        assert!(!reports.has_changed());
        reports.forget_pool(PoolId(0));
        assert!(reports.has_changed());
        reports.take_all();
        // Of so many only the latest are kept, and of each slot the last one.
        for worker in 0..=MAX_REPORTS as u32 {
            reports.add(WorkerId(worker.into()), report(worker));
        }
        assert!(reports.has_changed());
        assert_eq!(reports.take_all().of_slot.len(), MAX_REPORTS + 1);
    }
}
