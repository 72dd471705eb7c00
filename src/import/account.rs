//! What became of each key, for people: findings in the form of `check`, and how many there are of each kind.

use super::ledger::{Entry, Outcome};
use crate::config::{Finding, Severity};
use std::fmt;

/// What became of the keys of a source.
#[derive(Debug)]
pub struct Account {
    entries: Vec<Entry>,
    remarks: Vec<String>,
}

/// How many keys had each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The result means the same.
    pub taken: usize,
    /// The result means something else.
    pub otherwise: usize,
    /// Nothing of it is in the result.
    pub lost: usize,
    /// The result does without.
    pub not_needed: usize,
}

impl Counts {
    /// All keys.
    pub fn all(self) -> usize {
        self.taken + self.otherwise + self.lost + self.not_needed
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = if self.all() == 1 { "key" } else { "keys" };
        write!(
            f,
            "{} {keys}: {} taken, {} otherwise, {} lost, {} not needed",
            self.all(),
            self.taken,
            self.otherwise,
            self.lost,
            self.not_needed
        )
    }
}

impl Account {
    pub(super) fn new(entries: Vec<Entry>, remarks: Vec<String>) -> Self {
        Self { entries, remarks }
    }

    /// Every key, in the order of the source.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many keys had each outcome.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in &self.entries {
            match entry.outcome() {
                Outcome::Taken => counts.taken += 1,
                Outcome::Otherwise(_) => counts.otherwise += 1,
                Outcome::Lost(_) => counts.lost += 1,
                Outcome::NotNeeded(_) => counts.not_needed += 1,
            }
        }
        counts
    }
}

/// Keys of which the same is said: shown once, with the places of all.
struct Group<'a> {
    first: &'a Entry,
    outcome: Outcome,
    others: Vec<&'a Entry>,
}

impl Group<'_> {
    fn place(entry: &Entry) -> String {
        let file = entry.file.display();
        match &entry.place {
            Some(place) => format!("{file}:{}:{}", place.line, place.column),
            None => file.to_string(),
        }
    }

    /// `also file:3:1, file:9:1`.
    fn also(&self) -> Option<String> {
        let other = |entry: &&Entry| {
            let place = Self::place(entry);
            if entry.key == self.first.key {
                place
            } else {
                format!("`{}` at {place}", entry.key)
            }
        };
        let places: Vec<String> = self.others.iter().map(other).collect();
        (!places.is_empty()).then(|| format!("also {}", places.join(", ")))
    }

    fn finding(&self, word: &'static str, what: &str) -> String {
        let finding = Finding {
            severity: Severity::Warning,
            file: self.first.file.clone(),
            place: self.first.place.clone(),
            message: format!("`{}`: {what}", self.first.key),
            hint: self.also(),
            for_log: None,
        };
        finding.render_as(word)
    }
}

impl fmt::Display for Account {
    /// What is not needed, a line each; then what is otherwise, and what is lost, each with its line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for entry in &self.entries {
            let outcome = entry.outcome();
            match groups.iter_mut().find(|group| group.outcome == outcome) {
                Some(group) => group.others.push(entry),
                None => groups.push(Group {
                    first: entry,
                    outcome,
                    others: Vec::new(),
                }),
            }
        }
        for group in &groups {
            if let Outcome::NotNeeded(why) = &group.outcome {
                let also = group
                    .also()
                    .map_or(String::new(), |also| format!(" ({also})"));
                let place = Group::place(group.first);
                writeln!(f, "not needed: {place}: `{}`: {why}{also}", group.first.key)?;
            }
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        for group in &groups {
            if let Outcome::Otherwise(what) = &group.outcome {
                writeln!(f, "{}", group.finding("otherwise", what))?;
            }
        }
        for group in &groups {
            if let Outcome::Lost(what) = &group.outcome {
                writeln!(f, "{}", group.finding("lost", what))?;
            }
        }
        Ok(())
    }
}
