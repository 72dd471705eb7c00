//! The pen: the one thread that writes logs. The master's own lines and what its workers print end here, so that a
//! slow disk or a stopped terminal never delays supervision.
//!
//! What workers print is looked at in their pipes, written, and only then taken out: whatever ends the master, a line
//! is in a pipe or in its log (or, for a moment, in both).

mod format;
mod journald;
mod open;
mod output;
mod pipe_peek;
mod ring;
mod rotating_file;
mod sink;
mod sinks;
mod tail;
mod writer;

pub use output::{Ends, LogTarget, Output};
pub use pipe_peek::Stream;
pub use ring::{Filter, Follower, LogLine};
pub use rotating_file::Rotation;
pub use sink::complain;
pub use sinks::MasterLog;

use crate::event_loop::waker::Waker;
use crate::plan::{FileAccess, LogPlan};
use crossbeam_channel::{RecvTimeoutError, Sender, TrySendError, bounded, unbounded};
use pipe_peek::{OutputSource, Pipe, PipePeek};
use ring::Recent;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use writer::{Command, WriterThread};

/// Lines of the master that may wait for a slow disk; more are counted and dropped.
const WAITING_LINES: usize = 4096;
/// At the end: how long nothing may be written before the pen is given up …
const NO_PROGRESS: Duration = Duration::from_secs(1);
/// … and how long the end may take at most.
const LONGEST_END: Duration = Duration::from_secs(10);

/// A pipe of a worker that a dead master has left.
#[derive(Debug)]
pub struct StalePipe {
    pub pool: String,
    pub slot: u32,
    pub pid: i32,
    pub stream: Stream,
    /// Its reading end.
    pub fd: OwnedFd,
}

/// The handle to the pen; cheap to clone. Nothing here blocks but [`LogWriter::drain`].
#[derive(Clone)]
pub struct LogWriter {
    lines: Sender<Vec<u8>>,
    words: Sender<Command>,
    wake: Waker,
    dropped: Arc<AtomicU64>,
    recent: Arc<Recent>,
    /// Bytes that were taken out of pipes, ever.
    progress: Arc<AtomicU64>,
    /// Since when the pen is at one piece of work, in milliseconds after `begun`, plus one; 0: it waits for work.
    at: Arc<AtomicU64>,
    begun: Instant,
    /// For looking into pipes beside the pen.
    glass: Arc<Mutex<PipePeek>>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn start(paper: MasterLog) -> io::Result<Self> {
        let (lines, waiting) = bounded(WAITING_LINES);
        // Bounded by what there is to say of the workers that there are.
        let (words, said) = unbounded();
        let pen = Self {
            lines,
            words,
            wake: Waker::new()?,
            dropped: Arc::default(),
            recent: Arc::default(),
            progress: Arc::default(),
            at: Arc::default(),
            begun: Instant::now(),
            glass: Arc::new(Mutex::new(PipePeek::new()?)),
        };
        let desk = WriterThread::new(paper, waiting, said, &pen)?;
        std::thread::Builder::new().name("pen".into()).stack_size(128 * 1024).spawn(move || desk.work())?;
        Ok(pen)
    }

    /// For how long the pen has been at one piece of work: a write to a disk that hangs has no end.
    pub fn busy_for(&self) -> Duration {
        let since = match self.at.load(Ordering::Relaxed) {
            0 => return Duration::ZERO,
            since => Duration::from_millis(since - 1),
        };
        self.begun.elapsed().saturating_sub(since)
    }

    /// The pen begins a piece of work (true), or has done it.
    fn note_work(at: &AtomicU64, begun: Instant, works: bool) {
        at.store(if works { begun.elapsed().as_millis() as u64 + 1 } else { 0 }, Ordering::Relaxed);
    }

    fn say(&self, word: Command) {
        // The pen ends after its last handle.
        self.words.send(word).ok();
        self.wake.wake();
    }

    /// One line of the master, with its newline.
    pub fn line(&self, line: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.wake.wake();
    }

    /// From now on this worker's output is read and written.
    pub fn adopt(&self, output: &Output) {
        for (pipe, target) in &output.pipes {
            self.say(Command::Adopt(pipe.clone(), target.clone()));
        }
    }

    /// From now on this pipe, which a dead master has left, is read and written as that pool's output is now; without
    /// a plan (the pool is gone) into the master's log.
    ///
    /// # Errors
    /// It is not a pipe.
    pub fn adopt_left(&self, left: StalePipe, log: Option<&LogPlan>) -> io::Result<()> {
        let target = log.map_or(LogTarget::Master, |log| LogTarget::of_stream(left.stream, log));
        let speaker = Arc::new(OutputSource::new(&left.pool, left.slot, left.pid));
        let pipe = Pipe::of(speaker, left.stream, left.fd)?;
        self.say(Command::Adopt(Arc::new(pipe), target));
        Ok(())
    }

    /// The last lines of a worker, those that nobody has written yet included. Takes nothing away.
    pub fn last_words(&self, output: &Output) -> Vec<String> {
        let mut glass = self.glass.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        glass.last_words(&output.speaker, output.pipes.iter().map(|(pipe, _)| &**pipe))
    }

    /// The worker has ended: an unfinished line of it is written as it is. Others may still hold its pipes, and are
    /// heard as long as they do.
    pub fn ended(&self, output: &Output) {
        output.speaker.end();
        if !output.pipes.is_empty() {
            self.say(Command::Ended);
        }
    }

    /// Opens all log files again by their names.
    pub fn reopen(&self) {
        self.say(Command::Reopen);
    }

    /// When the master's log is put aside, from now on.
    pub fn set_rotation(&self, rotation: Rotation) {
        self.say(Command::Rotation(rotation));
    }

    /// From now on what the workers of this pool print goes where this plan says; also what those print that run
    /// already, as far as they have a pipe. A worker that writes to the master's own stdout or to nowhere goes on doing
    /// so until it is replaced; one that has a pipe and should do so has it emptied into the master's log, or into
    /// nowhere.
    pub fn retarget(&self, pool: &str, log: &LogPlan) {
        self.say(Command::Retarget(pool.into(), Box::new(log.clone())));
    }

    /// The last `n` lines that such workers printed, oldest first. About 1 MiB of lines is kept, for all together; of a
    /// flood only samples.
    pub fn recent(&self, filter: &Filter, n: usize) -> Vec<LogLine> {
        self.recent.last(filter, n)
    }

    /// The last `n` lines that such workers printed and all that they print from now on. `bell` is rung when there is
    /// something to take. The pen never waits for a follower: one that is slow, or a flood, loses lines and is told how
    /// many.
    pub fn follow(&self, filter: Filter, n: usize, bell: Waker) -> Follower {
        self.recent.follow(filter, n, bell)
    }

    /// Waits until all that was said and printed is written. Gives up when nothing is written for a second, or after
    /// ten: for the end of the master, and before its beginning.
    pub fn drain(&self) {
        let (done, waits) = bounded(1);
        self.say(Command::Drain(done));
        let begun = Instant::now();
        let mut seen = self.progress.load(Ordering::Relaxed);
        while let Err(RecvTimeoutError::Timeout) = waits.recv_timeout(NO_PROGRESS) {
            let now = self.progress.load(Ordering::Relaxed);
            if now == seen || begun.elapsed() >= LONGEST_END {
                return;
            }
            seen = now;
        }
    }
}

/// Whether a log could be written at this path; it is made there.
///
/// # Errors
/// The kernel's; or it is a link, no plain file, or lies where others decide what it is.
pub fn check_file(path: &Path, access: FileAccess) -> io::Result<()> {
    open::open(path, access).map(|_| ())
}
