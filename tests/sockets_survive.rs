//! Promise 7: a listening socket stays open from start to stop, whatever workers do to it.

mod support;

use std::process::Command;
use std::time::Duration;
use support::load::get;
use support::{Load, Site, alone, need, pids, proc, until};

const TCP: &str = "[listen.http]\naddress = \"127.0.0.1:@PORT@\"\nbacklog = 200\n";
const UNIX: &str = "[listen.http]\naddress = \"unix:@DIR@/web.sock\"\nmode = \"0660\"\n";
const POOL: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["http"]
stop = "5s"
reload = { soak = "100ms" }
"#;

/// A worker shuts the shared TCP listener down: it listens again, the same workers serve on.
#[test]
fn a_shut_down_tcp_socket_listens_again() {
    let mut site = Site::up(&format!("{POOL}{TCP}"));
    for _ in 0..3 {
        get(&site.address(), "/shutdown").expect("an answer");
        until("the service is back", 10, || get(&site.address(), "/").ok());
    }
    assert!(site.master_lives());
    site.await_ready();
    let load = Load::on(&site.address(), 4, 4);
    load.await_more(200);
    load.stop().assert_nothing_lost(200);
}

/// The same for a unix socket: a new one stands in its place and the pool is rolled onto it.
#[test]
fn a_shut_down_unix_socket_is_replaced() {
    let mut site = Site::up(&format!("{POOL}{UNIX}"));
    let (address, before) = (
        format!("unix:{}", site.path("web.sock").display()),
        pids(&site.await_ready(), "web"),
    );
    get(&address, "/shutdown").expect("an answer");
    until("the service is back", 20, || get(&address, "/").ok());
    let after = until("new workers", 20, || {
        Some(pids(&site.status()?, "web")).filter(|now| *now != before)
    });
    assert!(!after.is_empty());
    site.await_ready();
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(site.path("web.sock"))
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660, "the mode of the new one");
    let load = Load::on(&address, 4, 0);
    load.await_more(200);
    load.stop().assert_nothing_lost(200);
    assert!(site.master_lives());
}

/// Workers that shut the unix listener down for all when they are asked to stop, at each rolling restart, by the first
/// old worker: those that hold the dead socket are replaced immediately, without counting as failed. Lost are the requests in the
/// queue of the dead socket, and those before the new one listens.
#[test]
fn a_shutdown_at_term_in_a_roll_is_repaired() {
    let _alone = alone();
    let pool = POOL.replace("\"http\"]\ncount = 2", "\"http\", \"--shuts\"]\ncount = 4");
    let site = Site::up(&format!("{pool}{UNIX}"));
    let address = format!("unix:{}", site.path("web.sock").display());
    let load = Load::on(&address, 4, 0);
    load.await_more(100);
    for generation in 2..5 {
        let run = site.rotad(&["roll"]);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.took < Duration::from_secs(20), "{run:?}");
        let status = site.await_ready();
        assert_eq!(
            support::pool(&status, "web")["generation"],
            generation,
            "{status}"
        );
        load.await_more(100);
    }
    let report = load.stop();
    // A client that is refused tries again immediately, some ten thousand times a second: so few refusals are the
    // milliseconds that each of the dead sockets stood there, on a busy machine as well, and no outage.
    assert!(report.lost() <= 1000, "{:?}", report.lost);
    assert!(
        report.slowest < Duration::from_secs(10),
        "{:?}",
        report.slowest
    );
}

/// The same, and what is deployed does not come up beside the first one: back to the old code, in every slot.
#[test]
fn a_shutdown_at_term_while_new_code_fails_is_repaired() {
    let _alone = alone();
    let pool = POOL.replace(
        "\"http\"]\ncount = 2",
        "\"http\", \"--shuts\", \"--code\", \"code\"]\nworking_directory = \"@DIR@/current\"\ncount = 2",
    );
    let mut site = Site::new(&format!("{pool}{UNIX}"));
    for release in ["one", "two"] {
        std::fs::create_dir(site.path(release)).expect("a release");
    }
    site.write("one/code", "ok\nfirst");
    site.write("two/code", "ok\nsecond");
    std::os::unix::fs::symlink("one", site.path("current")).expect("a link");
    site.run();
    site.await_ready();
    let address = format!("unix:{}", site.path("web.sock").display());
    std::fs::remove_file(site.path("current")).expect("the link");
    std::os::unix::fs::symlink("two", site.path("current")).expect("a link");
    // The first new worker serves; once it has soaked, later ones fail.
    let roll = std::thread::spawn({
        let (config, asker) = (site.config.clone(), site.asker());
        let broken = site.path("two/code");
        move || {
            let run = std::thread::spawn(move || support::site::verb(&config, &["roll"], 60));
            until("a new worker that serves", 20, || {
                let workers = support::pool(&asker.status()?, "web")["workers"]
                    .as_array()?
                    .clone();
                let serves =
                    |w: &serde_json::Value| w["generation"] == 2 && w["ready_in_s"].is_f64();
                workers.iter().any(serves).then_some(())
            });
            std::fs::write(broken, "exit 3\nbroken").expect("worse code");
            run.join().expect("a roll")
        }
    });
    let run = roll.join().expect("a roll");
    // 1 if the roll fails while every worker's socket is the dead one: no worker serves then.
    assert!([1, 10].contains(&run.code), "{run:?}");
    site.await_ready();
    let answer = until("the service is back", 20, || get(&address, "/").ok());
    assert!(answer.contains("first"), "{answer}");
    let load = Load::on(&address, 2, 0);
    load.await_more(100);
    load.stop().assert_nothing_lost(100);
    assert!(site.master_lives());
}

/// The backlog of the listener, as the kernel tells it.
fn backlog(port: u16) -> Option<u32> {
    let output = Command::new("ss")
        .args(["-ltnH", &format!("sport = :{port}")])
        .output()
        .expect("ss")
        .stdout;
    String::from_utf8_lossy(&output)
        .split_whitespace()
        .nth(2)?
        .parse()
        .ok()
}

/// A worker shrinks the backlog (as many servers do by their own listen(2)): put right when a worker becomes ready.
#[test]
fn a_shrunk_backlog_is_restored() {
    if !need::program("ss") {
        return;
    }
    let site = Site::up(&format!("{POOL}{TCP}"));
    assert_eq!(backlog(site.port), Some(200));
    get(&site.address(), "/shrink").expect("an answer");
    assert_eq!(backlog(site.port), Some(1), "the worker shrank it");
    assert_eq!(site.rotad(&["roll"]).code, 0);
    until("the backlog is put right", 5, || {
        (backlog(site.port) == Some(200)).then_some(())
    });
}

/// All workers die together, again and again, and new code does not start: connections wait in the queue, none is
/// refused, and each is answered in the end.
#[test]
fn no_connection_is_refused_without_a_worker() {
    let _alone = alone();
    let mut site = Site::new(&format!(
        "{}{TCP}",
        POOL.replace(
            "\"http\"]\ncount",
            "\"http\", \"--code\", \"@DIR@/code\"]\ncount"
        )
    ));
    site.write("code", "ok\nfirst");
    site.run();
    let workers = pids(&site.await_ready(), "web");
    site.write("code", "exit 1\nbroken");
    for worker in workers {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(worker),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("a worker");
    }
    site.await_status("nobody serves", 10, |status| {
        support::pool(status, "web")["ready"] == 0
    });
    let waiting = support::load::burst(&site.address(), "/", 20);
    site.write("code", "ok\nmended");
    for client in waiting {
        let answer = client.join().expect("a client");
        assert!(
            answer.as_ref().is_ok_and(|body| body.contains("mended")),
            "{answer:?}"
        );
    }
}

/// Workers that close everything that they were given touch nobody else.
#[test]
fn a_worker_that_closes_its_sockets_harms_no_other() {
    let closer = "[pool.closer]\ncommand = [\"@WORKER@\", \"closes-fds\"]\nlisten = [\"http\"]\nready = \"spawned\"\n";
    let site = Site::up(&format!("{POOL}{closer}{TCP}"));
    let load = Load::on(&site.address(), 2, 2);
    load.await_more(200);
    load.stop().assert_nothing_lost(200);
    assert!(!proc::gone(site.pid()));
}

/// The file of a unix socket: a stale one is replaced, one with a listener is not, ours is removed at stop.
#[test]
fn files_of_unix_sockets_survive_reloads() {
    let mut site = Site::new(&format!("{POOL}{UNIX}"));
    let path = site.path("web.sock");
    let other = std::os::unix::net::UnixListener::bind(&path).expect("another listener");
    let run = site.rotad(&["start"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.err.contains("web.sock"), "{run:?}");
    assert!(
        std::os::unix::net::UnixStream::connect(&path).is_ok(),
        "the other's socket was taken"
    );
    site.assert_empty();
    drop(other); // its file stays: stale
    site.run();
    site.await_ready();
    assert!(get(&format!("unix:{}", path.display()), "/").is_ok());
    site.signal(nix::sys::signal::Signal::SIGTERM);
    site.await_exit(10);
    assert!(!path.exists(), "removed at stop");
}
