//! What `probes.rs` and `watchdogs.rs` decide.

use rotad_core::WorkerId;

/// A worker that has failed its health check: the engine stops it and fills its slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    pub worker: WorkerId,
    pub reason: String,
}
