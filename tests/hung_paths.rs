//! Paths that hang with their disk hold up nobody but those that need them.

mod support;

use nix::mount::{MsFlags, mount};
use std::path::Path;
use support::{DeadMount, Site, alone, need, pids, pool, until};

/// A mount namespace of this thread's own, which the master that it starts inherits. False where the machine cannot do
/// it and that was allowed.
fn own_mounts() -> bool {
    if !need::root() || !need::need("/dev/fuse", Path::new("/dev/fuse").exists()) {
        return false;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .expect("of its own");
    true
}

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
listen = ["http"]
stop = "1s"
[listen.http]
address = "127.0.0.1:@PORT@"
"#;

const JOBS: &str = "[pool.jobs]\ncommand = [\"@WORKER@\", \"wait\"]\nready = \"spawned\"\n";

/// The configuration cannot be read: pools roll meanwhile, the reload is refused after its bound, and the next one is
/// heard once the disk is back.
#[test]
fn a_configuration_that_cannot_be_read_is_refused() {
    if !own_mounts() {
        return;
    }
    let _alone = alone();
    let mut site = Site::new(WEB);
    site.write(
        "rotad.toml",
        &format!("include = [\"more/*.toml\"]\n{}", site.read("rotad.toml")),
    );
    std::fs::create_dir(site.path("more")).expect("a directory");
    site.write("more/jobs.toml", &site.filled(JOBS));
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
        site.log()
            .contains("the configuration could not be read within 30 s")
            .then_some(())
    });
    drop(dead);
    site.write(
        "more/jobs.toml",
        &site.filled(JOBS).replace("pool.jobs", "pool.work"),
    );
    let reload = site.rotad(&["reload"]);
    assert_eq!(reload.code, 0, "{reload:?}");
    assert_eq!(pids(&site.status().expect("a status"), "work").len(), 1);
    site.stop_politely(10);
}
