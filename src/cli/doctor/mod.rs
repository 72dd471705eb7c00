//! `doctor`: what this kernel, its limits, cgroups, systemd and the rights of this user allow, and what rotad does where
//! they do not. It reads and tries, and changes nothing.

mod kernel;
mod limits;
mod rights;
mod system;

use super::layout::{GREEN, RED, YELLOW, painted};
use crate::exit_code::ExitCode;
use crate::observe::print;
use std::fmt::Write;

/// How well one thing works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As the documentation says.
    Works,
    /// rotad goes another way, or does without; the finding says which.
    Less,
    /// rotad cannot run here.
    Missing,
}

/// One thing that rotad uses, and what was found.
#[derive(Clone, Debug)]
struct Finding {
    verdict: Verdict,
    name: &'static str,
    /// What was found, in one line.
    found: String,
    /// What that means for rotad, and what to do.
    means: String,
}

impl Finding {
    fn works(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Works,
            name,
            found: found.into(),
            means: String::new(),
        }
    }

    fn less(name: &'static str, found: impl Into<String>, means: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Less,
            name,
            found: found.into(),
            means: means.into(),
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, means: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Missing,
            ..Self::less(name, found, means)
        }
    }
}

/// 0: rotad runs here, perhaps with less; 1: it cannot.
pub(super) fn doctor() -> ExitCode {
    let parts = [
        ("kernel", kernel::examine()),
        ("limits", limits::examine()),
        ("rights", rights::examine()),
        ("cgroups and systemd", system::examine()),
    ];
    print::raw(&render(&parts, print::colour()));
    let missing = parts
        .iter()
        .flat_map(|(_, findings)| findings)
        .any(|finding| finding.verdict == Verdict::Missing);
    if missing {
        ExitCode::FAILED
    } else {
        ExitCode::DONE
    }
}

fn render(parts: &[(&str, Vec<Finding>)], colour: bool) -> String {
    let width = parts
        .iter()
        .flat_map(|(_, findings)| findings)
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (title, findings) in parts {
        writeln!(out, "{title}").ok();
        for finding in findings {
            let (mark, paint) = match finding.verdict {
                Verdict::Works => ("●", GREEN),
                Verdict::Less => ("◐", YELLOW),
                Verdict::Missing => ("○", RED),
            };
            let mark = painted(mark, paint, colour);
            let found = print::sanitize(&finding.found);
            writeln!(out, "  {mark} {:width$}  {found}", finding.name).ok();
            if !finding.means.is_empty() {
                let means = print::sanitize(&finding.means);
                writeln!(out, "    {:width$}  {means}", "").ok();
            }
        }
    }
    let count = |verdict| {
        let all = parts.iter().flat_map(|(_, findings)| findings);
        all.filter(|finding| finding.verdict == verdict).count()
    };
    let conclusion = match (count(Verdict::Missing), count(Verdict::Less)) {
        (0, 0) => "everything that rotad uses works here".to_owned(),
        (0, 1) => "rotad runs here; one thing is done another way (◐)".to_owned(),
        (0, less) => format!("rotad runs here; {less} things are done another way (◐)"),
        _ => "rotad cannot run here until what is marked ○ is there".to_owned(),
    };
    writeln!(out, "{conclusion}").ok();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shortfall_says_what_it_means_and_the_last_line_sums_up() {
        let text = render(
            &[(
                "kernel",
                vec![
                    Finding::works("pidfds", "yes"),
                    Finding::less("close_range(2)", "no", "the master goes on alone"),
                ],
            )],
            false,
        );
        assert_eq!(
            text,
            "kernel\n  ● pidfds          yes\n  ◐ close_range(2)  no\n                    \
             the master goes on alone\nrotad runs here; one thing is done another way (◐)\n"
        );
        let text = render(
            &[("kernel", vec![Finding::missing("/proc", "no", "mount it")])],
            true,
        );
        assert!(text.contains("\x1b[31m○\x1b[0m"), "{text}");
        assert!(text.contains("cannot run here"), "{text}");
    }
}
