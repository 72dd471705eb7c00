//! Printing that never panics: a full disk, a closed terminal or `| head` must not end a command half-way.

pub use super::harmless::{harmless, harmless_json, harmless_lines};
use std::io::{IsTerminal, Write};

/// A line, or many, to stdout; what a terminal obeys is made visible.
pub fn line(text: &str) {
    // Nobody is left to be told that stdout is gone; the exit code still says how it went.
    write(&format!("{}\n", harmless_lines(text))).ok();
}

/// Text as it is to stdout.
pub fn raw(text: &str) {
    write(text).ok();
}

/// Text as it is to stdout, for whatever goes on printing as long as somebody reads.
///
/// # Errors
/// Nobody reads any more, or the disk is full.
pub fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// `rotad: TEXT` to stderr.
pub fn error(text: &str) {
    plain_error(&format!("rotad: {text}"));
}

/// A line, or many, to stderr, without our name before it (rendered findings). Paths, names and answers may hold
/// anything: what a terminal obeys is made visible.
pub fn plain_error(text: &str) {
    // One write a message, so that those of many processes do not mix.
    let text = format!("{}\n", harmless_lines(text.trim_end_matches('\n')));
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Is stdout a place for colour? no-color.org: any value but the empty one says no.
pub fn colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}
