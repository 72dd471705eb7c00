//! The event log: the ring of recent events.
//!
//! [`Supervisor::emit`] is the one way to report what happens. It writes a log line and keeps the event in the ring. The
//! clients that follow `rotad events` are told of it by [`Supervisor::tell_events`] once it is saved: the next master
//! knows it by the same number.

use super::Supervisor;
use super::event_builder::EventBuilder;
use crate::observe::events::{Event, EventKind, Ring};
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
    pub(super) fn record(&mut self, level: Option<Level>, event: Event) -> &Event {
        if let Some(level) = level {
            log_event(level, &event);
        }
        self.ring.push(event)
    }

    /// The number of the last event.
    pub(super) fn last(&self) -> u64 {
        self.ring.last()
    }

    /// The events after this one.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &Event> {
        self.ring.after(seq)
    }

    /// The next event has a number above this one.
    pub(super) fn begin_after(&mut self, last: u64) {
        self.ring.begin_after(last);
    }

    /// Adds an event of a dead master.
    pub(super) fn restore(&mut self, event: Event) {
        self.ring.restore(event);
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

impl Supervisor {
    /// Emits an event to the log, the ring and the hooks, and counts it.
    pub(super) fn emit(&mut self, builder: EventBuilder) {
        let worker = builder.worker;
        let label = worker.map(|worker| self.workers.label(worker));
        let tag = worker.map(|worker| self.workers.tag(worker));
        let label = label.unwrap_or_default();
        let pool = builder.pool.or(label.pool);
        if let (Some(pool), Some(count)) = (pool, builder.count) {
            self.counters.add(pool, count);
        }
        let pool = pool.map(|pool| self.pools.name(pool).to_owned());
        let (level, event) = builder.build(pool, label, tag);
        let event = self.event_log.record(level, event);
        self.hooks.note(&self.plan.hooks, event);
    }

    /// Tells the clients that follow of what was emitted, and saves how far each of them has been told.
    pub(super) fn tell_events(&mut self) {
        let poller = &self.event_loop.poller;
        if self.clients.tell_events(&self.event_log, poller) {
            self.save();
        }
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
