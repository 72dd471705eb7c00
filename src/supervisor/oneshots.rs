//! The oneshots of a reload: they run to their end, in their order, before anything else of the new configuration counts.
//! If one fails, nothing of it does.

use super::Supervisor;
use super::apply::{PendingConfig, ReloadRequest, Stage};
use super::control::is_meant;
use super::on_change::{Passed, Then};
use super::pool_registry::PoolSpec;
use super::tickets::{reason, superseded};
use crate::control::wire::ReloadScope;
use crate::plan::{self, Kind, Plan, PoolChange};
use rotad_core::{Input, Outcome, PoolId, Request, Ticket};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Oneshots {
    /// Names of those that are still to run.
    todo: Vec<String>,
    /// Those that run: by their ticket; new ones have none, and are known by what is recorded of them.
    running: BTreeMap<PoolId, Option<Ticket>>,
    /// What each of those that were begun was made from before; new ones: nothing.
    before: BTreeMap<PoolId, Option<Arc<PoolSpec>>>,
    /// Pools of another kind whose names are oneshots now: they go when all is well.
    replaced: Vec<PoolId>,
    failed: Option<String>,
}

/// Pools that have to be up before this one, directly and by way of others.
fn all_before(plan: &Plan, pool: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut ask = vec![pool.to_owned()];
    while let Some(name) = ask.pop() {
        let Some(pool) = plan.pools.iter().find(|pool| pool.name == name) else { continue };
        ask.extend(pool.after.iter().filter(|before| found.insert((*before).clone())).cloned());
    }
    found
}

impl Oneshots {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.todo.iter().map(String::as_str)
    }
}

impl Supervisor {
    /// A reload runs the oneshots that its pools come after; otherwise those that are new or have changed run.
    pub(super) fn oneshots_to_run(&self, wish: &ReloadRequest, plan: &Plan) -> Oneshots {
        let named: BTreeSet<String> = match wish.extent {
            ReloadScope::ConfigOnly => BTreeSet::new(),
            ReloadScope::Everything | ReloadScope::DryRun => {
                let chosen = plan.pools.iter().filter(|pool| is_meant(&wish.which, pool));
                chosen.flat_map(|pool| std::iter::once(pool.name.clone()).chain(all_before(plan, &pool.name))).collect()
            }
        };
        let changed: BTreeSet<String> = plan::diff(&self.plan, plan)
            .pools
            .into_iter()
            .filter(|pool| matches!(pool.change, PoolChange::Added | PoolChange::Rolled { .. }))
            .map(|pool| pool.name)
            .collect();
        let rests = |name: &str| self.pools.find(name).is_some_and(|pool| self.pools.rests(pool));
        let todo = plan.pools.iter().filter(|pool| pool.kind == Kind::Oneshot).map(|pool| &pool.name);
        let todo = todo.filter(|name| (named.contains(*name) || changed.contains(*name)) && !rests(name));
        Oneshots { todo: todo.cloned().collect(), ..Oneshots::default() }
    }

    /// Begins the oneshots whose turn it is; after the last one the configuration is carried out.
    pub(super) fn continue_oneshots(&mut self) {
        self.reloads.stirred = false;
        let Some((wish, stage)) = self.reloads.take() else { return };
        let Stage::RunningOneshots(draft, mut oneshots) = stage else { return self.reloads.put(wish, stage) };
        if let Some(why) = oneshots.failed.take() {
            return self.oneshots_failed(wish, oneshots, &why);
        }
        if oneshots.todo.is_empty() && oneshots.running.is_empty() {
            let looks = self.looks_before(&wish, &draft);
            if looks.is_empty() {
                return self.commit_after_oneshots(wish, &draft, oneshots, &Passed::new());
            }
            self.reloads.put(wish, Stage::Comparing(draft, oneshots));
            return self.look(looks, Then::Commit);
        }
        let waits = |name: &String, oneshots: &Oneshots, supervisor: &Self| {
            let before = all_before(&draft.plan, name);
            oneshots.todo.iter().any(|other| other != name && before.contains(other))
                || oneshots.running.keys().any(|pool| before.contains(supervisor.pools.name(*pool)))
        };
        let (later, mut now): (Vec<String>, Vec<String>) =
            oneshots.todo.iter().cloned().partition(|name| waits(name, &oneshots, self));
        oneshots.todo = later;
        if now.is_empty() && oneshots.running.is_empty() {
            // The configuration refuses circles; nobody waits for ever for one all the same.
            now = std::mem::take(&mut oneshots.todo);
        }
        let mut requests = Vec::new();
        for name in now {
            self.tell_wish(&wish, &format!("{name}: running"));
            requests.extend(self.oneshot_requests(&draft, &mut oneshots, &name));
        }
        // The facts may end the phase at once: it has to be in its place before.
        self.reloads.put(wish, Stage::RunningOneshots(draft, oneshots));
        for (ticket, request) in requests {
            self.input(Input::Requested(ticket, request));
        }
    }

    /// The oneshots have run, and it is known which pools are passed over.
    pub(super) fn commit_after_oneshots(
        &mut self,
        wish: ReloadRequest,
        draft: &PendingConfig,
        oneshots: Oneshots,
        passed: &Passed,
    ) {
        self.commit(wish, draft, oneshots.replaced, &oneshots.before.into_keys().collect(), passed);
    }

    fn oneshot_requests(
        &mut self,
        draft: &PendingConfig,
        oneshots: &mut Oneshots,
        name: &str,
    ) -> Vec<(Ticket, Request)> {
        let Some(pattern) = draft.pool(name).and_then(|pool| draft.pattern(pool)) else { return Vec::new() };
        if let Some(other) =
            self.pools.find(name).filter(|pool| self.pools.plan(*pool).is_none_or(|plan| plan.kind != Kind::Oneshot))
        {
            self.pools.leave(other);
            oneshots.replaced.push(other);
        }
        let known = self.pools.find(name).and_then(|pool| Some((pool, self.pools.draft(pool)?.clone())));
        let Some((pool, before)) = known else {
            let pool = self.pools.add(pattern);
            oneshots.before.insert(pool, None);
            oneshots.running.insert(pool, None);
            let policy = self.pools.policy(pool);
            return policy.map(|policy| (super::NOBODY, Request::EnsurePool(pool, policy))).into_iter().collect();
        };
        let ticket = self.tickets.lone();
        let same = before.is_alike(&pattern);
        self.pools.redraft(pool, Arc::new(pattern));
        oneshots.before.insert(pool, Some(before));
        oneshots.running.insert(pool, Some(ticket));
        let Some(policy) = self.pools.policy(pool) else { return Vec::new() };
        if same {
            // A run that is under way, of the same recipe, ends before the next one begins.
            return vec![(super::NOBODY, Request::EnsurePool(pool, policy)), (ticket, Request::Roll(pool))];
        }
        vec![(ticket, Request::Reconfigure { pool, policy })]
    }

    /// The answer to a oneshot's ticket. False: it is somebody else's.
    pub(super) fn oneshot_ended(&mut self, ticket: Ticket, pool: PoolId, outcome: &Outcome) -> bool {
        let Some(oneshots) = self.reloads.oneshots() else { return false };
        if oneshots.running.get(&pool) != Some(&Some(ticket)) {
            return false;
        }
        if let Outcome::Begins { .. } = outcome {
            // It waits for others, and has not run: its end is known by what is recorded of it.
            if let Some(oneshots) = self.reloads.oneshots() {
                oneshots.running.insert(pool, None);
            }
            return true;
        }
        let culprit = match outcome {
            Outcome::Aborted { failure, .. } | Outcome::RolledBack { failure, .. } => Some(failure),
            _ => None,
        };
        let why = match (outcome, culprit) {
            (Outcome::Done { .. }, _) => None,
            (_, Some(failure)) => {
                Some(reason(failure, failure.worker.and_then(|worker| self.exit_reports.of_worker(worker))))
            }
            (Outcome::Superseded { by }, _) => Some(superseded(*by).to_owned()),
            _ => Some("it is not there any more".to_owned()),
        };
        let why = why.map(|why| format!("{} failed: {why}", self.pools.name(pool)));
        if let Some(oneshots) = self.reloads.oneshots() {
            oneshots.running.remove(&pool);
            oneshots.failed = oneshots.failed.take().or(why);
        }
        self.reloads.stirred = true;
        true
    }

    /// A oneshot has ended well: perhaps a new one that is waited for.
    pub(super) fn oneshot_done(&mut self, pool: PoolId) {
        if let Some(oneshots) = self.reloads.oneshots()
            && oneshots.running.get(&pool) == Some(&None)
        {
            oneshots.running.remove(&pool);
            self.reloads.stirred = true;
        }
    }

    /// A worker has failed before it was ready: perhaps that of a new oneshot.
    pub(super) fn oneshot_failed(&mut self, pool: PoolId, why: &str) {
        let why = format!("{} failed: {why}", self.pools.name(pool));
        if let Some(oneshots) = self.reloads.oneshots()
            && oneshots.running.get(&pool) == Some(&None)
        {
            oneshots.running.remove(&pool);
            oneshots.failed = Some(why);
            self.reloads.stirred = true;
        }
    }

    /// The old configuration serves on, that of the oneshots included; new sockets are closed again.
    fn oneshots_failed(&mut self, wish: ReloadRequest, oneshots: Oneshots, why: &str) {
        oneshots.replaced.iter().for_each(|pool| self.pools.come_back(*pool));
        for (pool, before) in oneshots.before {
            match before {
                Some(before) => {
                    self.pools.redraft(pool, before);
                    if let Some(policy) = self.pools.policy(pool) {
                        self.input(Input::Requested(super::NOBODY, Request::EnsurePool(pool, policy)));
                    }
                }
                None => {
                    self.pools.leave(pool);
                    self.input(Input::Requested(super::NOBODY, Request::Remove(pool)));
                }
            }
        }
        self.refresh_plan();
        self.close_unused();
        self.refuse(wish, 10, format!("{why}\nnothing was changed or rolled: everything is as it was"));
    }
}
