//! The lock of a runtime directory: flock(2), taken once, never handed to a child (close-on-exec), gone with the
//! master however it dies. The file itself stays: removing it would let two masters lock two files of one name.

use super::HouseError;
use super::folder::Folder;
use crate::os::proc::{self, Stat};
use crate::os::sys::fds;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const NAME: &str = "master.lock";
/// The number of the lock's descriptor, or the next one that is free.
const PLACE: i32 = 48;
/// How long children of a killed master may take to become workers.
const HALF_BORN: Duration = Duration::from_secs(5);

pub(super) fn take(folder: &Folder, path: &Path) -> Result<File, HouseError> {
    let failed =
        |error: io::Error| HouseError::failed(format!("failed to lock {}: {error}", path.join(NAME).display()));
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(0o644);
    let mut file = File::from(openat(&folder.fd, NAME, flags, mode).map_err(|error| failed(error.into()))?);
    let until = Instant::now() + HALF_BORN;
    // A child that is about to become a worker holds its master's lock until its program runs: the lock of a master that
    // was killed comes free with it, and nobody who takes it can have overlooked a worker.
    let locked = loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until && !is_held_by_the_living(&mut file) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => break done,
        }
    };
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            if !is_held_by_the_living(&mut file)
                && let Some(pid) = half_born(path)
            {
                return Err(HouseError::failed(format!(
                    "a worker of a master that was killed is still being born (pid {pid}): the kernel has not loaded its \
                     program yet, a disk may hang; try again, or end it: kill -9 {pid}"
                )));
            }
            let who = holder_of(&mut file).map_or(String::new(), |pid| format!(" (pid {pid})"));
            return Err(HouseError::taken(format!(
                "already running{who}: {} is locked; `rotad stop` ends it, `rotad reload` brings new code",
                path.join(NAME).display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let mut file = lifted(file);
    // For the message above, read by others. A full disk must not forbid a start.
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).ok();
    Ok(file)
}

/// Below the descriptors of a birth, which a half-born child keeps until its program runs, and above those that become
/// a worker's own: there it is not closed before ([`crate::os::birth`]).
fn lifted(file: File) -> File {
    fds::lift(file.as_fd(), PLACE).map_or(file, File::from)
}

/// False: its holder has ended, or the kernel does not tell.
fn is_held_by_the_living(file: &mut File) -> bool {
    let Some(inode) = file.metadata().ok().map(|about| about.ino()) else { return false };
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = locks.lines().find_map(|line| locker(line, inode)).filter(|pid| *pid > 0);
    holder.is_some_and(|pid| Stat::of(pid).is_ok_and(|stat| !stat.is_zombie()))
}

/// Who keeps the lock of a master that is dead: a child of it that has not become a worker yet.
fn half_born(path: &Path) -> Option<i32> {
    let name = path.canonicalize().ok()?.join(NAME);
    let holds = |pid: &i32| {
        let numbers = proc::numbers(format!("/proc/{pid}/fd")).unwrap_or_default().into_iter();
        let mut here = numbers
            .filter(|number| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok_and(|link| link == name));
        // Beside us others may have opened it, to look; their descriptor has no lock.
        here.any(|number| {
            let about = proc::read(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
            about.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        })
    };
    proc::numbers("/proc").ok()?.into_iter().find(holds)
}

/// The master that holds the lock of this runtime directory, if one does: its pid, or 0 where the kernel does not tell
/// (another pid namespace). Looks only, so that it never stands in the way of a master that is starting.
pub fn holder(runtime_dir: &Path) -> Option<i32> {
    holder_of(&mut File::open(runtime_dir.join(NAME)).ok()?)
}

fn holder_of(file: &mut File) -> Option<i32> {
    let inode = file.metadata().ok()?.ino();
    let written = |file: &mut File| {
        let mut text = String::new();
        file.take(32).read_to_string(&mut text).ok();
        text.trim().parse().unwrap_or(0)
    };
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| locker(line, inode))?;
    Some(if pid > 0 { pid } else { written(file) })
}

/// `1: FLOCK  ADVISORY  WRITE 812 08:01:12345 0 EOF`. Only the inode is compared: the device of an overlay differs.
fn locker(line: &str, inode: u64) -> Option<i32> {
    let mut words = line.split_whitespace().skip(1);
    let kind = words.next()?;
    let (_, _, pid, place) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let locked: u64 = place.rsplit(':').next()?.parse().ok()?;
    (kind == "FLOCK" && locked == inode).then(|| pid.parse().unwrap_or(0).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_locks_is_understood() {
        let line = "12: FLOCK  ADVISORY  WRITE 812 00:2d:77 0 EOF";
        assert_eq!(locker(line, 77), Some(812));
        assert_eq!(locker(line, 78), None);
        assert_eq!(locker("12: -> FLOCK  ADVISORY  WRITE 9 00:2d:77 0 EOF", 77), None);
        assert_eq!(locker("1: POSIX  ADVISORY  WRITE 812 00:2d:77 0 EOF", 77), None);
        assert_eq!(locker("1: FLOCK  ADVISORY  WRITE -1 00:2d:77 0 EOF", 77), Some(0));
        assert_eq!(locker("", 77), None);
    }
}
