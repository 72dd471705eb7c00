//! Walks from patterns to files through the directories in which something can match. Each directory is watched before
//! it is read, so that no change is missed; so is each component of the path to the root.
//!
//! A symlink to a directory is followed where a pattern names it or matches its name, never by `**`: so no walk goes in
//! circles.

use super::inotify::{InotifySet, WatchError, WatchedDir};
use crate::plan::{MatchState, PatternSet};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Maximum number of matching files of one plan, and of directories that are entered for them.
pub(super) const MAX_ENTRIES: usize = 100_000;

/// Maximum number of symlinks in one path, as in path_resolution(7).
const MAX_LINKS: usize = 40;

/// The result of a walk.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) directories: usize,
    /// Symlinks to directories.
    pub(super) links: Vec<PathBuf>,
    /// Directories that were not watched before.
    pub(super) new: usize,
    /// A limit was reached: not every directory is watched.
    pub(super) incomplete: bool,
    /// There are more than [`MAX_ENTRIES`].
    pub(super) too_many: bool,
    /// The first directory that cannot be read, and why.
    pub(super) unreadable: Option<String>,
}

/// A walk for one plan.
pub(super) struct Walk<'w> {
    pub(super) inotify: &'w mut InotifySet,
    pub(super) plan: usize,
    pub(super) found: Found,
}

/// A directory to be entered.
struct PendingDir {
    path: PathBuf,
    state: MatchState,
}

impl<'w> Walk<'w> {
    pub(super) fn new(inotify: &'w mut InotifySet, plan: usize) -> Self {
        Self {
            inotify,
            plan,
            found: Found::default(),
        }
    }

    /// Finds everything that matches below the root, and watches the path to the root. `number`: the index of `globs` in the
    /// plan.
    pub(super) fn whole(&mut self, number: usize, globs: &PatternSet) {
        self.watch_path_chain(globs.root());
        self.below(number, globs, globs.root().to_owned(), globs.start());
    }

    /// Finds everything that matches in a directory and below, or behind a symlink.
    pub(super) fn below(
        &mut self,
        number: usize,
        globs: &PatternSet,
        path: PathBuf,
        state: MatchState,
    ) {
        if let Ok(target) = path.read_link() {
            if !path.is_dir() {
                return;
            }
            self.watch_target(&path, &target);
            self.found.links.push(path.clone());
        }
        let mut pending = vec![PendingDir { path, state }];
        while let Some(dir) = pending.pop() {
            if self.found.directories >= MAX_ENTRIES || self.found.files.len() >= MAX_ENTRIES {
                self.found.too_many = true;
                return;
            }
            match self.enter(number, globs, dir, &mut pending) {
                Ok(()) => {}
                Err((path, error)) if is_worth_reporting(&error) => {
                    let text = format!("{} cannot be read: {error}", path.display());
                    self.found.unreadable.get_or_insert(text);
                }
                Err(_) => {}
            }
        }
    }

    fn enter(
        &mut self,
        number: usize,
        globs: &PatternSet,
        dir: PendingDir,
        pending: &mut Vec<PendingDir>,
    ) -> Result<(), (PathBuf, io::Error)> {
        let PendingDir { path, state } = dir;
        let failed = |error| (path.clone(), error);
        let watched_dir = WatchedDir {
            plan: self.plan,
            globs: number,
            path: path.clone(),
            state,
        };
        let new = self.inotify.inside(watched_dir).map(usize::from);
        self.found.new += self.or_incomplete(new).map_err(failed)?;
        self.found.directories += 1;
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, inner) = (entry.file_name(), entry.path());
            let below = globs.step(state, &name);
            if below.is_dead() || globs.excludes(&inner) {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            let target = if kind.is_symlink() {
                self.follow(&inner)
            } else {
                None
            };
            if kind.is_dir() && globs.descends(below) {
                pending.push(PendingDir {
                    path: inner,
                    state: below,
                });
            } else if target.as_ref().is_some_and(Metadata::is_dir) {
                let below = globs.step_by_name(state, &name);
                if globs.descends(below) {
                    self.found.links.push(inner.clone());
                    pending.push(PendingDir {
                        path: inner,
                        state: below,
                    });
                }
            } else if (kind.is_file() || target.is_some_and(|meta| meta.is_file()))
                && globs.matches(below)
            {
                self.found.files.push(inner);
                if self.found.files.len() >= MAX_ENTRIES {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Follows a symlink, and watches the path to its target.
    fn follow(&mut self, link: &Path) -> Option<Metadata> {
        let target = link.read_link().ok()?;
        self.watch_target(link, &target);
        link.metadata().ok()
    }

    fn watch_target(&mut self, link: &Path, target: &Path) {
        if let Some(directory) = link
            .parent()
            .and_then(|directory| directory.canonicalize().ok())
        {
            self.watch_path_chain(&directory.join(target));
        }
    }

    /// Watches every component of an absolute path, to notice a removed directory, a retargeted symlink, or a missing
    /// component that appears. The path ends at the first component that is not a directory.
    pub(super) fn watch_path_chain(&mut self, path: &Path) {
        let mut here = PathBuf::from("/");
        let mut rest: VecDeque<OsString> = path
            .components()
            .skip(1)
            .map(|part| part.as_os_str().to_owned())
            .collect();
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&name);
            if next.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                let watched = self.inotify.itself(self.plan, &next);
                self.or_incomplete(watched).ok();
                here = next;
                continue;
            }
            let watched = self.inotify.name(self.plan, &here, &name);
            if self.or_incomplete(watched).is_err() {
                return;
            }
            // Checked again now that it is watched.
            links += 1;
            match next.read_link() {
                _ if links > MAX_LINKS => return,
                Ok(target) => {
                    for part in target.components().rev() {
                        match part {
                            Component::RootDir => here = PathBuf::from("/"),
                            part => rest.push_front(part.as_os_str().to_owned()),
                        }
                    }
                }
                Err(_) if next.is_dir() => rest.push_front(name),
                Err(_) => {
                    let watched = if next.is_file() {
                        self.inotify.file(self.plan, &here, &name)
                    } else {
                        Ok(())
                    };
                    self.or_incomplete(watched).ok();
                    return;
                }
            }
        }
    }

    /// A limit does not end the walk: the plan is then scanned regularly.
    fn or_incomplete<T: Default>(&mut self, watched: Result<T, WatchError>) -> io::Result<T> {
        match watched {
            Ok(watched) => Ok(watched),
            Err(WatchError::LimitReached) => {
                self.found.incomplete = true;
                Ok(T::default())
            }
            Err(WatchError::Gone) => Err(Errno::ENOENT.into()),
            Err(WatchError::Refused(error)) => Err(error.into()),
        }
    }
}

/// Whether the user has to know of the error; files that were removed meanwhile are none.
fn is_worth_reporting(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) && error.raw_os_error() != Some(Errno::ELOOP as i32)
}
