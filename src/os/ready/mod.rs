//! The scout: sees from outside, without a line of code in the worker, when one begins to accept.
//!
//! A worker accepts when one of its processes holds an inherited listener and
//! - a thread of it waits in accept(2) on it, or in poll(2) or select(2) with it in the set, or in epoll_wait(2) on an
//!   epoll that has it; or
//! - it holds a connection that was accepted from it (a loop so busy that it is never seen waiting).
//!
//! Limits: accepts by io_uring show nowhere and are seen by the first connection only. Go registers its listener with
//! epoll when it wraps the descriptor, a moment before the first accept. A program of the other word size (32 bits on
//! a 64-bit kernel) numbers its system calls otherwise: it is seen by its connections.
//!
//! Looking needs what ptrace(2) calls read access for descriptors, and attach access for system calls (a worker of the
//! same user, or CAP_SYS_PTRACE; Yama lets an ancestor attach unless it is set to 2 or more). Where the first is missing the worker is
//! reported blind; where only the second is, an epoll that has the listener is enough, and blindness is reported after
//! a second without one.

mod held;
mod look;
mod waits;

use crate::os::wake::Wake;
use crate::plan::Address;
use crossbeam_channel::{Receiver, Sender, never, select, tick, unbounded};
use look::Look;
use rotad_core::WorkerId;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// The scout's clock while anything is watched.
const ROUND: Duration = Duration::from_millis(5);
/// The longest wait between two looks at one worker: 200 ms.
const LONGEST_GAP: u64 = 40;
/// So many looks in a row must be refused before a worker is called blind: right after exec a process may be closed to
/// us for a moment.
const REFUSALS: u32 = 3;
/// Connections are looked for at every so many looks only: their table is as long as the machine has connections.
const CONNECTIONS_EVERY: u64 = 4;
/// Rounds after which system calls that cannot be read make a worker blind: 1 s.
const PATIENCE: u64 = 200;

/// A listening socket that a worker has inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As in `socket:[inode]` of /proc/PID/fd.
    pub inode: u64,
    /// As bound, with the real port.
    pub address: Address,
}

/// What the scout has found out. After a report it looks no more at that worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScoutReport {
    /// It accepts.
    Accepting(WorkerId),
    /// It cannot be seen, and why.
    Blind(WorkerId, String),
}

enum Task {
    Watch(WorkerId, i32, Vec<Target>),
    Forget(WorkerId),
}

/// A thread of its own that reads /proc; asleep while nothing is watched. It ends when this is dropped.
#[derive(Debug)]
pub struct Scout {
    tasks: Sender<Task>,
    reports: Receiver<ScoutReport>,
}

impl Scout {
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(wake: Wake) -> io::Result<Self> {
        // Never more than one task and one report a worker: the number of workers bounds them.
        let (tasks, inbox) = unbounded();
        let (outbox, reports) = unbounded();
        let rounds = Rounds { watched: HashMap::new(), outbox, wake };
        let thread = std::thread::Builder::new().name("scout".to_owned()).stack_size(256 << 10);
        let look = move || {
            // Signals for the process are the main thread's.
            nix::sys::signal::SigSet::all().thread_block().ok();
            rounds.run(&inbox);
        };
        thread.spawn(look)?;
        Ok(Self { tasks, reports })
    }

    /// Looks at a worker, at once and then again and again, until it is seen accepting on any of the targets. `pid`:
    /// the worker's own process, after its exec.
    pub fn watch(&self, worker: WorkerId, pid: i32, targets: Vec<Target>) {
        self.tasks.send(Task::Watch(worker, pid, targets)).ok();
    }

    /// Looks no more. A report that was made before may still come.
    pub fn forget(&self, worker: WorkerId) {
        self.tasks.send(Task::Forget(worker)).ok();
    }

    /// The reports; the bell is rung after each.
    pub fn reports(&self) -> &Receiver<ScoutReport> {
        &self.reports
    }
}

struct Watched {
    pid: i32,
    targets: Vec<Target>,
    /// Rounds since it is watched, and until the next look.
    age: u64,
    wait: u64,
    looks: u64,
    refusals: u32,
}

struct Rounds {
    watched: HashMap<WorkerId, Watched>,
    outbox: Sender<ScoutReport>,
    wake: Wake,
}

impl Rounds {
    fn run(mut self, inbox: &Receiver<Task>) {
        let mut clock = never();
        loop {
            select! {
                recv(inbox) -> task => match task {
                    Ok(task) => self.take(task),
                    Err(_) => return,
                },
                recv(clock) -> _ => self.round(),
            }
            match (self.watched.is_empty(), clock.capacity()) {
                (true, _) => clock = never(),
                (false, Some(0)) => clock = tick(ROUND), // `never` has no room
                (false, _) => {}
            }
        }
    }

    fn take(&mut self, task: Task) {
        match task {
            Task::Watch(worker, pid, targets) => {
                self.watched.insert(worker, Watched { pid, targets, age: 0, wait: 0, looks: 0, refusals: 0 });
                self.look(worker);
            }
            Task::Forget(worker) => {
                self.watched.remove(&worker);
            }
        }
    }

    fn round(&mut self) {
        let mut due = Vec::new();
        for (worker, watched) in &mut self.watched {
            watched.age += 1;
            watched.wait = watched.wait.saturating_sub(1);
            if watched.wait == 0 {
                due.push(*worker);
            }
        }
        due.into_iter().for_each(|worker| self.look(worker));
    }

    /// One look, and when to take the next: the older the start and the more starts there are, the later, so that
    /// looking never costs more than a fraction of what is looked at.
    fn look(&mut self, worker: WorkerId) {
        let crowd = 1 + self.watched.len() as u64 / 8;
        let Some(watched) = self.watched.get_mut(&worker) else { return };
        watched.looks += 1;
        let thorough = watched.looks.is_multiple_of(CONNECTIONS_EVERY);
        let report = match look::at(watched.pid, &watched.targets, thorough) {
            Look::Accepting => Some(ScoutReport::Accepting(worker)),
            Look::Refused(why) => {
                watched.refusals += 1;
                (watched.refusals >= REFUSALS).then_some(ScoutReport::Blind(worker, why))
            }
            Look::Half(why) if watched.age >= PATIENCE => Some(ScoutReport::Blind(worker, why)),
            Look::NotYet | Look::Half(_) => {
                watched.refusals = 0;
                None
            }
        };
        watched.wait = ((1 + watched.age / 16) * crowd).min(LONGEST_GAP);
        if let Some(report) = report {
            self.watched.remove(&worker);
            self.outbox.send(report).ok();
            self.wake.ring();
        }
    }
}
