//! Sets up what a process passes on to the program that it executes: signal dispositions and mask, limits, priority,
//! umask (sigaction(2), sigprocmask(2), prlimit(2), setpriority(2), umask(2)).
//!
//! All are raw system calls: they run in a child that shares our memory, which libc's wrappers do not expect, and the
//! wrappers hide signals 32 and 33.

use nix::libc;
use std::ffi::c_long;
use std::ptr::{null, null_mut};

/// The highest signal of the architectures that we build for (signal(7)).
const LAST_SIGNAL: c_long = 64;
/// Bytes of the kernel's signal set.
const SET_BYTES: usize = 8;

/// The error of the last failed system call.
pub(super) fn errno() -> i32 {
    // SAFETY: the calling thread's own errno; a child that shares our memory uses that of its sleeping parent.
    unsafe { *libc::__errno_location() }
}

/// Sets all signals to their default action. SIGKILL and SIGSTOP have no other.
pub fn default_dispositions() {
    // All zeroes is SIG_DFL without flags in every layout of the kernel's struct sigaction.
    let default = [0_u64; 8];
    for signal in 1..=LAST_SIGNAL {
        if signal != c_long::from(libc::SIGKILL) && signal != c_long::from(libc::SIGSTOP) {
            // SAFETY: the kernel reads at most 64 bytes of `default` and writes nothing.
            unsafe {
                libc::syscall(
                    libc::SYS_rt_sigaction,
                    signal,
                    default.as_ptr(),
                    null_mut::<u8>(),
                    SET_BYTES,
                );
            }
        }
    }
}

/// Unblocks all signals in this thread; pending ones are delivered.
pub fn empty_mask() {
    let empty = 0_u64;
    // SAFETY: the kernel reads eight bytes of `empty` and writes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            c_long::from(libc::SIG_SETMASK),
            &raw const empty,
            null_mut::<u8>(),
            SET_BYTES,
        );
    }
}

/// Sets a resource limit of this process.
///
/// # Errors
/// The errno: EINVAL (soft above hard), EPERM (hard raised without the right to).
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<(), i32> {
    // struct rlimit64: two numbers, the same on every architecture.
    let limit = [soft, hard];
    // SAFETY: the kernel reads sixteen bytes of `limit` and writes nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            c_long::from(resource),
            limit.as_ptr(),
            null_mut::<u8>(),
        )
    };
    if done < 0 { Err(errno()) } else { Ok(()) }
}

/// Sets the nice value (-20 to 19) of this process.
///
/// # Errors
/// The errno: EACCES, EPERM (lowered without the right to).
pub fn set_nice(nice: i32) -> Result<(), i32> {
    // SAFETY: numbers only.
    let done = unsafe {
        libc::syscall(
            libc::SYS_setpriority,
            libc::PRIO_PROCESS,
            0,
            c_long::from(nice),
        )
    };
    if done < 0 { Err(errno()) } else { Ok(()) }
}

/// Sets the file mode creation mask of this process; it cannot fail.
pub fn set_umask(mask: u32) {
    // SAFETY: a number only.
    unsafe { libc::syscall(libc::SYS_umask, c_long::from(mask)) };
}

/// Sleeps for this time, or until a signal arrives.
pub(super) fn sleep(milliseconds: u32) {
    let span = libc::timespec {
        tv_sec: 0,
        tv_nsec: c_long::from(milliseconds) * 1_000_000,
    };
    // SAFETY: the kernel reads `span` and writes nothing.
    unsafe { libc::syscall(libc::SYS_nanosleep, &raw const span, null::<u8>()) };
}
