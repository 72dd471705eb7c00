//! Prints progress while a command waits, one line for each worker.

use super::layout::{GREEN, painted};
use crate::control::protocol::Response;
use crate::observe::counted::counted;
use crate::observe::print;
use std::io::IsTerminal;

/// How lines are printed: on a terminal a shape shows what happened, and colour repeats it.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// For a terminal, else for a pipe.
    pub terminal: bool,
    /// With colours.
    pub colour: bool,
}

impl Progress {
    pub(super) fn on_stdout() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            colour: print::colour(),
        }
    }

    /// The lines for a response that is not the final one; empty if it is not progress.
    pub fn line(self, answer: &Response) -> String {
        match answer {
            Response::Progress { text } => format!("{}\n", print::sanitize_lines(text)),
            Response::Step {
                pool,
                slot,
                done,
                of,
                took_ms,
                text,
                ..
            } => {
                if !self.terminal {
                    return format!("{}\n", print::sanitize_lines(text));
                }
                let took = took_ms.map_or(String::new(), |ms| format!("  {}", took(ms)));
                let mark = painted("✓", GREEN, self.colour);
                format!(
                    "{mark} {}/{slot}{took}  ({done} of {of})\n",
                    print::sanitize(pool)
                )
            }
            Response::Skipped { count } => {
                format!(
                    "({} left out: they came faster than they were read)\n",
                    counted(*count, "line")
                )
            }
            Response::Status(_)
            | Response::Metrics(_)
            | Response::InProgress(_)
            | Response::ScrapeTargets(_)
            | Response::Event(_)
            | Response::LogFrom(_)
            | Response::Line(_)
            | Response::Here { .. }
            | Response::Hint { .. }
            | Response::Done { .. } => String::new(),
        }
    }
}

/// `0.41 s`, `1 min 20 s`.
fn took(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.2} s", ms as f64 / 1000.0),
        _ => format!("{} min {} s", ms / 60_000, ms / 1000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_short_on_a_terminal_and_text_in_a_pipe() {
        let text = "web/0: pid 7 serves, ready after 0.41 s (1 of 4)".to_owned();
        let step = Response::Step {
            pool: "web".into(),
            slot: 0,
            pid: Some(7),
            done: 1,
            of: 4,
            took_ms: Some(410),
            text,
        };
        let line = |terminal, colour| Progress { terminal, colour }.line(&step);
        assert_eq!(
            line(false, false),
            "web/0: pid 7 serves, ready after 0.41 s (1 of 4)\n"
        );
        assert_eq!(line(true, false), "✓ web/0  0.41 s  (1 of 4)\n");
        assert_eq!(
            line(true, true),
            "\x1b[32m✓\x1b[0m web/0  0.41 s  (1 of 4)\n"
        );
        assert_eq!(took(80_000), "1 min 20 s");
    }

    #[test]
    fn progress_is_sanitized() {
        let answer = Response::Progress {
            text: "web: \x1b[2J\nmore".into(),
        };
        assert_eq!(
            Progress {
                terminal: true,
                colour: true
            }
            .line(&answer),
            "web: \\x1b[2J\nmore\n"
        );
    }
}
