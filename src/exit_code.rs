//! The exit codes of the master and of every verb, as docs/cli.md lists them. They follow sysexits(3), timeout(1) and
//! the shell where those have a number for the same thing.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An exit code of rotad. A type of its own, so that no number without a name becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExitCode(u8);

impl ExitCode {
    /// Done.
    pub const DONE: Self = Self(0);
    /// Failed, and no other code says how.
    pub const FAILED: Self = Self(1);
    /// The command line or a request is not understood; the number that clap and shells use.
    pub const USAGE: Self = Self(2);
    /// `status --check`: stopped, failed, or in a crash loop with no worker ready.
    pub const STOPPED: Self = Self(3);
    /// There is no such pool, or no master can be reached.
    pub const NOT_FOUND: Self = Self(4);
    /// This user may not do that.
    pub const NOT_PERMITTED: Self = Self(5);
    /// Aborted or rolled back: the new workers or the new configuration did not make it, and the old workers serve.
    pub const OLD_SERVE: Self = Self(10);
    /// The master stopped because an essential pool failed: EX_UNAVAILABLE of sysexits(3).
    pub const ESSENTIAL_FAILED: Self = Self(69);
    /// Another master runs this configuration: EX_TEMPFAIL of sysexits(3).
    pub const ALREADY_RUNNING: Self = Self(75);
    /// The configuration has errors, or asks for what this release does not support: EX_CONFIG of sysexits(3).
    pub const CONFIG: Self = Self(78);
    /// `--timeout` has passed, and what was asked for goes on: as timeout(1).
    pub const TIMED_OUT: Self = Self(124);
    /// Ctrl-C, and what was asked for goes on: 128 + SIGINT, as the shell says it.
    pub const DETACHED: Self = Self(130);

    /// Every code with its meaning, for the manual page. The table in docs/cli.md says the same.
    pub const MEANINGS: [(Self, &str); 12] = [
        (Self::DONE, "done"),
        (Self::FAILED, "failed"),
        (Self::USAGE, "usage"),
        (Self::STOPPED, "stopped or failed (status --check)"),
        (Self::NOT_FOUND, "no such pool, or no master reachable"),
        (Self::NOT_PERMITTED, "not permitted"),
        (
            Self::OLD_SERVE,
            "aborted or rolled back: the old workers serve (if none does: 1)",
        ),
        (
            Self::ESSENTIAL_FAILED,
            "an essential pool failed (the master's own)",
        ),
        (Self::ALREADY_RUNNING, "already running"),
        (Self::CONFIG, "configuration error, or not supported yet"),
        (Self::TIMED_OUT, "timed out; what was asked for goes on"),
        (
            Self::DETACHED,
            "detached by Ctrl-C; what was asked for goes on",
        ),
    ];

    /// The code of a child with which rotad itself exits: of a worker of a pool with `essential = "exit"`, and of the
    /// master of `rotad demo`.
    pub const fn of_child(code: u8) -> Self {
        Self(code)
    }

    /// What a shell reports for a child that was ended by this signal: 128 and its number.
    pub fn of_signal(signal: i32) -> Self {
        Self(u8::try_from(128 + signal).unwrap_or(u8::MAX))
    }

    /// The worse of two outcomes. [`ExitCode::OLD_SERVE`] is less bad than any other failure.
    pub fn worse(self, other: Self) -> Self {
        let rank = |code: &Self| match *code {
            Self::DONE => 0,
            Self::OLD_SERVE => 1,
            code => 1 + u32::from(code.0),
        };
        [self, other].into_iter().max_by_key(rank).unwrap_or(self)
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_counts() {
        let (done, failed, old) = (ExitCode::DONE, ExitCode::FAILED, ExitCode::OLD_SERVE);
        for (one, other, worst) in [
            (done, done, done),
            (done, old, old),
            (old, failed, failed),
            (failed, old, failed),
            (done, failed, failed),
            (old, ExitCode::CONFIG, ExitCode::CONFIG),
        ] {
            assert_eq!(one.worse(other), worst);
        }
    }

    /// docs/cli.md is what scripts are written from: the same codes in the same order, with the same meanings.
    #[test]
    fn the_documentation_lists_every_code() {
        let page = include_str!("../docs/cli.md");
        let table = page.split("## Exit codes").nth(1).expect("the section");
        let rows: Vec<(&str, &str)> = table
            .split("\n## ")
            .next()
            .expect("its end")
            .lines()
            .filter_map(|line| {
                line.strip_prefix("| ")?
                    .strip_suffix(" |")?
                    .split_once(" | ")
            })
            .filter(|(code, _)| *code != "code")
            .collect();
        assert_eq!(rows.len(), ExitCode::MEANINGS.len());
        for ((code, meaning), (number, documented)) in ExitCode::MEANINGS.iter().zip(rows) {
            assert_eq!(code.to_string(), number);
            let plain = documented.replace('`', "");
            let first = meaning.split([' ', ':', ';', '(']).next().expect("a word");
            assert!(
                plain.starts_with(first),
                "{number}: {meaning} / {documented}"
            );
        }
    }
}
