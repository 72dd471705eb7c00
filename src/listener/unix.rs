//! Unix listeners (unix(7)). A socket is bound under a temporary name, gets its owner and mode, listens, and is then
//! renamed to its path: clients that find it there find it with the right mode and listening. getsockname(2) returns
//! the temporary name, so a runtime that removes its socket file at exit does not remove ours.

use crate::listener::parent_dir;
use crate::plan::{ListenPlan, MAX_UNIX_PATH};
use crate::sys::socket as sys;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open as open_file};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{Gid, Uid, fchownat};
use serde::{Deserialize, Serialize};
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The default mode of systemd and nginx.
const DEFAULT_MODE: u32 = 0o666;

/// Device and inode: they tell whether a file is still the one that we created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn new((device, inode): (u64, u64)) -> Self {
        Self { device, inode }
    }

    pub(super) fn numbers(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

/// Opens a listener at the path. Replaces the file of a socket on which no program listens.
pub(super) fn open(plan: &ListenPlan, path: &Path) -> io::Result<(OwnedFd, FileId)> {
    if path.as_os_str().len() > MAX_UNIX_PATH {
        return Err(Errno::ENAMETOOLONG.into());
    }
    check_free(path)?;
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let first = bind_temporary(&fd, path)?;
    let done = set_ownership(&first, plan)
        .and_then(|()| sys::listen(&fd, plan.backlog))
        .and_then(|()| FileId::of(&first))
        .and_then(|file| std::fs::rename(&first, path).map(|()| file));
    if done.is_err() {
        std::fs::remove_file(&first).ok();
    }
    done.map(|file| (fd, file))
}

/// Checks that the path is free: it does not exist, or is a socket that refuses connections.
fn check_free(path: &Path) -> io::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !meta.file_type().is_socket() {
        return Err(Errno::EEXIST.into());
    }
    let probe = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        // With a full queue (EAGAIN), another type (EPROTOTYPE) or no permission (EACCES), a program may be listening.
        _ => Err(Errno::EADDRINUSE.into()),
    }
}

/// Binds to an unused name in the directory of the path, because rename(2) works within one file system.
fn bind_temporary(fd: &OwnedFd, path: &Path) -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut name = format!(".{:x}.{number:x}", std::process::id());
        let dir = parent_dir(path);
        // In a deep directory only a short name fits.
        let room = MAX_UNIX_PATH.saturating_sub(dir.as_os_str().len() + 1);
        if name.len() > room {
            name = format!("~{number:x}");
        }
        let first = dir.join(name);
        match bind(fd.as_raw_fd(), &UnixAddr::new(&first)?) {
            Ok(()) => return Ok(first),
            Err(Errno::EADDRINUSE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets the file's owner and mode through a descriptor that follows no symlink, so that a user who can write to the
/// directory cannot lead us to another file.
pub(super) fn set_ownership(file: &Path, plan: &ListenPlan) -> io::Result<()> {
    let fd = open_file(
        file,
        OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let kind = SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFSOCK {
        return Err(Errno::EADDRINUSE.into());
    }
    if plan.uid.is_some() || plan.gid.is_some() {
        let (uid, gid) = (plan.uid.map(Uid::from_raw), plan.gid.map(Gid::from_raw));
        fchownat(&fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
    }
    // chmod(2) through /proc: fchmod(2) does not take an O_PATH descriptor.
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::set_permissions(
        link,
        Permissions::from_mode(plan.mode.unwrap_or(DEFAULT_MODE)),
    )
}
