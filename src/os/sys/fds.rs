//! Descriptors in bulk: what we were started with, and what a worker may not inherit (close_range(2), dup(2)).
//! Never a loop up to the limit, which may be a thousand million.

use nix::libc;
use std::ffi::{c_int, c_long};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// Closes every descriptor from 3 upward that our starter left open.
///
/// First thing in the master, before it has opened anything: whatever is open is nobody's.
///
/// # Errors
/// Where the kernel lacks close_range(2) (before 5.9): /proc/self/fd cannot be read.
pub fn seal_inherited() -> io::Result<()> {
    if range(3, 0) {
        return Ok(());
    }
    // The listing's own descriptor is closed by the time of the second close: EBADF, which is what we want.
    let open: Vec<c_int> =
        fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|&fd| fd >= 3) {
        // SAFETY: at the master's start no value of ours owns a descriptor above 2.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Opens /dev/null on each of 0, 1 and 2 that is closed, so that no socket of ours becomes a standard stream.
///
/// # Errors
/// Those of opening /dev/null.
pub fn ensure_stdio() -> io::Result<()> {
    for wanted in 0..=2 {
        // SAFETY: numbers only.
        if unsafe { libc::fcntl(wanted, libc::F_GETFD) } >= 0 {
            continue;
        }
        // The lowest free number is the wanted one: those below are open. std's files are close-on-exec.
        let null = fs::File::options().read(true).write(true).open("/dev/null")?.into_raw_fd();
        // SAFETY: numbers only; the descriptor was just released and stays open for the life of the process.
        unsafe { libc::fcntl(null, libc::F_SETFD, 0) };
    }
    Ok(())
}

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

/// Takes over the descriptor with this number, close-on-exec, from the program that executed us.
///
/// # Errors
/// EBADF: nothing is open there.
pub(crate) fn adopt(fd: c_int) -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, and handed to us by number: no value of this program owns it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives a child that shares our table of descriptors one of its own, with those below `end` alone: copying the whole
/// of a large table, and closing the copies at exec, would cost more than all the rest of a birth. Before Linux 5.9
/// all are copied.
pub(super) fn leave_table(end: c_int) -> Result<(), i32> {
    if range(end, c_long::from(libc::CLOSE_RANGE_UNSHARE)) {
        return Ok(());
    }
    // SAFETY: a number only.
    let done = unsafe { libc::syscall(libc::SYS_unshare, c_long::from(libc::CLONE_FILES)) };
    if done < 0 { Err(super::slate::errno()) } else { Ok(()) }
}

/// Marks everything from `first` upward close-on-exec. A belt: all of ours are so from birth; a descriptor that a
/// library opened without it is not. Kernels before 5.11 cannot and need not.
pub(super) fn close_on_exec_from(first: c_int) {
    range(first, c_long::from(libc::CLOSE_RANGE_CLOEXEC));
}

/// `to` becomes another name of `from` and survives exec. The two must differ.
pub(super) fn place(from: c_int, to: c_int) -> Result<(), i32> {
    // SAFETY: numbers only. dup3, since newer architectures have no dup2.
    let done = unsafe { libc::syscall(libc::SYS_dup3, c_long::from(from), c_long::from(to), 0) };
    if done < 0 { Err(super::slate::errno()) } else { Ok(()) }
}

/// Writes the digit 0: in the kernel's files that take a pid, it means whoever writes (cgroups(7)).
pub(super) fn write_zero(fd: c_int) {
    // SAFETY: the kernel reads one byte of a constant and writes nothing.
    unsafe { libc::syscall(libc::SYS_write, c_long::from(fd), b"0".as_ptr(), 1_usize) };
}

fn range(first: c_int, flags: c_long) -> bool {
    // SAFETY: numbers only; who may lose what is the caller's affair, as its documentation says.
    unsafe { libc::syscall(libc::SYS_close_range, c_long::from(first), c_long::from(u32::MAX), flags) == 0 }
}
