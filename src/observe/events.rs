//! Events: what the master did and why. One event, and the ring buffer that keeps the latest ones. The supervisor's event
//! log adds them; `rotad events` shows them.

use super::clip::clip;
pub use crate::plan::EventKind;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::SystemTime;

/// Maximum number of events that are kept.
const MAX_EVENTS: usize = 1000;
/// Maximum size of all of them, in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// Maximum length of an event's text, in bytes; longer ones are cut.
const MAX_TEXT: usize = 4 * 1024;

/// One event, as `rotad events --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 as long as the master runs; a gap shows that events are missing.
    pub seq: u64,
    /// When it happened: RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// What happened.
    pub event: EventKind,
    /// The pool, if the event concerns one.
    pub pool: Option<String>,
    /// The slot, if the event concerns one.
    pub slot: Option<u32>,
    /// The worker's `ROTAD_WORKER`.
    pub worker: Option<String>,
    /// The generation of the worker or the pool.
    pub generation: Option<u32>,
    /// The worker's pid.
    pub pid: Option<i32>,
    /// The reason, in one word.
    pub cause: Option<String>,
    /// The whole message, for people.
    pub text: String,
}

/// [`Event`], as the master's state has it: its fields in their order.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedEvent<'a>(
    u64,
    Cow<'a, str>,
    EventKind,
    Option<Cow<'a, str>>,
    Option<u32>,
    Option<Cow<'a, str>>,
    Option<u32>,
    Option<i32>,
    Option<Cow<'a, str>>,
    Cow<'a, str>,
);

impl From<SavedEvent<'_>> for Event {
    fn from(saved: SavedEvent<'_>) -> Self {
        let SavedEvent(seq, time, event, pool, slot, worker, generation, pid, cause, text) = saved;
        Self {
            seq,
            time: time.into_owned(),
            event,
            pool: pool.map(Cow::into_owned),
            slot,
            worker: worker.map(Cow::into_owned),
            generation,
            pid,
            cause: cause.map(Cow::into_owned),
            text: text.into_owned(),
        }
    }
}

impl Event {
    /// What is saved of it.
    pub fn saved(&self) -> SavedEvent<'_> {
        SavedEvent(
            self.seq,
            self.time.as_str().into(),
            self.event,
            self.pool.as_deref().map(Cow::from),
            self.slot,
            self.worker.as_deref().map(Cow::from),
            self.generation,
            self.pid,
            self.cause.as_deref().map(Cow::from),
            self.text.as_str().into(),
        )
    }

    fn bytes(&self) -> usize {
        let texts = [&self.pool, &self.worker, &self.cause]
            .into_iter()
            .flatten()
            .map(String::len)
            .sum::<usize>();
        size_of::<Self>() + self.time.len() + self.text.len() + texts
    }
}

/// The latest events, bounded in number and in bytes.
#[derive(Debug, Default)]
pub struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    last: u64,
}

impl Ring {
    /// Adds an event, and sets its number and time.
    pub fn push(&mut self, mut event: Event) -> &Event {
        self.last += 1;
        event.seq = self.last;
        event.time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        event.text = clip(&event.text, MAX_TEXT);
        self.bytes += event.bytes();
        self.events.push_back(event);
        self.drop_surplus();
        &self.events[self.events.len() - 1]
    }

    /// The number of the last event; 0: there was none.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The events after the one with this number.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Event> {
        let first = self.events.partition_point(|event| event.seq <= seq);
        self.events.range(first..)
    }

    /// The next event has a number above this one: another master has used those below.
    pub fn begin_after(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// Adds an event with its number and time, which must be later than those that are there.
    pub fn restore(&mut self, event: Event) {
        self.last = event.seq;
        self.bytes += event.bytes();
        self.events.push_back(event);
        self.drop_surplus();
    }

    fn drop_surplus(&mut self) {
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > 1) {
            self.bytes -= self.events.pop_front().map_or(0, |old| old.bytes());
        }
    }

    /// The last `max` events, the oldest first.
    pub fn latest(&self, max: usize) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .skip(self.events.len().saturating_sub(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: String) -> Event {
        Event {
            seq: 0,
            time: String::new(),
            event: EventKind::Exit,
            pool: Some("web".into()),
            slot: Some(0),
            worker: None,
            generation: None,
            pid: None,
            cause: None,
            text,
        }
    }

    #[test]
    fn the_ring_is_bounded_by_number_and_by_bytes() {
        let mut ring = Ring::default();
        for n in 0..3 * MAX_EVENTS {
            ring.push(event(n.to_string()));
        }
        let kept: Vec<u64> = ring.latest(usize::MAX).map(|event| event.seq).collect();
        assert!(kept.len() <= MAX_EVENTS && kept.last() == Some(&(3 * MAX_EVENTS as u64)));
        assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert_eq!(ring.latest(10).count(), 10);
        for _ in 0..1000 {
            ring.push(event("ü".repeat(100_000)));
            assert!(
                ring.bytes <= MAX_BYTES
                    && ring.bytes == ring.events.iter().map(Event::bytes).sum::<usize>()
            );
        }
        assert!(
            ring.latest(usize::MAX)
                .all(|event| event.text.len() <= MAX_TEXT + 40)
        );
    }

    #[test]
    fn a_saved_event_is_the_same_event() {
        let mut ring = Ring::default();
        let with_all = Event {
            worker: Some("a-1".into()),
            generation: Some(3),
            pid: Some(7),
            cause: Some("done".into()),
            ..event("a text".into())
        };
        for event in [event(String::new()), with_all] {
            let event = ring.push(event);
            let text = serde_json::to_string(&event.saved()).unwrap();
            let saved: SavedEvent<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(Event::from(saved), *event);
        }
    }
}
