//! Waits and tickets: who waits for the outcome of which requests. The engine answers each ticket once
//! (`effects.rs`). A wait of a client or a signal collects the outcomes of its tickets and gives one reply, with the worst
//! exit code.

use crate::exit_code::ExitCode;
use crate::observe::clip::join_within;
use rotad_core::{PoolId, Ticket, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Maximum size of one reply, or of the report of a failed start, in bytes: many pools, each with the last lines of a worker.
pub(crate) const MAX_REPORT_BYTES: usize = 512 << 10;

/// One request of a client, or one signal, about one or more pools.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PendingWait {
    /// The client to reply to. None: a signal, which is answered in the log only.
    client: Option<u64>,
    pools: Vec<PoolId>,
    /// Its tickets are answered only once old workers are gone.
    drained: bool,
    /// More tickets may be added.
    open: bool,
    left: usize,
    code: ExitCode,
    lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct WaitId(u64);

/// Who gets the outcome of a ticket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Owner {
    /// A client, or a signal, with all its other tickets.
    Wait(WaitId),
    /// The start of the master (`launch.rs`).
    Start,
    /// The reload that runs a oneshot (`oneshots.rs`).
    Oneshot,
    /// The replacement of a worker that is too old, too large or has had too many requests (`recycling.rs`).
    Recycling(WorkerId),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tickets {
    last: u64,
    waits: BTreeMap<u64, PendingWait>,
    #[serde(with = "crate::saved_state::pairs")]
    owners: BTreeMap<Ticket, Owner>,
}

/// A finished wait, and the reply to its client.
#[derive(Debug)]
pub(crate) struct Settled {
    pub client: Option<u64>,
    pub code: ExitCode,
    pub message: String,
}

impl Tickets {
    /// Opens a wait. It is over once it is closed and all its tickets are settled.
    pub(crate) fn open(&mut self, client: Option<u64>, drained: bool) -> WaitId {
        self.last += 1;
        let wait = PendingWait {
            client,
            pools: Vec::new(),
            drained,
            open: true,
            left: 0,
            code: ExitCode::DONE,
            lines: Vec::new(),
        };
        self.waits.insert(self.last, wait);
        WaitId(self.last)
    }

    /// Adds a ticket for one more outcome.
    pub(crate) fn join(&mut self, wait: WaitId, pool: PoolId) -> Ticket {
        let mut drained = false;
        if let Some(known) = self.waits.get_mut(&wait.0) {
            known.pools.push(pool);
            known.left += 1;
            drained = known.drained;
        }
        self.add(Owner::Wait(wait), drained)
    }

    /// A ticket whose outcome goes to this owner.
    pub(crate) fn of(&mut self, owner: Owner) -> Ticket {
        self.add(owner, false)
    }

    fn add(&mut self, owner: Owner, drained: bool) -> Ticket {
        self.last += 1;
        let number = self.last;
        let ticket = Ticket { number, drained };
        self.owners.insert(ticket, owner);
        ticket
    }

    /// The ticket has its outcome: returns who gets it.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Owner> {
        self.owners.remove(&ticket)
    }

    /// Adds a line to the reply.
    pub(crate) fn note(&mut self, wait: WaitId, code: ExitCode, line: String) {
        if let Some(wait) = self.waits.get_mut(&wait.0) {
            wait.code = wait.code.worse(code);
            wait.lines.push(line);
        }
    }

    /// Closes a wait: no ticket follows. Returns it if nothing is left to wait for.
    pub(crate) fn close(&mut self, wait: WaitId) -> Option<Settled> {
        self.waits.get_mut(&wait.0)?.open = false;
        self.end(wait.0)
    }

    /// A closed wait with one ticket for each pool.
    pub(crate) fn issue(
        &mut self,
        client: Option<u64>,
        drained: bool,
        pools: &[PoolId],
    ) -> Vec<(PoolId, Ticket)> {
        let wait = self.open(client, drained);
        let issued = pools
            .iter()
            .map(|pool| (*pool, self.join(wait, *pool)))
            .collect();
        self.close(wait);
        issued
    }

    /// The clients that wait for this pool; they get its progress.
    pub(crate) fn clients_of(&self, pool: PoolId) -> Vec<u64> {
        self.waits
            .values()
            .filter(|w| w.pools.contains(&pool))
            .filter_map(|w| w.client)
            .collect()
    }

    /// Whether a client waits for something.
    pub(crate) fn waits_for(&self, client: u64) -> bool {
        self.waits.values().any(|wait| wait.client == Some(client))
    }

    /// The client has disconnected; the work goes on.
    pub(crate) fn detach(&mut self, client: u64) {
        for wait in self.waits.values_mut().filter(|w| w.client == Some(client)) {
            wait.client = None;
        }
    }

    /// Records one outcome. Returns the wait if it was the last one.
    pub(crate) fn settle(&mut self, wait: WaitId, code: ExitCode, line: String) -> Option<Settled> {
        let known = self.waits.get_mut(&wait.0)?;
        known.left -= 1;
        known.code = known.code.worse(code);
        known.lines.push(line);
        self.end(wait.0)
    }

    fn end(&mut self, number: u64) -> Option<Settled> {
        self.waits
            .get(&number)
            .filter(|wait| wait.left == 0 && !wait.open)?;
        let wait = self.waits.remove(&number)?;
        Some(Settled {
            client: wait.client,
            code: wait.code,
            message: join_within(&wait.lines, MAX_REPORT_BYTES),
        })
    }
}
