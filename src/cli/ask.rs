//! The verbs that ask the running master for something: stop, reload, roll, cancel.

use super::client::{Client, ClientError, Patience};
use super::{args, code, not_supported, print, seam};
use crate::control::wire::{Answer, Ask, Extent, Wait, Which};
use crate::os::interrupt::Interrupt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Finds the master of this configuration. The error is an exit code; what it means has been printed.
pub(super) fn peek(file: Option<&Path>) -> Result<seam::Peek, u8> {
    seam::find(file).and_then(|path| seam::peek(&path)).map_err(|message| {
        print::plain_error(&message);
        code::CONFIG
    })
}

/// Ctrl-C and a timeout detach: what the master has begun goes on.
pub(super) fn patience(timeout: Option<Duration>) -> Patience {
    let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    Patience { until, interrupt: Interrupt::on_ctrl_c().ok() }
}

pub(super) fn failed(error: &ClientError) -> u8 {
    print::error(&error.to_string());
    error.code()
}

/// Graceful stop, or fast with `now`. 0 also when nothing runs.
pub(super) fn stop(file: Option<&Path>, now: bool, timeout: Option<Duration>) -> u8 {
    let peek = match peek(file) {
        Ok(peek) => peek,
        Err(code) => return code,
    };
    let patience = patience(timeout);
    let mut client = match Client::connect(&peek.config, &peek.runtime_dir, &patience) {
        Ok(client) => client,
        Err(ClientError::Unreachable(_)) => {
            print::line(&format!("nothing is running for {}", peek.config.display()));
            return 0;
        }
        Err(error) => return failed(&error),
    };
    let done = converse(&mut client, Ask::Stop { pools: Vec::new(), now }, &patience).and_then(|(code, message)| {
        // A refusal (another's master, not permitted) leaves it running.
        if code == 0 || code == code::FAILED {
            client.wait_gone(&patience)?;
        }
        Ok((code, message))
    });
    finish(done)
}

/// `roll` and `reload`: they wait for the end unless told otherwise, with a line a worker.
pub(super) fn roll(file: Option<&Path>, which: args::Which, wait: args::Wait, reload: bool) -> u8 {
    if wait.drained {
        return not_supported("`--drained`");
    }
    if which.pools.iter().any(|pool| pool.contains('/')) {
        return not_supported("`POOL/SLOT` (replacing a single worker)");
    }
    let which = Which { pools: which.pools, workers: which.workers, tasks: which.tasks };
    let until = if wait.no_wait { Wait::No } else { Wait::Done };
    let ask = match reload {
        true => Ask::Reload { which, extent: Extent::Everything, wait: until },
        false => Ask::Roll { which, wait: until },
    };
    once(file, ask, wait.timeout)
}

/// Ends running rolling restarts.
pub(super) fn cancel(file: Option<&Path>, pools: Vec<String>) -> u8 {
    once(file, Ask::Cancel { pools }, None)
}

fn once(file: Option<&Path>, ask: Ask, timeout: Option<Duration>) -> u8 {
    let peek = match peek(file) {
        Ok(peek) => peek,
        Err(code) => return code,
    };
    let patience = patience(timeout);
    let done = Client::connect(&peek.config, &peek.runtime_dir, &patience)
        .and_then(|mut client| converse(&mut client, ask, &patience));
    finish(done)
}

/// Asks, prints the progress as it comes, and returns the end.
fn converse(client: &mut Client, ask: Ask, patience: &Patience) -> Result<(u8, String), ClientError> {
    client.ask(ask)?;
    loop {
        match client.answer(patience)? {
            Answer::Progress { text } => print::line(&print::harmless_lines(&text)),
            Answer::Done { code, message } => return Ok((code, message)),
            Answer::Status(_) => {}
        }
    }
}

fn finish(done: Result<(u8, String), ClientError>) -> u8 {
    match done {
        Err(error) => failed(&error),
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
