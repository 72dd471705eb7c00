//! Recycling: workers that are too old or too heavy are replaced one at a time, while they serve.

mod support;

use support::{Load, Site, Watch, alone, number, pids, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"@KNOBS@]
count = 3
listen = ["http"]
stop = "5s"
[pool.web.recycle]
@HOW@
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn web(knobs: &str, how: &str) -> String {
    WEB.replace("@KNOBS@", knobs).replace("@HOW@", how)
}

/// Every worker is replaced for its age, again and again; no request is lost, and never are fewer ready than wanted.
#[test]
fn workers_are_recycled_by_age() {
    let _alone = alone();
    let site = Site::up(&web("", "max_age = \"2s\""));
    let first = pids(&site.await_ready(), "web");
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(50);
    let watch = Watch::over(&site, "web");
    let mut all = std::collections::BTreeSet::new();
    until("each has been replaced twice", 60, || {
        all.extend(pids(&site.status()?, "web"));
        (all.len() >= first.len() * 3).then_some(())
    });
    let (seen, report) = (watch.seen(), load.stop());
    report.assert_nothing_lost(100);
    assert!(seen.min_ready >= 3, "{seen:?}");
    assert!(seen.max_alive <= 3 + 1 + 3, "{seen:?}");
    let status = site.status().expect("a status");
    assert_eq!(
        number(&pool(&status, "web")["generation"]),
        1.0,
        "a successor is of the same generation: {status}"
    );
    site.await_log("older than max_age (2s): it is replaced", 10);
    assert!(
        !site.log().contains("started again"),
        "nobody died: {}",
        site.log()
    );
}

/// The heavy one of a pool alone; what its children have counts as well.
#[test]
fn workers_are_recycled_by_memory() {
    let slim = "[pool.slim]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\"]\nready = \"notify\"\n\
                [pool.slim.recycle]\nmax_rss = \"64MiB\"\n";
    let heavy = "[pool.heavy]\ncommand = [\"sh\", \"-c\", \"@WORKER@ wait --notify --mib 90 & trap 'kill $!; exit 0' TERM; \
                 wait\"]\nready = \"notify\"\nstop = \"5s\"\n[pool.heavy.recycle]\nmax_rss = \"64MiB\"\n";
    let site = Site::up(&format!("{slim}{heavy}"));
    let before = site.await_ready();
    let after = site.await_status("the heavy one is replaced", 30, |status| {
        support::all_ready(status) && pids(status, "heavy") != pids(&before, "heavy")
    });
    assert_eq!(pids(&after, "slim"), pids(&before, "slim"));
    site.await_log("in 2 processes, max_rss is 64.0 MiB: it is replaced", 10);
}

/// A successor that does not come up: the old one serves on, loudly, and is not replaced again immediately.
#[test]
fn a_successor_that_fails_changes_nothing() {
    let _alone = alone();
    let mut site = Site::new(&web(
        ", \"--code\", \"@DIR@/code\", \"--starts\", \"@DIR@/starts\"",
        "max_age = \"4s\"",
    ));
    site.write("code", "ok\none");
    site.run();
    let before = pids(&site.await_ready(), "web");
    site.write("code", "exit 3\nno such module");
    until("each successor has failed once", 30, || {
        let log = site.log();
        (log.matches("its successor did not come up").count() == 3).then_some(())
    });
    let starts = site.lines("starts").len();
    support::never("another one was started", 3.0, || {
        (site.lines("starts").len() > starts).then_some(())
    });
    let now = site.status().expect("a status");
    assert_eq!(pids(&now, "web"), before, "{now}");
    assert_eq!(pool(&now, "web")["ready"], 3, "{now}");
    assert_eq!(
        support::load::get(&site.address(), "/").map(|body| body.trim().ends_with("one")),
        Ok(true)
    );
}

/// Five hours and a half ahead of UTC, without a file that names the zone.
const ZONE: &str = "ABC-5:30";

/// The time that clocks show there in so many seconds.
fn local(seconds: u64) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let shown = since.expect("after 1970").as_secs() + 5 * 3600 + 30 * 60 + seconds;
    format!(
        "{:02}:{:02}:{:02}",
        shown / 3600 % 24,
        shown / 60 % 60,
        shown % 60
    )
}

/// At a time of day, of the master's zone: each worker once, in turn, without a lost request; the master does not wake
/// before. A master that dies meanwhile is followed by one that finishes, and one that dies later by one that does nothing.
#[test]
fn workers_are_recycled_once_at_a_local_time() {
    let how = |seconds: u64| format!("at = \"{}\"", local(seconds));
    let far = how(7200);
    let mut site = Site::new(&web("", &far));
    let mut command = site.run_command();
    command.env("TZ", ZONE);
    site.spawn(command);
    let first = pids(&site.await_ready(), "web");
    let master = site.pid();
    until("three seconds without a wake-up", 60, || {
        let before = support::proc::switches(master);
        support::spaced(std::time::Duration::from_secs(3));
        (before == support::proc::switches(master)).then_some(())
    });
    let times = || site.log().matches("it is recycled daily at").count();
    let text = site.read("rotad.toml");
    let load = Load::on(&site.address(), 2, 2);
    let watch = Watch::over(&site, "web");
    // Another time needs no new worker.
    site.write("rotad.toml", &text.replace(&far, &how(5)));
    let run = site.rotad(&["reload", "--config"]);
    assert_eq!(
        (run.code, run.out.contains("without a restart")),
        (0, true),
        "{run:?}"
    );
    until("the first one is replaced", 30, || {
        (times() == 1).then_some(())
    });
    assert_eq!(site.rotad(&["status"]).code, 0);
    site.await_status("its successor serves", 20, |status| {
        support::all_ready(status) && pids(status, "web")[0] != first[0]
    });
    let kill_master = || {
        let master = site.pid();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(master),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("the master");
        site.await_status("the next master", 20, |_| site.pid() != master);
    };
    kill_master();
    let second = site.await_status("all are replaced", 30, |status| {
        let now = pids(status, "web");
        support::all_ready(status) && now.len() == 3 && !now.iter().any(|pid| first.contains(pid))
    });
    let (seen, report) = (watch.seen(), load.stop());
    report.assert_nothing_lost(50);
    assert!(seen.min_ready >= 3, "{seen:?}");
    assert_eq!(times(), 3, "each once: {}", site.log());
    kill_master();
    support::never("a worker is replaced again", 3.0, || {
        (times() > 3).then_some(())
    });
    assert_eq!(pids(&site.await_ready(), "web"), pids(&second, "web"));
}
