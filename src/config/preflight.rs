//! Checks whether what the workers need exists now. It only warns, since a deployment may bring it later.

use super::reader::Parser;
use super::report::shown;
use super::unexpanded;
use crate::plan::{Recipe, Template};
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Warns if the working directory or the program of `recipe` does not exist. `command_span` and `directory_span`
/// are where to report that.
pub(super) fn check(
    parser: &mut Parser,
    recipe: &Recipe,
    command_span: &Range<usize>,
    directory_span: &Range<usize>,
) {
    let directory = &recipe.working_directory;
    if !directory.is_dir() {
        let message = format!(
            "the working directory {} does not exist now",
            directory.display()
        );
        parser.warning(directory_span, message, "workers cannot start without it");
        return;
    }
    if let Some(first) = recipe.command.first() {
        let needs = Needs {
            directory,
            path: path(recipe),
            without: "workers cannot start without it",
            set_path: "write its whole path, or set PATH in `env`",
        };
        program(parser, first, &needs, command_span);
    }
}

/// What a program is looked up by.
pub(super) struct Needs<'a> {
    pub(super) directory: &'a Path,
    /// `None`: known only at spawn.
    pub(super) path: Option<OsString>,
    /// What does not work without the program, …
    pub(super) without: &'static str,
    /// … and what to do where PATH does not lead to it.
    pub(super) set_path: &'static str,
}

/// Warns if a program does not exist.
pub(super) fn program(
    parser: &mut Parser,
    first: &Template,
    needs: &Needs<'_>,
    command_span: &Range<usize>,
) {
    let directory = needs.directory;
    // A placeholder in the program's name is known only at spawn.
    let Some(program) = first.fixed() else {
        return;
    };
    // Messages have no values of variables.
    let (program, named) = (program.as_str(), first.shown());
    if program.contains('/') {
        let path = directory.join(program);
        let shown = directory.join(named);
        let shown = shown.display();
        if !path.is_file() {
            let message = format!("the program {shown} does not exist now");
            parser.warning(command_span, message, needs.without);
        } else if !executable(&path) {
            let message = format!("the program {shown} is not executable");
            parser.warning(
                command_span,
                message,
                "chmod +x it, or name its interpreter first",
            );
        }
        return;
    }
    let found = |path: &OsString| {
        std::env::split_paths(path).any(|dir| executable(&directory.join(dir).join(program)))
    };
    if needs.path.as_ref().is_some_and(|path| !found(path)) {
        let message = format!("the program `{}` is not found in PATH now", shown(&named));
        let hint = unexpanded::builtin(program);
        parser.warning(command_span, message, hint.unwrap_or(needs.set_path));
    }
}

/// The PATH that the worker's program is looked up in; `None`: known only at spawn.
fn path(recipe: &Recipe) -> Option<OsString> {
    match recipe.env.iter().rev().find(|(name, _)| name == "PATH") {
        Some((_, value)) => value.fixed().map(OsString::from),
        None => std::env::var_os("PATH"),
    }
}

fn executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
