//! Clients that wait for a status or for metrics, until a blocking job has measured what lies in /proc, or for a second.

use rotad_core::{Span, Time};
use std::collections::BTreeMap;

/// How long a status waits for the memory and CPU time of workers. Then it is answered without them.
const USAGE_TIMEOUT: Span = Span::from_secs(1);

/// Jobs that have not come back in time. With this many, no further ones are started.
const MAX_HUNG: usize = 8;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Status,
    Metrics,
}

/// Statuses and metrics that wait for what a job measures, by client.
#[derive(Debug, Default)]
pub(crate) struct PendingStatuses {
    waiting: BTreeMap<u64, (Time, Wanted)>,
    /// Jobs that have not come back.
    jobs: usize,
}

impl PendingStatuses {
    /// When the next status is answered at the latest.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.waiting.values().map(|(at, _)| *at).min()
    }

    /// Jobs that have not come back in time.
    fn hung(&self) -> usize {
        self.jobs - self.waiting.len().min(self.jobs)
    }

    /// So many jobs hang that no further one is started.
    pub(super) fn is_full(&self) -> bool {
        self.hung() >= MAX_HUNG
    }

    /// The client waits for a job.
    pub(super) fn wait(&mut self, client: u64, wanted: Wanted, now: Time) {
        self.jobs += 1;
        self.waiting.insert(client, (now + USAGE_TIMEOUT, wanted));
    }

    /// The job of a client has come back. Returns what the client still waits for.
    pub(super) fn job_ended(&mut self, client: u64) -> Option<Wanted> {
        self.jobs = self.jobs.saturating_sub(1);
        Some(self.waiting.remove(&client)?.1)
    }

    /// Takes the clients that have waited until this time; None: all.
    pub(super) fn overdue(&mut self, until: Option<Time>) -> Vec<(u64, Wanted)> {
        let waiting = self.waiting.iter();
        let overdue: Vec<(u64, Wanted)> = waiting
            .filter(|(_, (at, _))| until.is_none_or(|until| *at <= until))
            .map(|(client, (_, wanted))| (*client, *wanted))
            .collect();
        overdue.iter().for_each(|(client, _)| self.forget(*client));
        overdue
    }

    /// The client is gone.
    pub(crate) fn forget(&mut self, client: u64) {
        self.waiting.remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_hang_are_counted_until_they_come_back() {
        let mut statuses = PendingStatuses::default();
        for client in 0..3 {
            statuses.wait(client, Wanted::Status, Time(client));
        }
        assert_eq!(
            (statuses.hung(), statuses.deadline()),
            (0, Some(Time(1000)))
        );
        let overdue = statuses.overdue(Some(Time(1001)));
        assert_eq!(overdue, [(0, Wanted::Status), (1, Wanted::Status)]);
        assert_eq!(statuses.hung(), 2);
        assert_eq!(statuses.job_ended(0), None, "it was answered");
        assert_eq!(statuses.job_ended(2), Some(Wanted::Status));
        assert_eq!((statuses.hung(), statuses.deadline()), (1, None));
        statuses.wait(7, Wanted::Metrics, Time(0));
        let overdue = statuses.overdue(None);
        assert_eq!(overdue, [(7, Wanted::Metrics)], "the master exits");
    }
}
