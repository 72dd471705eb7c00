//! The lock of a runtime directory: flock(2), taken once, never handed to a child (close-on-exec), gone with the
//! master however it dies. The file itself stays: removing it would let two masters lock two files of one name.

use super::HouseError;
use super::folder::Folder;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const NAME: &str = "master.lock";

pub(super) fn take(folder: &Folder, path: &Path) -> Result<File, HouseError> {
    let failed =
        |error: io::Error| HouseError::failed(format!("failed to lock {}: {error}", path.join(NAME).display()));
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let mode = Mode::from_bits_truncate(0o644);
    let mut file = File::from(openat(&folder.fd, NAME, flags, mode).map_err(|error| failed(error.into()))?);
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let who = holder_of(&mut file).map_or(String::new(), |pid| format!(" (pid {pid})"));
            return Err(HouseError::taken(format!(
                "already running{who}: {} is locked; `rotad stop` ends it, `rotad reload` brings new code",
                path.join(NAME).display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // For the message above, read by others. A full disk must not forbid a start.
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).ok();
    Ok(file)
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
