//! A change that does not come up is put back: the pool's next generation is made again from what serves. And sockets
//! that nobody uses any more are closed.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::listening::ListenerId;
use crate::observe::events::EventKind;
use rotad_core::{Event, Generation, Order, Outcome, PoolId, Record, Request, RollState};
use std::collections::BTreeSet;

impl Supervisor {
    /// What has to be known before a step's orders are carried out: which generation is made from what.
    pub(super) fn foresee(&mut self, orders: &[Order]) {
        self.put_back.clear();
        for (at, order) in orders.iter().enumerate() {
            match order {
                // Whatever is read from the configuration later is for later generations.
                Order::Record(Record::RollStarted { pool, generation, .. }) => self.posts.begin(*pool, *generation),
                Order::Record(Record::RollEnded {
                    pool,
                    outcome: Outcome::Aborted { .. } | Outcome::RolledBack { .. },
                }) => {
                    // One that waited begins now, and tries what was read last once more.
                    let again = |later: &Order| matches!(later, Order::Record(Record::RollStarted { pool: of, .. }) if of == pool);
                    if !orders[at..].iter().any(again) {
                        self.put_back(*pool);
                    }
                }
                _ => {}
            }
        }
    }

    fn put_back(&mut self, pool: PoolId) {
        let Some(serving) = self.core.view().pool(pool).map(|view| view.filling) else { return };
        let (Some(draft), Some(base)) = (self.posts.draft(pool), self.posts.made_from(pool, serving)) else { return };
        if std::sync::Arc::ptr_eq(draft, base) {
            return;
        }
        let (changed, base) = (!draft.is_alike(base), base.clone());
        self.posts.redraft(pool, base);
        if changed {
            self.put_back.insert(pool);
            let text = format!("its change is put back: the configuration of generation {serving} holds");
            self.note(EventBuilder::new(EventKind::ConfigPutBack, text).pool(pool).generation(serving).warn());
        }
        if let Some(plan) = self.posts.plan(pool) {
            self.pen.retarget(&plan.name, &plan.log);
        }
        if let Some(policy) = self.posts.policy(pool) {
            self.facts.push_back(Event::Requested(super::NOBODY, Request::Keep(pool, policy)));
        }
        self.refresh_plan();
        self.watch_files();
    }

    /// Forgets what nobody can be made from any more.
    pub(super) fn forget_generations(&mut self, pool: PoolId) {
        let view = self.core.view();
        let mut known = view.generations(pool);
        known.extend(view.workers().filter(|worker| worker.pool == pool).map(|worker| worker.generation));
        self.recipes.keep(pool, |generation| known.contains(&generation));
        self.posts.keep(pool, |generation| known.contains(&generation));
        self.close_unused();
    }

    /// Pools that the configuration has no more, and whose last worker is gone.
    pub(super) fn forget_pools(&mut self) {
        for pool in self.posts.leaving() {
            if self.core.view().pool(pool).is_none() {
                self.note(EventBuilder::new(EventKind::PoolRemoved, "removed").pool(pool));
                self.posts.forget(pool);
                self.recipes.keep(pool, |_| false);
                self.close_unused();
            }
        }
    }

    /// Closes the sockets that no pool of the configuration, no living worker and no generation that may still be
    /// needed uses. What only `rollback` would want is opened anew then: an address that was given up is free.
    pub(super) fn close_unused(&mut self) {
        let unused: Vec<ListenerId> = self.listening.ids().into_iter().filter(|id| !self.is_used(*id)).collect();
        for id in unused {
            self.unwatch_listener(id);
            let Some(listener) = self.listening.remove(id) else { continue };
            let text = format!("{}: closed: nobody uses {} any more", listener.name(), listener.addr_text());
            self.note(EventBuilder::new(EventKind::Listener, text).cause("closed"));
            self.clerk.close(listener);
        }
    }

    fn is_used(&self, id: ListenerId) -> bool {
        let counts = |pool: PoolId, generation: Generation| {
            self.core.view().pool(pool).is_some_and(|view| {
                view.roll.state == RollState::Running || generation == view.filling || generation == view.proven
            })
        };
        self.listening.lone().contains(&id)
            || self.applying.holds(id)
            || !self.posts.users(id, counts).is_empty()
            || self.roster.iter().any(|(_, body)| body.pattern.listeners.contains(&id))
    }

    /// After a burial: the last user of a socket may be gone.
    pub(super) fn buried(&mut self) {
        self.drained();
        let drafts: BTreeSet<ListenerId> = self
            .posts
            .iter()
            .filter_map(|(pool, _)| self.posts.draft(pool))
            .flat_map(|draft| draft.listeners.clone())
            .collect();
        let doubtful =
            self.listening.ids().into_iter().any(|id| !drafts.contains(&id) && !self.listening.lone().contains(&id));
        if doubtful {
            self.close_unused();
        }
    }
}
