//! The pools that this master has or had, each under a number of its own that is never used again, with what each of
//! their generations is made from. Plans come and go; a worker keeps the pattern that it was made from.

use super::listening::ListenerId;
use crate::plan::{Kind, PoolPlan};
use rotad_core::{Generation, PoolId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a generation is made from.
#[derive(Debug)]
pub(super) struct Pattern {
    pub plan: PoolPlan,
    /// The sockets in the order of the plan's `listen`.
    pub listeners: Vec<ListenerId>,
}

#[derive(Debug)]
struct Post {
    /// What the next generation is made from.
    draft: Arc<Pattern>,
    generations: BTreeMap<Generation, Arc<Pattern>>,
}

#[derive(Debug, Default)]
pub(super) struct Posts {
    posts: BTreeMap<PoolId, Post>,
    last: u32,
}

impl Posts {
    /// A pool that was not there before.
    pub(super) fn add(&mut self, pattern: Pattern) -> PoolId {
        let id = PoolId(self.last);
        self.last += 1;
        self.posts.insert(id, Post { draft: Arc::new(pattern), generations: BTreeMap::new() });
        id
    }

    /// The pool as its next generation will be; none for one that is gone.
    pub(super) fn plan(&self, pool: PoolId) -> Option<&PoolPlan> {
        self.posts.get(&pool).map(|post| &post.draft.plan)
    }

    pub(super) fn name(&self, pool: PoolId) -> &str {
        self.plan(pool).map_or("?", |plan| plan.name.as_str())
    }

    pub(super) fn find(&self, name: &str) -> Option<PoolId> {
        self.iter().find(|(_, plan)| plan.name == name).map(|(id, _)| id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PoolId, &PoolPlan)> {
        self.posts.iter().map(|(id, post)| (*id, &post.draft.plan))
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.iter().map(|(_, plan)| plan.name.as_str()).collect()
    }

    pub(super) fn of_kind(&self, kind: Option<Kind>) -> Vec<PoolId> {
        self.iter().filter(|(_, plan)| kind.is_none_or(|kind| plan.kind == kind)).map(|(id, _)| id).collect()
    }

    /// A new generation is made from what the pool is now.
    pub(super) fn begin(&mut self, pool: PoolId, generation: Generation) {
        if let Some(post) = self.posts.get_mut(&pool) {
            let draft = post.draft.clone();
            post.generations.entry(generation).or_insert(draft);
        }
    }

    /// What a generation is made from.
    pub(super) fn pattern(&mut self, pool: PoolId, generation: Generation) -> Option<Arc<Pattern>> {
        self.begin(pool, generation);
        self.posts.get(&pool)?.generations.get(&generation).cloned()
    }

    /// Keeps only generations that somebody may still be made from.
    pub(super) fn keep(&mut self, pool: PoolId, wanted: impl Fn(Generation) -> bool) {
        if let Some(post) = self.posts.get_mut(&pool) {
            post.generations.retain(|generation, _| wanted(*generation));
        }
    }

    /// Pools of which some generation, or the next one, uses this socket.
    pub(super) fn users(&self, listener: ListenerId) -> Vec<PoolId> {
        let uses = |post: &Post| {
            std::iter::once(&post.draft)
                .chain(post.generations.values())
                .any(|pattern| pattern.listeners.contains(&listener))
        };
        self.posts.iter().filter(|(_, post)| uses(post)).map(|(id, _)| *id).collect()
    }
}
