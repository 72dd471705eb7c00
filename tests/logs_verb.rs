//! `rotad logs`: what workers printed, harmless, for one or all, and as it comes.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Site, until};

/// `talk` prints what is written into a FIFO; `twice` has files of its own.
const POOLS: &str = r#"
[pool.talk]
command = ["sh", "-c", 'printf "\033]0;evil\007 hello\n"; while :; do cat @DIR@/fifo; done']
count = 1
ready = "spawned"
stop = "100ms"

[pool.twice]
command = ["sh", "-c", "echo out; echo err >&2; exec @WORKER@ wait"]
ready = "spawned"
[pool.twice.log]
stdout = "@DIR@/out.log"
stderr = "@DIR@/err.log"
"#;

fn up() -> Site {
    let mut site = Site::new(POOLS);
    nix::unistd::mkfifo(
        &site.path("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .expect("a FIFO");
    site.run();
    site.await_ready();
    site
}

fn follow(site: &Site, arguments: &[&str]) -> (Child, impl Iterator<Item = String>) {
    let mut command = Command::new(support::rotad());
    command
        .args(["logs", "-f", "-c"])
        .arg(&site.config)
        .args(arguments);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a follower");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    (child, lines.map(|line| line.expect("a line")))
}

#[test]
fn logs_shows_the_last_lines() {
    let site = up();
    let run = until("the lines", 10, || {
        let run = site.rotad(&["logs"]);
        ["talk/0 |", "twice/0 | out", "twice/0 ! err"]
            .iter()
            .all(|line| run.out.contains(line))
            .then_some(run)
    });
    assert_eq!(run.code, 0);
    assert!(
        run.out.contains("talk/0 | \\x1b]0;evil\\x07 hello\n"),
        "{run:?}"
    );
    assert!(!run.text().contains(['\x1b', '\x07']), "{run:?}");
    assert!(
        run.err.contains("out.log")
            && run.err.contains("err.log")
            && run.err.contains("master.log"),
        "{run:?}"
    );
    let run = site.rotad(&["logs", "twice/0", "-n", "1"]);
    assert!(
        ["out\n", "err\n"].contains(&run.out.as_str()),
        "one worker's lines have no name before them: {run:?}"
    );
    let run = site.rotad(&["logs", "talk"]);
    assert!(
        run.out.contains("talk/0 |") && !run.out.contains("twice"),
        "{run:?}"
    );
    assert_eq!(site.rotad(&["logs", "nobody"]).code, 4);
    let run = site.rotad(&["logs", "talk/9"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("no such worker: talk/9"), "{run:?}");
}

/// Several pools and workers, the time, and how old lines may be; without a master, the end of the files.
#[test]
fn logs_are_chosen_by_name_and_time() {
    let site = up();
    let both = |arguments: &[&str]| {
        until("the lines", 10, || {
            let run = site.rotad(arguments);
            ["talk/0 |", "twice/0 | out"]
                .iter()
                .all(|line| run.out.contains(line))
                .then_some(run)
        })
    };
    assert_eq!(both(&["logs", "talk", "twice/0"]).code, 0);
    assert_eq!(both(&["logs", "t*"]).code, 0);
    assert_eq!(both(&["logs", "--since", "1h"]).code, 0);
    let run = site.rotad(&["logs", "--grep", "^o.t$", "twice"]);
    assert_eq!((run.code, run.out.lines().count()), (0, 1), "{run:?}");
    assert!(run.out.ends_with("| out\n"), "{run:?}");
    let run = site.rotad(&["logs", "--json", "-g", "out|err", "-n", "1", "twice/0"]);
    let line: serde_json::Value = serde_json::from_str(&run.out).expect("one object");
    assert_eq!(
        (&line["pool"], &line["slot"]),
        (&"twice".into(), &0.into()),
        "{run:?}"
    );
    let time = line["time"].as_str().expect("a time");
    let run = site.rotad(&["logs", "--since", time, "--until", time, "twice"]);
    assert!(
        run.code == 0 && run.out.contains(line["text"].as_str().expect("a text")),
        "{run:?}"
    );
    let run = site.rotad(&["logs", "--until", "1h", "twice"]);
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{run:?}");
    let run = site.rotad(&["logs", "twice/0", "talk/9", "nobody"]);
    assert_eq!(run.code, 4, "{run:?}");
    std::fs::write(site.path("fifo"), "late\n").expect("written");
    let run = until("the line", 10, || {
        let run = site.rotad(&["logs", "-t", "-n", "1", "talk/0"]);
        run.out.ends_with(" late\n").then_some(run)
    });
    let time = run.out.split(' ').next().expect("a time");
    humantime::parse_rfc3339(time).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    let old = until("a second is over", 10, || {
        let run = site.rotad(&["logs", "--since", "500ms", "talk"]);
        run.out.is_empty().then_some(run)
    });
    assert_eq!(
        (old.code, old.err.as_str()),
        (0, ""),
        "nothing older is missing: {old:?}"
    );

    assert_eq!(site.rotad(&["stop"]).code, 0);
    let run = site.rotad(&["logs", "twice"]);
    assert_eq!((run.code, run.out.as_str()), (4, "err\nout\n"), "{run:?}");
    assert!(run.err.starts_with("rotad: no master reachable"), "{run:?}");
    let run = site.rotad(&["logs", "-n", "1", "talk/0"]);
    assert!(
        run.out.contains("\"line\":\"late\"") && run.out.lines().count() == 1,
        "{run:?}"
    );
    assert!(
        run.err
            .contains(&site.path("master.log").display().to_string()),
        "{run:?}"
    );
    let run = site.rotad(&["logs"]);
    assert!(
        run.out.contains("\"message\":\"stopped\"") && run.out.contains("\nout\n"),
        "{run:?}"
    );
}

/// `-f`: what was, what comes, until Ctrl-C (0), or until the master leaves (0).
#[test]
fn following_logs_ends_with_the_master() {
    let site = up();
    let (child, mut lines) = follow(&site, &["talk"]);
    assert!(lines.any(|line| line.contains("hello")));
    std::fs::write(site.path("fifo"), "news\n").expect("written");
    assert!(lines.any(|line| line == "talk/0 | news"));
    let (mut other, mut others) = follow(&site, &["talk/0"]);
    assert!(others.any(|line| line == "news"));
    kill(Pid::from_raw(other.id() as i32), Signal::SIGINT).expect("the follower");
    assert_eq!(other.wait().expect("its end").code(), Some(0));
    assert_eq!(site.rotad(&["stop", "--now"]).code, 0);
    assert_eq!(lines.count(), 0);
    assert_eq!(
        child.wait_with_output().expect("its end").status.code(),
        Some(0)
    );
}

/// A stopped follower under a flood of lines: the master serves others immediately, and the follower is told what it missed.
#[test]
fn a_stopped_follower_delays_nothing() {
    let site = up();
    let (child, mut lines) = follow(&site, &["talk"]);
    assert!(lines.any(|line| line.contains("hello")));
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGSTOP).expect("the follower");
    let flood: String = (0..400_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    std::fs::write(site.path("fifo"), flood + "the end\n").expect("written");
    site.await_log("the end", 30);
    let asked = Instant::now();
    assert!(site.status().is_some());
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    kill(pid, Signal::SIGCONT).expect("the follower");
    let rest: Vec<String> = lines
        .by_ref()
        .take_while(|line| line != "talk/0 | the end")
        .collect();
    assert!(
        rest.iter()
            .any(|line| line.contains("lines are missing here")),
        "{} lines",
        rest.len()
    );
    kill(pid, Signal::SIGINT).expect("the follower");
    drop(lines);
    assert_eq!(
        child.wait_with_output().expect("its end").status.code(),
        Some(0)
    );
}

#[test]
fn logs_without_a_master_names_the_file() {
    let site = Site::new(POOLS);
    let run = site.rotad(&["logs"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("master.log"), "{run:?}");
}
