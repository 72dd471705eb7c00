//! Printing that never panics: a full disk, a closed terminal or `| head` must not end a command half-way.

use std::io::{IsTerminal, Write};

/// A line to stdout.
pub fn line(text: &str) {
    // Nobody is left to be told that stdout is gone; the exit code still says how it went.
    write(&format!("{text}\n")).ok();
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

/// A line, or many, to stderr, without our name before it (rendered findings).
pub fn plain_error(text: &str) {
    // One write a message, so that those of many processes do not mix.
    let text = format!("{}\n", text.trim_end_matches('\n'));
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

/// Is stdout a place for colour? no-color.org: any value but the empty one says no.
pub fn colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Text of a worker, made harmless for a terminal: control characters (C0, DEL, C1) and those that turn the reading
/// direction are shown as escapes, so that no worker can move the cursor, retitle the window or hide its neighbour.
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if c.is_control() || turns(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// JSON with the control characters that it allows in strings (DEL, C1) escaped as well.
pub fn harmless_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if (c.is_control() && c != '\n') || turns(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// As [`harmless`], for text of many lines.
pub fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_comes_through() {
        let all: String = (0..0xa0).map(|n| char::from_u32(n).unwrap()).chain("äß\u{202e}✓".chars()).collect();
        let out = harmless(&all);
        assert!(out.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{out:?}");
        assert!(out.contains("äß") && out.contains('✓'));
        assert_eq!(harmless("a\x1b]0;title\x07b\tc"), "a\\u{1b}]0;title\\u{7}b c");
    }

    #[test]
    fn json_means_the_same_and_moves_nothing() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\x1bä";
        let json = harmless_json(&serde_json::to_string(&[text]).unwrap());
        assert!(json.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{json:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(harmless_lines("one\r\ntwo\x1b[2J\n"), "one\ntwo\\u{1b}[2J");
    }
}
