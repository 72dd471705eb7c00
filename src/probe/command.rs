//! One command probe: a process in a session of its own, held until it is reaped, killed with its whole process group.
//! The probe loop drives it.

use super::ProbeError;
use crate::process::{self, SpawnResult};
use crate::sys::process::Process;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::SIGKILL;
use nix::poll::PollFlags;
use rotad_core::Exit;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many bytes of the end of its output are kept.
const TAIL: usize = 4096;
/// Reads per turn: a command that prints without end must not hold up the others.
const READS: usize = 16;
/// The longest last line that a reason carries, in characters.
const LAST_LINE: usize = 200;

#[derive(Debug)]
pub(super) struct CommandProbe {
    /// The read end of its stdout and stderr; None once all writers have closed them.
    output: Option<OwnedFd>,
    tail: Vec<u8>,
    stage: Stage,
    /// Why there is no program.
    refused: Option<String>,
    /// The answer is not wanted any more: it is to be killed.
    pub(super) forgotten: bool,
}

#[derive(Debug)]
enum Stage {
    Ordered,
    /// Its exec status is awaited.
    ExecPending(Process, OwnedFd),
    Running(Process),
}

impl CommandProbe {
    /// And the write end, which becomes its stdout and stderr.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let flags =
            OFlag::from_bits_retain(nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_GETFL)?);
        nix::fcntl::fcntl(
            &read,
            nix::fcntl::FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK),
        )?;
        let errand = Self {
            output: Some(read),
            tail: Vec::new(),
            stage: Stage::Ordered,
            refused: None,
            forgotten: false,
        };
        Ok((errand, write))
    }

    /// Takes the spawn result. Some: it never ran, and why.
    pub(super) fn reported(&mut self, report: SpawnResult) -> Option<ProbeError> {
        match report {
            SpawnResult::Started { child, .. } => self.stage = Stage::Running(child.process),
            SpawnResult::ExecPending {
                child, exec_status, ..
            } => self.stage = Stage::ExecPending(child.process, exec_status),
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
        if self.forgotten {
            self.kill();
        }
        None
    }

    /// Kills it with its group; it is reaped when its exit is noticed.
    pub(super) fn kill(&mut self) {
        self.forgotten = true;
        if let Some(process) = self.process() {
            // ESRCH: it has exited by itself and is about to be noticed.
            process.signal(SIGKILL).ok();
            process.signal_group(SIGKILL).ok();
        }
    }

    /// The descriptors to poll for.
    pub(super) fn wants(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let output = self.output.as_ref().map(AsFd::as_fd);
        let verdict = match &self.stage {
            Stage::ExecPending(_, verdict) => Some(verdict.as_fd()),
            Stage::Ordered | Stage::Running(_) => None,
        };
        let pidfd = self.process().and_then(Process::pidfd);
        [output, verdict, pidfd]
            .into_iter()
            .flatten()
            .map(|fd| (fd, PollFlags::POLLIN))
            .collect()
    }

    /// Its exit can only be found by polling: the kernel gives no pidfds.
    pub(super) fn is_unseen(&self) -> bool {
        self.process()
            .is_some_and(|process| process.pidfd().is_none())
    }

    /// Reads its output and checks for its exit; if it has exited, reaps it and returns the answer.
    pub(super) fn go_on(&mut self) -> Option<Result<(), String>> {
        self.read();
        self.hear_verdict()?;
        let process = self.process()?;
        let exit = match process.peek_exit() {
            Ok(Some(exit)) => exit,
            // Traced: its tracer has to wait for it first, but it has exited.
            Ok(None) if process.has_ended() => {
                crate::process::procfs::exit_of_zombie(process.pid()).unwrap_or(Exit::Unknown)
            }
            Ok(None) => return None,
            Err(error) => return Some(Err(format!("cannot read its exit status: {error}"))),
        };
        // Its descendants go with it: while it is unreaped, the group number is its own.
        process.signal_group(SIGKILL).ok();
        process.reap().ok();
        self.read();
        Some(match self.refused.take() {
            Some(reason) => Err(reason),
            None => self.judge(exit),
        })
    }

    /// None: the shim has not reported yet.
    fn hear_verdict(&mut self) -> Option<()> {
        if let Stage::ExecPending(_, fd) = &self.stage {
            self.refused = match process::exec_status(fd) {
                Ok(None) => return None,
                Ok(Some(Ok(()))) => None,
                // The shim is about to exit.
                Ok(Some(Err(error))) => Some(format!("cannot be run: {error}")),
                Err(error) => Some(format!("cannot be run: the exec status is lost: {error}")),
            };
        }
        self.stage = match std::mem::replace(&mut self.stage, Stage::Ordered) {
            Stage::ExecPending(process, _) => Stage::Running(process),
            other => other,
        };
        Some(())
    }

    fn judge(&self, exit: Exit) -> Result<(), String> {
        let how = match exit {
            Exit::Code(0) => return Ok(()),
            Exit::Code(code) => format!("exited with {code}"),
            Exit::Signal { signal, .. } => format!(
                "was killed by SIG{}",
                crate::event_loop::signals::name(signal)
            ),
            Exit::Unknown => "ended, how is unknown".to_owned(),
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
                .take(LAST_LINE)
                .collect(),
        )
    }

    /// Its process, if it has exited and cannot be reaped yet because it is traced.
    pub(super) fn into_unreaped(self) -> Option<Process> {
        match self.stage {
            Stage::Ordered => None,
            Stage::ExecPending(process, _) | Stage::Running(process) => {
                matches!(process.reap(), Ok(None)).then_some(process)
            }
        }
    }

    fn process(&self) -> Option<&Process> {
        match &self.stage {
            Stage::Ordered => None,
            Stage::ExecPending(process, _) | Stage::Running(process) => Some(process),
        }
    }

    fn read(&mut self) {
        let mut gulp = [0; 4096];
        for _ in 0..READS {
            let Some(fd) = &self.output else { return };
            match nix::unistd::read(fd, &mut gulp) {
                Ok(0) => self.output = None,
                Ok(count) => {
                    self.tail.extend_from_slice(&gulp[..count]);
                    let cut = self.tail.len().saturating_sub(TAIL);
                    self.tail.drain(..cut);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.output = None,
            }
        }
    }
}
