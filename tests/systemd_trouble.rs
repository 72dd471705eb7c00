//! A master that hangs, a drain that takes longer than systemd would wait: under a real systemd.

mod support;

use std::time::Duration;
use support::load::get;
use support::systemd_box::{ADDRESS, CONFIG, SERVICE, SystemdBox, version};
use support::{Load, alone, never, until};

/// A worker that drains longer than TimeoutStopSec is not cut: the master asks for the time.
#[test]
fn a_long_drain_is_not_cut() {
    let Some(systemd) = SystemdBox::boot() else {
        return;
    };
    let slow = "[pool.jobs]\nkind = 'task'\ncount = 2\nready = 'notify'\nstop = '20s'\n\
                command = ['testworker', 'wait', '--notify', '--drain-ms', '5000', '--ended', '/srv/ended']\n";
    systemd.write(CONFIG, slow);
    systemd.shell("mkdir -p /srv");
    systemd.adjust(SERVICE, "[Service]\nTimeoutStopSec=2s\n");
    systemd.start(SERVICE);
    let stopped = systemd.systemctl("stop", SERVICE);
    assert!(
        stopped.code == 0 && stopped.took > Duration::from_secs(5),
        "{stopped:?}"
    );
    assert_eq!(systemd.show(SERVICE, "Result"), "success");
    assert_eq!(
        systemd.read("/srv/ended").lines().count(),
        2,
        "workers that left by themselves"
    );
}

/// WatchdogSec: a master that hangs is killed and restarted, one that works is left alone.
#[test]
fn the_watchdog() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.drop_in(SERVICE, "watchdog");
    systemd.adjust(SERVICE, "[Service]\nWatchdogSec=1s\n");
    systemd.start(SERVICE);
    let first = systemd.main_pid(SERVICE);
    never("the master is ended though it works", 4.0, || {
        Some(systemd.main_pid(SERVICE)).filter(|pid| *pid != first)
    });
    systemd.ok(&["kill", "-STOP", &systemd.master()["pid"].to_string()]);
    systemd.await_shown(SERVICE, "NRestarts", 30, |restarts| restarts == "1");
    systemd.await_shown(SERVICE, "ActiveState", 30, |state| state == "active");
    systemd.await_journal(&["-u", SERVICE], "watchdog", 10);
    until("the new one serves", 20, || get(ADDRESS, "/").ok());
    assert_ne!(systemd.main_pid(SERVICE), first);
}

/// A master that is killed, under load: systemd sees nothing of it, and what the next one says still reaches it.
#[test]
fn a_killed_master_is_no_matter_of_systemds() {
    let _alone = alone();
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    let guardian = systemd.main_pid(SERVICE);
    assert_eq!(systemd.master()["guardian"].to_string(), guardian);
    let load = Load::on(ADDRESS, 2, 2);
    load.await_more(50);
    let workers = systemd.pids_of("^testworker");
    for _ in 0..2 {
        systemd.kill_master();
        load.await_more(50);
    }
    assert_eq!(systemd.pids_of("^testworker"), workers);
    systemd.code("ok", "two");
    systemd.ok(&["systemctl", "reload", SERVICE]);
    assert_eq!(systemd.show(SERVICE, "StatusText"), "running: web 2/2");
    assert_eq!(version(ADDRESS), "two");
    // By signal: the reload that the next master announces begins and ends for systemd.
    systemd.code("slow 1000", "three");
    systemd.ok(&["kill", "-USR1", &guardian]);
    systemd.await_shown(SERVICE, "ActiveState", 10, |state| state == "reloading");
    systemd.await_shown(SERVICE, "ActiveState", 20, |state| state == "active");
    load.await_more(50);
    load.stop().assert_nothing_lost(200);
    assert_eq!(systemd.main_pid(SERVICE), guardian);
    assert_eq!(systemd.show(SERVICE, "NRestarts"), "0");
    let stopped = systemd.systemctl("stop", SERVICE);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(systemd.show(SERVICE, "Result"), "success");
    assert_eq!(systemd.pids_of("^testworker|rotad run"), Vec::<i32>::new());
}

/// The main process is killed: systemd ends what is left of the service, and starts it again.
#[test]
fn a_killed_main_process_is_started_again() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    let before = systemd.pids_of("^testworker|rotad run");
    assert_eq!(before.len(), 4, "{before:?}");
    systemd.ok(&["kill", "-KILL", &systemd.main_pid(SERVICE)]);
    systemd.await_shown(SERVICE, "NRestarts", 20, |restarts| restarts == "1");
    systemd.await_shown(SERVICE, "ActiveState", 20, |state| state == "active");
    assert_eq!(version(ADDRESS), "one");
    let after = systemd.pids_of("^testworker|rotad run");
    assert_eq!(after.len(), 4, "{after:?}");
    assert!(after.iter().all(|pid| !before.contains(pid)), "{after:?}");
}
