//! What the tests share: a [`Site`] (a directory with a configuration and the master that runs there), load on its
//! sockets ([`Load`]), a [`Watch`] over its status, and what a machine may lack ([`need`]).
//!
//! Nothing here sleeps to make a test pass: everything waits for a condition, with a deadline.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::print_stderr,
    reason = "each test binary uses its own part"
)]

pub mod ask;
pub mod cases;
pub mod container;
pub mod counted;
pub mod dead_mount;
pub mod delegated;
pub mod example;
pub mod fixed;
pub mod frozen;
pub mod jobs;
pub mod load;
pub mod need;
pub mod page;
pub mod proc;
pub mod random;
pub mod served;
pub mod site;
pub mod systemd_box;
pub mod watch;

pub use cases::Cases;
pub use container::Container;
pub use dead_mount::DeadMount;
pub use delegated::Delegated;
pub use frozen::Frozen;
pub use load::{Load, Report};
pub use need::need;
pub use random::Random;
pub use served::Served;
pub use site::{Run, Site};
pub use watch::Watch;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, sockopt};
use serde_json::Value;
use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The rotad binary under test.
pub fn rotad() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_rotad"))
}

/// The worker with knobs, built beside it.
pub fn testworker() -> PathBuf {
    let path = rotad().with_file_name("examples").join("testworker");
    assert!(
        path.exists(),
        "{} is missing: `cargo build --example testworker`",
        path.display()
    );
    path
}

/// rotad-console, built beside it.
pub fn console() -> PathBuf {
    let path = rotad().with_file_name("rotad-console");
    assert!(
        path.exists(),
        "{} is missing: `cargo build --profile test --workspace --bins`",
        path.display()
    );
    path
}

/// The lock file of [`alone`].
pub const ALONE: &str = "alone.lock";

/// Tests that measure or put load on the machine run one after another: in this process, and in every other of the
/// user's (cargo-nextest runs each test in one of its own).
pub fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    let thread = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    Alone {
        _process: lock_file(ALONE),
        _thread: thread,
    }
}

/// Others wait until it is dropped.
#[must_use]
pub struct Alone {
    /// First: else a thread of this process would wait for its own process.
    _process: File,
    _thread: MutexGuard<'static, ()>,
}

/// Locks a file of the user's (flock(2)); released with the descriptor, so also when the test is killed.
fn lock_file(name: &str) -> File {
    let file = open_lock_file(name);
    file.lock().expect("a lock");
    file
}

/// Opens the file that [`alone`] locks, in a directory of the user's.
pub fn open_lock_file(name: &str) -> File {
    let user = nix::unistd::geteuid();
    let dir = std::env::temp_dir().join(format!("rotad-tests-{user}"));
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            panic!("{}: {error}", dir.display())
        }
        _ => {}
    }
    let found = dir.symlink_metadata().expect("a directory for locks");
    assert!(
        found.is_dir() && found.uid() == user.as_raw(),
        "{} is another user's",
        dir.display()
    );
    File::options()
        .create(true)
        .append(true)
        .open(dir.join(name))
        .expect("a lock file")
}

/// Waits until `look` gives something; panics with `what` after `seconds`.
pub fn until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    until_some(seconds, &mut look)
        .unwrap_or_else(|| panic!("waited {seconds} s in vain for: {what}"))
}

/// Waits until `look` gives something, or for `seconds`.
pub fn until_some<T>(seconds: u64, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Watches for `seconds` that `look` never finds anything: for what must not happen. The time is part of the promise.
pub fn never<T: std::fmt::Debug>(what: &str, seconds: f64, mut look: impl FnMut() -> Option<T>) {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        if let Some(found) = look() {
            panic!("{what}: {found:?}");
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A moment in which nothing is asked: between two signals, as a rate.
pub fn spaced(pause: Duration) {
    std::thread::sleep(pause);
}

/// The pool of this name in a status.
pub fn pool<'s>(status: &'s Value, name: &str) -> &'s Value {
    let pools = status["pools"].as_array().expect("pools");
    pools
        .iter()
        .find(|pool| pool["name"] == name)
        .unwrap_or_else(|| panic!("no pool {name} in {status}"))
}

/// The pids of a pool, by slot; those between two lives are left out.
pub fn pids(status: &Value, name: &str) -> Vec<i32> {
    let mut pids: Vec<(u64, i32)> = pool(status, name)["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .filter_map(|worker| Some((worker["slot"].as_u64()?, worker["pid"].as_i64()? as i32)))
        .collect();
    pids.sort_unstable();
    pids.into_iter().map(|(_, pid)| pid).collect()
}

/// Every wanted worker of every pool is ready, every oneshot done, and no rolling restart runs.
pub fn all_ready(status: &Value) -> bool {
    status["pools"].as_array().is_some_and(|pools| {
        pools.iter().all(|pool| {
            let settled = pool["state"] == "ok" || pool["state"] == "done";
            settled && pool["ready"] == pool["wanted"] && pool["alive"] == pool["wanted"]
        })
    })
}

/// A number from the environment: how long a test goes on, or which random numbers it takes.
pub fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// How many rolling restarts a test with load does: `ROTAD_ROLLS`, for the figures of docs/programs/ and
/// docs/worker-contract.md; fewer in a normal run.
pub fn rolls() -> u64 {
    asked_for("ROTAD_ROLLS").unwrap_or(3)
}

/// A number of a status.
pub fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

/// A TCP port of 127.0.0.1 that nobody uses, below those that the kernel hands out.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..10_000 {
        let port = 10_000
            + (std::process::id().wrapping_mul(37) + NEXT.fetch_add(1, Ordering::SeqCst)) % 20_000;
        if is_free(Ipv4Addr::LOCALHOST, port as u16) && claim(port as u16) {
            return port as u16;
        }
    }
    panic!("no free port");
}

/// A range of TCP ports that nobody uses, as `ports` wants it: above those of [`free_port`], below those that the
/// kernel hands out.
pub fn free_ports(many: u16) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    assert!(many <= 16, "a range of {many}");
    for _ in 0..1000 {
        let part = (std::process::id().wrapping_mul(7) + NEXT.fetch_add(1, Ordering::SeqCst)) % 170;
        let first = 30_000 + part as u16 * 16;
        if (first..first + many).all(|port| is_free(Ipv4Addr::UNSPECIFIED, port)) && claim(first) {
            return format!("{first}-{}", first + many - 1);
        }
    }
    panic!("no {many} free ports in a row");
}

/// Nobody listens there. Bound and never listening: a child that another thread forks meanwhile has a copy of the socket
/// until it executes its program, and a copy of a listener would take the port so long.
fn is_free(address: Ipv4Addr, port: u16) -> bool {
    let socket = nix::sys::socket::socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .expect("a socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
    bind(
        socket.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(address, port)),
    )
    .is_ok()
}

/// Takes a port, or a range by its first one, for the life of this process; false: another test's process has it. The
/// claim is an abstract unix socket, which ends with the process however that ends.
fn claim(port: u16) -> bool {
    static CLAIMED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("rotad-tests/{port}")).expect("a name");
    let claim = UnixListener::bind_addr(&name);
    claim.is_ok_and(|claim| {
        CLAIMED
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .push(claim);
        true
    })
}
