//! The engine's entry point: apply one input, then reconcile every slot and pool that it made dirty.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::starting::StartLimiter;
use crate::timers::{Deadlines, Key};
use crate::waiters::Waiters;
use crate::worker::{Role, State, Worker};
use crate::{
    Command, Entry, Input, KillReason, Notice, Output, PoolId, Request, Slot, Span, StartFailure,
    Ticket, Time, WorkerId,
};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// The state of all pools and workers of one master. The supervisor owns it and calls [`Engine::handle`] for each
/// input.
#[derive(Clone, Default, PartialEq)]
pub struct Engine {
    pub(crate) now: Time,
    pub(crate) pools: BTreeMap<PoolId, Pool>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) deadlines: Deadlines,
    /// Slots and pools that the current input has changed and that are not reconciled yet.
    pub(crate) dirty_slots: BTreeSet<(PoolId, Slot)>,
    pub(crate) dirty_pools: BTreeSet<PoolId>,
    /// Pools that wait for other pools before they start.
    pub(crate) held: BTreeSet<PoolId>,
    pub(crate) start_limiter: StartLimiter,
    pub(crate) stopping: bool,
    pub(crate) left: bool,
    pub(crate) waiters: Waiters,
    pub(crate) out: Output,
    pub(crate) last_worker: u64,
}

impl Engine {
    /// An engine without pools.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies one input and returns what follows from it.
    ///
    /// # Panics
    /// If `now` is earlier than in the call before: a bug in the caller.
    pub fn handle(&mut self, now: Time, input: Input) -> Output {
        assert!(
            now >= self.now,
            "time runs backwards: {now} after {}",
            self.now
        );
        self.now = now;
        self.apply(input);
        self.reconcile();
        core::mem::take(&mut self.out)
    }

    /// The time of the last input.
    pub fn now(&self) -> Time {
        self.now
    }

    /// When the engine must be called next, with [`Input::TimerFired`]; `None` while nothing is due.
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.next()
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Started(id) => self.started(id),
            Input::SpawnFailed(id) => self.spawn_failed(id),
            Input::Ready(id) => self.reported_ready(id),
            Input::AgeReached(id) => self.mark_ready(id, true),
            Input::Unhealthy(id) => self.unhealthy(id),
            Input::Unreachable(ids) => self.unreachable(&ids),
            Input::Demand(found) => self.update_demands(&found),
            Input::TimeoutExtended(id, by) => {
                let now = self.now;
                self.update_worker(id, |w| w.extend(now, by));
                self.extend_start(id, by);
            }
            Input::Exited(id, exit) => self.exited(id, exit),
            Input::TreeGone(id) => self.tree_gone(id),
            Input::Pinned {
                pool,
                generation,
                same,
            } => self.pinned(pool, generation, same),
            Input::Daemonized(pool) => self.start_failed(pool, StartFailure::Daemonized),
            Input::Requested(ticket, request) => self.requested(ticket, request),
            Input::MasterKeepsDying => self.abandon_requests(),
            Input::TimerFired => {
                while let Some(key) = self.deadlines.pop(self.now) {
                    self.due(key);
                }
            }
        }
    }

    fn requested(&mut self, ticket: Option<Ticket>, request: Request) {
        match request {
            Request::EnsurePool(id, policy) => self.ensure_pool(ticket, id, policy),
            Request::Adopt {
                pool,
                policy,
                latest,
                workers,
            } => self.adopt_pool(ticket, pool, policy, latest, workers),
            Request::Start(id) => self.start(ticket, id),
            Request::StopPool(id) => {
                self.stop_pool(id);
                self.await_stop(id, ticket);
            }
            Request::Roll(id) => self.request_roll(ticket, id),
            Request::Remove(id) => {
                self.remove(id);
                self.await_stop(id, ticket);
            }
            Request::Reconfigure { pool, policy } => self.reconfigure(ticket, pool, policy),
            Request::RollBack { pool, to, policy } => self.roll_back(ticket, pool, to, policy),
            Request::Replace(pool, slot) => self.request_replacement(ticket, pool, slot),
            Request::Cancel(id) => self.cancel(ticket, id),
            Request::Scale(id, count) => self.scale(ticket, id, count),
            Request::Stop { cap } => self.stop(cap),
            Request::StopNow => self.stop_now(),
        }
    }

    fn due(&mut self, key: Key) {
        match key {
            Key::Worker(id) => self.worker_due(id),
            Key::Slot(pool, slot) => self.mark_slot(pool, slot),
            Key::Breaker(pool) => self.candidate_due(pool),
            Key::Roll(pool) => {
                self.dirty_pools.insert(pool);
            }
            Key::Start(pool) => self.start_failed(pool, StartFailure::NotReadyInTime),
            Key::Essential(pool) => self.essential_due(pool),
            Key::Cap => self.kill_all(KillReason::Cap),
        }
    }

    fn worker_due(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        match worker.state {
            State::Starting {
                alive_at: Some(at), ..
            } if at <= self.now => self.mark_ready(id, true),
            State::Starting { ready_by, .. } if ready_by <= self.now => self.not_ready_in_time(id),
            State::Soaking { until } if until <= self.now => self.soak_passed(id),
            State::Stopping { step, until, .. } | State::StoppingTree { step, until, .. }
                if until <= self.now =>
            {
                self.advance_stop(id, step + 1);
            }
            State::Killing { give_up } | State::KillingTree { give_up } if give_up <= self.now => {
                self.give_up(id)
            }
            // The worker was given more time after this deadline was set.
            State::Starting { .. }
            | State::Soaking { .. }
            | State::Ready
            | State::Unreachable
            | State::Stopping { .. }
            | State::StoppingTree { .. }
            | State::Killing { .. }
            | State::KillingTree { .. } => self.update_worker(id, |_| {}),
        }
    }

    /// Changes a worker. All changes go through here, so that the pool's counters and the deadline stay in step.
    pub(crate) fn update_worker(&mut self, id: WorkerId, with: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let before = Share::of(worker);
        with(worker);
        let after = Share::of(worker);
        self.deadlines.set(Key::Worker(id), worker.deadline());
        self.start_limiter.shift(before.demand, after.demand);
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            if after.booting < before.booting {
                self.start_limiter.change();
            }
            pool.apply(worker, before, after, self.now);
        }
    }

    pub(crate) fn add_worker(&mut self, worker: Worker) -> WorkerId {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        self.insert_worker(id, worker);
        id
    }

    pub(crate) fn insert_worker(&mut self, id: WorkerId, worker: Worker) {
        self.deadlines.set(Key::Worker(id), worker.deadline());
        self.start_limiter.shift(0, Share::of(&worker).demand);
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            pool.apply(&worker, Share::default(), Share::of(&worker), self.now);
        }
        self.workers.insert(id, worker);
    }

    pub(crate) fn last_worker(&self) -> WorkerId {
        WorkerId(self.last_worker)
    }

    /// Forgets a worker of whose tree nothing is left.
    pub(crate) fn remove_worker(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else {
            return;
        };
        self.deadlines.set(Key::Worker(id), None);
        self.mark_slot(worker.pool, worker.slot);
        self.start_limiter.shift(Share::of(&worker).demand, 0);
        self.start_limiter.change();
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            pool.apply(&worker, Share::of(&worker), Share::default(), self.now);
            pool.unreachable.remove(&(worker.slot, id));
            if let Some(slot) = pool.slots.get_mut(worker.slot.0 as usize) {
                slot.leaving -= 1;
            }
            pool.fit();
        }
    }

    pub(crate) fn mark_slot(&mut self, pool: PoolId, slot: Slot) {
        self.dirty_slots.insert((pool, slot));
        self.dirty_pools.insert(pool);
    }

    pub(crate) fn mark_all_slots(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get(&id) {
            self.dirty_slots
                .extend((0..pool.slots.len() as u32).map(|slot| (id, Slot(slot))));
        }
        self.dirty_pools.insert(id);
    }

    pub(crate) fn emit(&mut self, notice: Notice) {
        self.out.entries.push(Entry::Notice(notice));
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.out.entries.push(Entry::Command(command));
    }

    fn reconcile(&mut self) {
        loop {
            if let Some((pool, slot)) = self.dirty_slots.pop_first() {
                self.reconcile_slot(pool, slot);
            } else if let Some(pool) = self.dirty_pools.pop_first() {
                self.reconcile_pool(pool);
            } else if self.admit_next() {
            } else if !self.break_cycle() {
                break;
            }
        }
        self.settle_waiters();
        self.leave_when_stopped();
    }

    fn leave_when_stopped(&mut self) {
        if !self.stopping
            || self.left
            || self.pools.values().any(|p| p.activity != Activity::Stopped)
        {
            return;
        }
        self.left = true;
        self.deadlines.set(Key::Cap, None);
        self.command(Command::Exit {
            lost: self.workers.keys().copied().collect(),
        });
    }

    fn stop(&mut self, cap: Option<Span>) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.deadlines.set(Key::Cap, cap.map(|cap| self.now + cap));
        let pools: Vec<PoolId> = self.pools.keys().copied().collect();
        for pool in pools {
            self.stop_after_dependents(pool);
        }
    }

    fn stop_now(&mut self) {
        self.stop(None);
        self.kill_all(KillReason::Now);
    }

    /// Kills every worker: no more waits, and no order between pools.
    fn kill_all(&mut self, reason: KillReason) {
        self.stop_all_pools();
        self.reconcile();
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.kill_for(id, reason);
        }
    }
}

/// What one worker adds to its pool's counters.
#[derive(Clone, Copy, Default)]
pub(crate) struct Share {
    alive: u32,
    present: u32,
    serving: u32,
    ready_successors: u32,
    draining: u32,
    starting: u32,
    trying: u32,
    stopping_workers: u32,
    stopping_unready: u32,
    leaving: u32,
    booting: u32,
    pub(crate) demand: u32,
}

impl Share {
    pub(crate) fn of(worker: &Worker) -> Self {
        let alive = worker.is_alive() && !worker.lost;
        Self {
            alive: u32::from(alive),
            present: u32::from(!worker.lost),
            serving: u32::from(worker.is_serving()),
            ready_successors: u32::from(worker.is_serving() && worker.role == Role::Successor),
            draining: u32::from(alive && worker.is_leaving() && worker.drains),
            starting: u32::from(worker.is_trying() && worker.awaited),
            trying: u32::from(worker.is_trying()),
            stopping_workers: u32::from(!worker.lost && worker.is_leaving() && worker.drains),
            stopping_unready: u32::from(alive && worker.drains && worker.ready_at.is_none()),
            leaving: u32::from(!worker.lost && worker.is_leaving()),
            booting: u32::from(worker.is_booting()),
            demand: if worker.is_booting() {
                worker.demand
            } else {
                0
            },
        }
    }
}

impl Pool {
    pub(crate) fn apply(&mut self, worker: &Worker, before: Share, after: Share, now: Time) {
        self.alive = self.alive + after.alive - before.alive;
        self.present = self.present + after.present - before.present;
        self.serving = self.serving + after.serving - before.serving;
        self.ready_successors =
            self.ready_successors + after.ready_successors - before.ready_successors;
        self.draining = self.draining + after.draining - before.draining;
        self.starting = self.starting + after.starting - before.starting;
        self.trying = self.trying + after.trying - before.trying;
        self.stopping_workers =
            self.stopping_workers + after.stopping_workers - before.stopping_workers;
        self.leaving = self.leaving + after.leaving - before.leaving;
        self.start_load.starting = self.start_load.starting + after.booting - before.booting;
        self.start_load.demand =
            self.start_load.demand + u64::from(after.demand) - u64::from(before.demand);
        if let Some(slot_state) = self.slots.get_mut(worker.slot.0 as usize) {
            slot_state.stopping_workers =
                slot_state.stopping_workers + after.stopping_workers - before.stopping_workers;
            slot_state.stopping_unready =
                slot_state.stopping_unready + after.stopping_unready - before.stopping_unready;
        }
        if before.serving != after.serving {
            let of = self.serving_of.entry(worker.generation).or_default();
            *of = *of + after.serving - before.serving;
            if *of == 0 {
                self.serving_of.remove(&worker.generation);
            }
            let since = self.serving_since.unwrap_or(now);
            self.serving_since = (self.serving > 0).then_some(since);
        }
    }
}
