//! The inotify(7) watches of directories, and the plans that they serve: one directory may serve many plans. Walks add
//! watches; the watch loop reads the events.

use crate::plan::MatchState;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Maximum number of watched directories: each costs the kernel about 1 KiB.
const MAX_DIRS: usize = 250_000;

/// Maximum number of read(2) calls per [`InotifySet::read_events`], with about 100 events each.
const MAX_READS: usize = 400;

/// All events that may change which files a directory has and what they contain. IN_ATTRIB: a file may become readable.
const CONTENT_EVENTS: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(NAME_EVENTS);

/// A name in the directory appears or disappears.
const NAME_EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO);

/// The directory itself is removed or moved: no events for its content, so that a busy parent costs nothing.
const SELF_EVENTS: AddWatchFlags = AddWatchFlags::IN_DELETE_SELF.union(AddWatchFlags::IN_MOVE_SELF);

/// A directory that a plan watches, with the match state of the plan's patterns there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WatchedDir {
    pub(super) plan: usize,
    /// Which of the plan's [`crate::plan::PatternSet`].
    pub(super) globs: usize,
    /// The path as the walk reached it, through symlinks.
    pub(super) path: PathBuf,
    pub(super) state: MatchState,
}

#[derive(Debug, Default)]
struct Subscribers {
    /// Plans that watch everything in it.
    inside: Vec<WatchedDir>,
    /// Plans whose root path leads through here.
    itself: BTreeSet<usize>,
    /// Plans whose root path depends on a name in this directory: a symlink, or a missing component.
    names: HashMap<OsString, BTreeSet<usize>>,
}

impl Subscribers {
    fn forget(&mut self, plan: usize) {
        self.inside.retain(|inside| inside.plan != plan);
        self.itself.remove(&plan);
        self.names.retain(|_, plans| {
            plans.remove(&plan);
            !plans.is_empty()
        });
    }

    fn is_empty(&self) -> bool {
        self.inside.is_empty() && self.itself.is_empty() && self.names.is_empty()
    }
}

/// An event for one plan.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// Something happened to this name in a walked directory.
    Inside(WatchedDir, OsString, AddWatchFlags),
    /// A component of the root path has changed.
    RootPath(usize),
    /// Events were lost.
    Lost,
}

/// Why a directory cannot be watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchError {
    /// It does not exist.
    Gone,
    /// A limit is reached.
    LimitReached,
    Refused(Errno),
}

#[derive(Debug)]
pub(super) struct InotifySet {
    /// None if the kernel's limit of instances is reached.
    inotify: Option<Inotify>,
    dirs: HashMap<WatchDescriptor, Subscribers>,
    max_dirs: usize,
}

impl InotifySet {
    pub(super) fn new() -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        Self {
            inotify,
            dirs: HashMap::new(),
            max_dirs: MAX_DIRS,
        }
    }

    /// With another maximum number of watched directories.
    #[cfg(test)]
    pub(super) fn with_limit(max_dirs: usize) -> Self {
        Self {
            max_dirs,
            ..Self::new()
        }
    }

    /// The limit that caused [`WatchError::LimitReached`], in words.
    pub(super) fn limit(&self) -> &'static str {
        match self.inotify {
            Some(_) => {
                "the limit of watched directories is reached (raise the sysctl fs.inotify.max_user_watches)"
            }
            None => "no inotify instance is left (raise the sysctl fs.inotify.max_user_instances)",
        }
    }

    /// Readable when there are events.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Watches everything in a directory. Returns whether it was not watched before.
    pub(super) fn inside(&mut self, inside: WatchedDir) -> Result<bool, WatchError> {
        let (subscribers, new) = self.subscribers(&inside.path, CONTENT_EVENTS)?;
        if !subscribers.inside.contains(&inside) {
            subscribers.inside.push(inside);
        }
        Ok(new)
    }

    /// Watches whether the directory itself is removed or moved.
    pub(super) fn itself(&mut self, plan: usize, path: &Path) -> Result<(), WatchError> {
        self.subscribers(path, SELF_EVENTS)?.0.itself.insert(plan);
        Ok(())
    }

    /// Watches whether a name in a directory changes.
    pub(super) fn name(
        &mut self,
        plan: usize,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), WatchError> {
        let (subscribers, _) = self.subscribers(path, NAME_EVENTS)?;
        subscribers
            .names
            .entry(name.to_owned())
            .or_default()
            .insert(plan);
        Ok(())
    }

    /// Watches a file that a symlink leads to, and its content.
    pub(super) fn file(
        &mut self,
        plan: usize,
        path: &Path,
        name: &OsStr,
    ) -> Result<(), WatchError> {
        let (subscribers, _) = self.subscribers(path, CONTENT_EVENTS)?;
        subscribers
            .names
            .entry(name.to_owned())
            .or_default()
            .insert(plan);
        Ok(())
    }

    fn subscribers(
        &mut self,
        path: &Path,
        events: AddWatchFlags,
    ) -> Result<(&mut Subscribers, bool), WatchError> {
        let inotify = self.inotify.as_ref().ok_or(WatchError::LimitReached)?;
        // The kernel identifies a directory by its inode: keep the flags that other plans need.
        let add =
            AddWatchFlags::from_bits_retain(nix::libc::IN_MASK_ADD) | AddWatchFlags::IN_ONLYDIR;
        let descriptor = inotify
            .add_watch(path, events | add)
            .map_err(|error| match error {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => WatchError::Gone,
                Errno::ENOSPC | Errno::ENOMEM => WatchError::LimitReached,
                other => WatchError::Refused(other),
            })?;
        let new = !self.dirs.contains_key(&descriptor);
        if new && self.dirs.len() >= self.max_dirs {
            inotify.rm_watch(descriptor).ok();
            return Err(WatchError::LimitReached);
        }
        Ok((self.dirs.entry(descriptor).or_default(), new))
    }

    /// Ends the subscriptions of a plan. The watches stay until [`InotifySet::remove_unused`], so that a new walk can
    /// subscribe again without missing an event.
    pub(super) fn forget(&mut self, plan: usize) {
        self.dirs
            .values_mut()
            .for_each(|subscribers| subscribers.forget(plan));
    }

    /// Removes watches that no plan uses.
    pub(super) fn remove_unused(&mut self) {
        let inotify = self.inotify.as_ref();
        self.dirs.retain(|descriptor, subscribers| {
            let unused = subscribers.is_empty();
            if let Some(inotify) = inotify.filter(|_| unused) {
                inotify.rm_watch(*descriptor).ok();
            }
            !unused
        });
    }

    /// Reads all events, with the plans that they concern.
    pub(super) fn read_events(&mut self) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        for _ in 0..MAX_READS {
            let Some(Ok(batch)) = self.inotify.as_ref().map(Inotify::read_events) else {
                break;
            };
            for event in batch {
                self.sort(event, &mut events);
            }
        }
        events
    }

    fn sort(&mut self, event: InotifyEvent, events: &mut Vec<WatchEvent>) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            events.push(WatchEvent::Lost);
            return;
        }
        let Some(subscribers) = self.dirs.get(&event.wd) else {
            return;
        };
        match event.name {
            Some(name) => {
                let plans = subscribers.names.get(&name).into_iter().flatten();
                events.extend(plans.map(|plan| WatchEvent::RootPath(*plan)));
                let inside = subscribers.inside.iter();
                events
                    .extend(inside.map(|inside| {
                        WatchEvent::Inside(inside.clone(), name.clone(), event.mask)
                    }));
            }
            None if event
                .mask
                .intersects(SELF_EVENTS | AddWatchFlags::IN_UNMOUNT) =>
            {
                events.extend(
                    subscribers
                        .itself
                        .iter()
                        .map(|plan| WatchEvent::RootPath(*plan)),
                );
            }
            None => {}
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.dirs.remove(&event.wd);
        }
    }

    /// The number of watched directories.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.dirs.len()
    }
}
