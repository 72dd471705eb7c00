//! Signal dispositions and the signal mask: sigaction(2), sigprocmask(2).

use nix::libc;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;

/// Signals meant for a master that would kill any other process: ignored by every rotad process that is not a master
/// yet or never will be, so that `kill -USR1 $(pidof rotad)` harms none.
pub const MEANT_FOR_A_MASTER: [i32; 3] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// Signals that would end a program without a handler and mean nothing to a master: a mistake, or a timer that a parent
/// left behind (alarm(2) survives execve(2)). Those that report a fault of our own (SEGV, ABRT, SYS …) are not among
/// them.
pub const STRAY: [i32; 5] = [
    libc::SIGALRM,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGVTALRM,
    libc::SIGSTKFLT,
];

/// A closed pipe, a file at its size limit (`ulimit -f`): errors of write(2) to handle, not reasons to die.
pub const WRITE_ERRORS: [i32; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Whether this signal is ignored (by nohup(1), by a shell's `&`, by a careless parent). False for a number that is no
/// signal.
pub fn is_ignored(signal: i32) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the new action is null, so nothing changes; `old` lives through the call and is plain data.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroed, then perhaps written by the kernel: a valid value either way.
    done == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Ignores these signals. Numbers that cannot be ignored are passed over.
pub fn ignore(signals: &[i32]) {
    for &signal in signals {
        set(signal, libc::SIG_IGN);
    }
}

/// The state that a fresh login shell would give us: every disposition default, the mask empty. What a parent ignored
/// or blocked (nohup's HUP, a blocked TERM, an ignored CHLD that would reap our workers) is undone.
pub fn reset_all() {
    for signal in 1..=libc::SIGRTMAX() {
        set(signal, libc::SIG_DFL);
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, sigprocmask only reads it.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), null_mut());
    }
}

/// What a process ignores from its first moment until the master's handlers stand, or, if it is no master, for ever:
/// no signal but those that stop it kills a half-started master, and a write that fails is an error to handle and no
/// death.
pub fn ignore_until_handled() {
    ignore(&MEANT_FOR_A_MASTER);
    ignore(&WRITE_ERRORS);
    ignore(&STRAY);
    ignore(&(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect::<Vec<_>>());
}

/// KILL, STOP and the two that glibc keeps for itself refuse (EINVAL), which is what we want.
fn set(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: sigaction is plain data; all zeroes is a valid value (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = disposition;
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours; the old action is not asked for.
    unsafe { libc::sigaction(signal, &action, null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_is_seen_and_numbers_that_are_no_signal_are_not() {
        ignore(&[libc::SIGWINCH]);
        assert!(is_ignored(libc::SIGWINCH));
        assert!(!is_ignored(libc::SIGKILL));
        assert!(!is_ignored(4711));
    }
}
