//! Probes: questions to workers that somebody has to ask from outside (does it take a connection, does it answer,
//! does this command succeed), for readiness and for health.
//!
//! One thread carries them out, with poll(2) over sockets that never wait and over the pidfds of commands; commands
//! are born as workers are, from a spawner of the thread's own, so that they are no child of the main thread and no
//! orphan. The thread knows no clock of the master's: it asks until there is an answer or nobody wants it any more.
//! Deadlines are the asker's, whose clock knows of its own pauses.

pub mod accept;
mod command;
mod connection;
mod probe_loop;
mod request;

pub use request::{Place, ProbeRequest};

use crate::event_loop::waker::Waker;
use crate::process::SpawnerConfig;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use probe_loop::ProbeLoop;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the end of the thread, and of the commands that still run, is waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// To begin a question is a matter of microseconds, unless a disk hangs.
const LONGEST_BEGINNING: Duration = Duration::from_millis(250);

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub struct ProbeResult {
    pub number: u64,
    pub result: Result<(), ProbeError>,
}

/// Why there is no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// The worker is not well.
    Unwell(String),
    /// Nobody could be asked: we lack a descriptor, a process, memory. It says nothing about the worker.
    Unasked(String),
}

enum Task {
    Ask(u64, ProbeRequest),
    Forget(u64),
}

/// The thread that asks. When this is dropped, what still runs of its commands is killed, and the thread ends.
#[derive(Debug)]
pub struct Prober {
    tasks: Option<Sender<Task>>,
    answers: Receiver<ProbeResult>,
    /// Rung after each task.
    bell: Waker,
    gone: Receiver<()>,
    at: Arc<At>,
}

/// What the thread is at.
#[derive(Debug, Default)]
struct At {
    /// Since when it begins a question: what no timeout bounds is the way to a socket's file.
    begins: Mutex<Option<(u64, Instant)>>,
    /// It has been written off.
    left: AtomicBool,
    /// It has ended.
    ended: AtomicBool,
}

/// A thread that was written off.
#[derive(Debug)]
pub struct Left(Arc<At>);

impl Left {
    /// It has come back, and has ended.
    pub fn is_back(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }
}

impl Prober {
    /// `settings`: how commands are born; its bell is rung after each answer.
    ///
    /// # Errors
    /// No thread, or no descriptor is left.
    pub fn start(settings: SpawnerConfig) -> io::Result<Self> {
        // The asker bounds what is under way; so both are bounded.
        let (tasks, inbox) = unbounded();
        let (outbox, answers) = unbounded();
        let (leaves, gone) = bounded(0);
        let bell = Waker::new()?;
        let asker = settings.wake.clone();
        let at = Arc::new(At::default());
        let (taken, ended) = (at.clone(), at.clone());
        let round = ProbeLoop::new(inbox, outbox, asker, SpawnerConfig { wake: bell.clone(), ..settings }, taken);
        let thread = std::thread::Builder::new().name("prober".to_owned()).stack_size(256 << 10);
        thread.spawn(move || {
            // Signals for the process are the main thread's.
            nix::sys::signal::SigSet::all().thread_block().ok();
            round.run();
            ended.ended.store(true, Ordering::Relaxed);
            drop(leaves);
        })?;
        Ok(Self { tasks: Some(tasks), answers, bell, gone, at })
    }

    /// Asks. Exactly one answer under this number will follow, unless it is forgotten before. Numbers are not used
    /// twice. Never blocks.
    pub fn ask(&self, number: u64, question: ProbeRequest) {
        self.send(Task::Ask(number, question));
    }

    /// Wants the answer no more; a command is killed with its group. An answer that was given before may still come.
    pub fn forget(&self, number: u64) {
        self.send(Task::Forget(number));
    }

    /// The answers; the asker's bell is rung after each.
    pub fn answers(&self) -> &Receiver<ProbeResult> {
        &self.answers
    }

    /// The question that the thread hangs at, if it does: its socket lies on a disk that hangs. No other question is
    /// answered meanwhile.
    pub fn hangs(&self, now: Instant) -> Option<u64> {
        let begins = *self.at.begins.lock().unwrap_or_else(PoisonError::into_inner);
        begins.filter(|(_, since)| now >= *since + LONGEST_BEGINNING).map(|(number, _)| number)
    }

    /// Leaves a thread behind that hangs. Should it come back, it ends, with what it has begun.
    pub fn leave(self) -> Left {
        self.at.left.store(true, Ordering::Relaxed);
        Left(self.at.clone())
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            tasks.send(task).ok();
        }
        self.bell.wake();
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.tasks = None;
        self.bell.wake();
        if self.at.left.load(Ordering::Relaxed) {
            return;
        }
        // Its end closes the channel: that is all that ever comes.
        self.gone.recv_timeout(FAREWELL).ok();
    }
}
