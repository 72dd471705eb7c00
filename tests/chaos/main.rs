//! Chaos: a seeded injector does to a master whatever operators, deploys, strangers and disks do, all the time, and an
//! observer looks from outside only: at the status 20 times a second, at every request, at every line of a log, at the
//! processes and files that are left.
//!
//! `ROTAD_CHAOS_SECONDS` (60: half of it for each mode), `ROTAD_CHAOS_SEED` (1), `ROTAD_CHAOS_MODE` (`a`: no worker is
//! killed, and nothing may be lost; `b`: workers are killed; both). The same seed injects the same things; what they meet is up
//! to the machine. `just chaos SECONDS SEED`.
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

#[path = "../support/mod.rs"]
mod support;

mod injector;
mod observer;

use injector::Injector;
use observer::{Observer, Truth};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{Cases, Load, Random, Site, need, proc, until_some};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nobody kills workers.
    A,
    /// An operator acts, and code dies late.
    B,
}

fn main() {
    if Cases::of_arguments().chosen(["chaos"]).is_empty() {
        return;
    }
    let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let number =
        |name: &str, default: u64| text(name).map_or(default, |value| value.parse().expect(name));
    let (seconds, seed) = (
        number("ROTAD_CHAOS_SECONDS", 60),
        number("ROTAD_CHAOS_SEED", 1),
    );
    let modes = match text("ROTAD_CHAOS_MODE")
        .unwrap_or_default()
        .to_lowercase()
        .as_str()
    {
        "a" => vec![Mode::A],
        "b" => vec![Mode::B],
        _ => vec![Mode::A, Mode::B],
    };
    println!(
        "chaos: {seconds} s, seed {seed} (ROTAD_CHAOS_SECONDS, ROTAD_CHAOS_SEED, ROTAD_CHAOS_MODE)"
    );
    let each = Duration::from_secs(seconds) / modes.len() as u32;
    let results: Vec<Outcome> = modes
        .into_iter()
        .map(|mode| run(mode, each, seed))
        .collect();
    println!(
        "\n| mode | actions | looks | requests | lost | slowest | violations |\n|---|---|---|---|---|---|---|"
    );
    for one in &results {
        let Outcome {
            mode,
            actions,
            looks,
            requests,
            lost,
            slowest,
            violations,
        } = one;
        let actions: u64 = actions.values().sum();
        let slowest = slowest.as_secs_f64();
        println!(
            "| {mode:?} | {actions} | {looks} | {requests} | {lost} | {slowest:.2} s | {} |",
            violations.len()
        );
    }
    for one in &results {
        println!("\n{:?}: {:?}", one.mode, one.actions);
        one.violations
            .iter()
            .take(40)
            .for_each(|violation| println!("{:?} VIOLATION: {violation}", one.mode));
    }
    if results.iter().any(|one| !one.violations.is_empty()) {
        std::process::exit(1);
    }
}

struct Outcome {
    mode: Mode,
    actions: BTreeMap<&'static str, u64>,
    looks: u64,
    requests: u64,
    lost: u64,
    slowest: Duration,
    violations: Vec<String>,
}

/// A web pool with a oneshot before it, jobs with watched files, a pool that prints what it notes elsewhere first, one that
/// floods a small disk, and one with ports and a health check. `@ENV@` is what good configurations change.
pub(crate) const POOLS: &str = r#"
[pool.migrate]
kind = "oneshot"
command = ["true"]
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 4
after = ["migrate"]
listen = ["http"]
ready_timeout = "3s"
stop = "10s"
env = { CHAOS = "@ENV@" }
[pool.web.reload]
surge = 2
soak = "100ms"
[pool.jobs]
kind = "task"
command = ["@WORKER@", "wait", "--code", "@DIR@/jobs/code"]
count = 2
ready = "spawned"
stop = "10s"
[pool.jobs.reload]
watch = ["jobs/*"]
debounce = "200ms"
soak = "0s"
[pool.lines]
command = ["sh", "@DIR@/lines.sh"]
working_directory = "@DIR@"
count = 2
ready = "spawned"
stop = "10s"
[pool.lines.reload]
soak = "0s"
[pool.lines.log]
stdout = "@DIR@/lines.log"
max_size = "64KiB"
keep = 1000
[pool.noisy]
command = ["sh", "@DIR@/noisy.sh"]
ready = "spawned"
stop = "10s"
[pool.noisy.reload]
soak = "0s"
[pool.noisy.log]
stdout = "@DIR@/small/noisy.log"
max_size = "32KiB"
keep = 3
[pool.api]
command = ["@WORKER@", "http", "--bind", "127.0.0.1:{port}"]
count = 2
ports = "@PORTS@"
ready = { connect = "127.0.0.1:{port}" }
ready_timeout = "5s"
stop = "10s"
[pool.api.reload]
soak = "0s"
[pool.api.health]
http = "127.0.0.1:{port}/"
every = "1s"
timeout = "1s"
failures = 5
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// The configuration at the end, when the master must sleep: no worker prints, and none has a health check.
const QUIET: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 4
listen = ["http"]
stop = "10s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// Notes each line in a file of its own before it prints it; TERM is obeyed between two lines.
const LINES: &str = r#"trap 'end=1' TERM
i=0
while [ -z "$end" ]; do
  i=$((i+1))
  echo "$ROTAD_WORKER $i" >> "own/$ROTAD_WORKER"
  echo "$ROTAD_WORKER $i"
  sleep 0.02
done
"#;

const NOISY: &str = r#"trap 'exit 0' TERM
while :; do printf '%0900d\n%0900d\n%0900d\n' 1 2 3; sleep 0.02; done
"#;

fn run(mode: Mode, length: Duration, seed: u64) -> Outcome {
    let random = Random::new(seed.wrapping_mul(2) + u64::from(mode == Mode::B));
    let ports = support::free_ports(8);
    let pools = POOLS.replace("@PORTS@", &ports);
    let mut site = Site::new(&pools.replace("@ENV@", "first"));
    for dir in ["own", "small", "jobs"] {
        std::fs::create_dir(site.path(dir)).expect("a directory");
    }
    site.write("lines.sh", LINES);
    site.write("noisy.sh", NOISY);
    site.write("code", "ok\nfirst");
    site.write("jobs/code", "ok\nfirst");
    let small = nix::unistd::geteuid().is_root() && may_unshare();
    need::need("a mount namespace for a small disk", small);
    if small {
        let run = site.run_command();
        let mut command = Command::new("unshare");
        let script = format!(
            "mount -t tmpfs -o size=512k tmpfs {}; exec \"$@\"",
            site.path("small").display()
        );
        command
            .args(["-m", "sh", "-c", &script, "x"])
            .arg(run.get_program())
            .args(run.get_args());
        site.spawn(command);
    } else {
        site.run();
    }
    site.await_ready();
    let truth = Arc::new(Truth::new(mode));
    let observer = Observer::begin(&site, truth.clone());
    let load = Load::of(&site.address(), "/", 1, 1, Duration::from_millis(4));
    let mut injector = Injector::new(&site, mode, random, truth.clone(), pools);
    let end = Instant::now() + length;
    while Instant::now() < end {
        injector.act();
    }
    injector.restore();
    let settled = until_some(40, || site.status().filter(support::all_ready)).is_some();
    if !settled {
        truth.violation(format!(
            "it does not settle: {}",
            site.status().unwrap_or_default()
        ));
    }
    let report = load.stop();
    let looks = observer.end();
    let (actions, kills) = (injector.counts(), truth.kills.load(Ordering::SeqCst));
    let lost = report.lost();
    // A request may die with the worker that had accepted it: two clients, and code that dies by itself.
    if lost > kills * 2 {
        truth.violation(format!(
            "{lost} requests lost: {:?} ({kills} workers killed)",
            report.lost
        ));
    }
    idle(&site, &truth);
    stop(&mut site, &truth);
    lines(&site, mode, &truth);
    let violations = truth.violations();
    if !violations.is_empty() {
        let kept = std::env::temp_dir().join(format!("chaos-{mode:?}-{seed}.log"));
        std::fs::copy(site.path("master.log"), &kept).ok();
        println!("{mode:?}: the master's log is in {}", kept.display());
    }
    Outcome {
        mode,
        actions,
        looks,
        requests: report.ok + lost,
        lost,
        slowest: report.slowest,
        violations,
    }
}

fn may_unshare() -> bool {
    Command::new("unshare")
        .args(["-m", "true"])
        .status()
        .is_ok_and(|status| status.success())
}

/// A master whose workers are all ready does not wake up.
fn idle(site: &Site, truth: &Truth) {
    site.configure(&format!("{}\n{QUIET}", support::site::MASTER));
    let run = site.rotad(&["reload", "--config"]);
    if run.code != 0 {
        return truth.violation(format!("the last configuration is refused: {run:?}"));
    }
    until_some(15, || {
        site.status().filter(|status| {
            support::all_ready(status)
                && status["pools"]
                    .as_array()
                    .is_some_and(|pools| pools.len() == 1)
        })
    });
    let master = site.pid();
    let still = || {
        let before = proc::switches(master);
        support::spaced(Duration::from_secs(2));
        (before == proc::switches(master)).then_some(())
    };
    if until_some(30, still).is_none() {
        truth.violation("the master does not come to rest".to_owned());
    }
}

fn stop(site: &mut Site, truth: &Truth) {
    let run = site.rotad(&["stop"]);
    if run.code != 0 {
        truth.violation(format!("stop: {run:?}"));
    }
    let code = site.await_exit(20).code();
    if code != Some(0) {
        truth.violation(format!("the master left with {code:?}"));
    }
    if until_some(3, || site.processes().is_empty().then_some(())).is_none() {
        let left: Vec<_> = site
            .processes()
            .into_iter()
            .map(|pid| (pid, proc::command_line(pid)))
            .collect();
        truth.violation(format!("still running after the stop: {left:?}"));
    }
    for file in ["master.pid", "run/control.sock", "run/workers"] {
        if site.path(file).exists() {
            truth.violation(format!("{file} is left"));
        }
    }
    let sockets = std::fs::read_dir(site.path("run/notify")).map_or(0, Iterator::count);
    if sockets > 0 {
        truth.violation(format!("{sockets} notify sockets are left"));
    }
}

/// Every line that a worker has noted stands in a log. The last one of a worker that was killed may be missing: it had
/// not been printed.
fn lines(site: &Site, mode: Mode, truth: &Truth) {
    let entries = |dir: &str| {
        std::fs::read_dir(site.path(dir))
            .expect("a directory")
            .flatten()
    };
    let mut printed = BTreeSet::new();
    for entry in
        entries("").filter(|entry| entry.file_name().to_string_lossy().starts_with("lines.log"))
    {
        let text = std::fs::read(entry.path()).expect("a log");
        printed.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
    }
    let mut noted = 0;
    for entry in entries("own") {
        let text = std::fs::read_to_string(entry.path()).expect("what it noted");
        let own: Vec<&str> = text.lines().collect();
        let sure = own.len() - usize::from(mode == Mode::B && !own.is_empty());
        noted += own.len();
        let missing: Vec<&&str> = own[..sure]
            .iter()
            .filter(|line| !printed.contains(**line))
            .collect();
        if let Some(first) = missing.first() {
            truth.violation(format!(
                "{} of {} lines are in no log, the first: {first}",
                missing.len(),
                own.len()
            ));
        }
    }
    if noted == 0 {
        truth.violation("nobody has printed".to_owned());
    }
}
