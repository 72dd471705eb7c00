//! Health: a worker that hangs is found, by whatever its pool is asked with, and replaced; nobody else is.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Site, alone, load, never, pids, pool, proc, spaced, until};

/// Two workers with a port each, a health check a fifth of a second.
const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--bind", "127.0.0.1:{port}"]
count = 2
ports = "@PORTS@"
ready = { connect = "127.0.0.1:{port}" }
stop = "1s"
[pool.web.reload]
max_draining = 1
[pool.web.health]
@HOW@
every = "200ms"
timeout = "150ms"
failures = 2
"#;

fn web(how: &str) -> String {
    WEB.replace("@HOW@", how)
        .replace("@PORTS@", &support::free_ports(4))
}

fn make_sick(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGUSR2).expect("a worker to make sick");
}

/// The first of the pool's two workers is replaced, the second is not.
fn await_replaced(site: &Site, name: &str, before: &Value) -> Value {
    let old = pids(before, name);
    let after = site.await_status("the sick one is replaced", 20, |status| {
        support::all_ready(status) && !pids(status, name).contains(&old[0])
    });
    assert!(
        pids(&after, name).contains(&old[1]),
        "the healthy one was replaced: {before} became {after}"
    );
    let exit = pool(&after, name)["workers"][0]["last_exit"].clone();
    assert!(
        exit["error"].is_string(),
        "the reason is in last_exit: {after}"
    );
    assert_eq!(
        pool(&after, name)["workers"][1]["last_exit"],
        Value::Null,
        "{after}"
    );
    exit
}

#[test]
fn a_failed_http_check_replaces_the_worker() {
    let site = Site::up(&web("http = \"127.0.0.1:{port}/healthz\""));
    let before = site.await_ready();
    let port = pool(&before, "web")["workers"][0]["port"]
        .as_u64()
        .expect("a port");
    make_sick(pids(&before, "web")[0]);
    let exit = await_replaced(&site, "web", &before);
    let reason = exit["error"].as_str().unwrap_or_default();
    let wanted = format!(
        "health: GET http://127.0.0.1:{port}/healthz: timed out after 150 ms, 2 times in a row"
    );
    assert!(reason.contains(&wanted), "{reason}");
    site.await_log(&wanted, 10);
}

/// A worker that no longer listens, and lives on.
#[test]
fn a_failed_connect_check_replaces_the_worker() {
    let site = Site::up(&web("connect = \"127.0.0.1:{port}\""));
    let before = site.await_ready();
    let port = pool(&before, "web")["workers"][0]["port"]
        .as_u64()
        .expect("a port");
    load::get(&format!("127.0.0.1:{port}"), "/shutdown").expect("an answer");
    let exit = await_replaced(&site, "web", &before);
    assert!(
        exit["error"]
            .as_str()
            .is_some_and(|text| text.contains("connection refused, 2 times")),
        "{exit}"
    );
}

#[test]
fn a_failed_command_check_replaces_the_worker() {
    let how =
        "command = [\"sh\", \"-c\", \"echo looking at $ROTAD_PORT {slot}; test ! -e sick.{slot}\"]";
    let site = Site::up(&web(how));
    let before = site.await_ready();
    site.write("sick.0", "");
    until("the first is found", 20, || {
        site.log().contains("2 times in a row").then_some(())
    });
    std::fs::remove_file(site.path("sick.0")).expect("a file");
    let exit = await_replaced(&site, "web", &before);
    assert!(
        exit["error"]
            .as_str()
            .is_some_and(|text| text.contains("exited with 1: looking at ")),
        "{exit}"
    );
}

/// A health command that hangs delays nothing, is killed, and counts.
#[test]
fn a_hanging_check_command_is_killed() {
    let how = "command = [\"sh\", \"-c\", \"if test -e sick.{slot}; then echo $$ >> hangs; sleep 1000; fi\"]";
    let site = Site::up(&web(how));
    let before = site.await_ready();
    site.write("sick.0", "");
    let mut slowest = Duration::ZERO;
    until("the first is found", 20, || {
        let asked = Instant::now();
        site.status().expect("a status");
        slowest = slowest.max(asked.elapsed());
        site.log().contains("2 times in a row").then_some(())
    });
    std::fs::remove_file(site.path("sick.0")).expect("a file");
    let exit = await_replaced(&site, "web", &before);
    assert!(
        exit["error"]
            .as_str()
            .is_some_and(|text| text.contains("timed out after 150 ms")),
        "{exit}"
    );
    assert!(
        slowest < Duration::from_secs(2),
        "a status took {slowest:?}"
    );
    let hung: Vec<i32> = site
        .lines("hangs")
        .iter()
        .map(|line| line.parse().expect("a pid"))
        .collect();
    assert!(hung.len() >= 2, "{hung:?}");
    until("what hung is gone", 10, || {
        hung.iter().all(|pid| proc::gone(*pid)).then_some(())
    });
}

const DOGS: &str = r#"
[pool.dogs]
command = ["@WORKER@", "wait", "--notify", "--watchdog"]
count = 2
ready = "notify"
stop = "5s"
[pool.dogs.health]
watchdog = "2s"
"#;

#[test]
fn a_missed_watchdog_replaces_the_worker() {
    let site = Site::up(DOGS);
    let before = site.await_ready();
    make_sick(pids(&before, "dogs")[0]);
    let exit = await_replaced(&site, "dogs", &before);
    assert!(
        exit["error"]
            .as_str()
            .is_some_and(|text| text.contains("no WATCHDOG=1 for 2.0 s")),
        "{exit}"
    );
    site.await_log("no WATCHDOG=1 for 2.0 s", 10);
}

/// WATCHDOG=trigger counts immediately; WATCHDOG_USEC changes the interval.
#[test]
fn a_worker_can_declare_itself_broken() {
    let dogs = DOGS
        .replace(
            "\"--watchdog\"]",
            "\"--watchdog\", \"--say\", \"@DIR@/word.{slot}\"]",
        )
        .replace("2s", "1h");
    for (word, reason) in [
        ("WATCHDOG=trigger", "WATCHDOG=trigger"),
        ("WATCHDOG_USEC=1000", "no WATCHDOG=1 for 0.0 s"),
    ] {
        let site = Site::up(&dogs);
        let before = site.await_ready();
        site.write("word.0", word);
        let exit = await_replaced(&site, "dogs", &before);
        assert!(
            exit["error"]
                .as_str()
                .is_some_and(|text| text.contains(reason)),
            "{exit}"
        );
    }
}

/// The master sleeps longer than any interval: nobody is replaced for that, by watchdog or by check.
#[test]
fn a_paused_master_replaces_nobody() {
    let _alone = alone();
    let slow = web("http = \"127.0.0.1:{port}/work/20\"").replace("failures = 2", "failures = 1");
    let slow = slow.replace("150ms", "1s").replace("200ms", "1s");
    let site = Site::up(&format!("{DOGS}{slow}"));
    let before = site.await_ready();
    let master = site.pid();
    for _ in 0..2 {
        site.signal(Signal::SIGSTOP);
        until("it is paused", 5, || {
            (proc::stat(master)?[0] == "T").then_some(())
        });
        spaced(Duration::from_secs(4));
        site.signal(Signal::SIGCONT);
        never("a worker was replaced", 1.5, || {
            let now = site.status()?;
            ["dogs", "web"]
                .iter()
                .any(|name| pids(&now, name) != pids(&before, name))
                .then_some(now)
        });
    }
    assert!(
        !site.log().contains("(1 of"),
        "a failure was counted: {}",
        site.log()
    );
}

const MANY: &str = r#"
[pool.many]
command = ["@WORKER@", "wait", "--notify"]
count = 100
ready = "notify"
stop = "1s"
[pool.many.health]
connect = "127.0.1.1{slot}:@SOME@"
every = "1s"
timeout = "1s"
failures = 1000
"#;

/// A hundred workers that are asked every second: none is asked late, and all of them are.
#[test]
fn a_hundred_workers_are_checked_in_time() {
    let _alone = alone();
    let port = support::free_port();
    // Each worker has an address of its own; the test listens there.
    let listener = |slot: usize| {
        let listener =
            std::net::TcpListener::bind(format!("127.0.1.1{slot}:{port}")).expect("a socket");
        listener
            .set_nonblocking(true)
            .expect("a listener that does not wait");
        listener
    };
    let all: Vec<_> = (0..100).map(listener).collect();
    let site = Site::up(&MANY.replace("@SOME@", &port.to_string()));
    let mut asked = vec![Vec::new(); 100];
    let began = Instant::now();
    until("each has been asked six times", 30, || {
        for (times, listener) in asked.iter_mut().zip(&all) {
            while listener.accept().is_ok() {
                times.push(began.elapsed());
            }
        }
        asked.iter().all(|times| times.len() >= 6).then_some(())
    });
    let gaps = asked
        .iter()
        .flat_map(|times| times.windows(2).map(|two| two[1] - two[0]));
    let longest = gaps.max().expect("gaps");
    assert!(
        longest < Duration::from_millis(1100 + 400),
        "a check came {longest:?} after the one before"
    );
    let status = site.status().expect("a status");
    assert_eq!(pool(&status, "many")["ready"], 100);
}

/// Answers every connection with the status that `status` gives for its number.
fn serve(
    listener: std::net::TcpListener,
    status: impl Fn(usize) -> u16 + Send + 'static,
) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let code = status(count.fetch_add(1, Ordering::SeqCst));
            let _ = stream
                .write_all(format!("HTTP/1.1 {code} So\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
    });
    asked
}

/// Ready with the first answer that says so, and asked no more from then on.
#[test]
fn a_worker_is_ready_when_its_probe_succeeds() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let asked = serve(listener, |number| if number < 5 { 503 } else { 200 });
    let site = Site::up(&format!(
        "[pool.slow]\ncommand = [\"@WORKER@\", \"wait\"]\nready = {{ http = \"127.0.0.1:{port}/up\" }}\nstop = \"2s\"\n"
    ));
    assert_eq!(asked.load(Ordering::SeqCst), 6);
    let status = site.status().expect("a status");
    // 50, 100, 200, 400 and 800 ms of pauses.
    assert!(
        support::number(&pool(&status, "slow")["workers"][0]["ready_in_s"]) >= 1.5,
        "{status}"
    );
    never("it was asked again", 1.5, || {
        (asked.load(Ordering::SeqCst) > 6).then_some(())
    });
}

/// Headers of the configuration, with placeholders; `Host` replaces rotad's own.
#[test]
fn probes_send_the_headers_of_the_configuration() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let (mut head, mut part) = (Vec::new(), [0; 1024]);
            while !head.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut part).expect("a request");
                head.extend_from_slice(&part[..count]);
            }
            let head = String::from_utf8(head).expect("text");
            // As a framework that knows its hosts.
            let code = if head.contains("\r\nhost: shop.example.com\r\n") {
                200
            } else {
                400
            };
            seen.lock().expect("the heads").push(head);
            let _ = stream.write_all(format!("HTTP/1.1 {code} So\r\n\r\n").as_bytes());
        }
    });
    let site = Site::up(&format!(
        r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = {{ http = "127.0.0.1:{port}/up", headers = {{ host = "shop.example.com", X-Worker = "{{pool}}/{{slot}}" }} }}
stop = "2s"
[pool.web.health]
http = "127.0.0.1:{port}/healthz"
headers = {{ host = "shop.example.com", Authorization = "Bearer x" }}
every = "200ms"
failures = 1
"#
    ));
    let count = |what: &str| {
        let heads = heads.lock().expect("the heads");
        heads.iter().filter(|head| head.contains(what)).count()
    };
    until("three checks", 20, || {
        (count("GET /healthz ") >= 3).then_some(())
    });
    let heads = heads.lock().expect("the heads").clone();
    for head in &heads {
        let lower = head.to_lowercase();
        assert_eq!(lower.matches("\r\nhost: ").count(), 1, "{head}");
        assert!(lower.contains("\r\nconnection: close\r\n"), "{head}");
        let own = if head.starts_with("GET /up ") {
            "X-Worker: web/0"
        } else {
            "Authorization: Bearer x"
        };
        assert!(head.contains(&format!("\r\n{own}\r\n")), "{head}");
    }
    assert!(!site.log().contains("failed its health check"));
    assert!(!(site.log() + &site.rotad(&["events"]).out).contains("Bearer"));
}

/// By a command that fails first; and one that is never ready says why.
#[test]
fn never_ready_says_why() {
    let mut site = Site::new(
        "[pool.good]\ncommand = [\"@WORKER@\", \"wait\"]\nready = { command = [\"test\", \"-e\", \"go\"] }\nstop = \"2s\"\n\
         [pool.bad]\ncommand = [\"@WORKER@\", \"wait\"]\nready = { command = [\"sh\", \"-c\", \"echo no database; exit 7\"] }\n\
         ready_timeout = \"1s\"\nstop = \"2s\"\n",
    );
    site.run();
    site.await_log(
        "was not ready in time: `sh`: exited with 7: no database",
        20,
    );
    let status = site.await_status("the reason is told", 10, |status| {
        let exit = &pool(status, "bad")["workers"][0]["last_exit"];
        exit["error"]
            .as_str()
            .is_some_and(|text| text.contains("exited with 7: no database"))
    });
    assert_eq!(pool(&status, "good")["ready"], 0, "{status}");
    site.write("go", "");
    site.await_status("the good one is ready", 10, |status| {
        pool(status, "good")["ready"] == 1
    });
}

/// Checks, watchdogs and ages that are far away cost nothing until they are due.
#[test]
fn far_deadlines_do_not_wake_the_master() {
    let _alone = alone();
    let slow = web("connect = \"127.0.0.1:{port}\"")
        .replace("200ms", "1h")
        .replace("150ms", "1s");
    let dogs = DOGS
        .replace("\"--watchdog\"", "\"--drain-ms\", \"0\"")
        .replace("2s", "1h");
    let site = Site::up(&format!(
        "{dogs}[pool.dogs.recycle]\nmax_age = \"6h\"\n{slow}"
    ));
    let master = site.pid();
    let still = |seconds: u64| {
        let before = proc::switches(master);
        spaced(Duration::from_secs(seconds));
        (before == proc::switches(master)).then_some(())
    };
    // A client that finds no master asks the other masters; another test may do that now and then. What
    // wakes by a clock of its own would do so in every five seconds.
    until("five seconds without a wake-up", 90, || still(5));
}
