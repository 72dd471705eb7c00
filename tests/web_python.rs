//! Python's web servers, unmodified, from PyPI: rolled under load. docs/programs/python.md tells what they lose without
//! the few lines of the examples.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;
use std::time::{Duration, Instant};
use support::example::{python, venv};
use support::load::{burst, get};
use support::site::{MASTER, finish};
use support::{Load, Site, alone, number, pids, pool, proc, until};

/// An example on its own: rolled five times without a loss, stopped, nothing left.
fn rolls_without_loss(program: &str, example: &str, change: impl Fn(&Site)) {
    if !python(program) {
        return;
    }
    let _alone = alone();
    let mut site = Site::example(example);
    change(&site);
    site.run();
    site.await_ready();
    site.roll_under_load(&["web"]).assert_nothing_lost(300);
    site.stop_politely(30);
}

/// The first new worker of a roll is not soaked for long.
fn brisk(site: &Site) {
    let text = site.read("rotad.toml");
    let table = if text.contains("[pool.web.reload]") {
        ""
    } else {
        "\n[pool.web.reload]\n"
    };
    site.write("rotad.toml", &format!("{text}{table}soak = \"200ms\"\n"));
}

/// And the loops wait a second for a request, not two.
fn brisk_loop(site: &Site) {
    site.change("drain.py", "GRACE = 2.0", "GRACE = 1.0");
    brisk(site);
}

#[test]
fn gunicorn() {
    rolls_without_loss("gunicorn", "gunicorn", brisk);
}

#[test]
fn one_gunicorn_with_all_the_workers() {
    rolls_without_loss("gunicorn", "gunicorn-one", brisk);
}

#[test]
fn gunicorn_with_kept_connections() {
    rolls_without_loss("gunicorn", "gunicorn", |site| {
        site.change(
            "rotad.toml",
            "\"--workers\", \"1\",",
            "\"--workers\", \"1\", \"--threads\", \"4\",",
        );
        brisk(site);
    });
}

#[test]
fn uvicorn() {
    rolls_without_loss("uvicorn", "uvicorn", brisk_loop);
}

#[test]
fn hypercorn() {
    rolls_without_loss("hypercorn", "hypercorn", brisk_loop);
}

#[test]
fn daphne() {
    rolls_without_loss("daphne", "daphne", brisk_loop);
}

/// What runs at TERM is answered: by themselves hypercorn would give it 3 s, and daphne none.
#[test]
fn long_requests_are_answered() {
    for name in ["uvicorn", "hypercorn", "daphne"]
        .into_iter()
        .filter(|name| python(name))
    {
        let mut site = Site::example(name);
        brisk_loop(&site);
        let text = site
            .read("app.py")
            .replace("import os\n", "import asyncio\nimport os\n");
        let slow =
            "    if scope[\"path\"] == \"/slow\":\n        await asyncio.sleep(4)\n    body = ";
        site.write("app.py", &text.replace("    body = ", slow));
        site.run();
        site.await_ready();
        let asked = Instant::now();
        let answers = burst(&site.address(), "/slow", 4);
        get(&site.address(), "/").expect("an answer: those before it are accepted");
        site.stop_politely(30);
        assert!(
            asked.elapsed() > Duration::from_secs(4),
            "{name}: it was stopped while they ran"
        );
        for answer in answers {
            let answer = answer
                .join()
                .expect("a client")
                .unwrap_or_else(|reason| panic!("{name}: {reason}"));
            assert!(answer.ends_with(&format!("{name}\n")), "{answer:?}");
        }
    }
}

/// The two examples that need the same lines have them.
#[test]
fn one_way_to_drain() {
    let of = |name| Site::example(name).read("drain.py");
    assert_eq!(of("hypercorn"), of("daphne"));
}

/// A worker of the one arbiter that is killed costs the request that it had; the arbiter starts another. A killed
/// arbiter takes all its workers with it: nobody is refused, all wait until the next one is there.
#[test]
fn one_gunicorn_and_its_deaths() {
    if !python("gunicorn") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("gunicorn-one");
    site.run();
    let arbiter = pids(&site.await_ready(), "web")[0];
    let workers = || -> Vec<i32> { proc::children(arbiter) };
    until("four workers", 20, || (workers().len() == 4).then_some(()));
    let load = Load::on(&site.address(), 4, 0);
    load.await_more(200);
    let victim = workers()[0];
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("a worker");
    until("a worker in its place", 20, || {
        let now = workers();
        (now.len() == 4 && !now.contains(&victim)).then_some(())
    });
    load.await_more(200);
    let after_worker = load.so_far().lost();
    assert!(
        after_worker <= 1,
        "a worker has one request at a time: {:?}",
        load.so_far().lost
    );
    let status = site.await_ready();
    assert_eq!(
        number(&pool(&status, "web")["workers"][0]["restarts"]),
        0.0,
        "the arbiter's affair"
    );
    kill(Pid::from_raw(arbiter), Signal::SIGKILL).expect("the arbiter");
    site.await_status("another arbiter", 20, |status| {
        support::all_ready(status) && pids(status, "web")[0] != arbiter
    });
    load.await_more(200);
    let report = load.stop();
    assert!(report.lost() - after_worker <= 4, "{:?}", report.lost);
    assert!(
        !report
            .lost
            .keys()
            .any(|reason| reason.starts_with("connect")),
        "{:?}",
        report.lost
    );
    site.stop_politely(30);
}

/// Python takes the inherited socket for one of AF_UNIX, and nobody but the listener says TCP_NODELAY: without it each
/// answer on a kept connection waits 44 ms for the client's delayed ACK.
#[test]
fn uvicorn_answers_at_once() {
    if !python("uvicorn") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("uvicorn");
    site.run();
    site.await_ready();
    let load = Load::on(&site.address(), 0, 1);
    load.await_more(10);
    let began = Instant::now();
    load.await_more(200);
    let took = began.elapsed();
    load.stop().assert_nothing_lost(200);
    assert!(
        took < Duration::from_secs(6),
        "200 answers took {took:?}; 44 ms for each would be 8.8 s"
    );
    site.stop_politely(30);
}

/// What the page names besides the examples: it starts, answers and stops.
#[test]
fn other_ways_to_the_socket() {
    let programs = ["gunicorn", "hypercorn", "daphne"];
    if !programs.into_iter().all(python) {
        return;
    }
    let _alone = alone();
    for (example, command) in [
        (
            "gunicorn",
            "env -u LISTEN_PID gunicorn --no-control-socket --bind fd://{fd:127.0.0.1:8000} app:app",
        ),
        (
            "hypercorn",
            "gunicorn --no-control-socket --worker-class asgi app:draining",
        ),
        ("hypercorn", "hypercorn --bind fd://3 app:app"),
        (
            "daphne",
            "daphne -e systemd:domain=INET:index=0 app:draining",
        ),
    ] {
        let mut site = Site::example(example);
        let pool =
            format!("{MASTER}[pool.web]\ncommand = \"{command}\"\nlisten = \"127.0.0.1:8000\"\n");
        site.configure(&pool.replace("127.0.0.1:8000", &site.address()));
        site.run();
        site.await_ready();
        let answer =
            get(&site.address(), "/").unwrap_or_else(|reason| panic!("{command}: {reason}"));
        assert!(
            answer.ends_with(&format!("1 {example}\n")),
            "{command}: {answer:?}"
        );
        site.stop_politely(30);
    }
}

/// The pool that `rotad init` writes beside an app.py.
#[test]
fn what_init_writes_for_gunicorn_serves() {
    if !python("gunicorn") {
        return;
    }
    let _alone = alone();
    let mut site = Site::example("gunicorn");
    std::fs::remove_file(site.path("rotad.toml")).expect("the example's own");
    site.write("wsgi.py", "from app import app\n\napplication = app\n");
    let mut init = Command::new(support::rotad());
    init.arg("init")
        .current_dir(site.path(""))
        .env_remove("ROTAD_CONFIG")
        .env("PATH", venv().join("bin"));
    let run = finish(init, 20);
    assert_eq!(run.code, 0, "{}", run.text());
    let text = site.read("rotad.toml");
    let pool = &text[text.find("\n[pool.web]\n").expect("a pool")..];
    let own = "env = { HOME = \"@DIR@\" }\n";
    site.configure(&format!(
        "{MASTER}{}{own}",
        pool.replace("127.0.0.1:8000", &site.address())
    ));
    site.run();
    site.await_ready();
    get(&site.address(), "/").expect("an answer");
    site.stop_politely(30);
}
