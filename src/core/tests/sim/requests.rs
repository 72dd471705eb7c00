//! Applies requests to the model.

use crate::model::Pool;
use crate::oracle::Oracle;
use rotad_core::{Policy, PoolKind, Request, Time};

impl Oracle {
    pub(crate) fn request(&mut self, now: Time, ticket: u64, request: &Request) {
        match request {
            Request::EnsurePool(id, policy) => self.request_ensure(id.0, policy),
            Request::Start(id) => self.request_start(id.0),
            Request::StopPool(id) => self.request_stop_pool(id.0),
            Request::Remove(id) => {
                self.request_stop_pool(id.0);
                if let Some(pool) = self.model.pools.get_mut(&id.0) {
                    pool.removed = true;
                }
            }
            Request::Scale(id, count) => self.request_scale(id.0, *count),
            Request::Roll(id) => self.model.rolls = Some(id.0),
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
                pool.quiet = false;
                pool.changed = true;
                pool.policy = policy.clone();
                pool.revive();
            }
        }
    }

    fn request_start(&mut self, id: u32) {
        if self.model.stop_at.is_some() {
            return;
        }
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return;
        };
        pool.quiet = false;
        for seat in &mut pool.slots {
            seat.exact = false;
            seat.reset = true;
            seat.ended = false;
        }
        pool.revive();
    }

    fn request_stop_pool(&mut self, id: u32) {
        if let Some(pool) = self.model.pools.get_mut(&id) {
            pool.quiet = false;
            pool.running = false;
            pool.dropped = true;
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
        self.model.scales = true;
        pool.quiet = false;
        pool.policy.count = count;
        // Only as many early exits are remembered as make a crash loop of a pool of that size.
        pool.early.clear();
        // A crash loop whose tried slot is no longer desired is over.
        pool.loop_is_late = false;
        if let Some(roll) = &mut pool.roll {
            roll.troubled = true;
        }
        // If the slot comes back it is a new one: earlier exits no longer count.
        for seat in pool.slots.iter_mut().skip(count as usize) {
            seat.exact = false;
            seat.reset = true;
            seat.ended = false;
            seat.first_death = None;
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
        self.model.changes = Some(id);
        let Some(pool) = self.model.pools.get_mut(&id) else {
            return;
        };
        pool.take(policy);
        if !pool.running {
            pool.next_generation();
        }
        if pool.removed {
            pool.revive();
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
        self.model.changes = Some(id);
        self.model.returns = Some((id, to));
        pool.take(policy);
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
            pool.quiet = false;
        }
    }
}

impl Pool {
    fn revive(&mut self) {
        if !self.running {
            self.running = true;
            self.begun = false;
            self.up = false;
            self.surely_up = false;
            self.oneshot_done = false;
            self.oneshot_failed = false;
        }
        self.dropped = false;
        self.removed = false;
    }

    /// Another policy: unless only the workers are new, promises about numbers are suspended for a while.
    fn take(&mut self, policy: &Policy) {
        if self.policy.count != policy.count
            || self.policy.reload != policy.reload
            || self.policy.stop != policy.stop
        {
            self.quiet = false;
            self.changed = true;
        }
        self.policy = policy.clone();
    }
}
