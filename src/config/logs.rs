//! [pool.NAME.log]: where a pool's output goes, and whether its files can be written.

use super::accounts;
use super::pool_tables::Log;
use super::reader::{Located, Parser};
use super::section::written;
use crate::plan::{FileAccess, LogPlan, Sink};
use nix::unistd::{AccessFlags, Uid, access as may};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// With a smaller limit a log file would be rotated all the time. In bytes.
const LEAST_SIZE: u64 = 4096;

pub(super) fn make(parser: &mut Parser, log: &Log) -> LogPlan {
    let files = files(log);
    for file in &files {
        usable(parser, file);
    }
    if let Some(at) = &log.max_size.written {
        large_enough(parser, at);
    }
    for (key, span) in written!(log, max_size, keep, mode, user, group) {
        if files.is_empty() {
            let hint = "name a file: stdout = \"web.log\"; the master's own log has log_max_size and log_keep";
            parser.unused_key(
                span,
                format!("`{key}` means nothing without a log file of the pool"),
                hint,
            );
        }
    }
    LogPlan {
        stdout: log.stdout.value(),
        stderr: log.stderr.value(),
        max_size: log.max_size.value(),
        keep: log.keep.value(),
        access: access(parser, log),
    }
}

/// Owner, group and mode of the files.
fn access(parser: &mut Parser, log: &Log) -> FileAccess {
    let root = Uid::effective().is_root();
    let mut access = FileAccess {
        mode: log.mode.as_ref().map(|at| at.value),
        ..FileAccess::default()
    };
    if let Some(name) = &log.user {
        access.uid = accounts::user(parser, name).map(|user| user.uid);
        if access
            .uid
            .is_some_and(|uid| !root && uid != Uid::effective().as_raw())
        {
            parser.error(&name.span, "only root can give a log to another user");
        }
    }
    if let Some(name) = &log.group {
        access.gid = accounts::group(parser, name);
        if access
            .gid
            .is_some_and(|gid| !root && !accounts::own_groups().contains(&gid))
        {
            parser.error(
                &name.span,
                "only root can give a log to a group that it is not in",
            );
        }
    }
    access
}

/// The files that a pool writes.
pub(super) fn files(log: &Log) -> Vec<Located<PathBuf>> {
    let file = |at: &Located<Sink>| match &at.value {
        Sink::File(path) => Some(Located::new(path.clone(), at.span.clone())),
        _ => None,
    };
    [&log.stdout.written, &log.stderr.written]
        .into_iter()
        .flatten()
        .filter_map(file)
        .collect()
}

pub(super) fn large_enough(parser: &mut Parser, size: &Located<u64>) {
    if size.value < LEAST_SIZE {
        parser.error_with(
            &size.span,
            "too small for a log file",
            "4KiB is the least, \"50MiB\" the default",
        );
    }
}

/// A file's identity whatever it is called: its real path, or that of its directory if it does not exist yet.
pub(super) fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        match (path.parent().map(Path::canonicalize), path.file_name()) {
            (Some(Ok(directory)), Some(name)) => directory.join(name),
            _ => path.to_owned(),
        }
    })
}

fn usable(parser: &mut Parser, file: &Located<PathBuf>) {
    let path = file.value.display();
    match file.value.metadata() {
        Ok(meta) if meta.is_dir() => {
            let hint = "name a file in it: stdout = \"log/web.log\"";
            parser.error_with(&file.span, format!("{path} is a directory"), hint);
        }
        Ok(meta) if !meta.is_file() => {
            let hint = "write \"null\" for nowhere, \"inherit\" for the master's own output";
            parser.error_with(&file.span, format!("{path} is not a regular file"), hint);
        }
        Ok(_) if may(&file.value, AccessFlags::W_OK).is_err() => {
            parser.error_with(
                &file.span,
                format!("{path} cannot be written"),
                "the master writes it, as its own user",
            );
        }
        Ok(_) => {}
        Err(_) => can_be_made(parser, &file.value, &file.span),
    }
}

/// Whether the file, and every missing directory above it, can be created.
fn can_be_made(parser: &mut Parser, file: &Path, span: &Range<usize>) {
    let Some(there) = file
        .ancestors()
        .skip(1)
        .find(|directory| directory.symlink_metadata().is_ok())
    else {
        return;
    };
    let message = format!("{} cannot be made", file.display());
    if !there.is_dir() {
        parser.error_with(
            span,
            message,
            format!("{} is no directory", there.display()),
        );
    } else if may(there, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        parser.error_with(
            span,
            message,
            format!("{} is not writable for the master", there.display()),
        );
    }
}
