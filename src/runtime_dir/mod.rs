//! The files of one master: runtime directory, lock, pid file, control socket, and the presence socket by which it is
//! found without them. Startup opens them in that order.
//!
//! The process that holds the lock of the runtime directory is the master. It removes what a dead master left there, and
//! restores files of its own that are removed ([`RuntimeDirRepair`]).

mod dir;
mod lock;
mod pid_file;
pub mod presence;
mod repair;
pub mod stale_workers;

pub use lock::{guardian_without_master, lock_owner};
pub use repair::{NOTIFY_DIR, Repaired, RuntimeDirRepair, make_notify_dir};

use crate::control::protocol::SOCKET;
use crate::exit_code::ExitCode;
use crate::plan::Plan;
use crate::sys::kept_fd::{FdTable, KeptFd};
use dir::TrustedDir;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, geteuid};
use pid_file::{PidFile, SavedPidFile};
use presence::PresenceSocket;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Maximum number of connections that wait to be accepted; further clients get EAGAIN.
const BACKLOG: i32 = 128;

/// The control socket is bound under this name, gets its mode, and is then renamed.
const NEW_SOCKET: &str = "control.new";

/// Why the runtime directory cannot be used: an exit code, and a message that says what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeDirError {
    /// The exit code: ExitCode::ALREADY_RUNNING (EX_TEMPFAIL) if another master runs, else 1.
    pub code: ExitCode,
    /// What happened and what to do.
    pub message: String,
}

impl RuntimeDirError {
    fn failed(message: String) -> Self {
        Self {
            code: ExitCode::FAILED,
            message,
        }
    }

    fn taken(message: String) -> Self {
        Self {
            code: ExitCode::ALREADY_RUNNING,
            message,
        }
    }
}

/// The runtime directory of this master, with its lock. When it is dropped, the control socket and the pid file are
/// removed if they are still ours, and the lock is released.
#[derive(Debug)]
pub struct RuntimeDir {
    /// The configured path: its symlinks may be changed while the master runs.
    configured_path: PathBuf,
    /// The real path of the open directory.
    path: PathBuf,
    directory: TrustedDir,
    pid_file: PidFile,
    /// Device and inode of the control socket that this master bound.
    socket: Option<(u64, u64)>,
    /// To be logged as warnings once there is a log.
    pub warnings: Vec<String>,
    released: bool,
    /// Descriptors that a repair has replaced. They stay open until what took their place is saved: a master that goes on
    /// before that finds those that it was told of.
    replaced: Vec<OwnedFd>,
    /// Last: fields are dropped in order, and the lock guards the others.
    lock: File,
}

/// What is saved of a runtime directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRuntimeDir {
    configured_path: OsString,
    path: OsString,
    directory: KeptFd,
    pid_file: SavedPidFile,
    socket: Option<(u64, u64)>,
    lock: KeptFd,
}

impl RuntimeDir {
    /// What the next master needs to go on with it.
    ///
    /// # Errors
    /// Those of fstat(2); none for open descriptors.
    pub fn saved(&self) -> io::Result<SavedRuntimeDir> {
        Ok(SavedRuntimeDir {
            configured_path: self.configured_path.clone().into_os_string(),
            path: self.path.clone().into_os_string(),
            directory: KeptFd::of(&self.directory.fd)?,
            pid_file: self.pid_file.saved()?,
            socket: self.socket,
            lock: KeptFd::of(&self.lock)?,
        })
    }

    /// Goes on with the runtime directory of a dead master, whose lock is still held: it becomes this process's. The pid
    /// file names the dead master until [`RuntimeDir::write_pid`].
    ///
    /// # Errors
    /// As [`FdTable::take`]. EWOULDBLOCK: another program has a shared lock on the lock file.
    pub fn restore(saved: SavedRuntimeDir, table: &mut FdTable) -> io::Result<Self> {
        let lock = File::from(table.take(saved.lock)?);
        lock::reclaim(&lock)?;
        Ok(Self {
            configured_path: saved.configured_path.into(),
            path: saved.path.into(),
            directory: TrustedDir {
                fd: table.take(saved.directory)?,
            },
            pid_file: PidFile::restore(saved.pid_file, table)?,
            socket: saved.socket,
            warnings: Vec::new(),
            released: false,
            replaced: Vec::new(),
            lock,
        })
    }

    /// Creates the runtime directory if it is missing, takes its lock, binds the presence sockets, checks that the pid
    /// file can be written, and removes the sockets of a dead master. Nothing is written outside of the directory yet.
    ///
    /// # Errors
    /// 75: another master holds the lock or the pid file, or runs this configuration with another runtime directory. 1: a
    /// directory or pid file that cannot be created, or that another user could tamper with.
    pub fn enter(plan: &Plan) -> Result<(Self, Vec<PresenceSocket>), RuntimeDirError> {
        // Before anything is created. Only the owner of a lock binds presence sockets: of many simultaneous starts one wins.
        let mut warnings = Vec::new();
        refuse_second_master(plan, &mut warnings)?;
        warnings.clear();
        let configured_path = plan.master.runtime_dir.clone();
        let directory = TrustedDir::enter(&configured_path)?;
        let path = configured_path
            .canonicalize()
            .unwrap_or_else(|_| configured_path.clone());
        let lock = lock::take(&directory, &configured_path, &mut warnings)?;
        let presence_sockets = bind_presence_sockets(plan, &mut warnings)?;
        let pid_file = PidFile::check(&plan.master.pid_file)?;
        remove_stale_sockets(&directory);
        Ok((
            Self {
                configured_path,
                path,
                directory,
                pid_file,
                socket: None,
                warnings,
                released: false,
                replaced: Vec::new(),
                lock,
            },
            presence_sockets,
        ))
    }

    /// The real path of the runtime directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the pid file. Called when signal handlers and sockets are ready: a reader may signal immediately.
    ///
    /// # Errors
    /// 75: another master was faster. 1: the file cannot be written.
    pub fn write_pid(&mut self) -> Result<(), RuntimeDirError> {
        self.pid_file.write()
    }

    /// Opens the control socket, nonblocking and close-on-exec. It gets its name when it has the right mode and group, and
    /// replaces whatever has that name.
    ///
    /// # Errors
    /// Those of bind(2), chmod(2), chown(2) (EPERM: we are not in the group), listen(2) and rename(2).
    pub fn control_socket(&mut self, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        self.directory.unlink(NEW_SOCKET).ok();
        self.bind(&fd)?;
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(
            &self.directory.fd,
            NEW_SOCKET,
            mode,
            FchmodatFlags::FollowSymlink,
        )?;
        if let Some(group) = group {
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            nix::unistd::fchownat(
                &self.directory.fd,
                NEW_SOCKET,
                None,
                Some(Gid::from_raw(group)),
                flags,
            )?;
        }
        socket::listen(&fd, Backlog::new(BACKLOG)?)?;
        self.directory.rename(NEW_SOCKET, SOCKET)?;
        self.socket = self.directory.identity(SOCKET);
        Ok(UnixListener::from(fd))
    }

    /// A socket address has room for 108 bytes of path; through /proc every open directory has a short path.
    fn bind(&self, fd: &OwnedFd) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let address = match UnixAddr::new(&self.path.join(NEW_SOCKET)) {
            Ok(address) => address,
            Err(_) => UnixAddr::new(proc_fd_path(&self.directory.fd, NEW_SOCKET).as_path())?,
        };
        Ok(socket::bind(fd.as_raw_fd(), &address)?)
    }
}

impl RuntimeDir {
    /// Removes the control socket and pid file if they are still ours, and releases the lock.
    fn release(&mut self) {
        // Only once: then the lock may be another master's.
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        if self.socket.is_some() && self.directory.identity(SOCKET) == self.socket {
            self.directory.unlink(SOCKET).ok();
        }
        self.pid_file.remove();
        // No reader should find the pid of a master that has ended.
        self.lock.set_len(0).ok();
        self.lock.unlock().ok();
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.release();
    }
}

/// Binds the presence sockets of a starting master: for the path that was given and for the real one.
fn bind_presence_sockets(
    plan: &Plan,
    warnings: &mut Vec<String>,
) -> Result<Vec<PresenceSocket>, RuntimeDirError> {
    let presence_sockets: Vec<PresenceSocket> = paths(plan)
        .into_iter()
        .filter_map(|path| {
            bind_presence_socket(path)
                .map_err(|error| warnings.push(error))
                .ok()
        })
        .collect();
    // After the bind: of two masters that start at the same moment with different runtime directories, at least one sees
    // the other.
    refuse_second_master(plan, warnings)?;
    Ok(presence_sockets)
}

/// Fails if another master runs this configuration.
fn refuse_second_master(plan: &Plan, warnings: &mut Vec<String>) -> Result<(), RuntimeDirError> {
    let owner = plan.config.metadata().map(|stat| stat.uid()).ok();
    for master in presence::masters_of(&paths(plan)) {
        if [0, geteuid().as_raw()].contains(&master.uid) || Some(master.uid) == owner {
            let config = plan.config.display();
            return Err(RuntimeDirError::taken(format!(
                "already running: a master of {} runs {config}; `rotad stop` ends it, `rotad reload` brings new code",
                master.description()
            )));
        }
        warnings.push(format!(
            "a process of {} says that it runs this configuration too",
            master.description()
        ));
    }
    Ok(())
}

/// The paths for which the master of a plan binds presence sockets: the given one, and the real one if it differs.
pub fn paths(plan: &Plan) -> Vec<&Path> {
    let real = Some(plan.real.as_path()).filter(|real| *real != plan.config);
    std::iter::once(plan.config.as_path()).chain(real).collect()
}

/// Binds the presence socket of a path.
///
/// # Errors
/// A message for the log: commands then find the master by its runtime directory.
pub fn bind_presence_socket(path: &Path) -> Result<PresenceSocket, String> {
    PresenceSocket::bind(path).map_err(|error| {
        let path = path.display();
        format!("no abstract socket for {path}: {error}; commands find this master only by its runtime directory")
    })
}

/// A short path to an entry of an open directory, through /proc/self/fd.
pub fn proc_fd_path(directory: &impl std::os::fd::AsRawFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Removes the control socket and the notify sockets of a dead master. Called with the lock held; removes nothing but
/// sockets in our own directory.
fn remove_stale_sockets(directory: &TrustedDir) {
    directory.remove_sockets();
    if let Some(notify) = directory.open_below(NOTIFY_DIR) {
        notify.remove_sockets();
    }
}

#[cfg(test)]
mod tests;
