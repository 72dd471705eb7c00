//! rotad as the first process of a container. There is no container engine in these tests: the container is made of
//! the same namespaces, see [`support::jail`].

mod support;

use nix::sys::signal::Signal;
use std::fs;
use std::time::{Duration, Instant};
use support::{Jail, alone, never, pids, pool, proc, until};

const MASTER: &str = "[master]\nruntime_dir = \"/run/rotad\"\n";

fn web(keys: &str) -> String {
    format!(
        "{MASTER}[pool.web]\ncommand = [\"/bin/testworker\", \"http\", \"--work-ms\", \"700\"]\ncount = 2\n\
         listen = \"127.0.0.1:@PORT@\"\nstop = \"5s\"\n{keys}"
    )
}

/// A pool that waits for TERM, and writes when it has come.
fn waiting(keys: &str) -> String {
    format!(
        "{MASTER}[pool.jobs]\ncommand = [\"/bin/testworker\", \"wait\", \"--notify\", \"--terms\", \"/tmp/terms\"]\n\
         ready = \"notify\"\n{keys}"
    )
}

/// Connections that the workers have accepted: their sockets beyond the listener and the pair of their own.
fn accepted(jail: &Jail) -> usize {
    let sockets = |pid: &i32| proc::descriptors(*pid).values().filter(|what| what.starts_with("socket:")).count();
    let workers = proc::children(jail.pid());
    workers.iter().map(|pid| sockets(pid).saturating_sub(3)).sum()
}

/// `docker stop`: TERM, or what the image's STOPSIGNAL says.
#[test]
fn a_stop_answers_what_is_in_flight() {
    let _alone = alone();
    for signal in [Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
        let Some(mut jail) = Jail::new(&web("")) else { return };
        jail.start();
        jail.await_ready();
        let clients = support::load::burst(&jail.address(), "/", 16);
        until("16 accepted connections", 10, || (accepted(&jail) >= 16).then_some(()));
        let asked = Instant::now();
        jail.signal(signal);
        let answers: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        let lost: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
        assert!(lost.is_empty(), "{signal}: {} of 16 lost: {lost:?}", lost.len());
        assert_eq!(jail.await_exit(10).code(), Some(0), "after {signal}");
        assert!(asked.elapsed() < Duration::from_secs(4), "{signal}: {:?}", asked.elapsed());
        assert_eq!(jail.processes(), [0; 0], "left in the container");
    }
}

/// A stop that comes before the handlers stand is not forgotten, as the kernel would have it for a first process.
#[test]
fn a_stop_right_after_the_start_counts() {
    for _ in 0..10 {
        let Some(mut jail) = Jail::new(&waiting("")) else { return };
        jail.launch();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_past_its_first_moment(jail.pid()) {
            assert!(Instant::now() < deadline, "rotad has not begun: {}", jail.log());
        }
        jail.signal(Signal::SIGTERM);
        assert_eq!(jail.await_exit(10).code(), Some(0));
    }
}

/// What ends a program that does not expect it is ignored, as it is until the handlers stand, or has its handler.
fn is_past_its_first_moment(pid: i32) -> bool {
    let reopen = nix::libc::SIGRTMIN() as u32;
    let has = |set: &str| proc::status(pid, set).is_some_and(|hex| proc::signals(&hex).contains(&reopen));
    has("SigIgn") || has("SigCgt")
}
