//! Masters are killed while workers print: each line is in the log once, whole, and in its order. A dozen times, or for
//! `ROTAD_CHAOS_SECONDS`.

#![allow(clippy::print_stderr, reason = "the counts of a long run")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Random, Site, alone, asked_for, spaced, until};

/// Kills the master, and waits for the next one.
fn kill_master(site: &Site) {
    let master = site.pid();
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
    until("the next master", 20, || {
        let next = site.read("master.pid").trim().parse().ok();
        next.filter(|pid: &i32| *pid != master)
    });
}

/// How often masters are killed: a dozen times, or for ROTAD_CHAOS_SECONDS.
struct Kills {
    until: Option<Instant>,
    left: u32,
    random: Random,
}

impl Kills {
    fn new() -> Self {
        let seconds = asked_for("ROTAD_CHAOS_SECONDS").map(Duration::from_secs);
        let seed = asked_for("ROTAD_CHAOS_SEED").unwrap_or(1);
        Self {
            until: seconds.map(|seconds| Instant::now() + seconds),
            left: 12,
            random: Random::new(seed),
        }
    }

    /// Waits for a random moment. False: it is enough.
    fn more(&mut self) -> bool {
        spaced(Duration::from_micros(self.random.below(40_000) as u64));
        match self.until {
            Some(until) => Instant::now() < until,
            None => {
                self.left = self.left.saturating_sub(1);
                self.left > 0
            }
        }
    }
}

/// Lines that a printer prints before it pauses.
const BURST: u64 = 400;
/// However long the run, a printer prints about so many bytes at most.
const MOST_BYTES: u64 = 200 << 20;

/// How long a printer pauses after each burst, in seconds.
fn pause(long: usize) -> f64 {
    let seconds = asked_for("ROTAD_CHAOS_SECONDS").unwrap_or(0);
    let bytes = BURST * (65 + long as u64 / 50);
    ((seconds * bytes) as f64 / MOST_BYTES as f64).max(0.02)
}

/// A worker that prints numbered lines in bursts: most are short, some of `long` bytes.
fn printer(pool: &str, count: u32, long: usize, log: &str) -> String {
    let pause = pause(long);
    // Doubled braces are braces for rotad.
    let program = format!(
        r#"BEGIN {{{{ x = "x"; while (length(x) < {long}) x = x x; for (n = 1; ; n++) {{{{ printf "%s %d %s.\n", ARGV[1], n, substr(x, 1, n % 50 ? n % 97 : {long}); if (n % {BURST} == 0) {{{{ fflush(); system("sleep {pause}") }}}} }}}} }}}}"#
    );
    format!(
        r#"
[pool.{pool}]
command = ["awk", '{program}', "{pool}-{{slot}}"]
count = {count}
ready = "spawned"
stop = "2s"
[pool.{pool}.log]
{log}
"#
    )
}

fn expected(worker: &str, number: u64, long: usize) -> String {
    let length = match number % 50 {
        0 => long,
        _ => (number % 97) as usize,
    };
    format!("{worker} {number} {}.", "x".repeat(length))
}

/// What is in a log and the files that were rotated out of it, in the order in which it was written.
fn whole_log(site: &Site, name: &str) -> String {
    let mut parts = vec![site.read(name)];
    for number in 1.. {
        let rotated = format!("{name}.{number}");
        if !site.path(&rotated).exists() {
            break;
        }
        parts.push(site.read(&rotated));
    }
    parts.reverse();
    parts.concat()
}

/// Each line of each worker is there once, and in order; the last one may be cut by the worker's end. Returns how many.
fn assert_each_once<'a>(lines: impl Iterator<Item = &'a str>, long: usize) -> u64 {
    let mut last: BTreeMap<&str, (u64, bool)> = BTreeMap::new();
    let mut total = 0;
    for line in lines {
        let worker = line.split(' ').next().expect("a worker");
        let (number, cut) = last.entry(worker).or_default();
        assert!(!*cut, "after line {number} of {worker} comes {line:?}");
        let expected = expected(worker, *number + 1, long);
        if line == expected {
            *number += 1;
            total += 1;
        } else {
            let shown = &line[..line.len().min(200)];
            assert!(
                expected.starts_with(line),
                "after line {number} of {worker} ({} bytes expected) come {} bytes: {shown}",
                expected.len(),
                line.len(),
            );
            *cut = true;
        }
    }
    total
}

fn kill_masters(site: &Site, busy: &str) -> u32 {
    let mut kills = Kills::new();
    let mut count = 0;
    while kills.more() {
        kill_master(site);
        count += 1;
        let size = std::fs::metadata(site.path(busy)).map_or(0, |file| file.len());
        until("more lines", 20, || {
            let now = std::fs::metadata(site.path(busy)).map_or(0, |file| file.len());
            (now != size).then_some(())
        });
    }
    count
}

/// Two workers share a file; two others have one each, and print lines that are longer than what is written at once. All
/// are rotated.
#[test]
fn each_line_is_in_a_rotated_file_once_whenever_the_master_dies() {
    let _alone = alone();
    let log = |file: &str| format!("stdout = \"@DIR@/{file}\"\nmax_size = \"2MiB\"\nkeep = 10000");
    let shared = printer("shared", 2, 3_000, &log("shared.log"));
    let own = ["one", "two"].map(|pool| printer(pool, 1, 40_000, &log(&format!("{pool}.log"))));
    let site = Site::up(&(shared + &own.concat()));
    let count = kill_masters(&site, "shared.log");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    for (file, long) in [
        ("shared.log", 3_000),
        ("one.log", 40_000),
        ("two.log", 40_000),
    ] {
        let lines = assert_each_once(whole_log(&site, file).lines(), long);
        assert!(lines > 1_000, "{file}: {lines} lines and {count} deaths");
        eprintln!("{file}: {count} deaths of masters, {lines} lines, each once");
    }
}

/// With a time before each line: two workers share a file, two others of one pool have one each, with lines that are longer
/// than what is written at once. The time of such a line stands before its first piece alone.
#[test]
fn each_line_has_one_time_and_is_in_a_file_once_whenever_the_master_dies() {
    let _alone = alone();
    let log = |file: &str| {
        format!("stdout = \"@DIR@/{file}\"\ntimestamps = true\nmax_size = \"2MiB\"\nkeep = 10000")
    };
    let shared = printer("shared", 2, 3_000, &log("shared.log"));
    let own = printer("own", 2, 40_000, &log("{pool}-{slot}.log"));
    let site = Site::up(&(shared + &own));
    let count = kill_masters(&site, "shared.log");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    for (file, long) in [
        ("shared.log", 3_000),
        ("own-0.log", 40_000),
        ("own-1.log", 40_000),
    ] {
        let text = whole_log(&site, file);
        let lines = text.lines().map(|line| {
            let (time, printed) = line.split_once(' ').unwrap_or((line, ""));
            let is_time = time.len() == 27 && time.starts_with("20") && time.ends_with('Z');
            assert!(is_time, "{file}: {:?}", &line[..line.len().min(200)]);
            printed
        });
        let lines = assert_each_once(lines, long);
        assert!(lines > 1_000, "{file}: {lines} lines and {count} deaths");
    }
}

/// Nothing reads the pipe for a while, since no next master can begin: the worker waits, and loses nothing.
#[test]
fn a_worker_waits_while_its_pipe_is_full_and_there_is_no_master() {
    let _alone = alone();
    let log = "stdout = \"@DIR@/talk.log\"\nmax_size = \"1GiB\"";
    let site = Site::up(&printer("talk", 1, 3_000, log));
    let (master, guardian) = (site.pid(), site.guardian());
    let worker = support::proc::children(master);
    kill(Pid::from_raw(guardian), Signal::SIGSTOP).expect("the guardian");
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
    let blocked = || {
        let waits = |pid: &i32| {
            let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            wchan.contains("pipe")
        };
        worker.iter().any(waits).then_some(())
    };
    until("the worker waits for its pipe", 20, blocked);
    let size = site.read("talk.log").len();
    kill(Pid::from_raw(guardian), Signal::SIGCONT).expect("the guardian");
    until("more lines", 20, || {
        (site.read("talk.log").len() > size).then_some(())
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(assert_each_once(site.read("talk.log").lines(), 3_000) > 400);
}

/// A signal to the guardian is acted on by the next master, once.
#[test]
fn a_signal_is_not_lost_while_there_is_no_master() {
    let _alone = alone();
    let site = Site::up(
        "[pool.idle]\ncommand = [\"sleep\", \"1000\"]\nready = \"spawned\"\n[pool.idle.reload]\nsoak = \"100ms\"\n",
    );
    let guardian = site.guardian();
    for generation in 2..=3 {
        kill(Pid::from_raw(guardian), Signal::SIGSTOP).expect("the guardian");
        kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("the master");
        kill(Pid::from_raw(guardian), Signal::SIGUSR1).expect("the guardian");
        kill(Pid::from_raw(guardian), Signal::SIGCONT).expect("the guardian");
        let is = |status: &serde_json::Value| {
            let pool = support::pool(status, "idle");
            pool["generation"] == generation && pool["reload"]["state"] == "done"
        };
        site.await_status("it is rolled", 30, is);
    }
    kill_master(&site);
    let status = site.await_ready();
    assert_eq!(support::pool(&status, "idle")["generation"], 3, "{status}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// Two workers print into the master's log, which is written as text.
fn site_with_log(keys: &str) -> Site {
    let mut site = Site::new("");
    let master =
        "[master]\nname = \"site\"\nruntime_dir = \"@DIR@/run\"\npid_file = \"@DIR@/master.pid\"\n";
    site.configure(&format!("{master}{keys}{}", printer("talk", 2, 3_000, "")));
    site.run();
    site.await_ready();
    site
}

fn assert_each_once_in_masters_log(text: &str, count: u32) {
    let printed = text.lines().filter_map(|line| {
        let (_, behind) = line.split_once("  talk/")?;
        Some(behind.split_once("] ")?.1)
    });
    let lines = assert_each_once(printed, 3_000);
    assert!(lines > 1_000, "{lines} lines");
    eprintln!("the master's log: {count} deaths of masters, {lines} lines, each once");
    assert!(
        text.lines()
            .all(|line| line.starts_with("20") || !line.contains("talk")),
        "each line is whole, and begins with its time"
    );
}

#[test]
fn each_line_is_in_the_masters_log_file_once_whenever_it_dies() {
    let _alone = alone();
    let keys = "log_file = \"@DIR@/m.log\"\nlog_max_size = \"2MiB\"\nlog_keep = 10000\n";
    let site = site_with_log(keys);
    let count = kill_masters(&site, "m.log");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert_each_once_in_masters_log(&whole_log(&site, "m.log"), count);
}

/// `run` in the foreground with its stderr in a file.
#[test]
fn each_line_is_in_the_file_behind_stderr_once_whenever_the_master_dies() {
    let _alone = alone();
    let site = site_with_log("");
    let before = site.log().len();
    let count = kill_masters(&site, "stderr.txt");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(site.log().len() > before);
    assert_each_once_in_masters_log(&site.log(), count);
}

/// A client of `rotad logs -f`, and what it prints into a file.
fn follow(site: &Site, target: &str, file: &str) -> Child {
    let out = File::create(site.path(file)).expect("a file");
    Command::new(support::rotad())
        .args(["logs", "-f", "-n", "100000", target, "-c"])
        .arg(&site.config)
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .expect("a follower")
}

/// Clients that follow go on with each next master, after the deaths of masters and of a guardian, and an upgrade. None of them
/// misses or repeats a line.
#[test]
fn logs_go_on_with_the_next_master() {
    let _alone = alone();
    // Less than a follower would leave out because it is slow.
    let program = r#"BEGIN {{ for (n = 1; ; n++) {{ print n; if (n % 20 == 0) {{ fflush(); system("sleep 0.01") }} }} }}"#;
    let pool = |name: &str, log: &str| {
        format!(
            "\n[pool.{name}]\ncommand = [\"awk\", '{program}']\nready = \"spawned\"\nstop = \"2s\"\n{log}"
        )
    };
    let log = "[pool.one.log]\nstdout = \"@DIR@/one.log\"\n";
    let mut site = Site::up(&(pool("one", log) + &pool("two", "")));
    let mut followers = [("one", "one.out"), ("two/0", "two.out")]
        .map(|(target, file)| (follow(&site, target, file), file));
    let more = || {
        for (_, file) in &followers {
            let size = site.read(file).len();
            until("more lines", 20, || {
                (site.read(file).len() > size).then_some(())
            });
        }
    };
    more();
    let mut kills = Kills::new();
    while kills.more() {
        kill_master(&site);
        more();
    }
    let guardian = site.guardian();
    kill(Pid::from_raw(guardian), Signal::SIGKILL).expect("the guardian");
    site.await_status("another guardian", 20, |status| {
        let now = status["master"]["guardian"].as_i64();
        now.is_some_and(|pid| pid != i64::from(guardian))
    });
    more();
    let run = site.rotad(&["upgrade"]);
    assert_eq!(run.code, 0, "{run:?}");
    more();
    let run = site.rotad(&["stop"]);
    assert_eq!(run.code, 0, "{run:?}");
    for (follower, file) in &mut followers {
        let ended = follower.wait().expect("its end");
        assert!(ended.success(), "{file}: {ended}");
        let text = site.read(file);
        let numbers = text
            .lines()
            .map(|line| match line.strip_prefix("one/0 | ") {
                Some(number) => number.parse().unwrap_or(0),
                None => line.parse().unwrap_or(0),
            });
        let numbers: Vec<usize> = numbers.collect();
        let wanted = numbers.iter().zip(1..);
        for (number, wanted) in wanted {
            assert_eq!(*number, wanted, "{file}");
        }
        assert!(numbers.len() > 500, "{file}: {} lines", numbers.len());
        if *file == "one.out" {
            assert_eq!(numbers.len(), site.read("one.log").lines().count());
        }
    }
    site.await_exit(10);
}

/// A client that has begun to get lines is not answered from the start again by the next master: however soon its master
/// dies, and also while the answer waits for a client that reads slowly.
#[test]
fn no_line_is_sent_again_by_the_next_master() {
    let _alone = alone();
    const LINES: usize = 8_000;
    let site = Site::up(&format!(
        r#"
[pool.talk]
command = ["awk", 'BEGIN {{{{ for (n = 1; n <= {LINES}; n++) {{{{ print n; if (n % 500 == 0) {{{{ fflush(); system("sleep 0.01") }}}} }}}} system("exec sleep 1000") }}}}']
ready = "spawned"
stop = "1s"
log = {{ stdout = "@DIR@/talk.log" }}
"#
    ));
    until("all lines", 10, || {
        (site.read("talk.log").lines().count() == LINES).then_some(())
    });
    let ask = |lines: usize| {
        site.asking(&serde_json::json!({ "logs": { "pool": "talk", "slot": null, "lines": lines, "follow": true } }))
    };
    let mut random = Random::new(7);
    for round in 0..8 {
        // All lines fill the connection; a few do not.
        let lines = if round % 2 == 0 { LINES } else { 3 };
        let mut answers = ask(lines).lines();
        let begin = answers.next().expect("a place");
        assert!(begin["log-from"].is_object(), "{begin}");
        let first = answers.next().expect("a line");
        assert_eq!(first["line"]["text"], (LINES - lines + 1).to_string());
        spaced(Duration::from_micros(random.below(round * 100 + 1) as u64));
        kill_master(&site);
        site.await_status("it answers", 20, |_| true);
        let rest: Vec<serde_json::Value> = answers.collect();
        let numbers = rest.iter().map(|answer| &answer["line"]["text"]);
        let expected = (LINES - lines + 2..).map(|number| number.to_string());
        for (number, expected) in numbers.zip(expected) {
            assert_eq!(*number, expected, "round {round}");
        }
    }
    // A follower goes on behind the last line that it has read.
    let mut follower = Command::new(support::rotad())
        .args(["logs", "-f", "-n", "100000", "talk/0", "-c"])
        .arg(&site.config)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a follower");
    let out = follower.stdout.take().expect("its output");
    let mut read = BufReader::new(out).lines().map(|line| line.expect("text"));
    assert_eq!(read.next().as_deref(), Some("1"));
    kill_master(&site);
    site.await_status("it answers", 20, |_| true);
    for number in 2..=LINES {
        assert_eq!(read.next(), Some(number.to_string()));
    }
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert_eq!(read.next(), None);
    assert!(follower.wait().expect("its end").success());
}

/// The master dies just when a worker has ended: its last lines have not been read yet.
#[test]
fn the_last_lines_of_workers_are_logged_when_the_master_dies() {
    let _alone = alone();
    let site = Site::up(
        r#"
[pool.talk]
command = ["@WORKER@", "counts", "--lines", "20", "--work-ms", "1"]
count = 4
ready = "spawned"
reload = { soak = "10ms" }
stop = "5s"
log = { stdout = "@DIR@/talk.log", max_size = "1GiB" }
"#,
    );
    for round in 0..12 {
        let mut follower = site.asking(&serde_json::json!({ "events": { "follow": true } }));
        let before = site.events().last().expect("an event")["seq"].clone();
        let run = site.rotad(&["roll", "--no-wait"]);
        assert_eq!(run.code, 0, "{run:?}");
        let mut stopped = 0;
        while stopped <= round % 4 {
            let event = follower.event();
            let is_new = event["seq"].as_u64() > before.as_u64();
            stopped += usize::from(is_new && event["event"] == "stopped");
        }
        kill_master(&site);
        // The third death in ten seconds ends the roll.
        let settled = |status: &serde_json::Value| {
            let pool = support::pool(status, "talk");
            pool["state"] != "reloading" && pool["alive"] == 4 && pool["ready"] == 4
        };
        site.await_status("the roll has ended", 20, settled);
    }
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let text = site.read("talk.log");
    let (lines, workers) = support::counted::assert_each_line_once(&text, "at its end");
    assert!(lines > 1_000 && workers > 20, "{lines}, {workers}");
}
