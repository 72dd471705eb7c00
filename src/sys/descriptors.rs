//! Ranges of descriptors, and descriptors inherited from our parent: close_range(2), fcntl(2).

use nix::libc;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Closes every descriptor from `first` (3 or more) on except `keep`. Does not count up to the limit, which may be 2^30.
///
/// Called at the start of a process, when no code owns a descriptor from there on except `keep`.
///
/// # Errors
/// Those of reading /proc/self/fd, if the kernel has no close_range(2) (before Linux 5.9).
pub fn close_all_but(first: RawFd, keep: Option<RawFd>) -> io::Result<()> {
    let start = first.cast_unsigned();
    let done = match keep.filter(|fd| *fd >= first) {
        None => close_range(start, u32::MAX),
        Some(keep) => {
            let keep = keep.cast_unsigned();
            close_range_before(start, keep).and_then(|()| close_range(keep + 1, u32::MAX))
        }
    };
    done.or_else(|_| close_listed(first, keep))
}

fn close_range_before(first: u32, end: u32) -> io::Result<()> {
    if first < end {
        close_range(first, end - 1)
    } else {
        Ok(())
    }
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: numbers only. By the contract of close_all_but no code owns these descriptors.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether [`keep_over_exec`] works here: Linux 5.9, unless a seccomp filter rejects close_range(2).
pub fn can_keep_over_exec() -> bool {
    super::fds::can_unshare()
}

/// Gives the calling thread a descriptor table of its own, and keeps all descriptors from `first` on open over its
/// execve(2) (close_range(2), CLOSE_RANGE_UNSHARE): the table of the other threads, and of other processes that share it,
/// stays as it is. What they open from then on is theirs.
///
/// To be called by the main thread, right before it executes a program.
///
/// # Errors
/// ENOSYS, EPERM: no close_range(2) (before Linux 5.9), or a seccomp filter rejects it. ENOMEM. Those of reading
/// /proc/self/fd; then the table is unshared already.
pub fn keep_over_exec(first: RawFd) -> io::Result<()> {
    // An empty range at the end: the copy has all descriptors.
    let flags = libc::c_long::from(libc::CLOSE_RANGE_UNSHARE);
    // SAFETY: numbers only; nothing is closed.
    if unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= first)
        .collect();
    for fd in open {
        // SAFETY: numbers only. EBADF for the listing's own descriptor does no harm.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    }
    Ok(())
}

/// Closes what /proc lists. Collected first, because the listing itself has a descriptor, which is closed by then.
fn close_listed(first: RawFd, keep: Option<RawFd>) -> io::Result<()> {
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= first && Some(*fd) != keep)
        .collect();
    for fd in open {
        // SAFETY: as above; EBADF for the listing's own descriptor does no harm.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Whether a number is an open descriptor.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: fcntl with F_GETFD takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Borrows a descriptor of the guardian's, which stays open as long as this process runs.
pub fn borrow_open(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: by the contract of this function it is not closed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Takes ownership of a descriptor that was inherited under this number (LISTEN_FDS, sd_listen_fds(3)), and sets
/// close-on-exec. Must be called once per number.
///
/// # Errors
/// EBADF: there is none.
pub fn take_inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_SETFD takes numbers only.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open (checked by the call above), and nothing else in this process knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_descriptor_cannot_be_taken() {
        assert_eq!(
            take_inherited(1 << 20).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }
}
