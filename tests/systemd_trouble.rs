//! A master that hangs, a drain that takes longer than systemd would wait: under a real systemd.

mod support;

use std::time::Duration;
use support::load::get;
use support::systemd_box::{ADDRESS, CONFIG, SERVICE, SystemdBox};
use support::{never, until};

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
    systemd.ok(&["kill", "-STOP", &first]);
    systemd.await_shown(SERVICE, "NRestarts", 30, |restarts| restarts == "1");
    systemd.await_shown(SERVICE, "ActiveState", 30, |state| state == "active");
    systemd.await_journal(&["-u", SERVICE], "watchdog", 10);
    until("the new one serves", 20, || get(ADDRESS, "/").ok());
    assert_ne!(systemd.main_pid(SERVICE), first);
}
