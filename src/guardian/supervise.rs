//! The guardian's loop: it starts a master, passes signals on, and starts the next one when that dies.

use super::children;
use super::handover;
use super::link::{self, End, Link, LinkMessage, Request};
use super::manager_socket::ManagerSocket;
use super::page::{Death, Setback, SharedState, Succession};
use crate::event_loop::clock::Clock;
use crate::exit_code::ExitCode;
use crate::sys::descriptors::take_inherited;
use crate::sys::fork::{Fork, exit_now, fork_sharing_descriptors};
use crate::sys::poll::poll;
use crate::sys::process::Process;
use crate::sys::reaper;
use crate::sys::resident_pages::UnusedPages;
use crate::sys::signal::{self, Sender, ignore_until_handled, reset_faults};
use crate::sys::title;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getsid, setpgid};
use rotad_core::Exit;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::time::Duration;

/// This many deaths …
const MANY_DEATHS: usize = 3;
/// … within this time are too many: the next master gives up what may be the reason.
const DEATH_WINDOW: Duration = Duration::from_secs(10);
/// After this many, the next master waits.
const MOST_DEATHS: usize = 10;
/// How long the guardian waits before it starts another master after that many deaths, and after a refused fork(2).
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// A master with the program of an upgrade has to report within this time that it has settled.
const PROBATION: Duration = Duration::from_secs(10);

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
    /// When the master must have settled: its program is that of an upgrade.
    probation: Option<Duration>,
    /// The turns that the master's loop had taken when it was last looked at, and when it took the last one.
    turns: (u64, Duration),
    /// The master waits to be replaced by the program of this descriptor.
    candidate: Option<RawFd>,
}

/// The master that runs.
struct Master {
    pid: i32,
    born: Duration,
}

/// Makes this process the guardian, and forks the first master. The process must have one thread, and its signal mask and
/// dispositions must be those that a master begins with. `hup_ignored`: nohup(1) asked for that. `name`: the master's.
///
/// Returns in each master. In the guardian it returns once a master has ended on purpose; until then nothing that the
/// caller owns may be dropped there, since it shares its descriptors with the master.
///
/// # Errors
/// EMFILE, ENOMEM; ENOSYS: no memfd_create(2); EAGAIN: no first master can be forked. No process was made.
pub fn guard(hup_ignored: bool, name: &str) -> io::Result<Side> {
    let forwarded = forwarded(hup_ignored);
    let before = SigSet::thread_get_mask()?;
    forwarded.thread_set_mask()?;
    let result = SharedState::new()
        .and_then(|state| Guardian::new(&forwarded, state, name.to_owned()))
        .and_then(|guardian| {
            guardian.state.set_hup_ignored(hup_ignored);
            // Without it there is no upgrade, and a master whose guardian has died goes on without one.
            let program = handover::own_program().ok().map(IntoRawFd::into_raw_fd);
            guardian.state.set_programs(program, None);
            guardian.run(before)
        });
    if result.is_err() {
        before.thread_set_mask()?;
    }
    result
}

/// In a program that a guardian or a master has executed to be the guardian (`handover`): forks the next master, which goes
/// on. Returns as [`guard`] does. None: this program was started in another way.
///
/// # Errors
/// What was handed over cannot be used.
pub fn resume() -> Option<io::Result<Side>> {
    let (state, name) = match handover::take()? {
        Ok(taken) => taken,
        Err(error) => return Some(Err(error)),
    };
    Some(resume_with(state, name))
}

fn resume_with(state: SharedState, name: String) -> io::Result<Side> {
    // Every signal is blocked, so the order of this does not matter; HUP may be delivered, and is ignored.
    let forwarded = forwarded(state.hup_ignored());
    forwarded.thread_set_mask()?;
    reset_faults();
    // The name of the program is that of its descriptor, a number.
    prctl::set_name(c"rotad").ok();
    let mut guardian = Guardian::new(&forwarded, state, name)?;
    guardian.end_master_before();
    if guardian.state.previous_program().is_some() {
        guardian.probation = Some(guardian.clock.elapsed() + PROBATION);
    }
    guardian.run(SigSet::empty())
}

/// What the guardian takes for the master.
fn forwarded(hup_ignored: bool) -> SigSet {
    let mut signals = SigSet::all();
    if hup_ignored {
        signals.remove(Signal::SIGHUP);
    }
    signals
}

/// Without a master, signals and messages wait in their queues.
fn pause(time: Duration) {
    poll(&mut [], Some(time)).ok();
}

impl Guardian {
    fn new(signals: &SigSet, state: SharedState, name: String) -> io::Result<Self> {
        reaper::become_subreaper()?;
        let (end, master_end) = link::pair()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            signals: SignalFd::with_flags(signals, flags)?,
            state,
            manager: ManagerSocket::find(),
            end,
            // Each master gets a copy: the descriptors are shared, and none of this is dropped in the guardian.
            link: Link::new(
                master_end,
                Process::open_pid(std::process::id() as i32)?,
                name,
            ),
            clock: Clock::start(),
            ending: None,
            deaths: VecDeque::new(),
            has_job_control: getsid(None) != Ok(Pid::this()) && File::open("/dev/tty").is_ok(),
            unused: UnusedPages::find(),
            probation: None,
            turns: (0, Duration::ZERO),
            candidate: None,
        })
    }

    /// Starts masters, one after the other. `mask`: the signal mask that a master begins with.
    fn run(mut self, mut mask: SigSet) -> io::Result<Side> {
        // A stop that comes before the master's handlers are installed, which unblocks these, would end it, and the next
        // one would not know that it was asked for.
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGQUIT);
        mask.add(Signal::SIGINT);
        self.set_title("guardian");
        loop {
            let first = self.state.succession() == Succession::First;
            // A master says itself from when on its loop turns.
            self.state.set_watchdog(None);
            let pid = match fork_sharing_descriptors() {
                Ok(Fork::Parent { child }) => child,
                Ok(Fork::Child) => {
                    self.set_title("master");
                    // A group of its own: what a terminal or `kill -- -PGID` sends to the group reaches the guardian
                    // alone.
                    setpgid(Pid::from_raw(0), Pid::from_raw(0)).ok();
                    // The handlers of a master that has executed this program are gone.
                    ignore_until_handled();
                    // It is never in the foreground: `stty tostop` must not stop it for a line of its log, and Ctrl-Z comes by
                    // the guardian.
                    signal::ignore(&[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]);
                    mask.thread_set_mask()?;
                    return Ok(self.into_master());
                }
                Err(error) if first => return Err(error),
                Err(_) => {
                    pause(RESTART_DELAY);
                    continue;
                }
            };
            setpgid(Pid::from_raw(pid), Pid::from_raw(pid)).ok();
            self.state.set_master(pid);
            let master = Master {
                pid,
                born: self.clock.elapsed(),
            };
            self.turns = (self.state.turns().0, master.born);
            let (exit, why) = self.watch(&master);
            self.state.set_master(0);
            if let Some(code) = self.ending {
                // The master has closed what it had of this.
                let _ = ManuallyDrop::new(self);
                return Ok(Side::Guardian(code));
            }
            let delay = self.record_death(&master, exit);
            self.state.set_succession(why);
            if let Some(previous) = self.state.previous_program() {
                self.go_back(previous, why);
            }
            if let Some(delay) = delay {
                pause(delay);
            }
        }
    }

    /// A kernel that cannot change it leaves the command line as it was.
    fn set_title(&self, role: &str) {
        if !self.link.name().is_empty() {
            title::set(role, self.link.name()).ok();
        }
    }

    /// The master before is our child and waits for its end, or this process is the one that it was.
    fn end_master_before(&self) {
        let pid = self.state.master();
        if pid != 0 && pid != std::process::id().cast_signed() {
            let master = Process::open_child(pid);
            master.signal(libc::SIGKILL).ok();
            while let (Ok(None), Some(pidfd)) = (master.peek_exit(), master.pidfd()) {
                poll(&mut [PollFd::new(pidfd, PollFlags::POLLIN)], None).ok();
            }
            master.reap().ok();
        }
        self.state.set_master(0);
        self.state.set_guardian();
        self.state.stop_clock();
        self.state.set_keeps_dying(false);
    }

    /// Executes the new program in this process. The master knows that, and waits to be replaced.
    fn upgrade(&self, program: RawFd) {
        let own = self.state.program();
        self.state.set_programs(Some(program), own);
        self.state.set_succession(Succession::Upgrade);
        let error = handover::execute(program, &self.state, self.link.name());
        // From here on the master opens and closes its descriptors in a table of its own. What it has is enough to go on.
        let errno = error.raw_os_error().unwrap_or_default();
        let setback = Setback::NotExecuted(errno);
        self.state.set_programs(own, None);
        self.state.set_succession(Succession::WentBack(setback));
        if let Some(own) = own {
            handover::execute(own, &self.state, self.link.name());
        }
        // Then the master takes our place.
        exit_now(ExitCode::FAILED.number().into());
    }

    /// The program of an upgrade has not settled: the one before it goes on.
    fn go_back(&mut self, previous: RawFd, why: Succession) {
        let setback = match why {
            Succession::Hung => Setback::MasterHung,
            _ => Setback::MasterEnded,
        };
        let failed = self.state.program();
        self.state.set_programs(Some(previous), None);
        self.state.set_succession(Succession::WentBack(setback));
        handover::execute(previous, &self.state, self.link.name());
        // The new program is what there is.
        self.probation = None;
        self.state.set_programs(failed, None);
        self.state.set_succession(why);
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
        own_fds.extend(state.program());
        own_fds.extend(state.previous_program());
        link.begin(own_fds, &state);
        let _ = ManuallyDrop::new((signals, end, manager));
        Side::Master(link, state)
    }

    /// Serves this master until it has ended, reaps it, and returns how it ended, and as what that counts.
    fn watch(&mut self, master: &Master) -> (Exit, Succession) {
        let child = Process::of_child(master.pid, None);
        let mut sleeps = false;
        let mut closed = false;
        let mut why = Succession::Death;
        loop {
            // Before the wait: SIGCHLD may have come before this master was forked.
            match child.peek_exit() {
                Ok(Some(exit)) => {
                    child.reap().ok();
                    self.answer_requests();
                    return (exit, why);
                }
                Ok(None) => {}
                // Nobody else reaps it; a debugger that holds it can.
                Err(_) => return (Exit::Unknown, why),
            }
            if !std::mem::replace(&mut sleeps, true) {
                self.unused.release();
            }
            if let Some(program) = self.candidate.take() {
                self.upgrade(program);
            }
            let left = self.time_left();
            if left == Some(Duration::ZERO) && why == Succession::Death {
                why = Succession::Hung;
                child.signal(libc::SIGKILL).ok();
            }
            self.wait(
                master,
                left.filter(|_| why == Succession::Death),
                &mut closed,
            );
        }
    }

    /// How much time the master has left to settle, or to take a turn of its loop. None: any time.
    fn time_left(&mut self) -> Option<Duration> {
        let now = self.clock.elapsed();
        let (turns, limit) = self.state.turns();
        if turns != self.turns.0 {
            self.turns = (turns, now);
        }
        let turn_until = limit.map(|limit| self.turns.1.saturating_add(limit));
        let until = turn_until.into_iter().chain(self.probation).min();
        until.map(|until| until.saturating_sub(now))
    }

    /// Waits for signals and messages, and handles them. `closed`: the master has closed its end, before it ends itself; to wait
    /// for messages would return at once.
    fn wait(&mut self, master: &Master, most: Option<Duration>, closed: &mut bool) {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.end.as_fd(), PollFlags::POLLIN),
        ];
        let of_interest = if *closed { 1 } else { 2 };
        poll(&mut fds[..of_interest], most).ok();
        *closed |= fds[1]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP));
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
                    self.turns.1 = self.clock.elapsed();
                    signal::pass_on(master.pid, libc::SIGCONT, sender(&info)).ok();
                }
                number => {
                    self.state.count_passed(number);
                    signal::pass_on(master.pid, number, sender(&info)).ok();
                }
            }
        }
        if child_ended {
            if self.state.succession() == Succession::First {
                children::reap_strangers(master.pid);
            } else {
                // A full queue has such a message already.
                self.end.send(&LinkMessage::ChildrenEnded).ok();
            }
        }
    }

    /// Carries out what the master asks for, until it has asked for nothing more.
    fn answer_requests(&mut self) {
        while let Some(request) = self.end.receive() {
            match request {
                Request::Peek(pid) => children::tell_exit(&self.end, pid),
                Request::Reap(pid) => reaper::reap_one_of(pid),
                Request::Notify(text) => self.manager.send(&text),
                Request::End(code) => self.ending = Some(code),
                Request::Upgrade(program) => self.candidate = Some(program),
                Request::Settled => self.settle(),
            }
        }
    }

    /// The program of an upgrade stays.
    fn settle(&mut self) {
        self.probation = None;
        let program = self.state.program();
        if let Some(previous) = self.state.previous_program() {
            self.state.set_programs(program, None);
            drop(take_inherited(previous));
        }
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
