//! Where one worker's stdout and stderr go: its pipes or their substitutes, and the target of each pipe. The supervisor
//! opens a [`WorkerOutput`] before each spawn and hands it to [`super::LogWriter::adopt`].

use super::pipe_peek::{OutputSource, Pipe, Stream};
use super::rotating_file::Rotation;
use crate::plan::{LogPlan, Sink};
use crate::sys::kept_fd::{FdTable, KeptFd};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Weak};

/// Where the output from a pipe is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The master's log: line by line, with time and origin.
    Master,
    /// A file: as printed, in whole lines.
    File {
        /// Its path.
        path: PathBuf,
        /// What messages call it: its path without the values of variables.
        shown: String,
        /// When it is rotated.
        rotation: Rotation,
        /// A time stands before each line.
        timestamps: bool,
    },
    /// It is discarded.
    Nowhere,
}

impl LogTarget {
    /// The target of a worker of this slot. None if it gets no pipe and writes to the target itself.
    fn of(sink: &Sink, log: &LogPlan, slot: u32) -> Option<Self> {
        let rotation = Rotation {
            max_size: log.max_size,
            keep: log.keep,
            access: log.access,
        };
        match sink {
            Sink::Master => Some(Self::Master),
            Sink::File(file) => Some(Self::File {
                path: file.path(slot),
                shown: file.shown(Some(slot)),
                rotation,
                timestamps: log.timestamps,
            }),
            Sink::Stdout => Self::of(&log.stdout, log, slot),
            Sink::Inherit | Sink::Null => None,
        }
    }

    /// The target of this stream of a worker. Output of an existing pipe that should no longer go anywhere is discarded.
    pub(super) fn of_stream(stream: Stream, log: &LogPlan, slot: u32) -> Self {
        let sink = if stream == Stream::Stderr {
            &log.stderr
        } else {
            &log.stdout
        };
        match sink {
            Sink::Inherit => Self::Master,
            sink => Self::of(sink, log, slot).unwrap_or(Self::Nowhere),
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

/// What is saved of a worker's output; the rest of it is known from the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedOutput(Vec<(Stream, KeptFd)>);

/// The output of a worker that has left the process table. The log writer reads it to its end, which may be far away: a
/// process that has outlived the worker may go on printing.
#[derive(Debug)]
pub struct LeftOutput {
    saved: SavedLeftOutput,
    /// The log writer holds them as long as it reads them.
    pipes: Vec<Weak<Pipe>>,
}

/// What is saved of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedLeftOutput {
    pool: String,
    slot: u32,
    pid: i32,
    output: SavedOutput,
    /// Where it goes, if its pool is not in the configuration any more.
    log: LogPlan,
}

impl LeftOutput {
    /// What the next master needs to go on reading. None: it was read to its end.
    pub fn saved(&self) -> Option<&SavedLeftOutput> {
        let is_read = self.pipes.iter().any(|pipe| pipe.strong_count() > 0);
        is_read.then_some(&self.saved)
    }
}

impl SavedLeftOutput {
    /// Goes on with the pipes of a dead master, as [`WorkerOutput::restore`] does, and returns where the output goes.
    /// `log_of`: where the output of a pool goes now.
    ///
    /// # Errors
    /// As [`FdTable::take`]: it was read to its end.
    pub fn restore<'a>(
        self,
        table: &mut FdTable,
        log_of: impl Fn(&str) -> Option<&'a LogPlan>,
    ) -> io::Result<(WorkerOutput, LogPlan)> {
        let log = log_of(&self.pool).cloned().unwrap_or(self.log);
        let worker = (&*self.pool, self.slot, self.pid);
        let output = WorkerOutput::restore(self.output, worker, true, table, &log)?;
        Ok((output, log))
    }
}

impl WorkerOutput {
    /// The worker leaves the process table, and the log writer goes on reading. `log`: where its output goes. None: it was
    /// read to its end.
    pub fn left(&self, log: &LogPlan) -> Option<LeftOutput> {
        if !self
            .pipes
            .iter()
            .any(|(pipe, _)| Arc::strong_count(pipe) > 1)
        {
            return None;
        }
        let saved = SavedLeftOutput {
            pool: self.source.pool.to_string(),
            slot: self.source.slot,
            pid: self.source.pid(),
            output: self.saved(),
            log: log.clone(),
        };
        let pipes = self.pipes.iter().map(|(pipe, _)| Arc::downgrade(pipe));
        Some(LeftOutput {
            saved,
            pipes: pipes.collect(),
        })
    }

    /// What the next master needs to go on reading.
    pub fn saved(&self) -> SavedOutput {
        let pipes = self.pipes.iter();
        SavedOutput(pipes.map(|(pipe, _)| (pipe.stream, pipe.kept())).collect())
    }

    /// Goes on with the pipes of a dead master, to be handed to [`super::LogWriter::adopt`]. `pid`: 0 until
    /// it is known. `ended`: [`WorkerOutput::has_ended`]. `log`: where the output of the pool goes now. What was printed meanwhile is in the pipes; the lines that were written before are not part of
    /// [`super::LogWriter::tail`] any more.
    ///
    /// # Errors
    /// As [`FdTable::take`].
    pub fn restore(
        SavedOutput(pipes): SavedOutput,
        (pool, slot, pid): (&str, u32, i32),
        ended: bool,
        table: &mut FdTable,
        log: &LogPlan,
    ) -> io::Result<Self> {
        let source = Arc::new(OutputSource::new(pool, slot, pid));
        if ended {
            source.end();
        }
        let pipes = pipes.into_iter().map(|(stream, kept)| {
            let pipe = Pipe::of(source.clone(), stream, table.take(kept)?)?;
            let target = LogTarget::of_stream(stream, log, source.slot);
            Ok((Arc::new(pipe), target))
        });
        let pipes = pipes.collect::<io::Result<_>>()?;
        Ok(Self { source, pipes })
    }

    /// Goes on with the pipes of an adopted worker, as [`WorkerOutput::restore`] does. `pipes`: their reading ends.
    ///
    /// # Errors
    /// EBADF: one is not a pipe.
    pub fn adopt(
        (pool, slot): (&str, u32),
        pid: i32,
        pipes: Vec<(Stream, OwnedFd)>,
        log: &LogPlan,
    ) -> io::Result<Self> {
        let source = Arc::new(OutputSource::new(pool, slot, pid));
        let pipes = pipes.into_iter().map(|(stream, fd)| {
            let pipe = Pipe::of(source.clone(), stream, fd)?;
            Ok((Arc::new(pipe), LogTarget::of_stream(stream, log, slot)))
        });
        let pipes = pipes.collect::<io::Result<_>>()?;
        Ok(Self { source, pipes })
    }

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
            LogTarget::of(&log.stdout, log, slot),
            LogTarget::of(&log.stderr, log, slot),
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

    /// Whether nothing more is expected ([`super::LogWriter::ended`]).
    pub fn has_ended(&self) -> bool {
        self.source.has_ended()
    }

    /// Its pipes by their inode numbers (`pipe:[NUMBER]` in /proc/PID/fd).
    pub fn inodes(&self) -> Vec<(Stream, u64)> {
        self.pipes
            .iter()
            .map(|(pipe, _)| (pipe.stream, pipe.inode()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipe_peek::PipePeek;
    use super::super::{Filter, LogWriter, MasterLog, WriteRecord};
    use super::*;
    use crate::event_loop::clock::Clock;
    use crate::plan::{FileAccess, LogFormat};
    use crate::sys::kept_fd::killed;
    use std::fs::File;
    use std::io::Write;
    use std::sync::atomic::Ordering;

    #[test]
    fn the_output_of_a_worker_that_has_left_is_saved_until_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogPlan {
            stdout: Sink::File(dir.path().join("out.log").into()),
            stderr: Sink::Stdout,
            max_size: 0,
            keep: 0,
            timestamps: false,
            access: FileAccess::default(),
        };
        let null = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let (output, (out, err)) = WorkerOutput::open("web", 0, &log, None, &null).unwrap();
        let path = dir.path().join("m.log");
        let master_log = MasterLog::file(path, LogFormat::Text, Rotation::default()).unwrap();
        let writer = LogWriter::start(master_log, WriteRecord::none(), Clock::start()).unwrap();
        writer.adopt(&output);
        let left = output.left(&log).unwrap();
        drop(output);
        writer.drain();
        assert_eq!(left.saved().map(|saved| &*saved.pool), Some("web"));
        drop((out, err));
        writer.drain();
        assert_eq!(left.saved(), None, "its end was read");
        let (output, ends) = WorkerOutput::open("web", 0, &log, None, &null).unwrap();
        writer.adopt(&output);
        drop(ends);
        writer.drain();
        assert!(output.left(&log).is_none(), "nothing is left");
    }

    #[test]
    fn the_next_master_writes_what_is_in_the_pipes_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let log = LogPlan {
            stdout: Sink::File(file("out.log").into()),
            stderr: Sink::File(file("err.log").into()),
            max_size: 0,
            keep: 0,
            timestamps: false,
            access: FileAccess::default(),
        };
        let null = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let (output, (out, err)) = WorkerOutput::open("web", 2, &log, None, &null).unwrap();
        output.pid().store(77, Ordering::Relaxed);
        let mut out = File::from(out.try_clone().unwrap());
        let mut err = File::from(err.try_clone().unwrap());
        // The dead master has written the first line.
        out.write_all(b"written\none\nun").unwrap();
        let pipe_peek = PipePeek::new().unwrap();
        pipe_peek.consume(&output.pipes[0].0, 8);
        let saved = output.saved();
        let (saved, mut table) = killed(output, &saved);
        err.write_all(b"in between\n").unwrap();
        let worker = ("web", 2, 77);
        let output = WorkerOutput::restore(saved, worker, false, &mut table, &log).unwrap();
        assert_eq!(table.left(), 0);
        let master_log = MasterLog::file(file("m.log"), LogFormat::Text, Rotation::default());
        let writer =
            LogWriter::start(master_log.unwrap(), WriteRecord::none(), Clock::start()).unwrap();
        writer.adopt(&output);
        out.write_all(b"finished\ntwo\n").unwrap();
        writer.drain();
        let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
        assert_eq!(read("out.log"), "one\nunfinished\ntwo\n");
        assert_eq!(read("err.log"), "in between\n");
        let recent = writer.recent(&Filter::default(), 9);
        assert!(recent.iter().all(|line| (line.pid, line.slot) == (77, 2)));
        assert_eq!(recent.len(), writer.tail(&output).len());
        // A worker that has exited: its unfinished line is written as it is.
        out.write_all(b"end").unwrap();
        writer.ended(&output);
        writer.drain();
        assert!(read("out.log").ends_with("two\nend"));
        assert!(output.has_ended());
    }
}
