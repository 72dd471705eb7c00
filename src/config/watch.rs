//! `reload.watch`: files whose changed content rolls a pool.

use super::include;
use super::pool_tables::Reload;
use super::reader::Parser;
use super::report::shown;
use crate::plan::Watch;

pub(super) fn make(parser: &mut Parser, reload: &Reload) -> Option<Watch> {
    let Some(patterns) = &reload.watch else {
        if let Some(at) = &reload.debounce.written {
            parser.unused_key(
                &at.span,
                "`debounce` means nothing without `watch`",
                "add watch = [\"src/**/*.py\"]",
            );
        }
        return None;
    };
    let mut globs = Vec::new();
    for pattern in &patterns.value {
        if pattern.value.starts_with('!') {
            if include::exclusion(parser, pattern) {
                globs.push(pattern.value.clone());
            }
            continue;
        }
        let Some(glob) = include::pattern(parser, pattern) else {
            continue;
        };
        match glob.finds_file() {
            Ok(true) => {}
            Ok(false) => {
                let message = format!("no file matches `{}` now", shown(&pattern.value));
                let hint = match glob.find() {
                    Ok(found) if !found.is_empty() => format!(
                        "a directory does; all files in it and below are `{}/**`",
                        shown(pattern.value.trim_end_matches('/'))
                    ),
                    _ => format!("it is looked for in {}", glob.root().display()),
                };
                parser.warning(&pattern.span, message, hint);
            }
            Err(error) => {
                let message = format!("cannot look for `{}`: {error}", shown(&pattern.value));
                parser.warning(
                    &pattern.span,
                    message,
                    "name a smaller directory, or one that can be read",
                );
            }
        }
        globs.push(pattern.value.clone());
    }
    if !patterns.value.is_empty()
        && patterns
            .value
            .iter()
            .all(|pattern| pattern.value.starts_with('!'))
    {
        parser.error_with(
            &patterns.span,
            "nothing is watched: every pattern leaves something out",
            "add \"**/*\" before them",
        );
    }
    if patterns.value.is_empty() {
        parser.error_with(
            &patterns.span,
            "an empty list of patterns",
            "leave `watch` out",
        );
    }
    let debounce = reload.debounce.value();
    Some(Watch {
        base: parser.base.clone(),
        globs,
        debounce: debounce.into(),
    })
}
