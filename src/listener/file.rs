//! Watches and checks the file of a unix socket. The file may be removed or replaced while the socket still listens, and
//! a unix socket that was shut down cannot listen again. In dual_stack cases a new socket takes the path, unless another
//! program listens there by now.
//!
//! The main loop calls [`Listener::file_check`], runs the check as a blocking job, and gives the resulting
//! [`ReplacementSocket`] to [`Listener::replace`].

use crate::listener::unix::{self, FileId};
use crate::listener::{FileRights, Listener, SocketError, parent_dir, set_nonblocking};
use crate::plan::{Address, ListenPlan};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An inotify(7) instance for one file and its directory: events between its creation and the first check are not lost,
/// and no other events arrive, so a busy directory costs nothing. Removing a bound socket's file changes its link
/// count, which is an attribute.
#[derive(Debug)]
pub struct SocketFileWatch(Inotify);

impl SocketFileWatch {
    /// None if no inotify instance is left or the file is not readable: then the file is only checked at each reload.
    pub(super) fn on(path: &Path) -> Option<Self> {
        let own =
            AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        inotify
            .add_watch(path, own | AddWatchFlags::IN_DONT_FOLLOW)
            .ok()?;
        let dir = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        inotify.add_watch(parent_dir(path), dir).ok();
        Some(Self(inotify))
    }

    /// Discards the pending events.
    pub fn clear(&self) {
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for SocketFileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a unix socket no longer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketLoss {
    /// It was shut down (shutdown(2)).
    ShutDown,
    /// Its file was removed.
    FileRemoved,
    /// Another file has its path.
    FileReplaced,
}

impl SocketLoss {
    /// The reason in words, for messages.
    pub fn text(self) -> &'static str {
        match self {
            Self::ShutDown => "a worker has shut the listening socket down",
            Self::FileRemoved => "its file is gone",
            Self::FileReplaced => "its file was replaced by another one",
        }
    }
}

/// A check of a unix socket and its file that is to be run.
#[derive(Debug)]
pub struct FileCheck {
    plan: ListenPlan,
    path: PathBuf,
    file: Option<FileId>,
    shut: bool,
}

/// The result of a check.
#[derive(Debug)]
pub enum FileCheckResult {
    /// The socket listens and its file is in place.
    Serving,
    /// The socket does not serve, and no replacement was allowed.
    NotServing(SocketLoss),
    /// A new socket has the path.
    Replaced(SocketLoss, ReplacementSocket),
    /// The socket does not serve, and no new one could be opened.
    Failed(SocketLoss, SocketError),
}

/// A new socket that replaces one that no longer serves.
#[derive(Debug)]
pub struct ReplacementSocket {
    plan: ListenPlan,
    path: PathBuf,
    fd: OwnedFd,
    inode: u64,
    file: FileId,
    file_watch: Option<SocketFileWatch>,
}

impl ReplacementSocket {
    /// Removes its file, if it is still in place, and closes it: the listener was removed meanwhile. May block.
    pub fn discard(self) {
        if FileId::of(&self.path).is_ok_and(|file| file == self.file) {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl FileCheck {
    /// Checks the socket and its file, and opens a new socket if one is needed and `may_replace` is set. May block.
    pub fn run(self, may_replace: bool) -> FileCheckResult {
        let loss = match (
            self.shut,
            self.file.map(|file| (file, FileId::of(&self.path))),
        ) {
            (true, _) => SocketLoss::ShutDown,
            (false, Some((file, Ok(found)))) if found != file => SocketLoss::FileReplaced,
            (false, Some((_, Err(error)))) if is_absence(&error) => SocketLoss::FileRemoved,
            (false, _) => return FileCheckResult::Serving,
        };
        if !may_replace {
            return FileCheckResult::NotServing(loss);
        }
        let Self { plan, path, .. } = self;
        let made = unix::open(&plan, &path).and_then(|(fd, file)| {
            set_nonblocking(&fd, plan.nonblocking)?;
            let inode = fstat(&fd)?.st_ino;
            Ok((fd, file, inode))
        });
        match made {
            Ok((fd, file, inode)) => {
                let file_watch = SocketFileWatch::on(&path);
                FileCheckResult::Replaced(
                    loss,
                    ReplacementSocket {
                        plan,
                        path,
                        fd,
                        inode,
                        file,
                        file_watch,
                    },
                )
            }
            Err(error) => FileCheckResult::Failed(loss, SocketError::new(&plan, error)),
        }
    }
}

/// Whether the error means that the file does not exist; other errors do not tell.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl Listener {
    /// Prepares a check of the socket and its file; None for TCP.
    pub fn file_check(&self) -> Option<FileCheck> {
        let Address::Unix(path) = &self.bound else {
            return None;
        };
        let mut plan = self.plan.clone();
        if let Some(rights) = &self.manager_file {
            plan.mode = plan.mode.or(Some(rights.mode));
            plan.uid = plan.uid.or(Some(rights.uid));
            plan.gid = plan.gid.or(Some(rights.gid));
        }
        let file = if self.removed { None } else { self.file };
        Some(FileCheck {
            plan,
            path: path.clone(),
            file,
            shut: self.is_shut(),
        })
    }

    /// Takes over the new socket. True if its file has another owner or mode than the plan now asks for: then
    /// [`Listener::ownership`] has to be applied.
    pub fn replace(&mut self, socket: ReplacementSocket) -> bool {
        let ReplacementSocket {
            plan,
            fd,
            inode,
            file,
            file_watch,
            ..
        } = socket;
        (self.fd, self.inode, self.file, self.file_watch) =
            (Arc::new(fd), inode, Some(file), file_watch);
        self.removed = false;
        self.manager_file = None;
        if plan.nonblocking != self.plan.nonblocking {
            set_nonblocking(&self.fd, self.plan.nonblocking).ok();
        }
        (plan.mode, plan.uid, plan.gid) != (self.plan.mode, self.plan.uid, self.plan.gid)
    }

    /// The inotify watch of the socket's file; None for TCP, or if the file cannot be watched.
    pub fn file_watch(&self) -> Option<&SocketFileWatch> {
        self.file_watch.as_ref()
    }
}

/// Owner, mode and identity of a socket file that the service manager created, so that a replacement gets the same
/// owner and mode.
pub(super) fn manager_file(path: &Path) -> Option<(FileRights, FileId)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::symlink_metadata(path)
        .ok()
        .filter(|meta| meta.file_type().is_socket())?;
    let file = FileId::of(path).ok()?;
    Some((
        FileRights {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        },
        file,
    ))
}
