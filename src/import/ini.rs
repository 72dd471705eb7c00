//! INI files: the dialects of supervisord and circus (Python's ConfigParser), and systemd's. Every key has its place.

use super::ledger::{Key, Keys, Ledger, Text, Unreadable};
use std::ops::Range;

/// What differs between the dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// supervisord: `=` or `:`, names in any case, continued by indentation, a comment after ` ;`.
    Supervisord,
    /// circus: the same, with comments on lines of their own alone.
    Circus,
    /// systemd: `=` alone, names as they are, continued by `\` at the end.
    Systemd,
}

/// One section.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: String,
    /// `[NAME]`, with its file and line, for people.
    pub(super) origin: String,
    pub(super) text: Text,
    pub(super) keys: Keys<String>,
}

impl Section {
    /// The part of `TYPE:NAME` after the type.
    pub(super) fn named(&self, kind: &str) -> Option<&str> {
        self.name
            .strip_prefix(kind)?
            .strip_prefix(':')
            .map(str::trim)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Key<String>> {
        self.keys.take(name)
    }
}

/// A key and its value, before it is registered.
struct Raw {
    name: String,
    value: String,
    span: Range<usize>,
    indent: usize,
}

/// Reads a text; sections of the same name are joined, as all of the dialects do. The part of a key is the name of its
/// section after `prefix`. `secret`: whether the line of a
/// key, of this section and name, is never shown.
pub(super) fn read(
    text: &Text,
    dialect: Dialect,
    ledger: &Ledger,
    sections: &mut Vec<Section>,
    prefix: &str,
    secret: fn(&str, &str) -> bool,
) -> Result<(), Unreadable> {
    let mut current: Option<usize> = None;
    let mut raw: Option<Raw> = None;
    let mut continued = false;
    let mut offset = 0;
    let finish = |raw: Option<Raw>, current: Option<usize>, sections: &mut Vec<Section>| {
        if let (Some(raw), Some(at)) = (raw, current) {
            let part = format!("{prefix}{}", sections[at].name);
            let hidden = secret(&sections[at].name, &raw.name);
            let value = raw.value.trim().to_owned();
            let key = ledger.key(raw.name, &part, (text, raw.span), hidden, value);
            sections[at].keys.push(key);
        }
    };
    for line in text.text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let line = line.trim_end_matches(['\n', '\r']);
        let line = if start == 0 {
            line.trim_start_matches('\u{feff}')
        } else {
            line
        };
        let start = if start == 0 {
            text.text.len() - text.text.trim_start_matches('\u{feff}').len()
        } else {
            start
        };
        let indent = line.len() - line.trim_start().len();
        let comment = line.trim_start().starts_with(['#', ';']);
        if dialect == Dialect::Systemd {
            if comment {
                continue;
            }
            if std::mem::take(&mut continued) {
                let (more, goes_on) = continuation(line);
                continued = goes_on;
                if let Some(raw) = &mut raw {
                    raw.value.push(' ');
                    raw.value.push_str(more.trim());
                }
                continue;
            }
        }
        if comment {
            continue;
        }
        let code = match dialect {
            Dialect::Supervisord => without_comment(line),
            Dialect::Circus | Dialect::Systemd => line,
        };
        if code.trim().is_empty() {
            continue;
        }
        // A deeper line goes on with the value above it.
        if let (Some(raw), true) = (&mut raw, dialect != Dialect::Systemd)
            && indent > raw.indent
        {
            raw.value.push('\n');
            raw.value.push_str(code.trim());
            continue;
        }
        finish(raw.take(), current, sections);
        let trimmed = code.trim();
        let span = start + indent..start + indent + trimmed.len();
        if let Some(rest) = trimmed.strip_prefix('[') {
            let Some((name, _)) = rest.split_once(']') else {
                return Err(text.fault(&span, "the `[` of a section is never closed"));
            };
            let name = name.trim().to_owned();
            let number = text.text[..start].matches('\n').count() + 1;
            let file = text.name();
            let known = sections.iter().position(|section| section.name == name);
            current = Some(known.unwrap_or_else(|| {
                sections.push(Section {
                    origin: format!("[{name}] of {file}, line {number}"),
                    name,
                    text: text.clone(),
                    keys: Keys::default(),
                });
                sections.len() - 1
            }));
            continue;
        }
        if current.is_none() {
            return Err(text.fault(&span, "a key before the first [section]"));
        }
        let at = match dialect {
            Dialect::Systemd => trimmed.find('='),
            Dialect::Supervisord | Dialect::Circus => trimmed.find(['=', ':']),
        };
        let Some(at) = at else {
            return Err(text.fault(&span, "expected KEY = VALUE"));
        };
        let name = trimmed[..at].trim();
        let (name, value) = match dialect {
            Dialect::Systemd => {
                let (value, goes_on) = continuation(&trimmed[at + 1..]);
                continued = goes_on;
                (name.to_owned(), value)
            }
            Dialect::Supervisord | Dialect::Circus => (name.to_lowercase(), &trimmed[at + 1..]),
        };
        raw = Some(Raw {
            name,
            value: value.trim().to_owned(),
            span,
            indent,
        });
    }
    finish(raw, current, sections);
    Ok(())
}

/// The line without the `\` at its end, and whether it has one.
fn continuation(line: &str) -> (&str, bool) {
    match line.trim_end().strip_suffix('\\') {
        Some(before) => (before, true),
        None => (line, false),
    }
}

/// Cuts the line at a `;` after a blank.
fn without_comment(line: &str) -> &str {
    let comment = |(at, _): &(usize, &str)| {
        *at == 0 || line[..*at].ends_with(|before: char| before.is_whitespace())
    };
    let end = line.match_indices(';').find(comment);
    end.map_or(line, |(at, _)| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn pairs(text: &str, dialect: Dialect) -> Vec<(String, String, String)> {
        let mut sections = Vec::new();
        let text = Text::new(Path::new("x.conf"), text);
        read(
            &text,
            dialect,
            &Ledger::default(),
            &mut sections,
            "",
            |_, _| false,
        )
        .unwrap();
        let mut found = Vec::new();
        for section in &mut sections {
            for key in section.keys.take_where(|_| true) {
                found.push((section.name.clone(), key.name.clone(), key.value.clone()));
            }
        }
        found
    }

    fn triple(section: &str, name: &str, value: &str) -> (String, String, String) {
        (section.to_owned(), name.to_owned(), value.to_owned())
    }

    #[test]
    fn supervisords_dialect() {
        let text = "; head\n[program:a] ; x\nCommand = sh -c \"echo a;b\" ; comment\nenvironment: A=\"x;y\",\n  \
            B=2 ; more\n  # not this\n  C=3\n\n[group:g]\nprograms=a\n[program:a]\nnumprocs=2\n";
        assert_eq!(
            pairs(text, Dialect::Supervisord),
            [
                triple("program:a", "command", "sh -c \"echo a;b\""),
                triple("program:a", "environment", "A=\"x;y\",\nB=2\nC=3"),
                triple("program:a", "numprocs", "2"),
                triple("group:g", "programs", "a"),
            ]
        );
    }

    #[test]
    fn systemds_dialect() {
        let text = "[Service]\nExecStart=/bin/a \\\n# between\n  --b ; c\nEnvironment=A=1 \"B=2 3\"\nEnvironment=\n";
        assert_eq!(
            pairs(text, Dialect::Systemd),
            [
                triple("Service", "ExecStart", "/bin/a --b ; c"),
                triple("Service", "Environment", "A=1 \"B=2 3\""),
                triple("Service", "Environment", ""),
            ]
        );
    }

    #[test]
    fn faults_have_their_place() {
        for (text, place) in [
            ("[a\n", "x.conf:1:1"),
            ("a=1\n", "x.conf:1:1"),
            ("[a]\n\n what\n", "x.conf:3:2"),
        ] {
            let text = Text::new(Path::new("x.conf"), text);
            let result = read(
                &text,
                Dialect::Supervisord,
                &Ledger::default(),
                &mut Vec::new(),
                "",
                |_, _| false,
            );
            let said = result.unwrap_err().to_string();
            assert!(said.contains(place), "{said}");
        }
    }
}
