//! Creates a child that shares our memory until it executes its program (clone(2) with CLONE_VM and CLONE_VFORK): its
//! cost does not grow with the size of the master, and it can report an error by storing it.

use nix::libc;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// A child uses a few hundred bytes of its stack; the rest is for libc's wrappers.
const STACK_BYTES: usize = 64 * 1024;

/// The stack of a child, with a guard page below it; reused, by one child at a time.
#[derive(Debug)]
pub struct Stack {
    base: *mut c_void,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and nothing in it is bound to a thread.
unsafe impl Send for Stack {}

impl Stack {
    /// Maps a stack.
    ///
    /// # Errors
    /// ENOMEM (mmap(2)).
    pub fn new() -> io::Result<Self> {
        // SAFETY: sysconf takes a number and touches no memory of ours.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(65_536);
        let len = STACK_BYTES + page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            libc::mmap(
                null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base, len };
        // SAFETY: the lowest page of the mapping made above; stacks grow down towards it.
        if unsafe { libc::mprotect(base, page, libc::PROT_NONE) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// The highest address: page-aligned, which is more than any ABI asks for.
    fn top(&mut self) -> *mut c_void {
        self.base.wrapping_byte_add(self.len)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: our own mapping; the child that used it has left it, or `vfork` would not have returned.
        unsafe { libc::munmap(self.base, self.len) };
    }
}

/// The progress of a child between clone(2) and execve(2), which the child writes. The calling thread sleeps meanwhile, but
/// other threads may read it. All fields are plain numbers, so that a child that dies at any point leaves them valid.
#[derive(Debug)]
pub struct ExecProgress {
    stage: AtomicU32,
    errno: AtomicI32,
    detail: AtomicU32,
    pid: AtomicI32,
    pidfd: AtomicI32,
    began_ns: AtomicU64,
}

/// Nanoseconds since boot, with those of a suspended machine (clock_gettime(2), CLOCK_BOOTTIME), which is
/// async-signal-safe. 0: the kernel refuses, which it does not.
pub(super) fn since_boot() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes `now` and reads nothing.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The failure that a child stored before it exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecFailure {
    /// The number last given to [`ExecProgress::enter`].
    pub stage: u32,
    /// The error of the system call.
    pub errno: i32,
    /// The index of the failed item, if the stage has several.
    pub detail: u32,
}

impl Default for ExecProgress {
    fn default() -> Self {
        Self {
            stage: AtomicU32::new(0),
            errno: AtomicI32::new(0),
            detail: AtomicU32::new(0),
            pid: AtomicI32::new(0),
            pidfd: AtomicI32::new(-1),
            began_ns: AtomicU64::new(0),
        }
    }
}

impl ExecProgress {
    /// Notes the stage that begins: a constant of [`crate::sys::exec::step`].
    pub fn enter(&self, stage: u32) {
        self.stage.store(stage, Ordering::Relaxed);
    }

    /// The current stage.
    pub fn stage(&self) -> u32 {
        self.stage.load(Ordering::Relaxed)
    }

    /// Called first by the child: the time, and its pid, for other threads on kernels without CLONE_PIDFD.
    pub(super) fn begin(&self, pid: i32) {
        self.began_ns.store(since_boot(), Ordering::Relaxed);
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// When the last child began to run, in nanoseconds of [`since_boot`].
    pub(super) fn began(&self) -> u64 {
        self.began_ns.load(Ordering::Relaxed)
    }

    pub(super) fn fail(&self, errno: i32, detail: u32) {
        self.detail.store(detail, Ordering::Relaxed);
        self.errno.store(errno, Ordering::Release);
    }

    fn failure(&self) -> Option<ExecFailure> {
        match self.errno.load(Ordering::Acquire) {
            0 => None,
            errno => Some(ExecFailure {
                stage: self.stage(),
                errno,
                detail: self.detail.load(Ordering::Relaxed),
            }),
        }
    }

    /// Kills the child that is between clone and exec now. False if there is none.
    ///
    /// The caller holds the lock that the parent needs for [`ExecProgress::take_result`]: until then the child is not reaped,
    /// and neither its pid nor its pidfd can be reused.
    pub fn kill(&self) -> bool {
        let (pidfd, pid) = (
            self.pidfd.load(Ordering::Acquire),
            self.pid.load(Ordering::Acquire),
        );
        if pidfd >= 0 {
            // SAFETY: numbers and a null pointer only; the pidfd is open as said above.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    pidfd,
                    libc::SIGKILL,
                    null::<u8>(),
                    0,
                )
            };
            if done == 0 {
                return true;
            }
        }
        if pid > 0 {
            // SAFETY: numbers only; an unreaped child of ours pins its pid.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        pidfd >= 0 || pid > 0
    }

    /// Takes and clears the result: the child's pidfd, if there is one, and its failure.
    pub fn take_result(&self) -> (Option<OwnedFd>, Option<ExecFailure>) {
        let failure = self.failure();
        self.pid.store(0, Ordering::Release);
        self.errno.store(0, Ordering::Release);
        let fd = self.pidfd.swap(-1, Ordering::AcqRel);
        // SAFETY: the kernel made the descriptor for the last clone alone, and the swap hands it out once.
        (
            (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }),
            failure,
        )
    }
}

/// Runs `entry(arg)` in a child that shares our memory, and our table of descriptors if that is asked for, and sleeps
/// until the child has executed a program or ended. Returns its pid. `progress` has its pidfd, on kernels that have them,
/// before the child begins.
///
/// # Errors
/// Those of clone(2): EAGAIN, ENOMEM, EMFILE.
///
/// # Safety
/// `entry` must not return, allocate, lock or panic, must leave the descriptors alone until it has a table of its own,
/// and `arg` must be valid for it. All signals must be blocked in
/// the calling thread. [`ExecProgress::take_result`] must be called between two calls with the same `progress`.
pub(super) unsafe fn vfork(
    stack: &mut Stack,
    entry: extern "C" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
    shares_table: bool,
    progress: &ExecProgress,
) -> io::Result<i32> {
    const BASE_FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let flags = if shares_table {
        BASE_FLAGS | libc::CLONE_FILES
    } else {
        BASE_FLAGS
    };
    let top = stack.top();
    let slot = progress.pidfd.as_ptr();
    // SAFETY: the stack is ours and free, the slot outlives the call; the caller vouches for entry and arg. A kernel
    // before 5.2 ignores CLONE_PIDFD and leaves the slot at -1.
    let mut pid = unsafe { libc::clone(entry, top, flags | libc::CLONE_PIDFD, arg, slot) };
    if pid < 0
        && matches!(
            io::Error::last_os_error().raw_os_error(),
            Some(libc::EINVAL | libc::ENOSYS)
        )
    {
        // SAFETY: as above, without the slot.
        pid = unsafe { libc::clone(entry, top, flags, arg) };
    }
    if pid < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(pid)
    }
}
