//! Listening sockets: all or none, never with wrong rights, and alive through whatever a worker does to them.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{Backlog, Shutdown, getsockopt, shutdown, sockopt};
use rotad::event_loop::poller::Interest;
use rotad::listener::{FileCheckResult, Listener, SocketError, SocketLoss, open_all};
use rotad::plan::{Address, ListenPlan};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

fn plan(name: &str, address: Address) -> ListenPlan {
    ListenPlan {
        name: name.into(),
        address,
        backlog: 64,
        nonblocking: false,
        mode: None,
        uid: None,
        gid: None,
    }
}

fn tcp(address: &str) -> ListenPlan {
    plan("http", Address::Tcp(address.parse().unwrap()))
}

fn unix(path: &Path) -> ListenPlan {
    plan("sock", Address::Unix(path.to_owned()))
}

fn open(plan: ListenPlan) -> Listener {
    open_all(&[plan], Vec::new()).unwrap().remove(0)
}

fn refused(plan: ListenPlan) -> SocketError {
    open_all(&[plan], Vec::new()).unwrap_err()
}

/// What a worker would hold: another descriptor of the same socket.
fn worker_tcp(listener: &Listener) -> TcpListener {
    listener.as_fd().try_clone_to_owned().unwrap().into()
}

fn worker_unix(listener: &Listener) -> UnixListener {
    listener.as_fd().try_clone_to_owned().unwrap().into()
}

/// One whole exchange with a worker that accepts.
fn serves_tcp(listener: &Listener) {
    let mut client = TcpStream::connect(("127.0.0.1", listener.port().unwrap())).unwrap();
    let (mut served, _) = worker_tcp(listener).accept().unwrap();
    assert!(served.nodelay().unwrap(), "TCP_NODELAY is inherited");
    served.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

fn serves_unix(listener: &Listener, path: &Path) {
    let mut client = UnixStream::connect(path).unwrap();
    worker_unix(listener)
        .accept()
        .unwrap()
        .0
        .write_all(b"x")
        .unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_tcp_socket_serves_and_tells_its_address() {
    let listener = open(tcp("127.0.0.1:0"));
    assert_ne!(listener.port(), Some(0));
    assert_eq!(
        listener.addr_text(),
        format!("127.0.0.1:{}", listener.port().unwrap())
    );
    assert!(getsockopt(&listener, sockopt::ReuseAddr).unwrap());
    assert!(getsockopt(&listener, sockopt::TcpNoDelay).unwrap());
    let flags = nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(
        flags & nix::fcntl::OFlag::O_NONBLOCK.bits(),
        0,
        "blocking, as inherited sockets are expected"
    );
    let flags = nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, nix::libc::FD_CLOEXEC);
    serves_tcp(&listener);
}

#[test]
fn all_listeners_are_opened_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("first.sock");
    let taken = open(tcp("127.0.0.1:0"));
    let error = open_all(&[unix(&path), tcp(&taken.addr_text())], Vec::new()).unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(nix::libc::EADDRINUSE));
    let text = error.to_string();
    assert!(
        text.contains("address in use") && text.contains(&taken.addr_text()),
        "{text}"
    );
    assert!(
        text.contains(&format!("pid {}", std::process::id())),
        "names the holder: {text}"
    );
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        0,
        "the first one's file is gone again"
    );
}

#[test]
fn the_backlog_is_the_masters() {
    let listener = open(tcp("127.0.0.1:0"));
    assert_eq!(listener.queue().unwrap().backlog, 64);
    nix::sys::socket::listen(&worker_tcp(&listener), Backlog::new(5).unwrap()).unwrap();
    assert_eq!(
        listener.queue().unwrap().backlog,
        5,
        "a worker's listen(2) counts for all"
    );
    listener.restore().unwrap();
    assert_eq!(listener.queue().unwrap().backlog, 64);
    assert_eq!(listener.effective_backlog(), None);
    let wish = ListenPlan {
        backlog: 1 << 30,
        ..tcp("127.0.0.1:0")
    };
    let listener = open(wish);
    assert_eq!(
        listener.effective_backlog(),
        Some(listener.queue().unwrap().backlog)
    );
}

#[test]
fn both_families_when_ipv6_alone_is_asked_for_everywhere() {
    let Ok(mut both) = open_all(&[tcp("[::]:0")], Vec::new()) else {
        return;
    }; // a machine without IPv6
    serves_tcp(&both[0]);
    let port = both.remove(0).port().unwrap();
    let pair = open_all(
        &[
            tcp(&format!("0.0.0.0:{port}")),
            tcp(&format!("[::]:{port}")),
        ],
        Vec::new(),
    )
    .unwrap();
    assert!(getsockopt(&pair[1], sockopt::Ipv6V6Only).unwrap());
    serves_tcp(&pair[0]);
}

#[test]
fn a_wrong_address_is_explained() {
    assert!(
        refused(tcp("192.0.2.1:0"))
            .to_string()
            .contains("no network interface")
    );
    let error = refused(unix(Path::new("/nonexistent-directory/s.sock"))).to_string();
    assert!(
        error.contains("/nonexistent-directory does not exist"),
        "{error}"
    );
    let error = refused(unix(Path::new(&format!("/tmp/{}", "x".repeat(120))))).to_string();
    assert!(error.contains("107"), "{error}");
}

#[test]
fn a_unix_socket_has_its_rights_and_goes_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let me = nix::unistd::getuid().as_raw();
    let wish = ListenPlan {
        mode: Some(0o620),
        uid: Some(me),
        gid: Some(nix::unistd::getgid().as_raw()),
        ..unix(&path)
    };
    let mut listener = open(wish);
    let meta = std::fs::symlink_metadata(&path).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o620);
    assert_eq!(meta.uid(), me);
    assert_eq!(
        std::fs::read_dir(&dir).unwrap().count(),
        1,
        "the name aside is gone"
    );
    assert_eq!(listener.addr_text(), format!("unix:{}", path.display()));
    serves_unix(&listener, &path);
    assert!(listener.remove_file().unwrap());
    assert!(!path.exists());
    assert!(!listener.remove_file().unwrap(), "once only");
}

#[test]
fn stale_is_replaced_live_is_not_and_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    drop(UnixListener::bind(&path).unwrap());
    let mut listener = open(unix(&path));
    serves_unix(&listener, &path);
    let text = refused(unix(&path)).to_string();
    assert!(text.contains("address in use"), "{text}");
    drop(worker_unix(&listener).accept().unwrap()); // the check for a listener was a connection, too
    serves_unix(&listener, &path);

    // Another process's file at our path is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    assert!(!listener.remove_file().unwrap());
    assert!(path.exists());
    assert!(
        refused(unix(&path))
            .to_string()
            .contains(&format!("pid {}", std::process::id()))
    );
    drop(other);

    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "precious").unwrap();
    assert!(refused(unix(&file)).to_string().contains("not a socket"));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(refused(unix(&link)).to_string().contains("not a socket"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn the_longest_path_and_the_deepest_directory() {
    let dir = tempfile::tempdir().unwrap();
    let room = 107 - dir.path().as_os_str().len() - 1;
    let path = dir.path().join("x".repeat(room));
    serves_unix(&open(unix(&path)), &path);
    let deep = dir.path().join("y".repeat(room - 4));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("abc");
    serves_unix(&open(unix(&path)), &path);
}

/// O_NONBLOCK is the master's where it is asked for, and the workers' otherwise.
#[test]
fn o_nonblock_is_as_configured() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let blocks = |listener: &Listener| {
        let flags = OFlag::from_bits_truncate(fcntl(listener.fd(), FcntlArg::F_GETFL).unwrap());
        !flags.contains(OFlag::O_NONBLOCK)
    };
    let change =
        |listener: &Listener, to: OFlag| fcntl(listener.fd(), FcntlArg::F_SETFL(to)).unwrap();
    let plain = open(tcp("127.0.0.1:0"));
    assert!(blocks(&plain));
    change(&plain, OFlag::O_NONBLOCK);
    plain.restore().unwrap();
    assert!(!blocks(&plain), "a worker's choice");
    let mut asked = open(ListenPlan {
        nonblocking: true,
        ..tcp("127.0.0.1:0")
    });
    assert!(!blocks(&asked));
    change(&asked, OFlag::empty());
    asked.restore().unwrap();
    assert!(!blocks(&asked), "put right");
    asked.adjust(&tcp("127.0.0.1:0")).unwrap();
    assert!(blocks(&asked), "live");
}

/// Registers a descriptor for nothing but hang-ups, as the main loop does.
fn watch(listener: &Listener, flags: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    epoll.add(listener, EpollEvent::new(flags, 7)).unwrap();
    epoll
}

fn hung(epoll: &Epoll) -> bool {
    let mut events = [EpollEvent::empty()];
    epoll.wait(&mut events, EpollTimeout::ZERO).unwrap() == 1
}

#[test]
fn a_tcp_socket_shut_by_a_worker_listens_again() {
    for flags in [EpollFlags::empty(), Interest::Hangup.flags()] {
        for how in [Shutdown::Read, Shutdown::Both] {
            let listener = open(tcp("127.0.0.1:0"));
            let (port, inode) = (listener.port(), listener.inode());
            let epoll = watch(&listener, flags);
            let client = TcpStream::connect(("127.0.0.1", port.unwrap())).unwrap();
            assert!(
                !hung(&epoll) && !listener.is_shut(),
                "a connection is no reason to wake up"
            );
            drop(client);
            assert!(!listener.relisten().unwrap());
            shutdown(worker_tcp(&listener).as_raw_fd(), how).unwrap();
            assert!(hung(&epoll) && listener.is_shut());
            assert!(TcpStream::connect(("127.0.0.1", port.unwrap())).is_err());
            assert!(listener.relisten().unwrap());
            assert!(!hung(&epoll) && !listener.is_shut(), "quiet again");
            assert_eq!((listener.port(), listener.inode()), (port, inode));
            assert_eq!(listener.queue().unwrap().backlog, 64);
            serves_tcp(&listener);
        }
    }
}

#[test]
fn a_unix_socket_shut_by_a_worker_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    for (flags, how) in [
        (EpollFlags::empty(), Shutdown::Both),
        (Interest::Hangup.flags(), Shutdown::Both),
        (Interest::Hangup.flags(), Shutdown::Read), // no EPOLLHUP for that one
    ] {
        let mut listener = open(ListenPlan {
            mode: Some(0o600),
            ..unix(&path)
        });
        let inode = listener.inode();
        let epoll = watch(&listener, flags);
        shutdown(worker_unix(&listener).as_raw_fd(), how).unwrap();
        assert!(hung(&epoll) && listener.is_shut());
        assert!(UnixStream::connect(&path).is_err());
        let FileCheckResult::Replaced(SocketLoss::ShutDown, socket) =
            listener.file_check().unwrap().run(true)
        else {
            panic!("a new one")
        };
        assert!(!listener.replace(socket), "as it was asked for");
        assert!(!listener.is_shut());
        assert_ne!(listener.inode(), inode);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert!(!hung(&watch(&listener, flags)));
        serves_unix(&listener, &path);
        assert!(listener.remove_file().unwrap());
    }
}
