//! `guardian = true`: a master that is killed is replaced, and goes on with the workers, the clients and the rolling
//! restart of the one before.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{Load, Random, Site, all_ready, alone, pids, pool, proc, spaced, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 4
listen = ["http"]
stop = "10s"
[pool.web.reload]
soak = "200ms"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn up(pools: &str) -> Site {
    let mut site = Site::with_master("guardian = true", pools);
    site.run();
    site.await_ready();
    site
}

/// Kills the master by this signal, and waits for the next one.
fn kill_master(site: &Site, signal: Signal) {
    let master = site.pid();
    kill(Pid::from_raw(master), signal).expect("the master");
    until("the next master", 10, || {
        let next = site.read("master.pid").trim().parse().ok();
        next.filter(|pid: &i32| *pid != master)
    });
}

fn restarts(status: &Value) -> u64 {
    status["master"]["restarts"].as_u64().expect("a number")
}

#[test]
fn a_killed_master_is_replaced_and_its_workers_serve_on() {
    let _alone = alone();
    let mut site = up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(100);
    for death in 1..=5 {
        kill_master(&site, Signal::SIGKILL);
        let status = site.await_status("restored", 10, |status| restarts(status) == death);
        assert_eq!(pids(&status, "web"), before, "the same workers");
        assert!(all_ready(&status), "{status}");
        assert_eq!(status["master"]["last_death"]["signal"], "KILL");
        assert_eq!(status["master"]["pid"], site.pid());
        load.await_more(50);
    }
    let status = site.await_ready();
    let guardian = status["master"]["guardian"].as_i64().expect("a pid") as i32;
    assert_eq!(proc::parent(site.pid()), Some(guardian));
    let events = site.events();
    let restored = events
        .iter()
        .filter(|event| event["event"] == "master-restored");
    assert_eq!(restored.count(), 5, "{events:?}");
    let numbers: Vec<u64> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
    load.stop().assert_nothing_lost(300);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.await_exit(10).success());
    site.assert_empty();
}

/// In a worker that a dead master has started, the guardian knows the exit status.
#[test]
fn how_a_worker_of_a_dead_master_ended_is_known() {
    let _alone = alone();
    let site = up(WEB);
    kill_master(&site, Signal::SIGKILL);
    let status = site.await_status("restored", 10, |status| restarts(status) == 1);
    let worker = pids(&status, "web")[0];
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("a worker");
    let status = site.await_status("it is replaced", 10, |status| {
        !pids(status, "web").contains(&worker) && all_ready(status)
    });
    let workers = pool(&status, "web")["workers"].as_array().expect("workers");
    let ends: Vec<&Value> = workers.iter().map(|worker| &worker["last_exit"]).collect();
    assert!(ends.iter().any(|end| end["signal"] == "KILL"), "{ends:?}");
    assert!(proc::gone(worker), "and it is reaped");
}

/// The master dies again and again while pools are rolled under load: every client that waits for its roll is answered,
/// no request is lost, and no worker is there twice.
#[test]
fn rolls_go_on_over_the_deaths_of_masters() {
    let _alone = alone();
    let site = up(WEB);
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(100);
    let seed = std::env::var("ROTAD_CHAOS_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    eprintln!("seed {seed} (ROTAD_CHAOS_SEED)");
    let mut random = Random::new(seed);
    let rolls = 4;
    std::thread::scope(|scope| {
        let roller = scope.spawn(|| {
            for roll in 0..rolls {
                let run = site.rotad(&["roll", "--timeout", "60s"]);
                assert_eq!(run.code, 0, "roll {roll}: {run:?}");
                assert!(run.out.contains("web: done"), "{run:?}");
            }
        });
        while !roller.is_finished() {
            spaced(std::time::Duration::from_millis(random.below(400) as u64));
            kill_master(&site, Signal::SIGKILL);
        }
        roller.join().expect("all rolls are done");
    });
    let status = site.await_status("all is done", 20, |status| {
        all_ready(status) && pool(status, "web")["state"] == "ok"
    });
    assert_eq!(pool(&status, "web")["generation"], 1 + rolls);
    assert!(restarts(&status) > 0);
    let known = pids(&status, "web");
    until("old workers are gone", 10, || {
        let workers = site
            .processes()
            .into_iter()
            .filter(|pid| proc::command_line(*pid).contains("http --work-ms"));
        let all: Vec<i32> = workers.collect();
        (all.len() == known.len() && all.iter().all(|pid| known.contains(pid))).then_some(())
    });
    load.stop().assert_nothing_lost(200);
}

/// Signals to the process that was started reach the master, and its exit code is that of the master.
#[test]
fn the_guardian_passes_signals_on_and_ends_with_the_masters_code() {
    let _alone = alone();
    let mut site = up(WEB);
    let status = site.await_ready();
    let guardian = status["master"]["guardian"].as_i64().expect("a pid") as i32;
    kill(Pid::from_raw(guardian), Signal::SIGUSR1).expect("the guardian");
    site.await_status("rolled", 30, |status| {
        pool(status, "web")["reload"]["state"] == "done" && all_ready(status)
    });
    let me = std::process::id();
    site.await_log(&format!("USR1 from pid {me}"), 5);
    // Also after the master was replaced.
    kill_master(&site, Signal::SIGABRT);
    let status = site.await_status("restored", 10, |status| restarts(status) == 1);
    assert_eq!(status["master"]["last_death"]["signal"], "ABRT");
    kill(Pid::from_raw(guardian), Signal::SIGTERM).expect("the guardian");
    assert!(site.await_exit(20).success());
    site.assert_empty();
}

/// What workers print while there is no master is in the log, line by line.
#[test]
fn no_line_is_lost_when_masters_die() {
    let _alone = alone();
    let lines = r#"
[pool.talk]
command = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; done"]
ready = "spawned"
stop = "2s"
[pool.talk.log]
stdout = "@DIR@/talk.log"
max_size = "1GiB"
"#;
    let site = up(lines);
    for _ in 0..3 {
        let size = site.read("talk.log").len();
        until("more lines", 10, || {
            (site.read("talk.log").len() > size + 10_000).then_some(())
        });
        kill_master(&site, Signal::SIGKILL);
    }
    site.await_status("restored", 10, |status| restarts(status) == 3);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let text = site.read("talk.log");
    let numbers: std::collections::BTreeSet<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    let last = *numbers.last().expect("lines");
    assert_eq!(
        numbers.len() as u64,
        last,
        "none of {last} lines is missing"
    );
}
