//! The lock of a runtime directory: flock(2), taken once, close-on-exec, released by the kernel however the master
//! dies. The file itself stays: removing it would let two masters lock two files of one name.
//!
//! flock(2) needs no right but to open the file, so it is readable by its owner alone, and a lock owner counts only if
//! it is root or the file's owner. Otherwise any local user could keep a master from starting.

use super::RuntimeDirError;
use super::dir::{TrustedDir, stat_of};
use crate::process::procfs::{self, Stat};
use crate::sys::fds;
use nix::fcntl::{OFlag, openat};
use nix::libc::{major, minor};
use nix::sys::stat::{FileStat, Mode, fchmod};
use nix::unistd::geteuid;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "master.lock";
/// The number of the lock's descriptor, or the next one that is free.
const PLACE: i32 = 48;
/// How long children of a killed master may take to become workers.
pub(super) const HALF_BORN: Duration = Duration::from_secs(5);

/// `said`: what is worth a warning.
pub(super) fn take(
    folder: &TrustedDir,
    path: &Path,
    said: &mut Vec<String>,
) -> Result<File, RuntimeDirError> {
    let shown = path.join(NAME);
    let shown = shown.display();
    let failed =
        |error: io::Error| RuntimeDirError::failed(format!("failed to lock {shown}: {error}"));
    let until = Instant::now() + HALF_BORN;
    // Again where the file was put in another's place meanwhile.
    for _ in 0..8 {
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK;
        let mode = Mode::from_bits_truncate(0o600);
        let file = File::from(
            openat(&folder.fd, NAME, flags, mode).map_err(|error| failed(error.into()))?,
        );
        let about = stat_of(&file).map_err(|error| failed(error.into()))?;
        if about.st_uid == geteuid().as_raw() && about.st_mode & 0o077 != 0 {
            // As older versions made it.
            fchmod(&file, mode).map_err(|error| failed(error.into()))?;
        }
        match try_lock(&file, &about, until).map_err(failed)? {
            None => {}
            Some(Held::Stranger) => {
                if put_aside(folder, &about).map_err(failed)? {
                    said.push(format!(
                        "{shown} was locked by a process that is neither root's nor ours: replaced"
                    ));
                }
                continue;
            }
            Some(Held::Nobody) if let Some(pid) = half_born(path) => {
                return Err(RuntimeDirError::failed(format!(
                    "a worker of a master that was killed is still being born (pid {pid}): the kernel has not loaded its \
                     program yet, a disk may hang; try again, or end it: kill -9 {pid}"
                )));
            }
            Some(Held::Leaving(pid)) => return Err(leaving(pid, &shown.to_string())),
            Some(held) => {
                let who = match held {
                    Held::Master(pid) => format!(" (pid {pid})"),
                    Held::Leaving(_) | Held::Stranger | Held::Nobody => String::new(),
                };
                return Err(RuntimeDirError::taken(format!(
                    "already running{who}: {shown} is locked; `rotad stop` ends it, `rotad reload` brings new code"
                )));
            }
        }
        if folder.identity(NAME) == Some((about.st_dev, about.st_ino)) {
            let mut file = lifted(file);
            // For people who look. A full disk must not forbid a start.
            file.set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()))
                .ok();
            return Ok(file);
        }
    }
    Err(failed(io::Error::other(
        "another process keeps replacing this file",
    )))
}

/// A killed master that the kernel does not let go of.
pub(super) fn leaving(pid: i32, shown: &str) -> RuntimeDirError {
    RuntimeDirError::failed(format!(
        "a master that was killed (pid {pid}) still has {shown}: the kernel holds one of its threads, a disk may hang; try \
         again once it is gone"
    ))
}

/// None: it is locked. A child that is about to become a worker holds its master's lock until its program runs: the
/// lock of a master that was killed comes free with it, and nobody who takes it can have overlooked a worker.
pub(super) fn try_lock(file: &File, about: &FileStat, until: Instant) -> io::Result<Option<Held>> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => match judge(about.st_ino, about.st_uid) {
                Held::Nobody | Held::Leaving(_) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                held => return Ok(Some(held)),
            },
        }
    }
}

/// Whether the name still means this file.
pub(super) fn is_in_place(folder: &TrustedDir, lock: &File) -> bool {
    stat_of(lock).is_ok_and(|about| folder.identity(NAME) == Some((about.st_dev, about.st_ino)))
}

/// Takes the name away from a file that a stranger has locked. By a rename first: should another start have put its own
/// file there in between, that one is put back.
fn put_aside(folder: &TrustedDir, stranger: &FileStat) -> io::Result<bool> {
    let aside = format!(".{NAME}.{}", std::process::id());
    folder.rename(NAME, &aside)?;
    if folder.identity(&aside) != Some((stranger.st_dev, stranger.st_ino)) {
        return Ok(folder.rename(&aside, NAME).map(|()| false)?);
    }
    Ok(folder.unlink(&aside).map(|()| true)?)
}

/// Who keeps a file from being locked.
pub(super) enum Held {
    /// Its pid.
    Master(i32),
    /// Neither root, nor us, nor the file's owner.
    Stranger,
    /// A master that was killed: the last of its threads has not left yet. Its pid.
    Leaving(i32),
    /// Who has locked it has ended, and a child of his has it still; or the kernel does not tell (another pid
    /// namespace).
    Nobody,
}

/// For a file that is locked.
pub(super) fn judge(inode: u64, owner: u32) -> Held {
    let all = lockers(inode, None)
        .into_iter()
        .map(|locker| locker.pid)
        .filter(|pid| *pid > 0);
    let (mut living, mut leaving) = (Vec::new(), None);
    for pid in all {
        match Stat::of(pid) {
            Ok(stat) if stat.is_zombie() => {}
            Ok(stat) if stat.is_leaving() => leaving = Some(pid),
            Ok(_) => living.push(pid),
            Err(_) => {}
        }
    }
    match living.iter().find(|pid| believed(**pid, owner)) {
        Some(pid) => Held::Master(*pid),
        None if !living.is_empty() => Held::Stranger,
        None => leaving.map_or(Held::Nobody, Held::Leaving),
    }
}

/// By the credentials themselves (status, not the owner of /proc/PID): a process that may not be dumped shows as
/// root's there.
fn believed(pid: i32, owner: u32) -> bool {
    pid <= 0 || procfs::uid(pid).is_some_and(|uid| [0, geteuid().as_raw(), owner].contains(&uid))
}

/// Below the descriptors of a birth, which a half-born child keeps until its program runs, and above those that become
/// a worker's own: there it is not closed before ([`crate::process`]).
fn lifted(file: File) -> File {
    fds::lift(file.as_fd(), PLACE).map_or(file, File::from)
}

/// Who keeps the lock of a master that is dead: a child of it that has not become a worker yet.
fn half_born(path: &Path) -> Option<i32> {
    let name = path.canonicalize().ok()?.join(NAME);
    let holds = |pid: &i32| {
        let numbers = procfs::numbers(format!("/proc/{pid}/fd"))
            .unwrap_or_default()
            .into_iter();
        let mut here = numbers.filter(|number| {
            std::fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok_and(|link| link == name)
        });
        // Beside us others may have opened it, to look; their descriptor has no lock.
        here.any(|number| {
            let about = procfs::read(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            about
                .lines()
                .any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        })
    };
    procfs::numbers("/proc").ok()?.into_iter().find(holds)
}

/// The master that holds the lock of this runtime directory, if one does: its pid, or 0 where the kernel does not tell
/// (another pid namespace). Looks only, so that it never stands in the way of a master that is starting.
pub fn holder(runtime_dir: &Path) -> Option<i32> {
    let path = runtime_dir.join(NAME);
    let about = path.symlink_metadata().ok()?;
    if !about.is_file() || about.file_type().is_socket() {
        return None;
    }
    // Who may read it knows better which of many with such an inode is meant.
    let written: Option<i32> = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let found = lockers(about.ino(), Some(about.dev()))
        .into_iter()
        .find(|locker| {
            let meant = locker.same_device || written.is_none_or(|pid| pid == locker.pid);
            let leaves = locker.pid > 0 && Stat::of(locker.pid).is_ok_and(|stat| stat.is_leaving());
            meant && !leaves && believed(locker.pid, about.uid())
        });
    found.map(|locker| {
        if locker.pid > 0 {
            locker.pid
        } else {
            written.unwrap_or(0)
        }
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Locker {
    pid: i32,
    /// The list names the device as stat(2) does. An overlay's or a subvolume's it names otherwise.
    same_device: bool,
}

/// Who holds a flock on an inode of this number, on whatever device.
fn lockers(inode: u64, device: Option<u64>) -> Vec<Locker> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .filter_map(|line| locker(line, inode, device))
        .collect()
}

/// `1: FLOCK  ADVISORY  WRITE 812 08:01:12345 0 EOF`
fn locker(line: &str, inode: u64, device: Option<u64>) -> Option<Locker> {
    let mut words = line.split_whitespace().skip(1);
    let kind = words.next()?;
    let (_, _, pid, place) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut parts = place.split(':');
    let mut number = || u32::from_str_radix(parts.next()?, 16).ok();
    let named = (number()?, number()?);
    let locked: u64 = parts.next()?.parse().ok()?;
    let same_device = device.is_none_or(|device| named == (major(device), minor(device)));
    let pid = pid.parse().unwrap_or(0).max(0);
    (kind == "FLOCK" && locked == inode).then_some(Locker { pid, same_device })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_locks_is_understood() {
        let device = nix::libc::makedev(0, 0x2d);
        let of = |line: &str, inode| {
            locker(line, inode, Some(device)).map(|found| (found.pid, found.same_device))
        };
        let line = "12: FLOCK  ADVISORY  WRITE 812 00:2d:77 0 EOF";
        assert_eq!(of(line, 77), Some((812, true)));
        assert_eq!(of(line, 78), None);
        assert_eq!(
            of("12: FLOCK  ADVISORY  READ 812 08:01:77 0 EOF", 77),
            Some((812, false))
        );
        assert_eq!(
            of("12: -> FLOCK  ADVISORY  WRITE 9 00:2d:77 0 EOF", 77),
            None
        );
        assert_eq!(of("1: POSIX  ADVISORY  WRITE 812 00:2d:77 0 EOF", 77), None);
        assert_eq!(
            of("1: FLOCK  ADVISORY  WRITE -1 00:2d:77 0 EOF", 77),
            Some((0, true))
        );
        assert_eq!(of("", 77), None);
    }
}
