//! Where log lines go, and what is done when they cannot: nothing fails, nothing is forgotten. What was not accepted
//! stays where it is (in a worker's pipe), and what had to be given up is counted and told.

use super::rotating_file::{RotatingFile, Rotation};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// A write of this many bytes does not block a pipe or terminal that has room at all (pipe(7), PIPE_BUF).
const PIECE: usize = 4096;

#[derive(Debug)]
enum Medium {
    /// Our own stderr: `plain` is a file, anything else may be slow.
    Stderr {
        plain: bool,
        /// The rest of a line that was begun.
        rest: Vec<u8>,
    },
    RotatingFile(Box<RotatingFile>),
    /// The reader of stderr is gone for good.
    Nowhere,
}

/// Why nothing is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinkState {
    /// It cannot be written: it is tried again after a while.
    Trouble,
    /// Whoever reads our stderr is slow: it goes on when there is room.
    Slow,
}

#[derive(Debug)]
pub(super) struct LogSink {
    medium: Medium,
    shut: Option<SinkState>,
    /// The trouble was told, and is not over.
    told: bool,
    lost: u64,
}

impl LogSink {
    pub(super) fn stderr() -> Self {
        let plain = fstat(io::stderr()).is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits());
        Self::of(Medium::Stderr { plain, rest: Vec::new() })
    }

    pub(super) fn book(book: RotatingFile) -> Self {
        Self::of(Medium::RotatingFile(Box::new(book)))
    }

    fn of(medium: Medium) -> Self {
        Self { medium, shut: None, told: false, lost: 0 }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match &self.medium {
            Medium::RotatingFile(book) => Some(book.path()),
            _ => None,
        }
    }

    pub(super) fn shut(&self) -> Option<SinkState> {
        self.shut
    }

    /// It is worth another try.
    pub(super) fn try_again(&mut self) {
        self.shut = None;
    }

    /// Opens the file again by its name; the old one stays in use when that fails.
    pub(super) fn reopen(&mut self) {
        if let Medium::RotatingFile(book) = &mut self.medium
            && let Err(error) = book.reopen()
        {
            tracing::error!("the log {} cannot be opened again: {error}", book.path().display());
        }
        self.try_again();
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        if let Medium::RotatingFile(book) = &mut self.medium {
            book.set_rotation(rotation);
        }
    }

    /// Nothing more comes from this writer.
    pub(super) fn forget(&mut self, writer: u64) {
        if let Medium::RotatingFile(book) = &mut self.medium {
            book.forget(writer);
        }
    }

    /// Gives up so many bytes: they are told in the log when it can be written again.
    pub(super) fn lose(&mut self, bytes: usize) {
        self.lost += bytes as u64;
    }

    /// Bytes that nobody will ever see are still to be told.
    pub(super) fn owes_a_word(&self) -> bool {
        self.lost > 0
    }

    /// Writes text, and says how much of it was accepted: all, or whole lines, or nothing.
    pub(super) fn put(&mut self, writer: u64, text: &[u8]) -> usize {
        if self.shut.is_some() {
            return 0;
        }
        if self.lost > 0 {
            let told = format!("rotad: {} bytes of log were lost here: the log could not be written\n", self.lost);
            if self.write(0, told.as_bytes()) < told.len() {
                return 0;
            }
            self.lost = 0;
        }
        let done = self.write(writer, text);
        if done == text.len() && std::mem::take(&mut self.told) {
            tracing::info!("{} can be written again", self.name());
        }
        done
    }

    fn name(&self) -> String {
        self.path().map_or("stderr".to_owned(), |path| format!("the log {}", path.display()))
    }

    fn write(&mut self, writer: u64, text: &[u8]) -> usize {
        let failed = match &mut self.medium {
            Medium::Nowhere => return text.len(),
            Medium::RotatingFile(book) => match book.write(writer, text) {
                Ok(()) => return text.len(),
                Err((done, error)) => (done, WriteStop::Error(error)),
            },
            Medium::Stderr { plain, rest } => match flow(io::stderr().as_fd(), *plain, rest, text) {
                (done, None) => return done,
                (done, Some(halt)) => (done, halt),
            },
        };
        let (done, halt) = failed;
        match halt {
            WriteStop::Slow => self.shut = Some(SinkState::Slow),
            WriteStop::Gone => {
                self.medium = Medium::Nowhere;
                return text.len();
            }
            WriteStop::Error(error) => {
                self.shut = Some(SinkState::Trouble);
                if !std::mem::replace(&mut self.told, true) {
                    tracing::error!(
                        "{} cannot be written: {error}; no worker is held up for that: what they print waits in their pipes as \
                         long as it has room",
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

/// Writes what a descriptor takes without waiting; the rest of a line that was begun is kept for the next time.
fn flow(fd: BorrowedFd<'_>, plain: bool, rest: &mut Vec<u8>, text: &[u8]) -> (usize, Option<WriteStop>) {
    let (done, halt) = push(fd, plain, rest);
    rest.drain(..done);
    if halt.is_some() {
        return (0, halt);
    }
    let (mut done, halt) = push(fd, plain, text);
    if done > 0 && done < text.len() && text[done - 1] != b'\n' {
        let line = text[done..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| done + end + 1);
        rest.extend_from_slice(&text[done..line]);
        done = line;
    }
    (done, halt)
}

fn push(fd: BorrowedFd<'_>, plain: bool, text: &[u8]) -> (usize, Option<WriteStop>) {
    let mut done = 0;
    while done < text.len() {
        let mut most = text.len() - done;
        if !plain {
            let mut look = [PollFd::new(fd, PollFlags::POLLOUT)];
            match poll(&mut look, PollTimeout::ZERO) {
                Ok(0) => return (done, Some(WriteStop::Slow)),
                Err(Errno::EINTR) => continue,
                _ => most = most.min(PIECE),
            }
        }
        match nix::unistd::write(fd, &text[done..done + most]) {
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return (done, Some(WriteStop::Slow)),
            Err(Errno::EPIPE | Errno::EBADF) => return (done, Some(WriteStop::Gone)),
            // A terminal that was closed never comes back (termios(3), "hangup").
            Err(Errno::EIO) if !plain => return (done, Some(WriteStop::Gone)),
            Err(error) => return (done, Some(WriteStop::Error(error.into()))),
        }
    }
    (done, None)
}

/// A writer that cannot fail, for messages before the pen exists.
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
    fn a_full_disk_is_counted_and_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.log");
        let never = Rotation { max_size: 0, keep: 0, ..Rotation::default() };
        let mut full = LogSink::book(RotatingFile::new("/dev/full".into(), never));
        assert_eq!((full.put(1, b"12345\n"), full.shut()), (0, Some(SinkState::Trouble)));
        let mut sheet = LogSink::book(RotatingFile::new(path.clone(), never));
        sheet.lose(7);
        assert_eq!(sheet.put(1, b"on\n"), 3);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains("7 bytes of log were lost") && text.ends_with("\non\n"), "{text}");
    }

    #[test]
    fn a_slow_reader_is_not_waited_for_and_loses_nothing() {
        let (mut read, write) = std::io::pipe().expect("a pipe");
        let text: Vec<u8> = (0..20_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let (mut rest, mut done, mut got) = (Vec::new(), 0, Vec::new());
        while done < text.len() || !rest.is_empty() {
            let (more, halt) = flow(write.as_fd(), false, &mut rest, &text[done..]);
            done += more;
            assert!(done == 0 || text[done - 1] == b'\n');
            assert!(matches!(halt, None | Some(WriteStop::Slow)));
            if halt.is_some() {
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
        assert!(matches!(flow(write.as_fd(), false, &mut rest, b"x\n"), (_, Some(WriteStop::Gone))));
    }
}
