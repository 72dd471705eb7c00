//! The subreaper: PR_SET_CHILD_SUBREAPER (prctl(2)), and waitid(2) for orphans that the master has not spawned.

use nix::libc;
use rotad_core::Exit;
use std::io;

/// Makes descendants whose parents die children of this process's main thread (the kernel picks the first living thread
/// of the nearest subreaper). Kept over exec, not inherited by children.
///
/// # Errors
/// EINVAL before Linux 3.4.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// Whether the *calling thread* has children, ended or not. The children of the main thread are orphans.
pub fn has_orphans() -> bool {
    // SAFETY: siginfo_t is plain data; all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WNOTHREAD;
    // SAFETY: info lives through the call and is written by it alone.
    unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) == 0 }
}

/// A child of this process that has ended and is not reaped yet.
pub fn ended_child() -> Option<i32> {
    // SAFETY: siginfo_t is plain data; all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: info lives through the call and is written by it alone.
    if unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) } < 0 {
        return None;
    }
    // SAFETY: waitid filled the SIGCHLD part of the union, or left it zero (nothing has ended).
    let pid = unsafe { info.si_pid() };
    (pid != 0).then_some(pid)
}

/// Reaps one ended child, of any thread.
pub fn reap_one_of(pid: i32) {
    // SAFETY: as above.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: info lives through the call and is written by it alone.
    unsafe {
        libc::waitid(
            libc::P_PID,
            pid as u32,
            &mut info,
            libc::WEXITED | libc::WNOHANG,
        )
    };
}

/// Reaps ended children of the *calling thread* only (__WNOTHREAD), at most `most`. Called by the main thread, it reaps
/// exactly the orphans, because workers are children of the thread that spawned them.
pub fn reap_orphans(most: usize) -> Vec<(i32, Exit)> {
    std::iter::from_fn(reap_one).take(most).collect()
}

fn reap_one() -> Option<(i32, Exit)> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WNOTHREAD;
    loop {
        // SAFETY: siginfo_t is plain data; all zeroes is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: info lives through the call and is written by it alone.
        if unsafe { libc::waitid(libc::P_ALL, 0, &mut info, flags) } < 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return None; // ECHILD: no child at all
        }
        // SAFETY: waitid filled the SIGCHLD part of the union, or left it zero (nothing has ended).
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let exit = match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            code => Exit::Signal {
                signal: status,
                core_dumped: code == libc::CLD_DUMPED,
            },
        };
        return (pid != 0).then_some((pid, exit));
    }
}
