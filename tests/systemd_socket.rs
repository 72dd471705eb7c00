//! Socket activation by a real systemd: it holds the socket, so that clients wait instead of being refused.

mod support;

use std::time::{Duration, Instant};
use support::load::get;
use support::systemd_box::{ADDRESS, CONFIG, SERVICE, SystemdBox, WEB, version};
use support::{Load, Report, alone, until};

const SOCKET: &str = "rotad.socket";

/// A box with the socket's unit listening on [`ADDRESS`], the service not started.
fn listening(more: &str) -> Option<SystemdBox> {
    let systemd = SystemdBox::with_web(more)?;
    systemd.adjust(
        SOCKET,
        &format!("[Socket]\nListenStream=\nListenStream={ADDRESS}\n"),
    );
    systemd.start(SOCKET);
    Some(systemd)
}

/// The first connection starts the service, and a worker answers it.
#[test]
fn the_first_connection_starts_it() {
    let Some(systemd) = listening("") else { return };
    assert_eq!(systemd.show(SERVICE, "ActiveState"), "inactive");
    assert_eq!(version(ADDRESS), "one");
    systemd.await_shown(SERVICE, "ActiveState", 20, |state| state == "active");
    // What systemd holds and what the workers have is one socket.
    assert_eq!(systemd.shell("ss -Hltn 'sport = 8080' | wc -l").trim(), "1");
    // Stopped with its socket, it stays down.
    systemd.ok(&["systemctl", "stop", SOCKET, SERVICE]);
    assert!(
        get(ADDRESS, "/")
            .expect_err("nobody listens")
            .starts_with("connect")
    );
}

/// `systemctl restart` of the service loses no connection.
#[test]
fn restart_loses_nothing() {
    let _alone = alone();
    let Some(systemd) = listening("") else { return };
    systemd.start(SERVICE);
    let load = Load::on(ADDRESS, 2, 2);
    load.await_more(50);
    for _ in 0..3 {
        systemd.ok(&["systemctl", "restart", SERVICE]);
        load.await_more(50);
    }
    load.stop().assert_nothing_lost(200);
}

/// The same as a daemon: the sockets go through the double fork.
#[test]
fn as_a_daemon() {
    let _alone = alone();
    let Some(systemd) = listening("[master]\ndaemonize = true\n") else {
        return;
    };
    systemd.drop_in(SERVICE, "forking");
    assert_eq!(version(ADDRESS), "one");
    let load = Load::on(ADDRESS, 2, 2);
    load.await_more(50);
    systemd.ok(&["systemctl", "restart", SERVICE]);
    load.await_more(50);
    load.stop().assert_nothing_lost(100);
}

/// A unix socket for each instance; its file is systemd's, and stays over a stop of the service.
#[test]
fn the_template() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    let file = "/run/rotad/shop.http.sock";
    systemd.write(
        "/etc/rotad/shop.toml",
        &WEB.replace(ADDRESS, &format!("unix:{file}")),
    );
    systemd.start("rotad@shop.socket");
    let ask = || version(&systemd.unix(file));
    assert_eq!(ask(), "one");
    assert_eq!(
        systemd.ok(&["stat", "-c", "%a %U:%G", file]),
        "660 root:www-data\n"
    );
    systemd.ok(&["systemctl", "stop", "rotad@shop.service"]);
    assert_eq!(systemd.run(&["test", "-S", file]).code, 0);
    assert_eq!(ask(), "one");
    systemd.ok(&[
        "systemctl",
        "stop",
        "rotad@shop.socket",
        "rotad@shop.service",
    ]);
    assert_ne!(systemd.run(&["test", "-e", file]).code, 0);
}

/// KILL to the master: systemd kills the workers and starts the service again. Without a socket of systemd's, clients are refused
/// until the new workers listen; with it they wait. Requests in flight are lost both times.
#[test]
#[expect(
    clippy::print_stderr,
    reason = "the figures of docs/systemd.md, for `--nocapture`"
)]
fn the_master_is_killed() {
    let _alone = alone();
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    let (report, gap) = killed(&systemd);
    let refused = report
        .lost
        .iter()
        .any(|(reason, _)| reason.starts_with("connect:"));
    assert!(refused, "{:?}", report.lost);
    eprintln!(
        "without a socket: {} lost within {gap:?}: {:?}",
        report.lost(),
        report.lost
    );
    systemd.ok(&["systemctl", "stop", SERVICE]);
    systemd.adjust(
        SOCKET,
        &format!("[Socket]\nListenStream=\nListenStream={ADDRESS}\n"),
    );
    systemd.start(SOCKET);
    systemd.start(SERVICE);
    let (report, gap) = killed(&systemd);
    let refused = report
        .lost
        .iter()
        .any(|(reason, _)| reason.starts_with("connect:"));
    // Four clients, each with one request in flight at most.
    assert!(!refused && report.lost() <= 4, "{:?}", report.lost);
    eprintln!(
        "with a socket: {} lost within {gap:?}: {:?}",
        report.lost(),
        report.lost
    );
}

/// Kills the master under load; what was lost, and how long no answer came.
fn killed(systemd: &SystemdBox) -> (Report, Duration) {
    let load = Load::on(ADDRESS, 2, 2);
    load.await_more(100);
    let restarts: u32 = systemd
        .show(SERVICE, "NRestarts")
        .parse()
        .expect("a number");
    let old = systemd.pids_of("^testworker");
    systemd.ok(&["kill", "-KILL", &systemd.main_pid(SERVICE)]);
    let begun = Instant::now();
    let served = |report: &Report| {
        report
            .by_worker
            .keys()
            .any(|pid| !old.iter().any(|old| old.to_string() == *pid))
    };
    let gap = until("new workers serve", 30, || {
        served(&load.so_far()).then(|| begun.elapsed())
    });
    systemd.await_shown(SERVICE, "ActiveState", 20, |state| state == "active");
    assert_eq!(
        systemd.show(SERVICE, "NRestarts"),
        (restarts + 1).to_string()
    );
    let left = systemd.pids_of("^testworker");
    assert!(
        !left.iter().any(|pid| old.contains(pid)),
        "old workers are left: {left:?} of {old:?}"
    );
    assert!(systemd.status(CONFIG).is_some());
    load.await_more(50);
    (load.stop(), gap)
}
