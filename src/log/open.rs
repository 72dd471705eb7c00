//! Opens a log file by its name and holds its directory; `rotating_file` calls it.
//!
//! A master that runs as root may be told to write where another user can write too. There it follows no symlink: a
//! user who can write to a directory decides what its names mean (CVE-2016-1247). Symlinks in directories that only
//! root can change are followed component by component, so that every directory they lead through is checked as well.

use crate::plan::FileAccess;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Mode of a new log, before the umask.
const MODE: u32 = 0o640;
/// As many symlinks as the kernel follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;
/// Major number of /dev/null, /dev/zero and /dev/full, which never block (Documentation/admin-guide/devices.txt).
const MEMORY_DEVICES: u64 = 1;

/// An open log file and the directory that contains it.
#[derive(Debug)]
pub(super) struct OpenLog {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
    pub(super) file: File,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Size of the file in bytes.
    pub(super) size: u64,
    /// It is a regular file: others are not rotated.
    pub(super) plain: bool,
    /// The uid of the user who had created it and from whom it was taken.
    pub(super) taken_from: Option<u32>,
}

/// Opens a log for appending; creates it and its parent directories where they are missing. `access` names the owner it
/// may have: a file of any other user, in a directory that others can change, becomes the master's own.
///
/// # Errors
/// InvalidInput with its reason: a symlink that is not followed, not a regular file, or a file with a second name in a
/// directory that others can change. EACCES, EROFS, ENOSPC, … from the system call.
pub(super) fn open(path: &Path, access: FileAccess) -> io::Result<OpenLog> {
    let root = nix::unistd::geteuid().is_root();
    let name = path
        .file_name()
        .ok_or_else(|| refuse("it has no name"))?
        .to_owned();
    let (dir, trusted) = walk(path.parent().unwrap_or(Path::new("/")), root)?;
    let Opened {
        file,
        stat,
        created,
    } = open_in(dir.as_fd(), &name)?;
    let plain = file_type(&stat) == SFlag::S_IFREG;
    let mut taken_from = None;
    if plain && !created && !trusted {
        if stat.st_nlink > 1 {
            return Err(refuse(
                "it has another name (hard link), in a directory that others can change",
            ));
        }
        let own = nix::unistd::geteuid().as_raw();
        if stat.st_uid != own && access.uid != Some(stat.st_uid) {
            // Its creator could otherwise go on reading and writing it.
            let gid = Some(nix::unistd::getegid().as_raw());
            set_access(
                &file,
                FileAccess {
                    mode: Some(MODE),
                    uid: Some(own),
                    gid,
                },
            )?;
            taken_from = Some(stat.st_uid);
        }
    }
    Ok(OpenLog {
        dir,
        name,
        file,
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size as u64,
        plain,
        taken_from,
    })
}

/// The result of opening a name in a directory.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stat: FileStat,
    /// The file did not exist before.
    pub(super) created: bool,
}

/// Opens a log in an open directory.
///
/// # Errors
/// As [`open`].
pub(super) fn open_in(dir: impl AsFd, name: &OsStr) -> io::Result<Opened> {
    // Without O_NONBLOCK, opening a FIFO waits for a reader.
    let flags = OFlag::O_APPEND
        | OFlag::O_CLOEXEC
        | OFlag::O_NOFOLLOW
        | OFlag::O_NOCTTY
        | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(MODE);
    let made = openat(
        dir.as_fd(),
        name,
        flags | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL,
        mode,
    );
    let created = made.is_ok();
    let fd = made.or_else(|errno| match errno {
        // Readable as well, to see whether it ends with a newline.
        Errno::EEXIST => match openat(dir.as_fd(), name, flags | OFlag::O_RDWR, Mode::empty()) {
            Err(Errno::EACCES) => openat(dir.as_fd(), name, flags | OFlag::O_WRONLY, Mode::empty()),
            other => other,
        },
        other => Err(other),
    });
    let fd = fd.map_err(|errno| match errno {
        Errno::ELOOP => refuse("it is a symbolic link, and a log is not written through one"),
        other => other.into(),
    })?;
    let stat = fstat(&fd)?;
    let memory =
        file_type(&stat) == SFlag::S_IFCHR && nix::sys::stat::major(stat.st_rdev) == MEMORY_DEVICES;
    if file_type(&stat) != SFlag::S_IFREG && !memory {
        return Err(refuse("it is not a regular file"));
    }
    Ok(Opened {
        file: fd.into(),
        stat,
        created,
    })
}

/// Owner, group and mode of an open regular file.
pub(super) fn access_of(file: &File) -> FileAccess {
    match fstat(file) {
        Ok(stat) if file_type(&stat) == SFlag::S_IFREG => FileAccess {
            mode: Some(stat.st_mode & 0o777),
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
        },
        _ => FileAccess::default(),
    }
}

/// Sets those attributes of an open regular file that are named and differ. The mode comes last, so that the new owner
/// never gets the rights of the old one.
///
/// # Errors
/// EPERM: only root can give files away; other users can only set a group of their own.
pub(super) fn set_access(file: &File, access: FileAccess) -> io::Result<()> {
    let now = access_of(file);
    if now.mode.is_none() {
        return Ok(());
    }
    let uid = access
        .uid
        .filter(|uid| now.uid != Some(*uid))
        .map(Uid::from_raw);
    let gid = access
        .gid
        .filter(|gid| now.gid != Some(*gid))
        .map(Gid::from_raw);
    if uid.is_some() || gid.is_some() {
        fchown(file, uid, gid)?;
    }
    if let Some(mode) = access.mode.filter(|mode| now.mode != Some(*mode)) {
        fchmod(file, Mode::from_bits_truncate(mode))?;
    }
    Ok(())
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn refuse(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Opens the directory, creating what is missing; true if only root can have put it there.
fn walk(path: &Path, root: bool) -> io::Result<(OwnedFd, bool)> {
    let through = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let start = || nix::fcntl::open("/", through, Mode::empty());
    let mut dir = start()?;
    let mut trusted = true;
    let mut links = 0;
    let mut todo: VecDeque<OsString> = components(path);
    while let Some(component) = todo.pop_front() {
        if component == ".." && !trusted {
            return Err(refuse(
                "its path has `..` in a directory that others can change",
            ));
        }
        let next = match openat(&dir, &*component, through, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match mkdirat(&dir, &*component, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(&dir, &*component, through, Mode::empty())?
            }
            // With O_PATH and O_DIRECTORY a symlink fails like a file.
            Err(Errno::ELOOP | Errno::ENOTDIR) if is_link(&dir, &component) => {
                links += 1;
                if !trusted || links > MAX_LINKS {
                    return Err(refuse(
                        "its path has a symbolic link in a directory that others can change",
                    ));
                }
                let to = readlinkat(&dir, &*component)?;
                let mut ahead = components(Path::new(&to));
                ahead.append(&mut todo);
                todo = ahead;
                if Path::new(&to).is_absolute() {
                    dir = start()?;
                }
                continue;
            }
            other => other?,
        };
        let stat = fstat(&next)?;
        trusted &= !root || (stat.st_uid == 0 && stat.st_mode & 0o022 == 0);
        dir = next;
    }
    Ok((dir, trusted))
}

fn components(path: &Path) -> VecDeque<OsString> {
    let parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

fn is_link(dir: impl AsFd, name: &OsStr) -> bool {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| file_type(&stat) == SFlag::S_IFLNK)
}

/// The name of a file that was rotated `number` times.
pub(super) fn numbered(name: &OsStr, number: u32) -> OsString {
    let mut text = name.as_bytes().to_vec();
    text.extend_from_slice(format!(".{number}").as_bytes());
    std::os::unix::ffi::OsStringExt::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> io::Result<OpenLog> {
        super::open(path, FileAccess::default())
    }
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn why(path: &Path) -> String {
        open(path).expect_err("refused").to_string()
    }

    #[test]
    fn directories_are_created_and_special_files_refused() {
        let dir = tempfile::tempdir().expect("a dir");
        let path = dir.path().join("a/b/web.log");
        assert!(open(&path).expect("made").plain);
        assert!(path.is_file());
        symlink(&path, dir.path().join("link")).expect("linked");
        assert!(why(&dir.path().join("link")).contains("is a symbolic link"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).expect("a fifo");
        assert!(
            why(&fifo).contains("not a regular file"),
            "and it did not wait for a reader"
        );
        assert!(!open(Path::new("/dev/full")).expect("opened").plain);
        assert!(open(dir.path()).is_err());
    }

    /// As root, in a directory of another user: neither symlinks nor hard links. In root's own directories symlinks are
    /// followed.
    #[test]
    fn other_users_cannot_redirect_the_log_of_root() {
        if !nix::unistd::geteuid().is_root() {
            return; // without root's rights there is nothing to abuse
        }
        // Not below /tmp, where every user can create links.
        let dir = tempfile::tempdir_in("/var/lib").expect("a dir");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
            .expect("a mode");
        let (own, theirs) = (dir.path().join("own"), dir.path().join("theirs"));
        std::fs::create_dir(&own).expect("a dir");
        std::fs::create_dir(&theirs).expect("a dir");
        std::fs::write(own.join("secret"), "").expect("a file");
        symlink("own", dir.path().join("current")).expect("linked");
        open(&dir.path().join("current/web.log")).expect("a link of root's is followed");
        assert!(own.join("web.log").is_file());
        symlink(&own, theirs.join("logs")).expect("linked");
        std::fs::hard_link(own.join("secret"), theirs.join("hard.log")).expect("linked");
        chown(&theirs, Some(65534), None).expect("given away");
        assert!(why(&theirs.join("logs/web.log")).contains("has a symbolic link"));
        assert!(why(&theirs.join("hard.log")).contains("another name"));
        open(&theirs.join("web.log")).expect("a plain file");
        // A directory of root's where every user can create names: a hard link to a file of root's as well.
        let sticky = dir.path().join("sticky");
        std::fs::create_dir(&sticky).expect("a dir");
        std::fs::hard_link(own.join("secret"), sticky.join("hard.log")).expect("linked");
        std::fs::set_permissions(&sticky, std::fs::Permissions::from_mode(0o1777)).expect("a mode");
        assert!(why(&sticky.join("hard.log")).contains("another name"));
        // A file that another user created before is taken away from that user, unless the plan names them as its
        // owner.
        let planted = sticky.join("planted.log");
        std::fs::write(&planted, "").expect("a file");
        chown(&planted, Some(65534), Some(65534)).expect("given away");
        let his = FileAccess {
            uid: Some(65534),
            ..FileAccess::default()
        };
        assert_eq!(super::open(&planted, his).expect("opened").taken_from, None);
        let found = open(&planted).expect("opened");
        assert_eq!(found.taken_from, Some(65534));
        assert_eq!(
            access_of(&found.file),
            FileAccess {
                mode: Some(MODE),
                uid: Some(0),
                gid: Some(0)
            }
        );
        // A symlink of root's that leads through a directory of another user.
        symlink(theirs.join("logs"), dir.path().join("through")).expect("linked");
        assert!(why(&dir.path().join("through/web.log")).contains("has a symbolic link"));
    }
}
