//! What the values look like that can be written in more than one form (`values` parses them), as JSON schema.

use super::kinds::Choice;
use super::section::Kind;
use super::shapes::{self, Shape};
use super::units;
use super::values::{KINDS, MOST, OURS, OWN_HEADERS, SINKS};
use serde_json::json;

pub(super) fn kind() -> Shape {
    Choice(KINDS).shape()
}

pub(super) fn count() -> Shape {
    shapes::any(vec![
        shapes::number(1, MOST.into()),
        shapes::words(["cpus"]),
    ])
}

/// A string, or a list of them.
pub(super) fn texts() -> Shape {
    shapes::one_or_list(shapes::some_text(), 0)
}

/// The same, with one at least.
pub(super) fn some_texts() -> Shape {
    shapes::one_or_list(shapes::some_text(), 1)
}

pub(super) fn stdin() -> Shape {
    shapes::any(vec![
        shapes::words(["null"]),
        shapes::pattern("^listen:[^\\n]+$"),
    ])
}

pub(super) fn env() -> Shape {
    let mut name = shapes::variable();
    name["not"] = json!({ "pattern": format!("^({})", OURS.join("|")) });
    shapes::names(name, shapes::text())
}

pub(super) fn pass_env() -> Shape {
    shapes::one_or_list(shapes::pattern("^([A-Za-z_.-][A-Za-z0-9_.-]*\\*?|\\*)$"), 0)
}

pub(super) fn nice() -> Shape {
    shapes::number(-20, 19)
}

pub(super) fn essential() -> Shape {
    shapes::any(vec![shapes::words(["exit"]), shapes::duration()])
}

pub(super) fn surge() -> Shape {
    shapes::any(vec![
        shapes::number(0, MOST.into()),
        shapes::pattern(r"^\+?0*(100|[0-9]{1,2})\s*%$"),
    ])
}

pub(super) fn exit_codes() -> Shape {
    shapes::list(shapes::number(0, 255), 0)
}

pub(super) fn time_of_day() -> Shape {
    shapes::pattern("^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$")
}

pub(super) fn stdout() -> Shape {
    let mut path = shapes::some_text();
    path["not"] = json!({ "enum": ["stdout", "stderr"] });
    shapes::any(vec![
        shapes::words(SINKS.iter().map(|(word, _)| *word)),
        path,
    ])
}

pub(super) fn stderr() -> Shape {
    let mut path = shapes::some_text();
    path["not"] = json!({ "enum": ["stderr"] });
    let words = SINKS.iter().map(|(word, _)| *word).chain(["stdout"]);
    shapes::any(vec![shapes::words(words), path])
}

pub(super) fn headers() -> Shape {
    let own: Vec<String> = OWN_HEADERS.iter().map(|name| without_case(name)).collect();
    let mut name = shapes::pattern("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$");
    name["not"] = json!({ "pattern": format!("^({})$", own.join("|")) });
    shapes::names(name, shapes::text())
}

pub(super) fn signal() -> Shape {
    let names: Vec<&str> = units::signal_names().collect();
    let any_case: Vec<String> = names.iter().map(|name| without_case(name)).collect();
    let pattern = format!(
        r"^\s*{}({}|{}(\+[0-9]+)?|{}(-[0-9]+)?)\s*$",
        format_args!("({})?", without_case("SIG")),
        any_case.join("|"),
        without_case("RTMIN"),
        without_case("RTMAX"),
    );
    shapes::any(vec![shapes::words(names), shapes::pattern(&pattern)])
}

/// A regular expression for a word whose case does not matter: JSON schema has no flags.
fn without_case(word: &str) -> String {
    word.chars()
        .map(|letter| match letter.is_ascii_alphabetic() {
            true => format!(
                "[{}{}]",
                letter.to_ascii_uppercase(),
                letter.to_ascii_lowercase()
            ),
            false => letter.to_string(),
        })
        .collect()
}
