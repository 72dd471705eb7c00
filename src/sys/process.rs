//! A process that is referenced by its pidfd (pidfd_open(2), Linux 5.3); without pidfds, a child by not being reaped.

use nix::poll::PollFlags;
use rotad_core::Exit;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A reference to a process: signals cannot reach another process that reuses its pid. For our own child that is true until
/// [`Process::reap`]; for any other process it needs the pidfd.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: Option<OwnedFd>,
    child: bool,
}

impl Process {
    /// A child of ours that has not been reaped. `pidfd`: from CLONE_PIDFD or pidfd_open(2), if there is one.
    pub fn of_child(pid: i32, pidfd: Option<OwnedFd>) -> Self {
        Self {
            pid,
            pidfd,
            child: true,
        }
    }

    /// References any process by a pidfd. The caller has to check afterwards that it is the intended process.
    ///
    /// # Errors
    /// ESRCH: no such process; ENOSYS, EPERM: no pidfds on this system.
    pub fn open_pid(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two numbers and touches no memory of ours.
        let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone; pidfds are created close-on-exec.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        Ok(Self {
            pid,
            pidfd: Some(pidfd),
            child: false,
        })
    }

    /// Duplicates one of its descriptors (pidfd_getfd(2), Linux 5.6), close-on-exec. The open file is shared with the
    /// process: hold it only briefly.
    ///
    /// # Errors
    /// EBADF: it is closed; EPERM: not permitted (ptrace(2)); ENOSYS; `Unsupported`: there is no pidfd.
    pub fn dup_fd(&self, fd: i32) -> io::Result<OwnedFd> {
        let Some(pidfd) = &self.pidfd else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // SAFETY: numbers only.
        let copy =
            unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us alone, close-on-exec.
        Ok(unsafe { OwnedFd::from_raw_fd(copy as i32) })
    }

    /// The pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable once the process has ended (pidfd_open(2)); None without pidfds.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// User and system time of all its threads so far; None once it is reaped, or if it is no child of ours. A system
    /// call that never waits, other than a read of /proc.
    pub fn cpu_time(&self) -> Option<Duration> {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let clock = nix::time::clock_getcpuclockid(pid).ok();
        Some(clock.filter(|_| self.child)?.now().ok()?.into())
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// ESRCH: it has been reaped; EPERM.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let Some(fd) = &self.pidfd else {
            return self.signal_child(signal);
        };
        // SAFETY: no memory is passed: the siginfo pointer is null.
        let done = unsafe {
            nix::libc::syscall(
                nix::libc::SYS_pidfd_send_signal,
                fd.as_raw_fd(),
                signal,
                std::ptr::null::<u8>(),
                0,
            )
        };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        // An older container engine rejects unknown system calls with EPERM, although the child came with a pidfd.
        match error.raw_os_error() {
            Some(nix::libc::EPERM | nix::libc::ENOSYS)
                if self.child && self.peek_exit().is_ok() =>
            {
                self.signal_child(signal)
            }
            _ => Err(error),
        }
    }

    /// Sends a signal by pid, which cannot be reused while the process is our unreaped child.
    fn signal_child(&self, signal: i32) -> io::Result<()> {
        // SAFETY: kill takes numbers only.
        if unsafe { nix::libc::kill(self.pid, signal) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Sends a signal to the process group that this process leads. Must be our unreaped child: then the number of the group
    /// cannot be reused.
    ///
    /// # Errors
    /// ESRCH: the group is empty.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        // SAFETY: killpg takes numbers only; the unreaped leader pins the group's number.
        if unsafe { nix::libc::killpg(self.pid, signal) } < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Whether the process has ended, by its pidfd: correct also if a tracer hides it from waitid(2). False without a pidfd.
    pub fn has_ended(&self) -> bool {
        let Some(fd) = &self.pidfd else { return false };
        super::poll::is_ready(fd, PollFlags::POLLIN)
    }

    /// How our child ended, if it has; does not reap it (waitid(2), WNOWAIT).
    ///
    /// # Errors
    /// ECHILD: not our child, or reaped.
    pub fn peek_exit(&self) -> io::Result<Option<Exit>> {
        self.wait(nix::libc::WNOWAIT)
    }

    /// Reaps our child if it has ended.
    ///
    /// # Errors
    /// ECHILD: not our child, or reaped.
    pub fn reap(&self) -> io::Result<Option<Exit>> {
        self.wait(0)
    }

    fn wait(&self, flags: i32) -> io::Result<Option<Exit>> {
        // SAFETY: siginfo_t is plain data; all zeroes is a valid value.
        let mut info: nix::libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = nix::libc::WEXITED | nix::libc::WNOHANG | flags;
        // SAFETY: info lives through the call and is written by it alone.
        if unsafe { nix::libc::waitid(nix::libc::P_PID, self.pid as u32, &mut info, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: waitid filled the SIGCHLD part of the union, or left it zero (nothing has ended).
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        Ok(Some(match info.si_code {
            nix::libc::CLD_EXITED => Exit::Code(status),
            code => Exit::Signal {
                signal: status,
                core_dumped: code == nix::libc::CLD_DUMPED,
            },
        }))
    }
}
