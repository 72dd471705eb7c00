//! Pools with `reload.on = "change"`: a request for all pools passes them over unless what they are made from has
//! changed.
//!
//! The configuration is compared here; a blocking job resolves the paths of program and directory, and the request
//! waits for it. The engine hears only of the pools to roll.

use crate::control::protocol::{ReloadScope, Wait};
use crate::exit_code::ExitCode;
use crate::plan::{self, Kind, Plan, PoolChange, RollOn};
use crate::process::PinnedPaths;
use crate::supervisor::Supervisor;
use crate::supervisor::deploys::Asker;
use crate::supervisor::pool_registry::is_meant;
use crate::supervisor::reload::ReloadRequest;
use crate::supervisor::reload::lookup::Lookup;
use crate::supervisor::reload::machine::Event;
use rotad_core::{PoolId, PoolState, Span, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Comparing a program and a directory takes microseconds. The other pools wait for it, so not as long as for other
/// jobs.
const COMPARISON_TIMEOUT: Span = Span::from_secs(5);

/// Pools that are passed over, each with exit code and text.
pub(crate) type PassedOver = BTreeMap<PoolId, (ExitCode, String)>;

/// What to do once it is known which pools are passed over.
#[derive(Debug)]
pub(crate) enum Continuation {
    /// Roll these pools, except those. `client`: who gets the reply; None: a signal.
    Roll {
        client: Option<u64>,
        asker: Asker,
        wait: Wait,
        pools: Vec<PoolId>,
    },
    /// Commit the configuration that is being applied.
    Commit,
}

#[derive(Debug)]
enum Comparison {
    Changed,
    Same,
    /// It cannot be determined, for this reason.
    Unknown(String),
}

/// One request and the comparisons that it waits for.
#[derive(Debug)]
struct ComparisonRound {
    pinned: BTreeMap<PoolId, Arc<PinnedPaths>>,
    found: BTreeMap<PoolId, Comparison>,
    since: Time,
    then: Continuation,
}

impl ComparisonRound {
    fn is_over(&self) -> bool {
        self.found.len() == self.pinned.len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct OnChange {
    rounds: BTreeMap<u64, ComparisonRound>,
    last: u64,
    /// Pools whose comparison was abandoned and still hangs: another one would only hang as well.
    hanging: BTreeSet<PoolId>,
}

impl OnChange {
    pub(crate) fn is_active(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// When the oldest comparison has taken too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.rounds
            .values()
            .map(|round| round.since + COMPARISON_TIMEOUT)
            .min()
    }

    /// Records one result. Returns the round if it is complete.
    fn add(&mut self, number: u64, pool: PoolId, found: Comparison) -> Option<ComparisonRound> {
        self.hanging.remove(&pool);
        let round = self.rounds.get_mut(&number)?;
        round.found.insert(pool, found);
        if round.is_over() {
            self.rounds.remove(&number)
        } else {
            None
        }
    }

    /// Removes the rounds that have taken too long; what is missing counts as unknown.
    fn overdue(&mut self, now: Time) -> Vec<ComparisonRound> {
        let late = |round: &ComparisonRound| round.since + COMPARISON_TIMEOUT <= now;
        let numbers: Vec<u64> = self
            .rounds
            .iter()
            .filter(|(_, round)| late(round))
            .map(|(number, _)| *number)
            .collect();
        let mut rounds: Vec<ComparisonRound> = numbers
            .iter()
            .filter_map(|number| self.rounds.remove(number))
            .collect();
        for round in &mut rounds {
            for pool in round
                .pinned
                .keys()
                .filter(|pool| !round.found.contains_key(*pool))
                .copied()
                .collect::<Vec<_>>()
            {
                self.hanging.insert(pool);
                round.found.insert(pool, Comparison::Unknown(hangs()));
            }
        }
        rounds
    }
}

fn hangs() -> String {
    format!(
        "its program or directory could not be looked at within {} s: a disk hangs?",
        COMPARISON_TIMEOUT.as_millis() / 1000
    )
}

impl Lookup<'_> {
    /// Those of `pools` that may be passed over, with the paths to compare. Pools that the request names are rolled
    /// without a comparison.
    pub(crate) fn comparisons_for_roll(
        &self,
        pools: &[PoolId],
        named: &[String],
    ) -> Vec<(PoolId, Arc<PinnedPaths>)> {
        let on_change = |pool: &PoolId| {
            self.pools
                .plan(*pool)
                .is_some_and(|plan| plan.roll_on == RollOn::Change && !named.contains(&plan.name))
        };
        pools
            .iter()
            .filter(|pool| on_change(pool))
            .filter_map(|pool| Some((*pool, self.comparable_paths(*pool)?)))
            .collect()
    }

    /// The same for a reload. Pools that it names, and those whose configuration it changes, are rolled without a
    /// comparison.
    pub(crate) fn comparisons_for_reload(
        &self,
        request: &ReloadRequest,
        new: &Plan,
    ) -> Vec<(PoolId, Arc<PinnedPaths>)> {
        if request.extent != ReloadScope::Everything {
            return Vec::new();
        }
        let meant = new.pools.iter().filter(|pool| {
            pool.roll_on == RollOn::Change
                && pool.kind != Kind::Oneshot
                && is_meant(&request.which, pool)
                && !request.which.pools.contains(&pool.name)
        });
        let mut meant = meant.peekable();
        if meant.peek().is_none() {
            return Vec::new();
        }
        let diff = plan::diff(self.plan, new);
        let kept = |name: &str| {
            matches!(
                diff.change_of(name),
                PoolChange::Same | PoolChange::Adjusted { .. }
            )
        };
        let kept = meant
            .filter(|pool| kept(&pool.name))
            .filter_map(|pool| self.pools.find(&pool.name));
        kept.filter_map(|pool| Some((pool, self.comparable_paths(pool)?)))
            .collect()
    }

    /// The paths that the current generation is pinned to. None if the pool is rolled or answered without a comparison:
    /// it is stopped, has not begun, runs several generations, would be made from another configuration, or is known to
    /// have changed files. During a rolling restart, the generation being rolled out counts: another roll to the same
    /// would only start over.
    fn comparable_paths(&self, pool: PoolId) -> Option<Arc<PinnedPaths>> {
        let view = self
            .engine
            .pool(pool)
            .filter(|_| !self.stopping && !self.pools.stopped_by_operator(pool))?;
        let rolls = view.state == PoolState::Reloading;
        // A roll that waits already is joined: that costs no restart.
        if view.roll.waiting || !view.roll.after.is_empty() || !view.held_by.is_empty() {
            return None;
        }
        let generation = if rolls {
            rotad_core::Generation(view.roll.generation)
        } else {
            view.fill_generation
        };
        if view.outdated > 0 || !rolls && view.serving.iter().any(|(of, _)| *of != generation) {
            return None;
        }
        let alike = self
            .pools
            .next_spec(pool)?
            .is_alike(self.pools.spec_of(pool, generation)?);
        if alike {
            self.specs.pinned(pool, generation).cloned()
        } else {
            None
        }
    }

    /// Why the pool is passed over, if it is. An unknown result is no reason to end a process that serves: with `surge
    /// = 0` it would be gone before it is known whether its successor comes up.
    fn passed_over_reason(&self, pool: PoolId, found: &Comparison) -> Option<(ExitCode, String)> {
        let name = self.pools.name(pool);
        let view = self.engine.pool(pool)?;
        match found {
            Comparison::Changed => None,
            Comparison::Same => {
                let since = if view.state == PoolState::Reloading {
                    " since its rolling restart began"
                } else {
                    ""
                };
                let few = if view.ready < view.wanted && since.is_empty() {
                    format!("; {} of {} are ready", view.ready, view.wanted)
                } else {
                    String::new()
                };
                let why = "passed over (reload.on = \"change\")";
                Some((
                    ExitCode::DONE,
                    format!("{name}: unchanged{since}, {why}{few}; `rotad roll {name}` rolls it"),
                ))
            }
            Comparison::Unknown(why) => {
                let (code, serves) = if view.ready == 0 {
                    (ExitCode::FAILED, "nobody serves")
                } else {
                    (ExitCode::OLD_SERVE, "it serves on as it is")
                };
                let text = format!(
                    "{name}: not rolled: whether it has changed (reload.on = \"change\") cannot be seen: {why}\n{serves}; \
                     `rotad roll {name}` tries to roll it without comparing"
                );
                Some((code, text))
            }
        }
    }
}

impl Supervisor {
    /// Rolls `pools`; those that are compared only if what they are made from has changed. The outcome goes to `client`,
    /// or to the log if there is none.
    pub(crate) fn roll_if_changed(
        &mut self,
        (client, asker): (Option<u64>, Asker),
        wait: Wait,
        pools: Vec<PoolId>,
        comparisons: Vec<(PoolId, Arc<PinnedPaths>)>,
    ) {
        self.service_manager.reloading();
        if comparisons.is_empty() {
            return self.roll_except((client, asker), wait, &pools, &PassedOver::new());
        }
        let then = Continuation::Roll {
            client,
            asker,
            wait,
            pools,
        };
        self.start_comparison(comparisons, then);
    }

    /// Starts the comparisons; `then` is done when all results are there.
    pub(crate) fn start_comparison(
        &mut self,
        comparisons: Vec<(PoolId, Arc<PinnedPaths>)>,
        then: Continuation,
    ) {
        self.reload.on_change.last += 1;
        let number = self.reload.on_change.last;
        let mut found = BTreeMap::new();
        for (pool, pinned) in &comparisons {
            if self.reload.on_change.hanging.contains(pool) {
                found.insert(*pool, Comparison::Unknown(hangs()));
            } else if let Err(error) = self.reload.blocking.compare(number, *pool, pinned.clone()) {
                found.insert(
                    *pool,
                    Comparison::Unknown(format!("no thread can be had to look at it: {error}")),
                );
            }
        }
        let round = ComparisonRound {
            pinned: comparisons.into_iter().collect(),
            found,
            since: self.clock.now(),
            then,
        };
        if round.is_over() {
            return self.finish_comparison(round);
        }
        self.reload.on_change.rounds.insert(number, round);
    }

    /// A blocking job has compared one pool.
    pub(crate) fn on_compared(&mut self, number: u64, pool: PoolId, changed: Result<bool, String>) {
        let found = match changed {
            Ok(true) => Comparison::Changed,
            Ok(false) => Comparison::Same,
            Err(why) => Comparison::Unknown(why),
        };
        if let Some(round) = self.reload.on_change.add(number, pool, found) {
            self.finish_comparison(round);
        }
    }

    pub(crate) fn expire_comparisons(&mut self, now: Time) {
        for round in self.reload.on_change.overdue(now) {
            self.finish_comparison(round);
        }
    }

    /// Everything stops: nothing is rolled.
    pub(crate) fn cancel_comparisons(&mut self) {
        for (_, round) in std::mem::take(&mut self.reload.on_change.rounds) {
            if let Continuation::Roll {
                client: Some(client),
                ..
            } = round.then
            {
                self.done(
                    client,
                    ExitCode::FAILED,
                    "superseded: everything stops".to_owned(),
                );
            }
        }
    }

    /// All results are there: decides which pools are passed over, and continues.
    fn finish_comparison(&mut self, round: ComparisonRound) {
        let ComparisonRound {
            pinned,
            found,
            then,
            ..
        } = round;
        let mut passed_over = PassedOver::new();
        for (pool, found) in found {
            // The pool may have changed meanwhile: then the comparison no longer applies.
            let still = self
                .lookup()
                .comparable_paths(pool)
                .zip(pinned.get(&pool))
                .is_some_and(|(now, then)| Arc::ptr_eq(&now, then));
            if still && let Some(said) = self.lookup().passed_over_reason(pool, &found) {
                passed_over.insert(pool, said);
            }
        }
        match then {
            Continuation::Roll {
                client,
                asker,
                wait,
                pools,
            } => self.roll_except((client, asker), wait, &pools, &passed_over),
            Continuation::Commit => self.reload.state.tell(Event::Compared(passed_over)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned() -> Arc<PinnedPaths> {
        Arc::new(PinnedPaths::new("/bin/true".into(), "/".into(), None))
    }

    fn round(since: Time) -> ComparisonRound {
        let pinned = BTreeMap::from([(PoolId(0), pinned()), (PoolId(1), pinned())]);
        ComparisonRound {
            pinned,
            found: BTreeMap::new(),
            since,
            then: Continuation::Commit,
        }
    }

    #[test]
    fn a_round_ends_with_its_last_comparison() {
        let now = Time(0);
        let mut comparisons = OnChange {
            rounds: BTreeMap::from([(1, round(now)), (2, round(now))]),
            ..OnChange::default()
        };
        assert!(comparisons.add(1, PoolId(0), Comparison::Same).is_none());
        assert!(comparisons.add(2, PoolId(1), Comparison::Same).is_none());
        let over = comparisons
            .add(1, PoolId(1), Comparison::Changed)
            .expect("the first round");
        assert!(matches!(
            (&over.found[&PoolId(0)], &over.found[&PoolId(1)]),
            (Comparison::Same, Comparison::Changed)
        ));
        assert!(comparisons.is_active(), "the other one goes on");
        assert!(
            comparisons.add(1, PoolId(0), Comparison::Same).is_none(),
            "nobody waits for it any more"
        );
    }

    /// A path that hangs costs one wait and one thread; when the job comes back, its pool is compared again.
    #[test]
    fn a_hanging_comparison_is_abandoned() {
        let now = Time(0);
        let mut comparisons = OnChange {
            rounds: BTreeMap::from([(1, round(now))]),
            ..OnChange::default()
        };
        assert!(comparisons.add(1, PoolId(0), Comparison::Same).is_none());
        assert!(comparisons.overdue(now).is_empty());
        let late = comparisons.deadline().expect("a deadline");
        let over = comparisons.overdue(late);
        assert!(matches!(over[0].found[&PoolId(0)], Comparison::Same));
        assert!(matches!(over[0].found[&PoolId(1)], Comparison::Unknown(_)));
        assert!(!comparisons.is_active() && comparisons.deadline().is_none());
        assert_eq!(comparisons.hanging, BTreeSet::from([PoolId(1)]));
        assert!(comparisons.add(1, PoolId(1), Comparison::Same).is_none());
        assert!(comparisons.hanging.is_empty());
    }
}
