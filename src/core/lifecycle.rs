//! The life of one worker: spawn, readiness, stop, exit. `engine.rs` calls these for inputs and deadlines,
//! `reconcile.rs` to start and stop workers. The state table is in `worker.rs`.

use crate::output::{KillReason, StopReason};
use crate::roll::Phase;
use crate::worker::{KILL_GRACE, MAX_EXTENSION, Role, State, Worker};
use crate::{
    Cause, Command, Engine, Exit, Generation, Notice, PoolId, PoolKind, Readiness, Slot, Span,
    StopStep, Time, To, WorkerId,
};

impl Engine {
    pub(crate) fn spawn(
        &mut self,
        pool: PoolId,
        slot: Slot,
        generation: Generation,
        role: Role,
    ) -> Option<WorkerId> {
        let known = self.pools.get_mut(&pool)?;
        let ready = known.ready_policy(generation);
        let mut worker = Worker::new(pool, slot, generation, self.now, ready);
        worker.role = role;
        worker.awaited = role == Role::Current
            && known
                .slots
                .get(slot.0 as usize)
                .is_some_and(|s| s.deaths.max(s.early_exits) <= 1);
        worker.counts = known.policy.kind == PoolKind::Service;
        worker.demand = self
            .pools
            .get(&pool)
            .map_or(0, |known| self.fresh_demand(known));
        let id = self.add_worker(worker);
        let known = self.pools.get_mut(&pool)?;
        let slot_state = known.slots.get_mut(slot.0 as usize)?;
        match role {
            Role::Current => slot_state.current = Some(id),
            Role::Successor => {
                slot_state.successor = Some(id);
                known.successors += 1;
            }
            Role::Leaving => {}
        }
        let slot_state = known.slots.get_mut(slot.0 as usize)?;
        if role == Role::Current && core::mem::take(&mut slot_state.restart_due) {
            slot_state.restarts += 1;
        }
        self.replacement_spawned(pool, slot, id);
        self.start_tried(pool, slot, ready.ready_timeout);
        self.command(Command::Spawn {
            worker: id,
            pool,
            slot,
            generation,
        });
        Some(id)
    }

    pub(crate) fn started(&mut self, id: WorkerId) {
        let Some(worker) = self
            .workers
            .get(&id)
            .filter(|worker| !self.is_oneshot(worker.pool))
        else {
            return;
        };
        let Readiness::Alive(span) = worker.readiness else {
            return;
        };
        if span == Span::ZERO {
            return self.mark_ready(id, true);
        }
        let at = self.now + span;
        self.update_worker(id, |w| {
            if let State::Starting { alive_at, .. } = &mut w.state {
                *alive_at = Some(at);
            }
        });
    }

    pub(crate) fn reported_ready(&mut self, id: WorkerId) {
        match self.workers.get(&id) {
            Some(worker) if worker.is_serving() && worker.by_age_until.is_some() => {
                self.confirmed(id)
            }
            Some(_) => self.mark_ready(id, false),
            None => {}
        }
    }

    /// A worker that was ready only by age has reported ready.
    fn confirmed(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (pool, took) = (worker.pool, now - worker.began);
        let Some(known) = self.pools.get_mut(&pool) else {
            return;
        };
        let soak = known.policy.soak(false);
        if let (Some(roll), Some(at)) = (&mut known.roll, worker.by_age_until) {
            roll.watched.remove(&(at, id));
        }
        self.update_worker(id, |w| {
            w.by_age_until = None;
            if let State::Soaking { until } = &mut w.state {
                *until = (*until).min(now + soak);
            }
        });
        self.emit(Notice::Confirmed { worker: id, took });
        self.dirty_pools.insert(pool);
    }

    /// `by_age`: the worker is ready only because it has lived long enough.
    pub(crate) fn mark_ready(&mut self, id: WorkerId, by_age: bool) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if !matches!(worker.state, State::Starting { .. }) {
            return;
        }
        let (pool, slot, generation, role) =
            (worker.pool, worker.slot, worker.generation, worker.role);
        if self.is_oneshot(pool) {
            return;
        }
        let took = now - worker.began;
        let Some(known) = self.pools.get_mut(&pool) else {
            return;
        };
        let soak = known.policy.soak(by_age);
        let until = now + soak;
        let is_canary = known
            .roll
            .as_ref()
            .is_some_and(|r| r.phase == Phase::Canary && r.canary == Some(id));
        let soaks = is_canary && soak > Span::ZERO;
        // Reset here as well, since the worker may be replaced before the pool is reconciled.
        known.unready_since = None;
        if let Some(roll) = known.roll.as_mut().filter(|_| by_age) {
            roll.watch(id, generation, slot, until);
        }
        self.update_worker(id, |w| {
            w.ready_at = Some(now);
            w.by_age_until = by_age.then_some(until);
            w.state = if soaks {
                State::Soaking { until }
            } else {
                State::Ready
            };
        });
        self.emit(Notice::Ready {
            worker: id,
            took,
            by_age,
            soak: if soaks { soak } else { Span::ZERO },
        });
        self.command(Command::StartHealth(id));
        self.note_start_time(pool, took);
        if role == Role::Current {
            self.filled(pool, slot, generation, id);
        }
        self.consider_candidate(pool, generation, id);
        self.mark_slot(pool, slot);
    }

    pub(crate) fn soak_passed(&mut self, id: WorkerId) {
        self.update_worker(id, |w| w.state = State::Ready);
        self.emit(Notice::CanaryPassed { worker: id });
        if let Some(worker) = self.workers.get(&id) {
            let (pool, slot) = (worker.pool, worker.slot);
            self.mark_slot(pool, slot);
        }
    }

    pub(crate) fn not_ready_in_time(&mut self, id: WorkerId) {
        let now = self.now;
        self.update_worker(id, |w| w.stop_began = Some(now));
        self.died(id, Cause::NotReadyInTime);
        self.kill(id);
    }

    /// Counts as a death, but the worker is asked to stop like any other: it may finish the work it has.
    pub(crate) fn unhealthy(&mut self, id: WorkerId) {
        if self.workers.get(&id).is_some_and(Worker::is_serving) {
            self.died(id, Cause::Unhealthy);
            self.begin_stop(id, StopReason::Unhealthy);
        }
    }

    pub(crate) fn spawn_failed(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.is_leaving() {
            let took = worker
                .stop_began
                .map_or(Span::ZERO, |asked| self.now - asked);
            self.emit(Notice::Stopped {
                worker: id,
                exit: None,
                took,
            });
        } else {
            self.died(id, Cause::SpawnFailed);
        }
        self.remove_worker(id);
    }

    pub(crate) fn exited(&mut self, id: WorkerId, exit: Exit) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.exit.is_some() {
            return;
        }
        let state = worker.state;
        self.update_worker(id, |w| w.exit = Some(exit));
        match state {
            State::Stopping {
                step,
                until,
                latest,
            } => self.stop_tree(id, step, until, latest),
            State::Killing { give_up } => self.kill_tree(id, give_up),
            // It has finished before it was asked to stop.
            State::Unreachable => {
                self.command(Command::StopHealth(id));
                self.kill_tree(id, self.now + KILL_GRACE);
            }
            State::Starting { .. }
            | State::Soaking { .. }
            | State::Ready
            | State::StoppingTree { .. }
            | State::KillingTree { .. } => {
                self.died(id, Cause::Exited(exit));
                self.kill_tree(id, self.now + KILL_GRACE);
            }
        }
    }

    /// A stop applies to the whole tree. Processes that are left behind by a shell or wrapper get the signal that the
    /// first process got, and the rest of its wait.
    fn stop_tree(&mut self, id: WorkerId, step: usize, until: Time, latest: Time) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let sent = worker
            .stop
            .iter()
            .take(step + 1)
            .rev()
            .find_map(|step| Some((step.signal?, step.to)));
        let signal = sent
            .filter(|(_, to)| *to == To::Main)
            .map(|(signal, _)| signal);
        let (pool, slot) = (worker.pool, worker.slot);
        self.update_worker(id, |w| {
            w.state = State::StoppingTree {
                step,
                until,
                latest,
            }
        });
        self.mark_slot(pool, slot);
        self.command(Command::SignalRemaining(id, signal));
    }

    /// The first process has exited, and the rest of the tree must end too.
    fn kill_tree(&mut self, id: WorkerId, give_up: Time) {
        self.update_worker(id, |w| w.state = State::KillingTree { give_up });
        if let Some(worker) = self.workers.get(&id) {
            let (pool, slot) = (worker.pool, worker.slot);
            self.mark_slot(pool, slot);
        }
        self.command(Command::KillTree(id));
    }

    pub(crate) fn tree_gone(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.exit.is_some()) else {
            return;
        };
        if let Some(asked) = worker.stop_began {
            let (exit, took) = (worker.exit, self.now - asked);
            self.emit(Notice::Stopped {
                worker: id,
                exit,
                took,
            });
        }
        self.remove_worker(id);
    }

    /// Asks a worker to stop: detaches it from its slot and begins its stop steps.
    pub(crate) fn begin_stop(&mut self, id: WorkerId, why: StopReason) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if worker.is_leaving() && worker.state != State::Unreachable {
            return;
        }
        // Copied, so that a later change of the configuration does not change a stop that has begun.
        let stop = self
            .pools
            .get(&worker.pool)
            .map(|pool| pool.policy.stop.clone())
            .unwrap_or_default();
        self.detach(id);
        self.emit(Notice::Retired { worker: id, why });
        self.command(Command::StopHealth(id));
        self.update_worker(id, |w| {
            w.stop_began = Some(now);
            w.drains = true;
            w.stop = stop;
        });
        self.advance_stop(id, 0);
    }

    pub(crate) fn advance_stop(&mut self, id: WorkerId, mut step: usize) {
        let has_exited = self
            .workers
            .get(&id)
            .is_some_and(|worker| worker.exit.is_some());
        while let Some(StopStep { signal, wait, to }) = self.stop_step(id, step) {
            if let Some(signal) = signal {
                let whole = has_exited || to == To::Tree;
                self.command(if whole {
                    Command::SignalTree(id, signal)
                } else {
                    Command::Signal(id, signal)
                });
            }
            if wait > Span::ZERO {
                let until = self.now + wait;
                let latest = until.max(self.latest_stop(id, step));
                let state = if has_exited {
                    State::StoppingTree {
                        step,
                        until,
                        latest,
                    }
                } else {
                    State::Stopping {
                        step,
                        until,
                        latest,
                    }
                };
                return self.update_worker(id, |w| w.state = state);
            }
            step += 1;
        }
        self.kill_for(id, KillReason::Steps);
    }

    /// The extension is one allowance for the whole stop, not one for each step.
    fn latest_stop(&self, id: WorkerId, step: usize) -> Time {
        let Some(worker) = self.workers.get(&id) else {
            return self.now;
        };
        let waits = worker
            .stop
            .iter()
            .take(step + 1)
            .fold(Span::ZERO, |sum, step| sum + step.wait);
        worker.stop_began.unwrap_or(self.now) + waits + MAX_EXTENSION
    }

    fn stop_step(&self, id: WorkerId, step: usize) -> Option<StopStep> {
        self.workers.get(&id)?.stop.get(step).copied()
    }

    /// Kills a worker that was asked to stop, and reports it, since work may be cut short.
    pub(crate) fn kill_for(&mut self, id: WorkerId, reason: KillReason) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if matches!(
            worker.state,
            State::Killing { .. } | State::KillingTree { .. }
        ) {
            return;
        }
        let waited = worker
            .stop_began
            .map_or(Span::ZERO, |asked| self.now - asked);
        self.emit(Notice::Killed {
            worker: id,
            reason,
            waited,
        });
        self.command(Command::StopHealth(id));
        self.kill(id);
    }

    /// Sends SIGKILL, unless the worker was killed already.
    pub(crate) fn kill(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        if matches!(
            worker.state,
            State::Killing { .. } | State::KillingTree { .. }
        ) {
            return;
        }
        if worker.exit.is_some() {
            return self.kill_tree(id, now + KILL_GRACE);
        }
        self.detach(id);
        self.update_worker(id, |w| {
            w.stop_began.get_or_insert(now);
            w.drains = true;
            w.state = State::Killing {
                give_up: now + KILL_GRACE,
            };
        });
        self.command(Command::Kill(id));
    }

    pub(crate) fn give_up(&mut self, id: WorkerId) {
        self.update_worker(id, |w| w.lost = true);
        self.emit(Notice::Unkillable { worker: id });
        if let Some(worker) = self.workers.get(&id) {
            let (pool, slot) = (worker.pool, worker.slot);
            self.mark_slot(pool, slot);
        }
    }

    /// Takes a worker out of its slot.
    pub(crate) fn detach(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let (pool, slot, role, by_age_until) =
            (worker.pool, worker.slot, worker.role, worker.by_age_until);
        if role == Role::Leaving {
            return;
        }
        self.update_worker(id, |w| w.role = Role::Leaving);
        self.mark_slot(pool, slot);
        let Some(known) = self.pools.get_mut(&pool) else {
            return;
        };
        if let (Some(roll), Some(at)) = (&mut known.roll, by_age_until) {
            roll.watched.remove(&(at, id));
        }
        let Some(slot_state) = known.slots.get_mut(slot.0 as usize) else {
            return;
        };
        slot_state.leaving += 1;
        if let Some(breaker) = known.breaker {
            self.dirty_slots.insert((pool, breaker.probe)); // it may try now
        }
        if role == Role::Current {
            slot_state.current = None;
            // The successor takes the slot while this input is handled.
            let has_heir = slot_state
                .successor
                .is_some_and(|next| self.workers.get(&next).is_some_and(Worker::is_serving));
            known.full &= has_heir || known.is_full();
        } else {
            slot_state.successor = None;
            known.successors -= 1;
        }
    }
}
