//! What happened, told once: a line of the diary, an event in the ring, and a word to the clients that follow.

use super::Supervisor;
use crate::control::wire::Response;
use crate::observe::events::{Event, EventKind, Ring};
use rotad_core::{Generation, PoolId, Signal, Slot, WorkerId};
use std::collections::BTreeMap;
use tracing::Level;

/// Clients that may follow at once; each may have a bounded number of bytes waiting.
pub(super) const MOST_FOLLOWERS: usize = 16;
/// What a follower sees first of what was before.
const FIRST_SIGHT: usize = 10;

/// The ring, and those who follow: by client, with how many events it has missed.
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

/// Something to tell.
#[derive(Debug)]
pub(super) struct EventBuilder {
    kind: EventKind,
    /// None: not for the diary.
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
        Self { kind, level, pool: None, worker: None, generation: None, cause: None, text: text.into() }
    }

    pub(super) fn pool(self, pool: PoolId) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// Its pool, slot, generation and pid as well.
    pub(super) fn worker(self, worker: WorkerId) -> Self {
        Self { worker: Some(worker), ..self }
    }

    pub(super) fn generation(self, generation: Generation) -> Self {
        Self { generation: Some(generation), ..self }
    }

    pub(super) fn cause(self, cause: &'static str) -> Self {
        Self { cause: Some(cause), ..self }
    }

    pub(super) fn error(self) -> Self {
        Self { level: Some(Level::ERROR), ..self }
    }

    pub(super) fn warn(self) -> Self {
        Self { level: Some(Level::WARN), ..self }
    }

    /// For the diary only where it tells everything.
    pub(super) fn debug(self) -> Self {
        Self { level: Some(Level::DEBUG), ..self }
    }

    /// The diary has it already, or need not.
    pub(super) fn silent(self) -> Self {
        Self { level: None, ..self }
    }
}

/// A worker, for a line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Who {
    pub(super) pool: Option<PoolId>,
    pub(super) slot: Option<Slot>,
    pub(super) generation: Option<Generation>,
    pub(super) pid: Option<i32>,
}

impl Supervisor {
    /// Somebody who has just died may be known from the obituary alone.
    pub(super) fn who(&self, id: WorkerId) -> Who {
        if let Some(body) = self.processes.get(id) {
            let (pool, slot, generation) = (Some(body.pool), Some(body.slot), Some(body.generation));
            return Who { pool, slot, generation, pid: body.pid() };
        }
        if let Some(gone) = self.gone.get(&id) {
            return *gone;
        }
        self.exit_reports.of_worker(id).map_or_else(Who::default, |dead| Who {
            pool: Some(dead.pool),
            slot: Some(dead.slot),
            generation: Some(dead.generation),
            pid: Some(dead.pid).filter(|pid| *pid > 0),
        })
    }

    /// Tells it to the diary, the ring and the followers.
    pub(super) fn emit(&mut self, note: EventBuilder) {
        let who = note.worker.map(|worker| self.who(worker)).unwrap_or_default();
        let pool = note.pool.or(who.pool).map(|pool| self.pool_name(pool).to_owned());
        let event = Event {
            seq: 0,
            time: String::new(),
            event: note.kind,
            pool,
            slot: who.slot.map(|slot| slot.0),
            worker: note.worker.map(|worker| self.worker_tag(worker)),
            generation: note.generation.or(who.generation).map(|generation| generation.0),
            pid: who.pid,
            cause: note.cause.map(str::to_owned),
            text: note.text,
        };
        if let Some(level) = note.level {
            write_down(level, &event);
        }
        let answer = Response::Event(Box::new(self.event_log.ring.push(event).clone()));
        let followers: Vec<u64> = self.event_log.followers.keys().copied().collect();
        for client in followers {
            self.catch_up(client);
            // Whoever has missed some waits for the word of it first: events stay in their order.
            let missed = self.event_log.followers.get(&client).is_none_or(|missed| *missed > 0);
            if missed || !self.server.offer(client, &answer) {
                self.event_log.followers.entry(client).and_modify(|missed| *missed += 1);
            }
            self.flush(client);
        }
    }

    /// Tells a follower how many events it has missed, once it takes something again.
    pub(super) fn catch_up(&mut self, client: u64) {
        if let Some(missed) = self.event_log.followers.get_mut(&client)
            && *missed > 0
            && self.server.offer(client, &Response::Skipped { count: *missed })
        {
            *missed = 0;
            self.flush(client);
        }
    }

    /// A client wants the events: those that are kept, or the latest and all to come.
    pub(super) fn events_for(&mut self, client: u64, follow: bool) {
        if !follow {
            let all: Vec<Event> = self.event_log.ring.latest(usize::MAX).cloned().collect();
            for event in all {
                self.server.say(client, &Response::Event(Box::new(event)), false);
            }
            return self.done(client, 0, String::new());
        }
        if self.event_log.followers.len() >= MOST_FOLLOWERS {
            return self.done(client, 1, format!("{MOST_FOLLOWERS} clients follow the events already"));
        }
        self.server.follows(client);
        let latest: Vec<Event> = self.event_log.ring.latest(FIRST_SIGHT).cloned().collect();
        for event in latest {
            self.server.offer(client, &Response::Event(Box::new(event)));
        }
        self.event_log.followers.insert(client, 0);
        self.flush(client);
    }

    /// The master leaves: those who follow have seen everything.
    pub(super) fn end_of_events(&mut self) {
        for client in self.event_log.followers.keys().copied().collect::<Vec<_>>() {
            self.done(client, 0, String::new());
        }
    }

    /// Signals and kills, told after what they were sent for.
    pub(super) fn note_sent(&mut self, worker: WorkerId, signal: Signal) {
        // Not born yet, or never: nobody to tell of.
        if self.who(worker).pid.is_none() {
            return;
        }
        let name = crate::event_loop::signals::name(signal.0);
        let kind = if signal == Signal::KILL { EventKind::Kill } else { EventKind::Signal };
        self.emit(EventBuilder::new(kind, format!("SIG{name} sent")).worker(worker).debug());
    }

    /// `ROTAD_WORKER`.
    pub(super) fn worker_tag(&self, worker: WorkerId) -> String {
        format!("{}-{worker}", self.tag)
    }
}

/// The line of the diary. The fields that an event does not have are left out.
fn write_down(level: Level, event: &Event) {
    let (pool, slot, generation, pid) = (event.pool.as_deref(), event.slot, event.generation, event.pid);
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
