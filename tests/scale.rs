//! `rotad scale`: another number of workers, without touching the others or losing a request.

mod support;

use nix::sys::signal::Signal;
use serde_json::json;
use support::ask::scale;
use support::{Load, Site, alone, pids, pool};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 4
listen = ["http"]
stop = "10s"
reload = { soak = "0s" }
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn ready(site: &Site, count: u64) -> serde_json::Value {
    site.await_status("that many are ready", 60, |status| {
        pool(status, "web")["wanted"] == count && support::all_ready(status)
    })
}

/// 4 → 40 → 2 under load: those that stay are the same ones, and nothing is lost.
#[test]
fn scaling_under_load_loses_no_request() {
    let _alone = alone();
    let site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 3, 3);
    load.await_more(50);
    let run = site.ask(&scale("web", 40));
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.message.contains("4 → 40"), "{run:?}");
    let many = ready(&site, 40);
    assert_eq!(pids(&many, "web")[..4], before[..]);
    assert_eq!(pool(&many, "web")["scaled"], true);
    let run = site.ask(&json!({ "scale": { "pool": "web", "to": { "by": -38 } } }));
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(pids(&ready(&site, 2), "web"), before[..2]);
    load.stop().assert_nothing_lost(100);
}

/// During a rolling restart as well; none at all; and what cannot be had is refused.
#[test]
fn scaling_is_possible_in_every_state() {
    let _alone = alone();
    let site = Site::up(&WEB.replace("\"5\"]", "\"5\", \"--start-ms\", \"200\"]"));
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(20);
    site.signal(Signal::SIGUSR1);
    site.await_status("the roll runs", 20, |status| {
        pool(status, "web")["reload"]["state"] == "running"
    });
    assert_eq!(site.ask(&scale("web", 6)).code, 0);
    let status = site.await_status("rolled and scaled", 60, |status| {
        pool(status, "web")["reload"]["state"] == "done" && support::all_ready(status)
    });
    assert_eq!(pool(&status, "web")["ready"], 6, "{status}");
    load.stop().assert_nothing_lost(20);
    for (to, code) in [
        (json!({ "by": -7 }), 1),
        (json!({ "exactly": 4_000_000 }), 1),
        (json!({ "exactly": 0 }), 0),
    ] {
        let run = site.ask(&json!({ "scale": { "pool": "web", "to": to } }));
        assert_eq!(run.code, code, "{run:?}");
    }
    ready(&site, 0);
    assert_eq!(
        site.ask(&json!({ "scale": { "pool": "wen", "to": { "exactly": 1 } } }))
            .code,
        4
    );
    assert_eq!(site.ask(&scale("web", 1)).code, 0);
    ready(&site, 1);
}

/// The number holds over HUP, reloads and changes, until the file's own number changes.
#[test]
fn a_scaled_count_holds_until_the_file_changes() {
    let site = Site::up(&WEB.replace("count = 4", "count = 2"));
    assert_eq!(site.ask(&scale("web", 3)).code, 0);
    let before = pids(&ready(&site, 3), "web");
    assert_eq!(site.reload("config-only", &[]).code, 0);
    site.edit("stop = \"10s\"", "stop = \"11s\"");
    assert_eq!(site.reload("config-only", &[]).code, 0);
    assert_eq!(pids(&ready(&site, 3), "web"), before);
    site.edit("\"--work-ms\", \"5\"", "\"--work-ms\", \"6\"");
    assert_eq!(site.reload("config-only", &[]).code, 0);
    assert_eq!(pool(&ready(&site, 3), "web")["generation"], 2);
    site.edit("count = 2", "count = 1");
    assert_eq!(site.reload("config-only", &[]).code, 0);
    assert_eq!(
        pool(&ready(&site, 1), "web")["scaled"],
        serde_json::Value::Null
    );
}
