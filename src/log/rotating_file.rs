//! A log file that is rotated by size, always between two lines.

use super::open::{self, Found, numbered};
use crate::plan::FileAccess;
use nix::fcntl::renameat;
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};
use std::io;
use std::path::{Path, PathBuf};

/// When a file is put aside, how many are kept, and whose they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes; 0: never.
    pub max_size: u64,
    pub keep: u32,
    pub access: FileAccess,
}

/// Who left a line unfinished at the end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfinished {
    Nobody,
    /// Somebody of whom nothing more will come: a dead worker, or a dead master.
    Gone,
    By(u64),
}

#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    open: Option<Found>,
    unfinished: Unfinished,
    /// A rotation failed: not before the file has this size.
    not_before: u64,
}

impl RotatingFile {
    /// A file that is opened when something is to be written.
    pub(super) fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self { path, rotation, open: None, unfinished: Unfinished::Nobody, not_before: 0 }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn set_rotation(&mut self, rotation: Rotation) {
        let changed = rotation.access != self.rotation.access;
        self.rotation = rotation;
        self.not_before = 0;
        if let Some(found) = self.open.as_ref().filter(|_| changed) {
            self.hand_over(found, self.rotation.access);
        }
    }

    /// Gives the open file its owner, group and mode.
    fn hand_over(&self, found: &Found, access: FileAccess) {
        if let Err(error) = open::hand_over(&found.file, access) {
            tracing::warn!("the log {} cannot get its owner or mode: {error}", self.path.display());
        }
    }

    /// Opens the file by its name, whatever is open now; that stays in use when it fails.
    ///
    /// # Errors
    /// See [`open::open`].
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        let found = open::open(&self.path, self.rotation.access)?;
        if let Some(uid) = found.taken_from {
            tracing::warn!(
                "the log {} belonged to uid {uid}, in a folder that others may change: it is the master's own now, for \
                 nobody else; `user` in [pool.NAME.log] gives it away",
                self.path.display()
            );
        }
        self.hand_over(&found, self.rotation.access);
        let same = self.open.as_ref().is_some_and(|old| is_same(old, &found));
        if !same {
            self.unfinished = if ends_whole(&found) { Unfinished::Nobody } else { Unfinished::Gone };
            self.not_before = 0;
        }
        self.open = Some(found);
        Ok(())
    }

    /// Writes `text` of the writer with this number, and says how much of it is in the file: all of it, or whole lines,
    /// or nothing. What is missing can be tried again.
    ///
    /// # Errors
    /// Why it is not all, and how much is written: ENOSPC, EDQUOT, EROFS, EIO.
    pub(super) fn write(&mut self, writer: u64, text: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < text.len() {
            self.make_ready().map_err(|error| (done, error))?;
            if self.unfinished != Unfinished::Nobody && self.unfinished != Unfinished::By(writer) {
                self.append(b"\n").map_err(|(_, error)| (done, error))?;
                self.unfinished = Unfinished::Nobody;
            }
            let Some(fits) = self.fits(&text[done..]) else {
                self.rotate().map_err(|error| (done, error))?;
                continue;
            };
            let piece = &text[done..done + fits];
            let written = self.append(piece);
            let count = written.as_ref().map_or_else(|(count, _)| *count, |()| piece.len());
            done += count;
            if count > 0 {
                let whole = text[done - 1] == b'\n';
                self.unfinished = if whole { Unfinished::Nobody } else { Unfinished::By(writer) };
            }
            written.map_err(|(_, error)| (done, error))?;
        }
        Ok(())
    }

    /// Nothing more comes from this writer.
    pub(super) fn forget(&mut self, writer: u64) {
        if self.unfinished == Unfinished::By(writer) {
            self.unfinished = Unfinished::Gone;
        }
    }

    /// A file that was removed is made again.
    fn make_ready(&mut self) -> io::Result<()> {
        match &self.open {
            None => self.reopen()?,
            Some(found) if found.plain => {
                let stat = fstat(&found.file)?;
                if stat.st_nlink == 0 {
                    self.reopen()?;
                } else if let Some(found) = &mut self.open {
                    // Somebody else may have emptied it.
                    found.size = stat.st_size as u64;
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// How much of the text belongs into this file: whole lines that have room, or one that has room nowhere. None: the
    /// file has to be put aside first.
    fn fits(&self, text: &[u8]) -> Option<usize> {
        let max = self.rotation.max_size;
        let Some(found) = self.open.as_ref().filter(|found| found.plain && max > 0) else { return Some(text.len()) };
        let left = max.max(self.not_before).saturating_sub(found.size);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if text.len() <= left {
            return Some(text.len());
        }
        let newline = text[..left].iter().rposition(|byte| *byte == b'\n');
        let between = self.unfinished == Unfinished::Nobody || found.size >= 2 * max;
        match newline {
            Some(newline) => Some(newline + 1),
            None if found.size > 0 && between => None,
            None => Some(text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |newline| newline + 1)),
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let Some(found) = &self.open else { return Ok(()) };
        let (folder, name, keep) = (&found.folder, &found.name, self.rotation.keep);
        for number in (2..=keep).rev() {
            renameat(folder, &*numbered(name, number - 1), folder, &*numbered(name, number)).ok();
        }
        let aside = if keep == 0 {
            unlinkat(folder, &**name, UnlinkatFlags::NoRemoveDir)
        } else {
            renameat(folder, &**name, folder, &*numbered(name, 1))
        };
        if let Err(error) = aside {
            self.not_before = found.size + self.rotation.max_size;
            let path = self.path.display();
            tracing::warn!("the log {path} cannot be rotated, and grows on: {error}");
            return Ok(());
        }
        self.not_before = 0;
        self.unfinished = Unfinished::Nobody;
        // As the one that was put aside, before its first byte.
        let (before, wanted) = (open::access_of(&found.file), self.rotation.access);
        let access = FileAccess {
            mode: wanted.mode.or(before.mode),
            uid: wanted.uid.or(before.uid),
            gid: wanted.gid.or(before.gid),
        };
        let opened = open::open_in(folder, name).and_then(|opened| match opened.created {
            // Somebody was quicker: looked at as any file that was there before.
            false => open::open(&self.path, wanted).map(|found| (found.file, found.size)),
            true => Ok((opened.file, opened.stat.st_size as u64)),
        });
        let (file, size) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.open = None;
                return Err(error);
            }
        };
        if let Some(found) = &mut self.open {
            (found.file, found.size) = (file, size);
        }
        if let Some(found) = &self.open {
            self.hand_over(found, access);
        }
        Ok(())
    }

    /// Appends all of it, or on an error as many whole lines as were written.
    fn append(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        let Some(found) = &mut self.open else { return Err((0, io::ErrorKind::NotFound.into())) };
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
        // A line that is cut short is taken back: it is written as a whole later.
        let whole = text[..done].iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let end = fstat(&found.file).map_or(0, |stat| stat.st_size as u64);
        if whole < done && end == before + done as u64 && ftruncate(&found.file, (before + whole as u64) as i64).is_ok()
        {
            done = whole;
        }
        found.size = before + done as u64;
        Err((done, error))
    }
}

fn is_same(one: &Found, other: &Found) -> bool {
    let key = |found: &Found| fstat(&found.file).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    key(one).is_some_and(|one| key(other) == Some(one))
}

/// It is empty or its last byte is a newline; so too where nobody can tell.
fn ends_whole(found: &Found) -> bool {
    let mut last = [b'\n'];
    if found.plain && found.size > 0 {
        nix::sys::uio::pread(&found.file, &mut last, found.size as i64 - 1).ok();
    }
    last == [b'\n']
}

#[cfg(test)]
#[path = "rotating_file_tests.rs"]
mod tests;
