//! What the guardian says: how a worker of a dead master has ended, and that orphans of such workers have ended.

use super::Supervisor;
use crate::guardian::LinkMessage;

impl Supervisor {
    /// Handles what the guardian has said.
    pub(super) fn on_guardian(&mut self) {
        let Some(link) = self.guardian.clone() else {
            return;
        };
        while let Some(message) = link.receive() {
            match message {
                LinkMessage::Ended { pid, exit } => tracing::debug!(pid, ?exit, "ended"),
                LinkMessage::ChildrenEnded => {}
            }
        }
    }
}
