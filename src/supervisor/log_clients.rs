//! Lines of workers for clients: each client that asks for them gets a thread of its own, which waits for the pen and
//! for the client in the main loop's place. However much workers print, and however slowly a client reads: neither the
//! main loop nor the pen waits for it.

use super::Supervisor;
use crate::control::wire::{Line, Response};
use crate::event_loop::waker::Waker;
use crate::log::{Filter, Follower, LogLine};
use crate::observe::harmless::harmless;
use crate::plan::{PoolPlan, Sink};
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use rotad_core::PoolId;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Clients that may be read to at once.
const MOST: usize = 16;
/// What is put together before it is sent, in bytes.
const PORTION: usize = 64 * 1024;

/// A thread's place: how it is woken, and told that the master leaves.
#[derive(Debug)]
struct ClientThread {
    bell: Waker,
    leaving: AtomicBool,
}

/// All who read to clients.
#[derive(Debug)]
pub(super) struct LogClients {
    seats: Vec<Weak<ClientThread>>,
    /// Each thread holds one end; when all are gone, so is the other end's peer.
    holds: Sender<Infallible>,
    gone: Receiver<Infallible>,
}

impl Default for LogClients {
    fn default() -> Self {
        let (holds, gone) = bounded(0);
        Self { seats: Vec::new(), holds, gone }
    }
}

impl LogClients {
    fn is_full(&mut self) -> bool {
        self.seats.retain(|seat| seat.strong_count() > 0);
        self.seats.len() >= MOST
    }

    /// The last lines go out, then the threads end; one whose client does not read is not waited for any longer.
    pub(super) fn end(&mut self, patience: Duration) {
        for seat in self.seats.drain(..).filter_map(|seat| seat.upgrade()) {
            seat.leaving.store(true, Ordering::SeqCst);
            seat.bell.wake();
        }
        self.holds = bounded(0).0;
        self.gone.recv_timeout(patience).ok();
    }
}

/// What one client is read.
struct Reading {
    client: UnixStream,
    follower: Follower,
    seat: Arc<ClientThread>,
    /// Only what there is: nothing to come.
    once: bool,
    /// Fewer lines than this: there may be more elsewhere, and this says where.
    lines: usize,
    hint: String,
    /// Nothing was ever printed by such a worker, nor is there one: so it is to be answered.
    unknown: Option<String>,
    _hold: Sender<Infallible>,
}

impl Supervisor {
    /// A client wants lines of workers: the last so many of them, and perhaps all to come.
    pub(super) fn logs_for(&mut self, client: u64, pool: Option<String>, slot: Option<u32>, what: (u32, bool)) {
        let (lines, follow) = what;
        let known = pool.as_deref().map(|name| self.pools.find(name));
        if let (Some(name), Some(None)) = (&pool, known) {
            let message = format!("no such pool: {name}; there are: {}", self.pools.names().join(", "));
            return self.done(client, 4, message);
        }
        if self.log_clients.is_full() {
            return self.done(client, 1, format!("{MOST} clients are read to already"));
        }
        let unknown = known.flatten().zip(slot).and_then(|(pool, slot)| self.no_such_slot(pool, slot));
        let hint = self.where_more_is(known.flatten());
        let Ok(bell) = Waker::new() else {
            return self.done(client, 1, "no descriptor is left for another client".to_owned());
        };
        let Some(stream) = self.server.hand_over(client) else { return self.drop_client(client) };
        let seat = Arc::new(ClientThread { bell: bell.clone(), leaving: AtomicBool::new(false) });
        let lines = lines as usize;
        let follower = self.log.follow(Filter { pool, slot }, lines, bell);
        self.log_clients.seats.push(Arc::downgrade(&seat));
        let _hold = self.log_clients.holds.clone();
        let reading = Reading { client: stream, follower, seat, once: !follow, lines, hint, unknown, _hold };
        let thread = std::thread::Builder::new().name("reader".into()).stack_size(256 * 1024);
        match thread.spawn(move || reading.go()) {
            // The connection is the thread's now.
            Ok(_) => self.drop_client(client),
            Err(error) => self.done(client, 1, format!("no thread is left for another client: {error}")),
        }
    }

    fn no_such_slot(&self, pool: PoolId, slot: u32) -> Option<String> {
        let view = self.engine.view();
        let count = self.pools.plan(pool).map_or(0, |plan| plan.policy.count);
        let there = slot < count
            || view.workers().any(|worker| worker.pool == pool && worker.slot.0 == slot)
            || view.empty_slots(pool).any(|empty| empty.slot.0 == slot);
        (!there).then(|| format!("no such worker: {}/{slot}; its pool has {count}", self.pool_name(pool)))
    }

    /// Where what the ring does not hold (any more) is to be found.
    fn where_more_is(&self, pool: Option<PoolId>) -> String {
        let master = self.log_file.as_ref().map_or("the master's stderr".to_owned(), |file| file.display().to_string());
        let mut places = Vec::new();
        for (_, plan) in self.pools.iter().filter(|(id, _)| pool.is_none_or(|pool| pool == *id)) {
            for place in places_of(plan, &master) {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        format!("older lines: {}", places.join(", "))
    }
}

fn places_of(plan: &PoolPlan, master: &str) -> Vec<String> {
    let sinks = [("stdout", &plan.log.stdout), ("stderr", &plan.log.stderr)];
    let place = |(name, sink): (&str, &Sink)| match sink {
        Sink::Master => Some(master.to_owned()),
        Sink::File(path) => Some(path.display().to_string()),
        Sink::Inherit => Some(format!("the master's own {name} (nothing of {} is kept)", plan.name)),
        Sink::Null => Some(format!("none ({} of {} is thrown away)", name, plan.name)),
        Sink::Stdout => None,
    };
    sinks.into_iter().filter_map(place).collect()
}

impl Reading {
    fn go(mut self) {
        // Signals for the process reach the main thread, which waits for them, and do not wake this one.
        SigSet::all().thread_block().ok();
        // Whoever it was for is gone: there is nobody to tell.
        self.read_out().ok();
    }

    fn read_out(&mut self) -> io::Result<()> {
        let mut first = true;
        loop {
            self.seat.bell.clear();
            let leaving = self.seat.leaving.load(Ordering::SeqCst);
            let (lines, skipped) = self.follower.take();
            if std::mem::take(&mut first) && lines.len() < self.lines {
                if let Some(message) = self.unknown.take().filter(|_| lines.is_empty()) {
                    return self.send(&encoded(&Response::Done { code: 4, message }));
                }
                let text = std::mem::take(&mut self.hint);
                self.send(&encoded(&Response::Hint { text }))?;
            }
            self.hand_out(&lines, skipped)?;
            if self.once || leaving {
                return self.send(&encoded(&Response::Done { code: 0, message: String::new() }));
            }
            self.wait()?;
        }
    }

    fn hand_out(&mut self, lines: &[LogLine], skipped: u64) -> io::Result<()> {
        let mut portion = Vec::new();
        if skipped > 0 {
            portion = encoded(&Response::Skipped { count: skipped });
        }
        for line in lines {
            portion.extend(encoded(&Response::Line(Box::new(told(line)))));
            if portion.len() >= PORTION {
                self.send(&portion)?;
                portion.clear();
            }
        }
        self.send(&portion)
    }

    /// Until there is more, or the client is gone.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            let bell = PollFd::new(self.seat.bell.as_fd(), PollFlags::POLLIN);
            let mut fds = [bell, PollFd::new(self.client.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::NONE).ok();
            let heard = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let (rings, says) = (heard(&fds[0]), heard(&fds[1]));
            if says {
                self.listen()?;
            }
            if rings {
                return Ok(());
            }
        }
    }

    /// A client has nothing to say any more; but its end is heard this way.
    fn listen(&mut self) -> io::Result<()> {
        match self.client.read(&mut [0; 1024]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
            _ => Ok(()),
        }
    }

    /// All of it, however long the client takes; what comes meanwhile waits in the follower, which is bounded.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.client.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.client.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE).ok();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn told(line: &LogLine) -> Line {
    Line {
        time: humantime::format_rfc3339_millis(line.at).to_string(),
        pool: line.pool.to_string(),
        slot: line.slot,
        pid: line.pid,
        stream: line.stream.name().to_owned(),
        text: harmless(&line.line),
    }
}

fn encoded(answer: &Response) -> Vec<u8> {
    // Strings and numbers alone: this cannot fail.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}
