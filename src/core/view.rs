//! Read-only views of the engine's state, for status, waiting clients and tests.

use crate::activity::Activity;
use crate::pool::Pool;
use crate::roll::{Phase, RollState};
use crate::slot::Ended;
use crate::timers::Key;
use crate::worker::{State, Worker};
use crate::{Engine, Failure, Generation, PoolId, Slot, Span, Time, WorkerId};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// Read-only access to the engine's state ([`Engine::view`]).
pub struct View<'a> {
    engine: &'a Engine,
}

/// Overall state of a pool; `pools[].state` in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// No worker has been ready yet, or it waits for other pools.
    Starting,
    /// Every desired worker serves.
    Ok,
    /// Workers of more than one generation serve, and no rolling restart is running.
    Mixed,
    /// Not every desired worker serves; or all do, and some are older than the files that they would be made from
    /// now.
    Degraded,
    /// A rolling restart is running.
    Reloading,
    /// A rolling restart has failed, and replaced slots go back.
    RollingBack,
    /// Workers die so early that only one is tried at a time, or all slots keep failing.
    CrashLoop,
    /// Its workers are asked to stop.
    Stopping,
    /// It was stopped and has no workers.
    Stopped,
    /// All its workers have ended, with success, and none is started again.
    Done,
    /// All its workers have ended, at least one with a failure, and none is started again.
    Failed,
}

impl PoolState {
    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::Ok,
        Self::Mixed,
        Self::Degraded,
        Self::Reloading,
        Self::RollingBack,
        Self::CrashLoop,
        Self::Stopping,
        Self::Stopped,
        Self::Done,
        Self::Failed,
    ];

    /// Its name in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Mixed => "mixed",
            Self::Degraded => "degraded",
            Self::Reloading => "reloading",
            Self::RollingBack => "rolling-back",
            Self::CrashLoop => "crash-loop",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// State of a worker; `pools[].workers[].state` in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Not ready yet.
    Starting,
    /// Ready, and watched before another worker is replaced.
    Soaking,
    /// Ready.
    Ready,
    /// Asked to stop; it, or the rest of its tree, is finishing.
    Stopping,
    /// It has got SIGKILL.
    Killing,
    /// Exited; the rest of its tree is being killed.
    KillingTree,
}

/// One pool's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// The overall state.
    pub state: PoolState,
    /// The desired number of workers; 0 while it stops or is stopped.
    pub wanted: u32,
    /// Workers, including those that are leaving.
    pub alive: u32,
    /// Workers that serve.
    pub ready: u32,
    /// Workers that are not ready yet, successors included; runs of a oneshot are not counted.
    pub starting: u32,
    /// Old workers that were asked to stop and are still finishing.
    pub draining: u32,
    /// The generation that empty slots are filled with.
    pub fill_generation: Generation,
    /// The last generation that was fully rolled out.
    pub last_good: Generation,
    /// The fully rolled-out generation before `last_good`: what `rollback` returns to.
    pub previous_good: Generation,
    /// How many workers of each generation serve.
    pub serving: Vec<(Generation, u32)>,
    /// Since when at least one worker serves, without a gap. `None`: none does.
    pub serving_since: Option<Time>,
    /// How many serving workers are older than the files that they would be made from now: the files were changed in
    /// place, and new workers failed.
    pub outdated: u32,
    /// The pools that it waits for before it starts.
    pub held_by: Vec<PoolId>,
    /// The latest rolling restart.
    pub roll: RollView,
}

/// The latest rolling restart of a pool; `pools[].reload` in the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollView {
    /// Whether it runs, or how it ended.
    pub state: RollState,
    /// The generation that it rolls out; 0 if there was none.
    pub generation: u32,
    /// What failed. `None`: nothing yet.
    pub failure: Option<Failure>,
    /// How many slots are done.
    pub replaced: u32,
    /// How many slots there are to do.
    pub of: u32,
    /// How long it has run or ran.
    pub took: Span,
    /// Another rolling restart is waiting.
    pub waiting: bool,
    /// It has not begun: it waits for the rolling restarts of these pools.
    pub after: Vec<PoolId>,
}

/// One worker's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// The worker.
    pub id: WorkerId,
    /// Its pool.
    pub pool: PoolId,
    /// The slot that it fills, or takes over once it is ready.
    pub slot: Slot,
    /// The generation that it is made from.
    pub generation: Generation,
    /// Its state.
    pub state: WorkerState,
    /// When its spawn was commanded.
    pub began: Time,
    /// Time from then until it was ready. `None`: it has not been.
    pub ready_in: Option<Span>,
    /// It is ready only by age.
    pub by_age: bool,
    /// SIGKILL has not ended it: the kernel holds it.
    pub lost: bool,
    /// What it is given time for at present. `None`: nothing.
    pub patience: Option<Patience>,
}

/// The time that a worker has for what it does: to become ready, to pass its soak, to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// When that began.
    pub since: Time,
    /// When it ends at the latest. Of a stop: the end of all its steps, when SIGKILL is sent. `None`: it has no limit.
    pub until: Option<Time>,
}

/// A slot without a living worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptySlot {
    /// The slot.
    pub slot: Slot,
    /// Why it is empty.
    pub state: EmptyState,
    /// In [`EmptyState::Backoff`]: when it is filled again.
    pub retry_at: Option<Time>,
}

/// Why a slot is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptyState {
    /// Its pool has not begun: it waits for other pools.
    Held,
    /// Its worker has died; a delay must pass first.
    Backoff,
    /// Waits because as many workers as allowed are starting, in this pool or on this machine.
    Waits,
    /// Its pool is stopped or stops.
    Stopped,
    /// Its worker has ended with success and is not started again.
    Done,
    /// Its worker has failed and is not started again.
    Failed,
}

impl Engine {
    /// Read-only access to the state.
    pub fn view(&self) -> View<'_> {
        View { engine: self }
    }
}

impl View<'_> {
    /// Whether everything stops.
    pub fn stopping(&self) -> bool {
        self.engine.stopping
    }

    /// When a stop of everything kills what is left. `None`: nothing is stopped as a whole, or without such a limit.
    pub fn stop_cap(&self) -> Option<Time> {
        self.engine.deadlines.get(Key::Cap)
    }

    /// All pools, by id.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, PoolView)> + '_ {
        self.engine
            .pools
            .iter()
            .map(|(id, pool)| (*id, self.pool_view(*id, pool)))
    }

    /// One pool. `None`: there is no such pool.
    pub fn pool(&self, id: PoolId) -> Option<PoolView> {
        self.engine
            .pools
            .get(&id)
            .map(|pool| self.pool_view(id, pool))
    }

    /// All workers that are not gone yet, by id.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> + '_ {
        self.engine
            .workers
            .iter()
            .map(|(id, worker)| worker_view(*id, worker))
    }

    /// One worker. `None`: it is gone.
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView> {
        self.engine
            .workers
            .get(&id)
            .map(|worker| worker_view(id, worker))
    }

    /// Whether spawns wait until others are ready: their demand decides ([`crate::Input::Demand`]).
    pub fn limits_starts(&self) -> bool {
        self.engine.limits_starts()
    }

    /// The worker that fills a slot, then the one that takes it over once it is ready.
    pub fn in_slot(&self, pool: PoolId, slot: Slot) -> impl Iterator<Item = WorkerView> + '_ {
        let pool = self.engine.pools.get(&pool);
        let slot_state = pool.and_then(|pool| pool.slots.get(slot.0 as usize));
        let ids = slot_state.map_or([None; 2], |of| [of.current, of.successor]);
        ids.into_iter().flatten().filter_map(|id| self.worker(id))
    }

    /// The generation that the empty slots of a pool are filled with. `None`: there is no such pool.
    pub fn fill_generation(&self, pool: PoolId) -> Option<Generation> {
        self.engine.pools.get(&pool).map(Pool::fill_generation)
    }

    /// How many workers of all pools are starting, without runs of oneshots.
    pub fn starting_count(&self) -> u32 {
        let pools = self.engine.pools.values();
        pools.map(|pool| pool.start_load.starting).sum()
    }

    /// The starting workers of all pools, the oldest first, without runs of oneshots.
    pub fn starting(&self) -> Vec<WorkerId> {
        self.engine.booting()
    }

    /// How many processors the engine was created for.
    pub fn processors(&self) -> u32 {
        self.engine.processors()
    }

    /// How often a slot was filled again after an exit that was not requested.
    pub fn restarts(&self, pool: PoolId, slot: Slot) -> u32 {
        let slot_state = self
            .engine
            .pools
            .get(&pool)
            .and_then(|pool| pool.slots.get(slot.0 as usize));
        slot_state.map_or(0, |slot_state| slot_state.restarts)
    }

    /// Every generation that a worker of the pool may still be made from.
    pub fn generations(&self, pool: PoolId) -> BTreeSet<Generation> {
        self.engine
            .pools
            .get(&pool)
            .map(Pool::generations)
            .unwrap_or_default()
    }

    /// The fully rolled-out generations that are remembered: a pool can roll back to each of them.
    pub fn served(&self, pool: PoolId) -> Vec<Generation> {
        self.engine
            .pools
            .get(&pool)
            .map(|pool| pool.history.served().collect())
            .unwrap_or_default()
    }

    /// Slots of a pool without a living worker.
    pub fn empty_slots(&self, id: PoolId) -> impl Iterator<Item = EmptySlot> + '_ {
        let pool = self.engine.pools.get(&id);
        pool.into_iter().flat_map(move |pool| {
            let slot_states = pool
                .slots
                .iter()
                .enumerate()
                .take(pool.policy.count as usize);
            slot_states
                .filter(|(_, slot_state)| {
                    slot_state.current.is_none()
                        && slot_state.successor.is_none()
                        && (slot_state.leaving == 0 || pool.activity == Activity::Running)
                })
                .map(move |(slot, slot_state)| {
                    let state = match (slot_state.ended, pool.activity) {
                        (Some(Ended::Done), _) => EmptyState::Done,
                        (Some(Ended::Failed), _) => EmptyState::Failed,
                        (None, Activity::Running) if !pool.begun => EmptyState::Held,
                        (None, Activity::Running) if pool.waits_for_room(Slot(slot as u32)) => {
                            EmptyState::Waits
                        }
                        (None, Activity::Running) => EmptyState::Backoff,
                        (
                            None,
                            Activity::AwaitingDependents | Activity::Stopping | Activity::Stopped,
                        ) => EmptyState::Stopped,
                    };
                    let retry_at = match state {
                        EmptyState::Backoff => slot_state.not_before,
                        EmptyState::Held
                        | EmptyState::Waits
                        | EmptyState::Stopped
                        | EmptyState::Done
                        | EmptyState::Failed => None,
                    };
                    EmptySlot {
                        slot: Slot(slot as u32),
                        state,
                        retry_at,
                    }
                })
        })
    }

    fn pool_view(&self, id: PoolId, pool: &Pool) -> PoolView {
        let last = &pool.last;
        let outdated = self.engine.outdated(id);
        let (replaced, of, took) = match &pool.roll {
            Some(roll) => (roll.replaced, roll.of, self.engine.now - roll.began),
            None => (last.replaced, last.of, last.took),
        };
        PoolView {
            state: pool_state(pool, outdated),
            wanted: if pool.activity == Activity::Running {
                pool.wanted_slots()
            } else {
                0
            },
            alive: pool.alive,
            ready: pool.serving,
            starting: pool.start_load.starting,
            draining: pool.draining,
            fill_generation: pool.fill_generation(),
            last_good: pool.last_good,
            previous_good: pool.history.served_before(pool.last_good),
            serving: pool
                .serving_of
                .iter()
                .map(|(generation, count)| (*generation, *count))
                .collect(),
            serving_since: pool.serving_since,
            outdated,
            held_by: self.engine.held_by(id),
            roll: RollView {
                state: last.state,
                generation: last.generation,
                failure: last.failure.clone(),
                replaced,
                of,
                took,
                waiting: pool.waiting.is_some(),
                after: self.engine.rolls_before(id),
            },
        }
    }
}

pub(crate) fn pool_state(pool: &Pool, outdated: u32) -> PoolState {
    match (pool.activity, &pool.roll) {
        (Activity::Stopped, _) => return PoolState::Stopped,
        (Activity::AwaitingDependents | Activity::Stopping, _) => return PoolState::Stopping,
        (Activity::Running, Some(roll)) => {
            return if matches!(roll.phase, Phase::RollingBack(_)) {
                PoolState::RollingBack
            } else {
                PoolState::Reloading
            };
        }
        (Activity::Running, None) if !pool.begun => return PoolState::Starting,
        (Activity::Running, None) => {}
    }
    let (count, tally) = (pool.policy.count, pool.tally);
    if pool.has_ended() {
        return if tally.failed > 0 {
            PoolState::Failed
        } else {
            PoolState::Done
        };
    }
    if pool.breaker.is_some() {
        PoolState::CrashLoop
    } else if pool.serving_of.len() > 1 {
        PoolState::Mixed
    } else if pool.serving >= pool.wanted_slots() {
        if outdated > 0 {
            PoolState::Degraded
        } else {
            PoolState::Ok
        }
    } else if pool.serving == 0 {
        // No worker serves: that is less than degraded. Slots that have failed twice in a row are in a crash loop.
        if tally.stuck == count {
            PoolState::CrashLoop
        } else {
            PoolState::Starting
        }
    } else if !pool.up && tally.troubled == 0 {
        PoolState::Starting
    } else {
        PoolState::Degraded
    }
}

pub(crate) fn worker_state(state: State) -> WorkerState {
    match state {
        State::Starting { .. } => WorkerState::Starting,
        State::Soaking { .. } => WorkerState::Soaking,
        State::Ready => WorkerState::Ready,
        State::Unreachable | State::Stopping { .. } | State::StoppingTree { .. } => {
            WorkerState::Stopping
        }
        State::Killing { .. } => WorkerState::Killing,
        State::KillingTree { .. } => WorkerState::KillingTree,
    }
}

fn worker_view(id: WorkerId, worker: &Worker) -> WorkerView {
    let state = worker_state(worker.state);
    WorkerView {
        id,
        pool: worker.pool,
        slot: worker.slot,
        generation: worker.generation,
        state,
        began: worker.began,
        ready_in: worker.ready_at.map(|at| at - worker.began),
        by_age: worker.by_age_until.is_some(),
        lost: worker.lost,
        patience: patience(worker),
    }
}

fn patience(worker: &Worker) -> Option<Patience> {
    let (since, until) = match worker.state {
        State::Starting { ready_by, .. } => (worker.began, ready_by),
        State::Soaking { until } => (worker.ready_at?, until),
        // Ready by age alone: its rolling restart is not done before that.
        State::Ready => (worker.ready_at?, worker.by_age_until?),
        State::Stopping { step, until, .. } | State::StoppingTree { step, until, .. } => {
            let rest = worker.stop.iter().skip(step + 1);
            let until = rest.fold(until, |until, step| until + step.wait);
            (worker.stop_began?, until)
        }
        State::Unreachable | State::Killing { .. } | State::KillingTree { .. } => return None,
    };
    let until = Some(until).filter(|until| until.0 < Span::FOREVER.0);
    Some(Patience { since, until })
}
