//! [defaults]: fills up the tables of pools before they are read, so that a default is checked and reported where it
//! is written.

use super::pool::Pool;
use super::pool_tables::HealthText;
use super::reader::{Parser, Value, in_order};
use super::section::{Documented, Keys, Merge};
use super::tables;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

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
    tables::read::<Pool>(parser, value);
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
        if oneshot && !is_for_oneshots(word) {
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
    Pool::entry(name).is_some_and(|key| (key.merge)() == Merge::Table)
}

/// Whether a key of a pool means something for a oneshot. An unknown key has a finding of its own.
pub(super) fn is_for_oneshots(name: &str) -> bool {
    Pool::entry(name).is_none_or(|key| key.for_oneshots)
}

/// The keys of [defaults.health] that have no meaning beside a pool's own way to tell whether a worker lives.
fn not_with(own: &DeTable<'_>) -> Vec<&'static str> {
    let ways = HealthText::alternatives();
    match ways.iter().find(|way| own.contains_key(**way)) {
        // The worker reports by itself: how it would be asked means nothing.
        Some(&"watchdog") => HealthText::names(),
        Some(_) => ways,
        None => Vec::new(),
    }
}

pub(super) fn is_oneshot(table: &DeTable<'_>) -> bool {
    let kind = table.get("kind").and_then(|kind| kind.get_ref().as_str());
    kind.is_some_and(|kind| kind == "oneshot" || kind == super::values::FORMER_ONESHOT)
}
