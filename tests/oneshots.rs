//! Pools that run once, the order between pools, and the pool without which there is no point.

mod support;

use support::{Site, pids, pool};

/// `order` gets a line from each that starts; `fail` makes the oneshot fail.
const POOLS: &str = r#"
[pool.migrate]
kind = "oneshot"
command = ["sh", "-c", "echo migrate >> @DIR@/order; if test -e @DIR@/fail; then echo the table is locked >&2; exit 7; fi"]
[pool.warm]
kind = "oneshot"
after = ["migrate"]
command = ["sh", "-c", "echo warm >> @DIR@/order"]
[pool.web]
after = ["warm"]
command = ["sh", "-c", "echo web >> @DIR@/order; exec @WORKER@ wait --notify --terms @DIR@/order"]
ready = "notify"
reload = { soak = "0s" }
[pool.front]
after = ["web"]
command = ["sh", "-c", "echo front >> @DIR@/order; exec @WORKER@ wait --notify --terms @DIR@/order"]
ready = "notify"
reload = { soak = "0s" }
[pool.alone]
command = ["@WORKER@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
"#;

fn settled(status: &serde_json::Value) -> bool {
    status["pools"].as_array().is_some_and(|pools| {
        pools.iter().all(|pool| match pool["kind"].as_str() {
            Some("oneshot") => pool["state"] == "done",
            _ => pool["state"] == "ok" && pool["alive"] == pool["wanted"],
        })
    })
}

fn up() -> Site {
    let mut site = Site::new(POOLS);
    site.run();
    site.await_status("all is up", 30, settled);
    site
}

/// Each starts when those before it are up, and stops against the order.
#[test]
fn oneshots_run_one_after_another() {
    let mut site = up();
    assert_eq!(site.lines("order"), ["migrate", "warm", "web", "front"]);
    let status = site.status().expect("a status");
    let (web, front) = (pids(&status, "web")[0], pids(&status, "front")[0]);
    assert_eq!(pool(&status, "migrate")["wanted"], 0, "{status}");
    let run = site.rotad(&["stop"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(site.await_exit(20).success());
    assert_eq!(
        site.lines("order")[4..],
        [front.to_string(), web.to_string()]
    );
}

/// A reload runs the oneshots first, in their order; HUP only those that have changed; with names, those that they need.
#[test]
fn a_reload_runs_its_oneshots_first() {
    let site = up();
    let order = || site.lines("order").len();
    let run = site.reload("everything", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    site.await_status("all is up", 30, settled);
    let lines = site.lines("order");
    let at = |name: &str| {
        lines[4..]
            .iter()
            .position(|line| line == name)
            .expect("a line")
    };
    assert!(
        at("migrate") < at("warm") && at("warm") < at("web"),
        "{lines:?}"
    );
    let before = order();
    assert_eq!(site.reload("config-only", &[]).code, 0);
    assert_eq!(site.reload("everything", &["alone"]).code, 0);
    assert_eq!(order(), before, "no oneshot was asked for");
    site.edit("echo warm >>", "echo warmer >>");
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(site.lines("order")[before..], ["warmer"]);
    let run = site.reload("everything", &["web"]);
    assert_eq!(run.code, 0, "{run:?}");
    let oneshots: Vec<String> = site.lines("order")[before + 1..]
        .iter()
        .take(2)
        .cloned()
        .collect();
    assert_eq!(oneshots, ["migrate", "warmer"]);
}

/// A oneshot that fails ends the reload: 10, its last lines, nothing rolled, nothing applied.
#[test]
fn a_failed_oneshot_stops_the_reload() {
    let site = up();
    let before = site.status().expect("a status");
    site.write("fail", "");
    site.edit(
        "[pool.alone]",
        "[pool.new]\nkind = \"oneshot\"\ncommand = [\"true\"]\n[pool.alone]\ncount = 3",
    );
    let port = support::free_port();
    site.edit(
        "[pool.new]",
        &format!("[listen.extra]\naddress = \"127.0.0.1:{port}\"\n[pool.new]"),
    );
    let run = site.reload("everything", &[]);
    assert_eq!(run.code, 10, "{run:?}");
    assert!(
        run.message.contains("migrate") && run.message.contains("the table is locked"),
        "{run:?}"
    );
    let after = site.await_status("the new oneshot is gone again", 20, |status| {
        status["pools"]
            .as_array()
            .is_some_and(|pools| pools.len() == 5)
    });
    for name in ["web", "front", "alone"] {
        assert_eq!(pids(&after, name), pids(&before, name));
    }
    assert_eq!(pool(&after, "alone")["wanted"], 1);
    support::until("the new address is free again", 10, || {
        std::net::TcpListener::bind(("127.0.0.1", port)).ok()
    });
    // The oneshot was done once: what serves may be stopped and started as before.
    assert_eq!(site.rotad(&["stop", "web"]).code, 0);
    let run = site.rotad(&["start", "web"]);
    assert_eq!(run.code, 0, "{run:?}");
    std::fs::remove_file(site.path("fail")).expect("no failure any more");
    let run = site.reload("everything", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        pool(&site.await_status("all is up", 30, settled), "alone")["wanted"],
        3
    );
}

/// `start` with a oneshot that fails: it says so for the oneshot and for those that wait for it.
#[test]
fn a_failed_oneshot_stops_the_start() {
    let site = Site::new(POOLS);
    site.write("fail", "");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    for part in [
        "the table is locked",
        "waits for migrate, which failed",
        "alone: 1 worker alive",
    ] {
        assert!(run.text().contains(part), "{part}: {run:?}");
    }
    let status = site.status().expect("a master");
    assert_eq!(pool(&status, "web")["state"], "starting", "{status}");
    assert_eq!(
        pool(&status, "web")["waits_for"],
        serde_json::json!(["warm"])
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// An essential pool without a ready worker ends the master with 69.
#[test]
fn a_failed_essential_oneshot_stops_the_master() {
    let mut site = Site::new(
        "[pool.web]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"notify\"\nessential = \"300ms\"\n[pool.alone]\ncommand = \
         [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n",
    );
    site.run();
    let status = site.await_exit(30);
    assert_eq!(status.code(), Some(69), "{status:?}");
    site.await_log("essential", 10);
    site.assert_empty();
}
