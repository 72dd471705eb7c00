//! `reload --dry-run`: what a reload would do, as text and as JSON (docs/reload.md).

use crate::plan::{self, Diff, Kind, ListenChange, Plan, PoolChange, PoolPlan, RollOn};
use crate::supervisor::pool_registry::is_meant;
use crate::supervisor::reload::ReloadRequest;
use crate::supervisor::reload::lookup::Lookup;
use serde_json::{Value, json};

/// What a reload would do to a pool whose workers are not made differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Roll,
    RollIfChanged,
    StayStopped,
    Run,
}

/// What a reload would do.
#[derive(Debug)]
pub(crate) struct DryRun {
    diff: Diff,
    /// Oneshots first, then pools that are rolled.
    does: Vec<(String, Does)>,
}

impl Lookup<'_> {
    pub(crate) fn dry_run(&self, request: &ReloadRequest, new: &Plan) -> DryRun {
        let diff = plan::diff(self.plan, new);
        let is_rolled = |name: &str| {
            let change = diff.change_of(name);
            matches!(change, PoolChange::Rolled { .. } | PoolChange::Added)
        };
        let oneshots = self.oneshots_to_run(request, new).into_iter();
        let mut does: Vec<(String, Does)> =
            oneshots.map(|oneshot| (oneshot.name, Does::Run)).collect();
        let pools = new.pools.iter().filter(|pool| {
            pool.kind != Kind::Oneshot && is_meant(&request.which, pool) && !is_rolled(&pool.name)
        });
        does.extend(pools.map(|pool| (pool.name.clone(), self.does(request, pool))));
        DryRun { diff, does }
    }

    fn does(&self, request: &ReloadRequest, pool: &PoolPlan) -> Does {
        let known = self.pools.find(&pool.name);
        match pool.roll_on {
            _ if known.is_some_and(|pool| self.pools.stopped_by_operator(pool)) => {
                Does::StayStopped
            }
            RollOn::Change if !request.which.pools.contains(&pool.name) => Does::RollIfChanged,
            RollOn::Always | RollOn::Change => Does::Roll,
        }
    }
}

impl DryRun {
    /// A line for each thing that changes or would be done.
    pub(crate) fn to_text(&self) -> String {
        let mut lines = self.diff.lines();
        lines.extend(self.does.iter().map(|(name, does)| {
            let what = match does {
                Does::Roll => "would be rolled",
                Does::RollIfChanged => {
                    "would be rolled if its program or directory has changed (reload.on = \"change\")"
                }
                Does::StayStopped => "is stopped, and stays so",
                Does::Run => "would be run",
            };
            format!("{name}: {what}")
        }));
        lines.join("\n")
    }

    /// The same as an object; its keys and words are those of docs/reload.md.
    pub(crate) fn to_json(&self) -> String {
        let does = |name: &str| {
            self.does
                .iter()
                .find(|(of, _)| of == name)
                .map(|(_, does)| *does)
        };
        let mut pools: Vec<Value> = Vec::new();
        for pool in &self.diff.pools {
            let nothing: &[String] = &[];
            let (change, keys) = match &pool.change {
                PoolChange::Added => ("added", nothing),
                PoolChange::Removed => ("removed", nothing),
                PoolChange::Rolled { keys } => ("changed", keys.as_slice()),
                PoolChange::Adjusted { keys } => ("adjusted", keys.as_slice()),
                PoolChange::Same => ("none", nothing),
            };
            let action = match (&pool.change, does(&pool.name)) {
                (PoolChange::Removed, _) => "stop",
                (_, Some(Does::Run)) => "run",
                (_, Some(Does::StayStopped)) => "stay-stopped",
                (_, Some(Does::RollIfChanged)) => "roll-if-changed",
                (PoolChange::Added, _) => "start",
                (PoolChange::Rolled { .. }, _) | (_, Some(Does::Roll)) => "roll",
                (PoolChange::Adjusted { .. } | PoolChange::Same, None) => "none",
            };
            pools
                .push(json!({"name": pool.name, "change": change, "keys": keys, "action": action}));
        }
        let listeners = self.diff.listeners.iter().map(|listener| {
            let (change, keys) = match &listener.change {
                ListenChange::Added => ("added", Vec::new()),
                ListenChange::Removed => ("removed", Vec::new()),
                ListenChange::Adjusted { keys } => ("adjusted", keys.clone()),
                ListenChange::Replaced => ("replaced", vec!["address".to_owned()]),
            };
            json!({"name": listener.name, "change": change, "keys": keys})
        });
        let listeners: Vec<Value> = listeners.collect();
        let master =
            json!({"applied": self.diff.live, "after_restart": self.diff.needs_new_master});
        json!({"pools": pools, "listeners": listeners, "master": master}).to_string()
    }
}
