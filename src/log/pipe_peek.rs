//! A worker's output pipe and the means to read it without consuming it. The writer's thread peeks, writes, then
//! consumes: what is in the pipe survives the master, and what was consumed is already in the log.

use super::tail::TailLines;
use crate::sys::kept_fd::KeptFd;
use crate::sys::poll::is_ready;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Default capacity of a pipe, in bytes (pipe(7)).
pub(super) const DEFAULT_CAPACITY: usize = 64 << 10;
/// Capacity of a busy pipe, in bytes: the most that an unprivileged user may set (/proc/sys/fs/pipe-max-size).
pub(super) const MAX_CAPACITY: usize = 1 << 20;
/// How many bytes of each pipe are read for a worker's tail.
const LAST_BYTES: usize = 32 << 10;

/// A worker's output stream, as its pipe carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Both in one pipe: they have the same target, and their lines stay in the order in which they were printed.
    Both,
}

impl Stream {
    /// The stream with this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Both]
            .into_iter()
            .find(|stream| stream.name() == name)
    }

    /// Its name: `stdout`, `stderr` or `both`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Both => "both",
        }
    }
}

/// The worker that prints, and its last lines.
#[derive(Debug)]
pub(super) struct OutputSource {
    pub(super) pool: Arc<str>,
    pub(super) slot: u32,
    /// Stored by the child itself before exec: a fast worker prints before its start is reported.
    pid: Arc<AtomicI32>,
    /// The worker has exited; other processes may hold its pipes.
    ended: AtomicBool,
    tail: Mutex<TailLines>,
}

impl OutputSource {
    pub(super) fn new(pool: &str, slot: u32, pid: i32) -> Self {
        Self {
            pool: pool.into(),
            slot,
            pid: Arc::new(AtomicI32::new(pid)),
            ended: AtomicBool::new(false),
            tail: Mutex::default(),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(super) fn pid_cell(&self) -> Arc<AtomicI32> {
        self.pid.clone()
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// While this lock is held, nothing is consumed from the worker's pipes.
    pub(super) fn tail(&self) -> MutexGuard<'_, TailLines> {
        // A panic of another thread leaves these bytes valid.
        self.tail
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The read end of a worker's pipe. Only the writer's thread consumes; the main thread peeks when the worker exits.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) source: Arc<OutputSource>,
    pub(super) stream: Stream,
    fd: OwnedFd,
    /// What is saved of it.
    kept: KeptFd,
}

impl Pipe {
    /// Creates a pipe and the worker's end of it. That end is open for reading as well, so that the worker never gets
    /// SIGPIPE when the master is killed; and the worker's user owns it, so that the worker can open `/dev/stdout`.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left.
    pub(super) fn open(
        source: Arc<OutputSource>,
        stream: Stream,
        owner: Option<u32>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (fd, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        if let Some(uid) = owner {
            nix::unistd::fchown(&write, Some(uid.into()), None)?;
        }
        let path = format!("/proc/self/fd/{}", write.as_raw_fd());
        let both = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_CLOEXEC.bits())
            .open(path);
        let end = match both {
            Ok(both) => both.into(),
            // Without /proc, fall back to the write end, made blocking.
            Err(_) => {
                fcntl(&write, FcntlArg::F_SETFL(OFlag::O_WRONLY))?;
                write
            }
        };
        Ok((Self::of(source, stream, fd)?, end))
    }

    /// Takes over the read end of an existing pipe.
    ///
    /// # Errors
    /// EBADF: it is not a pipe.
    pub(super) fn of(source: Arc<OutputSource>, stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        size(&fd)?;
        let kept = KeptFd::of(&fd)?;
        Ok(Self {
            source,
            stream,
            fd,
            kept,
        })
    }

    /// The inode number of the pipe, which no other open pipe has.
    pub(super) fn inode(&self) -> u64 {
        self.kept.inode()
    }

    /// What the next master needs to go on reading it.
    pub(super) fn kept(&self) -> KeptFd {
        self.kept
    }

    /// How many bytes it holds when full.
    pub(super) fn capacity(&self) -> usize {
        size(&self.fd).unwrap_or(DEFAULT_CAPACITY)
    }

    /// Whether a write would block. poll(2) tells that only for a write end, so one is opened briefly; false if
    /// that fails.
    pub(super) fn is_full(&self) -> bool {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = (OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits();
        let Ok(write) = OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
        else {
            return false;
        };
        !is_ready(&write, PollFlags::POLLOUT)
    }

    /// Grows the pipe as far as allowed and returns its capacity in bytes. If the user's share of pipe memory is used
    /// up (EPERM), it stays as it is.
    pub(super) fn grow(&self) -> usize {
        grow(&self.fd)
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn size(fd: impl AsFd) -> nix::Result<usize> {
    fcntl(fd, FcntlArg::F_GETPIPE_SZ).map(|size| size as usize)
}

/// Makes a pipe as large as allowed, and returns its capacity in bytes.
pub(super) fn grow(fd: impl AsFd) -> usize {
    let mut wanted = MAX_CAPACITY;
    while wanted > DEFAULT_CAPACITY
        && fcntl(fd.as_fd(), FcntlArg::F_SETPIPE_SZ(wanted as i32)).is_err()
    {
        wanted /= 2;
    }
    size(fd).unwrap_or(DEFAULT_CAPACITY)
}

/// The result of peeking into a pipe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// This many bytes, which are still in the pipe.
    Bytes(usize),
    Nothing,
    /// The pipe is empty and has no writer any more.
    End,
}

/// A scratch pipe for peeking into others with tee(2).
///
/// tee(2) shares the pages, and the writer goes on filling the last page. splice(2) would close that page, and each
/// short line after it would take a whole one.
#[derive(Debug)]
pub(super) struct PipePeek {
    read: OwnedFd,
    write: OwnedFd,
    /// /dev/null, into which consumed bytes are spliced.
    null: Option<OwnedFd>,
    capacity: usize,
}

impl PipePeek {
    /// Creates the scratch pipe.
    ///
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let null = OpenOptions::new()
            .write(true)
            .open("/dev/null")
            .ok()
            .map(OwnedFd::from);
        Ok(Self {
            read,
            write,
            null,
            capacity: DEFAULT_CAPACITY,
        })
    }

    /// Whether a pipe of this capacity can be peeked as a whole.
    pub(super) fn fits(&mut self, capacity: usize) -> bool {
        if self.capacity < capacity {
            self.capacity = grow(&self.write);
        }
        self.capacity >= capacity
    }

    /// Copies the beginning of the pipe's content and leaves it there.
    pub(super) fn peek(&mut self, pipe: impl AsFd, into: &mut [u8]) -> Seen {
        match tee(
            pipe,
            &self.write,
            into.len(),
            SpliceFFlags::SPLICE_F_NONBLOCK,
        ) {
            Ok(0) => Seen::End,
            Ok(count) => {
                let mut got = 0;
                while got < count {
                    match nix::unistd::read(&self.read, &mut into[got..count]) {
                        Ok(more) if more > 0 => got += more,
                        Err(Errno::EINTR) => {}
                        _ => break,
                    }
                }
                Seen::Bytes(got)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Seen::Nothing,
            // ENOMEM: tried again when more is written.
            Err(_) => Seen::Nothing,
        }
    }

    /// The last bytes in the pipe, which stay there: [`LAST_BYTES`] at most. Of a pipe larger than the scratch pipe,
    /// only the beginning is seen.
    fn tail(&mut self, pipe: &Pipe) -> Vec<u8> {
        let copy = |to: &Self| {
            let copied = tee(
                pipe,
                &to.write,
                to.capacity,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            );
            copied.unwrap_or(0)
        };
        // Mostly it is empty, and its capacity does not matter.
        let mut count = copy(self);
        if count == 0 {
            return Vec::new();
        }
        if self.capacity < pipe.capacity() {
            drain(&self.read, count, self.null.as_ref());
            self.fits(pipe.capacity());
            count = copy(self);
        }
        let skip = count.saturating_sub(LAST_BYTES);
        drain(&self.read, skip, self.null.as_ref());
        let mut tail = vec![0; count - skip];
        let mut got = 0;
        while got < tail.len() {
            match nix::unistd::read(&self.read, &mut tail[got..]) {
                Ok(more) if more > 0 => got += more,
                Err(Errno::EINTR) => {}
                _ => break,
            }
        }
        tail.truncate(got);
        tail
    }

    /// Removes `count` bytes, which have been written, from the pipe.
    pub(super) fn consume(&self, pipe: &Pipe, count: usize) {
        drain(pipe, count, self.null.as_ref());
    }

    /// A worker's last lines: those that were written, then those that are still in its pipes.
    pub(super) fn tail_with_unread<'a>(
        &mut self,
        source: &OutputSource,
        pipes: impl Iterator<Item = &'a Pipe>,
    ) -> Vec<String> {
        let tail = source.tail();
        let mut all = tail.clone();
        for pipe in pipes {
            let tail = self.tail(pipe);
            all.push(&tail);
        }
        drop(tail);
        all.lines()
    }
}

/// Discards `count` bytes of a pipe, or as many as it holds.
pub(super) fn drain(pipe: impl AsFd, mut count: usize, null: Option<&OwnedFd>) {
    while count > 0 {
        let moved = match null {
            Some(null) => splice(
                pipe.as_fd(),
                None,
                null,
                None,
                count,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            ),
            None => {
                let mut scratch = [0; 4096];
                let max = count.min(scratch.len());
                nix::unistd::read(pipe.as_fd(), &mut scratch[..max])
            }
        };
        match moved {
            Ok(moved) if moved > 0 => count -= moved,
            Err(Errno::EINTR) => {}
            // The worker may have read its own output and emptied the pipe.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pipe() -> (Pipe, std::fs::File) {
        let source = Arc::new(OutputSource::new("web", 0, 1));
        let (pipe, end) = Pipe::open(source, Stream::Both, None).expect("a pipe");
        (pipe, end.into())
    }

    #[test]
    fn peeked_bytes_stay_until_they_are_consumed() {
        let (pipe, mut end) = pipe();
        let mut pipe_peek = PipePeek::new().expect("a pipe_peek");
        let mut seen = vec![0; MAX_CAPACITY];
        assert_eq!(pipe_peek.peek(&pipe, &mut seen), Seen::Nothing);
        end.write_all(b"one\ntw").expect("written");
        assert_eq!(pipe_peek.peek(&pipe, &mut seen), Seen::Bytes(6));
        end.write_all(b"o\n").expect("written");
        assert_eq!(pipe_peek.peek(&pipe, &mut seen), Seen::Bytes(8));
        pipe_peek.consume(&pipe, 4);
        assert_eq!(pipe_peek.peek(&pipe, &mut seen), Seen::Bytes(4));
        assert_eq!(&seen[..4], b"two\n");
        drop(end);
        assert_eq!(pipe_peek.peek(&pipe, &mut seen), Seen::Bytes(4));
        pipe_peek.consume(&pipe, 4);
        assert_eq!(
            pipe_peek.peek(&pipe, &mut seen),
            Seen::End,
            "the worker's end counted as reader and writer"
        );
    }

    /// Peeking must not cost the writer its pages: 100-byte lines would fill a pipe of 16 pages with 16 lines.
    #[test]
    fn peeking_lets_short_lines_share_a_page() {
        let (pipe, mut end) = pipe();
        let mut pipe_peek = PipePeek::new().expect("a pipe_peek");
        let mut seen = vec![0; DEFAULT_CAPACITY];
        for count in 1..=400 {
            end.write_all(&[b'x'; 100]).expect("written");
            assert_eq!(pipe_peek.peek(&pipe, &mut seen), Seen::Bytes(count * 100));
        }
        pipe_peek.consume(&pipe, 150);
        end.write_all(&[b'y'; 100]).expect("written");
        assert_eq!(
            pipe_peek.peek(&pipe, &mut seen),
            Seen::Bytes(400 * 100 - 50)
        );
    }

    #[test]
    fn the_tail_includes_lines_still_in_the_pipe() {
        let (pipe, mut end) = pipe();
        let mut pipe_peek = PipePeek::new().expect("a pipe_peek");
        pipe.source.tail().push(b"written\n");
        pipe.grow();
        end.write_all(&b"0123456789\n".repeat(50_000))
            .expect("written");
        end.write_all(b"end\nof it").expect("written");
        let tail = pipe_peek.tail_with_unread(&pipe.source, std::iter::once(&pipe));
        assert_eq!(tail.len(), 20);
        assert_eq!(tail[17..], ["0123456789", "end", "of it"]);
        let mut seen = vec![0; MAX_CAPACITY];
        assert_eq!(
            pipe_peek.peek(&pipe, &mut seen),
            Seen::Bytes(550_009),
            "nothing was consumed"
        );
    }
}
