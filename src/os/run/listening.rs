//! The listening sockets that the master holds, each under a number of its own that is never used again.

use crate::os::sockets::Listener;
use std::collections::BTreeMap;

pub(super) type ListenerId = u64;

#[derive(Debug, Default)]
pub(super) struct Listening {
    open: BTreeMap<ListenerId, Listener>,
    last: ListenerId,
}

impl Listening {
    pub(super) fn add(&mut self, listener: Listener) -> ListenerId {
        let id = self.last;
        self.last += 1;
        self.open.insert(id, listener);
        id
    }

    pub(super) fn get(&self, id: ListenerId) -> Option<&Listener> {
        self.open.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.open.get_mut(&id)
    }

    /// Those of these numbers that are open, in their order.
    pub(super) fn of(&self, ids: &[ListenerId]) -> Vec<&Listener> {
        ids.iter().filter_map(|id| self.open.get(id)).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ListenerId, &mut Listener)> {
        self.open.iter_mut().map(|(id, listener)| (*id, listener))
    }
}
