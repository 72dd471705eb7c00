//! Whether a plan is still what its files say.

use super::Plan;
use std::io;
use std::path::PathBuf;

/// The files of `plan` that differ now from what was read. One that is gone has changed; one that cannot be read for
/// another reason is an error.
pub fn changed(plan: &Plan) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for source in &plan.sources {
        match std::fs::read(&source.path) {
            Ok(content) if content == source.content => {}
            Ok(_) => changed.push(source.path.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => changed.push(source.path.clone()),
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}
