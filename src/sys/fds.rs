//! The descriptors of a child before exec: those that it gets, and those that it must not inherit (close_range(2), dup(2)).

use nix::libc;
use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// A copy of `fd`, close-on-exec, with a number of at least `floor`.
///
/// # Errors
/// EMFILE; EINVAL: `floor` is above the limit of open files.
pub fn lift(fd: BorrowedFd<'_>, floor: c_int) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, floor) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Whether [`unshare`] works here: Linux 5.9, unless a seccomp filter rejects it. Checked once.
pub(super) fn can_unshare() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    // The largest number, which no descriptor has.
    *CAN.get_or_init(|| range(c_int::MAX, 0))
}

/// Gives a child that shares our descriptor table its own table, with only the descriptors below `end`: to copy a large
/// table completely and close the copies at exec would cost more than the rest of the spawn. unshare(2) is no substitute
/// on older kernels, because container engines forbid it.
pub(super) fn unshare(end: c_int) -> Result<(), i32> {
    if range(end, c_long::from(libc::CLOSE_RANGE_UNSHARE)) {
        Ok(())
    } else {
        Err(super::child_setup::errno())
    }
}

/// Marks every descriptor from `first` upward close-on-exec: ours are created so, but a library may have opened one
/// without it. Has no effect before Linux 5.11.
pub(super) fn close_on_exec_from(first: c_int) {
    range(first, c_long::from(libc::CLOSE_RANGE_CLOEXEC));
}

/// Closes the descriptors from `first` to `last`. Has no effect before Linux 5.9.
pub(super) fn close(first: c_int, last: c_int) {
    close_range(first, last.cast_unsigned(), 0);
}

/// Duplicates `from` as `to`, which survives exec. The two must differ.
pub(super) fn move_fd(from: c_int, to: c_int) -> Result<(), i32> {
    // SAFETY: numbers only. dup3, since newer architectures have no dup2.
    let done = unsafe { libc::syscall(libc::SYS_dup3, c_long::from(from), c_long::from(to), 0) };
    if done < 0 {
        Err(super::child_setup::errno())
    } else {
        Ok(())
    }
}

/// Writes the digit 0: in the kernel's files that take a pid, it means the writer (cgroups(7)).
pub(super) fn write_zero(fd: c_int) {
    // SAFETY: the kernel reads one byte of a constant and writes nothing.
    unsafe { libc::syscall(libc::SYS_write, c_long::from(fd), b"0".as_ptr(), 1_usize) };
}

fn range(first: c_int, flags: c_long) -> bool {
    close_range(first, u32::MAX, flags)
}

fn close_range(first: c_int, last: u32, flags: c_long) -> bool {
    // SAFETY: numbers only; the callers' documentation says which descriptors are affected.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            c_long::from(first),
            c_long::from(last),
            flags,
        ) == 0
    }
}
