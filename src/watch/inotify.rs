//! The inotify(7) watches of directories, and which plans they serve: one directory may serve many plans.

use super::patterns::MatchState;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Most directories that are watched in all: each costs the kernel about 1 KiB.
const MOST_FOLDERS: usize = 250_000;

/// Events read per call (about 100 per read(2)).
const MOST_READS: usize = 400;

/// All events that may change which files are inside and what they contain. Attributes: a file may become readable.
const INSIDE: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(NAMES);

const NAMES: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO);

/// The directory itself is removed or moved: no events for its content, so that a busy parent costs nothing.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);

/// Which plan watches a directory, and where the directory stands in its patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) plan: usize,
    /// Which of the plan's [`super::patterns::PatternSet`].
    pub(super) globs: usize,
    /// The path as the walk reached it, through symlinks.
    pub(super) path: PathBuf,
    pub(super) stand: MatchState,
}

#[derive(Debug, Default)]
struct Folder {
    inside: Vec<Inside>,
    /// Plans whose root path leads through here.
    itself: BTreeSet<usize>,
    /// Plans whose root path depends on a name in here: a symlink, or a missing component.
    names: HashMap<OsString, BTreeSet<usize>>,
}

impl Folder {
    fn forget(&mut self, plan: usize) {
        self.inside.retain(|inside| inside.plan != plan);
        self.itself.remove(&plan);
        self.names.retain(|_, plans| {
            plans.remove(&plan);
            !plans.is_empty()
        });
    }

    fn is_silent(&self) -> bool {
        self.inside.is_empty() && self.itself.is_empty() && self.names.is_empty()
    }
}

/// What an event says, to one plan.
#[derive(Debug)]
pub(super) enum Heard {
    /// Something happened to this name in a walked directory.
    Inside(Inside, OsString, AddWatchFlags),
    /// A component of the root path has changed.
    Way(usize),
    /// Events were lost.
    Lost,
}

/// Why a directory cannot be watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchError {
    /// It is not there.
    Gone,
    /// A limit is reached.
    Full,
    Refused(Errno),
}

#[derive(Debug)]
pub(super) struct InotifySet {
    /// None: the kernel grants no more of them.
    inotify: Option<Inotify>,
    folders: HashMap<WatchDescriptor, Folder>,
    most: usize,
}

impl InotifySet {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        Self {
            inotify,
            folders: HashMap::new(),
            most: MOST_FOLDERS,
        }
    }

    /// Hears in so many folders at most.
    #[cfg(test)]
    pub(super) fn with_limit(most: usize) -> Self {
        Self {
            most,
            ..Self::new()
        }
    }

    /// The limit that is in the way where an ear is [`WatchError::Full`], for people.
    pub(super) fn limit(&self) -> &'static str {
        match self.inotify {
            Some(_) => {
                "the limit of watched folders is reached (raise the sysctl fs.inotify.max_user_watches)"
            }
            None => "no inotify instance is left (raise the sysctl fs.inotify.max_user_instances)",
        }
    }

    /// Readable when there is something to hear.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Watches all that happens in a directory. True: it was not watched before.
    pub(super) fn inside(&mut self, inside: Inside) -> Result<bool, WatchError> {
        let (folder, new) = self.folder(&inside.path, INSIDE)?;
        if !folder.inside.contains(&inside) {
            folder.inside.push(inside);
        }
        Ok(new)
    }

    /// Watches whether the directory itself is removed or moved.
    pub(super) fn itself(&mut self, plan: usize, path: &Path) -> Result<(), WatchError> {
        self.folder(path, ITSELF)?.0.itself.insert(plan);
        Ok(())
    }

    /// Watches whether a name in a directory changes.
    pub(super) fn name(
        &mut self,
        plan: usize,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), WatchError> {
        let (folder, _) = self.folder(path, NAMES)?;
        folder
            .names
            .entry(name.to_owned())
            .or_default()
            .insert(plan);
        Ok(())
    }

    /// The same for a file that a link leads to, and to what it holds.
    pub(super) fn file(
        &mut self,
        plan: usize,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), WatchError> {
        let (folder, _) = self.folder(path, INSIDE)?;
        folder
            .names
            .entry(name.to_owned())
            .or_default()
            .insert(plan);
        Ok(())
    }

    fn folder(
        &mut self,
        path: &Path,
        events: AddWatchFlags,
    ) -> Result<(&mut Folder, bool), WatchError> {
        let inotify = self.inotify.as_ref().ok_or(WatchError::Full)?;
        // The kernel identifies a directory by its inode: keep the flags that other plans need.
        let add =
            AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD) | AddWatchFlags::IN_ONLYDIR;
        let ear = inotify
            .add_watch(path, events | add)
            .map_err(|error| match error {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => WatchError::Gone,
                Errno::ENOSPC | Errno::ENOMEM => WatchError::Full,
                other => WatchError::Refused(other),
            })?;
        let new = !self.folders.contains_key(&ear);
        if new && self.folders.len() >= self.most {
            inotify.rm_watch(ear).ok();
            return Err(WatchError::Full);
        }
        Ok((self.folders.entry(ear).or_default(), new))
    }

    /// A plan does not listen any more; its folders stay open until [`InotifySet::sweep`], so that it may come back to them
    /// without missing anything.
    pub(super) fn forget(&mut self, plan: usize) {
        self.folders
            .values_mut()
            .for_each(|folder| folder.forget(plan));
    }

    /// Removes watches that no plan uses.
    pub(super) fn sweep(&mut self) {
        let inotify = self.inotify.as_ref();
        self.folders.retain(|ear, folder| {
            let silent = folder.is_silent();
            if let Some(inotify) = inotify.filter(|_| silent) {
                inotify.rm_watch(*ear).ok();
            }
            !silent
        });
    }

    /// Reads all events, with the plans that they concern.
    pub(super) fn hear(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for _ in 0..MOST_READS {
            let Some(Ok(events)) = self.inotify.as_ref().map(Inotify::read_events) else {
                break;
            };
            for event in events {
                self.sort(event, &mut heard);
            }
        }
        heard
    }

    fn sort(&mut self, event: InotifyEvent, heard: &mut Vec<Heard>) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            heard.push(Heard::Lost);
            return;
        }
        let Some(folder) = self.folders.get(&event.wd) else {
            return;
        };
        match event.name {
            Some(name) => {
                let ways = folder.names.get(&name).into_iter().flatten();
                heard.extend(ways.map(|plan| Heard::Way(*plan)));
                let inside = folder.inside.iter();
                heard.extend(
                    inside.map(|inside| Heard::Inside(inside.clone(), name.clone(), event.mask)),
                );
            }
            None if event.mask.intersects(ITSELF | AddWatchFlags::IN_UNMOUNT) => {
                heard.extend(folder.itself.iter().map(|plan| Heard::Way(*plan)));
            }
            None => {}
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.folders.remove(&event.wd);
        }
    }

    /// Folders that are listened to.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.folders.len()
    }
}
