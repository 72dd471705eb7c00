//! `rotad __notify NAME=VALUE…`: sends assignments of sd_notify(3) to the master of the worker that calls it. The preload for
//! Node calls it, since Node has no datagram sockets of AF_UNIX.

use super::print;
use crate::exit_code::ExitCode;
use crate::guardian::ManagerSocket;

/// How the verb is spelled; it is in no help text.
pub(super) const VERB: &str = "__notify";

/// Sends all assignments in one message. Returns the exit code.
pub(super) fn notify() -> ExitCode {
    let assignments: Vec<String> = std::env::args_os()
        .skip(2)
        .filter_map(|word| word.into_string().ok())
        .collect();
    match ManagerSocket::find().deliver(&assignments.join("\n")) {
        Ok(()) => ExitCode::DONE,
        Err(error) => {
            print::error(&format!(
                "the master of this worker cannot be told {}: {error}",
                assignments.join(", ")
            ));
            ExitCode::FAILED
        }
    }
}
