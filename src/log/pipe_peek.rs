//! The way of a worker's output to the pen: a pipe, looked at before it is emptied. What is in the pipe survives the
//! master; what the pen has taken out it has written before.

use super::tail::TailLines;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A pipe as it is born, in bytes (pipe(7)).
pub(super) const SMALL: usize = 64 << 10;
/// A pipe that is busy, in bytes: what an ordinary user may ask for at most (/proc/sys/fs/pipe-max-size).
pub(super) const LARGE: usize = 1 << 20;
/// How much is read at most for last words, in bytes, of each pipe.
const LAST_BYTES: usize = 32 << 10;

/// Which output of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
    /// Both in one pipe: they have the same target, and their lines come in the order in which they were printed.
    Both,
}

impl Stream {
    pub fn named(name: &str) -> Option<Self> {
        [Self::Stdout, Self::Stderr, Self::Both].into_iter().find(|stream| stream.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Both => "both",
        }
    }
}

/// Who prints: a worker, and what it said last.
#[derive(Debug)]
pub(super) struct OutputSource {
    pub(super) pool: Arc<str>,
    pub(super) slot: u32,
    /// Written by the half-born worker itself: a fast one prints before its birth is reported.
    pid: Arc<AtomicI32>,
    /// The worker has ended; its pipes may be held by others.
    ended: AtomicBool,
    words: Mutex<TailLines>,
}

impl OutputSource {
    pub(super) fn new(pool: &str, slot: u32, pid: i32) -> Self {
        Self {
            pool: pool.into(),
            slot,
            pid: Arc::new(AtomicI32::new(pid)),
            ended: AtomicBool::new(false),
            words: Mutex::default(),
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

    /// While this is held, nothing is taken out of the worker's pipes.
    pub(super) fn words(&self) -> MutexGuard<'_, TailLines> {
        // A panic elsewhere does not make these bytes wrong.
        self.words.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The reading end of a worker's pipe. The pen alone takes something out; the main thread looks in at a death.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) speaker: Arc<OutputSource>,
    pub(super) stream: Stream,
    fd: OwnedFd,
}

impl Pipe {
    /// A new pipe, and the end for the worker. That end is open for reading as well, so that the worker never gets
    /// SIGPIPE when the master is killed; and it belongs to the worker's user, who may open `/dev/stdout` again.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(super) fn open(speaker: Arc<OutputSource>, stream: Stream, owner: Option<u32>) -> io::Result<(Self, OwnedFd)> {
        let (fd, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        if let Some(uid) = owner {
            nix::unistd::fchown(&write, Some(uid.into()), None)?;
        }
        let path = format!("/proc/self/fd/{}", write.as_raw_fd());
        let both = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_CLOEXEC.bits()).open(path);
        let end = match both {
            Ok(both) => both.into(),
            // Without /proc a plain end has to do, and one that waits.
            Err(_) => {
                fcntl(&write, FcntlArg::F_SETFL(OFlag::O_WRONLY))?;
                write
            }
        };
        Ok((Self { speaker, stream, fd }, end))
    }

    /// The reading end of a pipe that is there already.
    ///
    /// # Errors
    /// The kernel's: not a pipe.
    pub(super) fn of(speaker: Arc<OutputSource>, stream: Stream, fd: OwnedFd) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        size(&fd)?;
        Ok(Self { speaker, stream, fd })
    }

    /// The number by which the kernel knows the pipe.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn inode(&self) -> io::Result<u64> {
        Ok(nix::sys::stat::fstat(&self.fd)?.st_ino)
    }

    /// How much it holds, in bytes.
    pub(super) fn capacity(&self) -> usize {
        size(&self.fd).unwrap_or(SMALL)
    }

    /// Whether a writer would have to wait. The reading end cannot be asked (poll(2) tells a writer alone), so a writing
    /// one is opened for a moment; where that cannot be done, the answer is no.
    pub(super) fn is_full(&self) -> bool {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = (OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits();
        let Ok(write) = OpenOptions::new().write(true).custom_flags(flags).open(path) else { return false };
        let mut fds = [PollFd::new(write.as_fd(), PollFlags::POLLOUT)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }

    /// Makes it as large as it may be. The user's share of pipe memory may be used up (EPERM): then it stays.
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

fn grow(fd: impl AsFd) -> usize {
    let mut wanted = LARGE;
    while wanted > SMALL && fcntl(fd.as_fd(), FcntlArg::F_SETPIPE_SZ(wanted as i32)).is_err() {
        wanted /= 2;
    }
    size(fd).unwrap_or(SMALL)
}

/// What was seen in a pipe.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// So many bytes, which are still in it.
    Bytes(usize),
    Nothing,
    /// Nothing, and nobody is left who could write.
    End,
}

/// A pipe of our own that shows what is in another one (tee(2)).
///
/// A copy of the pages' addresses alone is made, and the writer goes on filling up the last page: splicing would end
/// it, and each short line after that would take a page.
#[derive(Debug)]
pub(super) struct PipePeek {
    read: OwnedFd,
    write: OwnedFd,
    /// Where what was written goes.
    null: Option<OwnedFd>,
    capacity: usize,
}

impl PipePeek {
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let null = OpenOptions::new().write(true).open("/dev/null").ok().map(OwnedFd::from);
        Ok(Self { read, write, null, capacity: SMALL })
    }

    /// Whether it shows a pipe of this capacity as a whole.
    pub(super) fn fits(&mut self, capacity: usize) -> bool {
        if self.capacity < capacity {
            self.capacity = grow(&self.write);
        }
        self.capacity >= capacity
    }

    /// Copies what is in the pipe, from its beginning, and leaves it there.
    pub(super) fn look(&mut self, pipe: &Pipe, into: &mut [u8]) -> Seen {
        match tee(pipe, &self.write, into.len(), SpliceFFlags::SPLICE_F_NONBLOCK) {
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
            // Out of memory: it is looked at again when more is written.
            Err(_) => Seen::Nothing,
        }
    }

    /// The last bytes in the pipe, which stay there. Bounded; a pipe larger than the glass shows its beginning alone.
    fn tail(&mut self, pipe: &Pipe) -> Vec<u8> {
        let capacity = pipe.capacity();
        self.fits(capacity);
        let Ok(count) = tee(pipe, &self.write, capacity, SpliceFFlags::SPLICE_F_NONBLOCK) else { return Vec::new() };
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

    /// Takes so many bytes out of the pipe. They have been written.
    pub(super) fn take_out(&self, pipe: &Pipe, count: usize) {
        drain(pipe, count, self.null.as_ref());
    }

    /// What a worker said last: the lines that were written, and those that still wait in its pipes.
    pub(super) fn last_words<'a>(
        &mut self,
        speaker: &OutputSource,
        pipes: impl Iterator<Item = &'a Pipe>,
    ) -> Vec<String> {
        let words = speaker.words();
        let mut all = words.clone();
        for pipe in pipes {
            let tail = self.tail(pipe);
            all.hear(&tail);
        }
        drop(words);
        all.lines()
    }
}

/// Moves `count` bytes out of a pipe into nowhere.
fn drain(pipe: impl AsFd, mut count: usize, null: Option<&OwnedFd>) {
    while count > 0 {
        let moved = match null {
            Some(null) => splice(pipe.as_fd(), None, null, None, count, SpliceFFlags::SPLICE_F_NONBLOCK),
            None => {
                let mut scratch = [0; 4096];
                let most = count.min(scratch.len());
                nix::unistd::read(pipe.as_fd(), &mut scratch[..most])
            }
        };
        match moved {
            Ok(moved) if moved > 0 => count -= moved,
            Err(Errno::EINTR) => {}
            // Somebody else has emptied it: a worker may read its own output.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pipe() -> (Pipe, std::fs::File) {
        let speaker = Arc::new(OutputSource::new("web", 0, 1));
        let (pipe, end) = Pipe::open(speaker, Stream::Both, None).expect("a pipe");
        (pipe, end.into())
    }

    #[test]
    fn what_is_seen_stays_until_it_is_taken_out() {
        let (pipe, mut end) = pipe();
        let mut glass = PipePeek::new().expect("a glass");
        let mut seen = vec![0; LARGE];
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Nothing);
        end.write_all(b"one\ntw").expect("written");
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(6));
        end.write_all(b"o\n").expect("written");
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(8));
        glass.take_out(&pipe, 4);
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(4));
        assert_eq!(&seen[..4], b"two\n");
        drop(end);
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(4));
        glass.take_out(&pipe, 4);
        assert_eq!(glass.look(&pipe, &mut seen), Seen::End, "the worker's end counted as reader and writer");
    }

    /// Looking must not cost the writer its pages: 100-byte lines would fill a pipe of 16 pages with 16 lines.
    #[test]
    fn short_lines_share_a_page_though_somebody_looks() {
        let (pipe, mut end) = pipe();
        let mut glass = PipePeek::new().expect("a glass");
        let mut seen = vec![0; SMALL];
        for count in 1..=400 {
            end.write_all(&[b'x'; 100]).expect("written");
            assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(count * 100));
        }
        glass.take_out(&pipe, 150);
        end.write_all(&[b'y'; 100]).expect("written");
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(400 * 100 - 50));
    }

    #[test]
    fn last_words_are_the_written_ones_and_those_in_the_pipe() {
        let (pipe, mut end) = pipe();
        let mut glass = PipePeek::new().expect("a glass");
        pipe.speaker.words().hear(b"written\n");
        pipe.grow();
        end.write_all(&b"0123456789\n".repeat(50_000)).expect("written");
        end.write_all(b"end\nof it").expect("written");
        let words = glass.last_words(&pipe.speaker, std::iter::once(&pipe));
        assert_eq!(words.len(), 20);
        assert_eq!(words[17..], ["0123456789", "end", "of it"]);
        let mut seen = vec![0; LARGE];
        assert_eq!(glass.look(&pipe, &mut seen), Seen::Bytes(550_009), "nothing was taken out");
    }
}
