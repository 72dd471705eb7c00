//! Where one worker's stdout and stderr go: its pipes or their substitutes, and the target of each pipe. The supervisor
//! opens a [`WorkerOutput`] before each spawn and hands it to [`super::LogWriter::adopt`].

use super::pipe_peek::{OutputSource, Pipe, Stream};
use super::rotating_file::Rotation;
use crate::plan::{LogPlan, Sink};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicI32;

/// Where the output from a pipe is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The master's log: line by line, with time and origin.
    Master,
    /// A file: as printed, in whole lines.
    File {
        /// Its path.
        path: PathBuf,
        /// When it is rotated.
        rotation: Rotation,
    },
    /// It is discarded.
    Nowhere,
}

impl LogTarget {
    /// None if the worker gets no pipe and writes to the target itself.
    fn of(sink: &Sink, log: &LogPlan) -> Option<Self> {
        let rotation = Rotation {
            max_size: log.max_size,
            keep: log.keep,
            access: log.access,
        };
        match sink {
            Sink::Master => Some(Self::Master),
            Sink::File(path) => Some(Self::File {
                path: path.clone(),
                rotation,
            }),
            Sink::Stdout => Self::of(&log.stdout, log),
            Sink::Inherit | Sink::Null => None,
        }
    }

    /// The target of this stream of a worker. Output of an existing pipe that should no longer go anywhere is discarded.
    pub(super) fn of_stream(stream: Stream, log: &LogPlan) -> Self {
        let sink = if stream == Stream::Stderr {
            &log.stderr
        } else {
            &log.stdout
        };
        match sink {
            Sink::Inherit => Self::Master,
            sink => Self::of(sink, log).unwrap_or(Self::Nowhere),
        }
    }
}

/// The master's ends of one worker's output.
#[derive(Debug)]
pub struct WorkerOutput {
    pub(super) source: Arc<OutputSource>,
    pub(super) pipes: Vec<(Arc<Pipe>, LogTarget)>,
}

/// The worker's stdout and stderr.
pub type WorkerStdio = (Arc<OwnedFd>, Arc<OwnedFd>);

impl WorkerOutput {
    /// Opens the pipes of a worker. Streams with the same target share one pipe, so that their lines stay in the order
    /// in which they were printed. `owner` is the worker's uid if it differs from the master's.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left.
    pub fn open(
        pool: &str,
        slot: u32,
        log: &LogPlan,
        owner: Option<u32>,
        null: &Arc<OwnedFd>,
    ) -> io::Result<(Self, WorkerStdio)> {
        let source = Arc::new(OutputSource::new(pool, slot, 0));
        let mut output = Self {
            source,
            pipes: Vec::new(),
        };
        let (out, err) = (
            LogTarget::of(&log.stdout, log),
            LogTarget::of(&log.stderr, log),
        );
        let shared = log.stderr == Sink::Stdout || (out.is_some() && out == err);
        let stdout = match (out, &log.stdout) {
            (Some(target), _) => output.pipe(
                if shared { Stream::Both } else { Stream::Stdout },
                target,
                owner,
            )?,
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

    fn pipe(
        &mut self,
        stream: Stream,
        target: LogTarget,
        owner: Option<u32>,
    ) -> io::Result<Arc<OwnedFd>> {
        let (pipe, end) = Pipe::open(self.source.clone(), stream, owner)?;
        self.pipes.push((Arc::new(pipe), target));
        Ok(Arc::new(end))
    }

    /// The cell for the pid that its lines carry; the child stores it.
    pub fn pid(&self) -> Arc<AtomicI32> {
        self.source.pid_cell()
    }

    /// Its pipes by their inode numbers (`pipe:[NUMBER]` in /proc/PID/fd).
    pub fn inodes(&self) -> Vec<(Stream, u64)> {
        self.pipes
            .iter()
            .filter_map(|(pipe, _)| Some((pipe.stream, pipe.inode().ok()?)))
            .collect()
    }
}
