//! All tables of the configuration and their keys, as documentation shows them: the list in docs/config.md is made from
//! these, and they tell where an unknown key belongs.

use super::foreign_keys::{self, Unknown};
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

/// A hint for a key that its table does not have: what to write for a key of another tool, our spelling of it, or the
/// table that has it.
pub(super) fn elsewhere(unknown: &Unknown<'_, '_>) -> Option<String> {
    let spelled = |name: &str| {
        let word = unknown.key.replace('-', "_");
        let name = name.replace('_', "");
        word.replace('_', "").eq_ignore_ascii_case(&name)
    };
    if let Some(hint) = foreign_keys::hint(unknown) {
        return Some(hint);
    }
    if let Some(same) = unknown.known.iter().find(|name| spelled(name)) {
        return Some(format!("did you mean `{same}`?"));
    }
    let word = unknown.key;
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
