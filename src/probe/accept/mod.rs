//! The accept probe: notices from outside, through /proc, when a worker begins to accept connections. The supervisor
//! uses it for pools with `ready = "accept"` and needs no code in the worker.
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
//! A scan needs what ptrace(2) calls read access for descriptors, and attach access for system calls (a worker of the
//! same user, or CAP_SYS_PTRACE; Yama lets an ancestor attach unless it is set to 2 or more). Without the first, the
//! worker is reported unobservable. Without the second, an epoll set with the listener is enough, and the worker is
//! reported unobservable after a second without one.

mod connections;
mod scan;
mod syscalls;

use crate::event_loop::waker::Waker;
use crate::plan::Address;
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, never, select, tick, unbounded};
use rotad_core::WorkerId;
use scan::Look;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The tick of the probe's thread while anything is watched.
const ROUND: Duration = Duration::from_millis(5);
/// The longest interval between two scans of one worker: 200 ms.
const LONGEST_GAP: u64 = 40;
/// How many scans in a row must be refused before a worker is unobservable: right after exec a process may be closed to
/// us for a moment.
const REFUSALS: u32 = 3;
/// Connections are searched only at every so many scans: their table is as long as the machine has connections.
const CONNECTIONS_EVERY: u64 = 4;
/// A scan without progress for this long hangs.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// How many scans may hang; then no more are started.
const MOST_WRITTEN_OFF: usize = 8;
/// Rounds after which unreadable system calls make a worker unobservable: 1 s.
const PATIENCE: u64 = 200;

/// A listening socket that a worker has inherited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As in `socket:[inode]` of /proc/PID/fd.
    pub inode: u64,
    /// As bound, with the real port.
    pub address: Address,
}

/// The result for one worker. After a report that worker is not scanned any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptReport {
    /// It accepts.
    Accepting(WorkerId),
    /// It cannot be observed, and why.
    Blind(WorkerId, String),
}

#[derive(Debug)]
enum Task {
    Watch(WorkerId, i32, Vec<Target>),
    Forget(WorkerId),
}

/// A thread that reads /proc; it sleeps while nothing is watched, and ends when this is dropped.
///
/// A scan may hang in the kernel: reading a process's memory takes its memory map lock, unkillably. Processes with a
/// thread in state D are not read; if a scan hangs all the same, its thread is abandoned, and another one scans the
/// other workers.
#[derive(Debug)]
pub struct AcceptProbe {
    wake: Waker,
    tasks: Sender<Task>,
    outbox: Sender<AcceptReport>,
    reports: Receiver<AcceptReport>,
    /// What the thread is doing.
    at: Arc<Mutex<At>>,
    watched: BTreeMap<WorkerId, (i32, Vec<Target>)>,
    /// Threads that hang, each with the worker it hangs at.
    gone: Vec<(WorkerId, Arc<Mutex<At>>)>,
}

#[derive(Debug, Default)]
struct At {
    /// The worker being scanned, and when the scan made progress last.
    looking: Option<(WorkerId, Instant)>,
    written_off: bool,
    /// It has returned after that, and has ended.
    back: bool,
}

fn lock(at: &Mutex<At>) -> MutexGuard<'_, At> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AcceptProbe {
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(wake: Waker) -> io::Result<Self> {
        // At most one report per worker: the number of workers bounds them.
        let (outbox, reports) = unbounded();
        let (tasks, at) = begin(&wake, &outbox)?;
        Ok(Self {
            wake,
            tasks,
            outbox,
            reports,
            at,
            watched: BTreeMap::new(),
            gone: Vec::new(),
        })
    }

    /// Scans a worker, immediately and then repeatedly, until it accepts on any of the targets. `pid`: the worker's own
    /// process, after its exec.
    pub fn watch(&mut self, worker: WorkerId, pid: i32, targets: Vec<Target>) {
        self.watched.insert(worker, (pid, targets.clone()));
        self.tasks.send(Task::Watch(worker, pid, targets)).ok();
    }

    /// Stops scanning a worker. A report that was sent before may still arrive.
    pub fn forget(&mut self, worker: WorkerId) {
        self.watched.remove(&worker);
        self.tasks.send(Task::Forget(worker)).ok();
    }

    /// The reports; the waker is woken after each.
    pub fn reports(&self) -> &Receiver<AcceptReport> {
        &self.reports
    }

    /// When [`AcceptProbe::check`] has to be called at the latest; None while nothing is watched.
    pub fn deadline(&self) -> Option<Instant> {
        if self.watched.is_empty() {
            return None;
        }
        Some(
            lock(&self.at)
                .looking
                .map_or_else(Instant::now, |(_, since)| since)
                + LONGEST_LOOK,
        )
    }

    /// The whole process was paused: that time does not count.
    pub fn paused(&self, by: Duration) {
        if let Some((_, since)) = &mut lock(&self.at).looking {
            *since += by;
        }
    }

    /// Scans those workers again whose scan hung and has ended: such a thread wakes the waker when it returns.
    pub fn resume(&mut self) {
        let (back, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.gone)
            .into_iter()
            .partition(|(_, at)| lock(at).back);
        self.gone = gone;
        for (worker, _) in back {
            if let Some((pid, targets)) = self.watched.get(&worker) {
                self.tasks
                    .send(Task::Watch(worker, *pid, targets.clone()))
                    .ok();
            }
        }
    }

    /// Abandons the thread if it hangs: another one scans all other workers. Returns the worker at which it hangs; that
    /// is scanned again once the thread has returned ([`AcceptProbe::resume`]).
    pub fn check(&mut self, now: Instant) -> Option<WorkerId> {
        let (hung, since) = lock(&self.at).looking?;
        if now < since + LONGEST_LOOK || self.gone.len() >= MOST_WRITTEN_OFF {
            return None;
        }
        // If no other thread can be created, wait for this one.
        let (tasks, at) = begin(&self.wake, &self.outbox).ok()?;
        lock(&self.at).written_off = true;
        self.tasks = tasks;
        self.gone.push((hung, std::mem::replace(&mut self.at, at)));
        let hangs = |worker: &WorkerId| self.gone.iter().any(|(hung, _)| hung == worker);
        for (worker, (pid, targets)) in self.watched.iter().filter(|(worker, _)| !hangs(worker)) {
            self.tasks
                .send(Task::Watch(*worker, *pid, targets.clone()))
                .ok();
        }
        Some(hung)
    }
}

fn begin(
    wake: &Waker,
    outbox: &Sender<AcceptReport>,
) -> io::Result<(Sender<Task>, Arc<Mutex<At>>)> {
    let (tasks, inbox) = unbounded();
    let at: Arc<Mutex<At>> = Arc::default();
    let rounds = ScanLoop {
        watched: HashMap::new(),
        outbox: outbox.clone(),
        wake: wake.clone(),
        at: at.clone(),
    };
    thread::spawn("accept-probe", 256 << 10, move || rounds.run(&inbox))?;
    Ok((tasks, at))
}

struct Watched {
    pid: i32,
    targets: Vec<Target>,
    /// Rounds since it is watched, and until the next scan.
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
                self.watched.insert(
                    worker,
                    Watched {
                        pid,
                        targets,
                        age: 0,
                        wait: 0,
                        looks: 0,
                        refusals: 0,
                    },
                );
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

    /// One scan, and when to run the next: the older the start and the more workers start, the later, so that scanning
    /// costs only a fraction of what is scanned.
    fn look(&mut self, worker: WorkerId) {
        let crowd = 1 + self.watched.len() as u64 / 8;
        let Some(watched) = self.watched.get_mut(&worker) else {
            return;
        };
        watched.looks += 1;
        let thorough = watched.looks.is_multiple_of(CONNECTIONS_EVERY);
        lock(&self.at).looking = Some((worker, Instant::now()));
        // A long table on a starved machine takes its time: only a scan without progress hangs.
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
                // Another thread scans by now.
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
