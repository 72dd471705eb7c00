//! Where a command names pools, a shell pattern stands for those that it matches, and `all` for every one.

mod support;

use serde_json::Value;
use support::{Site, pids, pool};

const POOLS: &str = r#"
[defaults]
command = ["@WORKER@", "wait"]
ready = "spawned"
stop = "2s"
reload = { soak = "0s" }

[pool.shop_web]
count = 2
[pool.shop_queue]
kind = "task"
[pool.shop_migrate]
kind = "oneshot"
command = ["sh", "-c", "echo x >> @DIR@/migrated"]
[pool.db]
"#;

fn up() -> Site {
    let mut site = Site::new(POOLS);
    site.run();
    site.await_ready();
    site
}

fn state(status: &Value, name: &str) -> String {
    pool(status, name)["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn states(site: &Site) -> Vec<(String, String)> {
    let status = site.status().expect("a status");
    ["shop_web", "shop_queue", "db"]
        .map(|name| (name.to_owned(), state(&status, name)))
        .to_vec()
}

fn generations(site: &Site) -> Vec<u64> {
    let status = site.await_ready();
    ["shop_web", "shop_queue", "db"]
        .map(|name| pool(&status, name)["generation"].as_u64().unwrap_or(0))
        .to_vec()
}

#[test]
fn a_pattern_names_the_pools_that_it_matches() {
    let site = up();
    assert_eq!(site.rotad(&["roll", "shop_*"]).code, 0);
    assert_eq!(generations(&site), [2, 2, 1]);
    assert_eq!(
        site.read("migrated"),
        "x\n",
        "a roll runs a oneshot again by its whole name only"
    );
    assert_eq!(site.rotad(&["reload", "shop_[qw]*", "d?"]).code, 0);
    assert_eq!(generations(&site), [3, 3, 2]);
    assert_eq!(site.rotad(&["restart", "all"]).code, 0);
    assert_eq!(generations(&site), [4, 4, 3]);
    assert_eq!(site.rotad(&["reload", "all", "--no-wait"]).code, 0);
    site.await_status("reloaded", 10, |status| {
        pool(status, "db")["generation"] == 4 && state(status, "db") == "ok"
    });
}

#[test]
fn stop_and_start_take_patterns_and_all() {
    let site = up();
    let run = site.rotad(&["stop", "shop_[wq]*"]);
    assert_eq!(run.code, 0, "{run:?}");
    let is = |pairs: [(&str, &str); 3]| {
        pairs
            .map(|(name, state)| (name.to_owned(), state.to_owned()))
            .to_vec()
    };
    assert_eq!(
        states(&site),
        is([
            ("shop_web", "stopped"),
            ("shop_queue", "stopped"),
            ("db", "ok")
        ])
    );
    assert_eq!(site.rotad(&["start", "*_web", "*_queue"]).code, 0);
    site.await_ready();
    let run = site.rotad(&["stop", "all"]);
    assert_eq!(run.code, 0, "the master stays: {run:?}");
    assert!(states(&site).iter().all(|(_, state)| state == "stopped"));
    assert_eq!(site.rotad(&["start", "all"]).code, 0);
    site.await_ready();
}

#[test]
fn scale_and_signal_take_patterns() {
    let site = up();
    let run = site.rotad(&["scale", "shop_[wq]*", "+1"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.await_status("five", 10, |status| {
        pool(status, "shop_web")["ready"] == 3 && pool(status, "shop_queue")["ready"] == 2
    });
    let run = site.rotad(&["scale", "*", "2"]);
    assert_eq!(run.code, 1, "a oneshot cannot be scaled: {run:?}");
    assert!(
        run.err.contains("shop_migrate: a oneshot") && run.err.contains("nothing was changed"),
        "{run:?}"
    );
    let after = site.status().expect("a status");
    assert_eq!(
        pool(&after, "shop_web")["wanted"],
        3,
        "all, or none of them"
    );
    let run = site.rotad(&["signal", "shop_[wq]*", "CONT"]);
    assert_eq!(run.code, 0, "{run:?}");
    for name in ["shop_web", "shop_queue"] {
        for pid in pids(&status, name) {
            assert!(run.out.contains(&pid.to_string()), "{name}: {run:?}");
        }
    }
    let run = site.rotad(&["signal", "shop_w*/1", "CONT"]);
    assert!(
        run.code == 0 && run.out.starts_with("shop_web/1: SIGCONT sent to"),
        "{run:?}"
    );
}

#[test]
fn a_slot_of_each_pool_is_replaced_by_a_pattern() {
    let site = up();
    let before = site.await_ready();
    let run = site.rotad(&["roll", "shop_[wq]*/0"]);
    assert_eq!(run.code, 0, "{run:?}");
    let after = site.await_ready();
    assert_ne!(pids(&before, "shop_queue"), pids(&after, "shop_queue"));
    let (old, new) = (pids(&before, "shop_web"), pids(&after, "shop_web"));
    assert!(old[0] != new[0] && old[1] == new[1], "{old:?} {new:?}");
    assert_eq!(pids(&before, "db"), pids(&after, "db"));
}

#[test]
fn status_and_logs_take_patterns() {
    let site = up();
    let run = site.rotad(&["status", "shop_*"]);
    assert!(
        run.code == 0 && run.out.contains("shop_web") && run.out.contains("shop_queue"),
        "{run:?}"
    );
    assert!(!run.out.contains(" db "), "{run:?}");
    let run = site.rotad(&["status", "shop_w*"]);
    assert!(
        run.code == 0 && run.out.contains("SLOT"),
        "one pool: {run:?}"
    );
    let run = site.rotad(&["status", "db", "shop_web", "--json"]);
    let status: Value = serde_json::from_str(&run.out).expect("JSON");
    let names: Vec<&str> = status["pools"]
        .as_array()
        .expect("pools")
        .iter()
        .filter_map(|pool| pool["name"].as_str())
        .collect();
    assert_eq!(names, ["shop_web", "db"], "in the order of the file");
    assert_eq!(site.rotad(&["status", "all", "--check"]).code, 0);
    assert_eq!(site.rotad(&["stop", "db"]).code, 0);
    assert_eq!(site.rotad(&["status", "all", "--check"]).code, 0);
    assert_eq!(site.rotad(&["status", "d*", "--check"]).code, 3);
    for target in ["shop_*", "shop_*/0", "all"] {
        let run = site.rotad(&["logs", target]);
        assert_eq!(run.code, 0, "{target}: {run:?}");
    }
    assert_eq!(site.rotad(&["logs", "shop_*/9"]).code, 4);
}

/// A mistake is answered with 4 and the names, by each verb alike.
#[test]
fn a_pattern_without_a_match_names_the_pools() {
    let site = up();
    let before = site.await_ready();
    for arguments in [
        &["roll", "x*"][..],
        &["reload", "x*"],
        &["rollback", "x*"],
        &["cancel", "x*"],
        &["stop", "x*"],
        &["stop", "shop_web", "x*"],
        &["start", "x*"],
        &["scale", "x*", "1"],
        &["signal", "x*", "CONT"],
        &["status", "x*"],
        &["logs", "x*"],
        &["roll", "x*/0"],
    ] {
        let run = site.rotad(arguments);
        assert_eq!(run.code, 4, "{arguments:?}: {run:?}");
        assert!(
            run.err
                .contains("no pool matches `x*`; there are: shop_web, "),
            "{arguments:?}: {run:?}"
        );
    }
    assert_eq!(site.rotad(&["roll", "shop_m*"]).code, 4, "oneshots only");
    let after = site.await_ready();
    assert_eq!(pids(&before, "shop_web"), pids(&after, "shop_web"));
}
