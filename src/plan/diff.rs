//! What differs between two plans.

use super::{Address, ListenPlan, Plan, PoolPlan, Sink};

/// What a new plan changes.
#[derive(Clone, Debug, Default)]
pub struct Diff {
    pub pools: Vec<PoolDiff>,
    pub listeners: Vec<ListenDiff>,
    pub live: Vec<String>,
    pub needs_new_master: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct PoolDiff {
    pub name: String,
    pub change: PoolChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolChange {
    Added,
    Removed,
    Rolled { keys: Vec<String> },
    Adjusted { keys: Vec<String> },
    Same,
}

#[derive(Clone, Debug)]
pub struct ListenDiff {
    pub name: String,
    pub change: ListenChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenChange {
    Added,
    Removed,
    Adjusted { keys: Vec<String> },
    Replaced,
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
            && self.needs_new_master.is_empty()
            && self.listeners.is_empty()
            && self.pools.iter().all(|pool| pool.change == PoolChange::Same)
    }

    pub fn lines(&self) -> Vec<String> {
        self.pools.iter().map(|pool| format!("{}: {:?}", pool.name, pool.change)).collect()
    }
}

fn sockets<'a>(plan: &'a Plan, pool: &PoolPlan) -> Vec<(&'a str, &'a Address)> {
    pool.recipe.listen.iter().map(|i| &plan.listeners[*i]).map(|l: &ListenPlan| (l.name.as_str(), &l.address)).collect()
}

pub fn diff(old: &Plan, new: &Plan) -> Diff {
    let mut diff = Diff::default();
    for pool in &new.pools {
        let change = match old.pools.iter().find(|p| p.name == pool.name) {
            None => PoolChange::Added,
            Some(before) => {
                let mut recipe = before.recipe.clone();
                recipe.listen = pool.recipe.listen.clone();
                let fixed = |log: &super::LogPlan| {
                    [&log.stdout, &log.stderr]
                        .map(|s| if matches!(s, Sink::Inherit | Sink::Null) { Some(s.clone()) } else { None })
                };
                let rolled = recipe != pool.recipe
                    || sockets(old, before) != sockets(new, pool)
                    || before.ready != pool.ready
                    || before.kind != pool.kind
                    || fixed(&before.log) != fixed(&pool.log);
                let adjusted = before.policy != pool.policy || before.after != pool.after || before.log != pool.log;
                match (rolled, adjusted) {
                    (true, _) => PoolChange::Rolled { keys: vec!["command".into()] },
                    (false, true) => PoolChange::Adjusted { keys: vec!["count".into()] },
                    (false, false) => PoolChange::Same,
                }
            }
        };
        diff.pools.push(PoolDiff { name: pool.name.clone(), change });
    }
    for pool in old.pools.iter().filter(|pool| !new.pools.iter().any(|p| p.name == pool.name)) {
        diff.pools.push(PoolDiff { name: pool.name.clone(), change: PoolChange::Removed });
    }
    if old.master.pid_file != new.master.pid_file {
        diff.needs_new_master.push("master.pid_file".into());
    }
    diff
}
