//! What the diary says, held against the books.

use crate::model::{Pool, Roll, is_end};
use crate::oracle::{Oracle, Verdict, fail, hold};
use rotad_core::{Cause, OnFailure, Outcome, Readiness, Record, Time, Why};
use std::collections::BTreeSet;

impl Oracle {
    pub(crate) fn record(&mut self, now: Time, record: &Record) -> Verdict {
        match record {
            Record::Ready { worker, .. } => self.ready(now, worker.0),
            Record::Died { worker, cause, failure, before_ready, retry_in } => {
                self.died(now, worker.0, *cause, (*failure, *before_ready), retry_in.map(|span| span.0))
            }
            Record::Retired { worker, why } => self.retired(now, worker.0, *why),
            Record::Lost { worker } => {
                let Some(worker) = self.books.workers.get_mut(&worker.0) else { return fail("lost", "unknown") };
                let since = worker.killed.or(worker.exited);
                hold!(since.is_some_and(|at| now.0 >= at + 900), "lost", "named as lost too early");
                worker.lost = true;
                Ok(())
            }
            Record::CrashLoop { pool, .. } => {
                let Some(pool) = self.books.pools.get_mut(&pool.0) else { return fail("crash loop", "unknown") };
                let limit = (pool.policy.count.div_ceil(2) as usize).max(2);
                let deaths = pool.all_early.iter().filter(|at| now.0 - **at <= 10_000).count();
                hold!(deaths >= limit, "crash loop", "{deaths} early deaths, limit {limit}");
                pool.crash_loop = Some(now.0);
                pool.rolled_in_loop = pool.roll.is_some();
                Ok(())
            }
            Record::CrashLoopOver { pool } => {
                if let Some(pool) = self.books.pools.get_mut(&pool.0) {
                    pool.crash_loop = None;
                    pool.owes_notice = false;
                    pool.early.clear();
                    pool.slots.iter_mut().for_each(|slot| slot.forgiven = true);
                }
                Ok(())
            }
            Record::RollStarted { .. }
            | Record::RollingBack { .. }
            | Record::RollEnded { .. }
            | Record::RollWaits { .. }
            | Record::RollSuperseded { .. } => self.roll_record(record),
            Record::Killed { .. }
            | Record::Soaked { .. }
            | Record::Stopped { .. }
            | Record::Replaced { .. }
            | Record::PoolReady { .. }
            | Record::PoolStopped { .. }
            | Record::Held { .. }
            | Record::StepDone { .. }
            | Record::Renewed { .. }
            | Record::EssentialLost { .. } => Ok(()),
        }
    }

    fn roll_record(&mut self, record: &Record) -> Verdict {
        match record {
            Record::RollStarted { pool, generation, .. } => {
                let Some(pool) = self.books.pools.get_mut(&pool.0) else { return fail("rolls", "unknown pool") };
                hold!(pool.roll.is_none() && pool.running, "rolls", "a second one, or of a pool that stops");
                hold!(generation.0 == pool.latest + 1, "generation", "{generation} after {}", pool.latest);
                pool.latest = generation.0;
                pool.rolled_in_loop = true;
                pool.forgive();
                let (back, troubled, retired, soaked) = (false, false, false, false);
                let failed = BTreeSet::new();
                pool.roll = Some(Roll { generation: generation.0, back, troubled, retired, soaked, failed });
                Ok(())
            }
            Record::RollingBack { pool, failure, .. } => {
                let cancelled = self.books.cancelled;
                let Some(Pool { roll: Some(roll), .. }) = self.books.pools.get_mut(&pool.0) else {
                    return fail("rolls", "back from none");
                };
                hold!(!roll.back, "rolls", "back twice");
                let at_fault = failure.worker.map_or(cancelled, |id| roll.failed.contains(&id.0));
                hold!(at_fault, "unjustified", "rolled back for {failure:?}");
                roll.back = true;
                Ok(())
            }
            Record::RollEnded { pool, outcome } => self.roll_ended(pool.0, outcome),
            Record::RollWaits { pool } => {
                let roll = self.books.pools.get(&pool.0).and_then(|pool| pool.roll.as_ref());
                hold!(roll.is_some_and(|roll| roll.retired || roll.back), "waits", "though nobody was retired yet");
                Ok(())
            }
            Record::RollSuperseded { pool, .. } => {
                let pool = self.books.pools.get_mut(&pool.0);
                let roll = pool.and_then(|pool| pool.roll.as_mut());
                hold!(roll.is_some_and(|roll| !roll.retired), "superseded", "though somebody was retired");
                Ok(())
            }
            Record::Ready { .. }
            | Record::Died { .. }
            | Record::Retired { .. }
            | Record::Lost { .. }
            | Record::CrashLoop { .. }
            | Record::CrashLoopOver { .. }
            | Record::Killed { .. }
            | Record::Soaked { .. }
            | Record::Stopped { .. }
            | Record::Replaced { .. }
            | Record::PoolReady { .. }
            | Record::PoolStopped { .. }
            | Record::Held { .. }
            | Record::StepDone { .. }
            | Record::Renewed { .. }
            | Record::EssentialLost { .. } => Ok(()),
        }
    }

    fn ready(&mut self, now: Time, id: u64) -> Verdict {
        let slack = self.slack;
        let Some(worker) = self.books.workers.get_mut(&id) else { return fail("ready", "unknown") };
        hold!(worker.stays() && worker.ready.is_none(), "ready", "{id} became ready twice, or after its end");
        worker.ready = Some(now.0);
        let (born, extended, spawned) = (worker.born, worker.extended, worker.spawned);
        let pool = &self.books.pools[&(worker.pool as u32)];
        hold!(extended || now.0 <= spawned + pool.policy.ready_timeout.0 + slack, "ready", "{id} after its time");
        if let Readiness::Alive(span) = pool.policy.readiness
            && let Some(born) = born
        {
            hold!(now.0 <= born + span.0 + slack, "ready", "{id} has lived long enough before");
        }
        Ok(())
    }

    fn died(
        &mut self,
        now: Time,
        id: u64,
        cause: Cause,
        (failure, before_ready): (bool, bool),
        retry: Option<u64>,
    ) -> Verdict {
        let Some(worker) = self.books.workers.get_mut(&id) else { return fail("died", "unknown") };
        hold!(worker.asked.is_none(), "died", "{id} had been asked to");
        let (slot, spawned, ready, generation) = (worker.slot, worker.spawned, worker.ready, worker.generation);
        hold!(before_ready == ready.is_none(), "died", "before_ready of {id}");
        let Some(pool) = self.books.pools.get_mut(&(worker.pool as u32)) else { return fail("died", "no pool") };
        match cause {
            Cause::NotReadyInTime => {
                let by = spawned + pool.policy.ready_timeout.0;
                hold!(ready.is_none() && now.0 >= by, "impatient", "{id} at {now}, it had until {by}");
                worker.overdue = true;
                worker.asked = Some(now.0);
            }
            Cause::Exited(_) => hold!(worker.exited.is_some(), "died", "{id} lives"),
            Cause::SpawnFailed => hold!(worker.gone, "died", "{id} lives"),
            Cause::Unhealthy => hold!(ready.is_some(), "died", "{id} is unhealthy and was never ready"),
            Cause::Cancelled => return fail("died", "cancelled"),
        }
        pool.quiet = false;
        let is_end = is_end(&pool.policy, cause);
        hold!(failure != is_end, "died", "failure of {id}");
        pool.slots[slot as usize].died_ever += 1;
        if let Some(roll) = &mut pool.roll {
            roll.troubled = true;
            if roll.generation == generation {
                roll.failed.insert(id);
            }
        }
        let ready_for = ready.map(|at| now.0 - at);
        if failure && ready_for.is_none_or(|span| span <= 1000) {
            pool.early.push(now.0);
            pool.all_early.push(now.0);
        }
        let Some(retry) = retry else { return Ok(()) };
        let (least, most, exact) = pool.count_death(slot, ready_for, is_end, now.0 - spawned);
        hold!(retry <= most, "backoff late", "slot {slot} waits {retry}, at most {most}");
        hold!(!exact || retry >= least, "backoff early", "slot {slot} waits {retry}, at least {least}");
        pool.slots[slot as usize].retry_at = Some(now.0 + retry);
        pool.slots[slot as usize].forgiven = false;
        let limit = (pool.policy.count.div_ceil(2) as usize).max(2);
        let deaths = pool.early.iter().filter(|at| now.0 - **at <= 10_000).count();
        let early = !is_end && ready_for.is_none_or(|span| span <= 1000);
        pool.owes_notice = early && deaths >= limit && pool.roll.is_none();
        Ok(())
    }

    fn retired(&mut self, now: Time, id: u64, why: Why) -> Verdict {
        let books = &self.books;
        let Some(worker) = books.workers.get(&id) else { return fail("unasked", "unknown") };
        hold!(worker.stays(), "unasked", "{id} is already leaving");
        let pool_id = worker.pool as u32;
        let pool = &books.pools[&pool_id];
        let reload = pool.policy.reload;
        match why {
            Why::Stop => hold!(!pool.running, "unasked", "{id} stopped in a running pool"),
            Why::Recycled | Why::Unhealthy => return fail("unasked", format!("{id}: {why:?}")),
            Why::ScaledDown => hold!(worker.slot >= pool.policy.count, "unasked", "{id} is wanted"),
            Why::Abandoned => {
                let Some(roll) = &pool.roll else { return fail("unasked", format!("{id} abandoned without a roll")) };
                let alone = !books.of(pool_id).any(|(other, w)| other != id && w.slot == worker.slot && w.stays());
                hold!(
                    worker.generation == roll.generation || !worker.serves() || roll.back && !alone,
                    "unasked",
                    "{id} abandoned"
                );
            }
            Why::Replaced => {
                let Some(roll) = &pool.roll else { return fail("unasked", format!("{id} replaced without a roll")) };
                let goal = if roll.back { pool.wanted } else { roll.generation };
                hold!(worker.generation != goal, "unasked", "{id} is of the generation that the roll is after");
                let draining = books.of(pool_id).filter(|(_, w)| w.parts() && w.lives()).count() as u32;
                hold!(draining < reload.max_draining.max(1), "draining", "{draining} drain already");
                books.enough_others(id, now.0)?;
            }
        }
        if let Some(worker) = self.books.workers.get_mut(&id) {
            worker.asked = Some(now.0);
            worker.announced = Some(why);
        }
        if let Some(Pool { roll: Some(roll), .. }) = self.books.pools.get_mut(&pool_id)
            && why == Why::Replaced
        {
            roll.retired = true;
        }
        Ok(())
    }

    fn roll_ended(&mut self, id: u32, outcome: &Outcome) -> Verdict {
        let cancelled = self.books.cancelled;
        let staying: Vec<(u32, u32, bool)> =
            self.books.of(id).filter(|(_, w)| w.stays()).map(|(_, w)| (w.slot, w.generation, w.serves())).collect();
        let Some(pool) = self.books.pools.get_mut(&id) else { return fail("rolls", "unknown") };
        let Some(roll) = pool.roll.take() else { return fail("rolls", "ended twice") };
        let count = pool.policy.count;
        match outcome {
            Outcome::Done { generation, .. } => {
                hold!(generation.0 == roll.generation && !roll.back, "rolls", "done: {generation}");
                let old = staying.iter().find(|(slot, g, _)| *slot < count && *g != generation.0);
                hold!(old.is_none(), "done", "though {old:?} serves");
                let serving = staying.iter().filter(|(slot, _, serves)| *slot < count && *serves).count();
                hold!(roll.troubled || pool.changed || serving as u32 == count, "done", "with {serving} of {count}");
                pool.wanted = generation.0;
                pool.mixed = false;
            }
            Outcome::Aborted { failure, .. } => {
                let at_fault = failure.worker.map_or(cancelled, |id| roll.failed.contains(&id.0));
                hold!(at_fault || failure.mixed, "unjustified", "aborted for {failure:?}");
                let left = staying.iter().any(|(slot, generation, _)| *slot < count && *generation != pool.wanted);
                let stays = pool.policy.reload.on_failure == OnFailure::Abort || pool.changed || pool.same_ever;
                hold!(!left || failure.mixed || stays || pool.mixed, "rolls back", "aborted, and some stay");
                pool.mixed |= left;
            }
            Outcome::RolledBack { .. } => {
                hold!(roll.back, "rolls", "back without going back");
                let new = staying.iter().find(|(slot, generation, _)| *slot < count && *generation != pool.wanted);
                hold!(new.is_none(), "rolled back", "though {new:?} serves");
                pool.mixed = false;
            }
            Outcome::Superseded | Outcome::Nothing => {
                pool.mixed |= staying.iter().any(|(_, generation, _)| *generation != pool.wanted);
            }
        }
        pool.forgive();
        Ok(())
    }
}
