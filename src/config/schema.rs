//! All tables of the configuration and their keys: the list in docs/config.md and the JSON schema for editors are made
//! from these, and they tell where an unknown key belongs.

use super::foreign_keys::{self, Unknown};
use super::section::{Row, Section, sections};
use super::sections::Config;
use super::shapes;
use serde_json::json;
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

/// The JSON schema (draft 7) of a configuration, as `rotad schema` prints it. It accepts every file that is valid; what
/// depends on other keys, files or the machine only `rotad check` finds.
pub fn json() -> String {
    let mut schema = shapes::table::<Config>();
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!(concat!(
        "configuration of rotad ",
        env!("CARGO_PKG_VERSION")
    ));
    schema["description"] = json!(
        "The keys of a configuration, their values and defaults. `rotad check` also finds what depends on other keys, on files \
         and on the machine."
    );
    format!("{schema:#}")
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
