//! Printing that never panics: a full disk, a closed terminal or `| head` must not end a command half-way. Used by
//! the commands and by the parent process of a daemon.

pub use super::sanitize::{sanitize, sanitize_coloured, sanitize_json, sanitize_lines};
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
    whole(&sanitize_lines(text.trim_end_matches('\n')));
}

/// The same for text with colours of ours.
pub fn coloured_error(text: &str) {
    whole(&sanitize_coloured(text.trim_end_matches('\n')));
}

/// One write for each message, so that messages of several processes do not mix.
fn whole(text: &str) {
    let text = format!("{text}\n");
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Prints `warning: TEXT` to stderr, as findings have it.
pub fn warning(text: &str) {
    match error_colour() {
        true => coloured_error(&format!("\x1b[1m\x1b[33mwarning\x1b[0m: {text}")),
        false => plain_error(&format!("warning: {text}")),
    }
}

/// Whether stdout may be coloured. NO_COLOR (no-color.org) forbids it unless it is empty.
pub fn colour() -> bool {
    may_colour(&std::io::stdout())
}

/// Whether stderr may be coloured.
pub fn error_colour() -> bool {
    may_colour(&std::io::stderr())
}

fn may_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}
