//! The oneshots of a reload: they run to their end, in dependency order, before anything else of the new configuration
//! takes effect. If one fails, nothing does.

use super::Supervisor;
use super::apply::{PendingConfig, ReloadRequest, ReloadStage};
use super::control::is_meant;
use super::on_change::{Continuation, PassedOver};
use super::pool_registry::PoolSpec;
use super::tickets::{reason, superseded};
use crate::control::protocol::ReloadScope;
use crate::plan::{self, Kind, Plan, PoolChange};
use rotad_core::{Input, Outcome, PoolId, Request, Ticket};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Oneshots {
    /// Names of those that have not started yet.
    waiting: Vec<String>,
    /// Those that run, with their tickets. A new oneshot has no ticket (`EnsurePool` has no reply), so its end is
    /// learnt from the engine's notices.
    running: BTreeMap<PoolId, Option<Ticket>>,
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
                    .keys()
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
    ) -> Vec<(Ticket, Request)> {
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
            oneshots.running.insert(pool, None);
            let policy = self.pools.policy(pool);
            return policy
                .map(|policy| (super::NO_TICKET, Request::EnsurePool(pool, policy)))
                .into_iter()
                .collect();
        };
        let ticket = self.tickets.standalone();
        let same = before.is_alike(&spec);
        self.pools.set_next_spec(pool, Arc::new(spec));
        oneshots.before.insert(pool, Some(before));
        oneshots.running.insert(pool, Some(ticket));
        let Some(policy) = self.pools.policy(pool) else {
            return Vec::new();
        };
        if same {
            // Same spec: a run that is under way ends before the next one begins.
            return vec![
                (super::NO_TICKET, Request::EnsurePool(pool, policy)),
                (ticket, Request::Roll(pool)),
            ];
        }
        vec![(ticket, Request::Reconfigure { pool, policy })]
    }

    /// Takes the engine's reply to a oneshot's ticket. False: the ticket is not a oneshot's.
    pub(super) fn oneshot_ended(
        &mut self,
        ticket: Ticket,
        pool: PoolId,
        outcome: &Outcome,
    ) -> bool {
        let Some(oneshots) = self.reloads.oneshots() else {
            return false;
        };
        if oneshots.running.get(&pool) != Some(&Some(ticket)) {
            return false;
        }
        if let Outcome::Begins { .. } = outcome {
            // It waits for others and has not run: its end is learnt from the notices.
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
            (_, Some(failure)) => Some(reason(
                failure,
                failure
                    .worker
                    .and_then(|worker| self.exit_reports.of_worker(worker)),
            )),
            (Outcome::Superseded { by }, _) => Some(superseded(*by).to_owned()),
            _ => Some("it is not there any more".to_owned()),
        };
        let why = why.map(|why| format!("{} failed: {why}", self.pools.name(pool)));
        if let Some(oneshots) = self.reloads.oneshots() {
            oneshots.running.remove(&pool);
            oneshots.failed = oneshots.failed.take().or(why);
        }
        self.reloads.resume_pending = true;
        true
    }

    /// A oneshot has succeeded: perhaps a new one that the reload waits for.
    pub(super) fn oneshot_done(&mut self, pool: PoolId) {
        if let Some(oneshots) = self.reloads.oneshots()
            && oneshots.running.get(&pool) == Some(&None)
        {
            oneshots.running.remove(&pool);
            self.reloads.resume_pending = true;
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
                        self.input(Input::Requested(
                            super::NO_TICKET,
                            Request::EnsurePool(pool, policy),
                        ));
                    }
                }
                None => {
                    self.pools.mark_removed(pool);
                    self.input(Input::Requested(super::NO_TICKET, Request::Remove(pool)));
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
