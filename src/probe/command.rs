//! One command, of a probe or of a hook: a process in a session of its own, which is killed with its whole process group.
//! The probe loop drives it.

use super::ProbeError;
use super::output_log::OutputLog;
use crate::process::{self, SpawnResult};
use crate::sys::process::Process;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::SIGKILL;
use nix::poll::PollFlags;
use rotad_core::Exit;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many bytes of the end of the output are kept.
const TAIL_BYTES: usize = 4096;
/// Reads per turn: a command that prints without end must not hold up the others.
const READS_PER_TURN: usize = 16;
/// Maximum length of the last line in a reason, in characters.
const MAX_LAST_LINE: usize = 200;

/// A command that runs, or is about to.
#[derive(Debug)]
pub(super) struct CommandProbe {
    /// The read end of its stdout and stderr; None once all writers have closed them.
    output: Option<OwnedFd>,
    tail: Vec<u8>,
    /// Of a hook: takes what it prints.
    log: Option<OutputLog>,
    state: State,
    /// Why the program could not be executed.
    exec_error: Option<String>,
    /// The result is no longer wanted: the process is to be killed.
    pub(super) cancelled: bool,
}

#[derive(Debug)]
enum State {
    /// The spawner has the request.
    Requested,
    /// The program is being executed; the descriptor reports whether that succeeds.
    ExecPending(Process, OwnedFd),
    Running(Process),
}

impl CommandProbe {
    /// Creates it, and the write end of the pipe that becomes the command's stdout and stderr. `hook`: the hook that it
    /// belongs to, whose output is logged and whose end is reported even if it was cancelled.
    pub(super) fn new(hook: Option<&str>) -> io::Result<(Self, OwnedFd)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let flags =
            OFlag::from_bits_retain(nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_GETFL)?);
        nix::fcntl::fcntl(
            &read,
            nix::fcntl::FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK),
        )?;
        let command = Self {
            output: Some(read),
            tail: Vec::new(),
            log: hook.map(OutputLog::new),
            state: State::Requested,
            exec_error: None,
            cancelled: false,
        };
        Ok((command, write))
    }

    /// Whether its end is to be reported.
    pub(super) fn is_awaited(&self) -> bool {
        !self.cancelled || self.log.is_some()
    }

    /// Takes the spawn result. Returns the error if the command never ran.
    pub(super) fn on_spawn_result(&mut self, report: SpawnResult) -> Option<ProbeError> {
        match report {
            SpawnResult::Started { child, .. } => self.state = State::Running(child.process),
            SpawnResult::ExecPending {
                child, exec_status, ..
            } => self.state = State::ExecPending(child.process, exec_status),
            SpawnResult::Failed { error, .. } => {
                let ours = matches!(
                    error.stage,
                    process::SpawnStage::Fork
                        | process::SpawnStage::Descriptors
                        | process::SpawnStage::Queue
                );
                let reason = format!("cannot be run: {error}");
                return Some(if ours {
                    ProbeError::Indeterminate(reason)
                } else {
                    ProbeError::Failed(reason)
                });
            }
        }
        if self.cancelled {
            self.kill();
        }
        None
    }

    /// Kills it with its group; it is reaped when its exit is noticed.
    pub(super) fn kill(&mut self) {
        self.cancelled = true;
        if let Some(process) = self.process() {
            // ESRCH: it has exited by itself and is about to be noticed.
            process.signal(SIGKILL).ok();
            process.signal_group(SIGKILL).ok();
        }
    }

    /// The descriptors to poll for.
    pub(super) fn interest(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let output = self.output.as_ref().map(AsFd::as_fd);
        let exec_status = match &self.state {
            State::ExecPending(_, exec_status) => Some(exec_status.as_fd()),
            State::Requested | State::Running(_) => None,
        };
        let pidfd = self.process().and_then(Process::pidfd);
        [output, exec_status, pidfd]
            .into_iter()
            .flatten()
            .map(|fd| (fd, PollFlags::POLLIN))
            .collect()
    }

    /// Whether its exit is only found by calling waitid(2) regularly, because the kernel has no pidfds.
    pub(super) fn needs_polling(&self) -> bool {
        self.process()
            .is_some_and(|process| process.pidfd().is_none())
    }

    /// Reads its output and checks for its exit; if it has exited, reaps it and returns the answer.
    pub(super) fn advance(&mut self) -> Option<Result<(), String>> {
        self.read();
        self.read_exec_status()?;
        let process = self.process()?;
        let exit = match process.peek_exit() {
            Ok(Some(exit)) => exit,
            // It has exited, but its tracer has to wait for it first.
            Ok(None) if process.has_ended() => {
                crate::process::procfs::exit_of_zombie(process.pid()).unwrap_or(Exit::Unknown)
            }
            Ok(None) => return None,
            Err(error) => return Some(Err(format!("cannot read its exit status: {error}"))),
        };
        // Kills its descendants: while it is unreaped, the group's number cannot be reused.
        process.signal_group(SIGKILL).ok();
        process.reap().ok();
        self.read();
        if let Some(log) = &mut self.log {
            log.end();
        }
        Some(match self.exec_error.take() {
            Some(reason) => Err(reason),
            None => self.outcome_of(exit),
        })
    }

    /// Reads whether the program was executed. None: the shim has not reported yet.
    fn read_exec_status(&mut self) -> Option<()> {
        if let State::ExecPending(_, fd) = &self.state {
            self.exec_error = match process::exec_status(fd) {
                Ok(None) => return None,
                Ok(Some(Ok(()))) => None,
                // The shim is about to exit.
                Ok(Some(Err(error))) => Some(format!("cannot be run: {error}")),
                Err(error) => Some(format!("cannot be run: the exec status is lost: {error}")),
            };
        }
        self.state = match std::mem::replace(&mut self.state, State::Requested) {
            State::ExecPending(process, _) => State::Running(process),
            other => other,
        };
        Some(())
    }

    fn outcome_of(&self, exit: Exit) -> Result<(), String> {
        let how = match exit {
            Exit::Code(0) => return Ok(()),
            Exit::Code(code) => format!("exited with {code}"),
            Exit::Signal { signal, .. } => format!(
                "was killed by SIG{}",
                crate::event_loop::signals::name(signal)
            ),
            Exit::Unknown => "ended in an unknown way".to_owned(),
        };
        Err(match self.last_line() {
            Some(line) => format!("{how}: {line}"),
            None => how,
        })
    }

    /// The last line that it printed, sanitized.
    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(
            crate::observe::sanitize::sanitize(line.trim().as_bytes())
                .chars()
                .take(MAX_LAST_LINE)
                .collect(),
        )
    }

    /// Its process, if it has exited and cannot be reaped yet because it is traced.
    pub(super) fn into_unreaped(self) -> Option<Process> {
        match self.state {
            State::Requested => None,
            State::ExecPending(process, _) | State::Running(process) => {
                matches!(process.reap(), Ok(None)).then_some(process)
            }
        }
    }

    fn process(&self) -> Option<&Process> {
        match &self.state {
            State::Requested => None,
            State::ExecPending(process, _) | State::Running(process) => Some(process),
        }
    }

    fn read(&mut self) {
        let mut buf = [0; 4096];
        for _ in 0..READS_PER_TURN {
            let Some(fd) = &self.output else { return };
            match nix::unistd::read(fd, &mut buf) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    if let Some(log) = &mut self.log {
                        log.take(&buf[..count]);
                    }
                    self.tail.extend_from_slice(&buf[..count]);
                    let cut = self.tail.len().saturating_sub(TAIL_BYTES);
                    self.tail.drain(..cut);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.output = None,
            }
        }
    }
}
