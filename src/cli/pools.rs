//! Verbs for single pools: `stop POOL`, `start POOL`, `scale`, `signal`.

use super::args::Target;
use super::request;
use crate::control::protocol::{Method, ScaleTo, Wait};
use crate::exit_code::ExitCode;
use std::path::Path;
use std::time::Duration;

/// Stops these pools; the master and other pools keep running.
pub(super) fn stop(
    file: Option<&Path>,
    pools: Vec<String>,
    now: bool,
    timeout: Option<Duration>,
) -> ExitCode {
    request::once(file, Method::Stop { pools, now }, timeout)
}

/// Starts stopped pools again.
pub(super) fn start(
    file: Option<&Path>,
    pools: Vec<String>,
    no_wait: bool,
    timeout: Option<Duration>,
) -> ExitCode {
    let wait = if no_wait { Wait::No } else { Wait::Done };
    request::once(file, Method::Start { pools, wait }, timeout)
}

pub(super) fn scale(file: Option<&Path>, pool: String, to: ScaleTo) -> ExitCode {
    request::once(file, Method::Scale { pool, to }, None)
}

pub(super) fn signal(file: Option<&Path>, target: Target, signal: i32) -> ExitCode {
    request::once(
        file,
        Method::Signal {
            pool: target.pool,
            slot: target.slot,
            signal,
        },
        None,
    )
}
