//! `rotad reload`: every pool once, task pools too; a file that is not what the master read is never half applied.

mod support;

use support::{Site, pids, pool};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
count = 2
ready = "spawned"
reload = { soak = "0s" }
[pool.queue]
kind = "task"
command = ["@WORKER@", "wait"]
ready = "spawned"
reload = { soak = "0s" }
"#;

#[test]
fn a_reload_rolls_every_pool_once() {
    let site = Site::up(POOLS);
    let first = site.await_ready();
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 0, "{run:?}");
    let second = site.await_ready();
    for name in ["web", "queue"] {
        assert_eq!(pool(&second, name)["generation"], 2);
        assert!(
            pids(&first, name)
                .iter()
                .all(|pid| !pids(&second, name).contains(pid))
        );
    }
    assert_eq!(site.rotad(&["reload", "--tasks"]).code, 0);
    assert_eq!(site.rotad(&["roll", "--workers"]).code, 0);
    assert_eq!(site.rotad(&["reload", "queue"]).code, 0);
    let third = site.await_ready();
    assert_eq!(
        (
            &pool(&third, "web")["generation"],
            &pool(&third, "queue")["generation"]
        ),
        (&3.into(), &4.into())
    );
}

/// What changed is applied, and each pool is rolled once.
#[test]
fn a_reload_applies_a_changed_file() {
    let site = Site::up(POOLS);
    site.await_ready();
    site.write(
        "rotad.toml",
        &site.read("rotad.toml").replace("count = 2", "count = 3"),
    );
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 0, "{run:?}");
    let after = site.await_ready();
    assert_eq!(
        (
            &pool(&after, "web")["wanted"],
            &pool(&after, "web")["generation"]
        ),
        (&3.into(), &2.into())
    );
    assert_eq!(pool(&after, "queue")["generation"], 2);
}

/// The file is broken: refused, nothing is touched, and `roll` still goes by what the master read.
#[test]
fn a_reload_refuses_a_broken_file() {
    let site = Site::up(POOLS);
    let before = site.await_ready();
    site.write(
        "rotad.toml",
        &site.read("rotad.toml").replace("count = 2", "cuont = 2"),
    );
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 78, "{run:?}");
    let after = site.status().expect("a status");
    assert_eq!(pids(&after, "web"), pids(&before, "web"));
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(pool(&site.await_ready(), "web")["wanted"], 2);
}
