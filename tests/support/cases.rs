//! The command line of a test binary without the standard harness, as `cargo test` and cargo-nextest use it:
//! `[FILTER…] [--exact] [--list [--format terse]] [--ignored]`. nextest first lists the cases, then runs each by its
//! whole name in a process of its own.

use std::io::Write;

/// Which of a binary's cases are asked for.
pub struct Cases {
    list: bool,
    exact: bool,
    /// Only ignored ones: there are none.
    ignored: bool,
    filters: Vec<String>,
    skipped: Vec<String>,
}

impl Cases {
    /// From the arguments of this process.
    pub fn of_arguments() -> Cases {
        let mut cases = Cases {
            list: false,
            exact: false,
            ignored: false,
            filters: Vec::new(),
            skipped: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => cases.list = true,
                "--exact" => cases.exact = true,
                "--ignored" => cases.ignored = true,
                "--skip" => cases.skipped.extend(arguments.next()),
                // Those that take a value.
                "--format" | "--test-threads" | "--color" | "--logfile" | "--shuffle-seed"
                | "-Z" => {
                    arguments.next();
                }
                option if option.starts_with('-') => {}
                filter => cases.filters.push(filter.to_owned()),
            }
        }
        cases
    }

    /// Those of `names` that are to run now; none when a list was asked for, which is printed.
    pub fn chosen<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
        let chosen: Vec<&str> = names.into_iter().filter(|name| self.has(name)).collect();
        if !self.list {
            return chosen;
        }
        let mut out = std::io::stdout();
        chosen
            .iter()
            .for_each(|name| writeln!(out, "{name}: test").expect("stdout"));
        Vec::new()
    }

    fn has(&self, name: &str) -> bool {
        let meant = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        !self.ignored
            && (self.filters.is_empty() || self.filters.iter().any(meant))
            && !self.skipped.iter().any(meant)
    }
}
