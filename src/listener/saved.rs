//! What is saved of a listener, and how the next master goes on with it.

use super::{FileRights, Listener, SocketFileWatch, parent_dir, tcp, unix};
use crate::plan::{Address, ListenPlan};
use crate::sys::kept_fd::{FdTable, KeptFd};
use nix::sys::socket::{UnixAddr, getsockname};
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// What is saved of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedListener {
    fd: KeptFd,
    plan: SavedPlan,
    bound: SavedAddress,
    file: Option<unix::FileId>,
    removed: bool,
    manager_file: Option<FileRights>,
}

/// A [`ListenPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedPlan {
    name: String,
    address: SavedAddress,
    backlog: u32,
    nonblocking: bool,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

/// An [`Address`]; its path need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SavedAddress {
    Tcp(SocketAddr),
    Unix(OsString),
}

impl Listener {
    /// What the next master needs to go on with the socket.
    ///
    /// # Errors
    /// Those of fstat(2); none for an open descriptor.
    pub fn saved(&self) -> io::Result<SavedListener> {
        let ListenPlan {
            name,
            address,
            backlog,
            nonblocking,
            mode,
            uid,
            gid,
        } = &self.plan;
        Ok(SavedListener {
            fd: KeptFd::of(&*self.fd)?,
            plan: SavedPlan {
                name: name.clone(),
                address: address.into(),
                backlog: *backlog,
                nonblocking: *nonblocking,
                mode: *mode,
                uid: *uid,
                gid: *gid,
            },
            bound: (&self.bound).into(),
            file: self.file,
            removed: self.removed,
            manager_file: self.manager_file,
        })
    }

    /// Goes on with the socket of a dead master, in the state in which its workers have left it. What has happened to it
    /// meanwhile is found as after a worker's start: [`Listener::relisten`] and [`Listener::file_check`].
    ///
    /// # Errors
    /// As [`FdTable::take`].
    pub fn restored(saved: SavedListener, table: &mut FdTable) -> io::Result<Self> {
        let fd = table.take(saved.fd)?;
        let inode = fstat(&fd)?.st_ino;
        let bound = Address::from(saved.bound);
        let file_watch = match &bound {
            Address::Unix(path) if saved.file.is_some() && !saved.removed => {
                SocketFileWatch::on(path)
            }
            Address::Unix(_) | Address::Tcp(_) => None,
        };
        let plan = saved.plan;
        Ok(Self {
            plan: ListenPlan {
                name: plan.name,
                address: plan.address.into(),
                backlog: plan.backlog,
                nonblocking: plan.nonblocking,
                mode: plan.mode,
                uid: plan.uid,
                gid: plan.gid,
            },
            fd: Arc::new(fd),
            inode,
            bound,
            file: saved.file,
            removed: saved.removed,
            file_watch,
            manager_file: saved.manager_file,
        })
    }
}

/// A listening socket of a dead master that another process has held since.
#[derive(Debug)]
pub struct LeftSocket {
    /// The listener's name.
    pub name: String,
    /// The socket.
    pub fd: OwnedFd,
    /// Device and inode of the file of a unix socket.
    pub file: Option<(u64, u64)>,
}

impl LeftSocket {
    /// Whether it is the one for this listener. Port 0 has got another one. The name that a unix socket was bound to is not
    /// its path, but lies beside it ([`unix`]).
    pub(super) fn serves(&self, plan: &ListenPlan) -> bool {
        if self.name != plan.name {
            return false;
        }
        match &plan.address {
            Address::Tcp(wanted) => tcp::bound_address(&self.fd).is_ok_and(|bound| {
                bound.ip() == wanted.ip() && [bound.port(), 0].contains(&wanted.port())
            }),
            Address::Unix(path) => {
                let bound = getsockname::<UnixAddr>(self.fd.as_raw_fd()).ok();
                let bound = bound.as_ref().and_then(UnixAddr::path);
                bound.is_some_and(|bound| match self.file {
                    Some(_) => parent_dir(bound) == parent_dir(path),
                    // The file is the service manager's, which binds it in place.
                    None => bound == path,
                })
            }
        }
    }
}

impl Listener {
    /// Goes on with the socket of a dead master. What has happened to it meanwhile is found as by [`Listener::restored`].
    ///
    /// # Errors
    /// Those of fstat(2) and getsockname(2); none for an open socket.
    pub(super) fn take_back(plan: &ListenPlan, left: LeftSocket) -> io::Result<Self> {
        let LeftSocket { fd, file, .. } = left;
        let inode = fstat(&fd)?.st_ino;
        let (bound, file_watch) = match &plan.address {
            Address::Tcp(_) => (Address::Tcp(tcp::bound_address(&fd)?), None),
            Address::Unix(path) => (plan.address.clone(), SocketFileWatch::on(path)),
        };
        Ok(Self {
            plan: plan.clone(),
            fd: Arc::new(fd),
            inode,
            bound,
            file: file.map(unix::FileId::new),
            removed: false,
            file_watch,
            manager_file: None,
        })
    }
}

impl From<&Address> for SavedAddress {
    fn from(address: &Address) -> Self {
        match address {
            Address::Tcp(address) => Self::Tcp(*address),
            Address::Unix(path) => Self::Unix(path.clone().into_os_string()),
        }
    }
}

impl From<SavedAddress> for Address {
    fn from(saved: SavedAddress) -> Self {
        match saved {
            SavedAddress::Tcp(address) => Self::Tcp(address),
            SavedAddress::Unix(path) => Self::Unix(path.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::{FileCheckResult, SocketLoss, open_all_left, open_some};
    use crate::sys::kept_fd::killed;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    fn open(address: Address) -> Listener {
        let plan = ListenPlan {
            name: "web".to_owned(),
            address,
            backlog: 7,
            nonblocking: false,
            mode: Some(0o600),
            uid: None,
            gid: None,
        };
        open_some(std::slice::from_ref(&plan), &[])
            .unwrap()
            .remove(0)
    }

    fn after_kill(listener: Listener) -> Listener {
        let saved = listener.saved().unwrap();
        let (saved, mut table) = killed(listener, &saved);
        let listener = Listener::restored(saved, &mut table).unwrap();
        assert_eq!(table.left(), 0);
        listener
    }

    #[test]
    fn a_tcp_socket_outlives_its_master_with_the_connections_that_wait() {
        let listener = open(Address::Tcp("127.0.0.1:0".parse().unwrap()));
        let (before, plan) = (listener.target(), listener.plan().clone());
        let address = listener.addr_text();
        let mut waiting = TcpStream::connect(&address).unwrap();
        waiting.write_all(b"early").unwrap();
        let listener = after_kill(listener);
        assert_eq!(listener.target(), before);
        assert_eq!(*listener.plan(), plan);
        assert_eq!(listener.queue().unwrap().waiting, 1);
        let accepting = TcpListener::from(listener.fd().try_clone().unwrap());
        let mut text = [0; 5];
        accepting.accept().unwrap().0.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"early");
        assert!(!listener.is_shut() && !listener.relisten().unwrap());
    }

    #[test]
    fn a_socket_that_workers_have_held_is_taken_back_by_name_and_address() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        for address in [
            Address::Tcp("127.0.0.1:0".parse().unwrap()),
            Address::Unix(path.clone()),
        ] {
            let listener = open(address.clone());
            let left = |name: &str| LeftSocket {
                name: name.to_owned(),
                fd: listener.fd().try_clone().unwrap(),
                file: listener.file_id(),
            };
            let plan = listener.plan().clone();
            assert!(!left("other").serves(&plan));
            assert!(left("web").serves(&plan));
            for elsewhere in [
                Address::Tcp("127.0.0.1:9".parse().unwrap()),
                Address::Tcp("127.0.0.2:0".parse().unwrap()),
                Address::Unix("/elsewhere/web.sock".into()),
            ] {
                let address = elsewhere;
                assert!(!left("web").serves(&ListenPlan {
                    address,
                    ..plan.clone()
                }));
            }
            let taken = open_all_left(std::slice::from_ref(&plan), Vec::new(), vec![left("web")]);
            let taken = taken.unwrap().remove(0);
            assert_eq!(taken.target(), listener.target());
            assert_eq!(taken.file_id(), listener.file_id());
        }
        assert!(path.exists());
    }

    #[test]
    fn a_unix_socket_keeps_its_file_and_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsString::from_vec(b"web\xff.sock".to_vec());
        let path = dir.path().join(PathBuf::from(name));
        let listener = after_kill(open(Address::Unix(path.clone())));
        let _client = UnixStream::connect(&path).unwrap();
        let accepting = UnixListener::from(listener.fd().try_clone().unwrap());
        accepting.accept().unwrap();
        let check = |listener: &Listener| listener.file_check().unwrap().run(false);
        assert!(matches!(check(&listener), FileCheckResult::Serving));
        assert!(listener.file_watch().is_some());
        // Removed while there is no master.
        let mut removed = after_kill(listener);
        std::fs::remove_file(&path).unwrap();
        let lost = check(&removed);
        let expected = SocketLoss::FileRemoved;
        assert!(matches!(lost, FileCheckResult::NotServing(loss) if loss == expected));
        assert!(!removed.remove_file().unwrap());
        let left = after_kill(removed);
        assert!(left.file_watch().is_none() && left.ownership().is_none());
    }
}
