//! Listening sockets, opened once by the supervisor and kept open across reloads and respawns.
//!
//! Each address has one socket that all its workers share. Workers can hurt it: shutdown(2) on it ends it for all of
//! them, and their own listen(2) sets another backlog; and anybody may remove the file of a unix one. The main loop watches
//! it for a hang-up ([`crate::event_loop::poller::Interest`]) and its file by [`Listener::ear`], calls [`Listener::relisten`] or has [`Listener::look`]
//! run, and [`Listener::restore`] whenever a worker became ready.
//!
//! Choices:
//! - TCP_NODELAY is set on the listener, since accepted sockets inherit it: runtimes that make a socket object from a
//!   bare descriptor often forget it, and then Nagle meets delayed acknowledgements.
//! - `[::]` takes IPv4 too, as users of systemd expect, unless the same set has an IPv4 address of that port, as users
//!   of nginx write it (`listen 80; listen [::]:80`): then it is for IPv6 alone. Any other IPv6 address is IPv6 alone.
//! - Sockets are in blocking mode unless the configuration says otherwise. O_NONBLOCK belongs to the open file and thus
//!   to all who share it, so it is never changed by itself.

mod activation;
mod error;
mod file;
mod tcp;
mod unix;

pub use activation::{ActivationSocket, InheritedFds};
pub use error::SocketError;
pub use file::{Fresh, Look, Looked, Lost, SocketFileWatch};

use crate::plan::{Address, ListenPlan};
use crate::probe::accept::Target;
use crate::process::procfs;
use crate::sys::socket::{self, Queue};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    plan: ListenPlan,
    fd: Arc<OwnedFd>,
    /// Of the socket itself, as in /proc/PID/fd (`socket:[inode]`).
    inode: u64,
    /// The bound address: the port is never 0.
    bound: Address,
    /// Device and inode of a unix socket's file, as we made it.
    file: Option<unix::FileId>,
    /// We have removed (or given up) the file of the unix socket.
    removed: bool,
    ear: Option<SocketFileWatch>,
    /// Its file belongs to the service manager: not ours to remove.
    handled: Option<Handled>,
}

/// Owner and mode of a socket file that the service manager created.
#[derive(Clone, Copy, Debug)]
struct Handled {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The owner and mode that a unix socket's file is to get.
#[derive(Debug)]
pub struct Dress {
    path: std::path::PathBuf,
    file: unix::FileId,
    plan: ListenPlan,
}

impl Dress {
    /// Nothing happens to a file that is not ours any more. May block.
    ///
    /// # Errors
    /// EPERM: no right to give it away; ENOENT: somebody has removed it; EADDRINUSE: another file stands there.
    pub fn put_on(&self) -> io::Result<()> {
        if unix::FileId::of(&self.path)? != self.file {
            return Err(nix::errno::Errno::EADDRINUSE.into());
        }
        unix::dress(&self.path, &self.plan)
    }
}

/// Opens all of them, or none. Sockets from the service manager are taken from `passed`.
///
/// # Errors
/// The first that cannot be opened; those opened before are closed, and their files removed.
pub fn open_all(
    plans: &[ListenPlan],
    passed: Vec<ActivationSocket>,
) -> Result<Vec<Listener>, SocketError> {
    let mut passed = activation::Found::look_at(passed);
    open_each(plans, plans, |plan| passed.take(plan))
}

/// Opens `plans`, which are some of the set `all`, or none of them.
///
/// # Errors
/// As [`open_all`].
pub fn open_some(plans: &[ListenPlan], all: &[ListenPlan]) -> Result<Vec<Listener>, SocketError> {
    open_each(plans, all, |_| None)
}

fn open_each(
    plans: &[ListenPlan],
    all: &[ListenPlan],
    mut passed: impl FnMut(&ListenPlan) -> Option<activation::Socket>,
) -> Result<Vec<Listener>, SocketError> {
    let mut open = Vec::with_capacity(plans.len());
    for plan in plans {
        let opened = match passed(plan) {
            Some(socket) => Listener::adopt(plan, socket),
            None => Listener::open(plan, all),
        };
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
                    tcp::open(*address, plan.backlog, tcp::takes_both(*address, all))?;
                (fd, Address::Tcp(bound), None)
            }
            Address::Unix(path) => {
                let (fd, file) = unix::open(plan, path)?;
                (fd, plan.address.clone(), Some(file))
            }
        };
        set_nonblocking(&fd, plan.nonblocking)?;
        let inode = fstat(&fd)?.st_ino;
        let ear = match &plan.address {
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
            ear,
            handled: None,
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
        let (handled, file, ear) = match &bound {
            Address::Unix(path) => {
                let (handled, file) = file::handled(path).unzip();
                (handled, file, file.and_then(|_| SocketFileWatch::on(path)))
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
            ear,
            handled,
        })
    }

    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn plan(&self) -> &ListenPlan {
        &self.plan
    }

    /// The descriptor to hand on. [`Listener::replace`] changes it.
    pub fn fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// The socket's inode, as in `socket:[inode]`.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// What the accept probe looks for.
    pub fn target(&self) -> Target {
        Target {
            inode: self.inode,
            address: self.bound.clone(),
        }
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

    /// The effective backlog, if net.core.somaxconn is below the configured one.
    pub fn clipped(&self) -> Option<u32> {
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

    /// Whether it was shut down (shutdown(2)): clients are refused, for all workers.
    pub fn is_shut(&self) -> bool {
        socket::is_hung_up(&self.fd)
    }

    /// Makes a shut TCP socket listen again, as it is: the workers need not notice. Whether it was shut.
    ///
    /// # Errors
    /// EADDRINUSE: another program took the address meanwhile. Nothing is changed then, and it may be tried again.
    pub fn relisten(&self) -> io::Result<bool> {
        match self.bound {
            Address::Tcp(address) if self.is_shut() => {
                tcp::listen_again(&self.fd, address, self.plan.backlog).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Sets again what a worker changes for all: the backlog, by its own listen(2), and O_NONBLOCK where it is asked for.
    ///
    /// # Errors
    /// Those of listen(2) and fcntl(2).
    pub fn restore(&self) -> io::Result<()> {
        if self.plan.nonblocking {
            set_nonblocking(&self.fd, true)?;
        }
        socket::listen(&self.fd, self.plan.backlog)
    }

    /// Takes over what changes in place: the name, the backlog and O_NONBLOCK, at once, and the rights of a unix socket's file,
    /// for which the dress has to be put on. The address must be the same.
    ///
    /// # Errors
    /// Those of listen(2).
    pub fn adjust(&mut self, plan: &ListenPlan) -> io::Result<Option<Dress>> {
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
        if rights(&old) == rights(plan) || self.handled.is_some() {
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
        Ok(Some(Dress {
            path: path.clone(),
            file,
            plan: wanted,
        }))
    }

    /// Owner and mode of a unix socket's file, as they are wanted now.
    pub fn dress(&self) -> Option<Dress> {
        let (Address::Unix(path), Some(file), false) = (&self.bound, self.file, self.removed)
        else {
            return None;
        };
        Some(Dress {
            path: path.clone(),
            file,
            plan: self.plan.clone(),
        })
    }

    /// Removes the file of a unix socket, if it is still the one that we made.
    ///
    /// # Errors
    /// EACCES, EROFS: the folder may not be written any more.
    pub fn remove_file(&mut self) -> io::Result<bool> {
        let (Address::Unix(path), Some(file), false) = (&self.bound, self.file, self.removed)
        else {
            return Ok(false);
        };
        self.removed = true;
        if self.handled.is_some() {
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

/// The folder of a path, `.` for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
