//! The one door: note the fact, then settle what it touched.

use crate::pool::{Activity, Pool};
use crate::starting::Starts;
use crate::timers::{Deadlines, Key};
use crate::worker::{Role, State, Worker};
use crate::{Command, Input, KillReason, Notice, PoolId, Request, Slot, Span, Ticket, Time, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// All pools of one master.
#[derive(Clone, Default)]
pub struct Engine {
    pub(crate) now: Time,
    pub(crate) pools: BTreeMap<PoolId, Pool>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) deadlines: Deadlines,
    /// What the present step has to settle.
    pub(crate) touched: BTreeSet<(PoolId, Slot)>,
    pub(crate) stirred: BTreeSet<PoolId>,
    /// Pools that wait for others before they start.
    pub(crate) held: BTreeSet<PoolId>,
    pub(crate) starts: Starts,
    pub(crate) stopping: bool,
    pub(crate) left: bool,
    pub(crate) out: Vec<Command>,
    last_worker: u64,
}

impl Engine {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one fact and gives the orders that follow from it. `now` never runs backwards.
    ///
    /// # Panics
    /// When `now` is earlier than that of the step before: a defect of the caller.
    pub fn handle(&mut self, now: Time, event: Input) -> Vec<Command> {
        assert!(now >= self.now, "time runs backwards: {now} after {}", self.now);
        self.now = now;
        self.note(event);
        self.settle();
        core::mem::take(&mut self.out)
    }

    /// The next moment at which something is due: wake the master then, with [`Input::TimerFired`].
    pub fn deadline(&self) -> Option<Time> {
        self.deadlines.next()
    }

    fn note(&mut self, event: Input) {
        match event {
            Input::Started(id) => self.born(id),
            Input::SpawnFailed(id) => self.spawn_failed(id),
            Input::Ready(id) => self.reported(id),
            Input::Lived(id) => self.became_ready(id, true),
            Input::Unhealthy(id) => self.unhealthy(id),
            Input::Unreachable(ids) => self.unreachable(&ids),
            Input::Demand(found) => self.demanded(&found),
            Input::TimeoutExtended(id, by) => {
                let now = self.now;
                self.change(id, |w| w.extend(now, by));
            }
            Input::Exited(id, exit) => self.exited(id, exit),
            Input::TreeGone(id) => self.swept(id),
            Input::Pinned { pool, generation, same } => self.pinned(pool, generation, same),
            Input::Requested(ticket, request) => self.requested(ticket, request),
            Input::TimerFired => {
                while let Some(key) = self.deadlines.pop(self.now) {
                    self.due(key);
                }
            }
        }
    }

    fn requested(&mut self, ticket: Ticket, request: Request) {
        match request {
            Request::EnsurePool(id, policy) => self.keep(id, policy),
            Request::Start(id) => self.start_ended(id),
            Request::StopPool(id) => self.drop_pool(id),
            Request::Roll(id) => self.want_roll(ticket, id),
            Request::Remove(id) => self.remove(id),
            Request::Reconfigure { pool, policy } => self.change_pool(ticket, pool, policy),
            Request::RollBack { pool, to, policy } => self.return_to(ticket, pool, to, policy),
            Request::Replace(pool, slot) => self.want_renewal(ticket, pool, slot),
            Request::Cancel(id) => self.cancel(ticket, id),
            Request::Scale(id, count) => self.scale(id, count),
            Request::Stop { cap } => self.stop(cap),
            Request::StopNow => self.stop_now(),
        }
    }

    fn due(&mut self, key: Key) {
        match key {
            Key::Worker(id) => self.worker_due(id),
            Key::Slot(pool, slot) => self.touch(pool, slot),
            Key::Breaker(pool) => self.hope_fulfilled(pool),
            Key::Roll(pool) => {
                self.stirred.insert(pool);
            }
            Key::Essential(pool) => self.essential_due(pool),
            Key::Cap => self.kill_all(KillReason::Cap),
        }
    }

    fn worker_due(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        match worker.state {
            State::Starting { alive_at: Some(at), .. } if at <= self.now => self.became_ready(id, true),
            State::Starting { ready_by, .. } if ready_by <= self.now => self.not_ready_in_time(id),
            State::Soaking { until } if until <= self.now => self.soaked(id),
            State::Stopping { step, until, .. } | State::Outliving { step, until, .. } if until <= self.now => {
                self.advance_stop(id, step + 1);
            }
            State::Killing { give_up } | State::Sweeping { give_up } if give_up <= self.now => self.give_up(id),
            // It has been given more time since.
            State::Starting { .. }
            | State::Soaking { .. }
            | State::Ready
            | State::Unreachable
            | State::Stopping { .. }
            | State::Outliving { .. }
            | State::Killing { .. }
            | State::Sweeping { .. } => self.change(id, |_| {}),
        }
    }

    /// The one place where a worker's facts change: the pool's counters and the deadline follow.
    pub(crate) fn change(&mut self, id: WorkerId, with: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = Share::of(worker);
        with(worker);
        let after = Share::of(worker);
        self.deadlines.set(Key::Worker(id), worker.deadline());
        self.starts.shift(before.demand, after.demand);
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            if after.booting < before.booting {
                self.starts.change();
            }
            pool.apply(worker, before, after);
        }
    }

    pub(crate) fn enlist(&mut self, worker: Worker) -> WorkerId {
        self.last_worker += 1;
        let id = WorkerId(self.last_worker);
        self.deadlines.set(Key::Worker(id), worker.deadline());
        self.starts.shift(0, Share::of(&worker).demand);
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            pool.apply(&worker, Share::default(), Share::of(&worker));
        }
        self.workers.insert(id, worker);
        id
    }

    pub(crate) fn last_worker(&self) -> WorkerId {
        WorkerId(self.last_worker)
    }

    /// Nothing of it is left.
    pub(crate) fn forget(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.remove(&id) else { return };
        self.deadlines.set(Key::Worker(id), None);
        self.touch(worker.pool, worker.slot);
        self.starts.shift(Share::of(&worker).demand, 0);
        self.starts.change();
        if let Some(pool) = self.pools.get_mut(&worker.pool) {
            pool.apply(&worker, Share::of(&worker), Share::default());
            pool.unreachable.remove(&(worker.slot, id));
            if let Some(slot) = pool.slots.get_mut(worker.slot.0 as usize) {
                slot.leaving -= 1;
            }
            pool.fit();
        }
    }

    pub(crate) fn touch(&mut self, pool: PoolId, slot: Slot) {
        self.touched.insert((pool, slot));
        self.stirred.insert(pool);
    }

    pub(crate) fn touch_all(&mut self, id: PoolId) {
        if let Some(pool) = self.pools.get(&id) {
            self.touched.extend((0..pool.slots.len() as u32).map(|slot| (id, Slot(slot))));
        }
        self.stirred.insert(id);
    }

    pub(crate) fn record(&mut self, record: Notice) {
        self.out.push(Command::Notice(record));
    }

    fn settle(&mut self) {
        loop {
            if let Some((pool, slot)) = self.touched.pop_first() {
                self.settle_slot(pool, slot);
            } else if let Some(pool) = self.stirred.pop_first() {
                self.settle_pool(pool);
            } else if self.use_room() {
            } else if !self.break_circle() {
                break;
            }
        }
        self.leave_when_stopped();
    }

    fn leave_when_stopped(&mut self) {
        if !self.stopping || self.left || self.pools.values().any(|p| p.activity != Activity::Stopped) {
            return;
        }
        self.left = true;
        self.deadlines.set(Key::Cap, None);
        self.out.push(Command::Exit { lost: self.workers.keys().copied().collect() });
    }

    fn stop(&mut self, cap: Option<Span>) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.deadlines.set(Key::Cap, cap.map(|cap| self.now + cap));
        let pools: Vec<PoolId> = self.pools.keys().copied().collect();
        for pool in pools {
            self.outlast(pool);
        }
    }

    fn stop_now(&mut self) {
        self.stop(None);
        self.kill_all(KillReason::Now);
    }

    /// No more patience, and no more order between pools.
    fn kill_all(&mut self, cut: KillReason) {
        self.drop_all();
        self.settle();
        let ids: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in ids {
            self.cut(id, cut);
        }
    }
}

/// What one worker adds to its pool's counters.
#[derive(Clone, Copy, Default)]
pub(crate) struct Share {
    alive: u32,
    present: u32,
    serving: u32,
    spare: u32,
    draining: u32,
    starting: u32,
    trying: u32,
    parting: u32,
    booting: u32,
    demand: u32,
}

impl Share {
    fn of(worker: &Worker) -> Self {
        let held = worker.lives() && !worker.lost;
        Self {
            alive: u32::from(held),
            present: u32::from(!worker.lost),
            serving: u32::from(worker.serves()),
            spare: u32::from(worker.serves() && worker.place == Role::Successor),
            draining: u32::from(held && worker.leaves() && worker.drains),
            starting: u32::from(worker.tries() && worker.awaited),
            trying: u32::from(worker.tries()),
            parting: u32::from(!worker.lost && worker.leaves() && worker.drains),
            booting: u32::from(worker.boots()),
            demand: if worker.boots() { worker.demand } else { 0 },
        }
    }
}

impl Pool {
    fn apply(&mut self, worker: &Worker, before: Share, after: Share) {
        self.alive = self.alive + after.alive - before.alive;
        self.present = self.present + after.present - before.present;
        self.serving = self.serving + after.serving - before.serving;
        self.spare = self.spare + after.spare - before.spare;
        self.draining = self.draining + after.draining - before.draining;
        self.starting = self.starting + after.starting - before.starting;
        self.trying = self.trying + after.trying - before.trying;
        self.parting = self.parting + after.parting - before.parting;
        self.crowd.starting = self.crowd.starting + after.booting - before.booting;
        self.crowd.demand = self.crowd.demand + u64::from(after.demand) - u64::from(before.demand);
        if let Some(seat) = self.slots.get_mut(worker.slot.0 as usize) {
            seat.parting = seat.parting + after.parting - before.parting;
        }
        if before.serving != after.serving {
            let of = self.serving_of.entry(worker.generation).or_default();
            *of = *of + after.serving - before.serving;
            if *of == 0 {
                self.serving_of.remove(&worker.generation);
            }
        }
    }
}
