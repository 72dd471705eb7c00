//! What the master counts for monitoring: of each pool, and of the configuration. An event says what it counts as
//! ([`EventBuilder::counts`](super::event_builder::EventBuilder::counts)), and [`Supervisor::emit`](super::Supervisor::emit)
//! adds it.
//!
//! The counters are part of the saved state: those of the pools that have changed are written with what is written anyway.
//! What the log writer has written is noted before it is shown, and when the state is written as a whole: a counter that was
//! seen never falls.

use crate::log::OutputCount;
use crate::observe::metrics::{
    DRAIN_BOUNDS, DeathCause, Histogram, PoolCounts, READY_BOUNDS, ROLL_BOUNDS, RecycleCause,
    RollOutcome,
};
use rotad_core::{PoolId, Span, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

/// What an event counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// A worker's process was spawned.
    Start,
    /// A worker is ready, after this time.
    Ready(Span),
    /// A worker has ended or failed, unasked.
    Death(DeathCause),
    /// A health check has failed, and the worker counts as healthy still.
    HealthFailure,
    /// A worker that served stops, since another one of its generation has its slot.
    Recycled(RecycleCause),
    /// A worker is killed at the end of its stop steps.
    Kill,
    /// A worker that was asked to stop is gone, after this time.
    Drained(Span),
    /// A rolling restart has ended, after this time.
    Roll(RollOutcome, Span),
}

/// The counters.
#[derive(Debug)]
pub(super) struct Counters {
    pools: BTreeMap<PoolId, Counted>,
    /// The pools whose counters have changed since they were saved.
    changed: BTreeSet<PoolId>,
    config: ConfigReload,
    config_changed: bool,
    /// What the log writer has written and lost, by the name of the pool.
    output: BTreeMap<String, (u64, u64)>,
    /// The pools of which that has changed since it was saved.
    output_changed: BTreeSet<String>,
    /// The input of the engine whose notices were counted last.
    noticed: u64,
    /// These notices were counted by a master that has died.
    muted: bool,
    /// When this master began.
    began: SystemTime,
    /// The most processor time that was seen of each worker: the sum over a tree falls for a moment where a process is
    /// read before and its child after that one was waited for, and a counter must not.
    cpu_s: BTreeMap<WorkerId, f64>,
}

/// How the configuration was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfigReload {
    pub(super) successful: bool,
    /// When one came into force last, in milliseconds since 1970.
    pub(super) success_ms: u64,
}

/// The counters of a pool, as they are saved. Counts by cause stand in the order of `ALL`, those of durations in that of
/// their bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Counted {
    #[serde(skip_serializing_if = "is_zero")]
    starts: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deaths: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    recycled: Vec<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    kills: u64,
    #[serde(skip_serializing_if = "Durations::is_empty")]
    ready: Durations,
    #[serde(skip_serializing_if = "Durations::is_empty")]
    drain: Durations,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rolls: Vec<u64>,
    #[serde(skip_serializing_if = "Durations::is_empty")]
    roll: Durations,
    #[serde(skip_serializing_if = "is_zero")]
    health_failures: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Durations {
    counts: Vec<u64>,
    sum_ms: u64,
}

/// What is saved of the counters. A later record adds to those before.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedCounters {
    #[serde(default)]
    noticed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<ConfigReload>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pools: Vec<(PoolId, Counted)>,
    /// The name of a pool, the bytes that were written and those that were lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    output: Vec<(String, u64, u64)>,
}

impl SavedCounters {
    /// Takes over what a later record says.
    pub(super) fn add(&mut self, later: Self) {
        self.noticed = later.noticed;
        self.config = later.config.or(self.config);
        for (pool, counted) in later.pools {
            self.pools.retain(|(known, _)| *known != pool);
            self.pools.push((pool, counted));
        }
        for (name, bytes, lost) in later.output {
            self.output.retain(|(known, ..)| *known != name);
            self.output.push((name, bytes, lost));
        }
    }
}

impl Counters {
    /// Those of a master that begins. Its configuration is in force.
    pub(super) fn new() -> Self {
        Self {
            pools: BTreeMap::new(),
            changed: BTreeSet::new(),
            config: ConfigReload {
                successful: true,
                success_ms: since_1970_ms(SystemTime::now()),
            },
            config_changed: true,
            output: BTreeMap::new(),
            output_changed: BTreeSet::new(),
            noticed: 0,
            muted: false,
            began: SystemTime::now(),
            cpu_s: BTreeMap::new(),
        }
    }

    /// Goes on with those of a dead master. Returns what its log writer had written.
    pub(super) fn restore(&mut self, saved: SavedCounters) -> Vec<OutputCount> {
        self.noticed = saved.noticed;
        self.config = saved.config.unwrap_or(self.config);
        self.pools = saved.pools.into_iter().collect();
        let output = saved.output.iter();
        self.output = output
            .map(|(pool, bytes, lost)| (pool.clone(), (*bytes, *lost)))
            .collect();
        let output = saved.output.into_iter();
        output
            .map(|(pool, bytes, lost)| OutputCount { pool, bytes, lost })
            .collect()
    }

    /// Adds what has happened in a pool.
    pub(super) fn add(&mut self, pool: PoolId, count: Count) {
        if self.muted {
            return;
        }
        self.changed.insert(pool);
        self.pools.entry(pool).or_default().add(count);
    }

    /// The notices that the engine has given with this input follow. A dead master may have counted them: it dies between
    /// the record and the mark that all of them were reported.
    pub(super) fn notices_begin(&mut self, input: u64) {
        self.muted = self.noticed == input;
        self.noticed = input;
    }

    /// All notices were reported.
    pub(super) fn notices_end(&mut self) {
        self.muted = false;
    }

    /// The configuration was read: whether it is in force.
    pub(super) fn config_read(&mut self, in_force: bool) {
        self.config.successful = in_force;
        if in_force {
            self.config.success_ms = since_1970_ms(SystemTime::now());
        }
        self.config_changed = true;
    }

    /// What the log writer has written and lost so far.
    pub(super) fn note_output(&mut self, output: Vec<OutputCount>) {
        for OutputCount { pool, bytes, lost } in output {
            if self.output.get(&pool) != Some(&(bytes, lost)) {
                self.output_changed.insert(pool.clone());
                self.output.insert(pool, (bytes, lost));
            }
        }
    }

    /// The pool is gone.
    pub(super) fn forget_pool(&mut self, pool: PoolId) {
        self.pools.remove(&pool);
        self.changed.remove(&pool);
    }

    /// No pool has this name any more.
    pub(super) fn forget_output(&mut self, pool: &str) {
        self.output.remove(pool);
        self.output_changed.remove(pool);
    }

    /// Pools for which this does not hold are gone.
    pub(super) fn retain_pools(&mut self, is_known: impl Fn(PoolId) -> bool) {
        self.pools.retain(|pool, _| is_known(*pool));
    }

    /// Names for which this does not hold are those of no pool.
    pub(super) fn retain_output(&mut self, is_known: impl Fn(&str) -> bool) {
        self.output.retain(|name, _| is_known(name));
    }

    /// Whether something has changed that is not saved.
    pub(super) fn has_changed(&self) -> bool {
        self.config_changed || !self.changed.is_empty() || !self.output_changed.is_empty()
    }

    /// What has changed since the last call.
    pub(super) fn take_changes(&mut self) -> SavedCounters {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let output = std::mem::take(&mut self.output_changed).into_iter();
        let config_changed = std::mem::take(&mut self.config_changed);
        SavedCounters {
            noticed: self.noticed,
            config: config_changed.then_some(self.config),
            pools: changed
                .filter_map(|pool| Some((pool, self.pools.get(&pool)?.clone())))
                .collect(),
            output: output
                .filter_map(|name| {
                    let (bytes, lost) = *self.output.get(&name)?;
                    Some((name, bytes, lost))
                })
                .collect(),
        }
    }

    /// All of it, which is saved by that.
    pub(super) fn take_all(&mut self) -> SavedCounters {
        self.changed = self.pools.keys().copied().collect();
        self.output_changed = self.output.keys().cloned().collect();
        self.config_changed = true;
        self.take_changes()
    }

    /// How the configuration was read last.
    pub(super) fn config(&self) -> ConfigReload {
        self.config
    }

    /// When this master began, in seconds since 1970.
    pub(super) fn began_s(&self) -> f64 {
        since_1970_ms(self.began) as f64 / 1000.0
    }

    /// What was counted of a pool.
    pub(super) fn of_pool(&self, pool: PoolId) -> PoolCounts {
        self.pools
            .get(&pool)
            .map(Counted::shown)
            .unwrap_or_default()
    }

    /// What the workers of a pool have printed, by its name.
    pub(super) fn output_of(&self, pool: &str) -> (u64, u64) {
        self.output.get(pool).copied().unwrap_or_default()
    }

    /// The processor time of a worker, which was read as so much.
    pub(super) fn cpu_of(&mut self, worker: WorkerId, read_s: f64) -> f64 {
        let seen = self.cpu_s.entry(worker).or_default();
        *seen = seen.max(read_s);
        *seen
    }

    /// Workers for which this does not hold are gone.
    pub(super) fn retain_workers(&mut self, is_known: impl Fn(WorkerId) -> bool) {
        self.cpu_s.retain(|worker, _| is_known(*worker));
    }
}

impl Counted {
    fn add(&mut self, count: Count) {
        match count {
            Count::Start => self.starts += 1,
            Count::Ready(took) => self.ready.add(took, READY_BOUNDS),
            Count::Death(cause) => {
                increase(&mut self.deaths, DeathCause::ALL, cause);
                if cause == DeathCause::Unhealthy {
                    self.health_failures += 1;
                }
            }
            Count::HealthFailure => self.health_failures += 1,
            Count::Recycled(cause) => increase(&mut self.recycled, RecycleCause::ALL, cause),
            Count::Kill => self.kills += 1,
            Count::Drained(took) => self.drain.add(took, DRAIN_BOUNDS),
            Count::Roll(outcome, took) => {
                increase(&mut self.rolls, RollOutcome::ALL, outcome);
                if outcome != RollOutcome::Superseded {
                    self.roll.add(took, ROLL_BOUNDS);
                }
            }
        }
    }

    fn shown(&self) -> PoolCounts {
        PoolCounts {
            starts: self.starts,
            deaths: by_label(&self.deaths, DeathCause::ALL),
            recycled: by_label(&self.recycled, RecycleCause::ALL),
            kills: self.kills,
            ready: self.ready.shown(),
            drain: self.drain.shown(),
            rolls: by_label(&self.rolls, RollOutcome::ALL),
            roll: self.roll.shown(),
            health_failures: self.health_failures,
        }
    }
}

impl Durations {
    fn add(&mut self, took: Span, bounds: &[f64]) {
        let took_s = took.as_secs_f64();
        let bucket = bounds.iter().position(|bound| took_s <= *bound);
        self.counts.resize(bounds.len() + 1, 0);
        self.counts[bucket.unwrap_or(bounds.len())] += 1;
        self.sum_ms += took.as_millis();
    }

    fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    fn shown(&self) -> Histogram {
        Histogram {
            counts: self.counts.clone(),
            sum_s: self.sum_ms as f64 / 1000.0,
        }
    }
}

fn increase<T: PartialEq>(counts: &mut Vec<u64>, all: &[T], one: T) {
    if let Some(at) = all.iter().position(|known| *known == one) {
        counts.resize(counts.len().max(all.len()), 0);
        counts[at] += 1;
    }
}

fn by_label<T: Copy + Ord>(counts: &[u64], all: &[T]) -> BTreeMap<T, u64> {
    all.iter()
        .copied()
        .zip(counts.iter().copied().chain(std::iter::repeat(0)))
        .collect()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn since_1970_ms(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: PoolId = PoolId(1);

    fn counted() -> Counters {
        let mut counters = Counters::new();
        for count in [
            Count::Start,
            Count::Start,
            Count::Ready(Span::from_millis(300)),
            Count::Ready(Span::from_secs(999)),
            Count::Death(DeathCause::Unhealthy),
            Count::HealthFailure,
            Count::Death(DeathCause::Finished),
            Count::Recycled(RecycleCause::Request),
            Count::Kill,
            Count::Drained(Span::from_millis(50)),
            Count::Roll(RollOutcome::Done, Span::from_secs(4)),
            Count::Roll(RollOutcome::Superseded, Span::from_secs(4)),
        ] {
            counters.add(WEB, count);
        }
        counters
    }

    #[test]
    fn each_kind_has_its_counter() {
        let web = counted().of_pool(WEB);
        assert_eq!((web.starts, web.kills, web.health_failures), (2, 1, 2));
        assert_eq!(web.deaths[&DeathCause::Unhealthy], 1);
        assert_eq!(web.deaths[&DeathCause::Finished], 1);
        assert_eq!(web.deaths[&DeathCause::Exited], 0);
        assert_eq!(web.recycled[&RecycleCause::Request], 1);
        assert_eq!(web.rolls[&RollOutcome::Superseded], 1);
        // 300 ms is in the bucket of 0.5, 999 s above all; a bound is part of its bucket.
        assert_eq!(
            (web.ready.counts[3], web.ready.counts.last()),
            (1, Some(&1))
        );
        assert_eq!(web.ready.sum_s, 999.3);
        assert_eq!(web.drain.counts[0], 1);
        assert_eq!(
            web.roll.counts.iter().sum::<u64>(),
            1,
            "not of the superseded"
        );
    }

    #[test]
    fn changes_add_up_to_the_whole() {
        let mut counters = counted();
        let mut saved = SavedCounters::default();
        saved.add(counters.take_changes());
        assert!(!counters.has_changed());
        counters.add(PoolId(2), Count::Start);
        counters.add(WEB, Count::Kill);
        let change = counters.take_changes();
        assert_eq!((change.pools.len(), change.config), (2, None));
        saved.add(change);
        counters.note_output(vec![OutputCount {
            pool: "web".into(),
            bytes: 7,
            lost: 2,
        }]);
        counters.config_read(false);
        let text = serde_json::to_string(&counters.take_changes()).unwrap();
        saved.add(serde_json::from_str(&text).unwrap());
        saved.pools.sort_by_key(|(pool, _)| *pool);
        assert_eq!(saved, counters.take_all());
        let mut next = Counters::new();
        assert_eq!(next.restore(saved).len(), 1);
        assert_eq!(next.of_pool(WEB), counters.of_pool(WEB));
        assert_eq!(next.output_of("web"), (7, 2));
        assert!(!next.config().successful);
        next.retain_pools(|pool| pool != WEB);
        assert_eq!(next.of_pool(WEB), PoolCounts::default());
    }

    #[test]
    fn notices_that_a_dead_master_has_counted_are_not_counted_again() {
        let mut counters = counted();
        counters.notices_begin(8);
        counters.add(WEB, Count::Kill);
        counters.notices_end();
        let mut next = Counters::new();
        next.restore(counters.take_all());
        next.notices_begin(8);
        next.add(WEB, Count::Kill);
        next.notices_end();
        next.add(WEB, Count::Start);
        next.notices_begin(9);
        next.add(WEB, Count::Kill);
        let web = next.of_pool(WEB);
        assert_eq!((web.kills, web.starts), (3, 3));
    }

    #[test]
    fn processor_time_never_falls() {
        let mut counters = Counters::new();
        assert_eq!(counters.cpu_of(WorkerId(1), 2.0), 2.0);
        assert_eq!(counters.cpu_of(WorkerId(1), 1.5), 2.0);
        counters.retain_workers(|_| false);
        assert_eq!(counters.cpu_of(WorkerId(1), 1.5), 1.5);
    }
}
