//! `reload.on = "change"`: requests for all pools pass this one over, unless its recipe, its program or its directory
//! is another one than that which it runs with.

mod support;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;
use support::site::Run;
use support::{DeadMount, Site, all_ready, need, pids, pool, until};

/// A database and a queue beside an application.
const SHOP: &str = r#"
[pool.web]
after = ["db"]
command = ["@WORKER@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
[pool.db]
command = ["@DIR@/bin/db", "wait", "--notify"]
working_directory = "@DIR@/current"
ready = "notify"
reload = { surge = 0, soak = "0s", on = "change" }
[pool.queue]
kind = "task"
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
reload = { surge = 0, soak = "0s", on = "change" }
"#;

/// A directory of its own, and the link turned to it.
fn turn(site: &Site, release: &str) {
    fs::create_dir_all(site.path(release)).expect("a directory");
    std::os::unix::fs::symlink(site.path(release), site.path("next")).expect("a link");
    fs::rename(site.path("next"), site.path("current")).expect("the link turned");
}

/// The program by a new file of the same name, as a package manager does it.
fn install(site: &Site) {
    fs::create_dir_all(site.path("bin")).expect("a directory");
    fs::copy(support::testworker(), site.path("bin/db.new")).expect("a copy");
    fs::rename(site.path("bin/db.new"), site.path("bin/db")).expect("the program in its place");
}

fn up(config: &str) -> Site {
    let mut site = Site::new(config);
    turn(&site, "one");
    install(&site);
    site.run();
    site.await_ready();
    site
}

fn generations(status: &Value) -> [u64; 3] {
    ["web", "db", "queue"].map(|name| {
        pool(status, name)["generation"]
            .as_u64()
            .expect("a generation")
    })
}

/// Runs a verb that goes well, and looks what became of the pools.
#[track_caller]
fn asked(site: &Site, verb: &[&str], generation: [u64; 3]) -> Run {
    let run = site.rotad(verb);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(generations(&site.await_ready()), generation, "{run:?}");
    run
}

#[track_caller]
fn says(run: &Run, parts: &[&str], not: &[&str]) {
    parts
        .iter()
        .for_each(|part| assert!(run.text().contains(part), "{part}: {run:?}"));
    not.iter()
        .for_each(|part| assert!(!run.text().contains(part), "{part}: {run:?}"));
}

const DB: &str = "db: unchanged, passed over (reload.on = \"change\"); `rotad roll db` rolls it";
const QUEUE: &str =
    "queue: unchanged, passed over (reload.on = \"change\"); `rotad roll queue` rolls it";

/// By command: all, by kind, by name; who waits for it is not held.
#[test]
fn an_unchanged_pool_is_passed_over() {
    let site = up(SHOP);
    let first = site.await_ready();
    let run = asked(&site, &["roll"], [2, 1, 1]);
    says(
        &run,
        &[DB, QUEUE, "web: done"],
        &["no pool was rolled", "begins after that of db"],
    );
    let run = asked(&site, &["reload"], [3, 1, 1]);
    says(&run, &[DB, QUEUE, "web: done"], &["no pool was rolled"]);
    let run = asked(&site, &["reload", "--workers", "--drained"], [4, 1, 1]);
    says(&run, &[DB], &[QUEUE]);
    let run = asked(&site, &["roll", "--tasks"], [4, 1, 1]);
    says(&run, &[QUEUE, "no pool was rolled"], &[DB, "web"]);
    let run = asked(&site, &["reload", "--tasks"], [4, 1, 1]);
    says(
        &run,
        &[
            QUEUE,
            "the configuration has not changed; no pool was rolled",
        ],
        &[DB],
    );
    let run = asked(&site, &["roll", "--tasks", "--no-wait"], [4, 1, 1]);
    says(&run, &[QUEUE, "no pool is rolled"], &["rolling"]);
    let last = site.await_ready();
    for name in ["db", "queue"] {
        assert_eq!(pids(&last, name), pids(&first, name));
    }
    let run = site.rotad(&["reload", "--dry-run"]);
    says(
        &run,
        &[
            "web: would be rolled",
            "db: would be rolled if its program or directory has changed",
        ],
        &[],
    );
    let run = site.rotad(&["reload", "--dry-run", "db"]);
    says(&run, &["db: would be rolled"], &["if its"]);
    assert!(site.rotad(&["events"]).out.contains("passed-over"));
}

/// A pool that is named is meant, and so is a slot.
#[test]
fn a_named_pool_is_rolled_although_unchanged() {
    let site = up(SHOP);
    says(
        &asked(&site, &["roll", "db"], [1, 2, 1]),
        &["db: done"],
        &["passed over"],
    );
    says(
        &asked(&site, &["reload", "db"], [1, 3, 1]),
        &["db: done"],
        &["passed over"],
    );
    says(
        &asked(&site, &["roll", "db", "--tasks"], [1, 4, 1]),
        &["db: done", QUEUE],
        &["db: unchanged"],
    );
    let before = pids(&site.await_ready(), "db");
    asked(&site, &["roll", "db/0"], [1, 4, 1]);
    assert_ne!(pids(&site.await_ready(), "db"), before);
}

/// USR1 and USR2, a signal that rolls all, and one that reloads.
#[test]
fn a_signal_rolls_changed_pools_only() {
    let site = up(&format!(
        "[signals]\nHUP = \"reload\"\nWINCH = \"roll-all\"\n{SHOP}"
    ));
    let lines = |text: &str| site.log().matches(text).count();
    let passed = |db: usize, queue: usize| {
        until("lines of the log", 20, || {
            (lines("db: unchanged, passed over") == db
                && lines("queue: unchanged, passed over") == queue)
                .then_some(())
        });
    };
    let rolled = |generation: [u64; 3]| {
        site.await_status("rolled", 20, |status| {
            generations(status) == generation && all_ready(status)
        });
    };
    site.signal(Signal::SIGUSR1);
    passed(1, 0);
    rolled([2, 1, 1]);
    site.await_log(
        ": rolling web; only if what it is made from has changed: db",
        10,
    );
    site.signal(Signal::SIGUSR2);
    passed(1, 1);
    site.signal(Signal::SIGHUP);
    passed(2, 2);
    rolled([3, 1, 1]);
    turn(&site, "two");
    site.signal(Signal::SIGWINCH);
    rolled([4, 2, 1]);
    passed(2, 3);
    // A changed recipe rolls one pool, and the other is passed over.
    site.write(
        "rotad.toml",
        &site
            .read("rotad.toml")
            .replace("[pool.queue]", "[pool.queue]\numask = \"077\""),
    );
    site.signal(Signal::SIGHUP);
    rolled([5, 2, 2]);
    passed(3, 3);
}

/// A turned link, a program that was replaced or written over, another recipe: each counts once.
#[test]
fn a_changed_pool_is_rolled() {
    let site = up(SHOP);
    turn(&site, "two");
    says(
        &asked(&site, &["roll"], [2, 2, 1]),
        &["db: done", QUEUE],
        &["db: unchanged"],
    );
    says(&asked(&site, &["roll"], [3, 2, 1]), &[DB], &[]);
    install(&site);
    says(
        &asked(&site, &["reload"], [4, 3, 1]),
        &["db: done"],
        &["db: unchanged"],
    );
    says(&asked(&site, &["reload"], [5, 3, 1]), &[DB], &[]);
    // Another directory of the same name.
    fs::rename(site.path("two"), site.path("old")).expect("the old directory aside");
    fs::create_dir(site.path("two")).expect("a directory");
    says(
        &asked(&site, &["roll"], [6, 4, 1]),
        &["db: done"],
        &["db: unchanged"],
    );
    let recipe = |from: &str, to: &str| {
        site.write("rotad.toml", &site.read("rotad.toml").replace(from, to));
    };
    recipe("[pool.db]", "[pool.db]\nenv = { SIZE = \"2\" }");
    says(
        &asked(&site, &["reload"], [7, 5, 1]),
        &["db: rolled (env.SIZE)", "db: done"],
        &["db: unchanged"],
    );
    // What needs no new worker is no change of what it is made from.
    recipe(
        "surge = 0, soak = \"0s\", on",
        "surge = 0, soak = \"1ms\", on",
    );
    says(
        &asked(&site, &["reload"], [8, 5, 1]),
        &[DB, "db: adjusted without a restart"],
        &["no pool was rolled"],
    );
    // The key itself takes effect immediately.
    recipe(", on = \"change\"", ", on = \"always\"");
    says(
        &asked(&site, &["reload"], [9, 6, 2]),
        &["db: done", "queue: done"],
        &["passed over"],
    );
    recipe(", on = \"always\"", ", on = \"change\"");
    says(&asked(&site, &["reload"], [10, 6, 2]), &[DB, QUEUE], &[]);
}

/// A program that is not there: no roll that would end the one that serves, and no success either.
#[test]
fn an_unreadable_path_ends_no_worker() {
    let site = up(SHOP);
    let before = pids(&site.await_ready(), "db");
    fs::remove_file(site.path("current")).expect("no link");
    for verb in ["roll", "reload"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 10, "{run:?}");
        says(
            &run,
            &[
                "db: not rolled: whether it has changed",
                "current",
                "it serves on as it is",
                "web: done",
            ],
            &[],
        );
    }
    assert_eq!(pids(&site.await_ready(), "db"), before);
    turn(&site, "one");
    says(&asked(&site, &["roll"], [4, 1, 1]), &[DB], &[]);
}

/// A mount that never answers: the others are rolled after one wait, the next request has none, and neither costs more
/// than one thread.
#[test]
fn a_path_that_hangs_delays_nothing() {
    if !need::root() || !need::need("/dev/fuse", Path::new("/dev/fuse").exists()) {
        return;
    }
    // Of this thread, and of the master that it starts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("of its own");
    let site = up(SHOP);
    let before = pids(&site.await_ready(), "db");
    turn(&site, "dead");
    let dead = DeadMount::over(&site.path("dead")).expect("a dead mount");
    let blocking = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", site.pid())).expect("threads");
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "blocking").count()
    };
    let first = site.rotad(&["roll"]);
    let second = site.rotad(&["roll"]);
    for run in [&first, &second] {
        assert_eq!(run.code, 10, "{run:?}");
        says(
            run,
            &[
                "db: not rolled",
                "could not be looked at within 5 s: a disk hangs?",
                "web: done",
                QUEUE,
            ],
            &[],
        );
    }
    assert!(first.took >= Duration::from_secs(5), "{first:?}");
    assert!(second.took < Duration::from_secs(5), "{second:?}");
    until("one blocking job that hangs", 5, || {
        (blocking() == 1).then_some(())
    });
    let status = site.status().expect("a status");
    assert_eq!(
        (generations(&status), pids(&status, "db")),
        ([3, 1, 1], before)
    );
    turn(&site, "one");
    drop(dead);
    until("the blocking job is back", 10, || {
        (blocking() == 0).then_some(())
    });
    says(&asked(&site, &["roll"], [4, 1, 1]), &[DB, QUEUE], &[]);
}

/// Everything stops: that is what is said, and not that nothing has changed.
#[test]
fn a_comparison_during_a_stop_is_dropped() {
    let mut site = up(&SHOP.replace(
        "[pool.db]",
        "[pool.db]\nstop = [{ wait = \"5s\" }, { signal = \"TERM\", wait = \"5s\" }]",
    ));
    site.signal(Signal::SIGTERM);
    site.await_status("stopping", 10, |status| {
        pool(status, "db")["state"] == "stopping"
    });
    let run = site.rotad(&["roll", "--workers"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(&run, &["db: superseded: everything stops"], &["unchanged"]);
    assert_eq!(site.await_exit(30).code(), Some(0));
}

/// Stopped by a person: answered as ever, and started with what there is by then, which is no change any more.
#[test]
fn a_stopped_pool_is_not_rolled() {
    let site = up(SHOP);
    assert_eq!(site.rotad(&["stop", "db"]).code, 0);
    turn(&site, "two");
    for verb in ["roll", "reload"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 0, "{run:?}");
        says(
            &run,
            &["db: is stopped, and stays so until `rotad start db`"],
            &["db: unchanged"],
        );
    }
    assert_eq!(site.rotad(&["start", "db"]).code, 0);
    let status = site.await_ready();
    let [web, db, queue] = generations(&status);
    says(&asked(&site, &["roll"], [web + 1, db, queue]), &[DB], &[]);
}

/// A change that did not come up: what serves is the old generation, so the next request tries the new files again.
#[test]
fn an_aborted_change_is_tried_again() {
    let config = SHOP
        .replace(
            "\"wait\", \"--notify\"]\nworking",
            "\"wait\", \"--notify\", \"--code\", \"code\"]\nworking",
        )
        .replace("surge = 0, soak", "surge = 1, soak");
    let mut site = Site::new(&config);
    turn(&site, "one");
    site.write("one/code", "ok\n");
    install(&site);
    site.run();
    let before = pids(&site.await_ready(), "db");
    turn(&site, "two");
    site.write("two/code", "exit 3\n");
    for _ in 0..2 {
        let run = site.rotad(&["roll"]);
        assert_eq!(run.code, 10, "{run:?}");
        says(&run, &["exited with 3"], &["db: unchanged"]);
        assert_eq!(pids(&site.await_ready(), "db"), before);
    }
    site.write("two/code", "ok\n");
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    says(&run, &["db: done"], &["db: unchanged"]);
    // Back to the directory of before: what runs is not what there is.
    assert_eq!(site.rotad(&["rollback", "db"]).code, 0);
    says(&site.rotad(&["roll"]), &["db: done"], &["db: unchanged"]);
}

/// While it is rolled to what there is, another request does not start another roll.
#[test]
fn a_comparison_during_a_roll_waits() {
    let config = SHOP.replace(
        "\"wait\", \"--notify\"]\nworking",
        "\"wait\", \"--notify\", \"--start-ms\", \"3000\"]\nworking",
    );
    let site = up(&config);
    turn(&site, "two");
    assert_eq!(site.rotad(&["roll", "db", "--no-wait"]).code, 0);
    site.await_status("the new one starts", 20, |status| {
        let workers = pool(status, "db")["workers"].as_array().expect("workers");
        workers.len() == 1 && workers[0]["generation"] == 2 && workers[0]["pid"].is_i64()
    });
    let run = site.rotad(&["roll", "--workers", "--no-wait"]);
    assert_eq!(run.code, 0, "{run:?}");
    says(
        &run,
        &[
            "db: unchanged since its rolling restart began, passed over",
            "rolling web",
        ],
        &[],
    );
    let status = site.await_ready();
    assert_eq!(generations(&status), [2, 2, 1]);
}
