//! Applies requests to the model.

use crate::model::{Pool, Worker};
use crate::oracle::Oracle;
use rotad_core::{AdoptedWorker, Policy, PoolKind, Request, Time};

impl Oracle {
    pub(crate) fn request(&mut self, now: Time, ticket: u64, request: &Request) {
        match request {
            Request::EnsurePool(id, policy) => self.request_ensure(id.0, policy),
            Request::Adopt {
                pool,
                policy,
                latest,
                workers,
            } => self.request_adopt(now, pool.0, policy, latest.0, workers),
            Request::Start(id) => self.request_start(id.0),
            Request::StopPool(id) => self.request_stop_pool(id.0),
            Request::Remove(id) => {
                self.request_stop_pool(id.0);
                if let Some(pool) = self.model.pools.get_mut(&id.0) {
                    pool.removed = true;
                }
            }
            Request::Scale(id, count) => self.request_scale(id.0, *count),
            Request::Roll(id) => self.model.roll_requested = Some(id.0),
            Request::Cancel(_) => {
                self.model.cancelled = true;
                self.model.cancels.insert(ticket);
            }
            Request::Reconfigure { pool, policy } => self.request_reconfigure(pool.0, policy),
            Request::RollBack { pool, to, policy } => self.request_rollback(pool.0, to.0, policy),
            Request::Replace(pool, slot) => {
                self.model.replacements.insert(ticket, (pool.0, slot.0));
            }
            Request::Stop { cap } => self.request_stop(now, cap.map(|cap| cap.0)),
            Request::StopNow => {
                let model = &mut self.model;
                model.stop_at.get_or_insert(now.0);
                model.stop_by = model.stop_by.min(now.0 + 1000);
                model.kill_from = Some(now.0);
                self.stop_all();
            }
        }
    }

    fn request_ensure(&mut self, id: u32, policy: &Policy) {
        let model = &mut self.model;
        if model.stop_at.is_some() {
            return;
        }
        match model.pools.get_mut(&id) {
            None => {
                model.pools.insert(id, Pool::new(policy.clone()));
            }
            Some(pool) => {
                pool.undisturbed = false;
                pool.changed = true;
                pool.policy = policy.clone();
                pool.run_again();
            }
        }
    }

    /// Only for pools that do not exist, and while nothing is being stopped.
    fn request_adopt(
        &mut self,
        now: Time,
        id: u32,
        policy: &Policy,
        latest: u32,
        workers: &[AdoptedWorker],
    ) {
        let newest = workers.iter().map(|worker| worker.generation.0).max();
        let mut pool = Pool::new(policy.clone());
        pool.adopt(latest.max(newest.unwrap_or(0)), !workers.is_empty());
        for adopted in workers {
            let ready = (adopted.ready && !pool.is_oneshot()).then_some(now.0);
            let worker = Worker {
                pool: id as usize,
                slot: adopted.slot.0,
                generation: adopted.generation.0,
                readiness: policy.readiness,
                timeout: policy.ready_timeout.0,
                spawned: now.0,
                started: Some(now.0),
                ready,
                reported: ready,
                soaked_at: now.0 + policy.soak(false).0,
                adopted: true,
                ..Worker::default()
            };
            self.model.workers.insert(adopted.worker.0, worker);
        }
        self.model.adopting = Some(id);
        self.model.pools.insert(id, pool);
    }

    fn request_start(&mut self, id: u32) {
        if self.model.stop_at.is_some() {
            return;
        }
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return;
        };
        pool.undisturbed = false;
        for slot_state in &mut pool.slots {
            slot_state.exact = false;
            slot_state.reset = true;
            slot_state.ended = false;
        }
        pool.run_again();
    }

    fn request_stop_pool(&mut self, id: u32) {
        if let Some(pool) = self.model.pools.get_mut(&id) {
            pool.undisturbed = false;
            pool.running = false;
            pool.stopped_alone = true;
            pool.crash_loop = None;
            pool.reset_backoff();
        }
    }

    fn request_scale(&mut self, id: u32, count: u32) {
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return;
        };
        if pool.policy.kind == PoolKind::Oneshot {
            return;
        }
        self.model.scaled = true;
        pool.undisturbed = false;
        pool.policy.count = count;
        // The engine remembers only as many early deaths as make a crash loop of a pool of that size.
        pool.early_deaths.clear();
        // A crash loop whose probed slot is no longer desired is over.
        pool.loop_is_late = false;
        if let Some(roll) = &mut pool.roll {
            roll.disturbed = true;
        }
        // A slot that comes back later is a new one: its earlier deaths no longer count.
        for slot_state in pool.slots.iter_mut().skip(count as usize) {
            slot_state.exact = false;
            slot_state.reset = true;
            slot_state.ended = false;
            slot_state.first_death = None;
        }
    }

    fn request_reconfigure(&mut self, id: u32, policy: &Policy) {
        if self.model.stop_at.is_some() {
            return;
        }
        if !self.model.pools.contains_key(&id) {
            self.model.created = Some(id);
            return self.request_ensure(id, policy);
        }
        self.model.reconfigured = Some(id);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return;
        };
        pool.take_policy(policy);
        if !pool.running {
            pool.next_generation();
        }
        if pool.removed {
            pool.run_again();
        }
    }

    fn request_rollback(&mut self, id: u32, to: u32, policy: &Policy) {
        if self.model.stop_at.is_some() || !self.model.pools.contains_key(&id) {
            return;
        }
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return;
        };
        if !pool.running || pool.is_oneshot() || !pool.served.contains(&to) {
            return;
        }
        self.model.reconfigured = Some(id);
        self.model.rolled_back_to = Some((id, to));
        pool.take_policy(policy);
    }

    fn request_stop(&mut self, now: Time, cap: Option<u64>) {
        let model = &mut self.model;
        if model.stop_at.is_none() {
            let last = model
                .pools
                .keys()
                .map(|id| model.stopped_by(*id, now.0))
                .max()
                .unwrap_or(now.0 + 1000);
            model.stop_at = Some(now.0);
            model.stop_by = last.min(cap.map_or(u64::MAX, |cap| now.0 + cap + 1000));
            model.kill_from = cap.map(|cap| now.0 + cap);
        }
        self.stop_all();
    }

    fn stop_all(&mut self) {
        for pool in self.model.pools.values_mut() {
            pool.running = false;
            pool.undisturbed = false;
        }
    }
}

impl Pool {
    fn run_again(&mut self) {
        if !self.running {
            self.running = true;
            self.begun = false;
            self.up = false;
            self.surely_up = false;
            self.oneshot_done = false;
            self.oneshot_failed = false;
        }
        self.stopped_alone = false;
        self.removed = false;
    }

    /// Takes over another policy. If it changes numbers or times, the promises about numbers are no longer checked.
    fn take_policy(&mut self, policy: &Policy) {
        if self.policy.count != policy.count
            || self.policy.reload != policy.reload
            || self.policy.stop != policy.stop
        {
            self.undisturbed = false;
            self.changed = true;
        }
        self.policy = policy.clone();
    }
}
