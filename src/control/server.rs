//! The master's end of the control socket. The supervisor calls `accept`, `read`, `send` and `flush` from its event
//! loop. Everything is bounded: the number of clients, the length of a request, the time to send it, and the output
//! that waits to be read. A slow or hostile client costs its own connection and nothing else.

use super::protocol::{MAX_REQUEST, Request, Response, VERSION};
use crate::exit_code::ExitCode;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rotad_core::{Span, Time};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Maximum number of connections. One more, and the oldest that has not sent a request is dropped.
const MAX_CLIENTS: usize = 64;
/// Reads from one client in one pass of the event loop, …
const MAX_READS: usize = 4;
/// … and writes to it.
const MAX_WRITES: usize = 16;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Span = Span::from_secs(5);
/// The most output that may wait for a client that does not read, in bytes.
const MAX_QUEUED: usize = 16 * 1024 * 1024;
/// Extra room for the final response, in bytes, so that a client always gets one.
const FINAL_RESPONSE_ROOM: usize = 64 * 1024;
/// How long the listener pauses if a connection can neither be accepted nor refused for lack of descriptors.
const ACCEPT_PAUSE: Span = Span::from_secs(1);
/// The limit for a client that follows events or logs, in bytes: it loses lines and is told so, but keeps its
/// connection.
const MAX_FOLLOWER_QUEUE: usize = 256 * 1024;

/// The control socket's listeners and clients.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    /// Presence sockets, by the path that each is named after. Any user may connect to them.
    presence_sockets: Vec<(PathBuf, UnixListener)>,
    /// The response for users who may not send requests over a presence socket.
    location: Vec<u8>,
    clients: BTreeMap<u64, Client>,
    last: u64,
    /// The file's mode admits other users than the master's; the kernel has checked which (unix(7)).
    open_to_others: bool,
    /// Closed briefly if no other descriptor is left, so that a client can be told why it is refused.
    reserve: Option<File>,
    /// No connection is accepted until this time.
    paused_until: Option<Time>,
    /// Whether the last connection failed for lack of descriptors, and whether that was reported.
    short_of_fds: bool,
    reported_short: bool,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    has_request: bool,
    deadline: Time,
    /// Close the connection once the outbox is empty.
    closing: bool,
    refused: bool,
    /// It follows events or logs, so that it may read slowly.
    follows: bool,
    /// Lines of progress dropped since the last one that fitted.
    skipped: u64,
}

/// The result of reading from a client.
#[derive(Debug)]
pub enum ReadOutcome {
    /// A complete request.
    Request(Box<Request>),
    /// The request is not complete, or there is nothing to do.
    Nothing,
    /// The client is gone or must be dropped.
    Gone,
}

impl Client {
    /// Queues a response unless more than `max` bytes would then wait.
    fn queue(&mut self, response: &Response, max: usize) -> bool {
        let Ok(mut line) = serde_json::to_vec(response) else {
            return false;
        };
        line.push(b'\n');
        let fits = self.outbox.len() + line.len() <= max;
        if fits {
            self.outbox.extend_from_slice(&line);
        }
        fits
    }

    /// A time limit applies to it: it must send its request or read its response.
    fn has_deadline(&self) -> bool {
        !self.has_request || (!self.outbox.is_empty() && !self.follows)
    }
}

impl Server {
    /// Creates the server. `listener` must be non-blocking. `mode` is that of its file.
    pub fn new(listener: UnixListener, mode: u32) -> Self {
        Self {
            listener,
            presence_sockets: Vec::new(),
            location: Vec::new(),
            clients: BTreeMap::new(),
            last: 0,
            open_to_others: mode & 0o066 != 0,
            reserve: reserve(),
            paused_until: None,
            short_of_fds: false,
            reported_short: false,
        }
    }

    /// The control socket's own listener.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Listens on this socket from now on; connected clients stay connected.
    pub fn replace(&mut self, listener: UnixListener) {
        self.listener = listener;
    }

    /// Also accepts requests on this presence socket, from root and the master's own user. It must be non-blocking.
    pub fn add_presence_socket(&mut self, path: PathBuf, listener: UnixListener) {
        self.presence_sockets.push((path, listener));
    }

    /// Whether there is a presence socket for this path.
    pub fn has_presence_socket(&self, path: &Path) -> bool {
        self.presence_sockets.iter().any(|(of, _)| of == path)
    }

    /// Removes the presence sockets of all other paths and returns them.
    pub fn keep_presence_sockets(&mut self, paths: &[&Path]) -> Vec<UnixListener> {
        let (kept, gone) = std::mem::take(&mut self.presence_sockets)
            .into_iter()
            .partition(|(of, _)| paths.contains(&of.as_path()));
        self.presence_sockets = kept;
        let gone: Vec<(PathBuf, UnixListener)> = gone;
        gone.into_iter().map(|(_, listener)| listener).collect()
    }

    /// All sockets that clients connect to.
    pub fn listeners(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.listener)
            .chain(self.presence_sockets.iter().map(|(_, socket)| socket))
            .map(AsFd::as_fd)
    }

    /// Sets the response for users who may not send requests over a presence socket.
    pub fn set_location(&mut self, location: &Response) {
        self.location = serde_json::to_vec(location).unwrap_or_default();
        self.location.push(b'\n');
    }

    /// Accepts new connections, a bounded number at a time, and returns their numbers. If there is no descriptor for
    /// one, the client is told so; if even that fails, [`Server::is_paused`] becomes true.
    pub fn accept(&mut self, now: Time) -> Vec<u64> {
        let mut new = Vec::new();
        for _ in 0..16 {
            let (stream, by_presence) = match self.next_stream() {
                Ok(next) => next,
                Err(error) if is_exhausted(&error) => {
                    self.short_of_fds = true;
                    if self.refuse_one() {
                        continue;
                    }
                    self.paused_until = Some(now + ACCEPT_PAUSE);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // ECONNABORTED: this client has gone, but another may be waiting.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => break,
            };
            self.short_of_fds = false;
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if by_presence && !is_trusted(&stream) {
                // Sends the line and keeps nothing of this client.
                (&stream).write_all(&self.location).ok();
                continue;
            }
            let refused = !by_presence && !self.may_send_requests(&stream);
            self.last += 1;
            let deadline = now + REQUEST_TIMEOUT;
            let client = Client {
                stream,
                inbox: Vec::new(),
                outbox: Vec::new(),
                has_request: false,
                deadline,
                closing: false,
                refused,
                follows: false,
                skipped: 0,
            };
            self.clients.insert(self.last, client);
            new.push(self.last);
        }
        new
    }

    /// Accepts a connection with the reserve descriptor, says why it is refused, and closes it. Returns false if
    /// there is no reserve or it is not enough.
    fn refuse_one(&mut self) -> bool {
        if self.reserve.take().is_none() {
            self.reserve = reserve();
            return false;
        }
        let accepted = self.next_stream();
        let refused = accepted.is_ok();
        if let Ok((mut stream, _)) = accepted
            && stream.set_nonblocking(true).is_ok()
        {
            let message =
                "the master has no descriptor left (its limit of open files, `nofile`): its workers serve on; \
                           try again, or raise the limit"
                    .to_owned();
            if let Ok(mut line) = serde_json::to_vec(&Response::Done {
                code: ExitCode::FAILED,
                message,
            }) {
                line.push(b'\n');
                // Best effort: the buffer of a new connection has room for it.
                stream.write_all(&line).ok();
            }
        }
        self.reserve = reserve();
        refused
    }

    /// No connection can be accepted now: the listener must not be polled, or it would wake the loop continuously.
    pub fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// Whether descriptors have run out (true) or are available again (false), if that changed since the last call.
    pub fn shortage(&mut self) -> Option<bool> {
        let changed = self.short_of_fds != self.reported_short;
        self.reported_short = self.short_of_fds;
        changed.then_some(self.short_of_fds)
    }

    /// Whether the pause of the listener is over, so that it must be polled again.
    pub fn resume(&mut self, now: Time) -> bool {
        self.paused_until.take_if(|until| *until <= now).is_some()
    }

    fn may_send_requests(&self, stream: &UnixStream) -> bool {
        self.open_to_others || is_trusted(stream)
    }

    /// The next connection, and whether it came over a presence socket.
    fn next_stream(&self) -> io::Result<(UnixStream, bool)> {
        let mut next = self.listener.accept().map(|(stream, _)| (stream, false));
        for (_, socket) in &self.presence_sockets {
            match &next {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => break,
            }
            next = socket.accept().map(|(stream, _)| (stream, true));
        }
        next
    }

    /// Clients beyond the limit: the oldest that have not sent a request.
    pub fn surplus(&self) -> Vec<u64> {
        let over = self.clients.len().saturating_sub(MAX_CLIENTS);
        self.clients
            .iter()
            .filter(|(_, c)| !c.has_request)
            .map(|(id, _)| *id)
            .take(over)
            .collect()
    }

    /// Pid and user of a client, as the kernel reports them (SO_PEERCRED).
    pub fn peer(&self, id: u64) -> Option<(i32, u32)> {
        let peer = getsockopt(&self.clients.get(&id)?.stream, PeerCredentials).ok()?;
        Some((peer.pid(), peer.uid()))
    }

    /// The connection of a client.
    pub fn stream(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(|client| client.stream.as_fd())
    }

    /// Reads from a client, a bounded amount per call.
    pub fn read(&mut self, id: u64) -> ReadOutcome {
        let Some(client) = self.clients.get_mut(&id) else {
            return ReadOutcome::Gone;
        };
        let mut buf = [0; 4096];
        // The rest is read in the next passes, so that a client that keeps sending does not hold up the others.
        for _ in 0..MAX_READS {
            match client.stream.read(&mut buf) {
                Ok(0) => return ReadOutcome::Gone,
                // It has sent its request: further input is discarded.
                Ok(_) if client.has_request => {}
                Ok(count) => client.inbox.extend_from_slice(&buf[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return ReadOutcome::Nothing;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return ReadOutcome::Gone,
            }
            if client.has_request {
                continue;
            }
            if let Some(end) = client.inbox.iter().position(|byte| *byte == b'\n') {
                client.has_request = true;
                let line: Vec<u8> = std::mem::take(&mut client.inbox).drain(..end).collect();
                let refused = client.refused;
                return self.parse_request(id, &line, refused);
            }
            if client.inbox.len() > MAX_REQUEST {
                client.has_request = true;
                let message = format!("the request is longer than {MAX_REQUEST} bytes");
                self.send(
                    id,
                    &Response::Done {
                        code: ExitCode::USAGE,
                        message,
                    },
                    true,
                );
                return ReadOutcome::Nothing;
            }
        }
        ReadOutcome::Nothing
    }

    fn parse_request(&mut self, id: u64, line: &[u8], refused: bool) -> ReadOutcome {
        let response = if refused {
            Response::Done {
                code: ExitCode::NOT_PERMITTED,
                message: "not permitted: see `mode` and `group` in [control]".to_owned(),
            }
        } else {
            match serde_json::from_slice::<Request>(line) {
                Ok(request) if request.version == VERSION => {
                    return ReadOutcome::Request(Box::new(request));
                }
                Ok(request) => Response::Done {
                    code: ExitCode::FAILED,
                    message: format!(
                        "this master speaks version {VERSION}, not {}",
                        request.version
                    ),
                },
                Err(error) => Response::Done {
                    code: ExitCode::USAGE,
                    message: format!("the request is not understood: {error}"),
                },
            }
        };
        self.send(id, &response, true);
        ReadOutcome::Nothing
    }

    /// Queues a response. After the `last` one the connection is closed as soon as it has been sent.
    pub fn send(&mut self, id: u64, response: &Response, last: bool) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.closing {
            return;
        }
        if client.skipped > 0
            && client.queue(
                &Response::Skipped {
                    count: client.skipped,
                },
                MAX_QUEUED,
            )
        {
            client.skipped = 0;
        }
        if last {
            if !client.queue(response, MAX_QUEUED) {
                let message = "the answer is too long to be sent (the request was carried out): `rotad status POOL`, `rotad \
                               events` and `rotad logs` show its parts"
                    .to_owned();
                let code = if let Response::Done { code, .. } = response {
                    *code
                } else {
                    ExitCode::FAILED
                };
                client.queue(
                    &Response::Done { code, message },
                    MAX_QUEUED + FINAL_RESPONSE_ROOM,
                );
            }
            client.closing = true;
        } else if !client.queue(response, MAX_QUEUED) {
            client.skipped += 1;
        }
    }

    /// From now on the client follows events or logs and may be slow, or stopped, for any time.
    pub fn follows(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.follows = true;
        }
    }

    /// Queues a response for a client that follows. Returns false if too much is waiting for it.
    pub fn try_send(&mut self, id: u64, response: &Response) -> bool {
        let room = self
            .clients
            .get(&id)
            .is_some_and(|client| client.outbox.len() < MAX_FOLLOWER_QUEUE);
        if room {
            self.send(id, response, false);
        }
        room
    }

    /// Sends what the client takes. `None`: done, forget it; `Some(true)`: there is more to send.
    pub fn flush(&mut self, id: u64) -> Option<bool> {
        let client = self.clients.get_mut(&id)?;
        let mut sent = 0;
        for _ in 0..MAX_WRITES {
            if sent == client.outbox.len() {
                break;
            }
            match client.stream.write(&client.outbox[sent..]) {
                Ok(0) => return None,
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        client.outbox.drain(..sent);
        if !client.outbox.is_empty() {
            return Some(true);
        }
        if client.closing { None } else { Some(false) }
    }

    /// A second handle to a client's connection, for a thread that answers instead of the server. No queued output
    /// may be waiting for the client, and the caller must remove it here.
    pub fn hand_over(&self, id: u64) -> Option<UnixStream> {
        self.clients
            .get(&id)
            .filter(|client| client.outbox.is_empty())?
            .stream
            .try_clone()
            .ok()
    }

    /// Removes a client and closes its connection.
    pub fn forget(&mut self, id: u64) {
        self.clients.remove(&id);
    }

    /// When the next client's time is up, or the listener's pause is over.
    pub fn deadline(&self) -> Option<Time> {
        let deadlines = self
            .clients
            .values()
            .filter(|c| c.has_deadline())
            .map(|c| c.deadline);
        deadlines.chain(self.paused_until).min()
    }

    /// Clients that took too long to send their request or to read their response.
    pub fn overdue(&self, now: Time) -> Vec<u64> {
        let deadlines = |c: &Client| c.deadline <= now && c.has_deadline();
        self.clients
            .iter()
            .filter(|(_, c)| deadlines(c))
            .map(|(id, _)| *id)
            .collect()
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// No descriptor is left in this process or on this machine, or no memory for one (accept(2)).
fn is_exhausted(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(
        error.raw_os_error(),
        Some(EMFILE | ENFILE | ENOBUFS | ENOMEM)
    )
}

/// The peer is root or the master's own user.
fn is_trusted(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}
