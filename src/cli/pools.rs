//! Verbs for single pools: `stop POOL`, `start POOL`, `scale`, `signal`.

use super::args::Target;
use super::client::ClientError;
use super::{habits, print, request};
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
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let words = pools.clone();
    match request::ask(&paths, Method::Start { pools, wait }, timeout) {
        Err(ClientError::Unreachable(_)) => {
            if let Some(text) = words.iter().find_map(|word| habits::file(word, &[])) {
                print::error(&print::sanitize(text));
                return ExitCode::USAGE;
            }
            let config = paths.config.to_string_lossy();
            print::error(&format!(
                "no master runs for {config}: `rotad start -c {}` starts it with all of its pools",
                shell_words::quote(&config)
            ));
            ExitCode::NOT_FOUND
        }
        done => request::finish(done, &paths.config),
    }
}

/// What is said where a verb that takes whole pools is given one worker. `None`: it is not.
pub(super) fn slot_refused(verb: &str, pools: &[String]) -> Option<String> {
    let one = pools.iter().find(|name| {
        let slot = name.rsplit_once('/').map(|(_, slot)| slot);
        slot.is_some_and(|slot| slot.parse::<u32>().is_ok())
    })?;
    let pool = one.rsplit_once('/').map_or("", |(pool, _)| pool);
    let (one, pool) = (shell_words::quote(one), shell_words::quote(pool));
    let also = match verb {
        "stop" => format!("; `rotad scale {pool} -1` takes one away"),
        "start" => format!("; `rotad scale {pool} +1` adds one"),
        "scale" => format!("; `rotad scale {pool} N` changes their number"),
        "status" => format!("; `rotad status {pool}` shows each of its workers"),
        _ => String::new(),
    };
    Some(format!(
        "`{verb}` takes whole pools; `rotad roll {one}` replaces one worker{also}"
    ))
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
