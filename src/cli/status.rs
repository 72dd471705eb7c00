//! `status`: prints the table or JSON, or only returns an exit code for scripts.

use super::args::StatusArgs;
use super::client::ClientError;
use super::table::{self, TableStyle};
use super::{layout, print, request};
use crate::config::MasterPaths;
use crate::control::pool_names::{ALL, Pools};
use crate::control::protocol::{Method, Response};
use crate::exit_code::ExitCode;
use crate::observe::sanitize::sanitize_json;
use crate::observe::status::{PoolState, PoolStatus, Status};
use nix::unistd::{Uid, User};
use std::path::Path;

/// Never starts anything. Without `--check` it returns 0 if there is something to show.
pub(super) fn status(file: Option<&Path>, args: &StatusArgs) -> ExitCode {
    let paths = match request::master_paths(file) {
        Ok(paths) => paths,
        // For a script, a master whose file cannot be found is unreachable.
        Err(_) if args.check => return ExitCode::NOT_FOUND,
        Err(code) => return code,
    };
    let status = match requested_status(&paths, args) {
        Ok(status) => status,
        Err((code, message)) => {
            print::error(&message);
            return if args.check {
                ExitCode::NOT_FOUND
            } else {
                code
            };
        }
    };
    print::raw(&render(
        &status,
        args,
        TableStyle {
            colour: print::colour(),
            width: layout::terminal_width(),
            rates: None,
            user: Some(user_name),
        },
    ));
    if args.check {
        check_code(&status.pools, names_pools(args), args.min_ready)
    } else {
        ExitCode::DONE
    }
}

/// The requested status, or an exit code and the reason.
pub(super) fn requested_status(
    paths: &MasterPaths,
    args: &StatusArgs,
) -> Result<Status, (ExitCode, String)> {
    let mut status = match fetch(paths) {
        Ok(Ok(status)) => status,
        Ok(Err((code, message))) => return Err((code, print::sanitize_lines(&message))),
        Err(error) => return Err((error.code(), error.to_string())),
    };
    let names = pool_names(&status);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let meant = Pools::new(&names)
        .expand(&args.pools)
        .map_err(|message| (ExitCode::NOT_FOUND, print::sanitize_lines(&message)))?;
    if let Some(meant) = meant.filter(|meant| !meant.is_empty()) {
        status.pools.retain(|pool| meant.contains(&pool.name));
    }
    Ok(status)
}

/// The name of a user of this machine.
pub(super) fn user_name(uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
    Some(user.name)
}

/// The names of all pools, in the order of the configuration.
pub(super) fn pool_names(status: &Status) -> Vec<String> {
    let names = status.pools.iter().map(|pool| pool.name.clone());
    names.collect()
}

/// The status of the master, or its refusal.
///
/// # Errors
/// As [`super::client::Client::connect`]; `Failed`: the master did not answer within 10 s.
pub fn fetch(paths: &MasterPaths) -> Result<Result<Status, (ExitCode, String)>, ClientError> {
    request::one_answer(paths, Method::Status, |response| match response {
        Response::Status(status) => Some(*status),
        _ => None,
    })
}

/// As printed: JSON (on one line if it is printed repeatedly), the pools, or one pool's workers.
pub(super) fn render(status: &Status, args: &StatusArgs, style: TableStyle<'_>) -> String {
    if args.json {
        let print = if args.watch {
            serde_json::to_string
        } else {
            serde_json::to_string_pretty
        };
        // Numbers, strings and lists only: this cannot fail.
        return sanitize_json(&print(status).unwrap_or_default()) + "\n";
    }
    match status.pools.as_slice() {
        [pool] if names_pools(args) => table::workers(pool, style),
        _ => table::pools(status, style),
    }
}

/// Whether pools are named, by their names or by a pattern.
fn names_pools(args: &StatusArgs) -> bool {
    args.pools.iter().any(|word| word != ALL)
}

/// The exit code of `--check`. Pools stopped on purpose do not count, unless one was named or there are no others.
/// `min_ready`: this many ready workers, in all pools together or in the named one, are enough.
fn check_code(pools: &[PoolStatus], by_name: bool, min_ready: Option<u32>) -> ExitCode {
    let ready: u32 = pools.iter().map(|pool| pool.ready).sum();
    if min_ready.is_some_and(|enough| ready >= enough) {
        return ExitCode::DONE;
    }
    let worst = pools
        .iter()
        .filter(|pool| by_name || pool.state != PoolState::Stopped)
        .map(check_code_of)
        .reduce(ExitCode::worse);
    match worst {
        // Everything is fine, but more ready workers were required.
        Some(ExitCode::DONE) if min_ready.is_some() => ExitCode::FAILED,
        Some(code) => code,
        None => {
            if pools.is_empty() {
                ExitCode::DONE
            } else {
                ExitCode::STOPPED
            }
        }
    }
}

/// The pools for which `status --check` would fail, each with the reason on one line.
pub fn below_strength(status: &Status) -> Vec<String> {
    if check_code(&status.pools, false, None) == ExitCode::DONE {
        return Vec::new();
    }
    let is_below = |pool: &&PoolStatus| {
        let counts = pool.state != PoolState::Stopped
            || status
                .pools
                .iter()
                .all(|pool| pool.state == PoolState::Stopped);
        counts && check_code_of(pool) != ExitCode::DONE
    };
    status
        .pools
        .iter()
        .filter(is_below)
        .map(table::below_strength)
        .collect()
}

fn check_code_of(pool: &PoolStatus) -> ExitCode {
    match pool.state {
        PoolState::Done => ExitCode::DONE,
        PoolState::Stopped | PoolState::Failed => ExitCode::STOPPED,
        PoolState::CrashLoop if pool.ready == 0 => ExitCode::STOPPED,
        PoolState::Stopping => ExitCode::FAILED,
        _ if !pool.unserved.is_empty() => ExitCode::FAILED,
        _ if pool.ready >= pool.wanted => ExitCode::DONE,
        _ => ExitCode::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::{ReloadStatus, RollState};

    fn pool(state: PoolState, ready: u32, wanted: u32) -> PoolStatus {
        let reload = ReloadStatus {
            state: RollState::None,
            generation: 0,
            reason: None,
            replaced: 0,
            of: 0,
            took_s: 0.0,
        };
        let (name, kind) = ("p".to_owned(), "worker".to_owned());
        PoolStatus {
            name,
            kind,
            state,
            wanted,
            alive: ready,
            ready,
            generation: 1,
            reload,
            waits_for: vec![],
            unserved: vec![],
            scaled: false,
            outdated: 0,
            workers: vec![],
            last_deploy: None,
            uptime_s: None,
            listen: vec![],
            ports: None,
        }
    }

    #[test]
    fn the_verdict_of_a_check() {
        use PoolState::*;
        let ok = || pool(Ok, 4, 4);
        let cases = [
            (vec![ok()], false, None, ExitCode::DONE),
            (
                vec![ok(), pool(Starting, 1, 2)],
                false,
                None,
                ExitCode::FAILED,
            ),
            (
                vec![ok(), pool(Reloading, 3, 2)],
                false,
                None,
                ExitCode::DONE,
            ),
            (
                vec![ok(), pool(CrashLoop, 0, 2)],
                false,
                None,
                ExitCode::STOPPED,
            ),
            (
                vec![ok(), pool(CrashLoop, 1, 2)],
                false,
                None,
                ExitCode::FAILED,
            ),
            (
                vec![ok(), pool(Failed, 0, 2)],
                false,
                None,
                ExitCode::STOPPED,
            ),
            (vec![ok(), pool(Stopped, 0, 0)], false, None, ExitCode::DONE),
            (vec![pool(Stopped, 0, 0)], true, None, ExitCode::STOPPED),
            (vec![pool(Stopped, 0, 0)], false, None, ExitCode::STOPPED),
            (vec![pool(Done, 0, 0)], false, None, ExitCode::DONE),
            (vec![pool(Stopping, 2, 0)], false, None, ExitCode::FAILED),
            (vec![pool(Degraded, 3, 4)], true, Some(3), ExitCode::DONE),
            (vec![pool(Degraded, 3, 4)], true, Some(4), ExitCode::FAILED),
            (vec![ok()], true, Some(5), ExitCode::FAILED),
        ];
        for (pools, by_name, min_ready, code) in cases {
            assert_eq!(
                check_code(&pools, by_name, min_ready),
                code,
                "{pools:?} {min_ready:?}"
            );
        }
    }
}
