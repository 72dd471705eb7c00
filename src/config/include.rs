//! `include`: finds the files that a configuration includes, and reads their texts.

use super::paths;
use super::permissions;
use super::reader::{Located, Parser, Value};
use super::report::shown;
use super::sources::Text;
use crate::plan::{Exclusions, PathPattern, Source, read};
use std::path::{Path, PathBuf};

/// Maximum number of included files.
const MOST: usize = 1000;

/// Maximum size of all included files together, in bytes.
const LARGEST: usize = 16 << 20;

/// The result of `include`.
#[derive(Default)]
pub(super) struct Included {
    pub(super) globs: Vec<PathPattern>,
    pub(super) texts: Vec<Text>,
    pub(super) sources: Vec<Source>,
}

/// The files that the main configuration's `include` matches now, in order of their paths. `main` is the real path of
/// the configuration: it is left out if a pattern matches it too.
pub(super) fn files(parser: &mut Parser, root: &Value<'_>, main: &Path) -> Included {
    let mut included = Included::default();
    let Some(value) = root
        .get_ref()
        .as_table()
        .and_then(|table| table.get("include"))
    else {
        return included;
    };
    let Some(patterns) = parser.texts(value, "patterns of files such as [\"conf.d/*.toml\"]")
    else {
        return included;
    };
    let mut found: Vec<Located<PathBuf>> = Vec::new();
    for pattern in patterns.value {
        for path in matches(parser, &pattern, &mut included.globs) {
            let again = found.iter().any(|at| at.value == path);
            if !again && path.canonicalize().map_or(true, |real| real != main) {
                found.push(Located::new(path, pattern.span.clone()));
            }
        }
    }
    found.sort_by(|a, b| a.value.cmp(&b.value));
    if found.len() > MOST {
        parser.error(
            &patterns.span,
            format!("{} files to include, {MOST} are the most", found.len()),
        );
        return included;
    }
    let mut bytes = 0;
    for at in found {
        bytes += one(parser, &at, main, &mut included);
        if bytes > LARGEST {
            parser.error(&patterns.span, "more than 16 MiB to include");
            break;
        }
    }
    included
}

/// The matches of one pattern.
fn matches(
    parser: &mut Parser,
    pattern: &Located<String>,
    globs: &mut Vec<PathPattern>,
) -> Vec<PathBuf> {
    let Some(glob) = self::pattern(parser, pattern) else {
        return Vec::new();
    };
    if let Some(found) = permissions::writable_by_others(glob.root()) {
        let (message, hint) = permissions::refusal(&found);
        parser.error_with(&pattern.span, message, hint);
    }
    let paths = match glob.find() {
        Ok(paths) => paths,
        Err(error) => {
            parser.error(
                &pattern.span,
                format!("cannot look for `{}`: {error}", shown(&pattern.value)),
            );
            return Vec::new();
        }
    };
    if paths.is_empty() {
        let message = format!("no file matches `{}` now", shown(&pattern.value));
        parser.warning(
            &pattern.span,
            message,
            format!("it is looked for in {}", glob.root().display()),
        );
    }
    globs.push(glob);
    paths
}

/// A parsed pattern; reports a finding if it is invalid.
pub(super) fn pattern(parser: &mut Parser, pattern: &Located<String>) -> Option<PathPattern> {
    let parsed = without_braces(&pattern.value)
        .and_then(|()| PathPattern::new(&pattern.value, &parser.base));
    valid(parser, pattern, parsed)
}

/// Whether a pattern that begins with `!` is valid; reports a finding if it is not.
pub(super) fn exclusion(parser: &mut Parser, pattern: &Located<String>) -> bool {
    let excluded = pattern.value.trim_start_matches('!');
    let parsed =
        without_braces(excluded).and_then(|()| Exclusions::default().add(&parser.base, excluded));
    valid(parser, pattern, parsed).is_some()
}

fn without_braces(pattern: &str) -> Result<(), String> {
    let braces = pattern.split_once('{');
    match braces.is_some_and(|(_, rest)| rest.contains([',', '}'])) {
        true => Err("`{…}` is no part of a pattern: write a list of two patterns".to_owned()),
        false => Ok(()),
    }
}

fn valid<T>(
    parser: &mut Parser,
    pattern: &Located<String>,
    parsed: Result<T, String>,
) -> Option<T> {
    if pattern.value.is_empty() {
        parser.error(&pattern.span, "expected a pattern of files, found nothing");
        return None;
    }
    match parsed {
        Ok(valid) => Some(valid),
        Err(message) => {
            let hint =
                "*, ? and [ab] stand for a part of one name, ** for any number of directories";
            parser.error_with(
                &pattern.span,
                format!("`{}` is no pattern: {message}", shown(&pattern.value)),
                hint,
            );
            None
        }
    }
}

/// Reads one file; returns its size in bytes.
fn one(parser: &mut Parser, at: &Located<PathBuf>, main: &Path, included: &mut Included) -> usize {
    let path = &at.value;
    if let Some(message) = paths::unnameable(path) {
        parser.error_with(&at.span, message, "rename the file or the directory");
        return 0;
    }
    let content = match read(path) {
        Ok(content) => content,
        Err(error) => {
            parser.error(
                &at.span,
                format!("cannot include {}: {error}", path.display()),
            );
            return 0;
        }
    };
    if let Some(found) = permissions::writable_by_others(path) {
        let (message, hint) = permissions::refusal(&found);
        parser.error_with(&at.span, message, hint);
    } else if !permissions::may_be_included(path, main) {
        let message = format!(
            "{} belongs neither to root nor to the owner of this file",
            path.display()
        );
        parser.error_with(&at.span, message, "what it says would run as root");
    }
    let text = parser.add_text(path, &String::from_utf8_lossy(&content));
    if let Err(fault) = std::str::from_utf8(&content) {
        let place = text.whole(&(fault.valid_up_to()..fault.valid_up_to()));
        parser.error(&place, "not valid UTF-8");
    } else {
        included.texts.push(text);
    }
    let bytes = content.len();
    included.sources.push(Source {
        path: path.clone(),
        missing: false,
        shown: None,
        content,
    });
    bytes
}
