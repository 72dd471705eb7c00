//! The client's end of the control socket: one request, then responses until the final one.

mod reach;

pub use reach::runs_elsewhere;

use crate::config::MasterPaths;
use crate::control::protocol::{Method, Request, Response, VERSION};
use crate::event_loop::clock::Deadline;
use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::sys::poll::{is_ready, poll};
use crate::sys::process::Process;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// The longest response that a client reads, in bytes: a status of 10 000 workers with their last lines fits.
const MAX_RESPONSE: usize = 64 << 20;

/// How long the master's process may take to exit once it has closed its connections.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// There is no master: exit 4 (for `stop`: done).
    #[error("{0}")]
    Unreachable(String),
    /// No master was found, but it is uncertain whether there is one, or workers of a killed master are left: for
    /// `stop` exit 1, else this code.
    #[error("{text}")]
    Uncertain {
        /// The exit code of other verbs than `stop`.
        code: ExitCode,
        /// What is known, and what to do.
        text: String,
    },
    /// The master runs as another user and cannot be reached: exit 4.
    #[error("{0}")]
    Elsewhere(String),
    /// There is a master, but this user may not use it: exit 5.
    #[error("{0}")]
    NotPermitted(String),
    /// The request failed: exit 1.
    #[error("{0}")]
    Failed(String),
    /// The connection ended before the answer did: exit 1.
    #[error("{0}")]
    Lost(String),
    /// `--timeout`: exit 124; the work continues.
    #[error("timed out")]
    TimedOut,
    /// Ctrl-C: exit 130; the work continues.
    #[error("detached")]
    Detached,
    /// Our output was closed (`| head`): the regular end of commands that follow.
    #[error("the output is closed")]
    OutputClosed,
}

impl ClientError {
    /// The exit code.
    pub fn code(&self) -> ExitCode {
        match self {
            Self::Unreachable(_) | Self::Elsewhere(_) => ExitCode::NOT_FOUND,
            Self::Uncertain { code, .. } => *code,
            Self::NotPermitted(_) => ExitCode::NOT_PERMITTED,
            Self::Failed(_) | Self::Lost(_) => ExitCode::FAILED,
            Self::TimedOut => ExitCode::TIMED_OUT,
            Self::Detached => ExitCode::DETACHED,
            Self::OutputClosed => ExitCode::DONE,
        }
    }
}

/// How long a command waits.
#[derive(Debug, Default)]
pub struct WaitLimits {
    /// When it detaches (`--timeout`); `None`: never.
    pub until: Option<Deadline>,
    /// Ctrl-C, if that detaches.
    pub interrupt: Option<SignalPipe>,
    /// End when stdout is closed.
    pub watches_reader: bool,
}

impl WaitLimits {
    /// Waits until this moment, or until a signal.
    ///
    /// # Errors
    /// `TimedOut`, `Detached`, `OutputClosed`.
    pub fn pause(
        &self,
        until: Deadline,
        signal_pipe: Option<&SignalPipe>,
    ) -> Result<(), ClientError> {
        wait(
            &mut signal_pipe.map(AsFd::as_fd).into_iter().collect::<Vec<_>>(),
            Some(until),
            self,
        )
    }
}

/// A connection to a master.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// The master's process, referenced since the connection: with pidfds its exit is always noticed.
    master: Option<Process>,
    read: Vec<u8>,
    /// This much of the input has been searched for the end of a line.
    searched: usize,
    /// It has sent at least one response.
    answered: bool,
    paths: MasterPaths,
    /// The configuration's path, as the master knows it.
    config: PathBuf,
}

impl Client {
    /// Connects to the master of this configuration. A master that is just starting gets a few seconds.
    ///
    /// # Errors
    /// `Unreachable`: nothing is running. `Uncertain`: none was found. `Elsewhere`, `NotPermitted`: another user's
    /// master. `Failed`: a master holds the runtime directory but does not answer.
    pub fn connect(paths: &MasterPaths, limits: &WaitLimits) -> Result<Self, ClientError> {
        let (stream, config) = reach::reach(paths, limits)?;
        let master = getsockopt(&stream, PeerCredentials)
            .ok()
            .and_then(|peer| Process::open_pid(peer.pid()).ok());
        Ok(Self {
            stream,
            master,
            read: Vec::new(),
            searched: 0,
            answered: false,
            paths: paths.clone(),
            config,
        })
    }

    /// Sends the request. To be called once.
    ///
    /// # Errors
    /// `Lost`: the master closed the connection.
    pub fn send(&mut self, method: Method) -> Result<(), ClientError> {
        let real = Some(self.paths.real.clone()).filter(|real| *real != self.config);
        let config = self.config.clone();
        let request = Request {
            version: VERSION,
            config,
            real,
            method,
        };
        let mut line =
            serde_json::to_vec(&request).map_err(|error| ClientError::Failed(error.to_string()))?;
        line.push(b'\n');
        // A master that refuses us sends the reason before it closes: that is still to be read.
        match self.stream.write_all(&line) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(connection_lost(&error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the next response.
    ///
    /// # Errors
    /// `TimedOut`, `Detached`; `Lost` if the master went away; `Failed` if it speaks another version. A master that was already
    /// leaving and has sent nothing counts as not running ([`Client::connect`]).
    pub fn next_response(&mut self, limits: &WaitLimits) -> Result<Response, ClientError> {
        loop {
            if let Some(response) = self.next_response_until(limits, None, None)? {
                return Ok(response);
            }
        }
    }

    /// The same, but only until this moment or until `wake` is readable: then None.
    ///
    /// # Errors
    /// As [`Client::next_response`].
    pub fn next_response_until(
        &mut self,
        limits: &WaitLimits,
        until: Option<Deadline>,
        wake: Option<BorrowedFd<'_>>,
    ) -> Result<Option<Response>, ClientError> {
        loop {
            if let Some(end) = self.read[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let end = end + std::mem::take(&mut self.searched);
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    ClientError::Failed(format!(
                        "the master's answer is not understood ({error}): it has another version; use the rotad that it was started with"
                    ))
                });
            }
            self.searched = self.read.len();
            if self.read.len() > MAX_RESPONSE {
                return Err(connection_lost("its answer is too long"));
            }
            let mut some = [0; 16 << 10];
            let mut fds = vec![self.stream.as_fd()];
            fds.extend(wake);
            wait(&mut fds, until, limits)?;
            if !is_ready(&self.stream, PollFlags::POLLIN) {
                return Ok(None);
            }
            match self.stream.read(&mut some) {
                Ok(0) => return Err(self.unanswered("it closed the connection", limits)),
                Ok(n) => {
                    self.answered = true;
                    self.read.extend_from_slice(&some[..n]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unanswered(&error.to_string(), limits)),
            }
        }
    }

    /// Whether it has sent anything.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    fn unanswered(&self, why: &str, limits: &WaitLimits) -> ClientError {
        if self.answered {
            return connection_lost(why);
        }
        if let Some(pidfd) = self.master.as_ref().and_then(Process::pidfd) {
            wait(&mut [pidfd], Some(Deadline::after(EXIT_TIMEOUT)), limits).ok();
        }
        match reach::reach(&self.paths, limits) {
            Err(error @ (ClientError::Unreachable(_) | ClientError::Uncertain { .. })) => error,
            // Another master is running by now: it did not get the request, and what the first one did with it is
            // unknown.
            _ => connection_lost(why),
        }
    }

    /// Waits until the master is gone: it closes the connection last, then its process exits. Does not wait for a
    /// process that hangs in the kernel.
    ///
    /// # Errors
    /// `TimedOut`, `Detached`; `Failed`: the kernel does not let its process exit.
    pub fn wait_gone(&mut self, limits: &WaitLimits) -> Result<(), ClientError> {
        let mut some = [0; 4096];
        loop {
            wait(&mut [self.stream.as_fd()], None, limits)?;
            match self.stream.read(&mut some) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        // Without pidfds the closed connection must suffice.
        let Some(master) = self
            .master
            .as_ref()
            .filter(|master| master.pidfd().is_some())
        else {
            return Ok(());
        };
        wait(
            &mut master.pidfd().into_iter().collect::<Vec<_>>(),
            Some(Deadline::after(EXIT_TIMEOUT)),
            limits,
        )?;
        if master.has_ended() {
            return Ok(());
        }
        Err(ClientError::Failed(format!(
            "the kernel holds the master (pid {0}), which has stopped its workers and has nothing left to do: a disk that \
             hangs? Its threads in state D, and what they wait for: `ps -L -o tid,stat,wchan:32,comm -p {0}`",
            master.pid()
        )))
    }
}

fn connection_lost(why: &str) -> ClientError {
    ClientError::Lost(format!(
        "the master closed the connection before it had answered ({why}): see its log and `rotad status`"
    ))
}

/// Waits until one of these is readable or `until` has passed; the command's own limits end it with an error.
fn wait(
    fds: &mut [BorrowedFd<'_>],
    until: Option<Deadline>,
    limits: &WaitLimits,
) -> Result<(), ClientError> {
    let stdout = io::stdout();
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // A pipe without a reader reports POLLERR, whether polled for or not (poll(2)).
    let reader = limits
        .watches_reader
        .then(|| PollFd::new(stdout.as_fd(), PollFlags::empty()));
    polled.splice(0..0, reader);
    polled.extend(
        limits
            .interrupt
            .as_ref()
            .map(|i| PollFd::new(i.as_fd(), PollFlags::POLLIN)),
    );
    let first = [until, limits.until].into_iter().flatten().min();
    let left = first.map(|at| at.left());
    let ready = poll(&mut polled, left);
    if limits.interrupt.as_ref().is_some_and(SignalPipe::take) {
        return Err(ClientError::Detached);
    }
    if ready != Ok(0) {
        let unread =
            limits.watches_reader && polled[0].revents().is_some_and(|events| !events.is_empty());
        return if unread {
            Err(ClientError::OutputClosed)
        } else {
            Ok(())
        };
    }
    if limits.until.is_some_and(|at| first == Some(at)) {
        return Err(ClientError::TimedOut);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::SOCKET;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    /// A configuration that names this runtime directory, and lies beside it.
    fn paths(runtime_dir: &Path) -> MasterPaths {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        std::fs::write(
            &file,
            format!(
                "[master]\nruntime_dir = {:?}\n",
                runtime_dir.display().to_string()
            ),
        )
        .unwrap();
        crate::config::peek(&file)
    }

    fn limits(ms: u64) -> WaitLimits {
        WaitLimits {
            until: Some(Deadline::after(Duration::from_millis(ms))),
            ..WaitLimits::default()
        }
    }

    #[test]
    fn without_a_master_connecting_fails_immediately() {
        let dir = tempfile::tempdir().unwrap();
        let error = Client::connect(&paths(dir.path()), &WaitLimits::default()).unwrap_err();
        assert_eq!(error.code(), ExitCode::NOT_FOUND);
        assert!(
            error.to_string().contains("/x.toml") && error.to_string().contains("rotad start"),
            "{error}"
        );
        drop(UnixListener::bind(dir.path().join(SOCKET)).unwrap());
        let error = Client::connect(&paths(dir.path()), &WaitLimits::default()).unwrap_err();
        assert_eq!(error.code(), ExitCode::NOT_FOUND, "a stale socket: {error}");
    }

    #[test]
    fn requests_are_answered_and_a_silent_master_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let near_by = dir.path().join("s");
        let listener = UnixListener::bind(&near_by).unwrap();
        std::fs::rename(&near_by, deep.join(SOCKET)).unwrap();
        let paths = paths(&deep);
        let mut client = Client::connect(&paths, &WaitLimits::default()).unwrap();
        client.send(Method::Status).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert_eq!(
            client.next_response(&limits(10)).unwrap_err(),
            ClientError::TimedOut
        );
        let mut line = [0; 600];
        let n = server.read(&mut line).unwrap();
        let request: Request = serde_json::from_slice(&line[..n]).unwrap();
        assert_eq!(
            (request.config.as_path(), request.method),
            (paths.config.as_path(), Method::Status)
        );
        server
            .write_all(b"{\"progress\":{\"text\":\"a\"}}\n{\"done\":{\"code\":10,")
            .unwrap();
        assert_eq!(
            client.next_response(&WaitLimits::default()).unwrap(),
            Response::Progress { text: "a".into() }
        );
        server
            .write_all(b"\"message\":\"b\"}}\nnonsense\n")
            .unwrap();
        assert_eq!(
            client.next_response(&WaitLimits::default()).unwrap(),
            Response::Done {
                code: ExitCode::OLD_SERVE,
                message: "b".into()
            }
        );
        assert_eq!(
            client
                .next_response(&WaitLimits::default())
                .unwrap_err()
                .code(),
            ExitCode::FAILED
        );
        drop(server);
        assert_eq!(
            client
                .next_response(&WaitLimits::default())
                .unwrap_err()
                .code(),
            ExitCode::FAILED
        );
    }
}
