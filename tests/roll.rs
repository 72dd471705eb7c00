//! Promise 1: a rolling restart loses no request, and never has fewer than `count` ready workers nor more than
//! `count + surge + max_draining` processes.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Load, Site, Watch, alone, number, pids, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "20"]
count = 4
listen = ["http"]
stop = "10s"
[pool.web.reload]
surge = 1
max_draining = 2
soak = "100ms"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn rolled(status: &Value, generation: u64) -> bool {
    let web = pool(status, "web");
    web["reload"]["state"] == "done" && web["generation"] == generation && web["state"] == "ok"
}

/// Ten rolling restarts by `kill -USR1 $(cat master.pid)` under load from closing and keep-alive clients.
#[test]
fn ten_rolls_by_signal_lose_nothing() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let master = site.pid();
    let load = Load::on(&site.address(), 8, 8);
    load.await_more(100);
    let watch = Watch::over(&site, "web");
    for roll in 0..10 {
        let before = pids(&site.await_ready(), "web");
        site.signal(Signal::SIGUSR1);
        let status = site.await_status("the roll is done", 30, |status| {
            rolled(status, roll + 2) && support::all_ready(status)
        });
        let after = pids(&status, "web");
        assert!(
            after.iter().all(|pid| !before.contains(pid)),
            "roll {roll}: {before:?} became {after:?}"
        );
        assert_eq!(pool(&status, "web")["reload"]["replaced"], 4, "roll {roll}");
    }
    until("5000 answers", 60, || {
        (load.so_far().ok >= 5000 || load.so_far().lost() > 0).then_some(())
    });
    let (seen, report) = (watch.seen(), load.stop());
    report.assert_nothing_lost(5000);
    assert!(seen.min_ready >= 4, "{seen:?}");
    assert!(seen.max_alive <= 4 + 1 + 2, "{seen:?}");
    assert!(seen.samples > 50, "{seen:?}");
    assert!(
        report.by_worker.len() >= 40,
        "answers came from {} workers",
        report.by_worker.len()
    );
    assert_eq!(site.pid(), master);
    assert!(site.master_lives());
}

/// Workers that need 1 s to start: the throughput does not dip while they are replaced.
#[test]
fn slow_starters_keep_the_throughput() {
    let _alone = alone();
    let site = Site::up(&WEB.replace("\"20\"", "\"20\", \"--start-ms\", \"1000\""));
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(1000);
    let before = load.so_far();
    site.signal(Signal::SIGUSR1);
    site.await_status("the roll is done", 60, |status| rolled(status, 2));
    let rolled_at = load.so_far().tenths.len();
    let report = load.stop();
    report.assert_nothing_lost(2000);
    // Full tenths only: the first one before the signal and those on the borders are cut off.
    let steady = &before.tenths[2..before.tenths.len() - 1];
    let steady = steady.iter().sum::<u64>() as f64 / steady.len() as f64;
    let during = &report.tenths[before.tenths.len() + 1..rolled_at - 1];
    assert!(
        during.len() >= 30,
        "a roll of four workers of 1 s took {} tenths",
        during.len()
    );
    let seconds: Vec<u64> = during
        .chunks_exact(10)
        .map(|tenths| tenths.iter().sum())
        .collect();
    let lowest = *seconds.iter().min().expect("a second") as f64 / 10.0;
    assert!(
        lowest > steady * 0.7,
        "{steady} answers a tenth before, {lowest} in the weakest second of the roll"
    );
}

/// Surge 0: one stops, and only when it is gone the next one starts; never fewer than `count - 1` ready.
#[test]
fn without_surge_one_worker_is_replaced_at_a_time() {
    let _alone = alone();
    let site = Site::up(&WEB.replace("surge = 1", "surge = 0"));
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(100);
    let watch = Watch::over(&site, "web");
    site.signal(Signal::SIGUSR1);
    site.await_status("the roll is done", 60, |status| rolled(status, 2));
    let (seen, report) = (watch.seen(), load.stop());
    report.assert_nothing_lost(100);
    assert!(seen.min_ready >= 3, "{seen:?}");
    assert!(seen.max_alive <= 4, "{seen:?}");
}

/// `rotad roll` waits, prints a line a worker, ends with 0; `--no-wait` does not wait; a pool that is not there is 4.
#[test]
fn a_roll_by_command_waits_for_its_end() {
    let site = Site::up(WEB);
    let run = site.rotad(&["roll", "web"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.status().expect("a status");
    assert_eq!(pool(&status, "web")["generation"], 2);
    assert!(
        number(&pool(&status, "web")["reload"]["took_s"]) > 0.0,
        "{status}"
    );
    assert!(run.text().lines().count() >= 4, "a line a worker: {run:?}");
    assert_eq!(site.rotad(&["roll", "--no-wait"]).code, 0);
    site.await_status("the roll without waiting is done", 30, |status| {
        rolled(status, 3)
    });
    let run = site.rotad(&["roll", "wen"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("wen"), "{run:?}");
}

/// USR1 rolls pools of kind `worker`, USR2 those of kind `task`; `[signals]` may say otherwise.
#[test]
fn signals_roll_pools_by_kind() {
    let task = "[pool.queue]\nkind = \"task\"\ncommand = [\"@WORKER@\", \"wait\", \"--notify\"]\nready = \"notify\"\n";
    let site = Site::up(&format!("{WEB}{task}"));
    let first = site.await_ready();
    site.signal(Signal::SIGUSR1);
    // A roll is done when the old ones have got their stop; here they have to be gone as well.
    let second = site.await_status("the workers are rolled", 30, |status| {
        rolled(status, 2) && pool(status, "web")["alive"] == pool(status, "web")["wanted"]
    });
    assert_eq!(
        pids(&second, "queue"),
        pids(&first, "queue"),
        "USR1 is not for tasks"
    );
    site.signal(Signal::SIGUSR2);
    let third = site.await_status("the tasks are rolled", 30, |status| {
        pool(status, "queue")["reload"]["state"] == "done"
    });
    assert_eq!(
        pids(&third, "web"),
        pids(&second, "web"),
        "USR2 is not for workers"
    );
    assert_ne!(pids(&third, "queue"), pids(&second, "queue"));
    drop(site);
    let site = Site::up(&format!(
        "[signals]\nUSR1 = \"roll-all\"\nUSR2 = \"ignore\"\n{WEB}{task}"
    ));
    site.signal(Signal::SIGUSR1);
    site.await_status("both are rolled", 30, |status| {
        rolled(status, 2) && pool(status, "queue")["reload"]["state"] == "done"
    });
}
