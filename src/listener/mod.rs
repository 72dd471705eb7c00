//! Listening sockets, opened once by the supervisor and kept open across reloads and respawns.
//!
//! Each address has one socket that all its workers share. Workers can damage it: shutdown(2) ends it for all of them,
//! and their own listen(2) changes the backlog. The file of a unix socket can be removed by other programs. The main
//! loop therefore watches the socket for a hang-up ([`crate::event_loop::poller::Interest`]) and the file by
//! [`Listener::file_watch`]. It repairs a TCP socket with [`Listener::relisten`] and a unix socket with
//! [`Listener::file_check`], and calls [`Listener::restore`] each time a worker becomes ready.
//!
//! Decisions:
//! - TCP_NODELAY is set on the listener, since accepted sockets inherit it: runtimes that make a socket object from a
//!   bare descriptor often forget it, and Nagle's algorithm with delayed acknowledgements then delays answers.
//! - `[::]` takes IPv4 too, as users of systemd expect, unless the same set has an IPv4 address of that port, as users
//!   of nginx write it (`listen 80; listen [::]:80`): then it is for IPv6 alone. Any other IPv6 address is IPv6 alone.
//! - Sockets are in blocking mode unless the configuration says otherwise. O_NONBLOCK belongs to the open file and thus
//!   to all who share it, so it is never changed by itself.

mod activation;
mod error;
mod file;
mod saved;
mod tcp;
mod unix;

pub use activation::{ActivationSocket, InheritedFds};
pub use error::SocketError;
pub use file::{FileCheck, FileCheckResult, ReplacementSocket, SocketFileWatch, SocketLoss};
pub use saved::{LeftSocket, SavedListener};

use crate::plan::{Address, ListenPlan};
use crate::probe::accept::Target;
use crate::process::procfs;
use crate::sys::socket::{self, Queue};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    plan: ListenPlan,
    fd: Arc<OwnedFd>,
    /// The socket's inode, as in /proc/PID/fd (`socket:[inode]`).
    inode: u64,
    /// The bound address: the port is never 0.
    bound: Address,
    /// Device and inode of the unix socket's file that we created.
    file: Option<unix::FileId>,
    /// The unix socket's file was removed, or is left to its owner.
    removed: bool,
    file_watch: Option<SocketFileWatch>,
    /// Owner and mode of a file that belongs to the service manager, which rotad does not remove.
    manager_file: Option<FileRights>,
}

/// Owner and mode of a socket file that the service manager created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileRights {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// A change of owner and mode of a unix socket's file, to be applied.
#[derive(Debug)]
pub struct FileOwnership {
    path: std::path::PathBuf,
    file: unix::FileId,
    plan: ListenPlan,
}

impl FileOwnership {
    /// Sets owner and mode, unless another file has taken the path. May block.
    ///
    /// # Errors
    /// EPERM: no right to change the owner; ENOENT: the file was removed; EADDRINUSE: another file has the path.
    pub fn apply(&self) -> io::Result<()> {
        if unix::FileId::of(&self.path)? != self.file {
            return Err(nix::errno::Errno::EADDRINUSE.into());
        }
        unix::set_ownership(&self.path, &self.plan)
    }
}

/// Opens all listeners, or none. Sockets from the service manager are taken from `inherited`.
///
/// # Errors
/// The first listener that cannot be opened; those opened before are closed, and their files removed.
pub fn open_all(
    plans: &[ListenPlan],
    inherited: Vec<ActivationSocket>,
) -> Result<Vec<Listener>, SocketError> {
    open_all_left(plans, inherited, Vec::new())
}

/// The same after a master that has died; `left`: its sockets, which take the place of new ones.
///
/// # Errors
/// As [`open_all`].
pub fn open_all_left(
    plans: &[ListenPlan],
    inherited: Vec<ActivationSocket>,
    mut left: Vec<LeftSocket>,
) -> Result<Vec<Listener>, SocketError> {
    let mut inherited = activation::ActivationSockets::check(inherited);
    open_each(plans, plans, |plan| match inherited.take(plan) {
        Some(socket) => Some(Listener::adopt(plan, socket)),
        None => {
            let at = left.iter().position(|left| left.serves(plan))?;
            Some(Listener::take_back(plan, left.swap_remove(at)))
        }
    })
}

/// Opens all of `plans`, which are part of the set `all`, or none of them.
///
/// # Errors
/// As [`open_all`].
pub fn open_some(plans: &[ListenPlan], all: &[ListenPlan]) -> Result<Vec<Listener>, SocketError> {
    open_each(plans, all, |_| None)
}

fn open_each(
    plans: &[ListenPlan],
    all: &[ListenPlan],
    mut existing: impl FnMut(&ListenPlan) -> Option<io::Result<Listener>>,
) -> Result<Vec<Listener>, SocketError> {
    let mut open = Vec::with_capacity(plans.len());
    for plan in plans {
        let opened = existing(plan).unwrap_or_else(|| Listener::open(plan, all));
        match opened {
            Ok(listener) => open.push(listener),
            Err(error) => {
                open.iter_mut().for_each(|listener: &mut Listener| {
                    listener.remove_file().ok();
                });
                return Err(SocketError::new(plan, error));
            }
        }
    }
    Ok(open)
}

impl Listener {
    fn open(plan: &ListenPlan, all: &[ListenPlan]) -> io::Result<Self> {
        let (fd, bound, file) = match &plan.address {
            Address::Tcp(address) => {
                let (fd, bound) =
                    tcp::open(*address, plan.backlog, tcp::is_dual_stack(*address, all))?;
                (fd, Address::Tcp(bound), None)
            }
            Address::Unix(path) => {
                let (fd, file) = unix::open(plan, path)?;
                (fd, plan.address.clone(), Some(file))
            }
        };
        set_nonblocking(&fd, plan.nonblocking)?;
        let inode = fstat(&fd)?.st_ino;
        let file_watch = match &plan.address {
            Address::Unix(path) => SocketFileWatch::on(path),
            Address::Tcp(_) => None,
        };
        let fd = Arc::new(fd);
        Ok(Self {
            plan: plan.clone(),
            fd,
            inode,
            bound,
            file,
            removed: false,
            file_watch,
            manager_file: None,
        })
    }

    /// Takes over a socket from the service manager. Its file, if it has one, belongs to the manager.
    fn adopt(plan: &ListenPlan, socket: activation::Socket) -> io::Result<Self> {
        let activation::Socket { fd, bound } = socket;
        socket::listen(&fd, plan.backlog)?;
        if plan.nonblocking {
            set_nonblocking(&fd, true)?;
        }
        if matches!(bound, Address::Tcp(_)) {
            tcp::no_delay(&fd)?;
        }
        let inode = fstat(&fd)?.st_ino;
        let (manager_file, file, file_watch) = match &bound {
            Address::Unix(path) => {
                let (manager_file, file) = file::manager_file(path).unzip();
                (
                    manager_file,
                    file,
                    file.and_then(|_| SocketFileWatch::on(path)),
                )
            }
            Address::Tcp(_) => (None, None, None),
        };
        Ok(Self {
            plan: plan.clone(),
            fd: Arc::new(fd),
            inode,
            bound,
            file,
            removed: false,
            file_watch,
            manager_file,
        })
    }

    /// The name in the configuration.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// The configuration that the socket has now.
    pub fn plan(&self) -> &ListenPlan {
        &self.plan
    }

    /// The descriptor that workers get. [`Listener::replace`] changes it.
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// The socket's inode, as in `socket:[inode]`.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Device and inode of the file of a unix socket, while it is there.
    pub fn file_id(&self) -> Option<(u64, u64)> {
        let file = self
            .file
            .filter(|_| !self.removed && self.manager_file.is_none())?;
        Some(file.numbers())
    }

    /// The socket that the accept probe looks for in a worker.
    pub fn target(&self) -> Target {
        Target {
            inode: self.inode,
            address: self.bound.clone(),
        }
    }

    /// The bound address: its port is never 0.
    pub fn bound(&self) -> &Address {
        &self.bound
    }

    /// The address as a configuration writes it, with the bound port: `127.0.0.1:8080`, `[::]:80`,
    /// `unix:/run/shop.sock`.
    pub fn addr_text(&self) -> String {
        address_text(&self.bound)
    }

    /// The bound port; None for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match &self.bound {
            Address::Tcp(address) => Some(address.port()),
            Address::Unix(_) => None,
        }
    }

    /// The effective backlog, if net.core.somaxconn limits it to less than the configured one.
    pub fn effective_backlog(&self) -> Option<u32> {
        let most: u32 = procfs::read("/proc/sys/net/core/somaxconn")
            .ok()?
            .trim()
            .parse()
            .ok()?;
        (most < self.plan.backlog).then_some(most)
    }

    /// How many connections wait for accept(2); None for a unix socket.
    pub fn queue(&self) -> Option<Queue> {
        matches!(self.bound, Address::Tcp(_))
            .then(|| socket::queue(&self.fd).ok())
            .flatten()
    }

    /// How many connections the kernel has dropped, above all since the queue was full; None for a unix socket, whose clients
    /// wait or are refused.
    pub fn drops(&self) -> Option<u32> {
        matches!(self.bound, Address::Tcp(_))
            .then(|| socket::drops(&self.fd).ok())
            .flatten()
    }

    /// Whether the socket was shut down (shutdown(2)): then clients of all workers are refused.
    pub fn is_shut(&self) -> bool {
        socket::is_hung_up(&self.fd)
    }

    /// Makes a TCP socket that was shut down listen again; workers keep their descriptors. Returns whether it was shut down.
    ///
    /// # Errors
    /// EADDRINUSE: another program took the address meanwhile. Then nothing has changed, and the call can be repeated.
    pub fn relisten(&self) -> io::Result<bool> {
        match self.bound {
            Address::Tcp(address) if self.is_shut() => {
                tcp::listen_again(&self.fd, address, self.plan.backlog).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Restores what a worker can change for all workers: the backlog (by its own listen(2)), and O_NONBLOCK where the
    /// configuration asks for it.
    ///
    /// # Errors
    /// Those of listen(2) (EADDRINUSE) and fcntl(2).
    pub fn restore(&self) -> io::Result<()> {
        if self.plan.nonblocking {
            set_nonblocking(&self.fd, true)?;
        }
        socket::listen(&self.fd, self.plan.backlog)
    }

    /// Takes over a plan with the same address. Name, backlog and O_NONBLOCK change immediately; a change of the owner or
    /// mode of a unix socket's file is returned, to be applied where it may block.
    ///
    /// # Errors
    /// Those of listen(2) (EADDRINUSE) and fcntl(2).
    pub fn adjust(&mut self, plan: &ListenPlan) -> io::Result<Option<FileOwnership>> {
        let old = std::mem::replace(&mut self.plan, plan.clone());
        if old.nonblocking != plan.nonblocking {
            set_nonblocking(&self.fd, plan.nonblocking)?;
        }
        if old.backlog != plan.backlog {
            self.restore()?;
        }
        let rights = |plan: &ListenPlan| (plan.mode, plan.uid, plan.gid);
        let (Address::Unix(path), Some(file), false) = (&self.bound, self.file, self.removed)
        else {
            return Ok(None);
        };
        if rights(&old) == rights(plan) || self.manager_file.is_some() {
            return Ok(None);
        }
        // Without a configured owner it belongs to the master's user again, like a new socket.
        let own = || {
            (
                nix::unistd::geteuid().as_raw(),
                nix::unistd::getegid().as_raw(),
            )
        };
        let mut wanted = plan.clone();
        wanted.uid = plan.uid.or_else(|| old.uid.map(|_| own().0));
        wanted.gid = plan.gid.or_else(|| old.gid.map(|_| own().1));
        Ok(Some(FileOwnership {
            path: path.clone(),
            file,
            plan: wanted,
        }))
    }

    /// The owner and mode that the plan asks for; None for TCP, and without a file.
    pub fn ownership(&self) -> Option<FileOwnership> {
        let (Address::Unix(path), Some(file), false) = (&self.bound, self.file, self.removed)
        else {
            return None;
        };
        Some(FileOwnership {
            path: path.clone(),
            file,
            plan: self.plan.clone(),
        })
    }

    /// Removes the file of a unix socket, if it is still the one that we created. Returns whether it did.
    ///
    /// # Errors
    /// EACCES, EROFS: the directory is not writable any more.
    pub fn remove_file(&mut self) -> io::Result<bool> {
        let (Address::Unix(path), Some(file), false) = (&self.bound, self.file, self.removed)
        else {
            return Ok(false);
        };
        self.removed = true;
        if self.manager_file.is_some() {
            return Ok(false);
        }
        if unix::FileId::of(path).ok() != Some(file) {
            return Ok(false);
        }
        std::fs::remove_file(path).map(|()| true)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_nonblocking(fd: &OwnedFd, wanted: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    if flags.contains(OFlag::O_NONBLOCK) != wanted {
        flags.set(OFlag::O_NONBLOCK, wanted);
        fcntl(fd, FcntlArg::F_SETFL(flags))?;
    }
    Ok(())
}

fn address_text(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// The directory of a path, `.` for a bare name.
fn parent_dir(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
