//! HTTP load for `demo --once`: half of the clients close after each request, the others keep their connection.

use crate::event_loop::clock::Deadline;
use crate::observe::counted::counted;
use crate::sys::thread;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients of each kind.
const CLIENTS: usize = 4;

/// The pause between two requests of one client. Short enough to keep every worker busy; long enough not to run out of
/// ephemeral ports.
const PAUSE: Duration = Duration::from_millis(2);

/// A request without a complete response within this time counts as lost.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The counts of requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) connection_lost: u64,
    pub(super) first_loss: Option<String>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    tally: Mutex<Tally>,
    counted: Condvar,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running clients.
pub(super) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(port: u16) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let clients = (0..2 * CLIENTS).map(|n| {
            let shared = Arc::clone(&shared);
            thread::spawn("load-client", 256 << 10, move || {
                client(port, n % 2 == 0, &shared)
            })
        });
        let clients = clients.collect::<io::Result<_>>()?;
        Ok(Self { shared, clients })
    }

    /// Waits until `more` further requests have ended, with or without success; 20 s at most.
    pub(super) fn wait_for_more(&self, more: u64) {
        let mut tally = self.shared.tally();
        let goal = tally.requests + more;
        let until = Deadline::after(2 * TIMEOUT);
        while tally.requests < goal && !until.has_passed() {
            tally = match self.shared.counted.wait_timeout(tally, TIMEOUT) {
                Ok((tally, _)) => tally,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Lets every client finish its request, and returns the counts.
    pub(super) fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().ok();
        }
        self.shared.tally().clone()
    }
}

fn client(port: u16, keep: bool, shared: &Shared) {
    let mut connection: Option<TcpStream> = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let old = connection.take();
        let reused = if old.is_some() {
            "on a kept connection"
        } else {
            "on a new connection"
        };
        let result = old
            .map_or_else(|| connect(port), Ok)
            .and_then(|stream| request(stream, keep));
        let mut tally = shared.tally();
        tally.requests += 1;
        match result {
            Ok(kept) => connection = kept,
            Err(error) => {
                tally.connection_lost += 1;
                tally
                    .first_loss
                    .get_or_insert_with(|| format!("{error}, {reused}"));
            }
        }
        drop(tally);
        shared.counted.notify_all();
        std::thread::sleep(PAUSE);
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// Sends one request and reads the whole response. Returns the connection if it can be used again.
fn request(mut stream: TcpStream, keep: bool) -> io::Result<Option<TcpStream>> {
    let connection = if keep { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: {connection}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut read = Vec::new();
    let head = loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut stream, &mut read)?;
    };
    let text = String::from_utf8_lossy(&read[..head]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200 ") {
        return Err(io::Error::other(format!(
            "answered {:?}",
            text.lines().next().unwrap_or_default()
        )));
    }
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let length: usize = value("content-length:")
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| io::Error::other("a response without a Content-Length"))?;
    while read.len() < head + length {
        more(&mut stream, &mut read)?;
    }
    Ok((keep && value("connection:") != Some("close")).then_some(stream))
}

fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<()> {
    let mut some = [0; 4096];
    match stream.read(&mut some)? {
        0 => Err(io::Error::other(format!(
            "closed after {} of a response",
            counted(read.len(), "byte")
        ))),
        n => {
            read.extend_from_slice(&some[..n]);
            Ok(())
        }
    }
}
