//! How workers ended: for the status, for whoever waits, and for the diary.

use crate::event_loop::signals;
use crate::observe::harmless::harmless;
use crate::observe::status::LastExit;
use rotad_core::{Cause, Exit, Generation, PoolId, Slot, WorkerId};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// Obituaries that are kept for answers still to be given.
const KEPT: usize = 64;
/// How much of a worker's status or line stands in a line about it, in characters.
const LONGEST_SAID: usize = 200;

#[derive(Clone, Debug)]
pub(super) struct ExitReport {
    pub pool: PoolId,
    pub slot: Slot,
    pub generation: Generation,
    pub pid: i32,
    pub exit: LastExit,
    /// It had been ready.
    pub served: bool,
}

#[derive(Debug, Default)]
pub(super) struct ExitReports {
    recent: VecDeque<(WorkerId, ExitReport)>,
    of_slot: BTreeMap<(PoolId, Slot), LastExit>,
}

impl ExitReports {
    pub(super) fn add(&mut self, worker: WorkerId, obituary: ExitReport) {
        self.of_slot.insert((obituary.pool, obituary.slot), obituary.exit.clone());
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((worker, obituary));
    }

    pub(super) fn of_worker(&self, worker: WorkerId) -> Option<&ExitReport> {
        self.recent.iter().rev().find(|(id, _)| *id == worker).map(|(_, obituary)| obituary)
    }

    pub(super) fn of_slot(&self, pool: PoolId, slot: Slot) -> Option<&LastExit> {
        self.of_slot.get(&(pool, slot))
    }
}

/// The status' form of an end.
pub(super) fn last_exit(exit: Option<Exit>, error: Option<String>, after_s: f64, log: Vec<String>) -> LastExit {
    let (code, signal, core) = match exit {
        Some(Exit::Code(code)) => (Some(code), None, None),
        Some(Exit::Signal { signal, core_dumped }) => (None, Some(signals::name(signal)), Some(core_dumped)),
        Some(Exit::Unknown) | None => (None, None, None),
    };
    LastExit { code, signal, core, error, after_s, log, log_cut: false }
}

/// "exited with 3 after 0.2 s, before it was ready".
pub(super) fn describe(cause: Cause, obituary: Option<&ExitReport>) -> String {
    let what = match cause {
        Cause::Exited(exit) => exit_text(exit),
        Cause::SpawnFailed => {
            let error = obituary.and_then(|o| o.exit.error.as_deref()).unwrap_or("no reason known");
            return format!("cannot start: {error}");
        }
        Cause::NotReadyInTime => return known_reason(obituary).unwrap_or("was not ready in time").to_owned(),
        Cause::Unhealthy => return known_reason(obituary).unwrap_or("failed its health check").to_owned(),
        Cause::Cancelled => return "cancelled".to_owned(),
        Cause::After(_) => return "a pool that it comes after was not rolled".to_owned(),
    };
    match obituary {
        None => what,
        Some(o) => {
            // What has been learnt beside the status: who holds it back.
            let what = match (cause, &o.exit.error) {
                (Cause::Exited(Exit::Unknown), Some(why)) => format!("ended, how is {why};"),
                _ => what,
            };
            let when = if o.served { "after it had been ready" } else { "before it was ready" };
            format!("{what} {:.1} s after its start, {when}", o.exit.after_s)
        }
    }
}

/// `; its status: "job 4711"; its last line: "half of it is done"`: what a worker was about when it was cut short.
pub(super) fn last_known(says: Option<&str>, log: &[String]) -> String {
    let mut text = String::new();
    let line = log.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty());
    for (what, said) in [("status", says.filter(|says| !says.is_empty())), ("last line", line)] {
        if let Some(said) = said {
            let start: String = harmless(said).chars().take(LONGEST_SAID).collect();
            // Writing to a string does not fail.
            write!(text, "; its {what}: \"{start}\"").unwrap_or(());
        }
    }
    text
}

fn known_reason(obituary: Option<&ExitReport>) -> Option<&str> {
    obituary.and_then(|obituary| obituary.exit.error.as_deref())
}

pub(super) fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with {code}"),
        Exit::Signal { signal, core_dumped: false } => format!("was killed by SIG{}", signals::name(signal)),
        Exit::Signal { signal, core_dumped: true } => format!("was killed by SIG{} (core)", signals::name(signal)),
        Exit::Unknown => "ended, how is unknown".to_owned(),
    }
}
