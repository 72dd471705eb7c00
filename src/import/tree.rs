//! YAML, TOML, JSON (with comments, as pm2 takes it) and literals of JavaScript: trees whose keys have places.

use super::ledger::{Keys, Ledger, Text, Unreadable};
use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::HashMap;
use std::ops::Range;

/// Deeper nesting is refused: reading is recursive.
const DEEPEST: usize = 64;

/// More nodes are not copied for aliases: a few lines could name billions.
const MOST_COPIED: usize = 100_000;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) data: Data,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    Null,
    Flag(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    /// Keys with their places.
    Map(Vec<(String, Range<usize>, Node)>),
}

impl Node {
    pub(super) fn new(span: Range<usize>, data: Data) -> Self {
        Self { span, data }
    }

    /// How many nodes it is made of.
    fn size(&self) -> usize {
        1 + match &self.data {
            Data::List(items) => items.iter().map(Self::size).sum(),
            Data::Map(entries) => entries
                .iter()
                .map(|(_, _, node)| node.size())
                .sum::<usize>(),
            Data::Null | Data::Flag(_) | Data::Number(_) | Data::Text(_) => 0,
        }
    }

    /// A string, number or boolean as text.
    pub(super) fn text(&self) -> Option<String> {
        match &self.data {
            Data::Text(text) | Data::Number(text) => Some(text.clone()),
            Data::Flag(flag) => Some(flag.to_string()),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match &self.data {
            Data::Flag(flag) => Some(*flag),
            Data::Text(text) => match text.to_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true),
                "false" | "no" | "off" => Some(false),
                _ => None,
            },
            Data::Number(number) => Some(number != "0"),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    pub(super) fn number(&self) -> Option<f64> {
        self.text()?.trim().parse().ok()
    }

    /// The items of a list; a single value is a list of one.
    pub(super) fn items(&self) -> Vec<&Self> {
        match &self.data {
            Data::List(items) => items.iter().collect(),
            Data::Null => Vec::new(),
            Data::Flag(_) | Data::Number(_) | Data::Text(_) | Data::Map(_) => vec![self],
        }
    }

    pub(super) fn texts(&self) -> Vec<String> {
        self.items().into_iter().filter_map(Self::text).collect()
    }

    pub(super) fn entries(&self) -> &[(String, Range<usize>, Self)] {
        match &self.data {
            Data::Map(entries) => entries,
            Data::Null | Data::Flag(_) | Data::Number(_) | Data::Text(_) | Data::List(_) => &[],
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let entry = self.entries().iter().rev().find(|(key, _, _)| key == name);
        entry.map(|(_, _, node)| node)
    }

    /// Registers the entries of a map. The lines of a secret one are not shown, whatever else stands there.
    pub(super) fn keys(
        &self,
        ledger: &Ledger,
        text: &Text,
        part: &str,
        secret: impl Fn(&str) -> bool,
    ) -> Keys<Self> {
        let line = |at: usize| text.text[..at.min(text.text.len())].matches('\n').count();
        let hidden: Vec<Range<usize>> = self
            .entries()
            .iter()
            .filter(|(name, _, _)| secret(name))
            .map(|(_, span, node)| line(span.start)..line(end_of(&text.text, span, node)) + 1)
            .collect();
        let mut keys = Keys::default();
        for (name, span, node) in self.entries() {
            let at = line(span.start);
            let is_hidden = hidden.iter().any(|lines| lines.contains(&at));
            keys.push(ledger.key(name, part, (text, span.clone()), is_hidden, node.clone()));
        }
        keys
    }
}

/// Where the value of a key ends. A value that node has made has no place: up to the brace that closes it.
fn end_of(text: &str, key: &Range<usize>, value: &Node) -> usize {
    if value.span.end > key.end {
        return value.span.end;
    }
    let mut depth = 0_usize;
    for (at, letter) in text[key.end.min(text.len())..].char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth <= 1 => return key.end + at,
            '}' => depth -= 1,
            '\n' if depth == 0 => return key.end + at,
            _ => {}
        }
    }
    text.len()
}

/// Reads the first document of a YAML text.
pub(super) fn yaml(text: &Text) -> Result<Node, Unreadable> {
    // Places are counted in characters.
    let mut bytes: Vec<usize> = text.text.char_indices().map(|(at, _)| at).collect();
    bytes.push(text.text.len());
    let mut parser = Parser::new_from_str(&text.text);
    let mut builder = Yaml {
        text,
        bytes,
        anchors: HashMap::new(),
        copied: 0,
    };
    loop {
        let (event, span) = builder.next(&mut parser)?;
        match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok(Node::new(span, Data::Null)),
            event => return builder.node(&mut parser, event, span, 0),
        }
    }
}

struct Yaml<'t> {
    text: &'t Text,
    bytes: Vec<usize>,
    anchors: HashMap<usize, Node>,
    /// Nodes that were copied for aliases.
    copied: usize,
}

impl<'t> Yaml<'t> {
    fn next(
        &self,
        parser: &mut Parser<'t, saphyr_parser::StrInput<'t>>,
    ) -> Result<(Event<'t>, Range<usize>), Unreadable> {
        let at = |index: usize| {
            self.bytes
                .get(index)
                .copied()
                .unwrap_or(self.text.text.len())
        };
        match parser.next_event() {
            Some(Ok((event, span))) => Ok((event, at(span.start.index())..at(span.end.index()))),
            Some(Err(fault)) => {
                let start = at(fault.marker().index());
                Err(self.text.fault(&(start..start), fault.info()))
            }
            None => Ok((Event::StreamEnd, self.text.text.len()..self.text.text.len())),
        }
    }

    fn node(
        &mut self,
        parser: &mut Parser<'t, saphyr_parser::StrInput<'t>>,
        event: Event<'t>,
        span: Range<usize>,
        depth: usize,
    ) -> Result<Node, Unreadable> {
        if depth > DEEPEST {
            return Err(self.text.fault(&span, "nested too deeply"));
        }
        let (anchor, data) = match event {
            Event::Scalar(value, style, anchor, _) => {
                let data = match style {
                    ScalarStyle::Plain => plain(&value),
                    _ => Data::Text(value.into_owned()),
                };
                (anchor, data)
            }
            Event::Alias(anchor) => {
                let Some(known) = self.anchors.get(&anchor) else {
                    return Ok(Node::new(span, Data::Null));
                };
                self.copied += known.size();
                if self.copied > MOST_COPIED {
                    return Err(self.text.fault(&span, "too many copies of what `*` names"));
                }
                return Ok(Node {
                    span,
                    ..known.clone()
                });
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next(parser)?;
                    match event {
                        Event::SequenceEnd | Event::StreamEnd => break,
                        event => items.push(self.node(parser, event, span, depth + 1)?),
                    }
                }
                (anchor, Data::List(items))
            }
            Event::MappingStart(anchor, _) => (anchor, Data::Map(self.entries(parser, depth)?)),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (0, Data::Null),
        };
        let node = Node::new(span, data);
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Entries until the end of the map; `<<` brings those of another one.
    fn entries(
        &mut self,
        parser: &mut Parser<'t, saphyr_parser::StrInput<'t>>,
        depth: usize,
    ) -> Result<Vec<(String, Range<usize>, Node)>, Unreadable> {
        let mut entries: Vec<(String, Range<usize>, Node)> = Vec::new();
        let mut merged: Vec<(String, Range<usize>, Node)> = Vec::new();
        loop {
            let (event, span) = self.next(parser)?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                break;
            }
            let name = self.node(parser, event, span.clone(), depth + 1)?;
            let (event, value_span) = self.next(parser)?;
            let value = self.node(parser, event, value_span, depth + 1)?;
            match name.text() {
                Some(name) if name == "<<" => {
                    for map in value.items() {
                        merged.extend(map.entries().iter().cloned());
                    }
                }
                name => entries.push((name.unwrap_or_default(), span, value)),
            }
        }
        for entry in merged {
            if !entries.iter().any(|(name, _, _)| *name == entry.0) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// Reads TOML.
pub(super) fn toml(text: &Text) -> Result<Node, Unreadable> {
    let table = toml::de::DeTable::parse(&text.text).map_err(|fault| {
        let span = fault.span().unwrap_or(0..0);
        text.fault(&span, fault.message())
    })?;
    Ok(Node::new(
        table.span(),
        Data::Map(toml_table(table.get_ref())),
    ))
}

fn toml_table(table: &toml::de::DeTable<'_>) -> Vec<(String, Range<usize>, Node)> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(name, value)| (name.get_ref().to_string(), name.span(), toml_node(value)))
        .collect();
    entries.sort_by_key(|(_, span, _)| span.start);
    entries
}

fn toml_node(value: &toml::Spanned<toml::de::DeValue<'_>>) -> Node {
    use toml::de::DeValue;
    let data = match value.get_ref() {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Integer(number) => Data::Number(number.to_string()),
        DeValue::Float(number) => Data::Number(number.to_string()),
        DeValue::Boolean(flag) => Data::Flag(*flag),
        DeValue::Datetime(time) => Data::Text(time.to_string()),
        DeValue::Array(items) => Data::List(items.iter().map(toml_node).collect()),
        DeValue::Table(table) => Data::Map(toml_table(table)),
    };
    Node::new(value.span(), data)
}

/// A scalar without quotes (YAML 1.2, core schema).
fn plain(value: &str) -> Data {
    match value {
        "" | "~" | "null" | "Null" | "NULL" => Data::Null,
        "true" | "True" | "TRUE" => Data::Flag(true),
        "false" | "False" | "FALSE" => Data::Flag(false),
        number if is_number(number) => Data::Number(number.to_owned()),
        text => Data::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = |c: u8| c.is_ascii_digit() || b"+-.eE".contains(&c);
    text.bytes().all(digits) && text.parse::<f64>().is_ok()
}

/// Reads JSON, with comments, commas at the end, names without quotes, and strings in any quotes.
pub(super) fn json(text: &Text) -> Result<Node, Unreadable> {
    let mut reader = Json { text, at: 0 };
    let node = reader.value(0)?;
    reader.end()?;
    Ok(node)
}

/// Reads `module.exports = LITERAL` or `export default LITERAL`; an error if there is anything else.
pub(super) fn javascript(text: &Text) -> Result<Node, Unreadable> {
    let mut reader = Json { text, at: 0 };
    reader.blank();
    for directive in ["'use strict'", "\"use strict\""] {
        if reader.rest().starts_with(directive) {
            reader.at += directive.len();
            reader.blank();
            if reader.rest().starts_with(';') {
                reader.at += 1;
            }
            reader.blank();
        }
    }
    let beginning = ["module.exports", "export default"]
        .into_iter()
        .find(|word| reader.rest().starts_with(word));
    let Some(word) = beginning else {
        return Err(reader.fault("expected module.exports = { … }"));
    };
    reader.at += word.len();
    reader.blank();
    if word == "module.exports" {
        reader.expect('=')?;
    }
    let node = reader.value(0)?;
    reader.blank();
    if reader.rest().starts_with(';') {
        reader.at += 1;
    }
    reader.end()?;
    Ok(node)
}

struct Json<'t> {
    text: &'t Text,
    at: usize,
}

impl Json<'_> {
    fn rest(&self) -> &str {
        &self.text.text[self.at..]
    }

    fn fault(&self, message: impl Into<String>) -> Unreadable {
        let end = self.at + self.rest().chars().next().map_or(0, char::len_utf8);
        self.text.fault(&(self.at..end), message)
    }

    /// Passes blanks and comments over.
    fn blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len()
                - rest
                    .trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
                    .len();
            if blank > 0 {
                self.at += blank;
            } else if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += rest.find("*/").map_or(rest.len(), |end| end + 2);
            } else {
                return;
            }
        }
    }

    fn end(&mut self) -> Result<(), Unreadable> {
        self.blank();
        if self.rest().is_empty() {
            Ok(())
        } else {
            Err(self.fault("expected the end of the file"))
        }
    }

    fn expect(&mut self, letter: char) -> Result<(), Unreadable> {
        self.blank();
        if self.rest().starts_with(letter) {
            self.at += letter.len_utf8();
            Ok(())
        } else {
            Err(self.fault(format!("expected `{letter}`")))
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node, Unreadable> {
        self.blank();
        let start = self.at;
        if depth > DEEPEST {
            return Err(self.fault("nested too deeply"));
        }
        let data = match self.rest().chars().next() {
            Some('{') => Data::Map(self.map(depth)?),
            Some('[') => {
                self.at += 1;
                let mut items = Vec::new();
                loop {
                    self.blank();
                    if self.rest().starts_with(']') {
                        self.at += 1;
                        break Data::List(items);
                    }
                    items.push(self.value(depth + 1)?);
                    self.comma(']')?;
                }
            }
            Some('"' | '\'' | '`') => Data::Text(self.string()?),
            _ => {
                let word = self.word();
                let data = match word.as_str() {
                    "true" => Data::Flag(true),
                    "false" => Data::Flag(false),
                    "null" | "undefined" => Data::Null,
                    number if is_number(number) => Data::Number(number.to_owned()),
                    _ => {
                        self.at = start;
                        return Err(self.fault("expected a value"));
                    }
                };
                self.at = start + word.len();
                data
            }
        };
        Ok(Node::new(start..self.at, data))
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(String, Range<usize>, Node)>, Unreadable> {
        self.at += 1;
        let mut entries = Vec::new();
        loop {
            self.blank();
            if self.rest().starts_with('}') {
                self.at += 1;
                return Ok(entries);
            }
            let start = self.at;
            let name = match self.rest().chars().next() {
                Some('"' | '\'') => self.string()?,
                _ => {
                    let word = self.word();
                    if word.is_empty() {
                        return Err(self.fault("expected the name of a key"));
                    }
                    self.at += word.len();
                    word
                }
            };
            let span = start..self.at;
            self.expect(':')?;
            let value = self.value(depth + 1)?;
            entries.push((name, span, value));
            self.comma('}')?;
        }
    }

    /// A comma, or the end that comes next.
    fn comma(&mut self, end: char) -> Result<(), Unreadable> {
        self.blank();
        match self.rest().chars().next() {
            Some(',') => {
                self.at += 1;
                Ok(())
            }
            Some(letter) if letter == end => Ok(()),
            _ => Err(self.fault(format!("expected `,` or `{end}`"))),
        }
    }

    fn word(&self) -> String {
        let part = |c: &char| c.is_alphanumeric() || "_$.+-".contains(*c);
        self.rest().chars().take_while(part).collect()
    }

    fn string(&mut self) -> Result<String, Unreadable> {
        let mut letters = self.rest().char_indices();
        let quote = letters.next().map_or('"', |(_, quote)| quote);
        let mut value = String::new();
        while let Some((at, letter)) = letters.next() {
            match letter {
                letter if letter == quote => {
                    self.at += at + 1;
                    return Ok(value);
                }
                '\\' => match letters.next().map(|(_, escaped)| escaped) {
                    Some('n') => value.push('\n'),
                    Some('t') => value.push('\t'),
                    Some('r') => value.push('\r'),
                    Some('b') => value.push('\u{8}'),
                    Some('f') => value.push('\u{c}'),
                    Some('\n') => {}
                    Some('u') => {
                        let digits: String = letters.by_ref().take(4).map(|(_, c)| c).collect();
                        let code = u32::from_str_radix(&digits, 16).ok();
                        value.push(code.and_then(char::from_u32).unwrap_or('\u{fffd}'));
                    }
                    Some(other) => value.push(other),
                    None => break,
                },
                '$' if quote == '`' => return Err(self.fault("an expression in a string")),
                '\n' if quote != '`' => break,
                other => value.push(other),
            }
        }
        Err(self.fault("a string that is never closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn text(content: &str) -> Text {
        Text::new(Path::new("x"), content)
    }

    #[test]
    fn yaml_has_places_anchors_and_merges() {
        let content =
            "base: &b\n  a: 1\n  é: yes # c\nx:\n  <<: *b\n  a: '2'\n  l: [a, \"b\", ~, 1.5]\n";
        let text = text(content);
        let node = yaml(&text).unwrap();
        let x = node.get("x").unwrap();
        assert_eq!(x.get("a").unwrap().data, Data::Text("2".to_owned()));
        assert_eq!(x.get("é").unwrap().text().as_deref(), Some("yes"));
        assert_eq!(x.get("l").unwrap().items().len(), 4);
        let (name, span, _) = &x.entries()[1];
        assert_eq!((name.as_str(), &content[span.clone()]), ("l", "l"));
        assert!(
            yaml(&text_of_fault())
                .unwrap_err()
                .to_string()
                .contains("x:3:")
        );
    }

    #[test]
    fn aliases_of_aliases_have_an_end() {
        let mut content = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            let items = [alias.as_str(); 10].join(", ");
            content.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        let said = yaml(&text(&content)).unwrap_err().to_string();
        assert!(said.contains("too many copies"), "{said}");
    }

    fn text_of_fault() -> Text {
        text("a: 1\nb: [1, 2\nc: }\n")
    }

    #[test]
    fn json_may_have_comments_and_bare_names() {
        let content =
            "{ // c\n apps: [{'name': \"a\\n\\u00e9\", n: -1.5, /* x */ t: true, z: null,},],\n}";
        let node = json(&text(content)).unwrap();
        let app = node.get("apps").unwrap().items()[0].clone();
        assert_eq!(app.get("name").unwrap().text().as_deref(), Some("a\né"));
        assert_eq!(app.get("n").unwrap().number(), Some(-1.5));
        assert_eq!(app.get("z").unwrap().data, Data::Null);
        assert!(json(&text("{a: b}")).is_err());
        assert!(json(&text("{} x")).is_err());
        assert!(json(&text(&"[".repeat(1000))).is_err());
    }

    #[test]
    fn javascript_is_read_as_far_as_it_is_a_literal() {
        let node = javascript(&text("'use strict';\nmodule.exports = { apps: [] };\n")).unwrap();
        assert!(node.get("apps").is_some());
        for code in [
            "const a = 1; module.exports = {}",
            "module.exports = { a: process.env.X }",
            "module.exports = { a: `${x}` }",
            "module.exports = { a: 1 + 1 }",
        ] {
            assert!(javascript(&text(code)).is_err(), "{code}");
        }
    }
}
