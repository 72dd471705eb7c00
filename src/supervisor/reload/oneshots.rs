//! The oneshots of a reload: they run to their end, in dependency order, before anything else of the new configuration
//! takes effect. If one fails, nothing does. `mod.rs` calls these for the machine's actions.

use crate::control::protocol::ReloadScope;
use crate::plan::{self, Kind, Plan, PoolChange};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::outcome_text::{reason, superseded};
use crate::supervisor::clients::tickets::Owner;
use crate::supervisor::pool_registry::is_meant;
use crate::supervisor::reload::lookup::Lookup;
use crate::supervisor::reload::machine::Event;
use crate::supervisor::reload::{Oneshot, PendingConfig, ReloadRequest};
use rotad_core::{Outcome, PoolId, Request};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Pools that have to be up before this one, directly and indirectly.
fn all_before(plan: &Plan, pool: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut ask = vec![pool.to_owned()];
    while let Some(name) = ask.pop() {
        let Some(pool) = plan.pools.iter().find(|pool| pool.name == name) else {
            continue;
        };
        ask.extend(
            pool.after
                .iter()
                .filter(|before| found.insert((*before).clone()))
                .cloned(),
        );
    }
    found
}

impl Lookup<'_> {
    /// A reload runs the oneshots that its pools come after; `apply-config` runs only those that are new or changed.
    pub(crate) fn oneshots_to_run(&self, request: &ReloadRequest, plan: &Plan) -> Vec<Oneshot> {
        let named: BTreeSet<String> = match request.extent {
            ReloadScope::ConfigOnly => BTreeSet::new(),
            ReloadScope::Everything | ReloadScope::DryRun | ReloadScope::DryRunJson => {
                let chosen = plan
                    .pools
                    .iter()
                    .filter(|pool| is_meant(&request.which, pool));
                chosen
                    .flat_map(|pool| {
                        std::iter::once(pool.name.clone()).chain(all_before(plan, &pool.name))
                    })
                    .collect()
            }
        };
        let changed: BTreeSet<String> = plan::diff(self.plan, plan)
            .pools
            .into_iter()
            .filter(|pool| matches!(pool.change, PoolChange::Added | PoolChange::Rolled { .. }))
            .map(|pool| pool.name)
            .collect();
        let is_paused = |name: &str| {
            self.pools
                .find(name)
                .is_some_and(|pool| self.pools.stopped_by_operator(pool))
        };
        let waiting = plan
            .pools
            .iter()
            .filter(|pool| pool.kind == Kind::Oneshot)
            .map(|pool| &pool.name);
        let waiting = waiting
            .filter(|name| (named.contains(*name) || changed.contains(*name)) && !is_paused(name));
        waiting
            .map(|name| Oneshot {
                name: name.clone(),
                after: all_before(plan, name),
            })
            .collect()
    }
}

impl Supervisor {
    /// Starts one. Its end comes back by [`Self::oneshot_replied`].
    pub(crate) fn run_oneshot(&mut self, name: &str) {
        let spec = self
            .reload
            .state
            .config()
            .and_then(|pending| pending.spec(pending.pool(name)?));
        let Some(spec) = spec else {
            let why = "one of its addresses is not open".to_owned();
            return self
                .reload
                .state
                .tell(Event::OneshotEnded(name.to_owned(), Some(why)));
        };
        if let Some(other) = self.pools.find(name).filter(|pool| {
            self.pools
                .plan(*pool)
                .is_none_or(|plan| plan.kind != Kind::Oneshot)
        }) {
            self.pools.mark_removed(other);
            if let Some(pending) = self.reload.state.pending() {
                pending.replaced.push(other);
            }
        }
        let known = self
            .pools
            .find(name)
            .and_then(|pool| Some((pool, self.pools.next_spec(pool)?.clone())));
        let (pool, before) = match known {
            Some((pool, before)) => {
                let same = before.is_alike(&spec);
                self.pools.set_next_spec(pool, Arc::new(spec));
                (pool, Some((before, same)))
            }
            None => (self.pools.add(spec), None),
        };
        if let Some(pending) = self.reload.state.pending() {
            let before = before.as_ref().map(|(before, _)| before.clone());
            pending.oneshots.insert(pool, before);
        }
        let Some(policy) = self.pools.policy(pool) else {
            return;
        };
        if let Some(request) = self.reload.state.machine.request() {
            self.pools.ask_for(pool, &request.asker);
        }
        let ticket = self.clients.tickets.of(Owner::Oneshot);
        match before {
            None => self
                .engine
                .request_with(ticket, Request::EnsurePool(pool, policy)),
            // Same spec: a run that is under way ends before the next one begins.
            Some((_, true)) => {
                self.engine.request(Request::EnsurePool(pool, policy));
                self.engine.request_with(ticket, Request::Roll(pool));
            }
            Some((_, false)) => {
                self.engine
                    .request_with(ticket, Request::Reconfigure { pool, policy });
            }
        }
    }

    /// A oneshot that a reload waits for has ended.
    pub(crate) fn oneshot_replied(&mut self, pool: PoolId, outcome: &Outcome) {
        let why = match outcome {
            Outcome::Done { .. } | Outcome::Up(_) => None,
            Outcome::Aborted { failure, .. } | Outcome::RolledBack { failure, .. } => {
                let culprit = failure
                    .worker
                    .and_then(|worker| self.workers.exit_reports.of_worker(worker));
                Some(reason(failure, culprit))
            }
            Outcome::StartFailed(failure) => Some(self.describer().start_failure(pool, failure).0),
            Outcome::Superseded { by } => Some(superseded(*by).to_owned()),
            Outcome::HeldUp { by, .. } => Some(format!("it waits for {}", self.pools.list(by))),
            _ => Some("it is not there any more".to_owned()),
        };
        let name = self.pools.name(pool).to_owned();
        self.reload.state.tell(Event::OneshotEnded(name, why));
    }

    /// The old configuration stays in force, including that of the oneshots; new sockets are closed again.
    pub(crate) fn undo_oneshots(&mut self, pending: PendingConfig) {
        pending
            .replaced
            .iter()
            .for_each(|pool| self.pools.unmark_removed(*pool));
        for (pool, before) in pending.oneshots {
            match before {
                Some(before) => {
                    self.pools.set_next_spec(pool, before);
                    if let Some(policy) = self.pools.policy(pool) {
                        self.engine.request(Request::EnsurePool(pool, policy));
                    }
                }
                None => {
                    self.pools.mark_removed(pool);
                    self.engine.request(Request::Remove(pool));
                }
            }
        }
        self.refresh_plan();
        self.listening.may_be_unused = true;
    }
}
