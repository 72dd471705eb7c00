//! Turns the text of a configuration into a plan. Every file is read once, everything in it is checked, and all
//! findings are reported together, each with its place: `file:line:column`, the line, a caret, and what to write
//! instead. Called by the commands that start a master and by every reload.
//!
//! The order: `include` finds the files, `sources` gives them common spans, `defaults` fills up the tables of pools;
//! `tables` walks the tree by the keys of each table, and stores the values; `resolve` fills in defaults, looks up names
//! and finds contradictions; `cross_checks` finds those between pools.
//!
//! The keys stand in `sections` (master, listeners), `pool` and `pool_tables`, declared by the macro of `section`; those
//! of tables within a value stand beside their parser (`probe`, `stop_steps`, `limits`). `kinds` and `values` parse the
//! values with the `reader`; `shapes` and `value_shapes` say as JSON schema what these look like; `schema` shows the keys
//! to the documentation and to editors. What people bring from other tools is
//! recognized by `foreign_keys`, `foreign_values`, `foreign_files` and `unexpanded`.

mod accounts;
mod cross_checks;
mod defaults;
mod dotenv;
mod envfile;
mod find;
mod foreign_files;
mod foreign_keys;
mod foreign_values;
mod hooks;
mod include;
mod kinds;
mod limits;
mod listeners;
mod logs;
mod paths;
mod permissions;
mod pool;
mod pool_tables;
mod pools;
mod ports;
mod preflight;
mod probe;
mod reader;
mod report;
mod resolve;
mod resolve_metrics;
mod resolve_pool;
mod resolve_probe;
mod schema;
mod section;
mod sections;
mod shapes;
mod sources;
mod stop_steps;
mod tables;
mod templates;
mod toml_syntax;
mod unexpanded;
mod units;
mod users;
mod value_shapes;
mod values;
mod watch;

pub use find::{MasterPaths, NotFound, find, meant, other_place, peek, unnameable};
pub(crate) use foreign_files::recognize as foreign_file;
pub(crate) use foreign_keys::hint_for as foreign_key;
pub use foreign_keys::markdown as foreign_keys;
pub use paths::default_dirs;
pub use report::{Finding, Place, Report, Severity};
pub(crate) use report::{nearest, shown};
pub use schema::{json as json_schema, markdown, reference};
pub use section::{Row, Section};
pub use sections::BACKLOG;
pub use units::{duration, signal};
pub(crate) use users::user_of;

use crate::plan::{self, Plan, Source};
use paths::ConfigPaths;
use reader::{Parser, Value};
use sections::Config;
use sources::Text;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it means.
    pub plan: Plan,
    /// Warnings: what works, but may not be meant.
    pub warnings: Report,
}

/// Reads and checks the configuration at `path` and the env files that it names. For root, none of them and no
/// directory above them may be writable by others.
///
/// # Errors
///
/// Every finding, including warnings, in the order of the text. They show `path` as it was given.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let content = plan::read(path).map_err(|error| {
        Report::of_file(path, format!("cannot read the configuration: {error}"))
    })?;
    let distrust = permissions::writable_by_others(path);
    let mut result = check(path, content);
    if let Some(found) = distrust {
        let (message, hint) = permissions::refusal(&found);
        let mut report = Report::default();
        let severity = Severity::Error;
        report.push(Finding {
            severity,
            file: path.to_owned(),
            place: None,
            message,
            hint: Some(hint),
            for_log: None,
        });
        report.extend(match result {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        });
        result = Err(report);
    }
    result
}

/// As [`load`], for a file that [`find`] has found: a second one that lies where it looks is a warning. `explicit`: what
/// `find` was called with.
///
/// # Errors
///
/// As [`load`].
pub fn load_found(explicit: Option<&Path>, path: &Path) -> Result<Loaded, Report> {
    let mut result = load(path);
    if let Some(finding) = find::passed_over(explicit, path) {
        match &mut result {
            Ok(loaded) => loaded.warnings.push(finding),
            Err(report) => report.push(finding),
        }
    }
    result
}

/// The directory that relative paths of the configuration at `path` are relative to.
pub fn base_of(path: &Path) -> PathBuf {
    ConfigPaths::of(path).base
}

/// Checks a text as the content of the configuration at `path`, which need not exist. Env files that it names are read.
///
/// # Errors
///
/// As [`load`].
pub fn check(path: &Path, content: Vec<u8>) -> Result<Loaded, Report> {
    let place = ConfigPaths::of(path);
    let text = String::from_utf8_lossy(&content);
    let mut parser = Parser::new(path, &text, place.base.clone(), schema::elsewhere);
    if let Err(fault) = std::str::from_utf8(&content) {
        let at = fault.valid_up_to();
        parser.error(&(at..at), "not valid UTF-8");
        return Err(parser.report);
    }
    if let Some(message) = place.unnameable() {
        parser.error_of_file(message, "rename the file or the directory");
    }
    let plan = read_all(&mut parser, place, content);
    parser.report.sort(path);
    match plan {
        Some(plan) if !parser.report.has_errors() => Ok(Loaded {
            plan,
            warnings: parser.report,
        }),
        _ => Err(parser.report),
    }
}

/// The main text and what it includes; `None` if one of them is not valid TOML.
fn read_all(parser: &mut Parser, place: ConfigPaths, content: Vec<u8>) -> Option<Plan> {
    let main = parser.main_text();
    let root = parse(parser, &main)?;
    let included = include::files(parser, &root, &place.real);
    let roots: Vec<Option<Value<'_>>> = included
        .texts
        .iter()
        .map(|text| parse(parser, text))
        .collect();
    let mut config: Config = tables::read(parser, &root);
    let mut pools = Vec::new();
    let defaults = root
        .get_ref()
        .as_table()
        .and_then(|table| table.get("defaults"));
    let defaults = defaults::read(parser, defaults);
    pools::read(parser, &root, defaults.as_ref(), &mut pools);
    let complete = roots.iter().all(Option::is_some);
    for root in roots.iter().flatten() {
        config.read_included(parser, root);
        pools::read(parser, root, defaults.as_ref(), &mut pools);
    }
    let mut sources = vec![Source {
        path: place.given.clone(),
        content,
        missing: false,
        shown: None,
    }];
    sources.extend(included.sources);
    // Names that an unreadable file may have defined are not reported as missing in the others.
    complete.then(|| resolve::plan(parser, config, pools, place, sources, included.globs))
}

/// Parses one text; its spans count in the whole. `None` if it is not valid TOML.
fn parse<'i>(parser: &mut Parser, text: &'i Text) -> Option<Value<'i>> {
    let (table, faults) = DeTable::parse_recoverable(&text.text);
    if let Some((kind, span)) = foreign_files::recognize_text(&text.file, &text.text) {
        let message = format!("this looks like {}", kind.what);
        parser.error_with(&text.whole(&span), message, kind.instead(&text.file));
        return None;
    }
    for fault in &faults {
        let span = fault.span().unwrap_or(text.text.len()..text.text.len());
        parser.no_toml(&text.whole(&span), fault.message());
    }
    // A key that is there twice leaves a sound tree, whose other findings count. After a fault of syntax the rest of
    // the tree is a guess.
    let readable = faults.is_empty() || toml_syntax::is_valid(&text.text);
    let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    readable.then(|| {
        if text.start == 0 {
            root
        } else {
            sources::shift(root, text.start)
        }
    })
}
