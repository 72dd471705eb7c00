//! The report of a starting master to the command that started it: one JSON object per line through a pipe. The supervisor
//! sends it, `rotad start` prints it.
//!
//! If the pipe ends without a final report, the master has died.

use crate::event_loop::clock::Deadline;
use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::observe::print;
use crate::sys::kept_fd::{FdTable, KeptFd};
use crate::sys::poll::{is_ready, poll};
use nix::poll::{PollFd, PollFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

/// How long the final report may wait for a launcher that does not read (stopped by ^Z).
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum length of all reports of a start, in bytes; real ones are far shorter.
const MAX_REPORT: usize = 8 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Progress { text: String },
    Finish { code: ExitCode, text: String },
}

/// The master's end of the pipe. Dropped without [`Report::finish`], it tells the launcher that the master died.
#[derive(Debug)]
pub struct Report {
    pipe: Option<File>,
}

/// What is saved of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedReport {
    pipe: Option<KeptFd>,
}

impl Report {
    /// What the next master needs to go on with the report.
    ///
    /// # Errors
    /// Those of fstat(2); none for an open descriptor.
    pub fn saved(&self) -> io::Result<SavedReport> {
        let pipe = self.pipe.as_ref().map(KeptFd::of).transpose()?;
        Ok(SavedReport { pipe })
    }

    /// Goes on with the report of a dead master. Lines that it has sent may be sent again.
    ///
    /// # Errors
    /// As [`FdTable::take`].
    pub fn restore(saved: SavedReport, table: &mut FdTable) -> io::Result<Self> {
        match saved.pipe {
            None => Ok(Self::to_stderr()),
            Some(kept) => Self::to_launcher(table.take(kept)?),
        }
    }

    /// For `run`: no launcher waits; a failure goes to stderr.
    pub fn to_stderr() -> Self {
        Self { pipe: None }
    }

    pub(super) fn to_launcher(pipe: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(
            &pipe,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )?;
        Ok(Self {
            pipe: Some(File::from(pipe)),
        })
    }

    /// Sends a line for the user. Never blocks: it is lost if the launcher has not read 64 KiB, or is gone.
    pub fn progress(&mut self, text: &str) {
        self.send(
            &Line::Progress {
                text: text.to_owned(),
            },
            Duration::ZERO,
        );
    }

    /// The final report: the launcher prints `text` (to stdout for code 0, else to stderr) and exits with `code`.
    ///
    /// A master that fails reports it after everything else has ended and its runtime directory is cleaned up, so that
    /// the launcher's exit proves that nothing is running.
    pub fn finish(mut self, code: ExitCode, text: &str) {
        if self.pipe.is_none() && code != ExitCode::DONE {
            print::error(text);
        }
        self.send(
            &Line::Finish {
                code,
                text: text.to_owned(),
            },
            FINISH_TIMEOUT,
        );
    }

    /// The pipe's descriptor, which must survive when all others are closed.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        self.pipe.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Sends a line. EPIPE (the launcher is gone) and a timeout are ignored: the start does not depend on the report.
    fn send(&mut self, line: &Line, timeout: Duration) {
        let (Some(pipe), Ok(mut bytes)) = (&mut self.pipe, serde_json::to_vec(line)) else {
            return;
        };
        bytes.push(b'\n');
        let until = Deadline::after(timeout);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match pipe.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Half a line would make the next one unreadable: once begun, it gets the timeout of the final report.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let begun = rest.len() < bytes.len();
                    let until = if begun {
                        until.max(Deadline::after(FINISH_TIMEOUT))
                    } else {
                        until
                    };
                    if !writable(pipe, until) {
                        if begun {
                            self.pipe = None;
                        }
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

fn writable(pipe: &File, until: Deadline) -> bool {
    let left = until.left();
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
    !left.is_zero() && matches!(poll(&mut fds, Some(left)), Ok(1..))
}

/// What a command shows while it waits.
pub trait WhileWaiting {
    /// When it is to be shown again. None: never.
    fn next(&self) -> Option<Deadline>;
    /// Readable when it is to be shown again before that.
    fn wake(&self) -> Option<BorrowedFd<'_>>;
    /// That moment has come, or `wake` is readable.
    fn show(&mut self);
    /// Something is about to be printed.
    fn clear(&mut self);
}

/// The launcher's end of the pipe.
#[derive(Debug)]
pub struct LauncherEnd {
    pub(super) pipe: File,
    /// Named in the message if the master dies without a final report.
    pub(super) log_file: PathBuf,
    /// Named in the command that shows the result of a start that is no longer waited for.
    pub(super) config: PathBuf,
}

impl LauncherEnd {
    /// Prints the report until it has finished, and returns the exit code. Ctrl-C (130) and `until` (124) detach: the master
    /// has its own session and goes on.
    pub fn wait(mut self, until: Option<Deadline>, live: &mut impl WhileWaiting) -> ExitCode {
        let interrupt = SignalPipe::on_ctrl_c().ok();
        let mut text = Vec::new();
        let mut read = 0;
        loop {
            if let Some((code, why)) = wait_or_detach(&self.pipe, interrupt.as_ref(), until, live) {
                live.clear();
                let config = self.config.display();
                print::error(&format!(
                    "{why}; the start goes on: `rotad status -c {config}` shows it"
                ));
                return code;
            }
            live.clear();
            let mut some = [0; 4096];
            match self.pipe.read(&mut some) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(n @ 1..) if read + n <= MAX_REPORT => {
                    read += n;
                    text.extend_from_slice(&some[..n]);
                }
                Ok(1..) => return self.unreadable("it is longer than can be shown"),
                _ => return self.master_died(),
            }
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Line::Progress { text }) => print::line(&print::sanitize_lines(&text)),
                    Ok(Line::Finish { code, text }) => return finished(code, &text),
                    Err(error) => {
                        return self.unreadable(&format!("it is not understood: {error}"));
                    }
                }
            }
        }
    }

    /// The report cannot be shown, so the result of the start is unknown.
    fn unreadable(&self, why: &str) -> ExitCode {
        let (config, log) = (self.config.display(), self.log_file.display());
        print::error(&format!(
            "the master's report cannot be shown ({why}): see `rotad status -c {config}` and {log}"
        ));
        ExitCode::FAILED
    }

    fn master_died(&self) -> ExitCode {
        print::error(&format!(
            "the master died before it was ready: see {}",
            self.log_file.display()
        ));
        ExitCode::FAILED
    }
}

fn finished(code: ExitCode, text: &str) -> ExitCode {
    let text = print::sanitize_lines(text);
    match (code, text.is_empty()) {
        (_, true) => {}
        (ExitCode::DONE, false) => print::line(&text),
        (_, false) => print::error(&text),
    }
    code
}

/// Waits until the pipe is readable. After Ctrl-C or a timeout: the exit code and the reason.
fn wait_or_detach(
    pipe: &File,
    interrupt: Option<&SignalPipe>,
    until: Option<Deadline>,
    live: &mut impl WhileWaiting,
) -> Option<(ExitCode, &'static str)> {
    loop {
        let mut fds = vec![PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        fds.extend(interrupt.map(|i| PollFd::new(i.as_fd(), PollFlags::POLLIN)));
        fds.extend(live.wake().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let first = [until, live.next()].into_iter().flatten().min();
        // An error: the pipe is read, which waits.
        let failed = poll(&mut fds, first.map(|at| at.left())).is_err();
        if interrupt.is_some_and(SignalPipe::take) {
            return Some((ExitCode::DETACHED, "detached"));
        }
        if failed || is_ready(pipe, PollFlags::POLLIN) {
            return None;
        }
        if until.is_some_and(Deadline::has_passed) {
            return Some((ExitCode::TIMED_OUT, "timed out"));
        }
        live.show();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl WhileWaiting for Nothing {
        fn next(&self) -> Option<Deadline> {
            None
        }

        fn wake(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn show(&mut self) {}

        fn clear(&mut self) {}
    }

    fn pipe_ends() -> (LauncherEnd, Report) {
        let (read, write) = nix::unistd::pipe().unwrap();
        let end = LauncherEnd {
            pipe: read.into(),
            log_file: "/log".into(),
            config: "/x.toml".into(),
        };
        (end, Report::to_launcher(write).unwrap())
    }

    #[test]
    fn the_final_report_is_the_exit_code() {
        let (end, mut report) = pipe_ends();
        report.progress("web: ready");
        report.finish(ExitCode::ALREADY_RUNNING, "already running");
        assert_eq!(end.wait(None, &mut Nothing), ExitCode::ALREADY_RUNNING);
    }

    #[test]
    fn the_wait_for_a_silent_master_ends_at_its_timeout() {
        let (end, mut report) = pipe_ends();
        assert_eq!(
            end.wait(
                Some(Deadline::after(Duration::from_millis(20))),
                &mut Nothing
            ),
            ExitCode::TIMED_OUT
        );
        report.progress("the reader is gone, and that does no harm");
    }

    #[test]
    fn a_pipe_without_a_final_report_is_a_failure() {
        let (end, mut report) = pipe_ends();
        report.progress("so far so good");
        drop(report);
        assert_eq!(end.wait(None, &mut Nothing), ExitCode::FAILED);
    }

    #[test]
    fn the_next_master_finishes_the_report() {
        let (end, mut report) = pipe_ends();
        report.progress("so far so good");
        let saved = report.saved().unwrap();
        let (saved, mut table) = crate::sys::kept_fd::killed(report, &saved);
        let report = Report::restore(saved, &mut table).unwrap();
        assert_eq!(table.left(), 0);
        report.finish(ExitCode::OLD_SERVE, "");
        assert_eq!(end.wait(None, &mut Nothing), ExitCode::OLD_SERVE);
        let saved = Report::to_stderr().saved().unwrap();
        assert!(Report::restore(saved, &mut table).unwrap().pipe.is_none());
    }

    #[test]
    fn a_launcher_that_does_not_read_does_not_block_the_master() {
        let (end, mut report) = pipe_ends();
        for _ in 0..100_000 {
            report.progress("a line without a reader");
        }
        drop(end);
        report.finish(ExitCode::DONE, "and now the reader is gone");
    }
}
