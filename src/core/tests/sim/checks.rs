//! Checks of the world after each input, and at the end of a run. Called by `world.rs`.

use crate::model::{Model, Pool};
use crate::oracle::{Oracle, Verdict, fail, hold};
use rotad_core::{EmptyState, Engine, Essential, Input, PoolId, PoolState, Time};

impl Model {
    /// A worker of the rolling generation has served for as long as the first one must.
    pub(crate) fn has_soaked(&self, id: u32, now: u64) -> bool {
        let pool = &self.pools[&id];
        let Some(roll) = &pool.roll else { return false };
        if roll.soaked || roll.soaked_by_end {
            return true;
        }
        self.of(id)
            .filter(|(id, _)| *id > roll.after || roll.generation == pool.wanted)
            .any(|(_, w)| {
                w.generation == roll.generation
                    && w.serves()
                    && (pool.changed || now >= w.soaked_at)
            })
    }

    /// A rolling restart may stop this worker: its successor serves, and so does every other worker that can.
    pub(crate) fn enough_others(&self, id: u64, now: u64) -> Verdict {
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
            let back = pool.roll.as_ref().is_some_and(|roll| roll.back);
            let renewal = pool.roll.is_none();
            hold!(
                renewal || back || self.has_soaked(pool_id, now),
                "soak",
                "{id} is retired before the first new one has soaked"
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
                && pool.slots[w.slot as usize].died_ever <= 1
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
    /// The workers that serve are checked, and those that leave are not.
    fn health_checks(&self) -> Verdict {
        for (id, worker) in &self.model.workers {
            let checked = self.model.checked.contains(id);
            let leaves = worker.asked.is_some() || worker.exited.is_some();
            hold!(
                checked || !worker.serves(),
                "health",
                "{id} serves and is not checked"
            );
            hold!(!(checked && leaves), "health", "{id} leaves and is checked");
        }
        Ok(())
    }

    pub(crate) fn after(&mut self, now: Time, event: &Input, engine: &Engine) -> Verdict {
        self.model.workers.retain(|_, worker| !worker.gone);
        if *event == Input::TimerFired {
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
        if let Input::Unhealthy(id) = event {
            let ignored = self.model.workers.get(&id.0).is_some_and(|w| w.serves());
            hold!(!ignored, "unhealthy", "{id} serves on");
        }
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
            self.floor_and_ceiling(id)?;
            self.begun_and_up(id, now.0)?;
            self.filled(id, now.0, engine)?;
            self.one_slot_tries(id, now.0, engine)?;
            self.unreachable(id)?;
            self.ended(id, engine)?;
            self.rolls_in_order(id, engine)?;
            let pool = &self.model.pools[&id];
            hold!(
                !pool.owes_notice || pool.crash_loop.is_some(),
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
            !late || self.model.left,
            "stop ends",
            "at {now}, bound {}",
            self.model.stop_by
        );
        Ok(())
    }

    /// A worker with a replaced socket is stopped once another one serves in its slot; immediately if it did not serve.
    fn unreachable(&self, id: u32) -> Verdict {
        let pool = &self.model.pools[&id];
        for (worker, w) in self.model.of(id) {
            let Some(was_ready) = w
                .unreachable
                .filter(|_| w.lives() && w.asked.is_none() && w.killed.is_none())
            else {
                continue;
            };
            hold!(
                was_ready,
                "unreachable",
                "{worker} lingers, though it was starting"
            );
            hold!(
                !pool.dropped && w.slot < pool.policy.count,
                "unreachable",
                "{worker} of slot {} lingers",
                w.slot
            );
            let heir = pool.roll.is_none()
                && self
                    .model
                    .of(id)
                    .any(|(_, o)| o.slot == w.slot && o.serves());
            hold!(
                !heir,
                "unreachable",
                "{worker} lingers, though another one serves"
            );
        }
        Ok(())
    }

    /// Every wanted worker serves, in the midst of a step: one that replaces another may be retired later in it.
    pub(crate) fn notice_up(&mut self, id: u32) {
        if self.model.pools.get(&id).is_some_and(|pool| pool.running)
            && self.model.is_full(id)
            && let Some(pool) = self.model.pools.get_mut(&id)
        {
            pool.up = true;
        }
    }

    fn workers_in_time(&self, now: u64) -> Verdict {
        let slack = self.slack;
        for (id, w) in &self.model.workers {
            if let Some(asked) = w.asked
                && w.lives()
                && w.killed.is_none()
                && !w.extended
            {
                let by = asked + w.waits + slack;
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
                    "too patient",
                    "{id} is not ready at {now}, it had until {by}"
                );
            }
            let told = w.exited.is_none() || w.outlived || w.swept.is_some();
            hold!(
                told,
                "swept",
                "{id} has ended, and what is left of it is nobody's affair"
            );
            if let Some(since) = w.killed.or(w.swept)
                && !w.lost
            {
                hold!(
                    now <= since + 900 + slack,
                    "lost",
                    "{id} should be named as lost by now"
                );
            }
        }
        Ok(())
    }

    /// A pool that is not wanted any more is forgotten in the step in which the last of it is gone.
    fn forget_removed(&mut self, engine: &Engine) -> Verdict {
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

    /// Whether a pool still has to wait, whether it is up, and since when an essential one has had nobody ready.
    fn begun_and_up(&mut self, id: u32, now: u64) -> Verdict {
        let free = self.model.is_free(id);
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
        let dark = empty && pool.begun;
        if !dark {
            pool.unready_since = None;
            pool.unready_reported = false;
            return Ok(());
        }
        let since = *pool.unready_since.get_or_insert(now);
        hold!(
            pool.unready_reported || now <= since + span.0 + slack,
            "essential",
            "pool {id} is dark since {since}"
        );
        Ok(())
    }

    /// No roll continues with a generation of which a new worker has failed, however late.
    fn failed_roll_ends(&self, id: u32) -> Verdict {
        let Some(roll) = &self.model.pools[&id].roll else {
            return Ok(());
        };
        hold!(
            roll.back || !roll.has_to_end,
            "failed roll",
            "{:?} failed, and it goes on",
            roll.failed
        );
        Ok(())
    }

    /// Every slot has its new worker, and each has been watched for long enough: the roll is over.
    fn done_in_time(&self, id: u32, now: u64) -> Verdict {
        let pool = &self.model.pools[&id];
        let Some(roll) = pool
            .roll
            .as_ref()
            .filter(|roll| !roll.back && !pool.is_oneshot())
        else {
            return Ok(());
        };
        if !self.model.rolls_before(id).is_empty() {
            return Ok(());
        }
        let mut seen = [0; 8];
        let mut until = 0;
        for (worker, w) in self.model.of(id).filter(|(_, w)| w.stays()) {
            let fresh = worker > roll.after && w.generation == roll.generation;
            if !fresh || !w.serves() || w.slot >= pool.policy.count {
                return Ok(());
            }
            seen[w.slot as usize] += 1;
            // A good end says more than an age.
            if !roll.ended_well.contains(&w.slot) {
                until = until.max(w.soaked_at).max(w.watched_until);
            }
        }
        // Surge 0: the slot that was emptied is given up only when its old worker is gone.
        let parts = pool.policy.reload.surge == 0 && self.model.of(id).any(|(_, w)| w.parts());
        let all = (0..pool.policy.count).all(|slot| seen[slot as usize] == 1);
        let late = all && !parts && now > until + self.slack;
        hold!(
            !late,
            "done late",
            "at {now}, everybody had lived long enough at {until}"
        );
        Ok(())
    }

    /// A roll that waits says for whom; one whose turn will not come is over.
    fn rolls_in_order(&self, id: u32, engine: &Engine) -> Verdict {
        let model = &self.model;
        if model.pools[&id]
            .roll
            .as_ref()
            .is_some_and(|roll| roll.to_base)
        {
            return Ok(());
        }
        let known = model.rolls_before(id);
        let told = engine
            .view()
            .pool(PoolId(id))
            .map(|view| view.roll.after)
            .unwrap_or_default();
        hold!(
            told.iter().map(|pool| pool.0).eq(known.iter().copied()),
            "roll order",
            "{told:?}, known {known:?}"
        );
        let pool = &model.pools[&id];
        let is_new = !pool.is_oneshot()
            && pool
                .roll
                .as_ref()
                .is_some_and(|roll| !roll.begun && !roll.back);
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
            "pool {id} is to be rolled, though {failed:?} was not"
        );
        Ok(())
    }

    fn counters(&self, id: u32, engine: &Engine) -> Verdict {
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
        let draining = model.of(id).filter(|(_, w)| w.lives() && w.parts()).count() as u32;
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
        let (proven, before) = (view.last_good.0, view.previous_good.0);
        hold!(
            proven == pool.proven && before == pool.way_back(),
            "history",
            "{proven} proven, {before} before"
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

    fn floor_and_ceiling(&mut self, id: u32) -> Verdict {
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
            quiet,
            full_once,
            ..
        } = pool;
        if !*quiet {
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
    fn filled(&self, id: u32, now: u64, engine: &Engine) -> Verdict {
        let pool = &self.model.pools[&id];
        if !pool.running || pool.crash_loop.is_some() || !pool.begun {
            return Ok(());
        }
        if pool.is_oneshot() {
            let waits = pool.slots[0]
                .retry_at
                .is_some_and(|at| now <= at + self.slack);
            let well = self.model.is_there(id)
                || pool.oneshot_done
                || pool.oneshot_failed
                || waits && pool.roll.is_none();
            hold!(well, "filled", "oneshot {id} does not run");
            return Ok(());
        }
        let in_place = pool.policy.reload.surge == 0 || pool.changed;
        let mut excused = self.model.beyond_ceiling(id);
        let (mut held, mut outstayed) = ([false; 8], [false; 8]);
        for (_, w) in self.model.of(id) {
            held[w.slot as usize] |= w.stays() || in_place && w.parts();
            outstayed[w.slot as usize] |= w.parts() && w.lives() && w.ready.is_none();
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
                    "held back",
                    "slot {slot} of pool {id} waits for nobody"
                );
                continue;
            }
            let never = pool.may_give_up();
            let ended = never
                && engine.view().empty_slots(PoolId(id)).any(|empty| {
                    empty.slot.0 == slot
                        && matches!(empty.state, EmptyState::Done | EmptyState::Failed)
                });
            if !ended && outstayed[slot as usize] && excused > 0 {
                excused -= 1;
                continue;
            }
            hold!(ended, "filled", "slot {slot} of pool {id} is empty");
        }
        Ok(())
    }

    /// In a crash loop one slot at a time is tried, until a worker that became ready in it allows the others.
    fn one_slot_tries(&self, id: u32, now: u64, engine: &Engine) -> Verdict {
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
            let seat = &pool.slots[empty.slot.0 as usize];
            let waits = seat.retry_at.is_some_and(|at| now <= at + self.slack);
            let parts = model
                .of(id)
                .any(|(_, w)| w.slot == empty.slot.0 && w.parts());
            if waits || parts {
                return Ok(());
            }
        }
        let empty = engine
            .view()
            .empty_slots(PoolId(id))
            .any(|empty| empty.state == EmptyState::Backoff);
        hold!(!empty, "crash loop", "nobody tries in pool {id}");
        Ok(())
    }

    /// The end of an essential pool is reported immediately, and once.
    fn ended(&mut self, id: u32, engine: &Engine) -> Verdict {
        let there = self.model.is_there(id);
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
            "pool {id} has ended, and nothing was said"
        );
        Ok(())
    }

    /// There were no faults for long enough: everything is in its desired state.
    pub(crate) fn judge(&self, now: Time, engine: &Engine) -> Verdict {
        let model = &self.model;
        if model.stop_at.is_some() {
            return fail("stop ends", format!("not left at {now}"));
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
            let mixed = model.of(*id).any(|(_, w)| w.generation != pool.wanted);
            hold!(
                !mixed || pool.mixed,
                "converges",
                "pool {id} is of several generations, wanted {}",
                pool.wanted
            );
        }
        Ok(())
    }

    pub(crate) fn finish(&self, left: bool) -> Verdict {
        hold!(
            left && self.model.left,
            "stop ends",
            "the master stands still and has not left"
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
