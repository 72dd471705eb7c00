//! [pool.NAME.log]: where a pool's output goes, and whether its files can be written.

use super::pool_tables::Log;
use super::reader::{At, Reader};
use crate::plan::{LogPlan, Sink};
use nix::unistd::{AccessFlags, access};
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const MAX_SIZE: u64 = 50 << 20;
pub(super) const KEEP: u32 = 10;

/// Below this a log file would be rotated all the time. Bytes.
const LEAST_SIZE: u64 = 4096;

pub(super) fn make(cx: &mut Reader, log: &Log) -> LogPlan {
    let files = files(log);
    for file in &files {
        usable(cx, file);
    }
    if let Some(at) = &log.max_size {
        large_enough(cx, at);
    }
    let sizes =
        [("max_size", log.max_size.as_ref().map(|at| &at.span)), ("keep", log.keep.as_ref().map(|at| &at.span))];
    for (key, span) in sizes.into_iter().filter_map(|(key, span)| Some((key, span?))) {
        if files.is_empty() {
            let hint = "name a file: stdout = \"web.log\"; the master's own log has log_max_size and log_keep";
            cx.idle(span, format!("`{key}` means nothing without a log file of the pool"), hint);
        }
    }
    LogPlan {
        stdout: log.stdout.as_ref().map_or(Sink::Master, |at| at.value.clone()),
        stderr: log.stderr.as_ref().map_or(Sink::Stdout, |at| at.value.clone()),
        max_size: log.max_size.as_ref().map_or(MAX_SIZE, |at| at.value),
        keep: log.keep.as_ref().map_or(KEEP, |at| at.value),
    }
}

/// The files that a pool writes.
pub(super) fn files(log: &Log) -> Vec<At<PathBuf>> {
    let file = |at: &At<Sink>| match &at.value {
        Sink::File(path) => Some(At::new(path.clone(), at.span.clone())),
        _ => None,
    };
    [&log.stdout, &log.stderr].into_iter().flatten().filter_map(file).collect()
}

pub(super) fn large_enough(cx: &mut Reader, size: &At<u64>) {
    if size.value < LEAST_SIZE {
        cx.error_with(&size.span, "too small for a log file", "4KiB is the least, \"50MiB\" the default");
    }
}

/// The same file by whatever name: the real path, of a file that does not exist yet its folder's.
pub(super) fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    })
}

fn usable(cx: &mut Reader, file: &At<PathBuf>) {
    let path = file.value.display();
    match file.value.metadata() {
        Ok(meta) if meta.is_dir() => {
            let hint = "name a file in it: stdout = \"log/web.log\"";
            cx.error_with(&file.span, format!("{path} is a folder"), hint);
        }
        Ok(meta) if !meta.is_file() => {
            let hint = "write \"null\" for nowhere, \"inherit\" for the master's own output";
            cx.error_with(&file.span, format!("{path} is not a regular file"), hint);
        }
        Ok(_) if access(&file.value, AccessFlags::W_OK).is_err() => {
            cx.error_with(&file.span, format!("{path} cannot be written"), "the master writes it, as its own user");
        }
        Ok(_) => {}
        Err(_) => can_be_made(cx, &file.value, &file.span),
    }
}

/// Whether the file, and every folder of it that is missing, can be made.
fn can_be_made(cx: &mut Reader, file: &Path, span: &Range<usize>) {
    let Some(there) = file.ancestors().skip(1).find(|folder| folder.symlink_metadata().is_ok()) else { return };
    let message = format!("{} cannot be made", file.display());
    if !there.is_dir() {
        cx.error_with(span, message, format!("{} is no folder", there.display()));
    } else if access(there, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        cx.error_with(span, message, format!("{} is not writable for the master", there.display()));
    }
}
