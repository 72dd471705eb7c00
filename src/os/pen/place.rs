//! Opens the file of a log by its name, and holds its folder.
//!
//! A master of root's may be told to write where somebody else may write, too. There it follows no link: whoever may
//! write to a folder decides what its names mean (CVE-2016-1247). Links in folders that only root may change are
//! followed step by step, so that what they lead through is looked at as well.

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;
/// The devices null, zero and full: they never block (Documentation/admin-guide/devices.txt).
const MEMORY_DEVICES: u64 = 1;

/// An open log file and the folder that it was found in.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) folder: OwnedFd,
    pub(super) name: OsString,
    pub(super) file: File,
    /// Of the file, in bytes.
    pub(super) size: u64,
    /// A plain file: others are not rotated.
    pub(super) plain: bool,
}

/// Opens a log for appending; it and the folders above are made where they are missing.
///
/// # Errors
/// The kernel's; ELOOP with its reason for a link that is not followed, and InvalidInput for what is no plain file, or
/// another user's that was linked in.
pub(super) fn open(path: &Path) -> io::Result<Found> {
    let root = nix::unistd::geteuid().is_root();
    let name = path.file_name().ok_or_else(|| refusal("it has no name"))?.to_owned();
    let (folder, trusted) = walk(path.parent().unwrap_or(Path::new("/")), root)?;
    let (file, stat) = open_in(folder.as_fd(), &name)?;
    if !trusted && stat.st_nlink > 1 && stat.st_uid != fstat(&folder)?.st_uid {
        return Err(refusal("it is another user's file that was linked into this folder"));
    }
    let plain = kind(&stat) == SFlag::S_IFREG;
    Ok(Found { folder, name, file, size: stat.st_size as u64, plain })
}

/// Opens a log in a folder that is held.
///
/// # Errors
/// As [`open`].
pub(super) fn open_in(folder: impl AsFd, name: &OsStr) -> io::Result<(File, FileStat)> {
    // Without O_NONBLOCK, opening a FIFO waits for its reader.
    let flags = OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let flags = flags | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(0o640);
    // Readable as well, to see how it ends.
    let fd = match openat(folder.as_fd(), name, flags | OFlag::O_RDWR, mode) {
        Err(Errno::EACCES) => openat(folder.as_fd(), name, flags | OFlag::O_WRONLY, mode),
        other => other,
    };
    let fd = fd.map_err(|errno| match errno {
        Errno::ELOOP => refusal("it is a link, and a log is never written through one"),
        other => other.into(),
    })?;
    let stat = fstat(&fd)?;
    let memory = kind(&stat) == SFlag::S_IFCHR && nix::sys::stat::major(stat.st_rdev) == MEMORY_DEVICES;
    if kind(&stat) != SFlag::S_IFREG && !memory {
        return Err(refusal("it is no plain file"));
    }
    Ok((fd.into(), stat))
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn refusal(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// The folder, made where it is missing, and whether only root could have put it there.
fn walk(path: &Path, root: bool) -> io::Result<(OwnedFd, bool)> {
    let through = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let start = || nix::fcntl::open("/", through, Mode::empty());
    let mut folder = start()?;
    let mut trusted = true;
    let mut links = 0;
    let mut todo: VecDeque<OsString> = steps(path);
    while let Some(step) = todo.pop_front() {
        if step == ".." && !trusted {
            return Err(refusal("it has `..` in a folder that others may change"));
        }
        let next = match openat(&folder, &*step, through, Mode::empty()) {
            Err(Errno::ENOENT) => {
                match mkdirat(&folder, &*step, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(&folder, &*step, through, Mode::empty())?
            }
            // With O_PATH and O_DIRECTORY a link is no folder.
            Err(Errno::ELOOP | Errno::ENOTDIR) if is_link(&folder, &step) => {
                links += 1;
                if !trusted || links > MOST_LINKS {
                    return Err(refusal("it lies behind a link in a folder that others may change"));
                }
                let to = readlinkat(&folder, &*step)?;
                let mut ahead = steps(Path::new(&to));
                ahead.append(&mut todo);
                todo = ahead;
                if Path::new(&to).is_absolute() {
                    folder = start()?;
                }
                continue;
            }
            other => other?,
        };
        let stat = fstat(&next)?;
        trusted &= !root || (stat.st_uid == 0 && stat.st_mode & 0o022 == 0);
        folder = next;
    }
    Ok((folder, trusted))
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

fn is_link(folder: impl AsFd, name: &OsStr) -> bool {
    fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat) == SFlag::S_IFLNK)
}

/// The name that a file gets when it is put aside for the `number`th time.
pub(super) fn numbered(name: &OsStr, number: u32) -> OsString {
    let mut text = name.as_bytes().to_vec();
    text.extend_from_slice(format!(".{number}").as_bytes());
    std::os::unix::ffi::OsStringExt::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn why(path: &Path) -> String {
        open(path).expect_err("refused").to_string()
    }

    #[test]
    fn folders_are_made_and_odd_files_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a/b/web.log");
        assert!(open(&path).expect("made").plain);
        assert!(path.is_file());
        symlink(&path, dir.path().join("link")).expect("linked");
        assert!(why(&dir.path().join("link")).contains("is a link"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).expect("a fifo");
        assert!(why(&fifo).contains("no plain file"), "and it did not wait for a reader");
        assert!(!open(Path::new("/dev/full")).expect("opened").plain);
        assert!(open(dir.path()).is_err());
    }

    /// Root, in a folder of somebody else's: neither links nor linked files. In folders of root's, links are followed.
    #[test]
    fn nobody_leads_root_elsewhere() {
        if !nix::unistd::geteuid().is_root() {
            return; // nobody is led anywhere with rights of his own
        }
        // Not below /tmp, where everybody may put links.
        let dir = tempfile::tempdir_in("/var/lib").expect("a folder");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let (own, theirs) = (dir.path().join("own"), dir.path().join("theirs"));
        std::fs::create_dir(&own).expect("a folder");
        std::fs::create_dir(&theirs).expect("a folder");
        std::fs::write(own.join("secret"), "").expect("a file");
        symlink("own", dir.path().join("current")).expect("linked");
        open(&dir.path().join("current/web.log")).expect("a link of root's is followed");
        assert!(own.join("web.log").is_file());
        symlink(&own, theirs.join("logs")).expect("linked");
        std::fs::hard_link(own.join("secret"), theirs.join("hard.log")).expect("linked");
        chown(&theirs, Some(65534), None).expect("given away");
        assert!(why(&theirs.join("logs/web.log")).contains("behind a link"));
        assert!(why(&theirs.join("hard.log")).contains("another user's"));
        open(&theirs.join("web.log")).expect("a plain file");
        // A link of root's that leads through their folder.
        symlink(theirs.join("logs"), dir.path().join("through")).expect("linked");
        assert!(why(&dir.path().join("through/web.log")).contains("behind a link"));
    }
}
