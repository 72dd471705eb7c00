//! One worker's output on its way into the master's log, and its last words.

use super::paper::Paper;
use crate::plan::LogFormat;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};

/// How many lines are kept as a worker's last words, and how many bytes of each.
const LAST_LINES: usize = 20;
const LAST_LINE_BYTES: usize = 500;
/// A line longer than this is written in pieces.
const LONGEST_LINE: usize = 16 * 1024;
/// What is read at most at a worker's death by the main thread, in bytes: the pipe's size, and some.
const AT_DEATH: usize = 128 * 1024;

/// Whose output it is.
#[derive(Clone, Debug)]
pub struct Worker {
    pub pool: String,
    pub slot: u32,
}

/// The reading end of a worker's pipe. Both the pen and, at a death, the main thread read it; neither holds the lock
/// while it writes.
#[derive(Debug)]
pub struct Stream {
    worker: Worker,
    pid: AtomicI32,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    fd: Option<OwnedFd>,
    partial: Vec<u8>,
    last: VecDeque<Vec<u8>>,
    /// Lines read by the main thread that the pen has to write.
    leftovers: Vec<Vec<u8>>,
}

impl Stream {
    /// A new pipe, and the end for the worker. That end is open for reading as well, so that the worker never gets
    /// SIGPIPE when the master is killed; and it belongs to the worker's user, who may open `/dev/stdout` again.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn open(worker: Worker, owner: Option<u32>) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        if let Some(uid) = owner {
            nix::unistd::fchown(&write, Some(uid.into()), None)?;
        }
        let flags = nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        let path = format!("/proc/self/fd/{}", write.as_raw_fd());
        let both = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_CLOEXEC.bits()).open(path);
        // Without /proc a plain end has to do.
        let end = both.map_or(write, OwnedFd::from);
        let inner = Inner { fd: Some(read), partial: Vec::new(), last: VecDeque::new(), leftovers: Vec::new() };
        Ok((Self { worker, pid: AtomicI32::new(0), inner: Mutex::new(inner) }, end))
    }

    pub fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere does not make these bytes wrong.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn with_fd<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        use std::os::fd::AsFd;
        self.lock().fd.as_ref().map(|fd| with(fd.as_fd()))
    }

    pub(super) fn close(&self) {
        self.lock().fd = None;
    }

    /// Reads once. None: nobody can write any more.
    pub(super) fn pull(&self, gulp: &mut [u8]) -> Option<Vec<Vec<u8>>> {
        let mut inner = self.lock();
        let mut lines = std::mem::take(&mut inner.leftovers);
        let Some(fd) = &inner.fd else { return if lines.is_empty() { None } else { Some(lines) } };
        match nix::unistd::read(fd, gulp) {
            Ok(0) if lines.is_empty() => None,
            Ok(count) => {
                inner.cut(&gulp[..count], &mut lines);
                Some(lines)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Some(lines),
            Err(_) => None,
        }
    }

    pub(super) fn take_leftovers(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lock().leftovers)
    }

    /// What came without a newline at the end.
    pub(super) fn take_rest(&self) -> Vec<Vec<u8>> {
        let mut inner = self.lock();
        let mut lines = std::mem::take(&mut inner.leftovers);
        let rest = std::mem::take(&mut inner.partial);
        if !rest.is_empty() {
            inner.remember(&rest);
            lines.push(rest);
        }
        lines
    }

    /// At a worker's death: reads what is in the pipe now (bounded), leaves it for the pen, and gives the last lines.
    pub fn last_words(&self) -> Vec<String> {
        let mut inner = self.lock();
        let mut gulp = vec![0; 16 * 1024];
        let mut lines = std::mem::take(&mut inner.leftovers);
        let mut total = 0;
        while total < AT_DEATH {
            let Some(fd) = &inner.fd else { break };
            match nix::unistd::read(fd, &mut gulp) {
                Ok(count) if count > 0 => {
                    total += count;
                    inner.cut(&gulp[..count], &mut lines);
                }
                _ => break,
            }
        }
        inner.leftovers = lines;
        let partial = (!inner.partial.is_empty()).then(|| inner.partial.clone());
        inner.last.iter().chain(partial.as_ref()).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Writes lines with time and origin. Control characters are written as `\x1b`: a log is read on terminals.
    pub(super) fn print(&self, lines: &[Vec<u8>], paper: &mut Paper) {
        if lines.is_empty() {
            return;
        }
        let time = crate::observe::diary::timestamp();
        let (pool, slot, pid) = (&self.worker.pool, self.worker.slot, self.pid.load(Ordering::Relaxed));
        let mut out = Vec::with_capacity(lines.iter().map(|line| line.len() + 64).sum());
        for line in lines {
            match paper.format {
                LogFormat::Text => {
                    out.extend_from_slice(format!("{time}  {pool}/{slot} [{pid}] ").as_bytes());
                    out.extend_from_slice(harmless(line).as_bytes());
                }
                LogFormat::Json => {
                    let text = String::from_utf8_lossy(line);
                    let value = serde_json::json!({
                        "timestamp": time, "pool": pool, "slot": slot, "pid": pid, "line": text
                    });
                    out.extend_from_slice(value.to_string().as_bytes());
                }
            }
            out.push(b'\n');
        }
        paper.write(&out);
    }
}

impl Inner {
    /// Cuts whole lines off.
    fn cut(&mut self, mut bytes: &[u8], lines: &mut Vec<Vec<u8>>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.remember(&line);
            lines.push(line);
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > LONGEST_LINE {
            let piece = std::mem::take(&mut self.partial);
            self.remember(&piece);
            lines.push(piece);
        }
    }

    fn remember(&mut self, line: &[u8]) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line[..line.len().min(LAST_LINE_BYTES)].to_vec());
    }
}

/// The line with control characters (C0 but tab, DEL, C1) and broken UTF-8 made visible.
pub fn harmless(line: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() && c != '\t' {
                write!(out, "\\x{:02x}", c as u32).ok();
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").ok();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn whole_lines_and_last_words() {
        let (stream, end) = Stream::open(Worker { pool: "web".into(), slot: 0 }, None).expect("a pipe");
        let mut end = std::fs::File::from(end);
        end.write_all(b"one\ntw").expect("written");
        let mut gulp = vec![0; 1024];
        assert_eq!(stream.pull(&mut gulp), Some(vec![b"one".to_vec()]));
        end.write_all(b"o\nthree").expect("written");
        assert_eq!(stream.last_words(), ["one", "two", "three"]);
        assert_eq!(stream.take_leftovers(), [b"two".to_vec()], "the pen still writes what the main thread read");
        drop(end);
        assert_eq!(stream.pull(&mut gulp), None, "no writer is left: the worker's end counted as reader and writer");
        assert_eq!(stream.take_rest(), [b"three".to_vec()]);
    }

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(harmless(b"a\x1b[2Jb\tc\xff"), "a\\x1b[2Jb\tc\\xff");
        assert_eq!(harmless("ü\u{9b}".as_bytes()), "ü\\x9b");
    }
}
