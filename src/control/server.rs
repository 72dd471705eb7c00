//! The master's end of the control socket. The supervisor calls `accept`, `read`, `send` and `flush` from its event
//! loop. Everything is bounded: the number of clients, the length of a request, the time to send it, and the output
//! that waits to be read. A slow or hostile client costs its own connection and nothing else.
//!
//! A request stays in its connection until [`Server::consume_request`]: a master that dies before it has recorded it
//! leaves it to the next one.

use super::protocol::{MAX_REQUEST, Request, Response, VERSION};
use crate::exit_code::ExitCode;
use crate::sys::kept_fd::{FdTable, KeptFd};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{AcceptConn, PeerCredentials, SockType};
use nix::sys::socket::{self, Backlog, MsgFlags, UnixAddr, getsockname, getsockopt, recv};
use rotad_core::{Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Maximum number of connections. One more, and the oldest that has not sent a request is dropped.
const MAX_CLIENTS: usize = 64;
/// Reads from one client in one pass of the event loop, …
const MAX_READS: usize = 4;
/// … and writes to it.
const MAX_WRITES: usize = 16;
/// A write of this many bytes or fewer to a unix socket is done as a whole or not at all: it is one buffer of the kernel's
/// (unix_stream_sendmsg in net/unix/af_unix.c, at least 32 KiB).
const MAX_WRITE: usize = 32 << 10;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Span = Span::from_secs(5);
/// The most output that may wait for a client that does not read, in bytes.
const MAX_QUEUED: usize = 16 * 1024 * 1024;
/// Extra room for the final response, in bytes, so that a client always gets one.
const FINAL_RESPONSE_ROOM: usize = 64 * 1024;
/// Maximum number of connections that wait to be accepted, of a socket of a dead master.
const BACKLOG: i32 = 128;
/// How long the listener pauses if a connection can neither be accepted nor refused for lack of descriptors.
const ACCEPT_PAUSE: Span = Span::from_secs(1);
/// The limit for a client that follows events or logs, in bytes: it loses lines and is told so, but keeps its
/// connection.
const MAX_FOLLOWER_QUEUE: usize = 32 * 1024;

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
    /// How many bytes of its request are still in the connection.
    unconsumed: usize,
    /// Its request, once it is complete.
    request: Vec<u8>,
    deadline: Time,
    /// Close the connection once the outbox is empty.
    closing: bool,
    refused: bool,
    /// It follows events or logs, so that it may read slowly.
    follows: bool,
    /// The number of the last event that it was told of; 0: it is not known.
    told: u64,
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

/// What is saved of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedServer {
    listener: KeptFd,
    presence_sockets: Vec<(OsString, KeptFd)>,
    location: SavedBytes,
    clients: Vec<(u64, SavedClient)>,
    last: u64,
    open_to_others: bool,
    short_of_fds: bool,
    reported_short: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedClient {
    stream: KeptFd,
    inbox: SavedBytes,
    #[serde(default)]
    request: Option<SavedBytes>,
    outbox: SavedBytes,
    has_request: bool,
    /// In milliseconds of the master's time.
    deadline: u64,
    closing: bool,
    refused: bool,
    follows: bool,
    #[serde(default)]
    told: u64,
    skipped: u64,
}

/// Bytes, which are text unless a character was cut in two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum SavedBytes {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&[u8]> for SavedBytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl From<SavedBytes> for Vec<u8> {
    fn from(saved: SavedBytes) -> Self {
        match saved {
            SavedBytes::Text(text) => text.into_bytes(),
            SavedBytes::Bytes(bytes) => bytes,
        }
    }
}

impl Client {
    /// What the next master needs to go on with it.
    fn saved(&self) -> io::Result<SavedClient> {
        Ok(SavedClient {
            stream: KeptFd::of(&self.stream)?,
            inbox: (&*self.inbox).into(),
            request: self.has_request.then(|| (&*self.request).into()),
            outbox: (&*self.outbox).into(),
            has_request: self.has_request,
            deadline: self.deadline.0,
            closing: self.closing,
            refused: self.refused,
            follows: self.follows,
            told: self.told,
            skipped: self.skipped,
        })
    }

    fn restore(saved: SavedClient, table: &mut FdTable) -> io::Result<Self> {
        Ok(Self {
            stream: table.take(saved.stream)?.into(),
            inbox: saved.inbox.into(),
            outbox: saved.outbox.into(),
            has_request: saved.has_request,
            // If its request is still in the connection, it is input after the request, which is discarded.
            unconsumed: 0,
            request: saved.request.map(Vec::from).unwrap_or_default(),
            deadline: Time(saved.deadline),
            closing: saved.closing,
            refused: saved.refused,
            follows: saved.follows,
            told: saved.told,
            skipped: saved.skipped,
        })
    }

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

    /// Removes what was peeked from the connection.
    fn consume(&mut self) {
        let mut buf = [0; 4096];
        while self.unconsumed > 0 {
            let most = self.unconsumed.min(buf.len());
            match self.stream.read(&mut buf[..most]) {
                Ok(count @ 1..) => self.unconsumed -= count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // There is nothing left: the client is gone.
                _ => self.unconsumed = 0,
            }
        }
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

    /// What the next master needs to go on with the sockets and the clients. The connections that were handed over are
    /// not part of it.
    ///
    /// # Errors
    /// Those of fstat(2); none for open descriptors.
    pub fn saved(&self) -> io::Result<SavedServer> {
        let presence_sockets = self
            .presence_sockets
            .iter()
            .map(|(path, socket)| Ok((path.clone().into_os_string(), KeptFd::of(socket)?)));
        let clients = self
            .clients
            .iter()
            .map(|(id, client)| Ok((*id, client.saved()?)));
        Ok(SavedServer {
            listener: KeptFd::of(&self.listener)?,
            presence_sockets: presence_sockets.collect::<io::Result<_>>()?,
            location: (&*self.location).into(),
            clients: clients.collect::<io::Result<_>>()?,
            last: self.last,
            open_to_others: self.open_to_others,
            short_of_fds: self.short_of_fds,
            reported_short: self.reported_short,
        })
    }

    /// Goes on with the sockets and clients of a dead master, whose time this master's goes on with. Responses that it
    /// has sent since they were saved are sent again.
    ///
    /// # Errors
    /// As [`FdTable::take`], for the control socket; a presence socket or a client that is missing is left out. Those of
    /// listen(2).
    pub fn restore(saved: SavedServer, table: &mut FdTable) -> io::Result<Self> {
        let listener = UnixListener::from(table.take(saved.listener)?);
        let presence_sockets = saved
            .presence_sockets
            .into_iter()
            .filter_map(|(path, kept)| Some((path.into(), table.take(kept).ok()?.into())));
        let presence_sockets: Vec<(PathBuf, UnixListener)> = presence_sockets.collect();
        let clients = saved
            .clients
            .into_iter()
            .filter_map(|(id, client)| Some((id, Client::restore(client, table).ok()?)));
        let server = Self {
            listener,
            presence_sockets,
            location: saved.location.into(),
            clients: clients.collect(),
            last: saved.last,
            open_to_others: saved.open_to_others,
            reserve: reserve(),
            paused_until: None,
            short_of_fds: saved.short_of_fds,
            reported_short: saved.reported_short,
        };
        // Clients see the process that has called listen(2) last as their peer (SO_PEERCRED): they would take the socket
        // for that of a dead master.
        for listener in server.listeners() {
            socket::listen(&listener, Backlog::new(BACKLOG)?)?;
        }
        Ok(server)
    }

    /// Takes the connections that a dead master has accepted and not saved, if they have something to say; returns their
    /// numbers. To be called once all that was saved is taken.
    pub fn restore_unsaved(&mut self, table: &mut FdTable, now: Time) -> Vec<u64> {
        let name = |fd: RawFd| {
            let name = getsockname::<UnixAddr>(fd).ok()?;
            let path = name.path().map(|path| path.as_os_str().as_encoded_bytes());
            Some(path.or(name.as_abstract())?.to_owned())
        };
        let control = name(self.listener.as_raw_fd());
        let presence_sockets: Vec<_> = self
            .presence_sockets
            .iter()
            .map(|(_, socket)| name(socket.as_raw_fd()))
            .collect();
        let by_presence = |fd: RawFd| match name(fd) {
            None => None,
            name if name == control => Some(false),
            name => presence_sockets.contains(&name).then_some(true),
        };
        let is_client = |fd: &OwnedFd| {
            let number = fd.as_raw_fd();
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            getsockopt(fd, SockType) == Ok(socket::SockType::Stream)
                && getsockopt(fd, AcceptConn) == Ok(false)
                && by_presence(number).is_some()
                && matches!(recv(number, &mut [0], flags), Ok(1..))
        };
        let found = table.take_if(is_client);
        let streams = found.into_iter().filter_map(|fd| {
            let by_presence = by_presence(fd.as_raw_fd())?;
            let stream = UnixStream::from(fd);
            stream.set_nonblocking(true).ok()?;
            Some((stream, by_presence))
        });
        let streams: Vec<_> = streams.collect();
        streams
            .into_iter()
            .filter_map(|(stream, by_presence)| self.add(stream, by_presence, now))
            .collect()
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
            new.extend(self.add(stream, by_presence, now));
        }
        new
    }

    /// Adds the client of a new connection and returns its number; None: it only got the location.
    fn add(&mut self, stream: UnixStream, by_presence: bool, now: Time) -> Option<u64> {
        if by_presence && !is_trusted(&stream) {
            // Sends the line and keeps nothing of this client.
            (&stream).write_all(&self.location).ok();
            return None;
        }
        let refused = !by_presence && !self.may_send_requests(&stream);
        self.last += 1;
        let client = Client {
            stream,
            inbox: Vec::new(),
            outbox: Vec::new(),
            has_request: false,
            unconsumed: 0,
            request: Vec::new(),
            deadline: now + REQUEST_TIMEOUT,
            closing: false,
            refused,
            follows: false,
            told: 0,
            skipped: 0,
        };
        self.clients.insert(self.last, client);
        Some(self.last)
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

    /// The numbers of all clients.
    pub fn ids(&self) -> Vec<u64> {
        self.clients.keys().copied().collect()
    }

    /// Whether a client follows events or logs.
    pub fn is_following(&self, id: u64) -> bool {
        self.clients.get(&id).is_some_and(|client| client.follows)
    }

    /// The connection of a client.
    pub fn stream(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(|client| client.stream.as_fd())
    }

    /// Reads from a client, a bounded amount per call. A request has to be removed from the connection by
    /// [`Server::consume_request`] once it is recorded.
    pub fn read(&mut self, id: u64) -> ReadOutcome {
        let Some(client) = self.clients.get_mut(&id) else {
            return ReadOutcome::Gone;
        };
        let mut buf = [0; 4096];
        // The rest is read in the next passes, so that a client that keeps sending does not hold up the others.
        for _ in 0..MAX_READS {
            let flags = if client.has_request {
                MsgFlags::empty()
            } else {
                MsgFlags::MSG_PEEK
            };
            let count = match recv(client.stream.as_raw_fd(), &mut buf, flags) {
                Ok(0) => return ReadOutcome::Gone,
                // It has sent its request: further input is discarded.
                Ok(_) if client.has_request => continue,
                Ok(count) => count,
                Err(Errno::EAGAIN) => return ReadOutcome::Nothing,
                Err(Errno::EINTR) => continue,
                Err(_) => return ReadOutcome::Gone,
            };
            let end = buf[..count].iter().position(|byte| *byte == b'\n');
            client.unconsumed = end.map_or(count, |end| end + 1);
            let begin = client.inbox.len();
            client.inbox.extend_from_slice(&buf[..client.unconsumed]);
            if let Some(end) = end {
                client.has_request = true;
                let mut line = std::mem::take(&mut client.inbox);
                line.truncate(begin + end);
                client.request.clone_from(&line);
                let refused = client.refused;
                let outcome = self.parse_request(id, &line, refused);
                if matches!(outcome, ReadOutcome::Nothing) {
                    self.consume_request(id);
                }
                return outcome;
            }
            client.consume();
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

    /// The request of a client of a dead master that nothing came of: it is not answered, and nothing is queued for it.
    pub fn request_again(&mut self, id: u64) -> ReadOutcome {
        let Some(client) = self.clients.get(&id) else {
            return ReadOutcome::Gone;
        };
        if !client.has_request || client.closing || !client.outbox.is_empty() {
            return ReadOutcome::Nothing;
        }
        let (line, refused) = (client.request.clone(), client.refused);
        self.parse_request(id, &line, refused)
    }

    /// Removes a request from the connection: it is recorded, and a next master need not read it again.
    pub fn consume_request(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.consume();
        }
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

    /// The number of the last event that a client was told of, or whose loss is counted; 0: it is not known.
    pub fn told(&self, id: u64) -> u64 {
        self.clients.get(&id).map_or(0, |client| client.told)
    }

    /// A client was told of this event, or its loss is counted.
    pub fn set_told(&mut self, id: u64, seq: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.told = seq;
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
        if !client.outbox.is_empty() {
            // A connection that is closed with unread input is reset, and the response lost.
            client.consume();
        }
        let mut sent = 0;
        for _ in 0..MAX_WRITES {
            if sent == client.outbox.len() {
                break;
            }
            match client.stream.write(next_lines(&client.outbox[sent..])) {
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

/// What is written at once: whole lines, as many as the kernel takes or refuses together, so that a next master goes on
/// with a whole line. A longer line is written in pieces.
fn next_lines(bytes: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| *byte == b'\n';
    let end = match bytes.get(..MAX_WRITE) {
        None => None,
        Some(first) => match first.iter().rposition(is_end) {
            Some(end) => Some(end),
            None => bytes.iter().position(is_end),
        },
    };
    end.map_or(bytes, |end| &bytes[..=end])
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

#[cfg(test)]
mod tests {
    use super::super::protocol::Method;
    use super::*;
    use crate::sys::kept_fd::{in_another_process, killed};
    use std::io::{BufRead, BufReader};

    struct Fixture {
        dir: tempfile::TempDir,
        server: Server,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(dir.path().join("control")).unwrap();
            listener.set_nonblocking(true).unwrap();
            let presence = UnixListener::bind(dir.path().join("presence")).unwrap();
            presence.set_nonblocking(true).unwrap();
            let mut server = Server::new(listener, 0o600);
            server.add_presence_socket("/x.toml".into(), presence);
            Self { dir, server }
        }

        fn connect(&mut self, socket: &str) -> UnixStream {
            UnixStream::connect(self.dir.path().join(socket)).unwrap()
        }

        /// Connects, and is accepted.
        fn client(&mut self, socket: &str) -> (u64, UnixStream) {
            let stream = self.connect(socket);
            (self.server.accept(Time(7))[0], stream)
        }

        /// Another server goes on with what is saved now. `opened`: what the dead one has not saved.
        fn after_kill(self, saved: SavedServer, opened: &[KeptFd]) -> Self {
            let Self { dir, server } = self;
            let ((saved, _), mut table) = killed(server, &(saved, opened.to_vec()));
            let mut server = Server::restore(saved, &mut table).unwrap();
            let found = server.restore_unsaved(&mut table, Time(9));
            assert_eq!((found.len(), table.left()), (opened.len(), 0));
            Self { dir, server }
        }
    }

    fn request() -> Vec<u8> {
        let request = Request {
            version: VERSION,
            config: "/x.toml".into(),
            real: None,
            method: Method::Where,
        };
        let mut line = serde_json::to_vec(&request).unwrap();
        line.push(b'\n');
        line
    }

    fn done(message: &str) -> Response {
        let message = message.to_owned();
        let code = ExitCode::DONE;
        Response::Done { code, message }
    }

    fn answer(stream: UnixStream) -> String {
        stream.set_nonblocking(false).unwrap();
        let mut text = String::new();
        BufReader::new(stream).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn whole_lines_are_written() {
        assert_eq!(next_lines(b"one\ntwo"), b"one\ntwo");
        let lines = [
            "x".repeat(MAX_WRITE / 2),
            "y".repeat(MAX_WRITE),
            String::new(),
        ]
        .join("\n");
        let first = next_lines(lines.as_bytes());
        assert_eq!(first.len(), MAX_WRITE / 2 + 1);
        let second = next_lines(&lines.as_bytes()[first.len()..]);
        assert_eq!(second.len(), MAX_WRITE + 1, "a long line is not cut here");
    }

    #[test]
    fn clients_stay_connected_when_their_master_dies() {
        let mut fixture = Fixture::new();
        let (waits, mut waiting) = fixture.client("control");
        waiting.write_all(&request()).unwrap();
        let outcome = fixture.server.read(waits);
        assert!(matches!(outcome, ReadOutcome::Request(_)));
        fixture.server.consume_request(waits);
        let (sends, mut sending) = fixture.client("presence");
        let text = request();
        sending.write_all(&text[..5]).unwrap();
        assert!(matches!(fixture.server.read(sends), ReadOutcome::Nothing));
        let (reads, reading) = fixture.client("control");
        let long = "\u{e4}".repeat(1 << 20);
        fixture.server.send(reads, &done(&long), true);
        assert_eq!(fixture.server.flush(reads), Some(true));
        let _in_queue = fixture.connect("control");
        let deadline = fixture.server.deadline();
        let saved = fixture.server.saved().unwrap();
        let mut fixture = fixture.after_kill(saved, &[]);
        let server = &mut fixture.server;
        assert_eq!(server.deadline(), deadline);
        assert!(server.has_presence_socket(Path::new("/x.toml")));
        assert_eq!(server.accept(Time(7)), [reads + 1], "the one in the queue");
        assert_eq!(
            server.peer(reads + 1).map(|(pid, _)| pid),
            Some(std::process::id().cast_signed())
        );
        sending.write_all(&text[5..]).unwrap();
        assert!(matches!(server.read(sends), ReadOutcome::Request(_)));
        server.send(waits, &done("at last"), true);
        assert_eq!(server.flush(waits), None);
        server.forget(waits);
        assert!(answer(waiting).contains("at last"));
        let reader = std::thread::spawn(|| answer(reading));
        while server.flush(reads).is_some() {
            std::thread::yield_now();
        }
        server.forget(reads);
        let text = reader.join().unwrap();
        let response: Response = serde_json::from_str(&text).unwrap();
        assert!(matches!(response, Response::Done { message, .. } if message == long));
    }

    #[test]
    fn a_request_that_was_not_recorded_is_read_again() {
        let mut fixture = Fixture::new();
        let (client, mut stream) = fixture.client("control");
        let saved = fixture.server.saved().unwrap();
        stream.write_all(&request()).unwrap();
        // Read, and accepted, but nothing of that is saved.
        let outcome = fixture.server.read(client);
        assert!(matches!(outcome, ReadOutcome::Request(_)));
        let (unsaved, mut other) = fixture.client("presence");
        other.write_all(&request()).unwrap();
        let opened = KeptFd::of(&fixture.server.stream(unsaved).unwrap()).unwrap();
        let mut fixture = fixture.after_kill(saved, &[opened]);
        for client in [client, unsaved] {
            let outcome = fixture.server.read(client);
            assert!(matches!(outcome, ReadOutcome::Request(_)), "{outcome:?}");
        }
        // Recorded, but not removed from the connection.
        let saved = fixture.server.saved().unwrap();
        let mut fixture = fixture.after_kill(saved, &[]);
        let server = &mut fixture.server;
        assert!(matches!(server.read(client), ReadOutcome::Nothing));
        server.send(client, &done("once"), true);
        assert_eq!(server.flush(client), None);
        server.forget(client);
        let mut lines = BufReader::new(stream).lines();
        assert!(lines.next().unwrap().unwrap().contains("once"));
        assert!(lines.next().is_none(), "no reset: all was read");
    }

    /// A client knows by that whether its master lives.
    #[test]
    fn a_restored_socket_is_listened_on_by_the_new_master() {
        let fixture = Fixture::new();
        let path = fixture.dir.path().join("control");
        let saved = fixture.server.saved().unwrap();
        let socket = || fixture.server.control().try_clone_to_owned().unwrap();
        let listen = |fd| socket::listen(&fd, Backlog::new(5).unwrap()).unwrap();
        if in_another_process(socket, listen) {
            return;
        }
        let peer = || {
            let stream = UnixStream::connect(&path).unwrap();
            getsockopt(&stream, PeerCredentials).unwrap().pid()
        };
        let me = std::process::id().cast_signed();
        assert_ne!(peer(), me);
        let _fixture = fixture.after_kill(saved, &[]);
        assert_eq!(peer(), me);
    }
}
