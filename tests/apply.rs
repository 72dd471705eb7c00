//! A configuration that changes while it is in force: what the file says holds, without losing a request, and what does
//! not come up changes nothing.

mod support;

use nix::sys::signal::Signal;
use serde_json::Value;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use support::ask::reload;
use support::{Load, Site, alone, need, pids, pool, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http", "--work-ms", "5"]
count = 2
listen = ["http"]
env = { EDIT = "first" }
stop = "10s"
[pool.web.reload]
soak = "0s"
surge = 2
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

fn generation(status: &Value, name: &str) -> u64 {
    pool(status, name)["generation"]
        .as_u64()
        .expect("a generation")
}

/// Fifty edits, good and bad by turns, by signal and by command: after each the state is that of the file, or, for a
/// bad one, that from before; no request is lost.
#[test]
fn fifty_edits_under_load_lose_no_request() {
    let _alone = alone();
    let site = Site::up(WEB);
    site.write("bad-code", "exit 3\nno such module: shop\n");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = taken.local_addr().expect("an address");
    let load = Load::on(&site.address(), 3, 3);
    load.await_more(50);
    let first = site.read("rotad.toml");
    let mut good = first.clone();
    let mut made = 1;
    for edit in 0..25 {
        good = first
            .replace("EDIT = \"first\"", &format!("EDIT = \"{edit}\""))
            .replace("count = 2", &format!("count = {}", 1 + edit % 3));
        site.write("rotad.toml", &good);
        made += 1;
        if edit % 2 == 0 {
            let run = site.reload("config-only", &[]);
            assert_eq!(run.code, 0, "{run:?}");
            assert!(run.text().contains("env.EDIT"), "{run:?}");
        } else {
            site.signal(Signal::SIGHUP);
        }
        let status = site.await_status("the edit is in force", 30, |status| {
            generation(status, "web") == made && support::all_ready(status)
        });
        assert_eq!(pool(&status, "web")["wanted"], 1 + edit % 3);
        let (bad, code, text) = match edit % 5 {
            0 => (format!("{good}\n[pool.web"), 78, "rotad.toml:"),
            1 => (good.replace("count =", "cuont ="), 78, "did you mean"),
            2 => (
                good.replace("stop = \"10s\"", "user = \"nobody-at-all\""),
                78,
                "nobody-at-all",
            ),
            3 => (
                format!("{good}\n[listen.other]\naddress = \"{other}\"\n"),
                1,
                "in use",
            ),
            _ => (
                good.replace(
                    "\"--work-ms\", \"5\"",
                    &site.filled("\"--code\", \"@DIR@/bad-code\""),
                ),
                10,
                "put back",
            ),
        };
        site.write("rotad.toml", &bad);
        let run = site.reload("config-only", &[]);
        assert_eq!(run.code, code, "{edit}: {run:?}");
        assert!(run.text().contains(text), "{edit}: {run:?}");
        made += u64::from(code == 10);
        let after = site.await_status("all serve", 20, support::all_ready);
        assert_eq!(pool(&after, "web")["wanted"], 1 + edit % 3);
        assert_eq!(
            generation(&after, "web"),
            if code == 10 { made - 1 } else { made }
        );
        if code != 10 {
            assert_eq!(pids(&after, "web"), pids(&status, "web"), "{edit}: {run:?}");
        }
    }
    site.write("rotad.toml", &good);
    load.stop().assert_nothing_lost(500);
    drop(taken);
}

/// A change supersedes a rolling restart that runs, and nothing is lost.
#[test]
fn a_change_during_a_roll_supersedes_it() {
    let _alone = alone();
    let slow = WEB
        .replace("\"5\"]", "\"5\", \"--start-ms\", \"300\"]")
        .replace("surge = 2", "surge = 1");
    let site = Site::up(&slow.replace("count = 2", "count = 4"));
    let load = Load::on(&site.address(), 3, 3);
    load.await_more(20);
    site.signal(Signal::SIGUSR1);
    site.await_status("one worker is replaced", 20, |status| {
        pool(status, "web")["reload"]["replaced"]
            .as_u64()
            .is_some_and(|replaced| replaced >= 1)
    });
    site.edit("first", "second");
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.await_ready();
    assert_eq!(pool(&status, "web")["generation"], 3, "{status}");
    load.stop().assert_nothing_lost(50);
}

/// Pools and their sockets come and go; a socket is closed with its last user, and only then.
#[test]
fn pools_and_listeners_are_added_and_removed() {
    let site = Site::up(WEB);
    let first = site.await_ready();
    let base = site.read("rotad.toml");
    let free = support::free_port();
    let api = format!(
        "[pool.api]\ncommand = [\"@WORKER@\", \"http\"]\nlisten = [\"api\"]\n[listen.api]\naddress = \"127.0.0.1:{free}\"\n"
    );
    site.write("rotad.toml", &format!("{base}\n{}", site.filled(&api)));
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    let status = site.await_ready();
    assert_eq!(pool(&status, "api")["ready"], 1, "{status}");
    assert_eq!(pids(&status, "web"), pids(&first, "web"));
    support::load::get(&format!("127.0.0.1:{free}"), "/").expect("an answer of the new pool");
    site.write("rotad.toml", &base);
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    let gone = |status: &Value| {
        !status["pools"]
            .as_array()
            .expect("pools")
            .iter()
            .any(|pool| pool["name"] == "api")
    };
    site.await_status("the pool is gone", 20, gone);
    until("the address is free", 10, || {
        TcpListener::bind(("127.0.0.1", free)).ok()
    });
    // Another address for the same listener: a new socket, the old one goes with the old workers.
    let other = support::free_port();
    let load = Load::on(&site.address(), 2, 0);
    load.await_more(20);
    load.stop().assert_nothing_lost(20);
    site.edit(
        &format!("127.0.0.1:{}", site.port),
        &format!("127.0.0.1:{other}"),
    );
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    support::load::get(&format!("127.0.0.1:{other}"), "/").expect("an answer at the new address");
    until("the old address is free", 10, || {
        TcpListener::bind(("127.0.0.1", site.port)).ok()
    });
}

/// Mode of a socket's file and backlog change in place: nobody is restarted.
#[test]
fn socket_mode_and_backlog_change_in_place() {
    let site = Site::up(
        "[pool.web]\ncommand = [\"@WORKER@\", \"http\"]\nlisten = [\"file\", \"http\"]\n[listen.file]\naddress = \
         \"unix:@DIR@/web.sock\"\nmode = \"0600\"\n[listen.http]\naddress = \"127.0.0.1:@PORT@\"\nbacklog = 100\n",
    );
    let mode = || {
        std::fs::metadata(site.path("web.sock"))
            .expect("a socket")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(), 0o600);
    let before = site.await_ready();
    site.edit("mode = \"0600\"", "mode = \"0666\"");
    site.edit("backlog = 100", "backlog = 33");
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    until("the new mode", 10, || (mode() == 0o666).then_some(()));
    assert_eq!(pids(&site.await_ready(), "web"), pids(&before, "web"));
    if need::program("ss") {
        let port = format!("sport = :{}", site.port);
        let mut ss = std::process::Command::new("ss");
        ss.args(["-Hltn", &port]);
        let run = support::site::finish(ss, 20);
        assert_eq!(run.out.split_whitespace().nth(2), Some("33"), "{run:?}");
    }
}

/// Files that are no configuration: 78, nothing changes, the diary says why, and the next good one is applied.
#[test]
fn an_invalid_configuration_changes_nothing() {
    let site = Site::up(WEB);
    let (good, before) = (site.read("rotad.toml"), site.await_ready());
    let file = site.path("rotad.toml");
    let clear = || {
        std::fs::remove_file(&file)
            .or_else(|_| std::fs::remove_dir(&file))
            .expect("removed");
    };
    for what in ["typo", "half", "large", "gone", "folder", "pipe"] {
        match what {
            "typo" => {
                let typo = "[pool.jobs]\ncommand = \"sleep 1000\"\ncuont = 2\n";
                drop(site.write("rotad.toml", &format!("{good}{typo}")));
            }
            "half" => drop(site.write("rotad.toml", &good[..good.len() / 2])),
            "large" => drop(site.write("rotad.toml", &"# comment\n".repeat(1 << 20))),
            "gone" => clear(),
            "folder" => std::fs::create_dir(&file).expect("a directory"),
            _ => {
                clear();
                nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
            }
        }
        let run = site.reload("everything", &[]);
        assert_eq!(run.code, 78, "{what}: {run:?}");
        assert!(
            run.message.contains("nothing was changed"),
            "{what}: {run:?}"
        );
        // The pool with the typing mistake has only its age to be ready by, which is not the reason.
        assert!(!run.message.contains("warning:"), "{what}: {run:?}");
    }
    clear();
    site.signal(Signal::SIGHUP);
    site.await_log("cannot read the configuration", 10);
    site.write("rotad.toml", &good);
    let status = site.status().expect("a status");
    assert_eq!(pids(&status, "web"), pids(&before, "web"));
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.text().contains("has not changed"), "{run:?}");
}

/// What a running master cannot change is named each time; the rest is applied.
#[test]
fn settings_that_need_a_restart_are_named() {
    let site = Site::up(WEB);
    site.edit(
        "[pool.web]\n",
        "[control]\nmode = \"0660\"\n[signals]\nUSR1 = \"ignore\"\n[pool.web]\n",
    );
    for _ in 0..2 {
        let run = site.reload("config-only", &[]);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.text().contains("control.mode"), "{run:?}");
    }
    site.signal(Signal::SIGUSR1);
    site.await_log("ignored, as configured", 10);
    let status = site.status().expect("a status");
    assert_eq!(pool(&status, "web")["generation"], 1, "{status}");
}

/// A change that does not come up is put back, count and all; the same file is tried again when asked.
#[test]
fn a_failed_change_is_reverted() {
    let site = Site::up(WEB);
    site.write("bad-code", "exit 3\nno such module: shop\n");
    let (before, file) = (site.await_ready(), site.read("rotad.toml"));
    site.edit("\"--work-ms\", \"5\"", "\"--code\", \"@DIR@/bad-code\"");
    site.edit("count = 2", "count = 5");
    for _ in 0..2 {
        let run = site.reload("config-only", &[]);
        assert_eq!(run.code, 10, "{run:?}");
        assert!(run.message.contains("no such module: shop"), "{run:?}");
        assert!(run.message.contains("put back"), "{run:?}");
        let after = site.await_ready();
        assert_eq!(pool(&after, "web")["wanted"], 2, "{after}");
        assert_eq!(pids(&after, "web"), pids(&before, "web"));
    }
    // A rolling restart goes by what serves, not by what has failed.
    let run = site.rotad(&["roll", "web"]);
    assert_eq!(run.code, 0, "{run:?}");
    site.write("rotad.toml", &file);
    let run = site.reload("config-only", &[]);
    assert!(
        run.code == 0 && run.text().contains("has not changed"),
        "{run:?}"
    );
}

/// `--dry-run` says what would be done, and does nothing of it.
#[test]
fn a_dry_run_says_what_would_be_done() {
    let site = Site::up(WEB);
    let before = site.await_ready();
    site.edit("count = 2", "count = 3");
    site.edit(
        "[listen.http]",
        "[pool.mail]\ncommand = [\"@WORKER@\", \"wait\"]\n[listen.http]",
    );
    let run = site.reload("dry-run", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    for part in ["mail: added", "count 2 → 3", "web: would be rolled"] {
        assert!(run.message.contains(part), "{part}: {run:?}");
    }
    let after = site.status().expect("a status");
    assert_eq!(
        (pids(&after, "web"), after["pools"].as_array().map(Vec::len)),
        (pids(&before, "web"), Some(1))
    );
    site.edit("count = 3", "cuont = 3");
    assert_eq!(site.reload("dry-run", &[]).code, 78);
}

/// A thousand HUP are few looks at the file, and the last edit is in force.
#[test]
fn a_thousand_hups_are_survived() {
    let site = Site::up(WEB);
    let pid = nix::unistd::Pid::from_raw(site.pid());
    for number in 0..1000 {
        if number == 990 {
            site.edit("count = 2", "count = 3");
        }
        nix::sys::signal::kill(pid, Signal::SIGHUP).expect("a master to signal");
    }
    site.await_status("the last edit is in force", 20, |status| {
        pool(status, "web")["wanted"] == 3
    });
    let status = site.await_ready();
    assert_eq!(pool(&status, "web")["generation"], 1);
}

/// Simultaneous reloads are done one after another, each with its own answer; a stop answers those that wait.
#[test]
fn reloads_are_applied_one_after_another() {
    let mut site = Site::up(&WEB.replace("\"5\"]", "\"5\", \"--start-ms\", \"100\"]"));
    let asked: Vec<_> = (0..6)
        .map(|_| site.asking(&reload("everything", &[])))
        .collect();
    for asked in asked {
        let run = asked.answered();
        assert_eq!(run.code, 0, "{run:?}");
    }
    site.await_ready();
    site.edit(
        "[listen.http]",
        "[pool.slow]\nkind = \"oneshot\"\ncommand = [\"sleep\", \"60\"]\nstop = \"1s\"\n[listen.http]",
    );
    let waiting: Vec<_> = (0..2)
        .map(|_| site.asking(&reload("everything", &[])))
        .collect();
    site.await_status("the oneshot runs", 20, |status| {
        status["pools"]
            .as_array()
            .expect("pools")
            .iter()
            .any(|pool| pool["name"] == "slow")
    });
    site.signal(Signal::SIGTERM);
    for asked in waiting {
        let run = asked.answered();
        assert!(
            run.code == 1 && run.message.contains("superseded"),
            "{run:?}"
        );
    }
    assert!(site.await_exit(20).success());
}

/// `run` under nohup(1) leaves HUP alone; a client's reload still works.
#[test]
fn hup_stays_ignored_under_nohup() {
    let mut site = Site::new(WEB);
    let run = site.run_command();
    let mut nohup = std::process::Command::new("nohup");
    nohup.arg(run.get_program()).args(run.get_args());
    site.spawn(nohup);
    site.await_ready();
    site.await_log("HUP was ignored when we were started", 10);
    site.edit("count = 2", "count = 3");
    site.signal(Signal::SIGHUP);
    let status = site.status().expect("a status after the signal");
    assert_eq!(pool(&status, "web")["wanted"], 2, "{status}");
    let run = site.reload("config-only", &[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(pool(&site.await_ready(), "web")["wanted"], 3);
}
