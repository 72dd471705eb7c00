//! `rotad events`: what the master did and why, for people and programs, and what slow readers cost.

mod support;

use rotad::observe::events::EventKind;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Site, pids, pool};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
"#;

fn events(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// docs/events.md lists the words that there are, and no others.
#[test]
fn the_words_are_documented() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md"))
        .expect("docs/events.md");
    let rows = page.lines().filter_map(|line| {
        line.strip_prefix("| `")?
            .split_once('`')
            .map(|(word, _)| word)
    });
    let written: BTreeSet<&str> = rows.collect();
    let mut known: BTreeSet<&str> = EventKind::ALL.iter().map(|what| what.word()).collect();
    known.insert("skipped");
    assert_eq!(written, known);
}

#[test]
fn events_say_what_happened_and_why() {
    let site = Site::up(WEB);
    assert_eq!(site.rotad(&["roll", "web"]).code, 0);
    let status = site.await_ready();
    let victim = pids(&status, "web")[0];
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(victim),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("a worker");
    site.await_status("a new one", 10, |status| {
        let now = pids(status, "web");
        pool(status, "web")["ready"] == 1 && !now.is_empty() && now[0] != victim
    });
    let run = site.rotad(&["events", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let all = events(&run.out);
    let words: Vec<&str> = all
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    let wanted = "master-started spawn ready pool-ready request roll-started roll-step retired signal stopped \
        roll-ended exit";
    for word in wanted.split_whitespace() {
        assert!(words.contains(&word), "{word}: {words:?}");
    }
    let keys: BTreeSet<&str> = all[0]
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    let expected = "seq time event pool slot worker generation pid cause text";
    assert_eq!(keys, expected.split(' ').collect::<BTreeSet<_>>());
    let numbers: Vec<u64> = all
        .iter()
        .filter_map(|event| event["seq"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
    let exit = all
        .iter()
        .find(|event| event["event"] == "exit")
        .expect("the kill");
    assert_eq!(
        (&exit["pid"], &exit["cause"], &exit["pool"]),
        (&victim.into(), &"killed".into(), &"web".into())
    );
    assert!(
        exit["text"]
            .as_str()
            .is_some_and(|text| text.contains("KILL") && text.contains("started again")),
        "{exit}"
    );
    let time = exit["time"].as_str().expect("a time");
    assert!(
        time.len() == "2026-01-02T03:04:05.678Z".len() && time.ends_with('Z'),
        "{time}"
    );
    let run = site.rotad(&["events"]);
    assert!(
        run.out
            .lines()
            .any(|line| line.contains("  web/0     exit  "))
            && !run.out.contains('\x1b'),
        "{run:?}"
    );
}

/// `-f`: the latest, and what comes, until the master leaves; nobody who reads any more ends it, too.
#[test]
fn following_events_shows_new_ones() {
    let site = Site::up(WEB);
    let mut command = Command::new(support::rotad());
    command
        .args(["events", "-f", "--json", "-c"])
        .arg(&site.config)
        .stdout(Stdio::piped());
    let mut follower = command.spawn().expect("a follower");
    let mut lines = BufReader::new(follower.stdout.take().expect("its output")).lines();
    let mut await_word = |word: &str| {
        lines
            .by_ref()
            .map(|line| line.expect("a line"))
            .find(|line| line.contains(&format!("\"{word}\"")))
            .is_some()
    };
    assert!(await_word("pool-ready"), "what was before");
    assert_eq!(site.rotad(&["roll", "web"]).code, 0);
    assert!(await_word("roll-ended"), "what comes");
    let mut unread = Command::new(support::rotad());
    unread
        .args(["events", "-f", "-c"])
        .arg(&site.config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut unread = unread.spawn().expect("another");
    let mut first = [0; 1];
    let mut out = unread.stdout.take().expect("its output");
    out.read_exact(&mut first).expect("something");
    drop(out);
    let end = unread.wait_with_output().expect("its end");
    assert_eq!(
        (end.status.code(), end.stderr.len()),
        (Some(0), 0),
        "{end:?}"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert!(await_word("master-stopped"), "the last word");
    assert_eq!(follower.wait().expect("its end").code(), Some(0));
}

/// A follower that does not read loses events and is told how many; the master answers others all the time.
#[test]
fn a_slow_follower_loses_events_and_is_told() {
    let site = Site::up(WEB);
    let ask = |ask: Value| {
        let mut stream = UnixStream::connect(site.path("run/control.sock")).expect("a client");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout");
        let question = json!({"version": 2, "config": site.config, "ask": ask});
        stream
            .write_all(format!("{question}\n").as_bytes())
            .expect("a question");
        stream
    };
    let slow = ask(json!({"events": {"follow": true}}));
    for _ in 0..4000 {
        let mut answer = String::new();
        BufReader::new(ask(json!({"cancel": {"pools": []}})))
            .read_line(&mut answer)
            .expect("an answer");
        assert!(answer.contains("done"), "{answer}");
    }
    assert!(site.status().is_some());
    let last = events(&site.rotad(&["events", "--json"]).out)
        .last()
        .expect("events")["seq"]
        .as_u64()
        .expect("seq");
    let (mut seen, mut skipped, mut first) = (0, 0, None);
    for line in BufReader::new(slow).lines() {
        let answer: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        skipped += answer["skipped"]["count"].as_u64().unwrap_or(0);
        if let Some(seq) = answer["event"]["seq"].as_u64() {
            first.get_or_insert(seq);
            seen += 1;
        }
        if first.is_some_and(|first| first + seen + skipped > last) {
            break;
        }
    }
    assert!(skipped > 0, "everything fitted: {seen} events");
}

#[test]
fn events_without_a_master_name_the_log() {
    let site = Site::new(WEB);
    let run = site.rotad(&["events"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert!(run.err.contains("master.log"), "{run:?}");
}
