//! Promise 10: a master whose workers are all ready does not wake up, nor does its guardian.

mod support;

use nix::unistd::geteuid;
use std::process::Command;
use std::time::Duration;
use support::{Site, alone, pool, proc, spaced, until};

/// Starts the master, for root in a network namespace of its own: a command that finds no master asks every one of its
/// namespace, and other tests run such commands.
fn run_out_of_reach(site: &mut Site) {
    let run = site.run_command();
    if !geteuid().is_root() {
        return site.spawn(run);
    }
    let mut command = Command::new("unshare");
    let script = "ip link set lo up && exec \"$@\"";
    command
        .args(["--net", "sh", "-c", script, "sh"])
        .arg(run.get_program())
        .args(run.get_args());
    site.search(&mut command);
    site.spawn(command);
}

/// 0 context switches of all its threads within 20 s: workers and tasks, with and without sockets, some notifying.
#[test]
fn an_idle_master_does_not_wake_up() {
    let _alone = alone();
    let mut site = Site::new(
        r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 4
listen = ["http"]
[pool.queue]
kind = "task"
command = ["@WORKER@", "wait", "--notify"]
count = 2
ready = "notify"
[listen.http]
address = "127.0.0.1:@PORT@"
"#,
    );
    run_out_of_reach(&mut site);
    site.await_ready();
    let both = [site.guardian(), site.pid()];
    // First it comes to rest: work that is left after the last request takes at most `stable_after`, and memory is given
    // back a second after a start.
    let still = |seconds: u64| {
        let before = both.map(proc::switches);
        spaced(Duration::from_secs(seconds));
        let after = both.map(proc::switches);
        (before == after)
            .then_some(())
            .ok_or(format!("{before:?} became {after:?}"))
    };
    until("they come to rest", 30, || still(2).ok());
    let result = still(20);
    assert!(result.is_ok(), "switches by thread: {result:?}");
    assert!(both.iter().all(|pid| !proc::switches(*pid).is_empty()));
}

/// The readiness probe of a worker ends with the worker, also if it never was ready.
#[test]
fn workers_that_never_were_ready_leave_nothing_due() {
    let _alone = alone();
    let mut site = Site::new(
        r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
[pool.probed]
command = ["sh", "-c", "sleep 1; exit 1"]
count = 3
ready = { command = ["false"] }
restart = { policy = "never" }
"#,
    );
    run_out_of_reach(&mut site);
    site.await_status("all have ended", 20, |status| {
        pool(status, "probed")["state"] == "failed"
    });
    let both = [site.guardian(), site.pid()];
    until("they come to rest", 40, || {
        let before = both.map(proc::switches);
        spaced(Duration::from_secs(4));
        (before == both.map(proc::switches)).then_some(())
    });
}
