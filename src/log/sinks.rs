//! Everything that the writer's thread writes to: the master's log and the log files of the pools.

use super::format;
use super::journald::Journald;
use super::output::LogTarget;
use super::pipe_peek::Pipe;
use super::rotating_file::{RotatingFile, Rotation};
use super::sink::{LogSink, SinkState};
use super::write_record::WriteRecord;
use crate::observe::counted::{counted, were};
use crate::plan::LogFormat;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// How many bytes of the master's own lines are queued while its log cannot be written.
const MAX_QUEUED_BYTES: usize = 256 << 10;
/// The master's writer number; pipes have higher ones.
const MASTER: u64 = 0;

/// The master's log: stderr, the journal behind stderr, or a file.
#[derive(Debug)]
pub struct MasterLog {
    sink: LogSink,
    format: LogFormat,
    journal: Option<Journald>,
}

impl MasterLog {
    /// Writes to stderr, or to journald by its native protocol if stderr is a stream to it: then pool, slot and pid are
    /// separate fields.
    pub fn stderr(format: LogFormat) -> Self {
        Self {
            sink: LogSink::stderr(),
            format,
            journal: Journald::behind_stderr(),
        }
    }

    /// Opens the log file.
    ///
    /// # Errors
    /// As [`super::check_file`].
    pub fn file(path: PathBuf, format: LogFormat, rotation: Rotation) -> io::Result<Self> {
        let mut file = RotatingFile::new(path, rotation);
        file.reopen(&mut WriteRecord::none())?;
        Ok(Self {
            sink: LogSink::file(file),
            format,
            journal: None,
        })
    }
}

#[derive(Debug)]
pub(super) struct Sinks {
    master_log: MasterLog,
    /// What is being written, for the next master.
    pub(super) record: WriteRecord,
    files: BTreeMap<PathBuf, FileSink>,
    /// The master's own lines that are not written yet.
    queued: Vec<u8>,
    dropped: u64,
    out: Vec<u8>,
}

/// A log file of a pool.
#[derive(Debug)]
struct FileSink {
    sink: LogSink,
    /// How many pipes are written to it. Without any it is closed.
    users: usize,
}

impl Sinks {
    pub(super) fn new(master_log: MasterLog, record: WriteRecord) -> Self {
        Self {
            master_log,
            record,
            files: BTreeMap::new(),
            queued: Vec::new(),
            dropped: 0,
            out: Vec::new(),
        }
    }

    /// Opens the target's file if it is not open yet, and sets its rotation.
    pub(super) fn open(&mut self, target: &LogTarget) {
        let LogTarget::File {
            path,
            shown,
            rotation,
            ..
        } = target
        else {
            return;
        };
        if self.is_masters(path) {
            return;
        }
        match self.files.get_mut(path) {
            Some(file) => file.sink.set_rotation(*rotation),
            None => {
                let mut file = RotatingFile::new(path.clone(), *rotation).called(shown);
                // A failure is reported at the first write.
                file.reopen(&mut self.record).ok();
                let (sink, users) = (LogSink::file(file), 0);
                self.files.insert(path.clone(), FileSink { sink, users });
            }
        }
    }

    /// One more pipe is written to this target.
    pub(super) fn begin(&mut self, target: &LogTarget) {
        self.open(target);
        if let Some(file) = self.file_of(target) {
            file.users += 1;
        }
    }

    /// This pipe is not written to its target any more. A file without others is closed, unless it still has to report
    /// lost bytes.
    pub(super) fn end(&mut self, target: &LogTarget, pipe: &Pipe) {
        if let Some((sink, record)) = self.sink_and_record_of(target) {
            sink.writer_ended(record, pipe.inode());
        }
        let Some(file) = self.file_of(target) else {
            return;
        };
        file.users = file.users.saturating_sub(1);
        if file.users == 0
            && !file.sink.has_unreported_loss()
            && let LogTarget::File { path, .. } = target
        {
            self.files.remove(path);
        }
    }

    fn file_of(&mut self, target: &LogTarget) -> Option<&mut FileSink> {
        match target {
            LogTarget::File { path, .. } => self.files.get_mut(path),
            LogTarget::Master | LogTarget::Nowhere => None,
        }
    }

    fn is_masters(&self, path: &Path) -> bool {
        self.master_log.sink.path() == Some(path)
    }

    fn sink_of(&mut self, target: &LogTarget) -> Option<&mut LogSink> {
        Some(self.sink_and_record_of(target)?.0)
    }

    fn sink_and_record_of(
        &mut self,
        target: &LogTarget,
    ) -> Option<(&mut LogSink, &mut WriteRecord)> {
        let sink = match target {
            LogTarget::Nowhere => None,
            LogTarget::File { path, .. } if !self.is_masters(path) => {
                self.files.get_mut(path).map(|file| &mut file.sink)
            }
            LogTarget::Master | LogTarget::File { .. } => Some(&mut self.master_log.sink),
        };
        Some((sink?, &mut self.record))
    }

    pub(super) fn blocked(&mut self, target: &LogTarget) -> Option<SinkState> {
        self.sink_of(target)?.blocked()
    }

    pub(super) fn drop_bytes(&mut self, target: &LogTarget, bytes: usize) {
        if let Some(sink) = self.sink_of(target) {
            sink.drop_bytes(bytes);
        }
    }

    /// Writes output of a worker, which is the beginning of its pipe, and returns how many bytes were accepted: all, some
    /// whole lines, or none. The record has it until they are consumed.
    pub(super) fn write(&mut self, target: &LogTarget, pipe: &Pipe, text: &[u8]) -> usize {
        match target {
            LogTarget::Master => self.write_formatted(pipe, text),
            LogTarget::File {
                timestamps: true, ..
            } => self.write_stamped(target, pipe, text),
            target => {
                let Some((sink, record)) = self.sink_and_record_of(target) else {
                    return text.len();
                };
                record.begin_raw(pipe.inode(), text.len());
                sink.write(record, pipe.inode(), text)
            }
        }
    }

    fn write_formatted(&mut self, pipe: &Pipe, text: &[u8]) -> usize {
        let (source, stream) = (&pipe.source, pipe.stream);
        let mut done = 0;
        while done < text.len() && self.master_log.sink.blocked().is_none() {
            if let Some(journal) = &mut self.master_log.journal {
                let line = format::lines_len(&text[done..], 1);
                if journal
                    .send_line(source, stream, &text[done..done + line])
                    .is_ok()
                {
                    done += line;
                    self.record.sent(pipe.inode(), done);
                    continue;
                }
            }
            self.out.clear();
            let formatted = format::format(
                self.master_log.format,
                source,
                stream,
                &text[done..],
                &mut self.out,
            );
            let record = &mut self.record;
            record.begin_copy(pipe.inode(), done, formatted, &self.out);
            let accepted = self.master_log.sink.write(record, pipe.inode(), &self.out);
            if accepted < self.out.len() {
                let lines = self.out[..accepted]
                    .iter()
                    .filter(|byte| **byte == b'\n')
                    .count();
                return done + format::lines_len(&text[done..], lines);
            }
            done += formatted;
        }
        done
    }

    /// Writes output with a time before each line.
    fn write_stamped(&mut self, target: &LogTarget, pipe: &Pipe, text: &[u8]) -> usize {
        let mut out = std::mem::take(&mut self.out);
        let (writer, mut done) = (pipe.inode(), 0);
        while done < text.len() {
            let Some((sink, record)) = self.sink_and_record_of(target) else {
                done = text.len();
                break;
            };
            out.clear();
            // The rest of a line that has got its time.
            let goes_on = sink.is_unfinished_by(writer);
            let stamped = format::stamp(&text[done..], goes_on, &mut out);
            record.begin_copy(writer, done, stamped, &out);
            let accepted = sink.write(record, writer, &out);
            if accepted < out.len() {
                let lines = out[..accepted].iter().filter(|byte| **byte == b'\n');
                done += format::lines_len(&text[done..], lines.count());
                break;
            }
            done += stamped;
        }
        self.out = out;
        done
    }

    /// Queues a line of the master's own.
    pub(super) fn queue_line(&mut self, line: &[u8]) {
        if self.queued.is_empty()
            && let Some(journal) = &mut self.master_log.journal
            && journal.send_own_line(line).is_ok()
        {
            return;
        }
        if self.queued.len() + line.len() <= MAX_QUEUED_BYTES {
            self.queued.extend_from_slice(line);
        } else {
            self.dropped += 1;
        }
    }

    /// Counts `lines` of the master's own that were dropped before they reached this thread.
    pub(super) fn count_dropped(&mut self, lines: u64) {
        self.dropped += lines;
    }

    /// Writes the master's queued lines.
    pub(super) fn flush_own(&mut self) {
        self.write_queued();
        if self.dropped > 0 && self.queued.is_empty() {
            let reported = format!(
                "rotad: {} of the master's own log {} dropped: the log is too slow\n",
                counted(self.dropped, "line"),
                were(self.dropped)
            );
            self.dropped = 0;
            self.queued.extend_from_slice(reported.as_bytes());
            self.write_queued();
        }
        if self.queued.is_empty() {
            self.queued.shrink_to(4096);
            self.out.shrink_to(64 << 10);
        }
    }

    fn write_queued(&mut self) {
        if self.queued.is_empty() {
            return;
        }
        self.record.begin_copy(MASTER, 0, 0, &self.queued);
        let sink = &mut self.master_log.sink;
        let done = sink.write(&mut self.record, MASTER, &self.queued);
        self.record.end();
        self.queued.drain(..done);
    }

    /// Whether lines of the master's own are still queued.
    pub(super) fn has_queued_lines(&self) -> bool {
        !self.queued.is_empty()
    }

    pub(super) fn master_is_blocked_by(&self, blocked: SinkState) -> bool {
        self.master_log.sink.blocked() == Some(blocked)
    }

    /// Whether a sink failed and may recover.
    pub(super) fn is_failing(&self) -> bool {
        self.all()
            .any(|sink| sink.blocked() == Some(SinkState::Failing))
    }

    pub(super) fn retry(&mut self) {
        self.master_log.sink.retry();
        let files = self.files.values_mut();
        files.for_each(|file| file.sink.retry());
    }

    /// Reopens every file by its name.
    pub(super) fn reopen(&mut self) {
        self.master_log.sink.reopen(&mut self.record);
        for file in self.files.values_mut() {
            file.sink.reopen(&mut self.record);
        }
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        self.master_log.sink.set_rotation(rotation);
    }

    fn all(&self) -> impl Iterator<Item = &LogSink> {
        std::iter::once(&self.master_log.sink).chain(self.files.values().map(|file| &file.sink))
    }
}
