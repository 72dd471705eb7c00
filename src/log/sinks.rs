//! All that is written to: the master's log, and the files of pools.

use super::format;
use super::journald::Journald;
use super::output::LogTarget;
use super::pipe_peek::Pipe;
use super::rotating_file::{RotatingFile, Rotation};
use super::sink::{LogSink, SinkState};
use crate::plan::LogFormat;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What of the master's own lines may wait for a log that cannot be written, in bytes.
const WAITING: usize = 256 << 10;
/// The master's number among those who write into one file.
const MASTER: u64 = 0;

/// The master's log: stderr, the journal behind it, or a file.
#[derive(Debug)]
pub struct MasterLog {
    sheet: LogSink,
    format: LogFormat,
    journal: Option<Journald>,
}

impl MasterLog {
    /// Where stderr is the journal's own, its native protocol is used, which keeps pool, slot and pid apart.
    pub fn stderr(format: LogFormat) -> Self {
        Self { sheet: LogSink::stderr(), format, journal: Journald::behind_stderr() }
    }

    /// # Errors
    /// The file cannot be opened, or is a link: a log is never written through one.
    pub fn file(path: PathBuf, format: LogFormat, rotation: Rotation) -> io::Result<Self> {
        let mut book = RotatingFile::new(path, rotation);
        book.reopen()?;
        Ok(Self { sheet: LogSink::book(book), format, journal: None })
    }
}

#[derive(Debug)]
pub(super) struct Sinks {
    paper: MasterLog,
    files: BTreeMap<PathBuf, LogSink>,
    /// Lines of the master that wait.
    waiting: Vec<u8>,
    dropped: u64,
    out: Vec<u8>,
}

impl Sinks {
    pub(super) fn new(paper: MasterLog) -> Self {
        Self { paper, files: BTreeMap::new(), waiting: Vec::new(), dropped: 0, out: Vec::new() }
    }

    /// A file is needed, and is to be put aside so.
    pub(super) fn need(&mut self, target: &LogTarget) {
        let LogTarget::File { path, rotation } = target else { return };
        if self.is_masters(path) {
            return;
        }
        match self.files.get_mut(path) {
            Some(sheet) => sheet.set_rotation(*rotation),
            None => {
                let mut book = RotatingFile::new(path.clone(), *rotation);
                // What is wrong is told when something is to be written.
                book.reopen().ok();
                self.files.insert(path.clone(), LogSink::book(book));
            }
        }
    }

    /// Closes files that nobody writes to any more, unless they are owed a word.
    pub(super) fn keep(&mut self, used: impl Fn(&Path) -> bool) {
        self.files.retain(|path, sheet| sheet.owes_a_word() || used(path));
    }

    fn is_masters(&self, path: &Path) -> bool {
        self.paper.sheet.path() == Some(path)
    }

    fn of(&mut self, target: &LogTarget) -> Option<&mut LogSink> {
        match target {
            LogTarget::Nowhere => None,
            LogTarget::File { path, .. } if !self.is_masters(path) => self.files.get_mut(path),
            LogTarget::Master | LogTarget::File { .. } => Some(&mut self.paper.sheet),
        }
    }

    pub(super) fn shut(&mut self, target: &LogTarget) -> Option<SinkState> {
        self.of(target)?.shut()
    }

    pub(super) fn lose(&mut self, target: &LogTarget, bytes: usize) {
        if let Some(sheet) = self.of(target) {
            sheet.lose(bytes);
        }
    }

    /// Nothing more comes from this writer.
    pub(super) fn forget(&mut self, target: &LogTarget, writer: u64) {
        if let Some(sheet) = self.of(target) {
            sheet.forget(writer);
        }
    }

    /// Writes what a worker printed, and says how much of it was accepted: all, or whole lines, or nothing.
    pub(super) fn put(&mut self, target: &LogTarget, writer: u64, pipe: &Pipe, text: &[u8]) -> usize {
        match target {
            LogTarget::Master => self.print(writer, pipe, text),
            target => self.of(target).map_or(text.len(), |sheet| sheet.put(writer, text)),
        }
    }

    fn print(&mut self, writer: u64, pipe: &Pipe, text: &[u8]) -> usize {
        let (speaker, stream) = (&pipe.speaker, pipe.stream);
        let mut done = 0;
        while done < text.len() && self.paper.sheet.shut().is_none() {
            if let Some(journal) = &mut self.paper.journal {
                let line = format::extent(&text[done..], 1);
                if journal.print(speaker, stream, &text[done..done + line]).is_ok() {
                    done += line;
                    continue;
                }
            }
            self.out.clear();
            let formatted = format::format(self.paper.format, speaker, stream, &text[done..], &mut self.out);
            let accepted = self.paper.sheet.put(writer, &self.out);
            if accepted < self.out.len() {
                let lines = self.out[..accepted].iter().filter(|byte| **byte == b'\n').count();
                return done + format::extent(&text[done..], lines);
            }
            done += formatted;
        }
        done
    }

    /// A line of the master's own.
    pub(super) fn own_line(&mut self, line: &[u8]) {
        if self.waiting.is_empty()
            && let Some(journal) = &mut self.paper.journal
            && journal.own_line(line).is_ok()
        {
            return;
        }
        if self.waiting.len() + line.len() <= WAITING {
            self.waiting.extend_from_slice(line);
        } else {
            self.dropped += 1;
        }
    }

    /// So many lines of the master's own did not reach us.
    pub(super) fn own_lines_lost(&mut self, lines: u64) {
        self.dropped += lines;
    }

    /// Writes the master's lines that wait.
    pub(super) fn write_own(&mut self) {
        let done = self.paper.sheet.put(MASTER, &self.waiting);
        self.waiting.drain(..done);
        if self.dropped > 0 && self.waiting.is_empty() {
            let told =
                format!("rotad: {} lines of the master's own log were dropped: the log is too slow\n", self.dropped);
            self.dropped = 0;
            self.waiting.extend_from_slice(told.as_bytes());
            let done = self.paper.sheet.put(MASTER, &self.waiting);
            self.waiting.drain(..done);
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to(4096);
            self.out.shrink_to(64 << 10);
        }
    }

    /// Lines of the master's own still wait.
    pub(super) fn own_wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn masters_is(&self, shut: SinkState) -> bool {
        self.paper.sheet.shut() == Some(shut)
    }

    /// Something cannot be written, and time may mend it.
    pub(super) fn in_trouble(&self) -> bool {
        self.all().any(|sheet| sheet.shut() == Some(SinkState::Trouble))
    }

    pub(super) fn try_again(&mut self) {
        self.paper.sheet.try_again();
        self.files.values_mut().for_each(LogSink::try_again);
    }

    /// Opens every file again by its name.
    pub(super) fn reopen(&mut self) {
        self.paper.sheet.reopen();
        self.files.values_mut().for_each(LogSink::reopen);
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        self.paper.sheet.set_rotation(rotation);
    }

    fn all(&self) -> impl Iterator<Item = &LogSink> {
        std::iter::once(&self.paper.sheet).chain(self.files.values())
    }
}
