//! The spawner: the threads from which workers are spawned, and what happens when one hangs.
//!
//! There are two when there is enough to do. A child in its new session waits for a processor if others want one (with
//! sched(7)'s autogroups, for milliseconds), and its thread waits for it: the other one spawns the next child meanwhile.
//!
//! Workers are children of these threads. Orphans, which the kernel hands to the master as the subreaper, become children
//! of its main thread: /proc/PID/task/TID/children tells the two apart. So the threads never end, and one that was
//! abandoned and returns takes requests again.

use super::spawn::{Tools, spawn};
use super::thread_state::{Ending, ThreadState, ThreadStatus};
use super::{SpawnError, SpawnRequest, SpawnResult, SpawnStage, SpawnedChild};
use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, unbounded};
use rotad_core::{Span, Time, WorkerId};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many threads take requests, unless one that was abandoned returns.
const THREADS: usize = 2;
/// When so many threads hang, requests fail immediately.
const MAX_THREADS: usize = 9;
/// Stack size in bytes: it resolves programs and paths, and writes what a child needs.
const STACK: usize = 2 << 20;
/// When the kernel refused a thread, it is asked again after this.
const RETRY: Span = Span::from_secs(1);

/// What all spawns have in common.
#[derive(Clone, Debug)]
pub struct SpawnerConfig {
    /// The master's time.
    pub clock: Clock,
    /// Soft and hard limit of open files as the master found them, before it raised its own.
    pub original_nofile: (u64, u64),
    /// The program that calls [`super::shim::intercept`] first: [`super::shim::OURSELVES`], except in tests.
    pub shim: PathBuf,
}

/// Spawns workers without blocking its owner.
#[derive(Debug)]
pub struct Spawner {
    requests: Sender<QueuedRequest>,
    /// Requests without a result, as far as the owner has got them.
    open: AtomicUsize,
    shared: Arc<Shared>,
    threads: Vec<Arc<ThreadState>>,
    /// Those of the second thread, made before the first child: it must know what not to keep.
    spare: Option<Tools>,
}

/// State shared by the threads.
#[derive(Debug)]
struct Shared {
    config: SpawnerConfig,
    requests: Receiver<QueuedRequest>,
    results: Mailbox<SpawnResult>,
}

#[derive(Debug)]
struct QueuedRequest {
    at: Time,
    request: SpawnRequest,
}

impl Spawner {
    /// Starts the first thread.
    ///
    /// # Errors
    /// EAGAIN or ENOMEM: no thread or no stack for its children; ENOENT: no /dev/null.
    pub fn start(config: SpawnerConfig, results: Mailbox<SpawnResult>) -> io::Result<Self> {
        let (requests, queue) = unbounded();
        let shared = Shared {
            config,
            requests: queue,
            results,
        };
        let mut spawner = Self {
            requests,
            open: AtomicUsize::new(0),
            shared: Arc::new(shared),
            threads: Vec::new(),
            spare: None,
        };
        spawner.spare = Some(Tools::new(&spawner.shared.config)?);
        let tools = Tools::new(&spawner.shared.config)?;
        spawner.start_thread(tools)?;
        Ok(spawner)
    }

    /// Queues a request. Never blocks. Exactly one result follows, provided that [`Spawner::check`] is called when due.
    pub fn request(&mut self, request: SpawnRequest) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.add_thread();
        // Cannot fail: `shared` keeps a receiver.
        self.requests
            .send(QueuedRequest {
                at: self.shared.config.clock.now(),
                request,
            })
            .ok();
        self.fail_if_stuck();
    }

    /// The ids of the threads whose children the workers are.
    pub fn threads(&self) -> Vec<i32> {
        self.threads
            .iter()
            .filter_map(|state| state.thread())
            .collect()
    }

    /// To be called for each result that was received: its request is not outstanding any more.
    pub fn answered(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Number of requests whose result was not received yet.
    pub fn outstanding(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// When [`Spawner::check`] has to be called at the latest; None while nothing is outstanding. Ask again after each
    /// request and each result.
    pub fn deadline(&self) -> Option<Time> {
        if self.outstanding() == 0 {
            return None;
        }
        let mut earliest: Option<Time> = None;
        let mut idle = false;
        for state in &self.threads {
            match state.status() {
                ThreadStatus::Idle => idle = true,
                ThreadStatus::Busy(until) => {
                    earliest = Some(earliest.map_or(until, |other| other.min(until)))
                }
                ThreadStatus::Abandoned => {}
            }
        }
        // Idle: the request is on its way to the thread, and its time begins now. No thread at all: one has to be
        // started.
        let otherwise = if idle {
            super::thread_state::SPAWN_TIMEOUT
        } else {
            RETRY
        };
        earliest.or_else(|| Some(self.shared.config.clock.now() + otherwise))
    }

    /// Ends spawns that take too long: after 5 s the child is killed; 1 s later its thread is abandoned, the spawn is
    /// reported as hung, and another thread takes over.
    pub fn check(&mut self, now: Time) {
        for state in &self.threads {
            if let Some((worker, error)) = state.check(now) {
                self.shared.report(failed(worker, error));
            }
        }
        self.add_thread();
        self.fail_if_stuck();
    }

    /// Fails what is queued if all threads hang.
    fn fail_if_stuck(&self) {
        if self.live() > 0 || self.threads.len() < MAX_THREADS {
            return;
        }
        for QueuedRequest { request, .. } in self.shared.requests.try_iter() {
            let error = SpawnError::hung(SpawnStage::Queue, "");
            self.shared.report(failed(request.worker, error));
        }
    }

    /// The threads that take requests.
    fn live(&self) -> usize {
        let abandoned = |state: &&Arc<ThreadState>| state.status() == ThreadStatus::Abandoned;
        self.threads.len() - self.threads.iter().filter(abandoned).count()
    }

    /// Starts a thread if there is something to do for it.
    fn add_thread(&mut self) {
        if self.live() < THREADS.min(self.outstanding()) && self.threads.len() < MAX_THREADS {
            // If the kernel refuses, the requests wait for those that there are, and the next check tries again.
            let tools = self
                .spare
                .take()
                .map_or_else(|| Tools::new(&self.shared.config), Ok);
            tools.and_then(|tools| self.start_thread(tools)).ok();
        }
    }

    fn start_thread(&mut self, tools: Tools) -> io::Result<()> {
        let state = Arc::new(ThreadState::new(self.shared.config.clock.clone()));
        let (shared, taken) = (Arc::clone(&self.shared), Arc::clone(&state));
        thread::spawn("spawner", STACK, move || serve(&shared, &taken, tools))?;
        self.threads.push(state);
        Ok(())
    }
}

impl Shared {
    fn report(&self, report: SpawnResult) {
        self.results.send(report);
    }
}

fn serve(shared: &Shared, state: &ThreadState, mut tools: Tools) {
    state.register_thread();
    while let Ok(QueuedRequest { at, request }) = shared.requests.recv() {
        if let Some(error) = request.pinned.fails_fast(at) {
            shared.report(failed(request.worker, error));
            continue;
        }
        state.begin(request.worker, Arc::clone(&request.pinned));
        let report = spawn(&request, &mut tools, state);
        let ending = state.end();
        let (worker, pinned) = (request.worker, Arc::clone(&request.pinned));
        // Before the report: its receiver must find no pipe and no listener held open by us.
        drop(request);
        match ending {
            Ending::InTime => shared.report(report),
            Ending::Killed => {
                let error = kill_and_reap(report).unwrap_or_else(|| state.hung(&pinned));
                shared.report(failed(worker, error));
            }
            Ending::Abandoned => drop(kill_and_reap(report)),
        }
    }
}

fn failed(worker: WorkerId, error: SpawnError) -> SpawnResult {
    SpawnResult::Failed {
        worker,
        error,
        pinned: None,
        repinned: false,
    }
}

/// Kills the child of a spawn that came too late; returns the spawn's own error, if it had one.
fn kill_and_reap(report: SpawnResult) -> Option<SpawnError> {
    match report {
        SpawnResult::Started {
            child: SpawnedChild { process, .. },
            ..
        }
        | SpawnResult::ExecPending {
            child: SpawnedChild { process, .. },
            ..
        } => {
            process.signal(nix::libc::SIGKILL).ok();
            super::spawn::reap(process.pid());
            None
        }
        SpawnResult::Failed { error, .. } => Some(error),
    }
}
