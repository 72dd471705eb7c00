//! [pool.NAME]: fills up each table from [defaults], then parses it.

use super::defaults;
use super::pool::Pool;
use super::reader::{Located, Parser, Value, in_order, integer};
use super::tables;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The pools of one file.
pub(super) fn read<'i>(
    parser: &mut Parser,
    root: &Value<'i>,
    defaults: Option<&DeTable<'i>>,
    into: &mut Vec<(Located<String>, Pool)>,
) {
    let Some(pools) = root
        .get_ref()
        .as_table()
        .and_then(|table| table.get("pool"))
    else {
        return;
    };
    for (name, entry) in parser.entries(pools) {
        if !tables::begin(parser, &name, entry, into) {
            continue;
        }
        parser.begin_named(&name);
        let pool = match entry.get_ref().as_table() {
            Some(own) => {
                let mut table =
                    defaults.map_or_else(|| own.clone(), |defaults| defaults::fill(defaults, own));
                if defaults::is_oneshot(&table) {
                    oneshot(parser, &mut table);
                }
                tables::read(parser, &Spanned::new(entry.span(), DeValue::Table(table)))
            }
            None => {
                parser.expected(entry, "a table");
                Pool::default()
            }
        };
        into.push((name, pool));
    }
}

/// Removes keys that have no meaning for a oneshot, and reports them.
fn oneshot(parser: &mut Parser, table: &mut DeTable<'_>) {
    let mut refused = Vec::new();
    for (name, value) in in_order(table) {
        let one = name.value == "count" && integer(value.get_ref()) == Some(1);
        if !defaults::is_for_oneshots(&name.value) && !one {
            refused.push(name);
        }
    }
    for name in refused {
        let hint =
            "a oneshot is one process that runs to its end; leave it out, or write kind = \"task\"";
        parser.error_with(
            &name.span,
            format!("`{}` means nothing for a oneshot", name.value),
            hint,
        );
        table.remove(name.value.as_str());
    }
}
