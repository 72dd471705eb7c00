//! What follows an exit that was not requested: whether it fails a rolling restart, when the slot is filled again
//! (backoff), and whether the pool is in a crash loop (the breaker). `lifecycle.rs` calls `died`; deadlines and
//! readiness come from `engine.rs` and `lifecycle.rs`.

use crate::activity::Activity;
use crate::pool::{Breaker, EarlyDeath, Pool};
use crate::roll::Phase;
use crate::slot::{Ended, SlotState};
use crate::timers::Key;
use crate::worker::{EARLY_DEATH, Role, State, Worker, jitter};
use crate::{
    Cause, Command, Engine, Exit, Failure, Generation, Notice, PoolId, Reload, RestartPolicy, Slot,
    Span, Time, WorkerId,
};

/// The first death of a crash loop may lie this long before the spawn of the worker that dies last. The life of that
/// worker is not counted: however long workers take to fail, their deaths add up.
const WINDOW: Span = Span::from_secs(10);

/// One death, with what decides about its consequences.
pub(crate) struct Death {
    pub(crate) id: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) began: Time,
    pub(crate) ready_at: Option<Time>,
    /// Its exit code is one of `success_exit_codes`.
    pub(crate) is_end: bool,
    /// Its exit code is one of `never_on`.
    pub(crate) never_again: bool,
    pub(crate) exit: Option<Exit>,
}

impl Engine {
    /// A worker has exited, failed to spawn, or was not ready in time, without having been asked to stop.
    pub(crate) fn died(&mut self, id: WorkerId, cause: Cause) {
        let Some(worker) = self.workers.get(&id).cloned() else {
            return;
        };
        if self.is_oneshot(worker.pool) {
            return self.oneshot_ended(id, cause);
        }
        let Some(pool) = self.pools.get(&worker.pool) else {
            return;
        };
        let (never_again, exit) = (pool.never_again(cause), cause.exit());
        let is_end = matches!(cause, Cause::Exited(Exit::Code(code)) if pool.policy.restart.success_exit_codes.contains(&code));
        let role = worker.role;
        // For a worker that is watched only because of its age, a successful exit after a while says more than a
        // longer life.
        let soaked_well = matches!(worker.state, State::Soaking { .. })
            && worker.by_age_until.is_some()
            && worker
                .ready_at
                .is_some_and(|at| self.now - at >= Reload::SOAK);
        let death = Death {
            id,
            slot: worker.slot,
            began: worker.began,
            ready_at: worker.ready_at,
            is_end,
            never_again,
            exit,
        };
        // A waiting successor may exit successfully as well; requiring the delay keeps slots from cycling through
        // successors.
        let ended_well = is_end
            && match role {
                Role::Current => worker.ready_at.is_some(),
                Role::Successor => {
                    soaked_well
                        || worker.state == State::Ready
                            && self.now - worker.began >= pool.policy.restart.delay
                }
                Role::Leaving => false,
            };
        let (mut fails_roll, mut fails_rollback) = (false, false);
        if let Some(roll) = &pool.roll {
            match roll.phase {
                Phase::Canary | Phase::Wave => {
                    fails_roll = roll.is_fresh(id, worker.generation) && !ended_well
                }
                // A slot that goes back has no third generation to try.
                Phase::RollingBack(_) => {
                    fails_rollback = worker.generation == roll.base
                        && !ended_well
                        && roll.pending.contains(&worker.slot);
                }
            }
        }
        self.detach(id);
        if ended_well {
            self.note_good_end(&worker, id, soaked_well);
        }
        self.requeue_lost_slot(id, &worker);
        let retry_in = match role {
            _ if fails_roll || fails_rollback => None,
            Role::Current => self.count_death(worker.pool, &death),
            Role::Successor | Role::Leaving => {
                self.requeue_slot(worker.pool, worker.slot);
                None
            }
        };
        let slot_state = self
            .pools
            .get(&worker.pool)
            .and_then(|pool| pool.slots.get(worker.slot.0 as usize));
        let early_exits = slot_state.map_or(0, |slot_state| slot_state.early_exits);
        let before_ready = worker.ready_at.is_none();
        let given_up = slot_state
            .is_some_and(|slot_state| role == Role::Current && slot_state.ended.is_some());
        self.emit(Notice::Died {
            worker: id,
            cause,
            failure: !is_end,
            before_ready,
            early_exits,
            retry_in,
            given_up,
        });
        self.command(Command::StopHealth(id));
        let how = (!is_end, before_ready, given_up);
        self.death_fails_start(worker.pool, id, cause, how, early_exits);
        let failure = Failure {
            worker: Some(id),
            cause,
            mixed: false,
        };
        let fails_replacement =
            self.replacement_failed(worker.pool, id, &failure) && role == Role::Successor;
        if fails_roll {
            self.fail_roll(worker.pool, failure);
        } else if fails_rollback {
            self.fail_rollback(worker.pool);
        }
        self.count_for_crash_loop(
            worker.pool,
            &death,
            fails_roll || fails_rollback || fails_replacement,
        );
    }

    /// A new worker of a rolling restart has exited successfully: its slot need not be watched any more.
    fn note_good_end(&mut self, worker: &Worker, id: WorkerId, soaked_well: bool) {
        let Some(Pool {
            roll: Some(roll), ..
        }) = self.pools.get_mut(&worker.pool)
        else {
            return;
        };
        if roll.is_fresh(id, worker.generation) {
            roll.ended_well.insert(worker.slot);
            roll.canary_ended_well |= soaked_well;
        }
    }

    /// In a rollback, a worker that already was of the older generation is gone.
    fn requeue_lost_slot(&mut self, id: WorkerId, worker: &Worker) {
        if worker.role == Role::Current
            && let Some(Pool {
                roll: Some(roll), ..
            }) = self.pools.get_mut(&worker.pool)
            && worker.generation == roll.generation
            && !roll.is_fresh(id, worker.generation)
            && !matches!(roll.phase, Phase::RollingBack(_))
        {
            roll.add_slot(worker.slot);
        }
    }

    /// Updates the slot's failure counters. Returns the backoff, or `None` if the slot stays empty.
    pub(crate) fn count_death(&mut self, id: PoolId, death: &Death) -> Option<Span> {
        let now = self.now;
        let pool = self
            .pools
            .get_mut(&id)
            .filter(|pool| pool.activity == Activity::Running)?;
        let restart = pool.policy.restart.clone();
        let slot = pool.slots.get_mut(death.slot.0 as usize)?;
        // Successful exits are not counted as restarts.
        slot.restart_due = !death.is_end;
        let stays_empty = match restart.policy {
            _ if death.never_again => true,
            RestartPolicy::Always => false,
            RestartPolicy::OnFailure => death.is_end,
            RestartPolicy::Never => true,
        };
        if stays_empty {
            let ended = if death.is_end {
                Ended::Done
            } else {
                Ended::Failed
            };
            if ended == Ended::Failed || pool.ended_with.is_none_or(|(_, how)| how == Ended::Done) {
                pool.ended_with = Some((death.exit, ended));
            }
            pool.set_ended(death.slot, Some(ended));
            if pool.breaker.is_some_and(|b| b.probe == death.slot) {
                self.end_crash_loop(id);
            }
            return None;
        }
        let at = pool.change_slot(death.slot, |slot| {
            if death
                .ready_at
                .is_some_and(|at| now - at >= restart.stable_after)
            {
                slot.reset_deaths();
            }
            slot.early_exits = if death.is_end && death.ready_at.is_none() {
                slot.early_exits.saturating_add(1)
            } else {
                0
            };
            let at = if slot.early_exits > 0 {
                // Not a failure, but retrying it ten times a second does not help.
                let grown = restart
                    .delay
                    .0
                    .saturating_mul(1u64.checked_shl(slot.early_exits - 1).unwrap_or(u64::MAX));
                let delay = Span(grown.min(restart.max_delay.0));
                now.max(
                    death.began
                        + if slot.early_exits > 1 {
                            jitter(death.id, delay)
                        } else {
                            delay
                        },
                )
            } else if death.is_end {
                now.max(death.began + restart.delay)
            } else {
                slot.deaths = slot.deaths.saturating_add(1);
                if slot.deaths == 1 && death.ready_at.is_some() {
                    now
                } else {
                    let doubled = restart
                        .delay
                        .0
                        .saturating_mul(1u64.checked_shl(slot.delays).unwrap_or(u64::MAX));
                    slot.delays = slot.delays.saturating_add(1);
                    now + jitter(death.id, Span(doubled.min(restart.max_delay.0)))
                }
            };
            slot.not_before = Some(at);
            at
        })?;
        Some(at - now)
    }

    /// Counts an early death towards a crash loop, unless it belongs to a rolling restart.
    ///
    /// Early is a death before ready, or within `stable_after` of it. If a slot's worker had been ready for more than
    /// a second, its first death is repaired immediately and counts only if the next worker fails as well: workers
    /// that were all killed from outside are all started again together.
    pub(crate) fn count_for_crash_loop(&mut self, id: PoolId, death: &Death, is_rolls: bool) {
        let now = self.now;
        let Some(pool) = self
            .pools
            .get_mut(&id)
            .filter(|pool| pool.activity == Activity::Running)
        else {
            return;
        };
        let age = death.ready_at.map(|at| now - at);
        let late = age.is_some_and(|age| age > EARLY_DEATH);
        let early =
            age.is_none_or(|age| age <= EARLY_DEATH || age < pool.policy.restart.stable_after);
        let stays_empty = pool
            .slots
            .get(death.slot.0 as usize)
            .is_some_and(|slot_state| slot_state.ended.is_some());
        let counts = early && !death.is_end && !is_rolls && !stays_empty;
        if let Some(breaker) = &mut pool.breaker {
            breaker.late |= counts && late;
            if breaker.candidate == Some(death.id) {
                self.next_candidate(id, death.slot);
            }
            return;
        }
        if !counts {
            return;
        }
        let Some(slot_state) = pool.slots.get_mut(death.slot.0 as usize) else {
            return;
        };
        let first = slot_state.first_death.take();
        if late && slot_state.deaths <= 1 {
            slot_state.first_death = Some(now);
            return;
        }
        if let Some(at) = first {
            pool.remember_early(EarlyDeath { at, late: true });
        }
        pool.remember_early(EarlyDeath { at: now, late });
        let limit = pool.breaker_limit();
        let too_old = |known: &EarlyDeath| known.at + WINDOW < death.began;
        let deaths = pool.early_deaths.len() - pool.early_deaths.partition_point(too_old);
        if deaths >= limit {
            let late = pool.early_deaths.iter().any(|known| known.late);
            pool.breaker = Some(Breaker {
                probe: death.slot,
                since: now,
                candidate: None,
                late,
                open: false,
            });
            let span = pool
                .early_deaths
                .front()
                .map_or(Span::ZERO, |first| now - first.at);
            self.emit(Notice::CrashLoop {
                pool: id,
                deaths: deaths as u32,
                span,
            });
        }
    }

    /// In a crash loop, a worker of the generation that empty slots are filled with is ready: it becomes the
    /// candidate, and if it still serves a second later, the other slots follow. A worker that was ready before the
    /// loop began proves nothing.
    pub(crate) fn consider_candidate(
        &mut self,
        id: PoolId,
        generation: Generation,
        worker: WorkerId,
    ) {
        let ready_at = self.workers.get(&worker).and_then(|worker| worker.ready_at);
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let fill_generation = pool.fill_generation();
        let Some(breaker) = &mut pool.breaker else {
            return;
        };
        if ready_at.is_some_and(|at| at >= breaker.since)
            && breaker.candidate.is_none()
            && generation == fill_generation
        {
            breaker.candidate = Some(worker);
            self.deadlines
                .set(Key::Breaker(id), Some(self.now + EARLY_DEATH));
        } else {
            // Nothing else looks at the breaker's slot, which may have waited for this worker.
            self.dirty_slots.insert((id, breaker.probe));
        }
    }

    /// Makes sure that one slot tries. If the breaker's slot got a worker that was ready before the loop began,
    /// another empty slot tries. If no slot is empty, the loop is over once the youngest serving worker has lived as
    /// long as a candidate must.
    pub(crate) fn check_probe(&mut self, id: PoolId) {
        let workers = &self.workers;
        let Some(pool) = self.pools.get_mut(&id).filter(|pool| pool.trying == 0) else {
            return;
        };
        let Some(breaker) = pool.breaker else { return };
        let ready_at = |id: &WorkerId| {
            workers
                .get(id)
                .filter(|worker| worker.is_serving())
                .and_then(|w| w.ready_at)
        };
        if breaker
            .candidate
            .is_some_and(|candidate| ready_at(&candidate).is_some_and(|at| at >= breaker.since))
        {
            return;
        }
        let is_empty =
            |slot_state: &SlotState| slot_state.current.is_none() && slot_state.ended.is_none();
        // Mostly the breaker's slot is empty, and no other one has to be looked at.
        let probe = pool.slots.get(breaker.probe.0 as usize);
        let stays = breaker.probe.0 < pool.policy.count && probe.is_some_and(is_empty);
        let wanted = pool.slots.iter().take(pool.policy.count as usize);
        let mut empty = wanted.zip((0..).map(Slot)).filter(|(of, _)| is_empty(of));
        let first = if stays { None } else { empty.next() };
        let others = first.into_iter().chain(empty).map(|(_, slot)| slot);
        let next = if stays {
            Some(breaker.probe)
        } else {
            others.into_iter().find(|slot| !pool.is_left_to_roll(*slot))
        };
        if let Some(next) = next {
            if next != breaker.probe || breaker.candidate.is_some() {
                pool.breaker = Some(Breaker {
                    probe: next,
                    candidate: None,
                    ..breaker
                });
                self.deadlines.set(Key::Breaker(id), None);
                self.mark_slot(id, next);
            }
        } else if first.is_none() && breaker.candidate.is_none() {
            let youngest = pool
                .slots
                .iter()
                .filter_map(|slot_state| slot_state.current)
                .max_by_key(ready_at);
            match youngest.filter(|worker| ready_at(worker).is_some()) {
                Some(candidate) => {
                    pool.breaker = Some(Breaker {
                        candidate: Some(candidate),
                        ..breaker
                    });
                    self.deadlines
                        .set(Key::Breaker(id), Some(self.now + EARLY_DEATH));
                }
                None => self.end_crash_loop(id),
            }
        }
    }

    /// The candidate has served long enough: the other slots follow. Where workers fail late, the loop itself is over
    /// only once the candidate is stable.
    pub(crate) fn candidate_due(&mut self, id: PoolId) {
        let now = self.now;
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        let stable_after = pool.policy.restart.stable_after;
        let Some(breaker) = &mut pool.breaker else {
            return;
        };
        let Some(candidate) = breaker.candidate else {
            return;
        };
        let Some(ready_at) = self
            .workers
            .get(&candidate)
            .filter(|worker| worker.is_serving())
            .and_then(|w| w.ready_at)
        else {
            let probe = breaker.probe;
            return self.next_candidate(id, probe);
        };
        if !breaker.late || ready_at + stable_after <= now {
            return self.end_crash_loop(id);
        }
        self.deadlines
            .set(Key::Breaker(id), Some(ready_at + stable_after));
        if ready_at >= breaker.since && !core::mem::replace(&mut breaker.open, true) {
            self.emit(Notice::CrashLoopEases { pool: id });
            self.start_rest(id);
        }
    }

    /// The candidate is gone: take another worker that became ready since the loop began, or let slot `next` try.
    pub(crate) fn next_candidate(&mut self, id: PoolId, next: Slot) {
        self.deadlines.set(Key::Breaker(id), None);
        let Some(Pool {
            breaker: Some(breaker),
            slots,
            ..
        }) = self.pools.get_mut(&id)
        else {
            return;
        };
        let workers = &self.workers;
        breaker.candidate = None;
        breaker.open = false;
        let found = slots
            .iter()
            .filter_map(|slot_state| workers.get_key_value(&slot_state.current?))
            .find(|(_, worker)| {
                worker.is_serving() && worker.ready_at.is_some_and(|at| at >= breaker.since)
            });
        let probes = slots
            .get(breaker.probe.0 as usize)
            .is_some_and(|slot_state| slot_state.current.is_some());
        let found = found.map(|(worker, known)| (*worker, known.generation));
        if found.is_none() && !probes {
            breaker.probe = next;
        }
        let probe = breaker.probe;
        if slots
            .get(probe.0 as usize)
            .is_none_or(|slot_state| slot_state.ended.is_some())
        {
            return self.end_crash_loop(id);
        }
        if let Some((worker, generation)) = found {
            self.consider_candidate(id, generation, worker);
        }
        self.mark_slot(id, probe);
    }

    /// The program works again: every empty slot is filled now.
    pub(crate) fn end_crash_loop(&mut self, id: PoolId) {
        if !self.forget_crash_loop(id) {
            return;
        }
        self.emit(Notice::CrashLoopOver { pool: id });
        self.start_rest(id);
    }

    /// Ends all backoff delays of the pool.
    fn start_rest(&mut self, id: PoolId) {
        let Some(pool) = self.pools.get_mut(&id) else {
            return;
        };
        for slot in &mut pool.slots {
            slot.not_before = None;
        }
        self.mark_all_slots(id);
    }

    /// Ends the crash loop without a notice (the pool is stopping). Returns whether there was one.
    pub(crate) fn forget_crash_loop(&mut self, id: PoolId) -> bool {
        self.deadlines.set(Key::Breaker(id), None);
        let Some(pool) = self.pools.get_mut(&id) else {
            return false;
        };
        pool.early_deaths.clear();
        pool.breaker.take().is_some()
    }
}

impl Pool {
    /// Whether the slot stays empty after this exit until an operator acts.
    pub(crate) fn never_again(&self, cause: Cause) -> bool {
        matches!(cause, Cause::Exited(Exit::Code(code)) if self.policy.restart.never_on.contains(&code))
    }
}

impl Cause {
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Self::Exited(exit) => Some(exit),
            Self::SpawnFailed
            | Self::NotReadyInTime
            | Self::Unhealthy
            | Self::Cancelled
            | Self::MasterKeepsDying
            | Self::After(_) => None,
        }
    }
}
