//! Processor use between two status readings, for `status -w` and `top`.

use super::table::cpu_of;
use crate::observe::status::{Status, WorkerStatus};
use std::collections::BTreeMap;
use std::time::Duration;

/// The share of one processor that each worker used between two readings, by pid: 1.0 is one processor all the time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates(BTreeMap<i32, f64>);

impl Rates {
    /// Computes the shares of workers that are in both readings.
    pub fn between(before: &Status, after: &Status, passed: Duration) -> Self {
        let used = |status: &Status| -> BTreeMap<i32, f64> {
            let workers = status.pools.iter().flat_map(|pool| &pool.workers);
            workers
                .filter_map(|worker| Some((worker.pid?, cpu_of(worker)?)))
                .collect()
        };
        let (before, after) = (used(before), used(after));
        let seconds = passed.as_secs_f64().max(0.001);
        let share =
            |(pid, now): (i32, f64)| Some((pid, ((now - before.get(&pid)?) / seconds).max(0.0)));
        Self(after.into_iter().filter_map(share).collect())
    }

    /// `None` if the worker was not in the previous reading.
    pub fn of(&self, worker: &WorkerStatus) -> Option<f64> {
        self.0.get(&worker.pid?).copied()
    }
}
