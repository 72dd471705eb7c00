//! The page of a master with everything, in both formats: names and labels are public.

use super::*;
use crate::observe::metrics::{MasterMetrics, PoolCounts, WorkerMetrics};
use std::collections::BTreeSet;
use std::path::Path;

fn histogram(counts: &[u64], sum_s: f64) -> Histogram {
    let counts = counts.to_vec();
    Histogram { counts, sum_s }
}

fn metrics() -> Metrics {
    let process = ProcessMetrics {
        start_time_s: Some(1_700_000_000.25),
        cpu_s: Some(0.75),
        rss_bytes: Some(20_480_000),
        open_fds: Some(12),
        pss_bytes: Some(10_240_000),
    };
    let web = PoolMetrics {
        name: "web".to_owned(),
        state: PoolState::CrashLoop,
        wanted: 4,
        ready: 3,
        starting: 1,
        draining: 2,
        generation: 7,
        retry_at_s: Some(1_700_000_100.5),
        rolls: true,
        replaced: 2,
        counted: PoolCounts {
            starts: 9,
            deaths: [(DeathCause::Exited, 3), (DeathCause::NotReady, 1)].into(),
            recycled: [(RecycleCause::MaxRss, 2)].into(),
            kills: 1,
            ready: histogram(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1], 402.4),
            drain: histogram(&[5], 0.2),
            rolls: [(RollOutcome::RolledBack, 1)].into(),
            roll: histogram(&[], 0.0),
            health_failures: 6,
        },
        log_bytes: 123_456,
        log_lost_bytes: 78,
        workers: vec![
            WorkerMetrics {
                slot: 0,
                pid: Some(4711),
                process,
            },
            WorkerMetrics {
                slot: 11,
                pid: None,
                process: ProcessMetrics::default(),
            },
        ],
    };
    let unix = ListenerMetrics {
        name: "unix".to_owned(),
        address: "unix:/run/shop.sock".to_owned(),
        queue: Some(0),
        backlog: Some(128),
        overflows: None,
    };
    let http = ListenerMetrics {
        name: "http".to_owned(),
        address: "0.0.0.0:8000".to_owned(),
        queue: Some(5),
        backlog: Some(4096),
        overflows: Some(17),
    };
    Metrics {
        master: MasterMetrics {
            version: "0.1.0".to_owned(),
            start_time_s: 1_700_000_000.5,
            restarts: 1,
            reload_successful: false,
            reload_success_s: 1_700_000_001.0,
            process: Some(process),
        },
        pools: vec![web],
        listeners: vec![unix, http],
    }
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/observe/metrics/families")
        .join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == expected,
        "UPDATE_EXPECT=1 cargo test --lib metrics; {text}"
    );
}

#[test]
fn the_pages_are_as_recorded() {
    golden("openmetrics.txt", &render(&metrics(), Format::OpenMetrics));
    golden("text.txt", &render(&metrics(), Format::Text));
}

#[test]
fn names_follow_the_rules() {
    let mut names = BTreeSet::new();
    for (family, labels) in FAMILIES {
        assert!(names.insert(family.name), "{} twice", family.name);
        assert!(family.name.starts_with("rotad_"), "{}", family.name);
        assert!(
            family.name.ends_with(family.unit) && !family.name.ends_with("_total"),
            "{}",
            family.name
        );
        assert!(family.help.ends_with('.'), "{}", family.help);
        let known = [
            "pool", "slot", "listen", "cause", "outcome", "state", "version",
        ];
        assert!(labels.iter().all(|label| known.contains(label)));
        let is_timed = family.name.ends_with("_seconds") || family.name.ends_with("_bytes");
        assert_eq!(is_timed, ["seconds", "bytes"].contains(&family.unit));
    }
    let text = render(&metrics(), Format::Text);
    for (family, labels) in FAMILIES {
        let name = family.sample_name();
        let sample = text.lines().find(|line| line.starts_with(&name));
        let sample = sample.unwrap_or_else(|| panic!("no sample of {name}"));
        assert!(
            labels
                .iter()
                .all(|label| sample.contains(&format!("{label}=\""))),
            "{sample}"
        );
    }
}

#[test]
fn what_is_not_known_has_no_sample() {
    let mut all = metrics();
    all.pools.clear();
    all.listeners.truncate(1);
    all.master.process = None;
    let text = render(&all, Format::OpenMetrics);
    for absent in [
        "rotad_pool",
        "overflows",
        "rotad_master_cpu",
        "rotad_worker",
    ] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    assert!(text.contains("rotad_listener_queue_connections{listen=\"unix\"} 0\n"));
    assert!(text.ends_with("# EOF\n"));
}
