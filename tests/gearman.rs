//! Gearman: Debian's gearmand, workers in PHP and Python. No job is lost and none is run twice by rolling restarts.

mod support;

use nix::sys::signal::Signal;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::example::python;
use support::jobs::Server;
use support::need::program;
use support::site::finish;
use support::{Site, alone, never, pids, pool, rolls, until};

/// Jobs of clients that wait for the answer begin here.
const WAITED_FOR: u64 = 1_000_000;

/// The loop of every tutorial, with the same job.
const PLAIN: &str = r#"<?php
$worker = new GearmanWorker();
$worker->addServers(getenv('GEARMAN'));
$worker->addFunction('resize', function ($job) {
    file_put_contents('jobs.txt', "begins {$job->workload()} {$_SERVER['ROTAD_GENERATION']}\n", FILE_APPEND);
    usleep(100_000);
    file_put_contents('jobs.txt', "done {$job->workload()} {$_SERVER['ROTAD_GENERATION']}\n", FILE_APPEND);
    return "done {$job->workload()}";
});
fwrite(stream_socket_client('udg://' . getenv('NOTIFY_SOCKET')), 'READY=1');
while ($worker->work());
"#;

fn example(name: &str) -> Option<(Server, Site)> {
    if !(program("gearman") && program("php") && (name != "gearman-python" || python("geard"))) {
        return None;
    }
    let server = Server::gearmand()?;
    let site = Site::example(name);
    site.change("rotad.toml", "127.0.0.1:4730", &server.address());
    site.change(
        "rotad.toml",
        "[pool.jobs.reload]",
        "[pool.jobs.reload]\nsoak = \"200ms\"",
    );
    Some((server, site))
}

/// `gearman`: of a client that does not wait (`-b`), or one that does; what it prints.
fn submit(server: &Server, background: bool, job: u64) -> String {
    let mut command = std::process::Command::new("gearman");
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &server.port.to_string(),
        "-f",
        "resize",
    ]);
    command
        .args(background.then_some("-b"))
        .arg(job.to_string());
    let run = finish(command, 60);
    assert_eq!(run.code, 0, "job {job}: {run:?}");
    run.out
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Rolls with jobs in hand, 40 a roll sent by clients that do not wait, and others; how many of either there were.
fn roll(site: &Site, server: &Server, rolls: u64) -> [Range<u64>; 2] {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let mut next = WAITED_FOR;
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(
                    submit(server, false, next).trim(),
                    format!("done {next}"),
                    "a client's answer"
                );
                next += 1;
            }
            WAITED_FOR..next
        });
        let send = |jobs: Range<u64>| jobs.for_each(|job| drop(submit(server, true, job)));
        // A panic has to end the other thread as well.
        let ended = Ended(stop);
        let sent = site.roll_with_jobs(rolls, 30, &send);
        drop(ended);
        [0..sent, waiting.join().expect("a client")]
    })
}

/// Rolling restarts, 40 jobs in each at least.
fn each_job_once(name: &str) {
    let Some((server, mut site)) = example(name) else {
        return;
    };
    let _alone = alone();
    site.run();
    site.await_ready();
    let jobs = roll(&site, &server, rolls());
    let ledger = site.ledger();
    ledger.tell(name, rolls());
    jobs.iter().for_each(|jobs| ledger.assert_each_once(jobs));
    // Nobody has a job in hand: an idle worker does not use up the 300 s that it has.
    site.stop_politely(30);
}

#[test]
fn php_runs_each_job_once() {
    each_job_once("gearman-php");
}

#[test]
fn python_runs_each_job_once() {
    each_job_once("gearman-python");
}

/// Without a handler of TERM, the job in hand is cut short, and run again: nothing is lost, but some begin twice.
#[test]
fn a_plain_loop_runs_jobs_again() {
    let Some((server, mut site)) = example("gearman-php") else {
        return;
    };
    site.write("worker.php", PLAIN);
    site.run();
    site.await_ready();
    let jobs = roll(&site, &server, 10);
    let ledger = site.ledger();
    ledger.tell("plain loop", 10);
    assert!(
        jobs.iter().all(|jobs| ledger.lost(jobs).is_empty()),
        "{ledger:?}"
    );
    assert!(
        !ledger.twice().is_empty(),
        "a plain loop was cut at every roll, and ran nothing twice?"
    );
    site.stop_politely(30);
}

/// Without setTimeout, TERM does not end an idle work(): the worker takes one more job first.
#[test]
fn without_a_timeout_an_idle_worker_stays() {
    let Some((server, mut site)) = example("gearman-php") else {
        return;
    };
    site.change("worker.php", "$worker->setTimeout(500);", "");
    site.run();
    let old = pids(&site.await_ready(), "jobs");
    site.signal(Signal::SIGUSR2);
    site.await_generation(2);
    never("an old worker left", 2.0, || {
        old.iter().find(|pid| support::proc::gone(**pid))
    });
    for job in 0..12 {
        submit(&server, true, job);
    }
    until("the old workers are gone", 60, || {
        old.iter()
            .all(|pid| support::proc::gone(*pid))
            .then_some(())
    });
    site.await_done(&(0..12));
    site.ledger().assert_each_once(&(0..12));
    assert_eq!(site.rotad(&["stop", "--now"]).code, 0);
    site.await_exit(10);
}

/// What workers did by themselves once: a changed file of settings rolls the pool, and HUP applies a changed TOML.
fn settings_and_hup(name: &str, settings: &str, from: &str, to: &str) {
    let Some((server, mut site)) = example(name) else {
        return;
    };
    site.run();
    let first = pids(&site.await_ready(), "jobs");
    site.await_log("watching", 20);
    let send = |jobs: Range<u64>| jobs.for_each(|job| drop(submit(&server, true, job)));
    let mut sent = 0;
    site.feed(&mut sent, (30, 0), &send);
    let asked = Instant::now();
    site.change(settings, from, to);
    site.await_generation(2);
    assert!(
        asked.elapsed() > Duration::from_millis(500),
        "not before it was quiet for `debounce`"
    );
    site.await_log(&format!("{settings} changed: rolling jobs"), 10);
    site.feed(&mut sent, (30, 0), &send);
    site.change("rotad.toml", "env = {", "env = { COLOUR = \"blue\",");
    site.signal(Signal::SIGHUP);
    site.await_generation(3);
    site.feed(&mut sent, (30, 0), &send);
    site.await_done(&(0..sent));
    site.ledger().assert_each_once(&(0..sent));
    let status = site.await_ready();
    assert!(pids(&status, "jobs").iter().all(|pid| !first.contains(pid)));
    assert_eq!(
        pool(&status, "jobs")["generation"],
        3,
        "one roll for each change"
    );
    site.stop_politely(30);
}

#[test]
fn php_takes_changed_settings() {
    settings_and_hup(
        "gearman-php",
        "settings.ini",
        "milliseconds = 100",
        "milliseconds = 50",
    );
}

#[test]
fn python_takes_changed_settings() {
    settings_and_hup(
        "gearman-python",
        "settings.json",
        "\"milliseconds\": 100",
        "\"milliseconds\": 50",
    );
}
