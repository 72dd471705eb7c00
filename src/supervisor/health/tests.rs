//! [`Health`] as the supervisor uses it, without workers.

use super::Health;
use crate::config;
use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox;
use crate::event_loop::waker::Waker;
use crate::probe::accept::AcceptProbe;
use crate::process::SpawnerConfig;
use crate::supervisor::report::Report;
use rotad_core::{Time, WorkerId};

/// A worker that is asked to stop before its program runs is stopped first and runs then: only its end ends the probe
/// that began in between.
#[test]
fn a_probe_of_a_worker_that_never_was_ready_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rotad.toml");
    let text = "[pool.web]\ncommand = \"/bin/true\"\nready = { command = [\"false\"] }\n";
    std::fs::write(&path, text).unwrap();
    let plan = match config::load(&path) {
        Ok(loaded) => loaded.plan,
        Err(report) => panic!("{report}"),
    };
    let (clock, (reports, _inbox)) = (Clock::start(), mailbox::channel(Waker::new().unwrap()));
    let probe = AcceptProbe::start(reports.of(Report::Accept), clock.clone()).unwrap();
    let settings = SpawnerConfig {
        clock,
        original_nofile: (1024, 1024),
        shim: "/bin/false".into(),
    };
    let mut health = Health::new(settings, probe, &reports);
    let (worker, now) = (WorkerId(1), Time(0));
    health.stop(worker, now);
    let started = health.on_running(worker, &plan.pools[0], now);
    assert_eq!(started.len(), 1, "{started:?}");
    health.probing.start(1, Err("it is gone".to_owned()), now);
    assert!(health.probing.deadline().is_some());
    health.on_end(worker, now);
    assert_eq!(health.probing.deadline(), None);
}
