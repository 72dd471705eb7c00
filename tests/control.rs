//! The control socket and the verbs: exit codes, the JSON of the status, and clients that mean ill.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::{Site, need, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["http"]
stop = "2s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// No master: read-only verbs, roll, reload and cancel say so with 4; stop is done already.
#[test]
fn commands_without_a_master_are_4() {
    let site = Site::new(WEB);
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--check"],
        &["roll"],
        &["reload"],
        &["cancel"],
    ] {
        let run = site.rotad(arguments);
        assert_eq!(run.code, 4, "{arguments:?}: {run:?}");
        assert!(!run.err.is_empty(), "{arguments:?} says why");
    }
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
    assert!(
        !site.path("run/control.sock").exists(),
        "read-only verbs start nothing"
    );
}

/// A file that is not the master's: "this is the master of PATH", 4, and nothing happens.
#[test]
fn the_master_of_another_file_refuses() {
    let site = Site::up(WEB);
    let other = site.write("other.toml", &site.read("rotad.toml"));
    for arguments in [&["status"][..], &["roll"], &["stop"]] {
        let run = support::site::verb(&other, arguments, 30);
        assert_eq!(run.code, 4, "{arguments:?}: {run:?}");
        let text = format!("this is the master of {}", site.config.display());
        assert!(run.err.contains(&text), "{arguments:?}: {run:?}");
    }
    let status = site.await_ready();
    assert_eq!(pool(&status, "web")["generation"], 1);
    // Another name of the same file is the same file.
    std::os::unix::fs::symlink(&site.config, site.path("link.toml")).expect("a link");
    assert_eq!(
        support::site::verb(&site.path("link.toml"), &["status"], 30).code,
        0
    );
}

/// Wrong usage is 2, a pool that is not there 4.
#[test]
fn unknown_pools_and_usage_errors_are_told() {
    let site = Site::up(WEB);
    for arguments in [
        &["rol"][..],
        &["status", "--jsn"],
        &["roll", "--timeout", "soon"],
    ] {
        let run = site.rotad(arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {run:?}");
    }
    for arguments in [
        &["roll", "nobody"][..],
        &["cancel", "nobody"],
        &["status", "nobody"],
    ] {
        let run = site.rotad(arguments);
        assert_eq!(run.code, 4, "{arguments:?}: {run:?}");
    }
}

/// `status --json` has the names and shapes that scripts rely on (docs/cli.md).
#[test]
fn the_status_has_the_documented_shape() {
    let site = Site::up(WEB);
    let run = site.rotad(&["status", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status: Value = serde_json::from_str(&run.out).expect("JSON");
    let keys = |value: &Value| {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect::<std::collections::BTreeSet<_>>()
    };
    let set = |names: &str| {
        names
            .split(' ')
            .map(str::to_string)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(keys(&status), set("master pools"));
    assert_eq!(
        keys(&status["master"]),
        set("pid version name config state uptime_s guardian restarts last_death")
    );
    let web = pool(&status, "web");
    assert_eq!(
        keys(web),
        set(
            "name kind state wanted alive ready generation reload last_deploy uptime_s listen workers"
        )
    );
    assert_eq!(
        keys(&web["reload"]),
        set("state generation reason replaced of took_s")
    );
    let worker = &web["workers"][0];
    let wanted = set(
        "slot pid state generation age_s ready_in_s restarts rss_bytes cpu_s tree last_exit retry_in_s",
    );
    assert_eq!(keys(worker), wanted);
    assert_eq!(status["master"]["name"], "site");
    assert_eq!(status["master"]["state"], "running");
    assert_eq!(status["master"]["guardian"], site.guardian());
    assert_eq!(status["master"]["restarts"], 0);
    assert!(status["master"]["last_death"].is_null());
    assert_eq!(
        status["master"]["config"],
        site.config.display().to_string()
    );
    assert_eq!(
        (&web["kind"], &web["state"]),
        (&Value::from("worker"), &Value::from("ok"))
    );
    assert_eq!(web["reload"]["state"], "none");
    assert!(
        web["reload"]["reason"].is_null()
            && worker["last_exit"].is_null()
            && worker["retry_in_s"].is_null()
    );
    assert_eq!(web["workers"].as_array().map(Vec::len), Some(2));
    assert!(
        worker["rss_bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 100_000),
        "{worker}"
    );
    assert!(
        worker["cpu_s"].is_number()
            && worker["age_s"].is_number()
            && worker["ready_in_s"].is_number(),
        "{worker}"
    );
    // The table: a row a pool, no colour in a pipe.
    let run = site.rotad(&["status"]);
    assert_eq!(run.code, 0);
    assert!(
        run.out.contains("web") && run.out.contains("2/2") && !run.out.contains('\x1b'),
        "{run:?}"
    );
}

/// `status --check`: 0 all ready, 1 not all, 3 crash-loop with none ready, 4 unreachable; `--min-ready`.
#[test]
fn status_check_exits_by_the_state() {
    let mut site = Site::new(&WEB.replace(
        "\"http\"]\ncount",
        "\"http\", \"--code\", \"@DIR@/code\"]\nready_timeout = \"50s\"\ncount",
    ));
    site.write("code", "slow 30000\n");
    site.run();
    site.await_status("starting", 10, |status| pool(status, "web")["alive"] == 2);
    assert_eq!(site.rotad(&["status", "--check"]).code, 1);
    drop(site);
    let site = Site::up(WEB);
    assert_eq!(site.rotad(&["status", "--check"]).code, 0);
    assert_eq!(site.rotad(&["status", "web", "--check"]).code, 0);
    assert_eq!(
        site.rotad(&["status", "--check", "--min-ready", "2"]).code,
        0
    );
    assert_eq!(
        site.rotad(&["status", "--check", "--min-ready", "3"]).code,
        1
    );
}

/// 50 clients that say nothing, a line of 1 MiB, garbage, half a question: `status` is answered within a second all
/// the time, and the workers serve.
#[test]
fn hostile_clients_harm_only_themselves() {
    let mut site = Site::up(WEB);
    let socket = site.path("run/control.sock");
    let connect = || UnixStream::connect(&socket);
    let idle: Vec<_> = (0..50).map(|_| connect()).collect();
    let prompt = |what: &str| {
        let asked = Instant::now();
        assert!(site.status().is_some(), "{what}: no answer");
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{what}: {:?}",
            asked.elapsed()
        );
    };
    prompt("50 idle clients");
    drop(idle);
    let deaf = connect().expect("a client that never reads");
    let hostile: [(&str, Vec<u8>); 6] = [
        ("a long line", vec![b'x'; 1 << 20]),
        (
            "garbage",
            (0..=255).cycle().take(5000).chain(*b"\n").collect(),
        ),
        ("no object", b"[]\n".to_vec()),
        ("deep", [vec![b'['; 60_000], b"\n".to_vec()].concat()),
        (
            "another version",
            b"{\"version\": 999, \"config\": \"/x\", \"ask\": \"status\"}\n".to_vec(),
        ),
        (
            "an unknown wish",
            b"{\"version\": 1, \"config\": \"/x\", \"ask\": \"explode\"}\n".to_vec(),
        ),
    ];
    for (name, bytes) in &hostile {
        let mut client = connect().expect("a client");
        client
            .set_write_timeout(Some(Duration::from_secs(5)))
            .expect("a timeout");
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a timeout");
        let _ = client.write_all(bytes); // it may well be cut off within
        prompt(name);
        let mut answer = String::new();
        let read = BufReader::new(&client).read_line(&mut answer);
        assert!(
            !matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
            "{name}: silence"
        );
    }
    let mut half = connect().expect("a client");
    half.write_all(b"{\"version\"").expect("half a question");
    prompt("half a question");
    drop((half, deaf));
    assert!(support::load::get(&site.address(), "/").is_ok());
    assert!(site.master_lives());
}

/// A client that asks for everything and reads nothing cannot fill the master's memory or stop it.
#[test]
fn clients_that_do_not_read_are_dropped() {
    let mut site = Site::up(WEB);
    let question = format!(
        "{{\"version\": 1, \"config\": {:?}, \"ask\": \"status\"}}\n",
        site.config.display().to_string()
    );
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = UnixStream::connect(site.path("run/control.sock")).expect("a client");
        let _ = client.set_nonblocking(true);
        for _ in 0..100 {
            let _ = client.write_all(question.as_bytes());
        }
        clients.push(client);
    }
    let asked = Instant::now();
    until("an answer", 5, || site.status());
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    assert!(site.master_lives());
}

/// Another user may not: exit 5, and nothing happens. Needs root to become another user.
#[test]
fn another_user_is_refused() {
    if !need::root() || !need::program("setpriv") {
        return;
    }
    let site = Site::up(WEB);
    let copy = site.path("rotad");
    std::fs::copy(support::rotad(), &copy).expect("a copy that every user may run");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&copy)
            .args(arguments);
        command.arg("-c").arg(&site.config);
        support::site::finish(command, 30)
    };
    for arguments in [&["status"][..], &["roll"], &["stop"]] {
        let run = as_nobody(arguments);
        assert_eq!(run.code, 5, "{arguments:?}: {run:?}");
        assert!(!run.err.is_empty(), "{arguments:?} says why");
    }
    assert_eq!(pool(&site.await_ready(), "web")["generation"], 1);
}

/// `kill -USR1 $(pidof rotad)` hurts nobody: clients ignore USR1, USR2 and HUP.
#[test]
fn a_client_survives_the_masters_signals() {
    let site = Site::up(&WEB.replace("stop =", "reload = { soak = \"2s\" }\nstop ="));
    let mut command = Command::new(support::rotad());
    command
        .args(["roll", "web", "-c"])
        .arg(&site.config)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut client = command.spawn().expect("a client");
    site.await_status("the roll runs", 10, |status| {
        pool(status, "web")["reload"]["state"] == "running"
    });
    use nix::sys::signal::{Signal, kill};
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGHUP] {
        kill(nix::unistd::Pid::from_raw(client.id() as i32), signal).expect("the client");
    }
    assert_eq!(client.wait().expect("its end").code(), Some(0));
}

/// A control directory from before, with a dead socket in it; and one that is another user's file.
#[test]
fn stale_control_files_are_replaced() {
    let site = Site::new(WEB);
    std::fs::create_dir(site.path("run")).expect("a directory");
    drop(
        std::os::unix::net::UnixListener::bind(site.path("run/control.sock"))
            .expect("a dead socket"),
    );
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(site.status().is_some());
    assert_eq!(site.rotad(&["stop"]).code, 0);
    drop(site);
    let site = Site::new(WEB);
    std::fs::write(site.path("run"), "a file, not a directory").expect("a file");
    let run = site.rotad(&["start"]);
    assert_ne!(run.code, 0, "{run:?}");
    assert!(run.err.contains("run"), "{run:?}");
    assert_eq!(site.read("run"), "a file, not a directory");
    site.assert_empty();
}
