//! `include`: which files a configuration takes in, and their texts.

use super::place;
use super::reader::{Located, Parser, Value};
use super::report::shown;
use super::texts::Text;
use super::trust;
use crate::plan::{Glob, Source, read};
use std::path::{Path, PathBuf};

/// The most files that may be included.
const MOST: usize = 1000;

/// The most bytes of all of them.
const LARGEST: usize = 16 << 20;

/// What `include` has brought.
#[derive(Default)]
pub(super) struct Included {
    pub(super) globs: Vec<Glob>,
    pub(super) texts: Vec<Text>,
    pub(super) sources: Vec<Source>,
}

/// The files that the main configuration's `include` finds now, in the order of their paths. `main` is the real path
/// of the configuration: a pattern that finds it, too, does not mean it.
pub(super) fn files(cx: &mut Parser, root: &Value<'_>, main: &Path) -> Included {
    let mut included = Included::default();
    let Some(value) = root.get_ref().as_table().and_then(|table| table.get("include")) else { return included };
    let Some(patterns) = cx.texts(value, "patterns of files such as [\"conf.d/*.toml\"]") else { return included };
    let mut found: Vec<Located<PathBuf>> = Vec::new();
    for pattern in patterns.value {
        for path in matches(cx, &pattern, &mut included.globs) {
            let again = found.iter().any(|at| at.value == path);
            if !again && path.canonicalize().map_or(true, |real| real != main) {
                found.push(Located::new(path, pattern.span.clone()));
            }
        }
    }
    found.sort_by(|a, b| a.value.cmp(&b.value));
    if found.len() > MOST {
        cx.error(&patterns.span, format!("{} files to include, {MOST} are the most", found.len()));
        return included;
    }
    let mut bytes = 0;
    for at in found {
        bytes += one(cx, &at, main, &mut included);
        if bytes > LARGEST {
            cx.error(&patterns.span, "more than 16 MiB to include");
            break;
        }
    }
    included
}

/// What one pattern finds.
fn matches(cx: &mut Parser, pattern: &Located<String>, globs: &mut Vec<Glob>) -> Vec<PathBuf> {
    let Some(glob) = self::pattern(cx, pattern) else { return Vec::new() };
    if let Some(found) = trust::writable_by_others(&glob.folder()) {
        let (message, hint) = trust::distrust(&found);
        cx.error_with(&pattern.span, message, hint);
    }
    let paths = match glob.find() {
        Ok(paths) => paths,
        Err(error) => {
            cx.error(&pattern.span, format!("cannot look for `{}`: {error}", shown(&pattern.value)));
            return Vec::new();
        }
    };
    if paths.is_empty() {
        let message = format!("no file matches `{}` now", shown(&pattern.value));
        cx.warning(&pattern.span, message, format!("it is looked for in {}", glob.folder().display()));
    }
    globs.push(glob);
    paths
}

/// A checked pattern; a finding where it is none.
pub(super) fn pattern(cx: &mut Parser, pattern: &Located<String>) -> Option<Glob> {
    if pattern.value.is_empty() {
        cx.error(&pattern.span, "expected a pattern of files, found nothing");
        return None;
    }
    match Glob::new(&pattern.value, &cx.base) {
        Ok(glob) => Some(glob),
        Err(message) => {
            let hint = "*, ? and [ab] stand for a part of one name, ** for any number of folders";
            cx.error_with(&pattern.span, format!("`{}` is no pattern: {message}", shown(&pattern.value)), hint);
            None
        }
    }
}

/// Reads one file; how many bytes it has.
fn one(cx: &mut Parser, at: &Located<PathBuf>, main: &Path, included: &mut Included) -> usize {
    let path = &at.value;
    if let Some(message) = place::unnameable(path) {
        cx.error_with(&at.span, message, "rename the file or the folder");
        return 0;
    }
    let content = match read(path) {
        Ok(content) => content,
        Err(error) => {
            cx.error(&at.span, format!("cannot include {}: {error}", path.display()));
            return 0;
        }
    };
    if let Some(found) = trust::writable_by_others(path) {
        let (message, hint) = trust::distrust(&found);
        cx.error_with(&at.span, message, hint);
    } else if !trust::is_roots_or_of_the_owner_of(path, main) {
        let message = format!("{} belongs neither to root nor to the owner of this file", path.display());
        cx.error_with(&at.span, message, "what it says would run as root");
    }
    let text = cx.add_text(path, &String::from_utf8_lossy(&content));
    if let Err(fault) = std::str::from_utf8(&content) {
        let place = text.whole(&(fault.valid_up_to()..fault.valid_up_to()));
        cx.error(&place, "not valid UTF-8");
    } else {
        included.texts.push(text);
    }
    let bytes = content.len();
    included.sources.push(Source { path: path.clone(), content });
    bytes
}
