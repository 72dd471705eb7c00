//! What is selected: a pool, or one of its slots.

use rotad::control::protocol::LogTarget;
use std::fmt;

/// A pool or a slot, by its name: it stays the same while rows come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) pool: String,
    pub(super) slot: Option<u32>,
}

impl Target {
    pub(super) fn pool(name: &str) -> Self {
        let (pool, slot) = (name.to_owned(), None);
        Self { pool, slot }
    }

    pub(super) fn slot(name: &str, slot: u32) -> Self {
        let (pool, slot) = (name.to_owned(), Some(slot));
        Self { pool, slot }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(to, "{}/{slot}", self.pool),
            None => to.write_str(&self.pool),
        }
    }
}

impl From<Target> for LogTarget {
    fn from(target: Target) -> Self {
        let Target { pool, slot } = target;
        Self { pool, slot }
    }
}
