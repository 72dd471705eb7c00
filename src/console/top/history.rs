//! What the graphs show: processor use, memory and restarts of each pool and slot over the last minutes.

use super::target::Target;
use rotad::cli::rates::Rates;
use rotad::cli::table::memory_of;
use rotad::observe::status::{Status, WorkerStatus};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A bar of a graph stands for this time: as long as two readings may lie apart.
pub(super) const STEP: Duration = Duration::from_secs(3);

/// How many bars are kept: ten minutes.
const KEPT: usize = 200;

/// What was read in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// The share of one processor. None: not known yet.
    pub(super) cpu: Option<f64>,
    /// Bytes.
    pub(super) memory: Option<f64>,
    /// How many restarts there were in this step.
    pub(super) restarts: u32,
}

/// One pool or slot.
#[derive(Debug, Default)]
pub(super) struct Series {
    samples: VecDeque<Sample>,
    /// The step of the last sample.
    step: u128,
    /// The count of restarts that was read last.
    counted: Option<u32>,
}

impl Series {
    fn add(&mut self, step: u128, cpu: Option<f64>, memory: Option<f64>, counted: u32) {
        // What was not read has no bar.
        let missed = match self.samples.is_empty() {
            true => 1,
            false => step.saturating_sub(self.step).min(KEPT as u128),
        };
        for _ in 0..missed {
            self.samples.push_back(Sample::default());
        }
        while self.samples.len() > KEPT {
            self.samples.pop_front();
        }
        self.step = step;
        let more = counted.saturating_sub(self.counted.replace(counted).unwrap_or(counted));
        if let Some(last) = self.samples.back_mut() {
            last.cpu = cpu.or(last.cpu);
            last.memory = memory.or(last.memory);
            last.restarts += more;
        }
    }

    /// The last `count`, the oldest first.
    pub(super) fn last(&self, count: usize) -> impl Iterator<Item = &Sample> {
        let from = self.samples.len().saturating_sub(count);
        self.samples.range(from..)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct History(BTreeMap<Target, Series>);

impl History {
    /// Adds a reading that was made `at` this time of ours. What is no longer there is forgotten.
    pub(super) fn add(&mut self, status: &Status, rates: Option<&Rates>, at: Duration) {
        let step = at.as_millis() / STEP.as_millis();
        let mut before = std::mem::take(&mut self.0);
        for pool in &status.pools {
            let mut take = |target: Target, workers: &[WorkerStatus]| {
                let mut series = before.remove(&target).unwrap_or_default();
                let cpu = workers.iter().filter_map(|worker| rates?.of(worker));
                let memory = workers.iter().filter_map(memory_of);
                let restarts = workers.iter().map(|worker| worker.restarts).sum();
                series.add(step, total(cpu), total(memory), restarts);
                self.0.insert(target, series);
            };
            take(Target::pool(&pool.name), &pool.workers);
            for worker in &pool.workers {
                let target = Target::slot(&pool.name, worker.slot);
                take(target, std::slice::from_ref(worker));
            }
        }
    }

    pub(super) fn of(&self, target: &Target) -> Option<&Series> {
        self.0.get(target)
    }
}

/// None: there is none.
pub(super) fn total(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(series: &Series) -> Vec<(Option<f64>, u32)> {
        let samples = series.last(usize::MAX);
        samples
            .map(|sample| (sample.cpu, sample.restarts))
            .collect()
    }

    #[test]
    fn a_bar_is_a_step_of_time_and_what_was_not_read_is_empty() {
        let mut series = Series::default();
        series.add(7, None, Some(1.0), 3);
        series.add(7, Some(0.5), None, 4);
        series.add(9, Some(0.1), Some(2.0), 4);
        assert_eq!(
            samples(&series),
            [(Some(0.5), 1), (None, 0), (Some(0.1), 0)]
        );
        assert_eq!(series.last(1).count(), 1);
        // A new master counts from 0.
        series.add(10, None, None, 1);
        series.add(1_000_000, None, None, 2);
        assert_eq!(series.last(usize::MAX).count(), KEPT);
        assert_eq!(samples(&series).last(), Some(&(None, 1)));
    }
}
