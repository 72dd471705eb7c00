//! The log writer: the one thread that writes logs. The supervisor hands it the master's own lines and the pipes of its
//! workers through [`LogWriter`], so that a slow disk or a stopped terminal never delays supervision.
//!
//! The way of a line: `pipe_peek` copies what is in a worker's pipe, `sinks` writes it to its target (`format` for the
//! master's log, `rotating_file` for files, `journald` for the journal), and only then is it removed from the pipe.
//! `write_record` tells the next master of one that is killed in between. `writer` is the loop,
//! `tail` and `ring` keep recent lines for the status, for events and for `rotad logs`, `recent_memory` those of `ring` for
//! the next master.

mod counts;
mod format;
mod journald;
mod open;
mod output;
mod pipe_peek;
mod recent_memory;
mod ring;
mod rotating_file;
mod sink;
mod sinks;
mod tail;
pub mod tracing_setup;
mod write_record;
mod writer;

pub use counts::OutputCount;
pub use output::{LeftOutput, LogTarget, SavedLeftOutput, SavedOutput, WorkerOutput, WorkerStdio};
pub use pipe_peek::Stream;
pub use ring::{Filter, FollowFrom, Follower, LogLine};
pub use rotating_file::Rotation;
pub use sink::complain;
pub use sinks::MasterLog;
pub use write_record::WriteRecord;

use crate::event_loop::clock::{Clock, Deadline};
use crate::event_loop::progress::Progress;
use crate::event_loop::waker::Waker;
use crate::plan::{FileAccess, LogPlan};
use crate::sys::thread;
use counts::OutputCounts;
use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use pipe_peek::{OutputSource, Pipe, PipePeek};
use ring::RecentLines;
use rotad_core::{Span, Time};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use writer::{Command, WriterThread};

/// How many of the master's own lines may be queued for a slow disk; further ones are dropped and counted.
const MAX_QUEUED_LINES: usize = 4096;
/// [`LogWriter::drain`] gives up when nothing was written for this long …
const DRAIN_STALL: Duration = Duration::from_secs(1);
/// … or after this long in all.
const MAX_DRAIN: Duration = Duration::from_secs(10);

/// A pipe of a worker that a previous, killed master left behind.
#[derive(Debug)]
pub struct StalePipe {
    /// The worker's pool.
    pub pool: String,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's pid.
    pub pid: i32,
    /// Which of its streams the pipe carries.
    pub stream: Stream,
    /// The read end.
    pub fd: OwnedFd,
}

/// A handle to the log writer's thread; cheap to clone. Only [`LogWriter::drain`] blocks.
#[derive(Clone)]
pub struct LogWriter {
    lines: Sender<Vec<u8>>,
    commands: Sender<Command>,
    wake: Waker,
    /// There are commands for which the thread was not woken.
    unannounced: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    recent: Arc<RecentLines>,
    /// Bytes consumed from pipes since the start.
    progress: Arc<AtomicU64>,
    /// How many pipes were read to their end.
    closed: Arc<AtomicU64>,
    /// Whether the thread is at work, or waits for some.
    work: Progress<()>,
    /// What was written and lost of each pool.
    counts: OutputCounts,
    /// For reading the unread end of a worker's output from the main thread.
    pipe_peek: Arc<Mutex<PipePeek>>,
}

impl LogWriter {
    /// Starts the thread. `record`: where it writes down what it is writing, for the next master.
    ///
    /// # Errors
    /// EMFILE, ENFILE or EAGAIN: no descriptor or thread is left.
    pub fn start(master_log: MasterLog, record: WriteRecord, clock: Clock) -> io::Result<Self> {
        let (lines, waiting) = bounded(MAX_QUEUED_LINES);
        // Unbounded, but there are only a few commands per worker.
        let (commands, command_queue) = unbounded();
        let writer = Self {
            lines,
            commands,
            wake: Waker::new()?,
            unannounced: Arc::default(),
            dropped: Arc::default(),
            recent: record.recent().clone(),
            progress: Arc::default(),
            closed: Arc::default(),
            work: Progress::new(clock.clone()),
            counts: OutputCounts::default(),
            pipe_peek: Arc::new(Mutex::new(PipePeek::new()?)),
        };
        let writer_thread =
            WriterThread::new(master_log, record, waiting, command_queue, &writer, clock)?;
        thread::spawn("log-writer", 128 << 10, move || writer_thread.work())?;
        Ok(writer)
    }

    /// How long the thread has been at its current piece of work: a write to a hanging disk does not return.
    pub fn busy_for(&self, now: Time) -> Span {
        self.work.since().map_or(Span::ZERO, |since| now - since)
    }

    /// How many pipes were read to their end and closed. What is asked about a pipe after this counts it in.
    pub fn closed(&self) -> u64 {
        self.closed.load(Ordering::Acquire)
    }

    /// How much of the output of each pool was written and lost.
    pub fn counts(&self) -> Vec<OutputCount> {
        self.counts.all()
    }

    /// Goes on counting where a dead master has stopped. To be called before its pipes are adopted.
    pub fn go_on_counting(&self, from: &[OutputCount]) {
        self.counts.go_on(from);
    }

    /// Forgets what was counted of a pool that is gone. Output that is still read is not counted any more.
    pub fn forget_counts(&self, pool: &str) {
        self.counts.forget(pool);
    }

    fn send(&self, command: Command) {
        self.queue(command);
        self.wake.wake();
    }

    fn queue(&self, command: Command) {
        // The thread ends after the last handle is dropped, so this cannot fail.
        self.commands.send(command).ok();
    }

    /// Queues a command that can wait until [`LogWriter::announce`]: the thread would compete with the spawner for a
    /// processor.
    fn queue_for_later(&self, command: Command) {
        self.queue(command);
        self.unannounced.store(true, Ordering::Relaxed);
    }

    /// Wakes the thread if a pipe was adopted or a worker has exited since the last call. To be called before the main loop
    /// waits.
    pub fn announce(&self) {
        if self.unannounced.swap(false, Ordering::Relaxed) {
            self.wake.wake();
        }
    }

    /// Queues one line of the master's own, with its newline.
    pub fn line(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.wake.wake();
    }

    /// Starts reading and writing this worker's output, after the next [`LogWriter::announce`].
    pub fn adopt(&self, output: &WorkerOutput) {
        for (pipe, target) in &output.pipes {
            self.queue_for_later(Command::Adopt(pipe.clone(), target.clone()));
        }
    }

    /// Starts reading a pipe that a previous master left behind. Its output goes where the pool's output goes now, or
    /// into the master's log without a plan (the pool is gone).
    ///
    /// # Errors
    /// EBADF: it is not a pipe.
    pub fn adopt_stale(&self, stale_pipe: StalePipe, log: Option<&LogPlan>) -> io::Result<()> {
        let target = log.map_or(LogTarget::Master, |log| {
            LogTarget::of_stream(stale_pipe.stream, log, stale_pipe.slot)
        });
        let source = Arc::new(OutputSource::new(
            &stale_pipe.pool,
            stale_pipe.slot,
            stale_pipe.pid,
        ));
        let pipe = Pipe::of(source, stale_pipe.stream, stale_pipe.fd)?;
        self.send(Command::Adopt(Arc::new(pipe), target));
        Ok(())
    }

    /// The last lines of a worker, including those that are still in its pipes. Nothing is consumed.
    pub fn tail(&self, output: &WorkerOutput) -> Vec<String> {
        let mut pipe_peek = self
            .pipe_peek
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        pipe_peek.tail_with_unread(&output.source, output.pipes.iter().map(|(pipe, _)| &**pipe))
    }

    /// The worker has exited: writes its unfinished last line as it is. Other processes may still hold its pipes, which
    /// are read until the last one closes them. After the next [`LogWriter::announce`].
    pub fn ended(&self, output: &WorkerOutput) {
        output.source.end();
        for (pipe, _) in &output.pipes {
            self.queue_for_later(Command::Ended(pipe.inode()));
        }
    }

    /// Reopens all log files by their names.
    pub fn reopen(&self) {
        self.send(Command::Reopen);
    }

    /// Sets when the master's log is rotated.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.send(Command::Rotation(rotation));
    }

    /// Sends the output of this pool's workers where this plan says, including that of running workers as far as they
    /// have a pipe. A worker that inherited the master's stdout or has /dev/null keeps it until it is replaced. If a
    /// worker with a pipe should have inherited stdout or got /dev/null, its pipe is emptied into the master's log or
    /// discarded.
    pub fn retarget(&self, pool: &str, log: &LogPlan) {
        self.send(Command::Retarget(pool.into(), Box::new(log.clone())));
    }

    /// The last `n` lines that match, oldest first. About 1 MiB of lines is kept for all workers together; of a flood,
    /// only samples.
    pub fn recent(&self, filter: &Filter, n: usize) -> Vec<LogLine> {
        self.recent.last(filter, n)
    }

    /// Past lines that match, and all that match from now on. `waker` is woken when there is something to take.
    /// The writer never waits for a follower: a slow one loses lines and learns how many.
    pub fn follow(&self, filter: Filter, from: FollowFrom, waker: Waker) -> Follower {
        self.recent.follow(filter, from, waker)
    }

    /// Waits until everything queued and printed is written. Gives up when nothing was written for a second, or after
    /// ten seconds. Called before the master daemonizes and before it exits.
    pub fn drain(&self) {
        let (done, waits) = bounded(1);
        self.send(Command::Drain(done));
        let end = Deadline::after(MAX_DRAIN);
        let mut seen = self.progress.load(Ordering::Relaxed);
        while let Err(RecvTimeoutError::Timeout) = waits.recv_timeout(DRAIN_STALL) {
            let now = self.progress.load(Ordering::Relaxed);
            if now == seen || end.has_passed() {
                return;
            }
            seen = now;
        }
    }
}

/// Checks that a log can be written at this path, and creates it.
///
/// # Errors
/// EACCES, EROFS, ENOSPC, … from the system call; InvalidInput if it is a symlink, not a regular file, or in a
/// directory where another user decides what its name means.
pub fn check_file(path: &Path, access: FileAccess) -> io::Result<()> {
    open::open(path, access).map(|_| ())
}
