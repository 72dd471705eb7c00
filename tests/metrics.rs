//! `rotad metrics`: what a real master counts, over its own death too, and what it measures.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use support::site::finish;
use support::{Served, Site, need, pids, pool, until};

/// The samples of a page, by name and labels.
type Samples = BTreeMap<String, f64>;

fn page(site: &Site, arguments: &[&str]) -> String {
    let run = site.rotad(&[&["metrics"], arguments].concat());
    assert_eq!((run.code, run.err.as_str()), (0, ""), "{run:?}");
    run.out
}

fn samples(site: &Site) -> Samples {
    let page = page(site, &[]);
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    samples_of(&page)
}

fn samples_of(page: &str) -> Samples {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    });
    let pairs: Vec<(String, f64)> = pairs.collect();
    let samples: Samples = pairs.iter().cloned().collect();
    assert_eq!(samples.len(), pairs.len(), "no series twice: {page}");
    samples
}

fn value(samples: &Samples, name: &str) -> f64 {
    *samples
        .get(name)
        .unwrap_or_else(|| panic!("no {name} in {samples:#?}"))
}

/// Waits until the metrics say so.
fn await_samples(site: &Site, what: &str, is: impl Fn(&Samples) -> bool) -> Samples {
    let mut last = Samples::new();
    until(what, 20, || {
        last = samples(site);
        is(&last).then_some(())
    });
    last
}

/// The names of samples that only grow.
fn counters(samples: &Samples) -> impl Iterator<Item = (&String, f64)> {
    let counts = |name: &str| {
        let name = name.split('{').next().unwrap_or_default();
        ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let all = samples.iter().map(|(name, value)| (name, *value));
    all.filter(move |(name, _)| counts(name))
}

const EVERYTHING: &str = r#"
[pool.web]
command = ["sh", "-c", "echo hello; exec @WORKER@ http --code @DIR@/code"]
count = 2
listen = ["http"]
reload = { soak = "50ms" }
[listen.http]
address = "127.0.0.1:@PORT@"

[pool.deaf]
kind = "task"
command = ["sh", "-c", "trap '' TERM; while :; do sleep 600; done"]
ready = "spawned"
stop = "100ms"

[pool.old]
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
[pool.old.recycle]
max_age = "1s"

[pool.sick]
command = ["@WORKER@", "wait", "--notify"]
ready = "notify"
stop = "1s"
restart = { delay = "10s" }
[pool.sick.health]
command = ["false"]
every = "100ms"
failures = 2

[pool.ends]
kind = "task"
command = ["true"]
ready = "spawned"
restart = { policy = "on-failure" }

[pool.absent]
command = ["@DIR@/no-such-program"]
ready = "spawned"
restart = { delay = "1min", max_delay = "1min" }
"#;

/// What has not happened meanwhile is counted as before.
fn same_counters(before: &Samples, after: &Samples) {
    for name in [
        "rotad_worker_starts_total{pool=\"web\"}",
        "rotad_worker_kills_total{pool=\"deaf\"}",
        "rotad_worker_deaths_total{pool=\"web\",cause=\"exited\"}",
        "rotad_worker_ready_seconds_sum{pool=\"web\"}",
        "rotad_log_bytes_total{pool=\"web\"}",
        "rotad_rolls_total{pool=\"web\",outcome=\"done\"}",
        "rotad_config_last_reload_successful",
        "rotad_config_last_reload_success_timestamp_seconds",
    ] {
        assert_eq!(value(after, name), value(before, name), "{name}");
    }
}

/// A death, a recycle, a kill, a roll, one that fails, one that is put back; and a master that is killed: nothing is
/// counted twice, nothing is forgotten.
#[test]
fn everything_that_happens_is_counted() {
    let mut site = Site::new(EVERYTHING);
    site.write("code", "ok");
    site.run();
    let status = site.await_status("web serves", 20, |status| {
        pool(status, "web")["ready"] == 2 && pool(status, "ends")["state"] == "done"
    });

    // An end that nobody had asked for.
    kill(Pid::from_raw(pids(&status, "web")[0]), Signal::SIGKILL).expect("a worker");
    site.await_status("it is replaced", 10, |now| {
        pool(now, "web")["ready"] == 2 && pids(now, "web") != pids(&status, "web")
    });
    // One that an operator replaces.
    assert_eq!(site.rotad(&["roll", "web/1", "--drained"]).code, 0);
    // One that is cut short.
    assert_eq!(site.rotad(&["stop", "deaf"]).code, 0);
    // Rolls: done, failed in place, and failed with a configuration, which is put back.
    assert_eq!(site.rotad(&["roll", "web", "--drained"]).code, 0);
    site.write("code", "exit 3");
    assert_eq!(site.rotad(&["roll", "web"]).code, 10);
    site.write("code", "ok");
    let before = samples(&site);
    assert_eq!(
        value(&before, "rotad_config_last_reload_successful"),
        1.0,
        "a roll reads no configuration"
    );
    let broken = "echo hello; [ $ROTAD_SLOT = 0 ] || exit 4;";
    site.edit("echo hello;", broken);
    assert_eq!(site.rotad(&["reload", "web"]).code, 10);
    site.edit(broken, "echo hello;");

    let now = await_samples(&site, "all of it is counted", |now| {
        let of = |name: &str| now.get(name).copied().unwrap_or_default();
        of("rotad_worker_recycled_total{pool=\"old\",cause=\"max_age\"}") >= 1.0
            && of("rotad_worker_deaths_total{pool=\"sick\",cause=\"unhealthy\"}") >= 1.0
            && of("rotad_worker_drain_seconds_count{pool=\"web\"}") >= 5.0
    });
    let is =
        |name: &str, expected: f64| assert_eq!(value(&now, name), expected, "{name}: {now:#?}");
    is(
        "rotad_worker_deaths_total{pool=\"web\",cause=\"signaled\"}",
        1.0,
    );
    is(
        "rotad_worker_deaths_total{pool=\"web\",cause=\"exited\"}",
        2.0,
    );
    is(
        "rotad_worker_deaths_total{pool=\"web\",cause=\"finished\"}",
        0.0,
    );
    is(
        "rotad_worker_deaths_total{pool=\"ends\",cause=\"finished\"}",
        1.0,
    );
    is(
        "rotad_worker_deaths_total{pool=\"absent\",cause=\"spawn_failed\"}",
        1.0,
    );
    is(
        "rotad_worker_recycled_total{pool=\"web\",cause=\"request\"}",
        1.0,
    );
    is(
        "rotad_worker_recycled_total{pool=\"web\",cause=\"max_age\"}",
        0.0,
    );
    is(
        "rotad_worker_recycled_total{pool=\"old\",cause=\"request\"}",
        0.0,
    );
    is("rotad_worker_kills_total{pool=\"deaf\"}", 1.0);
    is("rotad_worker_kills_total{pool=\"web\"}", 0.0);
    // 2 first ones, 1 for the dead one, 1 for the operator's, 2 of the roll, 1 that failed, and of the last roll the one
    // that came up, the one that did not, and the one that took the first one's place.
    is("rotad_worker_starts_total{pool=\"web\"}", 10.0);
    is("rotad_worker_ready_seconds_count{pool=\"web\"}", 8.0);
    is("rotad_worker_drain_seconds_count{pool=\"web\"}", 5.0);
    is("rotad_worker_drain_seconds_count{pool=\"deaf\"}", 1.0);
    assert!(value(&now, "rotad_worker_drain_seconds_sum{pool=\"deaf\"}") >= 0.1);
    is("rotad_rolls_total{pool=\"web\",outcome=\"done\"}", 1.0);
    is("rotad_rolls_total{pool=\"web\",outcome=\"aborted\"}", 1.0);
    is(
        "rotad_rolls_total{pool=\"web\",outcome=\"rolled_back\"}",
        1.0,
    );
    is("rotad_roll_duration_seconds_count{pool=\"web\"}", 3.0);
    is("rotad_roll_in_progress{pool=\"web\"}", 0.0);
    is("rotad_pool_workers_ready{pool=\"web\"}", 2.0);
    is("rotad_pool_workers_wanted{pool=\"deaf\"}", 0.0);
    is("rotad_pool_state{pool=\"deaf\",state=\"stopped\"}", 1.0);
    is("rotad_pool_state{pool=\"deaf\",state=\"ok\"}", 0.0);
    is("rotad_config_last_reload_successful", 0.0);
    assert!(value(&now, "rotad_health_failures_total{pool=\"sick\"}") >= 2.0);
    // Each of the ten said hello, and one of them has printed an empty line.
    is("rotad_log_bytes_total{pool=\"web\"}", 61.0);
    is("rotad_log_lost_bytes_total{pool=\"web\"}", 0.0);
    let retry = value(&now, "rotad_pool_retry_timestamp_seconds{pool=\"absent\"}");
    let start = value(&now, "rotad_master_start_time_seconds");
    assert!((30.0..80.0).contains(&(retry - start)), "{retry} {start}");
    assert!(!now.contains_key("rotad_pool_retry_timestamp_seconds{pool=\"web\"}"));

    // The next master goes on counting.
    let before = samples(&site);
    let master = site.pid();
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("a master");
    let after = await_samples(&site, "another master answers", |now| {
        value(now, "rotad_master_restarts_total") == 1.0
    });
    for (name, was) in counters(&before) {
        // Processor time is a process's own.
        if !name.contains("cpu_seconds") {
            assert!(value(&after, name) >= was, "{name} was {was}: {after:#?}");
        }
    }
    same_counters(&before, &after);
    let began = value(&after, "rotad_master_start_time_seconds");
    assert!(began > start);
    // And the one that an upgrade brings.
    let run = site.rotad(&["upgrade"]);
    assert_eq!(run.code, 0, "{run:?}");
    let upgraded = samples(&site);
    same_counters(&before, &upgraded);
    assert!(value(&upgraded, "rotad_master_start_time_seconds") > began);

    // A reload applies; a pool that is removed takes its series with it, a pool that stays keeps them.
    let text = site.read("rotad.toml");
    let (first, rest) = text.split_once("[pool.deaf]").expect("deaf");
    let (_, rest) = rest.split_once("[pool.old]").expect("old");
    site.write("rotad.toml", &format!("{first}[pool.old]{rest}"));
    assert_eq!(site.rotad(&["reload", "--config"]).code, 0);
    let now = samples(&site);
    assert_eq!(value(&now, "rotad_config_last_reload_successful"), 1.0);
    assert!(
        now.keys().all(|name| !name.contains("\"deaf\"")),
        "{now:#?}"
    );
    assert_eq!(value(&now, "rotad_worker_kills_total{pool=\"web\"}"), 0.0);
    assert!(value(&now, "rotad_worker_starts_total{pool=\"web\"}") >= 8.0);
    // What is refused is not in force.
    site.edit("[pool.old]", "[pool.old]\nnonsense = 1");
    assert_eq!(site.rotad(&["reload"]).code, 78);
    let now = samples(&site);
    assert_eq!(value(&now, "rotad_config_last_reload_successful"), 0.0);
}

const QUEUES: &str = r#"
[pool.waits]
command = ["@WORKER@", "wait"]
ready = "spawned"
listen = ["http", "file"]
[listen.http]
address = "127.0.0.1:@PORT@"
backlog = 3
[listen.file]
address = "unix:@DIR@/socket"
backlog = 9
"#;

/// Clients wait for a worker that accepts none of them: the queues show it, before and after it overflows.
#[test]
fn a_queue_that_fills_is_seen() {
    let site = Site::up(QUEUES);
    let empty = samples(&site);
    let queue = "rotad_listener_queue_connections";
    assert_eq!(value(&empty, &format!("{queue}{{listen=\"http\"}}")), 0.0);
    assert_eq!(
        value(
            &empty,
            "rotad_listener_backlog_connections{listen=\"http\"}"
        ),
        3.0
    );
    assert_eq!(
        value(&empty, "rotad_listener_overflows_total{listen=\"http\"}"),
        0.0
    );
    let _files: Vec<UnixStream> = (0..2)
        .map(|_| UnixStream::connect(site.path("socket")).expect("a connection"))
        .collect();
    let _clients: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(site.address()).expect("a connection"))
        .collect();
    let now = samples(&site);
    assert_eq!(value(&now, &format!("{queue}{{listen=\"http\"}}")), 3.0);
    assert_eq!(value(&now, &format!("{queue}{{listen=\"file\"}}")), 2.0);
    assert_eq!(
        value(&now, "rotad_listener_backlog_connections{listen=\"file\"}"),
        9.0
    );
    assert!(
        !now.contains_key("rotad_listener_overflows_total{listen=\"file\"}"),
        "what a unix socket does not tell has no sample: {now:#?}"
    );
    // The kernel takes one more than the backlog; those behind it are dropped.
    let address = site.address().parse().expect("an address");
    let some = std::time::Duration::from_millis(20);
    let more: Vec<_> = (0..5)
        .map(|_| TcpStream::connect_timeout(&address, some))
        .collect();
    assert!(more.iter().any(Result::is_err), "{more:?}");
    await_samples(&site, "connections were dropped", |now| {
        value(now, "rotad_listener_overflows_total{listen=\"http\"}") >= 1.0
    });
}

/// The log's disk is full: what is dropped is counted, and not as written.
#[test]
fn lost_output_is_counted() {
    let mut site = Site::new(
        "[pool.loud]\nkind = \"task\"\nready = \"spawned\"\n\
         command = [\"yes\", \"0123456789012345678901234567890\"]\n",
    );
    let log = format!("log_file = \"{}\"", site.path("master.log").display());
    let text = site.read("rotad.toml");
    assert!(text.contains(&log), "{text}");
    site.configure(&text.replace(&log, "log_file = \"/dev/full\""));
    site.run();
    let lost = "rotad_log_lost_bytes_total{pool=\"loud\"}";
    site.await_ready();
    let now = await_samples(&site, "output is lost", |now| value(now, lost) > 0.0);
    assert_eq!(value(&now, "rotad_log_bytes_total{pool=\"loud\"}"), 0.0);
    assert_eq!(value(&now, lost) % 32.0, 0.0, "whole lines: {now:#?}");
}

const PLAIN: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["http"]
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// Two processes that share 32 MiB, and a third one that has left them and stays in their session.
const SHARING: &str = r#"
[pool.web]
command = ["python3", "-c", """
import os, signal
shared = bytearray(b'x' * (32 << 20))
if os.fork() == 0:
    if os.fork():
        os._exit(0)
    signal.pause()
os.wait()
os.fork()
open('forked-' + os.environ['ROTAD_SLOT'], 'w').close()
signal.pause()
"""]
count = 2
ready = "spawned"
stop = "1s"
reload = { soak = "10ms" }
"#;

/// Memory that the processes of a worker share counts once, for who asks and may read it.
#[test]
fn shared_memory_counts_by_its_part() {
    let site = Site::up(SHARING);
    let begin = "rotad_worker_proportional_memory_bytes";
    until("all have forked", 10, || {
        let forked = |slot: u32| site.path(&format!("forked-{slot}")).exists();
        (forked(0) && forked(1)).then_some(())
    });
    let plain = samples(&site);
    assert!(plain.keys().all(|name| !name.starts_with(begin)));
    let served = Served::of(&site, &["--pss"]);
    let pages = [
        page(&site, &["--pss"]),
        served.get("/metrics").body.to_owned(),
    ];
    for page in pages {
        let now = samples_of(&page);
        for slot in 0..2 {
            let of = |name: &str| value(&now, &format!("{name}{{pool=\"web\",slot=\"{slot}\"}}"));
            let (rss, pss) = (of("rotad_worker_resident_memory_bytes"), of(begin));
            let shared = f64::from(32 << 20);
            assert!(rss > 3.0 * shared, "three processes: {now:#?}");
            assert!((shared..2.0 * shared).contains(&pss), "{pss} of {rss}");
        }
    }
    assert_eq!(served.said().lines().count(), 1, "{}", served.said());
    if !need::root() || !need::program("setpriv") {
        return;
    }
    // Who may not trace the workers gets the rest of the page, and the reason.
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(support::rotad())
        .args(["metrics", "--pss", "-c"])
        .arg(&site.config);
    let run = finish(command, 20);
    assert_eq!(run.code, 0, "{run:?}");
    let now = samples_of(&run.out);
    assert!(now.keys().all(|name| !name.starts_with(begin)), "{now:#?}");
    assert_eq!(now.len(), plain.len());
    for said in ["2 of 2 workers", "/smaps_rollup: Permission denied"] {
        assert!(run.err.contains(said), "{}", run.err);
    }
}

/// Programs that read such pages take ours: Prometheus' own linter, and a strict parser of OpenMetrics.
#[test]
fn readers_of_metrics_take_the_page() {
    if !need::program("promtool") {
        return;
    }
    let site = Site::up(PLAIN);
    let text = page(&site, &["--format", "text", "--pss"]);
    assert!(text.contains("rotad_worker_proportional_memory_bytes{"));
    let (code, said) = feed(Command::new("promtool").args(["check", "metrics"]), &text);
    assert_eq!((code, said.as_str()), (0, ""));
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let parse = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
                 print(len([f for f in parse(sys.stdin.read()) if f.samples]))";
    let text = page(&site, &["--pss"]);
    let families = text.lines().filter(|line| line.starts_with("# TYPE "));
    let (code, said) = feed(Command::new(python).args(["-c", parse]), &text);
    assert_eq!(
        (code, said.trim()),
        (0, families.count().to_string().as_str())
    );
}

/// Runs a command with this input; its exit code and what it said.
fn feed(command: &mut Command, input: &str) -> (i32, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin");
    stdin
        .write_all(input.as_bytes())
        .expect("all of it is read");
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Without a master, and on a pipe that is closed, it ends as every command does.
#[test]
fn without_a_master_it_says_so() {
    let site = Site::new(PLAIN);
    let run = site.rotad(&["metrics"]);
    assert_eq!((run.code, run.out.as_str()), (4, ""), "{run:?}");
    let run = site.rotad(&["metrics", "--format", "xml"]);
    assert_eq!(run.code, 2, "{run:?}");
}
