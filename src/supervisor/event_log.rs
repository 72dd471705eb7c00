//! The event log: the ring of recent events, and how an event is made.
//!
//! [`Supervisor::emit`] is the one way to report what happens. It writes a log line, keeps the event in the ring, and
//! hands it to the clients that follow `rotad events`.

use super::Supervisor;
use super::workers::label::WorkerLabel;
use crate::observe::events::{Event, EventKind, Ring};
use rotad_core::{Generation, PoolId, WorkerId};
use tracing::Level;

/// How many past events a follower receives first.
const INITIAL_EVENTS: usize = 10;

/// The events that were emitted last.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    ring: Ring,
}

impl EventLog {
    /// Writes the log line, unless the event has no level, and keeps the event. Returns it with its number and time.
    fn record(&mut self, level: Option<Level>, event: Event) -> &Event {
        if let Some(level) = level {
            log_event(level, &event);
        }
        self.ring.push(event)
    }

    /// All events that are kept, the oldest first.
    pub(super) fn all(&self) -> Vec<Event> {
        self.ring.latest(usize::MAX).cloned().collect()
    }

    /// Those that a client receives which begins to follow.
    pub(super) fn latest(&self) -> Vec<Event> {
        self.ring.latest(INITIAL_EVENTS).cloned().collect()
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

    /// The event, without a worker and a pool.
    #[cfg(test)]
    pub(super) fn event(self) -> Event {
        self.build(None, WorkerLabel::default(), None).1
    }

    /// The event, and the level of its log line. `pool` is its name, `tag` the worker's value of `ROTAD_WORKER`.
    fn build(
        self,
        pool: Option<String>,
        label: WorkerLabel,
        tag: Option<String>,
    ) -> (Option<Level>, Event) {
        let event = Event {
            seq: 0,
            time: String::new(),
            event: self.kind,
            pool,
            slot: label.slot.map(|slot| slot.0),
            worker: tag,
            generation: self
                .generation
                .or(label.generation)
                .map(|generation| generation.0),
            pid: label.pid,
            cause: self.cause.map(str::to_owned),
            text: self.text,
        };
        (self.level, event)
    }
}

impl Supervisor {
    /// Emits an event to the log, the ring and the clients that follow.
    pub(super) fn emit(&mut self, builder: EventBuilder) {
        let worker = builder.worker;
        let label = worker.map(|worker| self.workers.label(worker));
        let tag = worker.map(|worker| self.workers.tag(worker));
        let label = label.unwrap_or_default();
        let pool = builder.pool.or(label.pool);
        let pool = pool.map(|pool| self.pools.name(pool).to_owned());
        let (level, event) = builder.build(pool, label, tag);
        let event = self.event_log.record(level, event);
        self.clients.send_event(event, &self.event_loop.poller);
    }

    /// Emits a client's request, before it has an effect.
    pub(super) fn emit_request(&mut self, cause: &'static str, text: String) {
        self.emit(EventBuilder::new(EventKind::Request, text).cause(cause));
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
