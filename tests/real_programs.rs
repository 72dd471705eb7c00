//! The main job on real programs: gunicorn from PyPI and a PHP script from Debian's php-cli in one TOML, rolled under
//! load without losing a request; a task pool beside them is rolled by USR2 only.

mod support;

use nix::sys::signal::Signal;
use support::example::{python, venv};
use support::{Load, Site, alone, need, pids, pool};

const APP: &str = r#"
import os
from time import sleep as work

def app(environ, start_response):
    work(0.005)
    body = f"{os.getpid()} {os.environ['ROTAD_GENERATION']} python\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"#;

const PHP: &str = r#"<?php
$stop = false;
pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () use (&$stop) { $stop = true; }, false);
$listener = fopen('php://fd/3', 'r+');
while (!$stop) {
    $client = @stream_socket_accept($listener, 1.0);
    if ($client === false) {
        continue;
    }
    stream_set_timeout($client, 5);
    while (($line = fgets($client)) !== false && rtrim($line) !== '') {
    }
    usleep(5000);
    $body = getmypid() . ' ' . getenv('ROTAD_GENERATION') . " php\n";
    fwrite($client, "HTTP/1.1 200 OK\r\nContent-Length: " . strlen($body) . "\r\nConnection: close\r\n\r\n" . $body);
    fclose($client);
}
"#;

const POOLS: &str = r#"
[pool.python]
command = ["gunicorn", "app:app", "--graceful-timeout", "8"]
env = { HOME = "@DIR@" }
count = 2
stop = "10s"
listen = ["python"]
[pool.php]
command = "php server.php"
count = 2
stop = "10s"
listen = ["php"]
[pool.queue]
kind = "task"
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
[listen.python]
address = "127.0.0.1:@PORT@"
[listen.php]
address = "127.0.0.1:@OTHER@"
"#;

#[test]
fn gunicorn_and_php_in_one_file() {
    if !python("gunicorn") || !need::program("php") {
        return;
    }
    let _alone = alone();
    let other = support::free_port();
    let mut site = Site::new(&POOLS.replace("@OTHER@", &other.to_string()));
    site.search_first(&venv().join("bin"));
    site.write("app.py", APP);
    site.write("server.php", PHP);
    site.run();
    let first = site.await_ready();
    let loads = [
        Load::on(&site.address(), 3, 3),
        Load::on(&format!("127.0.0.1:{other}"), 3, 3),
    ];
    for load in &loads {
        load.await_more(100);
    }
    for generation in 2..=6 {
        let before = site.await_ready();
        site.signal(Signal::SIGUSR1);
        site.await_status("both pools are rolled", 120, |status| {
            ["python", "php"].iter().all(|name| {
                let pool = pool(status, name);
                pool["generation"] == generation && pool["reload"]["state"] == "done"
            })
        });
        for name in ["python", "php"] {
            // The last old one has got its stop, and may still be finishing.
            let old = pids(&before, name);
            site.await_status("the old workers are gone", 15, |status| {
                !pids(status, name).iter().any(|pid| old.contains(pid))
            });
        }
        for load in &loads {
            load.await_more(100);
        }
    }
    for (load, version) in loads.into_iter().zip(["python", "php"]) {
        let report = load.stop();
        report.assert_nothing_lost(600);
        assert_eq!(report.by_version.keys().collect::<Vec<_>>(), [version]);
    }
    let now = site.await_ready();
    assert_eq!(
        pids(&now, "queue"),
        pids(&first, "queue"),
        "USR1 is not for tasks"
    );
    site.signal(Signal::SIGUSR2);
    let last = site.await_status("the task is rolled", 30, |status| {
        pool(status, "queue")["reload"]["state"] == "done"
    });
    assert_ne!(pids(&last, "queue"), pids(&first, "queue"));
    assert_eq!(
        pids(&last, "python"),
        pids(&now, "python"),
        "USR2 is not for workers"
    );
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(15).code(), Some(0));
    site.assert_empty();
}
