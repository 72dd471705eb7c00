//! Checks the engine's notices against the model.

use crate::model::{Pool, Roll, is_end};
use crate::oracle::{Checked, Oracle, fail, hold};
use rotad_core::{
    Cause, Essential, Exit, Failure, Notice, OnFailure, Outcome, Readiness, RestartPolicy,
    Standing, StopReason, Time,
};
use std::collections::BTreeSet;

impl Oracle {
    pub(crate) fn notice(&mut self, now: Time, notice: &Notice) -> Checked {
        match notice {
            Notice::Ready { worker, by_age, .. } => self.ready(now, worker.0, *by_age),
            Notice::Confirmed { worker, .. } => self.confirmed(now, worker.0),
            Notice::Watched { pool, .. } => {
                let roll = self
                    .model
                    .pools
                    .get(&pool.0)
                    .and_then(|pool| pool.roll.as_ref());
                hold!(
                    roll.is_some_and(|roll| !roll.rolling_back),
                    "watched",
                    "without a roll"
                );
                Ok(())
            }
            Notice::Died {
                worker,
                cause,
                failure,
                before_ready,
                early_exits,
                retry_in,
                given_up,
            } => {
                hold!(
                    !(*given_up && retry_in.is_some()),
                    "died",
                    "{worker} is given up and has a retry"
                );
                self.given_up(worker.0, *cause, *given_up)?;
                self.died(
                    now,
                    worker.0,
                    *cause,
                    (*failure, *before_ready, *given_up),
                    retry_in.map(|span| span.0),
                )?;
                self.early_exits(worker.0, *cause, *early_exits, retry_in.is_some())
            }
            Notice::Retired { worker, why } => self.retired(now, worker.0, *why),
            Notice::Unkillable { worker } => {
                let Some(worker) = self.model.workers.get_mut(&worker.0) else {
                    return fail("unkillable", "unknown");
                };
                let since = worker.killed.or(worker.tree_killed);
                hold!(
                    since.is_some_and(|at| now.0 >= at + 900),
                    "unkillable",
                    "reported as unkillable too early"
                );
                worker.lost = true;
                Ok(())
            }
            Notice::CrashLoop { pool, .. } => self.crash_loop(now, pool.0),
            Notice::CrashLoopEases { pool } => {
                let now = now.0;
                let served = |w: &crate::model::Worker| {
                    w.serves() && w.ready.is_some_and(|at| now >= at + 1000)
                };
                let well = self.model.of(pool.0).any(|(_, w)| served(w));
                hold!(
                    well,
                    "crash loop",
                    "eased, and no worker has served for a second"
                );
                if let Some(pool) = self.model.pools.get_mut(&pool.0) {
                    pool.slots.iter_mut().for_each(|slot| slot.reset = true);
                }
                Ok(())
            }
            Notice::CrashLoopOver { pool } => {
                self.loop_may_end(now, pool.0)?;
                if let Some(pool) = self.model.pools.get_mut(&pool.0) {
                    pool.crash_loop = None;
                    pool.crash_loop_due = false;
                    pool.early_deaths.clear();
                    pool.slots.iter_mut().for_each(|slot| slot.reset = true);
                }
                Ok(())
            }
            Notice::RollStarted { .. }
            | Notice::RollingBack { .. }
            | Notice::RollEnded { .. }
            | Notice::RollAfter { .. }
            | Notice::RollWaits { .. }
            | Notice::RollSuperseded { .. } => self.roll_notice(now, notice),
            Notice::PoolReady { pool, generation } => {
                if let Some(pool) = self.model.pools.get_mut(&pool.0) {
                    pool.mark_served(generation.0);
                }
                Ok(())
            }
            Notice::BeginsWith {
                pool, generation, ..
            } => self.begins_with(pool.0, generation.0),
            Notice::Waiting { pool, .. } => {
                hold!(
                    !self.model.may_begin(pool.0),
                    "held",
                    "pool {pool} waits for no pool"
                );
                Ok(())
            }
            Notice::OneshotDone {
                pool, generation, ..
            } => self.oneshot_done(now, pool.0, generation.0),
            Notice::WorkerReplaced {
                pool, slot, worker, ..
            } => self.replaced(pool.0, slot.0, worker.0),
            Notice::EssentialEnded { pool, exit } => self.essential_ended(pool.0, *exit),
            Notice::EssentialLost { pool, span } => {
                let Some(pool) = self.model.pools.get_mut(&pool.0) else {
                    return fail("essential", "unknown pool");
                };
                let since = pool.may_be_unready_since;
                let due = since.is_some_and(|at| now.0 >= at + span.0);
                hold!(
                    due && !pool.unready_reported,
                    "essential",
                    "since {since:?}, reported {}",
                    pool.unready_reported
                );
                pool.unready_reported = true;
                Ok(())
            }
            Notice::Stopped { worker, exit, took } => {
                let Some(known) = self.model.workers.get(&worker.0) else {
                    return fail("stopped", "unknown");
                };
                let unasked = known.unreachable.is_some() && known.stop_began.is_none();
                let asked = unasked || known.stop_began.is_some_and(|at| now.0 - at == took.0);
                hold!(known.gone && asked, "stopped", "{worker} after {took}");
                hold!(
                    exit.is_some() == known.exited.is_some(),
                    "stopped",
                    "{worker}: {exit:?}"
                );
                Ok(())
            }
            Notice::Killed { .. }
            | Notice::CanaryPassed { .. }
            | Notice::SlotReplaced { .. }
            | Notice::PoolStopped { .. } => Ok(()),
        }
    }

    fn crash_loop(&mut self, now: Time, id: u32) -> Checked {
        let (death_spawned, death_late) = (self.model.death_spawned, self.model.death_late);
        hold!(
            !self.model.death_first,
            "crash loop",
            "by the first death of a slot that had been ready"
        );
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return fail("crash loop", "unknown");
        };
        let limit = (pool.policy.count.div_ceil(2) as usize).max(2);
        let deaths = pool
            .all_early_deaths
            .iter()
            .filter(|at| **at + 10_000 >= death_spawned)
            .count();
        hold!(
            deaths >= limit,
            "crash loop",
            "{deaths} early deaths, limit {limit}"
        );
        pool.crash_loop = Some(now.0);
        pool.loop_is_late = death_late;
        pool.rolled_in_loop = pool.roll.is_some();
        Ok(())
    }

    /// A crash loop is over when a worker that became ready in it has served for a second, or when no worker is missing. If
    /// workers fail late, one of them must have been ready for `stable_after`.
    fn loop_may_end(&self, now: Time, id: u32) -> Checked {
        let pool = &self.model.pools[&id];
        // If the probed slot is given up, another one is tried.
        let never = pool.policy.restart.policy != RestartPolicy::Always
            || !pool.policy.restart.never_on.is_empty();
        let by_itself = !never && pool.roll.is_none() && !pool.changed && !self.model.scaled;
        if !by_itself || pool.is_oneshot() {
            return Ok(());
        }
        let since = pool.crash_loop.unwrap_or_default();
        let served = |at: u64| at >= since && now.0 >= at + 1000;
        let well = self
            .model
            .of(id)
            .any(|(_, w)| w.serves() && w.ready.is_some_and(served));
        let serves = |slot: u32| self.model.of(id).any(|(_, w)| w.slot == slot && w.serves());
        let full = (0..pool.policy.count).all(serves);
        hold!(
            well || full,
            "crash loop",
            "over, and no worker has become ready in it and served for a second"
        );
        if !pool.loop_is_late {
            return Ok(());
        }
        let span = pool.policy.restart.stable_after.0;
        let old = self
            .model
            .of(id)
            .any(|(_, w)| w.serves() && w.ready.is_some_and(|at| now.0 >= at + span));
        hold!(
            old,
            "crash loop",
            "over, and no worker has been ready for {span} ms"
        );
        Ok(())
    }

    fn replaced(&mut self, pool: u32, slot: u32, worker: u64) -> Checked {
        let serves = self
            .model
            .workers
            .get(&worker)
            .is_some_and(|w| w.serves() && w.slot == slot);
        hold!(serves, "replacements", "{worker} does not serve");
        let wanted = self.model.wants_replacement(pool, slot);
        let Some(pool) = self.model.pools.get_mut(&pool) else {
            return fail("replacements", "unknown pool");
        };
        hold!(
            wanted,
            "replacements",
            "of slot {slot}, which was not requested"
        );
        hold!(pool.roll.is_none(), "replacements", "though a roll runs");
        Ok(())
    }

    fn oneshot_done(&mut self, now: Time, id: u32, generation: u32) -> Checked {
        let by = |w: &crate::model::Worker| {
            w.exited == Some(now.0)
                && w.exit_code == Some(0)
                && w.stop_began.is_none()
                && w.generation == generation
        };
        let good = self.model.of(id).any(|(_, w)| by(w));
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return fail("oneshot", "unknown pool");
        };
        hold!(
            good && pool.is_oneshot(),
            "oneshot",
            "done, though no run has succeeded"
        );
        pool.oneshot_done = true;
        pool.oneshot_failed = false;
        pool.reset_backoff();
        if pool.roll.is_none() {
            pool.mark_served(generation);
        }
        Ok(())
    }

    fn roll_notice(&mut self, now: Time, notice: &Notice) -> Checked {
        match notice {
            Notice::RollStarted {
                pool, generation, ..
            } => {
                let (pool_id, rolled_back_to, newest_before) =
                    (pool.0, self.model.rolled_back_to, self.model.last_id);
                // A waiting request takes the place of a failed one: other pools wait for its outcome.
                self.model.rolls_failed.remove(&pool_id);
                let Some(pool) = self.model.pools.get_mut(&pool.0) else {
                    return fail("rolls", "unknown pool");
                };
                hold!(
                    pool.roll.is_none() && pool.running,
                    "rolls",
                    "a second one, or of a pool that stops"
                );
                let is_rollback =
                    rolled_back_to.is_some_and(|(id, to)| id == pool_id && to == generation.0);
                hold!(
                    is_rollback || generation.0 == pool.latest_generation + 1,
                    "generation",
                    "{generation} after {}",
                    pool.latest_generation
                );
                pool.latest_generation = pool.latest_generation.max(generation.0);
                pool.made.insert(
                    generation.0,
                    (pool.policy.readiness, pool.policy.ready_timeout.0),
                );
                pool.oneshot_done = false;
                pool.oneshot_failed = false;
                pool.rolled_in_loop = true;
                pool.reset_backoff();
                let (rolling_back, disturbed, retired_any, soaked, begun) =
                    (false, false, false, false, false);
                let (failed, ended_well, soaked_by_end, must_end) =
                    (BTreeSet::new(), BTreeSet::new(), false, false);
                let redo = BTreeSet::new();
                let generation = generation.0;
                let to_base = generation == pool.base;
                pool.roll = Some(Roll {
                    to_base,
                    begun,
                    generation,
                    newest_before,
                    rolling_back,
                    disturbed,
                    retired_any,
                    soaked,
                    failed,
                    ended_well,
                    soaked_by_end,
                    must_end,
                    redo,
                });
                Ok(())
            }
            Notice::RollingBack { pool, failure, .. } => {
                let cancelled = self.model.cancelled || self.after_failed(pool.0, failure);
                let Some(Pool {
                    roll: Some(roll), ..
                }) = self.model.pools.get_mut(&pool.0)
                else {
                    return fail("rolls", "going back without a roll");
                };
                hold!(!roll.rolling_back, "rolls", "back twice");
                let at_fault = failure
                    .worker
                    .map_or(cancelled, |id| roll.failed.contains(&id.0));
                hold!(at_fault, "unjustified", "rolled back for {failure:?}");
                roll.rolling_back = true;
                Ok(())
            }
            Notice::RollEnded { pool, outcome } => self.roll_ended(now, pool.0, outcome),
            Notice::RollAfter { pool, by } => {
                let by: BTreeSet<u32> = by.iter().map(|pool| pool.0).collect();
                let known = self.model.rolls_before(pool.0);
                hold!(
                    !by.is_empty() && by == known,
                    "roll order",
                    "pool {pool} waits for {by:?}, known {known:?}"
                );
                Ok(())
            }
            Notice::RollWaits { pool } => {
                let roll = self
                    .model
                    .pools
                    .get(&pool.0)
                    .and_then(|pool| pool.roll.as_ref());
                let is_oneshot = self.model.pools.get(&pool.0).is_some_and(Pool::is_oneshot);
                let busy = is_oneshot && self.model.of(pool.0).any(|(_, w)| w.stays());
                let late = roll.is_some_and(|roll| roll.retired_any || roll.rolling_back);
                hold!(late || busy, "waits", "though no worker was retired yet");
                Ok(())
            }
            Notice::RollSuperseded {
                pool,
                by,
                retired_any,
                ..
            } => {
                self.caused(pool.0, *by)?;
                let known = self
                    .model
                    .pools
                    .get(&pool.0)
                    .and_then(|pool| pool.roll.as_ref());
                let retired = known.is_some_and(|roll| roll.retired_any);
                hold!(
                    retired == *retired_any,
                    "true causes",
                    "retired_any {retired_any}, retired {retired}"
                );
                if self.model.reconfigured == Some(pool.0) {
                    return Ok(());
                }
                let pool = self.model.pools.get_mut(&pool.0);
                let roll = pool.and_then(|pool| pool.roll.as_mut());
                hold!(
                    roll.is_some_and(|roll| !roll.retired_any),
                    "superseded",
                    "though a worker was retired"
                );
                Ok(())
            }
            Notice::Ready { .. }
            | Notice::BeginsWith { .. }
            | Notice::Confirmed { .. }
            | Notice::Watched { .. }
            | Notice::Died { .. }
            | Notice::Retired { .. }
            | Notice::Unkillable { .. }
            | Notice::CrashLoop { .. }
            | Notice::CrashLoopEases { .. }
            | Notice::CrashLoopOver { .. }
            | Notice::Killed { .. }
            | Notice::CanaryPassed { .. }
            | Notice::Stopped { .. }
            | Notice::SlotReplaced { .. }
            | Notice::PoolReady { .. }
            | Notice::PoolStopped { .. }
            | Notice::Waiting { .. }
            | Notice::OneshotDone { .. }
            | Notice::WorkerReplaced { .. }
            | Notice::EssentialLost { .. }
            | Notice::EssentialEnded { .. } => Ok(()),
        }
    }

    /// A slot is given up only because of its policy or the exit code.
    fn given_up(&self, id: u64, cause: Cause, given_up: bool) -> Checked {
        let Some(worker) = self.model.workers.get(&id) else {
            return fail("died", "unknown");
        };
        let pool = &self.model.pools[&(worker.pool as u32)];
        let is_code = |codes: &[i32]| matches!(cause, Cause::Exited(Exit::Code(code)) if codes.contains(&code));
        let may = pool.policy.restart.policy == RestartPolicy::Never
            || pool.policy.restart.policy == RestartPolicy::OnFailure
                && is_end(&pool.policy, cause)
            || is_code(&pool.policy.restart.never_on)
            || pool.is_oneshot() && pool.roll.is_some();
        hold!(!given_up || may, "given up", "{id} by {cause:?}");
        // In a roll, or beside another worker of its slot, another worker may follow in any case.
        let alone = !self
            .model
            .of(worker.pool as u32)
            .any(|(other, w)| other != id && w.slot == worker.slot && !w.gone);
        let must = pool.running && pool.begun && !pool.is_oneshot() && pool.roll.is_none() && alone;
        hold!(
            given_up || !may || !must,
            "given up",
            "{id} by {cause:?} is started again"
        );
        Ok(())
    }

    fn early_exits(&self, id: u64, cause: Cause, reported: u32, again: bool) -> Checked {
        let Some(worker) = self.model.workers.get(&id) else {
            return fail("died", "unknown");
        };
        let pool = &self.model.pools[&(worker.pool as u32)];
        let slot_state = &pool.slots[worker.slot as usize];
        let early_exits = again && worker.ready.is_none() && is_end(&pool.policy, cause);
        hold!(
            !early_exits || reported > 0 && reported <= slot_state.early_exits,
            "early exits",
            "{id}: reported {reported}, counted {}",
            slot_state.early_exits
        );
        hold!(
            !early_exits || !slot_state.exact || reported == slot_state.early_exits,
            "early exits",
            "{id}: reported {reported}, counted {}",
            slot_state.early_exits
        );
        Ok(())
    }

    fn essential_ended(&mut self, id: u32, exit: Option<Exit>) -> Checked {
        let lives = self.model.of(id).any(|(_, w)| !w.gone && !w.lost);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return fail("essential", "unknown pool");
        };
        let due = pool.policy.essential == Some(Essential::Exit) && pool.running && !lives;
        hold!(
            due && !pool.end_reported,
            "essential",
            "pool {id} has not ended, or its end was already reported: {exit:?}"
        );
        pool.end_reported = true;
        Ok(())
    }

    /// A worker that was ready by its age has been reported ready.
    fn confirmed(&mut self, now: Time, id: u64) -> Checked {
        let reported_ready = self.model.reported_ready;
        let Some(worker) = self.model.workers.get_mut(&id) else {
            return fail("ready", "unknown");
        };
        hold!(
            worker.serves() && worker.reported.is_none() && reported_ready == Some(id),
            "ready",
            "{id} confirmed"
        );
        worker.reported = Some(now.0);
        let soak = self.model.pools[&(worker.pool as u32)].policy.soak(false).0;
        worker.soaked_at = worker.soaked_at.min(now.0 + soak);
        worker.watched_until = 0;
        Ok(())
    }

    fn ready(&mut self, now: Time, id: u64, by_age: bool) -> Checked {
        let slack = self.slack;
        let reported = self.model.reported_ready == Some(id);
        hold!(
            by_age != reported,
            "ready",
            "{id}: by age {by_age}, reported {reported}"
        );
        let Some(worker) = self.model.workers.get_mut(&id) else {
            return fail("ready", "unknown");
        };
        hold!(
            worker.stays() && worker.ready.is_none(),
            "ready",
            "{id} became ready twice, or while it was leaving"
        );
        worker.ready = Some(now.0);
        worker.reported = reported.then_some(now.0);
        let pool_id = worker.pool as u32;
        worker.soaked_at = now.0 + self.model.pools[&pool_id].policy.soak(by_age).0;
        worker.watched_until = if by_age { worker.soaked_at } else { 0 };
        let (started, extended, spawned, timeout) = (
            worker.started,
            worker.extended,
            worker.spawned,
            worker.timeout,
        );
        hold!(
            !self.model.pools[&(worker.pool as u32)].is_oneshot(),
            "oneshot",
            "{id} became ready"
        );
        hold!(
            extended || now.0 <= spawned + timeout + slack,
            "ready",
            "{id} after its timeout"
        );
        if let Readiness::Alive(span) = worker.readiness
            && let Some(started) = started
        {
            hold!(
                !by_age || now.0 >= started + span.0,
                "ready",
                "{id} has not lived long enough"
            );
            hold!(
                now.0 <= started + span.0 + slack,
                "ready",
                "{id} had lived long enough earlier"
            );
        }
        self.notice_up(pool_id);
        let surely = self.model.is_surely_full(pool_id);
        if let Some(pool) = self.model.pools.get_mut(&pool_id) {
            pool.surely_up |= surely;
            pool.unready_since = None;
            pool.may_be_unready_since = None;
            pool.unready_reported = false;
            pool.low_demand |= now.0 - spawned <= 50;
        }
        Ok(())
    }

    fn died(
        &mut self,
        now: Time,
        id: u64,
        cause: Cause,
        (failure, before_ready, given_up): (bool, bool, bool),
        retry: Option<u64>,
    ) -> Checked {
        let unhealthy = self.model.unhealthy;
        let known = self.model.workers.get(&id).map(|w| (w.pool as u32, w.slot));
        let older_stays = known.is_some_and(|(pool, slot)| {
            self.model
                .of(pool)
                .any(|(other, w)| other != id && w.slot == slot && w.stays() && other < id)
        });
        let Some(worker) = self.model.workers.get_mut(&id) else {
            return fail("died", "unknown");
        };
        hold!(
            worker.stop_began.is_none(),
            "died",
            "{id} had been asked to stop"
        );
        let (slot, spawned, ready, generation) =
            (worker.slot, worker.spawned, worker.ready, worker.generation);
        self.model.death_spawned = spawned;
        (self.model.death_late, self.model.death_first) = (false, false);
        let by_age = ready.is_some() && worker.reported.is_none();
        hold!(
            before_ready == ready.is_none(),
            "died",
            "before_ready of {id}"
        );
        let pool_id = worker.pool as u32;
        let Some(pool) = self.model.pools.get_mut(&pool_id) else {
            return fail("died", "no pool");
        };
        match cause {
            Cause::NotReadyInTime => {
                let by = spawned + worker.timeout;
                hold!(
                    ready.is_none() && now.0 >= by,
                    "ready timeout early",
                    "{id} at {now}, it had until {by}"
                );
                worker.overdue = true;
                worker.stop_began = Some(now.0);
            }
            Cause::Exited(_) => hold!(worker.exited.is_some(), "died", "{id} lives"),
            Cause::SpawnFailed => hold!(worker.gone, "died", "{id} lives"),
            Cause::Unhealthy => {
                hold!(
                    ready.is_some() && unhealthy == Some(id),
                    "died",
                    "{id} is not unhealthy"
                );
                worker.unhealthy = true;
            }
            Cause::Cancelled | Cause::MasterKeepsDying | Cause::After(_) => {
                return fail("died", "without a cause of death");
            }
        }
        pool.undisturbed = false;
        let is_end = !pool.is_oneshot() && is_end(&pool.policy, cause);
        if pool.is_oneshot() {
            hold!(
                cause != Cause::Exited(rotad_core::Exit::Code(0)),
                "oneshot",
                "{id} has ended well"
            );
            pool.oneshot_failed |= retry.is_none();
        }
        hold!(
            retry.is_none() || pool.running,
            "died",
            "{id} is started again in a pool that stops"
        );
        pool.slots[slot as usize].ended |= is_end;
        self.notice_up(pool_id);
        let Some(pool) = self.model.pools.get_mut(&pool_id) else {
            return fail("died", "no pool");
        };
        hold!(failure != is_end, "died", "failure of {id}");
        pool.slots[slot as usize].all_deaths += 1;
        let ready_for = ready.map(|at| now.0 - at);
        if let Some(roll) = &mut pool.roll {
            roll.disturbed = true;
            if roll.generation == generation && id > roll.newest_before {
                roll.failed.insert(id);
                roll.must_end |= failure && !roll.rolling_back;
                if is_end && ready.is_some() {
                    roll.ended_well.insert(slot);
                    roll.soaked_by_end |= by_age && ready_for.is_some_and(|span| span >= 1000);
                }
            }
        }
        let stable_after = pool.policy.restart.stable_after.0;
        let late = ready_for.is_some_and(|span| span > 1000);
        let early = failure && ready_for.is_none_or(|span| span <= 1000 || span < stable_after);
        // Beside an older worker of its slot, it was a replacement, which is not counted.
        let counts = early && !given_up && (pool.roll.is_some() || !older_stays);
        if counts {
            pool.all_early_deaths.push(now.0);
        }
        let Some(retry) = retry else { return Ok(()) };
        pool.late_ever |= counts && late;
        pool.loop_is_late |= counts && late && pool.crash_loop.is_some();
        let (least, most, exact) = pool.count_death(slot, ready_for, is_end, now.0 - spawned);
        hold!(
            retry <= most,
            "backoff late",
            "slot {slot} waits {retry}, at most {most}"
        );
        hold!(
            !exact || retry >= least,
            "backoff early",
            "slot {slot} waits {retry}, at least {least}"
        );
        pool.slots[slot as usize].retry_at = Some(now.0 + retry);
        pool.slots[slot as usize].reset = false;
        if !counts || pool.crash_loop.is_some() {
            return Ok(());
        }
        let slot_state = &mut pool.slots[slot as usize];
        let first = slot_state.first_death.take();
        self.model.death_late = late;
        self.model.death_first = late && slot_state.exact && slot_state.deaths <= 1;
        // Whether it is the first in a row is known only if the counters are exact.
        if late && (slot_state.deaths <= 1 || !slot_state.exact) {
            slot_state.first_death = Some(now.0).filter(|_| slot_state.exact);
            return Ok(());
        }
        pool.early_deaths.extend(first);
        pool.early_deaths.push(now.0);
        let limit = (pool.policy.count.div_ceil(2) as usize).max(2);
        let deaths = pool
            .early_deaths
            .iter()
            .filter(|at| **at + 10_000 >= spawned)
            .count();
        pool.crash_loop_due = deaths >= limit && pool.roll.is_none();
        Ok(())
    }

    /// Another worker may be asked to finish: few enough do, and enough others serve.
    fn may_retire_one_more(&self, pool: u32, id: u64, now: Time) -> Checked {
        let leaving = self
            .model
            .of(pool)
            .filter(|(_, w)| w.is_leaving() && w.lives());
        let draining = leaving.count() as u32;
        let reload = &self.model.pools[&pool].policy.reload;
        hold!(
            draining < reload.max_draining.max(1),
            "draining",
            "{draining} drain already"
        );
        self.model.enough_others(id, now.0)
    }

    fn retired(&mut self, now: Time, id: u64, why: StopReason) -> Checked {
        let model = &self.model;
        let Some(worker) = model.workers.get(&id) else {
            return fail("unrequested stop", "unknown");
        };
        let unasked = worker.unreachable.is_some() && worker.stop_began.is_none();
        hold!(
            worker.stays()
                || why == StopReason::Unhealthy
                || why == StopReason::Unreachable && unasked,
            "unrequested stop",
            "{id} is already leaving"
        );
        let pool_id = worker.pool as u32;
        let pool = &model.pools[&pool_id];
        let reload = pool.policy.reload;
        match why {
            StopReason::Stop => {
                hold!(
                    !pool.running,
                    "unrequested stop",
                    "{id} stopped in a running pool"
                );
                self.in_order(now, id)?;
            }
            StopReason::Unhealthy => hold!(
                model.unhealthy == Some(id) && worker.unhealthy,
                "unrequested stop",
                "{id} is healthy"
            ),
            StopReason::Unreachable => {
                let slot_state = &pool.slots[worker.slot as usize];
                let ends = slot_state.ended || pool.may_give_up();
                let unwanted = !pool.running || worker.slot >= pool.policy.count || ends;
                let at_once =
                    worker.unreachable == Some(false) || reload.surge == 0 || pool.changed;
                let successor_serves = model
                    .of(pool_id)
                    .any(|(other, w)| other != id && w.slot == worker.slot && w.serves());
                hold!(
                    at_once || unwanted || successor_serves,
                    "unreachable",
                    "{id} may still finish its connections"
                );
            }
            StopReason::Recycled | StopReason::MakesRoomForFresh => {
                let in_place = why == StopReason::MakesRoomForFresh;
                hold!(
                    in_place == (reload.surge == 0) || pool.changed,
                    "true causes",
                    "{id}: {why:?}"
                );
                hold!(
                    pool.roll.is_none() && model.wants_replacement(pool_id, worker.slot),
                    "replacements",
                    "{id} is recycled"
                );
                self.may_retire_one_more(pool_id, id, now)?;
            }
            StopReason::Surplus => hold!(
                model.adopting == Some(pool_id) && model.is_surplus(id),
                "adopted",
                "{id} is stopped, and no other one has its slot"
            ),
            StopReason::ScaledDown => hold!(
                worker.slot >= pool.policy.count,
                "unrequested stop",
                "{id} is wanted"
            ),
            StopReason::Abandoned => {
                let other_serves = model
                    .of(pool_id)
                    .any(|(other, w)| other != id && w.slot == worker.slot && w.serves());
                hold!(
                    !model.dropped || !worker.serves() || other_serves,
                    "kept",
                    "{id} is stopped because of the master, and no other one serves in its slot"
                );
                let older_stays = model
                    .of(pool_id)
                    .any(|(other, w)| other < id && w.slot == worker.slot && w.stays());
                let Some(roll) = &pool.roll else {
                    hold!(
                        older_stays,
                        "unrequested stop",
                        "{id} abandoned without a roll"
                    );
                    return self.asked(now, id, why);
                };
                let alone = !model
                    .of(pool_id)
                    .any(|(other, w)| other != id && w.slot == worker.slot && w.stays());
                hold!(
                    worker.generation == roll.generation
                        || !worker.serves()
                        || roll.rolling_back && !alone,
                    "unrequested stop",
                    "{id} abandoned"
                );
            }
            StopReason::Replaced | StopReason::MakesRoom => {
                let successor_serves = model
                    .of(pool_id)
                    .any(|(other, w)| other != id && w.slot == worker.slot && w.serves());
                hold!(
                    successor_serves || why == StopReason::MakesRoom,
                    "true causes",
                    "{id} is replaced, and no worker serves in its place"
                );
                let Some(roll) = &pool.roll else {
                    return fail("unrequested stop", format!("{id} replaced without a roll"));
                };
                let goal = if roll.rolling_back {
                    pool.base
                } else {
                    roll.generation
                };
                hold!(
                    worker.generation != goal,
                    "unrequested stop",
                    "{id} is already of the generation that is rolled out"
                );
                let is_same_source = pool.same_source.contains_key(&worker.generation);
                hold!(
                    !(roll.rolling_back && (is_same_source || worker.adopted)),
                    "rolled back for nothing",
                    "{id} is made from the files that the roll goes back to"
                );
                self.may_retire_one_more(pool_id, id, now)?;
            }
        }
        self.asked(now, id, why)
    }

    /// A stop begins, with the current stop steps.
    fn asked(&mut self, now: Time, id: u64, why: StopReason) -> Checked {
        let Some(worker) = self.model.workers.get_mut(&id) else {
            return fail("unrequested stop", "unknown");
        };
        let Some(pool) = self.model.pools.get_mut(&(worker.pool as u32)) else {
            return fail("unrequested stop", "no pool");
        };
        worker.stop_began = Some(now.0);
        worker.stop_reason = Some(why);
        worker.stop_time = pool.stop_time();
        worker.stop_signals = pool.stop_signals();
        if let Some(roll) = &mut pool.roll
            && matches!(why, StopReason::Replaced | StopReason::MakesRoom)
        {
            roll.begun = true;
            roll.retired_any = true;
        }
        Ok(())
    }

    /// When everything stops, a pool is stopped only after the pools that need it.
    fn in_order(&self, now: Time, id: u64) -> Checked {
        let model = &self.model;
        let worker = &model.workers[&id];
        let pool_id = worker.pool as u32;
        let cut = model.kill_from.is_some_and(|at| now.0 >= at);
        let older_stays = model
            .of(pool_id)
            .any(|(other, w)| other != id && w.slot == worker.slot && w.stays());
        if model.stop_at.is_none()
            || cut
            || model.pools[&pool_id].stopped_alone
            || older_stays
            || !worker.serves()
        {
            return Ok(());
        }
        for (other, pool) in &model.pools {
            let needs =
                *other != pool_id && pool.policy.after.iter().any(|after| after.0 == pool_id);
            hold!(
                !needs || !model.has_processes(*other),
                "stop order",
                "{id} of pool {pool_id} before pool {other}"
            );
        }
        Ok(())
    }

    fn roll_ended(&mut self, now: Time, id: u32, outcome: &Outcome) -> Checked {
        let watched: Vec<(u64, u32, u64)> = self
            .model
            .of(id)
            .filter(|(_, w)| w.serves())
            .map(|(id, w)| (id, w.slot, w.watched_until))
            .collect();
        let cancelled = self.model.cancelled || self.model.dropped;
        let adopted: BTreeSet<u32> = self
            .model
            .of(id)
            .filter(|(_, w)| w.serves() && w.adopted)
            .map(|(_, w)| w.slot)
            .collect();
        let staying: Vec<(u32, u32, bool)> = self
            .model
            .of(id)
            .filter(|(_, w)| w.stays())
            .map(|(_, w)| (w.slot, w.generation, w.serves()))
            .collect();
        let after_failed = match outcome {
            Outcome::Aborted { failure, .. } => self.after_failed(id, failure),
            _ => false,
        };
        if let Outcome::Aborted { .. } | Outcome::RolledBack { .. } = outcome {
            self.model.rolls_failed.insert(id);
        }
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return fail("rolls", "unknown");
        };
        let Some(roll) = pool.roll.take() else {
            return fail("rolls", "ended twice");
        };
        let count = pool.policy.count;
        match outcome {
            Outcome::Done { generation, .. } => {
                hold!(
                    generation.0 == roll.generation && !roll.rolling_back,
                    "rolls",
                    "done: {generation}"
                );
                let young = watched.iter().find(|(id, slot, until)| {
                    *id > roll.newest_before
                        && *slot < count
                        && now.0 < *until
                        && !roll.ended_well.contains(slot)
                });
                hold!(
                    young.is_none(),
                    "done early",
                    "{young:?} has to live longer, it is {now}"
                );
                let old = staying
                    .iter()
                    .find(|(slot, g, _)| *slot < count && *g != generation.0);
                hold!(old.is_none(), "done", "though {old:?} serves");
                for slot in roll
                    .redo
                    .iter()
                    .filter(|slot| **slot < count && !pool.changed)
                {
                    let well = staying.iter().any(|(at, _, serves)| at == slot && *serves);
                    hold!(
                        well || pool.slots[*slot as usize].ended,
                        "done",
                        "though no worker serves in slot {slot}"
                    );
                }
                let serving = staying
                    .iter()
                    .filter(|(slot, _, serves)| *slot < count && *serves)
                    .count();
                let well = if pool.is_oneshot() {
                    pool.oneshot_done
                } else {
                    serving as u32 == count
                };
                hold!(
                    roll.disturbed || pool.changed || well,
                    "done",
                    "with {serving} of {count}"
                );
                pool.base = generation.0;
                pool.same_source.clear();
                pool.outdated = None;
                pool.mixed = false;
                pool.mark_served(generation.0);
            }
            Outcome::Aborted {
                failure, standing, ..
            } => {
                let at_fault = after_failed
                    || failure
                        .worker
                        .map_or(cancelled, |id| roll.failed.contains(&id.0));
                hold!(
                    at_fault || failure.mixed || roll.rolling_back,
                    "unjustified",
                    "aborted for {failure:?}"
                );
                let on_failure = pool.policy.reload.on_failure;
                let dropped = failure.cause == Cause::MasterKeepsDying;
                let stays = dropped
                    || on_failure == OnFailure::Abort
                        && failure.cause != Cause::Cancelled
                        && !roll.rolling_back;
                let same_source = pool.same_source.clone();
                let left = standing.others.iter().find(|(slot, generation)| {
                    !same_source.contains_key(&generation.0) && !adopted.contains(&slot.0)
                });
                pool.oneshot_failed |= pool.is_oneshot();
                hold!(
                    left.is_none() || failure.mixed || stays,
                    "rolls back",
                    "aborted, and {left:?} stays"
                );
                let all_back = roll.rolling_back && !failure.mixed && standing.others.is_empty();
                hold!(
                    !all_back || dropped,
                    "rolls back",
                    "aborted, though every slot is back"
                );
                pool.mixed |= staying
                    .iter()
                    .any(|(slot, generation, _)| *slot < count && *generation != pool.base);
                self.outcome_is_right(id, &roll, failure, standing)?;
            }
            Outcome::RolledBack {
                failure, standing, ..
            } => {
                hold!(roll.rolling_back, "rolls", "back without going back");
                let new = staying
                    .iter()
                    .find(|(slot, generation, _)| *slot < count && *generation != pool.base);
                hold!(new.is_none(), "rolled back", "though {new:?} serves");
                pool.mixed = false;
                self.outcome_is_right(id, &roll, failure, standing)?;
            }
            Outcome::Superseded { by } => {
                pool.mixed |= staying
                    .iter()
                    .any(|(_, generation, _)| *generation != pool.base);
                self.caused(id, *by)?;
            }
            Outcome::Cancelled { .. }
            | Outcome::ReplaceFailed { .. }
            | Outcome::HeldUp { .. }
            | Outcome::Up(_)
            | Outcome::StartFailed(_)
            | Outcome::Stopped
            | Outcome::Removed
            | Outcome::Scaled { .. }
            | Outcome::NothingDone(_) => {
                return fail("rolls", format!("a roll ends with {outcome:?}"));
            }
        }
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return fail("rolls", "unknown");
        };
        pool.reset_backoff();
        Ok(())
    }

    /// A roll was not begun, because a pool that it comes after was not rolled.
    fn after_failed(&self, id: u32, failure: &Failure) -> bool {
        let is_new = self.model.pools[&id]
            .roll
            .as_ref()
            .is_some_and(|roll| !roll.begun);
        let Cause::After(other) = failure.cause else {
            return false;
        };
        is_new
            && self.model.rolls_failed.contains(&other.0)
            && self.model.before(id).contains(&other.0)
    }

    /// The numbers of an outcome are those of the model.
    fn outcome_is_right(
        &mut self,
        id: u32,
        roll: &Roll,
        failure: &Failure,
        standing: &Standing,
    ) -> Checked {
        if self.model.pools[&id].is_oneshot() {
            if let Some(pool) = self.model.pools.get_mut(&id) {
                pool.standing = standing.clone();
            }
            return Ok(());
        }
        let known = self
            .model
            .standing_after(id, roll.generation, failure, roll.newest_before);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return fail("rolls", "unknown");
        };
        let never = pool.policy.restart.policy != RestartPolicy::Always;
        let wanted = if never { standing.wanted } else { known.wanted };
        pool.standing = Standing { wanted, ..known };
        hold!(
            pool.standing == *standing,
            "true numbers",
            "{standing:?}, known {:?}",
            pool.standing
        );
        Ok(())
    }
}
