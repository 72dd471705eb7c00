//! `limits` of a pool: resources of setrlimit(2), each with one value or a soft and a hard one.

use super::foreign_values;
use super::kinds::Kept;
use super::reader::{Parser, Value, in_order, integer};
use super::report::shown;
use super::section::section;
use super::shapes::{self, Shape};
use super::tables;
use super::units;
use crate::plan::Limit;
use nix::sys::resource::Resource;
use serde_json::{Map, json};
use toml::de::DeValue;

/// Resources of setrlimit(2): name, number.
const RESOURCES: &[(&str, Resource)] = &[
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

section! {
    /// `None` inside: it has a finding.
    struct Bounds {
        soft: Option<Option<u64>>, Kept("number, size or `\"unlimited\"`", bound_shape, bound),
            "what is enforced; a worker may raise it up to the hard one";
        hard: Option<Option<u64>>, Kept("number, size or `\"unlimited\"`", bound_shape, bound),
            "the most that the soft one can be raised to";
    }
}

pub(super) fn shape() -> Shape {
    let limit = shapes::any(vec![
        bound_shape(),
        shapes::inline::<Bounds>(&["soft", "hard"]),
    ]);
    let properties: Map<String, Shape> = RESOURCES
        .iter()
        .map(|(name, _)| ((*name).to_owned(), limit.clone()))
        .collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn bound_shape() -> Shape {
    shapes::any(vec![shapes::words(["unlimited"]), shapes::size()])
}

pub(super) fn read(parser: &mut Parser, value: &Value<'_>) -> Vec<Limit> {
    let mut limits = Vec::new();
    if !value.get_ref().is_table() {
        let what = "a table such as { nofile = 65535 }";
        parser.expected_with(value, what, foreign_values::limits(value.get_ref()));
        return limits;
    }
    for (name, value) in parser.entries(value) {
        let Some((known, resource)) = RESOURCES.iter().find(|(known, _)| *known == name.value)
        else {
            let names: Vec<&str> = RESOURCES.iter().map(|(name, _)| *name).collect();
            let bare = name.value.to_lowercase();
            match names
                .iter()
                .find(|known| bare.strip_prefix("rlimit_").unwrap_or(&bare) == **known)
            {
                Some(known) => {
                    parser.error_with(
                        &name.span,
                        format!("unknown limit `{}`", shown(&name.value)),
                        format!("did you mean `{known}`?"),
                    );
                }
                None => parser.unknown(&name.span, "limit", &name.value, &names),
            }
            continue;
        };
        if let Some((soft, hard)) = limit(parser, value) {
            limits.push(Limit {
                name: (*known).to_owned(),
                resource: *resource as u32,
                soft,
                hard,
            });
        }
    }
    limits
}

fn limit(parser: &mut Parser, value: &Value<'_>) -> Option<(u64, u64)> {
    let DeValue::Table(table) = value.get_ref() else {
        return bound(parser, value).map(|both| (both, both));
    };
    let (bounds, _) = tables::read_inline::<Bounds>(parser, &in_order(table), "key");
    let (Some(soft), Some(hard)) = (bounds.soft, bounds.hard) else {
        parser.error_with(
            &value.span(),
            "needs both",
            "write { soft = 1024, hard = 4096 }, or one number",
        );
        return None;
    };
    let (soft, hard) = (soft?, hard?);
    if soft > hard {
        parser.error(&value.span(), "the soft limit is above the hard one");
        return None;
    }
    Some((soft, hard))
}

/// A number, a size, or `"unlimited"`.
fn bound(parser: &mut Parser, value: &Value<'_>) -> Option<u64> {
    const WHAT: &str = "a number, a size such as \"64MiB\", or \"unlimited\"";
    match value.get_ref() {
        DeValue::String(text) if text == "unlimited" => Some(nix::sys::resource::RLIM_INFINITY),
        DeValue::String(_) => parser
            .parsed(value, WHAT, |text| {
                units::size(text).map_err(|_| format!("expected {WHAT}"))
            })
            .map(|at| at.value),
        other => {
            let number = integer(other).and_then(|number| u64::try_from(number).ok());
            if number.is_none() {
                parser.expected(value, WHAT);
            }
            number
        }
    }
}
