//! Opens the runtime directory: creates it, or accepts it only if no other user can tamper with its content.

use super::RuntimeDirError;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, getegid, geteuid, unlinkat};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// An open directory: renaming its path does not change what it refers to.
#[derive(Debug)]
pub(super) struct TrustedDir {
    pub(super) fd: OwnedFd,
}

impl TrustedDir {
    /// Opens the directory; creates it and its parents (mode 0755) if it is missing.
    pub(super) fn enter(path: &Path) -> Result<Self, RuntimeDirError> {
        let failed = |what: &str, error: io::Error| {
            RuntimeDirError::failed(format!(
                "failed to {what} the runtime directory {}: {error}; set master.runtime_dir to a directory that this \
                 user can write",
                path.display()
            ))
        };
        create(path).map_err(|error| failed("create", error))?;
        let real = path.canonicalize().map_err(|error| failed("find", error))?;
        for directory in real.ancestors() {
            let stat = directory
                .symlink_metadata()
                .map_err(|error| failed("look at", error))?;
            refuse_if_writable(directory, &stat, directory == real)?;
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fd = nix::fcntl::open(&real, flags, Mode::empty())
            .map_err(|error| failed("open", error.into()))?;
        Ok(Self { fd })
    }

    /// Opens a subdirectory, not through a symlink.
    pub(super) fn open_below(&self, name: &str) -> Option<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.fd, name, flags, Mode::empty())
            .ok()
            .map(|fd| Self { fd })
    }

    /// Device and inode of an entry; None if there is no such entry.
    pub(super) fn identity(&self, name: &str) -> Option<(u64, u64)> {
        self.stat(name).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    pub(super) fn stat(&self, name: &str) -> nix::Result<FileStat> {
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    pub(super) fn unlink(&self, name: &str) -> nix::Result<()> {
        unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> nix::Result<()> {
        renameat(&self.fd, from, &self.fd, to)
    }

    /// Removes every socket directly in this directory.
    pub(super) fn remove_sockets(&self) {
        let Ok(fd) = self.fd.try_clone() else { return };
        let Ok(mut dir) = Dir::from_fd(fd) else {
            return;
        };
        let names: Vec<_> = dir
            .iter()
            .flatten()
            .map(|entry| entry.file_name().to_owned())
            .collect();
        for name in names {
            let is_socket = fstatat(&self.fd, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| {
                    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
                });
            if is_socket {
                unlinkat(&self.fd, name.as_c_str(), UnlinkatFlags::NoRemoveDir).ok();
            }
        }
    }
}

/// mkdir -p with mode 0755 for any umask: a worker of another user must be able to reach its notify socket.
fn create(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for directory in path.ancestors() {
        match directory.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(directory.to_owned())
            }
            _ => break,
        }
    }
    for directory in missing.iter().rev() {
        match DirBuilder::new().mode(0o755).create(directory) {
            // Opened without following a symlink: the mode is only changed of a directory that a start of ours created.
            Ok(()) => {
                open_dir(directory)?.set_permissions(std::fs::Permissions::from_mode(0o755))?
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_dir(directory: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(nix::fcntl::open(directory, flags, Mode::empty())?.into())
}

/// Rejects a directory that another user owns or can write (unless sticky): that user could replace our socket or pid
/// file. Applied to the directory and to each directory above it.
fn refuse_if_writable(
    directory: &Path,
    stat: &std::fs::Metadata,
    is_ours: bool,
) -> Result<(), RuntimeDirError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    // The owner of the root directory is trusted: in a user namespace it is an unmapped id.
    let root = Path::new("/")
        .symlink_metadata()
        .map_or(0, |stat| stat.uid());
    let trusted = [0, uid].contains(&stat.uid()) || (!is_ours && stat.uid() == root);
    let mode = stat.permissions().mode();
    // Our own group is no risk (user-private groups with umask 002).
    let group_writes = mode & 0o020 != 0 && ![0, gid].contains(&stat.gid());
    let others_write = (mode & 0o002 != 0 || group_writes) && mode & 0o1000 == 0;
    let why = match (trusted, others_write) {
        (false, _) => format!("belongs to uid {}", stat.uid()),
        (true, true) => format!("can be written by others (mode {:04o})", mode & 0o7777),
        (true, false) => return Ok(()),
    };
    Err(RuntimeDirError::failed(format!(
        "refused the runtime directory: {} {why}, who could replace the socket or pid file there; set \
         master.runtime_dir to a directory of your own, or fix its owner and mode",
        directory.display()
    )))
}

/// The stat of an open file.
pub(super) fn fstat_file(file: &File) -> nix::Result<FileStat> {
    fstat(file)
}
