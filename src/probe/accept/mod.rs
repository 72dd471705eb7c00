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

mod connections;
mod scan;
mod syscalls;

use crate::event_loop::waker::Waker;
use crate::plan::Address;
use crossbeam_channel::{Receiver, Sender, never, select, tick, unbounded};
use rotad_core::WorkerId;
use scan::Look;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The scout's clock while anything is watched.
const ROUND: Duration = Duration::from_millis(5);
/// The longest wait between two looks at one worker: 200 ms.
const LONGEST_GAP: u64 = 40;
/// So many looks in a row must be refused before a worker is called blind: right after exec a process may be closed to
/// us for a moment.
const REFUSALS: u32 = 3;
/// Connections are looked for at every so many looks only: their table is as long as the machine has connections.
const CONNECTIONS_EVERY: u64 = 4;
/// A look that gets no further for so long hangs.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// So many looks may hang; then there are no more.
const MOST_WRITTEN_OFF: usize = 8;
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
pub enum AcceptReport {
    /// It accepts.
    Accepting(WorkerId),
    /// It cannot be seen, and why.
    Blind(WorkerId, String),
}

#[derive(Debug)]
enum Task {
    Watch(WorkerId, i32, Vec<Target>),
    Forget(WorkerId),
}

/// A thread of its own that reads /proc; asleep while nothing is watched. It ends when this is dropped.
///
/// A look may hang in the kernel: what a thread waits for stands in its process's memory, and whoever reads that waits
/// for the lock of the process's memory map, unkillably. Processes with a thread in state D are not read; should a look
/// hang all the same, its thread is written off, and another one looks at the others.
#[derive(Debug)]
pub struct AcceptProbe {
    wake: Waker,
    tasks: Sender<Task>,
    outbox: Sender<AcceptReport>,
    reports: Receiver<AcceptReport>,
    /// What the thread is at.
    at: Arc<Mutex<At>>,
    watched: BTreeMap<WorkerId, (i32, Vec<Target>)>,
    /// Threads that hang, each at this worker.
    gone: Vec<(WorkerId, Arc<Mutex<At>>)>,
}

#[derive(Debug, Default)]
struct At {
    /// The worker that is looked at, and when the look got further last.
    looking: Option<(WorkerId, Instant)>,
    written_off: bool,
    /// It has come back after that, and has ended.
    back: bool,
}

fn lock(at: &Mutex<At>) -> MutexGuard<'_, At> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AcceptProbe {
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(wake: Waker) -> io::Result<Self> {
        // Never more than one report a worker: the number of workers bounds them.
        let (outbox, reports) = unbounded();
        let (tasks, at) = begin(&wake, &outbox)?;
        Ok(Self { wake, tasks, outbox, reports, at, watched: BTreeMap::new(), gone: Vec::new() })
    }

    /// Looks at a worker, at once and then again and again, until it is seen accepting on any of the targets. `pid`:
    /// the worker's own process, after its exec.
    pub fn watch(&mut self, worker: WorkerId, pid: i32, targets: Vec<Target>) {
        self.watched.insert(worker, (pid, targets.clone()));
        self.tasks.send(Task::Watch(worker, pid, targets)).ok();
    }

    /// Looks no more. A report that was made before may still come.
    pub fn forget(&mut self, worker: WorkerId) {
        self.watched.remove(&worker);
        self.tasks.send(Task::Forget(worker)).ok();
    }

    /// The reports; the bell is rung after each.
    pub fn reports(&self) -> &Receiver<AcceptReport> {
        &self.reports
    }

    /// When [`AcceptProbe::check`] wants to be called, at the latest; none while nothing is watched.
    pub fn deadline(&self) -> Option<Instant> {
        if self.watched.is_empty() {
            return None;
        }
        Some(lock(&self.at).looking.map_or_else(Instant::now, |(_, since)| since) + LONGEST_LOOK)
    }

    /// The whole process stood still for so long: no look is to blame for that.
    pub fn paused(&self, by: Duration) {
        if let Some((_, since)) = &mut lock(&self.at).looking {
            *since += by;
        }
    }

    /// Looks again at the workers whose look hung and has come to an end: such a thread rings the bell when it comes
    /// back.
    pub fn resume(&mut self) {
        let (back, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.gone).into_iter().partition(|(_, at)| lock(at).back);
        self.gone = gone;
        for (worker, _) in back {
            if let Some((pid, targets)) = self.watched.get(&worker) {
                self.tasks.send(Task::Watch(worker, *pid, targets.clone())).ok();
            }
        }
    }

    /// Writes the thread off if it hangs: another one looks at all others. The worker that it hangs at is given back;
    /// it is looked at again once the thread has come back ([`AcceptProbe::resume`]).
    pub fn check(&mut self, now: Instant) -> Option<WorkerId> {
        let (hung, since) = lock(&self.at).looking?;
        if now < since + LONGEST_LOOK || self.gone.len() >= MOST_WRITTEN_OFF {
            return None;
        }
        // Without another thread this one is waited for.
        let (tasks, at) = begin(&self.wake, &self.outbox).ok()?;
        lock(&self.at).written_off = true;
        self.tasks = tasks;
        self.gone.push((hung, std::mem::replace(&mut self.at, at)));
        let hangs = |worker: &WorkerId| self.gone.iter().any(|(hung, _)| hung == worker);
        for (worker, (pid, targets)) in self.watched.iter().filter(|(worker, _)| !hangs(worker)) {
            self.tasks.send(Task::Watch(*worker, *pid, targets.clone())).ok();
        }
        Some(hung)
    }
}

fn begin(wake: &Waker, outbox: &Sender<AcceptReport>) -> io::Result<(Sender<Task>, Arc<Mutex<At>>)> {
    let (tasks, inbox) = unbounded();
    let at: Arc<Mutex<At>> = Arc::default();
    let rounds = ScanLoop { watched: HashMap::new(), outbox: outbox.clone(), wake: wake.clone(), at: at.clone() };
    let thread = std::thread::Builder::new().name("scout".to_owned()).stack_size(256 << 10);
    thread.spawn(move || {
        // Signals for the process are the main thread's.
        nix::sys::signal::SigSet::all().thread_block().ok();
        rounds.run(&inbox);
    })?;
    Ok((tasks, at))
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

struct ScanLoop {
    watched: HashMap<WorkerId, Watched>,
    outbox: Sender<AcceptReport>,
    wake: Waker,
    at: Arc<Mutex<At>>,
}

impl ScanLoop {
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
            if lock(&self.at).written_off {
                lock(&self.at).back = true;
                return self.wake.wake();
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
        for worker in due {
            self.look(worker);
            if lock(&self.at).written_off {
                return;
            }
        }
    }

    /// One look, and when to take the next: the older the start and the more starts there are, the later, so that
    /// looking never costs more than a fraction of what is looked at.
    fn look(&mut self, worker: WorkerId) {
        let crowd = 1 + self.watched.len() as u64 / 8;
        let Some(watched) = self.watched.get_mut(&worker) else { return };
        watched.looks += 1;
        let thorough = watched.looks.is_multiple_of(CONNECTIONS_EVERY);
        lock(&self.at).looking = Some((worker, Instant::now()));
        // A long table on a starved machine takes its time: only what stands still hangs.
        let progress = || {
            if let Some((_, since)) = &mut lock(&self.at).looking {
                *since = Instant::now();
            }
        };
        let seen = scan::at(watched.pid, &watched.targets, thorough, &progress);
        {
            let mut at = lock(&self.at);
            at.looking = None;
            if at.written_off {
                // Another one looks by now.
                return;
            }
        }
        let report = match seen {
            Look::Accepting => Some(AcceptReport::Accepting(worker)),
            Look::Refused(why) => {
                watched.refusals += 1;
                (watched.refusals >= REFUSALS).then_some(AcceptReport::Blind(worker, why))
            }
            Look::Half(why) if watched.age >= PATIENCE => Some(AcceptReport::Blind(worker, why)),
            Look::NotYet | Look::Half(_) => {
                watched.refusals = 0;
                None
            }
        };
        watched.wait = ((1 + watched.age / 16) * crowd).min(LONGEST_GAP);
        if let Some(report) = report {
            self.watched.remove(&worker);
            self.outbox.send(report).ok();
            self.wake.wake();
        }
    }
}
