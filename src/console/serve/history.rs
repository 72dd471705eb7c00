//! The last hour of each pool, for plots: a bounded ring of samples.

use super::link::{Queues, now_s};
use rotad::observe::status::{PoolStatus, Status, WorkerStatus};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use tokio::time::{Duration, Instant};

/// How far samples are apart.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// An hour of them.
const MAX_SAMPLES: usize = 720;
/// Of so many pools: 720 samples of one take 30 KiB.
const MAX_POOLS: usize = 100;

/// The samples of all pools, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    last: Option<Reading>,
}

#[derive(Debug)]
struct Sample {
    /// Seconds since 1970.
    at: u64,
    pools: BTreeMap<String, Numbers>,
}

#[derive(Clone, Copy, Debug)]
struct Numbers {
    ready: u32,
    wanted: u32,
    /// Processors in use since the sample before; None: not known.
    cpu: Option<f32>,
    /// Bytes.
    memory: Option<u64>,
    restarts: u32,
    /// Connections that wait for accept(2) at its addresses; None: not known.
    queue: Option<u32>,
}

/// What processor use is computed from: by pid, the time used so far.
#[derive(Debug)]
struct Reading {
    at: Instant,
    cpu_s: BTreeMap<i32, f64>,
}

impl History {
    /// It is time for a sample.
    pub(crate) fn is_due(&self) -> bool {
        // Statuses are asked for once a second; a little early counts as in time.
        let pause = SAMPLE_EVERY - Duration::from_millis(500);
        let last = self.last.as_ref();
        last.is_none_or(|last| last.at.elapsed() >= pause)
    }

    /// Takes a sample, if it is time for one.
    pub(crate) fn sample(&mut self, status: &Status, queues: &Queues) {
        if !self.is_due() {
            return;
        }
        let now = Instant::now();
        let at = now_s();
        let pools = status.pools.iter().take(MAX_POOLS);
        let numbers = |pool: &PoolStatus| {
            let numbers = self.numbers(pool, queues, now);
            (pool.name.clone(), numbers)
        };
        let pools = pools.map(numbers).collect();
        self.samples.push_back(Sample { at, pools });
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
        let workers = status.pools.iter().flat_map(|pool| &pool.workers);
        let cpu_s = workers.filter_map(|worker| Some((worker.pid?, cpu_of(worker)?)));
        self.last = Some(Reading {
            at: now,
            cpu_s: cpu_s.collect(),
        });
    }

    fn numbers(&self, pool: &PoolStatus, queues: &Queues, now: Instant) -> Numbers {
        let memory = |worker: &WorkerStatus| {
            let tree = worker.tree.map(|tree| tree.rss_bytes);
            tree.or(worker.rss_bytes)
        };
        let memory: Vec<u64> = pool.workers.iter().filter_map(memory).collect();
        let cpu = self.last.as_ref().map(|last| {
            let used = |worker: &WorkerStatus| {
                let before = last.cpu_s.get(&worker.pid?).copied().unwrap_or(0.0);
                Some((cpu_of(worker)? - before).max(0.0))
            };
            let used: f64 = pool.workers.iter().filter_map(used).sum();
            (used / now.duration_since(last.at).as_secs_f64()) as f32
        });
        let known = pool.listen.iter().filter_map(|address| queues.get(address));
        let known: Vec<u32> = known.copied().collect();
        Numbers {
            ready: pool.ready,
            wanted: pool.wanted,
            cpu,
            memory: (!memory.is_empty()).then(|| memory.iter().sum()),
            restarts: pool.workers.iter().map(|worker| worker.restarts).sum(),
            queue: (!known.is_empty()).then(|| known.iter().sum()),
        }
    }

    /// `{"every_s": 5, "at": [seconds since 1970, …], "pools": {"web": {"ready": […], …}}}`. The lists of a pool have a
    /// place for each moment; null: the pool or the number was not there.
    pub(crate) fn json(&self) -> String {
        let at: Vec<u64> = self.samples.iter().map(|sample| sample.at).collect();
        let names = self.samples.iter().flat_map(|sample| sample.pools.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let column = |name: &String, value: fn(&Numbers) -> Value| -> Value {
            let numbers = self.samples.iter().map(|sample| sample.pools.get(name));
            numbers
                .map(|numbers| numbers.map_or(Value::Null, value))
                .collect()
        };
        let pool = |name: &String| {
            json!({
                "ready": column(name, |n| n.ready.into()),
                "wanted": column(name, |n| n.wanted.into()),
                "cpu": column(name, |n| n.cpu.map(|cpu| (f64::from(cpu) * 1000.0).round() / 1000.0).into()),
                "memory_bytes": column(name, |n| n.memory.into()),
                "restarts": column(name, |n| n.restarts.into()),
                "queue": column(name, |n| n.queue.into()),
            })
        };
        let pools: serde_json::Map<String, Value> = names
            .into_iter()
            .map(|name| (name.clone(), pool(name)))
            .collect();
        let every_s = SAMPLE_EVERY.as_secs();
        rotad::observe::sanitize::sanitize_json(
            &json!({"every_s": every_s, "at": at, "pools": pools}).to_string(),
        )
    }
}

/// Of the whole tree, as far as it is known.
fn cpu_of(worker: &WorkerStatus) -> Option<f64> {
    worker.tree.map(|tree| tree.cpu_s).or(worker.cpu_s)
}
