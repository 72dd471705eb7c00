//! Promises that hold after a whole input, and at the end of a run. Called by `world.rs`.

use crate::model::{Model, Pool};
use crate::oracle::{Checked, Oracle, fail, hold};
use rotad_core::{EmptyState, Engine, Essential, Input, PoolId, PoolState, Time};

impl Model {
    /// A worker of the generation that is rolled out has served for as long as the canary must.
    pub(crate) fn has_soaked(&self, id: u32, now: u64) -> bool {
        let pool = &self.pools[&id];
        let Some(roll) = &pool.roll else { return false };
        if roll.soaked || roll.soaked_by_end {
            return true;
        }
        self.of(id)
            .filter(|(id, _)| *id > roll.newest_before || roll.generation == pool.base)
            .any(|(_, w)| {
                w.generation == roll.generation
                    && w.serves()
                    && (pool.changed || now >= w.soaked_at)
            })
    }

    /// Whether a rolling restart may stop this worker: its successor serves, and so does every other worker that can.
    pub(crate) fn enough_others(&self, id: u64, now: u64) -> Checked {
        let worker = &self.workers[&id];
        let pool_id = worker.pool as u32;
        let pool = &self.pools[&pool_id];
        if !worker.serves() || pool.changed {
            return Ok(());
        }
        let surge = pool.policy.reload.surge;
        if surge > 0 {
            let successor = self
                .of(pool_id)
                .any(|(other, w)| other != id && w.slot == worker.slot && w.serves());
            hold!(
                successor,
                "floor",
                "{id} is retired without a successor that serves"
            );
            let back = pool.roll.as_ref().is_some_and(|roll| roll.rolling_back);
            let replaces = pool.roll.is_none();
            hold!(
                replaces || back || self.has_soaked(pool_id, now),
                "soak",
                "{id} is retired before the canary has soaked"
            );
        }
        let others = self.serving(pool_id) - 1;
        let floor = if surge == 0 {
            pool.policy.count - 1
        } else {
            pool.policy.count
        };
        if others >= floor {
            return Ok(());
        }
        let promising = self.of(pool_id).find(|(_, w)| {
            w.slot < pool.policy.count
                && w.slot != worker.slot
                && w.stays()
                && w.ready.is_none()
                && pool.slots[w.slot as usize].all_deaths <= 1
                && !self
                    .of(pool_id)
                    .any(|(_, o)| o.slot == w.slot && o.serves())
        });
        match promising {
            None => Ok(()),
            Some((other, _)) => fail(
                "floor",
                format!("{id} is retired with {others} others, while {other} is starting"),
            ),
        }
    }
}

impl Oracle {
    /// Workers that serve have health checks, and workers that leave have none.
    fn health_checks(&self) -> Checked {
        for (id, worker) in &self.model.workers {
            let checked = self.model.checked.contains(id);
            let leaves = worker.stop_began.is_some() || worker.exited.is_some();
            hold!(
                checked || !worker.serves(),
                "health",
                "{id} serves and is not checked"
            );
            hold!(!(checked && leaves), "health", "{id} leaves and is checked");
        }
        Ok(())
    }

    pub(crate) fn after(&mut self, now: Time, input: &Input, engine: &Engine) -> Checked {
        self.model.workers.retain(|_, worker| !worker.gone);
        if *input == Input::TimerFired {
            hold!(
                engine.deadline().is_none_or(|at| at > now),
                "no spin",
                "deadline {:?} at {now}",
                engine.deadline()
            );
        }
        self.workers_in_time(now.0)?;
        self.health_checks()?;
        for id in &self.model.rolls_failed {
            let rolls = self
                .model
                .pools
                .get(id)
                .is_none_or(|pool| pool.roll.is_some());
            hold!(
                rolls || self.model.reverted.contains(id),
                "reverted",
                "pool {id}: its roll has failed"
            );
        }
        if let Input::Unhealthy(id) = input {
            let ignored = self.model.workers.get(&id.0).is_some_and(|w| w.serves());
            hold!(!ignored, "unhealthy", "{id} serves on");
        }
        self.adopted()?;
        self.all_answered()?;
        self.forget_removed(engine)?;
        let ids: Vec<u32> = self.model.pools.keys().copied().collect();
        for id in ids {
            let soaked = self.model.has_soaked(id, now.0);
            if let Some(Pool {
                roll: Some(roll), ..
            }) = self.model.pools.get_mut(&id)
            {
                roll.soaked = soaked;
            }
            self.failed_roll_ends(id)?;
            self.done_in_time(id, now.0)?;
            self.counters(id, engine)?;
            self.serving_since(id, now, engine)?;
            self.floor_and_ceiling(id)?;
            self.begun_and_up(id, now.0)?;
            self.filled(id, now.0, engine)?;
            self.one_slot_tries(id, now.0, engine)?;
            self.unreachable(id)?;
            self.ended(id, engine)?;
            self.rolls_in_order(id, engine)?;
            let pool = &self.model.pools[&id];
            hold!(
                !pool.crash_loop_due || pool.crash_loop.is_some(),
                "crash loop",
                "not noticed in pool {id}"
            );
        }
        let extra = if self.model.any_extended { 600_000 } else { 0 };
        let late = now.0
            > self
                .model
                .stop_by
                .saturating_add(self.slack * 4 + 3 * extra);
        hold!(
            !late || self.model.master_exited,
            "stop ends",
            "at {now}, bound {}",
            self.model.stop_by
        );
        Ok(())
    }

    /// Of the workers that a pool is created with, one stays in each desired slot, and the others are asked to stop.
    fn adopted(&self) -> Checked {
        let Some(id) = self.model.adopting else {
            return Ok(());
        };
        let count = self.model.pools[&id].policy.count;
        let workers = self.model.of(id).filter(|(_, w)| w.adopted);
        for (worker, w) in workers.clone() {
            let wanted = w.slot < count && !self.model.is_surplus(worker);
            hold!(
                w.stays() == wanted,
                "adopted",
                "{worker} of slot {}: stays {}, wanted {wanted}",
                w.slot,
                w.stays()
            );
        }
        for (worker, w) in workers.filter(|(_, w)| w.slot < count) {
            let mut here = self.model.of(id).filter(|(_, o)| o.slot == w.slot);
            hold!(
                here.any(|(_, o)| o.adopted && o.stays()),
                "adopted",
                "nothing stays of the slot of {worker}"
            );
        }
        Ok(())
    }

    /// The master keeps dying: no ticket waits any more, and no rolling restart of workers that serve runs.
    fn all_answered(&self) -> Checked {
        if !self.model.dropped {
            return Ok(());
        }
        hold!(
            self.model.tickets.is_empty(),
            "one answer",
            "not answered: {:?}",
            self.model.tickets
        );
        for (id, pool) in &self.model.pools {
            hold!(
                pool.roll.is_none() || pool.is_oneshot(),
                "rolls",
                "that of pool {id} goes on"
            );
        }
        Ok(())
    }

    /// A worker whose listening socket was replaced is stopped once another one serves in its slot, or immediately if it
    /// did not serve.
    fn unreachable(&self, id: u32) -> Checked {
        let pool = &self.model.pools[&id];
        for (worker, w) in self.model.of(id) {
            let Some(was_ready) = w
                .unreachable
                .filter(|_| w.lives() && w.stop_began.is_none() && w.killed.is_none())
            else {
                continue;
            };
            hold!(
                was_ready,
                "unreachable",
                "{worker} was not stopped, though it was starting"
            );
            hold!(
                !pool.stopped_alone && w.slot < pool.policy.count,
                "unreachable",
                "{worker} of slot {} was not stopped",
                w.slot
            );
            let successor_serves = pool.roll.is_none()
                && self
                    .model
                    .of(id)
                    .any(|(_, o)| o.slot == w.slot && o.serves());
            hold!(
                !successor_serves,
                "unreachable",
                "{worker} was not stopped, though another one serves"
            );
        }
        Ok(())
    }

    /// Records that every desired worker serves. Called between two notices of one input, since a later notice may retire
    /// one of them.
    pub(crate) fn notice_up(&mut self, id: u32) {
        if self.model.pools.get(&id).is_some_and(|pool| pool.running)
            && self.model.is_full(id)
            && let Some(pool) = self.model.pools.get_mut(&id)
        {
            pool.up = true;
        }
    }

    fn workers_in_time(&self, now: u64) -> Checked {
        let slack = self.slack;
        for (id, w) in &self.model.workers {
            if let Some(stop_began) = w.stop_began
                && w.lives()
                && w.killed.is_none()
                && !w.extended
            {
                let by = stop_began + w.stop_time + slack;
                hold!(
                    now <= by,
                    "stop late",
                    "{id} lives at {now}, it had until {by}"
                );
            }
            if w.stays() && w.ready.is_none() && !w.extended {
                let by = w.spawned + w.timeout + slack;
                hold!(
                    now <= by,
                    "ready timeout late",
                    "{id} is not ready at {now}, it had until {by}"
                );
            }
            let handled = w.exited.is_none() || w.tree_stopping || w.tree_killed.is_some();
            hold!(
                handled,
                "tree killed",
                "{id} has ended, and the rest of its tree is neither stopped nor killed"
            );
            if let Some(since) = w.killed.or(w.tree_killed)
                && !w.lost
            {
                hold!(
                    now <= since + 900 + slack,
                    "unkillable",
                    "{id} should be reported as unkillable by now"
                );
            }
        }
        Ok(())
    }

    /// A removed pool is forgotten with the input that ends its last worker.
    fn forget_removed(&mut self, engine: &Engine) -> Checked {
        let model = &self.model;
        let gone: Vec<u32> = model
            .pools
            .iter()
            .filter(|(id, p)| p.removed && model.of(**id).next().is_none())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            hold!(
                engine.view().pool(PoolId(id)).is_none(),
                "removed",
                "pool {id} is still there"
            );
            self.model.pools.remove(&id);
        }
        Ok(())
    }

    /// Updates whether a pool has begun, whether it is up, and since when an essential one has had no ready worker. Checks
    /// that the loss of an essential pool is reported in time.
    fn begun_and_up(&mut self, id: u32, now: u64) -> Checked {
        let free = self.model.may_begin(id);
        if let Some(pool) = self.model.pools.get_mut(&id) {
            pool.begun |= pool.running && free;
        }
        let surely = self.model.is_surely_full(id);
        let (full, serving, slack) = (self.model.is_full(id), self.model.serving(id), self.slack);
        let held = self.model.is_held(id);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return Ok(());
        };
        pool.up |= pool.running && full;
        pool.surely_up |= pool.running && surely;
        let Some(Essential::Ready(span)) = pool.policy.essential else {
            return Ok(());
        };
        let empty = pool.running && !pool.is_oneshot() && pool.policy.count > 0 && serving == 0;
        if !empty || held {
            pool.may_be_unready_since = None;
        } else {
            pool.may_be_unready_since.get_or_insert(now);
        }
        let unready = empty && pool.begun;
        if !unready {
            pool.unready_since = None;
            pool.unready_reported = false;
            return Ok(());
        }
        let since = *pool.unready_since.get_or_insert(now);
        hold!(
            pool.unready_reported || now <= since + span.0 + slack,
            "essential",
            "pool {id} has had no ready worker since {since}"
        );
        Ok(())
    }

    /// A rolling restart does not continue once a new worker has failed, however late.
    fn failed_roll_ends(&self, id: u32) -> Checked {
        let Some(roll) = &self.model.pools[&id].roll else {
            return Ok(());
        };
        hold!(
            roll.rolling_back || !roll.must_end,
            "failed roll",
            "{:?} failed, and it continues",
            roll.failed
        );
        Ok(())
    }

    /// A rolling restart ends once every slot has its new worker and each has been watched for long enough.
    fn done_in_time(&self, id: u32, now: u64) -> Checked {
        let pool = &self.model.pools[&id];
        let Some(roll) = pool
            .roll
            .as_ref()
            .filter(|roll| !roll.rolling_back && !pool.is_oneshot())
        else {
            return Ok(());
        };
        if !self.model.rolls_before(id).is_empty() {
            return Ok(());
        }
        let mut seen = [0; 8];
        let mut until = 0;
        for (worker, w) in self.model.of(id).filter(|(_, w)| w.stays()) {
            let fresh = worker > roll.newest_before && w.generation == roll.generation;
            if !fresh || !w.serves() || w.slot >= pool.policy.count {
                return Ok(());
            }
            seen[w.slot as usize] += 1;
            // An exit with success is better evidence than age.
            if !roll.ended_well.contains(&w.slot) {
                until = until.max(w.soaked_at).max(w.watched_until);
            }
        }
        // With surge 0 a slot is given up only when its old worker is gone.
        let leaving =
            pool.policy.reload.surge == 0 && self.model.of(id).any(|(_, w)| w.is_leaving());
        let all = (0..pool.policy.count).all(|slot| seen[slot as usize] == 1);
        let late = all && !leaving && now > until + self.slack;
        hold!(
            !late,
            "done late",
            "at {now}, every worker had lived long enough at {until}"
        );
        Ok(())
    }

    /// A rolling restart that waits for others names them; it ends if one of them was not completed.
    fn rolls_in_order(&self, id: u32, engine: &Engine) -> Checked {
        let model = &self.model;
        if model.pools[&id]
            .roll
            .as_ref()
            .is_some_and(|roll| roll.to_base)
        {
            return Ok(());
        }
        let known = model.rolls_before(id);
        let shown = engine
            .view()
            .pool(PoolId(id))
            .map(|view| view.roll.after)
            .unwrap_or_default();
        hold!(
            shown.iter().map(|pool| pool.0).eq(known.iter().copied()),
            "roll order",
            "{shown:?}, known {known:?}"
        );
        let pool = &model.pools[&id];
        let is_new = !pool.is_oneshot()
            && pool
                .roll
                .as_ref()
                .is_some_and(|roll| !roll.begun && !roll.rolling_back);
        let over = |other: &u32| {
            model.rolls_failed.contains(other)
                && model
                    .pools
                    .get(other)
                    .is_some_and(|other| other.roll.is_none())
        };
        let failed = model.before(id).into_iter().find(over).filter(|_| is_new);
        hold!(
            failed.is_none(),
            "roll order",
            "pool {id} is still to be rolled, though {failed:?} was not"
        );
        Ok(())
    }

    fn counters(&self, id: u32, engine: &Engine) -> Checked {
        let Some(view) = engine.view().pool(PoolId(id)) else {
            return fail("view", "a pool is missing");
        };
        let model = &self.model;
        let serving = model.serving(id);
        hold!(
            view.ready == serving,
            "view",
            "ready {} but {serving} serve",
            view.ready
        );
        let alive = model.of(id).filter(|(_, w)| w.lives() && !w.lost).count() as u32;
        hold!(
            view.alive == alive,
            "view",
            "alive {} but {alive} live",
            view.alive
        );
        let draining = model
            .of(id)
            .filter(|(_, w)| w.lives() && w.is_leaving())
            .count() as u32;
        hold!(
            view.draining == draining,
            "view",
            "draining {} but {draining} drain",
            view.draining
        );
        let pool = &model.pools[&id];
        let serve = model.generations_that_serve(id);
        hold!(
            view.serving == serve.clone().into_iter().collect::<Vec<_>>(),
            "true numbers",
            "{:?}",
            view.serving
        );
        hold!(
            view.outdated == model.outdated(id),
            "true numbers",
            "{} outdated, {:?}",
            view.outdated,
            pool.outdated
        );
        let rolls = pool.roll.is_some();
        let mixed = pool.running && !rolls && pool.crash_loop.is_none() && serve.len() > 1;
        hold!(
            (view.state == PoolState::Mixed) == mixed,
            "mixed",
            "pool {id} is {:?}, {serve:?} serve",
            view.state
        );
        let well = view.state == PoolState::Ok;
        hold!(
            !well || view.outdated == 0,
            "outdated",
            "pool {id} is well, with {} outdated",
            view.outdated
        );
        let all_there = pool.running
            && !rolls
            && pool.crash_loop.is_none()
            && serving > 0
            && serving >= view.wanted;
        let well_enough = well || mixed || view.outdated > 0;
        hold!(
            !all_there || well_enough,
            "outdated",
            "pool {id} is {:?}, and nothing is wrong",
            view.state
        );
        let (last_good, before) = (view.last_good.0, view.previous_good.0);
        hold!(
            last_good == pool.last_good && before == pool.previous_good(),
            "history",
            "last good {last_good}, before that {before}"
        );
        let known: Vec<u32> = engine
            .view()
            .served(PoolId(id))
            .into_iter()
            .map(|of| of.0)
            .collect();
        hold!(
            known == pool.served,
            "history",
            "{known:?} known, {:?} served",
            pool.served
        );
        let known = engine.view().workers().filter(|w| w.pool.0 == id).count();
        hold!(
            known == model.of(id).count(),
            "view",
            "{known} workers known"
        );
        Ok(())
    }

    /// Since when a pool serves without a gap.
    fn serving_since(&mut self, id: u32, now: Time, engine: &Engine) -> Checked {
        let since = engine
            .view()
            .pool(PoolId(id))
            .and_then(|view| view.serving_since);
        let serves = self.model.serving(id) > 0;
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return Ok(());
        };
        let expected = serves.then(|| pool.serving_since.unwrap_or(now));
        pool.serving_since = expected;
        hold!(
            since == expected,
            "true numbers",
            "pool {id} serves since {since:?}, not {expected:?}"
        );
        Ok(())
    }

    fn floor_and_ceiling(&mut self, id: u32) -> Checked {
        let serving = self.model.serving(id);
        let alive = self
            .model
            .of(id)
            .filter(|(_, w)| w.lives() && !w.lost)
            .count() as u32;
        let full = self.model.is_full(id);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return Ok(());
        };
        let Pool {
            policy,
            undisturbed,
            full_once,
            ..
        } = pool;
        if !*undisturbed {
            return Ok(());
        }
        let (count, surge) = (policy.count, policy.reload.surge);
        *full_once |= full && serving >= count && pool.roll.is_none();
        let floor = if surge == 0 {
            count.saturating_sub(1)
        } else {
            count
        };
        hold!(
            !*full_once || serving >= floor,
            "floor",
            "{serving} serve, promised {floor}"
        );
        let ceiling = count + surge + policy.reload.max_draining;
        hold!(
            alive <= ceiling,
            "ceiling",
            "{alive} live, promised {ceiling}"
        );
        Ok(())
    }

    /// No slot stays empty without a reason.
    fn filled(&self, id: u32, now: u64, engine: &Engine) -> Checked {
        let pool = &self.model.pools[&id];
        if !pool.running || pool.crash_loop.is_some() || !pool.begun {
            return Ok(());
        }
        if pool.is_oneshot() {
            let waits = pool.slots[0]
                .retry_at
                .is_some_and(|at| now <= at + self.slack);
            let well = self.model.has_processes(id)
                || pool.oneshot_done
                || pool.oneshot_failed
                || waits && pool.roll.is_none();
            hold!(well, "filled", "oneshot {id} does not run");
            return Ok(());
        }
        let in_place = pool.policy.reload.surge == 0 || pool.changed;
        let mut excused = self.model.above_ceiling(id);
        let (mut held, mut leaving_unready) = ([false; 8], [false; 8]);
        for (_, w) in self.model.of(id) {
            held[w.slot as usize] |= w.stays() || in_place && w.is_leaving();
            leaving_unready[w.slot as usize] |= w.is_leaving() && w.lives() && w.ready.is_none();
        }
        for slot in 0..pool.policy.count {
            let waits = pool.slots[slot as usize]
                .retry_at
                .is_some_and(|at| now <= at + self.slack);
            if held[slot as usize] || waits || in_place && pool.roll.is_some() {
                continue;
            }
            let empty = engine
                .view()
                .empty_slots(PoolId(id))
                .find(|empty| empty.slot.0 == slot);
            if empty.is_some_and(|empty| empty.state == EmptyState::Waits) {
                hold!(
                    self.model.is_crowded(id),
                    "starts limited",
                    "slot {slot} of pool {id} waits for no other start"
                );
                continue;
            }
            let never = pool.may_give_up();
            let ended = never
                && engine.view().empty_slots(PoolId(id)).any(|empty| {
                    empty.slot.0 == slot
                        && matches!(empty.state, EmptyState::Done | EmptyState::Failed)
                });
            if !ended && leaving_unready[slot as usize] && excused > 0 {
                excused -= 1;
                continue;
            }
            hold!(ended, "filled", "slot {slot} of pool {id} is empty");
        }
        Ok(())
    }

    /// In a crash loop one slot is tried at a time, until a worker that has become ready in it lets the others start.
    fn one_slot_tries(&self, id: u32, now: u64, engine: &Engine) -> Checked {
        let model = &self.model;
        let pool = &model.pools[&id];
        let Some(since) = pool
            .crash_loop
            .filter(|_| pool.running && pool.begun && pool.roll.is_none())
        else {
            return Ok(());
        };
        let tries = |w: &crate::model::Worker| w.stays() && w.ready.is_none_or(|at| at >= since);
        if pool.is_oneshot() || model.is_crowded(id) || model.of(id).any(|(_, w)| tries(w)) {
            return Ok(());
        }
        for empty in engine
            .view()
            .empty_slots(PoolId(id))
            .filter(|empty| empty.state == EmptyState::Backoff)
        {
            let slot_state = &pool.slots[empty.slot.0 as usize];
            let waits = slot_state.retry_at.is_some_and(|at| now <= at + self.slack);
            let leaving = model
                .of(id)
                .any(|(_, w)| w.slot == empty.slot.0 && w.is_leaving());
            if waits || leaving {
                return Ok(());
            }
        }
        let empty = engine
            .view()
            .empty_slots(PoolId(id))
            .any(|empty| empty.state == EmptyState::Backoff);
        hold!(!empty, "crash loop", "no slot of pool {id} is tried");
        Ok(())
    }

    /// The end of an essential pool is reported immediately, and once.
    fn ended(&mut self, id: u32, engine: &Engine) -> Checked {
        let there = self.model.has_processes(id);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return Ok(());
        };
        let over = |empty: &rotad_core::EmptySlot| {
            matches!(empty.state, EmptyState::Done | EmptyState::Failed)
        };
        let ended = engine.view().empty_slots(PoolId(id)).filter(over).count() as u32;
        let watched = pool.policy.essential == Some(Essential::Exit)
            && pool.running
            && pool.begun
            && !pool.is_oneshot();
        if !watched || there || pool.policy.count == 0 || ended < pool.policy.count {
            pool.end_reported = false;
            return Ok(());
        }
        hold!(
            pool.end_reported,
            "essential",
            "pool {id} has ended, and that was not reported"
        );
        Ok(())
    }

    /// Long after the last fault, everything is in its desired state.
    pub(crate) fn check_converged(&self, now: Time, engine: &Engine) -> Checked {
        let model = &self.model;
        if model.stop_at.is_some() {
            return fail("stop ends", format!("still running at {now}"));
        }
        hold!(
            model.tickets.is_empty(),
            "one answer",
            "never answered: {:?}",
            model.tickets
        );
        hold!(
            engine.deadline().is_none(),
            "idle",
            "wants to be woken at {:?}",
            engine.deadline()
        );
        for (id, pool) in &model.pools {
            let Some(view) = engine.view().pool(PoolId(*id)) else {
                return fail("view", "a pool is missing");
            };
            hold!(pool.roll.is_none(), "converges", "a roll still runs");
            let leaving = model.of(*id).filter(|(_, w)| !w.serves()).count();
            hold!(
                leaving == 0,
                "converges",
                "{leaving} workers of pool {id} do not serve"
            );
            if !pool.running {
                hold!(
                    view.state == PoolState::Stopped && view.ready == 0,
                    "converges",
                    "{view:?}"
                );
                continue;
            }
            let ended = engine
                .view()
                .empty_slots(PoolId(*id))
                .filter(|slot| matches!(slot.state, EmptyState::Done | EmptyState::Failed))
                .count() as u32;
            if !pool.begun && (model.is_held(*id) || !view.held_by.is_empty()) {
                hold!(
                    view.state == PoolState::Starting && !view.held_by.is_empty(),
                    "converges",
                    "{view:?}"
                );
                continue;
            }
            if pool.is_oneshot() {
                let state = if pool.oneshot_done {
                    PoolState::Done
                } else {
                    PoolState::Failed
                };
                hold!(
                    view.state == state && (pool.oneshot_done || pool.oneshot_failed),
                    "converges",
                    "{view:?}"
                );
                continue;
            }
            let never = pool.may_give_up();
            hold!(
                ended == 0 || never,
                "converges",
                "{ended} slots of pool {id} have given up"
            );
            hold!(
                view.ready + ended == pool.policy.count,
                "converges",
                "{} of {} ready",
                view.ready,
                pool.policy.count
            );
            let well = matches!(view.state, PoolState::Ok | PoolState::Mixed) || view.outdated > 0;
            hold!(
                ended > 0 || well,
                "converges",
                "pool {id} is {:?}",
                view.state
            );
            let mixed = model.of(*id).any(|(_, w)| w.generation != pool.base);
            hold!(
                !mixed || pool.mixed,
                "converges",
                "pool {id} is of several generations, wanted {}",
                pool.base
            );
        }
        Ok(())
    }

    pub(crate) fn finish(&self, left: bool) -> Checked {
        hold!(
            left && self.model.master_exited,
            "stop ends",
            "nothing happens any more, and the master has not exited"
        );
        hold!(
            self.model.tickets.is_empty(),
            "one answer",
            "never answered: {:?}",
            self.model.tickets
        );
        Ok(())
    }
}
