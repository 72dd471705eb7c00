//! Whom root may listen to: a file that somebody else can write would be somebody else's root shell.

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Uid;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const STICKY: u32 = 0o1000;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

/// What a file or folder tells about who may write it.
struct Owner {
    mode: u32,
    gid: u32,
    folder: bool,
}

impl Owner {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = path.metadata()?;
        Ok(Self { mode: meta.mode(), gid: meta.gid(), folder: meta.is_dir() })
    }

    /// In a sticky folder nobody can replace another one's file.
    fn others_write(&self) -> bool {
        let bits = if self.gid == 0 { OTHERS_WRITE } else { OTHERS_WRITE | GROUP_WRITES };
        self.mode & bits != 0 && !(self.folder && self.mode & STICKY != 0)
    }
}

/// For root: the file itself, its folder, or one above that others may write; none when all is well, for other users,
/// and for what does not exist.
pub(super) fn writable_by_others(path: &Path) -> Option<PathBuf> {
    if !Uid::effective().is_root() {
        return None;
    }
    let real = path.canonicalize().ok()?;
    // A link's own folder decides what the link says.
    let link = std::path::absolute(path).ok()?.parent().and_then(|folder| folder.canonicalize().ok());
    let folders = link.iter().flat_map(|folder| folder.ancestors());
    real.ancestors()
        .chain(folders)
        .find(|path| Owner::of(path).is_ok_and(|owner| owner.others_write()) && !on_read_only(path))
        .map(Path::to_owned)
}

/// What is mounted read-only (a ConfigMap, whose folders have the mode 0777) nobody writes here.
fn on_read_only(path: &Path) -> bool {
    statvfs(path).is_ok_and(|about| about.flags().contains(FsFlags::ST_RDONLY))
}

/// The sentence for what [`writable_by_others`] found, and what to do.
pub(super) fn distrust(found: &Path) -> (String, String) {
    let found = found.display();
    let message = format!("{found} is writable by others, and what they write would run as root");
    (message, format!("chmod go-w {found}"))
}

/// Whether root may take a file that it was not told but has found.
pub(super) fn is_own(path: &Path) -> bool {
    !Uid::effective().is_root() || path.metadata().is_ok_and(|meta| meta.uid() == 0)
}

/// For root: whether a file that a pattern has found may be taken; who may write the configuration `main` may write
/// this one as well.
pub(super) fn is_roots_or_of_the_owner_of(path: &Path, main: &Path) -> bool {
    let owner = |path: &Path| path.metadata().map(|meta| meta.uid()).ok();
    is_own(path) || (owner(path).is_some() && owner(path) == owner(main))
}

/// For root: the file, its folder or one above that belongs neither to root nor to the owner of the configuration `main`:
/// that owner could replace it. Where the root folder itself is another user's (a user namespace that does not know
/// root), that one counts as root.
pub(super) fn of_a_stranger(path: &Path, main: &Path) -> Option<PathBuf> {
    if !Uid::effective().is_root() {
        return None;
    }
    let owner = |path: &Path| path.metadata().map(|meta| meta.uid()).ok();
    let known = [Some(0), owner(main), owner(Path::new("/"))];
    let real = path.canonicalize().ok()?;
    let link = std::path::absolute(path).ok()?.parent().and_then(|folder| folder.canonicalize().ok());
    let folders = link.iter().flat_map(|folder| folder.ancestors());
    real.ancestors()
        .chain(folders)
        .find(|path| owner(path).is_some_and(|uid| !known.contains(&Some(uid))) && !on_read_only(path))
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticky_folders_and_the_group_root_are_fine() {
        let others_write = |mode, gid, folder| Owner { mode, gid, folder }.others_write();
        assert!(others_write(0o666, 0, false));
        assert!(others_write(0o1666, 0, false));
        assert!(others_write(0o777, 0, true));
        assert!(!others_write(0o1777, 0, true));
        assert!(!others_write(0o664, 0, false));
        assert!(others_write(0o664, 33, false));
        assert!(!others_write(0o755, 33, true));
    }
}
