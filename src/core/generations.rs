//! The generations of a pool that are remembered: which ones were fully rolled out (the targets of a rollback), and
//! how each one's workers become ready.

use crate::pool::Pool;
use crate::{Generation, Policy, Readiness, Span, WorkerId};
use alloc::collections::{BTreeMap, BTreeSet};

/// How many fully rolled-out generations are kept for rollback.
const MAX_SERVED: usize = 8;

/// How a generation's workers become ready. This belongs to the generation, not to the pool's present policy.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct ReadyPolicy {
    pub(crate) readiness: Readiness,
    pub(crate) ready_timeout: Span,
}

impl ReadyPolicy {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self {
            readiness: policy.readiness,
            ready_timeout: policy.ready_timeout,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct History {
    /// Generations that were fully rolled out, each with the one that was so before it for the first time.
    served: BTreeMap<Generation, Generation>,
    ready_policies: BTreeMap<Generation, ReadyPolicy>,
}

impl History {
    pub(crate) fn record_policy(&mut self, generation: Generation, policy: &Policy) {
        self.ready_policies
            .insert(generation, ReadyPolicy::of(policy));
    }

    /// Records that a generation is fully rolled out, as `before` was until now.
    pub(crate) fn record_served(&mut self, generation: Generation, before: Generation) {
        self.served.entry(generation).or_insert(before);
        if self.served.len() > MAX_SERVED
            && let Some(oldest) = self
                .served
                .keys()
                .find(|known| **known != generation)
                .copied()
        {
            self.served.remove(&oldest);
        }
    }

    pub(crate) fn has_served(&self, generation: Generation) -> bool {
        self.served.contains_key(&generation)
    }

    /// The generation that was fully rolled out before this one; `NONE` if there is none or it is forgotten.
    pub(crate) fn served_before(&self, generation: Generation) -> Generation {
        let before = self
            .served
            .get(&generation)
            .copied()
            .unwrap_or(Generation::NONE);
        if self.has_served(before) {
            before
        } else {
            Generation::NONE
        }
    }

    /// All fully rolled-out generations that are remembered, the oldest first.
    pub(crate) fn served(&self) -> impl Iterator<Item = Generation> + '_ {
        self.served.keys().copied()
    }

    /// All generations that it knows.
    #[cfg(feature = "serde")]
    pub(crate) fn all(&self) -> impl Iterator<Item = Generation> + '_ {
        self.served
            .keys()
            .chain(self.ready_policies.keys())
            .copied()
    }

    /// Forgets generations that no worker can be made from any more.
    fn trim(&mut self, used: &BTreeSet<Generation>) {
        self.ready_policies
            .retain(|generation, _| used.contains(generation));
    }
}

impl Pool {
    /// Every generation that a worker may still be made from.
    pub(crate) fn generations(&self) -> BTreeSet<Generation> {
        let roll = self
            .roll
            .iter()
            .flat_map(|roll| [roll.generation, roll.base]);
        let all = [self.target, self.last_good]
            .into_iter()
            .chain(roll)
            .chain(self.history.served());
        all.filter(|generation| *generation != Generation::NONE)
            .collect()
    }

    pub(crate) fn ready_policy(&self, generation: Generation) -> ReadyPolicy {
        self.history
            .ready_policies
            .get(&generation)
            .copied()
            .unwrap_or(ReadyPolicy::of(&self.policy))
    }

    /// Begins a new generation while no worker serves that would have to be replaced.
    pub(crate) fn next_generation(&mut self) {
        self.latest = Generation(self.latest.0 + 1);
        self.target = self.latest;
        self.same_source.clear();
        self.history.record_policy(self.target, &self.policy);
        self.trim_generations();
    }

    /// The generation is fully rolled out.
    pub(crate) fn mark_served(&mut self, generation: Generation) {
        self.history.record_served(generation, self.last_good);
        self.last_good = generation;
        self.trim_generations();
    }

    /// Records whether the generation is made from exactly the files of the target generation. Workers up to `after`
    /// existed before its rolling restart began, so their files may have been different.
    pub(crate) fn set_same_source(&mut self, generation: Generation, after: WorkerId, same: bool) {
        if same {
            self.same_source.insert(generation, after);
        } else {
            self.same_source.remove(&generation);
        }
    }

    pub(crate) fn trim_generations(&mut self) {
        let used = self.generations();
        self.history.trim(&used);
    }
}
