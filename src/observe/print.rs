//! Printing that never panics: a full disk, a closed terminal or `| head` must not end a command half-way. Used by
//! the commands and by the parent process of a daemon.

pub use super::sanitize::{sanitize, sanitize_json, sanitize_lines};
use std::io::{IsTerminal, Write};

/// Prints text and a line break to stdout, sanitized.
pub fn line(text: &str) {
    // If stdout is closed, there is nowhere to report it; the exit code still tells the result.
    write(&format!("{}\n", sanitize_lines(text))).ok();
}

/// Prints text to stdout as it is.
pub fn raw(text: &str) {
    write(text).ok();
}

/// Prints text to stdout as it is, for callers that stop when the reader is gone.
///
/// # Errors
/// EPIPE if stdout is closed; ENOSPC if its disk is full.
pub fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Prints `rotad: TEXT` to stderr.
pub fn error(text: &str) {
    plain_error(&format!("rotad: {text}"));
}

/// Prints text to stderr without the program's name (rendered findings), sanitized, since paths, names and answers
/// may hold anything.
pub fn plain_error(text: &str) {
    // One write for each message, so that messages of several processes do not mix.
    let text = format!("{}\n", sanitize_lines(text.trim_end_matches('\n')));
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Whether stdout may be coloured. NO_COLOR (no-color.org) forbids it unless it is empty.
pub fn colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}
