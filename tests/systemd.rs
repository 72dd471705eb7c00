//! The units of `systemd/` under a real systemd: start, stop, what is in force, what the journal and the status tell.
//! More in systemd_reload, systemd_socket, systemd_trouble, systemd_hardened.

mod support;

use support::load::get;
use support::systemd_box::{ADDRESS, CONFIG, SERVICE, SystemdBox, WEB, guard, version};
use support::until;

#[test]
fn the_shield_holds() {
    let Some(text) = guard() else { return };
    assert_eq!(text.trim(), "shielded");
}

/// systemd's own judgement of every unit and every drop-in.
#[test]
fn the_units_are_units() {
    let Some(systemd) = SystemdBox::boot() else {
        return;
    };
    let verify = |what: &str, units: &[&str]| {
        let run = systemd.run(
            &[
                &[
                    "systemd-analyze",
                    "verify",
                    "--man=no",
                    "--recursive-errors=no",
                ],
                units,
            ]
            .concat(),
        );
        assert!(
            run.code == 0 && run.text().trim().is_empty(),
            "{what}: {run:?}"
        );
    };
    let services = ["rotad.service", "rotad@shop.service"];
    verify(
        "as they are",
        &[
            "rotad.service",
            "rotad.socket",
            "rotad@shop.service",
            "rotad@shop.socket",
            "rotad-serve@shop.service",
        ],
    );
    for name in ["hardened", "forking", "watchdog", "notify-reload"] {
        if name == "notify-reload" && systemd.version() < 253 {
            continue; // 252 does not know the type, and says so
        }
        for unit in ["rotad.service", "rotad@.service"] {
            systemd.drop_in(unit, name);
        }
        verify(name, &services);
        systemd.shell("rm -r /etc/systemd/system/rotad*.d");
    }
}

/// Neither is made worse by accident. The numbers are those of `systemd-analyze security`: 0 is best, 10 worst.
#[test]
fn the_ratings() {
    let Some(systemd) = SystemdBox::boot() else {
        return;
    };
    let rated = || {
        let text = systemd
            .run(&["systemd-analyze", "security", "--no-pager", SERVICE])
            .text();
        let line = text
            .lines()
            .find(|line| line.contains("Overall exposure level"))
            .unwrap_or_else(|| panic!("{text}"));
        let number = line
            .split_once(": ")
            .and_then(|(_, rest)| rest.split(' ').next())
            .expect("a number");
        (number.parse::<f64>().expect("a number"), text)
    };
    let (shipped, text) = rated();
    assert!(shipped <= 9.0, "the shipped unit: {shipped}\n{text}");
    systemd.drop_in(SERVICE, "hardened");
    let (hardened, text) = rated();
    assert!(hardened <= 4.0, "hardened: {hardened}\n{text}");
}

/// `systemctl start` returns when the workers serve; the status has their number; `stop` leaves nothing.
#[test]
fn starts_and_stops() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    assert_eq!(version(ADDRESS), "one");
    let status = systemd.systemctl("status", SERVICE);
    assert_eq!(status.code, 0, "{status:?}");
    assert!(
        status.out.contains("web 2/2") && status.out.contains("active (running)"),
        "{}",
        status.out
    );
    assert_eq!(systemd.show(SERVICE, "StatusText"), "running: web 2/2");
    let stopped = systemd.systemctl("stop", SERVICE);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    assert_eq!(systemd.show(SERVICE, "Result"), "success");
    assert_eq!(systemd.show(SERVICE, "ActiveState"), "inactive");
    assert_eq!(systemd.pids_of("^testworker|rotad run"), Vec::<i32>::new());
}

/// Every setting of the unit is in force: systemd took it, and the workers feel it.
#[test]
fn the_settings_are_in_force() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.start(SERVICE);
    for (property, value) in [
        ("OOMPolicy", "continue"),
        ("KillMode", "mixed"),
        ("Delegate", "yes"),
        ("LimitNOFILE", "524288"),
        ("LimitNOFILESoft", "65535"),
        ("StartLimitIntervalUSec", "0"),
        ("TasksMax", "infinity"),
        ("TimeoutStartUSec", "infinity"),
        ("TimeoutStopUSec", "1min 30s"),
        ("NotifyAccess", "main"),
        ("NoNewPrivileges", "no"),
    ] {
        assert_eq!(systemd.show(SERVICE, property), value, "{property}");
    }
    let worker = systemd.pids_of("^testworker")[0];
    let fact = |file: &str| systemd.read(&format!("/proc/{worker}/{file}"));
    // Where systemd itself lacks CAP_SYS_RESOURCE, it can give no more than it has.
    let most = |limits: &str| -> u64 {
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .expect("a line")
            .to_string();
        line.split_whitespace()
            .nth(4)
            .expect("a hard limit")
            .parse()
            .expect("a number")
    };
    let own = most(&systemd.read("/proc/1/limits"));
    let given = most(&fact("limits"));
    assert!(
        given == 524_288 || given == own,
        "{given}, and systemd's own is {own}"
    );
    // CAP_SYS_MODULE is the 16th.
    let bounding = fact("status")
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:").map(str::to_string));
    let bounding = u64::from_str_radix(bounding.expect("a set").trim(), 16).expect("a set");
    assert_eq!(
        bounding & (1 << 16 | 1 << 22 | 1 << 25 | 1 << 34),
        0,
        "{bounding:x}"
    );
    assert!(
        fact("cgroup").contains("/system.slice/rotad.service/"),
        "{}",
        fact("cgroup")
    );
    let modes = systemd.ok(&["stat", "-c", "%n %a %U:%G", "/run/rotad", "/var/log/rotad"]);
    assert_eq!(
        modes,
        "/run/rotad 755 root:root\n/var/log/rotad 750 root:adm\n"
    );
}

/// 78: tried once. The same for a second master of the same file: 75.
#[test]
fn what_does_not_mend_itself_is_not_tried_again() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    systemd.write(CONFIG, &WEB.replace("count", "cuont"));
    assert_ne!(systemd.systemctl("start", SERVICE).code, 0);
    let failed = |code: &str| {
        assert_eq!(systemd.show(SERVICE, "ExecMainStatus"), code);
        assert_eq!(systemd.show(SERVICE, "ActiveState"), "failed");
        assert_eq!(systemd.show(SERVICE, "NRestarts"), "0");
    };
    failed("78");
    systemd.await_journal(&["-u", SERVICE], "did you mean", 10);
    systemd.write(CONFIG, WEB);
    systemd.ok(&["rotad", "start", "-c", CONFIG]);
    assert_ne!(systemd.systemctl("start", SERVICE).code, 0);
    failed("75");
    systemd.ok(&["rotad", "stop", "-c", CONFIG]);
    systemd.start(SERVICE);
}

/// A oneshot that fails is tried again and again, what comes after it waits, and `systemctl start` does not: others of the
/// machine's boot may wait for it. Once the oneshot is mended, everything starts.
#[test]
fn a_failing_oneshot_holds_up_nothing_else() {
    let Some(systemd) = SystemdBox::boot() else {
        return;
    };
    let oneshots = "[pool.migrate]\nkind = 'oneshot'\ncommand = ['test', '-e', '/srv/mended']\n\
                 [pool.cache]\nkind = 'oneshot'\ncommand = ['true']\nafter = ['migrate']\n\
                 [pool.jobs]\nkind = 'task'\ncommand = ['sleep', '1000']\nafter = ['cache']\n";
    systemd.write(CONFIG, oneshots);
    systemd.start(SERVICE);
    let text = systemd.show(SERVICE, "StatusText");
    assert!(
        text.contains("migrate 0/1 crash-loop") && text.contains("jobs 0/1"),
        "{text}"
    );
    systemd.write("/srv/mended", "");
    systemd.await_shown(SERVICE, "StatusText", 60, |text| text.contains("jobs 1/1"));
}

/// Each line is an entry of its own, with who printed it.
#[test]
fn the_journal_knows_who_printed_what() {
    let Some(systemd) = SystemdBox::boot() else {
        return;
    };
    systemd.write(
        CONFIG,
        "[pool.web]\ncommand = ['sh', '-c', 'echo from web >&2; exec sleep 1000']\nlog = { stdout = 'null', stderr = 'master' }\n\
         [pool.jobs]\nkind = 'task'\ncommand = ['sh', '-c', 'echo from jobs; exec sleep 1000']\n",
    );
    systemd.start(SERVICE);
    systemd.await_journal(&["-u", SERVICE], "from jobs", 10);
    systemd.await_journal(&["-u", SERVICE], "from web", 10);
    let web = systemd.journal(&["-u", SERVICE, "ROTAD_POOL=web", "-o", "cat"]);
    assert_eq!(web.trim(), "from web");
    let warnings = systemd.journal(&[
        "-u",
        SERVICE,
        "ROTAD_POOL=web",
        "-p",
        "warning",
        "-o",
        "short",
    ]);
    assert!(
        warnings.contains("web[") && warnings.contains("from web"),
        "{warnings}"
    );
    assert!(
        systemd
            .journal(&["-u", SERVICE, "-t", "rotad"])
            .contains("ready")
    );
}

/// One instance a file; they do not touch each other.
#[test]
fn the_template() {
    let Some(systemd) = SystemdBox::with_web("") else {
        return;
    };
    for (name, port) in [("shop", "8081"), ("blog", "8082")] {
        systemd.write(
            &format!("/etc/rotad/{name}.toml"),
            &WEB.replace("8080", port),
        );
        systemd.ok(&["systemctl", "enable", "--now", &format!("rotad@{name}")]);
        assert_eq!(version(&format!("127.0.0.1:{port}")), "one");
    }
    systemd.code("ok", "two");
    systemd.ok(&["systemctl", "reload", "rotad@shop"]);
    assert_eq!(version("127.0.0.1:8081"), "two");
    systemd.ok(&["systemctl", "stop", "rotad@shop"]);
    assert_eq!(version("127.0.0.1:8082"), "one");
    systemd.ok(&["rotad", "status", "--check", "-c", "/etc/rotad/blog.toml"]);
}

/// Type=forking: systemd follows the daemon that it finds, which is the guardian.
#[test]
fn as_a_daemon() {
    let Some(systemd) = SystemdBox::with_web("[master]\ndaemonize = true\n") else {
        return;
    };
    systemd.drop_in(SERVICE, "forking");
    systemd.start(SERVICE);
    let guardian = systemd.main_pid(SERVICE);
    assert_eq!(systemd.master()["guardian"].to_string(), guardian);
    systemd.code("ok", "two");
    systemd.ok(&["systemctl", "reload", SERVICE]);
    assert_eq!(version(ADDRESS), "two");
    assert_eq!(systemd.show(SERVICE, "StatusText"), "running: web 2/2");
    systemd.kill_master();
    assert_eq!(systemd.main_pid(SERVICE), guardian);
    systemd.code("ok", "three");
    systemd.ok(&["systemctl", "reload", SERVICE]);
    assert_eq!(version(ADDRESS), "three");
    assert_eq!(systemd.show(SERVICE, "StatusText"), "running: web 2/2");
    // A guardian that dies is started again.
    systemd.ok(&["kill", "-KILL", &guardian]);
    systemd.await_shown(SERVICE, "NRestarts", 20, |restarts| restarts == "1");
    until("the new one serves", 20, || get(ADDRESS, "/").ok());
    systemd.ok(&["systemctl", "stop", SERVICE]);
    assert_eq!(
        systemd.pids_of("^testworker|rotad start"),
        Vec::<i32>::new()
    );
    assert!(systemd.read("/var/log/rotad/rotad.log").contains("ready"));
}
