//! Signals to the master (signal(7)). The handlers only write into a pipe, which the main loop polls; the plan's table
//! says what each signal does. SIGCHLD has no handler: it stays blocked and is read from a signalfd(2), one for all
//! children that have ended since the last turn of the loop.

use super::clock::monotonic_ms;
use crate::plan::{SignalAction, SignalMap};
use crate::sys::signal::{STRAY, WRITE_ERRORS};
use nix::libc::{SIGPWR, SIGXCPU};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::{Cause, Origin, Sent};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// What one signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// TERM, QUIT: a polite stop; sent again: nothing.
    Stop,
    /// INT: a graceful stop; sent again, an immediate one.
    Interrupt,
    /// A configured action.
    Act(SignalAction),
    /// One that would end a program that has no handler for it, and that asks a master for nothing.
    Stray,
    /// It has no meaning.
    Nothing,
}

/// One signal that came, or several that the kernel made one of.
#[derive(Clone, Debug)]
pub struct ReceivedSignal {
    /// Its number.
    pub number: i32,
    /// What the signal means to the master.
    pub meaning: Meaning,
    /// "USR1", with who sent it if the kernel said so.
    pub text: String,
    /// The uid of the process that sent it, if the kernel said so.
    pub uid: Option<u32>,
}

/// The master's signal handlers, and the signals that have arrived.
pub struct Signals {
    /// SIGCHLD alone.
    children: SignalFd,
    delivery: SignalDelivery<UnixStream, WithOrigin>,
    map: SignalMap,
    terminal: bool,
    reopen: i32,
    more: bool,
    routes: Routes,
}

/// Signals that are handled immediately …
const MOST_AT_ONCE: usize = 1024;
/// … and of each kind.
const MOST_OF_A_KIND: usize = 8;

impl Signals {
    /// Installs the handlers. From here on no signal of the contract kills the master. `keep_hup_ignored`: nohup(1)
    /// asked for it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(map: SignalMap, keep_hup_ignored: bool) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        let reopen = nix::libc::SIGRTMIN();
        let mut wanted = vec![
            SIGCONT, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGPWR, SIGXCPU,
        ];
        wanted.extend(STRAY);
        // RTMIN reopens the logs; the other real-time signals have no meaning, and their default is death as well.
        wanted.extend(reopen..=nix::libc::SIGRTMAX());
        if !keep_hup_ignored {
            wanted.push(SIGHUP);
        }
        let delivery = SignalDelivery::with_pipe(read, write, WithOrigin::default(), wanted)?;
        // A closed pipe or a file at its size limit is an error to be read, not a reason to die.
        crate::sys::signal::ignore(&WRITE_ERRORS);
        stops().thread_unblock()?;
        let child = SigSet::from(Signal::SIGCHLD);
        child.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&child, flags)?;
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        Ok(Self {
            children,
            delivery,
            map,
            terminal,
            reopen,
            more: false,
            routes: Routes::default(),
        })
    }

    /// What a signal that a dead master had not recorded asks for.
    pub fn repeated(&self, signal: i32) -> ReceivedSignal {
        let name = if signal == self.reopen {
            "RTMIN".to_owned()
        } else {
            name(signal)
        };
        ReceivedSignal {
            number: signal,
            meaning: self.meaning(signal),
            text: format!("{name}, which the master before this one had not taken"),
            uid: None,
        }
    }

    /// Readable when a child has ended.
    pub fn children(&self) -> BorrowedFd<'_> {
        self.children.as_fd()
    }

    /// Takes the SIGCHLD that has come.
    pub fn take_child(&self) {
        // It is pending once, however many children have ended.
        self.children.read_signal().ok();
    }

    /// From here on signals mean this.
    pub fn set_map(&mut self, map: SignalMap) {
        self.map = map;
    }

    /// What has come, a bounded number at a time: of a storm of one signal a few stand for all, as the kernel has it.
    pub fn pending(&mut self) -> Vec<ReceivedSignal> {
        let mut taken = 0;
        let mut times = BTreeMap::<i32, usize>::new();
        let mut origins: Vec<Origin> = Vec::new();
        for origin in self.delivery.pending().take(MOST_AT_ONCE) {
            taken += 1;
            let times = times.entry(origin.signal).or_default();
            *times += 1;
            if *times <= MOST_OF_A_KIND {
                origins.push(origin);
            }
        }
        self.more = taken == MOST_AT_ONCE;
        let now = monotonic_ms();
        let routes = &mut self.routes;
        origins.retain(|origin| !routes.is_second(origin, now));
        origins
            .iter()
            .map(|origin| ReceivedSignal {
                number: origin.signal,
                meaning: self.meaning(origin.signal),
                text: self.text(origin),
                uid: sender(origin).map(|(_, uid)| uid),
            })
            .collect()
    }

    /// The last [`Signals::pending`] has left something, and nothing will say so again.
    pub fn has_more(&self) -> bool {
        self.more
    }

    fn meaning(&self, signal: i32) -> Meaning {
        match signal {
            // A power failure that is about to come, a limit of CPU time that is used up: SIGKILL follows (setrlimit(2)).
            SIGTERM | SIGQUIT | SIGPWR | SIGXCPU => Meaning::Stop,
            SIGINT => Meaning::Interrupt,
            SIGHUP => Meaning::Act(self.map.hup),
            SIGUSR1 => Meaning::Act(self.map.usr1),
            SIGUSR2 => Meaning::Act(self.map.usr2),
            // A resized terminal sends WINCH as well: there it means nothing.
            SIGWINCH if self.terminal => Meaning::Nothing,
            SIGWINCH => Meaning::Act(self.map.winch),
            other if other == self.reopen => Meaning::Act(SignalAction::ReopenLogs),
            other if other > self.reopen || STRAY.contains(&other) => Meaning::Stray,
            _ => Meaning::Nothing,
        }
    }

    fn text(&self, origin: &Origin) -> String {
        let name = if origin.signal == self.reopen {
            "RTMIN".to_owned()
        } else {
            name(origin.signal)
        };
        match sender(origin) {
            // Who closes a terminal is not named: the kernel signals the processes that ran in it (termios(3), "hangup").
            None if origin.signal == SIGHUP
                && origin.process.is_none()
                && origin.cause == Cause::Kernel =>
            {
                format!("{name}: the terminal was closed")
            }
            Some((pid, uid)) => format!("{name} from pid {pid} (uid {uid})"),
            None => name,
        }
    }
}

/// The pid and uid of the process that has sent a signal. None: the kernel did, or does not tell.
fn sender(origin: &Origin) -> Option<(i32, u32)> {
    let process = origin.process.as_ref();
    let process = process.filter(|process| process.pid > 0)?;
    Some((process.pid, process.uid))
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// By how much the two copies of a signal to the master and to its guardian may differ in time, in milliseconds.
const SAME_SIGNAL_MS: u64 = 500;

/// Recognizes a signal that one process has sent to the master and to its guardian, which passes it on, as pkill(1) does and
/// a service manager that signals all processes: it is one signal. A second INT would kill.
#[derive(Debug, Default)]
struct Routes {
    /// By signal and sender: the way on which the last one came, and when.
    last: BTreeMap<(i32, i32), (Route, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Direct,
    /// By the guardian (`sys::signal::pass_on`).
    PassedOn,
}

impl Routes {
    /// Whether the same signal of the same process has just come on the other way.
    fn is_second(&mut self, origin: &Origin, now_ms: u64) -> bool {
        let route = match origin.cause {
            Cause::Sent(Sent::User) => Route::Direct,
            Cause::Sent(Sent::Queue) => Route::PassedOn,
            _ => return false,
        };
        let Some(sender) = origin.process.filter(|process| process.pid > 0) else {
            return false;
        };
        self.is_second_from(origin.signal, sender.pid, route, now_ms)
    }

    fn is_second_from(&mut self, signal: i32, sender: i32, route: Route, now_ms: u64) -> bool {
        let is_recent = |at: u64| now_ms.saturating_sub(at) <= SAME_SIGNAL_MS;
        self.last.retain(|_, (_, at)| is_recent(*at));
        let key = (signal, sender);
        if self.last.get(&key).is_some_and(|(last, _)| *last != route) {
            self.last.remove(&key);
            return true;
        }
        self.last.insert(key, (route, now_ms));
        false
    }
}

/// For the first process of a container: the kernel drops a signal to it that nothing handles yet, so that a stop right
/// after the start would be forgotten. Blocked it waits until [`Signals::install`].
pub fn keep_stops() {
    stops().thread_block().ok();
}

fn stops() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT])
}

/// "TERM" for 15; "35" for what has no name.
pub fn name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(known) => known.as_str().trim_start_matches("SIG").to_owned(),
        Err(_) => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_to_the_master_and_its_guardian_is_one() {
        let mut routes = Routes::default();
        let mut came = |signal, sender, route, now| {
            let second = routes.is_second_from(signal, sender, route, now);
            !second
        };
        assert!(came(SIGINT, 7, Route::Direct, 0));
        assert!(!came(SIGINT, 7, Route::PassedOn, 3));
        // The next pair, in the other order.
        assert!(came(SIGINT, 7, Route::PassedOn, 10));
        assert!(!came(SIGINT, 7, Route::Direct, 11));
        // Twice on one way, another sender, another signal, much later: each is one of its own.
        assert!(came(SIGINT, 7, Route::PassedOn, 20));
        assert!(came(SIGINT, 7, Route::PassedOn, 21));
        assert!(came(SIGINT, 8, Route::Direct, 22));
        assert!(came(SIGTERM, 7, Route::Direct, 23));
        assert!(came(SIGINT, 7, Route::Direct, 22 + SAME_SIGNAL_MS));
    }
}
