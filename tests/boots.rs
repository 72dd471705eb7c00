//! How many workers may be starting at a time: boots that compute do not starve each other, boots that wait are not
//! held up, and a number in the configuration is a bound.

mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::{Site, alone, pids, pool, until};

fn processors() -> u64 {
    std::thread::available_parallelism()
        .expect("processors")
        .get() as u64
}

/// `starts` is a pool of `count` workers; `knobs` say what their boot is like.
fn boots(name: &str, count: u64, knobs: &str, keys: &str) -> String {
    let knobs: Vec<String> = knobs
        .split_whitespace()
        .map(|knob| format!("\"{knob}\""))
        .collect();
    format!(
        "[pool.{name}]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--starts\", \"@DIR@/{name}\", {}]\n\
         count = {count}\nready = \"notify\"\nstop = \"1s\"\n{keys}\n",
        knobs.join(", ")
    )
}

fn states(status: &Value, name: &str, is: impl Fn(&Value) -> bool) -> usize {
    pool(status, name)["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .filter(|worker| is(worker))
        .count()
}

fn starting(worker: &Value) -> bool {
    worker["state"] == "starting" && !worker["pid"].is_null()
}

fn waiting(worker: &Value) -> bool {
    worker["waits"] == true
}

/// Heavy boots: ten workers a processor, each with 0.6 s of work before it is ready, and patience for less than the six
/// seconds that all of them need together. Started together, none would be ready in time.
fn heavy() -> (u64, String) {
    let count = 10 * processors();
    (
        count,
        boots(
            "web",
            count,
            "--code @DIR@/code --burn-ms 600",
            "ready_timeout = \"5s\"",
        ),
    )
}

/// They come up, each at its first try, and `start` says so; then all of them die together, and come back in the same way.
#[test]
fn heavy_boots_do_not_starve_each_other() {
    let _alone = alone();
    let (count, pools) = heavy();
    let site = Site::new(&pools);
    site.write("code", "ok\nfirst");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        site.lines("web").len() as u64,
        count,
        "each has started once"
    );
    for pid in pids(&site.status().expect("a status"), "web") {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .ok();
    }
    site.await_status("some of them again", 20, |status| {
        states(status, "web", starting) > 0
    });
    site.await_status("all workers again", 60, support::all_ready);
    assert_eq!(
        site.lines("web").len() as u64,
        2 * count,
        "each has started twice"
    );
    assert!(!site.log().contains("was not ready in time"));
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// After a crash loop the rest follows a few at a time, not all together.
#[test]
fn heavy_boots_do_not_starve_each_other_after_a_crash_loop() {
    let _alone = alone();
    let mut site = Site::new(&heavy().1);
    site.write("code", "exit 3\nbroken");
    site.run();
    site.await_status("a crash loop", 20, |status| {
        pool(status, "web")["state"] == "crash-loop"
    });
    site.write("code", "ok\nmended");
    site.await_status("all workers", 60, support::all_ready);
    assert!(!site.log().contains("was not ready in time"));
}

/// Boots that only wait are not held up, though nobody is ready for two seconds.
#[test]
fn waiting_boots_start_together() {
    let _alone = alone();
    let count = 50 * processors();
    let mut site = Site::new(&boots("web", count, "--start-ms 2000", ""));
    site.run();
    let began: Vec<u64> = until("all of them", 20, || {
        let lines = site.lines("web");
        let began = lines
            .iter()
            .filter_map(|line| line.split(' ').next()?.parse().ok());
        Some(began.collect::<Vec<u64>>()).filter(|began| began.len() as u64 == count)
    });
    let (first, last) = (
        began.iter().min().expect("one"),
        began.iter().max().expect("one"),
    );
    assert!(
        last - first < 1000,
        "the last of {count} began {} ms after the first",
        last - first
    );
    site.await_ready();
}

/// Neither are they beside a pool that hangs, nor beside one that keeps every processor busy.
#[test]
fn hanging_or_computing_workers_do_not_delay_waiting_ones() {
    let _alone = alone();
    let heavy = boots("heavy", 100 * processors(), "--burn-ms 300", "");
    let hung = boots("hung", 4 * processors(), "--start-ms 600000", "");
    let light = boots("light", 8 * processors(), "--start-ms 300", "");
    let mut site = Site::new(&format!("{hung}{heavy}{light}"));
    site.run();
    let began = Instant::now();
    site.await_status("the light ones", 10, |status| {
        let pool = pool(status, "light");
        pool["ready"] == pool["wanted"]
    });
    let status = site.status().expect("a status");
    assert!(
        pool(&status, "heavy")["ready"].as_u64() < Some(80 * processors()),
        "it was over before: {status}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(states(&status, "hung", starting) as u64, 4 * processors());
}

/// A number is a bound, at the start and when more are wanted; those that wait are shown as waiting, and a changed
/// number holds immediately.
#[test]
fn a_configured_number_of_starts_is_a_bound() {
    let _alone = alone();
    let text = boots("web", 6, "--start-ms 1500", "max_starting = 2");
    let mut site = Site::new(&text);
    site.run();
    let status = site.await_status("two, and four that wait", 10, |status| {
        states(status, "web", starting) == 2 && states(status, "web", waiting) == 4
    });
    assert_eq!(pool(&status, "web")["state"], "starting");
    let table = site.rotad(&["status"]).out;
    assert!(table.contains("4 wait for others that start"), "{table}");
    let rows = site.rotad(&["status", "web"]).out;
    assert_eq!(
        rows.matches("waits for others that start").count(),
        4,
        "{rows}"
    );
    site.configure(&format!(
        "{}\n{}",
        support::site::MASTER,
        text.replace("max_starting = 2", "max_starting = 3")
    ));
    assert_eq!(site.rotad(&["reload", "--config"]).code, 0);
    site.await_status("three", 10, |status| states(status, "web", starting) == 3);
    site.await_ready();
    assert_eq!(site.lines("web").len(), 6, "nobody was started twice");
    assert_eq!(site.rotad(&["scale", "web", "9"]).code, 0);
    let status = site.await_status("more", 10, |status| states(status, "web", starting) > 0);
    assert!(states(&status, "web", starting) <= 3, "{status}");
    site.await_ready();
}

/// If too many start at the same time because the configuration says so, the message says so as well.
#[test]
fn waiting_slots_are_shown() {
    let _alone = alone();
    let count = 4 * processors();
    let keys = format!("max_starting = {count}\nready_timeout = \"1500ms\"");
    let site = Site::new(&boots("web", count, "--burn-ms 1500", &keys));
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    let processors = if processors() == 1 {
        "1 processor".to_owned()
    } else {
        format!("{} processors", processors())
    };
    assert!(
        run.err
            .contains(&format!("{count} were booting at once on {processors}")),
        "{run:?}"
    );
    // Nobody computes here, so that is not the reason.
    let site = Site::new(&boots(
        "web",
        count,
        "--start-ms 60000",
        "ready_timeout = \"1s\"",
    ));
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.err.contains("was not ready in time") && !run.err.contains("at once on"),
        "{run:?}"
    );
}

/// The bound holds in a rolling restart as well, though its surge would allow more.
#[test]
fn a_roll_keeps_the_configured_number_of_starts() {
    let _alone = alone();
    let keys = "max_starting = 2\n[pool.web.reload]\nsurge = \"100%\"\nsoak = \"0s\"";
    let site = Site::up(&boots("web", 6, "--start-ms 700", keys));
    let most = std::thread::scope(|scope| {
        let roll = scope.spawn(|| site.rotad(&["roll"]));
        let asker = site.asker();
        let mut most = 0;
        while !roll.is_finished() {
            most = most.max(
                asker
                    .status()
                    .map_or(0, |status| states(&status, "web", starting)),
            );
        }
        let run = roll.join().expect("an answer");
        assert_eq!(run.code, 0, "{run:?}");
        most
    });
    assert_eq!(most, 2);
    assert_eq!(site.lines("web").len(), 12);
}
