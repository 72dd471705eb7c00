//! Verbs about single pools: `stop POOL`, `start POOL`, `scale`, `signal`.

use super::args::Target;
use super::ask;
use crate::control::wire::{Method, ScaleTo, Wait};
use std::path::Path;
use std::time::Duration;

/// Stops these pools; the master and the other pools serve on.
pub(super) fn stop(file: Option<&Path>, pools: Vec<String>, now: bool, timeout: Option<Duration>) -> u8 {
    ask::once(file, Method::Stop { pools, now }, timeout)
}

/// Starts stopped pools again.
pub(super) fn start(file: Option<&Path>, pools: Vec<String>, no_wait: bool, timeout: Option<Duration>) -> u8 {
    let wait = if no_wait { Wait::No } else { Wait::Done };
    ask::once(file, Method::Start { pools, wait }, timeout)
}

pub(super) fn scale(file: Option<&Path>, pool: String, to: ScaleTo) -> u8 {
    ask::once(file, Method::Scale { pool, to }, None)
}

pub(super) fn signal(file: Option<&Path>, target: Target, signal: i32) -> u8 {
    ask::once(file, Method::Signal { pool: target.pool, slot: target.slot, signal }, None)
}
