//! Opens the file of a log by its name, and holds its folder.
//!
//! A master of root's may be told to write where somebody else may write, too. There it follows no link: whoever may
//! write to a folder decides what its names mean (CVE-2016-1247). Links in folders that only root may change are
//! followed step by step, so that what they lead through is looked at as well.

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

/// Of a log that is made, less the umask.
const MODE: u32 = 0o640;
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
    /// It was this user's, who had made it before.
    pub(super) taken_from: Option<u32>,
}

/// Opens a log for appending; it and the folders above are made where they are missing. `access`: whose it may be; another
/// one's file in a folder that others may change becomes the master's own.
///
/// # Errors
/// The kernel's; ELOOP with its reason for a link that is not followed, and InvalidInput for what is no plain file, or
/// has a second name in a folder that others may change.
pub(super) fn open(path: &Path, access: FileAccess) -> io::Result<Found> {
    let root = nix::unistd::geteuid().is_root();
    let name = path.file_name().ok_or_else(|| refusal("it has no name"))?.to_owned();
    let (folder, trusted) = walk(path.parent().unwrap_or(Path::new("/")), root)?;
    let Opened { file, stat, created } = open_in(folder.as_fd(), &name)?;
    let plain = kind(&stat) == SFlag::S_IFREG;
    let mut taken_from = None;
    if plain && !created && !trusted {
        if stat.st_nlink > 1 {
            return Err(refusal("it has another name as well, and lies in a folder that others may change"));
        }
        let own = nix::unistd::geteuid().as_raw();
        if stat.st_uid != own && access.uid != Some(stat.st_uid) {
            // Whoever made it may read and write it, and would go on to.
            let gid = Some(nix::unistd::getegid().as_raw());
            hand_over(&file, FileAccess { mode: Some(MODE), uid: Some(own), gid })?;
            taken_from = Some(stat.st_uid);
        }
    }
    Ok(Found { folder, name, file, size: stat.st_size as u64, plain, taken_from })
}

/// What opening a name has given.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stat: FileStat,
    /// There was none before.
    pub(super) created: bool,
}

/// Opens a log in a folder that is held.
///
/// # Errors
/// As [`open`].
pub(super) fn open_in(folder: impl AsFd, name: &OsStr) -> io::Result<Opened> {
    // Without O_NONBLOCK, opening a FIFO waits for its reader.
    let flags = OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(MODE);
    let made = openat(folder.as_fd(), name, flags | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, mode);
    let created = made.is_ok();
    let fd = made.or_else(|errno| match errno {
        // Readable as well, to see how it ends.
        Errno::EEXIST => match openat(folder.as_fd(), name, flags | OFlag::O_RDWR, Mode::empty()) {
            Err(Errno::EACCES) => openat(folder.as_fd(), name, flags | OFlag::O_WRONLY, Mode::empty()),
            other => other,
        },
        other => Err(other),
    });
    let fd = fd.map_err(|errno| match errno {
        Errno::ELOOP => refusal("it is a link, and a log is never written through one"),
        other => other.into(),
    })?;
    let stat = fstat(&fd)?;
    let memory = kind(&stat) == SFlag::S_IFCHR && nix::sys::stat::major(stat.st_rdev) == MEMORY_DEVICES;
    if kind(&stat) != SFlag::S_IFREG && !memory {
        return Err(refusal("it is no plain file"));
    }
    Ok(Opened { file: fd.into(), stat, created })
}

/// Owner, group and mode of an open plain file.
pub(super) fn access_of(file: &File) -> FileAccess {
    match fstat(file) {
        Ok(stat) if kind(&stat) == SFlag::S_IFREG => {
            FileAccess { mode: Some(stat.st_mode & 0o777), uid: Some(stat.st_uid), gid: Some(stat.st_gid) }
        }
        _ => FileAccess::default(),
    }
}

/// Gives an open plain file what is named and differs. The mode comes last: a new owner never has rights of the old one's.
///
/// # Errors
/// EPERM: only root gives files away, and others to groups of their own.
pub(super) fn hand_over(file: &File, access: FileAccess) -> io::Result<()> {
    let now = access_of(file);
    if now.mode.is_none() {
        return Ok(());
    }
    let uid = access.uid.filter(|uid| now.uid != Some(*uid)).map(Uid::from_raw);
    let gid = access.gid.filter(|gid| now.gid != Some(*gid)).map(Gid::from_raw);
    if uid.is_some() || gid.is_some() {
        fchown(file, uid, gid)?;
    }
    if let Some(mode) = access.mode.filter(|mode| now.mode != Some(*mode)) {
        fchmod(file, Mode::from_bits_truncate(mode))?;
    }
    Ok(())
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

    fn open(path: &Path) -> io::Result<Found> {
        super::open(path, FileAccess::default())
    }
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
        assert!(why(&theirs.join("hard.log")).contains("another name"));
        open(&theirs.join("web.log")).expect("a plain file");
        // In a folder of root's where everybody may make names: a link to a file of root's as well.
        let sticky = dir.path().join("sticky");
        std::fs::create_dir(&sticky).expect("a folder");
        std::fs::hard_link(own.join("secret"), sticky.join("hard.log")).expect("linked");
        std::fs::set_permissions(&sticky, std::fs::Permissions::from_mode(0o1777)).expect("a mode");
        assert!(why(&sticky.join("hard.log")).contains("another name"));
        // One that somebody else has made before is taken from him, unless it is meant to be his.
        let planted = sticky.join("planted.log");
        std::fs::write(&planted, "").expect("a file");
        chown(&planted, Some(65534), Some(65534)).expect("given away");
        let his = FileAccess { uid: Some(65534), ..FileAccess::default() };
        assert_eq!(super::open(&planted, his).expect("opened").taken_from, None);
        let found = open(&planted).expect("opened");
        assert_eq!(found.taken_from, Some(65534));
        assert_eq!(access_of(&found.file), FileAccess { mode: Some(MODE), uid: Some(0), gid: Some(0) });
        // A link of root's that leads through their folder.
        symlink(theirs.join("logs"), dir.path().join("through")).expect("linked");
        assert!(why(&dir.path().join("through/web.log")).contains("behind a link"));
    }
}
