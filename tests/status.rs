//! `rotad status` for people: into `head`, over and over, on a terminal; and what workers say, harmless.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use support::{Site, pids, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
"#;

#[test]
fn a_closed_pipe_ends_the_status() {
    let site = Site::up(WEB);
    for verb in [
        "status",
        "status --json",
        "status web",
        "events",
        "events --json",
    ] {
        let mut shell = Command::new("sh");
        let line = format!(
            "{} {verb} -c {} | head -n 1",
            support::rotad().display(),
            site.config.display()
        );
        let out = shell
            .args(["-c", &line])
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        assert!(
            out.stderr.is_empty(),
            "{verb}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert_eq!(
            String::from_utf8_lossy(&out.stdout).lines().count(),
            1,
            "{verb}"
        );
    }
}

/// What a worker says of itself cannot move a terminal's cursor, in any form of the status.
#[test]
fn status_texts_of_workers_are_sanitized() {
    let site = Site::up(WEB);
    let pid = pids(&site.await_ready(), "web")[0];
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("its environment");
    let variable = environment
        .split(|byte| *byte == 0)
        .find_map(|pair| pair.strip_prefix(b"NOTIFY_SOCKET="));
    let path = String::from_utf8(variable.expect("NOTIFY_SOCKET").to_vec()).expect("a path");
    let socket = UnixDatagram::unbound().expect("a socket");
    socket
        .send_to(b"STATUS=busy \x1b]0;evil\x07 \xc2\x9b2J", path)
        .expect("sent");
    site.await_status("it says so", 10, |status| {
        pool(status, "web")["workers"][0]["says"]
            .as_str()
            .is_some_and(|says| says.contains("busy"))
    });
    for arguments in [
        &["status"][..],
        &["status", "web"],
        &["status", "--json"],
        &["status", "web", "--json"],
    ] {
        let run = site.rotad(arguments);
        assert_eq!(run.code, 0);
        assert!(
            run.out.chars().all(|c| !c.is_control() || c == '\n'),
            "{arguments:?}: {run:?}"
        );
        assert!(
            !arguments.contains(&"web") || run.out.contains("evil"),
            "{arguments:?}: {run:?}"
        );
    }
}

/// `-w` in a pipe: a table with its time again and again, and a quiet end when nobody reads; as JSON a line each time.
#[test]
fn status_watch_repeats_in_a_pipe() {
    let site = Site::up(WEB);
    for json in [false, true] {
        let mut command = Command::new(support::rotad());
        command
            .args(["status", "-w", "-c"])
            .arg(&site.config)
            .args(json.then_some("--json"));
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a client");
        let lines = BufReader::new(child.stdout.take().expect("its output"))
            .lines()
            .map(|line| line.expect("a line"));
        let told = lines.filter(|line| {
            if json {
                line.starts_with("{\"master\"")
            } else {
                line.contains(" web ")
            }
        });
        // Dropped with its pipe once there are two.
        let tables: Vec<String> = told.take(2).collect();
        assert!(
            tables.len() == 2 && tables.iter().all(|table| !table.contains('\x1b')),
            "{tables:?}"
        );
        let end = child.wait_with_output().expect("its end");
        assert_eq!(
            (end.status.code(), end.stderr.len()),
            (Some(0), 0),
            "{end:?}"
        );
    }
}

/// `-w` on a terminal: a screen of its own, given back at the end.
#[test]
fn status_watch_repaints_a_terminal() {
    let site = Site::up(WEB);
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = Command::new(support::rotad());
    command
        .args(["status", "-w", "-c"])
        .arg(&site.config)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR");
    let child = command
        .stdin(Stdio::null())
        .stdout(pty.slave)
        .stderr(Stdio::null())
        .spawn();
    drop(command);
    let mut child = child.expect("a client");
    let mut screen = File::from(pty.master);
    let mut seen = String::new();
    let mut more = |seen: &mut String| {
        let mut some = [0; 4096];
        // A terminal without another end is EIO (tty_ioctl(4)).
        let count = screen.read(&mut some).unwrap_or(0);
        seen.push_str(&String::from_utf8_lossy(&some[..count]));
        count > 0
    };
    while !(seen.matches("\x1b[H").count() >= 2 && seen.contains("web")) {
        assert!(more(&mut seen), "{seen:?}");
    }
    assert!(
        seen.starts_with("\x1b[?1049h") && seen.contains("\x1b[32m●\x1b[0m"),
        "{seen:?}"
    );
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("the client");
    let code = until("its end", 10, || child.try_wait().expect("a child")).code();
    assert!(code.is_none_or(|code| code == 0), "{code:?}");
    while more(&mut seen) {}
    assert!(seen.trim_end().ends_with("\x1b[?1049l"), "{seen:?}");
}
