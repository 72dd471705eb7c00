//! `reload`, `roll`, `rollback`, `cancel`: replace workers.

use super::args::{self, Target};
use super::client::Client;
use super::{print, request, status};
use crate::config::MasterPaths;
use crate::control::pool_names::{ALL, Pools, is_pattern};
use crate::control::protocol::{Method, ReloadScope, Response, Selector, Wait};
use crate::exit_code::ExitCode;
use std::path::Path;

/// When the final response is sent.
pub(super) fn until(wait: &args::Wait) -> Wait {
    match (wait.no_wait, wait.drained) {
        (true, _) => Wait::No,
        (false, true) => Wait::Drained,
        (false, false) => Wait::Done,
    }
}

/// Reads the configuration, applies what changed, and rolls these pools.
pub(super) fn reload(
    file: Option<&Path>,
    which: args::Selector,
    config_only: bool,
    dry_run: bool,
    wait: &args::Wait,
) -> ExitCode {
    let extent = match (config_only, dry_run) {
        (true, _) => ReloadScope::ConfigOnly,
        (_, true) => ReloadScope::DryRun,
        _ => ReloadScope::Everything,
    };
    request::once(
        file,
        Method::Reload {
            which: which.into(),
            extent,
            wait: until(wait),
        },
        wait.timeout,
    )
}

/// Prints what a reload would do as JSON, on stdout alone; warnings of the configuration go to stderr.
pub(super) fn dry_run_json(
    file: Option<&Path>,
    which: args::Selector,
    wait: &args::Wait,
) -> ExitCode {
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let limits = request::limits(wait.timeout);
    let ask = || {
        let mut client = Client::connect(&paths, &limits)?;
        client.send(Method::Reload {
            which: which.into(),
            extent: ReloadScope::DryRunJson,
            wait: until(wait),
        })?;
        loop {
            match client.next_response(&limits)? {
                Response::Done { code, message } => return Ok((code, message)),
                Response::Progress { text } => print::plain_error(&text),
                _ => {}
            }
        }
    };
    match ask() {
        Ok((ExitCode::DONE, json)) => {
            print::raw(&format!("{}\n", print::sanitize_json(&json)));
            ExitCode::DONE
        }
        done => request::finish(done, &paths.config),
    }
}

/// Rolls pools, or replaces single workers one after another. Mixing both is refused, since their order would be
/// unclear.
pub(super) fn roll(file: Option<&Path>, which: args::Selector, wait: &args::Wait) -> ExitCode {
    let targets = match slots(&which) {
        Ok(Some(targets)) => targets,
        Ok(None) => {
            return request::once(
                file,
                Method::Roll {
                    which: which.into(),
                    wait: until(wait),
                },
                wait.timeout,
            );
        }
        Err(error) => {
            print::error(&error);
            return ExitCode::USAGE;
        }
    };
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let targets = match named(&paths, targets) {
        Ok(targets) => targets,
        Err((code, message)) => {
            print::error(&message);
            return code;
        }
    };
    for (pool, slot) in targets {
        let code = request::once_with(
            &paths,
            Method::Replace {
                pool,
                slot,
                wait: until(wait),
            },
            wait.timeout,
        );
        // The workers that follow were named on the assumption that this replacement succeeds.
        if code != ExitCode::DONE {
            return code;
        }
    }
    ExitCode::DONE
}

/// The single workers that are named, if any are.
///
/// Errors: what is printed.
pub(super) fn slots(which: &args::Selector) -> Result<Option<Vec<(String, u32)>>, String> {
    let slots = which.pools.iter().filter(|name| name.contains('/')).count();
    if slots == 0 {
        return Ok(None);
    }
    if slots < which.pools.len() || which.workers || which.tasks {
        return Err(
            "either whole pools or single workers (POOL/SLOT), not both: roll them one after another"
                .to_owned(),
        );
    }
    let mut targets = Vec::new();
    for name in &which.pools {
        let Target { pool, slot } = name.parse()?;
        targets.extend(slot.map(|slot| (pool, slot)));
    }
    Ok(Some(targets))
}

/// The same workers, each by the name of its pool. Only patterns and `all` need the master for that.
///
/// Errors: the exit code and what is printed.
fn named(
    paths: &MasterPaths,
    targets: Vec<(String, u32)>,
) -> Result<Vec<(String, u32)>, (ExitCode, String)> {
    if !targets
        .iter()
        .any(|(pool, _)| pool == ALL || is_pattern(pool))
    {
        return Ok(targets);
    }
    let status = match status::fetch(paths) {
        Ok(status) => status?,
        Err(error) => return Err((error.code(), error.to_string())),
    };
    let names = status::pool_names(&status);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let every = || names.iter().map(ToString::to_string).collect();
    let mut named = Vec::new();
    for (pool, slot) in targets {
        let pools = Pools::new(&names)
            .expand(&[pool])
            .map_err(|message| (ExitCode::NOT_FOUND, print::sanitize_lines(&message)))?
            .unwrap_or_else(every);
        named.extend(pools.into_iter().map(|pool| (pool, slot)));
    }
    Ok(named)
}

/// Rolls back to the previous generation, or to another one.
pub(super) fn rollback(
    file: Option<&Path>,
    pools: Vec<String>,
    to: Option<u32>,
    dry_run: bool,
    wait: &args::Wait,
) -> ExitCode {
    request::once(
        file,
        Method::Rollback {
            pools,
            to,
            dry_run,
            wait: until(wait),
        },
        wait.timeout,
    )
}

/// Cancels running rolling restarts.
pub(super) fn cancel(file: Option<&Path>, pools: Vec<String>) -> ExitCode {
    request::once(file, Method::Cancel { pools }, None)
}

impl From<args::Selector> for Selector {
    fn from(which: args::Selector) -> Self {
        Self {
            pools: which.pools,
            workers: which.workers,
            tasks: which.tasks,
        }
    }
}
