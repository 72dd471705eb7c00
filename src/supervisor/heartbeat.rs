//! `[master] watchdog`: tells the guardian that the main loop turns. Each turn counts; while there is nothing to do, a
//! timer makes one often enough.

use super::Supervisor;
use crate::guardian::SharedState;
use rotad_core::{Span, Time};
use std::time::Duration;

/// When the next turn has to be made.
#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    /// What the guardian was told last.
    limit: Option<Duration>,
    due: Option<Time>,
}

impl Heartbeat {
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due
    }
}

impl Supervisor {
    /// The loop has taken a turn.
    pub(super) fn beat(&mut self) {
        let limit = self.plan.master.watchdog;
        let now = self.clock.now();
        let Some(state) = self.state_of_guardian() else {
            self.heartbeat.due = None;
            return;
        };
        if limit.is_some() {
            state.count_turn();
        }
        if limit != self.heartbeat.limit {
            state.set_watchdog(limit);
        }
        self.heartbeat.limit = limit;
        // Twice within the limit: a turn may be late.
        self.heartbeat.due = limit.map(|limit| now + Span::from(limit / 2));
    }

    /// What follows may take long and is bounded otherwise: the guardian does not look at the loop any more.
    pub(super) fn end_heartbeat(&mut self) {
        if let Some(state) = self.state_of_guardian() {
            state.set_watchdog(None);
        }
        self.heartbeat = Heartbeat::default();
    }

    fn state_of_guardian(&self) -> Option<&SharedState> {
        self.guardian.as_ref()?;
        self.saver.as_ref().map(|saver| saver.state())
    }
}
