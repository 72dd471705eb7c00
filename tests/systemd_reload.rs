//! `systemctl reload` and its kin, under load, in a real systemd.

mod support;

use std::time::Duration;
use support::systemd_box::{ADDRESS, CONFIG, SERVICE, SystemdBox, WEB};
use support::{Load, alone, pool};

/// New code: 0 when it serves, and nothing is lost. Broken code: a failed reload, and the old workers serve.
#[test]
fn reload() {
    let _alone = alone();
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    let load = Load::on(ADDRESS, 2, 2);
    load.await_more(50);
    systemd.code("ok", "two");
    systemd.ok(&["systemctl", "reload", SERVICE]);
    assert_eq!(systemd.show(SERVICE, "StatusText"), "running: web 2/2");
    load.await_more(50);
    systemd.code("exit 3", "boom");
    let broken = systemd.systemctl("reload", SERVICE);
    assert_ne!(broken.code, 0, "{broken:?}");
    assert_eq!(systemd.show(SERVICE, "ActiveState"), "active");
    assert_eq!(systemd.show(SERVICE, "NRestarts"), "0");
    let text = systemd.show(SERVICE, "StatusText");
    assert!(
        text.contains("web 2/2")
            && text.contains("did not come up")
            && text.contains("exited with 3"),
        "{text}"
    );
    systemd.await_journal(&["-u", SERVICE], "boom", 10);
    load.await_more(50);
    systemd.code("ok", "three");
    systemd.ok(&["systemctl", "reload", SERVICE]);
    assert_eq!(systemd.show(SERVICE, "StatusText"), "running: web 2/2");
    load.await_more(50);
    let report = load.stop();
    report.assert_nothing_lost(200);
    assert_eq!(
        report.by_version.keys().collect::<Vec<_>>(),
        ["one", "three", "two"]
    );
}

/// Fire and forget: systemd sees a reload that begins and ends, nobody waits for it.
#[test]
fn by_signal() {
    let _alone = alone();
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    let load = Load::on(ADDRESS, 2, 2);
    systemd.code("slow 1000", "two");
    systemd.ok(&[
        "systemctl",
        "kill",
        "--kill-whom=main",
        "--signal=USR1",
        SERVICE,
    ]);
    systemd.await_shown(SERVICE, "ActiveState", 10, |state| state == "reloading");
    systemd.await_shown(SERVICE, "StatusText", 10, |text| {
        text.starts_with("reloading: web")
    });
    systemd.await_shown(SERVICE, "ActiveState", 20, |state| state == "active");
    // As a script would, with what systemd calls $MAINPID.
    systemd.code("ok", "three");
    systemd.ok(&["kill", "-USR1", &systemd.main_pid(SERVICE)]);
    support::until("the third version serves", 20, || {
        load.so_far().by_version.get("three").copied()
    });
    systemd.await_shown(SERVICE, "ActiveState", 20, |state| state == "active");
    load.await_more(50);
    load.stop().assert_nothing_lost(100);
}

/// Requests in flight are answered before the old master leaves; connections that no worker had taken yet are reset, and
/// until the new one listens, they are refused.
#[test]
fn restart() {
    let _alone = alone();
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    let before = systemd.main_pid(SERVICE);
    let load = Load::of(ADDRESS, "/", 2, 2, Duration::from_millis(1));
    load.await_more(50);
    systemd.ok(&["systemctl", "restart", SERVICE]);
    load.await_more(50);
    let report = load.stop();
    assert_ne!(systemd.main_pid(SERVICE), before);
    let others = report
        .lost
        .iter()
        .filter(|(reason, _)| !reason.starts_with("connect:"));
    let others: u64 = others.map(|(_, number)| number).sum();
    // One of each client's at most.
    assert!(others <= 4, "{:?}", report.lost);
}

/// Where systemd knows it (253), `Type=notify-reload` waits for the end of the rolling restart. tests/manager.rs holds
/// what the master says by a socket of its own, on every machine.
#[test]
fn notify_reload() {
    let _alone = alone();
    let Some(systemd) = SystemdBox::with_web("[signals]\nHUP = \"reload\"\n") else {
        return;
    };
    systemd.drop_in(SERVICE, "notify-reload");
    let started = systemd.systemctl("start", SERVICE);
    if systemd.version() < 253 {
        // Not known: the line is ignored, with a word in the journal, and the service is as without it.
        let ignored = systemd.journal(&["-n", "60"]);
        assert!(
            ignored.contains("notify-reload") || started.code != 0,
            "{started:?} {ignored}"
        );
        return;
    }
    assert_eq!(started.code, 0, "{started:?}");
    let load = Load::on(ADDRESS, 2, 2);
    for version in ["two", "three", "four"] {
        systemd.code("slow 700", version);
        let reloaded = systemd.systemctl("reload", SERVICE);
        assert!(
            reloaded.code == 0 && reloaded.took > Duration::from_millis(700),
            "{reloaded:?}"
        );
        let status = systemd.status(CONFIG).expect("a status");
        assert_eq!(pool(&status, "web")["reload"]["state"], "done", "{status}");
        load.await_more(20);
    }
    systemd.code("exit 3", "boom");
    let reloaded = systemd.systemctl("reload", SERVICE);
    let text = systemd.show(SERVICE, "StatusText");
    assert!(
        reloaded.code == 0 && text.contains("did not come up"),
        "{reloaded:?} {text}"
    );
    load.await_more(20);
    load.stop().assert_nothing_lost(100);
}

/// A changed configuration by HUP: what it does not change goes on.
#[test]
fn a_changed_configuration() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    systemd.write(CONFIG, &WEB.replace("count = 2", "count = 3"));
    systemd.ok(&[
        "systemctl",
        "kill",
        "--kill-whom=main",
        "--signal=HUP",
        SERVICE,
    ]);
    systemd.await_shown(SERVICE, "StatusText", 20, |text| text == "running: web 3/3");
}
