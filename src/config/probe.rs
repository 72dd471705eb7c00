//! `ready` and the ways of [pool.NAME.health] as parsed: how the master checks that a worker is ready and alive.

use super::foreign_values;
use super::kinds::{Duration, Tried, Way};
use super::reader::{Located, Parser, Value, in_order};
use super::section::{Keys, Written, section};
use super::{tables, values};
use crate::plan::Ready;
use rotad_core::Span;
use toml::de::DeValue;

/// A check, as parsed.
#[derive(Clone)]
pub(super) enum CheckText {
    Connect(Located<String>),
    Http(Located<String>),
    Command(Vec<Located<String>>),
}

/// `ready`, as parsed.
#[derive(Clone)]
pub(super) enum ReadyText {
    Known(Ready),
    Probe(CheckText),
}

const READY: &[(&str, Ready)] = &[
    ("auto", Ready::Auto),
    ("notify", Ready::Notify),
    ("accepting", Ready::Accepting),
    ("spawned", Ready::Spawned),
];

/// Takes a connection.
pub(super) const CONNECT: Way<CheckText> = Way("`HOST:PORT`", connect);

/// Answers with a status of 2xx or 3xx.
pub(super) const HTTP: Way<CheckText> = Way("`HOST:PORT/PATH`", http);

/// Ends with 0.
pub(super) const COMMAND: Way<CheckText> = Way("list, or one string", command);

section! {
    /// The ways exclude each other.
    struct ReadyTable {
        after: Written<Span>, Duration;
        http: Tried<CheckText>, HTTP;
        connect: Tried<CheckText>, CONNECT;
        command: Tried<CheckText>, COMMAND;
    }
}

pub(super) fn ready(parser: &mut Parser, value: &Value<'_>) -> Option<Located<ReadyText>> {
    let DeValue::Table(table) = value.get_ref() else {
        if let Some(hint) = foreign_values::ready(value.get_ref()) {
            parser.expected_with(value, "one word, or a table", Some(hint));
            return None;
        }
        if value.get_ref().is_str() {
            return parser
                .choice(value, READY)
                .map(|at| at.map(ReadyText::Known));
        }
        let what = "\"auto\", \"notify\", \"accepting\", \"spawned\", or a table such as { after = \"2s\" } or \
                    { http = \"127.0.0.1:{port}/healthz\" }";
        parser.expected(value, what);
        return None;
    };
    if table.is_empty() {
        parser.error_with(&value.span(), "says nothing", "write { after = \"2s\" }");
        return None;
    }
    let entries = in_order(table);
    let another = |(name, _): &(Located<String>, _)| ReadyTable::key(&name.value).is_some();
    let second = entries.iter().skip(1).position(another).map(|at| at + 1);
    let (first, rest) = entries.split_at(second.unwrap_or(entries.len()));
    let (ready, sound) = tables::read_inline::<ReadyTable>(parser, first, "way to be ready");
    if let Some((name, _)) = rest.first() {
        parser.error_with(&name.span, "two ways to be ready", "choose one of them");
        return None;
    }
    if !sound {
        return None;
    }
    let age = ready
        .after
        .map(|at| at.map(|age| ReadyText::Known(Ready::After(age.into()))));
    let probe = [ready.http, ready.connect, ready.command]
        .into_iter()
        .flatten()
        .find_map(|at| Some(Located::new(ReadyText::Probe(at.value?), at.span)));
    age.or(probe)
}

fn http(parser: &mut Parser, value: &Value<'_>) -> Option<CheckText> {
    if let (None, Some(hint)) = (
        value.get_ref().as_str(),
        foreign_values::address(value.get_ref()),
    ) {
        let what = "an address with a path such as \"127.0.0.1:{port}/healthz\"";
        parser.expected_with(value, what, Some(hint));
        return None;
    }
    parser
        .text(
            value,
            "an address with a path such as \"127.0.0.1:{port}/healthz\"",
        )
        .map(CheckText::Http)
}

fn connect(parser: &mut Parser, value: &Value<'_>) -> Option<CheckText> {
    if let (None, Some(hint)) = (
        value.get_ref().as_str(),
        foreign_values::address(value.get_ref()),
    ) {
        parser.expected_with(value, "an address such as \"127.0.0.1:{port}\"", Some(hint));
        return None;
    }
    parser
        .text(value, "an address such as \"127.0.0.1:{port}\"")
        .map(CheckText::Connect)
}

fn command(parser: &mut Parser, value: &Value<'_>) -> Option<CheckText> {
    let words = values::command(parser, value).value;
    (!words.is_empty()).then_some(CheckText::Command(words))
}
