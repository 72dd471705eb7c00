//! What a table of the configuration is: a struct whose fields are its keys. [`section!`] declares both at once, so
//! that a key is written down in one place: its name, the field that it is read into, its default, how it is parsed,
//! and one line of help. `reader` stores values by these keys, and suggests one of them for an unknown one; `schema`
//! makes the lists in docs/config.md from them.

use super::reader::{Located, Parser, Value};

/// One key of a table that is read into a `T`.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    /// What documentation says about its values.
    pub(super) takes: fn() -> String,
    /// What documentation says about its default.
    pub(super) default: fn() -> String,
    pub(super) help: &'static str,
    /// It is a table that `[defaults]` fills up key by key.
    pub(super) is_table: fn() -> bool,
    /// Reads a value into the section; what is wrong with it becomes a finding.
    pub(super) store: fn(&mut Parser, &mut T, &Value<'_>),
}

/// A table of the configuration, as it is written: names and defaults that depend on other keys are not resolved yet.
pub(super) trait Keys: Default + 'static {
    /// Its title in documentation: `[master]`, `[pool.NAME]`; empty for the top of the file.
    const TABLE: &'static str;
    /// Its keys, in the order of the documentation.
    const KEYS: &'static [Key<Self>];

    fn names() -> Vec<&'static str> {
        Self::KEYS.iter().map(|key| key.name).collect()
    }
}

/// How the values of a key are written: see `kinds`.
pub(super) trait Kind {
    /// What a value is read into.
    type Read;
    /// Whether `[defaults]` fills it up key by key.
    const IS_TABLE: bool = false;

    /// What documentation says about its values.
    fn takes(&self) -> String;
    /// Reads a value; what is wrong with it becomes a finding.
    fn read(&self, parser: &mut Parser, value: &Value<'_>) -> Self::Read;
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
/// DEFAULT` gives it a default, and `FIELD as "NAME"` a name that is none for a field. `default "…"` after the kind is
/// what documentation says about the default, where that is neither the value itself nor "none".
macro_rules! section {
    (
        $(#[$about:meta])*
        $vis:vis struct $section:ident = $table:literal {
            $(
                $(#[$doc:meta])*
                $field:ident $(as $name:literal)?: $type:ty $(= $default:expr)?, $kind:expr,
                $(default $text:literal,)? $help:literal;
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
            const TABLE: &'static str = $table;
            const KEYS: &'static [$crate::config::section::Key<Self>] = &[
                $($crate::config::section::Key {
                    name: section!(@name $field, $($name)?),
                    takes: || $crate::config::section::Kind::takes(&$kind),
                    default: || section!(@default $kind, [$($default)?], [$($text)?]),
                    help: $help,
                    is_table: || $crate::config::section::is_table(&$kind),
                    store: |parser, section, value| {
                        let read = $crate::config::section::Kind::read(&$kind, parser, value);
                        $crate::config::section::Field::put(&mut section.$field, read);
                    },
                },)*
            ];
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
}

pub(super) use section;

/// Whether a kind is [`Kind::IS_TABLE`], of a value of it.
pub(super) fn is_table<K: Kind>(_: &K) -> bool {
    K::IS_TABLE
}
