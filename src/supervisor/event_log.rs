//! The event log. [`Supervisor::emit`] is the one way to report what happens: it writes a log line, keeps the event in
//! the ring, and sends it to the clients that follow `rotad events`.

use super::Supervisor;
use crate::control::protocol::Response;
use crate::observe::events::{Event, EventKind, Ring};
use rotad_core::{Generation, PoolId, WorkerId};
use std::collections::BTreeMap;
use tracing::Level;

/// Maximum clients that follow events; each has a bounded number of unsent bytes.
pub(super) const MAX_FOLLOWERS: usize = 16;
/// How many past events a follower receives first.
const INITIAL_EVENTS: usize = 10;

/// The ring of recent events, and the clients that follow: for each, how many events it has missed.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    ring: Ring,
    followers: BTreeMap<u64, u64>,
}

impl EventLog {
    pub(super) fn forget(&mut self, client: u64) {
        self.followers.remove(&client);
    }
}

/// An event to be emitted.
#[derive(Debug)]
pub(super) struct EventBuilder {
    kind: EventKind,
    /// None: not written to the log.
    level: Option<Level>,
    pool: Option<PoolId>,
    worker: Option<WorkerId>,
    generation: Option<Generation>,
    cause: Option<&'static str>,
    text: String,
}

impl EventBuilder {
    pub(super) fn new(kind: EventKind, text: impl Into<String>) -> Self {
        let level = Some(Level::INFO);
        Self {
            kind,
            level,
            pool: None,
            worker: None,
            generation: None,
            cause: None,
            text: text.into(),
        }
    }

    pub(super) fn pool(self, pool: PoolId) -> Self {
        Self {
            pool: Some(pool),
            ..self
        }
    }

    /// Sets the worker, and with it pool, slot, generation and pid.
    pub(super) fn worker(self, worker: WorkerId) -> Self {
        Self {
            worker: Some(worker),
            ..self
        }
    }

    pub(super) fn generation(self, generation: Generation) -> Self {
        Self {
            generation: Some(generation),
            ..self
        }
    }

    pub(super) fn cause(self, cause: &'static str) -> Self {
        Self {
            cause: Some(cause),
            ..self
        }
    }

    pub(super) fn error(self) -> Self {
        Self {
            level: Some(Level::ERROR),
            ..self
        }
    }

    pub(super) fn warn(self) -> Self {
        Self {
            level: Some(Level::WARN),
            ..self
        }
    }

    /// Logged at debug level.
    pub(super) fn debug(self) -> Self {
        Self {
            level: Some(Level::DEBUG),
            ..self
        }
    }

    /// Not written to the log, which has it already or does not need it.
    pub(super) fn silent(self) -> Self {
        Self {
            level: None,
            ..self
        }
    }
}

impl Supervisor {
    /// Emits an event to the log, the ring and the followers.
    pub(super) fn emit(&mut self, builder: EventBuilder) {
        let label = builder
            .worker
            .map(|worker| self.workers.label(worker))
            .unwrap_or_default();
        let pool = builder
            .pool
            .or(label.pool)
            .map(|pool| self.pools.name(pool).to_owned());
        let event = Event {
            seq: 0,
            time: String::new(),
            event: builder.kind,
            pool,
            slot: label.slot.map(|slot| slot.0),
            worker: builder.worker.map(|worker| self.workers.tag(worker)),
            generation: builder
                .generation
                .or(label.generation)
                .map(|generation| generation.0),
            pid: label.pid,
            cause: builder.cause.map(str::to_owned),
            text: builder.text,
        };
        if let Some(level) = builder.level {
            log_event(level, &event);
        }
        let answer = Response::Event(Box::new(self.event_log.ring.push(event).clone()));
        let followers: Vec<u64> = self.event_log.followers.keys().copied().collect();
        for client in followers {
            self.catch_up(client);
            // A follower that has missed events gets their number first: events stay in order.
            let missed = self
                .event_log
                .followers
                .get(&client)
                .is_none_or(|missed| *missed > 0);
            if missed || !self.clients.server.try_send(client, &answer) {
                self.event_log
                    .followers
                    .entry(client)
                    .and_modify(|missed| *missed += 1);
            }
            self.flush(client);
        }
    }

    /// Tells a follower how many events it has missed, once it reads again.
    pub(super) fn catch_up(&mut self, client: u64) {
        if let Some(missed) = self.event_log.followers.get_mut(&client)
            && *missed > 0
            && self
                .clients
                .server
                .try_send(client, &Response::Skipped { count: *missed })
        {
            *missed = 0;
            self.flush(client);
        }
    }

    /// Answers `rotad events`: the events in the ring, or the latest and all that follow.
    pub(super) fn events_for(&mut self, client: u64, follow: bool) {
        if !follow {
            let all: Vec<Event> = self.event_log.ring.latest(usize::MAX).cloned().collect();
            for event in all {
                self.clients
                    .server
                    .send(client, &Response::Event(Box::new(event)), false);
            }
            return self.done(client, 0, String::new());
        }
        if self.event_log.followers.len() >= MAX_FOLLOWERS {
            return self.done(
                client,
                1,
                format!("{MAX_FOLLOWERS} clients already follow the events"),
            );
        }
        self.clients.server.follows(client);
        let latest: Vec<Event> = self
            .event_log
            .ring
            .latest(INITIAL_EVENTS)
            .cloned()
            .collect();
        for event in latest {
            self.clients
                .server
                .try_send(client, &Response::Event(Box::new(event)));
        }
        self.event_log.followers.insert(client, 0);
        self.flush(client);
    }

    /// The master exits: the followers have seen every event.
    pub(super) fn finish_followers(&mut self) {
        for client in self.event_log.followers.keys().copied().collect::<Vec<_>>() {
            self.done(client, 0, String::new());
        }
    }
}

/// Writes the log line. Fields that the event does not have are left out.
fn log_event(level: Level, event: &Event) {
    let (pool, slot, generation, pid) = (
        event.pool.as_deref(),
        event.slot,
        event.generation,
        event.pid,
    );
    let text = event.text.as_str();
    if level == Level::ERROR {
        tracing::error!(pool, slot, generation, pid, "{text}");
    } else if level == Level::WARN {
        tracing::warn!(pool, slot, generation, pid, "{text}");
    } else if level == Level::INFO {
        tracing::info!(pool, slot, generation, pid, "{text}");
    } else {
        tracing::debug!(pool, slot, generation, pid, "{text}");
    }
}
