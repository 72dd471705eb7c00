//! `rotad __demo-web`, a worker of the demo's web pool: a small HTTP server on the socket that the master passes as
//! descriptor 3. It also shows how a worker stops gracefully.

use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::observe::print;
use crate::sys::descriptors::take_inherited;
use crate::sys::poll::{is_ready, poll};
use crate::sys::thread;
use nix::poll::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// While this file is in the working directory, new workers fail: it stands for broken code in a deployment.
pub(super) const BROKEN: &str = "broken";

/// How long a stopping worker waits for another request on an idle connection. A client that has just sent one gets its
/// response, with `Connection: close`.
const LINGER: Duration = Duration::from_secs(2);

/// The stack size of a connection's thread, in bytes.
const STACK: usize = 256 << 10;

/// The maximum size of a request's head, in bytes.
const MAX_HEAD: usize = 16 << 10;

/// Serves until TERM or INT, then finishes its requests. Returns the exit code.
pub(in super::super) fn main() -> ExitCode {
    crate::sys::signal::ignore(&crate::sys::signal::MEANT_FOR_A_MASTER);
    if Path::new(BROKEN).exists() {
        print::plain_error(&format!(
            "demo: the new code is broken, because the file {BROKEN} exists"
        ));
        return ExitCode::FAILED;
    }
    match SignalPipe::on(&[nix::libc::SIGTERM, nix::libc::SIGINT]).and_then(serve) {
        Ok(()) => ExitCode::DONE,
        Err(error) => {
            print::plain_error(&format!("demo: {error}"));
            ExitCode::FAILED
        }
    }
}

/// Accepts connections until `stop` is readable, with a thread for each. `stop` is polled and never read, so that it stays
/// readable for every thread.
fn serve(stop: SignalPipe) -> io::Result<()> {
    let listener = listener()?;
    // The socket is shared: another worker may accept the connection between our poll and our accept.
    listener.set_nonblocking(true)?;
    let stop = Arc::new(stop);
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    loop {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, None).ok();
        if is_set(&stop) {
            break;
        }
        if let Ok((stream, _)) = listener.accept() {
            connections.retain(|connection| !connection.is_finished());
            let stop = Arc::clone(&stop);
            connections.push(thread::spawn("connection", STACK, move || {
                serve_connection(&stream, &stop)
            })?);
        }
    }
    // Connections that are not accepted yet stay in the socket's queue for another worker.
    drop(listener);
    for connection in connections {
        connection.join().ok();
    }
    Ok(())
}

/// Descriptor 3, if LISTEN_PID says that it was passed to this process (sd_listen_fds(3)). Otherwise it could be any
/// descriptor of the parent.
fn listener() -> io::Result<TcpListener> {
    let ours = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !ours {
        return Err(io::Error::other(
            "no socket was passed: `rotad demo` starts this worker, do not start it by hand",
        ));
    }
    take_inherited(3).map(TcpListener::from)
}

fn is_set(stop: &SignalPipe) -> bool {
    is_ready(stop, PollFlags::POLLIN)
}

fn readable(fds: &[std::os::fd::BorrowedFd<'_>], timeout: Option<Duration>) -> bool {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    matches!(poll(&mut fds, timeout), Ok(1..))
}

/// Serves one connection until it ends. Errors end it silently, since they mean that the client is gone.
fn serve_connection(stream: &TcpStream, stop: &SignalPipe) {
    stream.set_nodelay(true).ok();
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok();
    let mut read = Vec::new();
    loop {
        if read.is_empty() && !next_request(stream, stop) {
            return;
        }
        let Some(head) = read_head(stream, &mut read) else {
            return;
        };
        if head.starts_with("GET /slow ") {
            std::thread::sleep(Duration::from_secs(2));
        }
        let close = is_set(stop) || wants_close(&head);
        let mut writer: &TcpStream = stream;
        if writer.write_all(response(close).as_bytes()).is_err() || close {
            return;
        }
    }
}

/// Waits for a request on an idle connection: without limit, and once the worker stops, for [`LINGER`]. False: none came.
fn next_request(stream: &TcpStream, stop: &SignalPipe) -> bool {
    while !readable(&[stream.as_fd(), stop.as_fd()], None) {}
    readable(&[stream.as_fd()], Some(LINGER))
}

/// The head of the next request; what follows it stays in `read`. `None`: the client is gone, or the request is
/// invalid.
fn read_head(mut stream: &TcpStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..end + 4).collect();
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
        let mut some = [0; 4096];
        match stream.read(&mut some) {
            Ok(n @ 1..) if read.len() < MAX_HEAD => read.extend_from_slice(&some[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return None,
        }
    }
}

fn wants_close(head: &str) -> bool {
    let head = head.to_ascii_lowercase();
    let connection_says = |what: &str| {
        head.lines()
            .any(|line| line.starts_with("connection:") && line.contains(what))
    };
    connection_says("close") || (head.contains(" http/1.0\r\n") && !connection_says("keep-alive"))
}

fn response(close: bool) -> String {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| "?".to_owned());
    let (pool, slot, generation) = (
        variable("ROTAD_POOL"),
        variable("ROTAD_SLOT"),
        variable("ROTAD_GENERATION"),
    );
    let body = format!(
        "rotad demo: {pool}/{slot}, generation {generation}, pid {}\n",
        std::process::id()
    );
    let connection = if close { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_1_0_and_connection_close_end_a_connection() {
        assert!(!wants_close("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(wants_close("GET / HTTP/1.1\r\nconnection: Close\r\n\r\n"));
        assert!(wants_close("GET / HTTP/1.0\r\n\r\n"));
        assert!(!wants_close(
            "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        ));
    }

    #[test]
    fn heads_are_read_in_pieces_and_when_pipelined() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        client
            .write_all(b"GET /a HTTP/1.1\r\n\r\nGET /b HT")
            .unwrap();
        client.write_all(b"TP/1.1\r\n\r\n").unwrap();
        drop(client);
        let mut read = Vec::new();
        assert!(read_head(&server, &mut read).unwrap().starts_with("GET /a"));
        assert!(read_head(&server, &mut read).unwrap().starts_with("GET /b"));
        assert_eq!(read_head(&server, &mut read), None);
    }
}
