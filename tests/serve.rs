//! `rotad serve`: what it answers, to whom, and that nothing a client does touches the others or the master.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use support::served::Stream;
use support::{Random, Served, Site, alone, free_port, pool, proc, spaced, until};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = "127.0.0.1:@PORT@"
[pool.web.reload]
soak = "50ms"
"#;

/// Only for reading: everything that it shows.
#[test]
fn everything_is_shown() {
    let site = Site::up(POOLS);
    let served = Served::of(&site, &[]);
    let ok = |path: &str| {
        let answer = served.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        for (header, value) in [
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(header), Some(value), "{path}: {answer:?}");
        }
        let policy = answer.header("content-security-policy").expect("a policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        answer
    };
    // Every script and style of the page is one that it may run, and no page is like the one before.
    let page = ok("/");
    let policy = page.header("content-security-policy").expect("a policy");
    let nonce = policy.split("'nonce-").nth(1).expect("a nonce");
    let nonce = nonce.split('\'').next().expect("its end").to_owned();
    assert!(nonce.len() >= 20 && page.body.contains(&format!("nonce=\"{nonce}\"")));
    let blocks = page.body.matches("<script").count() + page.body.matches("<style").count();
    let named = page.body.matches(&format!("nonce=\"{nonce}\"")).count();
    assert!(blocks > 0 && blocks == named, "{}", page.body);
    assert!(!ok("/").body.contains(&nonce) && !page.body.contains("@NONCE@"));

    assert_eq!(ok("/healthz").body, "ok\n");
    assert_eq!(ok("/readyz").body, "ok\n");
    let status = ok("/api/status").json();
    assert_eq!(pool(&status, "web")["ready"], 2);
    let events = ok("/api/events").json();
    let words: Vec<_> = events
        .as_array()
        .expect("events")
        .iter()
        .map(|event| &event["event"])
        .collect();
    assert!(words.contains(&&json!("master-started")) && words.contains(&&json!("pool-ready")));
    assert_eq!(
        ok("/api/events?last=1").json().as_array().map(Vec::len),
        Some(1)
    );
    let history = ok("/api/history").json();
    assert_eq!(history["pools"]["web"]["ready"], json!([2]), "{history}");
    assert_eq!(history["at"].as_array().map(Vec::len), Some(1));
    assert_eq!(history["pools"]["web"]["queue"], json!([0]), "{history}");

    let text = ok("/metrics");
    assert!(
        text.head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        text.head
    );
    assert!(
        text.body
            .contains("rotad_pool_workers_ready{pool=\"web\"} 2\n"),
        "{}",
        text.body
    );
    let accept =
        "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let openmetrics = served.ask("GET", "/metrics", &[accept], "");
    assert!(
        openmetrics
            .head
            .contains("application/openmetrics-text; version=1.0.0")
    );
    assert!(
        openmetrics.body.ends_with("# EOF\n") && openmetrics.body.matches("# EOF").count() == 1
    );

    let head = served.ask("HEAD", "/api/status", &[], "");
    assert!(head.status == 200 && head.body.is_empty() && head.header("content-length").is_some());
    for (method, path, code) in [
        ("GET", "/nothing", 404),
        ("GET", "/api/roll", 405),
        ("DELETE", "/", 405),
        ("POST", "/api/status", 405),
        ("POST", "/api/roll", 403),
    ] {
        let answer = served.ask(method, path, &[], "");
        assert_eq!(answer.status, code, "{method} {path}: {answer:?}");
    }
    let refused = served.ask("POST", "/api/roll", &[], "{}");
    assert!(refused.body.contains("--allow-actions"), "{refused:?}");
}

#[test]
fn a_weak_pool_is_not_ready_and_the_reason_is_told() {
    let mut site = Site::new(
        r#"
[pool.web]
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
[pool.broken]
command = ["sh", "-c", "echo no database >&2; exit 3"]
"#,
    );
    site.run();
    site.await_status("a crash loop", 20, |status| {
        pool(status, "broken")["state"] == "crash-loop"
    });
    let served = Served::of(&site, &[]);
    let answer = served.get("/readyz");
    assert_eq!(answer.status, 503);
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!(lines.len(), 1, "{answer:?}");
    assert!(
        lines[0].starts_with("broken: 0 of 1 ready, crash-loop")
            && lines[0].contains("exit 3")
            && lines[0].contains("no database"),
        "{answer:?}"
    );
    assert_eq!(served.get("/healthz").status, 200);
    let run = site.rotad(&["stop", "broken"]);
    assert_eq!(run.code, 0, "{run:?}");
    until("a pool that was stopped does not count", 5, || {
        (served.get("/readyz").status == 200).then_some(())
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    let gone = until("no master", 5, || {
        Some(served.get("/healthz")).filter(|answer| answer.status == 503)
    });
    assert!(gone.body.contains("no master reachable"), "{gone:?}");
    for path in ["/readyz", "/api/status", "/metrics"] {
        assert_eq!(served.get(path).status, 503, "{path}");
    }
    assert_eq!(served.get("/").status, 200);
}

#[test]
fn only_its_own_names_and_pages_are_answered() {
    let site = Site::up(POOLS);
    let served = Served::of(&site, &["--host", "shop.example.com"]);
    let asked = |headers: &[&str]| served.ask("GET", "/api/status", headers, "").status;
    let address = format!("Host: {}", served.address);
    for (headers, code) in [
        (vec![address.as_str()], 200),
        (vec!["Host: shop.example.com"], 200),
        (vec!["Host: evil.example"], 421),
        (vec!["Host: localhost", "Host: localhost"], 400),
        (vec!["Origin: http://localhost"], 200),
        (vec!["Origin: http://evil.example"], 403),
        (vec!["Origin: null"], 403),
        (vec!["Sec-Fetch-Site: cross-site"], 403),
    ] {
        assert_eq!(asked(&headers), code, "{headers:?}");
    }
    let refused = served.ask("GET", "/", &["Host: evil.example"], "");
    assert!(
        refused.body.contains("evil.example") && refused.body.contains("--host"),
        "{refused:?}"
    );
    let mut stream = served.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("a request");
    let without = first_line(&mut *stream);
    assert!(without.contains(" 400 "), "{without}");
}

fn first_line(stream: &mut dyn Stream) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|read| read > 0) && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn actions_need_the_token_and_say_what_the_command_says() {
    let site = Site::up(POOLS);
    let served = Served::of(&site, &["--allow-actions"]);
    let token = served.token();
    for (headers, why) in [
        (vec![], "the token is missing"),
        (vec!["Authorization: Bearer 0123456789"], "another one"),
        (vec!["Origin: http://evil.example"], "evil.example"),
    ] {
        let answer = served.ask("POST", "/api/stop", &headers, r#"{"pools": ["web"]}"#);
        assert!(
            answer.status == 403 && answer.body.contains(why),
            "{answer:?}"
        );
    }
    assert_eq!(pool(&site.status().expect("a status"), "web")["ready"], 2);

    let post = |path: &str, body: &str| served.post(path, &token, body);
    let roll = post("/api/roll", r#"{"pools": ["web"], "wait": true}"#);
    assert_eq!(roll.status, 200, "{roll:?}");
    let said = roll.json();
    assert!(
        said["code"] == 0
            && said["message"]
                .as_str()
                .is_some_and(|text| text.contains("web: done: generation 2"))
    );
    assert!(
        said["progress"]
            .as_array()
            .is_some_and(|lines| lines.len() >= 2),
        "{said}"
    );
    assert_eq!(
        post("/api/scale", r#"{"pool": "web", "count": "+1"}"#).status,
        200
    );
    site.await_status("three", 10, |status| pool(status, "web")["ready"] == 3);
    let unknown = post("/api/roll", r#"{"pools": ["wbe"]}"#);
    assert!(
        unknown.status == 404 && unknown.body.contains("did you mean web"),
        "{unknown:?}"
    );
    let nothing = post("/api/rollback", r#"{"pools": ["web"], "wait": true}"#);
    assert_eq!(
        (nothing.status, &nothing.json()["code"]),
        (409, &json!(1)),
        "{nothing:?}"
    );
    let replaced = post(
        "/api/replace",
        r#"{"pool": "web", "slot": 0, "wait": true}"#,
    );
    assert_eq!(replaced.status, 200, "{replaced:?}");
    for body in ["{", "[]", r#"{"pools": ["web"], "what": 1}"#] {
        let answer = post("/api/roll", body);
        assert!(
            answer.status == 400 && answer.json()["code"] == 2,
            "{body}: {answer:?}"
        );
    }
    let long = format!("{{\"pools\": [\"{}\"]}}", "x".repeat(20_000));
    assert_eq!(post("/api/roll", &long).status, 400);
    assert_eq!(post("/api/stop", r#"{"pools": ["web"]}"#).status, 200);
    assert_eq!(
        pool(&site.status().expect("a status"), "web")["state"],
        "stopped"
    );
    assert_eq!(
        post("/api/stop", "{}").status,
        400,
        "never the master itself"
    );
    assert_eq!(
        post("/api/start", r#"{"pools": ["web"], "wait": true}"#).status,
        200
    );
}

/// The stream goes on over a master that is killed and one that is stopped, and from the event that a client has seen.
#[test]
fn the_stream_goes_on_over_masters() {
    let mut site = Site::up(POOLS);
    let served = Served::of(&site, &[]);
    let mut stream = served.stream("/events", &[]);
    let master = stream.next().expect("the state of the master");
    assert_eq!(
        (master.event.as_str(), &master.json()["state"]),
        ("master", &json!("connected"))
    );
    let status = stream.find("status", |_| true).json();
    assert_eq!(pool(&status, "web")["ready"], 2);

    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("a master");
    let is = |word: &'static str| {
        move |message: &support::served::Message| message.json()["event"] == word
    };
    let restored = stream.find("event", is("master-restored"));
    let seen = restored.id.expect("an id");
    assert_eq!(restored.json()["seq"], json!(seen));
    let restarted = stream.find("status", |message| {
        message.json()["master"]["restarts"] == 1
    });
    assert_eq!(pool(&restarted.json(), "web")["ready"], 2);

    // The same events from the number that another client has seen, once each and in their order.
    let run = site.rotad(&["scale", "web", "3"]);
    assert_eq!(run.code, 0, "{run:?}");
    let scaled = stream.find("event", is("scaled")).id.expect("an id");
    let header = format!("Last-Event-ID: {seen}");
    let mut again = served.stream("/events", &[&header]);
    let mut ids = Vec::new();
    while ids.last() != Some(&scaled) {
        ids.extend(again.find("event", |_| true).id);
    }
    assert_eq!(ids, (seen + 1..=scaled).collect::<Vec<u64>>());

    assert_eq!(site.rotad(&["stop"]).code, 0);
    let is_state = |state: &'static str| {
        move |message: &support::served::Message| message.json()["state"] == state
    };
    let gone = stream.find("master", is_state("gone"));
    assert!(
        gone.json()["why"]
            .as_str()
            .is_some_and(|why| why.contains("stopped")),
        "{gone:?}"
    );
    site.await_exit(10);
    site.run();
    stream.find("master", is_state("connected"));
    stream.find("event", is("master-started"));
    let status = stream.find("status", |message| {
        pool(&message.json(), "web")["ready"] == 2
    });
    assert_eq!(status.json()["master"]["restarts"], 0);
}

#[test]
fn lines_of_workers_are_streamed() {
    let site = Site::up(
        r#"
[pool.talk]
command = ["sh", "-c", "trap 'echo \"$ROTAD_SLOT <b>\"' USR1; echo begins; while :; do sleep 60 & wait $!; done"]
count = 2
ready = "spawned"
[pool.talk.reload]
soak = "0s"
"#,
    );
    let served = Served::of(&site, &[]);
    let mut lines = served.stream("/api/logs?pool=talk&slot=1&lines=5", &[]);
    let first = lines.find("line", |_| true).json();
    assert_eq!(
        (&first["text"], &first["slot"]),
        (&json!("begins"), &json!(1)),
        "{first}"
    );
    kill(Pid::from_raw(site.pid()), Signal::SIGKILL).expect("a master");
    until("the next master", 10, || {
        let status = site.status()?;
        (status["master"]["restarts"] == 1).then_some(())
    });
    // Of the other slot nothing comes.
    assert_eq!(site.rotad(&["signal", "talk", "USR1"]).code, 0);
    let next = lines.find("line", |_| true);
    let next = next.json();
    assert_eq!(
        (&next["text"], &next["pool"]),
        (&json!("1 <b>"), &json!("talk")),
        "{next}"
    );
    assert_eq!(served.get("/api/logs?slot=1").status, 400);
    let end = served
        .stream("/api/logs?pool=nope", &[])
        .find("end", |_| true);
    assert!(end.data.contains("no such pool"), "{end:?}");
    // Readers that have gone make room for others.
    for _ in 0..20 {
        until("room for a reader", 5, || {
            let mut reader = served.connect();
            let request = b"GET /api/logs?pool=talk HTTP/1.1\r\nHost: localhost\r\n\r\n";
            reader.write_all(request).expect("a request");
            first_line(&mut *reader).contains(" 200 ").then_some(())
        });
    }
}

/// A thousand clients that send half a request, clients that read nothing, and bytes of no meaning: others are answered
/// at once, the console stays small, and the master has not noticed.
#[test]
fn slow_and_senseless_clients_touch_no_others() {
    let _alone = alone();
    let site = Site::up(POOLS);
    let served = Served::of(&site, &[]);
    let master = site.pid();
    let mut slow: Vec<Box<dyn Stream>> = Vec::new();
    for _ in 0..500 {
        let mut stream = served.connect();
        stream
            .write_all(b"GET /api/status HTTP/1.1\r\nHost: lo")
            .expect("half a request");
        slow.push(stream);
    }
    // Answers that are not read.
    for _ in 0..20 {
        let mut stream = served.connect();
        let request = b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
        stream.write_all(&request).ok();
        slow.push(stream);
    }
    for _ in 0..480 {
        slow.push(served.connect());
    }
    let slowest = (0..20).map(|_| {
        let begun = Instant::now();
        assert_eq!(served.get("/healthz").status, 200);
        begun.elapsed()
    });
    let slowest = slowest.max().expect("some");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");

    let mut random = Random::new(9180);
    for _ in 0..300 {
        let mut stream = served.connect();
        stream.write_all(&senseless(&mut random)).ok();
        if random.below(2) == 0 {
            slow.push(stream);
        }
    }
    let long = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    let mut stream = served.connect();
    stream.write_all(long.as_bytes()).ok();
    let refused = first_line(&mut *stream);
    assert!(refused.contains(" 431 ") || refused.is_empty(), "{refused}");
    assert_eq!(served.get("/readyz").body, "ok\n");
    let rss = proc::status(served.pid(), "VmRSS").expect("a size");
    let rss: u64 = rss.trim_end_matches("kB").trim().parse().expect("KiB");
    assert!(rss < 25 << 10, "{rss} KiB");
    assert_eq!(
        (
            site.pid(),
            &site.status().expect("a status")["master"]["restarts"]
        ),
        (master, &json!(0))
    );
    assert_eq!(
        served.said().lines().count(),
        1,
        "it logs no request: {}",
        served.said()
    );
}

/// Bytes that look a little like a request.
fn senseless(random: &mut Random) -> Vec<u8> {
    let parts: [&[u8]; 14] = [
        b"GET ",
        b"POST ",
        b"/",
        b"/events",
        b"/api/roll",
        b" HTTP/1.1",
        b"\r\n",
        b"\r\n\r\n",
        b"Host: localhost\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"ffffffffffffffff\r\n",
        b"Last-Event-ID: -1\r\n",
        b"\x00\xff\xfe",
    ];
    let mut bytes = Vec::new();
    for _ in 0..random.below(20) {
        match random.below(4) {
            0 => bytes.push(random.below(256) as u8),
            _ => bytes.extend_from_slice(parts[random.below(parts.len())]),
        }
    }
    bytes
}

#[test]
fn a_unix_socket_belongs_to_user_and_group() {
    let site = Site::up(POOLS);
    let path = site.path("serve.sock");
    let address = format!("unix:{}", path.display());
    let mut served = Served::at(&site, &address, &[]);
    let mode = path.metadata().expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(served.get("/healthz").status, 200);
    let evil = served.ask("GET", "/", &["Host: evil.example"], "");
    assert_eq!(evil.status, 421);
    let second = site.rotad(&["serve", "--listen", &address]);
    assert!(
        second.code == 1 && second.err.contains("address in use"),
        "{second:?}"
    );
    // Killed, it leaves the file, which the next one replaces.
    served.end(Signal::SIGKILL, 5);
    assert!(path.exists());
    let mut served = Served::at(&site, &address, &[]);
    assert_eq!(served.end(Signal::SIGTERM, 5).code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn it_ends_at_once_and_says_why_it_cannot_begin() {
    let site = Site::up(POOLS);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut served = Served::of(&site, &[]);
        let mut stream = served.stream("/events", &[]);
        stream.find("status", |_| true);
        let begun = Instant::now();
        assert_eq!(served.end(signal, 5).code(), Some(0));
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        // What was sent before, and then the end.
        assert!(std::iter::from_fn(|| stream.next()).take(100).count() < 100);
    }
    let taken = TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let refused = site.rotad(&["serve", "--listen", &address]);
    let own = std::process::id();
    assert!(
        refused.code == 1
            && refused.err.contains(&format!(
                "cannot listen on {address}: address in use: pid {own}"
            )),
        "{refused:?}"
    );
    for (args, code, why) in [
        (vec!["--listen", "nowhere"], 2, "is no address"),
        (vec!["--listen", "9180"], 2, "did you mean 127.0.0.1:9180?"),
        (vec!["--token-file", "/dev/null"], 2, "--allow-actions"),
        (
            vec!["--allow-actions", "--token-file", "/dev/null"],
            1,
            "/dev/null",
        ),
        (
            vec!["--listen", "unix:/nonexistent/x.sock"],
            1,
            "does not exist",
        ),
    ] {
        let run = site.rotad(&[&["serve"], args.as_slice()].concat());
        assert!(
            run.code == code && run.err.contains(why),
            "{args:?}: {run:?}"
        );
    }
    let file = site.write("token", "a-token-of-my-own-0123\n");
    let path = file.display().to_string();
    let args = ["--allow-actions", "--token-file", path.as_str()];
    let open = site.rotad(&[&["serve"], args.as_slice()].concat());
    assert!(open.code == 1 && open.err.contains("chmod 600"), "{open:?}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a mode");
    let served = Served::of(&site, &args);
    assert!(!served.said().contains("token"), "{}", served.said());
    let scaled = served.post(
        "/api/scale",
        "a-token-of-my-own-0123",
        r#"{"pool": "web", "count": 1}"#,
    );
    assert_eq!(scaled.status, 200, "{scaled:?}");
}

/// The sockets of a pool and of a service manager are taken, so that it can be rolled as any pool.
#[test]
fn it_runs_as_a_pool_of_the_same_file() {
    let site = Site::up(
        r#"
[pool.web]
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
[pool.console]
command = ["{rotad}", "serve", "-c", "@DIR@/rotad.toml", "--listen", "127.0.0.1:@PORT@"]
listen = "127.0.0.1:@PORT@"
[pool.console.reload]
soak = "50ms"
"#,
    );
    let load = support::Load::of(&site.address(), "/healthz", 1, 0, Duration::from_millis(5));
    let run = site.rotad(&["roll", "console"]);
    assert_eq!(run.code, 0, "{run:?}");
    load.await_more(20);
    load.stop().assert_nothing_lost(20);
}

/// While nobody looks, an idle master has no wake-up; with a page open at most one a second.
#[test]
fn a_console_that_nobody_looks_at_costs_nothing() {
    let _alone = alone();
    let site = Site::up(
        r#"
[pool.web]
command = ["@WORKER@", "wait", "--notify"]
count = 2
ready = "notify"
[pool.web.restart]
stable_after = "1s"
"#,
    );
    let served = Served::of(&site, &[]);
    let all = [site.guardian(), site.pid(), served.pid()];
    let still = || {
        let before = all.map(proc::switches);
        spaced(Duration::from_secs(2));
        (before == all.map(proc::switches)).then_some(())
    };
    until("nothing wakes up", 20, still);
    let mut stream = served.stream("/events", &[]);
    stream.find("status", |_| true);
    let woken = || proc::switches(site.pid())[&site.pid()];
    until("five wake-ups or less in five seconds", 30, || {
        let before = woken();
        spaced(Duration::from_secs(5));
        (woken() - before <= 5).then_some(())
    });
}
