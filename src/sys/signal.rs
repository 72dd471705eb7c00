//! Signal dispositions and the signal mask: sigaction(2), sigprocmask(2).

use nix::libc;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

/// Signals for a master whose default action would end other processes. Every rotad process that is not (yet) a master
/// ignores them, so that `kill -USR1 $(pidof rotad)` ends none.
pub const MEANT_FOR_A_MASTER: [i32; 3] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];

/// Signals that would end a program without a handler and have no meaning for a master: sent by mistake, or by a timer of
/// the parent (alarm(2) survives execve(2)). Does not contain those that report our own fault (SEGV, ABRT, SYS …).
pub const STRAY: [i32; 5] = [
    libc::SIGALRM,
    libc::SIGIO,
    libc::SIGPROF,
    libc::SIGVTALRM,
    libc::SIGSTKFLT,
];

/// Signals for a closed pipe and for a file at its size limit (`ulimit -f`): write(2) returns an error instead.
pub const WRITE_ERRORS: [i32; 2] = [libc::SIGPIPE, libc::SIGXFSZ];

/// Whether this signal is ignored (by nohup(1), by a shell's `&`, by the parent). False for a number that is not a signal.
pub fn is_ignored(signal: i32) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the new action is null, so nothing changes; `old` lives through the call and is plain data.
    let done = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroed, then perhaps written by the kernel: a valid value either way.
    done == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Ignores these signals. Skips numbers that cannot be ignored.
pub fn ignore(signals: &[i32]) {
    for &signal in signals {
        set(signal, libc::SIG_IGN);
    }
}

/// Sets every disposition to its default and empties the mask, as in a login shell. Undoes what the parent ignored or
/// blocked (nohup's HUP, a blocked TERM, an ignored CHLD, with which workers would be reaped unseen).
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

/// Sets the dispositions of these signals to their defaults: before a handler for one that was ignored.
pub fn reset(signals: &[i32]) {
    for &signal in signals {
        set(signal, libc::SIG_DFL);
    }
}

/// Has a fault of our own end this process, as in every program: the runtime's handlers, which look for an overflow of the
/// stack, let one SEGV or BUS that is sent to us pass.
pub fn reset_faults() {
    set(libc::SIGSEGV, libc::SIG_DFL);
    set(libc::SIGBUS, libc::SIG_DFL);
}

/// Ignores signals until the master's handlers are installed, or, in other processes, permanently: only the signals that
/// stop it end a starting master, and a failed write is an error to be handled.
pub fn ignore_until_handled() {
    ignore(&MEANT_FOR_A_MASTER);
    ignore(&WRITE_ERRORS);
    ignore(&STRAY);
    ignore(&(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect::<Vec<_>>());
}

/// Sets a disposition. EINVAL for KILL, STOP and the two signals that glibc uses is ignored on purpose.
fn set(signal: i32, disposition: libc::sighandler_t) {
    // SAFETY: sigaction is plain data; all zeroes is a valid value (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = disposition;
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours; the old action is not asked for.
    unsafe { libc::sigaction(signal, &action, null_mut()) };
}

/// From now on each signal of this number adds one to the counter as soon as it is delivered, beside whatever else its
/// handlers do.
///
/// # Errors
/// EINVAL: it cannot be caught.
pub fn count(signal: i32, counter: &'static AtomicU64) -> std::io::Result<()> {
    let add = move || {
        counter.fetch_add(1, Ordering::AcqRel);
    };
    // SAFETY: adding to an atomic number, which lives as long as the process, is async-signal-safe.
    unsafe { signal_hook::low_level::register(signal, add) }.map(drop)
}

/// Who sent a signal, as far as it is passed on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The sender's pid; 0: the kernel, for a terminal.
    pub pid: i32,
    /// Its uid.
    pub uid: u32,
}

/// What of the siginfo_t of a signal that was sent (sigaction(2)) the receiver gets, in the kernel's layout.
#[repr(C)]
struct SentInfo {
    signo: i32,
    errno: i32,
    code: i32,
    // The union behind these three is aligned as a pointer.
    #[cfg(target_pointer_width = "64")]
    padding: i32,
    pid: i32,
    uid: u32,
    value: usize,
    rest: [u8; SENT_INFO_REST],
}

const SENT_INFO_REST: usize = if cfg!(target_pointer_width = "64") {
    128 - 32
} else {
    128 - 24
};
const _: () = assert!(size_of::<SentInfo>() == 128, "the size of a siginfo_t");

/// Passes a signal on to our own unreaped child, as if its sender had sent it there (rt_sigqueueinfo(2)): SI_QUEUE is the
/// kind that a process may send in another one's name.
///
/// # Errors
/// ESRCH: the child has been reaped; EAGAIN: too many signals wait there (RLIMIT_SIGPENDING).
pub fn pass_on(child: i32, signal: i32, sender: Sender) -> std::io::Result<()> {
    let code = if sender.pid == 0 {
        FROM_THE_KERNEL
    } else {
        libc::SI_QUEUE
    };
    let info = SentInfo {
        signo: signal,
        errno: 0,
        code,
        #[cfg(target_pointer_width = "64")]
        padding: 0,
        pid: sender.pid,
        uid: sender.uid,
        value: 0,
        rest: [0; SENT_INFO_REST],
    };
    // SAFETY: the kernel reads a siginfo_t, 128 bytes, from `info`, which has that size and lives through the call.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, child, signal, &raw const info) };
    if done < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// The si_code of a signal of the kernel that is passed on: a process may not use the kernel's own (SI_KERNEL).
pub const FROM_THE_KERNEL: i32 = libc::SI_ASYNCIO;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ignored_signals_are_reported_as_ignored() {
        ignore(&[libc::SIGWINCH]);
        assert!(is_ignored(libc::SIGWINCH));
        assert!(!is_ignored(libc::SIGKILL));
        assert!(!is_ignored(4711));
    }
}
