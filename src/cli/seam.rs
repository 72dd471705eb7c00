//! Where the verbs reach the rest of rotad, in one place: errors become text for people here.

pub use crate::config::MasterPaths;
use crate::daemon::StartContext;
use crate::plan::Plan;
use std::path::{Path, PathBuf};

/// Reads a configuration: the plan and rendered warnings, or rendered findings.
///
/// # Errors
/// The findings, for people.
pub fn load(path: &Path) -> Result<(Plan, String), String> {
    match crate::config::load(path) {
        Ok(loaded) => {
            let warnings = if loaded.warnings.is_empty() { String::new() } else { loaded.warnings.to_string() };
            Ok((loaded.plan, warnings))
        }
        Err(findings) => Err(findings.to_string()),
    }
}

/// As [`load`], for a master that runs: what is found goes into its log and its events.
///
/// # Errors
/// The findings, without a line of the configuration.
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
/// None found, or one that must not be trusted.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, String> {
    crate::config::find(explicit).map_err(|error| error.to_string())
}

/// The same for those that ask a running master, which may have outlived its file.
///
/// # Errors
/// None found, or one that must not be trusted.
pub fn meant(explicit: Option<&Path>) -> Result<PathBuf, String> {
    crate::config::meant(explicit).map_err(|error| error.to_string())
}

/// The master that a configuration file belongs to, also a broken one's.
///
/// # Errors
/// A path that is not valid UTF-8: no master is known by it.
pub fn peek(path: &Path) -> Result<MasterPaths, String> {
    crate::config::unnameable(path).map_or_else(|| Ok(crate::config::peek(path)), Err)
}

/// The name of a user; none: there is no account with this number.
pub fn user_name(uid: u32) -> Option<String> {
    crate::config::user_of(uid).ok().flatten().map(|person| person.name)
}

/// The master's life, from its house to its last worker's end. Returns its exit code.
pub fn serve(plan: Plan, launch: StartContext) -> u8 {
    crate::supervisor::serve(plan, launch, std::sync::Arc::new(load_for_log))
}
