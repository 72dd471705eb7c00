//! The file of a unix listener: removed, replaced, moved with its directory. A new socket is there immediately, or the status
//! says why not.

mod support;

use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use support::load::get;
use support::{Site, all_ready, never, pids, pool, until};

const POOLS: &str = r#"
[listen.http]
address = "unix:@DIR@/net/web.sock"
mode = "0660"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["http"]
stop = "5s"
"#;

fn up(pools: &str) -> (Site, String) {
    let mut site = Site::new(pools);
    std::fs::create_dir(site.path("net")).expect("a directory");
    site.run();
    site.await_ready();
    let address = format!("unix:{}", site.path("net/web.sock").display());
    (site, address)
}

fn serves(address: &str) {
    until("an answer", 10, || get(address, "/").ok());
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .expect("the socket")
        .permissions()
        .mode()
        & 0o777
}

/// Nobody waits for a reload: the file is there again, and each worker holds the new socket.
#[test]
fn a_removed_socket_file_is_restored() {
    let (site, address) = up(POOLS);
    let path = site.path("net/web.sock");
    let before = pids(&site.status().expect("a status"), "web");
    std::fs::remove_file(&path).expect("a cleaner");
    serves(&address);
    assert_eq!(mode(&path), 0o660);
    let status = site.await_status("other workers", 10, |status| {
        all_ready(status) && pids(status, "web").iter().all(|pid| !before.contains(pid))
    });
    assert_eq!(
        pool(&status, "web")["generation"],
        1,
        "no new generation: {status}"
    );
    assert_eq!(
        pool(&status, "web")["workers"][0]["restarts"],
        0,
        "nobody died: {status}"
    );
    site.await_log("its file is gone", 5);
    assert_eq!(site.rotad(&["status", "--check"]).code, 0);
    serves(&address);
}

/// The socket file of another listener is left alone, and the status says so until the path is free.
#[test]
fn a_path_taken_by_another_program_is_left_alone() {
    let (site, address) = up(POOLS);
    let path = site.path("net/web.sock");
    let aside = site.path("run/other.sock");
    let other = UnixListener::bind(&aside).expect("another listener");
    std::fs::rename(&aside, &path).expect("in our place");
    let status = site.await_status("not ok", 10, |status| {
        pool(status, "web")["state"] == "degraded"
    });
    let why = pool(&status, "web")["unserved"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        why.contains("replaced by another one") && why.contains("address in use"),
        "{status}"
    );
    assert_eq!(pool(&status, "web")["ready"], 0, "{status}");
    assert_eq!(site.rotad(&["status", "--check"]).code, 1);
    let table = site.rotad(&["status"]);
    assert!(table.out.contains("replaced by another one"), "{table:?}");
    for verb in [vec!["reload", "--config"], vec!["roll"]] {
        site.rotad(&verb);
        let meta = std::fs::symlink_metadata(&path).expect("the other's file");
        assert!(
            std::os::unix::net::UnixStream::connect(&path).is_ok(),
            "it was taken: {meta:?}"
        );
    }
    drop(other); // nobody listens there any more: its file is stale
    serves(&address);
    site.await_ready();
    assert_eq!(mode(&path), 0o660);
}

/// The directory goes and comes: served again without a request.
#[test]
fn a_removed_directory_is_handled() {
    let (site, address) = up(POOLS);
    // The master may make the file again between the removal of the file and that of its directory.
    until("a cleaner has removed the directory", 10, || {
        std::fs::remove_dir_all(site.path("net")).ok()
    });
    let status = site.await_status("not ok", 10, |status| pool(status, "web")["state"] != "ok");
    assert_eq!(pool(&status, "web")["ready"], 0, "{status}");
    site.await_log("does not exist", 5);
    std::fs::create_dir(site.path("net")).expect("a directory");
    serves(&address);
    site.await_ready();
    std::fs::rename(site.path("net"), site.path("old")).expect("moved away");
    std::fs::create_dir(site.path("net")).expect("a directory");
    serves(&address);
    site.await_ready();
}

/// If it is removed again and again, workers are replaced a bounded number of times; a reload repairs it immediately.
#[test]
fn repeated_removal_is_repaired_at_a_bounded_rate() {
    let (site, address) = up(POOLS);
    let path = site.path("net/web.sock");
    let made = || site.log().matches("there is a new one").count();
    let held = || site.log().contains("times within").then_some(());
    until("it is not made any more", 60, || {
        if path.exists() {
            std::fs::remove_file(&path).ok();
        }
        held()
    });
    never("made again", 1.0, || path.exists().then_some(()));
    assert_eq!(made(), 10, "{}", site.log());
    let status = site.await_status("not ok", 10, |status| pool(status, "web")["ready"] == 0);
    assert_eq!(pool(&status, "web")["state"], "degraded", "{status}");
    assert_eq!(site.rotad(&["reload", "--config"]).code, 0);
    serves(&address);
    site.await_ready();
}

/// RTMIN, HUP and a roll look after it as well: where nothing is heard of the file, they are what there is.
#[test]
fn each_reload_checks_the_socket_file() {
    let (site, address) = up(POOLS);
    let path = site.path("net/web.sock");
    let serving = || site.log().matches("there is a new one").count();
    for (number, signal) in [Signal::SIGHUP, Signal::SIGUSR1].into_iter().enumerate() {
        std::fs::remove_file(&path).expect("a cleaner");
        site.signal(signal);
        until("one more", 10, || (serving() > number).then_some(()));
        serves(&address);
        site.await_ready();
    }
}

/// The mode of a file that is gone is not said to be set.
#[test]
fn a_changed_mode_is_reported_when_it_is_set() {
    let (site, _) = up(POOLS);
    site.write(
        "rotad.toml",
        &site.read("rotad.toml").replace("0660", "0600"),
    );
    let run = site.rotad(&["reload", "--config"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        !run.out.contains("adjusted (mode)") && run.out.contains("changes in place (mode)"),
        "{run:?}"
    );
    site.await_log("its file has its owner and mode", 10);
    assert_eq!(mode(&site.path("net/web.sock")), 0o600);
}

/// What stands in the documentation: open to all users, whatever the umask of the master or of its shell.
#[test]
fn the_default_mode_is_666_for_any_umask() {
    let mut site = Site::with_master("umask = \"077\"", &POOLS.replace("mode = \"0660\"\n", ""));
    std::fs::create_dir(site.path("net")).expect("a directory");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "umask 077; exec \"$0\" \"$@\""])
        .arg(support::rotad());
    command.args(["run", "-c"]).arg(&site.config);
    site.spawn(command);
    site.await_ready();
    assert_eq!(mode(&site.path("net/web.sock")), 0o666);
}
