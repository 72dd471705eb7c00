//! The probe thread's loop: advances each probe whose descriptor is ready.

use super::command::CommandProbe;
use super::connection::{Advance, ConnectionProbe};
use super::{ProbeError, ProbeRequest, ProbeResult, Task};
use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::{self, Mailbox};
use crate::event_loop::progress::Progress;
use crate::event_loop::waker::Waker;
use crate::process::{SpawnRequest, SpawnResult, Spawner, SpawnerConfig};
use crate::sys::poll::poll;
use crate::sys::process::Process;
use crossbeam_channel::{Receiver, TryRecvError};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, recv};
use rotad_core::{Span, Time, WorkerId};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// Without pidfds: how often commands are checked for their exit.
const POLL_INTERVAL: Span = Span::from_millis(50);
/// How long the rest of a response is read, …
const DRAIN_TIME: Span = Span::from_secs(1);
/// … up to how many bytes, …
const DRAIN_BYTES: usize = 256 * 1024;
/// … and from how many connections at a time.
const MAX_DRAINING: usize = 64;
/// Maximum number of commands that run, or that the kernel does not end.
const MAX_COMMANDS: usize = 64;
/// How long to wait at the end for killed commands.
const EXIT_TIMEOUT: Span = Span::from_millis(800);

#[derive(Clone, Copy)]
enum Ready {
    Waker,
    ConnectionProbe(u64),
    CommandProbe(u64),
    Draining,
}

/// An answered connection that is read to its end.
struct Draining {
    socket: OwnedFd,
    until: Time,
    left: usize,
}

/// The state of the probe thread.
pub(super) struct ProbeLoop {
    progress: Progress<u64>,
    inbox: Receiver<Task>,
    results: Mailbox<ProbeResult>,
    config: SpawnerConfig,
    /// Woken for tasks and for spawn results.
    waker: Waker,
    spawn_results: (Mailbox<SpawnResult>, Receiver<SpawnResult>),
    /// Created for the first command. It lives as long as the thread, which owns its children until they are reaped.
    spawner: Option<Spawner>,
    connections: BTreeMap<u64, ConnectionProbe>,
    commands: BTreeMap<u64, CommandProbe>,
    draining: Vec<Draining>,
    /// Commands that have exited under a tracer: reaped once it detaches.
    unreaped: Vec<Process>,
}

impl ProbeLoop {
    /// `waker` is the thread's own, which is woken for tasks.
    pub(super) fn new(
        inbox: Receiver<Task>,
        results: Mailbox<ProbeResult>,
        config: SpawnerConfig,
        waker: Waker,
        progress: Progress<u64>,
    ) -> Self {
        Self {
            progress,
            inbox,
            results,
            config,
            spawn_results: mailbox::channel(waker.clone()),
            waker,
            spawner: None,
            connections: BTreeMap::new(),
            commands: BTreeMap::new(),
            draining: Vec::new(),
            unreaped: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let ready = self.wait(None);
            self.waker.clear();
            if !self.take_tasks() {
                break;
            }
            self.turn(ready);
        }
        self.connections.clear();
        self.commands.values_mut().for_each(CommandProbe::kill);
        let end = self.clock().now() + EXIT_TIMEOUT;
        while !self.commands.is_empty() && self.clock().now() < end {
            let ready = self.wait(Some(end));
            self.waker.clear();
            self.turn(ready);
        }
    }

    fn wait(&self, until: Option<Time>) -> Vec<Ready> {
        let mut all = vec![(
            Ready::Waker,
            PollFd::new(self.waker.as_fd(), PollFlags::POLLIN),
        )];
        all.extend(self.connections.iter().map(|(n, connection)| {
            (
                Ready::ConnectionProbe(*n),
                PollFd::new(connection.as_fd(), connection.interest()),
            )
        }));
        for (number, command) in &self.commands {
            all.extend(
                command
                    .interest()
                    .into_iter()
                    .map(|(fd, f)| (Ready::CommandProbe(*number), PollFd::new(fd, f))),
            );
        }
        let draining = self
            .draining
            .iter()
            .map(|drain| PollFd::new(drain.socket.as_fd(), PollFlags::POLLIN));
        all.extend(draining.map(|fd| (Ready::Draining, fd)));
        let (what, mut fds): (Vec<Ready>, Vec<PollFd<'_>>) = all.into_iter().unzip();
        let next_poll = self
            .commands
            .values()
            .any(CommandProbe::needs_polling)
            .then(|| self.clock().now() + POLL_INTERVAL);
        let spawn_results = self.spawner.as_ref().and_then(Spawner::deadline);
        let next = self
            .draining
            .iter()
            .map(|drain| drain.until)
            .chain(next_poll)
            .chain(spawn_results)
            .chain(until)
            .min();
        let timeout = next.map(|next| self.clock().until(next));
        // After an error nothing is known of the descriptors: all are checked.
        let count = poll(&mut fds, timeout);
        let ready = |fd: &PollFd<'_>| count.is_err() || fd.any() == Some(true);
        what.into_iter()
            .zip(&fds)
            .filter(|(_, fd)| ready(fd))
            .map(|(what, _)| what)
            .collect()
    }

    fn clock(&self) -> &Clock {
        &self.config.clock
    }

    /// Takes the queued tasks. False if the owner is gone.
    fn take_tasks(&mut self) -> bool {
        loop {
            if self.progress.is_abandoned() {
                return false;
            }
            match self.inbox.try_recv() {
                Ok(Task::Start(number, ProbeRequest::Command(spawn))) => {
                    self.spawn(number, *spawn, None);
                }
                Ok(Task::Start(number, ProbeRequest::Hook(hook, spawn))) => {
                    self.spawn(number, *spawn, Some(&hook));
                }
                Ok(Task::Start(number, request)) => match self.begin(number, &request) {
                    Ok((connection, Advance::Wait)) => {
                        self.connections.insert(number, connection);
                    }
                    Ok((connection, Advance::Done(result))) => {
                        self.connection_done(number, connection, result)
                    }
                    Err(error) => self.report(number, Err(error)),
                },
                Ok(Task::Cancel(number)) => {
                    self.connections.remove(&number);
                    if let Some(command) = self.commands.get_mut(&number) {
                        command.kill();
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn begin(
        &self,
        number: u64,
        request: &ProbeRequest,
    ) -> Result<(ConnectionProbe, Advance), ProbeError> {
        self.progress.begin(number);
        let started = ConnectionProbe::begin(request);
        self.progress.finish(|_| {});
        started
    }

    fn spawn(&mut self, number: u64, mut spawn: SpawnRequest, hook: Option<&str>) {
        if self.commands.len() >= MAX_COMMANDS {
            let reason = "too many killed commands have not ended yet".to_owned();
            return self.report(number, Err(ProbeError::Indeterminate(reason)));
        }
        let spawned = self.spawner().and_then(|spawner| {
            let (command, end) = CommandProbe::new(hook)?;
            let end = Arc::new(end);
            spawn.worker = WorkerId(number);
            spawn.stdout = end.clone();
            spawn.stderr = end;
            spawner.request(spawn);
            Ok(command)
        });
        match spawned {
            Ok(command) => {
                self.commands.insert(number, command);
            }
            Err(error) => self.report(number, Err(ProbeError::Indeterminate(error.to_string()))),
        }
    }

    fn spawner(&mut self) -> std::io::Result<&mut Spawner> {
        let spawner = match self.spawner.take() {
            Some(spawner) => spawner,
            None => Spawner::start(self.config.clone(), self.spawn_results.0.clone())?,
        };
        Ok(self.spawner.insert(spawner))
    }

    fn turn(&mut self, ready: Vec<Ready>) {
        self.spawn_results();
        for what in ready {
            match what {
                Ready::Waker => {}
                Ready::ConnectionProbe(number) => {
                    let turn = self
                        .connections
                        .get_mut(&number)
                        .map(ConnectionProbe::advance);
                    if let Some(Advance::Done(result)) = turn
                        && let Some(connection) = self.connections.remove(&number)
                    {
                        self.connection_done(number, connection, result);
                    }
                }
                Ready::CommandProbe(number) => self.advance_command(number),
                Ready::Draining => self.drain(),
            }
        }
        let unseen: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, e)| e.needs_polling())
            .map(|(n, _)| *n)
            .collect();
        unseen
            .into_iter()
            .for_each(|number| self.advance_command(number));
        let now = self.clock().now();
        self.draining.retain(|drain| drain.until > now);
        self.unreaped
            .retain(|process| matches!(process.reap(), Ok(None)));
    }

    fn spawn_results(&mut self) {
        let now = self.clock().now();
        let Some(spawner) = &mut self.spawner else {
            return;
        };
        if spawner.deadline().is_some_and(|progress| progress <= now) {
            spawner.check(now);
        }
        let reports: Vec<SpawnResult> = self.spawn_results.1.try_iter().collect();
        reports.iter().for_each(|_| spawner.answered());
        for report in reports {
            let number = match &report {
                SpawnResult::Started { worker, .. }
                | SpawnResult::ExecPending { worker, .. }
                | SpawnResult::Failed { worker, .. } => worker.0,
            };
            if let Some(command) = self.commands.get_mut(&number) {
                match command.on_spawn_result(report) {
                    Some(error) => self.ended(number, Err(error)),
                    // It may have exited already.
                    None => self.advance_command(number),
                }
            }
        }
    }

    fn advance_command(&mut self, number: u64) {
        if let Some(result) = self
            .commands
            .get_mut(&number)
            .and_then(CommandProbe::advance)
        {
            self.ended(number, result.map_err(ProbeError::Failed));
        }
    }

    fn ended(&mut self, number: u64, result: Result<(), ProbeError>) {
        let Some(command) = self.commands.remove(&number) else {
            return;
        };
        if command.is_awaited() {
            self.report(number, result);
        }
        self.unreaped.extend(command.into_unreaped());
    }

    fn connection_done(
        &mut self,
        number: u64,
        connection: ConnectionProbe,
        result: Result<(), String>,
    ) {
        self.report(number, result.map_err(ProbeError::Failed));
        if let Some(socket) = connection.into_draining()
            && self.draining.len() < MAX_DRAINING
        {
            self.draining.push(Draining {
                socket,
                until: self.clock().now() + DRAIN_TIME,
                left: DRAIN_BYTES,
            });
            self.drain();
        }
    }

    fn report(&self, number: u64, result: Result<(), ProbeError>) {
        self.results.send(ProbeResult { number, result });
    }

    fn drain(&mut self) {
        let mut buf = [0; 16 * 1024];
        self.draining.retain_mut(|drain| {
            while drain.left > 0 {
                match recv(drain.socket.as_raw_fd(), &mut buf, MsgFlags::empty()) {
                    Ok(0) => return false,
                    Ok(count) => drain.left = drain.left.saturating_sub(count),
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(nix::errno::Errno::EAGAIN) => return true,
                    Err(_) => return false,
                }
            }
            false
        });
    }
}
