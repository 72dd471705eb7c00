//! What happens in the moment between two masters: signals, messages of workers, workers that are busy, and what a master has
//! set for itself.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use support::{Load, Random, Site, all_ready, alone, never, pids, pool, proc, spaced, until};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a process of rotad");
}

fn await_restored(site: &Site, deaths: u64) -> Value {
    site.await_status("the next master", 20, |status| {
        status["master"]["restarts"] == deaths
    })
}

fn generation(status: &Value, name: &str) -> u64 {
    pool(status, name)["generation"].as_u64().expect("a number")
}

/// A signal to the master itself that has arrived there is acted on once, by that master or by the next. One that the kernel
/// has not delivered before the kill is lost with the process.
#[test]
fn a_signal_that_has_arrived_is_acted_on_once() {
    let site = Site::up(
        "[pool.idle]\ncommand = [\"sleep\", \"1000\"]\nready = \"spawned\"\n[pool.idle.reload]\nsoak = \"50ms\"\n",
    );
    let mut random = Random::new(5);
    let state = proc::descriptors(site.guardian())
        .into_iter()
        .find(|(_, what)| what.starts_with("/memfd:rotad-state"))
        .map(|(number, _)| format!("/proc/{}/fd/{number}", site.guardian()));
    let state = std::fs::File::open(state.expect("the state")).expect("a file");
    // Where the handlers count the signals of this number that have arrived (src/guardian/page.rs).
    let arrived = || {
        let mut bytes = [0; 8];
        let at = (256 + Signal::SIGUSR1 as u64) * 8;
        state.read_exact_at(&mut bytes, at).expect("a number");
        u64::from_ne_bytes(bytes)
    };
    for death in 1..=3 {
        // Three deaths in ten seconds would end the rolls.
        spaced(Duration::from_millis(5_100));
        let master = site.pid();
        signal(master, Signal::SIGUSR1);
        until("it has arrived", 5, || (arrived() == death).then_some(()));
        spaced(Duration::from_micros(random.below(3_000) as u64));
        signal(master, Signal::SIGKILL);
        await_restored(&site, death);
        site.await_status("rolled", 20, |status| {
            generation(status, "idle") == death + 1
                && pool(status, "idle")["reload"]["state"] == "done"
                && all_ready(status)
        });
    }
    never("it is rolled again", 1.0, || {
        let status = site.status()?;
        (pool(&status, "idle")["reload"]["generation"] != 4).then_some(status)
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// READY=1 is heard once when it comes while there is no master, here because the guardian is stopped, and when the master
/// dies right after it.
#[test]
fn a_message_is_heard_once() {
    let pools = r#"
[pool.web]
command = ["@WORKER@", "wait", "--say", "@DIR@/say"]
ready = "notify"
ready_timeout = "60s"
stop = "5s"
"#;
    let mut site = Site::new(pools);
    site.run();
    let starts = |status: &Value| !pids(status, "web").is_empty();
    let worker = pids(&site.await_status("it starts", 20, starts), "web")[0];
    let guardian = site.guardian();
    signal(guardian, Signal::SIGSTOP);
    signal(site.pid(), Signal::SIGKILL);
    site.write("say", "READY=1");
    until("it is said", 20, || {
        (!site.path("say").exists()).then_some(())
    });
    signal(guardian, Signal::SIGCONT);
    await_restored(&site, 1);
    let status = site.await_ready();
    assert_eq!(pids(&status, "web"), [worker], "the same worker");
    let mut random = Random::new(3);
    for death in 2..=4 {
        assert_eq!(site.rotad(&["roll", "--no-wait"]).code, 0);
        let new = until("a successor", 20, || {
            let status = site.status()?;
            let workers = pool(&status, "web")["workers"].as_array()?.clone();
            workers.iter().find(|one| one["state"] == "starting")?["pid"].as_i64()
        });
        // Three deaths in ten seconds would end the roll.
        spaced(Duration::from_millis(5_100));
        site.write("say", "READY=1");
        until("it is said", 20, || {
            (!site.path("say").exists()).then_some(())
        });
        spaced(Duration::from_micros(random.below(2_000) as u64));
        signal(site.pid(), Signal::SIGKILL);
        await_restored(&site, death);
        let status = site.await_status("rolled", 30, |status| {
            all_ready(status) && pids(status, "web") == [new as i32]
        });
        assert_eq!(generation(&status, "web"), death, "{status}");
    }
    let ready: Vec<Value> = site
        .events()
        .into_iter()
        .filter(|event| event["event"] == "ready")
        .collect();
    assert_eq!(ready.len(), 4, "once for each worker: {ready:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// Workers that are too busy to accept, or to answer their check, while the next master begins, serve on: its checks begin
/// again, and none of them ends a worker that was ready.
#[test]
fn a_busy_worker_is_not_replaced_when_a_master_goes_on() {
    let _alone = alone();
    let slow = r#"
import select, socket
server = socket.socket(fileno=3)
while True:
    connection, _ = server.accept()
    connection.recv(1000)
    select.select([], [], [], 4)
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.close()
"#;
    let serve = r#"
import os, socket
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    connection, _ = server.accept()
    connection.recv(100)
    connection.send(b"HTTP/1.0 200 OK\r\n\r\n")
    connection.close()
"#;
    let pools = format!(
        r#"
[pool.web]
command = ["python3", "-c", '''{slow}''']
count = 2
listen = ["http"]
ready_timeout = "3s"
stop = "10s"
[pool.own]
command = ["python3", "-c", '''{serve}''']
count = 1
ports = "{}"
env = {{ PORT = "{{port}}" }}
ready = {{ http = "127.0.0.1:{{port}}/" }}
ready_timeout = "3s"
stop = "5s"
[pool.own.health]
http = "127.0.0.1:{{port}}/"
every = "1s"
timeout = "1s"
failures = 3
[listen.http]
address = "127.0.0.1:@PORT@"
"#,
        support::free_ports(2)
    );
    let site = Site::up(&pools);
    let status = site.await_ready();
    let (web, own) = (pids(&status, "web"), pids(&status, "own"));
    // Each worker has one request after the other, and accepts nothing meanwhile.
    let load = Load::on(&site.address(), 4, 0);
    load.await_more(2);
    // It answers its check a second too late.
    signal(own[0], Signal::SIGSTOP);
    signal(site.pid(), Signal::SIGKILL);
    let status = await_restored(&site, 1);
    assert!(all_ready(&status), "ready at once: {status}");
    spaced(Duration::from_millis(1_200));
    signal(own[0], Signal::SIGCONT);
    load.await_more(2);
    let status = site.await_ready();
    assert_eq!((pids(&status, "web"), pids(&status, "own")), (web, own));
    let bad = ["unhealthy", "not-ready", "kill", "exit", "spawn"];
    let events = site.events();
    let since = events
        .iter()
        .skip_while(|event| event["event"] != "master-restored");
    for event in since {
        assert!(!bad.iter().any(|word| event["event"] == *word), "{event}");
    }
    load.stop().assert_nothing_lost(6);
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// What a master sets for itself and its workers is what the next one has, and its workers.
#[test]
fn the_next_master_has_the_same_umask_and_limit_of_files() {
    let pools = r#"
[pool.own]
command = ["sleep", "1000"]
ready = "spawned"
[pool.limited]
command = ["sleep", "1000"]
ready = "spawned"
umask = "077"
limits = { nofile = 123 }
"#;
    let mut site = Site::with_master("umask = \"027\"", pools);
    site.run();
    let status = site.await_ready();
    let has = |pid: i32| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process");
        let files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let files: Vec<String> = files
            .expect("a limit")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        (proc::status(pid, "Umask").expect("a process"), files)
    };
    let all = |status: &Value| {
        [
            has(site.pid()),
            has(pids(status, "own")[0]),
            has(pids(status, "limited")[0]),
        ]
    };
    let before = all(&status);
    let umasks = before.clone().map(|(umask, _)| umask);
    assert_eq!(umasks, ["0027", "0027", "0077"]);
    assert_eq!(before[2].1[3], "123", "{before:?}");
    signal(site.pid(), Signal::SIGKILL);
    await_restored(&site, 1);
    assert_eq!(site.rotad(&["roll"]).code, 0);
    let status = site.await_ready();
    assert_eq!(generation(&status, "own"), 2);
    assert_eq!(all(&status), before);
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// What was removed of the runtime directory and made again is what the next master goes on with.
#[test]
fn the_next_master_has_what_was_made_again() {
    let site = Site::up("[pool.idle]\ncommand = [\"sleep\", \"1000\"]\nready = \"spawned\"\n");
    let before = pids(&site.await_ready(), "idle");
    let (master, pid_file) = (site.pid(), site.path("master.pid"));
    std::fs::remove_file(&pid_file).expect("a pid file");
    std::fs::remove_dir_all(site.path("run")).expect("a runtime directory");
    until("it is made again", 20, || {
        let run = site.rotad(&["events"]);
        run.out.contains("was not in its place").then_some(())
    });
    signal(master, Signal::SIGKILL);
    let status = await_restored(&site, 1);
    assert_eq!(pids(&status, "idle"), before, "{status}");
    let events = site.rotad(&["events"]).out;
    assert!(!events.contains("given up"), "{events}");
}
