//! Actions: what a part of the supervisor wants to have done outside of itself.
//!
//! The parts (`workers`, `health`, `reload`, `clients`, …) own their state. Their methods take what they need to know as
//! arguments and return actions; they see neither the engine nor each other. The supervisor performs the actions in
//! their order.

use super::Supervisor;
use super::event_log::EventBuilder;
use rotad_core::{Input, WorkerId};

/// Something to be done outside of the part that returns it.
#[derive(Debug)]
pub(super) enum Action {
    /// Emit an event.
    Emit(EventBuilder),
    /// Queue an input for the engine.
    Input(Input),
    /// Set why a worker is not ready, or unhealthy: the reason given when it is killed for that.
    SetProbeError(WorkerId, Option<String>),
}

impl Supervisor {
    /// Performs the actions of a part, in order.
    pub(super) fn perform(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Emit(event) => self.emit(event),
                Action::Input(input) => self.engine.push(input),
                Action::SetProbeError(worker, error) => {
                    if let Some(process) = self.workers.processes.get_mut(worker) {
                        process.probe_error = error;
                    }
                }
            }
        }
    }
}
