//! Where the log goes: stderr, or a file that is rotated by size. Errors are counted, never fatal, and told as soon as
//! something can be written again.

use crate::plan::LogFormat;
use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// When a file is put aside, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Bytes.
    pub max_size: u64,
    pub keep: u32,
}

#[derive(Debug)]
enum Sheet {
    Stderr,
    File { path: PathBuf, file: Option<File>, size: u64, rotation: Rotation },
}

/// The log, as the pen holds it.
#[derive(Debug)]
pub struct Paper {
    sheet: Sheet,
    pub(super) format: LogFormat,
    lost_bytes: u64,
}

impl Paper {
    pub fn stderr(format: LogFormat) -> Self {
        Self { sheet: Sheet::Stderr, format, lost_bytes: 0 }
    }

    /// # Errors
    /// The file cannot be opened, or is a link: a log is never written through one.
    pub fn file(path: PathBuf, format: LogFormat, rotation: Rotation) -> io::Result<Self> {
        let file = open(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { sheet: Sheet::File { path, file: Some(file), size, rotation }, format, lost_bytes: 0 })
    }

    /// Opens the file again by its name; the old one stays in use when that fails.
    pub fn reopen(&mut self) {
        if let Sheet::File { path, file, size, .. } = &mut self.sheet
            && let Ok(new) = open(path)
        {
            *size = new.metadata().map_or(0, |m| m.len());
            *file = Some(new);
        }
    }

    /// Writes all of it, or counts it as lost.
    pub fn write(&mut self, bytes: &[u8]) {
        self.rotate(bytes.len() as u64);
        if self.lost_bytes > 0 {
            let told = format!("rotad: {} bytes of log were lost: the log could not be written\n", self.lost_bytes);
            if self.put(told.as_bytes()).is_ok() {
                self.lost_bytes = 0;
            }
        }
        if let Err(left) = self.put(bytes) {
            self.lost_bytes += left as u64;
        }
    }

    /// On failure: how many bytes were not written.
    fn put(&mut self, bytes: &[u8]) -> Result<(), usize> {
        match &mut self.sheet {
            Sheet::Stderr => write_all(io::stderr().as_fd(), bytes),
            Sheet::File { path, file, size, .. } => {
                if file.is_none() {
                    *file = open(path).ok();
                }
                let Some(open) = file else { return Err(bytes.len()) };
                let done = write_all(open.as_fd(), bytes);
                *size += (bytes.len() - done.err().unwrap_or(0)) as u64;
                done
            }
        }
    }

    fn rotate(&mut self, more: u64) {
        let Sheet::File { path, file, size, rotation } = &mut self.sheet else { return };
        if rotation.max_size == 0 || *size == 0 || *size + more <= rotation.max_size {
            return;
        }
        for number in (1..=rotation.keep).rev() {
            let from = if number == 1 { path.clone() } else { numbered(path, number - 1) };
            std::fs::rename(from, numbered(path, number)).ok();
        }
        if rotation.keep == 0 {
            std::fs::remove_file(&path).ok();
        }
        *file = open(path).ok();
        *size = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |m| m.len());
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags((OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY).bits())
        .open(path)
}

/// write(2) until all is out; waits where the other side is slow (a pipe set to O_NONBLOCK by somebody else).
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), usize> {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(0) => return Err(bytes.len()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE).ok();
            }
            Err(_) => return Err(bytes.len()),
        }
    }
    Ok(())
}

/// A writer that cannot fail, for messages before the pen exists.
pub fn complain(text: &str) {
    let mut line = text.to_owned();
    line.push('\n');
    io::stderr().write_all(line.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_by_size_and_keeps_as_many() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.log");
        let rotation = Rotation { max_size: 10, keep: 2 };
        let mut paper = Paper::file(path.clone(), LogFormat::Text, rotation).expect("opened");
        for line in ["aaaaaaaa\n", "bbbbbbbb\n", "cccccccc\n", "dddddddd\n"] {
            paper.write(line.as_bytes());
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "dddddddd\n");
        assert_eq!(std::fs::read_to_string(numbered(&path, 1)).expect("read"), "cccccccc\n");
        assert_eq!(std::fs::read_to_string(numbered(&path, 2)).expect("read"), "bbbbbbbb\n");
        assert!(!numbered(&path, 3).exists());
    }

    #[test]
    fn a_full_disk_is_counted_and_told() {
        let full = File::options().write(true).open("/dev/full").expect("opened");
        assert_eq!(write_all(full.as_fd(), b"12345"), Err(5));
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.log");
        let mut paper = Paper::file(path.clone(), LogFormat::Text, Rotation { max_size: 0, keep: 0 }).expect("opened");
        paper.lost_bytes = 7;
        paper.write(b"on\n");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains("7 bytes of log were lost") && text.ends_with("on\n"), "{text}");
    }

    #[test]
    fn never_through_a_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("m.log");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("linked");
        assert!(Paper::file(path, LogFormat::Text, Rotation { max_size: 0, keep: 0 }).is_err());
    }
}
