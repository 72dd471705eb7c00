//! What the verbs need from the rest of rotad, in one place: errors become text here.

pub use crate::config::MasterPaths;
use crate::daemon::StartContext;
use crate::plan::Plan;
use std::path::{Path, PathBuf};

/// Reads a configuration: the plan and its rendered warnings.
///
/// # Errors
/// The findings, rendered for a terminal.
pub fn load(path: &Path) -> Result<(Plan, String), String> {
    match crate::config::load(path) {
        Ok(loaded) => {
            let warnings = if loaded.warnings.is_empty() {
                String::new()
            } else {
                loaded.warnings.to_string()
            };
            Ok((loaded.plan, warnings))
        }
        Err(findings) => Err(findings.to_string()),
    }
}

/// As [`load`], for a running master: findings go to its log and its events.
///
/// # Errors
/// The findings, without lines of the configuration.
pub fn load_for_log(path: &Path) -> Result<(Plan, String), String> {
    match crate::config::load(path) {
        Ok(loaded) if loaded.warnings.is_empty() => Ok((loaded.plan, String::new())),
        Ok(loaded) => Ok((loaded.plan, loaded.warnings.for_log())),
        Err(findings) => Err(findings.for_log()),
    }
}

/// The configuration file: the explicit one, or the first of the search.
///
/// # Errors
/// None was found, or it must not be trusted.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, String> {
    crate::config::find(explicit).map_err(|error| error.to_string())
}

/// The same for commands to a running master, whose file may be gone.
///
/// # Errors
/// None was found, or it must not be trusted.
pub fn meant(explicit: Option<&Path>) -> Result<PathBuf, String> {
    crate::config::meant(explicit).map_err(|error| error.to_string())
}

/// The master that a configuration file belongs to, even if the file is broken.
///
/// # Errors
/// The path is not valid UTF-8, so it identifies no master.
pub fn peek(path: &Path) -> Result<MasterPaths, String> {
    crate::config::unnameable(path).map_or_else(|| Ok(crate::config::peek(path)), Err)
}

/// The name of a user; `None` if no account has this number.
pub fn user_name(uid: u32) -> Option<String> {
    crate::config::user_of(uid)
        .ok()
        .flatten()
        .map(|person| person.name)
}

/// Runs the master until its last worker is gone. Returns its exit code.
pub fn serve(plan: Plan, launch: StartContext) -> u8 {
    crate::supervisor::serve(plan, launch, std::sync::Arc::new(load_for_log))
}
