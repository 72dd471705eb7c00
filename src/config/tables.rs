//! Reads tables by the keys that `section!` declares for them: each entry is stored by its key, one that is none of them
//! is a finding. Called by the kinds of keys that are tables, and for the top of the file, for [defaults] and for pools.

use super::foreign_values;
use super::reader::{Located, Parser, Value};
use super::report::shown;
use super::section::{Documented, Keys};

/// Maximum number of pools, and of listeners.
const MOST: usize = 1000;

/// A table with a header; for anything else an empty one, and a finding.
pub(super) fn read<T: Documented>(parser: &mut Parser, value: &Value<'_>) -> T {
    let mut section = T::default();
    if !value.get_ref().is_table() {
        let hint = foreign_values::table(T::TABLE, value.get_ref());
        parser.expected_with(value, "a table", hint);
        return section;
    }
    for (name, entry) in parser.entries(value) {
        match T::key(&name.value) {
            Some(key) => (key.store)(parser, &mut section, entry),
            None => parser.unknown_key(&name, entry, T::TABLE, &T::names()),
        }
    }
    section
}

/// A table that is the value of a key, and whether none of its entries has an error. `what`: what a message calls its
/// keys.
pub(super) fn read_inline<T: Keys>(
    parser: &mut Parser,
    entries: &[(Located<String>, &Value<'_>)],
    what: &str,
) -> (T, bool) {
    let mut section = T::default();
    let errors = parser.errors();
    for (name, entry) in entries {
        match T::key(&name.value) {
            Some(key) => (key.store)(parser, &mut section, entry),
            None => parser.unknown(&name.span, what, &name.value, &T::names()),
        }
    }
    (section, parser.errors() == errors)
}

/// A table of named tables.
pub(super) fn read_named<T: Documented>(
    parser: &mut Parser,
    value: &Value<'_>,
    into: &mut Vec<(Located<String>, T)>,
) {
    for (name, entry) in parser.entries(value) {
        if begin(parser, &name, entry, into) {
            parser.begin_named(&name);
            let section = read(parser, entry);
            into.push((name, section));
        }
    }
}

/// Whether `entry` is a named table; reports a finding otherwise.
pub(super) fn begin<T: Keys>(
    parser: &mut Parser,
    name: &Located<String>,
    entry: &Value<'_>,
    so_far: &[(Located<String>, T)],
) -> bool {
    if T::key(&name.value).is_some() && !entry.get_ref().is_table() {
        let hint = "write it below [pool.NAME] or [listen.NAME]";
        parser.error_with(
            &name.span,
            format!("`{}` stands outside of a named table", name.value),
            hint,
        );
        return false;
    }
    parser.name(name);
    if so_far.len() >= MOST {
        parser.error(&name.span, format!("more than {MOST} of these"));
        return false;
    }
    if let Some((other, _)) = so_far.iter().find(|(other, _)| other.value == name.value) {
        let message = format!(
            "`{}` is there already: {}",
            shown(&name.value),
            parser.spot(&other.span)
        );
        parser.error_with(&name.span, message, "give one of them another name");
        return false;
    }
    true
}
