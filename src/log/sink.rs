//! One log target and how it fails: a sink never returns an error. What it does not accept stays in the worker's pipe;
//! what has to be dropped is counted and reported in the log later.

use super::rotating_file::{RotatingFile, Rotation};
use super::write_record::{WriteRecord, place_of};
use crate::observe::counted::{counted, were};
use crate::sys::poll::is_ready;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// A write of this many bytes does not block on a pipe or terminal that is writable (pipe(7), PIPE_BUF).
const PIECE_BYTES: usize = 4096;

#[derive(Debug)]
enum Medium {
    /// The master's stderr: `plain` if it is a regular file, else it may be slow.
    Stderr {
        plain: bool,
        /// The unwritten rest of a line.
        rest: Vec<u8>,
    },
    RotatingFile(Box<RotatingFile>),
    /// The reader of stderr is gone.
    Nowhere,
}

/// Why a sink accepts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkState {
    /// Writing failed: it is tried again later.
    Failing,
    /// The reader of stderr is slow: writing continues when there is room.
    Slow,
}

#[derive(Debug)]
pub(super) struct LogSink {
    medium: Medium,
    blocked: Option<SinkState>,
    /// The failure was reported and is not over.
    reported: bool,
    lost: u64,
}

impl LogSink {
    pub(super) fn stderr() -> Self {
        let plain = fstat(io::stderr())
            .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits());
        Self::of(Medium::Stderr {
            plain,
            rest: Vec::new(),
        })
    }

    pub(super) fn file(file: RotatingFile) -> Self {
        Self::of(Medium::RotatingFile(Box::new(file)))
    }

    fn of(medium: Medium) -> Self {
        Self {
            medium,
            blocked: None,
            reported: false,
            lost: 0,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match &self.medium {
            Medium::RotatingFile(file) => Some(file.path()),
            _ => None,
        }
    }

    /// Whether a file ends with the beginning of a line of this writer.
    pub(super) fn is_unfinished_by(&self, writer: u64) -> bool {
        match &self.medium {
            Medium::RotatingFile(file) => file.is_unfinished_by(writer),
            Medium::Stderr { .. } | Medium::Nowhere => false,
        }
    }

    pub(super) fn blocked(&self) -> Option<SinkState> {
        self.blocked
    }

    /// Allows another attempt.
    pub(super) fn retry(&mut self) {
        self.blocked = None;
    }

    /// Reopens the file by its name; the old one stays in use when that fails.
    pub(super) fn reopen(&mut self, record: &mut WriteRecord) {
        if let Medium::RotatingFile(file) = &mut self.medium
            && let Err(error) = file.reopen(record)
        {
            tracing::error!("the log {} cannot be opened again: {error}", file.shown());
        }
        self.retry();
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        if let Medium::RotatingFile(file) = &mut self.medium {
            file.set_rotation(rotation);
        }
    }

    /// This writer writes no more.
    pub(super) fn writer_ended(&mut self, record: &mut WriteRecord, writer: u64) {
        if let Medium::RotatingFile(file) = &mut self.medium {
            file.writer_ended(record, writer);
        }
    }

    /// Counts dropped bytes: they are reported in the log when it can be written again.
    pub(super) fn drop_bytes(&mut self, bytes: usize) {
        self.lost += bytes as u64;
    }

    /// Whether dropped bytes still have to be reported.
    pub(super) fn has_unreported_loss(&self) -> bool {
        self.lost > 0
    }

    /// Writes text, which is the one that the record has, and returns how many bytes were accepted: all, some whole lines, or
    /// none.
    pub(super) fn write(&mut self, record: &mut WriteRecord, writer: u64, text: &[u8]) -> usize {
        if self.blocked.is_some() {
            return 0;
        }
        if self.lost > 0 {
            let reported = format!(
                "rotad: {} of log {} lost here: the log could not be written\n",
                counted(self.lost, "byte"),
                were(self.lost)
            );
            if self.write_once(&mut WriteRecord::none(), 0, reported.as_bytes()) < reported.len() {
                return 0;
            }
            self.lost = 0;
        }
        let done = self.write_once(record, writer, text);
        if done == text.len() && std::mem::take(&mut self.reported) {
            tracing::info!("{} can be written again", self.name());
        }
        done
    }

    fn name(&self) -> String {
        match &self.medium {
            Medium::RotatingFile(file) => format!("the log {}", file.shown()),
            Medium::Stderr { .. } | Medium::Nowhere => "stderr".to_owned(),
        }
    }

    fn write_once(&mut self, record: &mut WriteRecord, writer: u64, text: &[u8]) -> usize {
        let failed = match &mut self.medium {
            Medium::Nowhere => return text.len(),
            Medium::RotatingFile(file) => match file.write(record, writer, text) {
                Ok(()) => return text.len(),
                Err((done, error)) => (done, WriteStop::Error(error)),
            },
            Medium::Stderr { plain, rest } => {
                match write_lines(io::stderr().as_fd(), record, *plain, rest, text) {
                    (done, None) => return done,
                    (done, Some(stop)) => (done, stop),
                }
            }
        };
        let (done, stop) = failed;
        match stop {
            WriteStop::Slow => self.blocked = Some(SinkState::Slow),
            WriteStop::Gone => {
                self.medium = Medium::Nowhere;
                return text.len();
            }
            WriteStop::Error(error) => {
                self.blocked = Some(SinkState::Failing);
                if !std::mem::replace(&mut self.reported, true) {
                    tracing::error!(
                        "{} cannot be written: {error}; workers are not blocked: what they print waits in their pipes as long \
                         as there is room",
                        self.name()
                    );
                }
            }
        }
        done
    }
}

#[derive(Debug)]
enum WriteStop {
    Slow,
    Gone,
    Error(io::Error),
}

/// Writes as much as the descriptor takes without blocking; the rest of a partly written line is kept for the next
/// call.
fn write_lines(
    fd: BorrowedFd<'_>,
    record: &mut WriteRecord,
    plain: bool,
    rest: &mut Vec<u8>,
    text: &[u8],
) -> (usize, Option<WriteStop>) {
    let (done, stop) = write_available(fd, &mut WriteRecord::none(), plain, rest);
    rest.drain(..done);
    if stop.is_some() {
        return (0, stop);
    }
    let (mut done, stop) = write_available(fd, record, plain, text);
    if done > 0 && done < text.len() && text[done - 1] != b'\n' {
        let line = text[done..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(text.len(), |end| done + end + 1);
        rest.extend_from_slice(&text[done..line]);
        done = line;
    }
    (done, stop)
}

fn write_available(
    fd: BorrowedFd<'_>,
    record: &mut WriteRecord,
    plain: bool,
    text: &[u8],
) -> (usize, Option<WriteStop>) {
    let mut done = 0;
    while done < text.len() {
        let mut max = text.len() - done;
        if !plain {
            if !is_ready(fd, PollFlags::POLLOUT) {
                return (done, Some(WriteStop::Slow));
            }
            max = max.min(PIECE_BYTES);
            // The rest of a line that is cut here is in memory alone, and lost with the master.
            let newline = text[done..done + max]
                .iter()
                .rposition(|byte| *byte == b'\n');
            max = newline.map_or(max, |newline| newline + 1);
        }
        // Of a pipe or a terminal it is not known how much was written: the next master may repeat this piece.
        let length = if plain { max } else { 0 };
        if let Ok(place) = place_of(fd, plain) {
            record.append_begins(place, done, length);
        }
        match nix::unistd::write(fd, &text[done..done + max]) {
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return (done, Some(WriteStop::Slow)),
            Err(Errno::EPIPE | Errno::EBADF) => return (done, Some(WriteStop::Gone)),
            // A terminal that hung up never comes back (termios(3)).
            Err(Errno::EIO) if !plain => return (done, Some(WriteStop::Gone)),
            Err(error) => return (done, Some(WriteStop::Error(error.into()))),
        }
    }
    (done, None)
}

/// Writes a line to stderr and ignores errors, for messages before the log writer exists.
pub fn complain(text: &str) {
    use std::io::Write;
    let mut line = text.to_owned();
    line.push('\n');
    io::stderr().write_all(line.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn bytes_dropped_on_a_full_disk_are_reported() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("m.log");
        let never = Rotation {
            max_size: 0,
            keep: 0,
            ..Rotation::default()
        };
        let mut full = LogSink::file(RotatingFile::new("/dev/full".into(), never));
        assert_eq!(
            (
                full.write(&mut WriteRecord::none(), 1, b"12345\n"),
                full.blocked()
            ),
            (0, Some(SinkState::Failing))
        );
        let mut sink = LogSink::file(RotatingFile::new(path.clone(), never));
        sink.drop_bytes(7);
        assert_eq!(sink.write(&mut WriteRecord::none(), 1, b"on\n"), 3);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(
            text.contains("7 bytes of log were lost") && text.ends_with("\non\n"),
            "{text}"
        );
    }

    /// What is written to it is a number of whole lines, as long as they are shorter than a piece.
    #[test]
    fn a_slow_reader_has_only_whole_lines_whenever_the_master_dies() {
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let text = format!("{}\n", "x".repeat(99)).repeat(2_000);
        let mut rest = Vec::new();
        let (done, stop) = write_lines(
            write.as_fd(),
            &mut WriteRecord::none(),
            false,
            &mut rest,
            text.as_bytes(),
        );
        assert!(matches!(stop, Some(WriteStop::Slow)));
        assert!(rest.is_empty() && done % 100 == 0, "{done}, {rest:?}");
        drop(write);
        let mut got = String::new();
        read.read_to_string(&mut got).expect("read");
        assert_eq!(got, text[..done]);
    }

    #[test]
    fn a_slow_reader_loses_no_line() {
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let text: Vec<u8> = (0..20_000)
            .flat_map(|n| format!("line {n}\n").into_bytes())
            .collect();
        let (mut rest, mut done, mut got) = (Vec::new(), 0, Vec::new());
        while done < text.len() || !rest.is_empty() {
            let (more, stop) = write_lines(
                write.as_fd(),
                &mut WriteRecord::none(),
                false,
                &mut rest,
                &text[done..],
            );
            done += more;
            assert!(done == 0 || text[done - 1] == b'\n');
            assert!(matches!(stop, None | Some(WriteStop::Slow)));
            if stop.is_some() {
                let mut some = [0; 10_000];
                let count = read.read(&mut some).expect("read");
                got.extend_from_slice(&some[..count]);
            }
        }
        drop(write);
        read.read_to_end(&mut got).expect("read");
        assert_eq!(got, text);
        drop(read);
        let (_, write) = std::io::pipe().expect("a pipe");
        assert!(matches!(
            write_lines(
                write.as_fd(),
                &mut WriteRecord::none(),
                false,
                &mut rest,
                b"x\n"
            ),
            (_, Some(WriteStop::Gone))
        ));
    }
}
