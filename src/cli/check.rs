//! `check`: validates the configuration and starts nothing.

use super::{layout, print, run};
use crate::config::{self, Loaded, Report};
use crate::exit_code::ExitCode;
use crate::sys::terminal;
use serde_json::{Value, json};
use std::path::Path;

/// 0: valid, perhaps with warnings; 78: it has errors. All findings are printed.
pub(super) fn check(file: Option<&Path>, json: bool) -> ExitCode {
    let path = match config::find(file).map_err(|error| error.to_string()) {
        Ok(path) => path,
        Err(message) => {
            return print_result(
                json,
                None,
                false,
                || print::error(&message),
                json!([{"severity": "error", "message": message}]),
            );
        }
    };
    let mut lost = Vec::new();
    let (valid, report) = match config::load_found(file, &path) {
        Ok(Loaded { plan, warnings }) => {
            lost = run::lost_output(&plan);
            (true, warnings)
        }
        Err(findings) => (false, findings),
    };
    let mut findings = report.to_json();
    for message in &lost {
        if let Some(findings) = findings.as_array_mut() {
            findings.push(json!({"severity": "warning", "message": message}));
        }
    }
    let text = || {
        show(&report);
        lost.iter().for_each(|message| print::warning(message));
    };
    print_result(json, Some(&path), valid, text, findings)
}

/// What stands before what to write instead, in columns: `  = help: `, and the width of a number of a line.
const HELP: usize = 14;

/// Prints findings to stderr, on a terminal with colours and no wider than that.
pub(super) fn show(report: &Report) {
    match print::error_colour() {
        _ if report.is_empty() => {}
        true => {
            let width = terminal::size(&std::io::stderr()).map(|(_, columns)| columns.into());
            let fit = |help: &str| match width {
                Some(width) => layout::wrap(help, layout::room(width, HELP)).join("\n"),
                None => help.to_owned(),
            };
            print::coloured_error(&report.styled(fit))
        }
        false => print::plain_error(&report.to_string()),
    }
}

fn print_result(
    json: bool,
    path: Option<&Path>,
    valid: bool,
    text: impl FnOnce(),
    findings: Value,
) -> ExitCode {
    if json {
        let json = json!({"config": path, "valid": valid, "findings": findings}).to_string();
        print::raw(&format!("{}\n", print::sanitize_json(&json)));
    } else {
        text();
        if let (Some(path), true) = (path, valid) {
            let path = print::sanitize(&*path.to_string_lossy());
            let valid = layout::painted("valid", layout::GREEN, print::colour());
            print::raw(&format!("{path}: {valid}\n"));
        }
    }
    if valid {
        ExitCode::DONE
    } else {
        ExitCode::CONFIG
    }
}
