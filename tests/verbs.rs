//! Every verb that acts on pools, with a real master: what it does, what it prints, its exit code.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};
use support::{Site, pids, pool, until};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 2
listen = "127.0.0.1:@PORT@"
stop = "2s"
reload = { soak = "0s" }

[pool.queue]
kind = "task"
command = ["@WORKER@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
"#;

fn up() -> Site {
    let mut site = Site::new(POOLS);
    site.write("code", "ok\nfirst");
    site.run();
    site.await_ready();
    site
}

#[test]
fn a_pool_is_stopped_and_started() {
    let site = up();
    let run = site.rotad(&["stop", "queue"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.status().expect("a status");
    assert_eq!(
        (
            &pool(&status, "queue")["state"],
            &pool(&status, "web")["state"]
        ),
        (&"stopped".into(), &"ok".into())
    );
    assert_eq!(site.rotad(&["stop", "queue"]).code, 0, "stopped already");
    assert_eq!(site.rotad(&["status", "queue", "--check"]).code, 3);
    let run = site.rotad(&["start", "queue"]);
    assert_eq!(run.code, 0, "{run:?}");
    site.await_ready();
    for verb in ["stop", "start"] {
        assert_eq!(site.rotad(&[verb, "nobody"]).code, 4, "{verb}");
    }
}

#[test]
fn scale_changes_the_number_of_workers() {
    let site = up();
    let before = site.await_ready();
    let run = site.rotad(&["scale", "web", "+1"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.await_status("three", 10, |status| pool(status, "web")["ready"] == 3);
    assert!(
        pids(&before, "web")
            .iter()
            .all(|pid| pids(&status, "web").contains(pid)),
        "the others are not touched"
    );
    assert_eq!(site.rotad(&["scale", "web", "-2"]).code, 0);
    site.await_status("one", 10, |status| pool(status, "web")["alive"] == 1);
    assert_eq!(site.rotad(&["scale", "web", "2"]).code, 0);
    assert_eq!(site.rotad(&["scale", "web", "-9"]).code, 1);
    assert_eq!(site.rotad(&["scale", "nobody", "1"]).code, 4);
}

#[test]
fn signal_reaches_the_workers() {
    let site = up();
    let status = site.await_ready();
    let run = site.rotad(&["signal", "web", "cont"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        pids(&status, "web")
            .iter()
            .all(|pid| run.out.contains(&pid.to_string())),
        "{run:?}"
    );
    assert_eq!(site.rotad(&["signal", "web/1", "SIGCONT"]).code, 0);
    assert_eq!(site.rotad(&["signal", "web/9", "18"]).code, 1);
    assert_eq!(site.rotad(&["signal", "nobody", "CONT"]).code, 4);
    let run = site.rotad(&["signal", "web", "TREM"]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.err.contains("did you mean TERM?"), "{run:?}");
}

/// A line a worker, in a pipe without shapes and colour; a single worker alone is replaced.
#[test]
fn roll_replaces_the_workers() {
    let site = up();
    let before = site.await_ready();
    let run = site.rotad(&["roll", "web"]);
    assert_eq!(run.code, 0, "{run:?}");
    for line in ["web/0: pid", "web/1: pid", "(1 of 2)", "(2 of 2)"] {
        assert!(run.out.contains(line), "{line}: {run:?}");
    }
    assert!(
        !run.out.contains('\x1b') && !run.out.contains('✓'),
        "{run:?}"
    );
    let rolled = site.await_ready();
    let run = site.rotad(&["roll", "web/0"]);
    assert_eq!(run.code, 0, "{run:?}");
    let renewed = site.await_ready();
    assert_ne!(pids(&rolled, "web")[0], pids(&renewed, "web")[0]);
    assert_eq!(pids(&rolled, "web")[1], pids(&renewed, "web")[1]);
    assert_eq!(pids(&before, "queue"), pids(&renewed, "queue"));
    assert_eq!(site.rotad(&["roll", "web/9"]).code, 4);
    let run = site.rotad(&["rollback", "web", "--drained"]);
    assert!(
        run.code == 1 && run.text().contains("exactly the same files"),
        "there is nothing to go back to: {run:?}"
    );
}

#[test]
fn reload_config_only_applies_changes() {
    let site = up();
    let before = site.await_ready();
    site.write(
        "rotad.toml",
        &site.read("rotad.toml").replace("count = 2", "count = 3"),
    );
    let plan = site.rotad(&["reload", "--dry-run"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    assert!(plan.out.contains("web"), "{plan:?}");
    let plan = site.rotad(&["reload", "--dry-run", "--json"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let json: serde_json::Value = serde_json::from_str(&plan.out).expect("an object alone");
    assert_eq!(
        json["pools"][0],
        serde_json::json!({"name": "web", "change": "adjusted", "keys": ["count 2 → 3"], "action": "roll"})
    );
    assert_eq!(
        pool(&site.status().expect("a status"), "web")["wanted"],
        2,
        "nothing is done"
    );
    let run = site.rotad(&["reload", "--config"]);
    assert_eq!(run.code, 0, "{run:?}");
    let after = site.await_status("three", 10, |status| pool(status, "web")["ready"] == 3);
    assert!(
        pids(&before, "web")
            .iter()
            .all(|pid| pids(&after, "web").contains(pid))
    );
}

/// `--timeout` and Ctrl-C detach: 124 and 130, with what to type; the work goes on.
#[test]
fn ctrl_c_and_timeout_detach() {
    let site = up();
    site.write("code", "slow 3000\nsecond");
    let run = site.rotad(&["roll", "web", "--timeout", "100ms"]);
    assert_eq!(run.code, 124, "{run:?}");
    assert!(
        run.err.contains("the work goes on") && run.err.contains("rotad status -c"),
        "{run:?}"
    );
    assert_eq!(
        pool(&site.status().expect("a status"), "web")["reload"]["state"],
        "running"
    );
    let mut command = Command::new(support::rotad());
    command
        .args(["roll", "web", "-c"])
        .arg(&site.config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let client = command.spawn().expect("a client");
    site.await_log("asks to roll web", 10);
    until("both requests", 10, || {
        (site.log().matches("asks to roll web").count() >= 2).then_some(())
    });
    kill(Pid::from_raw(client.id() as i32), Signal::SIGINT).expect("the client");
    let out = client.wait_with_output().expect("its end");
    assert_eq!(out.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&out.stderr).contains("the work goes on"));
    site.await_status("it went on", 30, |status| {
        pool(status, "web")["generation"].as_u64() >= Some(2)
    });
}
