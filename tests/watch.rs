//! `reload.watch`: a changed content rolls the pool, once for a whole deploy.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use support::{Site, number, pids, pool};

/// A pool that is rolled when its code changes. The worker reads `src/code`. Quiet for two seconds: what a test writes
/// in one go is one change on a busy machine, too.
fn site(watch: &str) -> Site {
    Site::new(&format!(
        r#"
[pool.web]
command = ["@WORKER@", "wait", "--code", "@DIR@/src/code", "--starts", "@DIR@/starts"]
count = 2
reload = {{ soak = "0s", watch = {watch}, debounce = "2s" }}
"#
    ))
}

fn up(watch: &str) -> Site {
    let mut site = site(watch);
    fs::create_dir_all(site.path("src")).expect("a directory");
    site.write("src/code", "ok\none\n");
    site.run();
    site.await_ready();
    site.await_log("watching", 20);
    site
}

fn generation(status: &Value) -> u64 {
    number(&pool(status, "web")["generation"]) as u64
}

fn await_generation(site: &Site, generation: u64) -> Value {
    site.await_status(&format!("generation {generation}"), 60, |status| {
        number(&pool(status, "web")["generation"]) as u64 == generation
            && support::all_ready(status)
    })
}

fn assert_changes(site: &Site, times: usize) {
    site.await_log_times("changed: rolling web", times);
}

#[test]
fn a_deploy_of_many_files_is_one_roll() {
    let site = up(r#"["src/**/*", "lib/**/*.py"]"#);
    let before = site.status().expect("a status");
    for file in 0..32 {
        site.write(&format!("src/{file}.py"), "new");
    }
    let after = await_generation(&site, 2);
    assert!(
        pids(&before, "web")
            .iter()
            .all(|pid| !pids(&after, "web").contains(pid))
    );
    // What comes next is generation 3: there was no other roll in between.
    site.write("src/code", "ok\ntwo\n");
    await_generation(&site, 3);
    assert_changes(&site, 2);
    site.await_log("src/code changed: rolling web", 10);
}

#[test]
fn touching_and_what_matches_nothing_roll_nothing() {
    let site = up(r#"["src/*"]"#);
    fs::File::options()
        .append(true)
        .open(site.path("src/code"))
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH))
        .expect("other times");
    site.write("src.txt", "beside it");
    site.write("src/.hidden", "hidden");
    // An editor's way to save: a temporary file in its place (`write` renames).
    site.write("src/code", "ok\ntwo\n");
    await_generation(&site, 2);
    assert_changes(&site, 1);
}

#[test]
fn a_watched_directory_removed_and_made_again() {
    let site = up(r#"["src/**/*.py", "src/code"]"#);
    fs::create_dir_all(site.path("src/app")).expect("a directory");
    site.write("src/app/a.py", "first");
    await_generation(&site, 2);
    fs::rename(site.path("src"), site.path("old")).expect("a directory elsewhere");
    fs::create_dir_all(site.path("src/app")).expect("a directory");
    site.write("src/code", "ok\none\n");
    site.write("src/app/a.py", "second");
    await_generation(&site, 3);
    site.write("src/app/a.py", "third");
    await_generation(&site, 4);
}

#[test]
fn a_pattern_that_matches_nothing_yet_is_watched() {
    let site = up(r#"["later/**/*.py"]"#);
    let check = site.rotad(&["check"]);
    assert_eq!(check.code, 0, "{check:?}");
    assert!(
        check.text().contains("later/**/*.py"),
        "a warning: {check:?}"
    );
    fs::create_dir_all(site.path("later/deep")).expect("a directory");
    site.write("later/deep/a.py", "there");
    await_generation(&site, 2);
}

#[test]
fn broken_code_saved_leaves_the_old_workers_serving() {
    let site = up(r#"["src/*"]"#);
    let before = site.status().expect("a status");
    site.write("src/code", "exit 3\nbroken\n");
    let told = |status: &Value| {
        ["aborted", "rolled-back"]
            .iter()
            .any(|state| pool(status, "web")["reload"]["state"] == *state)
    };
    let after = site.await_status("the roll has ended", 60, told);
    assert_eq!(
        (pids(&after, "web"), generation(&after)),
        (pids(&before, "web"), 1)
    );
    // Mended and saved: rolled.
    site.write("src/code", "ok\ntwo\n");
    let done = |status: &Value| {
        pool(status, "web")["reload"]["state"] == "done" && support::all_ready(status)
    };
    let after = site.await_status("the mended code serves", 60, done);
    assert!(
        pids(&before, "web")
            .iter()
            .all(|pid| !pids(&after, "web").contains(pid))
    );
}

/// No thread, no descriptor, no wake-up where nothing is watched.
#[test]
fn without_watches_there_is_no_watch_thread() {
    let threads = |site: &Site| -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", site.pid()))
            .expect("a master")
            .flatten();
        tasks
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
            .collect()
    };
    let without = Site::up("[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\n");
    assert!(!threads(&without).contains(&"file-watcher\n".to_owned()));
    let with = up(r#"["src/*"]"#);
    assert!(threads(&with).contains(&"file-watcher\n".to_owned()));
}

#[test]
fn a_changed_configuration_is_applied_and_what_it_watches_with_it() {
    let mut site = site(r#"["src/other"]"#);
    fs::create_dir_all(site.path("src")).expect("a directory");
    site.write("src/code", "ok\none\n");
    site.write(
        "rotad.toml",
        &site
            .read("rotad.toml")
            .replacen("[master]", "[master]\nwatch_config = true", 1),
    );
    site.run();
    site.await_ready();
    site.await_log("the configuration: watching one file", 20);
    // Broken: refused, and what serves goes on.
    let sound = site.read("rotad.toml");
    site.write("rotad.toml", &sound.replace("count = 2", "cuont = 2"));
    site.await_log("cuont", 30);
    let changed = sound
        .replace("count = 2", "count = 3")
        .replace("src/other", "src/code");
    site.write("rotad.toml", &changed);
    let wanted = |status: &Value| {
        number(&pool(status, "web")["wanted"]) as u64 == 3 && support::all_ready(status)
    };
    let before = site.await_status("three workers", 60, wanted);
    site.await_log("web: watching one file", 20);
    site.write("src/code", "ok\ntwo\n");
    let after = await_generation(&site, generation(&before) + 1);
    assert!(
        pids(&before, "web")
            .iter()
            .all(|pid| !pids(&after, "web").contains(pid))
    );
}

#[test]
fn a_stopped_pool_stays_stopped() {
    let site = up(r#"["src/*"]"#);
    assert_eq!(site.rotad(&["stop", "web"]).code, 0);
    site.write("src/code", "ok\ntwo\n");
    site.await_log("web is stopped, and stays so", 30);
    assert_eq!(
        pool(&site.status().expect("a status"), "web")["state"],
        "stopped"
    );
}

/// The pool's own log, also one that was put aside, the master's, and its pid file: none of them rolls anything.
#[test]
fn what_the_master_writes_itself_does_not_count() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", "while :; do echo a line that fills a log within a moment; sleep 0.05; done"]
ready = "spawned"
stop = "1s"
reload = { soak = "0s", watch = ["**/*"], debounce = "50ms" }
[pool.web.log]
stdout = "logs/web.log"
max_size = "4KiB"
keep = 2
"#,
    );
    site.run();
    site.await_ready();
    site.await_log("watching", 20);
    support::until("a log that was put aside", 60, || {
        site.path("logs/web.log.2").exists().then_some(())
    });
    assert_changes(&site, 0);
    site.write("code", "new");
    await_generation(&site, 2);
    assert_changes(&site, 1);
}

/// A pool that writes what it watches: it is said, once, with the file, and how to leave it out. Left out, it rests.
#[test]
fn a_loop_of_changes_is_named() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", "echo $$ >state/now; exec sleep 100"]
ready = "spawned"
stop = "1s"
reload = { soak = "0s", watch = ["state/*", "code"], debounce = "50ms" }
"#,
    );
    fs::create_dir_all(site.path("state")).expect("a directory");
    site.run();
    site.await_log("changed files alone have rolled it 3 times", 60);
    site.await_log("state/now", 5);
    let warned = || {
        site.log()
            .matches("changed files alone have rolled it")
            .count()
    };
    support::never("warned again", 1.0, || (warned() > 1).then_some(()));
    let left_out = site
        .read("rotad.toml")
        .replace("\"code\"]", "\"code\", \"!state/**\"]");
    site.write("rotad.toml", &left_out);
    let check = site.rotad(&["check"]);
    assert!(
        check.code == 0 && !check.err.contains("matches `!state"),
        "{check:?}"
    );
    assert_eq!(site.rotad(&["reload", "--config"]).code, 0);
    let settled = site.await_status("rest", 20, support::all_ready);
    support::until("no roll in two seconds", 60, || {
        let before = generation(&site.status()?);
        let mut rests = true;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while std::time::Instant::now() < end {
            rests &= generation(&site.status()?) == before;
        }
        rests.then_some(())
    });
    assert!(generation(&settled) >= 3);
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a process of rotad");
}

fn await_restored(site: &Site, deaths: u64) {
    site.await_status("the next master", 20, |status| {
        status["master"]["restarts"] == deaths
    });
}

/// What changes while there is no master, here because the guardian is stopped, is rolled by the next one; so is what had
/// changed just before. A death alone rolls nothing.
#[test]
fn a_change_while_there_is_no_master_is_rolled_by_the_next() {
    let site = up(r#"["src/*"]"#);
    let before = pids(&site.await_ready(), "web");
    let guardian = site.guardian();
    signal(site.pid(), Signal::SIGKILL);
    await_restored(&site, 1);
    site.await_log_times("watching one file", 2);
    assert_eq!(pids(&site.await_ready(), "web"), before);
    signal(guardian, Signal::SIGSTOP);
    signal(site.pid(), Signal::SIGKILL);
    site.write("src/code", "ok\ntwo\n");
    signal(guardian, Signal::SIGCONT);
    await_restored(&site, 2);
    await_generation(&site, 2);
    site.await_log(
        "watched files changed before this master began: rolling web",
        10,
    );
    // It dies in the two seconds in which it waits for more of them.
    site.write("src/code", "ok\nthree\n");
    signal(site.pid(), Signal::SIGKILL);
    await_restored(&site, 3);
    await_generation(&site, 3);
    site.await_log_times("changed before this master began: rolling web", 2);
}

#[test]
fn a_configuration_that_changes_while_there_is_no_master_is_applied_by_the_next() {
    let pool = |count| {
        format!(
            "[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\ncount = {count}\nready = \"spawned\"\n"
        )
    };
    let mut site = Site::with_master("watch_config = true", &pool(1));
    site.run();
    site.await_ready();
    site.await_log("watching one file", 20);
    let guardian = site.guardian();
    signal(guardian, Signal::SIGSTOP);
    signal(site.pid(), Signal::SIGKILL);
    let text = site.read("rotad.toml");
    site.write("rotad.toml", &text.replace("count = 1", "count = 3"));
    signal(guardian, Signal::SIGCONT);
    site.await_status("three workers", 20, |status| {
        pids(status, "web").len() == 3 && support::all_ready(status)
    });
}
