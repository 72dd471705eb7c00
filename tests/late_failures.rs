//! Workers of whom nothing is known but that they live, and that fail late: no deploy of them is ever called done, and a
//! pool of them never looks well.

mod support;

use serde_json::Value;
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use support::example::python;
use support::jobs::Server;
use support::need::program;
use support::site::Run;
use support::{Site, all_ready, never, number, pids, pool, until};

/// Seconds after which an import fails.
const DELAYS: [&str; 4] = ["0.5", "2.5", "5", "9"];
const GOOD: &str = "exec sleep 600\n";
const BROKEN: &str =
    "sleep $LATE; echo \"ModuleNotFoundError: No module named 'nosuch'\" >&2; exit 1\n";

/// How the new code comes: a directory of its own and a link that is turned, or over the old files.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Directories,
    InPlace,
}

impl Place {
    /// The first release.
    fn begin(self, site: &Site, files: &[(&str, &str)]) {
        let first = if self == Place::Directories {
            "releases/1"
        } else {
            "current"
        };
        put(site, first, files);
        if self == Place::Directories {
            symlink("releases/1", site.path("current")).expect("a link");
        }
    }

    /// The next one.
    fn deploy(self, site: &Site, files: &[(&str, &str)]) {
        if self == Place::InPlace {
            return put(site, "current", files);
        }
        put(site, "releases/2", files);
        symlink("releases/2", site.path("next")).expect("a link");
        std::fs::rename(site.path("next"), site.path("current")).expect("a turned link");
    }
}

fn put(site: &Site, dir: &str, files: &[(&str, &str)]) {
    std::fs::create_dir_all(site.path(dir)).expect("a directory");
    for (name, text) in files {
        site.write(&format!("{dir}/{name}"), text);
    }
}

/// A pool whose workers are known by their age alone.
fn job(name: &str, count: u32, late: &str, more: &str) -> String {
    format!(
        "[pool.{name}]\ncommand = [\"sh\", \"job.sh\"]\ncount = {count}\nworking_directory = \"@DIR@/current\"\n\
         env = {{ LATE = \"{late}\"{more} }}\n"
    )
}

fn reload(site: &Site) -> Run {
    support::site::verb(&site.config, &["reload"], 120)
}

/// Neither an exit code, nor a line, nor the status says that this deploy is done or that its workers serve.
fn assert_not_done(site: &Site, run: &Run, names: &[String]) -> Value {
    assert!([1, 10].contains(&run.code), "{run:?}");
    let text = run.text();
    for word in [": done", "serves, ready after"] {
        assert!(!text.contains(word), "{word:?}: {text}");
    }
    let status = site.status().expect("a status");
    for name in names {
        let reload = &pool(&status, name)["reload"]["state"];
        assert!(
            ["aborted", "rolled-back"].contains(&reload.as_str().expect("a state")),
            "{name} is {reload}: {text}"
        );
        assert_eq!(pool(&status, name)["generation"], 1, "{name}");
    }
    status
}

/// All four delays, each with 1 to 8 workers, in one deploy: the first new worker of each fails while the old ones work.
fn first_of_each(place: Place) {
    let counts = 1..=8;
    let names: Vec<(String, u32, &str)> = DELAYS
        .iter()
        .flat_map(|late| {
            counts.clone().map(move |count| {
                (
                    format!("late{}x{count}", late.replace('.', "")),
                    count,
                    *late,
                )
            })
        })
        .collect();
    let mut text = String::new();
    for (name, count, late) in &names {
        let _ = write!(text, "{}", job(name, *count, late, ""));
    }
    let mut site = Site::new(&text);
    place.begin(&site, &[("job.sh", GOOD)]);
    site.run();
    let before = site.await_status("every worker is alive", 60, all_ready);
    place.deploy(&site, &[("job.sh", BROKEN)]);
    let run = reload(&site);
    let names: Vec<String> = names.into_iter().map(|(name, ..)| name).collect();
    let status = assert_not_done(&site, &run, &names);
    for name in &names {
        assert_eq!(
            pids(&status, name),
            pids(&before, name),
            "the old workers of {name} were touched: {run:?}"
        );
    }
    let alive = run
        .out
        .lines()
        .filter(|line| line.contains("is alive after"))
        .count();
    assert!(
        alive >= 3 * 8,
        "{alive} first workers were seen alive: {}",
        run.out
    );
}

#[test]
fn a_late_failure_of_the_first_worker_is_rolled_back_with_releases() {
    first_of_each(Place::Directories);
}

#[test]
fn a_late_failure_of_the_first_worker_is_told_in_place() {
    first_of_each(Place::InPlace);
}

/// Only the second, or the last, of the new workers fails, when its old one has been stopped: back to the old generation,
/// or, where its files are gone, not done at least.
fn a_later_one(place: Place) {
    let cases = [
        ("second", 2, "2.5", 1),
        ("last", 4, "2.5", 3),
        ("verylast", 3, "9", 2),
    ];
    let text: String = cases
        .iter()
        .map(|(name, count, late, bad)| job(name, *count, late, &format!(", BAD = \"{bad}\"")))
        .collect();
    let mut site = Site::new(&text);
    place.begin(&site, &[("job.sh", GOOD)]);
    site.run();
    let before = site.await_status("every worker is alive", 30, all_ready);
    place.deploy(
        &site,
        &[(
            "job.sh",
            &format!("[ $ROTAD_SLOT = $BAD ] || {GOOD}{BROKEN}"),
        )],
    );
    let run = reload(&site);
    let names: Vec<String> = cases.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_not_done(&site, &run, &names);
    assert!(
        run.out.contains("every new worker is alive"),
        "the last one failed while it was watched: {}",
        run.out
    );
    if place == Place::InPlace {
        return;
    }
    assert_eq!(run.code, 10, "{run:?}");
    let status = site.await_status("the old generation", 20, all_ready);
    for name in &names {
        assert_eq!(
            pool(&status, name)["reload"]["state"],
            "rolled-back",
            "{run:?}"
        );
        let workers = pool(&status, name)["workers"].as_array().expect("workers");
        assert!(
            workers.iter().all(|worker| worker["generation"] == 1),
            "{workers:?}"
        );
        assert_ne!(
            pids(&status, name),
            pids(&before, name),
            "{name} had been replaced"
        );
    }
}

#[test]
fn a_late_failure_of_another_worker_is_rolled_back_with_releases() {
    a_later_one(Place::Directories);
}

#[test]
fn a_late_failure_of_another_worker_is_told_in_place() {
    a_later_one(Place::InPlace);
}

/// Started with code that fails late: whatever the delay, it is a crash loop before long, and then never looks well again.
#[test]
fn a_pool_that_fails_late_never_looks_well() {
    let cases = [
        ("a", 1, "2.5"),
        ("b", 4, "2.5"),
        ("c", 2, "5"),
        ("d", 1, "9"),
        ("e", 3, "9"),
    ];
    let text: String = cases
        .iter()
        .map(|(name, count, late)| job(name, *count, late, ""))
        .collect();
    let mut site = Site::new(&text);
    Place::InPlace.begin(&site, &[("job.sh", BROKEN)]);
    site.run();
    let state = |status: &Value, name: &str| {
        pool(status, name)["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    };
    site.await_status("crash loops", 90, |status| {
        cases
            .iter()
            .all(|(name, ..)| state(status, name) == "crash-loop")
    });
    never("a pool looked well", 12.0, || {
        let status = site.status()?;
        let wrong = cases
            .iter()
            .find(|(name, ..)| state(&status, name) != "crash-loop")?;
        Some((wrong.0, status))
    });
    // Mended: it comes back by itself, and the loop is over once one has lasted.
    site.write("current/job.sh", GOOD);
    site.await_status("every pool came back", 60, |status| {
        all_ready(status) && cases.iter().all(|(name, ..)| state(status, name) == "ok")
    });
    site.await_log("crash loop is over", 10);
}

/// Nobody ready is never degraded, also before the crash loop is known.
#[test]
fn nobody_ready_is_never_degraded() {
    let mut site = Site::new(&job("jobs", 1, "2.5", ""));
    Place::InPlace.begin(&site, &[("job.sh", BROKEN)]);
    site.run();
    let mut seen = std::collections::BTreeSet::new();
    until("a crash loop", 30, || {
        let status = site.status()?;
        let jobs = pool(&status, "jobs");
        let state = jobs["state"].as_str().expect("a state").to_owned();
        assert!(
            jobs["ready"] != 0 || ["starting", "crash-loop"].contains(&state.as_str()),
            "{status}"
        );
        assert!(jobs["ready"] == 0 || state != "degraded", "{status}");
        seen.insert(state.clone());
        (state == "crash-loop").then_some(())
    });
    assert!(seen.contains("starting") && seen.contains("ok"), "{seen:?}");
}

/// Code that is well: done, but only when each new worker has lived for ten seconds; every line says alive.
#[test]
fn a_worker_ready_by_age_is_shown_as_alive() {
    let site = Site::new(&job("jobs", 2, "0", ""));
    Place::Directories.begin(&site, &[("job.sh", GOOD)]);
    let check = site.rotad(&["check"]);
    assert_eq!(check.code, 0, "{check:?}");
    assert!(
        check
            .text()
            .contains("nothing but its age says that a worker is ready"),
        "{check:?}"
    );
    let start = site.rotad(&["start"]);
    assert_eq!(start.code, 0, "{start:?}");
    assert!(
        start
            .out
            .contains("jobs: 2 workers alive, nothing says more"),
        "{start:?}"
    );
    let table = site.rotad(&["status", "jobs"]).out;
    assert!(table.contains(" alive "), "{table}");
    assert!(
        site.rotad(&["status"])
            .out
            .contains("alive, nothing says more")
    );
    let status = site.status().expect("a status");
    let worker = &pool(&status, "jobs")["workers"][0];
    assert_eq!(
        (&worker["state"], &worker["ready_by"]),
        (&"ready".into(), &"age".into()),
        "{status}"
    );
    Place::Directories.deploy(&site, &[("job.sh", &format!("# new\n{GOOD}"))]);
    let run = reload(&site);
    assert_eq!(run.code, 0, "{run:?}");
    // The first soaks for ten seconds, the last lives for as long.
    assert!((22.0..40.0).contains(&run.took.as_secs_f64()), "{run:?}");
    assert!(!run.out.contains("serve"), "{run:?}");
    for line in [
        "watched for 10.0 s before others",
        "is alive, nothing says that it is ready (1 of 2)",
        "(2 of 2)",
    ] {
        assert!(run.out.contains(line), "{line}: {run:?}");
    }
    assert!(
        run.out.contains("jobs: done: generation 2") && run.out.contains("alive, nothing says"),
        "{run:?}"
    );
    let events = site.rotad(&["events"]).out;
    for text in [
        "alive after 1.",
        "its successor is alive: stopping",
        "every worker is alive",
    ] {
        assert!(events.contains(text), "{text}: {events}");
    }
    assert!(!events.contains("serves"), "{events}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// Every worker of the pool is ready: by its age, or (null) since it said so.
fn is_ready_by(status: &Value, by: &Value) -> bool {
    let workers = pool(status, "jobs")["workers"].as_array();
    workers.is_some_and(|workers| {
        !workers.is_empty()
            && workers
                .iter()
                .all(|worker| worker["state"] == "ready" && worker["ready_by"] == *by)
    })
}

/// READY=1 that comes after the worker was called alive: from then on it is ready, and soaks no longer than others.
#[test]
fn a_late_ready_worker_ends_the_failure() {
    let mut site = Site::new(
        "[pool.jobs]\ncommand = [\"@WORKER@\", \"wait\", \"--notify\", \"--start-ms\", \"2500\"]\ncount = 2\n",
    );
    site.run();
    site.await_status("alive", 20, |status| is_ready_by(status, &"age".into()));
    site.await_status("ready", 20, |status| is_ready_by(status, &Value::Null));
    let run = site.rotad(&["roll", "jobs"]);
    assert_eq!(run.code, 0, "{run:?}");
    // 2.5 s and a second of soak, then 2.5 s: nobody was watched for ten seconds.
    assert!((5.5..12.0).contains(&run.took.as_secs_f64()), "{run:?}");
    let said = site
        .rotad(&["events"])
        .out
        .matches("says that it is ready")
        .count();
    assert!(said >= 4, "{said} confirmed");
}

/// Real queue workers, as a new user would run them, with an import that fails after so long.
fn real(name: &str, file: &str, from: &str, broken: &str, late: &str) {
    let Some(server) = Server::redis() else {
        return;
    };
    let site = Site::example(name);
    let mut text = site
        .read("rotad.toml")
        .replace("127.0.0.1:6379", &server.address());
    let ready = text
        .lines()
        .find(|line| line.starts_with("ready = "))
        .expect("a ready")
        .to_owned();
    text = text.replace(&ready, "");
    site.write("rotad.toml", &text);
    let code = site.read(file);
    assert!(code.contains(from), "{file}: {code}");
    let mut site = site;
    site.run();
    // They say so themselves: before that they may not have read the file that is changed now.
    let before = site.await_status("every worker is up", 60, |status| {
        all_ready(status) && is_ready_by(status, &Value::Null)
    });
    site.write(file, &code.replace(from, &broken.replace("@LATE@", late)));
    let run = reload(&site);
    let status = assert_not_done(&site, &run, &["jobs".to_owned()]);
    assert_eq!(pids(&status, "jobs"), pids(&before, "jobs"), "{run:?}");
    assert!(run.text().contains("nosuch"), "the reason is told: {run:?}");
    assert!(number(&pool(&status, "jobs")["ready"]) >= 2.0, "{status}");
}

#[test]
fn celery_that_fails_late_is_noticed() {
    if python("celery") {
        real(
            "celery",
            "tasks.py",
            "import os\n",
            "import os, time\ntime.sleep(@LATE@)\nimport nosuch\n",
            "2.5",
        );
    }
}

#[test]
fn rq_that_fails_late_is_noticed() {
    if python("rq") {
        let broken = "import time\ntime.sleep(@LATE@)\nimport nosuch\nimport tasks";
        real("rq", "worker.py", "import tasks", broken, "5");
    }
}

#[test]
fn sidekiq_that_fails_late_is_noticed() {
    if program("sidekiq") {
        real(
            "sidekiq",
            "worker.rb",
            "require \"sidekiq\"\n",
            "require \"sidekiq\"\nsleep @LATE@\nrequire \"nosuch\"\n",
            "2.5",
        );
    }
}

#[test]
fn a_php_loop_that_fails_late_is_noticed() {
    if program("php") {
        let broken = "usleep((int) (@LATE@ * 1e6));\nrequire 'nosuch.php';\n$redis = stream";
        real("php-worker", "worker.php", "$redis = stream", broken, "9");
    }
}
