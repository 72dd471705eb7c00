//! Committing a reload: a configuration that has been read, opened and prepared takes effect. Pools are added, removed,
//! rolled or adjusted, and the master's own keys follow.

use crate::control::protocol::{ReloadScope, Wait};
use crate::exit_code::ExitCode;
use crate::log::Rotation;
use crate::log::tracing_setup;
use crate::observe::events::EventKind;
use crate::plan::{self, Diff, Kind, Plan, PoolChange, PoolPlan};
use crate::supervisor::Supervisor;
use crate::supervisor::action::Action;
use crate::supervisor::bug::bug;
use crate::supervisor::clients::tickets::WaitId;
use crate::supervisor::deploys::Asker;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::listening::{self, ListenerId};
use crate::supervisor::pool_registry::PoolSpec;
use crate::supervisor::pool_registry::is_meant;
use crate::supervisor::reload::on_change::PassedOver;
use crate::supervisor::reload::{PendingConfig, ReloadRequest};
use rotad_core::{PoolId, Request, WorkerId};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Supervisor {
    /// From here on nothing fails; whether a new generation comes up is for its rolling restart to find out.
    /// `passed_over`: pools that are not rolled for it.
    pub(crate) fn commit(
        &mut self,
        request: ReloadRequest,
        mut pending: PendingConfig,
        passed_over: &PassedOver,
    ) {
        let replaced = std::mem::take(&mut pending.replaced);
        let ran: BTreeSet<PoolId> = std::mem::take(&mut pending.oneshots).into_keys().collect();
        let pending = &pending;
        self.refresh_plan();
        let diff = plan::diff(&self.plan, &pending.plan);
        let lines = diff.lines();
        for line in &lines {
            self.report_progress(request.client, line);
        }
        let mut gone: Vec<PoolId> = removed(&diff)
            .filter_map(|name| self.pools.find(name))
            .collect();
        gone.extend(replaced);
        gone.iter().for_each(|pool| self.pools.mark_removed(*pool));
        let mut changes: Vec<(PoolId, PoolChange)> = Vec::new();
        for pool in &pending.plan.pools {
            if let Some(id) = self.stage_spec(pending, pool, &diff.change_of(&pool.name)) {
                changes.push((id, diff.change_of(&pool.name)));
            }
        }
        self.adjust_sockets(pending);
        self.counters.config_read(true);
        self.adopt_master(&pending.plan);
        self.update_config_links(&pending.plan.real);
        self.refresh_plan();
        self.watch_files();
        if !lines.is_empty() {
            let text = format!("{}: {}", request.who, lines.join("\n"));
            self.emit(
                EventBuilder::new(EventKind::ConfigApplied, text)
                    .cause("changed")
                    .silent(),
            );
        }
        let wait = self
            .clients
            .tickets
            .open(request.client, request.wait == Wait::Drained);
        for pool in gone {
            self.engine.request(Request::Remove(pool));
        }
        let mut changed_anything = !lines.is_empty();
        // In dependency order: the engine has to know that a pool rolls before it is asked to roll those that come
        // after it.
        let order = self
            .pools
            .in_order(&changes.iter().map(|(pool, _)| *pool).collect::<Vec<_>>());
        changes.sort_by_key(|(pool, _)| order.iter().position(|known| known == pool));
        for (pool, change) in changes {
            let chosen = request.extent == ReloadScope::Everything
                && self.pools.plan(pool).is_some_and(|plan| {
                    plan.kind != Kind::Oneshot && is_meant(&request.which, plan)
                })
                && !passed_over.contains_key(&pool);
            changed_anything |= chosen || ran.contains(&pool);
            self.apply_change(wait, pool, (&change, chosen), &request.asker);
        }
        self.report_passed_over(Some(wait), passed_over);
        if !changed_anything {
            let nobody = if passed_over.is_empty() {
                ""
            } else {
                "; no pool was rolled"
            };
            let same = format!("the configuration has not changed{nobody}");
            let text = format!("{}: {same}", request.who);
            self.clients.tickets.note(wait, ExitCode::DONE, same);
            self.emit(EventBuilder::new(EventKind::ConfigApplied, text).cause("unchanged"));
        }
        for pool in ran.iter().filter(|pool| self.pools.plan(**pool).is_some()) {
            let text = format!("{}: done", self.pools.name(*pool));
            self.clients.tickets.note(wait, ExitCode::DONE, text);
        }
        self.close_wait(wait);
        self.listening.may_be_unused = true;
        self.watch_files();
    }

    /// Sets the pool's next spec. Returns its id.
    fn stage_spec(
        &mut self,
        pending: &PendingConfig,
        pool: &PoolPlan,
        change: &PoolChange,
    ) -> Option<PoolId> {
        let Some(spec) = pending.spec(pool) else {
            bug!("{}: one of its addresses is not open", pool.name);
            return None;
        };
        let Some(id) = self.pools.find(&pool.name) else {
            return Some(self.pools.add(spec));
        };
        match change {
            PoolChange::Rolled { .. } => self.pools.set_next_spec(id, Arc::new(spec)),
            PoolChange::Added
            | PoolChange::Removed
            | PoolChange::Adjusted { .. }
            | PoolChange::Same => {
                let view = self.engine.view();
                let lives: BTreeSet<_> = view
                    .workers()
                    .filter(|worker| worker.pool == id)
                    .map(|worker| worker.generation)
                    .collect();
                let filling = view.pool(id).map(|pool| pool.fill_generation);
                let serving =
                    |generation| lives.contains(&generation) || filling == Some(generation);
                let before = self.pools.next_spec(id).cloned();
                self.pools.adjust(id, spec, serving);
                if let Some(before) = before {
                    self.adjust_workers(id, &before);
                }
            }
        }
        Some(id)
    }

    /// Applies new limits and checks to the workers that run.
    fn adjust_workers(&mut self, pool: PoolId, before: &PoolSpec) {
        let Some(plan) = self.pools.plan(pool) else {
            return;
        };
        let recycle_changed = plan.recycle != before.plan.recycle;
        let health_changed = plan.health != before.plan.health;
        let workers: Vec<WorkerId> = self
            .workers
            .processes
            .iter()
            .filter(|(_, process)| process.pool == pool)
            .map(|(id, _)| id)
            .collect();
        for worker in workers {
            let Some(process) = self.workers.processes.get_whole_mut(worker) else {
                continue;
            };
            if let Some(spec) = self.pools.spec_of(pool, process.generation) {
                process.spec = spec.clone();
            }
            let (plan, now) = (&process.spec.plan, self.clock.now());
            let mut actions = Vec::new();
            if recycle_changed
                && let Some(pid) = process.pid()
                && let Some(view) = self.engine.view().worker(worker)
            {
                let since = view.began + view.ready_in.unwrap_or_default();
                let recycle = plan.recycle;
                actions = self.health.limits_changed(worker, pid, recycle, since, now);
            }
            if health_changed {
                let health = plan.health.as_ref();
                actions.extend(self.health.check_changed(worker, health, now));
            }
            self.perform(actions);
        }
    }

    fn apply_change(
        &mut self,
        wait: WaitId,
        pool: PoolId,
        (change, chosen): (&PoolChange, bool),
        asker: &Asker,
    ) {
        let Some(policy) = self.pools.policy(pool) else {
            return;
        };
        let name = self.pools.name(pool).to_owned();
        if let PoolChange::Adjusted { .. } = change
            && let Some(plan) = self.pools.plan(pool)
        {
            self.log.writer.retarget(&name, &plan.log);
        }
        if self.pools.stopped_by_operator(pool) {
            if matches!(
                change,
                PoolChange::Rolled { .. } | PoolChange::Adjusted { .. }
            ) {
                self.engine.request(Request::Reconfigure { pool, policy });
            }
            if chosen || *change != PoolChange::Same {
                self.clients.tickets.note(
                    wait,
                    ExitCode::DONE,
                    format!("{name}: is stopped, and stays so until `rotad start {name}`"),
                );
            }
            return;
        }
        match change {
            PoolChange::Rolled { .. } => {
                self.pools.ask_for(pool, asker);
                let ticket = self.clients.tickets.join(wait, pool);
                self.engine
                    .request_with(ticket, Request::Reconfigure { pool, policy });
            }
            PoolChange::Added if !self.engine.view().pools().any(|(id, _)| id == pool) => {
                self.pools.ask_for(pool, asker);
                let ticket = self.clients.tickets.join(wait, pool);
                self.engine
                    .request_with(ticket, Request::EnsurePool(pool, policy));
            }
            PoolChange::Added
            | PoolChange::Removed
            | PoolChange::Adjusted { .. }
            | PoolChange::Same => {
                // Also where nothing of its own has changed: a pool that it comes after may have a new id.
                self.engine.request(Request::EnsurePool(pool, policy));
                if chosen {
                    self.pools.ask_for(pool, asker);
                    let ticket = self.clients.tickets.join(wait, pool);
                    self.engine.request_with(ticket, Request::Roll(pool));
                } else if matches!(change, PoolChange::Adjusted { .. }) {
                    self.clients.tickets.note(
                        wait,
                        ExitCode::DONE,
                        format!("{name}: adjusted without a restart"),
                    );
                }
            }
        }
    }

    /// Backlog, mode and owner change in place. Sockets without a pool stay open as long as the configuration has them.
    fn adjust_sockets(&mut self, pending: &PendingConfig) {
        let used: BTreeSet<usize> = pending
            .plan
            .pools
            .iter()
            .flat_map(|pool| pool.recipe.listen.iter().copied())
            .collect();
        let mut lone: BTreeSet<ListenerId> = BTreeSet::new();
        let mut failures = Vec::new();
        for (index, (plan, id)) in pending
            .plan
            .listeners
            .iter()
            .zip(&pending.sockets)
            .enumerate()
        {
            let Some(id) = *id else { continue };
            if !used.contains(&index) {
                lone.insert(id);
            }
            let Some(listener) = self
                .listening
                .get_mut(id)
                .filter(|listener| listener.plan() != plan)
            else {
                continue;
            };
            match listener.adjust(plan) {
                Ok(None) => {}
                Ok(Some(ownership)) => self
                    .reload
                    .blocking
                    .set_file_ownership(plan.name.clone(), ownership),
                Err(error) => {
                    let text = format!("the socket cannot be changed: {error}");
                    failures.push(Action::Emit(listening::failed(&plan.name, &text)));
                }
            }
        }
        self.listening.set_lone(lone);
        self.perform(failures);
    }

    /// Takes over what a running master can of [master], [control], [signals] and [hooks]. `plan::diff` names the rest.
    fn adopt_master(&mut self, new: &Plan) {
        let own = &mut self.plan.master;
        own.log_level = new.master.log_level;
        own.log_max_size = new.master.log_max_size;
        own.log_keep = new.master.log_keep;
        own.stop_timeout = new.master.stop_timeout;
        own.watch_config = new.master.watch_config;
        own.watch_program = new.master.watch_program;
        own.watchdog = new.master.watchdog;
        tracing_setup::set_level(own.log_level);
        self.plan.signals = new.signals;
        self.event_loop.signals.set_map(new.signals);
        self.plan.hooks.clone_from(&new.hooks);
        self.hooks.keep(&new.hooks);
        self.plan.sources.clone_from(&new.sources);
        self.plan.include.clone_from(&new.include);
        self.log.writer.set_rotation(Rotation {
            max_size: new.master.log_max_size,
            keep: new.master.log_keep,
            ..Rotation::default()
        });
    }
}

fn removed(diff: &Diff) -> impl Iterator<Item = &str> {
    diff.pools
        .iter()
        .filter(|pool| pool.change == PoolChange::Removed)
        .map(|pool| pool.name.as_str())
}
