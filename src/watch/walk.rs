//! Walks from patterns to files through the directories in which something can match. Each directory is watched before
//! it is read, so that no change is missed; so is each component of the path to the root.
//!
//! Symlinks to directories are followed where a pattern names them or matches their name, never by `**`: no walk goes
//! in circles.

use super::inotify::{InotifySet, Inside, WatchError};
use super::patterns::{MatchState, PatternSet};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Component, Path, PathBuf};

/// Most matching files, and directories on the way to them, of one plan.
pub(super) const MOST: usize = 100_000;

/// Links that one way may lead over, as path_resolution(7) has it.
const MOST_LINKS: usize = 40;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) files: Vec<PathBuf>,
    pub(super) folders: usize,
    /// Links to folders.
    pub(super) links: Vec<PathBuf>,
    /// Directories that were not watched before.
    pub(super) new: usize,
    /// Not every directory can be watched.
    pub(super) deaf: bool,
    /// There is more than [`MOST`].
    pub(super) too_many: bool,
    /// The first folder that cannot be read, and why.
    pub(super) unreadable: Option<String>,
}

pub(super) struct Walk<'w> {
    pub(super) ears: &'w mut InotifySet,
    pub(super) plan: usize,
    pub(super) found: Found,
}

/// A folder that is to be entered.
struct Step {
    path: PathBuf,
    stand: MatchState,
}

impl<'w> Walk<'w> {
    pub(super) fn new(ears: &'w mut InotifySet, plan: usize) -> Self {
        Self {
            ears,
            plan,
            found: Found::default(),
        }
    }

    /// All that matches, from the root, and the way there. `number`: which of the plan's globs these are.
    pub(super) fn whole(&mut self, number: usize, globs: &PatternSet) {
        self.way(&globs.root);
        self.below(number, globs, globs.root.clone(), globs.start());
    }

    /// All that matches in a folder and below, or behind a link.
    pub(super) fn below(
        &mut self,
        number: usize,
        globs: &PatternSet,
        path: PathBuf,
        stand: MatchState,
    ) {
        if let Ok(target) = path.read_link() {
            if !path.is_dir() {
                return;
            }
            self.link(&path, &target);
            self.found.links.push(path.clone());
        }
        let mut steps = vec![Step { path, stand }];
        while let Some(step) = steps.pop() {
            if self.found.folders >= MOST || self.found.files.len() >= MOST {
                self.found.too_many = true;
                return;
            }
            match self.enter(number, globs, step, &mut steps) {
                Ok(()) => {}
                Err((path, error)) if ours(&error) => {
                    let told = format!("{} cannot be read: {error}", path.display());
                    self.found.unreadable.get_or_insert(told);
                }
                Err(_) => {}
            }
        }
    }

    fn enter(
        &mut self,
        number: usize,
        globs: &PatternSet,
        step: Step,
        steps: &mut Vec<Step>,
    ) -> Result<(), (PathBuf, io::Error)> {
        let Step { path, stand } = step;
        let failed = |error| (path.clone(), error);
        let inside = Inside {
            plan: self.plan,
            globs: number,
            path: path.clone(),
            stand,
        };
        let new = self.ears.inside(inside).map(usize::from);
        self.found.new += self.deaf(new).map_err(failed)?;
        self.found.folders += 1;
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, inner) = (entry.file_name(), entry.path());
            let below = globs.step(stand, &name);
            if below.is_lost() || globs.leaves_out(&inner) {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            let behind = if kind.is_symlink() {
                self.behind(&inner)
            } else {
                None
            };
            if kind.is_dir() && globs.descends(below) {
                steps.push(Step {
                    path: inner,
                    stand: below,
                });
            } else if behind.as_ref().is_some_and(Metadata::is_dir) {
                let below = globs.step_by_name(stand, &name);
                if globs.descends(below) {
                    self.found.links.push(inner.clone());
                    steps.push(Step {
                        path: inner,
                        stand: below,
                    });
                }
            } else if (kind.is_file() || behind.is_some_and(|meta| meta.is_file()))
                && globs.matches(below)
            {
                self.found.files.push(inner);
                if self.found.files.len() >= MOST {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Follows a symlink; the path to its target is watched.
    fn behind(&mut self, link: &Path) -> Option<Metadata> {
        let target = link.read_link().ok()?;
        self.link(link, &target);
        link.metadata().ok()
    }

    fn link(&mut self, link: &Path, target: &Path) {
        if let Some(folder) = link.parent().and_then(|folder| folder.canonicalize().ok()) {
            self.way(&folder.join(target));
        }
    }

    /// Watches every component of an absolute path, to notice a removed directory, a retargeted symlink, or a missing
    /// component that appears. The path ends at the first component that is not a directory.
    pub(super) fn way(&mut self, path: &Path) {
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
                let heard = self.ears.itself(self.plan, &next);
                self.deaf(heard).ok();
                here = next;
                continue;
            }
            let heard = self.ears.name(self.plan, &here, &name);
            if self.deaf(heard).is_err() {
                return;
            }
            // Checked again now that it is watched.
            links += 1;
            match next.read_link() {
                _ if links > MOST_LINKS => return,
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
                    let heard = if next.is_file() {
                        self.ears.file(self.plan, &here, &name)
                    } else {
                        Ok(())
                    };
                    self.deaf(heard).ok();
                    return;
                }
            }
        }
    }

    /// Reaching a limit does not end the walk, but the plan is polled from now on.
    fn deaf<T: Default>(&mut self, heard: Result<T, WatchError>) -> io::Result<T> {
        match heard {
            Ok(heard) => Ok(heard),
            Err(WatchError::Full) => {
                self.found.deaf = true;
                Ok(T::default())
            }
            Err(WatchError::Gone) => Err(Errno::ENOENT.into()),
            Err(WatchError::Refused(error)) => Err(error.into()),
        }
    }
}

/// An error that the user has to fix; files that are gone by now are no error.
fn ours(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) && error.raw_os_error() != Some(Errno::ELOOP as i32)
}
