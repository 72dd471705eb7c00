//! The file of a unix socket, looked after: it may be removed, or replaced, while the socket listens on; and a socket that
//! was shut down stays so for ever. Then a new one takes the path, unless somebody else listens there by now.

use crate::listener::unix::{self, FileId};
use crate::listener::{Handled, Listener, SocketError, folder_of, set_nonblocking};
use crate::plan::{Address, ListenPlan};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The kernel's ear on one file and its folder (inotify(7)), an instance of its own: what happens between its making and
/// the first look at it is not lost, and nothing else is heard, so a busy folder costs nothing. Removing a bound socket's
/// file changes its link count, which is an attribute.
#[derive(Debug)]
pub struct SocketFileWatch(Inotify);

impl SocketFileWatch {
    /// None: no instance is left, or the file may not be read; then it is looked at at each reload.
    pub(super) fn on(path: &Path) -> Option<Self> {
        let own = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        let ear = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        ear.add_watch(path, own | AddWatchFlags::IN_DONT_FOLLOW).ok()?;
        let folder = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        ear.add_watch(folder_of(path), folder).ok();
        Some(Self(ear))
    }

    /// Takes what was heard.
    pub fn hush(&self) {
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for SocketFileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What became of a unix socket that does not serve any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Somebody has shut it down.
    Shut,
    /// Its file is gone.
    Gone,
    /// Another file stands in its place.
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

/// One look at a unix socket and its file.
#[derive(Debug)]
pub struct Look {
    plan: ListenPlan,
    path: PathBuf,
    file: Option<FileId>,
    shut: bool,
}

/// What a look has found.
#[derive(Debug)]
pub enum Looked {
    Well,
    /// It does not serve, and nothing was done about it.
    Lost(Lost),
    /// A new socket has its path.
    Made(Lost, Fresh),
    Failed(Lost, SocketError),
}

/// A new socket in the place of one that does not serve any more.
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
    /// Nobody wants it any more. May block.
    pub fn discard(self) {
        if FileId::of(&self.path).is_ok_and(|file| file == self.file) {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl Look {
    /// Looks, and makes a new socket where one is needed and `may_make` is set. May block.
    pub fn run(self, may_make: bool) -> Looked {
        let lost = match (self.shut, self.file.map(|file| (file, FileId::of(&self.path)))) {
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
                Looked::Made(lost, Fresh { plan, path, fd, inode, file, ear })
            }
            Err(error) => Looked::Failed(lost, SocketError::new(&plan, error)),
        }
    }
}

/// The path leads nowhere; any other error says nothing about the file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Listener {
    /// What has to be known to look after it; none for TCP.
    pub fn look(&self) -> Option<Look> {
        let Address::Unix(path) = &self.bound else { return None };
        let mut plan = self.plan.clone();
        if let Some(handled) = &self.handled {
            plan.mode = plan.mode.or(Some(handled.mode));
            plan.uid = plan.uid.or(Some(handled.uid));
            plan.gid = plan.gid.or(Some(handled.gid));
        }
        let file = if self.removed { None } else { self.file };
        Some(Look { plan, path: path.clone(), file, shut: self.is_shut() })
    }

    /// Takes the new socket over; true: its file was made for another owner, mode or way to wait than is wanted by now.
    pub fn replace(&mut self, fresh: Fresh) -> bool {
        let Fresh { plan, fd, inode, file, ear, .. } = fresh;
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
    let meta = std::fs::symlink_metadata(path).ok().filter(|meta| meta.file_type().is_socket())?;
    let file = FileId::of(path).ok()?;
    Some((Handled { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid() }, file))
}
