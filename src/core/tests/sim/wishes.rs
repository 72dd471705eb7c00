//! What the model learns from a request.

use crate::model::Pool;
use crate::oracle::Oracle;
use rotad_core::{Policy, PoolKind, Request, Time};

impl Oracle {
    pub(crate) fn wish(&mut self, now: Time, ticket: u64, request: &Request) {
        match request {
            Request::EnsurePool(id, policy) => self.wish_keep(id.0, policy),
            Request::Start(id) => self.wish_start(id.0),
            Request::StopPool(id) => self.wish_drop(id.0),
            Request::Remove(id) => {
                self.wish_drop(id.0);
                if let Some(pool) = self.books.pools.get_mut(&id.0) {
                    pool.removed = true;
                }
            }
            Request::Scale(id, count) => self.wish_scale(id.0, *count),
            Request::Roll(id) => self.books.rolls = Some(id.0),
            Request::Cancel(_) => {
                self.books.cancelled = true;
                self.books.cancels.insert(ticket);
            }
            Request::Reconfigure { pool, policy } => self.wish_change(pool.0, policy),
            Request::RollBack { pool, to, policy } => self.wish_return(pool.0, to.0, policy),
            Request::Replace(pool, slot) => {
                self.books.renewals.insert(ticket, (pool.0, slot.0));
            }
            Request::Stop { cap } => self.wish_stop(now, cap.map(|cap| cap.0)),
            Request::StopNow => {
                let books = &mut self.books;
                books.stop_at.get_or_insert(now.0);
                books.stop_by = books.stop_by.min(now.0 + 1000);
                books.kill_from = Some(now.0);
                self.stop_all();
            }
        }
    }

    fn wish_keep(&mut self, id: u32, policy: &Policy) {
        let books = &mut self.books;
        if books.stop_at.is_some() {
            return;
        }
        match books.pools.get_mut(&id) {
            None => {
                books.pools.insert(id, Pool::new(policy.clone()));
            }
            Some(pool) => {
                pool.quiet = false;
                pool.changed = true;
                pool.policy = policy.clone();
                pool.revive();
            }
        }
    }

    fn wish_start(&mut self, id: u32) {
        if self.books.stop_at.is_some() {
            return;
        }
        let Some(pool) = self.books.pools.get_mut(&id) else {
            return;
        };
        pool.quiet = false;
        for seat in &mut pool.slots {
            seat.exact = false;
            seat.forgiven = true;
            seat.ended = false;
        }
        pool.revive();
    }

    fn wish_drop(&mut self, id: u32) {
        if let Some(pool) = self.books.pools.get_mut(&id) {
            pool.quiet = false;
            pool.running = false;
            pool.dropped = true;
            pool.crash_loop = None;
            pool.forgive();
        }
    }

    fn wish_scale(&mut self, id: u32, count: u32) {
        let Some(pool) = self.books.pools.get_mut(&id) else {
            return;
        };
        if pool.policy.kind == PoolKind::Oneshot {
            return;
        }
        self.books.scales = true;
        pool.quiet = false;
        pool.policy.count = count;
        // So many deaths are remembered as make a crash loop of a pool of that size.
        pool.early.clear();
        // A loop whose probe is not wanted any more is over.
        pool.loop_is_late = false;
        if let Some(roll) = &mut pool.roll {
            roll.troubled = true;
        }
        // If it comes back it is a new one: nothing that died in it counts any more.
        for seat in pool.slots.iter_mut().skip(count as usize) {
            seat.exact = false;
            seat.forgiven = true;
            seat.ended = false;
            seat.first_death = None;
        }
    }

    fn wish_change(&mut self, id: u32, policy: &Policy) {
        if self.books.stop_at.is_some() {
            return;
        }
        if !self.books.pools.contains_key(&id) {
            self.books.created = Some(id);
            return self.wish_keep(id, policy);
        }
        self.books.changes = Some(id);
        let Some(pool) = self.books.pools.get_mut(&id) else {
            return;
        };
        pool.take(policy);
        if !pool.running {
            pool.remake();
        }
        if pool.removed {
            pool.revive();
        }
    }

    fn wish_return(&mut self, id: u32, to: u32, policy: &Policy) {
        if self.books.stop_at.is_some() || !self.books.pools.contains_key(&id) {
            return;
        }
        let Some(pool) = self.books.pools.get_mut(&id) else {
            return;
        };
        if !pool.running || pool.is_oneshot() || !pool.served.contains(&to) {
            return;
        }
        self.books.changes = Some(id);
        self.books.returns = Some((id, to));
        pool.take(policy);
    }

    fn wish_stop(&mut self, now: Time, cap: Option<u64>) {
        let books = &mut self.books;
        if books.stop_at.is_none() {
            let last = books
                .pools
                .keys()
                .map(|id| books.stopped_by(*id, now.0))
                .max()
                .unwrap_or(now.0 + 1000);
            books.stop_at = Some(now.0);
            books.stop_by = last.min(cap.map_or(u64::MAX, |cap| now.0 + cap + 1000));
            books.kill_from = cap.map(|cap| now.0 + cap);
        }
        self.stop_all();
    }

    fn stop_all(&mut self) {
        for pool in self.books.pools.values_mut() {
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

    /// Another policy: unless only the workers are to be new, promises about numbers are off for a while.
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
