//! Paths that hang with their disk hold up nobody but those that need them.

mod support;

use nix::mount::{MsFlags, mount};
use std::path::Path;
use std::time::Duration;
use support::{DeadMount, Site, alone, need, pids, pool, until};

/// A mount namespace of this thread's own, which the master that it starts inherits. False where the machine cannot do
/// it and that was allowed.
fn own_mounts() -> bool {
    if !need::root() || !need::need("/dev/fuse", Path::new("/dev/fuse").exists()) {
        return false;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("of its own");
    true
}

const WEB: &str = r#"
include = ["more/*.toml"]
[pool.web]
command = ["@WORKER@", "http"]
listen = ["http"]
stop = "1s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

/// The configuration cannot be read: pools roll meanwhile, the reload is refused after its bound, and the next one is
/// heard once the disk is back.
#[test]
fn a_configuration_that_cannot_be_read_is_refused() {
    if !own_mounts() {
        return;
    }
    let _alone = alone();
    let mut site = Site::new(WEB);
    std::fs::create_dir(site.path("more")).expect("a folder");
    site.write("more/jobs.toml", "[pool.jobs]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    site.run();
    site.await_ready();
    let dead = DeadMount::over(&site.path("more")).expect("a dead mount");
    site.signal(nix::sys::signal::Signal::SIGHUP);
    let before = pids(&site.status().expect("a status"), "web");
    // No command of ours: it would read the configuration as well, and hang.
    site.signal(nix::sys::signal::Signal::SIGUSR1);
    site.await_status("rolled meanwhile", 20, |status| {
        pids(status, "web") != before && pool(status, "web")["state"] == "ok"
    });
    until("the reload is refused", 45, || {
        site.log().contains("the configuration could not be read within 30 s").then_some(())
    });
    drop(dead);
    site.write("more/jobs.toml", "[pool.work]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n");
    let reload = site.rotad(&["reload"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    assert_eq!(pids(&site.status().expect("a status"), "work").len(), 1);
    site.stop_politely(10);
}

/// The folder of a worker's socket hangs: that worker is not ready, and the checks of all others go on.
#[test]
fn a_socket_folder_that_hangs_holds_no_other_check_up() {
    if !own_mounts() {
        return;
    }
    let _alone = alone();
    let mut site = Site::new(
        r#"
[pool.web]
command = ["@WORKER@", "http"]
listen = ["http"]
ready = { http = "127.0.0.1:@PORT@/" }
stop = "1s"
[pool.web.health]
http = "127.0.0.1:@PORT@/"
every = "200ms"
[listen.http]
address = "127.0.0.1:@PORT@"
[pool.api]
command = ["@WORKER@", "wait"]
ready = { connect = "unix:@DIR@/dead/api.sock" }
ready_timeout = "60s"
stop = "1s"
"#,
    );
    std::fs::create_dir(site.path("dead")).expect("a folder");
    let dead = DeadMount::over(&site.path("dead")).expect("a dead mount");
    site.run();
    site.await_status("web is ready", 20, |status| pool(status, "web")["ready"] == 1);
    for _ in 0..3 {
        let roll = site.rotad(&["roll", "web"]);
        assert_eq!(roll.code, 0, "{roll:?}");
        assert!(roll.took < Duration::from_secs(5), "{roll:?}");
    }
    until("it is told", 10, || site.log().contains("the folder of its socket hangs").then_some(()));
    assert_eq!(pool(&site.status().expect("a status"), "api")["ready"], 0);
    drop(dead);
    let socket = std::os::unix::net::UnixListener::bind(site.path("dead/api.sock")).expect("a socket");
    site.await_status("api is ready", 20, |status| pool(status, "api")["ready"] == 1);
    drop(socket);
    site.stop_politely(10);
}
