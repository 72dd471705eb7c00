//! What one worker prints to: its pipes, or what stands in their place, and where that goes.

use super::pipe_peek::{OutputSource, Pipe, Stream};
use super::rotating_file::Rotation;
use crate::plan::{LogPlan, Sink};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Where what comes out of a pipe is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The master's log: line by line, with time and origin.
    Master,
    /// A file: as it was printed, in whole lines.
    File {
        path: PathBuf,
        rotation: Rotation,
    },
    Nowhere,
}

impl LogTarget {
    /// None where the worker gets no pipe: it writes there itself.
    fn of(sink: &Sink, log: &LogPlan) -> Option<Self> {
        let rotation = Rotation { max_size: log.max_size, keep: log.keep, access: log.access };
        match sink {
            Sink::Master => Some(Self::Master),
            Sink::File(path) => Some(Self::File { path: path.clone(), rotation }),
            Sink::Stdout => Self::of(&log.stdout, log),
            Sink::Inherit | Sink::Null => None,
        }
    }

    /// Where this stream of a worker goes. A pipe that is there already and has no target any more is emptied into
    /// nowhere.
    pub(super) fn of_stream(stream: Stream, log: &LogPlan) -> Self {
        let sink = if stream == Stream::Stderr { &log.stderr } else { &log.stdout };
        match sink {
            Sink::Inherit => Self::Master,
            sink => Self::of(sink, log).unwrap_or(Self::Nowhere),
        }
    }
}

/// The master's ends of one worker's output.
#[derive(Debug)]
pub struct Output {
    pub(super) speaker: Arc<OutputSource>,
    pub(super) pipes: Vec<(Arc<Pipe>, LogTarget)>,
}

/// The descriptors that a worker gets as its stdout and stderr.
pub type Ends = (Arc<OwnedFd>, Arc<OwnedFd>);

impl Output {
    /// Makes the pipes of a worker. Streams that go to one place share one pipe, so that their lines stay in the order
    /// in which they were printed.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open(
        pool: &str,
        slot: u32,
        log: &LogPlan,
        owner: Option<u32>,
        null: &Arc<OwnedFd>,
    ) -> io::Result<(Self, Ends)> {
        let speaker = Arc::new(OutputSource::new(pool, slot, 0));
        let mut output = Self { speaker, pipes: Vec::new() };
        let (out, err) = (LogTarget::of(&log.stdout, log), LogTarget::of(&log.stderr, log));
        let shared = log.stderr == Sink::Stdout || (out.is_some() && out == err);
        let stdout = match (out, &log.stdout) {
            (Some(target), _) => output.pipe(if shared { Stream::Both } else { Stream::Stdout }, target, owner)?,
            (None, Sink::Inherit) => Arc::new(io::stdout().as_fd().try_clone_to_owned()?),
            (None, _) => null.clone(),
        };
        let stderr = match (err, &log.stderr) {
            _ if shared => stdout.clone(),
            (Some(target), _) => output.pipe(Stream::Stderr, target, owner)?,
            (None, Sink::Inherit) => Arc::new(io::stderr().as_fd().try_clone_to_owned()?),
            (None, _) => null.clone(),
        };
        Ok((output, (stdout, stderr)))
    }

    fn pipe(&mut self, stream: Stream, target: LogTarget, owner: Option<u32>) -> io::Result<Arc<OwnedFd>> {
        let (pipe, end) = Pipe::open(self.speaker.clone(), stream, owner)?;
        self.pipes.push((Arc::new(pipe), target));
        Ok(Arc::new(end))
    }

    /// Where the pid is to be noted that its lines carry.
    pub fn pid(&self) -> Arc<AtomicI32> {
        self.speaker.pid_cell()
    }

    /// Its pipes, by the numbers that the kernel gave them (`pipe:[NUMBER]` in /proc/PID/fd).
    pub fn inodes(&self) -> Vec<(Stream, u64)> {
        self.pipes.iter().filter_map(|(pipe, _)| Some((pipe.stream, pipe.inode().ok()?))).collect()
    }
}
