//! Who asked for what, and what they are told in the end: one outcome a pool, one answer a question.

use super::obituary::{Obituary, describe};
use crate::observe::clip::join_within;
use rotad_core::{Cause, Failure, Generation, Outcome, PoolId, Ticket};
use std::collections::BTreeMap;

/// How much is told at the end of one wait, in bytes: many pools, each with its culprit's last lines.
const MOST_TOLD: usize = 512 << 10;

/// One question, or one signal, about one or more pools.
#[derive(Debug)]
struct Wait {
    /// The client to answer; none: a signal, which only the diary answers.
    client: Option<u64>,
    pools: Vec<PoolId>,
    /// Also until old workers are gone.
    drained: bool,
    /// More tickets may follow.
    open: bool,
    left: usize,
    code: u8,
    lines: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WaitId(u64);

#[derive(Debug, Default)]
pub(super) struct Tickets {
    last: u64,
    waits: BTreeMap<u64, Wait>,
    askers: BTreeMap<Ticket, u64>,
}

/// The end of a wait.
#[derive(Debug)]
pub(super) struct Ended {
    pub client: Option<u64>,
    pub code: u8,
    pub message: String,
}

impl Tickets {
    /// A wait that is over once it is closed and all its tickets are settled.
    pub(super) fn open(&mut self, client: Option<u64>, drained: bool) -> WaitId {
        self.last += 1;
        let wait = Wait { client, pools: Vec::new(), drained, open: true, left: 0, code: 0, lines: Vec::new() };
        self.waits.insert(self.last, wait);
        WaitId(self.last)
    }

    /// One more outcome to wait for.
    pub(super) fn join(&mut self, wait: WaitId, pool: PoolId) -> Ticket {
        let ticket = self.lone();
        if let Some(known) = self.waits.get_mut(&wait.0) {
            known.pools.push(pool);
            known.left += 1;
            self.askers.insert(ticket, wait.0);
        }
        ticket
    }

    /// A ticket that its owner settles.
    pub(super) fn lone(&mut self) -> Ticket {
        self.last += 1;
        Ticket(self.last)
    }

    /// Something to be told at the end.
    pub(super) fn note(&mut self, wait: WaitId, code: u8, line: String) {
        if let Some(wait) = self.waits.get_mut(&wait.0) {
            wait.code = wait.code.max(code);
            wait.lines.push(line);
        }
    }

    /// No ticket follows. The wait's end, if there is nothing to wait for.
    pub(super) fn close(&mut self, wait: WaitId) -> Option<Ended> {
        self.waits.get_mut(&wait.0)?.open = false;
        self.end(wait.0)
    }

    /// A ticket for each pool.
    pub(super) fn issue(&mut self, client: Option<u64>, drained: bool, pools: &[PoolId]) -> Vec<(PoolId, Ticket)> {
        let wait = self.open(client, drained);
        let issued = pools.iter().map(|pool| (*pool, self.join(wait, *pool))).collect();
        self.close(wait);
        issued
    }

    /// Clients that wait for this pool: for progress.
    pub(super) fn clients_of(&self, pool: PoolId) -> Vec<u64> {
        self.waits.values().filter(|w| w.pools.contains(&pool)).filter_map(|w| w.client).collect()
    }

    /// Whoever holds this ticket wants to hear of it only when the old workers are gone.
    pub(super) fn waits_for_the_drained(&self, ticket: Ticket) -> bool {
        self.askers.get(&ticket).and_then(|wait| self.waits.get(wait)).is_some_and(|wait| wait.drained)
    }

    /// The client is gone; the work goes on.
    pub(super) fn detach(&mut self, client: u64) {
        for wait in self.waits.values_mut().filter(|w| w.client == Some(client)) {
            wait.client = None;
        }
    }

    /// Notes one outcome; the wait's end, when it was the last.
    pub(super) fn settle(&mut self, ticket: Ticket, code: u8, line: String) -> Option<Ended> {
        let number = self.askers.remove(&ticket)?;
        let wait = self.waits.get_mut(&number)?;
        wait.left -= 1;
        // The worst one counts: 10 says that something serves on as it was.
        wait.code = wait.code.max(code);
        wait.lines.push(line);
        self.end(number)
    }

    fn end(&mut self, number: u64) -> Option<Ended> {
        self.waits.get(&number).filter(|wait| wait.left == 0 && !wait.open)?;
        let wait = self.waits.remove(&number)?;
        Some(Ended { client: wait.client, code: wait.code, message: join_within(&wait.lines, MOST_TOLD) })
    }
}

/// An outcome as an exit code of the contract, and in words.
pub(super) fn verdict(pool: &str, outcome: &Outcome, serving: Generation, culprit: Option<&Obituary>) -> (u8, String) {
    match outcome {
        Outcome::Done { generation, replaced, took } => {
            (0, format!("{pool}: done: generation {generation}, {replaced} workers replaced in {took}"))
        }
        Outcome::Aborted { generation, failure } => {
            let reason = reason(failure, culprit);
            let serves = if failure.mixed {
                format!("going back failed as well: workers of generations {serving} and {generation} serve")
            } else if matches!(failure.cause, Cause::Cancelled) {
                format!("generation {serving} serves on")
            } else {
                format!("the old workers (generation {serving}) serve on; mend the code and roll again")
            };
            (10, format!("{pool}: aborted: generation {generation}: {reason}\n{serves}"))
        }
        Outcome::RolledBack { generation, failure } => {
            let reason = reason(failure, culprit);
            (10, format!("{pool}: rolled back to generation {serving}: generation {generation}: {reason}"))
        }
        Outcome::Superseded => (1, format!("{pool}: superseded: the pool stops")),
        Outcome::Nothing => (0, format!("{pool}: nothing to do")),
    }
}

/// What went wrong, with the culprit's last lines.
pub(super) fn reason(failure: &Failure, culprit: Option<&Obituary>) -> String {
    match (failure.cause, culprit) {
        (Cause::Cancelled, _) => "cancelled".to_owned(),
        (cause, None) => describe(cause, None),
        (cause, Some(culprit)) => {
            let mut text = format!("worker {}: {}", culprit.slot, describe(cause, Some(culprit)));
            if !culprit.exit.log.is_empty() {
                text.push_str("\nits last lines:");
            }
            for line in &culprit.exit.log {
                text.push_str("\n  | ");
                text.push_str(&crate::observe::harmless::harmless(line));
            }
            text
        }
    }
}
