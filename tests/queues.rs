//! The queues that people use, with a real Redis: Celery, RQ, Sidekiq, and a loop in PHP that ends after so many jobs.
//! Rolled by USR2 with jobs in hand: none is lost, none is run twice. What takes longer than `stop` is named.

mod support;

use serde_json::Value;
use std::ops::Range;
use support::example::python;
use support::jobs::Server;
use support::need::program;
use support::{Site, all_ready, alone, pool, rolls, until};

/// How a client of each puts a range of jobs into the queue: `FROM` and `TO` are in its environment.
const CELERY: &[&str] = &[
    "python3",
    "-c",
    "import os, tasks
for n in range(int(os.environ['FROM']), int(os.environ['TO'])): tasks.resize.delay(str(n))",
];
const RQ: &[&str] = &[
    "python3",
    "-c",
    "import os, redis, rq, tasks
queue = rq.Queue(connection=redis.Redis.from_url(os.environ['REDIS']))
for n in range(int(os.environ['FROM']), int(os.environ['TO'])): queue.enqueue(tasks.resize, str(n))",
];
const SIDEKIQ: &[&str] = &[
    "ruby",
    "-r",
    "./worker.rb",
    "-e",
    "(ENV['FROM'].to_i...ENV['TO'].to_i).each { |n| Resize.perform_async(n) }",
];
const PHP: &[&str] = &[
    "php",
    "-r",
    "$redis = stream_socket_client('tcp://' . substr(getenv('REDIS'), 8, -2));
for ($n = (int) getenv('FROM'); $n < getenv('TO'); ++$n) { fwrite($redis, \"RPUSH jobs $n\\r\\n\"); fgets($redis); }",
];

const REGISTRIES: &str = "import os, redis, rq
queue = rq.Queue(connection=redis.Redis.from_url(os.environ['REDIS']))
print(len(queue), queue.started_job_registry.count, queue.failed_job_registry.count)";

struct Queue {
    server: Server,
    site: Site,
    client: &'static [&'static str],
}

impl Queue {
    /// The example on a Redis of the test's own, with a shorter soak.
    fn of(name: &str, needs: bool, client: &'static [&'static str]) -> Option<Self> {
        let server = if needs { Server::redis()? } else { return None };
        let site = Site::example(name);
        site.change("rotad.toml", "127.0.0.1:6379", &server.address());
        site.change(
            "rotad.toml",
            "[pool.jobs]\n",
            "[pool.jobs]\nreload = { soak = \"200ms\" }\n",
        );
        Some(Self {
            server,
            site,
            client,
        })
    }

    fn send(&self, jobs: Range<u64>) {
        let url = format!("redis://{}/0", self.server.address());
        let (from, to) = (jobs.start.to_string(), jobs.end.to_string());
        self.site.client(
            self.client,
            &[
                ("REDIS", &url),
                ("REDIS_URL", &url),
                ("FROM", &from),
                ("TO", &to),
            ],
        );
    }

    /// Rolling restarts, then TERM.
    fn each_job_once(mut self, ahead: u64) {
        let _alone = alone();
        self.site.run();
        self.site
            .await_status("every worker is ready", 60, all_ready);
        let sent = self
            .site
            .roll_with_jobs(rolls(), ahead, &|jobs| self.send(jobs));
        let ledger = self.site.ledger();
        ledger.tell(self.client[0], rolls());
        ledger.assert_each_once(&(0..sent));
        self.site.stop_politely(60);
    }

    /// One job that takes a minute, and a roll: it is named when it is cut. Gives the line's text.
    fn cut(&mut self) -> String {
        self.site.run();
        self.site
            .await_status("every worker is ready", 60, all_ready);
        self.send(0..1);
        until("the job in hand", 60, || {
            (self.site.ledger().in_hand() == 1).then_some(())
        });
        assert_eq!(self.site.rotad(&["roll", "jobs"]).code, 0);
        self.site
            .await_status("the old workers are gone", 60, all_ready);
        let events = self.site.rotad(&["events", "--json"]).out;
        let mut events = events
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        let kill = events.find(|event| event["cause"] == "stop-timeout");
        kill.map_or(String::new(), |event| {
            event["text"].as_str().expect("a text").to_owned()
        })
    }
}

fn celery() -> Option<Queue> {
    let queue = Queue::of("celery", python("celery"), CELERY)?;
    // Four at a time: the queue is not empty before the roll is over.
    queue
        .site
        .change("tasks.py", "time.sleep(0.1)", "time.sleep(0.4)");
    Some(queue)
}

#[test]
fn celery_runs_each_task_once() {
    let Some(queue) = celery() else { return };
    queue.each_job_once(40);
}

/// A task that is cut is lost: Celery takes it off the queue before it begins, unless told otherwise.
#[test]
fn celery_is_killed_after_its_stop_steps() {
    let Some(mut queue) = celery() else { return };
    queue
        .site
        .change("tasks.py", "time.sleep(0.4)", "time.sleep(60)");
    queue
        .site
        .change("rotad.toml", "count = 2", "count = 1\nstop = \"2s\"");
    let text = queue.cut();
    assert!(
        text.starts_with(
            "did not stop within 2.0 s: killed; its status: \"resize 0\"; its last line: "
        ),
        "{text}"
    );
    queue.site.stop_politely(60);
}

#[test]
fn rq_runs_each_job_once() {
    let Some(queue) = Queue::of("rq", python("rq"), RQ) else {
        return;
    };
    queue.each_job_once(40);
}

/// The job's process has a group of its own, and ends with its worker. RQ still counts the job as started.
#[test]
fn rq_is_killed_after_its_stop_steps() {
    let Some(mut queue) = Queue::of("rq", python("rq"), RQ) else {
        return;
    };
    queue
        .site
        .change("tasks.py", "time.sleep(0.1)", "time.sleep(60)");
    queue
        .site
        .change("rotad.toml", "count = 2", "count = 1\nstop = \"2s\"");
    let text = queue.cut();
    assert!(
        text.starts_with(
            "did not stop within 2.0 s: killed; its status: \"resize 0\"; its last line: "
        ),
        "{text}"
    );
    let url = format!("redis://{}/0", queue.server.address());
    let counts = queue
        .site
        .client(&["python3", "-c", REGISTRIES], &[("REDIS", &url)]);
    assert_eq!(counts.trim(), "0 1 0", "waiting, started, failed");
    queue.site.stop_politely(60);
}

#[test]
fn sidekiq_runs_each_job_once() {
    let Some(queue) = Queue::of("sidekiq", program("sidekiq"), SIDEKIQ) else {
        return;
    };
    queue.site.change("worker.rb", "sleep 0.1", "sleep 0.4");
    queue.each_job_once(40);
}

/// Sidekiq gives back what it has not finished within `-t`: it is run again, by the next worker. Its own idle threads
/// wait for jobs up to 2 s longer, and one of those that are being ended may take it and lose it: `-t` is more than that.
#[test]
fn sidekiq_returns_unfinished_jobs() {
    let Some(mut queue) = Queue::of("sidekiq", program("sidekiq"), SIDEKIQ) else {
        return;
    };
    queue.site.change("worker.rb", "sleep 0.1", "sleep 60");
    queue.site.change("rotad.toml", "\"290\"", "\"4\"");
    queue.site.change("rotad.toml", "count = 2", "count = 1");
    assert_eq!(queue.cut(), "");
    until("it runs again", 60, || {
        (queue.site.ledger().twice() == [0]).then_some(())
    });
    queue.site.stop_politely(60);
}

#[test]
fn php_worker_runs_each_job_once() {
    let Some(queue) = Queue::of("php-worker", program("php"), PHP) else {
        return;
    };
    queue.each_job_once(40);
}

/// A worker that ends with 0 after its jobs is no failure, and the next one starts immediately.
#[test]
fn exit_code_0_is_no_failure() {
    let Some(mut queue) = Queue::of("php-worker", program("php"), PHP) else {
        return;
    };
    queue
        .site
        .change("rotad.toml", "JOBS = \"50\"", "JOBS = \"3\"");
    queue.site.run();
    queue.site.await_ready();
    queue.send(0..60);
    queue.site.await_done(&(0..60));
    queue.site.ledger().assert_each_once(&(0..60));
    let status = queue.site.await_ready();
    assert_eq!(pool(&status, "jobs")["state"], "ok");
    let restarts = pool(&status, "jobs")["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(|one| &one["restarts"]);
    assert!(
        restarts.into_iter().all(|number| number == 0),
        "ends are not counted: {status}"
    );
    let log = queue.site.log();
    let ends = log.matches("exited with 0").count();
    let bad = |line: &&str| {
        line.contains("crash loop") || (line.contains("exited with") && line.contains("WARN"))
    };
    assert_eq!(log.lines().find(bad), None, "no failure");
    assert!(ends >= 18, "{ends} ends");
    let gaps = gaps(&queue.site);
    assert!(
        gaps.iter().min().is_some_and(|gap| *gap < 1000),
        "milliseconds from an end to the next: {gaps:?}"
    );
    queue.site.stop_politely(10);
}

/// Milliseconds from each end to the next worker's readiness, by slot.
fn gaps(site: &Site) -> Vec<u64> {
    let events = site.rotad(&["events", "--json"]).out;
    let mut ended = std::collections::BTreeMap::new();
    let mut gaps = Vec::new();
    for event in events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an event"))
    {
        let time =
            humantime::parse_rfc3339(event["time"].as_str().expect("a time")).expect("a time");
        let slot = event["slot"].as_u64();
        if event["event"] == "exit" {
            ended.insert(slot, time);
        } else if event["event"] == "ready"
            && let Some(end) = ended.remove(&slot)
        {
            gaps.push(
                time.duration_since(end)
                    .map_or(0, |gap| gap.as_millis() as u64),
            );
        }
    }
    gaps
}
