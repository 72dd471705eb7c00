//! Text as a terminal's cells take it: a character may have two columns, or none.

use rotad::observe::sanitize::sanitize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A line that controls nothing: `sanitize` keeps tabs, which have no place in a cell.
pub(super) fn clean(text: &str) -> String {
    sanitize(text).replace('\t', "    ")
}

/// The columns that it takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// As much as fits; what is cut ends with "…".
pub(super) fn cut(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(1);
    let mut out = String::new();
    for letter in text.chars() {
        let takes = letter.width().unwrap_or(0);
        if takes > left {
            break;
        }
        left -= takes;
        out.push(letter);
    }
    if room > 0 {
        out.push('…');
    }
    out
}

/// Filled up with spaces, or cut.
pub(super) fn padded(text: &str, room: usize) -> String {
    let text = cut(text, room);
    let missing = room.saturating_sub(width(&text));
    text + &" ".repeat(missing)
}

/// Lines of at most `room` columns, broken between words; a longer word is broken where it must be.
pub(super) fn wrap(text: &str, room: usize) -> Vec<String> {
    let room = room.max(1);
    let (mut lines, mut line, mut used) = (Vec::new(), String::new(), 0);
    for word in text.split(' ') {
        let takes = width(word);
        if !line.is_empty() {
            if used + 1 + takes <= room {
                line.push(' ');
                line.push_str(word);
                used += 1 + takes;
                continue;
            }
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for letter in word.chars() {
            let takes = letter.width().unwrap_or(0);
            if used + takes > room && used > 0 {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(letter);
            used += takes;
        }
    }
    lines.push(line);
    lines
}

/// As [`wrap`], but at most `most` lines; "…" shows that there is more.
pub(super) fn wrap_to(text: &str, room: usize, most: usize) -> Vec<String> {
    let mut lines = wrap(text, room);
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            *last = cut(&format!("{last} …"), room);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(padded("日", 4), "日  ");
        assert_eq!(wrap("日本語 abc", 4), ["日本", "語", "abc"]);
        assert_eq!((cut("abc", 0).as_str(), cut("abc", 1).as_str()), ("", "…"));
    }

    #[test]
    fn lines_are_broken_between_words_and_end_with_a_mark() {
        assert_eq!(wrap("a bb ccc", 4), ["a bb", "ccc"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap_to("aa bb cc", 5, 1), ["aa b…"]);
        assert_eq!(wrap_to("aa bb", 5, 1), ["aa bb"]);
        assert_eq!(clean("a\tb\x1b[2J"), "a    b\\x1b[2J");
    }
}
