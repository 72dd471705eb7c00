//! fork(2) for daemonizing, a fork that shares the descriptor table, and _exit(2).

use nix::libc;
use std::io;

/// The two sides of a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The process that called fork(2).
    Parent {
        /// The pid of the child.
        child: i32,
    },
    /// The new process.
    Child,
}

/// Copies this process, which must have only one thread: another thread might hold a lock (of the allocator, of stderr)
/// that is never released in the child.
///
/// # Errors
/// EAGAIN, ENOMEM: fork(2). `Other`: this process has more than one thread.
pub fn fork() -> io::Result<Fork> {
    check_threads()?;
    // SAFETY: one thread, checked above: the child's copy of every lock and of the heap is as consistent as ours.
    side(unsafe { libc::fork() })
}

/// As [`fork`], but the child has no descriptor table of its own: what one of the two opens or closes is open or closed
/// in the other (clone(2), CLONE_FILES), until one of them executes a program. The descriptors of a child that is killed
/// stay open.
///
/// # Errors
/// As [`fork`].
pub fn fork_sharing_descriptors() -> io::Result<Fork> {
    check_threads()?;
    let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    // SAFETY: as for fork(2), of which this is the system call: no new stack, no shared memory, no thread ids to store.
    // glibc's copy of the thread id stays that of the parent; it reads that only for calls about other threads.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    side(pid as libc::pid_t)
}

/// Without /proc the count is unknown; nothing in the launcher starts threads.
fn check_threads() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count());
    if threads == 1 {
        Ok(())
    } else {
        Err(io::Error::other(format!("fork with {threads} threads")))
    }
}

fn side(pid: libc::pid_t) -> io::Result<Fork> {
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent { child }),
    }
}

/// Ends this process immediately: no destructors, no atexit handlers, nothing flushed (_exit(2)). For the process
/// between two forks, whose open files belong to the others.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}
