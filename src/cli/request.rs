//! Shared by the verbs that send a request to the running master: find it, send the request, show progress, print the
//! result and return the exit code.

use super::client::{Client, ClientError, WaitLimits};
use super::live::Live;
use super::print;
use super::progress::Progress;
use crate::config::{self, MasterPaths};
use crate::control::protocol::{Method, Response};
use crate::daemon::WhileWaiting;
use crate::event_loop::clock::Deadline;
use crate::event_loop::signal_pipe::SignalPipe;
use crate::exit_code::ExitCode;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Finds the master of this configuration, as every verb does.
///
/// # Errors
/// The exit code; the reason has been printed.
pub fn master_paths(file: Option<&Path>) -> Result<MasterPaths, ExitCode> {
    config::meant(file)
        .map_err(|error| error.to_string())
        .and_then(|path| paths_of(&path))
        .map_err(|message| {
            print::error(&message);
            ExitCode::CONFIG
        })
}

/// The master that a configuration file belongs to, even if the file is broken.
///
/// Errors: the path is not valid UTF-8, so it identifies no master.
pub(super) fn paths_of(path: &Path) -> Result<MasterPaths, String> {
    config::unnameable(path).map_or_else(|| Ok(config::peek(path)), Err)
}

/// A master that does not answer within this time counts as unreachable.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for what the master answers at once, and returns that, or its refusal.
pub(super) fn one_answer<T>(
    paths: &MasterPaths,
    method: Method,
    take: impl Fn(Response) -> Option<T>,
) -> Result<Result<T, (ExitCode, String)>, ClientError> {
    let limits = WaitLimits {
        until: Some(Deadline::after(ANSWER_TIMEOUT)),
        ..WaitLimits::default()
    };
    let mut client = Client::connect(paths, &limits)?;
    client.send(method)?;
    loop {
        match client.next_response(&limits) {
            Ok(Response::Done { code, message }) => return Ok(Err((code, message))),
            Ok(response) => {
                if let Some(answer) = take(response) {
                    return Ok(Ok(answer));
                }
            }
            Err(ClientError::TimedOut) => {
                return Err(ClientError::Failed(format!(
                    "the master did not answer within {ANSWER_TIMEOUT:?}"
                )));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ctrl-C and a timeout detach: the work that the master has begun continues.
pub(super) fn limits(timeout: Option<Duration>) -> WaitLimits {
    let until = timeout.and_then(Deadline::checked_after);
    WaitLimits {
        until,
        interrupt: SignalPipe::on_ctrl_c().ok(),
        watches_reader: false,
    }
}

/// For commands that run until Ctrl-C or until their output is closed.
pub(super) fn until_interrupted() -> WaitLimits {
    let signals = [nix::libc::SIGINT, nix::libc::SIGTERM];
    WaitLimits {
        until: None,
        interrupt: SignalPipe::on(&signals).ok(),
        watches_reader: true,
    }
}

/// Sends one request, prints progress, and returns the exit code after printing its message.
pub(super) fn once(file: Option<&Path>, method: Method, timeout: Option<Duration>) -> ExitCode {
    match master_paths(file) {
        Ok(paths) => once_with(&paths, method, timeout),
        Err(code) => code,
    }
}

/// The same with a master that was already found.
pub(super) fn once_with(
    paths: &MasterPaths,
    method: Method,
    timeout: Option<Duration>,
) -> ExitCode {
    finish(ask(paths, method, timeout), &paths.config)
}

/// Sends one request, prints progress, and returns the final response.
pub(super) fn ask(
    paths: &MasterPaths,
    method: Method,
    timeout: Option<Duration>,
) -> Result<(ExitCode, String), ClientError> {
    let limits = limits(timeout);
    Client::connect(paths, &limits)
        .and_then(|mut client| exchange(&mut client, paths, method, &limits))
}

/// Has the master be replaced by another program.
pub(super) fn upgrade(
    file: Option<&Path>,
    to: Option<PathBuf>,
    timeout: Option<Duration>,
) -> ExitCode {
    // The master has another working directory.
    let to = to.map(|path| std::path::absolute(&path).unwrap_or(path));
    once(file, Method::Upgrade { to }, timeout)
}

/// Has the master try a hook.
pub(super) fn hook(file: Option<&Path>, name: String) -> ExitCode {
    once(file, Method::Hook { name }, None)
}

/// Stops everything, gracefully or, with `now`, by SIGKILL. Returns 0 also if certainly nothing is running.
pub(super) fn stop(file: Option<&Path>, now: bool, timeout: Option<Duration>) -> ExitCode {
    let paths = match master_paths(file) {
        Ok(paths) => paths,
        Err(code) => return code,
    };
    let limits = limits(timeout);
    let done = Client::connect(&paths, &limits).and_then(|mut client| {
        let (code, message) = exchange(
            &mut client,
            &paths,
            Method::Stop {
                pools: Vec::new(),
                now,
            },
            &limits,
        )?;
        // After a refusal (another configuration's master, not permitted) it keeps running.
        if code == ExitCode::DONE || code == ExitCode::FAILED {
            client.wait_gone(&limits)?;
        }
        Ok((code, message))
    });
    match done {
        Err(ClientError::Unreachable(_)) => {
            print::line(&format!(
                "nothing is running for {}",
                paths.config.display()
            ));
            ExitCode::DONE
        }
        Err(error @ ClientError::Uncertain { .. }) => {
            failed(&error, &paths.config);
            ExitCode::FAILED
        }
        done => finish(done, &paths.config),
    }
}

/// Sends a request, prints progress as it arrives, and returns the final response. On a terminal it shows meanwhile what
/// is in progress.
fn exchange(
    client: &mut Client,
    paths: &MasterPaths,
    method: Method,
    limits: &WaitLimits,
) -> Result<(ExitCode, String), ClientError> {
    let mut live = waited_for(&method).map_or_else(Live::nothing, |pools| Live::new(paths, pools));
    client.send(method)?;
    let progress = Progress::on_stdout();
    loop {
        match client.next_response_until(limits, live.next(), live.wake())? {
            None => live.show(),
            Some(Response::Done { code, message }) => return Ok((code, message)),
            Some(answer) => {
                live.clear();
                print::raw(&progress.line(&answer));
            }
        }
    }
}

/// The pools that a request is about, all if none is named; None: it is answered at once.
fn waited_for(method: &Method) -> Option<Vec<String>> {
    match method {
        Method::Stop { pools, .. }
        | Method::Start { pools, .. }
        | Method::Rollback { pools, .. }
        | Method::Cancel { pools } => Some(pools.clone()),
        Method::Roll { which, .. } | Method::Reload { which, .. } => Some(which.pools.clone()),
        Method::Replace { pool, .. } | Method::Scale { pool, .. } => Some(vec![pool.clone()]),
        Method::Where
        | Method::Status
        | Method::Metrics
        | Method::ScrapeTargets
        | Method::InProgress { .. }
        | Method::Upgrade { .. }
        | Method::Hook { .. }
        | Method::Signal { .. }
        | Method::Logs { .. }
        | Method::Events { .. } => None,
    }
}

pub(super) fn finish(done: Result<(ExitCode, String), ClientError>, config: &Path) -> ExitCode {
    let (code, text) = outcome(done, config);
    match (code, text.is_empty()) {
        (_, true) => {}
        (ExitCode::DONE, false) => print::line(&text),
        (_, false) => print::plain_error(&text),
    }
    code
}

/// The exit code of a request and what is printed at its end, sanitized; empty: nothing. It goes to stdout if the code is
/// [`ExitCode::DONE`].
pub fn outcome(done: Result<(ExitCode, String), ClientError>, config: &Path) -> (ExitCode, String) {
    let (code, message) = match done {
        Err(error) => (error.code(), reason(&error, config)),
        Ok(done) => done,
    };
    let message = print::sanitize_lines(&message);
    match (code, message.is_empty()) {
        (ExitCode::DONE, _) | (_, true) => (code, message),
        (_, false) => (code, format!("rotad: {message}")),
    }
}

/// Where the log of this configuration's master is.
pub(super) fn log_file(paths: &MasterPaths) -> String {
    match &paths.log_file {
        Some(file) => file.display().to_string(),
        None => format!(
            "{} (or went to the stderr of `rotad run`)",
            paths.default_log_file.display()
        ),
    }
}

/// Prints why there is no answer.
pub(super) fn failed(error: &ClientError, config: &Path) -> ExitCode {
    finish(Err(error.clone()), config)
}

/// Why there is no answer; after detaching, also that the work continues and how to follow it.
fn reason(error: &ClientError, config: &Path) -> String {
    match error {
        ClientError::TimedOut | ClientError::Detached => format!(
            "{error}; the work goes on: `rotad status -c {}` shows it",
            shell_words::quote(&config.to_string_lossy())
        ),
        ClientError::OutputClosed => String::new(),
        other => other.to_string(),
    }
}
