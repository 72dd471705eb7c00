//! Makes text from workers and users safe to print on terminals and in logs.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with everything that controls a terminal made visible, so that no worker can move the cursor, change the
/// window title or hide other text: control characters (C0 except tab, DEL, C1) and invalid UTF-8 become `\x1b`,
/// characters that change the reading direction become `\u{202e}`. Colours (SGR sequences, `ESC [ … m`) are left out.
pub fn sanitize(text: impl AsRef<[u8]>) -> String {
    let text = &without_colours(text.as_ref());
    let mut out = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' => out.push(c),
                // Writing to a string cannot fail.
                c if c.is_control() => write!(out, "\\x{:02x}", c as u32).unwrap_or(()),
                c if changes_direction(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").unwrap_or(());
        }
    }
    out
}

fn without_colours(text: &[u8]) -> Cow<'_, [u8]> {
    const BEGIN: &[u8] = b"\x1b[";
    let next = |text: &[u8]| text.windows(BEGIN.len()).position(|bytes| bytes == BEGIN);
    if next(text).is_none() {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some(at) = next(rest) {
        let (before, sequence) = rest.split_at(at);
        out.extend_from_slice(before);
        let numbers = sequence.iter().skip(BEGIN.len());
        let numbers = numbers.take_while(|byte| byte.is_ascii_digit() || b";:".contains(byte));
        let end = BEGIN.len() + numbers.count();
        if sequence.get(end) == Some(&b'm') {
            rest = &sequence[end + 1..];
        } else {
            out.extend_from_slice(BEGIN);
            rest = &sequence[BEGIN.len()..];
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// As [`sanitize`], for text of many lines.
pub fn sanitize_lines(text: &str) -> String {
    text.lines().map(sanitize).collect::<Vec<_>>().join("\n")
}

/// As [`sanitize_lines`], for text that has colours of ours: SGR sequences (`ESC [ … m`) stay.
pub fn sanitize_coloured(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let mut out = parts.next().map(clean_lines).unwrap_or_default();
    for part in parts {
        let end = part.find(|letter: char| !letter.is_ascii_digit() && letter != ';');
        match end.filter(|end| part[*end..].starts_with('m')) {
            Some(end) => {
                out.push_str("\x1b[");
                out.push_str(&part[..=end]);
                out.push_str(&clean_lines(&part[end + 1..]));
            }
            None => {
                out.push_str("\\x1b[");
                out.push_str(&clean_lines(part));
            }
        }
    }
    out
}

/// Keeps line breaks, also at the end.
fn clean_lines(text: &str) -> String {
    let lines = text
        .split('\n')
        .map(|line| sanitize(line.trim_end_matches('\r')));
    lines.collect::<Vec<_>>().join("\n")
}

/// Escapes the characters that JSON itself would pass to a terminal: DEL, C1, and those that change the reading
/// direction. The value stays the same.
pub fn sanitize_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if (c.is_control() && c != '\n') || changes_direction(c) {
            write!(out, "\\u{:04x}", u32::from(c)).unwrap_or(());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character changes the reading direction (or separates lines) on a terminal.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_escape_sequences_only_colours_stay() {
        let text = "\x1b[1m\x1b[91merror\x1b[0m: \x1b[2J\x1b]0;x\x07\n\x1b[m\x1b[";
        let clean = "\x1b[1m\x1b[91merror\x1b[0m: \\x1b[2J\\x1b]0;x\\x07\n\x1b[m\\x1b[";
        assert_eq!(sanitize_coloured(text), clean);
    }

    #[test]
    fn control_characters_are_escaped() {
        let all: String = (0..0xa0)
            .map(|n| char::from_u32(n).unwrap())
            .chain("äß\u{202e}✓".chars())
            .collect();
        let out = sanitize(&all);
        assert!(
            out.chars()
                .all(|c| (!c.is_control() || c == '\t') && c != '\u{202e}'),
            "{out:?}"
        );
        assert!(out.contains("äß") && out.contains('✓'));
        assert_eq!(sanitize("a\x1b]0;title\x07b\tc"), "a\\x1b]0;title\\x07b\tc");
        assert_eq!(sanitize(b"a\x1b[2Jb\tc\xff"), "a\\x1b[2Jb\tc\\xff");
        assert_eq!(sanitize("ü\u{9b}\u{202e}"), "ü\\x9b\\u{202e}");
        let coloured = "\x1b[1;38:5:9mred\x1b[0m\x1b[m and\x1b[3\x1b[31";
        assert_eq!(sanitize(coloured), "red and\\x1b[3\\x1b[31");
    }

    #[test]
    fn escaped_json_keeps_its_value() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\x1bä";
        let json = sanitize_json(&serde_json::to_string(&[text]).unwrap());
        assert!(
            json.chars().all(|c| !c.is_control() && c != '\u{202e}'),
            "{json:?}"
        );
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }

    #[test]
    fn line_breaks_are_kept() {
        assert_eq!(sanitize_lines("one\r\ntwo\x1b[2J\n"), "one\ntwo\\x1b[2J");
    }
}
