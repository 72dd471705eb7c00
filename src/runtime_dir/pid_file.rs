//! The pid file: it appears complete and locked under its name, is never written through a symlink, and is removed only
//! while it is still ours.

use super::RuntimeDirError;
use super::dir::{TrustedDir, stat_of};
use super::lock::{HALF_BORN, Held, leaving, try_lock};
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{AccessFlags, geteuid};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    name: String,
    folder: TrustedDir,
    /// The written file: open, so that its lock holds and its inode cannot come to mean another file.
    ours: Option<File>,
}

impl PidFile {
    /// Looks whether the pid file can be written: its folder, and that nothing strange lies in its place. A stale one
    /// of a dead master is removed, so that nobody signals a stranger by it.
    pub(super) fn look(path: &Path) -> Result<Self, RuntimeDirError> {
        let (folder, name) = place(path)?;
        let file = Self {
            path: path.to_owned(),
            name,
            folder,
            ours: None,
        };
        file.clear_place()?;
        let writable = nix::unistd::faccessat(
            &file.folder.fd,
            ".",
            AccessFlags::W_OK | AccessFlags::X_OK,
            nix::fcntl::AtFlags::AT_EACCESS,
        );
        match writable {
            // Container runtimes of before 2021 refuse the call itself, which they do not know; writing will tell.
            Ok(()) | Err(nix::errno::Errno::EPERM) => Ok(file),
            Err(error) => Err(file.failed("write", error.into())),
        }
    }

    /// Writes it beside, locks it, and gives it its name, unless another has taken that meanwhile.
    pub(super) fn write(&mut self) -> Result<(), RuntimeDirError> {
        let beside = format!(".{}.{}", self.name, std::process::id());
        self.folder.unlink(&beside).ok();
        let flags =
            OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = openat(
            &self.folder.fd,
            beside.as_str(),
            flags,
            Mode::from_bits_truncate(0o644),
        )
        .map_err(|error| self.failed("write", error.into()))?;
        let mut file = File::from(made);
        let written = fill(&mut file).map_err(|error| self.failed("write", error));
        let done = written.and_then(|()| self.name_it(&beside));
        if done.is_err() {
            self.folder.unlink(&beside).ok();
        }
        done?;
        self.ours = Some(file);
        Ok(())
    }

    fn name_it(&self, beside: &str) -> Result<(), RuntimeDirError> {
        // Twice: a file that appeared since `look` may be a stale one once more; then another master is at work here.
        for _ in 0..2 {
            self.clear_place()?;
            let (folder, name) = (&self.folder.fd, self.name.as_str());
            match renameat2(folder, beside, folder, name, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EEXIST) => {}
                // A file system without RENAME_NOREPLACE (some network ones).
                Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
                    return self
                        .folder
                        .rename(beside, name)
                        .map_err(|error| self.failed("write", error.into()));
                }
                Err(error) => return Err(self.failed("write", error.into())),
            }
        }
        Err(self.taken())
    }

    /// Removes a stale pid file; refuses everything that is none, or that a living master holds.
    fn clear_place(&self) -> Result<(), RuntimeDirError> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        let stale = match openat(&self.folder.fd, self.name.as_str(), flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(nix::errno::Errno::ENOENT) => return Ok(()),
            Err(nix::errno::Errno::ELOOP) => return Err(self.strange("is a symbolic link")),
            Err(nix::errno::Errno::ENXIO) => return Err(self.strange("is no regular file")),
            Err(error) => return Err(self.failed("open", error.into())),
        };
        let about = stat_of(&stale).map_err(|error| self.failed("look at", error.into()))?;
        if let Some(why) = strangeness(&about) {
            return Err(self.strange(&why));
        }
        // A master that was killed, or a child of it that is about to become a worker, may have let go of the runtime
        // directory a moment before: the files of a process are closed one after another, by the last of its threads.
        match try_lock(&stale, &about, Instant::now() + HALF_BORN)
            .map_err(|error| self.failed("lock", error))?
        {
            // Everybody may read it, and so lock it: only a master's lock counts.
            None | Some(Held::Stranger) => {}
            Some(Held::Leaving(pid)) => return Err(leaving(pid, &self.path.display().to_string())),
            Some(Held::Master(_) | Held::Nobody) => return Err(self.taken()),
        }
        // Locked, but perhaps no longer what bears the name: then a faster master has cleared it.
        if self.folder.identity(&self.name) == Some((about.st_dev, about.st_ino)) {
            self.folder
                .unlink(&self.name)
                .map_err(|error| self.failed("replace", error.into()))?;
        }
        Ok(())
    }

    /// Whether the path still means the file that we wrote; true before it is written.
    pub(super) fn is_in_place(&self) -> bool {
        let Some(about) = self.ours.as_ref().and_then(|file| stat_of(file).ok()) else {
            return true;
        };
        self.path
            .symlink_metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == (about.st_dev, about.st_ino))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Written: for a watch.
    pub(super) fn file(&self) -> Option<&File> {
        self.ours.as_ref()
    }

    /// At exit: removes the file if the name still means ours.
    pub(super) fn remove(&mut self) {
        let Some(about) = self.ours.take().and_then(|file| stat_of(&file).ok()) else {
            return;
        };
        if self.folder.identity(&self.name) == Some((about.st_dev, about.st_ino)) {
            self.folder.unlink(&self.name).ok();
        }
    }

    fn failed(&self, what: &str, error: io::Error) -> RuntimeDirError {
        let path = self.path.display();
        RuntimeDirError::failed(format!(
            "failed to {what} the pid file {path}: {error}; set master.pid_file to a path that this user may write"
        ))
    }

    fn strange(&self, why: &str) -> RuntimeDirError {
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

fn fill(file: &mut File) -> io::Result<()> {
    // 0644 whatever the umask: everybody may know the pid.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.try_lock()?;
    writeln!(file, "{}", std::process::id())
}

/// The folder that holds it, opened, and the name in it.
fn place(path: &Path) -> Result<(TrustedDir, String), RuntimeDirError> {
    let failed = |error: &dyn std::fmt::Display| {
        RuntimeDirError::failed(format!(
            "failed to open the folder of the pid file {}: {error}; make it, or set another master.pid_file",
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
    let folder = TrustedDir { fd };
    let mode = nix::sys::stat::fstat(&folder.fd)
        .map_err(|error| failed(&io::Error::from(error)))?
        .st_mode;
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(failed(
            &"everybody may write there, and so put another pid in its place",
        ));
    }
    Ok((folder, name.to_owned()))
}

/// Why this cannot be the pid file of a dead master of ours.
fn strangeness(about: &FileStat) -> Option<String> {
    if SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Some("is no regular file".to_owned());
    }
    if about.st_nlink != 1 {
        return Some(format!("has {} names (hard links)", about.st_nlink));
    }
    (about.st_uid != geteuid().as_raw()).then(|| format!("belongs to uid {}", about.st_uid))
}
