//! The files of one master: runtime directory, lock, pid file, control socket, and the presence socket by which it is
//! found without them. Startup opens them in that order.
//!
//! The owner of the runtime directory's lock is the master; it tidies up everything else in there, and restores it when
//! it is removed.

mod dir;
mod lock;
mod pid_file;
pub mod presence;
mod repair;
pub mod stale_workers;

pub use lock::holder;
pub use repair::{Mended, NOTIFY, RuntimeDirRepair, make_notify_dir};

use crate::control::wire::SOCKET;
use crate::plan::Plan;
use dir::TrustedDir;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{Gid, geteuid};
use pid_file::PidFile;
use presence::PresenceSocket;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that wait to be accepted, beyond which a client gets EAGAIN: a flood is not ours to queue.
const BACKLOG: i32 = 128;

/// Under this name the control socket is bound before it gets its mode and its real name.
const NEW_SOCKET: &str = "control.new";

/// Why the runtime directory cannot be used: an exit code, and a message that says what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeDirError {
    pub code: u8,
    pub message: String,
}

impl RuntimeDirError {
    fn failed(message: String) -> Self {
        Self { code: 1, message }
    }

    fn taken(message: String) -> Self {
        Self { code: 75, message }
    }
}

/// Ours from entering until dropped: then the socket and the pid file are removed, if they are still ours, and the
/// lock is released.
#[derive(Debug)]
pub struct RuntimeDir {
    /// As configured: links in it may be turned while we run.
    wanted: PathBuf,
    /// The real path of the folder that we are in.
    path: PathBuf,
    folder: TrustedDir,
    pid_file: PidFile,
    /// Device and inode of the control socket that we bound.
    socket: Option<(u64, u64)>,
    /// Worth a warning once there is a log.
    pub warnings: Vec<String>,
    left: bool,
    /// Last: fields are dropped in order, and the lock guards the others.
    lock: File,
}

impl RuntimeDir {
    /// Makes the runtime directory where it is missing, takes its lock, looks whether the pid file can be written,
    /// and removes what a dead master left in the directory. Nothing is written outside of it yet.
    ///
    /// # Errors
    /// 75: another master holds the lock or the pid file, or runs this configuration from elsewhere. 1: a directory or
    /// pid file that cannot be made, or that somebody else could tamper with.
    pub fn enter(plan: &Plan) -> Result<(Self, Vec<PresenceSocket>), RuntimeDirError> {
        // Before anything is made. Nobody puts a sign up who does not hold a lock: of many that start at once one stays.
        let mut warnings = Vec::new();
        not_alone(plan, &mut warnings)?;
        warnings.clear();
        let wanted = plan.master.runtime_dir.clone();
        let folder = TrustedDir::enter(&wanted)?;
        let path = wanted.canonicalize().unwrap_or_else(|_| wanted.clone());
        let lock = lock::take(&folder, &wanted, &mut warnings)?;
        let signs = put_signs_up(plan, &mut warnings)?;
        let pid_file = PidFile::look(&plan.master.pid_file)?;
        sweep(&folder);
        Ok((
            Self {
                wanted,
                path,
                folder,
                pid_file,
                socket: None,
                warnings,
                left: false,
                lock,
            },
            signs,
        ))
    }

    /// The real path of the runtime directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the pid file. Only when signal handlers and sockets stand: whoever reads it may signal at once.
    ///
    /// # Errors
    /// 75: another master was faster. 1: it cannot be written.
    pub fn write_pid(&mut self) -> Result<(), RuntimeDirError> {
        self.pid_file.write()
    }

    /// Opens the control socket, nonblocking and close-on-exec. It appears under its name only with the right mode
    /// and group, and never as a link to elsewhere.
    ///
    /// # Errors
    /// bind(2), chmod(2), chown(2: the group is not one of ours), listen(2), rename(2).
    pub fn control_socket(&mut self, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        self.folder.unlink(NEW_SOCKET).ok();
        self.bind(&fd)?;
        let mode = Mode::from_bits_truncate(mode);
        fchmodat(
            &self.folder.fd,
            NEW_SOCKET,
            mode,
            FchmodatFlags::FollowSymlink,
        )?;
        if let Some(group) = group {
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            nix::unistd::fchownat(
                &self.folder.fd,
                NEW_SOCKET,
                None,
                Some(Gid::from_raw(group)),
                flags,
            )?;
        }
        socket::listen(&fd, Backlog::new(BACKLOG)?)?;
        self.folder.rename(NEW_SOCKET, SOCKET)?;
        self.socket = self.folder.identity(SOCKET);
        Ok(UnixListener::from(fd))
    }

    /// A path in a socket address is limited to 108 bytes; through /proc every directory has a short one.
    fn bind(&self, fd: &OwnedFd) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let address = match UnixAddr::new(&self.path.join(NEW_SOCKET)) {
            Ok(address) => address,
            Err(_) => UnixAddr::new(near(&self.folder.fd, NEW_SOCKET).as_path())?,
        };
        Ok(socket::bind(fd.as_raw_fd(), &address)?)
    }
}

impl RuntimeDir {
    /// Removes the socket and pid file that are still ours.
    fn tidy_up(&mut self) {
        // Once: after that the lock may be another's.
        if std::mem::replace(&mut self.left, true) {
            return;
        }
        if self.socket.is_some() && self.folder.identity(SOCKET) == self.socket {
            self.folder.unlink(SOCKET).ok();
        }
        self.pid_file.remove();
        // So that no reader finds the pid of a master that is gone.
        self.lock.set_len(0).ok();
        self.lock.unlock().ok();
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        self.tidy_up();
    }
}

/// The signs of a master that begins: of the path that was given and of the real one.
fn put_signs_up(
    plan: &Plan,
    warnings: &mut Vec<String>,
) -> Result<Vec<PresenceSocket>, RuntimeDirError> {
    let signs: Vec<PresenceSocket> = paths(plan)
        .into_iter()
        .filter_map(|path| put_up(path).map_err(|error| warnings.push(error)).ok())
        .collect();
    // Only now: of two that begin at the same moment in different folders at least one sees the other.
    not_alone(plan, warnings)?;
    Ok(signs)
}

/// An error where another master runs this configuration.
fn not_alone(plan: &Plan, warnings: &mut Vec<String>) -> Result<(), RuntimeDirError> {
    let owner = plan.config.metadata().map(|about| about.uid()).ok();
    for holder in presence::holders(&paths(plan)) {
        if [0, geteuid().as_raw()].contains(&holder.uid) || Some(holder.uid) == owner {
            let config = plan.config.display();
            return Err(RuntimeDirError::taken(format!(
                "already running: a master of {} runs {config}; `rotad stop` ends it, `rotad reload` brings new code",
                holder.who()
            )));
        }
        warnings.push(format!(
            "a process of {} says that it runs this configuration, too",
            holder.who()
        ));
    }
    Ok(())
}

/// The paths by which the master of a plan is known.
pub fn paths(plan: &Plan) -> Vec<&Path> {
    let real = Some(plan.real.as_path()).filter(|real| *real != plan.config);
    std::iter::once(plan.config.as_path()).chain(real).collect()
}

/// # Errors
/// For people: without a sign the runtime directory has to do.
pub fn put_up(path: &Path) -> Result<PresenceSocket, String> {
    PresenceSocket::put_up(path).map_err(|error| {
        let path = path.display();
        format!("no abstract socket for {path}: {error}; commands find this master by its runtime directory alone")
    })
}

/// A short path to an entry of an open directory, through /proc.
pub fn near(folder: &impl std::os::fd::AsRawFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// Sockets that a dead master left: the control socket and its workers' notify sockets, wherever it kept them. Only
/// under the lock, only sockets, and only in our own folder.
fn sweep(folder: &TrustedDir) {
    folder.remove_sockets();
    if let Some(notify) = folder.open_below(NOTIFY) {
        notify.remove_sockets();
    }
}

#[cfg(test)]
mod tests;
