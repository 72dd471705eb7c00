//! Reverting a configuration change whose workers do not come up: the pool's next generation is made from the spec that
//! serves. Also forgets what is no longer needed: generations, removed pools, unused sockets.

use crate::observe::events::EventKind;
use crate::supervisor::Supervisor;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::listening::ListenerId;
use crate::supervisor::reload::lookup::Lookup;
use rotad_core::{Generation, PoolId, Request, RollState};
use std::collections::BTreeSet;

impl Lookup<'_> {
    /// Whether a pool, a generation that may be needed or a worker uses this socket.
    fn is_used(&self, id: ListenerId) -> bool {
        let counts = |pool: PoolId, generation: Generation| {
            self.engine.pool(pool).is_some_and(|view| {
                view.roll.state == RollState::Running
                    || generation == view.fill_generation
                    || generation == view.last_good
            })
        };
        self.listening.lone().contains(&id)
            || !self.pools.users_of(id, counts).is_empty()
            || self
                .processes
                .iter()
                .any(|(_, process)| process.spec.listeners.contains(&id))
    }
}

impl Supervisor {
    /// The generation that fills the slots holds again, with the configuration that it was made from.
    pub(crate) fn revert_spec(&mut self, pool: PoolId) {
        let Some(serving) = self
            .engine
            .view()
            .pool(pool)
            .map(|view| view.fill_generation)
        else {
            return;
        };
        let (Some(next_spec), Some(base)) = (
            self.pools.next_spec(pool),
            self.pools.spec_of(pool, serving),
        ) else {
            return;
        };
        if std::sync::Arc::ptr_eq(next_spec, base) {
            return;
        }
        let (changed, base) = (!next_spec.is_alike(base), base.clone());
        self.pools.set_next_spec(pool, base);
        if changed {
            self.pools.reverted.insert(pool);
            self.counters.config_read(false);
            let text =
                format!("its change is put back: the configuration of generation {serving} holds");
            self.emit(
                EventBuilder::new(EventKind::ConfigPutBack, text)
                    .pool(pool)
                    .generation(serving)
                    .warn(),
            );
        }
        if let Some(plan) = self.pools.plan(pool) {
            self.log.writer.retarget(&plan.name, &plan.log);
        }
        if let Some(policy) = self.pools.policy(pool) {
            self.engine.request(Request::EnsurePool(pool, policy));
        }
        self.refresh_plan();
        self.watch_files();
    }

    /// Forgets the generations that can no longer be spawned.
    pub(crate) fn forget_generations(&mut self, pool: PoolId) {
        let view = self.engine.view();
        let mut known = view.generations(pool);
        known.extend(
            view.workers()
                .filter(|worker| worker.pool == pool)
                .map(|worker| worker.generation),
        );
        self.workers
            .spawn_specs
            .retain_generations(pool, |generation| known.contains(&generation));
        self.pools
            .retain_generations(pool, |generation| known.contains(&generation));
        self.listening.may_be_unused = true;
    }

    /// Forgets removed pools whose last worker is gone.
    pub(crate) fn forget_pools(&mut self) {
        for pool in self.pools.removed() {
            if self.engine.view().pool(pool).is_none() {
                self.emit(EventBuilder::new(EventKind::PoolRemoved, "removed").pool(pool));
                let name = self.pools.name(pool).to_owned();
                self.pools.forget(pool);
                self.workers.forget_pool(pool);
                self.counters.forget_pool(pool);
                if self.pools.find(&name).is_none() {
                    self.log.writer.forget_counts(&name);
                    self.counters.forget_output(&name);
                }
                self.listening.may_be_unused = true;
            }
        }
    }

    /// Closes sockets that no pool of the configuration, no running worker and no generation that may be needed uses. A
    /// socket that only `rollback` could want is opened again then: an address that was given up is free.
    pub(crate) fn close_unused(&mut self) {
        let unused: Vec<ListenerId> = self
            .listening
            .ids()
            .into_iter()
            .filter(|id| !self.lookup().is_used(*id) && !self.reload.state.holds(*id))
            .collect();
        for id in unused {
            let Some(listener) = self.listening.remove(id, &self.event_loop.poller) else {
                continue;
            };
            let text = format!(
                "{}: closed: {} is no longer used",
                listener.name(),
                listener.addr_text()
            );
            self.emit(EventBuilder::new(EventKind::Listener, text).cause("closed"));
            self.reload.blocking.close(listener);
        }
    }

    /// A worker is gone: it may have been the last user of a socket.
    pub(crate) fn on_worker_gone(&mut self) {
        let next_listeners: BTreeSet<ListenerId> = self
            .pools
            .iter()
            .filter_map(|(pool, _)| self.pools.next_spec(pool))
            .flat_map(|next_spec| next_spec.listeners.clone())
            .collect();
        let doubtful = self
            .listening
            .ids()
            .into_iter()
            .any(|id| !next_listeners.contains(&id) && !self.listening.lone().contains(&id));
        if doubtful {
            self.listening.may_be_unused = true;
        }
    }
}
