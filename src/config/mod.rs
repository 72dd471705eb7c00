//! Text -> Plan. One file is read once, everything in it is checked, and all findings come at once, each with its
//! place: `file:line:column`, the line, a caret, and what to write instead.
//!
//! The tables of keys (`schema`, `sections`, `pool`) say how each value is stored; `reader` walks the spanned tree by
//! them; `make` fills in defaults, looks up names and finds contradictions.

mod accounts;
mod dotenv;
mod envfile;
mod find;
mod listeners;
mod look;
mod make;
mod make_pool;
mod place;
mod pool;
mod reader;
mod report;
mod schema;
mod sections;
mod trust;
mod units;
mod values;

pub use find::{NotFound, Peek, find, peek};
pub use report::{Finding, Place, Report, Severity};
pub use schema::{Row, Section, markdown, reference};
pub use units::signal;

use crate::plan::Plan;
use place::Whereabouts;
use reader::{Reader, Value};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration larger than this is some other file.
const LARGEST: u64 = 16 << 20;

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
        read_file(path).map_err(|error| Report::of_file(path, format!("cannot read the configuration: {error}")))?;
    let distrust = trust::writable_by_others(path);
    let mut result = check(path, content);
    if let Some(found) = distrust {
        let (message, hint) = trust::distrust(&found);
        let mut report = Report::default();
        let severity = Severity::Error;
        report.push(Finding { severity, file: path.to_owned(), place: None, message, hint: Some(hint) });
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
    let text = String::from_utf8_lossy(&content).into_owned();
    let mut cx = Reader::new(path, text.clone(), place.base.clone());
    if let Err(fault) = std::str::from_utf8(&content) {
        let at = fault.valid_up_to();
        cx.error(&(at..at), "not valid UTF-8");
        return Err(cx.report);
    }
    let (table, faults) = DeTable::parse_recoverable(&text);
    let mut readable = true;
    for fault in &faults {
        // What follows a duplicate is sound; after any other fault the rest of the tree is a guess.
        readable &= fault.message().starts_with("duplicate key");
        cx.error(&fault.span().unwrap_or(text.len()..text.len()), fault.message());
    }
    if readable {
        let span = table.span();
        let root: Value<'_> = Spanned::new(span, DeValue::Table(table.into_inner()));
        let mut config = sections::Config::default();
        cx.table(&root, sections::TOP, &mut config);
        let plan = make::plan(&mut cx, config, place, content);
        cx.report.sort(path);
        if !cx.report.has_errors() {
            return Ok(Loaded { plan, warnings: cx.report });
        }
    }
    cx.report.sort(path);
    Err(cx.report)
}

/// The whole of a regular file; never waits for a pipe's other end.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(content)
}
