//! The lock of a runtime directory: flock(2), taken once, close-on-exec, released by the kernel however the master dies.
//! The file itself stays: if it were removed, two masters could lock two files of one name.
//!
//! Any process that can open a file can flock(2) it. So only its owner can read it, and a lock owner counts only if it is root or
//! the file's owner: otherwise any local user could keep a master from starting.

use super::RuntimeDirError;
use super::dir::{TrustedDir, fstat_file};
use crate::event_loop::clock::Deadline;
use crate::guardian::is_guardian;
use crate::process::procfs::{self, Stat};
use crate::sys::fds;
use nix::fcntl::{OFlag, openat};
use nix::libc::{major, minor};
use nix::sys::stat::{FileStat, Mode, fchmod};
use nix::unistd::geteuid;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

const NAME: &str = "master.lock";
/// The lowest number of the lock's descriptor.
const LOCK_FD: i32 = 48;
/// How long children of a killed master may take to execute their program.
pub(super) const SPAWN_WAIT: Duration = Duration::from_secs(5);

/// How long another program may hold a shared lock on the file of a lock that is reclaimed.
const RECLAIM_WAIT: Duration = Duration::from_secs(1);

/// Takes the lock; appends to `warnings` what is to be logged. `path`: the directory, for messages.
pub(super) fn take(
    directory: &TrustedDir,
    path: &Path,
    warnings: &mut Vec<String>,
) -> Result<File, RuntimeDirError> {
    let shown = path.join(NAME);
    let shown = shown.display();
    let failed =
        |error: io::Error| RuntimeDirError::failed(format!("failed to lock {shown}: {error}"));
    let until = Deadline::after(SPAWN_WAIT);
    // Repeated if the file was replaced meanwhile.
    for _ in 0..8 {
        let flags = OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK;
        let mode = Mode::from_bits_truncate(0o600);
        let file = File::from(
            openat(&directory.fd, NAME, flags, mode).map_err(|error| failed(error.into()))?,
        );
        let stat = fstat_file(&file).map_err(|error| failed(error.into()))?;
        if stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o077 != 0 {
            // Older versions created it readable.
            fchmod(&file, mode).map_err(|error| failed(error.into()))?;
        }
        match try_lock(&file, &stat, until).map_err(failed)? {
            None => {}
            Some(LockOwner::Untrusted) => {
                if remove_untrusted(directory, &stat).map_err(failed)? {
                    warnings.push(format!(
                        "{shown} was locked by a process of another user than root and ours: replaced"
                    ));
                }
                continue;
            }
            Some(LockOwner::Unknown) if let Some(pid) = guardian_without_master(path) => {
                return Err(RuntimeDirError::taken(format!(
                    "already running: the master has died, its workers serve on, and its guardian (pid {pid}) is to start the \
                     next one; `rotad status` tells more"
                )));
            }
            Some(LockOwner::Unknown) if let Some(pid) = spawning_child(path) => {
                return Err(RuntimeDirError::failed(format!(
                    "a child of a master that was killed (pid {pid}) has not become a worker yet: the kernel is still loading \
                     its program, a disk may hang; try again, or end it: kill -9 {pid}"
                )));
            }
            Some(LockOwner::Exiting(pid)) => return Err(exiting(pid, &shown.to_string())),
            Some(owner) => {
                let who = match owner {
                    LockOwner::Master(pid) => format!(" (pid {pid})"),
                    LockOwner::Exiting(_) | LockOwner::Untrusted | LockOwner::Unknown => {
                        String::new()
                    }
                };
                return Err(RuntimeDirError::taken(format!(
                    "already running{who}: {shown} is locked; `rotad stop` ends it, `rotad reload` brings new code"
                )));
            }
        }
        if directory.identity(NAME) == Some((stat.st_dev, stat.st_ino)) {
            let file = move_up(file);
            write_pid(&file);
            return Ok(file);
        }
    }
    Err(failed(io::Error::other(
        "another process keeps replacing this file",
    )))
}

/// For people who read the file. A full disk must not prevent a start.
fn write_pid(file: &File) {
    file.set_len(0)
        .and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0))
        .ok();
}

/// Makes this process the owner of a lock that a dead master has left in an open file: /proc/locks names the process
/// that has called flock(2), and [`lock_owner_of`] would not find a living one. A lock of the same kind would stay as it
/// is, so it becomes a shared one in between, which keeps all other masters out as well.
///
/// # Errors
/// EWOULDBLOCK: another program has a shared lock on the file.
pub(super) fn reclaim(file: &File) -> io::Result<()> {
    let until = Deadline::after(RECLAIM_WAIT);
    loop {
        file.try_lock_shared()?;
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if !until.has_passed() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
    write_pid(file);
    Ok(())
}

/// The error for a killed master whose threads the kernel has not ended yet.
pub(super) fn exiting(pid: i32, shown: &str) -> RuntimeDirError {
    RuntimeDirError::failed(format!(
        "a master that was killed (pid {pid}) still holds {shown}: one of its threads is stuck in the kernel, a disk may hang; try \
         again once it is gone"
    ))
}

/// Tries to lock the file until `until`; None if it succeeded. A child that is about to become a worker holds its master's
/// lock until its program runs: so the lock of a killed master becomes free only when all its workers can be found.
pub(super) fn try_lock(
    file: &File,
    stat: &FileStat,
    until: Deadline,
) -> io::Result<Option<LockOwner>> {
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) => match lock_owner_of(stat.st_ino, stat.st_uid) {
                LockOwner::Unknown | LockOwner::Exiting(_) if !until.has_passed() => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                owner => return Ok(Some(owner)),
            },
        }
    }
}

/// Whether the directory entry still is this file.
pub(super) fn is_in_place(directory: &TrustedDir, lock: &File) -> bool {
    fstat_file(lock).is_ok_and(|stat| directory.identity(NAME) == Some((stat.st_dev, stat.st_ino)))
}

/// Removes a file that an untrusted process has locked. Renames it first: if another start has created its own file in
/// between, that one is put back. Returns whether the file was removed.
fn remove_untrusted(directory: &TrustedDir, untrusted: &FileStat) -> io::Result<bool> {
    let temporary = format!(".{NAME}.{}", std::process::id());
    directory.rename(NAME, &temporary)?;
    if directory.identity(&temporary) != Some((untrusted.st_dev, untrusted.st_ino)) {
        return Ok(directory.rename(&temporary, NAME).map(|()| false)?);
    }
    Ok(directory.unlink(&temporary).map(|()| true)?)
}

/// The process that keeps a file from being locked.
pub(super) enum LockOwner {
    /// A running master, by its pid.
    Master(i32),
    /// A process of another user than root, ours, and the file's owner.
    Untrusted,
    /// A master that was killed and whose last thread has not ended yet, by its pid.
    Exiting(i32),
    /// The process that locked it has ended, and a child still has the file open; or the kernel does not tell (another
    /// pid namespace).
    Unknown,
}

/// The owner of the lock of a locked file.
pub(super) fn lock_owner_of(inode: u64, owner: u32) -> LockOwner {
    let all = lockers(inode, None)
        .into_iter()
        .map(|locker| locker.pid)
        .filter(|pid| *pid > 0);
    let (mut living, mut exiting) = (Vec::new(), None);
    for pid in all {
        match Stat::of(pid) {
            Ok(stat) if stat.is_zombie() => {}
            Ok(stat) if stat.is_leaving() => exiting = Some(pid),
            Ok(_) => living.push(pid),
            Err(_) => {}
        }
    }
    match living.iter().find(|pid| is_trusted(**pid, owner)) {
        Some(pid) => LockOwner::Master(*pid),
        None if !living.is_empty() => LockOwner::Untrusted,
        None => exiting.map_or(LockOwner::Unknown, LockOwner::Exiting),
    }
}

/// Whether the process may hold the lock. Decided by /proc/PID/status, not by the owner of /proc/PID: that is root for a
/// process that is not dumpable (proc(5)).
fn is_trusted(pid: i32, owner: u32) -> bool {
    pid <= 0 || procfs::uid(pid).is_some_and(|uid| [0, geteuid().as_raw(), owner].contains(&uid))
}

/// Moves the descriptor above those that become a worker's own and below those used for a spawn: there the child keeps it
/// open until its program runs ([`crate::process`]).
fn move_up(file: File) -> File {
    fds::lift(file.as_fd(), LOCK_FD).map_or(file, File::from)
}

/// The child of a dead master that still holds its lock because it has not executed its program yet.
fn spawning_child(path: &Path) -> Option<i32> {
    holders(path).find(|pid| !is_guardian(*pid))
}

/// The guardian that holds the lock of a dead master until it has started the next one.
pub fn guardian_without_master(runtime_dir: &Path) -> Option<i32> {
    holders(runtime_dir).find(|pid| is_guardian(*pid))
}

/// The processes that have the lock in an open file.
fn holders(path: &Path) -> impl Iterator<Item = i32> {
    let name = path.canonicalize().unwrap_or_default().join(NAME);
    let holds = move |pid: &i32| {
        let numbers = procfs::numbers(format!("/proc/{pid}/fd"))
            .unwrap_or_default()
            .into_iter();
        let mut here = numbers.filter(|number| {
            std::fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok_and(|link| link == name)
        });
        // Other processes may have the file open without the lock.
        here.any(|number| {
            let stat = procfs::read(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            stat.lines()
                .any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        })
    };
    let all = procfs::numbers("/proc").unwrap_or_default();
    all.into_iter().filter(holds)
}

/// The pid of the master that holds the lock of this runtime directory; 0 if the kernel does not tell (another pid
/// namespace). Only reads: it never keeps a master from starting.
pub fn lock_owner(runtime_dir: &Path) -> Option<i32> {
    let path = runtime_dir.join(NAME);
    let stat = path.symlink_metadata().ok()?;
    // Opening a FIFO that another user has put there would wait for a writer.
    if !stat.is_file() {
        return None;
    }
    // If the file is readable, its content tells which lock is meant among those with the same inode number.
    let written: Option<i32> = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let found = lockers(stat.ino(), Some(stat.dev()))
        .into_iter()
        .find(|locker| {
            let meant = locker.same_device || written.is_none_or(|pid| pid == locker.pid);
            let leaves = locker.pid > 0 && Stat::of(locker.pid).is_ok_and(|stat| stat.is_leaving());
            meant && !leaves && is_trusted(locker.pid, stat.uid())
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
    /// The list names the same device as stat(2). For overlays and subvolumes the two differ.
    same_device: bool,
}

/// The processes that hold a flock on an inode of this number, on any device.
fn lockers(inode: u64, device: Option<u64>) -> Vec<Locker> {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks
        .lines()
        .filter_map(|line| locker(line, inode, device))
        .collect()
}

/// Parses a line of /proc/locks (proc_locks(5)): `1: FLOCK  ADVISORY  WRITE 812 08:01:12345 0 EOF`
fn locker(line: &str, inode: u64, device: Option<u64>) -> Option<Locker> {
    let mut words = line.split_whitespace().skip(1);
    let kind = words.next()?;
    let (_, _, pid, location) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut parts = location.split(':');
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
    use crate::sys::kept_fd::in_another_process;

    /// Read, a FIFO would block the command that looks for a master, and a link would lead to any file.
    #[test]
    fn only_a_regular_file_has_a_lock_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NAME);
        let locked = dir.path().join("locked");
        let file = File::create(&locked).expect("a file");
        file.try_lock().expect("the lock");
        std::os::unix::fs::symlink(&locked, &path).expect("a link");
        assert_eq!(lock_owner(dir.path()), None);
        std::fs::remove_file(&path).expect("removed");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        assert_eq!(lock_owner(dir.path()), None);
        std::fs::remove_file(&path).expect("removed");
        let socket = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        assert_eq!(lock_owner(dir.path()), None);
        drop(socket);
        std::fs::remove_file(&path).expect("removed");
        std::fs::rename(&locked, &path).expect("moved");
        assert_eq!(
            lock_owner(dir.path()),
            Some(std::process::id().cast_signed())
        );
    }

    #[test]
    fn a_reclaimed_lock_has_a_living_owner_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let file = File::create(&path).unwrap();
        let copy = || file.try_clone().unwrap().into();
        if in_another_process(copy, |fd| File::from(fd).try_lock().unwrap()) {
            return;
        }
        assert_eq!(lock_owner(dir.path()), None, "its owner is dead");
        assert!(
            File::open(&path).unwrap().try_lock().is_err(),
            "and it is locked"
        );
        reclaim(&file).unwrap();
        let me = std::process::id();
        assert_eq!(lock_owner(dir.path()), Some(me.cast_signed()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{me}\n"));
        let stat = fstat_file(&file).unwrap();
        assert!(
            matches!(lock_owner_of(stat.st_ino, stat.st_uid), LockOwner::Master(pid) if pid == me.cast_signed())
        );
    }

    #[test]
    fn nobody_else_gets_a_lock_while_it_is_reclaimed() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let file = File::create(&path).unwrap();
        file.try_lock().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let tries = scope.spawn(|| {
                let other = File::open(&path).unwrap();
                let mut tries = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    assert!(other.try_lock().is_err(), "after {tries} tries");
                    tries += 1;
                }
                tries
            });
            for _ in 0..2_000 {
                reclaim(&file).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(tries.join().unwrap() > 0);
        });
    }

    #[test]
    fn lines_of_proc_locks_are_parsed() {
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
