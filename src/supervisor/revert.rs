//! A change that does not come up is put back: the pool's next generation is made again from what serves. And sockets
//! that nobody uses any more are closed.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::listening::ListenerId;
use crate::observe::events::EventKind;
use rotad_core::{Command, Generation, Input, Notice, Outcome, PoolId, Request, RollState};
use std::collections::BTreeSet;

impl Supervisor {
    /// What has to be known before a step's orders are carried out: which generation is made from what.
    pub(super) fn prepare_generations(&mut self, orders: &[Command]) {
        self.reverted.clear();
        for (at, order) in orders.iter().enumerate() {
            match order {
                // Whatever is read from the configuration later is for later generations.
                Command::Notice(Notice::RollStarted { pool, generation, .. }) => self.pools.begin(*pool, *generation),
                Command::Notice(Notice::RollEnded {
                    pool,
                    outcome: Outcome::Aborted { .. } | Outcome::RolledBack { .. },
                }) => {
                    // One that waited begins now, and tries what was read last once more.
                    let again = |later: &Command| matches!(later, Command::Notice(Notice::RollStarted { pool: of, .. }) if of == pool);
                    if !orders[at..].iter().any(again) {
                        self.put_back(*pool);
                    }
                }
                _ => {}
            }
        }
    }

    fn put_back(&mut self, pool: PoolId) {
        let Some(serving) = self.engine.view().pool(pool).map(|view| view.fill_generation) else { return };
        let (Some(draft), Some(base)) = (self.pools.draft(pool), self.pools.made_from(pool, serving)) else { return };
        if std::sync::Arc::ptr_eq(draft, base) {
            return;
        }
        let (changed, base) = (!draft.is_alike(base), base.clone());
        self.pools.redraft(pool, base);
        if changed {
            self.reverted.insert(pool);
            let text = format!("its change is put back: the configuration of generation {serving} holds");
            self.emit(EventBuilder::new(EventKind::ConfigPutBack, text).pool(pool).generation(serving).warn());
        }
        if let Some(plan) = self.pools.plan(pool) {
            self.log.retarget(&plan.name, &plan.log);
        }
        if let Some(policy) = self.pools.policy(pool) {
            self.inputs.push_back(Input::Requested(super::NOBODY, Request::EnsurePool(pool, policy)));
        }
        self.refresh_plan();
        self.watch_files();
    }

    /// Forgets what nobody can be made from any more.
    pub(super) fn forget_generations(&mut self, pool: PoolId) {
        let view = self.engine.view();
        let mut known = view.generations(pool);
        known.extend(view.workers().filter(|worker| worker.pool == pool).map(|worker| worker.generation));
        self.spawn_specs.keep(pool, |generation| known.contains(&generation));
        self.pools.keep(pool, |generation| known.contains(&generation));
        self.close_unused();
    }

    /// Pools that the configuration has no more, and whose last worker is gone.
    pub(super) fn forget_pools(&mut self) {
        for pool in self.pools.leaving() {
            if self.engine.view().pool(pool).is_none() {
                self.emit(EventBuilder::new(EventKind::PoolRemoved, "removed").pool(pool));
                self.pools.forget(pool);
                self.spawn_specs.keep(pool, |_| false);
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
            self.emit(EventBuilder::new(EventKind::Listener, text).cause("closed"));
            self.blocking.close(listener);
        }
    }

    fn is_used(&self, id: ListenerId) -> bool {
        let counts = |pool: PoolId, generation: Generation| {
            self.engine.view().pool(pool).is_some_and(|view| {
                view.roll.state == RollState::Running
                    || generation == view.fill_generation
                    || generation == view.last_good
            })
        };
        self.listening.lone().contains(&id)
            || self.reloads.holds(id)
            || !self.pools.users(id, counts).is_empty()
            || self.processes.iter().any(|(_, body)| body.pattern.listeners.contains(&id))
    }

    /// After a burial: the last user of a socket may be gone.
    pub(super) fn buried(&mut self) {
        self.drained();
        let drafts: BTreeSet<ListenerId> = self
            .pools
            .iter()
            .filter_map(|(pool, _)| self.pools.draft(pool))
            .flat_map(|draft| draft.listeners.clone())
            .collect();
        let doubtful =
            self.listening.ids().into_iter().any(|id| !drafts.contains(&id) && !self.listening.lone().contains(&id));
        if doubtful {
            self.close_unused();
        }
    }
}
