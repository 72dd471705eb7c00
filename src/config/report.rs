//! Findings: what is wrong, where, and what to write instead.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Findings beyond this number are counted but not printed; [`Report::to_json`] has more.
const PRINTED: usize = 50;

/// Findings beyond this number are only counted: no one reads them, and reading a broken file of megabytes must end.
const KEPT: usize = 1000;

/// A longer line is not shown, in bytes.
const WIDEST: usize = 4096;

/// Severity of a finding. Errors refuse a configuration, warnings do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It works, but may not be meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }

    fn level(self) -> Level<'static> {
        match self {
            Self::Error => Level::ERROR,
            Self::Warning => Level::WARNING,
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it refuses the configuration.
    pub severity: Severity,
    /// The file, as it was named to the parser.
    pub file: PathBuf,
    /// `None`: the file as a whole (unreadable, writable by others).
    pub place: Option<Place>,
    /// What is wrong, in one line.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
    /// What a log shows instead, without a hint: the message may hold a secret.
    pub for_log: Option<&'static str>,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The line's text; `None` if it may hold a secret (env files) or is too long.
    text: Option<String>,
    /// The bytes of `text` that the finding is about.
    bytes: Range<usize>,
}

impl Place {
    /// The place of `span` (bytes of `text`), cut to its first line.
    pub(crate) fn new(text: &str, span: &Range<usize>) -> Self {
        let start = floor(text, span.start);
        let from = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let to = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[from..to].trim_end_matches('\r');
        let first = (start - from).min(line.len());
        let last = floor(text, span.end)
            .saturating_sub(from)
            .clamp(first, line.len());
        Self {
            line: text[..from].matches('\n').count() + 1,
            column: line[..first].chars().count() + 1,
            text: (line.len() <= WIDEST).then(|| line.to_owned()),
            bytes: first..last,
        }
    }

    /// The same place without the line's text.
    pub(crate) fn secret(self) -> Self {
        Self { text: None, ..self }
    }
}

/// The nearest character boundary at or below `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// All findings of one reading, in the order of their places. `Display` renders them for a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    findings: Vec<Finding>,
    /// How many more there are.
    more: usize,
    refused: bool,
}

impl Report {
    /// A report of one error about a file as a whole.
    pub(super) fn of_file(file: &Path, message: String) -> Self {
        let mut report = Self::default();
        report.push(Finding {
            severity: Severity::Error,
            file: file.to_owned(),
            place: None,
            message,
            hint: None,
            for_log: None,
        });
        report
    }

    pub(super) fn push(&mut self, finding: Finding) {
        if self.is_full() {
            self.count(finding.severity);
        } else if !self.findings.contains(&finding) {
            self.refused |= finding.severity == Severity::Error;
            self.findings.push(finding);
        }
    }

    /// Whether further findings are counted only.
    pub(super) fn is_full(&self) -> bool {
        self.findings.len() >= KEPT
    }

    /// Counts a finding that is not kept.
    pub(super) fn count(&mut self, severity: Severity) {
        self.more += 1;
        self.refused |= severity == Severity::Error;
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.more += other.more;
        self.refused |= other.refused;
        other
            .findings
            .into_iter()
            .for_each(|finding| self.push(finding));
    }

    /// Whether this was already reported, with any hint.
    pub(super) fn tells(&self, file: &Path, place: &Place, message: &str) -> bool {
        self.findings.iter().any(|finding| {
            finding.file == file
                && finding.place.as_ref() == Some(place)
                && finding.message == message
        })
    }

    /// The file `first`, then others in the order read, each from top to bottom.
    pub(super) fn sort(&mut self, first: &Path) {
        let mut files: Vec<PathBuf> = vec![first.to_owned()];
        for finding in &self.findings {
            if !files.contains(&finding.file) {
                files.push(finding.file.clone());
            }
        }
        self.findings.sort_by_key(|finding| {
            let file = files.iter().position(|file| *file == finding.file);
            (
                file,
                finding
                    .place
                    .as_ref()
                    .map(|place| (place.line, place.column)),
            )
        });
    }

    /// Text for a log: without lines of the configuration and without text that may be a secret. Without the warnings of a
    /// configuration that is refused: its errors are the reason.
    pub fn for_log(&self) -> String {
        let mut text = String::new();
        let told: Vec<_> = self
            .findings
            .iter()
            .filter(|finding| !self.refused || finding.severity == Severity::Error)
            .collect();
        for finding in told.iter().take(PRINTED) {
            text.push_str(&finding.for_log());
            text.push('\n');
        }
        match told.len().saturating_sub(PRINTED) + self.more {
            0 => {}
            more => text.push_str(&format!("and {more} more\n")),
        }
        if self.findings.iter().any(|finding| finding.place.is_some()) {
            text.push_str("`rotad check` shows the lines\n");
        }
        text
    }

    /// The findings that are kept, in the order of their places once they are sorted.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether there is no finding at all.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether one of the findings is an error.
    pub fn has_errors(&self) -> bool {
        self.refused
    }

    /// The text of `Display` with colours (SGR sequences), as rustc has them. No other escape sequence is in it. `fit`: breaks
    /// what to write instead into lines.
    pub fn styled(&self, fit: impl Fn(&str) -> String) -> String {
        self.rendered(|finding| {
            let clean = |text: &str| text.replace('\x1b', "\u{241b}");
            let clean = Finding {
                file: clean(&finding.file.to_string_lossy()).into(),
                message: clean(&finding.message),
                hint: finding.hint.as_deref().map(|hint| fit(&clean(hint))),
                ..finding.clone()
            };
            clean.render(finding.severity.level(), finding.severity.as_str(), true)
        })
    }

    /// The findings as they are shown: a warning that holds at several places once, with these.
    fn merged(&self) -> Vec<Finding> {
        let mut merged: Vec<(Finding, Vec<usize>)> = Vec::new();
        for finding in &self.findings {
            let line = finding.place.as_ref().map(|place| place.line);
            let alike = merged.iter_mut().find(|(first, _)| {
                finding.severity == Severity::Warning
                    && (&first.file, &first.message, &first.hint)
                        == (&finding.file, &finding.message, &finding.hint)
            });
            match (alike, line) {
                (Some((_, lines)), Some(line)) => lines.push(line),
                _ => merged.push((finding.clone(), Vec::new())),
            }
        }
        let with_lines = |(finding, lines): (Finding, Vec<usize>)| {
            let Some(hint) = finding.hint.as_ref().filter(|_| !lines.is_empty()) else {
                return finding;
            };
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            let word = if lines.len() == 1 { "line" } else { "lines" };
            let hint = format!("{hint}\nthe same holds in {word} {}", lines.join(", "));
            Finding {
                hint: Some(hint),
                ..finding
            }
        };
        merged.into_iter().map(with_lines).collect()
    }

    fn rendered(&self, render: impl Fn(&Finding) -> String) -> String {
        let findings = self.merged();
        let shown = findings.iter().take(PRINTED);
        let mut text: String = shown.map(render).collect::<Vec<_>>().join("\n\n");
        if !findings.is_empty() {
            text.push('\n');
        }
        match findings.len().saturating_sub(PRINTED) + self.more {
            0 => {}
            more => text.push_str(&format!("\nand {more} more\n")),
        }
        text
    }

    /// An array of `{severity, file, line, column, message, hint}`; `line` and `column` are null for a finding about
    /// a file as a whole.
    pub fn to_json(&self) -> serde_json::Value {
        self.findings
            .iter()
            .map(|finding| {
                serde_json::json!({
                    "severity": finding.severity.as_str(),
                    "file": finding.file.to_string_lossy(),
                    "line": finding.place.as_ref().map(|place| place.line),
                    "column": finding.place.as_ref().map(|place| place.column),
                    "message": finding.message,
                    "hint": finding.hint,
                })
            })
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered(ToString::to_string))
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, word) = (self.severity.level(), self.severity.as_str());
        f.write_str(&self.render(level, word, false))
    }
}

impl Finding {
    /// As `check` shows a finding, under a word of the caller's instead of the severity.
    pub(crate) fn render_as(&self, word: &'static str) -> String {
        self.render(Level::WARNING.with_name(word), word, false)
    }

    fn render(&self, level: Level<'_>, word: &str, styled: bool) -> String {
        let path = self.file.to_string_lossy();
        let mut group = match &self.place {
            None => return self.without_text(word, &path, styled),
            Some(Place {
                line,
                column,
                text: None,
                ..
            }) => {
                let place = format!("{path}:{line}:{column}");
                return self.without_text(word, &place, styled);
            }
            // Only the line is passed on, so that the cost of a finding does not grow with the file.
            Some(Place {
                line,
                text: Some(text),
                bytes,
                ..
            }) => level.primary_title(self.message.as_str()).element(
                Snippet::source(text.as_str())
                    .line_start(*line)
                    .path(path)
                    .annotation(AnnotationKind::Primary.span(bytes.clone())),
            ),
        };
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        match styled {
            true => Renderer::styled().render(&[group]),
            false => Renderer::plain().render(&[group]),
        }
    }

    fn for_log(&self) -> String {
        let path = self.file.to_string_lossy();
        let place = match &self.place {
            None => path.into_owned(),
            Some(Place { line, column, .. }) => format!("{path}:{line}:{column}"),
        };
        let hint = self.hint.as_ref().filter(|_| self.for_log.is_none());
        let hint = hint.map_or(String::new(), |hint| format!("\n  = help: {hint}"));
        let message = self.for_log.unwrap_or(&self.message);
        format!("{}: {message}\n --> {place}{hint}", self.severity.as_str())
    }

    /// In the same form, if there is no line to show.
    fn without_text(&self, word: &str, place: &str, styled: bool) -> String {
        let paint = |colour: u8, text: &str| match styled {
            true => format!("\x1b[1m\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_owned(),
        };
        let word = match self.severity {
            Severity::Error => paint(91, word),
            Severity::Warning => paint(33, word),
        };
        let hint = self.hint.as_ref();
        let hint = hint.map_or(String::new(), |hint| {
            format!("\n  {} help: {hint}", paint(94, "="))
        });
        format!(
            "{word}: {}\n {} {place}{hint}",
            self.message,
            paint(94, "-->")
        )
    }
}

/// A user's text for a message: on one line, and of bounded length.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
        .escape_debug()
        .to_string()
        .replace("\\\"", "\"")
        .replace("\\'", "'")
}

/// The candidate nearest to `word`, if one is near enough to be a typing mistake.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word: String = word
        .chars()
        .take(60)
        .collect::<String>()
        .to_lowercase()
        .replace('-', "_");
    candidates
        .into_iter()
        .map(|other| {
            (
                strsim::damerau_levenshtein(&word, &other.to_lowercase().replace('-', "_")),
                other,
            )
        })
        .filter(|(distance, other)| *distance <= 1 + other.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_write_instead_is_broken_into_lines_below_each_other() {
        let mut report = Report::default();
        report.push(Finding {
            severity: Severity::Error,
            file: "rotad.toml".into(),
            place: Some(Place::new("count = x\n", &(8..9))),
            message: "not a number".to_owned(),
            hint: Some("count = 2 or more".to_owned()),
            for_log: None,
        });
        let text = report.styled(|hint| hint.replace(" or ", "\nor "));
        let lines: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(lines[0].trim_start(), "or more", "{text}");
        assert!(lines[1].ends_with(": count = 2"), "{text}");
    }
}
