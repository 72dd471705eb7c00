//! Promise 12: a paused master (SIGSTOP, a suspended machine) kills nobody for the pause: all deadlines move by it.

mod support;

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use support::{Site, alone, proc, spaced, until};

/// Pauses the master for 5 s.
fn pause(site: &Site) {
    pause_for(site, 5);
}

fn pause_for(site: &Site, seconds: u64) {
    let master = site.pid();
    site.signal(Signal::SIGSTOP);
    until("it is paused", 5, || {
        (proc::stat(master)?[0] == "T").then_some(())
    });
    spaced(Duration::from_secs(seconds));
    site.signal(Signal::SIGCONT);
}

/// A worker that needs 6 s to leave and has 3 s; the master sleeps through 5 s of them: it leaves by itself.
#[test]
fn a_paused_master_kills_no_draining_worker() {
    let _alone = alone();
    let mut site = Site::up(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--drain-ms\", \"6000\", \"--terms\", \"@DIR@/terms\", \
         \"--ended\", \"@DIR@/ended\"]\nready = \"notify\"\nstop = \"3s\"\n",
    );
    site.signal(Signal::SIGTERM);
    until("the worker got its TERM", 5, || {
        (!site.lines("terms").is_empty()).then_some(())
    });
    pause(&site);
    assert_eq!(site.await_exit(10).code(), Some(0));
    assert_eq!(
        site.lines("ended").len(),
        1,
        "it was killed for the master's pause"
    );
}

/// A worker that needs 6 s to start and has 3 s: the same.
#[test]
fn a_paused_master_kills_no_starting_worker() {
    let _alone = alone();
    let mut site = Site::new(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--start-ms\", \"6000\", \"--starts\", \"@DIR@/starts\"]\n\
         ready = \"notify\"\nready_timeout = \"3s\"\nstop = \"1s\"\n",
    );
    site.run();
    until("it starts", 10, || {
        (!site.lines("starts").is_empty()).then_some(())
    });
    pause(&site);
    site.await_ready();
    assert_eq!(
        site.lines("starts").len(),
        1,
        "it was killed for the master's pause"
    );
}

/// `rotad start` waits for such a worker, whatever the master sleeps through: nothing failed, so the start has not.
#[test]
fn a_paused_master_fails_no_start() {
    let _alone = alone();
    let site = Site::new(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--start-ms\", \"11000\", \"--starts\", \"@DIR@/starts\"]\n\
         ready = \"notify\"\nready_timeout = \"5s\"\nstop = \"1s\"\n",
    );
    let run = std::thread::scope(|scope| {
        let start = scope.spawn(|| site.rotad(&["start"]));
        until("it starts", 10, || {
            (!site.lines("starts").is_empty()).then_some(())
        });
        pause_for(&site, 9);
        start.join().expect("an answer")
    });
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        site.lines("starts").len(),
        1,
        "it was killed for the master's pause"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// A worker that asks for more time gets it from the start as well.
#[test]
fn a_start_waits_as_long_as_a_worker_was_given() {
    let _alone = alone();
    let site = Site::new(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--start-ms\", \"4000\", \"--ask-ms\", \"8000\"]\n\
         ready = \"notify\"\nready_timeout = \"1500ms\"\nstop = \"1s\"\n",
    );
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
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
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert!(site.lines("ended").is_empty());
}
