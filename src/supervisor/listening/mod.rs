//! The listening sockets that the master holds, each under an id that is never reused, and what is done about one that
//! no longer serves. `repair.rs` decides when; what touches a path runs as a blocking job.

mod id;
mod repair;

pub(super) use id::ListenerId;

use super::action::Action;
use super::event_builder::EventBuilder;
use crate::event_loop::poller::{Interest, Poller, Source};
use crate::listener::{FileCheckResult, Listener, ReplacementSocket, SavedListener};
use crate::observe::events::EventKind;
use crate::plan::{Address, ListenPlan};
use crate::saved_state::tracked::Tracked;
use crate::sys::kept_fd::FdTable;
use repair::{Finding, ListenerRepair, Note};
use rotad_core::Time;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What is saved of the listening sockets.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedListening {
    open: Vec<(ListenerId, SavedListener)>,
    last: ListenerId,
    lone: BTreeSet<ListenerId>,
}

#[derive(Debug, Default)]
pub(super) struct Listening {
    open: Tracked<BTreeMap<ListenerId, Listener>>,
    last: ListenerId,
    /// Sockets that the configuration has, but no pool uses.
    lone: Tracked<BTreeSet<ListenerId>>,
    /// Something has let go of a socket: those that nothing uses are closed once the engine has been told everything.
    pub(super) may_be_unused: bool,
    /// The repair of sockets that no longer serve.
    repair: ListenerRepair,
}

impl Listening {
    /// Whether what is saved may have changed since the last call.
    pub(super) fn take_change(&mut self) -> bool {
        let open = self.open.take_change();
        self.lone.take_change() || open
    }

    /// A number that changes whenever a socket may have changed.
    pub(super) fn version(&self) -> u64 {
        self.open.version()
    }

    /// What the next master needs to go on with the sockets.
    ///
    /// # Errors
    /// Those of fstat(2); none for open descriptors.
    pub(super) fn saved(&self) -> io::Result<SavedListening> {
        let open = self.open.iter();
        let open = open.map(|(id, listener)| Ok((*id, listener.saved()?)));
        Ok(SavedListening {
            open: open.collect::<io::Result<_>>()?,
            last: self.last,
            lone: self.lone().clone(),
        })
    }

    /// Goes on with the sockets of a dead master.
    ///
    /// # Errors
    /// As [`FdTable::take`].
    pub(super) fn restored(saved: SavedListening, table: &mut FdTable) -> io::Result<Self> {
        let open = saved.open.into_iter();
        let open = open.map(|(id, listener)| Ok((id, Listener::restored(listener, table)?)));
        Ok(Self {
            open: Tracked::new(open.collect::<io::Result<_>>()?),
            last: saved.last,
            lone: Tracked::new(saved.lone),
            may_be_unused: true,
            repair: ListenerRepair::default(),
        })
    }

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
        *self.lone = lone;
    }

    pub(super) fn lone(&self) -> &BTreeSet<ListenerId> {
        &self.lone
    }

    /// Watches a socket for a shutdown, and the file of a unix socket for changes. The action reports a failure.
    pub(super) fn watch(&self, id: ListenerId, poller: &Poller) -> Option<Action> {
        let listener = self.get(id)?;
        let mut watched = poller.watch(listener.fd(), Source::Listener(id), Interest::Hangup);
        if let (Ok(()), Some(file_watch)) = (&watched, listener.file_watch()) {
            watched = poller.watch(file_watch, Source::SocketFile(id), Interest::Read);
        }
        let error = watched.err()?;
        let text = format!(
            "cannot watch the socket: {error}; its shutdown is noticed only at a reload, or once a worker is ready"
        );
        Some(Action::Emit(failed(listener.name(), &text)))
    }

    fn unwatch(&self, id: ListenerId, poller: &Poller) {
        if let Some(listener) = self.get(id) {
            poller.unwatch(listener.fd());
            if let Some(file_watch) = listener.file_watch() {
                poller.unwatch(file_watch);
            }
        }
    }

    /// Takes a socket that is about to be closed.
    pub(super) fn remove(&mut self, id: ListenerId, poller: &Poller) -> Option<Listener> {
        self.unwatch(id, poller);
        self.repair.forget(id);
        self.open.remove(&id)
    }

    /// When a socket that does not serve is tried again.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.repair.deadline()
    }

    /// A socket may have been shut down.
    pub(super) fn on_hangup(&mut self, id: ListenerId, now: Time, poller: &Poller) -> Vec<Action> {
        let Some(listener) = self.get(id).filter(|listener| listener.is_shut()) else {
            return Vec::new();
        };
        // Watched again once it serves: until then it would wake the loop endlessly.
        poller.unwatch(listener.fd());
        self.check(id, false, now, poller)
    }

    /// The file of a unix socket has changed.
    pub(super) fn on_file_change(
        &mut self,
        id: ListenerId,
        now: Time,
        poller: &Poller,
    ) -> Vec<Action> {
        let Some(file_watch) = self.get(id).and_then(Listener::file_watch) else {
            return Vec::new();
        };
        file_watch.clear();
        self.check(id, false, now, poller)
    }

    /// Checks all sockets without a pause: for each request, signal or file change that rolls or reloads.
    pub(super) fn check_all(&mut self, now: Time, poller: &Poller) -> Vec<Action> {
        let ids = self.ids().into_iter();
        ids.flat_map(|id| self.check(id, true, now, poller))
            .collect()
    }

    /// Tries those again whose pause is over.
    pub(super) fn run_due(&mut self, now: Time, poller: &Poller) -> Vec<Action> {
        let ids = self.repair.due(now).into_iter();
        ids.flat_map(|id| self.check(id, false, now, poller))
            .collect()
    }

    /// A worker is ready: undoes what it may have done to its sockets. A server that calls listen(2) on an inherited
    /// socket changes the backlog for all; a call of shutdown(2) ends it for all.
    pub(super) fn restore(
        &mut self,
        ids: &[ListenerId],
        now: Time,
        poller: &Poller,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        for id in ids {
            let Some(listener) = self.get(*id) else {
                continue;
            };
            if listener.is_shut() {
                actions.extend(self.on_hangup(*id, now, poller));
            } else if let Err(error) = listener.restore() {
                let text = format!("cannot restore the backlog of the socket: {error}");
                actions.push(Action::Emit(failed(listener.name(), &text)));
            }
        }
        actions
    }

    fn check(&mut self, id: ListenerId, asked: bool, now: Time, poller: &Poller) -> Vec<Action> {
        let Some(listener) = self.get(id) else {
            return Vec::new();
        };
        let Some(file_check) = listener.file_check() else {
            return self.relisten(id, now, poller);
        };
        let check = self.repair.check(id, asked, now);
        check
            .map(|check| Action::CheckListener(id, file_check, check.may_replace))
            .into_iter()
            .collect()
    }

    /// The job that checks a socket could not be started.
    pub(super) fn check_not_started(&mut self, id: ListenerId, error: &io::Error, now: Time) {
        self.repair.not_started(id, now);
        tracing::warn!("cannot check a listening socket: cannot start a thread: {error}");
    }

    /// Makes a TCP socket that was shut down listen again.
    fn relisten(&mut self, id: ListenerId, now: Time, poller: &Poller) -> Vec<Action> {
        let Some(listener) = self.open.get(&id) else {
            return Vec::new();
        };
        let note = match listener.relisten() {
            Ok(was_shut) => {
                let note = self.repair.relistened(id, was_shut);
                if note.is_some() {
                    // Without effect if it is still watched.
                    poller
                        .watch(listener.fd(), Source::Listener(id), Interest::Hangup)
                        .ok();
                }
                note
            }
            Err(error) => self.repair.relisten_failed(id, &error.to_string(), now),
        };
        self.emit(id, note).into_iter().collect()
    }

    /// Takes the result of a check.
    pub(super) fn on_checked(
        &mut self,
        id: ListenerId,
        result: FileCheckResult,
        now: Time,
        poller: &Poller,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.get(id).is_none() {
            if let FileCheckResult::Replaced(_, socket) = result {
                actions.push(Action::DiscardSocket(socket));
            }
            self.repair.forget(id);
            return actions;
        }
        let replaced = matches!(result, FileCheckResult::Replaced(..));
        let finding = match result {
            FileCheckResult::Serving => Finding::Serves,
            FileCheckResult::NotServing(loss) => Finding::Lost(loss.text()),
            FileCheckResult::Replaced(loss, socket) => {
                actions.extend(self.install(id, socket, poller));
                Finding::Replaced(loss.text())
            }
            FileCheckResult::Failed(loss, error) => Finding::Failed(loss.text(), error.to_string()),
        };
        let (note, again) = self.repair.checked(id, finding, now);
        actions.extend(self.emit(id, note));
        if replaced {
            actions.push(Action::ReplaceHolders(id));
        }
        if again {
            actions.extend(self.check(id, false, now, poller));
        }
        actions
    }

    fn install(
        &mut self,
        id: ListenerId,
        socket: ReplacementSocket,
        poller: &Poller,
    ) -> Vec<Action> {
        self.unwatch(id, poller);
        let Some(listener) = self.open.get_mut(&id) else {
            return Vec::new();
        };
        let changed = listener.replace(socket);
        let ownership = listener.ownership().filter(|_| changed);
        let name = listener.name().to_owned();
        let failure = self.watch(id, poller);
        let ownership = ownership.map(|ownership| Action::SetFileOwnership(name, ownership));
        failure.into_iter().chain(ownership).collect()
    }

    fn emit(&self, id: ListenerId, note: Option<Note>) -> Option<Action> {
        Some(Action::Emit(note?.event(self.name(id))))
    }
}

/// The event that a listener could not be changed as it should be.
pub(super) fn failed(name: &str, text: &str) -> EventBuilder {
    let event = EventBuilder::new(EventKind::Listener, format!("{name}: {text}"));
    event.cause("failed").warn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listener::open_all;

    #[test]
    fn a_socket_that_cannot_be_watched_is_reported() {
        let plan = ListenPlan {
            name: "http".to_owned(),
            address: Address::Tcp(([127, 0, 0, 1], 0).into()),
            backlog: 1,
            nonblocking: false,
            mode: None,
            uid: None,
            gid: None,
        };
        let mut listening = Listening::default();
        let mut opened = open_all(&[plan], Vec::new()).unwrap();
        let id = listening.add(opened.remove(0));
        let poller = Poller::new().unwrap();
        assert!(listening.watch(id, &poller).is_none());
        // epoll(7) refuses a descriptor that it watches already.
        let Some(Action::Emit(event)) = listening.watch(id, &poller) else {
            panic!("not reported");
        };
        let event = event.event();
        assert_eq!(event.event, EventKind::Listener);
        assert_eq!(event.cause.as_deref(), Some("failed"));
        assert!(
            event.text.starts_with("http: cannot watch the socket: "),
            "{}",
            event.text
        );
    }
}
