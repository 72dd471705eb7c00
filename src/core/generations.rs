//! What is remembered of generations: which ones served in full, and how long each one's workers take.

use crate::pool::Pool;
use crate::{Generation, Policy, Readiness, Span};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// So many generations that served in full are remembered.
const KEPT: usize = 8;

/// How a generation's workers become ready: it belongs to what they are made from, not to the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) readiness: Readiness,
    pub(crate) ready_timeout: Span,
}

impl Patience {
    pub(crate) fn of(policy: &Policy) -> Self {
        Self { readiness: policy.readiness, ready_timeout: policy.ready_timeout }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Those that served in full, the oldest first. A way back drops what came after.
    served: Vec<Generation>,
    patience: BTreeMap<Generation, Patience>,
}

impl History {
    pub(crate) fn made(&mut self, generation: Generation, policy: &Policy) {
        self.patience.insert(generation, Patience::of(policy));
    }

    /// It has served in full; what came after it is history of no use.
    pub(crate) fn proved(&mut self, generation: Generation) {
        self.served.retain(|known| *known < generation);
        if self.served.len() == KEPT {
            self.served.remove(0);
        }
        self.served.push(generation);
    }

    pub(crate) fn knows(&self, generation: Generation) -> bool {
        self.served.contains(&generation)
    }

    /// The last one that served in full before this one did; `NONE` if there is none.
    pub(crate) fn before(&self, generation: Generation) -> Generation {
        self.served.iter().rev().find(|known| **known < generation).copied().unwrap_or(Generation::NONE)
    }

    /// Forgets what no worker can be made from any more.
    fn trim(&mut self, used: &BTreeSet<Generation>) {
        self.patience.retain(|generation, _| used.contains(generation));
    }
}

impl Pool {
    /// Every generation that a worker may still be made from.
    pub(crate) fn generations(&self) -> BTreeSet<Generation> {
        let roll = self.roll.iter().flat_map(|roll| [roll.generation, roll.base]);
        let all = [self.wanted, self.proven].into_iter().chain(roll).chain(self.history.served.iter().copied());
        all.filter(|generation| *generation != Generation::NONE).collect()
    }

    pub(crate) fn patience(&self, generation: Generation) -> Patience {
        self.history.patience.get(&generation).copied().unwrap_or(Patience::of(&self.policy))
    }

    /// What it is made from is new, and nobody serves who would have to be replaced.
    pub(crate) fn remake(&mut self) {
        self.latest = Generation(self.latest.0 + 1);
        self.wanted = self.latest;
        self.history.made(self.wanted, &self.policy);
        self.trim_generations();
    }

    /// The generation has served in full.
    pub(crate) fn prove(&mut self, generation: Generation) {
        self.proven = generation;
        self.history.proved(generation);
        self.trim_generations();
    }

    pub(crate) fn trim_generations(&mut self) {
        let used = self.generations();
        self.history.trim(&used);
    }
}
