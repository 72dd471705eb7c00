//! `check`: validates the configuration and starts nothing.

use super::{print, run};
use crate::config::{self, Loaded};
use crate::exit_code::ExitCode;
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
                &format!("rotad: {message}"),
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
    let mut text = if report.is_empty() {
        String::new()
    } else {
        report.to_string()
    };
    let mut findings = report.to_json();
    for message in &lost {
        text.push_str(&format!("warning: {message}\n"));
        if let Some(findings) = findings.as_array_mut() {
            findings.push(json!({"severity": "warning", "message": message}));
        }
    }
    print_result(json, Some(&path), valid, &text, findings)
}

fn print_result(
    json: bool,
    path: Option<&Path>,
    valid: bool,
    text: &str,
    findings: Value,
) -> ExitCode {
    if json {
        let json = json!({"config": path, "valid": valid, "findings": findings}).to_string();
        print::raw(&format!("{}\n", print::sanitize_json(&json)));
    } else {
        if !text.is_empty() {
            print::plain_error(text.trim_end());
        }
        if let (Some(path), true) = (path, valid) {
            print::line(&format!("{}: valid", path.display()));
        }
    }
    if valid {
        ExitCode::DONE
    } else {
        ExitCode::CONFIG
    }
}
