//! `rotad status` for people: into `head`, over and over, on a terminal; and what workers say, harmless.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use support::{Site, number, pids, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
"#;

const SERVING: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["http"]
reload = { soak = "50ms" }
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// A shell, a child that holds 64 MiB and one that feeds it, and an orphan.
const TREE: &str = r#"
[pool.tree]
kind = "task"
command = ["sh", "-c", """
(sleep 600 &)
(head -c 67108864 /dev/zero; exec sleep 600) | dd bs=67108864 iflag=fullblock of=/dev/null &
wait"""]
ready = "spawned"
stop = "1s"
"#;

const SICK: &str = r#"
[pool.web]
command = ["@WORKER@", "wait"]
ready = "spawned"
[pool.sick]
command = ["sh", "-c", "echo 'REASON' >&2; exit 3"]
ready = "notify"
restart = { delay = "1min", max_delay = "1min" }
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
    let (mut child, mut screen) = at_terminal(&site, &["status", "-w"], None, true);
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

/// Where a pool serves, since when, and by whom it was brought to its generation; also after a death of the master.
#[test]
fn status_tells_the_last_deploy_also_after_a_death_of_the_master() {
    let site = Site::up(SERVING);
    let deploy = |status: &Value| pool(status, "web")["last_deploy"].clone();
    let first = site.await_ready();
    let web = pool(&first, "web");
    assert_eq!(web["listen"], json!([site.address()]));
    let own = nix::unistd::getuid();
    assert_eq!(
        (&deploy(&first)["by"], &deploy(&first)["uid"]),
        (&json!("start"), &json!(own.as_raw()))
    );
    assert_eq!(
        (&deploy(&first)["generation"], &deploy(&first)["outcome"]),
        (&json!(1), &json!("done"))
    );
    site.signal(Signal::SIGUSR1);
    let rolled = site.await_status("rolled by USR1", 20, |status| {
        deploy(status)["generation"] == 2 && deploy(status)["outcome"] == "done"
    });
    assert_eq!(deploy(&rolled)["by"], "USR1");
    let up = |status: &Value| number(&pool(status, "web")["uptime_s"]);
    assert!(up(&rolled) >= up(&first), "a roll is no gap: {rolled}");

    let master = site.pid();
    kill(Pid::from_raw(master), Signal::SIGKILL).expect("the master");
    let restored = site.await_status("the next master", 10, |status| {
        status["master"]["restarts"] == 1
    });
    for key in ["generation", "at", "by", "uid", "outcome"] {
        assert_eq!(deploy(&restored)[key], deploy(&rolled)[key], "{key}");
    }
    assert!(up(&restored) >= up(&rolled), "{restored}");

    site.configure(&SERVING.replace(r#"["@WORKER@", "http"]"#, r#"["sh", "-c", "exit 3"]"#));
    assert_eq!(site.rotad(&["reload", "web"]).code, 10);
    let after = site.await_ready();
    assert_eq!(
        (
            &deploy(&after)["generation"],
            &deploy(&after)["by"],
            &deploy(&after)["outcome"]
        ),
        (&json!(3), &json!("reload"), &json!("aborted"))
    );
    let table = site.rotad(&["status", "web"]).out;
    let user = nix::unistd::User::from_uid(own).expect("the users");
    let line = format!("reload by {}", user.expect("a user").name);
    assert!(
        table.contains(&line)
            && table.contains("aborted")
            && table.contains(&format!("listens on {}", site.address())),
        "{table}"
    );
    assert!(
        !table.contains("killed by TERM"),
        "ends that were asked for are no news: {table}"
    );
}

/// The memory of a worker is that of its whole tree, orphans of its session included.
#[test]
fn memory_is_that_of_the_whole_tree() {
    let site = Site::up(TREE);
    let held = 60 << 20;
    let tree = |status: &Value| pool(status, "tree")["workers"][0]["tree"].clone();
    let status = site.await_status("the child holds its memory", 20, |status| {
        tree(status)["rss_bytes"].as_u64() > Some(held)
    });
    let worker = &pool(&status, "tree")["workers"][0];
    assert!(worker["rss_bytes"].as_u64() < Some(held / 2), "{worker}");
    // The shell, dd and the feeder, and an orphan.
    assert!(tree(&status)["processes"].as_u64() >= Some(4), "{worker}");
    for arguments in [&["status"][..], &["status", "tree"]] {
        let table = site.rotad(arguments).out;
        let mib = table.split_whitespace().filter_map(|word| {
            let number = word.strip_suffix('M')?;
            number.parse::<f64>().ok()
        });
        assert!(mib.fold(0.0, f64::max) > 60.0, "{table}");
    }
}

/// `rotad status …` on a terminal of its own, and what that shows.
fn at_terminal(
    site: &Site,
    arguments: &[&str],
    size: Option<nix::pty::Winsize>,
    colour: bool,
) -> (Child, File) {
    let pty = nix::pty::openpty(size.as_ref(), None).expect("a terminal");
    let mut command = Command::new(support::rotad());
    command.args(arguments).arg("-c").arg(&site.config);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    if !colour {
        command.env("NO_COLOR", "1");
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(pty.slave)
        .stderr(Stdio::null())
        .spawn();
    (child.expect("a client"), File::from(pty.master))
}

/// What `rotad status …` shows on a terminal of this size, up to what ends the reading.
fn on_terminal(
    site: &Site,
    arguments: &[&str],
    (rows, columns): (u16, u16),
    colour: bool,
    is_enough: impl Fn(&str) -> bool,
) -> String {
    let size = nix::pty::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let (mut child, mut screen) = at_terminal(site, arguments, Some(size), colour);
    let mut seen = Vec::new();
    let text = loop {
        let text = String::from_utf8_lossy(&seen).into_owned();
        let mut some = [0; 4096];
        // A terminal without another end is EIO (tty_ioctl(4)).
        let count = if is_enough(&text) {
            0
        } else {
            screen.read(&mut some).unwrap_or(0)
        };
        if count == 0 {
            break text;
        }
        seen.extend(&some[..count]);
    };
    drop(screen);
    child.kill().ok();
    child.wait().expect("a child");
    text
}

#[test]
fn reasons_are_never_cut() {
    let reason = "Error: the database at db.example.com refuses the user shop and so nothing works";
    let mut site = Site::new(&SICK.replace("REASON", reason));
    site.run();
    site.await_status("it has failed", 20, |status| {
        pool(status, "sick")["workers"][0]["last_exit"]["code"] == 3
    });
    for arguments in [&["status"][..], &["status", "sick"]] {
        let seen = on_terminal(&site, arguments, (24, 72), false, |_| false);
        assert!(!seen.contains('\x1b'), "NO_COLOR: {seen:?}");
        let lines: Vec<&str> = seen.lines().collect();
        assert!(
            lines[1..].iter().all(|line| line.chars().count() <= 72),
            "{seen}"
        );
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert!(words.join(" ").contains(reason), "{seen}");
    }
    let coloured = on_terminal(&site, &["status"], (24, 72), true, |_| false);
    assert!(
        coloured.contains("\x1b[1mPOOL") && coloured.contains("\x1b[32mok\x1b[0m"),
        "{coloured:?}"
    );
    let whole = |seen: &str| seen.matches("\x1b[H").count() > 1;
    let watched = on_terminal(&site, &["status", "-w"], (24, 72), true, whole);
    let words: Vec<&str> = watched
        .split_whitespace()
        .map(|word| word.trim_end_matches("\x1b[K"))
        .collect();
    assert!(words.join(" ").contains(reason), "{watched:?}");
    let small = on_terminal(&site, &["status", "-w"], (4, 72), true, whole);
    assert!(
        small.contains("… ") && small.contains(" more lines"),
        "{small:?}"
    );
}
