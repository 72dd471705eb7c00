//! All tables of the configuration and their keys, as documentation shows them: the list in docs/config.md is made from
//! these, and they tell where an unknown key belongs.

use super::section::{Row, Section, sections};
use super::sections::Config;
use std::fmt::Write;

/// Every key that the parser knows, table by table.
pub fn reference() -> Vec<Section> {
    sections::<Config>()
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
                cell(&takes),
                cell(&default),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_synonym_leads_to_a_key() {
        let sections = reference();
        for (other, ours) in SYNONYMS {
            let is_key = |section: &Section| section.rows.iter().any(|row| row.name == *ours);
            assert!(sections.iter().any(is_key), "{other}: {ours}");
        }
    }
}
