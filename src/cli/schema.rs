//! `schema`: prints the JSON schema of the configuration, made from the keys that the parser knows. And the line by which
//! editors find it, for the configurations that `init` and `import` write.

use crate::config;
use crate::exit_code::ExitCode;
use crate::observe::print;
use std::path::{Path, PathBuf};

/// What packages call the schema.
const FILE: &str = "rotad.schema.json";

/// Where a schema lies in a project: beside the configuration, or in the npm package.
const IN_PROJECT: [&str; 2] = [FILE, "node_modules/rotad/rotad.schema.json"];

/// Prefixes of the system, whose paths are the same for all who have the package.
const OF_SYSTEM: [&str; 2] = ["/usr", "/usr/local"];

/// Prints to stdout.
pub(super) fn schema() -> ExitCode {
    print::line(&config::json_schema());
    ExitCode::DONE
}

/// A configuration to be written into `dir`, with taplo's `#:schema PATH` at its top where there is a schema whose path is
/// the same for all who have the project: one in it, or one of the system. A path in a home directory is only its user's.
pub(super) fn headed(dir: &Path, text: &str) -> String {
    match path_from(dir) {
        Some(path) => format!("#:schema {path}\n{text}"),
        None => text.to_owned(),
    }
}

fn path_from(dir: &Path) -> Option<String> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    let dir = dir.canonicalize().ok()?;
    let is_there = |path: &&str| dir.join(path).is_file();
    if let Some(path) = IN_PROJECT.iter().copied().find(is_there) {
        return Some(format!("./{path}"));
    }
    let program = std::env::current_exe().ok()?;
    installed(&program, &dir).filter(|path| !path.contains(char::is_control))
}

/// The schema that was installed with the program, as seen from a directory.
fn installed(program: &Path, dir: &Path) -> Option<String> {
    let prefix = program.parent()?.parent()?;
    let schema: PathBuf = prefix.join("share/rotad").join(FILE);
    if !schema.is_file() {
        return None;
    }
    if let Ok(inside) = schema.strip_prefix(dir) {
        return Some(format!("./{}", inside.to_str()?));
    }
    let system = OF_SYSTEM.iter().any(|path| Path::new(path) == prefix);
    system.then(|| schema.to_str().map(str::to_owned)).flatten()
}
