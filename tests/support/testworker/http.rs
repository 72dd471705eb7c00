//! HTTP/1.1 on the inherited listener, one thread a connection. On TERM it accepts no more, answers what it has
//! accepted (with `Connection: close`), and leaves when the last connection has ended.
//!
//! Paths with a meaning: `/work/MS` takes that long, `/exit/CODE` dies before it answers, `/shutdown` shuts the shared
//! listener down, `/shrink` makes its backlog 1, `/pause` stops the process by SIGSTOP; all but `/exit` answer.

use crate::{Code, Knobs, complain, env, own, pause, sick, term_stream, termed, up};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use nix::sys::socket::{Backlog, Shutdown, accept4, listen, setsockopt, shutdown, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a connection without a request is kept open once TERM has come: a client may be about to send one.
const LINGER: Duration = Duration::from_secs(2);

struct Shared {
    draining: AtomicBool,
    connections: Mutex<usize>,
    one_less: Condvar,
    listener: OwnedFd,
    work_ms: u64,
    body: String,
    sick: Arc<AtomicBool>,
}

fn listener(knobs: &Knobs) -> OwnedFd {
    if let Some(address) = &knobs.bind {
        return TcpListener::bind(address)
            .expect("an address of its own")
            .into();
    }
    if knobs.stdin {
        return own(0);
    }
    let count = env("LISTEN_FDS");
    if count.is_empty() || env("LISTEN_PID") != std::process::id().to_string() {
        complain(&format!(
            "testworker: LISTEN_FDS={count:?} LISTEN_PID={:?}: no sockets",
            env("LISTEN_PID")
        ));
        std::process::exit(65);
    }
    own(3)
}

fn shared(knobs: &Knobs, code: &Code) -> Arc<Shared> {
    let sick = sick();
    let listener = listener(knobs);
    let flags = OFlag::from_bits_truncate(fcntl(&listener, FcntlArg::F_GETFL).expect("flags"));
    fcntl(&listener, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))
        .expect("a listener that does not block");
    Arc::new(Shared {
        draining: AtomicBool::new(false),
        connections: Mutex::new(0),
        one_less: Condvar::new(),
        listener,
        work_ms: knobs.work_ms,
        body: format!(
            "{} {} {}\n",
            std::process::id(),
            env("ROTAD_GENERATION"),
            code.version
        ),
        sick,
    })
}

pub(crate) fn serve(knobs: &Knobs, code: Code) {
    let term = term_stream();
    let shared = shared(knobs, &code);
    up(knobs, &code);
    loop {
        let mut wanted = [
            PollFd::new(shared.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(term.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut wanted, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result.expect("poll"),
        };
        if wanted[1].any() == Some(true) {
            break;
        }
        accept(&shared);
    }
    shared.draining.store(true, Ordering::SeqCst);
    if knobs.bind.is_some() || knobs.shuts {
        // As most servers do; who was not accepted yet is refused.
        shutdown(shared.listener.as_raw_fd(), Shutdown::Both).expect("shutdown");
    }
    termed(knobs);
    let mut connections = shared.connections.lock().expect("a count");
    while *connections > 0 {
        connections = shared.one_less.wait(connections).expect("a count");
    }
    pause(knobs.drain_ms);
    std::process::exit(0)
}

/// An accept loop that never waits in the kernel.
pub(crate) fn spin(knobs: &Knobs, code: Code) {
    let term = Arc::new(AtomicUsize::new(0));
    signal_hook::flag::register_usize(signal_hook::consts::SIGTERM, term.clone(), 1)
        .expect("a handler");
    let shared = shared(knobs, &code);
    up(knobs, &code);
    while term.load(Ordering::Relaxed) == 0 {
        accept(&shared);
    }
    std::process::exit(0)
}

fn accept(shared: &Arc<Shared>) {
    match accept4(
        shared.listener.as_raw_fd(),
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
    ) {
        Ok(fd) => {
            let stream = File::from(own(fd));
            *shared.connections.lock().expect("a count") += 1;
            let shared = shared.clone();
            std::thread::spawn(move || {
                converse(&shared, stream);
                *shared.connections.lock().expect("a count") -= 1;
                shared.one_less.notify_all();
            });
        }
        Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
        // Another process shut the listener down: the master repairs it.
        Err(Errno::EINVAL) => pause(10),
        Err(other) => {
            complain(&format!("testworker: accept: {other}"));
            pause(10);
        }
    }
}

/// One connection: requests until the client, or TERM, ends it.
fn converse(shared: &Shared, mut stream: File) {
    setsockopt(&stream, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a timeout");
    let mut text = Vec::new();
    loop {
        let Some(end) = read_head(shared, &mut stream, &mut text) else {
            return;
        };
        let head = String::from_utf8_lossy(&text[..end]).to_string();
        text.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or("/").to_string();
        act(shared, &path);
        let close = shared.draining.load(Ordering::SeqCst)
            || head.to_ascii_lowercase().contains("connection: close");
        let connection = if close { "close" } else { "keep-alive" };
        let length = shared.body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{}",
            shared.body
        );
        if stream.write_all(answer.as_bytes()).is_err() || close {
            return;
        }
    }
}

fn act(shared: &Shared, path: &str) {
    let mut parts = path.trim_start_matches('/').split('/');
    while shared.sick.load(Ordering::SeqCst) {
        pause(1000);
    }
    let (what, value) = (
        parts.next().unwrap_or(""),
        parts.next().and_then(|text| text.parse::<u64>().ok()),
    );
    match what {
        "work" => pause(value.unwrap_or(0)),
        "exit" => std::process::exit(value.unwrap_or(1) as i32),
        "shutdown" => shutdown(shared.listener.as_raw_fd(), Shutdown::Both).expect("shutdown"),
        "shrink" => listen(&shared.listener, Backlog::new(1).expect("a backlog")).expect("listen"),
        "pause" => raise(Signal::SIGSTOP).expect("SIGSTOP"),
        _ => pause(shared.work_ms),
    }
}

/// Reads until a whole head is there; its length. None: the connection is over.
fn read_head(shared: &Shared, stream: &mut File, text: &mut Vec<u8>) -> Option<usize> {
    let mut draining_since = None;
    let mut bytes = [0; 4096];
    loop {
        if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            return Some(at + 4);
        }
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(read) => text.extend_from_slice(&bytes[..read]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                if shared.draining.load(Ordering::SeqCst) {
                    let since = *draining_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > LINGER {
                        return None;
                    }
                }
            }
            Err(_) => return None,
        }
    }
}
