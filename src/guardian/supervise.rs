//! The guardian's loop: it starts a master, passes signals on, and starts the next one when that dies.

use super::children;
use super::link::{self, End, Link, LinkMessage};
use super::manager_socket::ManagerSocket;
use super::page::{Death, SharedState};
use crate::event_loop::clock::Clock;
use crate::exit_code::ExitCode;
use crate::sys::fork::{Fork, fork_sharing_descriptors};
use crate::sys::poll::poll;
use crate::sys::process::Process;
use crate::sys::reaper;
use crate::sys::resident_pages::UnusedPages;
use crate::sys::signal::{self, Sender};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getsid, setpgid};
use rotad_core::Exit;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// This many deaths …
const MANY_DEATHS: usize = 3;
/// … within this time are too many: the next master gives up what may be the reason.
const DEATH_WINDOW: Duration = Duration::from_secs(10);
/// After this many, the next master waits.
const MOST_DEATHS: usize = 10;
/// How long the guardian waits before it starts another master after that many deaths, and after a refused fork(2).
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Which process this is.
#[derive(Debug)]
pub enum Side {
    /// A master, with its connection to the guardian and the memory that outlives it.
    Master(Link, SharedState),
    /// The guardian, after the last master has ended on purpose with this code.
    Guardian(ExitCode),
}

struct Guardian {
    signals: SignalFd,
    state: SharedState,
    manager: ManagerSocket,
    end: End,
    /// For the next master.
    link: Link,
    clock: Clock,
    /// The exit code of a master that ends on purpose.
    ending: Option<ExitCode>,
    /// When the last masters died.
    deaths: VecDeque<Duration>,
    /// A shell can continue this process after Ctrl-Z. Without one the kernel would drop these signals (termios(3),
    /// "orphaned process group").
    has_job_control: bool,
    /// What this process has in memory and does not need while it sleeps.
    unused: UnusedPages,
}

/// The master that runs.
struct Master {
    pid: i32,
    born: Duration,
}

/// Makes this process the guardian, and forks the first master. The process must have one thread, and its signal mask and
/// dispositions must be those that a master begins with. `hup_ignored`: nohup(1) asked for that.
///
/// Returns in each master. In the guardian it returns once a master has ended on purpose; until then nothing that the
/// caller owns may be dropped there, since it shares its descriptors with the master.
///
/// # Errors
/// EMFILE, ENOMEM; ENOSYS: no memfd_create(2); EAGAIN: no first master can be forked. No process was made.
pub fn guard(hup_ignored: bool) -> io::Result<Side> {
    let mut forwarded = SigSet::all();
    if hup_ignored {
        forwarded.remove(Signal::SIGHUP);
    }
    let before = SigSet::thread_get_mask()?;
    forwarded.thread_set_mask()?;
    let mut guardian = match Guardian::new(&forwarded) {
        Ok(guardian) => guardian,
        Err(error) => {
            before.thread_set_mask()?;
            return Err(error);
        }
    };
    let mut restarted = false;
    loop {
        let pid = match fork_sharing_descriptors() {
            Ok(Fork::Parent { child }) => child,
            Ok(Fork::Child) => {
                // A group of its own: what a terminal or `kill -- -PGID` sends to the group reaches the guardian alone.
                setpgid(Pid::from_raw(0), Pid::from_raw(0)).ok();
                // So it is never in the foreground: `stty tostop` must not stop it for a line of its log, and Ctrl-Z comes by
                // the guardian.
                signal::ignore(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]);
                before.thread_set_mask()?;
                return Ok(guardian.into_master());
            }
            Err(error) if !restarted => {
                before.thread_set_mask()?;
                return Err(error);
            }
            Err(_) => {
                pause(RESTART_DELAY);
                continue;
            }
        };
        setpgid(Pid::from_raw(pid), Pid::from_raw(pid)).ok();
        let master = Master {
            pid,
            born: guardian.clock.elapsed(),
        };
        let exit = guardian.watch(&master);
        if let Some(code) = guardian.ending {
            // The master has closed what it had of this.
            let _ = ManuallyDrop::new(guardian);
            return Ok(Side::Guardian(code));
        }
        let delay = guardian.record_death(&master, exit);
        restarted = true;
        if let Some(delay) = delay {
            pause(delay);
        }
    }
}

/// Without a master, signals and messages wait in their queues.
fn pause(time: Duration) {
    poll(&mut [], Some(time)).ok();
}

impl Guardian {
    fn new(signals: &SigSet) -> io::Result<Self> {
        reaper::become_subreaper()?;
        let (end, master_end) = link::pair()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: SignalFd::with_flags(signals, flags)?,
            state: SharedState::new()?,
            manager: ManagerSocket::find(),
            end,
            // Each master gets a copy: the descriptors are shared, and none of this is dropped in the guardian.
            link: Link::new(master_end, Process::open_pid(std::process::id() as i32)?),
            clock: Clock::start(),
            ending: None,
            deaths: VecDeque::new(),
            has_job_control: getsid(None) != Ok(Pid::this()) && File::open("/dev/tty").is_ok(),
            unused: UnusedPages::find(),
        })
    }

    /// In the process that was just forked: what a master gets of it. The rest is the guardian's, whose descriptors this
    /// process must not close.
    fn into_master(self) -> Side {
        let Self {
            signals,
            end,
            manager,
            mut link,
            state,
            ..
        } = self;
        let mut own_fds = vec![
            signals.as_fd().as_raw_fd(),
            end.as_fd().as_raw_fd(),
            link.as_fd().as_raw_fd(),
            state.memory().as_fd().as_raw_fd(),
        ];
        own_fds.extend(link.guardian().pidfd().map(|fd| fd.as_raw_fd()));
        own_fds.extend(manager.number());
        link.begin(own_fds, &state);
        let _ = ManuallyDrop::new((signals, end, manager));
        Side::Master(link, state)
    }

    /// Serves this master until it has ended, reaps it, and returns how it ended.
    fn watch(&mut self, master: &Master) -> Exit {
        let child = Process::of_child(master.pid, None);
        let mut sleeps = false;
        loop {
            // Before the wait: SIGCHLD may have come before this master was forked.
            match child.peek_exit() {
                Ok(Some(exit)) => {
                    child.reap().ok();
                    self.answer_requests();
                    return exit;
                }
                Ok(None) => {}
                // Nobody else reaps it; a debugger that holds it can.
                Err(_) => return Exit::Unknown,
            }
            if !std::mem::replace(&mut sleeps, true) {
                self.unused.release();
            }
            self.wait(master);
        }
    }

    /// Waits for signals and messages, and handles them.
    fn wait(&mut self, master: &Master) {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, None).ok();
        self.answer_requests();
        let mut child_ended = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo as i32 {
                libc::SIGCHLD => child_ended = true,
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => {
                    if self.has_job_control {
                        stop_with(master);
                    }
                }
                // It goes on as this process does.
                libc::SIGCONT => {
                    signal::pass_on(master.pid, libc::SIGCONT, sender(&info)).ok();
                }
                number => {
                    signal::pass_on(master.pid, number, sender(&info)).ok();
                }
            }
        }
        if child_ended {
            if self.state.restarts() == 0 {
                children::reap_strangers(master.pid);
            } else {
                // A full queue has such a message already.
                self.end.send(&LinkMessage::ChildrenEnded).ok();
            }
        }
    }

    fn answer_requests(&mut self) {
        let ending = children::answer_requests(&self.end, &self.manager);
        self.ending = ending.or(self.ending);
    }

    /// Returns how long to wait before the next master is started.
    fn record_death(&mut self, master: &Master, exit: Exit) -> Option<Duration> {
        let now = self.clock.elapsed();
        self.deaths.push_back(now);
        while self
            .deaths
            .front()
            .is_some_and(|first| now - *first >= DEATH_WINDOW)
        {
            self.deaths.pop_front();
        }
        let lived = now.saturating_sub(master.born);
        let death = Death {
            exit,
            after_ms: u64::try_from(lived.as_millis()).unwrap_or(u64::MAX),
        };
        self.state
            .record_death(death, self.deaths.len() >= MANY_DEATHS);
        (self.deaths.len() > MOST_DEATHS).then_some(RESTART_DELAY)
    }
}

/// Ctrl-Z: the master stops as well, and both go on at SIGCONT.
fn stop_with(master: &Master) {
    let by_kernel = Sender { pid: 0, uid: 0 };
    signal::pass_on(master.pid, libc::SIGSTOP, by_kernel).ok();
    nix::sys::signal::raise(Signal::SIGSTOP).ok();
}

fn sender(info: &siginfo) -> Sender {
    let from_kernel = info.ssi_code > 0;
    Sender {
        pid: if from_kernel { 0 } else { info.ssi_pid as i32 },
        uid: info.ssi_uid,
    }
}
