//! Text -> Plan. One file is read once, everything in it is checked, and all findings come at once, each with its
//! place: `file:line:column`, the line, a caret, and what to write instead.
//!
//! `include` finds the files, `texts` gives them one count of places, `defaults` fills up the tables of pools. The
//! tables of keys (`schema`, `sections`, `pool`) say how each value is stored; `reader` walks the spanned tree by
//! them; `make` fills in defaults, looks up names and finds contradictions, `across` those between pools.

mod accounts;
mod across;
mod defaults;
mod dotenv;
mod envfile;
mod find;
mod include;
mod listeners;
mod logs;
mod look;
mod make;
mod make_pool;
mod people;
mod place;
mod pool;
mod pool_tables;
mod pools;
mod ports;
mod probe;
mod reader;
mod report;
mod schema;
mod sections;
mod templates;
mod texts;
mod trust;
mod units;
mod values;
mod watch;

pub use find::{MasterPaths, NotFound, find, meant, peek, unnameable};
pub(crate) use people::user_of;
pub use report::{Finding, Place, Report, Severity};
pub use schema::{Row, Section, markdown, reference};
pub use units::signal;

use crate::plan::{self, Plan, Source};
use place::Whereabouts;
use reader::{Parser, Value};
use sections::Config;
use std::path::Path;
use texts::Text;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub plan: Plan,
    /// What works, but may not be meant.
    pub warnings: Report,
}

/// Reads the configuration at `path` and the env files that it names, and checks all of it. For root, none of them
/// and no folder of theirs may be writable by others.
///
/// # Errors
///
/// Every finding, warnings included, in the order of the text. `path` is shown in them as it was given.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let content =
        plan::read(path).map_err(|error| Report::of_file(path, format!("cannot read the configuration: {error}")))?;
    let distrust = trust::writable_by_others(path);
    let mut result = check(path, content);
    if let Some(found) = distrust {
        let (message, hint) = trust::distrust(&found);
        let mut report = Report::default();
        let severity = Severity::Error;
        report.push(Finding { severity, file: path.to_owned(), place: None, message, hint: Some(hint), for_log: None });
        report.extend(match result {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        });
        result = Err(report);
    }
    result
}

fn check(path: &Path, content: Vec<u8>) -> Result<Loaded, Report> {
    let place = Whereabouts::of(path);
    let mut cx = Parser::new(path, &String::from_utf8_lossy(&content), place.base.clone());
    if let Err(fault) = std::str::from_utf8(&content) {
        let at = fault.valid_up_to();
        cx.error(&(at..at), "not valid UTF-8");
        return Err(cx.report);
    }
    if let Some(message) = place.unnameable() {
        cx.error_of_file(message, "rename the file or the folder");
    }
    let plan = read_all(&mut cx, place, content);
    cx.report.sort(path);
    match plan {
        Some(plan) if !cx.report.has_errors() => Ok(Loaded { plan, warnings: cx.report }),
        _ => Err(cx.report),
    }
}

/// The main text and what it includes; none where one of them is no TOML.
fn read_all(cx: &mut Parser, place: Whereabouts, content: Vec<u8>) -> Option<Plan> {
    let main = cx.main_text();
    let root = parse(cx, &main)?;
    let included = include::files(cx, &root, &place.real);
    let roots: Vec<Option<Value<'_>>> = included.texts.iter().map(|text| parse(cx, text)).collect();
    let mut config = Config::default();
    config.read_main(cx, &root);
    let defaults = root.get_ref().as_table().and_then(|table| table.get("defaults"));
    let defaults = defaults::read(cx, defaults);
    pools::read(cx, &root, defaults.as_ref(), &mut config.pools);
    let complete = roots.iter().all(Option::is_some);
    for root in roots.iter().flatten() {
        config.read_included(cx, root);
        pools::read(cx, root, defaults.as_ref(), &mut config.pools);
    }
    let mut sources = vec![Source { path: place.given.clone(), content }];
    sources.extend(included.sources);
    // What a file that cannot be read may have said is not missed in the others.
    complete.then(|| make::plan(cx, config, place, sources, included.globs))
}

/// The tree of one text, its spans counting in the whole.
fn parse<'i>(cx: &mut Parser, text: &'i Text) -> Option<Value<'i>> {
    let (table, faults) = DeTable::parse_recoverable(&text.text);
    let mut readable = true;
    for fault in &faults {
        // What follows a duplicate is sound; after any other fault the rest of the tree is a guess.
        readable &= fault.message().starts_with("duplicate key");
        let span = fault.span().unwrap_or(text.text.len()..text.text.len());
        cx.no_toml(&text.whole(&span), fault.message());
    }
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    readable.then(|| if text.start == 0 { root } else { texts::shift(root, text.start) })
}
