//! The master's end of the control socket. Everything is bounded: clients, the length of a question, the time to ask
//! it, what waits to be read. A slow or hostile client costs its own connection and nothing else.

use super::wire::{MAX_QUESTION, Request, Response, VERSION};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Connections at once; one more, and the oldest that has not asked anything has to go.
const MOST_CLIENTS: usize = 64;
/// Reads from one client in one turn of the loop, …
const MOST_READS: usize = 4;
/// … and writes to it.
const MOST_WRITES: usize = 16;
/// How long a client may take to ask.
const TIME_TO_ASK: Duration = Duration::from_secs(5);
/// Bytes that may wait for a client that does not read.
const MOST_WAITING: usize = 16 * 1024 * 1024;
/// Room kept beyond that for the last answer: a client is never left without one.
const LAST_ROOM: usize = 64 * 1024;
/// How long the listener rests when a connection can neither be taken nor refused: no descriptor is left.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// The same for one that follows what happens: it loses something and is told, rather than its connection.
const MOST_BEHIND: usize = 256 * 1024;

#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    /// Abstract sockets, by the path that each is named after. Everybody may connect there.
    signs: Vec<(PathBuf, UnixListener)>,
    /// The line for those who may not ask there.
    here: Vec<u8>,
    clients: BTreeMap<u64, Client>,
    last: u64,
    /// The file's mode lets others than the master's user in; the kernel has checked which (unix(7)).
    open_to_others: bool,
    /// Given up for a moment where no other descriptor is left, so that a client hears why it is refused.
    reserve: Option<File>,
    /// No connection is taken until then.
    rests_until: Option<Instant>,
    /// The last connection found no descriptor; whether that has been told.
    short: bool,
    told_short: bool,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    asked: bool,
    ask_by: Instant,
    /// Close it once the outbox is empty.
    last_word: bool,
    refused: bool,
    /// It may take its time to read.
    follows: bool,
    /// Lines of progress that found no room since the last one that did.
    skipped: u64,
}

/// What came of reading from a client.
#[derive(Debug)]
pub enum ReadOutcome {
    Request(Box<Request>),
    /// Not complete yet, or nothing to be done.
    Nothing,
    /// It is gone, or has to go.
    Gone,
}

impl Client {
    /// Queues an answer, unless more than `most` bytes would wait then.
    fn queue(&mut self, answer: &Response, most: usize) -> bool {
        let Ok(mut line) = serde_json::to_vec(answer) else { return false };
        line.push(b'\n');
        let fits = self.outbox.len() + line.len() <= most;
        if fits {
            self.outbox.extend_from_slice(&line);
        }
        fits
    }

    /// It has to ask, or to take its answer.
    fn is_waited_for(&self) -> bool {
        !self.asked || (!self.outbox.is_empty() && !self.follows)
    }
}

impl Server {
    /// `listener`: non-blocking. `mode`: of its file.
    pub fn new(listener: UnixListener, mode: u32) -> Self {
        Self {
            listener,
            signs: Vec::new(),
            here: Vec::new(),
            clients: BTreeMap::new(),
            last: 0,
            open_to_others: mode & 0o066 != 0,
            reserve: reserve(),
            rests_until: None,
            short: false,
            told_short: false,
        }
    }

    /// The control socket's own listener.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Listens there from now on; clients that are connected stay so.
    pub fn replace(&mut self, listener: UnixListener) {
        self.listener = listener;
    }

    /// Also takes questions on this abstract socket, non-blocking: from root and from our own user.
    pub fn add_sign(&mut self, path: PathBuf, listener: UnixListener) {
        self.signs.push((path, listener));
    }

    pub fn has_sign(&self, path: &Path) -> bool {
        self.signs.iter().any(|(of, _)| of == path)
    }

    /// Gives up the signs of other paths, and hands them back.
    pub fn keep_signs(&mut self, paths: &[&Path]) -> Vec<UnixListener> {
        let (kept, gone) =
            std::mem::take(&mut self.signs).into_iter().partition(|(of, _)| paths.contains(&of.as_path()));
        self.signs = kept;
        let gone: Vec<(PathBuf, UnixListener)> = gone;
        gone.into_iter().map(|(_, listener)| listener).collect()
    }

    /// All sockets that clients come by.
    pub fn doors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(&self.listener).chain(self.signs.iter().map(|(_, sign)| sign)).map(AsFd::as_fd)
    }

    /// What strangers are told there.
    pub fn tell_where(&mut self, here: &Response) {
        self.here = serde_json::to_vec(here).unwrap_or_default();
        self.here.push(b'\n');
    }

    /// Takes new connections, a bounded number at a time; their numbers. Where no descriptor is left for one, it is
    /// told so; where not even that can be done, [`Server::rests`] says so.
    pub fn accept(&mut self) -> Vec<u64> {
        let mut new = Vec::new();
        for _ in 0..16 {
            let (stream, by_sign) = match self.next_stream() {
                Ok(next) => next,
                Err(error) if is_exhausted(&error) => {
                    self.short = true;
                    if self.refuse_one() {
                        continue;
                    }
                    self.rests_until = Some(Instant::now() + ACCEPT_AGAIN);
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // ECONNABORTED: that client has gone; the next one may be there.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => break,
            };
            self.short = false;
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            if by_sign && !is_friend(&stream) {
                // A word, and nothing is kept of him.
                (&stream).write_all(&self.here).ok();
                continue;
            }
            let refused = !by_sign && !self.may_ask(&stream);
            self.last += 1;
            let ask_by = Instant::now() + TIME_TO_ASK;
            let client = Client {
                stream,
                inbox: Vec::new(),
                outbox: Vec::new(),
                asked: false,
                ask_by,
                last_word: false,
                refused,
                follows: false,
                skipped: 0,
            };
            self.clients.insert(self.last, client);
            new.push(self.last);
        }
        new
    }

    /// Takes a connection by means of the descriptor in reserve, says why it is refused, and closes it. False: there
    /// is no reserve, or it is not enough.
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
            if let Ok(mut line) = serde_json::to_vec(&Response::Done { code: 1, message }) {
                line.push(b'\n');
                // A courtesy: a new connection has room for it.
                stream.write_all(&line).ok();
            }
        }
        self.reserve = reserve();
        refused
    }

    /// No connection can be taken just now: the listener is to be left unwatched, or it would wake us for ever.
    pub fn rests(&self) -> bool {
        self.rests_until.is_some()
    }

    /// Whether descriptors have run out (true), or are there again (false), since this was last asked.
    pub fn shortage(&mut self) -> Option<bool> {
        let changed = self.short != self.told_short;
        self.told_short = self.short;
        changed.then_some(self.short)
    }

    /// The rest is over: the listener is to be watched again.
    pub fn wakes(&mut self, now: Instant) -> bool {
        self.rests_until.take_if(|until| *until <= now).is_some()
    }

    fn may_ask(&self, stream: &UnixStream) -> bool {
        self.open_to_others || is_friend(stream)
    }

    /// The next connection, and whether it came by a sign.
    fn next_stream(&self) -> io::Result<(UnixStream, bool)> {
        let mut next = self.listener.accept().map(|(stream, _)| (stream, false));
        for (_, sign) in &self.signs {
            match &next {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => break,
            }
            next = sign.accept().map(|(stream, _)| (stream, true));
        }
        next
    }

    /// Clients beyond the limit: the oldest that have not asked.
    pub fn surplus(&self) -> Vec<u64> {
        let over = self.clients.len().saturating_sub(MOST_CLIENTS);
        self.clients.iter().filter(|(_, c)| !c.asked).map(|(id, _)| *id).take(over).collect()
    }

    /// Pid and user of a client, as the kernel tells them (SO_PEERCRED).
    pub fn peer(&self, id: u64) -> Option<(i32, u32)> {
        let peer = getsockopt(&self.clients.get(&id)?.stream, PeerCredentials).ok()?;
        Some((peer.pid(), peer.uid()))
    }

    pub fn stream(&self, id: u64) -> Option<BorrowedFd<'_>> {
        self.clients.get(&id).map(|client| client.stream.as_fd())
    }

    pub fn read(&mut self, id: u64) -> ReadOutcome {
        let Some(client) = self.clients.get_mut(&id) else { return ReadOutcome::Gone };
        let mut gulp = [0; 4096];
        // What is left is read in the next turns: nobody holds the others up by sending on.
        for _ in 0..MOST_READS {
            match client.stream.read(&mut gulp) {
                Ok(0) => return ReadOutcome::Gone,
                // It has asked already: the rest is not read for.
                Ok(_) if client.asked => {}
                Ok(count) => client.inbox.extend_from_slice(&gulp[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadOutcome::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return ReadOutcome::Gone,
            }
            if client.asked {
                continue;
            }
            if let Some(end) = client.inbox.iter().position(|byte| *byte == b'\n') {
                client.asked = true;
                let line: Vec<u8> = std::mem::take(&mut client.inbox).drain(..end).collect();
                let refused = client.refused;
                return self.understand(id, &line, refused);
            }
            if client.inbox.len() > MAX_QUESTION {
                client.asked = true;
                let message = format!("the question is longer than {MAX_QUESTION} bytes");
                self.say(id, &Response::Done { code: 2, message }, true);
                return ReadOutcome::Nothing;
            }
        }
        ReadOutcome::Nothing
    }

    fn understand(&mut self, id: u64, line: &[u8], refused: bool) -> ReadOutcome {
        let answer = if refused {
            Response::Done { code: 5, message: "not permitted: see `mode` and `group` in [control]".to_owned() }
        } else {
            match serde_json::from_slice::<Request>(line) {
                Ok(question) if question.version == VERSION => return ReadOutcome::Request(Box::new(question)),
                Ok(question) => Response::Done {
                    code: 1,
                    message: format!("this master speaks version {VERSION}, not {}", question.version),
                },
                Err(error) => Response::Done { code: 2, message: format!("not understood: {error}") },
            }
        };
        self.say(id, &answer, true);
        ReadOutcome::Nothing
    }

    /// Queues an answer; `last`: nothing follows, the connection is closed when it has been sent.
    pub fn say(&mut self, id: u64, answer: &Response, last: bool) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.last_word {
            return;
        }
        if client.skipped > 0 && client.queue(&Response::Skipped { count: client.skipped }, MOST_WAITING) {
            client.skipped = 0;
        }
        if last {
            if !client.queue(answer, MOST_WAITING) {
                let message = "the answer is too long to be sent (it was carried out): `rotad status POOL`, `rotad \
                               events` and `rotad logs` show its parts"
                    .to_owned();
                let code = if let Response::Done { code, .. } = answer { *code } else { 1 };
                client.queue(&Response::Done { code, message }, MOST_WAITING + LAST_ROOM);
            }
            client.last_word = true;
        } else if !client.queue(answer, MOST_WAITING) {
            client.skipped += 1;
        }
    }

    /// From now on the client follows what happens: it may be slow, or stopped, for as long as it likes.
    pub fn follows(&mut self, id: u64) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.follows = true;
        }
    }

    /// Queues something for a client that follows, unless too much waits for it already: then false.
    pub fn offer(&mut self, id: u64, answer: &Response) -> bool {
        let room = self.clients.get(&id).is_some_and(|client| client.outbox.len() < MOST_BEHIND);
        if room {
            self.say(id, answer, false);
        }
        room
    }

    /// Sends what the client takes. `None`: done with it, forget it; `Some(true)`: there is more to send.
    pub fn flush(&mut self, id: u64) -> Option<bool> {
        let client = self.clients.get_mut(&id)?;
        let mut sent = 0;
        for _ in 0..MOST_WRITES {
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
        if client.last_word { None } else { Some(false) }
    }

    /// A second handle to a client's connection, for a thread that answers in the server's place. Nothing of ours may
    /// wait for the client then, and it is to be forgotten here.
    pub fn hand_over(&self, id: u64) -> Option<UnixStream> {
        self.clients.get(&id).filter(|client| client.outbox.is_empty())?.stream.try_clone().ok()
    }

    pub fn forget(&mut self, id: u64) {
        self.clients.remove(&id);
    }

    /// The master was paused: that time is not the clients'.
    pub fn paused(&mut self, by: Duration) {
        self.clients.values_mut().for_each(|client| client.ask_by += by);
    }

    /// When the next client has taken too long, or connections are taken again.
    pub fn deadline(&self) -> Option<Instant> {
        let late = self.clients.values().filter(|c| c.is_waited_for()).map(|c| c.ask_by);
        late.chain(self.rests_until).min()
    }

    /// Clients that have taken too long to ask, or to take their answer.
    pub fn overdue(&self, now: Instant) -> Vec<u64> {
        let late = |c: &Client| c.ask_by <= now && c.is_waited_for();
        self.clients.iter().filter(|(_, c)| late(c)).map(|(id, _)| *id).collect()
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// No descriptor is left in this process or on this machine, or no memory for one (accept(2)).
fn is_exhausted(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// Root, or our own user.
fn is_friend(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
}
