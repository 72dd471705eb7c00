//! Promise 5 and backoff: a pool that crashes is started by the clock, touches nobody else, and comes back by itself.

mod support;

use support::{Load, Site, alone, never, number, pids, pool, until};

const POOLS: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code", "--starts", "@DIR@/starts"]
count = 2
listen = ["http"]
[pool.web.restart]
delay = "100ms"
max_delay = "1s"
[pool.steady]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 2
listen = ["other"]
[listen.http]
address = "127.0.0.1:@PORT@"
[listen.other]
address = "unix:@DIR@/other.sock"
"#;

/// The times of the starts in a file, in seconds since the first one, of one slot.
fn times(site: &Site, slot: &str) -> Vec<f64> {
    let lines = site.lines("starts");
    let of_slot = lines
        .iter()
        .filter(|line| line.split(' ').nth(2) == Some(slot));
    let times: Vec<f64> = of_slot
        .map(|line| {
            line.split(' ')
                .next()
                .expect("a time")
                .parse::<f64>()
                .expect("ms")
        })
        .collect();
    times
        .iter()
        .map(|time| (time - times[0]) / 1000.0)
        .collect()
}

/// What is left until a slot is filled again is counted down between two deaths.
#[test]
fn the_retry_is_counted_down() {
    let mut site = Site::new(
        "[pool.web]\ncommand = \"false\"\nready = \"notify\"\nrestart = { delay = \"30s\" }\n",
    );
    site.run();
    let retry =
        |status: &serde_json::Value| pool(status, "web")["workers"][0]["retry_in_s"].as_f64();
    let first = until("the backoff", 10, || retry(&site.status()?));
    until("less is left", 5, || {
        (retry(&site.status()?)? < first - 0.1).then_some(())
    });
}

/// The whole pool crashes: starts follow the backoff, the other pool is not touched, mended code comes back by itself.
#[test]
fn a_pool_in_a_crash_loop_tries_one_worker() {
    let _alone = alone();
    let mut site = Site::new(POOLS);
    site.write("code", "exit 3\nbroken from the start");
    site.run();
    let others = until("the steady pool", 20, || {
        let status = site.status()?;
        (pool(&status, "steady")["state"] == "ok").then(|| pids(&status, "steady"))
    });
    let load = Load::on(&format!("unix:{}", site.path("other.sock").display()), 2, 0);
    let status = site.await_status("crash-loop", 20, |status| {
        pool(status, "web")["state"] == "crash-loop"
    });
    assert_eq!(pool(&status, "web")["ready"], 0);
    let exits: Vec<_> = pool(&status, "web")["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(|w| &w["last_exit"])
        .collect();
    let told = exits
        .iter()
        .any(|exit| exit["code"] == 3 && exit["log"].to_string().contains("broken from the start"));
    assert!(told, "the last exit and its last words: {status}");
    // One probe at a time on the backoff clock: the ramp, then one a second (± 10 %).
    let before = site.lines("starts").len();
    never("the master left", 6.0, || {
        site.status().is_none().then_some(())
    });
    let probes = site.lines("starts").len() - before;
    assert!(
        (3..=14).contains(&probes),
        "{probes} starts in 6 s at a delay of up to 1 s"
    );
    assert!(before <= 24, "{before} starts before the loop was seen");
    let status = site.status().expect("a status");
    assert_eq!(
        pids(&status, "steady"),
        others,
        "the other pool was touched"
    );
    assert_eq!(site.rotad(&["status", "--check"]).code, 3);
    site.write("code", "ok\nmended");
    let status = site.await_status("the pool came back", 10, support::all_ready);
    assert_eq!(pids(&status, "steady"), others);
    load.await_more(10);
    load.stop().assert_nothing_lost(10);
    assert!(support::load::get(&site.address(), "/").is_ok_and(|body| body.contains("mended")));
}

/// The distances between the starts of a lonely slot: ×2, ± 10 %, never earlier.
#[test]
fn restart_delays_grow_up_to_the_maximum() {
    let _alone = alone();
    let mut site = Site::new(&POOLS.replace(
        "count = 2\nlisten = [\"http\"]",
        "count = 1\nlisten = [\"http\"]",
    ));
    site.write("code", "exit 3\nbroken");
    site.run();
    let times = until("7 starts", 30, || {
        Some(times(&site, "0")).filter(|times| times.len() >= 7)
    });
    let distances: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    // A death before ready waits from the first one on: 100, 200, 400, 800 ms, 1 s.
    for (distance, delay) in distances.iter().zip([0.1, 0.2, 0.4, 0.8, 1.0, 1.0]) {
        assert!(*distance >= delay * 0.85, "{distances:?}");
        assert!(*distance <= delay * 1.15 + 0.3, "{distances:?}");
    }
}

/// One worker dies, having been ready: started again immediately, in its slot; the other workers are left alone.
#[test]
fn a_single_exit_is_replaced_immediately() {
    let mut site = Site::new(POOLS);
    site.write("code", "ok\nfirst");
    site.run();
    let before = pids(&site.await_ready(), "web");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(before[0]),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("a worker");
    let status = site.await_status("a successor", 10, |status| {
        support::all_ready(status) && pids(status, "web")[0] != before[0]
    });
    assert_eq!(pids(&status, "web")[1], before[1]);
    let worker = &pool(&status, "web")["workers"][0];
    assert_eq!(worker["slot"], 0);
    assert_eq!(worker["restarts"], 1);
    assert_eq!(worker["last_exit"]["signal"], "KILL", "{worker}");
    assert!(number(&worker["last_exit"]["after_s"]) > 0.0);
    assert_eq!(
        pool(&status, "web")["generation"],
        1,
        "a crash is no new generation"
    );
}

/// Workers that end with 0 after each job are simply started again, never counted as failures.
#[test]
fn successful_ends_do_not_count_as_failures() {
    let mut site = Site::new(
        r#"
[pool.jobs]
command = ["@WORKER@", "job", "--job-ms", "50", "--starts", "@DIR@/starts"]
count = 2
ready = "spawned"
[pool.jobs.restart]
delay = "100ms"
success_exit_codes = [0]
"#,
    );
    site.run();
    until("40 jobs", 30, || {
        (site.lines("starts").len() >= 40).then_some(())
    });
    let status = site.status().expect("a status");
    let state = pool(&status, "jobs")["state"]
        .as_str()
        .expect("a state")
        .to_string();
    assert!(
        ["ok", "degraded", "starting"].contains(&state.as_str()),
        "an end is no failure: {status}"
    );
    // At most once per `delay` a slot. The master counts from its orders: on a busy machine one birth may come late, and
    // the next ones on time; so five lives are looked at together, of which the first may be late by two delays.
    let starts = times(&site, "0");
    let distances: Vec<f64> = starts.windows(6).map(|six| six[5] - six[0]).collect();
    assert!(
        distances
            .iter()
            .all(|distance| *distance >= 5.0 * 0.1 - 0.2),
        "{starts:?}"
    );
    let mean = distances.iter().sum::<f64>() / distances.len() as f64 / 5.0;
    assert!(
        mean < 0.4,
        "started again without backoff: {mean} s on average"
    );
}

/// `policy`: `never` stays down, `on-failure` starts again only after a failure.
#[test]
fn restart_policies_are_followed() {
    let mut site = Site::new(
        r#"
[pool.once]
command = ["@WORKER@", "job", "--job-ms", "100", "--exit", "5", "--starts", "@DIR@/once"]
ready = "spawned"
restart = { policy = "never" }
[pool.well]
command = ["@WORKER@", "job", "--job-ms", "100", "--starts", "@DIR@/well"]
ready = "spawned"
restart = { policy = "on-failure" }
[pool.ill]
command = ["@WORKER@", "job", "--job-ms", "100", "--exit", "5", "--starts", "@DIR@/ill"]
ready = "spawned"
restart = { policy = "on-failure", max_delay = "200ms" }
"#,
    );
    site.run();
    until("several starts of the ill one", 20, || {
        (site.lines("ill").len() >= 4).then_some(())
    });
    assert_eq!(site.lines("once").len(), 1);
    assert_eq!(site.lines("well").len(), 1);
    let status = site.status().expect("a status");
    assert_eq!(pool(&status, "once")["state"], "failed", "{status}");
}
