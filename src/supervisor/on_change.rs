//! Pools with `reload.on = "change"`: what is asked of all pools passes them over, unless what they are made from has
//! changed. The recipe is compared here; where the paths of the program and the folder lead by now, the clerk looks,
//! and whoever asked waits for that. The core hears only of those that are to be rolled.

use super::Supervisor;
use super::apply::{PendingConfig, ReloadRequest, Stage};
use super::commit::change_of;
use super::control::is_meant;
use super::event_log::EventBuilder;
use super::tickets::WaitId;
use crate::control::wire::{ReloadScope, Wait};
use crate::observe::events::EventKind;
use crate::plan::{self, Kind, PoolChange, RollOn};
use crate::process::PinnedPaths;
use rotad_core::{PoolId, PoolState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A look at a program and a folder takes microseconds. The other pools wait for it, so not for as long as other errands.
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// Pools that are passed over, and what is said of each, with its exit code.
pub(super) type Passed = BTreeMap<PoolId, (u8, String)>;

/// What is done once it is known who is passed over.
#[derive(Debug)]
pub(super) enum Then {
    /// These are rolled, but for those. `client`: whom to answer; none: a signal.
    Roll { client: Option<u64>, wait: Wait, pools: Vec<PoolId> },
    /// The configuration that is being applied is carried out.
    Commit,
}

#[derive(Debug)]
enum Found {
    Changed,
    Same,
    /// It cannot be seen, for this reason.
    Unseen(String),
}

/// One request, and the looks that it waits for.
#[derive(Debug)]
struct Round {
    pinned: BTreeMap<PoolId, Arc<PinnedPaths>>,
    found: BTreeMap<PoolId, Found>,
    since: Instant,
    then: Then,
}

impl Round {
    fn is_over(&self) -> bool {
        self.found.len() == self.pinned.len()
    }
}

#[derive(Debug, Default)]
pub(super) struct OnChange {
    rounds: BTreeMap<u64, Round>,
    last: u64,
    /// Pools whose look was given up and still hangs: another one would only hang as well.
    hang: BTreeSet<PoolId>,
}

impl OnChange {
    pub(super) fn is_under_way(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// When a look has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.rounds.values().map(|round| round.since + LONGEST_LOOK).min()
    }

    /// The whole process stood still for so long.
    pub(super) fn paused(&mut self, by: Duration) {
        self.rounds.values_mut().for_each(|round| round.since += by);
    }

    /// What a look has found. The round that is over with it.
    fn note(&mut self, number: u64, pool: PoolId, found: Found) -> Option<Round> {
        self.hang.remove(&pool);
        let round = self.rounds.get_mut(&number)?;
        round.found.insert(pool, found);
        if round.is_over() { self.rounds.remove(&number) } else { None }
    }

    /// Rounds whose looks have taken too long.
    fn overdue(&mut self, now: Instant) -> Vec<Round> {
        let late = |round: &Round| round.since + LONGEST_LOOK <= now;
        let numbers: Vec<u64> =
            self.rounds.iter().filter(|(_, round)| late(round)).map(|(number, _)| *number).collect();
        let mut rounds: Vec<Round> = numbers.iter().filter_map(|number| self.rounds.remove(number)).collect();
        for round in &mut rounds {
            for pool in round.pinned.keys().filter(|pool| !round.found.contains_key(*pool)).copied().collect::<Vec<_>>()
            {
                self.hang.insert(pool);
                round.found.insert(pool, Found::Unseen(hangs()));
            }
        }
        rounds
    }
}

fn hangs() -> String {
    format!("its program or folder could not be looked at within {} s: a disk hangs?", LONGEST_LOOK.as_secs())
}

impl Supervisor {
    /// Those of them that may be passed over, with what has to be looked at to know it.
    pub(super) fn looks(&self, pools: &[PoolId]) -> Vec<(PoolId, Arc<PinnedPaths>)> {
        let on_change = |pool: &PoolId| self.pools.plan(*pool).is_some_and(|plan| plan.roll_on == RollOn::Change);
        pools.iter().filter(|pool| on_change(pool)).filter_map(|pool| Some((*pool, self.made_of(*pool)?))).collect()
    }

    /// The same of a reload. Pools that it names are rolled, and so are those whose recipe it changes.
    pub(super) fn looks_before(&self, wish: &ReloadRequest, draft: &PendingConfig) -> Vec<(PoolId, Arc<PinnedPaths>)> {
        if wish.extent != ReloadScope::Everything {
            return Vec::new();
        }
        let meant = draft.plan.pools.iter().filter(|pool| {
            pool.roll_on == RollOn::Change
                && pool.kind != Kind::Oneshot
                && is_meant(&wish.which, pool)
                && !wish.which.pools.contains(&pool.name)
        });
        let mut meant = meant.peekable();
        if meant.peek().is_none() {
            return Vec::new();
        }
        let diff = plan::diff(&self.plan, &draft.plan);
        let kept = |name: &str| matches!(change_of(&diff, name), PoolChange::Same | PoolChange::Adjusted { .. });
        let kept = meant.filter(|pool| kept(&pool.name)).filter_map(|pool| self.pools.find(&pool.name));
        kept.filter_map(|pool| Some((pool, self.made_of(pool)?))).collect()
    }

    /// What the generation that runs is pinned to. None if the pool is to be rolled in any case, or answered as ever: it
    /// is stopped, not begun, of several generations, of another recipe than the next one would be, or its files are known
    /// to have changed. While a rolling restart runs, what it rolls to is what counts: another one to the same would
    /// only begin anew.
    fn made_of(&self, pool: PoolId) -> Option<Arc<PinnedPaths>> {
        let view = self.engine.view().pool(pool).filter(|_| !self.stopping && !self.pools.rests(pool))?;
        let rolls = view.state == PoolState::Reloading;
        // A request that waits already is joined: that costs nobody a restart.
        if view.roll.waiting || !view.roll.after.is_empty() || !view.held_by.is_empty() {
            return None;
        }
        let generation = if rolls { rotad_core::Generation(view.roll.generation) } else { view.fill_generation };
        if view.outdated > 0 || !rolls && view.serving.iter().any(|(of, _)| *of != generation) {
            return None;
        }
        let alike = self.pools.draft(pool)?.is_alike(self.pools.made_from(pool, generation)?);
        if alike { self.spawn_specs.pinned(pool, generation).cloned() } else { None }
    }

    /// Has it looked at, and goes on when all is known.
    pub(super) fn look(&mut self, looks: Vec<(PoolId, Arc<PinnedPaths>)>, then: Then) {
        self.on_change.last += 1;
        let number = self.on_change.last;
        let mut found = BTreeMap::new();
        for (pool, pinned) in &looks {
            if self.on_change.hang.contains(pool) {
                found.insert(*pool, Found::Unseen(hangs()));
            } else if let Err(error) = self.blocking.compare(number, *pool, pinned.clone()) {
                found.insert(*pool, Found::Unseen(format!("no thread can be had to look at it: {error}")));
            }
        }
        let round = Round { pinned: looks.into_iter().collect(), found, since: Instant::now(), then };
        if round.is_over() {
            return self.go_on(round);
        }
        self.on_change.rounds.insert(number, round);
    }

    /// The clerk has looked.
    pub(super) fn compared(&mut self, number: u64, pool: PoolId, changed: Result<bool, String>) {
        let found = match changed {
            Ok(true) => Found::Changed,
            Ok(false) => Found::Same,
            Err(why) => Found::Unseen(why),
        };
        if let Some(round) = self.on_change.note(number, pool, found) {
            self.go_on(round);
        }
    }

    pub(super) fn looks_overdue(&mut self, now: Instant) {
        for round in self.on_change.overdue(now) {
            self.go_on(round);
        }
    }

    /// Everything stops: nobody is rolled any more.
    pub(super) fn give_up_looks(&mut self) {
        for (_, round) in std::mem::take(&mut self.on_change.rounds) {
            if let Then::Roll { client: Some(client), .. } = round.then {
                self.done(client, 1, "superseded: everything stops".to_owned());
            }
        }
    }

    /// It is known who is passed over.
    fn go_on(&mut self, round: Round) {
        let Round { pinned, found, then, .. } = round;
        let mut passed = Passed::new();
        for (pool, found) in found {
            // Something else may have been asked of it meanwhile: then nothing is known of what it is now.
            let still = self.made_of(pool).zip(pinned.get(&pool)).is_some_and(|(now, then)| Arc::ptr_eq(&now, then));
            if still && let Some(said) = self.said_of(pool, &found) {
                passed.insert(pool, said);
            }
        }
        match then {
            Then::Roll { client, wait, pools } => self.roll_but(client, wait, &pools, &passed),
            Then::Commit => match self.reloads.take() {
                Some((wish, Stage::Comparing(draft, oneshots))) => {
                    self.commit_after_oneshots(wish, &draft, oneshots, &passed)
                }
                Some((wish, stage)) => self.reloads.put(wish, stage),
                None => {}
            },
        }
    }

    /// Why it is passed over, if it is. What cannot be seen is no reason to end a process that serves: where `surge` is 0
    /// it would be gone before it is known that its successor cannot come up.
    fn said_of(&self, pool: PoolId, found: &Found) -> Option<(u8, String)> {
        let name = self.pool_name(pool);
        let view = self.engine.view().pool(pool)?;
        match found {
            Found::Changed => None,
            Found::Same => {
                let since = if view.state == PoolState::Reloading { " since its rolling restart began" } else { "" };
                let few = if view.ready < view.wanted && since.is_empty() {
                    format!("; {} of {} are ready", view.ready, view.wanted)
                } else {
                    String::new()
                };
                let why = "passed over (reload.on = \"change\")";
                Some((0, format!("{name}: unchanged{since}, {why}{few}; `rotad roll {name}` rolls it")))
            }
            Found::Unseen(why) => {
                let (code, serves) = if view.ready == 0 { (1, "nobody serves") } else { (10, "it serves on as it is") };
                let text = format!(
                    "{name}: not rolled: whether it has changed (reload.on = \"change\") cannot be seen: {why}\n{serves}; \
                     `rotad roll {name}` tries to roll it all the same"
                );
                Some((code, text))
            }
        }
    }

    /// Those that are passed over, for the log and for whoever waits.
    pub(super) fn tell_passed(&mut self, wait: Option<WaitId>, passed: &Passed) {
        for (pool, (code, text)) in passed {
            let note = EventBuilder::new(EventKind::PassedOver, text.clone()).pool(*pool);
            self.emit(if *code == 0 { note.cause("unchanged") } else { note.cause("unseen").error() });
            if let Some(wait) = wait {
                self.tickets.note(wait, *code, text.clone());
            }
        }
    }

    fn roll_but(&mut self, client: Option<u64>, wait: Wait, pools: &[PoolId], passed: &Passed) {
        let rolled: Vec<PoolId> = pools.iter().filter(|pool| !passed.contains_key(*pool)).copied().collect();
        let waits = client.filter(|_| wait != Wait::No);
        let waiting = self.tickets.open(waits, wait == Wait::Drained);
        self.tell_passed(Some(waiting), passed);
        if rolled.is_empty() {
            self.tickets.note(waiting, 0, "no pool was rolled".to_owned());
        }
        if let (Some(client), Wait::No) = (client, wait) {
            let first = if rolled.is_empty() {
                "no pool is rolled".to_owned()
            } else {
                format!("rolling {}", self.names(&rolled))
            };
            let lines: Vec<&str> = passed.values().map(|(_, text)| text.as_str()).chain([first.as_str()]).collect();
            let code = passed.values().map(|(code, _)| *code).max().unwrap_or(0);
            self.done(client, code, lines.join("\n"));
        }
        self.look_after_sockets();
        self.roll_in(waiting, &rolled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned() -> Arc<PinnedPaths> {
        Arc::new(PinnedPaths::new("/bin/true".into(), "/".into(), None))
    }

    fn round(since: Instant) -> Round {
        let pinned = BTreeMap::from([(PoolId(0), pinned()), (PoolId(1), pinned())]);
        Round { pinned, found: BTreeMap::new(), since, then: Then::Commit }
    }

    #[test]
    fn a_round_is_over_with_its_last_look() {
        let now = Instant::now();
        let mut looks = OnChange { rounds: BTreeMap::from([(1, round(now)), (2, round(now))]), ..OnChange::default() };
        assert!(looks.note(1, PoolId(0), Found::Same).is_none());
        assert!(looks.note(2, PoolId(1), Found::Same).is_none());
        let over = looks.note(1, PoolId(1), Found::Changed).expect("the first round");
        assert!(matches!((&over.found[&PoolId(0)], &over.found[&PoolId(1)]), (Found::Same, Found::Changed)));
        assert!(looks.is_under_way(), "the other one goes on");
        assert!(looks.note(1, PoolId(0), Found::Same).is_none(), "nobody waits for it any more");
    }

    /// A path that hangs costs one wait and one thread; the look that comes back frees its pool.
    #[test]
    fn a_look_that_hangs_is_given_up() {
        let now = Instant::now();
        let mut looks = OnChange { rounds: BTreeMap::from([(1, round(now))]), ..OnChange::default() };
        assert!(looks.note(1, PoolId(0), Found::Same).is_none());
        assert!(looks.overdue(now).is_empty());
        let late = looks.deadline().expect("a deadline");
        let over = looks.overdue(late);
        assert!(matches!(over[0].found[&PoolId(0)], Found::Same));
        assert!(matches!(over[0].found[&PoolId(1)], Found::Unseen(_)));
        assert!(!looks.is_under_way() && looks.deadline().is_none());
        assert_eq!(looks.hang, BTreeSet::from([PoolId(1)]));
        assert!(looks.note(1, PoolId(1), Found::Same).is_none());
        assert!(looks.hang.is_empty());
    }
}
