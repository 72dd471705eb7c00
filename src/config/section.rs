//! What a table of the configuration is: a struct whose fields are its keys. [`section!`] declares both at once, so
//! that a key is written down in one place: its name, the field that it is read into, its default, how it is parsed,
//! what `[defaults]` and oneshots make of it, and one line of help. `tables` stores values by these keys, and suggests
//! one of them for an unknown one; `schema` makes the lists in docs/config.md from them.

use super::reader::{Located, Parser, Value};
use std::ops::Range;

/// One key of a table that is read into a `T`.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    /// What it is for, in a line.
    pub(super) help: &'static str,
    /// See [`Kind::shape`].
    pub(super) shape: fn() -> serde_json::Value,
    /// Reads a value into the table; what is wrong with it becomes a finding.
    pub(super) store: fn(&mut Parser, &mut T, &Value<'_>),
}

/// A table as it is written: names and defaults that depend on other keys are not resolved yet.
pub(super) trait Keys: Default + 'static {
    const KEYS: &'static [Key<Self>];

    fn key(name: &str) -> Option<&'static Key<Self>> {
        Self::KEYS.iter().find(|key| key.name == name)
    }

    fn names() -> Vec<&'static str> {
        Self::KEYS.iter().map(|key| key.name).collect()
    }
}

/// What is known about a key beside how it is read.
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// What documentation says about its values.
    pub(super) takes: fn() -> String,
    /// What documentation says about its default.
    pub(super) default: fn() -> String,
    pub(super) help: &'static str,
    pub(super) merge: fn() -> Merge,
    /// See [`Kind::tables`].
    pub(super) tables: fn() -> Vec<Section>,
    /// Whether it means something for a oneshot, which has one process that is never ready and never replaced.
    pub(super) for_oneshots: bool,
}

/// A table with a header of its own, which documentation lists.
pub(super) trait Documented: Keys {
    /// Its title in documentation: `[master]`, `[pool.NAME]`; empty for the top of the file.
    const TABLE: &'static str;
    /// Its keys, in the order of the documentation.
    const ENTRIES: &'static [Entry];

    fn entry(name: &str) -> Option<&'static Entry> {
        Self::ENTRIES.iter().find(|entry| entry.name == name)
    }

    /// The keys that exclude each other.
    fn alternatives() -> Vec<&'static str> {
        Self::ENTRIES
            .iter()
            .filter(|entry| (entry.merge)() == Merge::Alternative)
            .map(|entry| entry.name)
            .collect()
    }
}

/// One table of the configuration, as documentation shows it.
#[derive(Clone, Debug)]
pub struct Section {
    /// `[master]`, `[pool.NAME]`; empty for the top of the file.
    pub table: &'static str,
    /// Its keys, in the order of the documentation.
    pub rows: Vec<Row>,
}

/// One key, as documentation shows it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it takes: `duration`, `number`, the words of a choice.
    pub takes: String,
    /// Its default, or where that comes from; empty for a table.
    pub default: String,
    /// What it is for, in a line.
    pub help: &'static str,
}

/// A table and all tables in it, as documentation shows them.
pub(super) fn sections<T: Documented>() -> Vec<Section> {
    let row = |entry: &Entry| Row {
        name: entry.name,
        takes: (entry.takes)(),
        default: (entry.default)(),
        help: entry.help,
    };
    let mut sections = vec![Section {
        table: T::TABLE,
        rows: T::ENTRIES.iter().map(row).collect(),
    }];
    sections.extend(T::ENTRIES.iter().flat_map(|entry| (entry.tables)()));
    sections
}

/// When a pool takes the default of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    /// When it does not have the key.
    Absent,
    /// Always: key by key, into its own table.
    Table,
    /// When its table has no other key of this kind: they exclude each other.
    Alternative,
}

/// How the values of a key are written: see `kinds`.
pub(super) trait Kind {
    /// What a value is read into.
    type Read;
    const MERGE: Merge = Merge::Absent;

    /// What documentation says about its values.
    fn takes(&self) -> String;
    /// What its values look like, as a JSON schema (`shapes`).
    fn shape(&self) -> serde_json::Value;
    /// Reads a value; what is wrong with it becomes a finding.
    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read;
    /// The tables that its values are, for documentation.
    fn tables(&self) -> Vec<Section> {
        Vec::new()
    }
}

/// A kind whose values documentation can show.
pub(super) trait Shown<T>: Kind {
    /// The value as it is written in the configuration.
    fn shown(&self, value: &T) -> String;
}

/// A value as it is written; `None` where it is not there, or has a finding.
pub(super) type Written<T> = Option<Located<T>>;

/// A key that has the same default everywhere.
#[derive(Clone, Debug)]
pub(super) struct Setting<T> {
    pub(super) written: Written<T>,
    default: T,
}

impl<T: Clone> Setting<T> {
    pub(super) fn new(default: T) -> Self {
        Self {
            written: None,
            default,
        }
    }

    /// The value that is in force.
    pub(super) fn value(&self) -> T {
        let written = self.written.as_ref().map(|at| &at.value);
        written.unwrap_or(&self.default).clone()
    }
}

/// A field of a section, which a value that was read is put into.
pub(super) trait Field<R> {
    fn put(&mut self, read: R);
}

impl<T> Field<T> for T {
    fn put(&mut self, read: T) {
        *self = read;
    }
}

impl<T> Field<Option<Located<T>>> for Setting<T> {
    fn put(&mut self, read: Option<Located<T>>) {
        self.written = read;
    }
}

/// A field that knows where its value is written.
pub(super) trait HasSpan {
    /// `None`: it is not written, or has a finding.
    fn span(&self) -> Option<&Range<usize>>;
}

impl<T> HasSpan for Written<T> {
    fn span(&self) -> Option<&Range<usize>> {
        self.as_ref().map(|at| &at.span)
    }
}

impl<T> HasSpan for Setting<T> {
    fn span(&self) -> Option<&Range<usize>> {
        self.written.span()
    }
}

/// Those of some keys of a section that are written, each with its name and span:
/// `written!(section, max_size, keep)`.
macro_rules! written {
    ($section:expr, $($field:ident),*) => {
        [$((stringify!($field), $crate::config::section::HasSpan::span(&$section.$field)),)*]
            .into_iter()
            .filter_map(|(name, span)| Some((name, span?)))
    };
}

pub(super) use written;

/// Declares a table of the configuration:
///
/// ```text
/// section! {
///     pub(super) struct Recycle = "[pool.NAME.recycle]" {
///         max_age: Written<Span>, Duration,
///             "replaced at this age (±10 %)";
///     }
/// }
/// ```
///
/// A key is `FIELD: TYPE, KIND, "help";`, where the kind (`kinds`) says how a value is parsed. `FIELD: Setting<T> =
/// DEFAULT` gives it a default, and `FIELD as "NAME"` a name that is none for a field. After the kind may stand
/// `default "…"`, what documentation says about the default where that is neither the value itself nor "none", and
/// `not for oneshots`.
///
/// A table without a title is the value of a key whose help describes it; its keys are `FIELD: TYPE, KIND, "help";`:
///
/// ```text
/// section! {
///     struct Step {
///         wait: Written<Span>, Duration,
///             "how long it waits";
///     }
/// }
/// ```
macro_rules! section {
    (
        $(#[$about:meta])*
        $vis:vis struct $section:ident = $table:literal {
            $(
                $(#[$doc:meta])*
                $field:ident $(as $name:literal)?: $type:ty $(= $default:expr)?, $kind:expr,
                $(default $text:literal,)? $(not for $without:ident,)? $help:literal;
            )*
        }
    ) => {
        $(#[$about])*
        $vis struct $section {
            $($(#[$doc])* pub(super) $field: $type,)*
        }

        impl Default for $section {
            fn default() -> Self {
                Self {
                    $($field: section!(@start $type, $($default)?),)*
                }
            }
        }

        impl $crate::config::section::Keys for $section {
            const KEYS: &'static [$crate::config::section::Key<Self>] = &[
                $(section!(@key $field, section!(@name $field, $($name)?), $kind, $help),)*
            ];
        }

        impl $crate::config::section::Documented for $section {
            const TABLE: &'static str = $table;
            const ENTRIES: &'static [$crate::config::section::Entry] = &[
                $($crate::config::section::Entry {
                    name: section!(@name $field, $($name)?),
                    takes: || $crate::config::section::Kind::takes(&$kind),
                    default: || section!(@default $kind, [$($default)?], [$($text)?]),
                    help: $help,
                    merge: || $crate::config::section::merge(&$kind),
                    tables: || $crate::config::section::Kind::tables(&$kind),
                    for_oneshots: section!(@for_oneshots $($without)?),
                },)*
            ];
        }
    };
    (
        $(#[$about:meta])*
        $vis:vis struct $section:ident {
            $($field:ident: $type:ty, $kind:expr, $help:literal;)*
        }
    ) => {
        $(#[$about])*
        #[derive(Default)]
        $vis struct $section {
            $($field: $type,)*
        }

        impl $crate::config::section::Keys for $section {
            const KEYS: &'static [$crate::config::section::Key<Self>] = &[
                $(section!(@key $field, stringify!($field), $kind, $help),)*
            ];
        }
    };
    (@key $field:ident, $name:expr, $kind:expr, $help:literal) => {
        $crate::config::section::Key {
            name: $name,
            help: $help,
            shape: || $crate::config::section::Kind::shape(&$kind),
            store: |parser, section, value| {
                let read = $crate::config::section::Kind::read(&$kind, parser, value);
                $crate::config::section::Field::put(&mut section.$field, read);
            },
        }
    };
    (@start $type:ty,) => { <$type>::default() };
    (@start $type:ty, $default:expr) => { <$type>::new($default) };
    (@name $field:ident,) => { stringify!($field) };
    (@name $field:ident, $name:literal) => { $name };
    (@default $kind:expr, [$($default:expr)?], [$text:literal]) => { $text.to_owned() };
    (@default $kind:expr, [$default:expr], []) => {
        format!("`{}`", $crate::config::section::Shown::shown(&$kind, &$default))
    };
    (@default $kind:expr, [], []) => { "none".to_owned() };
    (@for_oneshots) => { true };
    (@for_oneshots oneshots) => { false };
}

pub(super) use section;

/// The [`Kind::MERGE`] of a value of a kind.
pub(super) fn merge<K: Kind>(_: &K) -> Merge {
    K::MERGE
}
