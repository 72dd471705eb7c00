//! Promise 2: a rolling restart into code that does not come up leaves the old workers serving and loses no request
//! but those that a dying new worker itself had accepted.

mod support;

use nix::sys::signal::Signal;
use support::{Load, Site, Watch, alone, pids, pool};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "20", "--code", "@DIR@/code", "--starts", "@DIR@/starts"]
count = 3
listen = ["http"]
ready_timeout = "2s"
stop = "10s"
[pool.web.reload]
soak = "1s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn site() -> Site {
    let mut site = Site::new(WEB);
    site.write("code", "ok\nfirst");
    site.run();
    site.await_ready();
    site
}

/// Rolls into this code under load: exit code 10 with the worker's last words, old pids untouched, few starts.
/// How many requests were lost.
fn roll_into(code: &str, last_words: &str) -> u64 {
    let site = site();
    let old = pids(&site.await_ready(), "web");
    let starts = site.lines("starts").len();
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(50);
    let watch = Watch::over(&site, "web");
    site.write("code", code);
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 10, "{run:?}");
    assert!(
        run.text().contains(last_words),
        "the worker's last words: {run:?}"
    );
    load.await_more(100);
    let (seen, report) = (watch.seen(), load.stop());
    let status = site.status().expect("a status");
    assert_eq!(pids(&status, "web"), old, "the old workers serve on");
    assert_eq!(
        pool(&status, "web")["reload"]["state"],
        "aborted",
        "{status}"
    );
    assert_eq!(pool(&status, "web")["generation"], 1);
    assert_eq!(pool(&status, "web")["reload"]["generation"], 2);
    assert!(
        pool(&status, "web")["reload"]["reason"].is_string(),
        "{status}"
    );
    assert!(seen.min_ready >= 3, "{seen:?}");
    let started = site.lines("starts").len() - starts;
    assert!(
        (1..=2).contains(&started),
        "{started} starts of the broken code"
    );
    // Mended, it rolls.
    site.write("code", "ok\nmended");
    assert_eq!(site.rotad(&["roll"]).code, 0);
    assert!(support::load::get(&site.address(), "/").is_ok_and(|body| body.contains("mended")));
    report.lost()
}

#[test]
fn code_that_exits_immediately_is_rolled_back() {
    let _alone = alone();
    assert_eq!(
        roll_into("exit 1\nno such module: shop", "no such module: shop"),
        0
    );
}

#[test]
fn code_that_never_becomes_ready_is_rolled_back() {
    let _alone = alone();
    assert_eq!(
        roll_into("hang\nwaiting for the database", "waiting for the database"),
        0
    );
}

/// Half a second after it was ready, within the soak of 1 s: only what it had accepted itself may be lost.
#[test]
fn code_that_exits_while_it_soaks_is_rolled_back() {
    let _alone = alone();
    let lost = roll_into("die 500\nout of cheese", "out of cheese");
    assert!(
        lost <= 8,
        "{lost} requests lost: more than the clients that one worker can hold"
    );
}

/// The same by signal: nobody waits for an answer, the status has it.
#[test]
fn a_failed_roll_by_signal_is_shown_in_the_status() {
    let site = site();
    let old = pids(&site.await_ready(), "web");
    site.write("code", "exit 7\ncannot find the view");
    site.signal(Signal::SIGUSR1);
    let status = site.await_status("the roll is over", 20, |status| {
        pool(status, "web")["reload"]["state"] == "aborted"
    });
    assert_eq!(pids(&status, "web"), old);
    assert!(
        pool(&status, "web")["reload"]["reason"].is_string(),
        "{status}"
    );
    site.await_log("cannot find the view", 5);
    let run = site.rotad(&["status", "--check"]);
    assert_eq!(run.code, 0, "every wanted worker is ready: {run:?}");
}

/// A program that is not there any more: the same, told apart from an exit code.
#[test]
fn a_missing_program_leaves_the_old_workers_serving() {
    let mut site = Site::new(&WEB.replace("@WORKER@", "@DIR@/current/worker"));
    site.write("code", "ok\nfirst");
    std::fs::create_dir(site.path("one")).expect("a directory");
    std::fs::copy(support::testworker(), site.path("one/worker")).expect("a copy");
    std::os::unix::fs::symlink(site.path("one"), site.path("current")).expect("a link");
    site.run();
    let old = pids(&site.await_ready(), "web");
    std::fs::rename(site.path("current"), site.path("elsewhere")).expect("no current");
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 10, "{run:?}");
    assert!(run.text().to_lowercase().contains("no such"), "{run:?}");
    assert_eq!(pids(&site.status().expect("a status"), "web"), old);
}

/// `on_failure = "rollback"` with a moved `current` link: what had been replaced goes back to the old directory.
#[test]
fn slots_already_replaced_are_rolled_back() {
    let _alone = alone();
    let pools = WEB
        .replace("@DIR@/code", "code")
        .replace("count = 3", "count = 3\nworking_directory = \"current\"");
    let mut site = Site::new(&pools.replace("soak = \"1s\"", "soak = \"100ms\"\nsurge = 1"));
    for (dir, code) in [("one", "ok\nfirst"), ("two", "ok\nsecond")] {
        std::fs::create_dir(site.path(dir)).expect("a directory");
        site.write(&format!("{dir}/code"), code);
    }
    std::os::unix::fs::symlink(site.path("one"), site.path("current")).expect("a link");
    site.run();
    site.await_ready();
    let load = Load::on(&site.address(), 4, 4);
    std::os::unix::fs::symlink(site.path("two"), site.path("next")).expect("a link");
    std::fs::rename(site.path("next"), site.path("current")).expect("the link moved");
    site.signal(Signal::SIGUSR1);
    // The first one is in its place; what comes now finds broken code.
    site.await_status("the first is replaced", 20, |status| {
        pool(status, "web")["reload"]["replaced"] != 0
    });
    site.write("two/code", "exit 1\nhalf a deployment");
    let status = site.await_status("the roll is over", 30, |status| {
        let state = &pool(status, "web")["reload"]["state"];
        state == "rolled-back" || state == "done"
    });
    if pool(&status, "web")["reload"]["state"] == "done" {
        return; // the other two were faster than this test
    }
    site.await_ready();
    load.await_more(50);
    let report = load.stop();
    assert!(report.lost.is_empty(), "{report:?}");
    for _ in 0..12 {
        let body = support::load::get(&site.address(), "/").expect("an answer");
        assert!(body.contains("first"), "{body}");
    }
}
