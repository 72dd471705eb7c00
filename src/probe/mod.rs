//! Probes: checks of a worker from outside (does it take a connection, does it answer, does a command succeed), for
//! readiness and for health. The supervisor starts them through [`Prober`]. A second prober runs the commands of hooks.
//!
//! One thread runs them, with poll(2) over non-blocking sockets and the pidfds of commands. Commands are spawned like
//! workers, by a spawner of the thread's own, so that they are neither children of the main thread nor orphans. The
//! thread has no deadlines: it runs a probe until there is a result or it is cancelled. The supervisor owns the
//! timeouts, since its clock knows of pauses. `accept` is a probe of its own kind, with its own thread.

pub mod accept;
mod command;
mod connection;
mod output_log;
mod probe_loop;
mod request;

pub use request::ProbeRequest;

use crate::event_loop::mailbox::Mailbox;
use crate::event_loop::progress::Progress;
use crate::event_loop::waker::Waker;
use crate::process::SpawnerConfig;
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use probe_loop::ProbeLoop;
use rotad_core::{Span, Time};
use std::io;
use std::time::Duration;

/// How long to wait for the end of the thread and of running commands.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Starting a probe takes microseconds unless a disk hangs.
const HANG_AFTER: Span = Span::from_millis(250);

/// The result of a probe.
#[derive(Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// The number that the probe was started with.
    pub number: u64,
    /// Whether the worker passed.
    pub result: Result<(), ProbeError>,
}

/// Why a probe did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// The worker failed the check.
    Failed(String),
    /// The probe could not run: we lack a descriptor, a process, or memory. It says nothing about the worker.
    Indeterminate(String),
}

enum Task {
    Start(u64, ProbeRequest),
    Cancel(u64),
}

/// The handle of the thread. Dropping it kills its running commands and ends the thread.
#[derive(Debug)]
pub struct Prober {
    tasks: Option<Sender<Task>>,
    /// Woken after each task.
    waker: Waker,
    ended_receiver: Receiver<()>,
    /// The probe that the thread is starting: finding a socket's file is bounded by no timeout.
    progress: Progress<u64>,
}

/// A thread that was abandoned.
#[derive(Debug)]
pub struct AbandonedThread(Progress<u64>);

impl AbandonedThread {
    /// Whether it has returned and ended.
    pub fn has_ended(&self) -> bool {
        self.0.has_ended()
    }
}

impl Prober {
    /// Starts the thread. `config`: how commands are spawned; each result is sent to `results`.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created; EMFILE: no descriptor is left.
    pub fn start(config: SpawnerConfig, results: Mailbox<ProbeResult>) -> io::Result<Self> {
        // Unbounded channels, but the caller bounds the number of running probes.
        let (tasks, inbox) = unbounded();
        let (ended_sender, ended_receiver) = bounded(0);
        let waker = Waker::new()?;
        let progress = Progress::new(config.clock.clone());
        let (taken, ended) = (progress.clone(), progress.clone());
        let probe_loop = ProbeLoop::new(inbox, results, config, waker.clone(), taken);
        thread::spawn("probe-loop", 256 << 10, move || {
            probe_loop.run();
            ended.end();
            drop(ended_sender);
        })?;
        Ok(Self {
            tasks: Some(tasks),
            waker,
            ended_receiver,
            progress,
        })
    }

    /// Starts a probe. Exactly one result with this number follows, unless it is cancelled before. Numbers are not
    /// reused. Never blocks.
    pub fn start_probe(&self, number: u64, request: ProbeRequest) {
        self.send(Task::Start(number, request));
    }

    /// Cancels a probe; a command is killed with its group. A result that was sent before may still arrive, and that of a
    /// hook always comes.
    pub fn cancel(&self, number: u64) {
        self.send(Task::Cancel(number));
    }

    /// The number of the probe at which the thread hangs, if it does: its socket is on a disk that hangs. No other
    /// probe is answered meanwhile.
    pub fn hangs(&self, now: Time) -> Option<u64> {
        self.progress.hangs(now, HANG_AFTER)
    }

    /// Abandons a thread that hangs. If it returns, it ends without answering.
    pub fn abandon(self) -> AbandonedThread {
        self.progress.abandon();
        AbandonedThread(self.progress.clone())
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            tasks.send(task).ok();
        }
        self.waker.wake();
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.tasks = None;
        self.waker.wake();
        if self.progress.is_abandoned() {
            return;
        }
        // Nothing is ever sent: the thread's end closes the channel.
        self.ended_receiver.recv_timeout(EXIT_TIMEOUT).ok();
    }
}
