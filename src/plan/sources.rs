//! The files of a plan: how one is read, and whether the plan is still what they say.

use super::Plan;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A configuration or env file larger than this is some other file. Bytes.
const LARGEST: u64 = 4 << 20;

/// The whole of a regular file of 4 MiB at most; never waits for a pipe's other end.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    Ok(content)
}

/// The files of `plan` that differ now from what was read, and those that `include` would find besides them. One that
/// is gone has changed; one that cannot be read for another reason is an error.
pub fn changed(plan: &Plan) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for source in &plan.sources {
        match read(&source.path) {
            Ok(content) if content == source.content => {}
            Ok(_) => changed.push(source.path.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => changed.push(source.path.clone()),
            Err(error) => return Err(error),
        }
    }
    for glob in &plan.include {
        for path in glob.find().map_err(io::Error::other)? {
            let known = plan.sources.iter().any(|source| source.path == path) || is(&path, &plan.real);
            if !known && !changed.contains(&path) {
                changed.push(path);
            }
        }
    }
    Ok(changed)
}

/// Whether both are the same file; `real` is a real path.
fn is(path: &Path, real: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == real)
}
