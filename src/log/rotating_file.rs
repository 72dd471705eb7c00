//! A log file that is rotated by size, always between two lines.

use super::open::{self, OpenLog, numbered};
use super::write_record::{Place, WriteRecord};
use crate::plan::FileAccess;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{fstat, fstatat};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// When a file is rotated, how many old ones are kept, and who owns them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Maximum size in bytes; 0: never rotated.
    pub max_size: u64,
    /// How many rotated files are kept.
    pub keep: u32,
    /// Owner, group and mode; what is not named stays as it is.
    pub access: FileAccess,
}

/// Which writer left an unfinished line at the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfinished {
    /// None: the file is empty or ends with a newline.
    None,
    /// A writer that has ended: an exited worker, or a killed master.
    Ended,
    /// The writer with this number.
    By(u64),
}

#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    /// What messages call it.
    shown: String,
    rotation: Rotation,
    open: Option<OpenLog>,
    unfinished: Unfinished,
    /// Which entry of the record says so to the next master.
    entry: Option<usize>,
    /// After a failed rotation: the size in bytes at which it is tried again.
    next_rotation: u64,
}

impl RotatingFile {
    /// A file that is opened at the first write.
    pub(super) fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self {
            shown: path.display().to_string(),
            path,
            rotation,
            open: None,
            unfinished: Unfinished::None,
            entry: None,
            next_rotation: 0,
        }
    }

    /// Messages call it so, and not by its path.
    pub(super) fn called(self, shown: &str) -> Self {
        Self {
            shown: shown.to_owned(),
            ..self
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Whether it ends with the beginning of a line of this writer.
    pub(super) fn is_unfinished_by(&self, writer: u64) -> bool {
        self.unfinished == Unfinished::By(writer)
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        let changed = rotation.access != self.rotation.access;
        self.rotation = rotation;
        self.next_rotation = 0;
        if let Some(found) = self.open.as_ref().filter(|_| changed) {
            self.set_access(found, self.rotation.access);
        }
    }

    /// Sets owner, group and mode of the open file.
    fn set_access(&self, found: &OpenLog, access: FileAccess) {
        if let Err(error) = open::set_access(&found.file, access) {
            tracing::warn!(
                "the log {} cannot get its owner or mode: {error}",
                self.shown
            );
        }
    }

    /// Opens the file by its name even if it is open. If that fails, the old file stays in use.
    ///
    /// # Errors
    /// See [`open::open`].
    pub(super) fn reopen(&mut self, record: &mut WriteRecord) -> io::Result<()> {
        let found = open::open(&self.path, self.rotation.access)?;
        if let Some(uid) = found.taken_from {
            tracing::warn!(
                "the log {} belonged to uid {uid}, in a directory that others can change: it belongs to the master now, and \
                 only the master can use it; set `user` in [pool.NAME.log] to give it to a user",
                self.shown
            );
        }
        self.set_access(&found, self.rotation.access);
        let same = self.open.as_ref().is_some_and(|old| is_same(old, &found));
        if !same {
            record.clear_unfinished(self.entry.take());
            self.unfinished = if ends_whole(&found) {
                Unfinished::None
            } else if let Some((entry, writer)) = record.find_unfinished(place(&found)) {
                self.entry = Some(entry);
                Unfinished::By(writer)
            } else {
                Unfinished::Ended
            };
            self.next_rotation = 0;
        }
        self.open = Some(found);
        Ok(())
    }

    /// Writes `text` of the writer with this number: all of it, or on an error some whole lines or none. The rest can
    /// be tried again.
    ///
    /// # Errors
    /// How many bytes were written, and why not all: ENOSPC, EDQUOT, EROFS, EIO.
    pub(super) fn write(
        &mut self,
        record: &mut WriteRecord,
        writer: u64,
        text: &[u8],
    ) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < text.len() {
            self.make_ready(record).map_err(|error| (done, error))?;
            if self.unfinished != Unfinished::None && self.unfinished != Unfinished::By(writer) {
                self.append(b"\n").map_err(|(_, error)| (done, error))?;
                self.set_unfinished(record, Unfinished::None);
            }
            let fits = self.fits(&text[done..]);
            if let Some(found) = &self.open {
                // Before a rotation: what was appended went to the file that gets another name.
                record.append_begins(place(found), done, fits.unwrap_or(0));
            }
            let Some(fits) = fits else {
                self.rotate(record).map_err(|error| (done, error))?;
                continue;
            };
            let piece = &text[done..done + fits];
            let written = self.append(piece);
            let count = written
                .as_ref()
                .map_or_else(|(count, _)| *count, |()| piece.len());
            done += count;
            if count > 0 {
                let whole = text[done - 1] == b'\n';
                let unfinished = match whole {
                    true => Unfinished::None,
                    false => Unfinished::By(writer),
                };
                self.set_unfinished(record, unfinished);
            }
            written.map_err(|(_, error)| (done, error))?;
        }
        Ok(())
    }

    /// This writer writes no more.
    pub(super) fn writer_ended(&mut self, record: &mut WriteRecord, writer: u64) {
        if self.unfinished == Unfinished::By(writer) {
            self.set_unfinished(record, Unfinished::Ended);
        }
    }

    fn set_unfinished(&mut self, record: &mut WriteRecord, unfinished: Unfinished) {
        self.unfinished = unfinished;
        let open = self.open.as_ref();
        match (unfinished, open) {
            (Unfinished::By(writer), Some(found)) => {
                self.entry = record.set_unfinished(self.entry, place(found), writer);
            }
            _ => record.clear_unfinished(self.entry.take()),
        }
    }

    /// Opens the file if needed; a removed file is created again.
    fn make_ready(&mut self, record: &mut WriteRecord) -> io::Result<()> {
        match &self.open {
            None => self.reopen(record)?,
            Some(found) if found.plain => {
                let stat = fstat(&found.file)?;
                if stat.st_nlink == 0 {
                    self.reopen(record)?;
                } else if let Some(found) = &mut self.open {
                    // Another program may have truncated it.
                    found.size = stat.st_size as u64;
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// How many bytes of the text go into this file: the whole lines that fit, or one line that fits into no file.
    /// None: the file has to be rotated first.
    fn fits(&self, text: &[u8]) -> Option<usize> {
        let max = self.rotation.max_size;
        let Some(found) = self.open.as_ref().filter(|found| found.plain && max > 0) else {
            return Some(text.len());
        };
        let left = max.max(self.next_rotation).saturating_sub(found.size);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if text.len() <= left {
            return Some(text.len());
        }
        let newline = text[..left].iter().rposition(|byte| *byte == b'\n');
        let between = self.unfinished == Unfinished::None || found.size >= 2 * max;
        match newline {
            Some(newline) => Some(newline + 1),
            None if found.size > 0 && between => None,
            None => Some(
                text.iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(text.len(), |newline| newline + 1),
            ),
        }
    }

    /// The files before move up to the first number that is free: a master that dies in between leaves such a number, and
    /// the next rotation drops no file for it.
    fn rotate(&mut self, record: &mut WriteRecord) -> io::Result<()> {
        let Some(found) = &self.open else {
            return Ok(());
        };
        let (dir, name, keep) = (&found.dir, &found.name, self.rotation.keep);
        let exists = |number: u32| {
            fstatat(dir, &*numbered(name, number), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
        };
        let last = (1..keep).find(|number| !exists(*number)).unwrap_or(keep);
        for number in (2..=last).rev() {
            renameat(
                dir,
                &*numbered(name, number - 1),
                dir,
                &*numbered(name, number),
            )
            .ok();
        }
        let moved = if keep == 0 {
            unlinkat(dir, &**name, UnlinkatFlags::NoRemoveDir)
        } else {
            renameat(dir, &**name, dir, &*numbered(name, 1))
        };
        if let Err(error) = moved {
            self.next_rotation = found.size + self.rotation.max_size;
            let path = &self.shown;
            tracing::warn!("the log {path} cannot be rotated, and grows further: {error}");
            return Ok(());
        }
        self.next_rotation = 0;
        self.unfinished = Unfinished::None;
        record.clear_unfinished(self.entry.take());
        // The new file gets the attributes of the old one before its first byte.
        let (before, wanted) = (open::access_of(&found.file), self.rotation.access);
        let access = FileAccess {
            mode: wanted.mode.or(before.mode),
            uid: wanted.uid.or(before.uid),
            gid: wanted.gid.or(before.gid),
        };
        let opened = open::open_in(dir, name).and_then(|opened| match opened.created {
            // Another program created it first: check it like any existing file.
            false => open::open(&self.path, wanted)
                .map(|found| (found.file, found.size, found.device, found.inode)),
            true => {
                let stat = opened.stat;
                Ok((opened.file, stat.st_size as u64, stat.st_dev, stat.st_ino))
            }
        });
        let (file, size, device, inode) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.open = None;
                return Err(error);
            }
        };
        if let Some(found) = &mut self.open {
            (found.file, found.size) = (file, size);
            (found.device, found.inode) = (device, inode);
        }
        if let Some(found) = &self.open {
            self.set_access(found, access);
        }
        Ok(())
    }

    /// Appends all of it; on an error, as many whole lines as possible.
    fn append(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        let Some(found) = &mut self.open else {
            return Err((0, io::ErrorKind::NotFound.into()));
        };
        let before = found.size;
        let mut done = 0;
        let error = loop {
            match nix::unistd::write(&found.file, &text[done..]) {
                Ok(0) => break io::ErrorKind::WriteZero.into(),
                Ok(count) => done += count,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => break error.into(),
            }
            if done == text.len() {
                found.size += done as u64;
                return Ok(());
            }
        };
        // A truncated line is removed again and written as a whole later.
        let whole = text[..done]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        let end = fstat(&found.file).map_or(0, |stat| stat.st_size as u64);
        if whole < done
            && end == before + done as u64
            && ftruncate(&found.file, (before + whole as u64) as i64).is_ok()
        {
            done = whole;
        }
        found.size = before + done as u64;
        Err((done, error))
    }
}

/// Where the next append goes.
fn place(found: &OpenLog) -> Place {
    Place {
        fd: found.file.as_raw_fd(),
        device: found.device,
        inode: found.inode,
        size: found.size,
    }
}

fn is_same(one: &OpenLog, other: &OpenLog) -> bool {
    (one.device, one.inode) == (other.device, other.inode)
}

/// Whether the file is empty or ends with a newline; true if that cannot be read.
fn ends_whole(found: &OpenLog) -> bool {
    let mut last = [b'\n'];
    if found.plain && found.size > 0 {
        nix::sys::uio::pread(&found.file, &mut last, found.size as i64 - 1).ok();
    }
    last == [b'\n']
}

#[cfg(test)]
#[path = "rotating_file_tests.rs"]
mod tests;
