//! Where the verbs reach the rest of rotad, in one place.

use crate::os::daemon::Launch;
use crate::plan::Plan;
use std::path::{Path, PathBuf};

/// What can be known of a master from its configuration file, also from a broken one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The file's real path.
    pub config: PathBuf,
    pub name: String,
    pub runtime_dir: PathBuf,
    pub pid_file: PathBuf,
}

/// Reads a configuration: the plan and rendered warnings, or rendered findings.
///
/// # Errors
/// The findings, for people.
pub fn load(path: &Path) -> Result<(Plan, String), String> {
    Err(format!("not connected yet: reading {}", path.display()))
}

/// The configuration file: the explicit one, or the first of the search.
///
/// # Errors
/// None found, or one that must not be trusted.
pub fn find(explicit: Option<&Path>) -> Result<PathBuf, String> {
    explicit.map(Path::to_owned).ok_or_else(|| "not connected yet: searching for a configuration; use -c".to_owned())
}

/// The master that a configuration file belongs to.
///
/// # Errors
/// The file cannot be read, or tells too little.
pub fn peek(path: &Path) -> Result<Peek, String> {
    Err(format!("not connected yet: reading {}", path.display()))
}

/// The master's life, from its house to its last worker's end. Returns its exit code.
pub fn serve(_plan: Plan, launch: Launch) -> u8 {
    launch.report.finish(78, "not connected yet: the master");
    78
}

/// The hidden verb that drops rights and becomes a worker.
pub fn shim() -> u8 {
    super::print::error("not connected yet: the shim");
    78
}
