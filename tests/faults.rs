//! Promise 11: nothing that a worker, a client or a disk does ends the master. Each fault gives a clear error or an
//! event, and when it is over every worker is there again.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::load::get;
use support::{Site, alone, need, pids, pool, proc, until};

const WEB: &str = r#"
[pool.web]
command = ["@COPY@", "http", "--starts", "@DIR@/starts"]
count = 2
listen = ["http"]
stop = "2s"
[pool.web.reload]
soak = "100ms"
[pool.web.restart]
max_delay = "500ms"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// strace on a running master for as long as this lives: a window in which its system calls go wrong.
struct Window(Child);

impl Window {
    fn on(site: &Site, options: &[&str]) -> Window {
        let master = site.pid();
        let output = File::create(site.path("strace.txt")).expect("a file");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-qq", "-p", &master.to_string()])
            .args(options)
            .stderr(output)
            .stdout(Stdio::null());
        let window = Window(command.spawn().expect("strace"));
        until("every thread is traced", 10, || {
            let threads = std::fs::read_dir(format!("/proc/{master}/task")).ok()?;
            let traced = |path: std::path::PathBuf| {
                let text = std::fs::read_to_string(path.join("status")).unwrap_or_default();
                text.lines()
                    .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
            };
            threads
                .flatten()
                .all(|thread| traced(thread.path()))
                .then_some(())
        });
        window
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// `status` answers within a second, this often in a row.
fn answers(site: &Site, times: u32) {
    for _ in 0..times {
        let asked = Instant::now();
        assert!(site.status().is_some(), "no answer");
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "an answer after {:?}",
            asked.elapsed()
        );
    }
}

/// Every worker is ready, another roll goes through, and a request is answered.
fn sound(site: &mut Site) {
    site.await_ready();
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(get(&site.address(), "/").is_ok());
    assert!(site.master_lives());
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

/// Fork refused (EAGAIN) while a worker dies: the other one serves, and the slot is filled when forks work again.
#[test]
fn a_refused_fork_leaves_other_pools_serving() {
    if !need::strace() {
        return;
    }
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let inject = "inject=clone,clone3,fork,vfork:error=EAGAIN";
    let window = Window::on(
        &site,
        &["-e", "trace=clone,clone3,fork,vfork", "-e", inject],
    );
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).expect("a worker");
    site.await_status("the slot cannot be filled", 10, |status| {
        pool(status, "web")["ready"] == 1
    });
    until("several refused forks", 20, || {
        (site.read("strace.txt").matches("INJECTED").count() >= 3).then_some(())
    });
    answers(&site, 5);
    assert!(get(&site.address(), "/").is_ok());
    until("the reason is told", 10, || {
        let told = site.status().expect("a status")["pools"]
            .to_string()
            .to_lowercase()
            + &site.log().to_lowercase();
        (told.contains("temporarily unavailable") || told.contains("eagain")).then_some(())
    });
    drop(window);
    sound(&mut site);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// Not one descriptor more: the same.
#[test]
fn used_up_descriptors_leave_workers_serving() {
    if !need::program("prlimit") {
        return;
    }
    let _alone = alone();
    let mut site = Site::up(WEB);
    let before = pids(&site.await_ready(), "web");
    let limit = |value: &str| {
        let master = site.pid().to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &master, &format!("--nofile={value}")])
            .status();
        assert!(status.expect("prlimit").success());
    };
    limit("3:");
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).expect("a worker");
    until("the worker is gone", 5, || {
        proc::gone(before[0]).then_some(())
    });
    support::never("the master left", 1.0, || {
        proc::gone(site.pid()).then_some(())
    });
    assert!(get(&site.address(), "/").is_ok(), "the other one serves");
    limit("1024:");
    sound(&mut site);
}

/// The program is being written (ETXTBSY): the roll ends with 10 and says so; the old ones serve.
#[test]
fn a_busy_program_is_retried() {
    let mut site = Site::new(&WEB.replace("@COPY@", "@DIR@/busy"));
    std::fs::copy(support::testworker(), site.path("busy")).expect("a program");
    site.run();
    let before = pids(&site.await_ready(), "web");
    std::fs::copy(support::testworker(), site.path("next")).expect("the next program");
    let writer = OpenOptions::new()
        .append(true)
        .open(site.path("next"))
        .expect("a process that writes it");
    std::fs::rename(site.path("next"), site.path("busy")).expect("in its place");
    let run = site.rotad(&["roll"]);
    assert_eq!(run.code, 10, "{run:?}");
    assert!(run.text().to_lowercase().contains("busy"), "{run:?}");
    assert_eq!(pids(&site.status().expect("a status"), "web"), before);
    drop(writer);
    // The files have changed under those that serve, and the status says so until a roll is done.
    assert_eq!(site.rotad(&["roll"]).code, 0);
    sound(&mut site);
}

/// A program on a dead mount, as it looks from outside: exec (and chdir) take 4 s. `status` answers meanwhile, and the
/// old workers serve.
#[test]
fn a_hung_directory_delays_no_other_pool() {
    if !need::strace() {
        return;
    }
    let _alone = alone();
    for (call, path) in [("execve", "testworker"), ("chdir,fchdir", "")] {
        let mut site =
            Site::new(&WEB.replace("count = 2", "count = 1\nworking_directory = \"@DIR@\""));
        site.run();
        site.await_ready();
        let path = site.path(path).display().to_string();
        let (trace, inject) = (
            format!("trace={call}"),
            format!("inject={call}:delay_enter=4000000"),
        );
        let window = Window::on(
            &site,
            &[
                "-P",
                path.trim_end_matches('/'),
                "-e",
                &trace,
                "-e",
                &inject,
            ],
        );
        let started = site.lines("starts").len();
        site.signal(Signal::SIGUSR1);
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(2) {
            answers(&site, 1);
            assert!(get(&site.address(), "/").is_ok());
        }
        assert_eq!(
            site.lines("starts").len(),
            started,
            "{call}: the delay was not in the way: this proves nothing"
        );
        // strace cannot let go of a thread that waits for its half-born child: first the birth has to be over.
        until("the slow birth", 10, || {
            (site.lines("starts").len() > started).then_some(())
        });
        site.await_status("the roll is over", 10, |status| {
            pool(status, "web")["reload"]["state"] == "done"
        });
        drop(window);
        sound(&mut site);
    }
}

/// A full disk under the log, or under stderr.
#[test]
fn a_full_disk_stops_nothing() {
    for stderr in [false, true] {
        let mut site = Site::new(WEB);
        let text = site.read("rotad.toml");
        let log = format!("log_file = \"{}\"", site.path("master.log").display());
        assert!(text.contains(&log), "{text}");
        let mut command = site.run_command();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        if stderr {
            site.configure(&text.replace(&log, ""));
            command.stderr(
                OpenOptions::new()
                    .write(true)
                    .open("/dev/full")
                    .expect("/dev/full"),
            );
        } else {
            site.configure(&text.replace(&log, "log_file = \"/dev/full\""));
            command.stderr(File::create(site.path("stderr.txt")).expect("a file"));
        }
        site.spawn_as_it_is(command);
        site.await_ready();
        sound(&mut site);
        site.signal(Signal::SIGTERM);
        assert_eq!(site.await_exit(10).code(), Some(0));
        site.assert_empty();
    }
}

/// The reader of the master's stderr has gone: a closed pipe.
#[test]
fn a_closed_stderr_stops_nothing() {
    let mut site = Site::new(WEB);
    let log = format!("log_file = \"{}\"", site.path("master.log").display());
    site.configure(&site.read("rotad.toml").replace(&log, ""));
    let mut command = site.run_command();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("the writer"))
        .stderr(writer);
    site.spawn_as_it_is(command);
    site.await_ready();
    drop(reader);
    sound(&mut site);
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(10).code(), Some(0));
    site.assert_empty();
}

/// 64 descriptors in all, which cannot be raised unless one is root; and as many as allowed: quick either way.
#[test]
fn descriptor_limits_are_raised_and_checked() {
    for limit in [
        "ulimit -Sn 64; ulimit -Hn 64",
        "ulimit -n $((1<<30)) || ulimit -n $(ulimit -Hn)",
    ] {
        let mut site = Site::new(WEB);
        let run = site.run_command();
        let mut command = Command::new("bash");
        command
            .args(["-c", &format!("{limit}; exec \"$@\""), "x"])
            .arg(run.get_program())
            .args(run.get_args());
        let asked = Instant::now();
        site.spawn(command);
        site.await_ready();
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "{limit}: {:?}",
            asked.elapsed()
        );
        sound(&mut site);
        site.signal(Signal::SIGTERM);
        assert_eq!(site.await_exit(10).code(), Some(0));
    }
}

/// A worker that floods its notify socket, beside one that prints as fast as it can: the others are supervised.
#[test]
fn floods_of_notifications_and_connections_are_survived() {
    let _alone = alone();
    let flooding = r#"
[pool.flood]
command = ["@WORKER@", "flood"]
ready = "notify"
stop = "1s"
[pool.talk]
command = ["@WORKER@", "lines", "--lines", "100000"]
ready = "spawned"
stop = "1s"
restart = { success_exit_codes = [0], delay = "100ms" }
"#;
    let mut site = Site::new(&format!("{WEB}{flooding}"));
    site.run();
    let before = until("the web pool", 20, || {
        let status = site.status()?;
        (pool(&status, "web")["ready"] == 2).then(|| pids(&status, "web"))
    });
    answers(&site, 10);
    kill(Pid::from_raw(before[0]), Signal::SIGKILL).expect("a worker");
    until("it is replaced", 10, || {
        let status = site.status()?;
        (pool(&status, "web")["ready"] == 2 && pids(&status, "web")[0] != before[0]).then_some(())
    });
    assert_eq!(site.rotad(&["roll", "web"]).code, 0);
    site.signal(Signal::SIGTERM);
    assert_eq!(site.await_exit(15).code(), Some(0));
    site.assert_empty();
}
