//! What happens to one worker: birth, readiness, stop, death.

use crate::output::{KillReason, StopReason};
use crate::roll::Phase;
use crate::worker::{KILL_GRACE, MOST_EXTENSION, Role, State, Worker};
use crate::{
    Cause, Command, Engine, Exit, Generation, Notice, PoolId, PoolKind, Readiness, Slot, Span, StopStep, Time, To,
    WorkerId,
};

impl Engine {
    pub(crate) fn spawn(&mut self, pool: PoolId, slot: Slot, generation: Generation, place: Role) -> Option<WorkerId> {
        let known = self.pools.get_mut(&pool)?;
        let patience = known.patience(generation);
        let mut worker = Worker::new(pool, slot, generation, self.now, patience);
        worker.place = place;
        worker.awaited =
            place == Role::Current && known.slots.get(slot.0 as usize).is_some_and(|s| s.deaths.max(s.vain) <= 1);
        worker.counts = known.policy.kind == PoolKind::Service;
        worker.demand = self.pools.get(&pool).map_or(0, |known| self.fresh_demand(known));
        let id = self.enlist(worker);
        let known = self.pools.get_mut(&pool)?;
        let seat = known.slots.get_mut(slot.0 as usize)?;
        match place {
            Role::Current => seat.current = Some(id),
            Role::Successor => {
                seat.successor = Some(id);
                known.in_flight += 1;
            }
            Role::Leaving => {}
        }
        let seat = known.slots.get_mut(slot.0 as usize)?;
        if place == Role::Current && core::mem::take(&mut seat.restart_due) {
            seat.restarts += 1;
        }
        self.renewal_spawned(pool, slot, id);
        self.out.push(Command::Spawn { worker: id, pool, slot, generation });
        Some(id)
    }

    pub(crate) fn born(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| !self.is_step(worker.pool)) else { return };
        let Readiness::Alive(span) = worker.readiness else { return };
        if span == Span::ZERO {
            return self.became_ready(id, true);
        }
        let at = self.now + span;
        self.change(id, |w| {
            if let State::Starting { alive_at, .. } = &mut w.state {
                *alive_at = Some(at);
            }
        });
    }

    pub(crate) fn reported(&mut self, id: WorkerId) {
        match self.workers.get(&id) {
            Some(worker) if worker.serves() && worker.unproven.is_some() => self.confirmed(id),
            Some(_) => self.became_ready(id, false),
            None => {}
        }
    }

    /// It was called alive for its age; now something says that it is ready.
    fn confirmed(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else { return };
        let (pool, took) = (worker.pool, now - worker.began);
        let Some(known) = self.pools.get_mut(&pool) else { return };
        let soak = known.policy.soak(false);
        if let (Some(roll), Some(at)) = (&mut known.roll, worker.unproven) {
            roll.unproven.remove(&(at, id));
        }
        self.change(id, |w| {
            w.unproven = None;
            if let State::Soaking { until } = &mut w.state {
                *until = (*until).min(now + soak);
            }
        });
        self.record(Notice::Confirmed { worker: id, took });
        self.stirred.insert(pool);
    }

    /// `by_age`: nothing says so, it has only lived long enough.
    pub(crate) fn became_ready(&mut self, id: WorkerId, by_age: bool) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else { return };
        if !matches!(worker.state, State::Starting { .. }) {
            return;
        }
        let (pool, slot, generation, place) = (worker.pool, worker.slot, worker.generation, worker.place);
        if self.is_step(pool) {
            return;
        }
        let took = now - worker.began;
        let Some(known) = self.pools.get_mut(&pool) else { return };
        let soak = known.policy.soak(by_age);
        let until = now + soak;
        let is_canary = known.roll.as_ref().is_some_and(|r| r.phase == Phase::Canary && r.canary == Some(id));
        let soaks = is_canary && soak > Span::ZERO;
        // Also when it is replaced in the same moment.
        known.dark = None;
        if let Some(roll) = known.roll.as_mut().filter(|_| by_age) {
            roll.watch(id, generation, slot, until);
        }
        self.change(id, |w| {
            w.ready_at = Some(now);
            w.unproven = by_age.then_some(until);
            w.state = if soaks { State::Soaking { until } } else { State::Ready };
        });
        self.record(Notice::Ready { worker: id, took, by_age, soak: if soaks { soak } else { Span::ZERO } });
        self.was_quick(pool, took);
        if place == Role::Current {
            self.filled(pool, slot, generation, id);
        }
        self.hope(pool, generation, id);
        self.touch(pool, slot);
    }

    pub(crate) fn soaked(&mut self, id: WorkerId) {
        self.change(id, |w| w.state = State::Ready);
        self.record(Notice::Soaked { worker: id });
        if let Some(worker) = self.workers.get(&id) {
            let (pool, slot) = (worker.pool, worker.slot);
            self.touch(pool, slot);
        }
    }

    pub(crate) fn not_ready_in_time(&mut self, id: WorkerId) {
        let now = self.now;
        self.change(id, |w| w.asked = Some(now));
        self.died(id, Cause::NotReadyInTime);
        self.kill(id);
    }

    /// A death like any other, but the sick one is asked to leave as everybody is: it may still finish what it has.
    pub(crate) fn unhealthy(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(Worker::serves) {
            self.died(id, Cause::Unhealthy);
            self.begin_stop(id, StopReason::Unhealthy);
        }
    }

    pub(crate) fn spawn_failed(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.leaves() {
            let took = worker.asked.map_or(Span::ZERO, |asked| self.now - asked);
            self.record(Notice::Stopped { worker: id, exit: None, took });
        } else {
            self.died(id, Cause::SpawnFailed);
        }
        self.forget(id);
    }

    pub(crate) fn exited(&mut self, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.exit.is_some() {
            return;
        }
        let state = worker.state;
        self.change(id, |w| w.exit = Some(exit));
        match state {
            State::Stopping { step, until, latest } => self.outlive(id, step, until, latest),
            State::Killing { give_up } => self.sweep(id, give_up),
            // It has finished, before anybody has asked it to.
            State::Unreachable => self.sweep(id, self.now + KILL_GRACE),
            State::Starting { .. }
            | State::Soaking { .. }
            | State::Ready
            | State::Outliving { .. }
            | State::Sweeping { .. } => {
                self.died(id, Cause::Exited(exit));
                self.sweep(id, self.now + KILL_GRACE);
            }
        }
    }

    /// A stop that was asked for is the whole tree's: who is left behind a shell or a wrapper gets what that one got,
    /// and the rest of the patience.
    fn outlive(&mut self, id: WorkerId, step: usize, until: Time, latest: Time) {
        let Some(worker) = self.workers.get(&id) else { return };
        let sent = worker.stop.iter().take(step + 1).rev().find_map(|step| Some((step.signal?, step.to)));
        let signal = sent.filter(|(_, to)| *to == To::Main).map(|(signal, _)| signal);
        let (pool, slot) = (worker.pool, worker.slot);
        self.change(id, |w| w.state = State::Outliving { step, until, latest });
        self.touch(pool, slot);
        self.out.push(Command::SignalRemaining(id, signal));
    }

    /// Its first process has ended, and nothing else of it may live on.
    fn sweep(&mut self, id: WorkerId, give_up: Time) {
        self.change(id, |w| w.state = State::Sweeping { give_up });
        if let Some(worker) = self.workers.get(&id) {
            let (pool, slot) = (worker.pool, worker.slot);
            self.touch(pool, slot);
        }
        self.out.push(Command::KillTree(id));
    }

    pub(crate) fn swept(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.exit.is_some()) else { return };
        if let Some(asked) = worker.asked {
            let (exit, took) = (worker.exit, self.now - asked);
            self.record(Notice::Stopped { worker: id, exit, took });
        }
        self.forget(id);
    }

    /// Asks a worker to leave: its slot does not know it any more, its stop steps begin.
    pub(crate) fn begin_stop(&mut self, id: WorkerId, why: StopReason) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else { return };
        if worker.leaves() && worker.state != State::Unreachable {
            return;
        }
        // A change of configuration finds it on its way: it keeps the steps that it began with.
        let stop = self.pools.get(&worker.pool).map(|pool| pool.policy.stop.clone()).unwrap_or_default();
        self.detach(id);
        self.record(Notice::Retired { worker: id, why });
        self.change(id, |w| {
            w.asked = Some(now);
            w.drains = true;
            w.stop = stop;
        });
        self.advance_stop(id, 0);
    }

    pub(crate) fn advance_stop(&mut self, id: WorkerId, mut step: usize) {
        let outlived = self.workers.get(&id).is_some_and(|worker| worker.exit.is_some());
        while let Some(StopStep { signal, wait, to }) = self.stop_step(id, step) {
            if let Some(signal) = signal {
                let whole = outlived || to == To::Tree;
                self.out.push(if whole { Command::SignalTree(id, signal) } else { Command::Signal(id, signal) });
            }
            if wait > Span::ZERO {
                let until = self.now + wait;
                let latest = until.max(self.latest_stop(id, step));
                let state = if outlived {
                    State::Outliving { step, until, latest }
                } else {
                    State::Stopping { step, until, latest }
                };
                return self.change(id, |w| w.state = state);
            }
            step += 1;
        }
        self.cut(id, KillReason::Steps);
    }

    /// What a worker may ask for is one allowance for its whole stop, not one for each step.
    fn latest_stop(&self, id: WorkerId, step: usize) -> Time {
        let Some(worker) = self.workers.get(&id) else { return self.now };
        let waits = worker.stop.iter().take(step + 1).fold(Span::ZERO, |sum, step| sum + step.wait);
        worker.asked.unwrap_or(self.now) + waits + MOST_EXTENSION
    }

    fn stop_step(&self, id: WorkerId, step: usize) -> Option<StopStep> {
        self.workers.get(&id)?.stop.get(step).copied()
    }

    /// SIGKILL to one that has been asked to leave; told, since something may be cut short by it.
    pub(crate) fn cut(&mut self, id: WorkerId, cut: KillReason) {
        let Some(worker) = self.workers.get(&id) else { return };
        if matches!(worker.state, State::Killing { .. } | State::Sweeping { .. }) {
            return;
        }
        let waited = worker.asked.map_or(Span::ZERO, |asked| self.now - asked);
        self.record(Notice::Killed { worker: id, cut, waited });
        self.kill(id);
    }

    /// SIGKILL; once is enough.
    pub(crate) fn kill(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else { return };
        if matches!(worker.state, State::Killing { .. } | State::Sweeping { .. }) {
            return;
        }
        if worker.exit.is_some() {
            return self.sweep(id, now + KILL_GRACE);
        }
        self.detach(id);
        self.change(id, |w| {
            w.asked.get_or_insert(now);
            w.drains = true;
            w.state = State::Killing { give_up: now + KILL_GRACE };
        });
        self.out.push(Command::Kill(id));
    }

    pub(crate) fn give_up(&mut self, id: WorkerId) {
        self.change(id, |w| w.lost = true);
        self.record(Notice::Lost { worker: id });
        if let Some(worker) = self.workers.get(&id) {
            let (pool, slot) = (worker.pool, worker.slot);
            self.touch(pool, slot);
        }
    }

    /// Takes a worker out of its slot.
    pub(crate) fn detach(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else { return };
        let (pool, slot, place, unproven) = (worker.pool, worker.slot, worker.place, worker.unproven);
        if place == Role::Leaving {
            return;
        }
        self.change(id, |w| w.place = Role::Leaving);
        self.touch(pool, slot);
        let Some(known) = self.pools.get_mut(&pool) else { return };
        if let (Some(roll), Some(at)) = (&mut known.roll, unproven) {
            roll.unproven.remove(&(at, id));
        }
        let Some(seat) = known.slots.get_mut(slot.0 as usize) else { return };
        seat.leaving += 1;
        if let Some(breaker) = known.breaker {
            self.touched.insert((pool, breaker.probe)); // it may try now
        }
        if place == Role::Current {
            seat.current = None;
            // Its successor takes the slot in the same step.
            let has_heir = seat.successor.is_some_and(|next| self.workers.get(&next).is_some_and(Worker::serves));
            known.full &= has_heir || known.is_full();
        } else {
            seat.successor = None;
            known.in_flight -= 1;
        }
    }
}
