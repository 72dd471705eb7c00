//! Processor time between two looks at the status.

use super::status::{Status, WorkerStatus};
use std::collections::BTreeMap;
use std::time::Duration;

/// The share of one processor that each worker used between two looks, by pid: 1.0 is one processor all the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates(BTreeMap<i32, f64>);

impl Rates {
    /// Workers that were there in both.
    pub fn between(before: &Status, after: &Status, passed: Duration) -> Self {
        let used = |status: &Status| -> BTreeMap<i32, f64> {
            let workers = status.pools.iter().flat_map(|pool| &pool.workers);
            workers.filter_map(|worker| Some((worker.pid?, worker.cpu_s?))).collect()
        };
        let (before, after) = (used(before), used(after));
        let seconds = passed.as_secs_f64().max(0.001);
        let share = |(pid, now): (i32, f64)| Some((pid, ((now - before.get(&pid)?) / seconds).max(0.0)));
        Self(after.into_iter().filter_map(share).collect())
    }

    /// None: it was not there at the last look.
    pub fn of(&self, worker: &WorkerStatus) -> Option<f64> {
        self.0.get(&worker.pid?).copied()
    }
}
