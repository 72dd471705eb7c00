//! Every exit code of docs/cli.md, by the real binary.

mod support;

use std::process::Command;
use support::{Site, need, pool};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
listen = "127.0.0.1:@PORT@"
stop = "2s"
ready_timeout = "20s"
reload = { soak = "0s" }

[pool.off]
command = ["@WORKER@", "wait"]
ready = "spawned"
"#;

fn up() -> Site {
    let mut site = Site::new(WEB);
    site.write("code", "ok\nfirst");
    site.run();
    site.await_ready();
    site
}

#[test]
fn verbs_exit_as_documented() {
    let site = up();
    let expect = |code: i32, arguments: &[&str]| {
        let run = site.rotad(arguments);
        assert_eq!(run.code, code, "{arguments:?}: {run:?}");
        assert!(
            code == 0 || code == 3 || !run.err.is_empty(),
            "{arguments:?} says why: {run:?}"
        );
    };
    expect(0, &["status"]);
    expect(0, &["roll", "web"]);
    expect(0, &["stop", "off"]);
    expect(1, &["signal", "web/7", "TERM"]);
    expect(1, &["scale", "web", "-7"]);
    expect(2, &["nosuch"]);
    expect(2, &["signal", "web", "NOPE"]);
    expect(2, &["roll", "web", "off/0"]);
    expect(3, &["status", "off", "--check"]);
    for verb in [
        "status", "roll", "reload", "rollback", "cancel", "stop", "start", "logs",
    ] {
        expect(4, &[verb, "nobody"]);
    }
    expect(75, &["run"]);
    site.write("code", "slow 2000\nlate");
    expect(124, &["roll", "web", "--timeout", "50ms"]);
    site.await_status("done", 20, |status| pool(status, "web")["state"] == "ok");
    site.write("code", "exit 3\nbroken");
    expect(10, &["roll", "web"]);
    let broken = site
        .read("rotad.toml")
        .replace("ready_timeout", "raedy_timeout");
    site.write("rotad.toml", &broken);
    expect(78, &["check"]);
    expect(78, &["reload"]);
    expect(0, &["stop"]);
    expect(4, &["status"]);
    expect(78, &["start"]);
}

/// 1: not one pool comes up; 5: another user.
#[test]
fn starts_and_other_users_exit_as_documented() {
    let site = Site::new(WEB);
    site.write("code", "exit 3\nbroken");
    site.write(
        "rotad.toml",
        &site
            .read("rotad.toml")
            .replace(
                "\"wait\"]",
                "\"wait\", \"--nosuch\"]\nready_timeout = \"5s\"",
            )
            .replace("ready = \"spawned\"", "ready = \"notify\""),
    );
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err.contains("nothing is left running"), "{run:?}");
    site.assert_empty();
    if !need::root() || !need::program("setpriv") {
        return;
    }
    let site = up();
    let copy = site.path("rotad");
    std::fs::copy(support::rotad(), &copy).expect("a copy that every user may run");
    for arguments in [
        &["status"][..],
        &["events"],
        &["logs"],
        &["scale", "web", "2"],
        &["stop", "web"],
    ] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&copy)
            .args(arguments);
        command.arg("-c").arg(&site.config);
        let run = support::site::finish(command, 30);
        assert_eq!(run.code, 5, "{arguments:?}: {run:?}");
    }
}

/// 69: the master's own, when an essential pool has no ready worker for too long.
#[test]
fn a_master_without_its_essential_pool_exits_with_69() {
    let mut site = Site::new(
        r#"
[pool.core]
command = ["@WORKER@", "wait", "--nosuch"]
ready = "notify"
essential = "500ms"
"#,
    );
    site.run();
    assert_eq!(site.await_exit(20).code(), Some(69));
}
