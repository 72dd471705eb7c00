//! Slots that wait for their turn, each at most once.

use crate::Slot;
use alloc::collections::{BTreeSet, VecDeque};

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(from = "VecDeque<Slot>", into = "VecDeque<Slot>")
)]
pub(crate) struct SlotQueue {
    order: VecDeque<Slot>,
    members: BTreeSet<Slot>,
}

impl SlotQueue {
    /// The slot waits behind the others, or keeps its place if it waits already.
    pub(crate) fn push(&mut self, slot: Slot) {
        if self.members.insert(slot) {
            self.order.push_back(slot);
        }
    }

    /// The slot whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = self.order.pop_front()?;
        self.members.remove(&slot);
        Some(slot)
    }
}

impl From<VecDeque<Slot>> for SlotQueue {
    fn from(order: VecDeque<Slot>) -> Self {
        let members = order.iter().copied().collect();
        Self { order, members }
    }
}

impl From<SlotQueue> for VecDeque<Slot> {
    fn from(queue: SlotQueue) -> Self {
        queue.order
    }
}
