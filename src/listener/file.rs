//! Watches the file of a unix socket: it may be removed or replaced while the socket listens on, and a socket that was
//! shut down cannot listen again. Then a new socket takes the path, unless another program listens there by now.

use crate::listener::unix::{self, FileId};
use crate::listener::{Handled, Listener, SocketError, folder_of, set_nonblocking};
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
    /// None: no instance is left, or the file is not readable; then it is checked at each reload.
    pub(super) fn on(path: &Path) -> Option<Self> {
        let own =
            AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        let ear = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        ear.add_watch(path, own | AddWatchFlags::IN_DONT_FOLLOW)
            .ok()?;
        let folder = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        ear.add_watch(folder_of(path), folder).ok();
        Some(Self(ear))
    }

    /// Discards the pending events.
    pub fn hush(&self) {
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for SocketFileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why a unix socket does not serve any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It was shut down.
    Shut,
    /// Its file was removed.
    Gone,
    /// Another file has its path.
    Foreign,
}

impl Lost {
    pub fn text(self) -> &'static str {
        match self {
            Self::Shut => "a worker has shut the listening socket down",
            Self::Gone => "its file is gone",
            Self::Foreign => "its file was replaced by another one",
        }
    }
}

/// One check of a unix socket and its file.
#[derive(Debug)]
pub struct Look {
    plan: ListenPlan,
    path: PathBuf,
    file: Option<FileId>,
    shut: bool,
}

/// The result of a check.
#[derive(Debug)]
pub enum Looked {
    Well,
    /// It does not serve, and was not replaced.
    Lost(Lost),
    /// A new socket has its path.
    Made(Lost, Fresh),
    Failed(Lost, SocketError),
}

/// A new socket that replaces one that does not serve any more.
#[derive(Debug)]
pub struct Fresh {
    plan: ListenPlan,
    path: PathBuf,
    fd: OwnedFd,
    inode: u64,
    file: FileId,
    ear: Option<SocketFileWatch>,
}

impl Fresh {
    /// Discards it: it is not needed any more. May block.
    pub fn discard(self) {
        if FileId::of(&self.path).is_ok_and(|file| file == self.file) {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl Look {
    /// Checks, and creates a new socket if one is needed and `may_make` is set. May block.
    pub fn run(self, may_make: bool) -> Looked {
        let lost = match (
            self.shut,
            self.file.map(|file| (file, FileId::of(&self.path))),
        ) {
            (true, _) => Lost::Shut,
            (false, Some((file, Ok(found)))) if found != file => Lost::Foreign,
            (false, Some((_, Err(error)))) if is_absence(&error) => Lost::Gone,
            (false, _) => return Looked::Well,
        };
        if !may_make {
            return Looked::Lost(lost);
        }
        let Self { plan, path, .. } = self;
        let made = unix::open(&plan, &path).and_then(|(fd, file)| {
            set_nonblocking(&fd, plan.nonblocking)?;
            let inode = fstat(&fd)?.st_ino;
            Ok((fd, file, inode))
        });
        match made {
            Ok((fd, file, inode)) => {
                let ear = SocketFileWatch::on(&path);
                Looked::Made(
                    lost,
                    Fresh {
                        plan,
                        path,
                        fd,
                        inode,
                        file,
                        ear,
                    },
                )
            }
            Err(error) => Looked::Failed(lost, SocketError::new(&plan, error)),
        }
    }
}

/// There is no such file; any other error says nothing about it.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

impl Listener {
    /// What a check needs to know; None for TCP.
    pub fn look(&self) -> Option<Look> {
        let Address::Unix(path) = &self.bound else {
            return None;
        };
        let mut plan = self.plan.clone();
        if let Some(handled) = &self.handled {
            plan.mode = plan.mode.or(Some(handled.mode));
            plan.uid = plan.uid.or(Some(handled.uid));
            plan.gid = plan.gid.or(Some(handled.gid));
        }
        let file = if self.removed { None } else { self.file };
        Some(Look {
            plan,
            path: path.clone(),
            file,
            shut: self.is_shut(),
        })
    }

    /// Takes the new socket over; true: its file was made for another owner, mode or way to wait than is wanted by now.
    pub fn replace(&mut self, fresh: Fresh) -> bool {
        let Fresh {
            plan,
            fd,
            inode,
            file,
            ear,
            ..
        } = fresh;
        (self.fd, self.inode, self.file, self.ear) = (Arc::new(fd), inode, Some(file), ear);
        self.removed = false;
        self.handled = None;
        if plan.nonblocking != self.plan.nonblocking {
            set_nonblocking(&self.fd, self.plan.nonblocking).ok();
        }
        (plan.mode, plan.uid, plan.gid) != (self.plan.mode, self.plan.uid, self.plan.gid)
    }

    /// What hears of its file; none: TCP, or nothing can be heard.
    pub fn ear(&self) -> Option<&SocketFileWatch> {
        self.ear.as_ref()
    }
}

/// What a service manager's socket file looks like: one that is made in its place is as open as that.
pub(super) fn handled(path: &Path) -> Option<(Handled, FileId)> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::symlink_metadata(path)
        .ok()
        .filter(|meta| meta.file_type().is_socket())?;
    let file = FileId::of(path).ok()?;
    Some((
        Handled {
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        },
        file,
    ))
}
