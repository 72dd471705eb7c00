//! Logs what a hook prints: each line in the master's log, bounded for each run.

use crate::observe::sanitize::sanitize;

/// Maximum number of lines of a run that are logged.
const MAX_LINES: usize = 200;
/// Maximum length of a line, in bytes; a longer one is logged in parts.
const MAX_LINE: usize = 2048;

/// The output of one run.
#[derive(Debug)]
pub(super) struct OutputLog {
    hook: String,
    /// The beginning of a line.
    partial: Vec<u8>,
    lines: usize,
}

impl OutputLog {
    pub(super) fn new(hook: &str) -> Self {
        Self {
            hook: hook.to_owned(),
            partial: Vec::new(),
            lines: 0,
        }
    }

    /// Takes what was read.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            while self.partial.len() > MAX_LINE {
                let rest = self.partial.split_off(MAX_LINE);
                self.line();
                self.partial = rest;
            }
            if self.partial.ends_with(b"\n") {
                self.partial.pop();
                self.line();
            }
        }
    }

    /// The command has ended: a line without an end is one as well, and it is told how many were left out.
    pub(super) fn end(&mut self) {
        if !self.partial.is_empty() {
            self.line();
        }
        if self.lines > MAX_LINES {
            let more = self.lines - MAX_LINES;
            tracing::info!("hook {}: {more} more lines were not logged", self.hook);
        }
    }

    fn line(&mut self) {
        let line = std::mem::take(&mut self.partial);
        self.lines += 1;
        if self.lines <= MAX_LINES {
            tracing::info!("hook {}: {}", self.hook, sanitize(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_whole_and_bounded() {
        let mut log = OutputLog::new("slack");
        log.take(b"one\ntw");
        assert_eq!((log.lines, log.partial.as_slice()), (1, &b"tw"[..]));
        log.take(b"o\n\n");
        assert_eq!((log.lines, log.partial.len()), (3, 0));
        log.take(&[b'x'; 3 * MAX_LINE]);
        assert_eq!((log.lines, log.partial.len()), (5, MAX_LINE));
        log.end();
        assert_eq!((log.lines, log.partial.len()), (6, 0));
    }
}
