//! Back to where, and who serves: `rollback`, `cancel`, and what is said after a deploy that went wrong, with release
//! directories behind a link and with files that are edited in place.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use support::site::Run;
use support::{Site, load, number, pids, pool};

const RELEASES: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "code{slot}"]
count = 3
working_directory = "@DIR@/current"
listen = ["http"]
ready_timeout = "30s"
stop = "10s"
[pool.web.restart]
delay = "50ms"
[pool.web.reload]
soak = "50ms"
surge = 1
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn in_place() -> String {
    RELEASES.replace("@DIR@/current", "@DIR@/app")
}

/// The code of each slot: which of them a roll gets through is no matter of speed then.
fn write(site: &Site, dir: &str, codes: [&str; 3]) {
    for (slot, code) in codes.into_iter().enumerate() {
        site.write(&format!("{dir}/code{slot}"), code);
    }
}

/// A release of its own, and the link turned to it.
fn deploy(site: &Site, release: &str, code: &str) {
    let dir = site.path(release);
    fs::create_dir_all(&dir).expect("a directory");
    write(site, release, [code; 3]);
    let _ = fs::remove_file(site.path("next"));
    std::os::unix::fs::symlink(&dir, site.path("next")).expect("a link");
    fs::rename(site.path("next"), site.path("current")).expect("the link turned");
}

fn releases() -> Site {
    let mut site = Site::new(RELEASES);
    deploy(&site, "one", "ok\nfirst");
    site.run();
    site.await_ready();
    site
}

fn edited() -> Site {
    let mut site = Site::new(&in_place());
    fs::create_dir(site.path("app")).expect("a directory");
    write(&site, "app", ["ok\nfirst"; 3]);
    site.run();
    site.await_ready();
    site
}

fn web(site: &Site) -> Value {
    pool(&site.status().expect("a status"), "web").clone()
}

fn state(site: &Site) -> String {
    web(site)["state"].as_str().unwrap_or_default().to_owned()
}

/// Which generation serves in each slot.
fn generations(site: &Site) -> Vec<u64> {
    let mut slots: Vec<(u64, u64)> = web(site)["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .filter(|worker| worker["state"] == "ready")
        .map(|worker| {
            (
                number(&worker["slot"]) as u64,
                number(&worker["generation"]) as u64,
            )
        })
        .collect();
    slots.sort_unstable();
    slots
        .into_iter()
        .map(|(_, generation)| generation)
        .collect()
}

/// What twelve requests are answered with.
fn answers(site: &Site) -> Vec<String> {
    (0..12)
        .map(|_| load::get(&site.address(), "/").expect("an answer"))
        .collect()
}

fn all_say(site: &Site, version: &str) {
    site.await_status("the old ones are gone", 20, |status| {
        let web = pool(status, "web");
        web["alive"] == web["wanted"] && web["ready"] == web["wanted"]
    });
    let answers = answers(site);
    assert!(
        answers.iter().all(|answer| answer.contains(version)),
        "{version}: {answers:?}"
    );
}

fn ok(run: &Run) {
    assert_eq!(run.code, 0, "{run:?}");
}

fn says(run: &Run, texts: &[&str]) {
    for text in texts {
        assert!(run.text().contains(text), "{text:?} is missing: {run:?}");
    }
}

/// The nervous operator after a deploy that was aborted: nothing to undo, and what can be done is said; nothing moves
/// by itself. By number it goes back, and forward again.
#[test]
fn after_an_aborted_deploy_there_is_nothing_to_undo() {
    let site = releases();
    deploy(&site, "two", "ok\nsecond");
    ok(&site.rotad(&["reload"]));
    deploy(&site, "three", "exit 1\nboom");
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 10, "{run:?}");
    says(
        &run,
        &[
            "generation 3",
            "boom",
            "the old workers (generation 2) serve on: 3 of 3",
        ],
    );
    assert_eq!(
        state(&site),
        "ok",
        "release directories: nothing threatens what serves"
    );

    let before = pids(&site.status().expect("a status"), "web");
    let run = site.rotad(&["rollback"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(
        &run,
        &[
            "nothing to undo",
            "generation 3",
            "generation 2 serves",
            "rotad rollback web --to 1",
            "/one",
        ],
    );
    let run = site.rotad(&["rollback", "web", "--to", "1", "--dry-run"]);
    ok(&run);
    says(
        &run,
        &[
            "web: would roll 3 workers from generation 2 to generation 1",
            "/one",
        ],
    );
    assert_eq!(
        pids(&site.status().expect("a status"), "web"),
        before,
        "nothing was touched"
    );
    all_say(&site, "second");

    ok(&site.rotad(&["rollback", "web", "--to", "1"]));
    all_say(&site, "first");
    let run = site.rotad(&["rollback"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(&run, &["no generation before 1"]);
    let run = site.rotad(&["rollback", "--to", "2"]);
    ok(&run);
    all_say(&site, "second");
    assert_eq!(generations(&site), [2, 2, 2]);
    let run = site.rotad(&["rollback", "web", "--to", "2"]);
    ok(&run);
    says(&run, &["generation 2 serves already"]);
    for number in ["3", "7"] {
        let run = site.rotad(&["rollback", "web", "--to", number]);
        assert_eq!(run.code, 1, "{run:?}");
        says(&run, &["is not known", "known are 1, 2 (serves)"]);
    }

    // The generation before the one that serves is the one that served before it, not the number before.
    ok(&site.rotad(&["rollback"]));
    all_say(&site, "first");
    deploy(&site, "four", "ok\nfourth");
    ok(&site.rotad(&["reload"]));
    all_say(&site, "fourth");
    ok(&site.rotad(&["rollback"]));
    all_say(&site, "first");
}

/// What a generation was made from is gone: nothing else is started under its number.
#[test]
fn a_removed_release_cannot_be_rolled_back_to() {
    let site = releases();
    deploy(&site, "two", "ok\nsecond");
    ok(&site.rotad(&["reload"]));
    fs::remove_dir_all(site.path("one")).expect("cleaned up");
    let run = site.rotad(&["rollback"]);
    assert_eq!(run.code, 10, "{run:?}");
    says(
        &run,
        &[
            "generation 1",
            "the old workers (generation 2) serve on: 3 of 3",
        ],
    );
    all_say(&site, "second");
}

/// A stop and a start in between: the older generation is still where it was, also below a link that has moved.
#[test]
fn a_rollback_after_a_stop_starts_the_older_release() {
    let site = releases();
    deploy(&site, "two", "ok\nsecond");
    ok(&site.rotad(&["reload"]));
    ok(&site.rotad(&["stop", "web"]));
    ok(&site.rotad(&["start", "web"]));
    all_say(&site, "second");
    ok(&site.rotad(&["rollback"]));
    all_say(&site, "first");
}

/// Code that is edited in place has no way back: that is said, and what serves is not well until a roll is done.
#[test]
fn a_rollback_of_files_edited_in_place_is_told() {
    let site = edited();
    write(&site, "app", ["ok\nsecond"; 3]);
    ok(&site.rotad(&["reload"]));
    let run = site.rotad(&["rollback"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(
        &run,
        &["generation 1", "exactly the same files", "edited in place"],
    );
    write(&site, "app", ["exit 1\nboom"; 3]);
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 10, "{run:?}");
    says(
        &run,
        &[
            "the old workers (generation 2) serve on: 3 of 3",
            "changed in place",
            "a crash would start",
        ],
    );
    let seen = web(&site);
    assert_eq!(
        (&seen["state"], &seen["outdated"], &seen["ready"]),
        (&json!("degraded"), &json!(3), &json!(3))
    );
    assert!(
        seen["reload"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("a crash would start")),
        "{seen}"
    );
    says(
        &site.rotad(&["status"]),
        &["degraded", "a crash would start the changed files"],
    );
    assert_eq!(site.rotad(&["rollback"]).code, 1);
    all_say(&site, "second");
    // Stays so until it is mended and rolled.
    write(&site, "app", ["ok\nthird"; 3]);
    ok(&site.rotad(&["reload"]));
    assert_eq!(
        (state(&site).as_str(), web(&site)["outdated"].is_null()),
        ("ok", true)
    );
    all_say(&site, "third");
}

/// The program itself is gone, in the directory that serves: a crash could start nothing.
#[test]
fn a_missing_program_in_place_keeps_the_old_workers() {
    let mut site = Site::new(&in_place().replace("@WORKER@", "./worker"));
    fs::create_dir(site.path("app")).expect("a directory");
    write(&site, "app", ["ok\nfirst"; 3]);
    fs::copy(support::testworker(), site.path("app/worker")).expect("a copy");
    site.run();
    site.await_ready();
    fs::remove_file(site.path("app/worker")).expect("removed");
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 10, "{run:?}");
    says(
        &run,
        &["no such program", "serve on: 3 of 3", "a crash would start"],
    );
    assert_eq!(
        (state(&site), &web(&site)["outdated"]),
        ("degraded".to_owned(), &json!(3))
    );
    all_say(&site, "first");
}

/// Half of it was replaced when the changed files turned out to be broken: named, mixed, and filled from those files.
#[test]
fn a_roll_broken_half_way_in_place_is_told() {
    let site = edited();
    write(&site, "app", ["ok\nsecond", "exit 1\nboom", "exit 1\nboom"]);
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 10, "{run:?}");
    says(
        &run,
        &[
            "the old workers (generation 1) serve on: 2 of 3",
            "slot 0 serves on with generation 2",
        ],
    );
    says(
        &run,
        &["cannot go back", "changed in place", "a crash would start"],
    );
    assert_eq!(generations(&site), [2, 1, 1]);
    let status = site.rotad(&["status", "--json"]).out;
    assert!(status.contains("\"mixed\""), "{status}");
    says(
        &site.rotad(&["status"]),
        &["mixed", "of generation 2", "of generation 1"],
    );
    // One that was replaced dies: its slot is filled from the broken files, whatever the number says.
    write(&site, "app", ["exit 1\nboom"; 3]);
    let seen = web(&site);
    let workers = seen["workers"].as_array().expect("workers");
    let new = workers
        .iter()
        .find(|worker| worker["generation"] == 2 && worker["state"] == "ready")
        .expect("a new one");
    kill(Pid::from_raw(number(&new["pid"]) as i32), Signal::SIGKILL).expect("a kill");
    site.await_status("fewer serve", 20, |status| {
        number(&pool(status, "web")["ready"]) < 3.0
    });
    write(&site, "app", ["ok\nthird"; 3]);
    ok(&site.rotad(&["reload"]));
    site.await_ready();
    all_say(&site, "third");
    assert_eq!(state(&site), "ok");
}

fn roll() -> Value {
    json!({ "roll": { "which": { "pools": ["web"], "workers": false, "tasks": false }, "wait": "done" } })
}

/// One worker is replaced, and the next one never gets ready.
fn half_a_roll(site: &Site, dir: &str) -> support::ask::Asked {
    write(site, dir, ["ok\nsecond", "hang\nthird", "hang\nthird"]);
    let roll = site.asking(&roll());
    site.await_status("one is replaced", 20, |status| {
        pool(status, "web")["reload"]["replaced"] == 1
    });
    roll
}

/// `rollback` while a rolling restart runs undoes that one, and goes no further back.
#[test]
fn a_rollback_supersedes_a_running_roll() {
    let site = releases();
    deploy(&site, "two", "ok\nsecond");
    ok(&site.rotad(&["reload"]));
    deploy(&site, "three", "ok\nthird");
    let rolls = half_a_roll(&site, "three");
    let run = site.rotad(&["rollback", "--dry-run"]);
    ok(&run);
    says(&run, &["to generation 2"]);
    ok(&site.rotad(&["rollback"]));
    assert_eq!(generations(&site), [2, 2, 2]);
    all_say(&site, "second");
    // It hears what its successor came to.
    let superseded = rolls.answered();
    assert!(
        superseded.code == 0 && superseded.message.contains("generation 2"),
        "{superseded:?}"
    );
}

/// `cancel` with release directories: answered when every slot is back; each waiting client gets a true answer.
#[test]
fn a_cancelled_roll_with_releases_returns() {
    let site = releases();
    deploy(&site, "two", "ok\nsecond");
    let rolls = half_a_roll(&site, "two");
    let second = site.asking(&roll());
    site.await_status("it waits", 10, |_| {
        site.rotad(&["events"])
            .out
            .contains("waits for the running one")
    });
    let run = site.rotad(&["cancel"]);
    ok(&run);
    says(&run, &["web: cancelled: generation 2", "generation 1"]);
    assert!(!run.text().contains("done"), "{run:?}");
    assert_eq!(generations(&site), [1, 1, 1]);
    assert_eq!(state(&site), "ok");
    all_say(&site, "first");
    let waited = rolls.answered();
    assert!(
        waited.code == 10 && waited.message.contains("cancelled"),
        "{waited:?}"
    );
    let waited = second.answered();
    assert!(
        waited.code == 1 && waited.message.contains("cancelled"),
        "{waited:?}"
    );
    let run = site.rotad(&["cancel"]);
    ok(&run);
    says(&run, &["no rolling restart runs"]);
    let run = site.rotad(&["rollback"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(
        &run,
        &[
            "nothing to undo",
            "generation 1 serves",
            "no older generation",
        ],
    );
}

/// `cancel` in files that were changed in place: what was replaced stays, is named, and the pool is mixed.
#[test]
fn a_cancelled_roll_in_place_is_told() {
    let site = edited();
    let rolls = half_a_roll(&site, "app");
    let run = site.rotad(&["cancel", "web"]);
    ok(&run);
    says(
        &run,
        &[
            "web: cancelled: generation 2",
            "2 of 3",
            "slot 0 serves on with generation 2",
            "cannot go back",
        ],
    );
    let waited = rolls.answered();
    assert!(
        waited.code == 10
            && waited
                .message
                .contains("slot 0 serves on with generation 2"),
        "{waited:?}"
    );
    let seen = web(&site);
    assert_eq!(
        (&seen["state"], &seen["generation"], &seen["ready"]),
        (&json!("mixed"), &json!(1), &json!(3)),
        "{seen}"
    );
    assert_eq!(generations(&site), [2, 1, 1]);
    says(
        &site.rotad(&["status"]),
        &["slots 1, 2 of generation 1", "slot 0 of generation 2"],
    );
    // A roll ends the mix.
    write(&site, "app", ["ok\nthird"; 3]);
    ok(&site.rotad(&["roll"]));
    assert_eq!(state(&site), "ok");
    all_say(&site, "third");
}

/// Nobody serves, and never has: a roll that fails says that, and its code is 1.
#[test]
fn a_rollback_without_ready_workers_is_1() {
    let mut site = Site::new(&in_place());
    fs::create_dir(site.path("app")).expect("a directory");
    write(&site, "app", ["exit 1\nboom"; 3]);
    site.run();
    site.await_status("it does not come up", 20, |status| {
        pool(status, "web")["state"] == "crash-loop"
    });
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(&run, &["nobody serves", "generation 1 has never served"]);
    assert!(!run.text().contains("old workers"), "{run:?}");
    let run = site.rotad(&["rollback"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(&run, &["nobody serves"]);
    assert!(!site.log().contains("serve on"), "{}", site.log());
}

/// Each way of being superseded has its own words.
#[test]
fn a_roll_superseded_by_the_old_configuration_returns() {
    let site = edited();
    write(&site, "app", ["hang\nsecond"; 3]);
    let first = site.asking(&roll());
    site.await_status("it runs", 10, |status| {
        pool(status, "web")["reload"]["generation"] == 2
    });
    let second = site.asking(&roll());
    site.await_status("the newer one runs", 10, |status| {
        pool(status, "web")["reload"]["generation"] == 3
    });
    let events = site.rotad(&["events"]).out;
    assert!(events.contains("superseded by a newer request"), "{events}");
    assert!(!events.contains("the pool stops"), "{events}");
    ok(&site.rotad(&["stop", "web"]));
    for asked in [first, second] {
        let run = asked.answered();
        assert!(
            run.code == 1 && run.message.contains("superseded: the pool stops"),
            "{run:?}"
        );
    }
    let run = site.rotad(&["roll", "web"]);
    ok(&run);
    says(&run, &["is stopped"]);
}

const HELD: &str = r#"
[pool.build]
kind = "oneshot"
command = ["sh", "-c", "test -e built"]
working_directory = "@DIR@"
restart = { delay = "50ms", max_delay = "100ms" }
[pool.web]
command = ["@WORKER@", "http"]
after = ["build"]
listen = ["http"]
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// A roll of a pool that waits for others is not done before the pool is up; what cannot be is said.
#[test]
fn a_roll_of_a_waiting_pool_is_answered() {
    let mut site =
        Site::new(&HELD.replace("test -e built", "until test -e built; do sleep 0.05; done"));
    site.run();
    site.await_status("it waits", 20, |status| {
        pool(status, "web")["waits_for"] == json!(["build"])
    });
    let run = site.asking(&roll());
    site.await_log("asks to roll web", 10);
    site.write("built", "");
    let run = run.answered();
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.message.contains("every worker is ready") && run.text().contains("waits for build"),
        "{run:?}"
    );

    let mut site = Site::new(HELD);
    site.run();
    site.await_status("the oneshot fails", 20, |status| {
        pool(status, "build")["state"] == "crash-loop"
    });
    let run = site.rotad(&["roll", "web"]);
    assert_eq!(run.code, 1, "{run:?}");
    says(
        &run,
        &["waits for build, which has failed", "nobody serves"],
    );
}
