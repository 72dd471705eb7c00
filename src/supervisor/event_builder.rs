//! How an event is made. The parts make events and return them as actions; `event_log.rs` emits them.

use super::counters::Count;
use crate::observe::events::{Event, EventKind};
use rotad_core::{Generation, PoolId, Slot, WorkerId};
use tracing::Level;

/// What identifies a worker in an event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerLabel {
    pub pool: Option<PoolId>,
    pub slot: Option<Slot>,
    pub generation: Option<Generation>,
    pub pid: Option<i32>,
}

/// An event to be emitted.
#[derive(Debug)]
pub(super) struct EventBuilder {
    kind: EventKind,
    /// None: not written to the log.
    level: Option<Level>,
    pub(super) pool: Option<PoolId>,
    pub(super) worker: Option<WorkerId>,
    generation: Option<Generation>,
    cause: Option<&'static str>,
    pub(super) count: Option<Count>,
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
            count: None,
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

    /// Sets what the event counts as, in its pool.
    pub(super) fn counts(self, count: Count) -> Self {
        Self {
            count: Some(count),
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
    pub(super) fn build(
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
