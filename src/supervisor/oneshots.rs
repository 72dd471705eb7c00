//! The oneshots of a reload: they run to their end, in dependency order, before anything else of the new configuration
//! takes effect. If one fails, nothing does.

use super::Supervisor;
use super::apply::{PendingConfig, ReloadRequest, ReloadStage};
use super::control::is_meant;
use super::on_change::{Continuation, PassedOver};
use super::pool_registry::PoolSpec;
use super::tickets::{Owner, reason, superseded};
use crate::control::protocol::ReloadScope;
use crate::plan::{self, Kind, Plan, PoolChange};
use rotad_core::{Input, Outcome, PoolId, Request, Ticket};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Oneshots {
    /// Names of those that have not started yet.
    waiting: Vec<String>,
    running: BTreeSet<PoolId>,
    /// The previous spec of each that was started. None: it is new.
    before: BTreeMap<PoolId, Option<Arc<PoolSpec>>>,
    /// Pools of another kind whose names are oneshots now: removed when all have succeeded.
    replaced: Vec<PoolId>,
    failed: Option<String>,
}

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

impl Oneshots {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(String::as_str)
    }
}

impl Supervisor {
    /// A reload runs the oneshots that its pools come after; `apply-config` runs only those that are new or changed.
    pub(super) fn oneshots_to_run(&self, request: &ReloadRequest, plan: &Plan) -> Oneshots {
        let named: BTreeSet<String> = match request.extent {
            ReloadScope::ConfigOnly => BTreeSet::new(),
            ReloadScope::Everything | ReloadScope::DryRun => {
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
        let changed: BTreeSet<String> = plan::diff(&self.plan, plan)
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
        Oneshots {
            waiting: waiting.cloned().collect(),
            ..Oneshots::default()
        }
    }

    /// Starts the oneshots whose turn it is. After the last one, the configuration is committed.
    pub(super) fn continue_oneshots(&mut self) {
        self.reloads.resume_pending = false;
        let Some((request, stage)) = self.reloads.take() else {
            return;
        };
        let ReloadStage::RunningOneshots(pending, mut oneshots) = stage else {
            return self.reloads.put(request, stage);
        };
        if let Some(why) = oneshots.failed.take() {
            return self.oneshots_failed(request, oneshots, &why);
        }
        if oneshots.waiting.is_empty() && oneshots.running.is_empty() {
            let comparisons = self.comparisons_for_reload(&request, &pending);
            if comparisons.is_empty() {
                return self.commit_after_oneshots(request, &pending, oneshots, &PassedOver::new());
            }
            self.reloads
                .put(request, ReloadStage::Comparing(pending, oneshots));
            return self.start_comparison(comparisons, Continuation::Commit);
        }
        let waits = |name: &String, oneshots: &Oneshots, supervisor: &Self| {
            let before = all_before(&pending.plan, name);
            oneshots
                .waiting
                .iter()
                .any(|other| other != name && before.contains(other))
                || oneshots
                    .running
                    .iter()
                    .any(|pool| before.contains(supervisor.pools.name(*pool)))
        };
        let (later, mut now): (Vec<String>, Vec<String>) = oneshots
            .waiting
            .iter()
            .cloned()
            .partition(|name| waits(name, &oneshots, self));
        oneshots.waiting = later;
        if now.is_empty() && oneshots.running.is_empty() {
            // The configuration refuses cycles; this keeps one from waiting without end.
            now = std::mem::take(&mut oneshots.waiting);
        }
        let mut requests = Vec::new();
        for name in now {
            self.report_reload_progress(&request, &format!("{name}: running"));
            requests.extend(self.oneshot_requests(&pending, &mut oneshots, &name));
        }
        // Before the inputs: they may end the phase immediately.
        self.reloads
            .put(request, ReloadStage::RunningOneshots(pending, oneshots));
        for (ticket, request) in requests {
            self.input(Input::Requested(ticket, request));
        }
    }

    /// The oneshots have run, and it is known which pools are passed over.
    pub(super) fn commit_after_oneshots(
        &mut self,
        request: ReloadRequest,
        pending: &PendingConfig,
        oneshots: Oneshots,
        passed_over: &PassedOver,
    ) {
        self.commit(
            request,
            pending,
            oneshots.replaced,
            &oneshots.before.into_keys().collect(),
            passed_over,
        );
    }

    fn oneshot_requests(
        &mut self,
        pending: &PendingConfig,
        oneshots: &mut Oneshots,
        name: &str,
    ) -> Vec<(Option<Ticket>, Request)> {
        let Some(spec) = pending.pool(name).and_then(|pool| pending.spec(pool)) else {
            return Vec::new();
        };
        if let Some(other) = self.pools.find(name).filter(|pool| {
            self.pools
                .plan(*pool)
                .is_none_or(|plan| plan.kind != Kind::Oneshot)
        }) {
            self.pools.mark_removed(other);
            oneshots.replaced.push(other);
        }
        let known = self
            .pools
            .find(name)
            .and_then(|pool| Some((pool, self.pools.next_spec(pool)?.clone())));
        let Some((pool, before)) = known else {
            let pool = self.pools.add(spec);
            oneshots.before.insert(pool, None);
            let Some(policy) = self.pools.policy(pool) else {
                return Vec::new();
            };
            oneshots.running.insert(pool);
            let ticket = self.tickets.of(Owner::Oneshot);
            return vec![(Some(ticket), Request::EnsurePool(pool, policy))];
        };
        let same = before.is_alike(&spec);
        self.pools.set_next_spec(pool, Arc::new(spec));
        oneshots.before.insert(pool, Some(before));
        let Some(policy) = self.pools.policy(pool) else {
            return Vec::new();
        };
        oneshots.running.insert(pool);
        let ticket = Some(self.tickets.of(Owner::Oneshot));
        if same {
            // Same spec: a run that is under way ends before the next one begins.
            return vec![
                (None, Request::EnsurePool(pool, policy)),
                (ticket, Request::Roll(pool)),
            ];
        }
        vec![(ticket, Request::Reconfigure { pool, policy })]
    }

    /// A oneshot that a reload waits for has ended.
    pub(super) fn oneshot_replied(&mut self, pool: PoolId, outcome: &Outcome) {
        let why = match outcome {
            Outcome::Done { .. } | Outcome::Up(_) => None,
            Outcome::Aborted { failure, .. } | Outcome::RolledBack { failure, .. } => {
                let culprit = failure
                    .worker
                    .and_then(|worker| self.exit_reports.of_worker(worker));
                Some(reason(failure, culprit))
            }
            Outcome::StartFailed(failure) => Some(self.start_failure_text(pool, failure).0),
            Outcome::Superseded { by } => Some(superseded(*by).to_owned()),
            Outcome::HeldUp { by, .. } => Some(format!("it waits for {}", self.names(by))),
            _ => Some("it is not there any more".to_owned()),
        };
        let why = why.map(|why| format!("{} failed: {why}", self.pools.name(pool)));
        if let Some(oneshots) = self.reloads.oneshots()
            && oneshots.running.remove(&pool)
        {
            oneshots.failed = oneshots.failed.take().or(why);
            self.reloads.resume_pending = true;
        }
    }

    /// The old configuration stays in force, including that of the oneshots; new sockets are closed again.
    fn oneshots_failed(&mut self, request: ReloadRequest, oneshots: Oneshots, why: &str) {
        oneshots
            .replaced
            .iter()
            .for_each(|pool| self.pools.unmark_removed(*pool));
        for (pool, before) in oneshots.before {
            match before {
                Some(before) => {
                    self.pools.set_next_spec(pool, before);
                    if let Some(policy) = self.pools.policy(pool) {
                        self.request(Request::EnsurePool(pool, policy));
                    }
                }
                None => {
                    self.pools.mark_removed(pool);
                    self.request(Request::Remove(pool));
                }
            }
        }
        self.refresh_plan();
        self.close_unused();
        self.finish_unchanged(
            request,
            10,
            format!("{why}\nnothing was changed or rolled: everything is as it was"),
        );
    }
}
