//! `rotad start`: a daemon by the book, one master, and an honest answer.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;
use support::{Site, alone, pids, pool, proc, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--code", "@DIR@/code"]
count = 2
listen = ["http"]
ready_timeout = "5s"
stop = "2s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn site(pools: &str, code: &str) -> Site {
    let site = Site::new(pools);
    site.write("code", code);
    site
}

/// Fork, setsid, fork, chdir, umask, descriptors; answers when every pool is ready; USR1, HUP and TERM are handled.
#[test]
fn the_daemon_is_detached_as_documented() {
    let site = site(WEB, "ok\nfirst");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.status().expect("a status");
    assert!(
        support::all_ready(&status),
        "ready when it returns: {status}"
    );
    let master = site.pid();
    assert_eq!(status["master"]["pid"], master);
    let guardian = site.guardian();
    assert_eq!(status["master"]["guardian"], guardian);
    let stats = [guardian, master].map(|pid| proc::stat(pid).expect("its state"));
    let [parent, group, session] = [1, 2, 3].map(|field| &stats[0][field]);
    assert_ne!(
        parent,
        &std::process::id().to_string(),
        "its starter is not its parent"
    );
    assert_eq!(group, session);
    assert_eq!(
        &stats[1][2],
        &master.to_string(),
        "a signal to the guardian's group reaches the master once"
    );
    for (pid, stat) in [guardian, master].into_iter().zip(&stats) {
        assert_eq!(&stat[3], session);
        assert_ne!(
            session,
            &pid.to_string(),
            "no leader of a session: it can never get a terminal"
        );
        assert_eq!(stat[4], "0", "no terminal");
        assert_eq!(
            std::fs::read_link(format!("/proc/{pid}/cwd")).expect("its directory"),
            std::path::Path::new("/")
        );
        assert_eq!(proc::status(pid, "Umask").as_deref(), Some("0022"));
    }
    let descriptors = proc::descriptors(master);
    assert_eq!(descriptors[&0], "/dev/null");
    for number in [1, 2] {
        let what = &descriptors[&number];
        assert!(
            what == "/dev/null" || what.ends_with("master.log"),
            "{number} is {what}"
        );
    }
    // Of a terminal that it does not have: nothing would continue it.
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        for pid in [guardian, master] {
            kill(Pid::from_raw(pid), signal).expect("a process of rotad");
        }
    }
    site.signal(Signal::SIGHUP);
    site.signal(Signal::SIGUSR1);
    site.await_status("rolled", 20, |status| {
        pool(status, "web")["reload"]["state"] == "done"
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
    assert!(!site.path("master.pid").exists());
    assert_eq!(site.rotad(&["start"]).code, 0, "and again");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// Nothing that the starter had open is kept: 30 descriptors, one of them the write end of a pipe.
#[test]
fn no_descriptor_of_the_starter_stays_open() {
    let site = site(WEB, "ok\nfirst");
    let script = "for i in {10..39}; do eval \"exec $i</etc/hostname\"; done; exec \"$@\"";
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "x"])
        .arg(support::rotad())
        .args(["start", "-c"])
        .arg(&site.config);
    let run = support::site::finish(command, 30);
    assert_eq!(run.code, 0, "{run:?}");
    let kept: Vec<_> = proc::descriptors(site.pid())
        .into_values()
        .filter(|what| what == "/etc/hostname")
        .collect();
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// `$(rotad start)` returns: the daemon holds neither its starter's stdout nor stderr.
#[test]
fn the_starters_pipe_ends() {
    let site = site(WEB, "ok\nfirst");
    let mut command = Command::new("bash");
    let line = format!(
        "out=$({} start -c {} 2>&1); echo ended",
        support::rotad().display(),
        site.config.display()
    );
    command.args(["-c", &line]);
    let run = support::site::finish(command, 30);
    assert_eq!(run.out, "ended\n", "{run:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// Not one pool comes up: exit 1, the reason with the worker's last lines, nothing left.
#[test]
fn a_start_without_any_ready_pool_fails() {
    for (code, word) in [
        ("exit 3\nno such table: users", "no such table: users"),
        ("hang\nwaiting for Godot", "waiting for Godot"),
    ] {
        let site = site(&WEB.replace("\"5s\"", "\"1s\""), code);
        let run = site.rotad(&["start"]);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.err.contains(word) && run.err.contains("web"), "{run:?}");
        site.assert_empty();
        assert!(!site.path("master.pid").exists(), "the pid file is left");
        assert!(
            support::load::get(&site.address(), "/").is_err(),
            "the socket is left"
        );
    }
}

/// Some pools up: they keep serving, exit 1 names the others.
#[test]
fn a_start_with_some_ready_pools_is_told() {
    let other =
        "[pool.broken]\ncommand = [\"@WORKER@\", \"job\", \"--exit\", \"4\"]\nready = \"notify\"\n";
    let site = site(&format!("{WEB}{other}"), "ok\nfirst");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    let (address, log) = (site.address(), site.path("master.log"));
    for line in [
        "rotad: broken: exited with 4".to_owned(),
        format!("web: 2 workers ready at {address}\n"),
        "still retrying: broken\n".to_owned(),
        format!("log: {}\n", log.display()),
    ] {
        assert!(run.err.contains(&line), "{line}: {run:?}");
    }
    assert!(
        support::load::get(&site.address(), "/").is_ok(),
        "the good pool serves"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A line per pool says where it serves, and the last one where it logs.
#[test]
fn a_start_says_where_it_serves_and_logs() {
    let more = r#"
[pool.sock]
command = ["@WORKER@", "http"]
listen = "unix:@DIR@/s.sock"
log = { stdout = "@DIR@/sock-{slot}.log" }
[pool.once]
kind = "oneshot"
command = ["true"]
"#;
    let site = site(&format!("{WEB}{more}"), "ok\nfirst");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    let dir = site.path("");
    let dir = dir.to_string_lossy();
    let dir = dir.trim_end_matches('/');
    let mut lines: Vec<&str> = run.out.lines().collect();
    assert_eq!(
        lines.pop(),
        Some(format!("log: {dir}/master.log; sock: {dir}/sock-{{slot}}.log").as_str()),
        "{run:?}"
    );
    let once = lines
        .iter()
        .position(|line| line.starts_with("once: done after "));
    lines.remove(once.expect("a line for the oneshot"));
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            format!("sock: 1 worker ready at unix:{dir}/s.sock"),
            format!("web: 2 workers ready at {}", site.address()),
        ],
        "{run:?}"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// `--no-wait` returns once sockets and pid file stand.
#[test]
fn a_start_can_return_without_waiting() {
    let site = site(&WEB.replace("\"5s\"", "\"20s\""), "slow 5000\nfirst");
    let run = site.rotad(&["start", "--no-wait"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.took.as_secs() < 3, "{run:?}");
    assert!(!proc::gone(site.pid()));
    assert!(
        std::net::TcpStream::connect(site.address()).is_ok(),
        "the socket stands"
    );
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// A second master for the same runtime directory is refused; the first one does not notice.
#[test]
fn a_second_master_is_refused() {
    let site = site(WEB, "ok\nfirst");
    assert_eq!(site.rotad(&["start"]).code, 0);
    let (master, workers) = (site.pid(), pids(&site.await_ready(), "web"));
    for verb in ["start", "run"] {
        let run = site.rotad(&[verb]);
        assert_eq!(run.code, 75, "{run:?}");
        assert!(
            run.err.contains(&master.to_string()),
            "it names the one that runs: {run:?}"
        );
    }
    assert_eq!(site.pid(), master);
    assert_eq!(pids(&site.status().expect("a status"), "web"), workers);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// 100 starts at the same time: one wins, 99 say 75.
#[test]
fn of_a_hundred_simultaneous_starts_one_wins() {
    let _alone = alone();
    let site = site(WEB, "ok\nfirst");
    let mut starts: Vec<_> = (0..100)
        .map(|_| {
            let mut command = Command::new(support::rotad());
            command.args(["start", "-c"]).arg(&site.config);
            command
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null());
            command
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("a start")
        })
        .collect();
    let codes: Vec<Option<i32>> = starts
        .iter_mut()
        .map(|start| start.wait().expect("its end").code())
        .collect();
    let of = |code: i32| codes.iter().filter(|found| **found == Some(code)).count();
    assert_eq!((of(0), of(75)), (1, 99), "{codes:?}");
    let master = site.pid();
    assert!(support::all_ready(&site.await_ready()));
    // Those that lost may still be on their way out.
    until("one master and its guardian are left", 10, || {
        let mut masters = site.processes();
        masters.retain(|pid| proc::command_line(*pid).contains(" start "));
        (masters.len() <= 1 + proc::children(master).len()).then_some(())
    });
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A master killed by -9: its workers serve on; with `--no-take-over` the next start names them and exits 1; without, it
/// adopts them; with `--take-over` it stops them first.
#[test]
fn a_start_finds_the_workers_of_a_killed_master() {
    let site = site(WEB, "ok\nfirst");
    assert_eq!(site.rotad(&["start"]).code, 0);
    let workers = pids(&site.await_ready(), "web");
    proc::kill_with_guardian(site.pid());
    assert!(
        support::load::get(&site.address(), "/").is_ok(),
        "the workers serve on"
    );
    let run = site.rotad(&["status"]);
    assert_eq!(run.code, 4, "{run:?}");
    let run = site.rotad(&["start", "--no-take-over"]);
    assert_eq!(run.code, 1, "{run:?}");
    for worker in &workers {
        assert!(
            run.err.contains(&worker.to_string()),
            "{worker} is not named: {run:?}"
        );
        assert!(!proc::gone(*worker), "{worker} was touched");
    }
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        pids(&site.await_ready(), "web"),
        workers,
        "they are adopted"
    );
    proc::kill_with_guardian(site.pid());
    let run = site.rotad(&["start", "--take-over"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        workers.iter().all(|worker| proc::gone(*worker)),
        "the old workers are stopped first"
    );
    assert!(support::load::get(&site.address(), "/").is_ok());
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// A stale pid file, with the pid of a stranger: the stranger is not touched, the file is taken over.
#[test]
fn a_stale_pid_file_is_replaced() {
    let site = site(WEB, "ok\nfirst");
    let mut stranger = Command::new("sleep")
        .arg("1000")
        .spawn()
        .expect("a stranger");
    site.write("master.pid", &format!("{}\n", stranger.id()));
    let stop = site.rotad(&["stop"]);
    let start = site.rotad(&["start"]);
    let alive = matches!(stranger.try_wait(), Ok(None));
    stranger.kill().expect("the stranger's end");
    stranger.wait().expect("the stranger's end");
    assert!(alive, "a stranger was signalled");
    assert_eq!(stop.code, 0, "{stop:?}");
    assert_eq!(start.code, 0, "{start:?}");
    assert_eq!(site.rotad(&["stop"]).code, 0);
}

/// A pid file that is a link, or that cannot be written: an immediate error, the target untouched, nothing left.
#[test]
fn an_unsafe_pid_file_is_refused() {
    let linked = site(WEB, "ok\nfirst");
    linked.write("precious", "precious");
    std::os::unix::fs::symlink(linked.path("precious"), linked.path("master.pid")).expect("a link");
    let run = linked.rotad(&["start"]);
    assert_ne!(run.code, 0, "{run:?}");
    assert!(run.err.contains("master.pid"), "{run:?}");
    assert_eq!(linked.read("precious"), "precious");
    linked.assert_empty();
    let dir = site(WEB, "ok\nfirst");
    std::fs::create_dir(dir.path("master.pid")).expect("a directory in its place");
    let run = dir.rotad(&["start"]);
    assert_ne!(run.code, 0, "{run:?}");
    assert!(run.err.contains("master.pid"), "{run:?}");
    dir.assert_empty();
}

/// Stdio closed at start, for `start` and for `run`.
#[test]
fn a_start_with_closed_stdio_works() {
    let site = site(WEB, "ok\nfirst");
    let mut command = Command::new("bash");
    command
        .args(["-c", "exec 0<&- 1>&- 2>&-; exec \"$@\"", "x"])
        .arg(support::rotad())
        .args(["start", "-c"])
        .arg(&site.config);
    assert_eq!(support::site::finish(command, 30).code, 0);
    let first = proc::descriptors(site.pid());
    assert!(
        (0..=2).all(|number| !first[&number].starts_with("socket:")),
        "{first:?}"
    );
    assert!(support::load::get(&site.address(), "/").is_ok());
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}
