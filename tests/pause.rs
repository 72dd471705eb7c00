//! Promise 12: a paused master (SIGSTOP, a suspended machine) kills nobody for the pause: all deadlines move by it.

mod support;

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use support::{Site, alone, proc, spaced, until};

/// Pauses the master for 5 s.
fn pause(site: &Site) {
    let master = site.pid();
    site.signal(Signal::SIGSTOP);
    until("it is paused", 5, || (proc::stat(master)?[0] == "T").then_some(()));
    spaced(Duration::from_secs(5));
    site.signal(Signal::SIGCONT);
}

/// A worker that needs 6 s to leave and has 3 s; the master sleeps through 5 s of them: it leaves by itself.
#[test]
fn a_draining_worker_is_not_killed_for_it() {
    let _alone = alone();
    let mut site = Site::up(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--drain-ms\", \"6000\", \"--terms\", \"@DIR@/terms\", \
         \"--ended\", \"@DIR@/ended\"]\nready = \"notify\"\nstop = \"3s\"\n",
    );
    site.signal(Signal::SIGTERM);
    until("the worker got its TERM", 5, || (!site.lines("terms").is_empty()).then_some(()));
    pause(&site);
    assert_eq!(site.await_exit(10).code(), Some(0));
    assert_eq!(site.lines("ended").len(), 1, "it was killed for the master's pause");
}

/// A worker that needs 6 s to start and has 3 s: the same.
#[test]
fn a_starting_worker_is_not_killed_for_it() {
    let _alone = alone();
    let mut site = Site::new(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--start-ms\", \"6000\", \"--starts\", \"@DIR@/starts\"]\n\
         ready = \"notify\"\nready_timeout = \"3s\"\nstop = \"1s\"\n",
    );
    site.run();
    until("it starts", 10, || (!site.lines("starts").is_empty()).then_some(()));
    pause(&site);
    site.await_ready();
    assert_eq!(site.lines("starts").len(), 1, "it was killed for the master's pause");
}

/// Without a pause the same worker is killed in time: the deadline does hold.
#[test]
fn without_a_pause_the_deadline_holds() {
    let _alone = alone();
    let mut site = Site::up(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--drain-ms\", \"6000\", \"--ended\", \"@DIR@/ended\"]\n\
         ready = \"notify\"\nstop = \"1s\"\n",
    );
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    site.await_exit(4);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(site.lines("ended").is_empty());
}
