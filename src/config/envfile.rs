//! Env files: each is read once, however many pools name it, and counts as part of the configuration.

use super::dotenv::{self, Variable};
use super::reader::{Located, PRIVATE, Parser};
use super::report::{Finding, Place, Report, Severity};
use super::{paths, permissions, templates, values};
use crate::plan::{Source, is_missing, read};
use std::path::Path;

/// The env files of one configuration.
#[derive(Default)]
pub(super) struct EnvFiles {
    read: Vec<(Source, Vec<(String, String)>)>,
}

impl EnvFiles {
    /// The variables of a file; reports findings if it cannot be read or parsed. Its lines are never shown, since
    /// they may hold secrets. `written`: its path with placeholders, with `?` in front if it may be missing.
    pub(super) fn variables(
        &mut self,
        parser: &mut Parser,
        written: &Located<String>,
        pool: &str,
    ) -> Vec<(String, String)> {
        let (optional, text) = match written.value.strip_prefix('?') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, written.value.as_str()),
        };
        let span = &written.span;
        let text = Located::new(text.to_owned(), span.clone());
        let Some(template) = templates::path(parser, &text, pool, false, "an env file") else {
            return Vec::new();
        };
        let path = paths::under(
            &parser.base,
            Path::new(&template.fixed().unwrap_or_default()),
        );
        let shown = paths::under(&parser.base, Path::new(&template.shown()));
        let known = self.read.iter().find(|(source, _)| source.path == path);
        if let Some((_, variables)) = known.filter(|(source, _)| optional || !source.missing) {
            return variables.clone();
        }
        let (content, missing) = match read(&path) {
            Ok(content) => (content, false),
            Err(error) if optional && is_missing(&error) => (Vec::new(), true),
            Err(error) => {
                parser.error(span, format!("cannot read {}: {error}", shown.display()));
                return Vec::new();
            }
        };
        // Who can write to the directory of a missing file can make it.
        let checked = match (missing, path.parent()) {
            (true, Some(directory)) => directory,
            _ => &path,
        };
        let hide = |found: &Path| template.hide_values(&found.display().to_string());
        if let Some(found) = permissions::writable_by_others(checked) {
            let (message, hint) = permissions::refusal(&found);
            parser.error_with(
                span,
                template.hide_values(&message),
                template.hide_values(&hint),
            );
        }
        if let Some(found) = permissions::owned_by_another_user(checked, &parser.main_path()) {
            let message = format!(
                "{} belongs neither to root nor to the owner of the configuration, and what that user writes would run as \
                 root",
                hide(&found)
            );
            parser.error_with(span, message, format!("chown root {}", hide(&found)));
        }
        let (variables, report) = understand(&shown, &content);
        parser.report.extend(report);
        let source = Source {
            shown: (shown != path).then_some(shown),
            path,
            content,
            missing,
        };
        self.read.push((source, variables.clone()));
        variables
    }

    pub(super) fn into_sources(self) -> impl Iterator<Item = Source> {
        self.read.into_iter().map(|(source, _)| source)
    }
}

fn understand(path: &Path, content: &[u8]) -> (Vec<(String, String)>, Report) {
    let mut report = Report::default();
    let mut error = |text: &str, span: &std::ops::Range<usize>, message: String| {
        let place = Some(Place::new(text, span).secret());
        report.push(Finding {
            severity: Severity::Error,
            file: path.to_owned(),
            place,
            message,
            hint: None,
            for_log: Some(PRIVATE),
        });
    };
    let text = match std::str::from_utf8(content) {
        Ok(text) => text,
        Err(fault) => {
            let at = fault.valid_up_to();
            error(
                &String::from_utf8_lossy(content),
                &(at..at),
                "not valid UTF-8".to_owned(),
            );
            return (Vec::new(), report);
        }
    };
    let (variables, faults) = dotenv::parse(text);
    for (span, message) in faults {
        error(text, &span, message);
    }
    for variable in &variables {
        if let Some(message) = values::variable_fault(&variable.name) {
            error(text, &variable.span, message);
        }
    }
    (
        variables
            .into_iter()
            .map(|Variable { name, value, .. }| (name, value))
            .collect(),
        report,
    )
}
