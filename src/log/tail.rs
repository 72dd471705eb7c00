//! The last lines of one worker, for the status, exit events and error messages.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 20;
/// How many bytes of each line are kept.
const LINE_BYTES: usize = 500;

/// The last lines of one worker, over both streams.
#[derive(Clone, Debug, Default)]
pub(super) struct TailLines {
    lines: VecDeque<Vec<u8>>,
    /// The last line has no newline yet.
    open: bool,
}

impl TailLines {
    /// Adds printed text. Only its last lines are searched for.
    pub(super) fn push(&mut self, text: &[u8]) {
        let Some((last, before)) = text.split_last() else {
            return;
        };
        let ends = *last == b'\n';
        let whole = if ends { before } else { text };
        let mut start = whole.len();
        for _ in 0..LINES {
            match whole[..start].iter().rposition(|byte| *byte == b'\n') {
                Some(newline) => start = newline,
                None => {
                    start = 0;
                    break;
                }
            }
        }
        let from = if start == 0 { 0 } else { start + 1 };
        let mut pieces = whole[from..].split(|byte| *byte == b'\n');
        if start == 0
            && self.open
            && let (Some(line), Some(piece)) = (self.lines.back_mut(), pieces.next())
        {
            let room = LINE_BYTES.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        for piece in pieces {
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines
                .push_back(piece[..piece.len().min(LINE_BYTES)].to_vec());
        }
        self.open = !ends;
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines
            .iter()
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_into_lines() {
        let mut tail = TailLines::default();
        for text in ["one\ntw", "o", "\n", "", "\nfive", "\n"] {
            tail.push(text.as_bytes());
        }
        assert_eq!(tail.lines(), ["one", "two", "", "five"]);
    }

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let mut tail = TailLines::default();
        tail.push(b"old\n");
        let text: String = (0..1000).map(|n| format!("line {n}\n")).collect();
        tail.push(text.as_bytes());
        assert_eq!(tail.lines().len(), LINES);
        assert_eq!(tail.lines()[0], "line 980");
        tail.push(&vec![b'x'; 10_000]);
        tail.push(&vec![b'x'; 10_000]);
        assert_eq!(tail.lines()[LINES - 1].len(), LINE_BYTES);
    }
}
