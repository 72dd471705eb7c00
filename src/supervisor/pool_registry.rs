//! The pool registry: every pool that this master has or had, under an id that is never reused, with the spec of each
//! of its generations. A reload replaces plans; a worker keeps the spec that it was spawned from.

use super::deploys::{Asker, Deploy};
use super::listening::ListenerId;
use crate::control::pool_names::Pools;
use crate::control::protocol::Selector;
use crate::exit_code::ExitCode;
use crate::plan::{Health, Kind, ListenPlan, PoolPlan};
use rotad_core::{Generation, Policy, PoolId, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the workers of one generation are spawned from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PoolSpec {
    pub plan: PoolPlan,
    /// The sockets in the order of the plan's `listen`, as configured; `listeners` has their ids.
    pub sockets: Vec<ListenPlan>,
    pub listeners: Vec<ListenerId>,
}

impl PoolSpec {
    /// Whether both specs would spawn exactly the same worker.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let names = |of: &Self| {
            of.sockets
                .iter()
                .map(|socket| socket.name.clone())
                .collect::<Vec<_>>()
        };
        // The indices in `listen` refer to plans that no longer exist.
        let mut recipe = other.plan.recipe.clone();
        recipe.listen.clone_from(&self.plan.recipe.listen);
        self.listeners == other.listeners
            && names(self) == names(other)
            && self.plan.recipe == recipe
            && self.plan.kind == other.plan.kind
            && self.plan.ready == other.plan.ready
            && self.plan.ports == other.plan.ports
    }

    /// Takes over the keys that change without a restart.
    fn adjust(&mut self, to: &PoolPlan) {
        let own = &mut self.plan;
        let (readiness, ready_timeout) = (own.policy.readiness, own.policy.ready_timeout);
        own.policy = Policy {
            readiness,
            ready_timeout,
            ..to.policy.clone()
        };
        own.after.clone_from(&to.after);
        own.recycle = to.recycle;
        own.watch.clone_from(&to.watch);
        own.roll_on = to.roll_on;
        own.log = to.log.clone();
        own.metrics.clone_from(&to.metrics);
        if Health::fits_running(own.health.as_ref(), to.health.as_ref()) {
            own.health.clone_from(&to.health);
        }
    }
}

#[derive(Debug)]
struct PoolEntry {
    /// The spec of the next generation.
    next_spec: Arc<PoolSpec>,
    generations: BTreeMap<Generation, Arc<PoolSpec>>,
    /// The number of workers set by `rotad scale`. It holds until the number in the file changes.
    scaled: Option<u32>,
    /// Stopped by `rotad stop`: no change of the configuration starts it.
    stopped_by_operator: bool,
    /// The configuration no longer has it: forgotten once its workers are gone.
    removed: bool,
    /// Who has asked for the next generation.
    asker: Option<Asker>,
    /// The generation that was begun last. None: what is known of it was lost with the state of a dead master.
    deploy: Option<Deploy>,
}

/// What is saved of an entry. Specs that generations share are saved once.
#[derive(Debug, Serialize, Deserialize)]
struct SavedEntry {
    specs: Vec<Arc<PoolSpec>>,
    /// Its index in `specs`; so are those of the generations.
    next_spec: usize,
    generations: BTreeMap<Generation, usize>,
    scaled: Option<u32>,
    stopped_by_operator: bool,
    removed: bool,
    #[serde(default)]
    asker: Option<Asker>,
    #[serde(default)]
    deploy: Option<Deploy>,
}

/// What is saved of the registry.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedPools {
    entries: BTreeMap<PoolId, SavedEntry>,
    last: u32,
    reverted: BTreeSet<PoolId>,
}

impl PoolEntry {
    fn saved(&self) -> SavedEntry {
        let mut specs: Vec<Arc<PoolSpec>> = Vec::new();
        let mut index = |spec: &Arc<PoolSpec>| {
            let known = specs.iter().position(|other| Arc::ptr_eq(other, spec));
            known.unwrap_or_else(|| {
                specs.push(spec.clone());
                specs.len() - 1
            })
        };
        let next_spec = index(&self.next_spec);
        let generations = self.generations.iter();
        let generations = generations.map(|(generation, spec)| (*generation, index(spec)));
        SavedEntry {
            next_spec,
            generations: generations.collect(),
            specs,
            scaled: self.scaled,
            stopped_by_operator: self.stopped_by_operator,
            removed: self.removed,
            asker: self.asker.clone(),
            deploy: self.deploy.clone(),
        }
    }

    /// None: it refers to a spec that it does not have.
    fn restore(saved: SavedEntry) -> Option<Self> {
        let spec = |index: usize| saved.specs.get(index).cloned();
        let generations = saved.generations.iter();
        let generations = generations.map(|(generation, index)| Some((*generation, spec(*index)?)));
        Some(Self {
            next_spec: spec(saved.next_spec)?,
            generations: generations.collect::<Option<_>>()?,
            scaled: saved.scaled,
            stopped_by_operator: saved.stopped_by_operator,
            removed: saved.removed,
            asker: saved.asker,
            deploy: saved.deploy,
        })
    }
}

#[derive(Debug, Default)]
pub(super) struct PoolRegistry {
    entries: BTreeMap<PoolId, PoolEntry>,
    last: u32,
    /// Pools whose last rolling restart has failed and has reverted a change of the configuration.
    pub reverted: BTreeSet<PoolId>,
}

impl PoolRegistry {
    /// What is saved of it.
    pub(super) fn saved(&self) -> SavedPools {
        let entries = self.entries.iter();
        SavedPools {
            entries: entries.map(|(id, entry)| (*id, entry.saved())).collect(),
            last: self.last,
            reverted: self.reverted.clone(),
        }
    }

    /// The registry that was saved. None: it contradicts itself.
    pub(super) fn restore(saved: SavedPools) -> Option<Self> {
        let entries = saved.entries.into_iter();
        let entries = entries.map(|(id, entry)| Some((id, PoolEntry::restore(entry)?)));
        Some(Self {
            entries: entries.collect::<Option<_>>()?,
            last: saved.last,
            reverted: saved.reverted,
        })
    }

    /// Adds a new pool.
    pub(super) fn add(&mut self, spec: PoolSpec) -> PoolId {
        let id = PoolId(self.last);
        self.last += 1;
        let next_spec = Arc::new(spec);
        let entry = PoolEntry {
            next_spec,
            generations: BTreeMap::new(),
            scaled: None,
            stopped_by_operator: false,
            removed: false,
            asker: None,
            deploy: None,
        };
        self.entries.insert(id, entry);
        id
    }

    /// Marks a pool that the configuration no longer has. Its name is free for another pool.
    pub(super) fn mark_removed(&mut self, pool: PoolId) {
        self.set_removed(pool, true);
    }

    /// Undoes [`Self::mark_removed`].
    pub(super) fn unmark_removed(&mut self, pool: PoolId) {
        self.set_removed(pool, false);
    }

    fn set_removed(&mut self, pool: PoolId, removed: bool) {
        if let Some(entry) = self.entries.get_mut(&pool) {
            entry.removed = removed;
        }
    }

    /// Removed pools whose workers may still finish.
    pub(super) fn removed(&self) -> Vec<PoolId> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.removed)
            .map(|(id, _)| *id)
            .collect()
    }

    pub(super) fn forget(&mut self, pool: PoolId) {
        self.entries.remove(&pool);
    }

    /// The plan of the pool's next generation. None if the pool is gone.
    pub(super) fn plan(&self, pool: PoolId) -> Option<&PoolPlan> {
        self.entries.get(&pool).map(|entry| &entry.next_spec.plan)
    }

    pub(super) fn next_spec(&self, pool: PoolId) -> Option<&Arc<PoolSpec>> {
        self.entries.get(&pool).map(|entry| &entry.next_spec)
    }

    /// The spec of a generation that has begun.
    pub(super) fn spec_of(&self, pool: PoolId, generation: Generation) -> Option<&Arc<PoolSpec>> {
        self.entries.get(&pool)?.generations.get(&generation)
    }

    /// The engine's policy for the pool: names become ids, and the number of `rotad scale` counts.
    pub(super) fn policy(&self, pool: PoolId) -> Option<Policy> {
        let entry = self.entries.get(&pool)?;
        let plan = &entry.next_spec.plan;
        Some(Policy {
            count: entry.scaled.unwrap_or(plan.policy.count),
            after: plan
                .after
                .iter()
                .filter_map(|name| self.find(name))
                .collect(),
            ..plan.policy.clone()
        })
    }

    pub(super) fn name(&self, pool: PoolId) -> &str {
        self.plan(pool).map_or("?", |plan| plan.name.as_str())
    }

    /// The names of these pools, for people.
    pub(super) fn list(&self, pools: &[PoolId]) -> String {
        let names: Vec<&str> = pools.iter().map(|pool| self.name(*pool)).collect();
        names.join(", ")
    }

    /// The pool of this name in the configuration.
    pub(super) fn find(&self, name: &str) -> Option<PoolId> {
        self.iter()
            .find(|(_, plan)| plan.name == name)
            .map(|(id, _)| id)
    }

    /// The pool of this name, or what is said where there is none.
    pub(super) fn require(&self, name: &str) -> Result<PoolId, String> {
        self.find(name)
            .ok_or_else(|| Pools::new(&self.names()).unknown(name))
    }

    /// The pools that a name, a pattern or `all` stands for: one at least. The error is what is said to the user.
    pub(super) fn matching(&self, name: &str) -> Result<Vec<PoolId>, String> {
        let expanded = Pools::new(&self.names()).expand(&[name.to_owned()])?;
        Ok(self
            .iter()
            .filter(|(_, plan)| {
                expanded
                    .as_ref()
                    .is_none_or(|names| names.contains(&plan.name))
            })
            .map(|(id, _)| id)
            .collect())
    }

    /// A selector with the names that its patterns stand for. `oneshots`: whether a pattern, as "all pools", includes
    /// oneshots. The error is what is said to the user.
    pub(super) fn expand(&self, which: &Selector, oneshots: bool) -> Result<Selector, String> {
        let plans: Vec<&PoolPlan> = self.iter().map(|(_, plan)| plan).collect();
        expand(which, &plans, oneshots)
    }

    /// The pools that a selector without patterns means, or the exit code and text of the answer if there are none.
    /// `oneshots`: whether "all pools" includes oneshots. They are part of a reload, but not of a rolling restart of
    /// everything.
    pub(super) fn select(
        &self,
        which: &Selector,
        oneshots: bool,
    ) -> Result<Vec<PoolId>, (ExitCode, String)> {
        let wanted = |pool: &PoolPlan| {
            is_meant(which, pool)
                && (oneshots || pool.kind != Kind::Oneshot || which.pools.contains(&pool.name))
        };
        let pools: Vec<PoolId> = self
            .iter()
            .filter(|(_, pool)| wanted(pool))
            .map(|(id, _)| id)
            .collect();
        if pools.is_empty() {
            return Err((ExitCode::DONE, "there is no pool of that kind".to_owned()));
        }
        Ok(pools)
    }

    /// The pools of the configuration.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PoolId, &PoolPlan)> {
        self.entries
            .iter()
            .filter(|(_, entry)| !entry.removed)
            .map(|(id, entry)| (*id, &entry.next_spec.plan))
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.iter().map(|(_, plan)| plan.name.as_str()).collect()
    }

    /// The pools of a kind. None: all pools except oneshots.
    pub(super) fn of_kind(&self, kind: Option<Kind>) -> Vec<PoolId> {
        let wanted =
            |plan: &PoolPlan| kind.map_or(plan.kind != Kind::Oneshot, |kind| plan.kind == kind);
        self.iter()
            .filter(|(_, plan)| wanted(plan))
            .map(|(id, _)| id)
            .collect()
    }

    /// The same pools in dependency order: each after those that it comes after, directly or indirectly; otherwise in
    /// the given order.
    pub(super) fn in_order(&self, pools: &[PoolId]) -> Vec<PoolId> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        // Depth-first: a pool goes on the stack twice, and is appended the second time, after its dependencies.
        let mut stack: Vec<(PoolId, bool)> =
            pools.iter().rev().map(|pool| (*pool, false)).collect();
        while let Some((pool, done)) = stack.pop() {
            if done {
                ordered.push(pool);
            } else if seen.insert(pool) {
                stack.push((pool, true));
                let before = self.plan(pool).into_iter().flat_map(|plan| &plan.after);
                stack.extend(before.filter_map(|name| Some((self.find(name)?, false))));
            }
        }
        ordered.retain(|pool| pools.contains(pool));
        ordered
    }

    pub(super) fn stopped_by_operator(&self, pool: PoolId) -> bool {
        self.entries
            .get(&pool)
            .is_some_and(|entry| entry.stopped_by_operator)
    }

    pub(super) fn set_stopped_by_operator(&mut self, pool: PoolId, stopped_by_operator: bool) {
        if let Some(entry) = self.entries.get_mut(&pool) {
            entry.stopped_by_operator = stopped_by_operator;
        }
    }

    pub(super) fn scaled(&self, pool: PoolId) -> Option<u32> {
        self.entries.get(&pool)?.scaled
    }

    /// Sets the number of workers of `rotad scale`. None: the number in the file.
    pub(super) fn scale(&mut self, pool: PoolId, count: Option<u32>) {
        if let Some(entry) = self.entries.get_mut(&pool) {
            entry.scaled = count;
        }
    }

    /// Sets the spec of the next generation. If the file's number of workers changes, it replaces that of `rotad
    /// scale`.
    pub(super) fn set_next_spec(&mut self, pool: PoolId, spec: Arc<PoolSpec>) {
        let Some(entry) = self.entries.get_mut(&pool) else {
            return;
        };
        if entry.next_spec.plan.policy.count != spec.plan.policy.count {
            entry.scaled = None;
        }
        entry.next_spec = spec;
    }

    /// Applies changes that need no new generation, also to the generations that serve.
    pub(super) fn adjust(
        &mut self,
        pool: PoolId,
        spec: PoolSpec,
        serving: impl Fn(Generation) -> bool,
    ) {
        let Some(entry) = self.entries.get_mut(&pool) else {
            return;
        };
        let (old, new) = (entry.next_spec.clone(), Arc::new(spec));
        for (generation, spec_of) in &mut entry.generations {
            if Arc::ptr_eq(spec_of, &old) {
                *spec_of = new.clone();
            } else if serving(*generation) {
                let mut adjusted = PoolSpec::clone(spec_of);
                adjusted.adjust(&new.plan);
                *spec_of = Arc::new(adjusted);
            }
        }
        self.set_next_spec(pool, new);
    }

    /// Notes who asks for the pool's next generation.
    pub(super) fn ask_for(&mut self, pool: PoolId, asker: &Asker) {
        if let Some(entry) = self.entries.get_mut(&pool) {
            entry.asker = Some(asker.clone());
        }
    }

    /// The deploy that was begun last.
    pub(super) fn deploy(&self, pool: PoolId) -> Option<&Deploy> {
        self.entries.get(&pool)?.deploy.as_ref()
    }

    /// Begins a generation: fixes its spec as the next spec of now.
    pub(super) fn begin_generation(&mut self, pool: PoolId, generation: Generation, now: Time) {
        if let Some(entry) = self.entries.get_mut(&pool) {
            let next_spec = entry.next_spec.clone();
            entry.generations.entry(generation).or_insert(next_spec);
            if let Some(asker) = entry.asker.take() {
                entry.deploy = Some(Deploy::begin(generation, asker, now));
            }
        }
    }

    /// The spec of a generation; begins it if necessary.
    pub(super) fn spec_for_spawn(
        &mut self,
        pool: PoolId,
        generation: Generation,
        now: Time,
    ) -> Option<Arc<PoolSpec>> {
        self.begin_generation(pool, generation, now);
        self.spec_of(pool, generation).cloned()
    }

    /// Forgets the generations that can no longer be spawned.
    pub(super) fn retain_generations(&mut self, pool: PoolId, wanted: impl Fn(Generation) -> bool) {
        if let Some(entry) = self.entries.get_mut(&pool) {
            entry
                .generations
                .retain(|generation, _| wanted(*generation));
        }
    }

    /// Pools that use this socket in their next generation, or in a generation for which `counts` holds.
    pub(super) fn users_of(
        &self,
        listener: ListenerId,
        counts: impl Fn(PoolId, Generation) -> bool,
    ) -> Vec<PoolId> {
        let uses = |pool: PoolId, entry: &PoolEntry| {
            let made = entry
                .generations
                .iter()
                .filter(|(generation, _)| counts(pool, **generation));
            std::iter::once(&entry.next_spec)
                .chain(made.map(|(_, spec)| spec))
                .any(|spec| spec.listeners.contains(&listener))
        };
        self.entries
            .iter()
            .filter(|(id, entry)| uses(**id, entry))
            .map(|(id, _)| *id)
            .collect()
    }
}

/// A selector with the names that its patterns stand for among `plans`: see [`PoolRegistry::expand`].
pub(super) fn expand(
    which: &Selector,
    plans: &[&PoolPlan],
    oneshots: bool,
) -> Result<Selector, String> {
    let all: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
    let by_pattern: Vec<&str> = plans
        .iter()
        .filter(|plan| oneshots || plan.kind != Kind::Oneshot)
        .map(|plan| plan.name.as_str())
        .collect();
    let pools = Pools {
        all: &all,
        by_pattern: &by_pattern,
    };
    Ok(pools
        .expand(&which.pools)?
        .map_or_else(Selector::default, |pools| Selector {
            pools,
            ..which.clone()
        }))
}

/// Whether a selector without patterns includes this pool.
pub(super) fn is_meant(which: &Selector, pool: &PoolPlan) -> bool {
    let all = !which.workers && !which.tasks && which.pools.is_empty();
    all || which.pools.contains(&pool.name)
        || (which.workers && pool.kind == Kind::Worker)
        || (which.tasks && pool.kind == Kind::Task)
}
