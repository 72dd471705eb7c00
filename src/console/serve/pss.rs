//! `--pss`: the proportional memory of workers, measured for `/metrics` by a thread of this process.

use rotad::cli::pss::PssReader;
use rotad::observe::metrics::Metrics;
use rotad::observe::print;
use std::cell::Cell;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};

/// Measures for one client after another.
#[derive(Default)]
pub(crate) struct Pss {
    reader: Arc<PssReader>,
    turn: Mutex<()>,
    /// It was told that not all can be read.
    told: Cell<bool>,
}

impl Pss {
    /// Adds what can be measured.
    ///
    /// # Errors
    /// The thread has panicked.
    pub(crate) async fn add_to(&self, mut metrics: Metrics) -> Result<Metrics, JoinError> {
        let _turn = self.turn.lock().await;
        let reader = Arc::clone(&self.reader);
        let (metrics, missing) = spawn_blocking(move || {
            let missing = reader.add_to(&mut metrics);
            (metrics, missing)
        })
        .await?;
        if let Some(why) = missing
            && !self.told.replace(true)
        {
            print::warning(&why);
        }
        Ok(metrics)
    }
}
