//! `run` and `start`: this process becomes the master, or launches one.

use super::live::Live;
use super::{check, client, print, request};
use crate::config::{self, Loaded};
use crate::daemon::{self, Side, StartContext, StartOptions};
use crate::event_loop::clock::Deadline;
use crate::exit_code::ExitCode;
use crate::guardian::{self, SharedState};
use crate::plan::{Plan, PoolPlan, Sink};
use crate::supervisor;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Runs the master in the foreground.
pub(super) fn run(
    file: Option<&Path>,
    take_over: bool,
    no_take_over: bool,
    hup_ignored: bool,
) -> ExitCode {
    let context = daemon::foreground(
        StartOptions {
            no_wait: false,
            take_over,
            no_take_over,
        },
        hup_ignored,
    );
    match load(file) {
        Ok(plan) => serve(plan, context),
        Err(code) => code,
    }
}

/// Options of `start`.
pub(super) struct Start {
    pub(super) no_wait: bool,
    pub(super) take_over: bool,
    pub(super) no_take_over: bool,
    pub(super) timeout: Option<Duration>,
}

/// Starts the master in the background. The configuration is read here, so that findings come before anything is
/// started.
pub(super) fn start(file: Option<&Path>, options: Start, hup_ignored: bool) -> ExitCode {
    let plan = match load(file) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let start_options = StartOptions {
        no_wait: options.no_wait,
        take_over: options.take_over,
        no_take_over: options.no_take_over,
    };
    let until = options.timeout.and_then(Deadline::checked_after);
    for message in lost_output(&plan) {
        print::warning(&message);
    }
    if !plan.master.daemonize {
        return serve(plan, daemon::foreground(start_options, hup_ignored));
    }
    match daemon::daemonize(&plan, start_options) {
        Ok(Side::Launcher(end)) => {
            let paths = request::paths_of(&plan.config).ok();
            let live = paths.map(|paths| Live::new(&paths, Vec::new()));
            end.wait(until, &mut live.unwrap_or_else(Live::nothing))
        }
        Ok(Side::Master(context)) => serve(plan, context),
        Err(error) => {
            print::error(&format!(
                "failed to launch the master: {error}; nothing was started"
            ));
            ExitCode::FAILED
        }
    }
}

/// Which pools of a daemonized master print into nothing: its own output is /dev/null.
pub(super) fn lost_output(plan: &Plan) -> Vec<String> {
    let inherits = |pool: &&PoolPlan| {
        plan.master.daemonize && [&pool.log.stdout, &pool.log.stderr].contains(&&Sink::Inherit)
    };
    let message = |pool: &PoolPlan| {
        format!(
            "pool {}: \"inherit\" is the master's own output, which is /dev/null with `rotad start`: what its workers print is \
             lost there; name a file or \"master\", or write daemonize = false if it is run by `rotad run` alone",
            pool.name
        )
    };
    plan.pools.iter().filter(inherits).map(message).collect()
}

fn load(file: Option<&Path>) -> Result<Plan, ExitCode> {
    let path = config::find(file).map_err(|error| {
        print::error(&error.to_string());
        ExitCode::CONFIG
    })?;
    if let Some(message) = request::paths_of(&path)
        .ok()
        .as_ref()
        .and_then(client::runs_elsewhere)
    {
        print::error(&message);
        return Err(ExitCode::ALREADY_RUNNING);
    }
    match config::load_found(file, &path) {
        Ok(Loaded { plan, warnings }) => {
            check::show(&warnings);
            Ok(plan)
        }
        Err(findings) => {
            check::show(&findings);
            Err(ExitCode::CONFIG)
        }
    }
}

/// Runs the master until its last worker is gone, below a guardian unless the configuration or the system does without.
/// Returns its exit code.
fn serve(plan: Plan, mut context: StartContext) -> ExitCode {
    let reader = Arc::new(load_for_log);
    if !plan.master.guardian {
        return supervisor::serve(plan, context, reader, None);
    }
    supervisor::prepare_fd_table(&plan);
    match guardian::guard(context.hup_ignored, &plan.master.name) {
        Ok(guardian::Side::Guardian(code)) => {
            // The master has closed the descriptors in it, or will: they are shared.
            let _ = ManuallyDrop::new((plan, context));
            code
        }
        Ok(guardian::Side::Master(link, state)) => {
            let link = Arc::new(link);
            let code = supervisor::serve(plan, context, reader, Some((link.clone(), state)));
            link.end(code);
            code
        }
        Err(error) => {
            context.no_guardian = Some(error.to_string());
            supervisor::serve(plan, context, reader, None)
        }
    }
}

/// Goes on as the guardian that this program was executed to be, or as its master. `file`: the configuration, as the
/// command line has it.
pub(super) fn resume(
    side: io::Result<guardian::Side>,
    file: impl FnOnce() -> Option<PathBuf>,
) -> ExitCode {
    match side {
        Ok(guardian::Side::Guardian(code)) => code,
        Ok(guardian::Side::Master(link, state)) => {
            let context = daemon::resumed(state.hup_ignored());
            let link = Arc::new(link);
            let plan = || load(file().as_deref());
            let code =
                supervisor::resume(plan, context, Arc::new(load_for_log), (link.clone(), state));
            link.end(code);
            code
        }
        Err(error) => {
            print::error(&format!("cannot go on as the guardian: {error}"));
            ExitCode::FAILED
        }
    }
}

/// Prints whether this program could go on with the saved state that is its stdin.
pub(super) fn check_state() -> ExitCode {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let answer = supervisor::check_state(stdin.and_then(SharedState::of));
    match serde_json::to_string(&answer) {
        Ok(answer) => print::line(&answer),
        Err(error) => print::error(&error.to_string()),
    }
    ExitCode::DONE
}

/// Reads the configuration for a running master: the plan and its warnings, for the log.
///
/// Errors: the findings, without lines of the configuration.
fn load_for_log(path: &Path) -> Result<(Plan, String), String> {
    match config::load(path) {
        Ok(loaded) if loaded.warnings.is_empty() => Ok((loaded.plan, String::new())),
        Ok(loaded) => Ok((loaded.plan, loaded.warnings.for_log())),
        Err(findings) => Err(findings.for_log()),
    }
}
