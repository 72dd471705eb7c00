//! What the verbs that ask the running master share: finding it, asking, progress, and the end in words and code.

use super::client::{Client, ClientError, WaitLimits};
use super::progress::Progress;
use super::{code, print, seam};
use crate::control::wire::{Method, Response};
use crate::event_loop::signal_pipe::SignalPipe;
use std::path::Path;
use std::time::{Duration, Instant};

/// Finds the master of this configuration. The error is an exit code; what it means has been printed.
pub(super) fn peek(file: Option<&Path>) -> Result<seam::MasterPaths, u8> {
    seam::meant(file).and_then(|path| seam::peek(&path)).map_err(|message| {
        print::plain_error(&message);
        code::CONFIG
    })
}

/// Ctrl-C and a timeout detach: what the master has begun goes on.
pub(super) fn patience(timeout: Option<Duration>) -> WaitLimits {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    WaitLimits { until, interrupt: SignalPipe::on_ctrl_c().ok(), watches_reader: false }
}

/// For what goes on until Ctrl-C, or until nobody reads any more.
pub(super) fn endless() -> WaitLimits {
    let signals = [nix::libc::SIGINT, nix::libc::SIGTERM];
    WaitLimits { until: None, interrupt: SignalPipe::on(&signals).ok(), watches_reader: true }
}

/// Asks one question, prints the progress, and returns the exit code with what it means printed.
pub(super) fn once(file: Option<&Path>, ask: Method, timeout: Option<Duration>) -> u8 {
    match peek(file) {
        Ok(peek) => once_of(&peek, ask, timeout),
        Err(code) => code,
    }
}

/// The same for a master that has been found.
pub(super) fn once_of(peek: &seam::MasterPaths, ask: Method, timeout: Option<Duration>) -> u8 {
    let patience = patience(timeout);
    let done = Client::connect(peek, &patience).and_then(|mut client| converse(&mut client, ask, &patience));
    finish(done, &peek.config)
}

/// Graceful stop of everything, or fast with `now`. 0 also when it is known that nothing runs.
pub(super) fn stop(file: Option<&Path>, now: bool, timeout: Option<Duration>) -> u8 {
    let peek = match peek(file) {
        Ok(peek) => peek,
        Err(code) => return code,
    };
    let patience = patience(timeout);
    let done = Client::connect(&peek, &patience).and_then(|mut client| {
        let (code, message) = converse(&mut client, Method::Stop { pools: Vec::new(), now }, &patience)?;
        // A refusal (another's master, not permitted) leaves it running.
        if code == 0 || code == code::FAILED {
            client.wait_gone(&patience)?;
        }
        Ok((code, message))
    });
    match done {
        Err(ClientError::Unreachable(_)) => {
            print::line(&format!("nothing is running for {}", peek.config.display()));
            0
        }
        Err(error @ ClientError::Unsure { .. }) => {
            failed(&error, &peek.config);
            code::FAILED
        }
        done => finish(done, &peek.config),
    }
}

/// Asks, prints the progress as it comes, and returns the end.
fn converse(client: &mut Client, ask: Method, patience: &WaitLimits) -> Result<(u8, String), ClientError> {
    client.ask(ask)?;
    let progress = Progress::on_stdout();
    loop {
        match client.answer(patience)? {
            Response::Done { code, message } => return Ok((code, message)),
            answer => print::raw(&progress.line(&answer)),
        }
    }
}

pub(super) fn finish(done: Result<(u8, String), ClientError>, config: &Path) -> u8 {
    match done {
        Err(error) => failed(&error, config),
        Ok((code, message)) => {
            let message = print::harmless_lines(&message);
            match (code, message.is_empty()) {
                (_, true) => {}
                (0, false) => print::line(&message),
                (_, false) => print::error(&message),
            }
            code
        }
    }
}

/// Where the log of a master of this configuration is.
pub(super) fn log_file(peek: &seam::MasterPaths) -> String {
    match &peek.log_file {
        Some(file) => file.display().to_string(),
        None => format!("{} (or went to the stderr of `rotad run`)", peek.default_log_file.display()),
    }
}

/// Says why there is no answer; whoever detaches is told that the work goes on, and how to look at it.
pub(super) fn failed(error: &ClientError, config: &Path) -> u8 {
    match error {
        ClientError::TimedOut | ClientError::Detached => print::error(&format!(
            "{error}; the work goes on: `rotad status -c {}` shows it",
            shell_words::quote(&config.to_string_lossy())
        )),
        ClientError::Unread => {}
        other => print::error(&other.to_string()),
    }
    error.code()
}
