//! Whether a text follows TOML's syntax, whatever its keys mean. Called by `parse` for a text in which the parser has
//! found faults: its errors have no kind, and those of syntax leave no tree that can be trusted.

use toml::value::Datetime;
use toml_parser::decoder::ScalarKind;
use toml_parser::parser::{self, Event, EventKind, RecursionGuard, ValidateWhitespace};
use toml_parser::{ErrorSink, Source};

/// Maximum depth of arrays and inline tables, the one of the `toml` crate: the parser recurses.
const MAX_DEPTH: u32 = 80;

/// Whether tokens, nesting, strings, numbers and dates are right. Keys that are there twice, or extend what is not a
/// table, do not count.
pub(super) fn is_valid(text: &str) -> bool {
    let source = Source::new(text);
    let tokens = source.lex().into_vec();
    let mut valid = true;
    let mut errors = |_| valid = false;
    let mut events = Vec::new();
    {
        let mut events = ValidateWhitespace::new(&mut events, source);
        let mut events = RecursionGuard::new(&mut events, MAX_DEPTH);
        parser::parse_document(&tokens, &mut events, &mut errors);
    }
    let dates = events
        .iter()
        .all(|event| decodes_dates(source, event, &mut errors));
    valid && dates
}

/// Decodes a key or value; its errors go to `errors`. `false`: a date that does not exist.
fn decodes_dates(source: Source<'_>, event: &Event, errors: &mut dyn ErrorSink) -> bool {
    let Some(raw) = source.get(event) else {
        return true;
    };
    match event.kind() {
        EventKind::SimpleKey => raw.decode_key(&mut (), errors),
        EventKind::Scalar => {
            let kind = raw.decode_scalar(&mut (), errors);
            return kind != ScalarKind::DateTime || raw.as_str().parse::<Datetime>().is_ok();
        }
        _ => {}
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml::de::DeTable;

    #[test]
    fn keys_that_contradict_each_other_are_no_fault_of_syntax() {
        for text in [
            "a = 1\na = 2\n",
            "[t]\na = 1\n[t]\nb = 2\n",
            "a = 1\na.b = 2\n",
            "a = { b = 1 }\n[a]\nc = 1\n",
            "t = { a = 1, a = 2 }\nd = 2026-01-02\n",
        ] {
            assert!(is_valid(text), "{text:?}");
            assert!(DeTable::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn faults_of_syntax_are_found() {
        let deep = format!("a = {}{}", "[".repeat(2000), "]".repeat(2000));
        for text in [
            "[t\n",
            "a = \n",
            "a = b\n",
            "a = \"\\q\"\n",
            "\"a\n",
            "a = 1__0\n",
            "a = 2026-13-45\n",
            "a = [1\n",
            "a = 1 b = 2\n",
            "a\u{a0}= 1\n",
            "# \u{1}\n",
            deep.as_str(),
        ] {
            assert!(!is_valid(text), "{text:?}");
            assert!(DeTable::parse(text).is_err(), "{text:?}");
        }
    }
}
