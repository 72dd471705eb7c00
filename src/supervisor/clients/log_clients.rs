//! Clients of `rotad logs`. Each gets a thread of its own, which waits for log lines and for the client in place of the
//! main loop. However much workers print, and however slowly a client reads, neither the main loop nor the log writer
//! waits for it.

use crate::control::protocol::{Line, LogPlace, LogTarget, Response};
use crate::event_loop::poller::Poller;
use crate::event_loop::waker::Waker;
use crate::exit_code::ExitCode;
use crate::log::{Filter, FollowFrom, Follower, LogLine, LogWriter};
use crate::observe::sanitize::sanitize;
use crate::plan::{PoolPlan, Sink};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::Clients;
use crate::supervisor::pool_registry::PoolRegistry;
use crate::sys::poll::poll;
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::poll::{PollFd, PollFlags};
use rotad_core::{PoolId, View};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Maximum clients at once.
const MAX_CLIENTS: usize = 16;
/// How many bytes are collected before they are sent.
const CHUNK_BYTES: usize = 64 * 1024;

/// How the main loop reaches a client's thread: it wakes it, and tells it that the master exits.
#[derive(Debug)]
struct ClientThread {
    waker: Waker,
    shutting_down: AtomicBool,
}

/// The threads of all clients.
#[derive(Debug)]
pub(crate) struct LogClients {
    threads: Vec<Weak<ClientThread>>,
    /// Each thread holds a clone of the sender: once all are gone, the receiver is disconnected.
    holds: Sender<Infallible>,
    gone: Receiver<Infallible>,
}

impl Default for LogClients {
    fn default() -> Self {
        let (holds, gone) = bounded(0);
        Self {
            threads: Vec::new(),
            holds,
            gone,
        }
    }
}

impl LogClients {
    fn is_full(&mut self) -> bool {
        self.threads.retain(|thread| thread.strong_count() > 0);
        self.threads.len() >= MAX_CLIENTS
    }

    /// Starts the thread of one client. It sends nothing before the gate is dropped.
    ///
    /// # Errors
    /// EAGAIN: no thread is left.
    fn start(
        &mut self,
        client: UnixStream,
        waker: Waker,
        request: LogRequest,
        log: &LogWriter,
    ) -> io::Result<Gate> {
        let thread = Arc::new(ClientThread {
            waker: waker.clone(),
            shutting_down: AtomicBool::new(false),
        });
        self.threads.push(Arc::downgrade(&thread));
        let LogRequest {
            filter,
            from,
            follow,
            hint,
            unknown,
        } = request;
        let log_stream = LogStream {
            client,
            follower: log.follow(filter, from, waker),
            thread,
            once: !follow,
            from,
            hint,
            unknown,
            _hold: self.holds.clone(),
        };
        let (gate, opened) = bounded(0);
        thread::spawn("log-client", 256 << 10, move || {
            // Ends when the gate is dropped.
            opened.recv().ok();
            log_stream.run();
        })?;
        Ok(Gate(gate))
    }

    /// Lets the threads send the last lines and end; waits at most `timeout` for clients that do not read.
    pub(crate) fn end(&mut self, timeout: Duration) {
        for thread in self.threads.drain(..).filter_map(|thread| thread.upgrade()) {
            thread.shutting_down.store(true, Ordering::SeqCst);
            thread.waker.wake();
        }
        self.holds = bounded(0).0;
        self.gone.recv_timeout(timeout).ok();
    }
}

/// What a client's thread waits for before it sends anything.
#[must_use = "the thread begins once this is dropped"]
struct Gate(#[expect(dead_code, reason = "held until it is dropped")] Sender<Infallible>);

/// What one thread sends to its client.
struct LogStream {
    client: UnixStream,
    follower: Follower,
    thread: Arc<ClientThread>,
    /// Sends only the lines that exist now.
    once: bool,
    /// If lines are missing that were asked for, sends `hint`, which says where older ones are.
    from: FollowFrom,
    hint: String,
    /// The reply if the worker does not exist and never printed a line.
    unknown: Option<String>,
    _hold: Sender<Infallible>,
}

impl Supervisor {
    /// Answers `rotad logs`: past lines of workers, and perhaps all that follow.
    pub(crate) fn logs_for(
        &mut self,
        client: u64,
        targets: Vec<LogTarget>,
        from: FollowFrom,
        follow: bool,
    ) {
        let mut workers: Vec<(PoolId, Option<u32>)> = Vec::new();
        for LogTarget { pool, slot } in targets {
            let Some(found) = self.find_pools(client, &pool) else {
                return; // answered
            };
            workers.extend(found.into_iter().map(|pool| (pool, slot)));
        }
        let pools: Vec<PoolId> = workers.iter().map(|(pool, _)| *pool).collect();
        let hint = where_more_is(&self.pools, &pools, self.log.file.as_deref());
        let view = self.engine.view();
        let missing = |(pool, slot): &(PoolId, Option<u32>)| {
            slot.and_then(|slot| no_such_slot(&self.pools, &view, *pool, slot))
        };
        let missing: Option<Vec<String>> = workers.iter().map(missing).collect();
        let unknown = missing.and_then(|said| said.into_iter().next());
        let named = |(pool, slot)| (self.pools.name(pool).to_owned(), slot);
        let request = LogRequest {
            filter: Filter {
                workers: workers.into_iter().map(named).collect(),
            },
            from,
            follow,
            hint,
            unknown,
        };
        let (poller, writer) = (&self.event_loop.poller, &self.log.writer);
        let gate = self.clients.send_logs(client, request, writer, poller);
        // If this master dies, the next one would answer a client that it knows or whose request it finds.
        self.save();
        drop(gate);
    }
}

/// A request for log lines.
pub(crate) struct LogRequest {
    filter: Filter,
    from: FollowFrom,
    follow: bool,
    /// Where lines are that the ring no longer holds.
    hint: String,
    /// The reply if there is no line, because there is no such worker.
    unknown: Option<String>,
}

impl Clients {
    /// Hands the client to a thread of its own, which sends it log lines once the gate is dropped. None: it was answered
    /// otherwise, or is gone.
    fn send_logs(
        &mut self,
        client: u64,
        request: LogRequest,
        log: &LogWriter,
        poller: &Poller,
    ) -> Option<Gate> {
        if self.log_clients.is_full() {
            let message = format!("{MAX_CLIENTS} clients already read logs");
            self.done(client, ExitCode::FAILED, message, poller);
            return None;
        }
        let Ok(waker) = Waker::new() else {
            let message = "no descriptor is left for another client".to_owned();
            self.done(client, ExitCode::FAILED, message, poller);
            return None;
        };
        let Some(stream) = self.hand_over(client) else {
            self.drop_client(client, poller);
            return None;
        };
        match self.log_clients.start(stream, waker, request, log) {
            Ok(gate) => {
                // The thread has the connection now.
                self.consume_request(client);
                self.drop_client(client, poller);
                Some(gate)
            }
            Err(error) => {
                let message = format!("no thread is left for another client: {error}");
                self.done(client, ExitCode::FAILED, message, poller);
                None
            }
        }
    }
}

/// What is said about a slot that the pool does not have.
fn no_such_slot(pools: &PoolRegistry, view: &View<'_>, pool: PoolId, slot: u32) -> Option<String> {
    let count = pools.plan(pool).map_or(0, |plan| plan.policy.count);
    let there = slot < count
        || view
            .workers()
            .any(|worker| worker.pool == pool && worker.slot.0 == slot)
        || view.empty_slots(pool).any(|empty| empty.slot.0 == slot);
    let name = pools.name(pool);
    (!there).then(|| format!("no such worker: {name}/{slot}; its pool has {count}"))
}

/// Where to find lines that the ring no longer holds. `meant`: of these pools; if empty, of all. `log_file`: the master's; None: its stderr.
fn where_more_is(pools: &PoolRegistry, meant: &[PoolId], log_file: Option<&Path>) -> String {
    let master = log_file.map_or("the master's stderr".to_owned(), |file| {
        file.display().to_string()
    });
    let mut places = Vec::new();
    for (_, plan) in pools
        .iter()
        .filter(|(id, _)| meant.is_empty() || meant.contains(id))
    {
        for place in places_of(plan, &master) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
    }
    format!("older lines: {}", places.join(", "))
}

fn places_of(plan: &PoolPlan, master: &str) -> Vec<String> {
    let sinks = [("stdout", &plan.log.stdout), ("stderr", &plan.log.stderr)];
    let place = |(name, sink): (&str, &Sink)| match sink {
        Sink::Master => Some(master.to_owned()),
        Sink::File(file) => Some(file.shown(None)),
        Sink::Inherit => Some(format!(
            "the master's own {name} (nothing of {} is kept)",
            plan.name
        )),
        Sink::Null => Some(format!("none ({} of {} is thrown away)", name, plan.name)),
        Sink::Stdout => None,
    };
    sinks.into_iter().filter_map(place).collect()
}

impl LogStream {
    fn run(mut self) {
        // An error means that the client is gone.
        self.stream().ok();
    }

    fn stream(&mut self) -> io::Result<()> {
        if !self.once {
            let (log, end) = (self.follower.log(), self.follower.begin());
            self.send(&encode(&Response::LogFrom(LogPlace { log, end })))?;
        }
        if self.follower.has_gap() {
            let text = format!(
                "the master was replaced, and lines that it had read last may be missing here; {}",
                self.hint
            );
            self.send(&encode(&Response::Hint { text }))?;
        }
        let mut first = true;
        loop {
            self.thread.waker.clear();
            let shutting_down = self.thread.shutting_down.load(Ordering::SeqCst);
            let (lines, skipped) = self.follower.take();
            let too_few = match self.from {
                FollowFrom::Last(wanted) => lines.len() < wanted,
                FollowFrom::After { .. } => false,
            };
            if std::mem::take(&mut first) && too_few {
                if let Some(message) = self.unknown.take().filter(|_| lines.is_empty()) {
                    return self.send(&encode(&Response::Done {
                        code: ExitCode::NOT_FOUND,
                        message,
                    }));
                }
                let text = std::mem::take(&mut self.hint);
                self.send(&encode(&Response::Hint { text }))?;
            }
            self.send_lines(&lines, skipped)?;
            if self.once || shutting_down {
                return self.send(&encode(&Response::Done {
                    code: ExitCode::DONE,
                    message: String::new(),
                }));
            }
            self.wait()?;
        }
    }

    fn send_lines(&mut self, lines: &[LogLine], skipped: u64) -> io::Result<()> {
        let mut chunk = Vec::new();
        if skipped > 0 {
            chunk = encode(&Response::Skipped { count: skipped });
        }
        for line in lines {
            chunk.extend(encode(&Response::Line(Box::new(to_line(line)))));
            if chunk.len() >= CHUNK_BYTES {
                self.send(&chunk)?;
                chunk.clear();
            }
        }
        self.send(&chunk)
    }

    /// Waits until there are more lines, or the client is gone.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            let waker = PollFd::new(self.thread.waker.as_fd(), PollFlags::POLLIN);
            let mut fds = [waker, PollFd::new(self.client.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, None).ok();
            let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
            let (woken, client_ready) = (is_ready(&fds[0]), is_ready(&fds[1]));
            if client_ready {
                self.read_client()?;
            }
            if woken {
                return Ok(());
            }
        }
    }

    /// A client sends nothing more; reading notices its end.
    fn read_client(&mut self) -> io::Result<()> {
        match self.client.read(&mut [0; 1024]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Sends all bytes, however long the client takes. New lines wait in the follower, which is bounded.
    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.client.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(
                        &mut [PollFd::new(self.client.as_fd(), PollFlags::POLLOUT)],
                        None,
                    )
                    .ok();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn to_line(line: &LogLine) -> Line {
    Line {
        time: humantime::format_rfc3339_millis(line.at).to_string(),
        pool: line.pool.to_string(),
        slot: line.slot,
        pid: line.pid,
        stream: line.stream.name().to_owned(),
        end: line.end,
        text: sanitize(&line.line),
    }
}

fn encode(answer: &Response) -> Vec<u8> {
    // Only strings and numbers: this cannot fail.
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}
