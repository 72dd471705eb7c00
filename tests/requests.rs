//! Promise 4: every reload request, by signal or by command, at any moment, ends in exactly one of done, aborted,
//! rolled-back, superseded; a stop supersedes everything; and the master lives until it is told to leave.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use support::{Site, alone, number, pids, pool, spaced, until};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "wait", "--code", "@DIR@/code", "--drain-ms", "0"]
count = 2
ready = "spawned"
stop = "2s"
[pool.web.reload]
soak = "0ms"
surge = 2
[pool.web.restart]
delay = "10ms"
max_delay = "50ms"
[pool.queue]
kind = "task"
command = ["@WORKER@", "wait"]
ready = "spawned"
stop = "2s"
[pool.queue.reload]
soak = "0ms"
"#;

fn site(pools: &str) -> Site {
    let mut site = Site::new(pools);
    site.write("code", "ok\nfirst");
    site.run();
    site.await_ready();
    site
}

/// The pool is settled: no rolling restart runs or waits.
fn settled(site: &Site, name: &str) -> serde_json::Value {
    let still = site.await_status("the pool is settled", 30, |status| {
        let pool = pool(status, name);
        pool["state"] == "ok"
            && pool["alive"] == pool["wanted"]
            && pool["reload"]["state"] != "running"
    });
    pool(&still, name).clone()
}

/// USR1 at 0 to 4 ms after a worker's death, 1000 times (in at most 100 s): the wish is never lost.
#[test]
fn a_roll_just_after_an_exit_is_complete() {
    let _alone = alone();
    let mut site = site(POOLS);
    let (master, end) = (site.pid(), Instant::now() + Duration::from_secs(100));
    let mut generation = 1.0;
    let mut rounds = 0;
    for round in 0..1000_u64 {
        if Instant::now() > end {
            break;
        }
        let worker = until("a worker", 10, || {
            pids(&site.status()?, "web").first().copied()
        });
        let _ = kill(Pid::from_raw(worker), Signal::SIGKILL);
        spaced(Duration::from_micros(round % 41 * 100));
        kill(Pid::from_raw(master), Signal::SIGUSR1).expect("the master");
        let status = site.await_status("the wish is answered", 20, |status| {
            let reload = &pool(status, "web")["reload"];
            number(&reload["generation"]) > generation && reload["state"] != "running"
        });
        let reload = &pool(&status, "web")["reload"];
        let state = reload["state"].as_str().expect("a state");
        assert!(
            ["done", "aborted", "rolled-back", "superseded"].contains(&state),
            "round {round}: {status}"
        );
        generation = number(&reload["generation"]);
        rounds += 1;
    }
    assert!(rounds >= 200, "only {rounds} rounds in the time given");
    assert!(site.master_lives());
    assert_eq!(settled(&site, "web")["reload"]["state"], "done");
}

/// 1000 USR1 within a second: the master lives, and the workers that serve in the end were born after the last one.
#[test]
fn a_thousand_signals_in_a_second_are_one_roll() {
    let _alone = alone();
    let mut site = site(POOLS);
    let first = pids(&site.await_ready(), "web");
    let master = Pid::from_raw(site.pid());
    for _ in 0..1000 {
        kill(master, Signal::SIGUSR1).expect("the master");
        spaced(Duration::from_millis(1));
    }
    let generation_then =
        number(&pool(&site.status().expect("a status"), "web")["reload"]["generation"]);
    let pool_now = settled(&site, "web");
    assert_eq!(pool_now["reload"]["state"], "done", "{pool_now}");
    assert!(number(&pool_now["generation"]) >= generation_then);
    assert!(
        pids(&site.status().expect("a status"), "web")
            .iter()
            .all(|pid| !first.contains(pid))
    );
    assert!(site.master_lives());
}

/// USR1 and USR2 at the same moment: both are obeyed.
#[test]
fn requests_at_the_same_time_are_all_answered() {
    let _alone = alone();
    let mut site = site(POOLS);
    let master = Pid::from_raw(site.pid());
    for round in 2..=10 {
        kill(master, Signal::SIGUSR1).expect("the master");
        kill(master, Signal::SIGUSR2).expect("the master");
        for name in ["web", "queue"] {
            site.await_status("both are rolled", 20, |status| {
                let pool = pool(status, name);
                pool["generation"] == round && pool["reload"]["state"] == "done"
            });
        }
    }
    assert!(site.master_lives());
}

/// Twenty clients at the same time: each gets an answer, with an exit code of docs/cli.md.
#[test]
fn every_client_gets_its_answer() {
    let _alone = alone();
    let site = site(&POOLS.replace("soak = \"0ms\"\nsurge", "soak = \"300ms\"\nsurge"));
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| site.rotad(&["roll", "web"])))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client").code)
            .collect()
    });
    assert!(codes.iter().all(|code| *code == 0), "{codes:?}");
    assert_eq!(settled(&site, "web")["reload"]["state"], "done");
}

/// A client that goes away while it waits (Ctrl-C) detaches: the roll goes on.
#[test]
fn a_request_goes_on_without_its_client() {
    let site = site(&POOLS.replace("soak = \"0ms\"\nsurge", "soak = \"1s\"\nsurge"));
    let mut command = std::process::Command::new(support::rotad());
    command.args(["roll", "web", "-c"]).arg(&site.config);
    let mut client = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a client");
    site.await_status("the roll runs", 10, |status| {
        pool(status, "web")["reload"]["state"] == "running"
    });
    kill(Pid::from_raw(client.id() as i32), Signal::SIGINT).expect("the client");
    client.wait().expect("its end");
    site.await_status("the roll is done", 20, |status| {
        pool(status, "web")["reload"]["state"] == "done"
    });
    let run = site.rotad(&["roll", "web", "--timeout", "100ms"]);
    assert_eq!(run.code, 124, "{run:?}");
    site.await_status("that one too", 20, |status| {
        pool(status, "web")["generation"] == 3
    });
}

/// `cancel` ends a running roll: back to the last generation that served in full; the roll's client hears of it.
#[test]
fn a_roll_can_be_cancelled() {
    let site = site(&POOLS.replace("soak = \"0ms\"\nsurge", "soak = \"20s\"\nsurge"));
    let old = pids(&site.await_ready(), "web");
    let code = std::thread::scope(|scope| {
        let client = scope.spawn(|| site.rotad(&["roll", "web"]));
        site.await_status("the roll runs", 10, |status| {
            pool(status, "web")["reload"]["state"] == "running"
        });
        let run = site.rotad(&["cancel", "web"]);
        assert_eq!(run.code, 0, "{run:?}");
        client.join().expect("the client").code
    });
    assert_eq!(code, 10);
    let pool = settled(&site, "web");
    assert_eq!(pool["generation"], 1, "{pool}");
    assert_eq!(pids(&site.status().expect("a status"), "web"), old);
}

/// TERM while the pool is in each state: the master leaves, nothing stays, a waiting client is answered.
#[test]
fn a_stop_works_in_every_state() {
    let _alone = alone();
    let long = POOLS
        .replace("soak = \"0ms\"\nsurge", "soak = \"20s\"\nsurge")
        .replace("\"spawned\"", "{ after = \"300ms\" }");
    type Is = fn(&serde_json::Value) -> bool;
    let states: [(&str, &str, Is); 5] = [
        ("starting", "ok\n", |pool| pool["state"] == "starting"),
        ("ok", "ok\n", |pool| pool["state"] == "ok"),
        ("backoff", "exit 1\nbroken", |pool| {
            pool["workers"].to_string().contains("\"backoff\"")
        }),
        ("crash-loop", "exit 1\nbroken", |pool| {
            pool["state"] == "crash-loop"
        }),
        ("soaking", "ok\n", |pool| {
            pool["workers"].to_string().contains("\"soaking\"")
        }),
    ];
    for (name, code, is) in states {
        // The first never gets out of its state by itself.
        let mut site = Site::new(&if name == "starting" {
            long.replace("{ after = \"300ms\" }", "\"notify\"")
        } else {
            long.clone()
        });
        site.write("code", code);
        site.run();
        let client = (name == "soaking").then(|| {
            site.await_ready();
            let config = site.config.clone();
            std::thread::spawn(move || support::site::verb(&config, &["roll", "web"], 60))
        });
        site.await_status(name, 20, |status| is(pool(status, "web")));
        let asked = Instant::now();
        site.signal(Signal::SIGTERM);
        let status = site.await_exit(10);
        assert!(
            asked.elapsed() < Duration::from_secs(4),
            "{name}: {:?}",
            asked.elapsed()
        );
        assert_eq!(status.code(), Some(0), "{name}: {status}");
        site.assert_empty();
        if let Some(client) = client {
            let run = client.join().expect("the client");
            assert!(
                [0, 1, 4, 10].contains(&run.code),
                "{name}: an answer, not silence: {run:?}"
            );
        }
    }
}

/// TERM while a roll goes back, and while the tree of one that failed is killed.
#[test]
fn a_stop_during_a_rollback_works() {
    let _alone = alone();
    let mut site = site(&POOLS.replace("soak = \"0ms\"\nsurge", "soak = \"3s\"\nsurge"));
    site.write("code", "die 100\nill");
    site.signal(Signal::SIGUSR1);
    site.await_status("the roll is not going well", 10, |status| {
        let pool = pool(status, "web");
        pool["state"] == "rolling-back"
            || pool["reload"]["state"] == "aborted"
            || pool["reload"]["state"] == "rolled-back"
    });
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
    site.assert_empty();
}
