//! Masters and guardians are killed at random moments while an operator rolls, reloads, scales, stops and starts pools
//! under load. `ROTAD_GUARDIAN_KILLS`: how many; `ROTAD_CHAOS_SEED`: another order of events.

#![allow(clippy::print_stderr, reason = "the counts of a long run")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Load, Random, Run, Site, all_ready, alone, pids, pool, proc, spaced, until};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "2"]
count = 4
listen = ["http"]
stop = "10s"
reload = { soak = "50ms" }
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait"]
count = 3
ready = "spawned"
reload = { soak = "50ms" }
stop = "5s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// A number from the environment.
fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Master,
    Guardian,
    /// The one, and then the other.
    InTurn,
}

/// So that three masters may die within ten seconds, which ends rolling restarts and what waits.
const SHORTEST_WAIT_MS: usize = 100;
const LONGEST_WAIT_MS: usize = 900;

#[test]
fn masters_die_while_an_operator_works() {
    survive(Victim::Master, 12);
}

#[test]
fn guardians_die_while_an_operator_works() {
    survive(Victim::Guardian, 8);
}

#[test]
fn both_die_in_turn_while_an_operator_works() {
    survive(Victim::InTurn, 8);
}

fn survive(victim: Victim, kills: usize) {
    let _alone = alone();
    let kills = number("ROTAD_GUARDIAN_KILLS").unwrap_or(kills);
    let seed = number("ROTAD_CHAOS_SEED").unwrap_or(1);
    let site = Site::up(POOLS);
    let loads = [
        Load::on(&site.address(), 2, 0),
        Load::on(&site.address(), 0, 2),
    ];
    loads.iter().for_each(|load| load.await_more(20));
    let done = AtomicBool::new(false);
    let mut random = Random::new(seed as u64);
    let answers = std::thread::scope(|scope| {
        let operator = scope.spawn(|| operate(&site, seed as u64, &done));
        for number in 0..kills {
            let span = LONGEST_WAIT_MS - SHORTEST_WAIT_MS;
            spaced(Duration::from_millis(
                (SHORTEST_WAIT_MS + random.below(span)) as u64,
            ));
            let kills_guardian = match victim {
                Victim::Master => false,
                Victim::Guardian => true,
                Victim::InTurn => number % 2 == 0,
            };
            kill_one(&site, kills_guardian, (victim, seed, number));
        }
        done.store(true, Ordering::Relaxed);
        operator
            .join()
            .expect("the operator gets an answer to everything")
    });
    // Whatever was interrupted is made whole by commands that are not.
    for verb in [&["start", "jobs"][..], &["scale", "web", "4"], &["roll"]] {
        let run = site.rotad(verb);
        assert_eq!(run.code, 0, "{verb:?}, seed {seed}: {run:?}");
    }
    let status = site.await_status("all is well", 20, |status| {
        all_ready(status)
            && ["web", "jobs"]
                .iter()
                .all(|name| pool(status, name)["state"] == "ok")
    });
    let mut known = pids(&status, "web");
    known.extend(pids(&status, "jobs"));
    assert_eq!(known.len(), 4 + 3, "{status}");
    until("no worker but these", 15, || {
        let all = site.processes().into_iter();
        let line = |pid: &i32| proc::command_line(*pid);
        let works = |pid: &i32| line(pid).contains("testworker");
        let workers: Vec<i32> = all.filter(works).collect();
        (workers.len() == known.len() && workers.iter().all(|pid| known.contains(pid)))
            .then_some(())
    });
    let ended = site.events();
    let unknown = ended.iter().filter(|event| event["exit"] == "unknown");
    assert_eq!(unknown.count(), 0, "every exit status is known");
    let mut served = 0;
    for load in loads {
        let report = load.stop();
        served += report.ok;
        report.assert_nothing_lost(20);
    }
    eprintln!("{victim:?}: {kills} kills, {served} requests, answers: {answers:?}");
    let guardian = site.guardian();
    assert_eq!(site.rotad(&["stop"]).code, 0);
    until("it has ended", 10, || proc::gone(guardian).then_some(()));
    site.assert_empty();
}

/// Kills the master or the guardian, and waits until another one has taken its place.
fn kill_one(site: &Site, kills_guardian: bool, what: (Victim, usize, usize)) {
    let (guardian, master) = until("both processes", 20, || {
        let master = site.pid();
        Some((proc::guardian_of(master)?, master))
    });
    let pid = if kills_guardian { guardian } else { master };
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|error| panic!("{what:?}: {error}"));
    until("the next master", 20, || {
        let next: i32 = site.read("master.pid").trim().parse().ok()?;
        (next != master && proc::guardian_of(next).is_some()).then_some(())
    });
}

/// Runs commands until all kills are done. Returns how often which exit code came: 0, or 10 and 1 where masters that died
/// in a row have ended what was asked for.
fn operate(site: &Site, seed: u64, done: &AtomicBool) -> BTreeMap<i32, usize> {
    let mut random = Random::new(seed + 1);
    let mut answers = BTreeMap::new();
    while !done.load(Ordering::Relaxed) {
        let count = (2 + random.below(4)).to_string();
        let verbs: [&[&str]; 6] = [
            &["roll"],
            &["reload"],
            &["scale", "web", &count],
            &["stop", "jobs"],
            &["start", "jobs"],
            &["roll", "web"],
        ];
        let verb = verbs[random.below(verbs.len())];
        let run: Run = site.rotad(verb);
        assert!(
            [0, 1, 10].contains(&run.code),
            "{verb:?}, seed {seed}: {run:?}"
        );
        assert!(!run.text().contains("panicked"), "{run:?}");
        *answers.entry(run.code).or_insert(0) += 1;
    }
    answers
}
