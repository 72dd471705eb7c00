//! The runtime directory: created, or accepted only if no other user could tamper with its content.

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
    /// Opens the directory, made with its parents (0755) where it is missing.
    pub(super) fn enter(path: &Path) -> Result<Self, RuntimeDirError> {
        let failed = |what: &str, error: io::Error| {
            RuntimeDirError::failed(format!(
                "failed to {what} the runtime directory {}: {error}; set master.runtime_dir to a folder that this \
                 user may write",
                path.display()
            ))
        };
        make(path).map_err(|error| failed("make", error))?;
        let real = path.canonicalize().map_err(|error| failed("find", error))?;
        for folder in real.ancestors() {
            let about = folder
                .symlink_metadata()
                .map_err(|error| failed("look at", error))?;
            tamper_proof(folder, &about, folder == real)?;
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let fd = nix::fcntl::open(&real, flags, Mode::empty())
            .map_err(|error| failed("open", error.into()))?;
        Ok(Self { fd })
    }

    pub(super) fn open_below(&self, name: &str) -> Option<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.fd, name, flags, Mode::empty())
            .ok()
            .map(|fd| Self { fd })
    }

    /// Device and inode of an entry; none if there is no such entry.
    pub(super) fn identity(&self, name: &str) -> Option<(u64, u64)> {
        self.stat(name)
            .ok()
            .map(|about| (about.st_dev, about.st_ino))
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
                .is_ok_and(|about| {
                    SFlag::from_bits_truncate(about.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
                });
            if is_socket {
                unlinkat(&self.fd, name.as_c_str(), UnlinkatFlags::NoRemoveDir).ok();
            }
        }
    }
}

/// mkdir -p, 0755 whatever the umask: a worker of another user must be able to reach its notify socket.
fn make(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for folder in path.ancestors() {
        match folder.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.push(folder.to_owned())
            }
            _ => break,
        }
    }
    for folder in missing.iter().rev() {
        match DirBuilder::new().mode(0o755).create(folder) {
            // Opened again without following: what we chmod is what we made, or another start of ours did.
            Ok(()) => open_made(folder)?.set_permissions(std::fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_made(folder: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(nix::fcntl::open(folder, flags, Mode::empty())?.into())
}

/// Rejects a directory that another user owns or can write (unless sticky): that user could replace our socket or pid
/// file. The same goes for each directory above it.
fn tamper_proof(
    folder: &Path,
    about: &std::fs::Metadata,
    is_ours: bool,
) -> Result<(), RuntimeDirError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    // The owner of the root directory is trusted anyway: in a user namespace that is an unmapped id.
    let root = Path::new("/")
        .symlink_metadata()
        .map_or(0, |about| about.uid());
    let trusted = [0, uid].contains(&about.uid()) || (!is_ours && about.uid() == root);
    let mode = about.permissions().mode();
    // A group with no other member than us is no risk (user-private groups with umask 002).
    let group_writes = mode & 0o020 != 0 && ![0, gid].contains(&about.gid());
    let others_write = (mode & 0o002 != 0 || group_writes) && mode & 0o1000 == 0;
    let why = match (trusted, others_write) {
        (false, _) => format!("belongs to uid {}", about.uid()),
        (true, true) => format!("may be written by others (mode {:04o})", mode & 0o7777),
        (true, false) => return Ok(()),
    };
    Err(RuntimeDirError::failed(format!(
        "refused the runtime directory: {} {why}, who could put a socket or pid file of his own there; set \
         master.runtime_dir to a folder of your own, or mend its owner and mode",
        folder.display()
    )))
}

/// The stat of an open file.
pub(super) fn stat_of(file: &File) -> nix::Result<FileStat> {
    fstat(file)
}
