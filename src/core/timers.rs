//! The engine's deadlines, at most one for each key: setting a key replaces its deadline, so none is ever stale.

use crate::{PoolId, Slot, Time, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Key {
    Worker(WorkerId),
    /// The backoff of an empty slot ends.
    Slot(PoolId, Slot),
    /// A start that a request waits for has taken too long, though no single worker was late.
    Start(PoolId),
    /// An essential pool has had no ready worker for too long.
    Essential(PoolId),
    /// The candidate that may end a crash loop has served long enough.
    Breaker(PoolId),
    /// The new workers of a rolling restart that are ready only by age have lived long enough.
    Roll(PoolId),
    /// The time limit of a stop of everything.
    Cap,
}

#[derive(Clone, Default, PartialEq)]
pub(crate) struct Deadlines {
    order: BTreeSet<(Time, Key)>,
    of: BTreeMap<Key, Time>,
}

impl Deadlines {
    pub(crate) fn set(&mut self, key: Key, at: Option<Time>) {
        let before = match at {
            Some(at) => self.of.insert(key, at),
            None => self.of.remove(&key),
        };
        if let Some(before) = before {
            self.order.remove(&(before, key));
        }
        if let Some(at) = at {
            self.order.insert((at, key));
        }
    }

    /// All deadlines, by key.
    #[cfg(feature = "serde")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, Time)> + '_ {
        self.of.iter().map(|(key, at)| (*key, *at))
    }

    /// The deadline of this key.
    pub(crate) fn get(&self, key: Key) -> Option<Time> {
        self.of.get(&key).copied()
    }

    pub(crate) fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Removes and returns the earliest key that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Key> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }
}
