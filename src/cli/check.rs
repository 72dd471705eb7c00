//! `check`: validates the configuration and starts nothing.

use super::{code, print, seam};
use std::path::Path;

/// 0: valid, perhaps with warnings; 78: it has findings, all of them printed.
pub(super) fn check(file: Option<&Path>, json: bool) -> u8 {
    let path = match seam::find(file) {
        Ok(path) => path,
        Err(message) => return answer(json, None, Err(message)),
    };
    answer(json, Some(&path), seam::load(&path).map(|(_, warnings)| warnings))
}

fn answer(json: bool, path: Option<&Path>, result: Result<String, String>) -> u8 {
    let valid = result.is_ok();
    let text = match &result {
        Ok(text) | Err(text) => text.trim_end(),
    };
    if json {
        let value = serde_json::json!({"config": path, "valid": valid, "report": text});
        print::line(&value.to_string());
    } else {
        if !text.is_empty() {
            print::plain_error(text);
        }
        if let (Some(path), true) = (path, valid) {
            print::line(&format!("{}: valid", path.display()));
        }
    }
    if valid { 0 } else { code::CONFIG }
}
