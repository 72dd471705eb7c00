//! fork(2) for daemonizing, and _exit(2).

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
    // Without /proc the count is unknown; nothing in the launcher starts threads.
    if let Ok(tasks) = std::fs::read_dir("/proc/self/task") {
        let threads = tasks.count();
        if threads != 1 {
            return Err(io::Error::other(format!("fork with {threads} threads")));
        }
    }
    // SAFETY: one thread, checked above: the child's copy of every lock and of the heap is as consistent as ours.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
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
