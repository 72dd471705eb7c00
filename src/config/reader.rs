//! Reads the values of a spanned TOML tree, and collects every finding.

use super::foreign_keys::Unknown;
use super::foreign_values;
use super::report::{Finding, Report, Severity, nearest, shown};
use super::sources::{Sources, Text};
use super::units;
pub(super) use super::units::integer;
use rotad_core::Span;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A value and the bytes of the text that it was read from.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T> Located<T> {
    pub(super) fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: change(self.value),
            span: self.span,
        }
    }
}

/// The finding that a log shows for `env` and env files, without their text.
pub(super) const PRIVATE: &str = "something in `env` or in an env file is wrong here";

/// One configuration being read.
pub(super) struct Parser {
    texts: Sources,
    /// Spans of values that pools have taken from `[defaults]`.
    defaults: Vec<Range<usize>>,
    /// Spans of names and values of `env`: findings about them must not be logged.
    private: Vec<Range<usize>>,
    /// What to write instead of a key that its table does not have. It knows all tables, and the tables are made with
    /// this parser: so it is passed in.
    elsewhere: fn(&Unknown<'_, '_>) -> Option<String>,
    errors: usize,
    /// The named table that is being read, by the place of its name.
    named: Option<usize>,
    /// Keys of named tables that are there under another name, each with the place of the table's name.
    mistyped: Vec<(usize, String)>,
    /// The base of relative paths.
    pub(super) base: PathBuf,
    pub(super) report: Report,
}

impl Parser {
    pub(super) fn new(
        file: &Path,
        text: &str,
        base: PathBuf,
        elsewhere: fn(&Unknown<'_, '_>) -> Option<String>,
    ) -> Self {
        Self {
            texts: Sources::new(file, text),
            defaults: Vec::new(),
            private: Vec::new(),
            elsewhere,
            errors: 0,
            named: None,
            mistyped: Vec::new(),
            base,
            report: Report::default(),
        }
    }

    /// The main configuration's text.
    pub(super) fn main_text(&self) -> Text {
        self.texts.main().clone()
    }

    /// Adds one more file; its spans are those of [`Text::whole`].
    pub(super) fn add_text(&mut self, file: &Path, text: &str) -> Text {
        self.texts.add(file, text)
    }

    pub(super) fn add_default(&mut self, span: Range<usize>) {
        self.defaults.push(span);
    }

    /// Whether a value comes from `[defaults]`.
    pub(super) fn is_default(&self, span: &Range<usize>) -> bool {
        self.defaults
            .iter()
            .any(|value| value.contains(&span.start))
    }

    /// Of two contradicting values, the one that the pool itself sets, else the first.
    pub(super) fn more_specific<'a>(
        &self,
        one: &'a Range<usize>,
        other: &'a Range<usize>,
    ) -> &'a Range<usize> {
        if self.is_default(one) && !self.is_default(other) {
            other
        } else {
            one
        }
    }

    /// `file:line:column`, for a finding that refers to a second place.
    pub(super) fn spot(&self, span: &Range<usize>) -> String {
        let (file, place) = self.texts.place(span);
        format!("{}:{}:{}", file.display(), place.line, place.column)
    }

    fn find(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        message: String,
        hint: Option<String>,
    ) {
        if severity == Severity::Error {
            self.errors += 1;
        }
        if self.report.is_full() {
            return self.report.count(severity);
        }
        let (file, place) = self.texts.place(span);
        // Reported once, not once for each pool that takes the default.
        if self.is_default(span) && self.report.tells(&file, &place, &message) {
            return;
        }
        let is_private = self
            .private
            .iter()
            .any(|own| own.start < span.end.max(span.start + 1) && span.start < own.end);
        let for_log = is_private.then_some(PRIVATE);
        self.report.push(Finding {
            severity,
            file,
            place: Some(place),
            message,
            hint,
            for_log,
        });
    }

    /// How many errors there were, with those that are not reported again.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// The text at this span may be a secret.
    pub(super) fn add_private(&mut self, span: Range<usize>) {
        self.private.push(span);
    }

    /// The file is not valid TOML, so the meaning of the surrounding text is unknown.
    pub(super) fn no_toml(&mut self, span: &Range<usize>, message: &str) {
        // Finding a place takes time in proportion to the text, and a large invalid file has a fault in every line.
        if self.report.is_full() {
            return self.report.count(Severity::Error);
        }
        let (file, place) = self.texts.place(span);
        let (place, message, for_log) = (Some(place), message.to_owned(), Some("this is no TOML"));
        self.report.push(Finding {
            severity: Severity::Error,
            file,
            place,
            message,
            hint: None,
            for_log,
        });
    }

    /// The file that the configuration begins with.
    pub(super) fn main_path(&self) -> PathBuf {
        self.texts.place(&(0..0)).0
    }

    /// A finding about the main file as a whole.
    pub(super) fn error_of_file(&mut self, message: String, hint: &str) {
        let (severity, file, hint) = (
            Severity::Error,
            self.texts.main().file.clone(),
            Some(hint.to_owned()),
        );
        self.report.push(Finding {
            severity,
            file,
            place: None,
            message,
            for_log: None,
            hint,
        });
    }

    pub(super) fn error(&mut self, span: &Range<usize>, message: impl Into<String>) {
        self.find(Severity::Error, span, message.into(), None);
    }

    pub(super) fn error_with(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.find(Severity::Error, span, message.into(), Some(hint.into()));
    }

    pub(super) fn warning(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.find(Severity::Warning, span, message.into(), Some(hint.into()));
    }

    /// A key without effect here: an error if the pool itself sets it; a default is just not applied.
    pub(super) fn unused_key(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: &str,
    ) {
        if !self.is_default(span) {
            self.error_with(span, message, hint);
        }
    }

    /// A key or value that only a later release supports.
    pub(super) fn unsupported(&mut self, span: &Range<usize>, what: &str) {
        self.error(span, format!("not supported yet: {what}"));
    }

    pub(super) fn expected(&mut self, value: &Value<'_>, what: &str) {
        self.expected_with(value, what, None);
    }

    /// The same, with what to write instead.
    pub(super) fn expected_with(&mut self, value: &Value<'_>, what: &str, hint: Option<String>) {
        let message = format!("expected {what}, found {}", found(value.get_ref()));
        self.find(Severity::Error, &value.span(), message, hint);
    }

    /// A named table is being read: [`Parser::missing`] does not tell of keys that are mistyped in it.
    pub(super) fn begin_named(&mut self, name: &Located<String>) {
        self.named = Some(name.span.start);
    }

    /// A section without a key that it must have, unless that is there under another name, which has its finding.
    pub(super) fn missing(&mut self, kind: &str, name: &Located<String>, key: &str, hint: &str) {
        let mut mistyped = self.mistyped.iter();
        if mistyped.any(|(at, meant)| *at == name.span.start && meant == key) {
            return;
        }
        let message = format!("{kind} `{}` has no `{key}`", shown(&name.value));
        self.error_with(&name.span, message, hint);
    }

    /// A key that its table does not have. `table`: its title; `known`: the keys that it has.
    pub(super) fn unknown_key(
        &mut self,
        name: &Located<String>,
        value: &Value<'_>,
        table: &str,
        known: &[&str],
    ) {
        let unknown = Unknown {
            key: &name.value,
            value: Some(value.get_ref()),
            table,
            known,
        };
        let foreign = (self.elsewhere)(&unknown);
        if let Some(at) = self.named.filter(|_| table.ends_with(".NAME]")) {
            let meant: Vec<String> = match &foreign {
                Some(hint) => known
                    .iter()
                    .filter(|key| {
                        hint.contains(&format!("`{key}`")) || hint.contains(&format!("{key} = "))
                    })
                    .map(ToString::to_string)
                    .collect(),
                None => nearest(&name.value, known.iter().copied())
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
            };
            self.mistyped.extend(meant.into_iter().map(|key| (at, key)));
        }
        match foreign {
            Some(hint) => {
                let message = format!("unknown key `{}`", shown(&name.value));
                self.error_with(&name.span, message, hint);
            }
            None => self.unknown(&name.span, "key", &name.value, known),
        }
    }

    /// `unknown KIND`, with the nearest known one.
    pub(super) fn unknown(&mut self, span: &Range<usize>, kind: &str, word: &str, known: &[&str]) {
        let message = format!("unknown {kind} `{}`", shown(word));
        if self.report.is_full() {
            return self.error(span, message);
        }
        let hint = match nearest(word, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => return self.error(span, message),
            None => format!("known here: {}", list(known)),
        };
        self.error_with(span, message, hint);
    }

    /// The entries of a table in the order of the text; for anything else none, and a finding.
    pub(super) fn entries<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
    ) -> Vec<(Located<String>, &'v Value<'i>)> {
        match value.get_ref() {
            DeValue::Table(table) => in_order(table),
            _ => {
                self.expected(value, "a table");
                Vec::new()
            }
        }
    }

    /// The items of a list, or one value as a list of one.
    fn items<'v, 'i>(value: &'v Value<'i>) -> Vec<&'v Value<'i>> {
        match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        }
    }

    /// A string without NUL bytes.
    pub(super) fn text(&mut self, value: &Value<'_>, what: &str) -> Option<Located<String>> {
        let DeValue::String(text) = value.get_ref() else {
            self.expected_with(value, what, foreign_values::text(value.get_ref()));
            return None;
        };
        if text.contains('\0') {
            self.error(
                &value.span(),
                "a NUL byte cannot be passed to the operating system",
            );
            return None;
        }
        Some(Located::new(text.to_string(), value.span()))
    }

    /// A string converted by `change`, whose error says what was wrong.
    pub(super) fn parsed<T>(
        &mut self,
        value: &Value<'_>,
        what: &str,
        change: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Located<T>> {
        let text = self.text(value, what)?;
        match change(&text.value) {
            Ok(value) => Some(Located::new(value, text.span)),
            Err(message) => {
                self.error(&text.span, shown_whole(&message));
                None
            }
        }
    }

    /// One string or a list of strings; `None` if there is a finding.
    pub(super) fn texts(
        &mut self,
        value: &Value<'_>,
        what: &str,
    ) -> Option<Located<Vec<Located<String>>>> {
        let items = Self::items(value);
        let texts: Vec<_> = items
            .iter()
            .filter_map(|item| self.text(item, what))
            .collect();
        (texts.len() == items.len()).then(|| Located::new(texts, value.span()))
    }

    pub(super) fn flag(&mut self, value: &Value<'_>) -> Option<Located<bool>> {
        if let DeValue::Boolean(flag) = value.get_ref() {
            return Some(Located::new(*flag, value.span()));
        }
        self.expected_with(
            value,
            "true or false",
            foreign_values::flag(value.get_ref()),
        );
        None
    }

    pub(super) fn number(
        &mut self,
        value: &Value<'_>,
        range: RangeInclusive<i64>,
    ) -> Option<Located<i64>> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        match integer(value.get_ref()) {
            Some(number) if range.contains(&number) => Some(Located::new(number, value.span())),
            _ => {
                self.expected_with(value, &what, foreign_values::number(value.get_ref()));
                None
            }
        }
    }

    /// A count of at least `least`.
    pub(super) fn amount(
        &mut self,
        value: &Value<'_>,
        least: u32,
        most: u32,
    ) -> Option<Located<u32>> {
        let number = self.number(value, i64::from(least)..=i64::from(most))?;
        Some(number.map(|number| u32::try_from(number).unwrap_or(most)))
    }

    pub(super) fn duration(&mut self, value: &Value<'_>) -> Option<Located<Span>> {
        if let Some(number) = integer(value.get_ref()) {
            let hint = format!("write the unit: \"{number}s\"");
            self.error_with(
                &value.span(),
                format!("expected {}, found the number {number}", units::DURATION),
                hint,
            );
            return None;
        }
        if let Some(hint) = value.get_ref().as_str().and_then(foreign_values::duration) {
            self.expected_with(value, units::DURATION, Some(hint));
            return None;
        }
        self.parsed(value, units::DURATION, units::duration)
    }

    pub(super) fn size(&mut self, value: &Value<'_>) -> Option<Located<u64>> {
        match integer(value.get_ref()).map(u64::try_from) {
            Some(Ok(bytes)) => Some(Located::new(bytes, value.span())),
            _ => self.parsed(value, units::SIZE, units::size),
        }
    }

    /// Permission bits: `"022"`, or 0o022; a decimal number is refused, since it would be misread.
    pub(super) fn octal(&mut self, value: &Value<'_>) -> Option<Located<u32>> {
        match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 8 => {
                let digits = number.as_str().to_owned();
                match units::octal(&digits, 0o777) {
                    Ok(bits) => Some(Located::new(bits, value.span())),
                    Err(message) => {
                        self.error(&value.span(), message);
                        None
                    }
                }
            }
            DeValue::Integer(_) => {
                self.expected_with(value, units::OCTAL, foreign_values::octal(value.get_ref()));
                None
            }
            _ => self.parsed(value, units::OCTAL, |text| units::octal(text, 0o777)),
        }
    }

    /// One of a fixed set of words.
    pub(super) fn choice<T: Clone>(
        &mut self,
        value: &Value<'_>,
        words: &[(&str, T)],
    ) -> Option<Located<T>> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let text = self.text(value, &quoted(&names))?;
        match words.iter().find(|(name, _)| *name == text.value) {
            Some((_, choice)) => Some(Located::new(choice.clone(), text.span)),
            None => {
                self.unknown(&text.span, "value", &text.value, &names);
                None
            }
        }
    }

    /// A path, made absolute.
    pub(super) fn path(&mut self, value: &Value<'_>) -> Option<Located<PathBuf>> {
        let text = self.text(value, "a path")?;
        if text.value.is_empty() {
            self.error(&text.span, "expected a path, found nothing");
            return None;
        }
        if self.refuses_path(&text) {
            return None;
        }
        let path = super::paths::under(&self.base, Path::new(&text.value));
        Some(Located::new(path, text.span))
    }

    /// A name (of a master, pool or listener): it becomes part of paths and of the command line.
    pub(super) fn name(&mut self, name: &Located<String>) -> bool {
        let fine = super::paths::is_name(&name.value);
        if !fine {
            let message = format!("`{}` cannot be a name", shown(&name.value));
            self.error_with(
                &name.span,
                message,
                "names are made of letters, digits, `_`, `-` and `.`, 64 at most",
            );
        }
        fine
    }
}

/// The entries of a table in the order of the text; the TOML parser sorts them by name.
pub(super) fn in_order<'v, 'i>(table: &'v DeTable<'i>) -> Vec<(Located<String>, &'v Value<'i>)> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(name, value)| (Located::new(name.get_ref().to_string(), name.span()), value))
        .collect();
    entries.sort_by_key(|(name, _)| name.span.start);
    entries
}

fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", shown(text)),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Keeps a quoted user's text on one line.
fn shown_whole(message: &str) -> String {
    message
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .take(300)
        .collect()
}

/// `a, b, c`, each in backquotes.
pub(super) fn list(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `"a", "b" or "c"`.
fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
