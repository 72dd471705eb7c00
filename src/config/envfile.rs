//! Env files: each is read once, however many pools name it, and counts as part of the configuration.

use super::dotenv::{self, Variable};
use super::reader::{Located, PRIVATE, Parser};
use super::report::{Finding, Place, Report, Severity};
use super::{permissions, values};
use crate::plan::{Source, read};
use std::path::{Path, PathBuf};

/// The env files of one configuration.
#[derive(Default)]
pub(super) struct EnvFiles {
    read: Vec<(Source, Vec<(String, String)>)>,
}

impl EnvFiles {
    /// The variables of a file; reports findings if it cannot be read or parsed. Its lines are never shown, since
    /// they may hold secrets.
    pub(super) fn variables(
        &mut self,
        parser: &mut Parser,
        path: &Located<PathBuf>,
    ) -> Vec<(String, String)> {
        if let Some((_, variables)) = self
            .read
            .iter()
            .find(|(source, _)| source.path == path.value)
        {
            return variables.clone();
        }
        let content = match read(&path.value) {
            Ok(content) => content,
            Err(error) => {
                parser.error(
                    &path.span,
                    format!("cannot read {}: {error}", path.value.display()),
                );
                return Vec::new();
            }
        };
        if let Some(found) = permissions::writable_by_others(&path.value) {
            let (message, hint) = permissions::refusal(&found);
            parser.error_with(&path.span, message, hint);
        }
        if let Some(found) = permissions::owned_by_another_user(&path.value, &parser.main_path()) {
            let message = format!(
                "{} belongs neither to root nor to the owner of the configuration, and what that user writes would run as \
                 root",
                found.display()
            );
            parser.error_with(
                &path.span,
                message,
                format!("chown root {}", found.display()),
            );
        }
        let (variables, report) = understand(&path.value, &content);
        parser.report.extend(report);
        self.read.push((
            Source {
                path: path.value.clone(),
                content,
            },
            variables.clone(),
        ));
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
