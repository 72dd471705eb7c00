//! Progress for the clients that wait for a pool.

use crate::control::protocol::Response;
use crate::supervisor::Supervisor;
use rotad_core::{PoolId, Slot, Span, WorkerId};

/// A worker that has taken the place of another one.
pub(super) struct Step {
    pub(super) pool: PoolId,
    pub(super) slot: Slot,
    pub(super) worker: WorkerId,
    pub(super) done: u32,
    pub(super) of: u32,
    /// How long it took; None: it is gone again.
    pub(super) took: Option<Span>,
}

impl Supervisor {
    /// Tells the clients that wait for this pool that one more worker is replaced.
    pub(super) fn tell_step(&mut self, step: &Step, text: &str) {
        let Step {
            pool,
            slot,
            worker,
            done,
            of,
            took,
        } = *step;
        let pid = self.workers.label(worker).pid;
        let name = self.pools.name(pool).to_owned();
        let text = format!("{name}/{slot}: pid {} {text}", pid.unwrap_or(0));
        let step = Response::Step {
            pool: name,
            slot: slot.0,
            pid,
            done,
            of,
            took_ms: took.map(Span::as_millis),
            text,
        };
        self.tell_waiting(pool, &step);
    }

    /// Sends a line of progress about this pool to the clients that wait for it.
    pub(super) fn tell_progress(&mut self, pool: PoolId, text: &str) {
        let text = format!("{}: {text}", self.pools.name(pool));
        self.tell_waiting(pool, &Response::Progress { text });
    }

    pub(super) fn tell_waiting(&mut self, pool: PoolId, answer: &Response) {
        self.clients
            .tell_waiting(pool, answer, &self.event_loop.poller);
    }

    /// Whether the worker counts as ready because of its age alone.
    pub(super) fn is_ready_by_age(&self, worker: WorkerId) -> bool {
        self.engine
            .view()
            .worker(worker)
            .is_some_and(|worker| worker.by_age)
    }
}
