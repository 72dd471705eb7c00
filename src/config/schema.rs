//! The table of all keys, one row for each: its name, what it takes, its default, how it is stored, one line of help.
//! The parser, the "did you mean" and the list of keys in `docs/config.md` are all made from these rows.

use super::reader::{Parser, Value};
use super::{pool, pool_tables, sections};
use std::fmt::Write;

/// How a key's value is stored in the section that is being read.
pub(super) type Store<T> = fn(&mut Parser, &mut T, &Value<'_>);

/// One key of a table that is read into a `T`.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    pub(super) takes: &'static str,
    pub(super) default: &'static str,
    pub(super) help: &'static str,
    pub(super) store: Store<T>,
}

pub(super) const fn key<T>(
    name: &'static str,
    takes: &'static str,
    default: &'static str,
    help: &'static str,
    store: Store<T>,
) -> Key<T> {
    Key {
        name,
        takes,
        default,
        help,
        store,
    }
}

/// One table of the configuration, as documentation shows it.
#[derive(Clone, Debug)]
pub struct Section {
    /// `[master]`, `[pool.NAME]`; empty for the top of the file.
    pub table: &'static str,
    pub rows: Vec<Row>,
}

/// One key, as documentation shows it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub takes: &'static str,
    pub default: &'static str,
    pub help: &'static str,
}

fn section<T>(table: &'static str, keys: &[Key<T>]) -> Section {
    let row = |key: &Key<T>| Row {
        name: key.name,
        takes: key.takes,
        default: key.default,
        help: key.help,
    };
    Section {
        table,
        rows: keys.iter().map(row).collect(),
    }
}

/// Every key that the reader knows, table by table.
pub fn reference() -> Vec<Section> {
    vec![
        section("", sections::TOP),
        section("[master]", sections::MASTER),
        section("[control]", sections::CONTROL),
        section("[signals]", sections::SIGNALS),
        section("[listen.NAME]", sections::LISTEN),
        section("[pool.NAME]", pool::POOL),
        section("[pool.NAME.reload]", pool_tables::RELOAD),
        section("[pool.NAME.restart]", pool_tables::RESTART),
        section("[pool.NAME.recycle]", pool_tables::RECYCLE),
        section("[pool.NAME.health]", pool_tables::HEALTH),
        section("[pool.NAME.log]", pool_tables::LOG),
    ]
}

/// The list of keys as it stands in `docs/config.md`.
pub fn markdown() -> String {
    let mut page = String::new();
    for Section { table, rows } in reference() {
        let title = if table.is_empty() {
            "Top of the file".to_owned()
        } else {
            format!("`{table}`")
        };
        // Writing to a String cannot fail.
        let _ = write!(
            page,
            "### {title}\n\n| key | takes | default | |\n|---|---|---|---|\n"
        );
        for row in rows {
            let Row {
                name,
                takes,
                default,
                help,
            } = row;
            let _ = writeln!(
                page,
                "| `{name}` | {} | {} | {} |",
                cell(takes),
                cell(default),
                cell(help)
            );
        }
        page.push('\n');
    }
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Names that other process managers use for our keys.
const SYNONYMS: &[(&str, &str)] = &[
    ("workers", "count"),
    ("processes", "count"),
    ("numprocs", "count"),
    ("replicas", "count"),
    ("worker_num", "count"),
    ("cmd", "command"),
    ("exec", "command"),
    ("program", "command"),
    ("bind", "listen"),
    ("cwd", "working_directory"),
    ("directory", "working_directory"),
    ("workdir", "working_directory"),
    ("environment", "env"),
    ("uid", "user"),
    ("gid", "group"),
    ("stop_timeout", "stop"),
    ("timeout", "ready_timeout"),
    ("priority", "nice"),
    ("loglevel", "log_level"),
    ("ends", "success_exit_codes"),
    ("exitcodes", "success_exit_codes"),
    ("SuccessExitStatus", "success_exit_codes"),
    ("stop_exit_codes", "success_exit_codes"),
    ("RestartPreventExitStatus", "never_on"),
];

/// A hint for a key that is not one of `names`: our name for it, or the table that has it.
pub(super) fn elsewhere(word: &str, names: &[&str]) -> Option<String> {
    let synonym = SYNONYMS
        .iter()
        .find(|(other, ours)| *other == word && names.contains(ours));
    if let Some((_, ours)) = synonym {
        return Some(format!("did you mean `{ours}`?"));
    }
    let section = reference()
        .into_iter()
        .find(|section| section.rows.iter().any(|row| row.name == word))?;
    let table = if section.table.is_empty() {
        "the top of the file"
    } else {
        section.table
    };
    Some(format!("`{word}` belongs in {table}"))
}
