//! The demo's master: a child process with a temporary directory. Both are gone once [`DemoMaster`] is dropped.

#![expect(
    clippy::disallowed_methods,
    reason = "it signals its own child, which it has not reaped"
)]

use super::super::{request, status};
use crate::config::MasterPaths;
use crate::event_loop::clock::Deadline;
use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use crate::observe::status::{PoolState, RollState, Status};
use crate::sys::poll::poll;
use crate::sys::signal;
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// The configuration that the documentation shows.
const CONFIG: &str = include_str!("../../../config/demo.toml");

/// The address in it, which is replaced by one with a free port.
const ADDRESS: &str = "127.0.0.1:8080";

/// How often the master's status is asked for while the demo waits.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long the demo waits for its workers. Far more than they need, also on a busy machine.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Signals to the demo: INT and TERM, which it passes on, CHLD, which reports the exit of its master, and HUP, which has no
/// effect.
pub(super) struct DemoSignals {
    int: SignalPipe,
    term: SignalPipe,
    child: SignalPipe,
    /// Caught, because a signal that is ignored stays ignored in the master (execve(2)): HUP would not apply its
    /// configuration, and its log would say that nohup(1) asked for that.
    _hup: SignalPipe,
}

impl DemoSignals {
    pub(super) fn new() -> std::io::Result<Self> {
        let (int, term) = (SignalPipe::on(&[SIGINT])?, SignalPipe::on(&[SIGTERM])?);
        signal::reset(&[SIGHUP]);
        Ok(Self {
            int,
            term,
            child: SignalPipe::on(&[SIGCHLD])?,
            _hup: SignalPipe::on(&[SIGHUP])?,
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
    dir: PathBuf,
    rotad: PathBuf,
    paths: MasterPaths,
    stopping: bool,
}

impl DemoMaster {
    /// Writes the configuration into a new directory and starts a master on it.
    pub(super) fn open(port: u16) -> Result<Self, String> {
        let rotad = std::env::current_exe()
            .map_err(|error| format!("failed to find our own program: {error}"))?;
        let dir = create_dir()?;
        let started = Self::start(&rotad, &dir, port);
        if started.is_err() {
            std::fs::remove_dir_all(&dir).ok();
        }
        started
    }

    fn start(rotad: &Path, dir: &Path, port: u16) -> Result<Self, String> {
        let config = dir.join("rotad.toml");
        let text = CONFIG
            .replace(ADDRESS, &format!("127.0.0.1:{port}"))
            // A runtime directory of its own, so that demos conflict neither with each other nor with a real master.
            .replacen("[master]\n", "[master]\nruntime_dir = \"run\"\n", 1);
        std::fs::write(&config, text)
            .map_err(|error| format!("failed to write {}: {error}", config.display()))?;
        let paths = request::paths_of(&config)?;
        let child = Command::new(rotad)
            .arg("run")
            .arg("-c")
            .arg(&config)
            // Ctrl-C must reach the demo alone, which passes it on. The master would take a second INT for "kill immediately".
            .process_group(0)
            .spawn()
            .map_err(|error| format!("failed to start {}: {error}", rotad.display()))?;
        let (dir, rotad) = (dir.to_owned(), rotad.to_owned());
        Ok(Self {
            child: Some(child),
            dir,
            rotad,
            paths,
            stopping: false,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
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
        self.dir.join(super::web::BROKEN)
    }

    /// Waits until every pool serves. False: the demo got a signal to stop, or the master has exited.
    pub(super) fn wait_ready(&mut self, signals: &DemoSignals) -> Result<bool, String> {
        let until = Deadline::after(WAIT_LIMIT);
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
            "the demo's workers were not ready within {WAIT_LIMIT:?}"
        ))
    }

    /// Sends USR1 to the master that the pid file names, and waits until every web worker is replaced.
    pub(super) fn roll_by_signal(&mut self, signals: &DemoSignals) -> Result<(), String> {
        let before = self.web().map_or(0, |(generation, _)| generation);
        let text = std::fs::read_to_string(self.pid_file())
            .map_err(|error| format!("failed to read the pid file: {error}"))?;
        let pid: i32 = text
            .trim()
            .parse()
            .map_err(|_| format!("no pid in the pid file: {text:?}"))?;
        let child = self.child.as_ref().map(|child| child.id().cast_signed());
        let master = self.status().map(|status| status.master);
        let ours = master.filter(|master| {
            master.pid == pid && child == Some(master.guardian.unwrap_or(master.pid))
        });
        let (Some(child), Some(_)) = (child, ours) else {
            return Err(format!(
                "the pid file names process {pid}, which is not the demo's master"
            ));
        };
        // The master's guardian passes it on. It is our own unreaped child, so its pid cannot have been reused.
        kill(Pid::from_raw(child), Signal::SIGUSR1)
            .map_err(|error| format!("failed to signal the master: {error}"))?;
        let until = Deadline::after(WAIT_LIMIT);
        while !until.has_passed() {
            if self.pass_on(signals) || self.ended().is_some() {
                return Err("the demo was stopped before it was done".to_owned());
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
            "the rolling restart did not end within {WAIT_LIMIT:?}"
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
        // No answer is an expected result: the socket may not exist yet.
        status::fetch(&self.paths).ok()?.ok()
    }

    /// Stops the master if it runs, and returns its exit code.
    pub(super) fn close(mut self, signals: &DemoSignals) -> Result<ExitCode, String> {
        if !self.stopping {
            self.signal(Signal::SIGTERM);
        }
        self.wait_end(signals)
    }

    /// Waits for the master's exit and passes signals on to it. Returns its exit code.
    pub(super) fn wait_end(mut self, signals: &DemoSignals) -> Result<ExitCode, String> {
        loop {
            if let Some(code) = self.ended() {
                return Ok(code);
            }
            signals.wait(None);
            self.pass_on(signals);
        }
    }

    /// Passes signals on to the master. True if the demo is stopping.
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
            // Not reaped yet: the pid is our child's.
            kill(Pid::from_raw(child.id().cast_signed()), signal).ok();
        }
    }

    /// The master's exit code once it has exited.
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
    /// After an error the master still runs; nothing that the demo started may be left.
    fn drop(&mut self) {
        if self.child.is_some() {
            self.signal(Signal::SIGTERM);
        }
        if let Some(child) = &mut self.child {
            child.wait().ok();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// Creates a directory for configuration, logs and sockets that no other user can enter.
fn create_dir() -> Result<PathBuf, String> {
    let parents = [
        std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
        Some(std::env::temp_dir()),
    ];
    let mut last = None;
    for parent in parents
        .into_iter()
        .flatten()
        .filter(|parent| parent.is_absolute())
    {
        match nix::unistd::mkdtemp(&parent.join("rotad-demo-XXXXXX")) {
            Ok(dir) => return dir.canonicalize().map_err(|error| error.to_string()),
            Err(error) => {
                last = Some(format!(
                    "failed to create a directory in {}: {error}; set TMPDIR",
                    parent.display()
                ))
            }
        }
    }
    Err(last.unwrap_or_else(|| "no directory for temporary files: set TMPDIR".to_owned()))
}
