//! `ready` and the ways of [pool.NAME.health] as parsed: how the master checks that a worker is ready and alive.

use super::foreign_values;
use super::kinds::{Duration, Own, Tried, Way};
use super::reader::{Located, Parser, Value, in_order};
use super::section::{Keys, Written, section};
use super::shapes::{self, Shape};
use super::values::Headers;
use super::{tables, value_shapes, values};
use crate::plan::Ready;
use rotad_core::Span;
use serde_json::json;
use toml::de::DeValue;

/// A check, as parsed.
#[derive(Clone)]
pub(super) enum CheckText {
    Connect(Located<String>),
    Http(Located<String>, Headers),
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
pub(super) const CONNECT: Way<CheckText> = Way("`HOST:PORT`", shapes::some_text, connect);

/// Answers with a status of 2xx or 3xx.
pub(super) const HTTP: Way<CheckText> = Way("`HOST:PORT/PATH`", shapes::some_text, http);

/// Ends with 0.
pub(super) const COMMAND: Way<CheckText> = Way("list, or one string", shapes::command, command);

section! {
    /// The ways exclude each other.
    struct ReadyTable {
        after: Written<Span>, Duration,
            "it has lived for that long";
        http: Tried<CheckText>, HTTP,
            "it answers with a status of 2xx or 3xx";
        connect: Tried<CheckText>, CONNECT,
            "it takes a connection";
        command: Tried<CheckText>, COMMAND,
            "this program ends with 0";
        headers: Written<Headers>, Own("table", value_shapes::headers, values::headers),
            "with `http`: header fields of the request, such as `Host`";
    }
}

/// The keys of `ready` that are no ways to be ready.
const BESIDE: [&str; 1] = ["headers"];

pub(super) fn ready_shape() -> Shape {
    let mut table = shapes::inline::<ReadyTable>(&[]);
    let mut ways = ReadyTable::names();
    ways.retain(|name| !BESIDE.contains(name));
    shapes::at_most_one(&mut table, &ways);
    table["minProperties"] = json!(1);
    shapes::any(vec![
        shapes::words(READY.iter().map(|(word, _)| *word)),
        table,
    ])
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
    let is_beside = |(name, _): &&(Located<String>, _)| BESIDE.contains(&name.value.as_str());
    let is_way = |(name, _): &&(Located<String>, _)| ReadyTable::key(&name.value).is_some();
    let mut ways = entries.iter().filter(|entry| !is_beside(entry)).skip(1);
    let second = ways.find(is_way);
    let until = second.map_or(usize::MAX, |(name, _)| name.span.start);
    let before = entries
        .iter()
        .filter(|entry| entry.0.span.start < until || is_beside(entry));
    let before: Vec<_> = before.cloned().collect();
    let (ready, sound) = tables::read_inline::<ReadyTable>(parser, &before, "way to be ready");
    if let Some((name, _)) = second {
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
        .find_map(|at| Some(Located::new(at.value?, at.span)));
    let probe = with_headers(parser, probe, ready.headers.as_ref());
    age.or(probe.map(|at| at.map(ReadyText::Probe)))
}

/// Adds headers to an HTTP check; beside any other they are a finding.
pub(super) fn with_headers(
    parser: &mut Parser,
    check: Option<Located<CheckText>>,
    headers: Option<&Located<Headers>>,
) -> Option<Located<CheckText>> {
    let Some(headers) = headers else { return check };
    match check {
        Some(Located {
            value: CheckText::Http(url, _),
            span,
        }) => Some(Located::new(
            CheckText::Http(url, headers.value.clone()),
            span,
        )),
        other => {
            parser.unused_key(
                &headers.span,
                "`headers` means nothing without `http`",
                "add http = \"127.0.0.1:{port}/healthz\"",
            );
            other
        }
    }
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
        .map(|url| CheckText::Http(url, Headers::new()))
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
