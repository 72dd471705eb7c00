//! A requested stop is for the whole tree: a program behind a shell, npm or a wrapper gets the signal and the rest of the
//! wait, in every roll and at the stop. After a crash the tree is killed immediately.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::load::burst;
use support::{Load, Site, all_ready, alone, need, number, pids, pool, proc, rolls, until};

const WEB: &str = "@WORKER@ http --stdin --work-ms 100";
/// What it has in hand when TERM comes takes a while.
const JOB: &str = "@WORKER@ wait --notify --drain-ms 300 --starts @DIR@/starts --terms @DIR@/terms --ended @DIR@/ended";

/// A site with two pools of two workers, each started by `wrap`: one serves HTTP, one has something in hand.
fn site(wrap: impl Fn(&str) -> String) -> Site {
    let text = format!(
        r#"
[defaults]
count = 2
stop = "20s"
working_directory = "@DIR@"
env = {{ npm_config_cache = "@DIR@/npm", npm_config_update_notifier = "false" }}
[defaults.reload]
soak = "0s"
[pool.web]
command = {}
stdin = "listen:http"
listen = ["http"]
[pool.job]
kind = "task"
command = {}
ready = "notify"
[listen.http]
address = "127.0.0.1:@PORT@"
"#,
        wrap(WEB),
        wrap(JOB)
    );
    Site::new(&text)
}

/// Rolls under load and a stop with requests in flight: no request is lost, no job is cut short, and every process has
/// got its signal once.
#[expect(
    clippy::print_stderr,
    reason = "the table of docs/worker-contract.md, for `--nocapture`"
)]
fn nothing_is_lost(name: &str, mut site: Site) {
    let _alone = alone();
    site.run();
    site.await_status("every worker is ready", 60, all_ready);
    let load = Load::on(&site.address(), 3, 3);
    load.await_more(20);
    for _ in 0..rolls() {
        let run = site.rotad(&["roll", "--drained"]);
        assert_eq!(run.code, 0, "{run:?}");
    }
    load.await_more(20);
    let report = load.stop();
    report.assert_nothing_lost(100);
    let clients = burst(&site.address(), "/work/500", 8);
    until("8 requests in hand", 10, || {
        (in_hand(&site) >= 8).then_some(())
    });
    let run = site.rotad(&["stop"]);
    assert_eq!(run.code, 0, "{run:?}");
    let answers: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().expect("a client"))
        .collect();
    let lost: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
    assert!(
        lost.is_empty(),
        "{} of 8 lost at the stop: {lost:?}",
        lost.len()
    );
    let started: BTreeSet<String> = site
        .lines("starts")
        .iter()
        .map(|line| line.split(' ').nth(1).expect("a pid").to_owned())
        .collect();
    let ended: BTreeSet<String> = site.lines("ended").into_iter().collect();
    assert_eq!(started, ended, "started and ended by themselves");
    assert_eq!(started.len() as u64, 2 + 2 * rolls(), "2 workers");
    let mut termed = site.lines("terms");
    termed.sort_unstable();
    termed.dedup();
    assert_eq!(
        termed.len(),
        site.lines("terms").len(),
        "a process was signalled twice"
    );
    site.await_exit(5);
    site.assert_empty();
    eprintln!(
        "| {name} | {} requests in {} rolls, {} lost | 8 in hand at the stop, 0 lost | {} jobs, 0 cut |",
        report.ok,
        rolls(),
        report.lost(),
        started.len()
    );
}

/// Connections that the workers' trees have accepted: a listener and two of its own pair are not among a program's
/// sockets.
fn in_hand(site: &Site) -> usize {
    let serves = |pid: &i32| proc::command_line(*pid).contains("--stdin");
    let of = |pid: i32| {
        proc::descriptors(pid)
            .values()
            .filter(|what| what.starts_with("socket:"))
            .count()
    };
    let direct = |pid: &i32| {
        proc::command_line(*pid).starts_with(&support::testworker().display().to_string())
    };
    site.processes()
        .into_iter()
        .filter(|pid| serves(pid) && direct(pid))
        .map(|pid| of(pid).saturating_sub(3))
        .sum()
}

fn npm(script: &str, arguments: &str) {
    if !need::program("npm") {
        return;
    }
    let site = site(|command| {
        let verb = if command == WEB { "web" } else { "job" };
        // npm is started in a directory of each pool's own: `start` is one script of a package.
        format!("[\"sh\", \"-c\", \"cd @DIR@/{verb} && exec npm {arguments}\"]")
    });
    for (verb, command) in [("web", WEB), ("job", JOB)] {
        std::fs::create_dir(site.path(verb)).expect("a directory");
        let text = format!(
            r#"{{"name": "{verb}", "version": "1.0.0", "scripts": {{"{script}": "{command}"}}}}"#
        );
        site.write(&format!("{verb}/package.json"), &site.filled(&text));
    }
    nothing_is_lost(&format!("npm {arguments}"), site);
}

#[test]
fn a_shell_with_two_commands_is_stopped_with_its_tree() {
    nothing_is_lost(
        "sh -c \"a && b\"",
        site(|command| format!(r#"["sh", "-c", "true && {command} && echo over"]"#)),
    );
}

#[test]
fn a_login_shell_is_stopped_with_its_tree() {
    nothing_is_lost(
        "bash -lc",
        site(|command| format!(r#"["bash", "-lc", "{command}; echo over"]"#)),
    );
}

#[test]
fn a_script_that_waits_for_its_background() {
    let site = site(|command| {
        format!(
            r#"["sh", "@DIR@/wrapper", "{}"]"#,
            command.replace(' ', "\", \"")
        )
    });
    // A shell gives /dev/null to what it puts into the background, unless told otherwise.
    site.write("wrapper", "exec 4<&0\n\"$@\" <&4 &\nwait\n");
    nothing_is_lost("script: x & wait", site);
}

#[test]
fn npm_start_is_stopped_with_its_tree() {
    npm("start", "start");
}

#[test]
fn npm_run_is_stopped_with_its_tree() {
    npm("worker", "run worker");
}

#[test]
fn a_python_wrapper_is_stopped_with_its_tree() {
    if !need::program("python3") {
        return;
    }
    let site = site(|command| {
        format!(
            r#"["python3", "@DIR@/wrapper.py", "{}"]"#,
            command.replace(' ', "\", \"")
        )
    });
    site.write(
        "wrapper.py",
        "import subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n",
    );
    nothing_is_lost("Python: subprocess.call", site);
}

fn events(site: &Site) -> Vec<Value> {
    let run = site.rotad(&["events", "--json"]);
    run.out
        .lines()
        .map(|line| serde_json::from_str(line).expect("an event"))
        .collect()
}

/// Until its tree is gone the worker is `stopping`, counts as alive, and its slot waits (surge 0).
#[test]
fn it_stops_until_its_tree_is_gone() {
    let _alone = alone();
    let site = Site::up(
        r#"
[pool.job]
command = ["sh", "-c", "@WORKER@ wait --notify --drain-ms 1500 --terms @DIR@/terms --ended @DIR@/ended; true"]
ready = "notify"
reload = { surge = 0 }
stop = "20s"
"#,
    );
    let first = pids(&site.status().expect("a status"), "job")[0];
    let roll = site.rotad(&["roll", "--no-wait"]);
    assert_eq!(roll.code, 0, "{roll:?}");
    let status = site.await_status("the shell has ended", 5, |_| {
        proc::gone(first) || is_zombie(first)
    });
    let workers = pool(&status, "job")["workers"]
        .as_array()
        .expect("workers")
        .clone();
    assert!(
        workers
            .iter()
            .any(|worker| worker["state"] == "stopping" && worker["pid"] == first),
        "{workers:?}"
    );
    assert_eq!(pool(&status, "job")["alive"], 1, "{status}");
    let status = site.await_status("the new one", 10, |status| {
        all_ready(status) && pids(status, "job") != [first]
    });
    assert_eq!(number(&pool(&status, "job")["reload"]["replaced"]), 1.0);
    assert_eq!(site.lines("ended").len(), 1);
    let stopped: Vec<Value> = events(&site)
        .into_iter()
        .filter(|event| event["event"] == "stopped")
        .collect();
    assert_eq!(stopped.len(), 1, "{stopped:?}");
    // It took as long as the tree did, and says how the first process ended.
    let text = stopped[0]["text"].as_str().expect("a text");
    assert!(
        text.starts_with("stopped in 1.") && text.ends_with("was killed by SIGTERM"),
        "{text}"
    );
    assert_eq!(stopped[0]["pid"], first, "{stopped:?}");
}

fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// A tree that is deaf is cut at the end of the steps, not earlier and not later; the warning and the event name it.
#[test]
fn killed_trees_are_named() {
    let mut site = Site::up(
        r#"
[pool.job]
command = ["sh", "-c", "@WORKER@ deaf --notify; true"]
ready = "notify"
stop = [{ signal = "TERM", wait = "700ms" }, { wait = "300ms" }, { signal = "INT", wait = "500ms" }]
"#,
    );
    let asked = Instant::now();
    let follower = std::thread::spawn({
        let config = site.config.clone();
        move || support::site::verb(&config, &["events", "-f", "--json"], 30)
    });
    site.signal(Signal::SIGTERM);
    site.await_exit(5);
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(1450) && took < Duration::from_millis(2600),
        "{took:?}"
    );
    let told = follower.join().expect("events").out;
    let cut: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an event"))
        .filter(|event| event["event"] == "kill" && event["cause"] == "stop-timeout")
        .collect();
    assert_eq!(cut.len(), 1, "{told}");
    let text = cut[0]["text"].as_str().expect("a text");
    assert!(
        text.contains("cut short") && text.contains("1 process: testworker (pid "),
        "{text}"
    );
    for text in [
        "WARN",
        "cut short",
        "SIGTERM was passed on to 1 process: testworker",
        "SIGINT was passed on to 1 process: testworker",
    ] {
        site.await_log(text, 10);
    }
    site.assert_empty();
}

/// Not a stop: what a crash leaves behind is killed immediately, even if it is working.
#[test]
fn the_tree_of_a_crashed_worker_is_killed() {
    let site = Site::up(
        r#"
[pool.job]
command = ["sh", "-c", "@WORKER@ wait --notify --drain-ms 20000 --starts @DIR@/starts; true"]
ready = "notify"
stop = "60s"
"#,
    );
    let shell = pids(&site.status().expect("a status"), "job")[0];
    let child: i32 = site.lines("starts")[0]
        .split(' ')
        .nth(1)
        .expect("a pid")
        .parse()
        .expect("a pid");
    kill(Pid::from_raw(shell), Signal::SIGKILL).expect("a shell");
    until("what it left is gone", 3, || {
        proc::gone(child).then_some(())
    });
    site.await_status("another one", 10, |status| {
        all_ready(status) && pids(status, "job") != [shell]
    });
    assert!(!site.log().contains("passed on"), "{}", site.log());
}

/// `to = "tree"`: a wrapper that ignores the signal does not keep it from its children; each gets it once.
#[test]
fn a_stop_step_can_reach_the_whole_tree() {
    let mut site = Site::up(
        r#"
[pool.job]
command = ["sh", "-c", "trap : TERM; @WORKER@ wait --notify --drain-ms 300 --terms @DIR@/terms --ended @DIR@/ended; exit 0"]
ready = "notify"
stop = [{ signal = "TERM", wait = "20s", to = "tree" }]
"#,
    );
    let asked = Instant::now();
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    site.await_exit(5);
    assert_eq!(
        (site.lines("terms").len(), site.lines("ended").len()),
        (1, 1)
    );
    site.assert_empty();
}

/// `stop --now` and a second INT do not wait for a tree that finishes.
#[test]
fn stop_now_kills_the_tree() {
    const SLOW: &str = r#"
[pool.job]
command = ["sh", "-c", "@WORKER@ wait --notify --drain-ms 20000 --terms @DIR@/terms; true"]
ready = "notify"
stop = "60s"
"#;
    let mut site = Site::up(SLOW);
    site.signal(Signal::SIGTERM);
    until("the tree has its signal", 5, || {
        (site.lines("terms").len() == 1).then_some(())
    });
    let asked = Instant::now();
    assert_eq!(site.rotad(&["stop", "--now"]).code, 0);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    site.await_exit(2);
    site.assert_empty();
    let mut site = Site::up(SLOW);
    site.signal(Signal::SIGINT);
    until("the tree has its signal", 5, || {
        (site.lines("terms").len() == 1).then_some(())
    });
    let asked = Instant::now();
    site.signal(Signal::SIGINT);
    site.await_exit(3);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    site.assert_empty();
}
