//! Daemonizes the master (daemon(7)), and records how it was started.

mod startup_report;

use crate::event_loop::signals;
use crate::listener::{ActivationSocket, InheritedFds};
use crate::plan::Plan;
use crate::sys::descriptors::close_all_but;
use crate::sys::fork::{Fork, exit_now, fork};
use crate::sys::signal::{ignore_until_handled, reset_all};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};
pub use startup_report::{LauncherEnd, Report};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// How the master was started, for its main loop.
#[derive(Debug)]
pub struct StartContext {
    /// The launcher that waits for the result of the start.
    pub report: Report,
    /// `run`: the log may go to stderr, and the terminal may be ours.
    pub foreground: bool,
    /// `start --no-wait`: report as soon as sockets and pid file exist.
    pub no_wait: bool,
    /// Refuse to start if a killed master has left workers, instead of stopping them first.
    pub no_take_over: bool,
    /// nohup(1) and the like want HUP to stay ignored. Never for a daemon, which has no terminal to lose.
    pub hup_ignored: bool,
    /// The process that was started, to which the service manager addressed its sockets: a daemon has another pid.
    pub started_as: u32,
    /// Sockets from the service manager.
    pub passed: Vec<ActivationSocket>,
}

/// What the command line asks of a start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    pub no_wait: bool,
    pub no_take_over: bool,
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The command that was typed: waits for the report.
    Launcher(LauncherEnd),
    /// The daemon: becomes the master.
    Master(StartContext),
}

/// `run`: this process becomes the master where it stands. Descriptors that we did not ask for are closed, and what a
/// careless parent ignored or blocked is undone; until the master's own handlers stand nothing meant for it kills it.
///
/// To be called before anything else opens a descriptor. `hup_ignored`: as found when the process started.
pub fn foreground(wish: Wish, hup_ignored: bool) -> StartContext {
    let handed = InheritedFds::find();
    // Without close_range and without /proc there is nothing to go by, and everything that we open is close-on-exec.
    close_all_but(handed.end(), None).ok();
    reset_all();
    if std::process::id() == 1 {
        signals::keep_stops();
    }
    ignore_until_handled();
    StartContext {
        report: Report::to_stderr(),
        foreground: true,
        no_wait: wish.no_wait,
        no_take_over: wish.no_take_over,
        hup_ignored,
        started_as: std::process::id(),
        passed: handed.take(),
    }
}

/// `start`: fork, setsid, fork, and in the grandchild: working directory, umask, descriptors 0 to 2 on /dev/null,
/// every other one closed but the report's, dispositions and mask as in a fresh login.
///
/// The daemon is no session leader, so that no terminal it opens can become its own.
///
/// # Errors
/// In the launcher only: pipe2(2), fork(2). What fails in the daemon comes through the report.
pub fn daemonize(plan: &Plan, wish: Wish) -> io::Result<Side> {
    // The daemon has another pid than the one that the sockets are meant for.
    let (handed, started_as) = (InheritedFds::find(), std::process::id());
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    match fork()? {
        Fork::Parent { child } => {
            drop(write);
            // The one in between leaves at once; reaped, so that no zombie of ours is left to the daemon's name.
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
                Ok(Fork::Parent { .. }) => exit_now(0),
                Ok(Fork::Child) => {
                    become_daemon(plan, wish, Report::to_launcher(write)?, handed, started_as)
                }
                Err(error) => {
                    Report::to_launcher(write)?
                        .finish(1, &format!("failed to fork the master: {error}"));
                    exit_now(1)
                }
            }
        }
    }
}

fn become_daemon(
    plan: &Plan,
    wish: Wish,
    report: Report,
    handed: InheritedFds,
    started_as: u32,
) -> io::Result<Side> {
    if let Err((what, error)) = settle_down(plan, &report, &handed) {
        report.finish(
            1,
            &format!("failed to {what}: {error}; nothing was started"),
        );
        exit_now(1);
    }
    Ok(Side::Master(StartContext {
        report,
        foreground: false,
        no_wait: wish.no_wait,
        no_take_over: wish.no_take_over,
        hup_ignored: false,
        started_as,
        passed: handed.take(),
    }))
}

fn settle_down(
    plan: &Plan,
    report: &Report,
    handed: &InheritedFds,
) -> Result<(), (String, io::Error)> {
    let folder = &plan.master.working_directory;
    let said = |what: &str| {
        let what = what.to_owned();
        move |error| (what, error)
    };
    close_all_but(handed.end(), report.descriptor())
        .map_err(said("close inherited descriptors"))?;
    onto_null().map_err(said("open /dev/null"))?;
    std::env::set_current_dir(folder).map_err(said(&format!(
        "change to working_directory {}",
        folder.display()
    )))?;
    umask(Mode::from_bits_truncate(plan.master.umask));
    reset_all();
    ignore_until_handled();
    Ok(())
}

/// Not the log: the master writes that itself, so that it can be reopened and a full disk be handled.
fn onto_null() -> io::Result<()> {
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
