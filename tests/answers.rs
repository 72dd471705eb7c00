//! Every question gets an answer, in bounded length and time, and nothing untrue is said where something was cut.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Site, need, pool, proc, until};

/// 400 workers whose last lines are control characters, six bytes each in JSON: far more than one answer may hold.
/// Every form of the status still answers, says what was cut, and shows the other pool completely.
#[test]
fn a_status_of_very_long_last_lines_is_cut_and_says_so() {
    if !need::program("perl") {
        return;
    }
    let _alone = support::alone();
    let mut site = Site::new(
        r#"
[pool.long]
command = ["perl", "-e", 'print((chr(1) x 600, chr(10)) x 25); exit 3']
count = 400
[pool.long.restart]
policy = "never"

[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
"#,
    );
    site.run();
    let ended = |status: &Value| pool(status, "long")["state"] == "failed";
    let status = site.await_status("all have ended", 60, ended);
    let exits: Vec<&Value> = pool(&status, "long")["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(|worker| &worker["last_exit"])
        .collect();
    assert_eq!(exits.len(), 400);
    assert!(
        exits
            .iter()
            .all(|exit| exit["code"] == 3 && exit["log_cut"] == true),
        "{}",
        exits[0]
    );
    assert!(
        exits
            .iter()
            .all(|exit| !exit["log"].as_array().expect("lines").is_empty()),
        "{}",
        exits[0]
    );
    assert_eq!(site.rotad(&["status", "web", "--check"]).code, 0);
    let table = site.rotad(&["status"]);
    assert!(
        table.code == 0 && table.out.contains("long"),
        "{}",
        table.err
    );
    let one = site.rotad(&["status", "web", "--json"]);
    assert!(
        one.code == 0 && !one.out.contains("log_cut"),
        "{}",
        one.text()
    );
}

/// 120 pools that fail with long last words: `start` names every one of them, says that it cut, and does not claim
/// that the master died while some pool serves.
#[test]
fn a_start_that_fails_in_very_many_words_is_reported() {
    if !need::program("perl") {
        return;
    }
    let _alone = support::alone();
    let mut pools =
        String::from("[pool.good]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    for number in 0..120 {
        pools += &format!(
            "[pool.bad{number}]\ncommand = [\"perl\", \"-e\", 'print((chr(1) x 900, chr(10)) x 25); exit 3']\n"
        );
    }
    let site = Site::new(&pools);
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1);
    assert!(!run.err.contains("died before"), "{}", &run.err[..200]);
    assert!(
        (0..120).all(|number| run.err.contains(&format!("bad{number}: "))),
        "every pool is named"
    );
    assert!(
        run.err.contains("bytes left out") && run.err.contains("good"),
        "it says that it cut, and what serves"
    );
    assert!(run.err.len() < 4 << 20, "{} bytes", run.err.len());
    assert!(site.status().is_some(), "the master lives");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A start of a pool without workers to start ends immediately, in whichever order that came about.
#[test]
fn a_start_of_a_pool_scaled_to_nothing_is_answered() {
    let site = {
        let mut site = Site::new(
            "[pool.a]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\ncount = 2\n\
             [pool.late]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"notify\"\nready_timeout = \"60s\"\n",
        );
        site.run();
        site.await_status("a is ready", 20, |status| {
            pool(status, "a")["state"] == "ok"
        });
        site
    };
    let none = |run: &support::Run| run.code == 0 && run.out.contains("0 workers are wanted");
    assert_eq!(site.rotad(&["scale", "a", "0"]).code, 0);
    let run = site.rotad(&["start", "a"]);
    assert!(none(&run), "scaled to nothing: {run:?}");
    assert_eq!(site.rotad(&["stop", "a"]).code, 0);
    let run = site.rotad(&["start", "a"]);
    assert!(none(&run), "stopped, scaled to nothing, started: {run:?}");
    // It is scaled to nothing while a client waits for its start.
    let waits = site.asking(&json!({ "start": { "pools": ["late"], "wait": "done" } }));
    assert_eq!(site.rotad(&["scale", "late", "0"]).code, 0);
    let answered = waits.answered();
    assert!(
        answered.code == 0 && answered.message.contains("0 workers are wanted"),
        "{answered:?}"
    );
}

/// `start POOL` while a rolling restart runs that is aborted afterwards: every worker served all the time.
#[test]
fn a_start_during_a_roll_that_is_aborted_is_answered() {
    let mut site = Site::new(
        "[pool.web]\ncommand = [\"@WORKER@\", \"http\", \"--code\", \"@DIR@/code\"]\ncount = 2\n\
         listen = \"127.0.0.1:@PORT@\"\nready_timeout = \"60s\"\nreload = { soak = \"0s\" }\n",
    );
    site.write("code", "ok\nfirst");
    site.run();
    site.await_ready();
    site.write("code", "hang\nsecond");
    let roll = site.asking(
        &json!({ "roll": { "which": { "pools": ["web"], "workers": false, "tasks": false }, "wait": "done" } }),
    );
    site.await_status("the successor starts", 20, |status| {
        pool(status, "web")["state"] == "reloading"
    });
    let start = site.asking(&json!({ "start": { "pools": ["web"], "wait": "done" } }));
    assert_eq!(site.rotad(&["cancel", "web"]).code, 0);
    roll.answered();
    assert_eq!(start.answered().code, 0);
}

/// No descriptor is left for a client: it hears why, or waits; the master does not spin, and answers again once there
/// is room.
#[test]
fn without_a_descriptor_clients_are_refused_in_words_and_nothing_spins() {
    if !need::program("prlimit") {
        return;
    }
    let site = Site::up("[pool.a]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    let master = site.pid();
    let limit = |value: &str| {
        let pid = master.to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={value}")])
            .status();
        assert!(status.expect("prlimit").success());
    };
    // Connections take the numbers that are free below the limit; the one after them finds the reserve alone.
    let highest = proc::descriptors(master)
        .keys()
        .copied()
        .max()
        .expect("descriptors");
    let hard = 20_000;
    limit(&format!("{}:{hard}", highest + 1));
    let connect = |_| UnixStream::connect(site.path("run/control.sock")).ok();
    let held: Vec<UnixStream> = (0..60).filter_map(connect).collect();
    let refused = held.into_iter().rev().find_map(|mut stream| {
        let mut words = String::new();
        stream
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        stream.read_to_string(&mut words).ok()?;
        Some(words)
    });
    let words = refused.expect("a connection that was refused");
    assert!(
        words.contains("no descriptor left") && words.contains("serve on"),
        "{words:?}"
    );
    // Not even the reserve helps: the listener rests.
    limit(&format!("3:{hard}"));
    let waiting =
        UnixStream::connect(site.path("run/control.sock")).expect("a connection in the queue");
    let (before, since) = (proc::cpu(master), Instant::now());
    site.await_log("no descriptor is left for clients", 10);
    support::until("two seconds", 10, || {
        (since.elapsed() > Duration::from_secs(2)).then_some(())
    });
    let spent = proc::cpu(master) - before;
    assert!(
        spent < Duration::from_millis(300),
        "{spent:?} of CPU within {:?}",
        since.elapsed()
    );
    limit(&format!("{hard}:{hard}"));
    site.await_ready();
    site.await_log("there are descriptors for clients", 10);
    drop(waiting);
}

/// Signals that mean nothing to a master are told and passed over; PWR and XCPU stop it as TERM does.
#[test]
fn stray_signals_end_no_master() {
    let mut site = Site::up("[pool.a]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    let master = Pid::from_raw(site.pid());
    let named = [
        Signal::SIGALRM,
        Signal::SIGIO,
        Signal::SIGPROF,
        Signal::SIGVTALRM,
        Signal::SIGSTKFLT,
    ];
    for signal in named {
        kill(master, signal).expect("sent");
        site.await_log(
            &format!("{} from pid", signal.as_str().trim_start_matches("SIG")),
            10,
        );
    }
    for number in [nix::libc::SIGRTMIN() + 1, nix::libc::SIGRTMAX()] {
        let status = Command::new("kill")
            .args([&format!("-{number}"), &master.to_string()])
            .status();
        assert!(status.expect("kill").success());
        site.await_log(&format!("{number} from pid"), 10);
    }
    assert!(site.master_lives());
    let status = site.await_ready();
    assert_eq!(pool(&status, "a")["workers"][0]["restarts"], 0);
    kill(master, Signal::SIGPWR).expect("sent");
    assert!(site.await_exit(20).success());
    site.assert_empty();
    site.run();
    site.await_ready();
    kill(Pid::from_raw(site.pid()), Signal::SIGXCPU).expect("sent");
    assert!(site.await_exit(20).success());
    site.assert_empty();
}

/// A limit of file size of nothing: an error in words, no death by SIGXFSZ.
#[test]
fn a_file_size_limit_does_not_end_the_master() {
    let site = Site::new("[pool.a]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    let mut command = Command::new("sh");
    // By way of a pipe: the limit is for files alone.
    let script = "(ulimit -f 0; \"$@\"; echo code $?) 2>&1 | cat";
    command
        .args(["-c", script, "sh"])
        .arg(support::rotad())
        .args(["start", "-c"])
        .arg(&site.config);
    let run = support::site::finish(command, 60);
    assert!(
        run.out.contains("File too large") && run.out.contains("code 1"),
        "{run:?}"
    );
    site.assert_empty();
}

/// The first lines of a worker that prints immediately carry its pid.
#[test]
fn the_first_line_carries_the_pid() {
    let mut site = Site::new(
        "[pool.hello]\ncommand = [\"sh\", \"-c\", \"echo hello $$\"]\ncount = 20\nready = \"spawned\"\n[pool.hello.restart]\n\
         policy = \"never\"\n",
    );
    site.run();
    let lines = until("twenty lines", 30, || {
        let lines: Vec<Value> = site
            .lines("master.log")
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| {
                line["line"]
                    .as_str()
                    .is_some_and(|text| text.starts_with("hello "))
            })
            .collect();
        (lines.len() == 20).then_some(lines)
    });
    for line in lines {
        assert_eq!(
            format!("hello {}", line["pid"]),
            line["line"].as_str().unwrap_or_default(),
            "{line}"
        );
    }
}

/// Pipes that a worker makes odd: each byte a packet of its own (O_DIRECT), or room for one page alone, and never a
/// newline. It does not hang in write(2), and all of it arrives.
#[test]
fn a_pipe_of_small_slots_is_emptied() {
    for (name, setup) in [
        (
            "direct",
            "fcntl.fcntl(1, fcntl.F_SETFL, os.O_WRONLY | os.O_DIRECT)",
        ),
        ("shrunk", "fcntl.fcntl(1, 1031, 4096)"),
    ] {
        let mut site = Site::new(
            "[pool.odd]\ncommand = [\"python3\", \"odd.py\"]\nready = \"spawned\"\nworking_directory = \"@DIR@\"\n\
             [pool.odd.log]\nstdout = \"@DIR@/odd.log\"\n[pool.odd.restart]\npolicy = \"never\"\n",
        );
        site.write(
            "odd.py",
            &format!("import fcntl, os\n{setup}\nfor _ in range(5000): os.write(1, b'x')\n"),
        );
        site.run();
        let ended = |status: &Value| {
            matches!(
                pool(status, "odd")["state"].as_str(),
                Some("done" | "failed")
            )
        };
        let status = site.await_status(&format!("{name}: it has printed all"), 30, ended);
        assert_eq!(
            pool(&status, "odd")["workers"][0]["last_exit"]["code"],
            0,
            "{name}"
        );
        assert_eq!(
            until("5000 bytes", 10, || Some(site.read("odd.log").len())
                .filter(|len| *len >= 5000)),
            5000,
            "{name}"
        );
    }
}

/// A path that a terminal would obey: neither `check`, nor an error, nor the master's log in either format prints it raw.
#[test]
fn paths_are_sanitized() {
    for format in ["json", "text"] {
        let site = Site::new("[pool.a]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
        let dir = site.path("x\u{1b}[2J\u{202e}");
        std::fs::create_dir(&dir).expect("a directory");
        let config = dir.join("rotad.toml");
        let text = site.read("rotad.toml").replace(
            "log_format = \"json\"",
            &format!("log_format = \"{format}\""),
        );
        std::fs::write(&config, text).expect("a configuration");
        let run = |arguments: &[&str]| support::site::verb(&config, arguments, 60);
        let mut seen = vec![
            run(&["check"]).text(),
            run(&["check", "--json"]).text(),
            run(&["status"]).text(),
        ];
        assert_eq!(run(&["start"]).code, 0);
        assert_eq!(run(&["stop"]).code, 0);
        seen.extend([run(&["stop"]).text(), site.log()]);
        std::fs::remove_file(&config).expect("removed");
        seen.push(run(&["check"]).text());
        for text in seen {
            assert!(
                !text.is_empty() && !text.contains(['\u{1b}', '\u{202e}']),
                "{format}: {text:?}"
            );
        }
        site.assert_empty();
    }
}
