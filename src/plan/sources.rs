//! The files of a plan: how they are read, and whether they have changed since.

use super::Plan;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A configuration or env file larger than this was given by mistake, in bytes.
const LARGEST: u64 = 4 << 20;

/// The content of a regular file of at most 4 MiB. It never waits for the other end of a pipe.
///
/// # Errors
/// The file cannot be opened or read, is not a regular file, or is too large.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
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

/// The files of `plan` that differ from what was read, and files that `include` matches in addition. A file that is
/// gone has changed.
///
/// # Errors
/// A file cannot be read for a reason other than that it is gone.
pub fn changed(plan: &Plan) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for source in &plan.sources {
        match read(&source.path) {
            Ok(content) if content == source.content && !source.missing => {}
            Err(error) if source.missing && is_missing(&error) => {}
            Ok(_) => changed.push(source.path.clone()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                changed.push(source.path.clone())
            }
            Err(error) => return Err(error),
        }
    }
    for glob in &plan.include {
        for path in glob.find().map_err(io::Error::other)? {
            let known =
                plan.sources.iter().any(|source| source.path == path) || is(&path, &plan.real);
            if !known && !changed.contains(&path) {
                changed.push(path);
            }
        }
    }
    Ok(changed)
}

/// Whether an error of [`read`] says that there is no such file.
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether both are the same file; `real` is a real path.
fn is(path: &Path, real: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == real)
}
