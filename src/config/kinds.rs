//! How values are written: what documentation calls them, and how each is parsed. The keys of a section
//! ([`super::section`]) name one of these each.

use super::reader::{Located, Parser, Value};
use super::section::{Documented, Kind, Merge, Section, Shown, Written, sections};
use super::shapes::{self, Shape};
use super::tables;
use rotad_core::Span;
use std::marker::PhantomData;
use std::path::PathBuf;

/// `true` or `false`.
pub(super) struct Flag;

impl Kind for Flag {
    type Read = Written<bool>;

    fn takes(&self) -> String {
        "true or false".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::flag()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.flag(value)
    }
}

impl Shown<bool> for Flag {
    fn shown(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// A number with its unit: `"10s"`.
pub(super) struct Duration;

impl Kind for Duration {
    type Read = Written<Span>;

    fn takes(&self) -> String {
        "duration".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::duration()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.duration(value)
    }
}

impl Shown<Span> for Duration {
    fn shown(&self, value: &Span) -> String {
        format!("\"{}\"", humantime::format_duration((*value).into()))
    }
}

/// Bytes: `"64MiB"`, or a number of them.
pub(super) struct Size;

impl Kind for Size {
    type Read = Written<u64>;

    fn takes(&self) -> String {
        "size".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::size()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.size(value)
    }
}

impl Shown<u64> for Size {
    fn shown(&self, value: &u64) -> String {
        match value >> 20 {
            mebibytes if mebibytes << 20 == *value => format!("\"{mebibytes}MiB\""),
            _ => value.to_string(),
        }
    }
}

/// The size at which a log file is rotated; `None` inside: `"none"`, never.
pub(super) struct LogSize;

impl Kind for LogSize {
    type Read = Written<Option<u64>>;

    fn takes(&self) -> String {
        "size, or `\"none\"`".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::any(vec![shapes::words(["none"]), shapes::size()])
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        if value.get_ref().as_str() == Some("none") {
            return Some(Located::new(None, value.span()));
        }
        Some(parser.size(value)?.map(Some))
    }
}

impl Shown<Option<u64>> for LogSize {
    fn shown(&self, value: &Option<u64>) -> String {
        value.map_or_else(|| "\"none\"".to_owned(), |bytes| Size.shown(&bytes))
    }
}

/// Permission bits: `"022"`.
pub(super) struct Octal;

impl Kind for Octal {
    type Read = Written<u32>;

    fn takes(&self) -> String {
        "octal".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::octal()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.octal(value)
    }
}

impl Shown<u32> for Octal {
    fn shown(&self, value: &u32) -> String {
        format!("\"{value:03o}\"")
    }
}

/// A whole number between these two.
pub(super) struct Amount(pub(super) u32, pub(super) u32);

impl Kind for Amount {
    type Read = Written<u32>;

    fn takes(&self) -> String {
        "number".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::number(self.0.into(), self.1.into())
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.amount(value, self.0, self.1)
    }
}

impl Shown<u32> for Amount {
    fn shown(&self, value: &u32) -> String {
        value.to_string()
    }
}

/// A path, made absolute.
pub(super) struct Path;

impl Kind for Path {
    type Read = Written<PathBuf>;

    fn takes(&self) -> String {
        "path".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::some_text()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.path(value)
    }
}

impl Shown<PathBuf> for Path {
    fn shown(&self, value: &PathBuf) -> String {
        format!("\"{}\"", value.display())
    }
}

/// Any string: what documentation and messages call it.
pub(super) struct Text(pub(super) &'static str, pub(super) &'static str);

impl Kind for Text {
    type Read = Written<String>;

    fn takes(&self) -> String {
        self.0.to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::text()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.text(value, self.1)
    }
}

/// One of these words.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Clone> Kind for Choice<T> {
    type Read = Written<T>;

    fn takes(&self) -> String {
        let words: Vec<String> = self
            .0
            .iter()
            .map(|(word, _)| format!("`\"{word}\"`"))
            .collect();
        words.join(", ")
    }

    fn shape(&self) -> Shape {
        shapes::words(self.0.iter().map(|(word, _)| *word))
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        parser.choice(value, self.0)
    }
}

impl<T: Clone + PartialEq> Shown<T> for Choice<T> {
    fn shown(&self, value: &T) -> String {
        let known = self.0.iter().find(|(_, one)| one == value);
        format!("\"{}\"", known.map_or("", |(word, _)| word))
    }
}

/// Another kind, under a name that documentation gives it.
pub(super) struct Called<K>(pub(super) &'static str, pub(super) K);

impl<K: Kind> Kind for Called<K> {
    type Read = K::Read;

    fn takes(&self) -> String {
        self.0.to_owned()
    }

    fn shape(&self) -> Shape {
        self.1.shape()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        self.1.read(parser, value)
    }
}

impl<T, K: Shown<T>> Shown<T> for Called<K> {
    fn shown(&self, value: &T) -> String {
        self.1.shown(value)
    }
}

/// A kind that one key has alone: what documentation calls its values, what they look like, and the function that reads
/// them (`values`).
pub(super) struct Own<F>(
    pub(super) &'static str,
    pub(super) fn() -> Shape,
    pub(super) fn(&mut Parser, &Value<'_>) -> F,
);

impl<F> Kind for Own<F> {
    type Read = F;

    fn takes(&self) -> String {
        self.0.to_owned()
    }

    fn shape(&self) -> Shape {
        (self.1)()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> F {
        (self.2)(parser, value)
    }
}

/// As [`Own`], for a key that counts as written even where its value has a finding.
pub(super) struct Kept<F>(
    pub(super) &'static str,
    pub(super) fn() -> Shape,
    pub(super) fn(&mut Parser, &Value<'_>) -> F,
);

impl<F> Kind for Kept<F> {
    type Read = Option<F>;

    fn takes(&self) -> String {
        self.0.to_owned()
    }

    fn shape(&self) -> Shape {
        (self.1)()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        Some((self.2)(parser, value))
    }
}

/// A way to tell whether a worker lives; `None` inside: it has a finding.
pub(super) type Tried<T> = Written<Option<T>>;

/// The kind of a [`Tried`] way, as [`Own`].
pub(super) struct Way<T>(
    pub(super) &'static str,
    pub(super) fn() -> Shape,
    pub(super) fn(&mut Parser, &Value<'_>) -> Option<T>,
);

impl<T> Kind for Way<T> {
    type Read = Tried<T>;
    const MERGE: Merge = Merge::Alternative;

    fn takes(&self) -> String {
        self.0.to_owned()
    }

    fn shape(&self) -> Shape {
        (self.1)()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        let way = (self.2)(parser, value);
        Some(Located::new(way, value.span()))
    }
}

/// A table whose keys are names that the user or the system gives.
pub(super) struct Names<F>(
    pub(super) fn() -> Shape,
    pub(super) fn(&mut Parser, &Value<'_>) -> F,
);

impl<F> Kind for Names<F> {
    type Read = F;
    const MERGE: Merge = Merge::Table;

    fn takes(&self) -> String {
        "table".to_owned()
    }

    fn shape(&self) -> Shape {
        (self.0)()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> F {
        (self.1)(parser, value)
    }
}

/// A table with keys of its own.
pub(super) struct Table<S>(PhantomData<S>);

impl<S> Table<S> {
    pub(super) const fn of() -> Self {
        Self(PhantomData)
    }
}

impl<S: Documented> Kind for Table<S> {
    type Read = S;
    const MERGE: Merge = Merge::Table;

    fn takes(&self) -> String {
        "table".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::table::<S>()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> S {
        tables::read(parser, value)
    }

    fn tables(&self) -> Vec<Section> {
        sections::<S>()
    }
}

/// A table that is another thing when it is not there.
pub(super) struct OptionalTable<S>(PhantomData<S>);

impl<S> OptionalTable<S> {
    pub(super) const fn of() -> Self {
        Self(PhantomData)
    }
}

impl<S: Documented> Kind for OptionalTable<S> {
    type Read = Written<S>;
    const MERGE: Merge = Merge::Table;

    fn takes(&self) -> String {
        "table".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::table::<S>()
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        Some(Located::new(tables::read(parser, value), value.span()))
    }

    fn tables(&self) -> Vec<Section> {
        sections::<S>()
    }
}

/// Tables with names of their own.
pub(super) struct Tables<S>(PhantomData<S>);

impl<S> Tables<S> {
    pub(super) const fn of() -> Self {
        Self(PhantomData)
    }
}

impl<S: Documented> Kind for Tables<S> {
    type Read = Vec<(Located<String>, S)>;

    fn takes(&self) -> String {
        "tables".to_owned()
    }

    fn shape(&self) -> Shape {
        shapes::named(shapes::table::<S>())
    }

    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read {
        let mut named = Vec::new();
        tables::read_named(parser, value, &mut named);
        named
    }

    fn tables(&self) -> Vec<Section> {
        sections::<S>()
    }
}

/// A key that is read at another time than the rest of its section: what documentation calls its values, what they look
/// like, and the tables that they are.
pub(super) struct ReadElsewhere(
    pub(super) &'static str,
    pub(super) fn() -> Shape,
    pub(super) fn() -> Vec<Section>,
);

impl Kind for ReadElsewhere {
    type Read = ();

    fn takes(&self) -> String {
        self.0.to_owned()
    }

    fn shape(&self) -> Shape {
        (self.1)()
    }

    fn read(&self, _: &mut Parser, _: &Value<'_>) {}

    fn tables(&self) -> Vec<Section> {
        (self.2)()
    }
}
