//! Who wants to be looked at, and when. One deadline a key: setting replaces, nothing is ever stale.

use crate::{PoolId, Slot, Time, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Worker(WorkerId),
    /// The slot may be filled again.
    Slot(PoolId, Slot),
    /// An essential pool has had nobody ready for too long.
    Essential(PoolId),
    /// The crash loop's probe has served long enough.
    Breaker(PoolId),
    /// The new workers of a rolling restart have lived long enough.
    Roll(PoolId),
    /// Everything has to be gone.
    Cap,
}

#[derive(Clone, Default)]
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

    pub(crate) fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest one that is due.
    pub(crate) fn pop(&mut self, now: Time) -> Option<Key> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }
}
