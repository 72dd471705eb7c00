//! The connection between the guardian and the present master: a pair of sockets whose messages keep their borders
//! (SOCK_SEQPACKET, unix(7)), one JSON text each.

use super::handover;
use super::page::{Death, MasterDeaths, Setback, SharedState, Succession};
use crate::exit_code::ExitCode;
use crate::sys::descriptors::borrow_open;
use crate::sys::poll::poll;
use crate::sys::process::Process;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use rotad_core::Exit;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// Maximum length of a message in bytes: one to the service manager has at most 4096.
const MAX_MESSAGE: usize = 16 * 1024;

/// How long a master may take to read what it has asked for.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the guardian may take to execute the program of an upgrade and to replace the master.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a master asks of the guardian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// How did this child of the guardian end? It stays unreaped.
    Peek(i32),
    /// Reap this child of the guardian, if it has ended.
    Reap(i32),
    /// This master ends on purpose, with this exit code: start no other.
    End(ExitCode),
    /// Execute the program of this descriptor as the guardian: it replaces this master, which waits for that.
    Upgrade(RawFd),
    /// This master, with the program of an upgrade, works: the program before it is not needed any more.
    Settled,
    /// Send this to the service manager, which listens to the process that it has started (sd_notify(3)).
    Notify(String),
}

/// What the guardian tells the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkMessage {
    /// A child of the guardian has ended so. None: it still runs, or is no child of the guardian.
    Ended {
        /// Its pid.
        pid: i32,
        /// How it ended.
        exit: Option<SavedExit>,
    },
    /// Children of the guardian, which are workers of a dead master or their orphans, have ended.
    ChildrenEnded,
}

/// [`Exit`], as it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SavedExit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// This signal ended it, and it left a core dump.
    CoreDump(i32),
}

impl From<SavedExit> for Exit {
    fn from(saved: SavedExit) -> Self {
        let signal = |signal, core_dumped| Self::Signal {
            signal,
            core_dumped,
        };
        match saved {
            SavedExit::Code(code) => Self::Code(code),
            SavedExit::Signal(number) => signal(number, false),
            SavedExit::CoreDump(number) => signal(number, true),
        }
    }
}

impl SavedExit {
    /// None for an exit whose status is not known.
    pub(super) fn of(exit: Exit) -> Option<Self> {
        Some(match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal {
                signal,
                core_dumped: false,
            } => Self::Signal(signal),
            Exit::Signal {
                signal,
                core_dumped: true,
            } => Self::CoreDump(signal),
            Exit::Unknown => return None,
        })
    }
}

/// One end of the connection.
#[derive(Debug)]
pub(super) struct End(OwnedFd);

/// Both ends: the guardian's and the master's.
pub(super) fn pair() -> io::Result<(End, End)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (guardian, master) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((End(guardian), End(master)))
}

impl End {
    pub(super) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        send(self.0.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Sends a message that must not be lost, for a queue that is full: the master never waits for the guardian, so it
    /// reads soon unless it is dead or stopped.
    pub(super) fn send_patiently(&self, message: &impl Serialize) {
        let full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        while self.send(message).is_err_and(|error| full(&error)) {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, Some(READ_TIMEOUT)) == Ok(0) {
                return;
            }
        }
    }

    /// The next message. None: there is none. One that is not understood is passed over.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> Option<T> {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => return None,
                Ok(length) => {
                    if let Ok(message) = serde_json::from_slice(&buffer[..length]) {
                        return Some(message);
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A master's connection to its guardian.
#[derive(Debug)]
pub struct Link {
    end: End,
    guardian: Process,
    /// The master's name.
    name: String,
    /// The descriptors of the guardian itself, this connection's and the state's among them.
    own_fds: Vec<RawFd>,
    last_death: Option<Death>,
    died_at: u64,
    restarts: u64,
    keeps_dying: bool,
    succession: Succession,
    /// The descriptor of the program that this master runs.
    program: Option<RawFd>,
}

impl Link {
    pub(super) fn new(end: End, guardian: Process, name: String) -> Self {
        Self {
            end,
            guardian,
            name,
            own_fds: Vec::new(),
            last_death: None,
            died_at: 0,
            restarts: 0,
            keeps_dying: false,
            succession: Succession::First,
            program: None,
        }
    }

    /// In a new master: what it is told at its birth.
    pub(super) fn begin(&mut self, own_fds: Vec<RawFd>, state: &SharedState) {
        self.own_fds = own_fds;
        self.last_death = state.last_death();
        self.died_at = state.died_at();
        self.restarts = state.restarts();
        self.keeps_dying = state.keeps_dying();
        self.succession = state.succession();
        self.program = state.program();
    }

    /// The master's name. Empty: a program of another version has not passed it on.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Why this master goes on after another one.
    pub fn succession(&self) -> Succession {
        self.succession
    }

    /// The descriptors in the shared table that are the guardian's and this connection's: a master that goes on after
    /// another one leaves them alone.
    pub fn own_fds(&self) -> &[RawFd] {
        &self.own_fds
    }

    /// How the last master that died did so. None: none has.
    pub fn last_death(&self) -> Option<Death> {
        self.last_death
    }

    /// The guardian: its pid, and the pidfd that tells when it dies.
    pub fn guardian(&self) -> &Process {
        &self.guardian
    }

    /// Whether masters die so often that this one is to give up rolling restarts and requests that wait.
    pub fn keeps_dying(&self) -> bool {
        self.keeps_dying
    }

    /// The masters before this one.
    pub fn master_deaths(&self) -> MasterDeaths {
        MasterDeaths {
            count: self.restarts,
            last: self.last_death,
        }
    }

    /// When that was, on the dead master's own clock, in milliseconds.
    pub fn died_at(&self) -> u64 {
        self.died_at
    }

    /// Asks how a child of the guardian has ended: [`LinkMessage::Ended`] follows.
    ///
    /// # Errors
    /// EAGAIN: the guardian does not read (it is stopped); ECONNRESET: it is gone.
    pub fn ask_exit(&self, pid: i32) -> io::Result<()> {
        self.end.send(&Request::Peek(pid))
    }

    /// Has the guardian reap a child of its own that has ended.
    ///
    /// # Errors
    /// As [`Link::ask_exit`].
    pub fn reap(&self, pid: i32) -> io::Result<()> {
        self.end.send(&Request::Reap(pid))
    }

    /// This master ends on purpose: the guardian ends with its code and starts no other.
    pub fn end(&self, code: ExitCode) {
        // It is read at the latest when this process has ended.
        self.end.send(&Request::End(code)).ok();
    }

    /// This master works: the program that an upgrade has replaced is not gone back to.
    ///
    /// # Errors
    /// As [`Link::ask_exit`].
    pub fn settle(&self) -> io::Result<()> {
        self.end.send(&Request::Settled)
    }

    /// Has the guardian execute this program, which then replaces this master: waits for the end. All that counts must
    /// have been saved.
    ///
    /// Returns if that fails, since the guardian has ended or does not act; it has ended then in either case.
    pub fn hand_over(&self, program: RawFd) -> Setback {
        // An error is that of a guardian that has ended.
        self.end.send_patiently(&Request::Upgrade(program));
        if self.guardian_ends_within(HANDOVER_TIMEOUT) {
            return Setback::GuardianEnded;
        }
        self.guardian.signal(nix::libc::SIGKILL).ok();
        self.guardian_ends_within(HANDOVER_TIMEOUT);
        Setback::GuardianHung
    }

    fn guardian_ends_within(&self, time: Duration) -> bool {
        let Some(pidfd) = self.guardian.pidfd() else {
            return false;
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
        poll(&mut fds, Some(time)).is_ok_and(|ready| ready > 0)
    }

    /// The program that this master runs.
    pub fn program_file(&self) -> Option<BorrowedFd<'_>> {
        self.program.map(borrow_open)
    }

    /// Whether this process can become the guardian: it has the descriptor of its program.
    pub fn has_program(&self) -> bool {
        self.program.is_some()
    }

    /// The guardian has ended: this process executes its program once more and becomes the guardian of a new master, which
    /// goes on with the saved state. `why`: what that master is told. Returns only on failure. Then the calling thread has
    /// a descriptor table of its own, so the process has to end.
    ///
    /// None: there is no descriptor of the program, and nothing was changed.
    pub fn become_guardian(&self, state: &SharedState, why: Succession) -> Option<io::Error> {
        let program = self.program?;
        state.set_programs(Some(program), None);
        state.set_succession(why);
        Some(handover::execute(program, state, &self.name))
    }

    /// Sends a message to the service manager, which listens to the guardian. Dropped if the guardian does not read.
    pub fn notify(&self, text: String) {
        self.end.send(&Request::Notify(text)).ok();
    }

    /// What the guardian has said. None: nothing more.
    pub fn receive(&self) -> Option<LinkMessage> {
        self.end.receive()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (guardian, master) = pair().unwrap();
        assert_eq!(guardian.receive::<Request>(), None);
        master.send(&Request::Peek(12)).unwrap();
        master.send(&"something else").unwrap();
        master.send(&Request::Reap(12)).unwrap();
        assert_eq!(guardian.receive(), Some(Request::Peek(12)));
        assert_eq!(guardian.receive(), Some(Request::Reap(12)));
        assert_eq!(guardian.receive::<Request>(), None);
    }
}
