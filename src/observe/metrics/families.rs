//! The families of metrics of a master: their names, which are public (docs/metrics.md), and how they are written.

use super::page::{Family, Format, Label, Page, Type};
use super::{
    DRAIN_BOUNDS, DeathCause, Histogram, ListenerMetrics, Metrics, PoolMetrics, ProcessMetrics,
    READY_BOUNDS, ROLL_BOUNDS, RecycleCause, RollOutcome,
};
use crate::observe::status::PoolState;
use std::collections::BTreeMap;

const fn family(
    name: &'static str,
    kind: Type,
    unit: &'static str,
    help: &'static str,
) -> Family<'static> {
    Family {
        name,
        kind,
        unit,
        help,
    }
}

/// What a family has samples of, and how their values are found.
enum Of {
    Build,
    Master(fn(&Metrics) -> Option<f64>),
    Pool(fn(&PoolMetrics) -> Option<f64>),
    State,
    Deaths,
    Recycled,
    Rolls,
    Durations(fn(&PoolMetrics) -> &Histogram, &'static [f64]),
    Worker(fn(&ProcessMetrics) -> Option<f64>),
    Listener(fn(&ListenerMetrics) -> Option<f64>),
}

/// A family, and the labels of its samples.
type Entry = (Family<'static>, &'static [&'static str], Of);

const POOL: &[&str] = &["pool"];
const SLOT: &[&str] = &["pool", "slot"];
const LISTEN: &[&str] = &["listen"];

/// All families, in the order in which they are written, with the names of their labels.
pub const FAMILIES: &[(Family<'static>, &[&str])] = &{
    let mut all = [(TABLE[0].0, TABLE[0].1); TABLE.len()];
    let mut at = 0;
    while at < TABLE.len() {
        all[at] = (TABLE[at].0, TABLE[at].1);
        at += 1;
    }
    all
};

const TABLE: &[Entry] = &[
    (
        family(
            "rotad_build_info",
            Type::Gauge,
            "",
            "Always 1; the label has the version of the master.",
        ),
        &["version"],
        Of::Build,
    ),
    (
        family(
            "rotad_master_start_time_seconds",
            Type::Gauge,
            "seconds",
            "When the present master began, in seconds since 1970.",
        ),
        &[],
        Of::Master(|all| Some(all.master.start_time_s)),
    ),
    (
        family(
            "rotad_master_restarts",
            Type::Counter,
            "",
            "Masters that have died, each replaced by the guardian.",
        ),
        &[],
        Of::Master(|all| Some(all.master.restarts as f64)),
    ),
    (
        family(
            "rotad_master_cpu_seconds",
            Type::Counter,
            "seconds",
            "Processor time of the present master.",
        ),
        &[],
        Of::Master(|all| all.master.process?.cpu_s),
    ),
    (
        family(
            "rotad_master_resident_memory_bytes",
            Type::Gauge,
            "bytes",
            "Resident memory of the master.",
        ),
        &[],
        Of::Master(|all| Some(all.master.process?.rss_bytes? as f64)),
    ),
    (
        family(
            "rotad_master_open_fds",
            Type::Gauge,
            "",
            "Open descriptors of the master.",
        ),
        &[],
        Of::Master(|all| Some(all.master.process?.open_fds? as f64)),
    ),
    (
        family(
            "rotad_config_last_reload_successful",
            Type::Gauge,
            "",
            "1: the configuration was read last with success and is in force. 0: it was refused, or put back after a roll that failed.",
        ),
        &[],
        Of::Master(|all| Some(flag(all.master.reload_successful))),
    ),
    (
        family(
            "rotad_config_last_reload_success_timestamp_seconds",
            Type::Gauge,
            "seconds",
            "When a configuration came into force last, in seconds since 1970.",
        ),
        &[],
        Of::Master(|all| Some(all.master.reload_success_s)),
    ),
    (
        family(
            "rotad_pool_workers_wanted",
            Type::Gauge,
            "",
            "The desired number of workers; 0 while the pool stops or is stopped.",
        ),
        POOL,
        Of::Pool(|pool| Some(f64::from(pool.wanted))),
    ),
    (
        family(
            "rotad_pool_workers_ready",
            Type::Gauge,
            "",
            "Workers that serve; during a roll there may be more than are wanted.",
        ),
        POOL,
        Of::Pool(|pool| Some(f64::from(pool.ready))),
    ),
    (
        family(
            "rotad_pool_workers_starting",
            Type::Gauge,
            "",
            "Workers that are not ready yet.",
        ),
        POOL,
        Of::Pool(|pool| Some(f64::from(pool.starting))),
    ),
    (
        family(
            "rotad_pool_workers_draining",
            Type::Gauge,
            "",
            "Workers that were asked to stop and are still finishing.",
        ),
        POOL,
        Of::Pool(|pool| Some(f64::from(pool.draining))),
    ),
    (
        family(
            "rotad_pool_state",
            Type::Gauge,
            "",
            "1 for the state that the pool is in, 0 for the others.",
        ),
        &["pool", "state"],
        Of::State,
    ),
    (
        family(
            "rotad_pool_generation",
            Type::Gauge,
            "",
            "The last generation that was fully rolled out; 0: none yet.",
        ),
        POOL,
        Of::Pool(|pool| Some(f64::from(pool.generation))),
    ),
    (
        family(
            "rotad_pool_retry_timestamp_seconds",
            Type::Gauge,
            "seconds",
            "When the next slot that waits after a death is filled, in seconds since 1970. No sample: none waits.",
        ),
        POOL,
        Of::Pool(|pool| pool.retry_at_s),
    ),
    (
        family(
            "rotad_worker_starts",
            Type::Counter,
            "",
            "Workers whose process was spawned.",
        ),
        POOL,
        Of::Pool(|pool| Some(pool.counted.starts as f64)),
    ),
    (
        family(
            "rotad_worker_deaths",
            Type::Counter,
            "",
            "Ends and failures of workers that nobody had asked for.",
        ),
        &["pool", "cause"],
        Of::Deaths,
    ),
    (
        family(
            "rotad_worker_recycled",
            Type::Counter,
            "",
            "Workers that served and were replaced by one of the same generation.",
        ),
        &["pool", "cause"],
        Of::Recycled,
    ),
    (
        family(
            "rotad_worker_kills",
            Type::Counter,
            "",
            "Workers that were cut short: killed at the end of their stop steps.",
        ),
        POOL,
        Of::Pool(|pool| Some(pool.counted.kills as f64)),
    ),
    (
        family(
            "rotad_worker_ready_seconds",
            Type::Histogram,
            "seconds",
            "From the spawn of a worker until it was ready.",
        ),
        POOL,
        Of::Durations(|pool| &pool.counted.ready, READY_BOUNDS),
    ),
    (
        family(
            "rotad_worker_drain_seconds",
            Type::Histogram,
            "seconds",
            "From the request to stop until the whole tree of the worker was gone.",
        ),
        POOL,
        Of::Durations(|pool| &pool.counted.drain, DRAIN_BOUNDS),
    ),
    (
        family(
            "rotad_worker_cpu_seconds",
            Type::Counter,
            "seconds",
            "Processor time of the tree of the slot's newest worker.",
        ),
        SLOT,
        Of::Worker(|worker| worker.cpu_s),
    ),
    (
        family(
            "rotad_worker_resident_memory_bytes",
            Type::Gauge,
            "bytes",
            "Resident memory of the tree of the slot's newest worker; what its processes share counts for each.",
        ),
        SLOT,
        Of::Worker(|worker| Some(worker.rss_bytes? as f64)),
    ),
    (
        family(
            "rotad_worker_proportional_memory_bytes",
            Type::Gauge,
            "bytes",
            "Memory of the tree of the slot's newest worker, of which what processes share counts by its part (PSS). With --pss alone.",
        ),
        SLOT,
        Of::Worker(|worker| Some(worker.pss_bytes? as f64)),
    ),
    (
        family(
            "rotad_worker_open_fds",
            Type::Gauge,
            "",
            "Open descriptors of the first process of the slot's newest worker.",
        ),
        SLOT,
        Of::Worker(|worker| Some(worker.open_fds? as f64)),
    ),
    (
        family(
            "rotad_worker_start_time_seconds",
            Type::Gauge,
            "seconds",
            "When the slot's newest worker began, in seconds since 1970.",
        ),
        SLOT,
        Of::Worker(|worker| worker.start_time_s),
    ),
    (
        family(
            "rotad_rolls",
            Type::Counter,
            "",
            "Rolling restarts that have ended.",
        ),
        &["pool", "outcome"],
        Of::Rolls,
    ),
    (
        family(
            "rotad_roll_in_progress",
            Type::Gauge,
            "",
            "1 while a rolling restart of the pool runs.",
        ),
        POOL,
        Of::Pool(|pool| Some(flag(pool.rolls))),
    ),
    (
        family(
            "rotad_roll_replaced_workers",
            Type::Gauge,
            "",
            "Slots that the present or last rolling restart has replaced.",
        ),
        POOL,
        Of::Pool(|pool| Some(f64::from(pool.replaced))),
    ),
    (
        family(
            "rotad_roll_duration_seconds",
            Type::Histogram,
            "seconds",
            "How long rolling restarts took that were done, aborted or rolled back.",
        ),
        POOL,
        Of::Durations(|pool| &pool.counted.roll, ROLL_BOUNDS),
    ),
    (
        family(
            "rotad_health_failures",
            Type::Counter,
            "",
            "Failed health checks and expired watchdogs.",
        ),
        POOL,
        Of::Pool(|pool| Some(pool.counted.health_failures as f64)),
    ),
    (
        family(
            "rotad_log_bytes",
            Type::Counter,
            "bytes",
            "Output of workers that was taken from their pipes and written.",
        ),
        POOL,
        Of::Pool(|pool| Some(pool.log_bytes as f64)),
    ),
    (
        family(
            "rotad_log_lost_bytes",
            Type::Counter,
            "bytes",
            "Output of workers that was dropped, since the log could not be written.",
        ),
        POOL,
        Of::Pool(|pool| Some(pool.log_lost_bytes as f64)),
    ),
    (
        family(
            "rotad_listener_queue_connections",
            Type::Gauge,
            "connections",
            "Connections that wait to be accepted.",
        ),
        LISTEN,
        Of::Listener(|listener| Some(f64::from(listener.queue?))),
    ),
    (
        family(
            "rotad_listener_backlog_connections",
            Type::Gauge,
            "connections",
            "How many connections may wait to be accepted.",
        ),
        LISTEN,
        Of::Listener(|listener| Some(f64::from(listener.backlog?))),
    ),
    (
        family(
            "rotad_listener_overflows",
            Type::Counter,
            "",
            "Connections that the kernel dropped at the listening socket, mostly since its queue was full.",
        ),
        LISTEN,
        Of::Listener(|listener| Some(listener.overflows? as f64)),
    ),
];

/// The table of docs/metrics.md.
pub fn markdown() -> String {
    let mut text = "| metric | type | labels | |\n|---|---|---|---|\n".to_owned();
    for (family, labels) in FAMILIES {
        let kind = match family.kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, labels) = (family.sample_name(), labels.join(", "));
        text += &format!("| `{name}` | {kind} | {labels} | {} |\n", family.help);
    }
    text
}

/// The page of these numbers.
pub fn render(metrics: &Metrics, format: Format) -> String {
    let mut page = Page::new(format);
    families(metrics, &mut page);
    page.finish()
}

/// Writes the families of these numbers. A family without samples is left out.
pub fn families(metrics: &Metrics, page: &mut Page) {
    for (family, _, of) in TABLE {
        let mut writer = FamilyWriter {
            family,
            page,
            begun: false,
        };
        writer.samples(metrics, of);
    }
}

/// Begins its family with the first sample.
struct FamilyWriter<'a> {
    family: &'a Family<'static>,
    page: &'a mut Page,
    begun: bool,
}

impl FamilyWriter<'_> {
    fn samples(&mut self, metrics: &Metrics, of: &Of) {
        match of {
            Of::Build => self.sample(&[("version", &metrics.master.version)], Some(1.0)),
            Of::Master(value) => self.sample(&[], value(metrics)),
            Of::Listener(value) => {
                for listener in &metrics.listeners {
                    self.sample(&[("listen", &listener.name)], value(listener));
                }
            }
            _ => {
                for pool in &metrics.pools {
                    self.pool_samples(pool, of);
                }
            }
        }
    }

    fn pool_samples(&mut self, pool: &PoolMetrics, of: &Of) {
        let name = ("pool", pool.name.as_str());
        match of {
            Of::Build | Of::Master(_) | Of::Listener(_) => {}
            Of::Pool(value) => self.sample(&[name], value(pool)),
            Of::State => {
                for state in PoolState::ALL {
                    let word = state.name().replace('-', "_");
                    let is = flag(state == pool.state);
                    self.sample(&[name, ("state", &word)], Some(is));
                }
            }
            Of::Deaths => self.by(
                name,
                "cause",
                DeathCause::ALL,
                &pool.counted.deaths,
                |cause| cause.word(),
            ),
            Of::Recycled => self.by(
                name,
                "cause",
                RecycleCause::ALL,
                &pool.counted.recycled,
                |cause| cause.word(),
            ),
            Of::Rolls => self.by(
                name,
                "outcome",
                RollOutcome::ALL,
                &pool.counted.rolls,
                |outcome| outcome.word(),
            ),
            Of::Durations(of, bounds) => {
                self.begin();
                let Histogram { counts, sum_s } = of(pool);
                self.page
                    .histogram(self.family, &[name], bounds, (counts, *sum_s));
            }
            Of::Worker(value) => {
                for worker in &pool.workers {
                    let slot = worker.slot.to_string();
                    self.sample(&[name, ("slot", &slot)], value(&worker.process));
                }
            }
        }
    }

    /// One sample for each value of a label: those that were never counted are 0, so that the first one is an increase.
    fn by<T: Copy + Ord>(
        &mut self,
        pool: Label<'_>,
        label: &str,
        all: &[T],
        counts: &BTreeMap<T, u64>,
        word: fn(T) -> &'static str,
    ) {
        for one in all {
            let count = counts.get(one).copied().unwrap_or_default();
            self.sample(&[pool, (label, word(*one))], Some(count as f64));
        }
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.page.begin(self.family);
        }
    }

    fn sample(&mut self, labels: &[Label<'_>], value: Option<f64>) {
        if let Some(value) = value {
            self.begin();
            self.page.sample(self.family, labels, value);
        }
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[cfg(test)]
mod tests;
