//! Promise 8: no byte that a worker printed is lost while the disk has room, not even at its death; none is changed in
//! a log of its own, and no line is torn.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{BufRead, BufReader};
use support::{Site, alone, number, pool, proc, until};

/// A worker that runs a script, in a pool that logs to `web.log`.
fn script(script: &str, more: &str) -> Site {
    let site = Site::new("");
    site.write("worker.sh", script);
    site.configure(&format!(
        r#"{}
[pool.web]
command = ["sh", "@DIR@/worker.sh"]
ready = "spawned"
restart = {{ policy = "never" }}
{more}
[pool.web.log]
stdout = "@DIR@/web.log"
"#,
        site.read("rotad.toml")
    ));
    site
}

/// Stops the master; everything is written then.
fn stop(site: &mut Site) {
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(30).code(), Some(0));
}

/// The file and all that were put aside before it, oldest first.
fn all_files(site: &Site, name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    for number in (1..=999).rev() {
        text.extend(fs::read(site.path(&format!("{name}.{number}"))).unwrap_or_default());
    }
    text.extend(fs::read(site.path(name)).unwrap_or_default());
    text
}

/// Control characters, broken UTF-8, NUL, a line of 100 KiB, no newline at the end: as they were printed.
#[test]
fn every_byte_is_logged_as_printed() {
    let mut site = script("cat odd; cat odd >&2", "working_directory = \"@DIR@\"");
    let mut odd: Vec<u8> = (0..=255).cycle().take(5000).collect();
    odd.extend(b"\r\n\n\n");
    odd.extend(vec![b'x'; 100 << 10]);
    odd.extend(b"\nno end \x1b[31m\xff\0");
    fs::write(site.path("odd"), &odd).expect("a file");
    site.run();
    until("all of it", 20, || {
        (fs::read(site.path("web.log")).ok()?.len() >= 2 * odd.len()).then_some(())
    });
    stop(&mut site);
    assert!(
        fs::read(site.path("web.log")).expect("a log") == [odd.clone(), odd].concat(),
        "not as it was printed"
    );
}

/// A stream of 20 MB in lines of 100 bytes over many files: each byte once, in order, files cut between lines.
#[test]
fn rotation_keeps_every_byte() {
    let _alone = alone();
    let mut site = script(
        "i=0; while [ $i -lt 20 ]; do cat million; i=$((i+1)); done",
        "working_directory = \"@DIR@\"\n",
    );
    let lines: String = (0..10_000).map(|n| format!("{n:099}\n")).collect();
    fs::write(site.path("million"), &lines).expect("a file");
    site.configure(&(site.read("rotad.toml") + "max_size = \"1MiB\"\nkeep = 100\n"));
    site.run();
    site.await_status("the worker has ended", 60, |status| {
        pool(status, "web")["alive"] == 0
    });
    stop(&mut site);
    assert!(
        all_files(&site, "web.log") == lines.repeat(20).into_bytes(),
        "not every byte once and in order"
    );
    let sizes: Vec<u64> = (1..=99)
        .map_while(|n| Some(fs::metadata(site.path(&format!("web.log.{n}"))).ok()?.len()))
        .collect();
    assert!(
        sizes.len() >= 19 && sizes.iter().all(|size| *size <= 1 << 20 && size % 100 == 0),
        "{sizes:?}"
    );
}

/// 50 workers of one pool are killed in the middle of a line, with lines before it; their lines are whole, and so are
/// their successors'.
#[test]
fn a_line_of_a_killed_worker_is_kept() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", 'i=0; while [ $i -lt 500 ]; do echo "$$ line $i of mine"; i=$((i+1)); done; printf "$$ half a line"; echo $$ >> @DIR@/waiting; read x < @DIR@/never']
count = 5
ready = "spawned"
restart = { delay = "1ms", max_delay = "1ms", success_exit_codes = [0] }
[pool.web.log]
stdout = "@DIR@/web.log"
"#,
    );
    let fifo = site.path("never");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
    site.run();
    let mut killed = Vec::new();
    while killed.len() < 50 {
        let next = until("a worker that waits in the middle of its line", 20, || {
            let waiting = site
                .lines("waiting")
                .into_iter()
                .filter_map(|line| line.parse().ok());
            waiting.into_iter().find(|pid| !killed.contains(pid))
        });
        kill(Pid::from_raw(next), Signal::SIGKILL).expect("a worker");
        killed.push(next);
    }
    stop(&mut site);
    let text = site.read("web.log");
    let lines: HashSet<&str> = text.lines().collect();
    for pid in killed {
        for number in 0..500 {
            assert!(
                lines.contains(&*format!("{pid} line {number} of mine")),
                "{pid}: line {number} is not there"
            );
        }
        assert!(
            lines.contains(&*format!("{pid} half a line")),
            "{pid}: its unfinished line is not there"
        );
    }
}

/// 900 workers that print 1 MiB each into one file, and 100 into the master's log, and exit immediately.
#[test]
fn output_before_an_immediate_exit_is_kept() {
    let _alone = alone();
    let mut site = Site::new("");
    let pools: String = [
        ("file", 900, "@DIR@/all.log", "max_size = \"1GiB\""),
        ("master", 100, "master", ""),
    ]
    .iter()
    .map(|(name, count, target, more)| {
        format!(
            r#"
[pool.{name}]
command = ["@WORKER@", "lines", "--lines", "16384", "--width", "64"]
count = {count}
ready = "spawned"
restart = {{ policy = "never" }}
[pool.{name}.log]
stdout = "{target}"
{more}
"#
        )
    })
    .collect();
    let master = site.read("rotad.toml").replace(
        "log_format = \"json\"",
        "log_format = \"text\"\nlog_max_size = \"1GiB\"",
    );
    site.configure(&(master + &pools));
    site.run();
    site.await_status("all have ended", 120, |status| {
        [("file", 900), ("master", 100)]
            .iter()
            .all(|(name, count)| {
                number(&pool(status, name)["alive"]) == 0.0 && started(status, name) == *count
            })
    });
    stop(&mut site);
    // A GiB is read line by line.
    let count = |log: &str, cut: fn(&str) -> &str| {
        let mut seen = vec![0_u16; 16384];
        for line in BufReader::new(fs::File::open(site.path(log)).expect("a log")).lines() {
            let line = line.expect("text");
            let line = cut(&line);
            if !line.starts_with("line ") {
                continue;
            }
            assert_eq!(line.len(), 63, "torn: {line:?}");
            let digits: String = line[5..].chars().take_while(char::is_ascii_digit).collect();
            seen[digits.parse::<usize>().expect("a number")] += 1;
        }
        seen
    };
    assert_eq!(
        fs::metadata(site.path("all.log")).expect("a log").len(),
        900 << 20
    );
    assert!(
        count("all.log", |line| line)
            .iter()
            .all(|times| *times == 900),
        "lines are missing or torn"
    );
    let own = count("master.log", |line| {
        line.split_once("] ").map_or("", |(_, text)| text)
    });
    assert!(
        own.iter().all(|times| *times == 100),
        "lines are missing or torn"
    );
}

fn started(status: &serde_json::Value, name: &str) -> usize {
    let workers = pool(status, name)["workers"].as_array().expect("workers");
    workers
        .iter()
        .filter(|worker| worker["last_exit"].is_object())
        .count()
}

/// stdout and stderr to places of their own, and two pools in one file.
#[test]
fn streams_and_pools_have_their_own_files() {
    let mut site = Site::new(
        r#"
[pool.one]
command = ["sh", "-c", 'echo "one out"; echo "one err" >&2; echo "by name" >/dev/stderr']
ready = "spawned"
restart = { policy = "never" }
[pool.one.log]
stdout = "@DIR@/both.log"
stderr = "@DIR@/logs/of/errors.log"
[pool.two]
command = ["sh", "-c", 'echo "two out"; echo "two err" >&2']
ready = "spawned"
restart = { policy = "never" }
[pool.two.log]
stdout = "@DIR@/both.log"
stderr = "master"
"#,
    );
    site.run();
    site.await_status("both have ended", 20, |status| {
        started(status, "one") + started(status, "two") == 2
    });
    let status = site.status().expect("a status");
    let last = |name: &str| pool(&status, name)["workers"][0]["last_exit"]["log"].clone();
    assert_eq!(last("two"), serde_json::json!(["two out", "two err"]));
    assert_eq!(
        last("one").as_array().map(Vec::len),
        Some(3),
        "{}",
        last("one")
    );
    stop(&mut site);
    let mut both = site.lines("both.log");
    both.sort();
    assert_eq!(both, ["one out", "two out"]);
    assert_eq!(site.lines("logs/of/errors.log"), ["one err", "by name"]);
    let told = |line: &serde_json::Value| {
        line["line"] == "two err" && line["stream"] == "stderr" && line["pool"] == "two"
    };
    let log = site.read("master.log");
    assert!(
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .any(|line| told(&line)),
        "{log}"
    );
}

/// RTMIN: a file that was moved away is left alone, and a new one is begun.
#[test]
fn logs_are_reopened_by_signal() {
    let mut site = script(
        "exec 3<>orders; while read line <&3; do echo $line; done",
        "working_directory = \"@DIR@\"",
    );
    nix::unistd::mkfifo(
        &site.path("orders"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a fifo");
    site.run();
    let print = |text: &str, into: &str| {
        fs::write(site.path("orders"), format!("{text}\n")).expect("an order");
        until(text, 10, || site.read(into).contains(text).then_some(()));
    };
    print("before", "web.log");
    fs::rename(site.path("web.log"), site.path("moved.log")).expect("moved");
    print("still there", "moved.log");
    kill(Pid::from_raw(site.pid()), None).expect("a master");
    let status = std::process::Command::new("kill")
        .args(["-s", "RTMIN", &site.pid().to_string()])
        .status();
    assert!(status.expect("kill").success());
    until("a new file", 10, || {
        site.path("web.log").exists().then_some(())
    });
    print("after", "web.log");
    assert_eq!(site.lines("moved.log"), ["before", "still there"]);
    // And a directory that goes away with its file.
    fs::remove_file(site.path("web.log")).expect("removed");
    print("anew", "web.log");
    assert_eq!(site.lines("web.log"), ["anew"]);
    stop(&mut site);
}

/// A grandchild that holds the pipe: the worker's death is seen immediately, and its unfinished line is written.
#[test]
fn output_of_a_surviving_grandchild_is_logged() {
    let mut site = script(
        "(trap '' TERM HUP; read line < orders; echo $line; read line < orders) & printf 'half a line'; exit 3",
        "working_directory = \"@DIR@\"",
    );
    nix::unistd::mkfifo(
        &site.path("orders"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a fifo");
    site.run();
    let status = site.await_status("its end", 10, |status| started(status, "web") == 1);
    assert_eq!(pool(&status, "web")["workers"][0]["last_exit"]["code"], 3);
    until("the unfinished line", 10, || {
        (site.read("web.log") == "half a line").then_some(())
    });
    stop(&mut site);
    assert!(proc::of_directory(&site.path("")).is_empty());
}

/// `max_size = "none"`: something else renames the file and asks for a new one, by RTMIN or WINCH, or truncates it in place.
/// rotad rotates nothing.
#[test]
fn a_log_that_something_else_rotates_is_left_alone() {
    let _alone = alone();
    let mut site = script(
        "while ! [ -e end ]; do cat block; sleep 0.01; done",
        "working_directory = \"@DIR@\"\n",
    );
    let lines: String = (0..1_000).map(|n| format!("{n:099}\n")).collect();
    fs::write(site.path("block"), &lines).expect("a file");
    site.configure(&(site.read("rotad.toml") + "max_size = \"none\"\nmode = \"0604\"\n"));
    site.run();
    let large = |size: usize| {
        until("more output", 30, || {
            (site.read("web.log").len() > size).then_some(())
        });
    };
    // More than a default of kibibytes would allow.
    large(2 << 20);
    let mut names = vec!["web.log".to_owned()];
    for signal in ["RTMIN", "WINCH"] {
        let name = format!("web.log-{signal}");
        fs::rename(site.path("web.log"), site.path(&name)).expect("renamed");
        let sent = std::process::Command::new("kill")
            .args(["-s", signal, &site.pid().to_string()])
            .status();
        assert!(sent.expect("kill").success());
        until("a new file", 10, || {
            site.path("web.log").exists().then_some(())
        });
        large(100_000);
        names.push(name);
    }
    fs::write(site.path("end"), "").expect("a file");
    site.await_status("the worker has ended", 30, |status| {
        pool(status, "web")["alive"] == 0
    });
    stop(&mut site);
    let all: usize = names.iter().map(|name| site.read(name).len()).sum();
    assert_eq!(all % lines.len(), 0, "each block is there as a whole");
    let rotated = fs::read_dir(site.path(".")).expect("a directory");
    let rotated = rotated.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found: Vec<String> = rotated.filter(|name| name.starts_with("web.log")).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    for name in ["web.log", "web.log-RTMIN"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(site.path(name)).expect("a file").permissions();
        assert_eq!(mode.mode() & 0o777, 0o604, "{name}");
    }
}

/// Each slot has its file: the successor of a slot goes on with it, and a change of the path needs no new worker.
#[test]
fn each_slot_has_a_file_of_its_own() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["sh", "-c", "while :; do echo $ROTAD_SLOT $ROTAD_GENERATION $$; sleep 0.1; done"]
count = 3
ready = "spawned"
stop = "1s"
[pool.web.reload]
soak = "100ms"
[pool.web.log]
stdout = "@DIR@/logs/{pool}-{slot}.log"
"#,
    );
    site.run();
    site.await_ready();
    assert_eq!(site.rotad(&["roll"]).code, 0);
    for slot in 0..3 {
        let file = format!("logs/web-{slot}.log");
        let line = |generation: u32| format!("{slot} {generation} ");
        until("both generations", 20, || {
            site.read(&file).contains(&line(2)).then_some(())
        });
        let text = site.read(&file);
        assert!(text.contains(&line(1)), "{text}");
        assert!(
            text.lines().all(|line| line.starts_with(&slot.to_string())),
            "{text}"
        );
    }
    let before = support::pids(&site.await_ready(), "web");
    let text = site
        .read("rotad.toml")
        .replace("{pool}-{slot}.log", "{slot}/x.log\"\ntimestamps = true #");
    site.write("rotad.toml", &text);
    let run = site.rotad(&["reload", "--config"]);
    assert_eq!(
        (run.code, run.out.contains("without a restart")),
        (0, true),
        "{run:?}"
    );
    for slot in 0..3 {
        until("a line with its time", 20, || {
            let text = site.read(&format!("logs/{slot}/x.log"));
            let line = text.lines().next()?;
            let printed = line.split_once("Z ").expect("a time").1;
            printed.starts_with(&format!("{slot} 2 ")).then_some(())
        });
    }
    assert_eq!(support::pids(&site.await_ready(), "web"), before);
    let more = site.rotad(&["logs", "-n", "9999", "web"]);
    assert!((more.err + &more.out).contains("logs/{slot}/x.log"));
    // A file is open as long as a worker writes to it.
    let are_open = |files: &[&str]| {
        let logs = site.path("logs").display().to_string();
        until("only files with a worker are open", 20, || {
            let open = proc::descriptors(site.pid()).into_values();
            let open: BTreeSet<String> = open
                .filter(|path| path.ends_with(".log"))
                .filter_map(|path| Some(path.strip_prefix(&logs)?.to_owned()))
                .collect();
            open.iter().eq(files).then_some(())
        });
    };
    are_open(&["/0/x.log", "/1/x.log", "/2/x.log"]);
    assert_eq!(site.rotad(&["scale", "web", "1"]).code, 0);
    are_open(&["/0/x.log"]);
    stop(&mut site);
}

/// A path that leads to what a process has open is refused by its text, wherever the output of `check` goes.
#[test]
fn a_log_that_is_a_descriptor_is_refused_by_its_text() {
    let site = Site::new("");
    let good = site.read("rotad.toml");
    std::os::unix::fs::symlink("/dev/stdout", site.path("out.log")).expect("a link");
    std::os::unix::fs::symlink("/proc/self", site.path("self")).expect("a link");
    for path in [
        "/dev/stdout",
        "/proc/self/fd/1",
        "/dev/fd/2",
        "-",
        "out.log",
        "self/fd/1",
        "x/../out.log",
    ] {
        let pool = format!("[pool.web]\ncommand = [\"sh\"]\n[pool.web.log]\nstdout = \"{path}\"\n");
        site.write("rotad.toml", &(good.clone() + &pool));
        // Both outputs are regular files here.
        let run = site.rotad(&["check"]);
        assert_eq!(run.code, 78, "{path}: {run:?}");
        assert!((run.err + &run.out).contains("write \"inherit\" for the master's own output"));
    }
}

/// `inherit` with `start`: the output goes nowhere, and `start` and `check` say so. With `run` it goes where `run` writes.
#[test]
fn inherited_output_of_a_daemon_is_said_to_be_lost() {
    let pools = "[pool.web]\ncommand = [\"sh\", \"-c\", \"echo printed; exec sleep 1000\"]\nready = \"spawned\"\n\
                 [pool.web.log]\nstdout = \"inherit\"\nstderr = \"null\"\n";
    let lost = "what its workers print is lost";
    let site = Site::new(pools);
    let check = site.rotad(&["check"]);
    assert_eq!(
        (check.code, check.err.contains(lost)),
        (0, true),
        "{check:?}"
    );
    let json = site.rotad(&["check", "--json"]).out;
    assert!(json.contains(lost), "{json}");
    let start = site.rotad(&["start"]);
    assert_eq!(
        (start.code, start.err.contains(lost)),
        (0, true),
        "{start:?}"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let mut site = Site::with_master("daemonize = false", pools);
    assert!(!site.rotad(&["check"]).err.contains(lost));
    let mut command = site.run_command();
    command
        .stdout(fs::File::create(site.path("out")).expect("a file"))
        .stdin(std::process::Stdio::null());
    site.spawn_as_it_is(command);
    until("its output", 20, || {
        site.read("out").contains("printed").then_some(())
    });
    stop(&mut site);
}
