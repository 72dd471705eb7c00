//! The pools that this master has or had, each under a number of its own that is never used again, with what each of
//! their generations is made from. Plans come and go; a worker keeps the pattern that it was made from.

use super::listening::ListenerId;
use crate::plan::{Kind, ListenPlan, PoolPlan};
use rotad_core::{Generation, Policy, PoolId, PoolKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a generation is made from.
#[derive(Clone, Debug)]
pub(super) struct PoolSpec {
    pub plan: PoolPlan,
    /// The sockets in the order of the plan's `listen`, as they were configured and by their numbers.
    pub sockets: Vec<ListenPlan>,
    pub listeners: Vec<ListenerId>,
}

impl PoolSpec {
    /// A worker of one is made from exactly what a worker of the other is made from.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        let names = |of: &Self| of.sockets.iter().map(|socket| socket.name.clone()).collect::<Vec<_>>();
        // The indices of `listen` belong to plans that are long gone.
        let mut recipe = other.plan.recipe.clone();
        recipe.listen.clone_from(&self.plan.recipe.listen);
        self.listeners == other.listeners
            && names(self) == names(other)
            && self.plan.recipe == recipe
            && self.plan.kind == other.plan.kind
            && self.plan.ready == other.plan.ready
            && self.plan.ports == other.plan.ports
    }

    /// Takes over what changes without a restart.
    fn adjust(&mut self, to: &PoolPlan) {
        let own = &mut self.plan;
        let (readiness, ready_timeout) = (own.policy.readiness, own.policy.ready_timeout);
        own.policy = Policy { readiness, ready_timeout, ..to.policy.clone() };
        own.after.clone_from(&to.after);
        own.essential = to.essential;
        own.recycle = to.recycle;
        own.watch.clone_from(&to.watch);
        own.roll_on = to.roll_on;
        own.log = to.log.clone();
        // Another kind of check belongs to another generation.
        if std::mem::discriminant(&own.health) == std::mem::discriminant(&to.health) {
            own.health.clone_from(&to.health);
        }
    }
}

#[derive(Debug)]
struct PoolEntry {
    /// What the next generation is made from.
    draft: Arc<PoolSpec>,
    generations: BTreeMap<Generation, Arc<PoolSpec>>,
    /// The number that a person asked for; it holds until the file's changes.
    scaled: Option<u32>,
    /// A person has stopped it: no change of the configuration starts it again.
    rests: bool,
    /// The configuration has it no more: forgotten once its workers are gone.
    leaving: bool,
}

#[derive(Debug, Default)]
pub(super) struct PoolRegistry {
    posts: BTreeMap<PoolId, PoolEntry>,
    last: u32,
}

impl PoolRegistry {
    /// A pool that was not there before.
    pub(super) fn add(&mut self, pattern: PoolSpec) -> PoolId {
        let id = PoolId(self.last);
        self.last += 1;
        let draft = Arc::new(pattern);
        let post = PoolEntry { draft, generations: BTreeMap::new(), scaled: None, rests: false, leaving: false };
        self.posts.insert(id, post);
        id
    }

    /// The configuration has it no more. Its name is free for another pool.
    pub(super) fn leave(&mut self, pool: PoolId) {
        self.set_leaving(pool, true);
    }

    /// It stays after all.
    pub(super) fn come_back(&mut self, pool: PoolId) {
        self.set_leaving(pool, false);
    }

    fn set_leaving(&mut self, pool: PoolId, leaving: bool) {
        if let Some(post) = self.posts.get_mut(&pool) {
            post.leaving = leaving;
        }
    }

    /// Pools that the configuration has no more and whose workers may still finish.
    pub(super) fn leaving(&self) -> Vec<PoolId> {
        self.posts.iter().filter(|(_, post)| post.leaving).map(|(id, _)| *id).collect()
    }

    pub(super) fn forget(&mut self, pool: PoolId) {
        self.posts.remove(&pool);
    }

    /// The pool as its next generation will be; none for one that is gone.
    pub(super) fn plan(&self, pool: PoolId) -> Option<&PoolPlan> {
        self.posts.get(&pool).map(|post| &post.draft.plan)
    }

    pub(super) fn draft(&self, pool: PoolId) -> Option<&Arc<PoolSpec>> {
        self.posts.get(&pool).map(|post| &post.draft)
    }

    /// What a generation that has been begun is made from.
    pub(super) fn made_from(&self, pool: PoolId, generation: Generation) -> Option<&Arc<PoolSpec>> {
        self.posts.get(&pool)?.generations.get(&generation)
    }

    /// How the core is to treat the pool: names are numbers there, and a person's number of workers counts.
    pub(super) fn policy(&self, pool: PoolId) -> Option<Policy> {
        let post = self.posts.get(&pool)?;
        let plan = &post.draft.plan;
        let kind = match plan.kind {
            Kind::Worker | Kind::Task => PoolKind::Service,
            Kind::Oneshot => PoolKind::Oneshot,
        };
        Some(Policy {
            kind,
            count: post.scaled.unwrap_or(plan.policy.count),
            after: plan.after.iter().filter_map(|name| self.find(name)).collect(),
            essential: plan.essential,
            ..plan.policy.clone()
        })
    }

    pub(super) fn name(&self, pool: PoolId) -> &str {
        self.plan(pool).map_or("?", |plan| plan.name.as_str())
    }

    /// The pool of this name that the configuration has.
    pub(super) fn find(&self, name: &str) -> Option<PoolId> {
        self.iter().find(|(_, plan)| plan.name == name).map(|(id, _)| id)
    }

    /// The pools that the configuration has.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PoolId, &PoolPlan)> {
        self.posts.iter().filter(|(_, post)| !post.leaving).map(|(id, post)| (*id, &post.draft.plan))
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.iter().map(|(_, plan)| plan.name.as_str()).collect()
    }

    /// Pools of a kind; none: of all that serve.
    pub(super) fn of_kind(&self, kind: Option<Kind>) -> Vec<PoolId> {
        let wanted = |plan: &PoolPlan| kind.map_or(plan.kind != Kind::Oneshot, |kind| plan.kind == kind);
        self.iter().filter(|(_, plan)| wanted(plan)).map(|(id, _)| id).collect()
    }

    /// The same pools, each behind those of them that it comes after, also by way of others; else as they were.
    pub(super) fn in_order(&self, pools: &[PoolId]) -> Vec<PoolId> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        // What is on the stack twice has been gone through: the second time its turn comes.
        let mut stack: Vec<(PoolId, bool)> = pools.iter().rev().map(|pool| (*pool, false)).collect();
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

    pub(super) fn rests(&self, pool: PoolId) -> bool {
        self.posts.get(&pool).is_some_and(|post| post.rests)
    }

    pub(super) fn rest(&mut self, pool: PoolId, rests: bool) {
        if let Some(post) = self.posts.get_mut(&pool) {
            post.rests = rests;
        }
    }

    pub(super) fn scaled(&self, pool: PoolId) -> Option<u32> {
        self.posts.get(&pool)?.scaled
    }

    /// A person's number of workers; none: the file's.
    pub(super) fn scale(&mut self, pool: PoolId, count: Option<u32>) {
        if let Some(post) = self.posts.get_mut(&pool) {
            post.scaled = count;
        }
    }

    /// The next generation is made from this. A number of workers that differs from the file's before ends what a
    /// person asked for.
    pub(super) fn redraft(&mut self, pool: PoolId, pattern: Arc<PoolSpec>) {
        let Some(post) = self.posts.get_mut(&pool) else { return };
        if post.draft.plan.policy.count != pattern.plan.policy.count {
            post.scaled = None;
        }
        post.draft = pattern;
    }

    /// Changes what needs no new generation, also for those that serve.
    pub(super) fn adjust(&mut self, pool: PoolId, pattern: PoolSpec, serving: impl Fn(Generation) -> bool) {
        let Some(post) = self.posts.get_mut(&pool) else { return };
        let (old, new) = (post.draft.clone(), Arc::new(pattern));
        for (generation, made_from) in &mut post.generations {
            if Arc::ptr_eq(made_from, &old) {
                *made_from = new.clone();
            } else if serving(*generation) {
                let mut adjusted = PoolSpec::clone(made_from);
                adjusted.adjust(&new.plan);
                *made_from = Arc::new(adjusted);
            }
        }
        self.redraft(pool, new);
    }

    /// A new generation is made from what the pool is now.
    pub(super) fn begin(&mut self, pool: PoolId, generation: Generation) {
        if let Some(post) = self.posts.get_mut(&pool) {
            let draft = post.draft.clone();
            post.generations.entry(generation).or_insert(draft);
        }
    }

    /// What a generation is made from.
    pub(super) fn pattern(&mut self, pool: PoolId, generation: Generation) -> Option<Arc<PoolSpec>> {
        self.begin(pool, generation);
        self.made_from(pool, generation).cloned()
    }

    /// Keeps only generations that somebody may still be made from.
    pub(super) fn keep(&mut self, pool: PoolId, wanted: impl Fn(Generation) -> bool) {
        if let Some(post) = self.posts.get_mut(&pool) {
            post.generations.retain(|generation, _| wanted(*generation));
        }
    }

    /// Pools of which a generation that counts, or the next one, uses this socket.
    pub(super) fn users(&self, listener: ListenerId, counts: impl Fn(PoolId, Generation) -> bool) -> Vec<PoolId> {
        let uses = |pool: PoolId, post: &PoolEntry| {
            let made = post.generations.iter().filter(|(generation, _)| counts(pool, **generation));
            std::iter::once(&post.draft)
                .chain(made.map(|(_, pattern)| pattern))
                .any(|pattern| pattern.listeners.contains(&listener))
        };
        self.posts.iter().filter(|(id, post)| uses(**id, post)).map(|(id, _)| *id).collect()
    }
}
