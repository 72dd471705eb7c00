//! The listening sockets that the master holds, each under a number of its own that is never used again.

use super::listener_repair::ListenerRepair;
use crate::listener::Listener;
use crate::plan::{Address, ListenPlan};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type ListenerId = u64;

#[derive(Debug, Default)]
pub(super) struct Listening {
    open: BTreeMap<ListenerId, Listener>,
    last: ListenerId,
    /// Those that the configuration names without a pool that uses them.
    lone: BTreeSet<ListenerId>,
    /// What became of those whose serving has ended.
    pub(super) mending: ListenerRepair,
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

    pub(super) fn remove(&mut self, id: ListenerId) -> Option<Listener> {
        self.open.remove(&id)
    }

    pub(super) fn ids(&self) -> Vec<ListenerId> {
        self.open.keys().copied().collect()
    }

    /// Those of these numbers that are open, in their order.
    pub(super) fn of(&self, ids: &[ListenerId]) -> Vec<&Listener> {
        ids.iter().filter_map(|id| self.open.get(id)).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ListenerId, &mut Listener)> {
        self.open.iter_mut().map(|(id, listener)| (*id, listener))
    }

    /// The open socket that a configured one means: the same address. The kernel chose the port of one with port 0,
    /// so that is known by its name.
    pub(super) fn find(&self, plan: &ListenPlan) -> Option<ListenerId> {
        let chosen = matches!(plan.address, Address::Tcp(address) if address.port() == 0);
        let same = |own: &ListenPlan| own.address == plan.address && (!chosen || own.name == plan.name);
        // Two with one address: the older one is about to close.
        self.open.iter().rev().find(|(_, listener)| same(listener.plan())).map(|(id, _)| *id)
    }

    /// These stay open without a user.
    pub(super) fn set_lone(&mut self, lone: BTreeSet<ListenerId>) {
        self.lone = lone;
    }

    pub(super) fn lone(&self) -> &BTreeSet<ListenerId> {
        &self.lone
    }
}
