//! Requests that are answered later: once a pool is up, has stopped, or has no leaving worker left. Each ticket gets
//! exactly one reply. `engine.rs` calls [`Engine::settle_waiters`] after every input, when all is reconciled;
//! `restart.rs` and `oneshot.rs` report failures of starts.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::timers::Key;
use crate::view::{PoolState, pool_state};
use crate::{
    Cause, Command, Engine, Generation, NothingDone, Outcome, PoolId, Slot, Span, StartFailure,
    SupersededBy, Ticket, Time, Up, WorkerId,
};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// After this many exits of a slot in a row, none a failure and all before ready, its start counts as failed.
const START_FAILS_AFTER: u32 = 5;

/// Added to a start's deadline, so that a worker's own timeout comes first.
const SLACK: Span = Span::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Waiters {
    starts: BTreeMap<PoolId, Start>,
    stops: BTreeMap<PoolId, Vec<Ticket>>,
    /// Replies that are known and wait until the workers that are leaving are gone.
    drained: Vec<(Ticket, PoolId, Outcome)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Start {
    tickets: Vec<Ticket>,
    /// Slots that have had a worker since the first of these requests: each has its whole ready timeout.
    tried: BTreeSet<Slot>,
    deadline: Option<Time>,
}

impl Engine {
    /// Answers a request: immediately, or when all that this input leads to is known and no worker is leaving.
    pub(crate) fn reply(&mut self, ticket: Option<Ticket>, id: PoolId, outcome: Outcome) {
        match ticket {
            Some(ticket) if ticket.drained => {
                self.waiters.drained.push((ticket, id, outcome));
            }
            Some(ticket) => self.command(Command::Reply(ticket, id, outcome)),
            None => {}
        }
    }

    /// Everything stops, so the request is not carried out.
    pub(crate) fn reply_stopping(&mut self, ticket: Option<Ticket>, id: PoolId) {
        let by = SupersededBy::StopOfAll;
        self.reply(ticket, id, Outcome::Superseded { by });
    }

    /// The kernel cannot end a lost worker, so nothing waits for it.
    fn is_draining(&self, id: PoolId) -> bool {
        self.pools.get(&id).is_some_and(|pool| pool.leaving > 0)
    }

    /// The ticket is answered when the pool is up, or when its start fails for the first time. `generation`: the one
    /// that a held pool is to begin with.
    pub(crate) fn await_start(
        &mut self,
        id: PoolId,
        ticket: Option<Ticket>,
        generation: Option<Generation>,
    ) {
        let Some(ticket) = ticket else { return };
        let Some(pool) = self.pools.get(&id) else {
            return self.reply_nothing(Some(ticket), id, NothingDone::NoPool);
        };
        let generation = generation.unwrap_or(pool.target);
        let mut by = Vec::from_iter(self.dependencies(id));
        by.retain(|other| self.pools.get(other).is_some_and(Pool::is_stuck));
        if by.is_empty() {
            let start = self.waiters.starts.entry(id).or_default();
            start.tickets.push(ticket);
        } else {
            self.reply(Some(ticket), id, Outcome::HeldUp { generation, by });
        }
    }

    /// The ticket is answered when the pool has stopped.
    pub(crate) fn await_stop(&mut self, id: PoolId, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else { return };
        match self.pools.get(&id) {
            None => self.reply_nothing(Some(ticket), id, NothingDone::NoPool),
            Some(pool) if pool.activity == Activity::Stopped => {
                let outcome = pool.stopped_outcome();
                self.reply(Some(ticket), id, outcome);
            }
            Some(_) => self.waiters.stops.entry(id).or_default().push(ticket),
        }
    }

    /// The pools that this one waits for, directly or through other pools.
    fn dependencies(&self, id: PoolId) -> BTreeSet<PoolId> {
        let mut found = BTreeSet::new();
        let mut ask = Vec::from([id]);
        while let Some(one) = ask.pop() {
            ask.extend(
                self.held_by(one)
                    .into_iter()
                    .filter(|other| found.insert(*other)),
            );
        }
        found
    }

    /// A worker is spawned: where a start is awaited, its slot has its whole ready timeout ahead.
    pub(crate) fn start_tried(&mut self, id: PoolId, slot: Slot, timeout: Span) {
        if let Some(start) = self.waiters.starts.get_mut(&id)
            && start.tried.insert(slot)
            && timeout < Span::FOREVER
        {
            let at = self.now + timeout + SLACK;
            start.deadline = start.deadline.max(Some(at));
            self.deadlines.set(Key::Start(id), start.deadline);
        }
    }

    /// A worker has asked for more time.
    pub(crate) fn extend_start(&mut self, id: WorkerId, by: Span) {
        let at = self.now + by + SLACK;
        if let Some(worker) = self.workers.get(&id)
            && let Some(start) = self.waiters.starts.get_mut(&worker.pool)
            && start.deadline.is_some_and(|deadline| deadline < at)
        {
            start.deadline = Some(at);
            self.deadlines.set(Key::Start(worker.pool), Some(at));
        }
    }

    /// A worker has died: whether that fails a start.
    pub(crate) fn death_fails_start(
        &mut self,
        id: PoolId,
        worker: WorkerId,
        cause: Cause,
        (failure, before_ready, given_up): (bool, bool, bool),
        early_exits: u32,
    ) {
        if failure && (before_ready || given_up)
            || cause == Cause::NotReadyInTime
            || early_exits == START_FAILS_AFTER
        {
            let failure = StartFailure::Worker {
                worker,
                cause,
                early_exits,
                given_up,
            };
            self.start_failed(id, failure);
        }
    }

    /// Answers the starts of this pool, and of those that wait for it.
    pub(crate) fn start_failed(&mut self, id: PoolId, failure: StartFailure) {
        if self.waiters.starts.is_empty() {
            return;
        }
        let waiting: Vec<PoolId> = self.waiters.starts.keys().copied().collect();
        for other in waiting {
            if other != id && self.dependencies(other).contains(&id) {
                let failure = Box::new(failure.clone());
                let failure = StartFailure::Dependency { pool: id, failure };
                self.end_start(other, &Outcome::StartFailed(failure));
            }
        }
        self.end_start(id, &Outcome::StartFailed(failure));
    }

    pub(crate) fn start_is_up(&mut self, id: PoolId, how: Up) {
        self.end_start(id, &Outcome::Up(how));
    }

    pub(crate) fn end_start(&mut self, id: PoolId, outcome: &Outcome) {
        self.deadlines.set(Key::Start(id), None);
        let start = self.waiters.starts.remove(&id);
        for ticket in start.into_iter().flat_map(|start| start.tickets) {
            self.reply(Some(ticket), id, outcome.clone());
        }
    }

    /// The pool stops before it was up.
    pub(crate) fn supersede_starts(&mut self, id: PoolId, by: SupersededBy) {
        let outcome = if by == SupersededBy::Stop {
            Outcome::StartFailed(StartFailure::Stopped)
        } else {
            Outcome::Superseded { by }
        };
        self.end_start(id, &outcome);
    }

    /// The pool runs again before it has stopped.
    pub(crate) fn supersede_stops(&mut self, id: PoolId) {
        let by = SupersededBy::Start;
        for ticket in self.waiters.stops.remove(&id).unwrap_or_default() {
            self.reply(Some(ticket), id, Outcome::Superseded { by });
        }
    }

    /// Answers what the present state answers. It depends on the state alone, since a pool may be up without a word:
    /// it was full all the time, wants no worker, or has ended.
    pub(crate) fn settle_waiters(&mut self) {
        let starts: Vec<PoolId> = self.waiters.starts.keys().copied().collect();
        for id in starts {
            if let Some(outcome) = self.start_outcome(id) {
                self.end_start(id, &outcome);
            }
        }
        let stopped: Vec<PoolId> = self
            .waiters
            .stops
            .keys()
            .copied()
            .filter(|id| self.has_stopped(*id))
            .collect();
        for id in stopped {
            let outcome = self
                .pools
                .get(&id)
                .map_or(Outcome::Removed, Pool::stopped_outcome);
            for ticket in self.waiters.stops.remove(&id).unwrap_or_default() {
                self.reply(Some(ticket), id, outcome.clone());
            }
        }
        let replies = core::mem::take(&mut self.waiters.drained);
        let (waiting, known): (Vec<_>, Vec<_>) = replies
            .into_iter()
            .partition(|(_, id, _)| self.is_draining(*id));
        self.waiters.drained = waiting;
        for (ticket, id, outcome) in known {
            self.command(Command::Reply(ticket, id, outcome));
        }
    }

    fn has_stopped(&self, id: PoolId) -> bool {
        self.pools
            .get(&id)
            .is_none_or(|pool| pool.activity == Activity::Stopped)
    }

    /// How a start has ended, if it has.
    fn start_outcome(&self, id: PoolId) -> Option<Outcome> {
        let Some(pool) = self.pools.get(&id) else {
            return Some(Outcome::NothingDone(NothingDone::NoPool));
        };
        match pool_state(pool, 0) {
            PoolState::Stopped => Some(Outcome::StartFailed(StartFailure::Stopped)),
            PoolState::Stopping => None,
            PoolState::Done => Some(Outcome::Up(Up::Done(None))),
            PoolState::Failed => Some(Outcome::StartFailed(StartFailure::Ended)),
            _ if !pool.begun => self.held_for_good(id),
            _ if pool.policy.count == 0 => Some(Outcome::Up(Up::NoneWanted)),
            _ if pool.wanted_slots() > 0 && pool.is_full() => Some(Outcome::Up(self.how_up(id))),
            _ if pool.rests_incomplete() => Some(Outcome::StartFailed(StartFailure::Ended)),
            _ => None,
        }
    }

    /// The pool waits for one whose other workers have come up since its failure: nobody reports that again.
    fn held_for_good(&self, id: PoolId) -> Option<Outcome> {
        let rests = |other: &PoolId| {
            let other = self.pools.get(other);
            other.is_some_and(Pool::rests_incomplete)
        };
        let pool = self.dependencies(id).into_iter().find(rests)?;
        let failure = Box::new(StartFailure::Ended);
        let failure = StartFailure::Dependency { pool, failure };
        Some(Outcome::StartFailed(failure))
    }

    fn how_up(&self, id: PoolId) -> Up {
        let slots = self.pools.get(&id).into_iter().flat_map(|pool| &pool.slots);
        let by_age = |id: WorkerId| {
            let worker = self.workers.get(&id);
            worker.is_some_and(|worker| worker.is_serving() && worker.by_age_until.is_some())
        };
        let mut workers = slots.flat_map(|slot| slot.current.into_iter().chain(slot.successor));
        if workers.any(by_age) {
            Up::Alive
        } else {
            Up::Ready
        }
    }
}

impl Waiters {
    pub(crate) fn take_stops(&mut self, id: PoolId) -> Vec<Ticket> {
        self.stops.remove(&id).unwrap_or_default()
    }

    /// The replies that are known and wait for workers to leave.
    pub(crate) fn take_drained(&mut self) -> Vec<(Ticket, PoolId, Outcome)> {
        core::mem::take(&mut self.drained)
    }
}

#[cfg(feature = "serde")]
impl Waiters {
    pub(crate) fn awaits_start(&self, id: PoolId) -> bool {
        self.starts.contains_key(&id)
    }

    /// The pools that requests wait for; a reply that is known waits for no pool.
    pub(crate) fn pools(&self) -> impl Iterator<Item = PoolId> + '_ {
        self.starts.keys().chain(self.stops.keys()).copied()
    }

    pub(crate) fn tickets(&self) -> impl Iterator<Item = Ticket> + '_ {
        let starts = self.starts.values().flat_map(|start| &start.tickets);
        let drained = self.drained.iter().map(|(ticket, _, _)| ticket);
        let stops = self.stops.values().flatten();
        starts.chain(stops).chain(drained).copied()
    }
}

impl Pool {
    fn stopped_outcome(&self) -> Outcome {
        if self.removed {
            Outcome::Removed
        } else {
            Outcome::Stopped
        }
    }

    /// Other pools wait for it in vain until an operator acts, or until what makes its workers fail is over.
    fn is_stuck(&self) -> bool {
        let state = pool_state(self, 0);
        matches!(
            state,
            PoolState::CrashLoop | PoolState::Failed | PoolState::Stopped
        ) || self.rests_incomplete()
    }

    /// Some slots have failed for good, and every other one serves or has ended: nothing more comes up.
    fn rests_incomplete(&self) -> bool {
        self.tally.failed > 0
            && self.roll.is_none()
            && self.tally.ended() + self.serving >= self.policy.count
    }
}
