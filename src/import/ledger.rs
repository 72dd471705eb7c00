//! What became of each key of a source. A key is registered when it is read, and handed out once; the code that takes it says
//! what became of it. A key that is never taken, or taken and dropped, is *lost*: nothing of a source is passed over in
//! silence.

use crate::config::{Finding, Place, Severity};
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One file of the source, or the command line.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// The name that findings show.
    pub(super) file: PathBuf,
    pub(super) text: Rc<str>,
}

impl Text {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            text: text.into(),
        }
    }

    /// The name of the file, without its directory.
    pub(super) fn name(&self) -> String {
        let name = self.file.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The directory of the file.
    pub(super) fn dir(&self) -> &Path {
        self.file
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// An error about a place of this text: the source cannot be read.
    pub(super) fn fault(&self, span: &Range<usize>, message: impl Into<String>) -> Unreadable {
        Unreadable(Box::new(Finding {
            place: Some(Place::new(&self.text, span)),
            ..error(&self.file, message)
        }))
    }
}

fn error(file: &Path, message: impl Into<String>) -> Finding {
    Finding {
        severity: Severity::Error,
        file: file.to_owned(),
        place: None,
        message: message.into(),
        hint: None,
        for_log: None,
    }
}

/// Why a source cannot be read.
#[derive(Debug)]
pub struct Unreadable(Box<Finding>);

impl Unreadable {
    pub(super) fn file(file: &Path, message: impl Into<String>) -> Self {
        Self(Box::new(error(file, message)))
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The line of the fault; 0: it is about the file as a whole.
    pub(super) fn line(&self) -> usize {
        self.0.place.as_ref().map_or(0, |place| place.line)
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result means the same.
    Taken,
    /// The result means something else: what differs.
    Otherwise(String),
    /// Nothing of it is in the result: what to do instead.
    Lost(String),
    /// The result does without: why.
    NotNeeded(String),
}

/// One key of the source.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As it is written there, without its value.
    pub key: String,
    /// The part of the source that it belongs to: comments on it stand at the pool made from that.
    pub part: String,
    /// The file as it was given.
    pub file: PathBuf,
    /// Where it stands.
    pub place: Option<Place>,
    /// `None`: it was not taken.
    outcome: Option<Outcome>,
}

impl Entry {
    /// What became of it.
    pub fn outcome(&self) -> Outcome {
        self.outcome.clone().unwrap_or_else(|| {
            Outcome::Lost("not a key that `rotad import` knows; see docs/config.md".to_owned())
        })
    }
}

/// All keys, in the order in which they were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Rc<RefCell<Vec<Entry>>>);

impl Ledger {
    /// Registers a key. `secret`: its line is never shown.
    pub(super) fn key<V>(
        &self,
        name: impl Into<String>,
        part: &str,
        place: (&Text, Range<usize>),
        secret: bool,
        value: V,
    ) -> Key<V> {
        let name = name.into();
        let (text, span) = place;
        let place = Place::new(&text.text, &span);
        let mut entries = self.0.borrow_mut();
        entries.push(Entry {
            key: name.clone(),
            part: part.to_owned(),
            file: text.file.clone(),
            place: Some(if secret { place.secret() } else { place }),
            outcome: None,
        });
        Key {
            ledger: self.clone(),
            index: entries.len() - 1,
            name,
            value,
        }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.0.borrow().clone()
    }
}

/// A key that was handed out. Its methods say what became of it; dropped, it is lost.
#[must_use]
#[derive(Debug)]
pub(super) struct Key<V> {
    ledger: Ledger,
    index: usize,
    pub(super) name: String,
    pub(super) value: V,
}

impl<V> Key<V> {
    fn end(self, outcome: Outcome) -> V {
        self.ledger.0.borrow_mut()[self.index].outcome = Some(outcome);
        self.value
    }

    pub(super) fn taken(self) -> V {
        self.end(Outcome::Taken)
    }

    pub(super) fn otherwise(self, differs: impl Into<String>) -> V {
        self.end(Outcome::Otherwise(differs.into()))
    }

    pub(super) fn lost(self, instead: impl Into<String>) -> V {
        self.end(Outcome::Lost(instead.into()))
    }

    pub(super) fn not_needed(self, why: impl Into<String>) -> V {
        self.end(Outcome::NotNeeded(why.into()))
    }

    /// Taken, or otherwise if something differs.
    pub(super) fn settle(self, differs: &[String]) -> V {
        if differs.is_empty() {
            self.taken()
        } else {
            self.otherwise(differs.join("; "))
        }
    }
}

/// The keys of one part of a source that have not been taken yet.
#[derive(Debug)]
pub(super) struct Keys<V>(Vec<Key<V>>);

impl<V> Default for Keys<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Keys<V> {
    pub(super) fn push(&mut self, key: Key<V>) {
        self.0.push(key);
    }

    /// The last key of this name. Earlier ones have no effect where they come from either.
    pub(super) fn take(&mut self, name: &str) -> Option<Key<V>> {
        let mut found = self.take_all(name);
        let last = found.pop();
        for earlier in found {
            earlier.not_needed("set again further down");
        }
        last
    }

    /// All keys of this name, in order.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<Key<V>> {
        self.take_where(|key| key == name)
    }

    /// All keys whose name fits, in order.
    pub(super) fn take_where(&mut self, fits: impl Fn(&str) -> bool) -> Vec<Key<V>> {
        let (found, left) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|key| fits(&key.name));
        self.0 = left;
        found
    }

    /// The first of these names that is there: names for the same.
    pub(super) fn take_one_of(&mut self, names: &[&str]) -> Option<Key<V>> {
        let mut found = None;
        for name in names {
            match (&found, self.take(name)) {
                (None, key) => found = key,
                (Some(_), Some(other)) => {
                    other.not_needed(format!("`{}` is the same", names[0]));
                }
                (Some(_), None) => {}
            }
        }
        found
    }

    /// The value that `take` would hand out.
    pub(super) fn peek(&self, name: &str) -> Option<&V> {
        let key = self.0.iter().rev().find(|key| key.name == name);
        key.map(|key| &key.value)
    }

    /// Says the same of all that are left.
    pub(super) fn rest_not_needed(&mut self, why: &str) {
        for key in std::mem::take(&mut self.0) {
            key.not_needed(why);
        }
    }

    /// Says the same of all that are left.
    pub(super) fn rest_lost(&mut self, instead: &str) {
        for key in std::mem::take(&mut self.0) {
            key.lost(instead);
        }
    }

    /// These keys are not needed, if they are there.
    pub(super) fn not_needed(&mut self, names: &[&str], why: &str) {
        for name in names {
            if let Some(key) = self.take(name) {
                key.not_needed(why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_takes_or_that_is_dropped_is_lost() {
        let ledger = Ledger::default();
        let text = Text::new(Path::new("x"), "a\nb\nc\nd\nd\n");
        let mut keys = Keys::default();
        for (at, name) in ["a", "b", "c", "d", "d"].into_iter().enumerate() {
            keys.push(ledger.key(name, "", (&text, 2 * at..2 * at + 1), false, at));
        }
        assert_eq!(keys.take("a").map(Key::taken), Some(0));
        drop(keys.take("b"));
        assert_eq!(keys.take("d").map(Key::taken), Some(4));
        assert!(keys.take("a").is_none(), "it is handed out once");
        let outcomes: Vec<Outcome> = ledger.entries().iter().map(Entry::outcome).collect();
        let is_lost = |outcome: &Outcome| matches!(outcome, Outcome::Lost(_));
        assert_eq!(outcomes[0], Outcome::Taken);
        assert!(
            is_lost(&outcomes[1]) && is_lost(&outcomes[2]),
            "{outcomes:?}"
        );
        assert!(matches!(outcomes[3], Outcome::NotNeeded(_)), "{outcomes:?}");
        assert_eq!(outcomes[4], Outcome::Taken);
    }
}
