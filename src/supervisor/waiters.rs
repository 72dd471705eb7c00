//! Waiters: clients that wait for something other than a rolling restart: a pool's start, its stop, or old workers that
//! drain. `notices.rs` reports what happens to pools; `mod.rs` calls [`Supervisor::settle_finished_starts`] once per
//! turn.

use super::Supervisor;
use super::requests::NONE_WANTED;
use super::service_manager::is_held_up;
use super::tickets::{Settled, WaitId};
use crate::control::protocol::Response;
use rotad_core::{Generation, PoolId, PoolState, PoolView, Ticket, WorkerState};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    starts: BTreeMap<PoolId, Vec<Ticket>>,
    stops: BTreeMap<PoolId, Vec<Ticket>>,
    /// Outcomes held back until the old workers are gone.
    drains: Vec<(Ticket, PoolId, u8, String)>,
}

impl Supervisor {
    /// Settles the ticket when the pool is up, or when its start fails for the first time.
    pub(super) fn await_start(&mut self, pool: PoolId, ticket: Ticket) {
        self.waiters.starts.entry(pool).or_default().push(ticket);
    }

    /// The reply to a request for a new generation of a pool that waits for others: settled when the pool is up, or at
    /// once if it would wait in vain.
    pub(super) fn await_begin(&mut self, ticket: Ticket, pool: PoolId, generation: Generation) {
        let name = self.pool_name(pool).to_owned();
        let view = self.engine.view();
        let all: Vec<(PoolId, PoolView)> = view.pools().collect();
        let Some((_, own)) = all.iter().find(|(id, _)| *id == pool) else {
            return;
        };
        let by = own
            .held_by
            .iter()
            .map(|other| self.pool_name(*other))
            .collect::<Vec<_>>()
            .join(", ");
        let waits = if by.is_empty() {
            "starts".to_owned()
        } else {
            format!("waits for {by}, and starts after that")
        };
        if is_held_up(own, &all) {
            let text = format!(
                "{name}: nothing was rolled: it has not started yet, and waits for {by}, which has failed; nobody serves\n\
                 it starts with generation {generation} once {by} is there"
            );
            return self.settle(ticket, pool, 1, text);
        }
        let text = format!("{name}: {waits}, with generation {generation}");
        self.tell_waiting_clients(pool, &text);
        self.await_start(pool, ticket);
    }

    pub(super) fn await_stop(&mut self, pool: PoolId, ticket: Ticket) {
        self.waiters.stops.entry(pool).or_default().push(ticket);
    }

    /// Every worker is ready (perhaps by age alone), or a oneshot has succeeded.
    pub(super) fn pool_up(&mut self, pool: PoolId, how: &str) {
        let text = format!("{}: {how}", self.pool_name(pool));
        for ticket in self.waiters.starts.remove(&pool).unwrap_or_default() {
            self.settle(ticket, pool, 0, text.clone());
        }
        let ended = self
            .engine
            .view()
            .pool(pool)
            .is_some_and(|view| view.state == PoolState::Done);
        let action = self
            .start_watch
            .up(pool, ended, self.has_ready_by_age(pool));
        self.apply_start_action(action);
    }

    /// A worker failed before it was ready, or exits again and again. `then`: what happens to the pool next.
    pub(super) fn pool_failed(&mut self, pool: PoolId, why: String, then: &str) {
        self.oneshot_failed(pool, &why);
        let text = format!("{}: {why}\n{then}", self.pool_name(pool));
        for ticket in self.waiters.starts.remove(&pool).unwrap_or_default() {
            self.settle(ticket, pool, 1, text.clone());
        }
        let held: Vec<PoolId> = self.held_by_pool(pool);
        for other in held {
            let name = self.pool_name(pool);
            let first = why.lines().next().unwrap_or_default();
            let text = format!("waits for {name}, which failed: {first}");
            let told = format!(
                "{}: {text}\nit starts once {name} is there",
                self.pool_name(other)
            );
            for ticket in self.waiters.starts.remove(&other).unwrap_or_default() {
                self.settle(ticket, other, 1, told.clone());
            }
            let action = self.start_watch.failed(other, text);
            self.apply_start_action(action);
        }
        let action = self.start_watch.failed(pool, why);
        self.apply_start_action(action);
    }

    /// Pools held back by this one, directly or indirectly.
    fn held_by_pool(&self, pool: PoolId) -> Vec<PoolId> {
        let view = self.engine.view();
        let held: Vec<(PoolId, Vec<PoolId>)> =
            view.pools().map(|(id, pool)| (id, pool.held_by)).collect();
        let mut found = vec![pool];
        let mut at = 0;
        while let Some(one) = found.get(at).copied() {
            for (id, _) in held.iter().filter(|(_, by)| by.contains(&one)) {
                if !found.contains(id) {
                    found.push(*id);
                }
            }
            at += 1;
        }
        found.split_off(1)
    }

    /// Settles starts that end without a notice: the pool wants no workers, has ended, was full all the time (an
    /// aborted rolling restart), or is gone. Called once per turn of the loop.
    pub(super) fn settle_finished_starts(&mut self) {
        let awaited: Vec<PoolId> = self.waiters.starts.keys().copied().collect();
        for pool in awaited {
            let Some(view) = self.engine.view().pool(pool) else {
                self.give_up_start(pool, "the pool no longer exists");
                continue;
            };
            match view.state {
                PoolState::Stopped => self.give_up_start(pool, "stopped before it was ready"),
                PoolState::Failed => {
                    self.give_up_start(pool, "its workers have ended, and are not started again")
                }
                PoolState::Done => self.pool_up(pool, "its workers have done their work"),
                PoolState::Stopping => {}
                _ if self
                    .pools
                    .policy(pool)
                    .is_some_and(|policy| policy.count == 0) =>
                {
                    self.pool_up(pool, NONE_WANTED)
                }
                _ if view.wanted > 0 && view.ready >= view.wanted => {
                    self.pool_up(pool, self.all_up(pool))
                }
                _ => {}
            }
        }
    }

    pub(super) fn pool_stopped(&mut self, pool: PoolId) {
        let text = format!("{}: stopped", self.pool_name(pool));
        for ticket in self.waiters.stops.remove(&pool).unwrap_or_default() {
            self.settle(ticket, pool, 0, text.clone());
        }
        self.give_up_start(pool, "stopped before it was ready");
        if !self.stopping {
            let action = self
                .start_watch
                .failed(pool, "stopped before it was ready".to_owned());
            self.apply_start_action(action);
        }
    }

    pub(super) fn give_up_start(&mut self, pool: PoolId, why: &str) {
        let text = format!("{}: {why}", self.pool_name(pool));
        for ticket in self.waiters.starts.remove(&pool).unwrap_or_default() {
            self.settle(ticket, pool, 1, text.clone());
        }
    }

    /// Everything stops: no start will be completed.
    pub(super) fn give_up_starts(&mut self) {
        let pools: Vec<PoolId> = self.waiters.starts.keys().copied().collect();
        for pool in pools {
            self.give_up_start(pool, "superseded: everything stops");
        }
    }

    /// Settles one ticket, now or once the old workers are gone.
    pub(super) fn settle(&mut self, ticket: Ticket, pool: PoolId, code: u8, text: String) {
        if self.tickets.waits_for_drain(ticket) && self.is_draining(pool) {
            self.waiters.drains.push((ticket, pool, code, text));
            return;
        }
        let settled = self.tickets.settle(ticket, code, text);
        self.answer_wait(settled);
    }

    pub(super) fn close_wait(&mut self, wait: WaitId) {
        let settled = self.tickets.close(wait);
        self.answer_wait(settled);
    }

    fn answer_wait(&mut self, settled: Option<Settled>) {
        if let Some(Settled {
            client: Some(client),
            code,
            message,
        }) = settled
        {
            self.answer(client, &Response::Done { code, message }, true);
        }
    }

    fn is_draining(&self, pool: PoolId) -> bool {
        let leaves = |state| match state {
            WorkerState::Starting | WorkerState::Soaking | WorkerState::Ready => false,
            WorkerState::Stopping | WorkerState::Killing | WorkerState::KillingTree => true,
        };
        // A worker that the kernel cannot end would be waited for without end.
        self.engine
            .view()
            .workers()
            .any(|worker| worker.pool == pool && leaves(worker.state) && !worker.lost)
    }

    /// Called when workers are gone: settles the outcomes that waited for them.
    pub(super) fn settle_drained(&mut self) {
        if self.waiters.drains.is_empty() {
            return;
        }
        for (ticket, pool, code, text) in std::mem::take(&mut self.waiters.drains) {
            self.settle(ticket, pool, code, text);
        }
    }
}
