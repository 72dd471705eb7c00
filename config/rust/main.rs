//! A web server written with std, with one thread per connection. It takes the listener that rotad made. On TERM it takes
//! no more connections, answers the requests that have arrived, and exits with 0.

use listenfd::ListenFd;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a kept connection without a request stays open after TERM: its client may be about to send one.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    let listener = ListenFd::from_env()
        .take_tcp_listener(0)?
        .ok_or(io::Error::other("no LISTEN_FDS"))?;
    // One connection wakes several workers, and one of them gets it: the others must not block in accept.
    listener.set_nonblocking(true)?;
    let (term, writer) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, writer)?;
    let leaving = OnceLock::new();

    std::thread::scope(|scope| {
        loop {
            let mut wanted =
                [listener.as_fd(), term.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let woken = poll(&mut wanted, PollTimeout::NONE);
            if woken.is_ok() && wanted[1].any() == Some(true) {
                break;
            }
            match listener.accept() {
                Ok((stream, _)) => drop(scope.spawn(|| converse(stream, &leaving))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Probably too many open files: do not loop without a pause.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        leaving.get_or_init(Instant::now);
    }); // waits for every connection
    Ok(())
}

/// Answers requests until the client closes, or TERM has come.
fn converse(mut stream: TcpStream, leaving: &OnceLock<Instant>) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
    let mut text = Vec::new();
    while let Some(head) = next_head(&mut stream, &mut text, leaving) {
        let close =
            leaving.get().is_some() || head.to_ascii_lowercase().contains("connection: close");
        let connection = if close { "close" } else { "keep-alive" };
        let generation = std::env::var("ROTAD_GENERATION").unwrap_or_default();
        let body = format!("{} {generation} rust\n", std::process::id());
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
        );
        if stream.write_all(answer.as_bytes()).is_err() || close {
            return;
        }
    }
}

/// The head of the next request (a GET, so nothing follows it); none when the connection is over.
fn next_head(
    stream: &mut TcpStream,
    text: &mut Vec<u8>,
    leaving: &OnceLock<Instant>,
) -> Option<String> {
    loop {
        if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            return Some(
                String::from_utf8_lossy(&text.drain(..at + 4).collect::<Vec<u8>>()).to_string(),
            );
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(1..) if text.len() > 16 * 1024 => return None,
            Ok(read @ 1..) => text.extend_from_slice(&bytes[..read]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                let idle_too_long = leaving.get().is_some_and(|since| since.elapsed() > LINGER);
                if text.is_empty() && idle_too_long {
                    return None;
                }
            }
            _ => return None,
        }
    }
}
