//! Rolling restarts follow `after`: a pool begins once those that it comes after, and that are rolled as well, are done;
//! if one of them fails, it is not touched.

mod support;

use nix::sys::signal::Signal;
use support::{Site, all_ready, alone, number, pids, pool};

/// An application that exits immediately if its database does not answer, and a database that may run only once at a time and
/// takes its time. The application stands first in the file.
const SHOP: &str = r#"
[pool.app]
after = ["db"]
command = ["bash", "-c", "exec 5<>/dev/tcp/127.0.0.1/@PORT@ || exit 9; exec @WORKER@ wait --notify"]
ready = "notify"
count = 2
reload = { soak = "100ms" }
[pool.db]
command = ["@WORKER@", "http", "--bind", "127.0.0.1:@PORT@", "--start-ms", "1500"]
ready = { connect = "127.0.0.1:@PORT@" }
reload = { surge = 0, soak = "100ms" }
"#;

/// A database that is rolled beside the old one, by its code.
const CODE: &str = r#"
[pool.app]
after = ["proxy"]
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
reload = { soak = "100ms" }
[pool.proxy]
after = ["db"]
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
reload = { soak = "100ms" }
[pool.db]
command = ["@WORKER@", "wait", "--notify", "--code", "@DIR@/code"]
ready = "notify"
reload = { soak = "100ms" }
"#;

fn generation(site: &Site, name: &str) -> f64 {
    number(&pool(&site.status().expect("a status"), name)["generation"])
}

/// A healthy deploy of a database and of what needs it: by `reload`, by `roll`, by USR1.
#[test]
fn pools_are_rolled_in_the_order_of_after() {
    let _alone = alone();
    let site = Site::up(SHOP);
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.text()
            .contains("app: its rolling restart begins after that of db"),
        "{run:?}"
    );
    assert_eq!(
        (generation(&site, "app"), generation(&site, "db")),
        (2.0, 2.0)
    );
    let run = site.rotad(&["roll", "app", "db"]);
    assert_eq!(run.code, 0, "{run:?}");
    site.signal(Signal::SIGUSR1);
    site.await_status("rolled by USR1", 30, |status| {
        let done = |name: &str| number(&pool(status, name)["generation"]) == 4.0;
        done("app") && done("db") && all_ready(status)
    });
    let log = site.log();
    let early: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("exited with 9"))
        .collect();
    assert!(
        early.is_empty(),
        "the application began without its database: {early:?}"
    );
    // The status tells what it waits for.
    assert_eq!(site.rotad(&["roll", "--no-wait"]).code, 0);
    let status = site.await_status("app waits", 10, |status| {
        pool(status, "app")["waits_for"][0] == "db"
    });
    assert_eq!(pool(&status, "app")["state"], "reloading");
    site.await_status("done", 30, |status| {
        all_ready(status) && number(&pool(status, "app")["generation"]) == 5.0
    });
}

/// Alone it waits for nobody.
#[test]
fn pools_that_are_not_rolled_hold_no_other() {
    let _alone = alone();
    let site = Site::new(CODE);
    site.write("code", "ok\n");
    let site = started(site);
    let run = site.rotad(&["roll", "app"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        (generation(&site, "app"), generation(&site, "db")),
        (2.0, 1.0)
    );
}

/// The database does not come up: what comes after it, also by way of others, is not touched, and hears why.
#[test]
fn a_failed_pool_leaves_those_after_it_untouched() {
    let _alone = alone();
    let site = Site::new(CODE);
    site.write("code", "ok\n");
    let site = started(site);
    let before = site.status().expect("a status");
    site.write("code", "exit 3\nno space left on device");
    let run = site.rotad(&["reload"]);
    assert_eq!(run.code, 10, "{run:?}");
    let text = run.text();
    assert!(text.contains("no space left on device"), "{text}");
    assert!(
        text.contains("proxy: not rolled: db, which it comes after, was not"),
        "{text}"
    );
    assert!(
        text.contains("app: not rolled: proxy, which it comes after, was not"),
        "{text}"
    );
    assert!(
        text.contains("one old worker (generation 1) serves on: 1 of 1"),
        "{text}"
    );
    let after = site.status().expect("a status");
    for name in ["app", "proxy"] {
        assert_eq!(
            pids(&before, name),
            pids(&after, name),
            "{name} was touched"
        );
        assert_eq!(pool(&after, name)["reload"]["state"], "aborted", "{after}");
        assert_eq!(pool(&after, name)["state"], "ok", "{after}");
    }
    site.write("code", "ok\n");
    assert_eq!(site.rotad(&["reload"]).code, 0);
    assert_eq!(generation(&site, "app"), 3.0);
}

/// A roll that others wait for is cancelled: every request gets an answer.
#[test]
fn a_cancelled_pool_leaves_those_after_it_untouched() {
    let _alone = alone();
    let site = Site::new(CODE);
    site.write("code", "ok\n");
    let site = started(site);
    site.write("code", "hang\n");
    let config = site.config.clone();
    let roll = std::thread::spawn(move || support::site::verb(&config, &["roll"], 60));
    site.await_status("app waits", 10, |status| {
        pool(status, "app")["waits_for"][0] == "proxy"
    });
    assert_eq!(site.rotad(&["cancel", "db"]).code, 0);
    let run = roll.join().expect("a roll");
    assert_eq!(run.code, 10, "{run:?}");
    assert!(run.text().contains("app: not rolled"), "{run:?}");
}

fn started(mut site: Site) -> Site {
    site.run();
    site.await_ready();
    site
}
