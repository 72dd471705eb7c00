//! What rotad is for still works in the hardened service: workers of another user, a port below 1024, a cgroup each,
//! `nice`, limits, a JIT, logs, unix sockets; rolled under load.

mod support;

use std::fs;
use std::path::PathBuf;
use support::example::{python, venv};
use support::load::get;
use support::systemd_box::{CONFIG, SERVICE, SystemdBox};
use support::{Load, alone, need, pids};

const HARDENED: &str = r#"
[listen.http]
address = "127.0.0.1:80"
[listen.local]
address = "unix:/run/rotad/local.sock"
user = "www-data"
mode = "0600"

# Memory that is written and run, as every JIT has it.
[pool.jit]
kind = "oneshot"
command = ["python3", "-c", "import mmap; mmap.mmap(-1, 4096, prot=7)"]
user = "www-data"

[pool.web]
command = ["/usr/bin/python3", "-m", "gunicorn", "--workers", "1", "--graceful-timeout", "5", "app:app"]
working_directory = "/srv/shop"
env_file = "/srv/shop/.env"
env = { PYTHONPATH = "/opt/site" }
user = "www-data"
count = 2
listen = ["http"]
after = ["jit"]
nice = -5
stop = "8s"
[pool.web.limits]
nofile = 1234

[pool.php]
command = ["php", "/srv/shop/local.php"]
user = "www-data"
listen = ["local"]

[pool.php.log]
stdout = "/var/log/rotad/php.log"
"#;

/// A worker in PHP: takes the socket from descriptor 3, answers, leaves on TERM.
const PHP: &str = r#"<?php
pcntl_async_signals(true);
$leave = false;
pcntl_signal(SIGTERM, function () use (&$leave) { $leave = true; });
$socket = fopen('php://fd/3', 'r+');
echo "php is up\n";
while (!$leave) {
    $client = @stream_socket_accept($socket, 1);
    if (!$client) continue;
    while (($line = fgets($client)) !== false && trim($line) !== '');
    $body = getmypid() . ' ' . getenv('ROTAD_GENERATION') . " php\n";
    fwrite($client, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " . strlen($body) . "\r\n\r\n$body");
    fclose($client);
}
"#;

/// What pip has installed. Its interpreter may be where www-data cannot go; Debian's runs it as well.
fn site_packages() -> PathBuf {
    let versions = fs::read_dir(venv().join("lib"))
        .expect("target/venv")
        .flatten();
    let mut places = versions
        .map(|version| version.path().join("site-packages"))
        .filter(|place| place.exists());
    places
        .next()
        .and_then(|place| place.canonicalize().ok())
        .expect("site-packages")
}

fn shop() -> Option<SystemdBox> {
    if !python("gunicorn") || !need::program("php") {
        return None;
    }
    let systemd = SystemdBox::boot_with(&[(site_packages(), "/opt/site")])?;
    systemd.write(CONFIG, HARDENED);
    let app = include_str!("../config/gunicorn/app.py");
    systemd.write("/srv/shop/app.py", app);
    systemd.write("/srv/shop/local.php", PHP);
    // Its owner's alone: the master can read it nevertheless.
    systemd.write("/srv/shop/.env", "SECRET=1\n");
    systemd.shell("chown -R www-data: /srv/shop && chown root: /srv/shop /srv/shop/.env && chmod 755 /srv /srv/shop && chmod 600 /srv/shop/.env");
    systemd.drop_in(SERVICE, "hardened");
    Some(systemd)
}

#[test]
fn workers_of_another_user_are_rolled() {
    let _alone = alone();
    let Some(systemd) = shop() else { return };
    systemd.start(SERVICE);
    let loads = [
        Load::on("127.0.0.1:80", 2, 0),
        Load::on("127.0.0.1:80", 0, 2),
    ];
    let php = Load::on(&systemd.unix("/run/rotad/local.sock"), 1, 0);
    let answers = || loads.iter().for_each(|load| load.await_more(30));
    for _ in 0..2 {
        answers();
        systemd.ok(&["systemctl", "reload", SERVICE]);
        php.await_more(10);
    }
    answers();
    for load in loads {
        load.stop().assert_nothing_lost(100);
    }
    php.stop().assert_nothing_lost(30);
    facts(&systemd);
    let warnings = systemd.journal(&[
        "-u", SERVICE, "-t", "rotad", "-p", "warning", "-o", "cat", "-q",
    ]);
    // A machine under load pauses all processes.
    let warnings: Vec<&str> = warnings
        .lines()
        .filter(|line| !line.contains("was paused"))
        .collect();
    assert_eq!(warnings, Vec::<&str>::new());
    assert!(systemd.read("/var/log/rotad/php.log").contains("php is up"));
    let stopped = systemd.systemctl("stop", SERVICE);
    assert!(
        stopped.code == 0 && systemd.show(SERVICE, "Result") == "success",
        "{stopped:?}"
    );
    assert_eq!(systemd.pids_of("gunicorn|local.php"), Vec::<i32>::new());
}

/// The service's walls stand around the workers, and so does what the pool asks for.
fn facts(systemd: &SystemdBox) {
    let status = systemd.status(CONFIG).expect("a status");
    let worker = pids(&status, "web")[0];
    let fact = |name: &str| {
        let text = systemd.read(&format!("/proc/{worker}/status"));
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")).map(str::to_string));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .trim()
            .to_string()
    };
    let id = systemd.ok(&["id", "-u", "www-data"]);
    assert_eq!(fact("Uid").split_whitespace().next(), Some(id.trim()));
    assert_eq!(
        (fact("NoNewPrivs").as_str(), fact("Seccomp").as_str()),
        ("1", "2")
    );
    assert_eq!(fact("CapEff"), "0000000000000000");
    assert_eq!(
        systemd
            .ok(&["ps", "-o", "ni=", "-p", &worker.to_string()])
            .trim(),
        "-5"
    );
    assert!(
        systemd
            .read(&format!("/proc/{worker}/limits"))
            .contains("1234")
    );
    let cgroup = systemd.read(&format!("/proc/{worker}/cgroup"));
    assert!(cgroup.contains("/rotad.service/rotad-"), "{cgroup}");
}

/// What the shipped unit leaves to workers and the hardened one does not: more rights by a program's own.
#[test]
fn only_the_hardened_service_keeps_programs_from_more_rights() {
    let Some(systemd) = SystemdBox::boot() else {
        return;
    };
    let rises = "[listen.http]\naddress = '127.0.0.1:8080'\n[pool.web]\nlisten = ['http']\nuser = 'www-data'\n\
                 command = ['testworker', 'http']\n";
    systemd.write(CONFIG, rises);
    for (hardened, expected) in [(false, "0"), (true, "1")] {
        if hardened {
            systemd.drop_in(SERVICE, "hardened");
        }
        systemd.ok(&["systemctl", "restart", SERVICE]);
        get("127.0.0.1:8080", "/").expect("an answer");
        let status = systemd.status(CONFIG).expect("a status");
        let text = systemd.read(&format!("/proc/{}/status", pids(&status, "web")[0]));
        assert!(text.contains(&format!("NoNewPrivs:\t{expected}")), "{text}");
    }
}
