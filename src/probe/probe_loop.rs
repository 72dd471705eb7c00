//! The thread's loop: whatever is ready goes a step further.

use super::command::CommandProbe;
use super::connection::{ConnectionProbe, Turn};
use super::{At, ProbeError, ProbeRequest, ProbeResult, Task};
use crate::event_loop::waker::Waker;
use crate::process::{SpawnRequest, SpawnResult, Spawner, SpawnerConfig};
use crate::sys::process::Process;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use rotad_core::WorkerId;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Without pidfds, how often the end of a command is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// What follows the first line of an answer is read away for so long, …
const REST_FOR: Duration = Duration::from_secs(1);
/// … up to so many bytes, …
const REST_BYTES: usize = 256 * 1024;
/// … and from so many at once.
const MOST_RESTS: usize = 64;
/// Commands that run, or that the kernel does not let go of.
const MOST_ERRANDS: usize = 64;
/// At the end: commands that have been killed are waited for so long.
const LAST_WAIT: Duration = Duration::from_millis(800);

#[derive(Clone, Copy)]
enum Ready {
    Bell,
    ConnectionProbe(u64),
    CommandProbe(u64),
    Draining,
}

/// An answered connection that is read to its end.
struct Draining {
    socket: OwnedFd,
    until: Instant,
    left: usize,
}

pub(super) struct ProbeLoop {
    at: Arc<At>,
    inbox: Receiver<Task>,
    outbox: Sender<ProbeResult>,
    asker: Waker,
    settings: SpawnerConfig,
    /// Made for the first command. It lives as long as the thread: its children are a spawner's until they are reaped.
    spawner: Option<Spawner>,
    talks: BTreeMap<u64, ConnectionProbe>,
    errands: BTreeMap<u64, CommandProbe>,
    rests: Vec<Draining>,
    /// Commands that have ended under a tracer: reaped once he lets go.
    unreaped: Vec<Process>,
}

impl ProbeLoop {
    /// `settings`: with the thread's own bell, which is rung for tasks and for births.
    pub(super) fn new(
        inbox: Receiver<Task>,
        outbox: Sender<ProbeResult>,
        asker: Waker,
        settings: SpawnerConfig,
        at: Arc<At>,
    ) -> Self {
        Self {
            at,
            inbox,
            outbox,
            asker,
            settings,
            spawner: None,
            talks: BTreeMap::new(),
            errands: BTreeMap::new(),
            rests: Vec::new(),
            unreaped: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let ready = self.wait(None);
            self.settings.wake.clear();
            if !self.tasks() {
                break;
            }
            self.turn(ready);
        }
        self.talks.clear();
        self.errands.values_mut().for_each(CommandProbe::kill);
        let end = Instant::now() + LAST_WAIT;
        while !self.errands.is_empty() && Instant::now() < end {
            let ready = self.wait(Some(end));
            self.settings.wake.clear();
            self.turn(ready);
        }
    }

    fn wait(&self, until: Option<Instant>) -> Vec<Ready> {
        let mut all = vec![(Ready::Bell, PollFd::new(self.settings.wake.as_fd(), PollFlags::POLLIN))];
        all.extend(
            self.talks.iter().map(|(n, talk)| (Ready::ConnectionProbe(*n), PollFd::new(talk.as_fd(), talk.wants()))),
        );
        for (number, errand) in &self.errands {
            all.extend(errand.wants().into_iter().map(|(fd, f)| (Ready::CommandProbe(*number), PollFd::new(fd, f))));
        }
        let rests = self.rests.iter().map(|rest| PollFd::new(rest.socket.as_fd(), PollFlags::POLLIN));
        all.extend(rests.map(|fd| (Ready::Draining, fd)));
        let (what, mut fds): (Vec<Ready>, Vec<PollFd<'_>>) = all.into_iter().unzip();
        let look = self.errands.values().any(CommandProbe::is_unseen).then(|| Instant::now() + LOOK);
        let births = self.spawner.as_ref().and_then(Spawner::deadline);
        let next = self.rests.iter().map(|rest| rest.until).chain(look).chain(births).chain(until).min();
        let patience = next.map_or(PollTimeout::NONE, |at| {
            // Rounded up: a wait that ends a little early would turn in circles.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // EINTR cannot be: all signals are blocked. Whatever else it is, everything is looked at again.
        let count = poll(&mut fds, patience);
        let ready = |fd: &PollFd<'_>| count.is_err() || fd.any() == Some(true);
        what.into_iter().zip(&fds).filter(|(_, fd)| ready(fd)).map(|(what, _)| what).collect()
    }

    /// False: the asker has gone.
    fn tasks(&mut self) -> bool {
        loop {
            if self.at.left.load(Ordering::Relaxed) {
                return false;
            }
            match self.inbox.try_recv() {
                Ok(Task::Ask(number, ProbeRequest::Command(order))) => self.order(number, *order),
                Ok(Task::Ask(number, question)) => match self.begin(number, &question) {
                    Ok((talk, Turn::Wait)) => {
                        self.talks.insert(number, talk);
                    }
                    Ok((talk, Turn::Answered(result))) => self.answered(number, talk, result),
                    Err(trouble) => self.answer(number, Err(trouble)),
                },
                Ok(Task::Forget(number)) => {
                    self.talks.remove(&number);
                    if let Some(errand) = self.errands.get_mut(&number) {
                        errand.kill();
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn begin(&self, number: u64, question: &ProbeRequest) -> Result<(ConnectionProbe, Turn), ProbeError> {
        let begins = |begins| *self.at.begins.lock().unwrap_or_else(PoisonError::into_inner) = begins;
        begins(Some((number, Instant::now())));
        let begun = ConnectionProbe::begin(question);
        begins(None);
        begun
    }

    fn order(&mut self, number: u64, mut order: SpawnRequest) {
        if self.errands.len() >= MOST_ERRANDS {
            let reason = "too many commands have been killed and are still there".to_owned();
            return self.answer(number, Err(ProbeError::Unasked(reason)));
        }
        let ordered = self.spawner().and_then(|spawner| {
            let (errand, end) = CommandProbe::new()?;
            let end = Arc::new(end);
            order.worker = WorkerId(number);
            order.stdout = end.clone();
            order.stderr = end;
            spawner.request(order);
            Ok(errand)
        });
        match ordered {
            Ok(errand) => {
                self.errands.insert(number, errand);
            }
            Err(error) => self.answer(number, Err(ProbeError::Unasked(error.to_string()))),
        }
    }

    fn spawner(&mut self) -> std::io::Result<&Spawner> {
        let spawner = match self.spawner.take() {
            Some(spawner) => spawner,
            None => Spawner::start(self.settings.clone())?,
        };
        Ok(self.spawner.insert(spawner))
    }

    fn turn(&mut self, ready: Vec<Ready>) {
        self.births();
        for what in ready {
            match what {
                Ready::Bell => {}
                Ready::ConnectionProbe(number) => {
                    let turn = self.talks.get_mut(&number).map(ConnectionProbe::go_on);
                    if let Some(Turn::Answered(result)) = turn
                        && let Some(talk) = self.talks.remove(&number)
                    {
                        self.answered(number, talk, result);
                    }
                }
                Ready::CommandProbe(number) => self.look_at(number),
                Ready::Draining => self.read_away(),
            }
        }
        let unseen: Vec<u64> = self.errands.iter().filter(|(_, e)| e.is_unseen()).map(|(n, _)| *n).collect();
        unseen.into_iter().for_each(|number| self.look_at(number));
        let now = Instant::now();
        self.rests.retain(|rest| rest.until > now);
        self.unreaped.retain(|process| matches!(process.reap(), Ok(None)));
    }

    fn births(&mut self) {
        let Some(spawner) = &mut self.spawner else { return };
        let now = Instant::now();
        if spawner.deadline().is_some_and(|at| at <= now) {
            spawner.check(now);
        }
        let reports: Vec<SpawnResult> = spawner.reports().try_iter().collect();
        for report in reports {
            let number = match &report {
                SpawnResult::Started { worker, .. }
                | SpawnResult::ExecPending { worker, .. }
                | SpawnResult::Failed { worker, .. } => worker.0,
            };
            if let Some(errand) = self.errands.get_mut(&number) {
                match errand.reported(report) {
                    Some(trouble) => self.ended(number, Err(trouble)),
                    // It may have ended already.
                    None => self.look_at(number),
                }
            }
        }
    }

    fn look_at(&mut self, number: u64) {
        if let Some(result) = self.errands.get_mut(&number).and_then(CommandProbe::go_on) {
            self.ended(number, result.map_err(ProbeError::Unwell));
        }
    }

    fn ended(&mut self, number: u64, result: Result<(), ProbeError>) {
        let Some(errand) = self.errands.remove(&number) else { return };
        if !errand.forgotten {
            self.answer(number, result);
        }
        self.unreaped.extend(errand.into_unreaped());
    }

    fn answered(&mut self, number: u64, talk: ConnectionProbe, result: Result<(), String>) {
        self.answer(number, result.map_err(ProbeError::Unwell));
        if let Some(socket) = talk.into_rest()
            && self.rests.len() < MOST_RESTS
        {
            self.rests.push(Draining { socket, until: Instant::now() + REST_FOR, left: REST_BYTES });
            self.read_away();
        }
    }

    fn answer(&self, number: u64, result: Result<(), ProbeError>) {
        self.outbox.send(ProbeResult { number, result }).ok();
        self.asker.wake();
    }

    fn read_away(&mut self) {
        let mut gulp = [0; 16 * 1024];
        self.rests.retain_mut(|rest| {
            while rest.left > 0 {
                match recv(rest.socket.as_raw_fd(), &mut gulp, MsgFlags::empty()) {
                    Ok(0) => return false,
                    Ok(count) => rest.left = rest.left.saturating_sub(count),
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(nix::errno::Errno::EAGAIN) => return true,
                    Err(_) => return false,
                }
            }
            false
        });
    }
}
