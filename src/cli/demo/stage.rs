//! The demo's master: a child process in a directory of its own; both are gone when this is dropped.

#![expect(
    clippy::disallowed_methods,
    reason = "its own children, which it has not reaped"
)]

use super::super::{request, status};
use crate::config::MasterPaths;
use crate::event_loop::clock::Deadline;
use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::observe::status::{PoolState, RollState, Status};
use crate::sys::poll::poll;
use nix::libc::{SIGCHLD, SIGINT, SIGTERM};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// The same file as in the source, so that what is shown is what runs.
const CONFIG: &str = include_str!("../../../config/demo.toml");

/// The address in it, replaced by one with a free port.
const ADDRESS: &str = "127.0.0.1:8080";

/// How often the master is asked while the demo waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Far more than built-in workers need, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Signals to the demo, and the exit of its master.
pub(super) struct DemoSignals {
    int: SignalPipe,
    term: SignalPipe,
    child: SignalPipe,
}

impl DemoSignals {
    pub(super) fn new() -> std::io::Result<Self> {
        let (int, term) = (SignalPipe::on(&[SIGINT])?, SignalPipe::on(&[SIGTERM])?);
        Ok(Self {
            int,
            term,
            child: SignalPipe::on(&[SIGCHLD])?,
        })
    }

    /// Waits for a signal, no longer than `timeout`.
    fn wait(&self, timeout: Option<Duration>) {
        let mut fds = [&self.int, &self.term, &self.child]
            .map(|signal_pipe| PollFd::new(signal_pipe.as_fd(), PollFlags::POLLIN));
        poll(&mut fds, timeout).ok();
        self.child.take();
    }
}

pub(super) struct DemoMaster {
    /// `None` once it has been reaped.
    child: Option<Child>,
    folder: PathBuf,
    rotad: PathBuf,
    paths: MasterPaths,
    stopping: bool,
}

impl DemoMaster {
    /// Writes the configuration into a new directory and starts a master on it.
    pub(super) fn open(port: u16) -> Result<Self, String> {
        let rotad = std::env::current_exe()
            .map_err(|error| format!("failed to find our own program: {error}"))?;
        let folder = fresh_folder()?;
        let made = Self::start(&rotad, &folder, port);
        if made.is_err() {
            std::fs::remove_dir_all(&folder).ok();
        }
        made
    }

    fn start(rotad: &Path, folder: &Path, port: u16) -> Result<Self, String> {
        let config = folder.join("rotad.toml");
        let text = CONFIG
            .replace(ADDRESS, &format!("127.0.0.1:{port}"))
            // Its own, so that demos meet neither each other nor a real master.
            .replacen("[master]\n", "[master]\nruntime_dir = \"run\"\n", 1);
        std::fs::write(&config, text)
            .map_err(|error| format!("failed to write {}: {error}", config.display()))?;
        let paths = request::paths_of(&config)?;
        let child = Command::new(rotad)
            .arg("run")
            .arg("-c")
            .arg(&config)
            // Ctrl-C reaches only the demo, which passes it on: the master would otherwise take it for a second one.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("failed to start {}: {error}", rotad.display()))?;
        let (folder, rotad) = (folder.to_owned(), rotad.to_owned());
        Ok(Self {
            child: Some(child),
            folder,
            rotad,
            paths,
            stopping: false,
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn rotad(&self) -> &Path {
        &self.rotad
    }

    pub(super) fn config(&self) -> &Path {
        &self.paths.config
    }

    pub(super) fn pid_file(&self) -> &Path {
        &self.paths.pid_file
    }

    /// While this file exists, new workers fail.
    pub(super) fn broken(&self) -> PathBuf {
        self.folder.join(super::web::BROKEN)
    }

    /// True when every pool serves; false when the demo is told to end, or the master has exited.
    pub(super) fn wait_ready(&mut self, signals: &DemoSignals) -> Result<bool, String> {
        let until = Deadline::after(PATIENCE);
        while !until.has_passed() {
            if self.pass_on(signals) || self.ended().is_some() {
                return Ok(false);
            }
            let up = |status: Status| status.pools.iter().all(|pool| pool.state == PoolState::Ok);
            if self.status().is_some_and(up) {
                return Ok(true);
            }
            signals.wait(Some(POLL_INTERVAL));
        }
        Err(format!(
            "the demo's workers were not ready within {PATIENCE:?}"
        ))
    }

    /// Sends USR1 to the pid in the pid file, as a script would; returns when every web worker has been replaced.
    pub(super) fn roll_by_signal(&mut self, signals: &DemoSignals) -> Result<(), String> {
        let before = self.web().map_or(0, |(generation, _)| generation);
        let text = std::fs::read_to_string(self.pid_file())
            .map_err(|error| format!("failed to read the pid file: {error}"))?;
        let pid: i32 = text
            .trim()
            .parse()
            .map_err(|_| format!("no pid in the pid file: {text:?}"))?;
        // It is our own unreaped child, so the pid cannot have been reused.
        if self.child.as_ref().map(Child::id) != Some(pid.cast_unsigned()) {
            return Err(format!(
                "the pid file names process {pid}, which is not the demo's master"
            ));
        }
        kill(Pid::from_raw(pid), Signal::SIGUSR1)
            .map_err(|error| format!("failed to signal the master: {error}"))?;
        let until = Deadline::after(PATIENCE);
        while !until.has_passed() {
            if self.pass_on(signals) || self.ended().is_some() {
                return Err("the demo was ended before its proof was done".to_owned());
            }
            match self.web() {
                Some((generation, RollState::Done)) if generation > before => return Ok(()),
                Some((_, state @ (RollState::Aborted | RollState::RolledBack))) => {
                    return Err(format!("the rolling restart ended in {state:?}"));
                }
                _ => signals.wait(Some(POLL_INTERVAL)),
            }
        }
        Err(format!(
            "the rolling restart did not end within {PATIENCE:?}"
        ))
    }

    fn web(&self) -> Option<(u32, RollState)> {
        let pools = self.status()?.pools;
        pools
            .iter()
            .find(|pool| pool.name == "web")
            .map(|pool| (pool.generation, pool.reload.state))
    }

    fn status(&self) -> Option<Status> {
        // Before the socket exists, no answer is expected.
        status::fetch(&self.paths).ok()?.ok()
    }

    /// Stops the master, if it runs, and returns how it ended.
    pub(super) fn close(mut self, signals: &DemoSignals) -> Result<ExitCode, String> {
        if !self.stopping {
            self.signal(Signal::SIGTERM);
        }
        self.wait_end(signals)
    }

    /// Waits for the master's exit, passing on signals to the demo.
    pub(super) fn wait_end(mut self, signals: &DemoSignals) -> Result<ExitCode, String> {
        loop {
            if let Some(code) = self.ended() {
                return Ok(code);
            }
            signals.wait(None);
            self.pass_on(signals);
        }
    }

    /// True if the demo was told to end.
    fn pass_on(&mut self, signals: &DemoSignals) -> bool {
        for (signal_pipe, signal) in [
            (&signals.int, Signal::SIGINT),
            (&signals.term, Signal::SIGTERM),
        ] {
            if signal_pipe.take() {
                self.signal(signal);
            }
        }
        self.stopping
    }

    fn signal(&mut self, signal: Signal) {
        self.stopping = true;
        if let Some(child) = &self.child {
            // Not reaped yet, so it is our child or its zombie.
            kill(Pid::from_raw(child.id().cast_signed()), signal).ok();
        }
    }

    /// The master's exit code, once it has ended.
    fn ended(&mut self) -> Option<ExitCode> {
        let Some(child) = &mut self.child else {
            return Some(ExitCode::FAILED);
        };
        let status = child.try_wait().transpose()?;
        self.child = None;
        let code = status.ok().and_then(|status| status.code());
        Some(
            code.and_then(|code| u8::try_from(code).ok())
                .map_or(ExitCode::FAILED, ExitCode::of_child),
        )
    }
}

impl Drop for DemoMaster {
    /// After an error the master is still there: nothing of the demo may outlive it.
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(Signal::SIGTERM);
        }
        if let Some(child) = &mut self.child {
            child.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// A directory that no other user may enter, in which sockets may live.
fn fresh_folder() -> Result<PathBuf, String> {
    let places = [
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        Some(std::env::temp_dir()),
    ];
    let mut last = None;
    for place in places
        .into_iter()
        .flatten()
        .filter(|place| place.is_absolute())
    {
        match nix::unistd::mkdtemp(&place.join("rotad-demo-XXXXXX")) {
            Ok(folder) => return folder.canonicalize().map_err(|error| error.to_string()),
            Err(error) => {
                last = Some(format!(
                    "failed to make a folder in {}: {error}; set TMPDIR",
                    place.display()
                ))
            }
        }
    }
    Err(last.unwrap_or_else(|| "no place for temporary files: set TMPDIR".to_owned()))
}
