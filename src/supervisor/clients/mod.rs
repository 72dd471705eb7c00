//! Clients of the control socket, and everything that waits for the outcome of a request.
//!
//! [`Clients`] owns the connections, what each of them waits for, and who follows events. It sees neither the engine
//! nor another part: it is handed finished responses. `requests.rs` and `control.rs` carry requests out, with the parts
//! that they concern.

pub(crate) mod control;
pub(crate) mod describer;
pub(crate) mod in_progress;
pub(crate) mod launch;
pub(crate) mod log_clients;
mod measured;
mod metrics;
pub(crate) mod outcome_text;
mod pending;
pub(crate) mod requests;
pub(crate) mod scrape_targets;
pub(crate) mod served_at;
pub(crate) mod status;
pub(crate) mod tickets;

use crate::control::protocol::{Request, Response, Selector};
use crate::control::server::{ReadOutcome, SavedServer, Server};
use crate::event_loop::poller::{Interest, Poller, Source};
use crate::exit_code::ExitCode;
use crate::observe::events::Event;
use crate::saved_state::tracked::Tracked;
use crate::supervisor::Supervisor;
use crate::supervisor::deploys::Asker;
use crate::supervisor::event_log::EventLog;
use crate::supervisor::reload::ReloadRequest;
use launch::StartWatch;
use log_clients::LogClients;
use pending::PendingStatuses;
use rotad_core::{PoolId, Time};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use tickets::{Settled, Tickets, WaitId};

#[cfg(test)]
mod tests;

/// Maximum clients that follow events; each has a bounded number of unsent bytes.
const MAX_FOLLOWERS: usize = 16;

/// The clients, and what each of them waits for.
pub(crate) struct Clients {
    server: Tracked<Server>,
    /// The clients that follow events: for each, how many it has missed.
    followers: BTreeMap<u64, u64>,
    pub(crate) statuses: PendingStatuses,
    pub(crate) log_clients: LogClients,
    pub(crate) tickets: Tracked<Tickets>,
    pub(crate) start_watch: Tracked<StartWatch>,
    /// Clients that wait for the master to stop.
    stop_clients: Vec<u64>,
}

impl Clients {
    pub(crate) fn new(server: Server, start_watch: StartWatch) -> Self {
        Self {
            server: Tracked::new(server),
            followers: BTreeMap::new(),
            statuses: PendingStatuses::default(),
            log_clients: LogClients::default(),
            tickets: Tracked::default(),
            start_watch: Tracked::new(start_watch),
            stop_clients: Vec::new(),
        }
    }

    /// What the next master needs to go on with the clients; None: nothing has changed since the last call.
    pub(crate) fn take_change(&mut self) -> Option<io::Result<SavedServer>> {
        self.server.take_change().then(|| self.server.saved())
    }

    /// What the next master needs to go on with the clients.
    ///
    /// # Errors
    /// Those of fstat(2); none for open descriptors.
    pub(crate) fn saved(&self) -> io::Result<SavedServer> {
        self.server.saved()
    }

    /// The clients that wait for the master to stop.
    pub(crate) fn stop_clients(&self) -> &[u64] {
        &self.stop_clients
    }

    /// Goes on with what clients of a dead master wait for. Returns the requests of those that wait for nothing: the dead
    /// master has begun nothing that the state knows of.
    pub(crate) fn restore(
        &mut self,
        tickets: Tickets,
        stop_clients: Vec<u64>,
        reloads: &[ReloadRequest],
        events: &EventLog,
        poller: &Poller,
    ) -> Vec<(u64, Request)> {
        *self.tickets = tickets;
        self.stop_clients = stop_clients;
        let mut again = Vec::new();
        for client in self.server.ids() {
            let source = Source::Client(client);
            let watched = self
                .server
                .stream(client)
                .is_some_and(|stream| poller.watch(stream, source, Interest::Read).is_ok());
            if !watched {
                self.drop_client(client, poller);
                continue;
            }
            if self.server.is_following(client) {
                self.followers.insert(client, 0);
                if self.server.told(client) == 0 {
                    self.server.set_told(client, events.last());
                }
                continue;
            }
            let waits = self.tickets.waits_for(client)
                || self.stop_clients.contains(&client)
                || reloads.iter().any(|request| request.client == Some(client));
            if !waits && let ReadOutcome::Request(request) = self.server.request_again(client) {
                again.push((client, *request));
            }
            self.flush(client, poller);
        }
        again
    }

    /// The request of a client is recorded: a next master need not read it again.
    pub(crate) fn consume_request(&mut self, client: u64) {
        self.server.consume_request(client);
    }

    /// Takes the connections that wait.
    pub(crate) fn accept(&mut self, now: Time, poller: &Poller) {
        for client in self.server.accept(now) {
            let watched = self.server.stream(client).is_some_and(|stream| {
                poller
                    .watch(stream, Source::Client(client), Interest::Read)
                    .is_ok()
            });
            if !watched {
                self.server.forget(client);
            }
        }
        for client in self.server.surplus() {
            self.drop_client(client, poller);
        }
        match self.server.shortage() {
            Some(true) => tracing::warn!(
                "no descriptor is left for clients of the control socket (limit of open files, `nofile`): they are \
                 refused or wait; workers are supervised on"
            ),
            Some(false) => {
                tracing::info!("there are descriptors for clients of the control socket again")
            }
            None => {}
        }
        if self.server.is_paused() {
            self.server
                .listeners()
                .for_each(|listener_fd| poller.unwatch(listener_fd));
        }
    }

    /// When a client has waited too long, or connections are accepted again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.server.deadline()
    }

    /// Drops the clients that took too long, and accepts connections again after a lack of descriptors.
    pub(crate) fn run_due(&mut self, now: Time, poller: &Poller) {
        for client in self.server.overdue(now) {
            self.drop_client(client, poller);
        }
        if self.server.resume(now) {
            self.watch_control_sockets(poller);
        }
    }

    /// Watches every listening control socket; those already watched stay so.
    fn watch_control_sockets(&self, poller: &Poller) {
        if self.server.is_paused() {
            return;
        }
        for listener_fd in self.server.listeners() {
            if let Err(error) = poller.watch(listener_fd, Source::Control, Interest::Read)
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                tracing::error!("cannot watch the control socket: {error}");
            }
        }
    }

    /// Listens on this control socket from now on.
    pub(crate) fn replace_control_socket(&mut self, listener: UnixListener, poller: &Poller) {
        poller.unwatch(self.server.control());
        self.server.replace(listener);
        self.watch_control_sockets(poller);
    }

    /// Sets what users are told who may only ask where the master is.
    pub(crate) fn set_location(&mut self, runtime_dir: &Path) {
        self.server.set_location(&here(runtime_dir));
    }

    /// Has one presence socket for each of these paths. `bind` makes one that is missing.
    pub(crate) fn set_presence_sockets(
        &mut self,
        paths: &[&Path],
        poller: &Poller,
        bind: impl Fn(&Path) -> Option<(PathBuf, UnixListener)>,
    ) {
        let gone = self.server.keep_presence_sockets(paths);
        gone.iter().for_each(|listener| poller.unwatch(listener));
        for path in paths {
            if !self.server.has_presence_socket(path)
                && let Some((path, listener)) = bind(path)
            {
                self.server.add_presence_socket(path, listener);
            }
        }
        self.watch_control_sockets(poller);
    }

    /// The master exits: from now on another master may take its place.
    pub(crate) fn close_presence_sockets(&mut self) {
        self.server.keep_presence_sockets(&[]);
    }

    /// Forgets a client, and closes its connection. What it has asked for goes on.
    pub(crate) fn drop_client(&mut self, client: u64, poller: &Poller) {
        if let Some(stream) = self.server.stream(client) {
            poller.unwatch(stream);
        }
        self.server.forget(client);
        self.tickets.detach(client);
        self.followers.remove(&client);
        self.statuses.forget(client);
        self.stop_clients.retain(|known| *known != client);
    }

    /// Reads from a client, and sends what it can take now. Returns its request once it is complete.
    pub(crate) fn read(&mut self, client: u64, poller: &Poller) -> Option<Request> {
        match self.server.read(client) {
            ReadOutcome::Request(request) => return Some(*request),
            ReadOutcome::Nothing => {
                self.flush(client, poller);
                self.catch_up(client, poller);
            }
            ReadOutcome::Gone => self.drop_client(client, poller),
        }
        None
    }

    /// Sends a response. The connection ends after the `last` one.
    pub(crate) fn answer(&mut self, client: u64, answer: &Response, last: bool, poller: &Poller) {
        self.server.send(client, answer, last);
        self.flush(client, poller);
    }

    /// A handle to the client's connection, for a thread that answers it instead. The client is dropped here then.
    pub(crate) fn hand_over(&self, client: u64) -> Option<UnixStream> {
        self.server.hand_over(client)
    }

    /// Sends the final response.
    pub(crate) fn done(&mut self, client: u64, code: ExitCode, message: String, poller: &Poller) {
        self.answer(client, &Response::Done { code, message }, true, poller);
    }

    fn flush(&mut self, client: u64, poller: &Poller) {
        match self.server.flush(client) {
            None => self.drop_client(client, poller),
            Some(more) => {
                let interest = if more {
                    Interest::ReadWrite
                } else {
                    Interest::Read
                };
                if let Some(stream) = self.server.stream(client) {
                    poller.change(stream, Source::Client(client), interest).ok();
                }
            }
        }
    }

    /// The client's pid and uid, for the log.
    pub(crate) fn name(&self, client: u64) -> String {
        self.server.peer(client).map_or_else(
            || "a client".to_owned(),
            |(pid, uid)| format!("pid {pid} (uid {uid})"),
        )
    }

    /// The client, as the one that asks for a deploy.
    pub(crate) fn asker(&self, client: u64, verb: &str) -> Asker {
        Asker::verb(verb, self.server.peer(client).map(|(_, uid)| uid))
    }

    /// Sends these events, and nothing more.
    pub(crate) fn send_events(&mut self, client: u64, events: Vec<Event>, poller: &Poller) {
        for event in events {
            let event = Response::Event(Box::new(event));
            self.server.send(client, &event, false);
        }
        self.done(client, ExitCode::DONE, String::new(), poller);
    }

    /// The client follows events: it gets the latest ones, and each that is emitted.
    pub(crate) fn follow_events(&mut self, client: u64, latest: Vec<Event>, poller: &Poller) {
        if self.followers.len() >= MAX_FOLLOWERS {
            let message = format!("{MAX_FOLLOWERS} clients already follow the events");
            return self.done(client, ExitCode::FAILED, message, poller);
        }
        self.server.follows(client);
        for event in latest {
            self.server.set_told(client, event.seq);
            let event = Response::Event(Box::new(event));
            self.server.try_send(client, &event);
        }
        self.followers.insert(client, 0);
        self.flush(client, poller);
    }

    /// Sends the clients that follow what they were not told of yet. Returns whether there was something.
    pub(crate) fn tell_events(&mut self, events: &EventLog, poller: &Poller) -> bool {
        let mut any = false;
        for client in self.followers.keys().copied().collect::<Vec<_>>() {
            for event in events.after(self.server.told(client)) {
                any = true;
                self.send_event(client, event, poller);
            }
        }
        any
    }

    /// Sends an event to a client that follows. One that does not read loses it.
    fn send_event(&mut self, client: u64, event: &Event, poller: &Poller) {
        self.server.set_told(client, event.seq);
        let event = Response::Event(Box::new(event.clone()));
        self.catch_up(client, poller);
        // A follower that has missed events gets their number first: events stay in order.
        let missed = self.followers.get(&client).is_none_or(|missed| *missed > 0);
        if missed || !self.server.try_send(client, &event) {
            self.followers
                .entry(client)
                .and_modify(|missed| *missed += 1);
        }
        self.flush(client, poller);
    }

    /// Tells a follower how many events it has missed, once it reads again.
    fn catch_up(&mut self, client: u64, poller: &Poller) {
        if let Some(missed) = self.followers.get_mut(&client)
            && *missed > 0
            && self
                .server
                .try_send(client, &Response::Skipped { count: *missed })
        {
            *missed = 0;
            self.flush(client, poller);
        }
    }

    /// Sends a response to the clients that wait for this pool.
    pub(crate) fn tell_waiting(&mut self, pool: PoolId, answer: &Response, poller: &Poller) {
        for client in self.tickets.clients_of(pool) {
            self.answer(client, answer, false, poller);
        }
    }

    /// Records the outcome of one ticket of a wait. The client gets its reply with the last one.
    pub(crate) fn settle(&mut self, wait: WaitId, code: ExitCode, text: String, poller: &Poller) {
        let settled = self.tickets.settle(wait, code, text);
        self.answer_wait(settled, poller);
    }

    /// No ticket follows: the reply is sent once all are answered.
    pub(crate) fn close_wait(&mut self, wait: WaitId, poller: &Poller) {
        let settled = self.tickets.close(wait);
        self.answer_wait(settled, poller);
    }

    fn answer_wait(&mut self, settled: Option<Settled>, poller: &Poller) {
        if let Some(Settled {
            client: Some(client),
            code,
            message,
        }) = settled
        {
            self.done(client, code, message, poller);
        }
    }

    /// The client is answered when the master exits.
    pub(crate) fn wait_for_stop(&mut self, client: u64) {
        self.stop_clients.push(client);
    }

    /// The master exits: answers the clients that wait for that. Their connections end with the process, which proves
    /// its exit.
    pub(crate) fn answer_stop(&mut self, code: ExitCode, message: &str) {
        for client in std::mem::take(&mut self.stop_clients) {
            let message = message.to_owned();
            self.server
                .send(client, &Response::Done { code, message }, true);
            self.server.flush(client);
        }
    }

    /// The master exits: the followers have seen every event.
    pub(crate) fn finish_followers(&mut self, poller: &Poller) {
        for client in self.followers.keys().copied().collect::<Vec<_>>() {
            self.done(client, ExitCode::DONE, String::new(), poller);
        }
    }
}

/// Where to find the master, for users who may only ask its presence socket.
pub(crate) fn here(runtime_dir: &Path) -> Response {
    Response::Here {
        runtime_dir: runtime_dir.to_owned(),
        config: None,
    }
}

impl Supervisor {
    pub(crate) fn answer(&mut self, client: u64, answer: &Response, last: bool) {
        self.clients
            .answer(client, answer, last, &self.event_loop.poller);
    }

    pub(crate) fn done(&mut self, client: u64, code: ExitCode, message: String) {
        self.clients
            .done(client, code, message, &self.event_loop.poller);
    }

    /// The pools that a selector means. None: the client was answered that there are none.
    pub(crate) fn select_pools(
        &mut self,
        client: u64,
        which: &Selector,
        oneshots: bool,
    ) -> Option<Vec<PoolId>> {
        self.expand_selector(client, which, oneshots)
            .and_then(|which| self.select_expanded(client, &which, oneshots))
    }

    /// The selector with the names that its patterns stand for. None: the client was answered that they stand for none.
    pub(crate) fn expand_selector(
        &mut self,
        client: u64,
        which: &Selector,
        oneshots: bool,
    ) -> Option<Selector> {
        match self.pools.expand(which, oneshots) {
            Ok(which) => Some(which),
            Err(message) => {
                self.done(client, ExitCode::NOT_FOUND, message);
                None
            }
        }
    }

    /// The pools that a selector without patterns means. None: the client was answered that there are none.
    pub(crate) fn select_expanded(
        &mut self,
        client: u64,
        which: &Selector,
        oneshots: bool,
    ) -> Option<Vec<PoolId>> {
        match self.pools.select(which, oneshots) {
            Ok(pools) => Some(pools),
            Err((code, message)) => {
                self.done(client, code, message);
                None
            }
        }
    }

    /// The pool of this name. None: the client was answered that there is none.
    pub(crate) fn find_pool(&mut self, client: u64, name: &str) -> Option<PoolId> {
        match self.pools.require(name) {
            Ok(pool) => Some(pool),
            Err(message) => {
                self.done(client, ExitCode::NOT_FOUND, message);
                None
            }
        }
    }

    /// The pools that a name or pattern stands for. None: the client was answered that there are none.
    pub(crate) fn find_pools(&mut self, client: u64, name: &str) -> Option<Vec<PoolId>> {
        match self.pools.matching(name) {
            Ok(pools) => Some(pools),
            Err(message) => {
                self.done(client, ExitCode::NOT_FOUND, message);
                None
            }
        }
    }

    /// Logs a line of progress and sends it to the client.
    pub(crate) fn report_progress(&mut self, client: Option<u64>, text: &str) {
        tracing::info!("{text}");
        if let Some(client) = client {
            let text = text.to_owned();
            self.answer(client, &Response::Progress { text }, false);
        }
    }

    pub(crate) fn close_wait(&mut self, wait: WaitId) {
        self.clients.close_wait(wait, &self.event_loop.poller);
    }
}
