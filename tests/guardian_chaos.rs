//! Masters and guardians are killed at random moments while an operator rolls, reloads, edits, scales, stops and starts
//! pools and rotates logs, under load. `ROTAD_GUARDIAN_KILLS`: how many; `ROTAD_CHAOS_SEED`: another order of events.

#![allow(clippy::print_stderr, reason = "the counts of a long run")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{
    Load, Random, Run, Site, all_ready, alone, asked_for, counted, pids, pool, proc, spaced, until,
};

/// `talk` is rotated by rotad, `told` by the operator. What they print is bounded: 45 KB a second each.
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
env = { EDITED = "0" }
[pool.talk]
command = ["@WORKER@", "counts", "--lines", "20", "--work-ms", "20"]
count = 2
ready = "spawned"
reload = { soak = "50ms" }
stop = "5s"
log = { stdout = "@DIR@/talk.log", max_size = "128KiB", keep = 10000 }
[pool.told]
command = ["@WORKER@", "counts", "--lines", "20", "--work-ms", "20"]
count = 1
ready = "spawned"
reload = { soak = "50ms" }
stop = "5s"
log = { stdout = "@DIR@/told.log", max_size = "1GiB" }
[listen.http]
address = "127.0.0.1:@PORT@"
"#;
const COUNTS: [(&str, usize); 4] = [("web", 4), ("jobs", 3), ("talk", 2), ("told", 1)];

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

fn survive(victim: Victim, kills: u64) {
    let _alone = alone();
    let kills = asked_for("ROTAD_GUARDIAN_KILLS").unwrap_or(kills);
    let seed = asked_for("ROTAD_CHAOS_SEED").unwrap_or(1);
    let site = Site::up(POOLS);
    let loads = [
        Load::on(&site.address(), 2, 0),
        Load::on(&site.address(), 0, 2),
    ];
    loads.iter().for_each(|load| load.await_more(20));
    let done = AtomicBool::new(false);
    let mut random = Random::new(seed);
    let (answers, events) = std::thread::scope(|scope| {
        let operator = scope.spawn(|| operate(&site, seed, &done));
        let watcher = scope.spawn(|| watch_events(&site, &done));
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
        let answers = operator.join();
        (
            answers.expect("the operator gets an answer to everything"),
            watcher.join().expect("events go on over each gap"),
        )
    });
    // Whatever was interrupted is made whole by commands that are not.
    for verb in [
        &["reload"][..],
        &["start", "jobs"],
        &["scale", "web", "4"],
        &["roll"],
    ] {
        let run = site.rotad(verb);
        assert_eq!(run.code, 0, "{verb:?}, seed {seed}: {run:?}");
    }
    let status = site.await_status("all is well", 20, |status| {
        all_ready(status)
            && COUNTS
                .iter()
                .all(|(name, _)| pool(status, name)["state"] == "ok")
    });
    let mut known = Vec::new();
    for (name, count) in COUNTS {
        let pids = pids(&status, name);
        assert_eq!(pids.len(), count, "{name}: {status}");
        known.extend(pids);
    }
    until("no worker but these", 15, || {
        let all = site.processes().into_iter();
        let line = |pid: &i32| proc::command_line(*pid);
        let works = |pid: &i32| line(pid).contains("testworker");
        let workers: Vec<i32> = all.filter(works).collect();
        (workers.len() == known.len() && workers.iter().all(|pid| known.contains(pid)))
            .then_some(())
    });
    let mut served = 0;
    for load in loads {
        let report = load.stop();
        served += report.ok;
        report.assert_nothing_lost(20);
    }
    let guardian = site.guardian();
    assert_eq!(site.rotad(&["stop"]).code, 0);
    until("it has ended", 10, || proc::gone(guardian).then_some(()));
    site.assert_empty();
    let lines = [&["talk.log", ""][..], &["told.log", "moved."]].map(|names| {
        let text = whole_log(&site, names[0], names[1]);
        counted::assert_each_line_once(&text, &format!("{victim:?}, seed {seed}"))
    });
    eprintln!(
        "{victim:?}, seed {seed}: {kills} kills, {served} requests, {events} events, {lines:?} lines and workers that \
         printed them, answers: {answers:?}"
    );
}

/// Kills the master or the guardian, and waits until another one has taken its place.
fn kill_one(site: &Site, kills_guardian: bool, what: (Victim, u64, u64)) {
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

/// Runs commands until all kills are done. Returns how often which command was answered by which exit code: 0, or 10 and
/// 1 where masters that died in a row have ended what was asked for.
fn operate(site: &Site, seed: u64, done: &AtomicBool) -> BTreeMap<String, usize> {
    let mut random = Random::new(seed + 1);
    let mut answers = BTreeMap::new();
    let mut edited = 0;
    let mut ask = |verb: &[&str]| {
        let run: Run = site.rotad(verb);
        assert!(
            [0, 1, 10].contains(&run.code),
            "{verb:?}, seed {seed}: {run:?}"
        );
        assert!(!run.text().contains("panicked"), "{run:?}");
        *answers
            .entry(format!("{} {}", verb[0], run.code))
            .or_insert(0) += 1;
        run.code
    };
    while !done.load(Ordering::Relaxed) {
        let count = (2 + random.below(4)).to_string();
        match random.below(11) {
            0 => ask(&["roll"]),
            1 => ask(&["reload"]),
            2 => ask(&["scale", "web", &count]),
            3 => ask(&["stop", "jobs"]),
            4 => ask(&["start", "jobs"]),
            5 => ask(&["roll", "web"]),
            6 => ask(&["scale", "jobs", &count]),
            7 => {
                // Its requests wait in the listening socket, which stays open.
                ask(&["stop", "web"]);
                until("web is started", 30, || {
                    (ask(&["start", "web"]) == 0).then_some(0)
                })
            }
            8 => {
                edit(site, edited);
                edited += 1;
                ask(&["reload"])
            }
            9 => {
                edit(site, edited);
                edited += 1;
                signal_guardian(site, Signal::SIGHUP)
            }
            _ => rotate(site),
        };
    }
    // The count that was scaled holds until the one in the file changes.
    ask(&["scale", "jobs", "3"]);
    answers
}

/// Changes what the workers of `jobs` are made from.
fn edit(site: &Site, number: u32) {
    let from = format!("EDITED = \"{number}\"");
    site.edit(&from, &format!("EDITED = \"{}\"", number + 1));
}

/// What does not reach a guardian that is just being killed is not signalled again.
fn signal_guardian(site: &Site, signal: Signal) -> i32 {
    if let Some(guardian) = proc::guardian_of(site.pid()) {
        let _ = kill(Pid::from_raw(guardian), signal);
    }
    0
}

/// As logrotate does: moves the file away, and lets the master open another one. If that has not happened since the last
/// time, there is no file to move.
fn rotate(site: &Site) -> i32 {
    let number = (0..).find(|number| !site.path(&format!("moved.{number}")).exists());
    let moved = format!("moved.{}", number.expect("a number"));
    if fs::rename(site.path("told.log"), site.path(&moved)).is_ok() {
        signal_guardian(site, Signal::SIGWINCH);
    }
    0
}

/// Follows the events: over each gap their numbers go on, none is told twice or otherwise than before, and none says that
/// the exit status of a worker is unknown. Returns how many there were.
fn watch_events(site: &Site, done: &AtomicBool) -> u64 {
    let mut last = 0;
    let mut seen: BTreeMap<u64, Value> = BTreeMap::new();
    let mut check = || {
        for event in site.events() {
            let number = event["seq"].as_u64().expect("a number");
            assert!(
                !event["text"].to_string().contains("unknown"),
                "every exit status is known: {event}"
            );
            assert!(number <= last + 1, "{event} follows {last}");
            last = last.max(number);
            let before = seen.entry(number).or_insert_with(|| event.clone());
            assert_eq!(*before, event, "an event is told as before");
        }
        // The master keeps a thousand.
        seen = seen.split_off(&last.saturating_sub(2_000));
    };
    while !done.load(Ordering::Relaxed) {
        check();
        spaced(Duration::from_millis(300));
    }
    check();
    last
}

/// What is in a log and the files that were moved away from it, in the order in which it was written.
fn whole_log(site: &Site, name: &str, moved: &str) -> String {
    let numbered = |number: u64| match moved {
        "" => format!("{name}.{number}"),
        moved => format!("{moved}{number}"),
    };
    let first = u64::from(moved.is_empty());
    let mut names: Vec<String> = (first..)
        .map(numbered)
        .take_while(|name| site.path(name).exists())
        .collect();
    if moved.is_empty() {
        names.reverse(); // rotad's own: NAME.1 is the newest
    }
    names.push(name.to_owned());
    names.iter().map(|name| site.read(name)).collect()
}
