//! The pid file. It gets its name when it is complete and locked, is never written through a symlink, and is removed only
//! while it is still ours.

use super::RuntimeDirError;
use super::dir::{TrustedDir, fstat_file};
use super::lock::{LockOwner, SPAWN_WAIT, exiting, try_lock};
use crate::event_loop::clock::Deadline;
use crate::sys::kept_fd::{FdTable, KeptFd};
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{AccessFlags, geteuid};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The pid file of this master, before and after it is written.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    name: String,
    directory: TrustedDir,
    /// The written file, kept open for its lock, and so that its inode number is not reused.
    written: Option<File>,
}

/// What is saved of a pid file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedPidFile {
    path: OsString,
    name: String,
    directory: KeptFd,
    written: Option<KeptFd>,
}

impl PidFile {
    /// What the next master needs to go on with it.
    pub(super) fn saved(&self) -> io::Result<SavedPidFile> {
        Ok(SavedPidFile {
            path: self.path.clone().into_os_string(),
            name: self.name.clone(),
            directory: KeptFd::of(&self.directory.fd)?,
            written: self.written.as_ref().map(KeptFd::of).transpose()?,
        })
    }

    /// Goes on with the pid file of a dead master. It has that one's pid until [`PidFile::write`].
    pub(super) fn restore(saved: SavedPidFile, table: &mut FdTable) -> io::Result<Self> {
        let mut file = Self {
            path: saved.path.into(),
            name: saved.name,
            directory: TrustedDir {
                fd: table.take(saved.directory)?,
            },
            written: None,
        };
        let kept = saved.written.and_then(|kept| table.take(kept).ok());
        // Its master may have died after it had written the file again, and before that was saved.
        let in_place = file.directory.identity(&file.name);
        let is_in_place =
            |fd: &OwnedFd| fstat(fd).is_ok_and(|stat| in_place == Some((stat.st_dev, stat.st_ino)));
        file.written = kept
            .or_else(|| table.take_if(is_in_place).pop())
            .map(File::from);
        Ok(file)
    }

    /// Checks that the pid file can be written: its directory is writable, and no other file has its name. Removes the pid
    /// file of a dead master, so that no script signals an unrelated process by it.
    pub(super) fn check(path: &Path) -> Result<Self, RuntimeDirError> {
        let (directory, name) = open_parent(path)?;
        let file = Self {
            path: path.to_owned(),
            name,
            directory,
            written: None,
        };
        file.remove_stale()?;
        let writable = nix::unistd::faccessat(
            &file.directory.fd,
            ".",
            AccessFlags::W_OK | AccessFlags::X_OK,
            nix::fcntl::AtFlags::AT_EACCESS,
        );
        match writable {
            // Container runtimes from before 2021 refuse the unknown call itself; then the write shows it.
            Ok(()) | Err(nix::errno::Errno::EPERM) => Ok(file),
            Err(error) => Err(file.failed("write", error.into())),
        }
    }

    /// Writes and locks the file under a temporary name, and renames it unless the name was taken meanwhile. Replaces the
    /// file that was written before.
    pub(super) fn write(&mut self) -> Result<(), RuntimeDirError> {
        let temporary = format!(".{}.{}", self.name, std::process::id());
        self.directory.unlink(&temporary).ok();
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(
            &self.directory.fd,
            temporary.as_str(),
            flags,
            Mode::from_bits_truncate(0o644),
        )
        .map_err(|error| self.failed("write", error.into()))?;
        let mut file = File::from(made);
        let written = write_pid_to(&mut file).map_err(|error| self.failed("write", error));
        let done = written.and_then(|()| {
            if self.written.is_some() && self.is_in_place() {
                let replaced = self.directory.rename(&temporary, &self.name);
                replaced.map_err(|error| self.failed("write", error.into()))
            } else {
                self.publish(&temporary)
            }
        });
        if done.is_err() {
            self.directory.unlink(&temporary).ok();
        }
        done?;
        self.written = Some(file);
        Ok(())
    }

    fn publish(&self, temporary: &str) -> Result<(), RuntimeDirError> {
        // Tried twice: a file that appeared since the check may be stale too; after that another master is active.
        for _ in 0..2 {
            self.remove_stale()?;
            let (directory, name) = (&self.directory.fd, self.name.as_str());
            match renameat2(
                directory,
                temporary,
                directory,
                name,
                RenameFlags::RENAME_NOREPLACE,
            ) {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EEXIST) => {}
                // A file system without RENAME_NOREPLACE (some network ones).
                Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
                    return self
                        .directory
                        .rename(temporary, name)
                        .map_err(|error| self.failed("write", error.into()));
                }
                Err(error) => return Err(self.failed("write", error.into())),
            }
        }
        Err(self.taken())
    }

    /// Removes a stale pid file. Fails for any other file, and if a running master holds it.
    fn remove_stale(&self) -> Result<(), RuntimeDirError> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        let stale = match openat(&self.directory.fd, self.name.as_str(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(nix::errno::Errno::ENOENT) => return Ok(()),
            Err(nix::errno::Errno::ELOOP) => return Err(self.refused("is a symbolic link")),
            Err(nix::errno::Errno::ENXIO) => return Err(self.refused("is not a regular file")),
            Err(error) => return Err(self.failed("open", error.into())),
        };
        let stat = fstat_file(&stale).map_err(|error| self.failed("look at", error.into()))?;
        if let Some(why) = objection(&stat) {
            return Err(self.refused(&why));
        }
        // The lock of the runtime directory may already be free while a killed master, or a child of it that is about to
        // become a worker, still holds this one: the last thread closes the files one after another.
        match try_lock(&stale, &stat, Deadline::after(SPAWN_WAIT))
            .map_err(|error| self.failed("lock", error))?
        {
            // All users can read it, and so lock it: only a master's lock counts.
            None | Some(LockOwner::Untrusted) => {}
            Some(LockOwner::Exiting(pid)) => {
                return Err(exiting(pid, &self.path.display().to_string()));
            }
            Some(LockOwner::Master(_) | LockOwner::Unknown) => return Err(self.taken()),
        }
        // We hold the lock; if the name is another file by now, a faster master has removed this one.
        if self.directory.identity(&self.name) == Some((stat.st_dev, stat.st_ino)) {
            self.directory
                .unlink(&self.name)
                .map_err(|error| self.failed("replace", error.into()))?;
        }
        Ok(())
    }

    /// Whether the path still is the file that we wrote; true before it is written.
    pub(super) fn is_in_place(&self) -> bool {
        let Some(stat) = self.written.as_ref().and_then(|file| fstat_file(file).ok()) else {
            return true;
        };
        self.path
            .symlink_metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == (stat.st_dev, stat.st_ino))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The written file, to be watched.
    pub(super) fn file(&self) -> Option<&File> {
        self.written.as_ref()
    }

    /// Removes the file, if it is still ours. Called at exit.
    pub(super) fn remove(&mut self) {
        if let Some(written) = self.written.take() {
            self.unlink_ours(&written);
        }
    }

    /// Removes the file of this name, if it is the one that we wrote.
    fn unlink_ours(&self, written: &File) {
        let ours = fstat_file(written).is_ok_and(|stat| {
            self.directory.identity(&self.name) == Some((stat.st_dev, stat.st_ino))
        });
        if ours {
            self.directory.unlink(&self.name).ok();
        }
    }

    /// Another file takes its place. Removes it, if it is still ours, and returns the descriptors that were saved of it.
    pub(super) fn retire(mut self) -> Vec<OwnedFd> {
        let written = self.written.take();
        if let Some(written) = &written {
            self.unlink_ours(written);
        }
        let written = written.map(OwnedFd::from);
        written.into_iter().chain([self.directory.fd]).collect()
    }

    fn failed(&self, what: &str, error: io::Error) -> RuntimeDirError {
        let path = self.path.display();
        RuntimeDirError::failed(format!(
            "failed to {what} the pid file {path}: {error}; set master.pid_file to a path that this user may write"
        ))
    }

    fn refused(&self, why: &str) -> RuntimeDirError {
        let path = self.path.display();
        RuntimeDirError::failed(format!(
            "refused the pid file {path}: it {why}; remove it, or set another master.pid_file"
        ))
    }

    fn taken(&self) -> RuntimeDirError {
        let path = self.path.display();
        RuntimeDirError::taken(format!(
            "already running: another master holds the pid file {path}; give each its own master.pid_file"
        ))
    }
}

fn write_pid_to(file: &mut File) -> io::Result<()> {
    // 0644 for any umask: all users may read the pid.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.try_lock()?;
    writeln!(file, "{}", std::process::id())
}

/// Opens the directory of the pid file, and returns the name in it.
fn open_parent(path: &Path) -> Result<(TrustedDir, String), RuntimeDirError> {
    let failed = |error: &dyn std::fmt::Display| {
        RuntimeDirError::failed(format!(
            "failed to open the directory of the pid file {}: {error}; create it, or set another master.pid_file",
            path.display()
        ))
    };
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| failed(&"no usable file name"))?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(parent, flags, Mode::empty())
        .map_err(|error| failed(&io::Error::from(error)))?;
    let directory = TrustedDir { fd };
    let mode = nix::sys::stat::fstat(&directory.fd)
        .map_err(|error| failed(&io::Error::from(error)))?
        .st_mode;
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(failed(
            &"every user can write there, and so replace the file",
        ));
    }
    Ok((directory, name.to_owned()))
}

/// Why this file cannot be the pid file of a dead master of ours; None if it can.
fn objection(stat: &FileStat) -> Option<String> {
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Some("is not a regular file".to_owned());
    }
    if stat.st_nlink != 1 {
        return Some(format!("has {} names (hard links)", stat.st_nlink));
    }
    (stat.st_uid != geteuid().as_raw()).then(|| format!("belongs to uid {}", stat.st_uid))
}
