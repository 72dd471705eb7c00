//! Requests about single pools beside a changing configuration: stop and start, signals, the way back.

mod support;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{Site, number, pids, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = "127.0.0.1:@PORT@"
env = { EDIT = "first" }
reload = { soak = "0s" }
[pool.other]
command = ["@WORKER@", "wait"]
ready = "spawned"
"#;

fn start(site: &Site, name: &str) -> support::ask::Answered {
    site.ask(&json!({ "start": { "pools": [name], "wait": "done" } }))
}

fn stop(site: &Site, name: &str, now: bool) -> support::ask::Answered {
    site.ask(&json!({ "stop": { "pools": [name], "now": now } }))
}

fn roll_back(site: &Site, names: &[&str]) -> support::ask::Answered {
    site.ask(&json!({ "rollback": { "pools": names, "wait": "done" } }))
}

fn environment(pid: i32, name: &str) -> String {
    let all = std::fs::read(format!("/proc/{pid}/environ")).expect("an environment");
    let all = String::from_utf8_lossy(&all).to_string();
    let found = all
        .split('\0')
        .find_map(|one| one.strip_prefix(&format!("{name}=")));
    found.unwrap_or_default().to_owned()
}

/// A stopped pool stays stopped over reloads of any kind, and starts with what the file says by then.
#[test]
fn a_stopped_pool_stays_stopped_until_it_is_started() {
    let site = Site::up(WEB);
    let run = stop(&site, "web", false);
    assert_eq!(run.code, 0, "{run:?}");
    let stopped = |status: &Value| {
        let web = pool(status, "web");
        web["state"] == "stopped" && web["alive"] == 0
    };
    assert!(
        stopped(&site.status().expect("a status")),
        "stop returns when all are gone"
    );
    site.edit("EDIT = \"first\"", "EDIT = \"second\"");
    site.edit("count = 2", "count = 3");
    for (extent, pools) in [
        ("config-only", &[][..]),
        ("everything", &[][..]),
        ("everything", &["web"][..]),
    ] {
        let run = site.reload(extent, pools);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(
            stopped(&site.status().expect("a status")),
            "{extent} {pools:?}: {run:?}"
        );
    }
    assert_eq!(site.rotad(&["roll"]).code, 0);
    assert!(stopped(&site.status().expect("a status")));
    let run = start(&site, "web");
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.status().expect("a status");
    assert_eq!(
        (
            &pool(&status, "web")["ready"],
            &pool(&status, "web")["state"]
        ),
        (&json!(3), &json!("ok"))
    );
    for pid in pids(&status, "web") {
        assert_eq!(environment(pid, "EDIT"), "second");
    }
    let run = start(&site, "wen");
    assert_eq!(run.code, 4, "{run:?}");
}

/// A start that fails says why, and tries on; `stop --now` does not wait for the deaf.
#[test]
fn a_failing_start_is_reported_and_can_be_stopped() {
    let site = Site::up(
        &WEB.replace("\"@WORKER@\", \"http\"", "\"@WORKER@\", \"deaf\"")
            .replace(
                "listen = \"127.0.0.1:@PORT@\"",
                "ready = \"spawned\"\nstop = \"60s\"",
            ),
    );
    let run = stop(&site, "web", true);
    assert_eq!(run.code, 0, "{run:?}");
    site.write("bad-code", "exit 3\nno such module: shop\n");
    site.edit("\"deaf\"", "\"http\", \"--code\", \"@DIR@/bad-code\"");
    site.edit("ready = \"spawned\"\nstop", "ready = \"notify\"\nstop");
    assert_eq!(site.reload("config-only", &[]).code, 0);
    let run = start(&site, "web");
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.message.contains("no such module: shop") && run.message.contains("still retrying"),
        "{run:?}"
    );
}

/// Signals go to those that are ready, by slot or to all; before that they would kill.
#[test]
fn signals_go_to_ready_workers() {
    let site = Site::up(WEB);
    let signal = |name: &str, slot: Option<u32>, signal: i32| {
        site.ask(&json!({ "signal": { "pool": name, "slot": slot, "signal": signal } }))
    };
    let before = pids(&site.await_ready(), "web");
    let run = signal("web", Some(1), 9);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.message.contains(&before[1].to_string()), "{run:?}");
    let after = site.await_status("it is replaced", 20, |status| {
        support::all_ready(status) && pids(status, "web")[1] != before[1]
    });
    assert_eq!(pids(&after, "web")[0], before[0]);
    for (name, slot, number, code) in [
        ("web", Some(7), 9, 1),
        ("wen", None, 9, 4),
        ("web", None, 0, 1),
        ("web", None, 99, 1),
    ] {
        let run = signal(name, slot, number);
        assert_eq!(run.code, code, "{run:?}");
    }
    site.write("slow", "slow 60000\n");
    site.edit(
        "[\"@WORKER@\", \"wait\"]"
            .replace("@WORKER@", &support::testworker().display().to_string())
            .as_str(),
        "[\"@WORKER@\", \"wait\", \"--code\", \"@DIR@/slow\", \"--notify\"]",
    );
    site.edit("ready = \"spawned\"", "ready = \"notify\"");
    assert_eq!(stop(&site, "other", true).code, 0);
    assert_eq!(site.reload("config-only", &[]).code, 0);
    let waiting = site.asking(&json!({ "start": { "pools": ["other"], "wait": "done" } }));
    let status = site.await_status("it starts", 20, |status| pids(status, "other").len() == 1);
    let run = signal("other", Some(0), 10);
    assert!(
        run.code == 1 && run.message.contains("not ready"),
        "{run:?}"
    );
    assert_eq!(signal("other", None, 10).code, 1);
    assert_eq!(
        pids(&site.status().expect("a status"), "other"),
        pids(&status, "other"),
        "it lives"
    );
    assert_eq!(stop(&site, "other", true).code, 0);
    assert_eq!(waiting.answered().code, 1);
}

/// `rollback`: the configuration and the directory of the generation before, also below a link that has moved.
#[test]
fn a_rollback_restores_the_previous_generation() {
    let site = Site::new(&WEB.replace(
        "reload = {",
        "working_directory = \"@DIR@/current\"\nreload = {",
    ));
    let mut site = site;
    let (old, new) = (site.path("v1"), site.path("v2"));
    for dir in [&old, &new] {
        std::fs::create_dir(dir).expect("a directory");
    }
    let link = |to: &std::path::Path| {
        let _ = std::fs::remove_file(site.path("link"));
        std::os::unix::fs::symlink(to, site.path("link")).expect("a link");
        std::fs::rename(site.path("link"), site.path("current")).expect("a link in its place");
    };
    link(&old);
    let links = site.path("current");
    site.run();
    site.await_ready();
    let run = roll_back(&site, &["web"]);
    assert_eq!(run.code, 1, "nothing was before: {run:?}");
    let _ = std::fs::remove_file(&links);
    std::os::unix::fs::symlink(&new, &links).expect("a link");
    site.edit("EDIT = \"first\"", "EDIT = \"second\"");
    let run = site.reload("everything", &["web"]);
    assert_eq!(run.code, 0, "{run:?}");
    let dir = |pid: i32| std::fs::read_link(format!("/proc/{pid}/cwd")).expect("a directory");
    let is = |edit: &str, at: &std::path::Path| {
        let status = site.await_ready();
        for pid in pids(&status, "web") {
            assert_eq!(
                (environment(pid, "EDIT"), dir(pid)),
                (edit.to_owned(), at.to_owned()),
                "{status}"
            );
        }
        number(&pool(&status, "web")["generation"]) as u32
    };
    assert_eq!(is("second", &new), 2);
    let run = roll_back(&site, &["web"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(is("first", &old), 1);
    // The file still says "second": the next reload goes there again, as a new generation.
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(is("second", &new), 3);
}

/// `roll POOL/SLOT`: one new worker, the others stay.
#[test]
fn one_worker_is_replaced() {
    let site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let run = site.ask(&json!({ "renew": { "pool": "web", "slot": 1, "wait": "done" } }));
    assert_eq!(run.code, 0, "{run:?}");
    let after = pids(&site.await_ready(), "web");
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert_eq!(
        site.ask(&json!({ "renew": { "pool": "web", "slot": 9, "wait": "done" } }))
            .code,
        4
    );
}

/// Numbers that change without a restart hold for the workers that serve: those too old by now are replaced.
#[test]
fn a_changed_maximum_age_applies_to_running_workers() {
    let site = Site::up(&WEB.replace("reload = {", "recycle = { max_age = \"1h\" }\nreload = {"));
    let before = pids(&site.await_ready(), "web");
    site.edit("max_age = \"1h\"", "max_age = \"1s\"");
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    site.await_status("all are replaced", 30, |status| {
        let now = pids(status, "web");
        pool(status, "web")["generation"] == 1
            && now.len() >= 2
            && before.iter().all(|pid| !now.contains(pid))
    });
}

/// `--drained` waits for the old workers' end, not only for their stop.
#[test]
fn a_drained_wait_ends_when_old_workers_are_gone() {
    let site = Site::up(&WEB.replace("\"http\"]", "\"http\", \"--drain-ms\", \"700\"]"));
    let before = pids(&site.await_ready(), "web");
    let which = json!({ "pools": ["web"], "workers": false, "tasks": false });
    let run = site.ask(&json!({ "roll": { "which": which, "wait": "drained" } }));
    assert_eq!(run.code, 0, "{run:?}");
    for pid in before {
        assert!(support::proc::gone(pid), "{pid} is still there");
    }
    site.signal(Signal::SIGUSR1);
    until("the roll by signal", 20, || {
        site.status()
            .filter(|status| pool(status, "web")["generation"] == 3)
    });
}
