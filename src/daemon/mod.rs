//! Daemonizes the master (daemon(7)), and records how it was started. `rotad run` calls [`foreground`], `rotad start` calls
//! [`daemonize`]; the supervisor gets the [`StartContext`].

mod startup_report;

use crate::event_loop::signals;
use crate::exit_code::ExitCode;
use crate::listener::{ActivationSocket, InheritedFds};
use crate::observe::print;
use crate::plan::Plan;
use crate::sys::descriptors::close_all_but;
use crate::sys::fork::{Fork, exit_now, fork};
use crate::sys::signal::{ignore_until_handled, reset_all};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
pub use startup_report::{LauncherEnd, Report, SavedReport, WhileWaiting};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// How the master was started, for its main loop.
#[derive(Debug)]
pub struct StartContext {
    /// The connection to the launcher that waits for the result of the start.
    pub report: Report,
    /// `run`: the log may go to stderr, and the process may have a terminal.
    pub foreground: bool,
    /// `start --no-wait`: report as soon as sockets and pid file exist.
    pub no_wait: bool,
    /// Stop workers that a killed master has left, instead of adopting them.
    pub take_over: bool,
    /// Refuse to start if a killed master has left workers.
    pub no_take_over: bool,
    /// Why the state of the master before this one is lost, for people.
    pub lost_state: Option<String>,
    /// Listening sockets that this process still has of a master whose state is lost, by their inodes.
    pub kept_sockets: Vec<(u64, OwnedFd)>,
    /// HUP stays ignored, as nohup(1) wants it. False for a daemon, which has no terminal to lose.
    pub hup_ignored: bool,
    /// Why there is no guardian, although the configuration wants one.
    pub no_guardian: Option<String>,
    /// The path by which the program was started, absolute.
    pub program: Option<PathBuf>,
    /// The process that was started, to which the service manager addressed its sockets: a daemon has another pid.
    pub activation_pid: u32,
    /// Sockets from the service manager.
    pub activation_sockets: Vec<ActivationSocket>,
}

impl StartContext {
    /// The descriptors that it owns.
    pub fn fds(&self) -> Vec<RawFd> {
        let sockets = self.activation_sockets.iter().map(ActivationSocket::number);
        self.report
            .descriptor()
            .into_iter()
            .chain(sockets)
            .collect()
    }

    /// For a master that starts afresh after one whose state is lost, with a warning: its report goes to stderr.
    pub fn without_fds(&self, warning: String, kept_sockets: Vec<(u64, OwnedFd)>) -> Self {
        print::error(&warning);
        Self {
            report: Report::to_stderr(),
            activation_sockets: Vec::new(),
            foreground: self.foreground,
            no_wait: true,
            take_over: false,
            no_take_over: false,
            lost_state: Some(warning),
            kept_sockets,
            hup_ignored: self.hup_ignored,
            no_guardian: None,
            program: self.program.clone(),
            activation_pid: self.activation_pid,
        }
    }
}

/// The options of a start from the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// `--no-wait`.
    pub no_wait: bool,
    /// `--take-over`.
    pub take_over: bool,
    /// `--no-take-over`.
    pub no_take_over: bool,
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The started command: waits for the report.
    Launcher(LauncherEnd),
    /// The daemon: becomes the master.
    Master(StartContext),
}

/// `run`: this process becomes the master. Closes inherited descriptors, and resets the signals that the parent ignored or
/// blocked. Signals that are meant for a master are ignored until its handlers are installed.
///
/// Must be called before anything else opens a descriptor. `hup_ignored`: as found when the process started.
pub fn foreground(options: StartOptions, hup_ignored: bool) -> StartContext {
    let inherited_fds = InheritedFds::find();
    // An error (neither close_range(2) nor /proc) is harmless: everything that we open is close-on-exec.
    close_all_but(inherited_fds.end(), None).ok();
    reset_all();
    if std::process::id() == 1 {
        signals::keep_stops();
    }
    ignore_until_handled();
    StartContext {
        report: Report::to_stderr(),
        foreground: true,
        no_wait: options.no_wait,
        take_over: options.take_over,
        no_take_over: options.no_take_over,
        lost_state: None,
        kept_sockets: Vec::new(),
        hup_ignored,
        no_guardian: None,
        program: started_program(),
        activation_pid: std::process::id(),
        activation_sockets: inherited_fds.take(),
    }
}

/// The path by which this program was started: a symlink to it stays one, so that an upgrade follows it. To be called before
/// the working directory changes.
pub fn started_program() -> Option<PathBuf> {
    let name = PathBuf::from(std::env::args_os().next()?);
    let candidates = if name.components().count() > 1 {
        vec![std::path::absolute(&name).ok()?]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::env::split_paths(&path).map(|dir| dir.join(&name));
        all.filter(|path| path.is_absolute()).collect()
    };
    let own = std::env::current_exe().ok()?;
    let ours = |path: &PathBuf| path.canonicalize().is_ok_and(|real| real == own);
    Some(candidates.into_iter().find(ours).unwrap_or(own))
}

/// A master that goes on in a program that was executed by another one: what was set at the start is still in force, and is in the
/// saved state.
pub fn resumed(hup_ignored: bool) -> StartContext {
    StartContext {
        report: Report::to_stderr(),
        foreground: true,
        no_wait: true,
        take_over: false,
        no_take_over: false,
        lost_state: None,
        kept_sockets: Vec::new(),
        hup_ignored,
        activation_pid: std::process::id(),
        activation_sockets: Vec::new(),
        no_guardian: None,
        program: started_program(),
    }
}

/// `start`: fork, setsid, fork. The grandchild sets working directory and umask, opens /dev/null as descriptors 0 to 2,
/// closes every other one but the report's, and resets signal dispositions and mask as after a login.
///
/// The daemon is not a session leader, so that no terminal that it opens becomes its controlling terminal.
///
/// # Errors
/// In the launcher: those of pipe2(2) (EMFILE) and fork(2) (EAGAIN, ENOMEM). Errors in the daemon are sent by the report.
pub fn daemonize(plan: &Plan, options: StartOptions) -> io::Result<Side> {
    // Read before the fork: LISTEN_PID names this process, the daemon has another pid.
    let (inherited_fds, activation_pid) = (InheritedFds::find(), std::process::id());
    let program = started_program();
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    match fork()? {
        Fork::Parent { child } => {
            drop(write);
            // The process between the forks exits immediately; reaped, so that no zombie is left.
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).ok();
            Ok(Side::Launcher(LauncherEnd {
                pipe: File::from(read),
                log_file: log_file(plan).to_owned(),
                config: plan.config.clone(),
            }))
        }
        Fork::Child => {
            drop(read);
            setsid().ok();
            match fork() {
                Ok(Fork::Parent { .. }) => exit_now(ExitCode::DONE.number().into()),
                Ok(Fork::Child) => become_daemon(
                    plan,
                    options,
                    Report::to_launcher(write)?,
                    inherited_fds,
                    (program, activation_pid),
                ),
                Err(error) => {
                    Report::to_launcher(write)?.finish(
                        ExitCode::FAILED,
                        &format!("failed to fork the master: {error}"),
                    );
                    exit_now(ExitCode::FAILED.number().into())
                }
            }
        }
    }
}

fn become_daemon(
    plan: &Plan,
    options: StartOptions,
    report: Report,
    inherited_fds: InheritedFds,
    (program, activation_pid): (Option<PathBuf>, u32),
) -> io::Result<Side> {
    if let Err((what, error)) = set_up_process(plan, &report, &inherited_fds) {
        report.finish(
            ExitCode::FAILED,
            &format!("failed to {what}: {error}; nothing was started"),
        );
        exit_now(ExitCode::FAILED.number().into());
    }
    Ok(Side::Master(StartContext {
        report,
        foreground: false,
        no_wait: options.no_wait,
        take_over: options.take_over,
        no_take_over: options.no_take_over,
        lost_state: None,
        kept_sockets: Vec::new(),
        hup_ignored: false,
        no_guardian: None,
        program,
        activation_pid,
        activation_sockets: inherited_fds.take(),
    }))
}

fn set_up_process(
    plan: &Plan,
    report: &Report,
    inherited_fds: &InheritedFds,
) -> Result<(), (String, io::Error)> {
    let dir = &plan.master.working_directory;
    let failed_to = |what: &str| {
        let what = what.to_owned();
        move |error| (what, error)
    };
    close_all_but(inherited_fds.end(), report.descriptor())
        .map_err(failed_to("close inherited descriptors"))?;
    redirect_to_null().map_err(failed_to("open /dev/null"))?;
    std::env::set_current_dir(dir).map_err(failed_to(&format!(
        "change to working_directory {}",
        dir.display()
    )))?;
    umask(Mode::from_bits_truncate(plan.master.umask));
    reset_all();
    ignore_until_handled();
    Ok(())
}

/// Opens /dev/null as descriptors 0 to 2. Not the log file: the master writes that itself, so that it can be reopened and a
/// full disk is handled.
fn redirect_to_null() -> io::Result<()> {
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

fn log_file(plan: &Plan) -> &Path {
    plan.master
        .log_file
        .as_deref()
        .unwrap_or(&plan.master.default_log_file)
}
