//! The accept probe sees real processes begin to accept, each in its own way, and none that does not.

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::select::{FdSet, select};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rotad::event_loop::clock::Clock;
use rotad::event_loop::mailbox;
use rotad::event_loop::waker::Waker;
use rotad::listener::{Listener, open_all};
use rotad::plan::{Address, ListenPlan};
use rotad::probe::accept::{AcceptProbe, AcceptReport, Target};
use rotad_core::WorkerId;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MODE: &str = "ROTAD_TEST_CHILD";
const PATIENCE: Duration = Duration::from_secs(20);

// ---- the worker: this very binary, called again ----

/// No test of its own: the children start here. stdin is the listener, stderr a pipe of orders (never written to).
#[test]
fn child() {
    let Ok(mode) = std::env::var(MODE) else {
        return;
    };
    let listener = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    if let Some(how) = mode.strip_prefix("later-") {
        say("holding");
        hear();
        return wait_as(how, listener);
    }
    wait_as(&mode, listener);
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").unwrap();
}

/// Waits for one byte, or for the end of the parent.
fn hear() {
    let orders = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    std::fs::File::from(orders).read_exact(&mut [0]).ok();
}

fn wait_as(mode: &str, listener: OwnedFd) {
    let none = EpollTimeout::NONE;
    let mut events = [EpollEvent::empty(); 4];
    match mode {
        "accept" => drop(TcpListener::from(listener).accept()),
        "accept-unix" => drop(UnixListener::from(listener).accept()),
        "poll" => {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).unwrap();
        }
        "poll-write" => {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLOUT)];
            poll(&mut fds, PollTimeout::NONE).unwrap();
        }
        "select" => {
            let mut set = FdSet::new();
            set.insert(listener.as_fd());
            select(None, &mut set, None, None, None).unwrap();
        }
        "epoll" => {
            epoll_of(listener.as_fd(), EpollFlags::EPOLLIN)
                .wait(&mut events, none)
                .unwrap();
        }
        "epoll-nothing" => {
            epoll_of(listener.as_fd(), EpollFlags::empty())
                .wait(&mut events, none)
                .unwrap();
        }
        "epoll-in-epoll" => {
            let inner = epoll_of(listener.as_fd(), EpollFlags::EPOLLIN);
            epoll_of(inner.0.as_fd(), EpollFlags::EPOLLIN)
                .wait(&mut events, none)
                .unwrap();
        }
        "poll-of-epoll" => {
            let inner = epoll_of(listener.as_fd(), EpollFlags::EPOLLIN);
            let mut fds = [PollFd::new(inner.0.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).unwrap();
        }
        "thread" => std::thread::spawn(move || wait_as("accept", listener))
            .join()
            .unwrap(),
        "grandchild" => {
            again("accept")
                .stdin(listener)
                .spawn()
                .unwrap()
                .wait()
                .unwrap();
        }
        "busy" => {
            let held = TcpListener::from(listener).accept().unwrap();
            say("held");
            hear();
            drop(held);
        }
        "busy-unix" => {
            let held = UnixListener::from(listener).accept().unwrap();
            say("held");
            hear();
            drop(held);
        }
        "client" => {
            let address = TcpListener::from(listener.try_clone().unwrap())
                .local_addr()
                .unwrap();
            let held = TcpStream::connect(address).unwrap();
            say("connected");
            hear();
            drop(held);
            wait_as("accept", listener);
        }
        "blind" => see_nothing(),
        other => panic!("{other}?"),
    }
}

fn epoll_of(fd: std::os::fd::BorrowedFd<'_>, flags: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(fd, EpollEvent::new(flags, 0)).unwrap();
    epoll
}

/// An accept probe without rights looks at pid 1.
fn see_nothing() {
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setuid(65534.into()).unwrap();
    }
    let mut fixture = Fixture::start(Waker::new().unwrap());
    fixture.watch(
        WorkerId(1),
        1,
        vec![Target {
            inode: 1,
            address: Address::Unix("/x".into()),
        }],
    );
    match fixture.reports.recv_timeout(PATIENCE) {
        Ok(AcceptReport::Unobservable(WorkerId(1), why)) => say(&format!("blind {why}")),
        other => say(&format!("{other:?}")),
    }
}

fn again(mode: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(MODE, mode);
    command
}

// ---- the master's side ----

struct Worker {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    orders: std::io::PipeWriter,
}

impl Worker {
    fn start(mode: &str, listener: &Listener) -> Self {
        let (heard, orders) = std::io::pipe().unwrap();
        let mut command = again(mode);
        command
            .stdin(listener.as_fd().try_clone_to_owned().unwrap())
            .stdout(Stdio::piped());
        let mut child = command
            .stderr(OwnedFd::from(heard))
            .process_group(0)
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            said,
            orders,
        }
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Reads until the worker says this.
    fn until(&mut self, word: &str) -> String {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            assert!(
                self.said.read_line(&mut line).unwrap() > 0,
                "it ended without saying {word:?}"
            );
        }
        line
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Unreaped: the number of the group is still its own.
        killpg(Pid::from_raw(self.pid()), Signal::SIGKILL).ok();
        self.child.wait().ok();
    }
}

fn tcp() -> Listener {
    open(Address::Tcp("127.0.0.1:0".parse().unwrap()))
}

fn open(address: Address) -> Listener {
    let plan = ListenPlan {
        name: "l".into(),
        address,
        backlog: 64,
        nonblocking: false,
        mode: None,
        uid: None,
        gid: None,
    };
    open_all(&[plan], Vec::new()).unwrap().remove(0)
}

/// An accept probe and its reports.
struct Fixture {
    probe: AcceptProbe,
    reports: Receiver<AcceptReport>,
}

impl Fixture {
    fn start(wake: Waker) -> Self {
        let (mailbox, reports) = mailbox::channel(wake);
        Self {
            probe: AcceptProbe::start(mailbox, Clock::start()).unwrap(),
            reports,
        }
    }
}

impl Deref for Fixture {
    type Target = AcceptProbe;

    fn deref(&self) -> &AcceptProbe {
        &self.probe
    }
}

impl DerefMut for Fixture {
    fn deref_mut(&mut self) -> &mut AcceptProbe {
        &mut self.probe
    }
}

fn accepting(fixture: &Fixture) -> AcceptReport {
    fixture.reports.recv_timeout(PATIENCE).unwrap()
}

fn silent(fixture: &Fixture) {
    let heard = fixture.reports.recv_timeout(Duration::from_millis(150));
    assert_eq!(heard, Err(RecvTimeoutError::Timeout));
}

#[test]
fn every_way_of_waiting_is_seen() {
    let listener = tcp();
    let wake = Waker::new().unwrap();
    let mut fixture = Fixture::start(wake.clone());
    let modes = [
        "accept",
        "poll",
        "select",
        "epoll",
        "epoll-in-epoll",
        "poll-of-epoll",
        "thread",
        "grandchild",
    ];
    for (id, mode) in modes.into_iter().enumerate() {
        let worker = Worker::start(mode, &listener);
        let id = WorkerId(id as u64);
        fixture.watch(id, worker.pid(), vec![listener.target()]);
        assert_eq!(accepting(&fixture), AcceptReport::Accepting(id), "{mode}");
    }
    let mut woken = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut woken, PollTimeout::ZERO).unwrap(),
        1,
        "the main thread was woken"
    );
}

#[test]
fn holding_a_listener_is_not_accepting() {
    let listener = tcp();
    let mut fixture = Fixture::start(Waker::new().unwrap());
    let mut workers = Vec::new();
    for (id, mode) in ["later-accept", "later-poll", "later-epoll"]
        .into_iter()
        .enumerate()
    {
        let mut worker = Worker::start(mode, &listener);
        worker.until("holding");
        fixture.watch(WorkerId(id as u64), worker.pid(), vec![listener.target()]);
        workers.push(worker);
    }
    let waits_otherwise =
        ["poll-write", "epoll-nothing"].map(|mode| Worker::start(mode, &listener));
    for (id, worker) in waits_otherwise.iter().enumerate() {
        fixture.watch(
            WorkerId(100 + id as u64),
            worker.pid(),
            vec![listener.target()],
        );
    }
    silent(&fixture);
    for (id, worker) in workers.iter_mut().enumerate() {
        worker.orders.write_all(b"x").unwrap();
        assert_eq!(
            accepting(&fixture),
            AcceptReport::Accepting(WorkerId(id as u64))
        );
    }
    silent(&fixture);
}

#[test]
fn another_listener_is_not_ours() {
    let (ours, other) = (tcp(), tcp());
    let mut fixture = Fixture::start(Waker::new().unwrap());
    let worker = Worker::start("accept", &other);
    fixture.watch(WorkerId(1), worker.pid(), vec![ours.target()]);
    silent(&fixture);
    fixture.watch(
        WorkerId(1),
        worker.pid(),
        vec![ours.target(), other.target()],
    );
    assert_eq!(
        accepting(&fixture),
        AcceptReport::Accepting(WorkerId(1)),
        "any of them is enough"
    );
}

#[test]
fn a_busy_worker_is_known_by_its_connection() {
    let listener = tcp();
    let mut fixture = Fixture::start(Waker::new().unwrap());
    let mut worker = Worker::start("busy", &listener);
    let _client = TcpStream::connect(("127.0.0.1", listener.port().unwrap())).unwrap();
    worker.until("held");
    fixture.watch(WorkerId(1), worker.pid(), vec![listener.target()]);
    assert_eq!(accepting(&fixture), AcceptReport::Accepting(WorkerId(1)));
}

#[test]
fn a_client_of_its_own_port_is_not_accepting() {
    let listener = tcp();
    let mut fixture = Fixture::start(Waker::new().unwrap());
    let mut worker = Worker::start("client", &listener);
    worker.until("connected");
    fixture.watch(WorkerId(1), worker.pid(), vec![listener.target()]);
    silent(&fixture);
}

#[test]
fn accepting_on_unix_sockets_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = open(Address::Unix(path.clone()));
    let mut fixture = Fixture::start(Waker::new().unwrap());
    let worker = Worker::start("accept-unix", &listener);
    fixture.watch(WorkerId(1), worker.pid(), vec![listener.target()]);
    assert_eq!(accepting(&fixture), AcceptReport::Accepting(WorkerId(1)));
    drop(worker);
    let mut worker = Worker::start("busy-unix", &listener);
    let _client = UnixStream::connect(&path).unwrap();
    worker.until("held");
    fixture.watch(WorkerId(2), worker.pid(), vec![listener.target()]);
    assert_eq!(accepting(&fixture), AcceptReport::Accepting(WorkerId(2)));
}

#[test]
fn forgotten_and_exited_workers_are_not_reported() {
    let listener = tcp();
    let mut fixture = Fixture::start(Waker::new().unwrap());
    let mut forgotten = Worker::start("later-accept", &listener);
    forgotten.until("holding");
    fixture.watch(WorkerId(1), forgotten.pid(), vec![listener.target()]);
    fixture.forget(WorkerId(1));
    let other = Worker::start("accept", &listener);
    fixture.watch(WorkerId(9), other.pid(), vec![listener.target()]);
    assert_eq!(
        accepting(&fixture),
        AcceptReport::Accepting(WorkerId(9)),
        "so the fixture has heard both"
    );
    forgotten.orders.write_all(b"x").unwrap();
    let mut dead = Worker::start("later-accept", &listener);
    dead.until("holding");
    fixture.watch(WorkerId(2), dead.pid(), vec![listener.target()]);
    drop(dead);
    silent(&fixture);
}

#[test]
fn without_rights_a_worker_is_unobservable() {
    let listener = tcp();
    let mut worker = Worker::start("blind", &listener);
    let line = worker.until("blind");
    assert!(line.contains("/proc/1/fd"), "{line}");
}
