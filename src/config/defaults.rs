//! [defaults]: fills up the tables of pools before they are read, so that a default is checked and reported where it
//! is written.

use super::pool::Pool;
use super::reader::{Parser, Value, in_order};
use super::section::Keys;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Kinds of health check: a pool that has one of its own takes no other.
const WAYS: [&str; 4] = ["watchdog", "connect", "http", "command"];

/// Keys that have no meaning for a oneshot: it has one process, which is never ready and never replaced.
pub(super) const NOT_OF_ONESHOTS: [&str; 10] = [
    "listen",
    "stdin",
    "ports",
    "ready",
    "essential",
    "reload",
    "recycle",
    "health",
    "count",
    "max_starting",
];

/// The checked defaults, if there are any.
pub(super) fn read<'i>(parser: &mut Parser, value: Option<&Value<'i>>) -> Option<DeTable<'i>> {
    let value = value?;
    let table = value.get_ref().as_table();
    for (name, value) in table.map(in_order).unwrap_or_default() {
        let inner = value
            .get_ref()
            .as_table()
            .filter(|_| is_merged(&name.value));
        for (name, value) in inner.map(in_order).unwrap_or_default() {
            parser.add_default(name.span);
            parser.add_default(value.span());
        }
        if inner.is_none() {
            parser.add_default(value.span());
        }
        parser.add_default(name.span);
    }
    // Reported even if no pool takes them.
    parser.table(value, &mut Pool::default());
    let mut table = table?.clone();
    if let Some((name, _)) = table.remove_entry("ports") {
        parser.error_with(
            &name.span(),
            "`ports` cannot be a default",
            "no two pools can have the same ports",
        );
    }
    Some(table)
}

/// A pool's own table, filled up.
pub(super) fn fill<'i>(defaults: &DeTable<'i>, own: &DeTable<'i>) -> DeTable<'i> {
    let mut full = own.clone();
    let oneshot = is_oneshot(own) || (!own.contains_key("kind") && is_oneshot(defaults));
    for (name, value) in defaults {
        let word = name.get_ref().as_ref();
        if oneshot && NOT_OF_ONESHOTS.contains(&word) {
            continue;
        }
        match (full.get_mut(word).map(Spanned::get_mut), value.get_ref()) {
            (None, _) => {
                full.insert(name.clone(), value.clone());
            }
            (Some(DeValue::Table(own)), DeValue::Table(more)) if is_merged(word) => {
                let kept: Vec<&str> = if word == "health" {
                    not_with(own)
                } else {
                    Vec::new()
                };
                for (name, value) in more {
                    let word = name.get_ref().as_ref();
                    if !own.contains_key(word) && !kept.contains(&word) {
                        own.insert(name.clone(), value.clone());
                    }
                }
            }
            (Some(_), _) => {}
        }
    }
    full
}

/// Whether the key of a pool is a table that is filled up key by key; any other value is taken as a whole.
fn is_merged(name: &str) -> bool {
    Pool::KEYS
        .iter()
        .any(|key| key.name == name && (key.is_table)())
}

/// Removes defaults of [health] that have no meaning beside a pool's own.
fn not_with(own: &DeTable<'_>) -> Vec<&'static str> {
    match WAYS.iter().find(|way| own.contains_key(**way)) {
        Some(&"watchdog") => [&WAYS[..], &["every", "timeout", "failures"]].concat(),
        Some(_) => WAYS.to_vec(),
        None => Vec::new(),
    }
}

pub(super) fn is_oneshot(table: &DeTable<'_>) -> bool {
    let kind = table.get("kind").and_then(|kind| kind.get_ref().as_str());
    kind.is_some_and(|kind| kind == "oneshot" || kind == super::values::FORMER_ONESHOT)
}
