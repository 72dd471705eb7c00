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

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::event_loop::progress::Progress;
use crate::plan::Address;
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, never, select, tick, unbounded};
use rotad_core::{Span, Time, WorkerId};
use scan::ScanResult;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

/// The interval of the thread's ticks while a worker is watched.
const TICK: Duration = Duration::from_millis(5);
/// Maximum interval between two scans of one worker, in ticks: 200 ms.
const MAX_GAP: u64 = 40;
/// How many scans in a row must be refused before a worker is unobservable: right after exec a process may be unreadable
/// briefly.
const MAX_REFUSALS: u32 = 3;
/// Connections are searched at every n-th scan: their table has all connections of the machine.
const CONNECTIONS_INTERVAL: u64 = 4;
/// A scan without progress for this long hangs.
const HANG_AFTER: Span = Span::from_secs(1);
/// Maximum number of abandoned threads; then no more are started.
const MAX_ABANDONED: usize = 8;
/// After how many ticks a worker whose system calls cannot be read is unobservable: 1 s.
const NO_SYSCALLS_LIMIT: u64 = 200;

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
    /// The worker accepts connections.
    Accepting(WorkerId),
    /// The worker cannot be observed, and why.
    Unobservable(WorkerId, String),
    /// An abandoned scan has ended: [`AcceptProbe::resume`] scans its worker again.
    ScanReturned,
}

#[derive(Debug)]
enum Task {
    Watch(WorkerId, i32, Vec<Target>),
    Forget(WorkerId),
}

/// A thread that reads /proc; it sleeps while nothing is watched, and ends when this is dropped.
///
/// A scan may hang in the kernel: reading a process's memory takes its memory map lock, unkillably. Processes with a
/// thread in state D are not read; if a scan hangs nevertheless, its thread is abandoned, and another one scans the
/// other workers.
#[derive(Debug)]
pub struct AcceptProbe {
    clock: Clock,
    tasks: Sender<Task>,
    reports: Mailbox<AcceptReport>,
    /// The worker that the thread scans.
    progress: Progress<WorkerId>,
    watched: BTreeMap<WorkerId, (i32, Vec<Target>)>,
    /// Abandoned threads, each with the worker at which it hangs.
    abandoned: Vec<(WorkerId, Progress<WorkerId>)>,
}

impl AcceptProbe {
    /// Starts the thread. It sends at most one report per worker, and one per abandoned scan.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created.
    pub fn start(reports: Mailbox<AcceptReport>, clock: Clock) -> io::Result<Self> {
        let (tasks, progress) = start_thread(&clock, &reports)?;
        Ok(Self {
            clock,
            tasks,
            reports,
            progress,
            watched: BTreeMap::new(),
            abandoned: Vec::new(),
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

    /// When [`AcceptProbe::check`] has to be called at the latest; None while nothing is watched.
    pub fn deadline(&self) -> Option<Time> {
        (!self.watched.is_empty()).then(|| self.progress.deadline(HANG_AFTER))
    }

    /// Scans those workers again whose scan hung and has ended: such a thread reports it.
    pub fn resume(&mut self) {
        let (ended, abandoned): (Vec<_>, Vec<_>) = std::mem::take(&mut self.abandoned)
            .into_iter()
            .partition(|(_, progress)| progress.has_ended());
        self.abandoned = abandoned;
        for (worker, _) in ended {
            if let Some((pid, targets)) = self.watched.get(&worker) {
                self.tasks
                    .send(Task::Watch(worker, *pid, targets.clone()))
                    .ok();
            }
        }
    }

    /// Abandons the thread if it hangs: another one scans all other workers. Returns the worker at which it hangs; that
    /// is scanned again once the thread has returned ([`AcceptProbe::resume`]).
    pub fn check(&mut self, now: Time) -> Option<WorkerId> {
        let hung = self.progress.hangs(now, HANG_AFTER)?;
        if self.abandoned.len() >= MAX_ABANDONED {
            return None;
        }
        // If no other thread can be created, wait for this one.
        let (tasks, progress) = start_thread(&self.clock, &self.reports).ok()?;
        self.progress.abandon();
        self.tasks = tasks;
        let abandoned = std::mem::replace(&mut self.progress, progress);
        self.abandoned.push((hung, abandoned));
        let hangs = |worker: &WorkerId| self.abandoned.iter().any(|(hung, _)| hung == worker);
        for (worker, (pid, targets)) in self.watched.iter().filter(|(worker, _)| !hangs(worker)) {
            self.tasks
                .send(Task::Watch(*worker, *pid, targets.clone()))
                .ok();
        }
        Some(hung)
    }
}

fn start_thread(
    clock: &Clock,
    reports: &Mailbox<AcceptReport>,
) -> io::Result<(Sender<Task>, Progress<WorkerId>)> {
    let (tasks, inbox) = unbounded();
    let progress = Progress::new(clock.clone());
    let rounds = ScanLoop {
        watched: HashMap::new(),
        reports: reports.clone(),
        progress: progress.clone(),
    };
    thread::spawn("accept-probe", 256 << 10, move || rounds.run(&inbox))?;
    Ok((tasks, progress))
}

struct WatchedWorker {
    pid: i32,
    targets: Vec<Target>,
    /// Ticks since it is watched, and until the next scan.
    age: u64,
    wait: u64,
    scans: u64,
    refusals: u32,
}

struct ScanLoop {
    watched: HashMap<WorkerId, WatchedWorker>,
    reports: Mailbox<AcceptReport>,
    progress: Progress<WorkerId>,
}

impl ScanLoop {
    fn run(mut self, inbox: &Receiver<Task>) {
        let mut clock = never();
        loop {
            select! {
                recv(inbox) -> task => match task {
                    Ok(task) => self.handle(task),
                    Err(_) => return,
                },
                recv(clock) -> _ => self.round(),
            }
            if self.progress.is_abandoned() {
                self.progress.end();
                return self.reports.send(AcceptReport::ScanReturned);
            }
            match (self.watched.is_empty(), clock.capacity()) {
                (true, _) => clock = never(),
                (false, Some(0)) => clock = tick(TICK), // `never` has no room
                (false, _) => {}
            }
        }
    }

    fn handle(&mut self, task: Task) {
        match task {
            Task::Watch(worker, pid, targets) => {
                self.watched.insert(
                    worker,
                    WatchedWorker {
                        pid,
                        targets,
                        age: 0,
                        wait: 0,
                        scans: 0,
                        refusals: 0,
                    },
                );
                self.scan_worker(worker);
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
            self.scan_worker(worker);
            if self.progress.is_abandoned() {
                return;
            }
        }
    }

    /// Scans a worker, and schedules the next scan: the interval grows with the age of the start and the number of watched
    /// workers, so that scanning costs only a fraction of the starts.
    fn scan_worker(&mut self, worker: WorkerId) {
        let share = 1 + self.watched.len() as u64 / 8;
        let Some(watched) = self.watched.get_mut(&worker) else {
            return;
        };
        watched.scans += 1;
        let thorough = watched.scans.is_multiple_of(CONNECTIONS_INTERVAL);
        self.progress.begin(worker);
        // A long table on a busy machine takes long: a scan hangs only if it makes no progress.
        let progress = || self.progress.advance();
        let seen = scan::scan(watched.pid, &watched.targets, thorough, &progress);
        if self.progress.finish(|_| {}) {
            // Another thread scans by now.
            return;
        }
        let report = match seen {
            ScanResult::Accepting => Some(AcceptReport::Accepting(worker)),
            ScanResult::Refused(why) => {
                watched.refusals += 1;
                (watched.refusals >= MAX_REFUSALS)
                    .then_some(AcceptReport::Unobservable(worker, why))
            }
            ScanResult::NoSyscalls(why) if watched.age >= NO_SYSCALLS_LIMIT => {
                Some(AcceptReport::Unobservable(worker, why))
            }
            ScanResult::NotYet | ScanResult::NoSyscalls(_) => {
                watched.refusals = 0;
                None
            }
        };
        watched.wait = ((1 + watched.age / 16) * share).min(MAX_GAP);
        if let Some(report) = report {
            self.watched.remove(&worker);
            self.reports.send(report);
        }
    }
}
