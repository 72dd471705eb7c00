//! Hooks: commands that are run for events, outside of the main loop, one at a time each.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use support::need::program;
use support::page::Page;
use support::{Site, all_ready, never, pids, pool, proc, until};

const POOL: &str = r#"
[pool.web]
command = ["sh", "-c", '[ "$ROTAD_SLOT$BROKEN" != 11 ] && exec "$0" "$@"', "@WORKER@", "http", "--code", "@DIR@/code"]
count = 2
env = { BROKEN = "" }
listen = ["http"]
stop = "2s"
reload = { soak = "50ms" }
restart = { delay = "50ms", max_delay = "200ms" }
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// A pool that needs no time, for hooks that are told of requests.
const QUIET: &str = "[pool.web]\ncommand = \"sleep 1000\"\nready = \"spawned\"\n";

/// A hook that runs a script of a shell.
fn hook(name: &str, on: &str, keys: &str, script: &str) -> String {
    format!("[hooks.{name}]\non = {on}\ncommand = [\"sh\", \"-c\", '''{script}''']\n{keys}\n")
}

fn site(text: &str) -> Site {
    let mut site = Site::new(text);
    site.write("code", "ok\n1");
    site.run();
    site.await_ready();
    site
}

/// What a hook was told: the lines of JSON in a file.
fn told(site: &Site, file: &str) -> Vec<Value> {
    let lines = site.lines(file);
    let parse = |line: &String| serde_json::from_str(line).expect("an event as JSON");
    lines.iter().map(parse).collect()
}

fn await_told(site: &Site, file: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} events in {file}"), 10, || {
        let told = told(site, file);
        (told.len() >= count).then_some(told)
    })
}

/// An event of this kind that has happened.
fn await_event(site: &Site, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(what, 10, || {
        site.events().into_iter().find(|event| is(event))
    })
}

fn failed(event: &Value) -> bool {
    event["event"] == "hook-failed"
}

/// A command that asks something of the master is an event each.
fn ask(site: &Site) {
    let run = site.rotad(&["reload", "--dry-run"]);
    assert_eq!(run.code, 0, "{run:?}");
}

/// The pids in a file, one on each line.
fn pids_in(site: &Site, file: &str, count: usize) -> Vec<i32> {
    until(&format!("{count} pids in {file}"), 10, || {
        let lines = site.lines(file);
        let pids = lines.iter().filter_map(|line| line.trim().parse().ok());
        let pids: Vec<i32> = pids.collect();
        (pids.len() >= count).then_some(pids)
    })
}

fn await_gone(pid: i32) {
    until(&format!("the end of {pid}"), 5, || {
        proc::gone(pid).then_some(())
    });
}

#[test]
fn a_failed_deploy_a_crash_loop_and_the_end_are_told() {
    let on = r#"["roll-aborted", "rolled-back", "roll-done", "crash-loop", "master-stopped"]"#;
    let script =
        "cat >> told; echo \"$ROTAD_HOOK $ROTAD_EVENT $ROTAD_EVENT_POOL\" >> said; echo ROTAD said";
    let mut site = site(&(hook("chat", on, "", script) + POOL));
    let config = site.config.display().to_string();
    // In place: the same generation would be made of the same files.
    site.write("code", "exit 3\nSyntaxError: line 3");
    assert_eq!(site.rotad(&["roll"]).code, 10);
    let aborted = await_told(&site, "told", 1).remove(0);
    assert_eq!(
        (&aborted["event"], &aborted["on"], &aborted["cause"]),
        (
            &"roll-ended".into(),
            &"roll-aborted".into(),
            &"aborted".into()
        )
    );
    assert_eq!(
        (&aborted["folded"], &aborted["hook"]),
        (&0.into(), &"chat".into())
    );
    assert_eq!(
        (&aborted["master"], &aborted["config"]),
        (&"site".into(), &config.into())
    );
    assert!(
        aborted["host"]
            .as_str()
            .is_some_and(|host| !host.is_empty())
    );
    assert!(
        aborted["text"]
            .as_str()
            .expect("a text")
            .contains("SyntaxError: line 3")
    );
    // The same event as `rotad events` has it.
    let event = await_event(&site, "the event", |event| event["seq"] == aborted["seq"]);
    for (key, value) in event.as_object().expect("keys") {
        assert_eq!(&aborted[key], value, "{key}");
    }
    // Another configuration, with which the second worker does not come up.
    site.write("code", "ok\n1");
    let before = site.read("rotad.toml");
    site.write(
        "rotad.toml",
        &before.replace("BROKEN = \"\"", "BROKEN = \"1\""),
    );
    assert_eq!(site.rotad(&["reload"]).code, 10);
    let rolled_back = await_told(&site, "told", 2).remove(1);
    assert_eq!(
        (&rolled_back["on"], &rolled_back["cause"]),
        (&"rolled-back".into(), &"rolled-back".into())
    );
    // A crash loop.
    site.write("code", "exit 4\nno database");
    for victim in pids(&site.status().expect("a status"), "web") {
        kill(Pid::from_raw(victim), Signal::SIGKILL).expect("a worker");
    }
    let crash = await_told(&site, "told", 3).remove(2);
    assert_eq!(
        (&crash["event"], &crash["on"]),
        (&"crash-loop".into(), &"crash-loop".into())
    );
    // The stop waits for the last hook.
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let last = told(&site, "told").pop().expect("an event");
    assert_eq!(last["event"], "master-stopped");
    let said = site.lines("said");
    assert_eq!(said[1..3], ["chat rolled-back web", "chat crash-loop web"]);
    assert_eq!(
        said.last().map(String::as_str),
        Some("chat master-stopped ")
    );
    assert!(
        site.log().contains("hook chat: ROTAD said"),
        "its output is logged"
    );
    site.await_exit(5);
    site.assert_empty();
}

#[test]
fn events_during_a_run_are_folded_and_nothing_waits_for_a_hook_that_hangs() {
    let script = "cat >> told; until [ -e go ]; do sleep 0.02; done";
    let mut site = site(&(hook("slow", r#"["request"]"#, "", script) + QUIET));
    ask(&site);
    await_told(&site, "told", 1);
    for _ in 0..4 {
        ask(&site);
    }
    // It hangs; the master answers at once.
    let asked = Instant::now();
    assert!(all_ready(&site.status().expect("a status")));
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!(told(&site, "told").len(), 1, "one run at a time");
    site.write("go", "");
    let told = await_told(&site, "told", 2);
    assert_eq!(
        (&told[1]["folded"], &told[1]["folded_events"]["request"]),
        (&3.into(), &3.into())
    );
    let seqs = [&told[0]["seq"], &told[1]["seq"]].map(|seq| seq.as_u64().expect("a number"));
    assert_eq!(seqs[1] - seqs[0], 4, "the newest event: {told:?}");
    // At the stop the hook of its request is waited for.
    assert_eq!(site.rotad(&["stop"]).code, 0);
    assert_eq!(
        support::number(&await_told(&site, "told", 3)[2]["folded"]),
        0.0
    );
    site.await_exit(5);
    site.assert_empty();
}

/// What comes more often is folded. At the stop it is told all the same.
#[test]
fn a_hook_begins_ten_times_a_minute() {
    let mut site = site(&(hook("log", r#"["request"]"#, "", "cat >> told") + QUIET));
    for run in 1..=10 {
        ask(&site);
        await_told(&site, "told", run);
    }
    ask(&site);
    ask(&site);
    never("an eleventh run", 0.5, || {
        (told(&site, "told").len() > 10).then_some(())
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let told = await_told(&site, "told", 11);
    // The two, and the stop's own request.
    assert_eq!(
        (told.len(), &told[10]["folded"]),
        (11, &2.into()),
        "{told:?}"
    );
    site.await_exit(5);
    site.assert_empty();
}

/// A hook that runs at the stop of the master has five seconds.
#[test]
fn a_stop_does_not_wait_for_a_hook_that_hangs() {
    let text = hook(
        "hung",
        r#"["request"]"#,
        "timeout = \"60s\"",
        "echo $$ > pid; exec sleep 1000",
    );
    let mut site = site(&(text + QUIET));
    ask(&site);
    let hung = pids_in(&site, "pid", 1)[0];
    let begun = Instant::now();
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.await_exit(5);
    let took = begun.elapsed();
    let limits = Duration::from_secs(4)..Duration::from_secs(9);
    assert!(limits.contains(&took), "{took:?}");
    await_gone(hung);
    site.assert_empty();
}

#[test]
fn what_takes_too_long_is_killed_with_all_that_it_has_started() {
    // One in a session of its own, one that has lost its parent as well.
    let script = "for i in 1 2; do setsid sh -c 'echo $$ >> pids; exec sleep 1000' & done; \
                  (setsid sh -c 'echo $$ >> pids; exec sleep 1000' &); echo $$ >> pids; echo waiting for the world; \
                  sleep 1000";
    let left =
        "setsid sh -c 'echo $$ > left; exec sleep 1000' & until [ -s left ]; do sleep 0.02; done";
    let text = hook("slow", r#"["request"]"#, "timeout = \"400ms\"", script)
        + &hook("careless", r#"["scaled"]"#, "", left)
        + QUIET;
    let mut site = site(&text);
    ask(&site);
    let started = pids_in(&site, "pids", 4);
    let event = await_event(&site, "the hook has failed", failed);
    assert_eq!(
        (&event["cause"], &event["pool"]),
        (&"timed-out".into(), &Value::Null)
    );
    let text = event["text"].as_str().expect("a text");
    assert!(
        text.starts_with("hook slow, run for request (event "),
        "{text}"
    );
    assert!(
        text.ends_with("it still ran after 400 ms and was killed: waiting for the world"),
        "{text}"
    );
    started.into_iter().for_each(await_gone);
    // What a hook leaves behind ends with it, though it did not take too long.
    assert_eq!(site.rotad(&["scale", "web", "2"]).code, 0);
    await_gone(pids_in(&site, "left", 1)[0]);
    await_event(&site, "it is told", |event| {
        event["event"] == "descendants-killed"
            && event["text"] == "killed 1 process that a hook left behind"
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.await_exit(5);
    site.assert_empty();
}

#[test]
fn a_hook_that_fails_is_an_event_and_its_command_no_secret() {
    let text =
        "[hooks.gone]\non = \"request\"\ncommand = [\"/nonexistent/{env:HOOK_SECRET}/notify\"]\n"
            .to_owned()
            + &hook(
                "bad",
                r#"["request"]"#,
                "",
                "echo fine; echo no such host: {env:HOOK_SECRET} >&2; exit 7",
            )
            + QUIET;
    let mut site = Site::new("");
    site.configure(&format!("{}{text}", support::site::MASTER));
    let mut command = site.run_command();
    command.env("HOOK_SECRET", "hunter2-hook");
    site.spawn(command);
    site.await_ready();
    ask(&site);
    let of = |hook: &str| {
        let begins = format!("hook {hook}, run for request (event ");
        let event = await_event(&site, &begins, |event| {
            failed(event)
                && event["text"]
                    .as_str()
                    .is_some_and(|text| text.starts_with(&begins))
        });
        assert_eq!(event["cause"], "failed");
        event["text"].as_str().expect("a text").to_owned()
    };
    let (gone, bad) = (of("gone"), of("bad"));
    assert!(
        gone.contains("it cannot be run: ") && gone.contains("{env:HOOK_SECRET}/notify"),
        "{gone}"
    );
    assert!(
        bad.ends_with("it exited with 7: no such host: {env:HOOK_SECRET}"),
        "{bad}"
    );
    let events = site.rotad(&["events", "--json"]).out;
    let status = site.rotad(&["status", "--json"]).out;
    assert!(
        !events.contains("hunter2") && !status.contains("hunter2"),
        "{events}"
    );
    let told = site.log();
    let told: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("hunter2"))
        .collect();
    assert!(
        told.iter()
            .all(|line| line.contains("hook bad: no such host")),
        "{told:?}"
    );
    // Tried by hand, it is told the same.
    let run = site.rotad(&["hook", "bad"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err
            .ends_with("hook bad: it exited with 7: no such host: {env:HOOK_SECRET}\n"),
        "{run:?}"
    );
    assert_eq!(site.rotad(&["hook", "nosuch"]).code, 4);
    let failures = site.events().iter().filter(|event| failed(event)).count();
    assert_eq!(failures, 2, "a try is no event");
    assert!(
        all_ready(&site.status().expect("a status")),
        "a hook harms nothing"
    );
}

#[test]
fn a_reload_changes_the_hooks() {
    let mut site = site(QUIET);
    let with = |script: &str| {
        let text = hook("new", r#"["config-applied", "request"]"#, "", script) + QUIET;
        site.configure(&format!("{}{text}", support::site::MASTER));
        let run = site.rotad(&["reload", "--config"]);
        assert_eq!(run.code, 0, "{run:?}");
        run.text()
    };
    let text = with("cat >> first");
    assert!(text.contains("master: applied at once (hooks)"), "{text}");
    assert_eq!(await_told(&site, "first", 1)[0]["event"], "config-applied");
    with("cat >> second");
    await_told(&site, "second", 1);
    site.configure(&format!("{}{QUIET}", support::site::MASTER));
    assert_eq!(site.rotad(&["reload", "--config"]).code, 0);
    let (first, second) = (site.lines("first").len(), site.lines("second").len());
    ask(&site);
    never("a hook that is gone", 0.3, || {
        let now = (site.lines("first").len(), site.lines("second").len());
        // The request of the reload itself came before.
        (now.0 > first || now.1 > second + 1).then_some(now)
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.await_exit(5);
}

/// The master dies while a hook runs: the run is killed, and its event is told once more.
#[test]
fn the_next_master_repeats_what_a_dead_one_had_begun() {
    let script = "cat >> told; setsid sh -c 'echo $$ >> pids; exec sleep 1000' & echo $$ >> pids; \
                  until [ -e go ]; do sleep 0.02; done";
    let text = hook(
        "chat",
        r#"["request", "master-restored"]"#,
        "timeout = \"1min\"",
        script,
    ) + QUIET;
    let mut site = site(&text);
    let worker = pids(&site.status().expect("a status"), "web");
    ask(&site);
    let begun = pids_in(&site, "pids", 2);
    let first = await_told(&site, "told", 1).remove(0);
    let master = site.pid();
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
    begun.into_iter().for_each(await_gone);
    let told = await_told(&site, "told", 2);
    // The event of the next master is the newer one; the one that was told is counted in it, or was told again.
    let again = &told[1];
    let repeated = again["seq"] == first["seq"];
    let folded = again["event"] == "master-restored" && again["folded"] == 1;
    assert!(repeated || folded, "{told:?}");
    site.write("go", "");
    until("the restored master is told", 10, || {
        let all = self::told(&site, "told");
        all.iter()
            .any(|event| event["event"] == "master-restored")
            .then_some(())
    });
    assert_ne!(site.pid(), master);
    let status = site.await_ready();
    assert_eq!(pids(&status, "web"), worker, "workers were not touched");
    assert_eq!(pool(&status, "web")["state"], "ok");
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.await_exit(5);
    site.assert_empty();
}

/// A server on a port of the loopback that takes each request and answers it with 200: the path and the body of each.
fn server() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let (sender, taken) = channel();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut reader = BufReader::new(connection.expect("a connection"));
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).expect("a line") > 2 {
                head.push_str(&std::mem::take(&mut line));
            }
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            let length = length.expect("a length").trim().parse().expect("a number");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the body");
            let path = head.split(' ').nth(1).expect("a path").to_owned();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            reader.get_mut().write_all(answer).expect("an answer");
            let body = serde_json::from_slice(&body).expect("JSON");
            if sender.send((path, body)).is_err() {
                return;
            }
        }
    });
    (format!("http://{address}"), taken)
}

/// The configurations and scripts of docs/hooks.md as they stand, with a server of the test's own and a `sendmail` of its own.
#[test]
fn the_examples_of_the_page_deliver() {
    if !(program("curl") && program("jq")) {
        return;
    }
    let (url, taken) = server();
    let mut site = Site::new("");
    let sendmail = site.write("sendmail", "#!/bin/sh\ncat > mail\n");
    fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755)).expect("a program");
    fs::create_dir(site.path("hooks")).expect("a directory");
    let mut hooks = String::new();
    for block in Page::read("hooks").blocks {
        let text = block
            .text
            .replace("https://events.pagerduty.com", &url)
            .replace("https://example.com", &url)
            .replace("/usr/sbin/sendmail", &sendmail.display().to_string());
        match block.file() {
            Some(file) => drop(site.write(file, &text)),
            None if block.language == "toml" => hooks.push_str(&text),
            None => {}
        }
    }
    site.configure(&format!("{}{hooks}{POOL}", support::site::MASTER));
    site.write("code", "ok\n1");
    let mut command = site.run_command();
    command.env("SLACK_URL", format!("{url}/slack"));
    command.env("PAGERDUTY_KEY", "a key");
    site.spawn(command);
    site.await_ready();
    // Each of them by hand first.
    let mut tried = std::collections::BTreeMap::new();
    for hook in ["chat", "mail", "webhook", "pagerduty"] {
        let run = site.rotad(&["hook", hook]);
        assert_eq!(
            (run.code, run.out),
            (0, format!("hook {hook}: done\n")),
            "{}",
            run.err
        );
        tried.extend(taken.try_iter());
    }
    assert_eq!(tried["/deploys"]["test"], true);
    fs::remove_file(site.path("mail")).expect("a mail");
    site.write("code", "exit 3\nno such \"column\"");
    assert_eq!(site.rotad(&["roll"]).code, 10);
    for victim in pids(&site.status().expect("a status"), "web") {
        kill(Pid::from_raw(victim), Signal::SIGKILL).expect("a worker");
    }
    let mut found = std::collections::BTreeMap::new();
    until("what each hook has sent", 10, || {
        found.extend(taken.try_iter());
        let told = ["/slack", "/deploys", "/v2/enqueue"]
            .iter()
            .all(|path| found.contains_key(*path));
        (told && !site.read("mail").is_empty()).then_some(())
    });
    let slack = found["/slack"]["text"].as_str().expect("a text");
    assert!(
        slack.starts_with("*roll-aborted* web on ") || slack.starts_with("*crash-loop* web on "),
        "{slack}"
    );
    assert_eq!(found["/deploys"]["on"], "roll-aborted");
    let incident = &found["/v2/enqueue"];
    assert_eq!(
        (&incident["routing_key"], &incident["event_action"]),
        (&"a key".into(), &"trigger".into())
    );
    assert_eq!(
        (
            &incident["payload"]["component"],
            &incident["payload"]["severity"]
        ),
        (&"web".into(), &"critical".into())
    );
    let mail = site.read("mail");
    assert!(
        mail.starts_with("To: ops@example.com\nSubject: ["),
        "{mail}"
    );
    assert!(
        mail.contains("web\nContent-Type: text/plain; charset=utf-8\n\n"),
        "{mail}"
    );
    assert!(!site.events().iter().any(failed), "{:?}", site.events());
}
