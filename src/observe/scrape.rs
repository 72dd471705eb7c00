//! Where the metrics of workers are, for a client that reads them and sums them: the master reads none of them.

use super::status::SlotState;
use crate::plan::Gauges;
use serde::{Deserialize, Serialize};

/// A pool with `[pool.NAME.metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrapePool {
    /// Its name.
    pub pool: String,
    /// What becomes of gauges.
    pub gauges: Gauges,
    /// Its workers that have a process, also those that stop.
    pub workers: Vec<ScrapeWorker>,
}

/// A worker, and where its metrics are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrapeWorker {
    /// The worker's `ROTAD_WORKER`, which no other one has or has had.
    pub worker: String,
    /// Its slot.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
    /// Its state.
    pub state: SlotState,
    /// `http://HOST:PORT/PATH`, or `unix:PATH`.
    pub address: String,
}
