//! Which files root may read: a file that another user can write would give that user a root shell.

use super::paths;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Uid;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// Owner and mode of a file or directory.
struct Owner {
    mode: u32,
    gid: u32,
    directory: bool,
}

impl Owner {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = path.metadata()?;
        Ok(Self {
            mode: meta.mode(),
            gid: meta.gid(),
            directory: meta.is_dir(),
        })
    }

    /// In a sticky directory no user can replace another user's file.
    fn others_write(&self) -> bool {
        let bits = if self.gid == 0 {
            OTHERS_WRITE
        } else {
            OTHERS_WRITE | GROUP_WRITES
        };
        self.mode & bits != 0 && !(self.directory && self.mode & STICKY != 0)
    }
}

/// For root: the file itself or a directory above it that others may write. `None` if there is none, for other users,
/// and for files that do not exist.
pub(super) fn writable_by_others(path: &Path) -> Option<PathBuf> {
    if !Uid::effective().is_root() {
        return None;
    }
    let real = path.canonicalize().ok()?;
    // The directory of each link on the way decides what the link points to.
    std::iter::once(real)
        .chain(directories_on_the_way(path))
        .find(|path| Owner::of(path).is_ok_and(|owner| owner.others_write()) && !on_read_only(path))
}

/// Every directory that is passed on the way to a file, the last first: those of links and those that they point to.
fn directories_on_the_way(path: &Path) -> Vec<PathBuf> {
    let owned = |path: &Path| {
        path.components()
            .map(|part| part.as_os_str().to_owned())
            .collect::<Vec<OsString>>()
    };
    let mut left: Vec<OsString> = owned(&paths::absolute(path));
    left.reverse();
    let (mut here, mut passed, mut links) = (PathBuf::from("/"), vec![PathBuf::from("/")], 0);
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::Normal(name)) => {
                let next = here.join(name);
                match next.read_link() {
                    Ok(target) if links < MOST_LINKS => {
                        links += 1;
                        left.extend(owned(&target).into_iter().rev());
                    }
                    _ => here = next,
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
        if here.is_dir() && !passed.contains(&here) {
            passed.push(here.clone());
        }
    }
    passed.reverse();
    passed
}

/// No one can write to a read-only mount (a ConfigMap, whose directories have the mode 0777).
fn on_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|about| about.flags().contains(FsFlags::ST_RDONLY))
}

/// The message for a result of [`writable_by_others`], and what to do about it.
pub(super) fn refusal(found: &Path) -> (String, String) {
    let found = found.display();
    let message = format!("{found} is writable by others, and what they write would run as root");
    (message, format!("chmod go-w {found}"))
}

/// Whether root may use a file that was found rather than named.
pub(super) fn is_own(path: &Path) -> bool {
    !Uid::effective().is_root() || path.metadata().is_ok_and(|meta| meta.uid() == 0)
}

/// For root: whether a file that a pattern matched may be used. The users who may write the configuration `main` may
/// write it as well.
pub(super) fn may_be_included(path: &Path, main: &Path) -> bool {
    let owner = |path: &Path| path.metadata().map(|meta| meta.uid()).ok();
    is_own(path) || (owner(path).is_some() && owner(path) == owner(main))
}

/// For root: the file, or a directory above it, that belongs neither to root nor to the owner of the configuration
/// `main`: that owner could replace it. If the root directory itself belongs to another user (a user namespace
/// without root), that user counts as root.
pub(super) fn owned_by_another_user(path: &Path, main: &Path) -> Option<PathBuf> {
    if !Uid::effective().is_root() {
        return None;
    }
    let owner = |path: &Path| path.metadata().map(|meta| meta.uid()).ok();
    let known = [Some(0), owner(main), owner(Path::new("/"))];
    let real = path.canonicalize().ok()?;
    let link = std::path::absolute(path)
        .ok()?
        .parent()
        .and_then(|directory| directory.canonicalize().ok());
    let directories = link.iter().flat_map(|directory| directory.ancestors());
    real.ancestors()
        .chain(directories)
        .find(|path| {
            owner(path).is_some_and(|uid| !known.contains(&Some(uid))) && !on_read_only(path)
        })
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_on_the_way_is_passed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("releases/1")).unwrap();
        std::fs::create_dir_all(root.join("links")).unwrap();
        std::fs::create_dir_all(root.join("shop")).unwrap();
        std::fs::write(root.join("releases/1/rotad.toml"), "").unwrap();
        std::os::unix::fs::symlink("../releases/1", root.join("links/now")).unwrap();
        std::os::unix::fs::symlink(root.join("links/now"), root.join("shop/current")).unwrap();
        let passed = directories_on_the_way(&root.join("shop/current/rotad.toml"));
        for name in ["shop", "links", "releases", "releases/1"] {
            assert!(passed.contains(&root.join(name)), "{name}: {passed:?}");
        }
        assert!(passed.contains(&root) && passed.contains(&PathBuf::from("/")));
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        directories_on_the_way(&root.join("loop/x"));
    }

    #[test]
    fn sticky_directories_and_the_group_root_are_fine() {
        let others_write = |mode, gid, directory| {
            Owner {
                mode,
                gid,
                directory,
            }
            .others_write()
        };
        assert!(others_write(0o666, 0, false));
        assert!(others_write(0o1666, 0, false));
        assert!(others_write(0o777, 0, true));
        assert!(!others_write(0o1777, 0, true));
        assert!(!others_write(0o664, 0, false));
        assert!(others_write(0o664, 33, false));
        assert!(!others_write(0o755, 33, true));
    }
}
