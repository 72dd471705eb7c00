//! Sockets that the service manager has opened (sd_listen_fds(3)): they serve the listeners of their name or address.

mod support;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use support::load::{self, burst};
use support::{Site, alone, until};

const WEB: &str = r#"
[pool.web]
command = ["@WORKER@", "http"]
count = 2
listen = ["http"]
[listen.http]
address = "@ADDRESS@"
"#;

fn site(address: &str) -> Site {
    Site::new(&WEB.replace("@ADDRESS@", address))
}

/// The same command, as a manager would start it: two sockets at 3 and 4, under these names.
fn activated(command: &Command, names: &str, sockets: [OwnedFd; 2]) -> Command {
    let mut inner = Command::new("sh");
    let script = "export LISTEN_PID=$$; exec 3<&0 4<&1 0</dev/null 1>&2; exec \"$@\"";
    inner
        .args(["-c", script, "manager"])
        .arg(command.get_program())
        .args(command.get_args());
    let [first, second] = sockets;
    inner
        .env("LISTEN_FDS", "2")
        .env("LISTEN_FDNAMES", names)
        .stdin(first)
        .stdout(second);
    inner
}

fn tcp(address: &str) -> OwnedFd {
    TcpListener::bind(address).expect("a listener").into()
}

fn start(site: &mut Site, names: &str, sockets: [OwnedFd; 2]) {
    let mut command = activated(&site.run_command(), names, sockets);
    command.stderr(std::fs::File::create(site.path("stderr.txt")).expect("stderr"));
    site.spawn_as_it_is(command);
}

/// A client that connects before the master runs is answered; the manager holds the socket, so a restart refuses no client.
#[test]
fn sockets_are_matched_by_name_also_after_a_restart() {
    let _alone = alone();
    let mut site = site("127.0.0.1:@PORT@");
    let held = TcpListener::bind(site.address()).expect("a listener");
    let copy = || OwnedFd::from(held.try_clone().expect("a copy"));
    for _ in 0..2 {
        let early = burst(&site.address(), "/", 5);
        start(&mut site, "other:http", [tcp("127.0.0.1:0"), copy()]);
        site.await_ready();
        for answer in early {
            answer.join().expect("a client").expect("an answer");
        }
        site.stop_politely(10);
    }
    site.await_log("uses the socket http of the service manager", 10);
    site.await_log(
        "no listener of the configuration uses the service manager's socket other",
        10,
    );
}

/// With whatever name systemd gave it.
#[test]
fn sockets_are_matched_by_address() {
    let mut site = site("127.0.0.1:@PORT@");
    let own = tcp(&site.address());
    start(
        &mut site,
        "rotad.socket:rotad.socket",
        [tcp("127.0.0.1:0"), own],
    );
    site.await_ready();
    load::get(&site.address(), "/").expect("an answer");
}

/// The manager's word on the address counts, and the difference is told.
#[test]
fn a_named_socket_is_used_at_another_address() {
    let mut site = site("127.0.0.1:1");
    let own = tcp(&site.address());
    start(&mut site, "http:x", [own, tcp("127.0.0.1:0")]);
    site.await_ready();
    load::get(&site.address(), "/").expect("an answer");
    site.await_log(
        &format!(
            "listens at {}, not at 127.0.0.1:1: it is used nevertheless",
            site.address()
        ),
        5,
    );
}

/// The file is the manager's: it stays.
#[test]
fn a_unix_socket_is_used() {
    let mut site = site("unix:@DIR@/web.sock");
    let path = site.path("web.sock");
    let own = UnixListener::bind(&path).expect("a listener");
    start(&mut site, "x:http", [tcp("127.0.0.1:0"), own.into()]);
    site.await_ready();
    load::get(&format!("unix:{}", path.display()), "/").expect("an answer");
    site.stop_politely(10);
    assert!(path.exists(), "the manager's file is gone");
}

/// A daemon is not the process that the sockets were meant for.
#[test]
fn a_daemon_gets_the_sockets_of_its_launcher() {
    let site = site("127.0.0.1:@PORT@");
    let own = tcp(&site.address());
    let mut start = Command::new(support::rotad());
    start.args(["start", "-c"]).arg(&site.config);
    let mut command = activated(&start, "http:x", [own, tcp("127.0.0.1:0")]);
    command.stderr(std::fs::File::create(site.path("stderr.txt")).expect("stderr"));
    let mut child = command.spawn().expect("rotad start");
    let status = until("rotad start has ended", 30, || {
        child.try_wait().expect("a child")
    });
    assert!(status.success(), "{}", site.log());
    load::get(&site.address(), "/").expect("an answer");
    site.await_log("uses the socket http of the service manager", 10);
    assert_eq!(site.rotad(&["stop"]).code, 0);
    site.assert_empty();
}

/// Descriptor numbers that are announced and not open, or meant for another process, are not used.
#[test]
fn announced_descriptors_that_are_closed_are_ignored() {
    let mut site = site("127.0.0.1:@PORT@");
    let run = site.run_command();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "export LISTEN_PID=$$ LISTEN_FDS=7 LISTEN_FDNAMES=http; exec \"$@\"",
        "manager",
    ]);
    command.arg(run.get_program()).args(run.get_args());
    site.spawn(command);
    site.await_ready();
    load::get(&site.address(), "/").expect("an answer");
    assert!(
        !site.log().contains("of the service manager"),
        "{}",
        site.log()
    );
}
