//! Promise 3: every stop ends within the sum of its waits plus a second; requests in flight are answered; nothing that
//! rotad started outlives it.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Site, alone, need, pids, pool, proc, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "2000"]
count = 4
listen = ["http"]
stop = "10s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn deaf(stop: &str) -> String {
    format!(
        "[pool.deaf]\ncommand = [\"@WORKER@\", \"deaf\", \"--notify\"]\nready = \"notify\"\ncount = 2\nstop = {stop}\n"
    )
}

/// TERM with 32 requests of 2 s in flight: 32 answers, and nothing is left.
#[test]
fn requests_in_flight_are_answered() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let clients = support::load::burst(&site.address(), "/", 32);
    until("32 accepted connections", 10, || {
        (site.accepted("web") >= 32).then_some(())
    });
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    let answers: Vec<_> = clients
        .into_iter()
        .map(|client| client.join().expect("a client"))
        .collect();
    let lost: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
    assert!(lost.is_empty(), "{} of 32 lost: {lost:?}", lost.len());
    assert_eq!(site.await_exit(10).code(), Some(0));
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    assert!(!site.path("master.pid").exists(), "the pid file is removed");
    site.assert_empty();
}

/// A worker deaf to TERM is killed when its time is over, not earlier, not much later.
#[test]
fn a_worker_that_ignores_term_is_killed_at_its_deadline() {
    let _alone = alone();
    let mut site = Site::up(&deaf("\"2s\""));
    let asked = Instant::now();
    let run = site.rotad(&["stop"]);
    assert_eq!(run.code, 0, "{run:?}");
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(1900) && took < Duration::from_secs(3),
        "{took:?}"
    );
    site.await_exit(2);
    site.assert_empty();
}

/// Stop steps: QUIT after a wait, then TERM, then KILL.
#[test]
fn stop_steps_are_run_in_order() {
    let _alone = alone();
    let steps = "[{ wait = \"500ms\" }, { signal = \"QUIT\", wait = \"500ms\" }, { signal = \"TERM\", wait = \"500ms\" }]";
    let mut site = Site::up(&deaf(steps));
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    site.await_exit(5);
    let took = asked.elapsed();
    assert!(
        took >= Duration::from_millis(1400) && took < Duration::from_millis(2500),
        "{took:?}"
    );
    site.assert_empty();
}

/// Grandchildren in sessions of their own, with and without a living parent, end with their worker.
#[test]
fn grandchildren_that_left_the_group_are_killed() {
    let _alone = alone();
    let mut site = Site::up(
        r#"
[pool.family]
command = ["@WORKER@", "wait", "--notify", "--escape", "@DIR@/escaped"]
ready = "notify"
stop = "5s"
[pool.other]
command = ["@WORKER@", "wait", "--notify", "--escape", "@DIR@/others"]
ready = "notify"
stop = "5s"
"#,
    );
    let escaped = |file: &str| {
        until("two grandchildren", 10, || {
            let pids: Vec<i32> = site
                .lines(file)
                .iter()
                .filter_map(|line| line.parse().ok())
                .collect();
            (pids.len() == 2).then_some(pids)
        })
    };
    let (first, others) = (escaped("escaped"), escaped("others"));
    // One worker is replaced: its grandchildren go, those of the others stay.
    assert_eq!(site.rotad(&["roll", "family"]).code, 0);
    until("the old worker's grandchildren are gone", 10, || {
        first.iter().all(|pid| proc::gone(*pid)).then_some(())
    });
    assert!(
        others.iter().all(|pid| !proc::gone(*pid)),
        "the grandchildren of another worker were touched"
    );
    // A worker crashes: its grandchildren are killed.
    let second: Vec<i32> = until("two new grandchildren", 10, || {
        let all: Vec<i32> = site
            .lines("escaped")
            .iter()
            .filter_map(|line| line.parse().ok())
            .collect();
        (all.len() == 4).then(|| all[2..].to_vec())
    });
    kill(
        Pid::from_raw(pids(&site.await_ready(), "family")[0]),
        Signal::SIGKILL,
    )
    .expect("a worker");
    until("the dead worker's grandchildren are gone", 10, || {
        second.iter().all(|pid| proc::gone(*pid)).then_some(())
    });
    site.await_ready();
    site.signal(Signal::SIGTERM);
    site.await_exit(10);
    site.assert_empty();
}

/// `stop --now`, and INT twice: immediately, whatever the waits are.
#[test]
fn stop_now_kills_immediately() {
    let _alone = alone();
    let mut site = Site::up(&deaf("\"60s\""));
    let asked = Instant::now();
    assert_eq!(site.rotad(&["stop", "--now"]).code, 0);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    site.await_exit(2);
    site.assert_empty();
    let mut site = Site::up(&deaf("\"60s\""));
    site.signal(Signal::SIGINT);
    site.await_status("stopping", 5, |status| {
        status["master"]["state"] == "stopping"
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

/// TERM twice is not INT twice: the second is logged and changes nothing.
#[test]
fn a_second_term_changes_nothing() {
    let _alone = alone();
    let mut site = Site::up(&deaf("\"2s\""));
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    site.await_status("stopping", 5, |status| {
        status["master"]["state"] == "stopping"
    });
    site.signal(Signal::SIGTERM);
    site.signal(Signal::SIGQUIT);
    site.await_exit(5);
    assert!(
        asked.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        asked.elapsed()
    );
}

/// A worker that is cut short is named in the log and in an event, with how long it was waited for, its own STATUS= and its
/// last line.
#[test]
fn killed_workers_are_named() {
    let _alone = alone();
    let mut site = Site::up(
        r#"
[pool.import]
kind = "task"
command = ["sh", "-c", "echo item 17 of 40; exec @WORKER@ deaf --notify --say @DIR@/say"]
ready = "notify"
stop = "1s"
"#,
    );
    let pid = pids(&site.await_ready(), "import")[0];
    site.write("say", "STATUS=job 4711: import of shop 12");
    until("its status is known", 10, || {
        site.rotad(&["status", "import"])
            .out
            .contains("job 4711")
            .then_some(())
    });
    assert_eq!(site.rotad(&["roll", "import"]).code, 0);
    let text = r#"did not stop within 1.0 s: killed; its status: "job 4711: import of shop 12"; its last line: "item 17 of 40""#;
    let kill = until("the event", 10, || {
        let events = site.rotad(&["events", "--json"]).out;
        let mut events = events
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an event"));
        events.find(|event| event["event"] == "kill" && event["cause"] == "stop-timeout")
    });
    assert_eq!(kill["text"], text);
    assert_eq!(
        (&kill["pool"], &kill["slot"], &kill["pid"]),
        (&"import".into(), &0.into(), &pid.into())
    );
    let named = site
        .lines("master.log")
        .into_iter()
        .find(|line| line.contains("did not stop within 1.0 s"));
    let named: serde_json::Value =
        serde_json::from_str(&named.expect("a line of the log")).expect("JSON");
    assert_eq!(
        (&named["level"], &named["pool"], &named["pid"]),
        (&"WARN".into(), &"import".into(), &pid.into())
    );
    site.signal(Signal::SIGTERM);
    site.await_exit(5);
}

/// `stop_timeout` caps the stop of everything, and names whom it cuts short.
#[test]
fn stop_timeout_bounds_the_stop() {
    let _alone = alone();
    let mut site = Site::with_master("stop_timeout = \"1s\"", &deaf("\"60s\""));
    site.run();
    site.await_ready();
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    site.await_exit(5);
    assert!(
        asked.elapsed() < Duration::from_millis(2500),
        "{:?}",
        asked.elapsed()
    );
    site.assert_empty();
    let text = "killed 1.0 s after it was asked to stop: the stop of everything takes too long";
    assert_eq!(site.log().matches(text).count(), 2, "{}", site.log());
}

/// A worker stopped by SIGSTOP gets its TERM: it leaves as any other, long before its deadline.
#[test]
fn a_paused_worker_is_stopped() {
    let _alone = alone();
    let mut site = Site::up(WEB);
    let worker = pids(&site.await_ready(), "web")[0];
    kill(Pid::from_raw(worker), Signal::SIGSTOP).expect("a worker");
    until("it is paused", 5, || {
        (proc::stat(worker)?[0] == "T").then_some(())
    });
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    site.await_exit(15);
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    site.assert_empty();
}

/// Stop of nothing is done; a stopped pool stays stopped while the others serve.
#[test]
fn stopping_nothing_or_one_pool_succeeds() {
    let site = Site::new(WEB);
    let run = site.rotad(&["stop"]);
    assert_eq!(run.code, 0, "{run:?}");
    drop(site);
    let site = Site::up(&format!("{WEB}{}", deaf("\"1s\"")));
    let run = site.rotad(&["stop", "deaf"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.status().expect("a status");
    assert_eq!(pool(&status, "deaf")["state"], "stopped");
    assert_eq!(pool(&status, "web")["state"], "ok");
}

/// EXTEND_TIMEOUT_USEC: what the worker asks for is added to its time.
#[test]
fn a_worker_may_extend_its_stop() {
    let _alone = alone();
    let mut site = Site::up(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--drain-ms\", \"2500\", \"--extend-ms\", \"4000\", \
         \"--terms\", \"@DIR@/terms\"]\nready = \"notify\"\nstop = \"1s\"\n",
    );
    let asked = Instant::now();
    site.signal(Signal::SIGTERM);
    site.await_exit(10);
    assert!(
        asked.elapsed() >= Duration::from_millis(2400),
        "killed after {:?}",
        asked.elapsed()
    );
    assert!(
        asked.elapsed() < Duration::from_millis(5500),
        "{:?}",
        asked.elapsed()
    );
}

/// A master without CAP_KILL may not signal the workers of another user: no event says that one was sent.
#[test]
fn a_signal_that_the_kernel_refuses_is_not_said_to_be_sent() {
    if !need::root() || !need::program("setpriv") {
        return;
    }
    let pools = r#"
[pool.other]
command = ["sleep", "1000"]
user = "nobody"
ready = "spawned"
stop = "300ms"
[pool.other.reload]
soak = "0s"
"#;
    let mut site = Site::new(pools);
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-kill", "--"])
        .arg(support::rotad())
        .args(["run", "-c"])
        .arg(&site.config);
    site.spawn(command);
    let worker = pids(&site.await_ready(), "other")[0];
    let run = site.rotad(&["roll", "--no-wait"]);
    assert_eq!(run.code, 0, "{run:?}");
    let texts = || -> Vec<String> {
        let events = site.events().into_iter();
        let of_worker = events.filter(|event| event["pid"] == worker);
        of_worker
            .filter_map(|event| event["text"].as_str().map(str::to_owned))
            .collect()
    };
    for signal in ["SIGTERM", "SIGKILL"] {
        let said = format!("{signal} not sent: Operation not permitted");
        until(&said, 20, || {
            texts()
                .iter()
                .any(|text| text.contains(&said))
                .then_some(())
        });
    }
    assert!(!proc::gone(worker));
    let untrue = |text: &&String| text.contains("SIGTERM sent") || text.contains("SIGKILL sent");
    assert_eq!(texts().iter().find(untrue), None);
    // It is managed on, and its end is noticed.
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("a worker");
    site.await_status("the other one serves alone", 20, |status| {
        let workers = pids(status, "other");
        workers.len() == 1 && workers[0] != worker
    });
}
