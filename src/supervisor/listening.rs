//! The listening sockets that the master holds, each under an id that is never reused.

use super::listener_repair::ListenerRepair;
use crate::listener::Listener;
use crate::plan::{Address, ListenPlan};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type ListenerId = u64;

#[derive(Debug, Default)]
pub(super) struct Listening {
    open: BTreeMap<ListenerId, Listener>,
    last: ListenerId,
    /// Sockets that the configuration has, but no pool uses.
    lone: BTreeSet<ListenerId>,
    /// Something has let go of a socket: those that nothing uses are closed once the engine has been told everything.
    pub(super) may_be_unused: bool,
    /// The repair of sockets that no longer serve.
    pub(super) repair: ListenerRepair,
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

    /// The open sockets among `ids`, in their order.
    pub(super) fn of(&self, ids: &[ListenerId]) -> Vec<&Listener> {
        ids.iter().filter_map(|id| self.open.get(id)).collect()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ListenerId, &mut Listener)> {
        self.open.iter_mut().map(|(id, listener)| (*id, listener))
    }

    /// The open socket for a configured address. With port 0 the kernel chose the port, so such a socket is found by
    /// its name.
    pub(super) fn find(&self, plan: &ListenPlan) -> Option<ListenerId> {
        let chosen = matches!(plan.address, Address::Tcp(address) if address.port() == 0);
        let same =
            |own: &ListenPlan| own.address == plan.address && (!chosen || own.name == plan.name);
        // If two have the same address, the older one is about to close.
        self.open
            .iter()
            .rev()
            .find(|(_, listener)| same(listener.plan()))
            .map(|(id, _)| *id)
    }

    /// The name of a socket; empty if it is not open any more.
    pub(super) fn name(&self, id: ListenerId) -> &str {
        self.get(id).map_or("", Listener::name)
    }

    /// Why those of the sockets do not serve that do not, and whether that is so for all of them.
    pub(super) fn unserved(&self, ids: &[ListenerId]) -> (Vec<String>, bool) {
        let problem = |id: &ListenerId| {
            let problem = self.repair.problem(*id)?;
            Some(format!("listener {}: {problem}", self.name(*id)))
        };
        let problems: Vec<String> = ids.iter().filter_map(problem).collect();
        let all = !ids.is_empty() && problems.len() == ids.len();
        (problems, all)
    }

    /// Sets the sockets that stay open without a pool.
    pub(super) fn set_lone(&mut self, lone: BTreeSet<ListenerId>) {
        self.lone = lone;
    }

    pub(super) fn lone(&self) -> &BTreeSet<ListenerId> {
        &self.lone
    }
}
