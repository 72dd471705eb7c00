//! A process that is referenced by its pidfd (pidfd_open(2), Linux 5.3); without pidfds, a child by not being reaped.

use super::kept_fd::{FdTable, KeptFd};
use nix::poll::PollFlags;
use rotad_core::Exit;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// pidfd_send_signal(2): to the process group that the process leads (Linux 6.9).
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
/// ioctl_pidfd(2), `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`, with the size that the struct has had since
/// Linux 6.13; a newer kernel fills in as much.
const PIDFD_GET_INFO: u64 = 3 << 30 | (size_of::<PidfdInfo>() as u64) << 16 | 0xff << 8 | 11;
/// `PIDFD_INFO_EXIT`: asks for the exit status, and says in the answer that it is there (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// The beginning of `struct pidfd_info` (include/uapi/linux/pidfd.h, `PIDFD_INFO_SIZE_VER0`).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    /// pid, tgid, ppid, and four pairs of user and group.
    ids: [u32; 11],
    /// The wait status.
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// A reference to a process: signals cannot reach another process that reuses its pid. For our own child that is true until
/// [`Process::reap`]; for any other process it needs the pidfd.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: Option<OwnedFd>,
    /// What is saved of the pidfd, once it was asked for.
    kept: OnceLock<KeptFd>,
    child: bool,
    /// How it ended, as its parent has said; for one that is not our child.
    told_exit: Option<Exit>,
}

/// What is saved of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProcess {
    /// Its pid.
    pub pid: i32,
    pidfd: Option<KeptFd>,
}

impl Process {
    /// A child of ours that has not been reaped. `pidfd`: from CLONE_PIDFD or pidfd_open(2), if there is one.
    pub fn of_child(pid: i32, pidfd: Option<OwnedFd>) -> Self {
        Self {
            pid,
            pidfd,
            kept: OnceLock::new(),
            child: true,
            told_exit: None,
        }
    }

    /// A child of ours that has not been reaped, by a pidfd if there are pidfds on this system.
    pub fn open_child(pid: i32) -> Self {
        let pidfd = Self::open_pid(pid).ok().and_then(|process| process.pidfd);
        Self::of_child(pid, pidfd)
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
            kept: OnceLock::new(),
            child: false,
            told_exit: None,
        })
    }

    /// What the next master needs to refer to it.
    ///
    /// # Errors
    /// Those of fstat(2); none for an open pidfd.
    pub fn saved(&self) -> io::Result<SavedProcess> {
        let pidfd = match (&self.pidfd, self.kept.get()) {
            (None, _) => None,
            (Some(_), Some(kept)) => Some(*kept),
            (Some(pidfd), None) => {
                let kept = KeptFd::of(pidfd)?;
                Some(*self.kept.get_or_init(|| kept))
            }
        };
        Ok(SavedProcess {
            pid: self.pid,
            pidfd,
        })
    }

    /// Refers to a process of a dead master, which is not our child: [`Process::exit_info`] tells how it ended.
    ///
    /// # Errors
    /// `Unsupported`: no pidfd was saved, so that the pid may mean another process by now. ESTALE: the pidfd is one of
    /// another process. EBADF: as of [`FdTable::take`].
    pub fn restore(saved: &SavedProcess, table: &mut FdTable) -> io::Result<Self> {
        let kept = saved.pidfd.ok_or(io::ErrorKind::Unsupported)?;
        let pidfd = table.take(kept)?;
        // Before Linux 6.9 all pidfds are the same file.
        if !refers_to(&pidfd, saved.pid) {
            return Err(nix::errno::Errno::ESTALE.into());
        }
        Ok(Self {
            pid: saved.pid,
            pidfd: Some(pidfd),
            kept: OnceLock::new(),
            child: false,
            told_exit: None,
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

    /// User and system time of all its threads so far; None once it is reaped, or, if it is no child of ours, once it has
    /// ended. A system call that never waits, other than a read of /proc.
    pub fn cpu_time(&self) -> Option<Duration> {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let time = nix::time::clock_getcpuclockid(pid).ok()?.now().ok()?;
        // A process that has not ended by now has had its pid for itself.
        let held = self.child || (self.pidfd.is_some() && !self.has_ended());
        held.then(|| time.into())
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// ESRCH: it has been reaped; EPERM.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let Some(fd) = &self.pidfd else {
            return self.signal_child(signal);
        };
        let Err(error) = send_signal(fd, signal, 0) else {
            return Ok(());
        };
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

    /// Sends a signal to the process group that this process leads. A child of ours must not have been reaped: then the
    /// number of the group cannot be reused. For any other process the pidfd names the group (Linux 6.9).
    ///
    /// # Errors
    /// ESRCH: the group is empty. EINVAL: no child of ours, and an older kernel; `Unsupported`: nor is there a pidfd.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        if !self.child {
            let fd = self.pidfd.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            return send_signal(fd, signal, PIDFD_SIGNAL_PROCESS_GROUP);
        }
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

    /// How it ended, also after another process has reaped it. None before that, also of a zombie, and on kernels before Linux 6.15.
    pub fn exit_info(&self) -> Option<Exit> {
        let fd = self.pidfd.as_ref()?;
        let mut info = PidfdInfo {
            mask: PIDFD_INFO_EXIT,
            ..PidfdInfo::default()
        };
        // SAFETY: the kernel writes as many bytes as the request says, which is the size of info.
        let done = unsafe { nix::libc::ioctl(fd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        let status = info.exit_code;
        (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(match status & 0x7f {
            0 => Exit::Code(status >> 8 & 0xff),
            signal => Exit::Signal {
                signal,
                core_dumped: status & 0x80 != 0,
            },
        })
    }

    /// Whether it is not our child, and its parent has not said how it ended.
    pub fn needs_telling(&self) -> bool {
        !self.child && self.told_exit.is_none()
    }

    /// Whether it is our child, so that waitid(2) tells how it ended.
    pub fn is_child(&self) -> bool {
        self.child
    }

    /// Its parent has said how it ended.
    pub fn set_exit(&mut self, exit: Exit) {
        self.told_exit = Some(exit);
    }

    fn wait(&self, flags: i32) -> io::Result<Option<Exit>> {
        if self.told_exit.is_some() {
            return Ok(self.told_exit);
        }
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

fn send_signal(pidfd: &OwnedFd, signal: i32, flags: u32) -> io::Result<()> {
    // SAFETY: no memory is passed: the siginfo pointer is null.
    let done = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<u8>(),
            flags,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a descriptor is a pidfd of this process, or of one that was reaped (pidfd_open(2), fdinfo: -1).
fn refers_to(pidfd: &OwnedFd, pid: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
    let named = text.ok().and_then(|text| {
        let word = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
        word.trim().parse::<i32>().ok()
    });
    named.is_some_and(|named| named == pid || named == -1)
}

#[cfg(test)]
mod tests {
    use super::super::kept_fd::killed;
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    /// A process whose parent is a shell: the shell tells its pid, and reaps it before it ends itself.
    fn grandchild(script: &str) -> (Child, i32) {
        let mut shell = Command::new("/bin/sh");
        let shell = shell.args(["-c", &format!("{script} & echo $!; exec 1>&-; wait $!")]);
        let mut shell = shell
            .stdout(Stdio::piped())
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (shell, line.trim().parse().unwrap())
    }

    #[test]
    fn a_restored_process_is_not_our_child_and_tells_how_it_ended() {
        let (mut shell, pid) = grandchild("exec sleep 600 >/dev/null");
        let process = Process::open_pid(pid).unwrap();
        let saved = process.saved().unwrap();
        let (saved, mut table) = killed(process, &saved);
        let process = Process::restore(&saved, &mut table).unwrap();
        assert_eq!((process.pid(), table.left()), (pid, 0));
        assert!(process.cpu_time().is_some() && !process.has_ended());
        assert_eq!(process.exit_info(), None);
        process.signal(nix::libc::SIGTERM).unwrap();
        shell.wait().unwrap();
        assert!(process.has_ended());
        let signal = nix::libc::SIGTERM;
        let core_dumped = false;
        // Before Linux 6.15 it is unknown.
        let expected = Exit::Signal {
            signal,
            core_dumped,
        };
        assert_eq!(process.exit_info(), tells_exits().then_some(expected));
        let error = process.peek_exit().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ECHILD));
        assert_eq!(process.cpu_time(), None);
    }

    #[test]
    fn exit_codes_are_known_once_another_process_has_reaped() {
        for code in [0, 1, 255] {
            // It ends once the shell's stdin does, which is no longer its own: a shell gives a background process none.
            let (mut shell, pid) =
                grandchild(&format!("exec 3<&0; {{ read x <&3; exit {code}; }}"));
            let process = Process::open_pid(pid).unwrap();
            drop(shell.stdin.take());
            shell.wait().unwrap();
            let expected = tells_exits().then_some(Exit::Code(code));
            assert_eq!(process.exit_info(), expected);
        }
    }

    #[test]
    fn the_exit_code_of_a_zombie_is_known_once_it_is_reaped() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        let process = Process::open_child(child.id().cast_signed());
        let pidfd = process.pidfd().unwrap();
        let mut ended = [nix::poll::PollFd::new(pidfd, PollFlags::POLLIN)];
        super::super::poll::poll(&mut ended, None).unwrap();
        assert_eq!(process.peek_exit().unwrap(), Some(Exit::Code(7)));
        assert_eq!(process.exit_info(), None);
        child.wait().unwrap();
        assert_eq!(process.exit_info(), tells_exits().then_some(Exit::Code(7)));
    }

    /// Whether this kernel tells the exit status by a pidfd, by its version.
    fn tells_exits() -> bool {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
        (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 15)
    }

    #[test]
    fn a_group_of_another_process_is_signalled_by_the_pidfd() {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("/bin/sleep")
            .arg("600")
            .process_group(0)
            .spawn()
            .unwrap();
        let process = Process::open_pid(child.id().cast_signed()).unwrap();
        match process.signal_group(nix::libc::SIGKILL) {
            Ok(()) => {}
            // Before Linux 6.9.
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::EINVAL));
                process.signal(nix::libc::SIGKILL).unwrap();
            }
        }
        assert!(!child.wait().unwrap().success());
        assert!(process.signal_group(nix::libc::SIGKILL).is_err());
    }

    #[test]
    fn a_process_is_not_restored_by_its_pid_alone_or_by_another_pidfd() {
        let me = std::process::id().cast_signed();
        let saved = SavedProcess {
            pid: me,
            pidfd: None,
        };
        let (saved, mut table) = killed((), &saved);
        let error = Process::restore(&saved, &mut table).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        let process = Process::open_pid(me).unwrap();
        let saved = SavedProcess {
            pid: 1,
            ..process.saved().unwrap()
        };
        let (saved, mut table) = killed(process, &saved);
        let error = Process::restore(&saved, &mut table).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::ESTALE));
    }
}
