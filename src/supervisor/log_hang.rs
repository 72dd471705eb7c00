//! Notices a log writer that hangs on a disk, and its recovery. The main loop asks once in each turn: a hang wakes nobody
//! by itself, so it is noticed the next time that an event or a request turns the loop.

use super::event_builder::EventBuilder;
use crate::log::LogWriter;
use crate::observe::events::EventKind;
use rotad_core::{Span, Time};

/// A log write that takes longer than this is reported as hanging.
const HANGS_AFTER: Span = Span::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct LogHang {
    /// It was reported.
    hangs: bool,
}

impl LogHang {
    /// The event, if the log writer has begun or ceased to hang.
    pub(super) fn check(&mut self, log: &LogWriter, now: Time) -> Option<EventBuilder> {
        let busy = log.busy_for(now);
        let hangs = busy >= HANGS_AFTER;
        if std::mem::replace(&mut self.hangs, hangs) == hangs {
            return None;
        }
        if !hangs {
            let text = "the log is written again";
            let event = EventBuilder::new(EventKind::LogHangs, text);
            return Some(event.cause("over").warn());
        }
        let text = format!(
            "the log has not been written for {} s: a disk hangs? Workers serve on until their pipes are full (64 KiB to \
             1 MiB of output each)",
            busy.as_millis() / 1000
        );
        let event = EventBuilder::new(EventKind::LogHangs, text);
        Some(event.cause("hangs").error())
    }
}
