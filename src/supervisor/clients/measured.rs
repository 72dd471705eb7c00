//! What a blocking job has measured goes to the client that waits for it: as its status (`status.rs`) or as metrics
//! (`metrics.rs`).

use super::pending::Wanted;
use crate::supervisor::Supervisor;
use crate::supervisor::reload::blocking::Measured;
use std::collections::HashMap;

impl Supervisor {
    /// What was measured for this client.
    pub(crate) fn on_usage(&mut self, client: u64, found: Measured) {
        match self.clients.statuses.job_ended(client) {
            Some(Wanted::Status) => {
                self.answer_status(client, &found.workers.into_iter().collect());
            }
            Some(Wanted::Metrics) => self.answer_metrics(client, found),
            None => {}
        }
    }

    /// Answers statuses that have waited long enough; all of them when the master exits.
    pub(crate) fn answer_overdue_statuses(&mut self, exiting: bool) {
        let until = (!exiting).then(|| self.clock.now());
        for (client, wanted) in self.clients.statuses.overdue(until) {
            match wanted {
                Wanted::Status => self.answer_status(client, &HashMap::new()),
                Wanted::Metrics => self.answer_metrics(client, Measured::default()),
            }
        }
    }
}
