//! [pool.NAME.log]: where a pool's output goes, and whether its files can be written.

use super::pool_tables::Log;
use super::reader::{Located, Parser};
use super::report::shown;
use super::section::{Setting, written};
use super::values::SinkText;
use super::{accounts, paths, templates};
use crate::plan::{FileAccess, LogFile, LogPlan, Piece, Sink};
use nix::unistd::{AccessFlags, Uid, access as may};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// With a smaller limit a log file would be rotated all the time. In bytes.
const LEAST_SIZE: u64 = 4096;

/// The log of a pool, and its files with their places.
pub(super) struct Resolved {
    pub(super) plan: LogPlan,
    pub(super) files: Vec<Located<LogFile>>,
}

/// `pool`: the name of the pool.
pub(super) fn make(parser: &mut Parser, pool: &str, log: &Log) -> Resolved {
    let mut files = Vec::new();
    let mut sink = |text: &Setting<SinkText>| match text.value() {
        SinkText::Master => Sink::Master,
        SinkText::Inherit => Sink::Inherit,
        SinkText::Null => Sink::Null,
        SinkText::Stdout => Sink::Stdout,
        SinkText::File(path) => {
            let span = text.written.as_ref().map_or(0..0, |at| at.span.clone());
            match file(parser, &Located::new(path, span), pool) {
                Some(file) => {
                    files.push(file.clone());
                    Sink::File(file.value)
                }
                // It has a finding.
                None => Sink::Null,
            }
        }
    };
    let (stdout, stderr) = (sink(&log.stdout), sink(&log.stderr));
    for file in &files {
        usable(parser, file);
    }
    large_enough(parser, log.max_size.written.as_ref());
    keeps_some(parser, &log.max_size, log.keep.written.as_ref(), "keep");
    let names_file = |text: &Setting<SinkText>| matches!(text.value(), SinkText::File(_));
    let has_file = names_file(&log.stdout) || names_file(&log.stderr);
    for (key, span) in written!(log, max_size, keep, timestamps, mode, user, group) {
        if !has_file {
            let hint = "name a file: stdout = \"web.log\"; the master's own log has log_max_size and log_keep, and a time \
                        before each line";
            parser.unused_key(
                span,
                format!("`{key}` means nothing without a log file of the pool"),
                hint,
            );
        }
    }
    let plan = LogPlan {
        stdout,
        stderr,
        max_size: log.max_size.value().unwrap_or(0),
        keep: log.keep.value(),
        timestamps: log.timestamps.value(),
        access: access(parser, log),
    };
    Resolved { plan, files }
}

/// The file at a path with placeholders; `None` if it has a finding.
fn file(parser: &mut Parser, text: &Located<String>, pool: &str) -> Option<Located<LogFile>> {
    let mut template = templates::path(parser, text, pool, true, "a log")?;
    let path = LogFile::new(template.clone()).path(0);
    if text.value == "-" || leads_to_descriptor(&paths::under(&parser.base, &path)).is_some() {
        let message = format!(
            "`{}` is no file, but what this process has open at the moment",
            shown(&text.value)
        );
        let hint = "write \"inherit\" for the master's own output, or \"master\" for its log";
        parser.error_with(&text.span, message, hint);
        return None;
    }
    if !path.is_absolute() {
        let base = format!("{}/", parser.base.display());
        match template.0.first_mut() {
            Some(Piece::Text(first)) => first.insert_str(0, &base),
            _ => template.0.insert(0, Piece::Text(base)),
        }
    }
    Some(Located::new(LogFile::new(template), text.span.clone()))
}

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// The path of a terminal or an open descriptor that `path` is or leads to by links, whatever that is open for at the
/// moment: where the output of `rotad check` goes says nothing about that of the master.
pub(super) fn leads_to_descriptor(path: &Path) -> Option<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        let parts = path.components().rev();
        parts.map(|part| part.as_os_str().to_owned()).collect()
    };
    let mut left = parts(path);
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = left.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::Normal(name)) => {
                let next = here.join(name);
                if is_descriptor(&next) {
                    return Some(next);
                }
                match next.read_link() {
                    Ok(target) if links < MOST_LINKS => {
                        links += 1;
                        left.extend(parts(&target));
                    }
                    _ => here = next,
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
    None
}

/// Whether a path, by its text, is a terminal or a descriptor: /dev/stdout, /dev/fd/1, /proc/self/fd/1.
fn is_descriptor(path: &Path) -> bool {
    let parts: Vec<_> = path.iter().filter_map(OsStr::to_str).skip(1).collect();
    match parts[..] {
        [
            "dev",
            "stdin" | "stdout" | "stderr" | "tty" | "console" | "ptmx",
        ] => true,
        ["dev", "fd" | "pts", _] | ["proc", _, "fd", _] | ["proc", _, "task", _, "fd", _] => true,
        ["dev", name] => name.strip_prefix("tty").is_some_and(|rest| {
            rest.trim_start_matches(char::is_alphabetic)
                .parse::<u32>()
                .is_ok()
        }),
        _ => false,
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

/// Reports a size at which a log would be rotated all the time.
pub(super) fn large_enough(parser: &mut Parser, size: Option<&Located<Option<u64>>>) {
    if let Some(at) = size
        && at.value.is_some_and(|size| size < LEAST_SIZE)
    {
        parser.error_with(
            &at.span,
            "too small for a log file",
            "4KiB is the least, \"50MiB\" the default; \"none\": something else rotates it",
        );
    }
}

/// Reports rotated files that are kept of a log that is not rotated. `key`: what that is called.
pub(super) fn keeps_some(
    parser: &mut Parser,
    size: &Setting<Option<u64>>,
    keep: Option<&Located<u32>>,
    key: &str,
) {
    let (Some(at), Some(keep)) = (&size.written, keep) else {
        return;
    };
    if at.value.is_none() {
        let place = parser.more_specific(&keep.span, &at.span).clone();
        parser.unused_key(
            &place,
            format!("`{key}` means nothing for a log that is not rotated here"),
            "leave it out: what rotates the file keeps the old ones",
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

fn usable(parser: &mut Parser, file: &Located<LogFile>) {
    let (real, path) = (file.value.path(0), file.value.shown(Some(0)));
    match real.metadata() {
        Ok(meta) if meta.is_dir() => {
            let hint = "name a file in it: stdout = \"log/web.log\"";
            parser.error_with(&file.span, format!("{path} is a directory"), hint);
        }
        Ok(meta) if !meta.is_file() => {
            let hint = "write \"null\" for nowhere, \"inherit\" for the master's own output";
            parser.error_with(&file.span, format!("{path} is not a regular file"), hint);
        }
        Ok(_) if may(&real, AccessFlags::W_OK).is_err() => {
            parser.error_with(
                &file.span,
                format!("{path} cannot be written"),
                "the master writes it, as its own user",
            );
        }
        Ok(_) => {}
        Err(_) => can_be_made(parser, &real, file),
    }
}

/// Whether the file, and every missing directory above it, can be created.
fn can_be_made(parser: &mut Parser, real: &Path, file: &Located<LogFile>) {
    let span = &file.span;
    let Some(there) = real
        .ancestors()
        .skip(1)
        .find(|directory| directory.symlink_metadata().is_ok())
    else {
        return;
    };
    let message = format!("{} cannot be made", file.value.shown(Some(0)));
    // A directory whose name may have the value of a variable is not named.
    let fixed = file
        .value
        .pieces()
        .iter()
        .all(|piece| !matches!(piece, Piece::Env { .. }));
    let named = match fixed {
        true => there.display().to_string(),
        false => "a directory above it".to_owned(),
    };
    if !there.is_dir() {
        parser.error_with(span, message, format!("{named} is no directory"));
    } else if may(there, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        parser.error_with(
            span,
            message,
            format!("{named} is not writable for the master"),
        );
    }
}
