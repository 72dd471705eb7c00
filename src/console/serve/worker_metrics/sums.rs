//! The sums over the workers of each pool, and over those that are gone.

use super::text::{Bound, Families, Kind, Part, Series};
use rotad::observe::metrics::Format;
use rotad::plan::Gauges;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Series of one pool that are kept of workers that are gone.
const MAX_KEPT: usize = 50_000;
/// Names that are the master's own.
const OWN: &str = "rotad_";
/// The family of failed scrapes.
const FAILURES: &str = "rotad_worker_scrape_failures";

/// What is known of a family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    kind: Kind,
    help: String,
}

/// A counter of one worker.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Count {
    /// What it had counted before it began again at 0.
    before: f64,
    last: f64,
}

impl Count {
    fn total(self) -> f64 {
        self.before + self.last
    }

    fn see(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        if value < self.last {
            self.before += self.last;
        }
        self.last = value;
    }
}

/// The series of one family.
type Numbers<T> = BTreeMap<Series, T>;
/// A map in a file of JSON, whose keys are texts.
type Listed<T> = Vec<(Series, T)>;

#[derive(Debug, Default)]
struct Worker {
    slot: u32,
    counts: BTreeMap<String, Numbers<Count>>,
    /// Of the last scrape, if it did not fail.
    gauges: BTreeMap<String, Numbers<f64>>,
}

#[derive(Debug, Default)]
struct Pool {
    gauges: Gauges,
    about: BTreeMap<String, About>,
    /// By `ROTAD_WORKER`.
    workers: BTreeMap<String, Worker>,
    gone: BTreeMap<String, Numbers<f64>>,
    failures: u64,
}

/// The sums of all pools.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pools: BTreeMap<String, Pool>,
}

impl Sums {
    /// The pools that have metrics now, and what becomes of their gauges; others are forgotten.
    pub(super) fn set_pools<'a>(&mut self, pools: impl Iterator<Item = (&'a str, Gauges)>) {
        let pools: BTreeMap<&str, Gauges> = pools.collect();
        self.pools
            .retain(|name, _| pools.contains_key(name.as_str()));
        for (name, gauges) in pools {
            self.pools.entry(name.to_owned()).or_default().gauges = gauges;
        }
    }

    /// The workers that have counted something, each with its pool.
    pub(super) fn workers(&self) -> Vec<(String, String)> {
        let of = |(name, pool): (&String, &Pool)| {
            let workers = pool.workers.keys();
            workers
                .map(|worker| (name.clone(), worker.clone()))
                .collect::<Vec<_>>()
        };
        self.pools.iter().flat_map(of).collect()
    }

    /// A worker is gone: what it has counted is kept. Whether it had counted anything.
    pub(super) fn end(&mut self, pool: &str, worker: &str) -> bool {
        match self.pools.get_mut(pool) {
            Some(pool) if pool.workers.contains_key(worker) => {
                pool.keep(worker);
                true
            }
            _ => false,
        }
    }

    /// A worker was asked; it is one of those that there are.
    pub(super) fn see(&mut self, pool: &str, worker: &str, slot: u32, families: Families) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.see(worker, slot, families);
        }
    }

    /// A worker could not be asked: its counters stay, its gauges are not known.
    pub(super) fn fail(&mut self, pool: &str, worker: &str) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.failures += 1;
            if let Some(worker) = pool.workers.get_mut(worker) {
                worker.gauges.clear();
            }
        }
    }

    /// The labels that the workers' own get another name for.
    pub(super) fn reserved(&self, pool: &str) -> &'static [&'static str] {
        match self.pools.get(pool).map(|pool| pool.gauges) {
            Some(Gauges::Slot) => &["pool", "slot"],
            _ => &["pool"],
        }
    }

    /// The families with their samples.
    pub(super) fn render(&self, format: Format) -> String {
        let openmetrics = format == Format::OpenMetrics;
        let mut families: BTreeMap<&str, (&About, Vec<&String>)> = BTreeMap::new();
        for (name, pool) in &self.pools {
            for (family, about) in &pool.about {
                let (first, pools) = families.entry(family).or_insert((about, Vec::new()));
                // Of two types with one name a page may have one.
                if first.kind == about.kind {
                    pools.push(name);
                }
            }
        }
        let mut out = String::new();
        for (family, (about, pools)) in families {
            let mut lines = String::new();
            for name in pools {
                if let Some(pool) = self.pools.get(name) {
                    pool.render(&escaped(name), family, about.kind, &mut lines);
                }
            }
            if !lines.is_empty() {
                head(&mut out, family, about, &lines, openmetrics);
                out.push_str(&lines);
            }
        }
        if !self.pools.is_empty() {
            let about = About {
                kind: Kind::Counter,
                help: "Scrapes of workers that failed.".to_owned(),
            };
            let mut lines = String::new();
            for (name, pool) in &self.pools {
                let (name, failures) = (escaped(name), pool.failures);
                writeln!(lines, "{FAILURES}_total{{pool=\"{name}\"}} {failures}").ok();
            }
            head(&mut out, FAILURES, &about, &lines, openmetrics);
            out.push_str(&lines);
        }
        out
    }
}

/// HELP and TYPE of a family.
fn head(out: &mut String, family: &str, about: &About, lines: &str, openmetrics: bool) {
    // Without `_total` it is no counter of OpenMetrics.
    let is_bare = about.kind == Kind::Counter && !lines.starts_with(&format!("{family}_total"));
    let (name, kind) = match (about.kind, openmetrics) {
        (Kind::Counter, true) if is_bare => (family.to_owned(), "unknown"),
        (Kind::Counter, false) if !is_bare => (format!("{family}_total"), "counter"),
        (Kind::Counter, _) => (family.to_owned(), "counter"),
        (Kind::Gauge, _) => (family.to_owned(), "gauge"),
        (Kind::Histogram, _) => (family.to_owned(), "histogram"),
        (Kind::Summary, _) => (family.to_owned(), "summary"),
        (Kind::GaugeHistogram, true) => (family.to_owned(), "gaugehistogram"),
        (Kind::Info, true) => (family.to_owned(), "info"),
        (Kind::Info, false) => (format!("{family}_info"), "gauge"),
        // A sum of states is no set of states.
        (Kind::StateSet, _) => (family.to_owned(), "gauge"),
        (Kind::Unknown, true) => (family.to_owned(), "unknown"),
        (Kind::Unknown | Kind::GaugeHistogram, false) => (family.to_owned(), "untyped"),
    };
    if !about.help.is_empty() {
        let help = match openmetrics {
            true => quotes_escaped(&about.help),
            false => about.help.replace("\\\"", "\""),
        };
        writeln!(out, "# HELP {name} {help}").ok();
    }
    writeln!(out, "# TYPE {name} {kind}").ok();
}

/// OpenMetrics escapes quotes in HELP, the older text does not.
fn quotes_escaped(help: &str) -> String {
    let mut out = String::with_capacity(help.len());
    let mut escaped = false;
    for letter in help.chars() {
        if letter == '"' && !escaped {
            out.push('\\');
        }
        escaped = letter == '\\' && !escaped;
        out.push(letter);
    }
    out
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

impl Pool {
    fn see(&mut self, id: &str, slot: u32, families: Families) {
        let worker = self.workers.entry(id.to_owned()).or_default();
        worker.slot = slot;
        worker.gauges.clear();
        let families = families
            .into_iter()
            .filter(|(name, _)| !name.starts_with(OWN) && !name.ends_with("_created"));
        for (name, family) in families {
            let about = About {
                kind: family.kind,
                help: family.help,
            };
            let known = self.about.insert(name.clone(), about.clone());
            // A release has made another type of it.
            if known.is_some_and(|known| known.kind != about.kind) {
                self.gone.remove(&name);
            }
            if about.kind.is_count() {
                let counts = worker.counts.entry(name).or_default();
                for (series, value) in family.samples {
                    counts.entry(series).or_default().see(value);
                }
            } else {
                worker.gauges.insert(name, family.samples);
            }
        }
    }

    fn keep(&mut self, id: &str) {
        let Some(worker) = self.workers.remove(id) else {
            return;
        };
        let mut kept: usize = self.gone.values().map(BTreeMap::len).sum();
        for (family, counts) in worker.counts {
            let is_count = self
                .about
                .get(&family)
                .is_some_and(|about| about.kind.is_count());
            if !is_count {
                continue;
            }
            let gone = self.gone.entry(family).or_default();
            for (series, count) in counts {
                if let Some(sum) = gone.get_mut(&series) {
                    *sum += count.total();
                } else if kept < MAX_KEPT {
                    kept += 1;
                    gone.insert(series, count.total());
                }
            }
        }
    }

    fn render(&self, name: &str, family: &str, kind: Kind, out: &mut String) {
        if kind.is_count() {
            let mut sums: Numbers<f64> = self.gone.get(family).cloned().unwrap_or_default();
            let counts = self
                .workers
                .values()
                .filter_map(|worker| worker.counts.get(family));
            for (series, count) in counts.flatten() {
                *sums.entry(series.clone()).or_default() += count.total();
            }
            let mut least: Option<(String, f64)> = None;
            for (series, value) in &sums {
                let value = match (&mut least, series.part) {
                    // Where releases have different buckets, a sum lacks those of the other: no bucket has less than
                    // the one before it.
                    (Some((labels, before)), Part::Bucket) if *labels == series.labels => {
                        *before = before.max(*value);
                        *before
                    }
                    (least, Part::Bucket) => {
                        *least = Some((series.labels.clone(), *value));
                        *value
                    }
                    _ => *value,
                };
                line(out, family, name, None, series, value);
            }
            return;
        }
        let gauges = |worker: &'_ Worker| worker.gauges.get(family).cloned();
        if self.gauges == Gauges::Slot {
            // While a worker finishes, its slot has two: the one that serves counts.
            let mut slots: BTreeMap<u32, Numbers<f64>> = BTreeMap::new();
            for worker in self.workers.values() {
                if let Some(gauges) = gauges(worker) {
                    slots.insert(worker.slot, gauges);
                }
            }
            for (slot, gauges) in slots {
                for (series, value) in &gauges {
                    line(out, family, name, Some(slot), series, *value);
                }
            }
            return;
        }
        let takes_latest = kind == Kind::Info
            || family.ends_with("_info")
            || family.ends_with("_timestamp_seconds")
            || family.ends_with("_start_time_seconds");
        let mut sums: Numbers<f64> = BTreeMap::new();
        for (series, value) in self.workers.values().filter_map(gauges).flatten() {
            sums.entry(series)
                .and_modify(|sum| match takes_latest {
                    true => *sum = sum.max(value),
                    false => *sum += value,
                })
                .or_insert(value);
        }
        for (series, value) in &sums {
            line(out, family, name, None, series, *value);
        }
    }
}

fn line(
    out: &mut String,
    family: &str,
    pool: &str,
    slot: Option<u32>,
    series: &Series,
    value: f64,
) {
    let Series {
        labels,
        part,
        bound,
    } = series;
    write!(out, "{family}{}{{pool=\"{pool}\"", part.ending()).ok();
    if let Some(slot) = slot {
        write!(out, ",slot=\"{slot}\"").ok();
    }
    if !labels.is_empty() {
        write!(out, ",{labels}").ok();
    }
    if let Some(Bound(bound)) = bound {
        write!(out, ",le=\"{bound}\"").ok();
    }
    let value = match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        value => value.to_string(),
    };
    writeln!(out, "}} {value}").ok();
}

/// What a file keeps of the sums.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    pools: BTreeMap<String, SavedPool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedPool {
    about: BTreeMap<String, About>,
    gone: BTreeMap<String, Listed<f64>>,
    workers: BTreeMap<String, BTreeMap<String, Listed<Count>>>,
    failures: u64,
}

impl Sums {
    /// What is to be kept: counters alone.
    pub(super) fn saved(&self) -> Saved {
        fn listed<T: Copy>(all: &BTreeMap<String, Numbers<T>>) -> BTreeMap<String, Listed<T>> {
            let list = |numbers: &Numbers<T>| {
                numbers
                    .iter()
                    .map(|(series, value)| (series.clone(), *value))
                    .collect()
            };
            all.iter()
                .map(|(name, numbers)| (name.clone(), list(numbers)))
                .collect()
        }
        let pool = |pool: &Pool| SavedPool {
            about: pool
                .about
                .iter()
                .filter(|(_, about)| about.kind.is_count())
                .map(|(name, about)| (name.clone(), about.clone()))
                .collect(),
            gone: listed(&pool.gone),
            workers: pool
                .workers
                .iter()
                .map(|(id, worker)| (id.clone(), listed(&worker.counts)))
                .collect(),
            failures: pool.failures,
        };
        let pools = self.pools.iter();
        Saved {
            pools: pools.map(|(name, of)| (name.clone(), pool(of))).collect(),
        }
    }

    /// Goes on with what was kept.
    pub(super) fn restored(saved: Saved) -> Self {
        fn mapped<T>(all: BTreeMap<String, Listed<T>>) -> BTreeMap<String, Numbers<T>> {
            all.into_iter()
                .map(|(name, list)| (name, list.into_iter().collect()))
                .collect()
        }
        let pool = |saved: SavedPool| Pool {
            gauges: Gauges::default(),
            about: saved.about,
            gone: mapped(saved.gone),
            workers: saved
                .workers
                .into_iter()
                .map(|(id, counts)| {
                    let worker = Worker {
                        counts: mapped(counts),
                        ..Worker::default()
                    };
                    (id, worker)
                })
                .collect(),
            failures: saved.failures,
        };
        let pools = saved.pools.into_iter();
        Self {
            pools: pools.map(|(name, saved)| (name, pool(saved))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::read;
    use super::*;

    fn page(requests: u32, memory: u32) -> Families {
        let text = format!(
            "# HELP requests_total All \"requests\".\n# TYPE requests_total counter\nrequests_total{{code=\"200\"}} {requests}\n\
             # TYPE memory_bytes gauge\nmemory_bytes {memory}\n\
             # TYPE wait_seconds histogram\nwait_seconds_bucket{{le=\"1\"}} {requests}\nwait_seconds_bucket{{le=\"+Inf\"}} \
             {requests}\nwait_seconds_sum 0.5\nwait_seconds_count {requests}\n"
        );
        read(&text, &["pool"]).unwrap()
    }

    fn sums(gauges: Gauges) -> Sums {
        let mut sums = Sums::default();
        sums.set_pools([("web", gauges)].into_iter());
        sums
    }

    #[track_caller]
    fn has(sums: &Sums, line: &str) {
        let text = sums.render(Format::OpenMetrics);
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }

    #[test]
    fn a_roll_resets_no_counter() {
        let mut sums = sums(Gauges::Sum);
        sums.see("web", "a", 0, page(10, 100));
        sums.see("web", "b", 1, page(5, 50));
        has(&sums, "requests_total{pool=\"web\",code=\"200\"} 15");
        has(&sums, "memory_bytes{pool=\"web\"} 150");
        sums.see("web", "a", 0, page(12, 100));
        assert!(sums.end("web", "a") && !sums.end("web", "a"));
        sums.see("web", "c", 0, page(1, 70));
        has(&sums, "requests_total{pool=\"web\",code=\"200\"} 18");
        has(&sums, "memory_bytes{pool=\"web\"} 120");
        has(&sums, "wait_seconds_bucket{pool=\"web\",le=\"+Inf\"} 18");
        has(&sums, "wait_seconds_count{pool=\"web\"} 18");
        let known = |pool: &str, worker: &str| (pool.to_owned(), worker.to_owned());
        assert_eq!(sums.workers(), [known("web", "b"), known("web", "c")]);
        assert!(sums.end("web", "b"));
        sums.fail("web", "c");
        has(&sums, "requests_total{pool=\"web\",code=\"200\"} 18");
        has(&sums, "rotad_worker_scrape_failures_total{pool=\"web\"} 1");
        assert!(
            !sums.render(Format::OpenMetrics).contains("memory_bytes"),
            "not known now"
        );
        // A program that begins again within its worker.
        sums.see("web", "c", 0, page(0, 1));
        has(&sums, "requests_total{pool=\"web\",code=\"200\"} 18");
        let saved = serde_json::to_string(&sums.saved()).unwrap();
        let mut again = Sums::restored(serde_json::from_str(&saved).unwrap());
        again.set_pools([("web", Gauges::Sum)].into_iter());
        again.see("web", "c", 0, page(2, 1));
        has(&again, "requests_total{pool=\"web\",code=\"200\"} 20");
        again.set_pools(std::iter::empty());
        assert_eq!(again.render(Format::OpenMetrics), "");
    }

    #[test]
    fn gauges_may_keep_their_slots() {
        let mut sums = sums(Gauges::Slot);
        sums.see("web", "a", 0, page(1, 100));
        sums.see("web", "b", 1, page(1, 50));
        has(&sums, "memory_bytes{pool=\"web\",slot=\"0\"} 100");
        has(&sums, "memory_bytes{pool=\"web\",slot=\"1\"} 50");
        has(&sums, "requests_total{pool=\"web\",code=\"200\"} 2");
    }

    #[test]
    fn both_formats_have_their_heads() {
        let mut sums = sums(Gauges::Sum);
        sums.see("web", "a", 0, page(1, 100));
        let more = "# TYPE bare counter\nbare 1\n# TYPE rotad_own gauge\nrotad_own 1\nloose 2\n";
        sums.see("web", "b", 1, read(more, &[]).unwrap());
        has(&sums, "# TYPE requests counter");
        has(&sums, r#"# HELP requests All \"requests\"."#);
        has(&sums, "# TYPE bare unknown");
        let text = sums.render(Format::Text);
        assert!(text.contains("# TYPE requests_total counter\n"), "{text}");
        assert!(
            text.contains("# HELP requests_total All \"requests\".\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE bare counter\n# TYPE loose untyped\n")
                || text.contains("# TYPE loose untyped\n")
        );
        assert!(!text.contains("rotad_own"), "{text}");
    }

    #[test]
    fn other_buckets_never_fall() {
        let mut sums = sums(Gauges::Sum);
        let page = |bounds: &str| {
            let text = format!("# TYPE h histogram\n{bounds}h_sum 1\nh_count 20\n");
            read(&text, &[]).unwrap()
        };
        let old = "h_bucket{le=\"1\"} 10\nh_bucket{le=\"5\"} 20\nh_bucket{le=\"+Inf\"} 20\n";
        let new = "h_bucket{le=\"2\"} 3\nh_bucket{le=\"+Inf\"} 20\n";
        sums.see("web", "a", 0, page(old));
        sums.end("web", "a");
        sums.see("web", "b", 0, page(new));
        for (bound, count) in [("1", 10), ("2", 10), ("5", 20), ("+Inf", 40)] {
            has(
                &sums,
                &format!("h_bucket{{pool=\"web\",le=\"{bound}\"}} {count}"),
            );
        }
    }
}
