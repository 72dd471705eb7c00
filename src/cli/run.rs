//! `run` and `start`: this process becomes the master, or launches one.

use super::{client, code, print, seam};
use crate::daemon::{self, Side, StartOptions};
use crate::event_loop::clock::Deadline;
use crate::plan::Plan;
use std::path::Path;
use std::time::Duration;

/// Runs the master in the foreground.
pub(super) fn run(file: Option<&Path>, no_take_over: bool, hup_ignored: bool) -> u8 {
    let launch = daemon::foreground(
        StartOptions {
            no_wait: false,
            no_take_over,
        },
        hup_ignored,
    );
    match load(file) {
        Ok(plan) => seam::serve(plan, launch),
        Err(code) => code,
    }
}

/// Options of `start`.
pub(super) struct Start {
    pub(super) no_wait: bool,
    pub(super) no_take_over: bool,
    pub(super) timeout: Option<Duration>,
}

/// Starts the master in the background. The configuration is read here, so that findings come before anything is
/// started.
pub(super) fn start(file: Option<&Path>, how: Start, hup_ignored: bool) -> u8 {
    let plan = match load(file) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let wish = StartOptions {
        no_wait: how.no_wait,
        no_take_over: how.no_take_over,
    };
    let until = how.timeout.and_then(Deadline::checked_after);
    if !plan.master.daemonize {
        return seam::serve(plan, daemon::foreground(wish, hup_ignored));
    }
    match daemon::daemonize(&plan, wish) {
        Ok(Side::Launcher(end)) => end.wait(until),
        Ok(Side::Master(launch)) => seam::serve(plan, launch),
        Err(error) => {
            print::error(&format!(
                "failed to launch the master: {error}; nothing was started"
            ));
            code::FAILED
        }
    }
}

fn load(file: Option<&Path>) -> Result<Plan, u8> {
    let path = seam::find(file).map_err(|message| {
        print::error(&message);
        code::CONFIG
    })?;
    if let Some(message) = seam::peek(&path)
        .ok()
        .as_ref()
        .and_then(client::runs_elsewhere)
    {
        print::error(&message);
        return Err(code::RUNNING);
    }
    let (plan, warnings) = seam::load(&path).map_err(|findings| {
        print::plain_error(&findings);
        code::CONFIG
    })?;
    if !warnings.is_empty() {
        print::plain_error(&warnings);
    }
    Ok(plan)
}
