//! Promises that can be checked at each command and notice. Those that hold only after a whole input are in
//! `checks.rs`.
//!
//! Each promise has a lower and an upper bound where possible: not killed before its waits are over, and not later;
//! not started before its delay is over, and not later.

use crate::model::{Model, Pool, Worker};
use rotad_core::{
    Cause, Command, Entry, Exit, Generation, Input, NothingDone, Outcome, Policy, Readiness,
    Signal, StartFailure, SupersededBy, Time, Up, WorkerId,
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) oracle: &'static str,
    pub(crate) text: String,
}

pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn fail<T>(oracle: &'static str, text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation {
        oracle,
        text: text.into(),
    })
}

macro_rules! hold {
    ($truth:expr, $oracle:literal, $($text:tt)*) => {
        if !$truth {
            return crate::oracle::fail($oracle, format!($($text)*));
        }
    };
}
pub(crate) use hold;

#[derive(Clone)]
pub(crate) struct Oracle {
    pub(crate) model: Model,
    /// How much later than its deadline the engine may be called, with a margin, in milliseconds.
    pub(crate) slack: u64,
}

impl Oracle {
    pub(crate) fn new(lateness: u64, processors: u32) -> Self {
        let model = Model {
            pools: BTreeMap::new(),
            workers: BTreeMap::new(),
            last_id: 0,
            death_spawned: 0,
            death_late: false,
            death_first: false,
            tickets: BTreeSet::new(),
            cancelled: false,
            dropped: false,
            adopting: None,
            cancels: BTreeSet::new(),
            roll_requested: None,
            created: None,
            scaled: false,
            reconfigured: None,
            rolled_back_to: None,
            rolls_failed: BTreeSet::new(),
            reverted: BTreeSet::new(),
            checked: BTreeSet::new(),
            replacements: BTreeMap::new(),
            unhealthy: None,
            reported_ready: None,
            stop_at: None,
            stop_by: u64::MAX,
            kill_from: None,
            any_extended: false,
            master_exited: false,
            processors: u64::from(processors),
        };
        Self {
            model,
            slack: lateness * 4,
        }
    }

    /// Forgets all but the highest number of a worker: another engine begins. Returns what was known.
    pub(crate) fn renew(&mut self) -> Model {
        let processors = self.model.processors as u32;
        let old = std::mem::replace(&mut self.model, Self::new(0, processors).model);
        self.model.last_id = old.last_id;
        old
    }

    pub(crate) fn generation(&self, id: WorkerId) -> Generation {
        self.model.generation(id.0)
    }

    pub(crate) fn policy(&self, pool: u32) -> Option<Policy> {
        self.model.pools.get(&pool).map(|pool| pool.policy.clone())
    }

    /// The generation that was fully rolled out `back` generations ago, with its readiness and `ready_timeout`.
    pub(crate) fn served(&self, pool: u32, back: usize) -> (u32, Readiness, u64) {
        let Some(pool) = self.model.pools.get(&pool) else {
            return (1, Readiness::Reported, 5000);
        };
        let to = pool.served.iter().rev().nth(back).copied().unwrap_or(1);
        let (readiness, timeout) = pool
            .made
            .get(&to)
            .copied()
            .unwrap_or((Readiness::Reported, 5000));
        (to, readiness, timeout)
    }

    /// Applies an input to the model, before the engine gets it.
    pub(crate) fn before(&mut self, now: Time, input: &Input) {
        self.model.cancelled = false;
        self.model.dropped = *input == Input::MasterKeepsDying;
        self.model.adopting = None;
        self.model.roll_requested = None;
        self.model.created = None;
        self.model.scaled = false;
        self.model.reconfigured = None;
        self.model.rolled_back_to = None;
        self.model.rolls_failed.clear();
        self.model.reverted.clear();
        self.model.unhealthy = None;
        self.model.reported_ready = None;
        match input {
            Input::Started(id) => self.update(*id, |w| w.started = Some(now.0)),
            Input::SpawnFailed(id) => self.update(*id, |w| w.gone = true),
            Input::TimeoutExtended(id, _) => {
                self.model.any_extended = true;
                self.update(*id, |w| w.extended = true);
            }
            Input::Demand(found) => self.measured(now.0, found),
            Input::Exited(id, exit) => self.update(*id, |w| {
                if w.exited.is_none() {
                    w.exit_code = if let Exit::Code(code) = exit {
                        Some(*code)
                    } else {
                        None
                    };
                }
                w.exited.get_or_insert(now.0);
            }),
            Input::TreeGone(id) => self.update(*id, |w| w.gone = w.exited.is_some()),
            Input::Requested(ticket, request) => {
                if let Some(ticket) = ticket {
                    self.model.tickets.insert(ticket.number);
                }
                self.request(now, ticket.map_or(0, |ticket| ticket.number), request);
                // With fewer desired workers a pool may be up now.
                for id in self.model.pools.keys().copied().collect::<Vec<_>>() {
                    self.notice_up(id);
                }
            }
            Input::Pinned {
                pool,
                generation,
                same,
            } => {
                if let Some(pool) = self.model.pools.get_mut(&pool.0)
                    && let Some(roll) = &pool.roll
                    && roll.generation == generation.0
                    && generation.0 != pool.base
                {
                    let after = roll.newest_before;
                    pool.same_source.remove(&generation.0);
                    if *same {
                        pool.same_source.insert(generation.0, after);
                    }
                }
            }
            Input::Unhealthy(id) => self.model.unhealthy = Some(id.0),
            Input::Unreachable(ids) => self.model.mark_unreachable(ids),
            Input::Ready(id) => self.model.reported_ready = Some(id.0),
            Input::MasterKeepsDying => {
                for pool in self.model.pools.values_mut() {
                    pool.undisturbed = false;
                    if let Some(roll) = &mut pool.roll {
                        roll.disturbed = true;
                    }
                }
            }
            Input::AgeReached(_) | Input::Daemonized(_) | Input::TimerFired => {}
        }
    }

    /// The processor demand of starting workers. High demand of a young worker is not counted: it may only be loading its
    /// program.
    fn measured(&mut self, now: u64, found: &[(WorkerId, u32)]) {
        for (id, demand) in found {
            let Some(worker) = self
                .model
                .workers
                .get_mut(&id.0)
                .filter(|w| w.stays() && w.ready.is_none())
            else {
                continue;
            };
            if now - worker.spawned < 10 {
                continue; // it may not have been spawned yet
            }
            if *demand < 50 || now - worker.spawned >= 50 {
                worker.demand = Some(u64::from(*demand).min(100 * self.model.processors));
            }
            if *demand < 50
                && let Some(pool) = self.model.pools.get_mut(&(worker.pool as u32))
            {
                pool.low_demand = true;
            }
        }
    }

    fn update(&mut self, id: WorkerId, with: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.model.workers.get_mut(&id.0) {
            with(worker);
        }
    }

    pub(crate) fn entry(&mut self, now: Time, entry: &Entry) -> Checked {
        match entry {
            Entry::Command(command) => self.command(now, command),
            Entry::Notice(notice) => self.notice(now, notice),
        }
    }

    fn command(&mut self, now: Time, command: &Command) -> Checked {
        match command {
            Command::Spawn {
                worker,
                pool,
                slot,
                generation,
            } => self.spawn(now, worker.0, pool.0, slot.0, generation.0),
            Command::Signal(id, signal) => self.signal(now, id.0, *signal, false),
            Command::SignalTree(id, signal) => self.signal(now, id.0, *signal, true),
            Command::SignalRemaining(id, signal) => self.signal_remaining(now, id.0, *signal),
            Command::Kill(id) => self.kill(now, id.0),
            Command::KillTree(id) => self.kill_tree(now, id.0),
            Command::Reply(ticket, pool, outcome) => {
                hold!(
                    self.model.tickets.remove(&ticket.number),
                    "one answer",
                    "ticket {ticket} answered again"
                );
                let leaves = |w: &Worker| w.stop_began.is_some() && !w.gone && !w.lost;
                hold!(
                    !ticket.drained
                        || self.model.dropped
                        || !self.model.of(pool.0).any(|(_, w)| leaves(w)),
                    "drained",
                    "ticket {ticket} answered, and a worker is leaving"
                );
                if ticket.drained {
                    // The outcome was true when it was decided, before the workers had left.
                    return Ok(());
                }
                self.answer(pool.0, ticket.number, outcome)
            }
            Command::BeginGeneration { .. } => Ok(()),
            Command::RevertConfig(pool) => {
                self.model.reverted.insert(pool.0);
                Ok(())
            }
            Command::EndGeneration { .. } => Ok(()),
            Command::StartHealth(id) => {
                let is_new = self.model.checked.insert(id.0);
                hold!(is_new, "health", "{id} is checked twice");
                Ok(())
            }
            Command::StopHealth(id) => {
                self.model.checked.remove(&id.0);
                Ok(())
            }
            Command::GiveUp { pool, .. } => {
                let reported = self
                    .model
                    .pools
                    .get(&pool.0)
                    .is_some_and(|pool| pool.unready_reported || pool.end_reported);
                hold!(reported, "essential", "given up without a notice");
                Ok(())
            }
            Command::Exit { lost } => self.master_exits(lost),
        }
    }

    /// A pool that has not begun will begin with another generation.
    pub(crate) fn begins_with(&mut self, id: u32, generation: u32) -> Checked {
        let rolled_back_to = self.model.rolled_back_to;
        let Some(pool) = self
            .model
            .pools
            .get_mut(&id)
            .filter(|pool| pool.running && !pool.begun)
        else {
            return fail("true answers", format!("pool {id} has begun"));
        };
        if rolled_back_to == Some((id, generation)) {
            pool.base = generation;
            pool.same_source.clear();
        } else if generation == pool.latest_generation + 1 {
            pool.next_generation();
        }
        Ok(())
    }

    /// An outcome is true at the moment of its reply.
    fn answer(&mut self, id: u32, ticket: u64, outcome: &Outcome) -> Checked {
        let cancels = self.model.cancels.remove(&ticket);
        let replaces = self.model.replacements.remove(&ticket);
        let model = &self.model;
        let pool = model.pools.get(&id);
        match outcome {
            Outcome::Done { .. } => hold!(
                !cancels,
                "true answers",
                "{ticket} cancelled, and gets Done"
            ),
            Outcome::Aborted {
                failure, standing, ..
            } if failure.cause == Cause::MasterKeepsDying => {
                let serving = if pool.is_some_and(|pool| !pool.is_oneshot()) {
                    model.serving(id)
                } else {
                    standing.serving()
                };
                hold!(
                    model.dropped && standing.serving() == serving,
                    "true answers",
                    "{standing:?}, and {serving} serve"
                );
            }
            Outcome::Aborted { standing, .. } | Outcome::RolledBack { standing, .. } => {
                let known = pool.map(|pool| &pool.standing);
                hold!(
                    !cancels && Some(standing) == known,
                    "true answers",
                    "{standing:?}, known {known:?}"
                );
            }
            Outcome::Cancelled { standing, .. } => {
                let known = pool.map(|pool| &pool.standing);
                hold!(
                    cancels && Some(standing) == known,
                    "true answers",
                    "{standing:?}, known {known:?}"
                );
                hold!(
                    pool.is_some_and(|pool| pool.roll.is_none()),
                    "true answers",
                    "it still runs"
                );
            }
            Outcome::ReplaceFailed {
                slot, old_serves, ..
            } => {
                let serves = model.of(id).any(|(_, w)| w.slot == slot.0 && w.serves());
                hold!(
                    serves == *old_serves,
                    "true answers",
                    "slot {slot}: the old one serves: {serves}"
                );
                hold!(
                    replaces == Some((id, slot.0)),
                    "true answers",
                    "{ticket} asked for {replaces:?}"
                );
            }
            Outcome::HeldUp { by, .. } => {
                let waits = pool.is_some_and(|pool| pool.running && !pool.begun);
                hold!(
                    waits && !by.is_empty(),
                    "true answers",
                    "pool {id} has begun"
                );
            }
            Outcome::Up(Up::Ready | Up::Alive) => {
                let serves = |slot: u32| model.of(id).any(|(_, w)| w.slot == slot && w.serves());
                let ended = |pool: &Pool, slot: u32| {
                    pool.slots.get(slot as usize).is_some_and(|slot| slot.ended)
                };
                let full = pool.is_some_and(|pool| {
                    pool.running
                        && (0..pool.policy.count).all(|slot| serves(slot) || ended(pool, slot))
                });
                hold!(full, "true answers", "pool {id} is not up");
            }
            Outcome::Up(Up::Done(Some(_))) => hold!(
                pool.is_some_and(|pool| pool.oneshot_done),
                "true answers",
                "oneshot {id} is not done"
            ),
            Outcome::Up(Up::Done(None)) => hold!(
                pool.is_some() && !model.of(id).any(|(_, w)| w.serves()),
                "true answers",
                "pool {id} has not ended"
            ),
            Outcome::Up(Up::NoneWanted) => hold!(
                pool.is_some_and(|pool| pool.policy.count == 0),
                "true answers",
                "pool {id} wants workers"
            ),
            Outcome::StartFailed(StartFailure::Worker { worker, .. }) => hold!(
                model.workers.get(&worker.0).is_none_or(|w| !w.serves()),
                "true answers",
                "{worker} serves"
            ),
            Outcome::StartFailed(StartFailure::Stopped) => hold!(
                pool.is_none_or(|pool| !pool.running),
                "true answers",
                "pool {id} runs"
            ),
            Outcome::StartFailed(_) => hold!(
                pool.is_some_and(|pool| pool.running),
                "true answers",
                "pool {id} does not run"
            ),
            Outcome::Stopped | Outcome::Removed => hold!(
                !model.of(id).any(|(_, w)| !w.gone && !w.lost),
                "true answers",
                "something of pool {id} is left"
            ),
            Outcome::Scaled { to, .. } => hold!(
                pool.is_some_and(|pool| pool.policy.count == *to),
                "true answers",
                "pool {id} is not scaled to {to}"
            ),
            Outcome::Superseded { by } => self.caused(id, *by)?,
            Outcome::NothingDone(why) => {
                let holds = match why {
                    NothingDone::NoPool => pool.is_none() || model.created == Some(id),
                    NothingDone::Stopped => pool.is_some_and(|pool| !pool.running),
                    NothingDone::NoRoll => cancels && pool.is_some_and(|pool| pool.roll.is_none()),
                    NothingDone::AlreadyRollingBack(to) => {
                        cancels
                            && pool.is_some_and(|p| {
                                p.roll.as_ref().is_some_and(|r| r.rolling_back) && p.base == to.0
                            })
                    }
                    NothingDone::Oneshot => pool.is_some_and(Pool::is_oneshot),
                    NothingDone::Forgotten(to) => {
                        pool.is_some_and(|pool| !pool.served.contains(&to.0))
                    }
                    NothingDone::Empty(slot) => {
                        let here = model.of(id).filter(|(_, w)| w.slot == slot.0 && w.stays());
                        let serves =
                            here.clone().count() == 1 && here.clone().all(|(_, w)| w.serves());
                        pool.is_some_and(|p| p.is_oneshot() || slot.0 >= p.policy.count) || !serves
                    }
                    NothingDone::Gone(slot) => replaces == Some((id, slot.0)),
                };
                hold!(holds, "true answers", "{why:?} of pool {id}");
            }
        }
        Ok(())
    }

    /// A request is superseded only by the request that was just made.
    pub(crate) fn caused(&self, id: u32, by: SupersededBy) -> Checked {
        let model = &self.model;
        let pool = model.pools.get(&id);
        let (all, removed) = (
            model.stop_at.is_some(),
            pool.is_none_or(|pool| pool.removed),
        );
        let holds = match by {
            SupersededBy::Roll => model.roll_requested == Some(id),
            SupersededBy::Change => {
                model.reconfigured == Some(id) && model.rolled_back_to.is_none()
            }
            SupersededBy::RollBack => model.rolled_back_to.is_some_and(|(pool, _)| pool == id),
            SupersededBy::Start => pool.is_some_and(|pool| pool.running),
            SupersededBy::Stop => !all && !removed && pool.is_some_and(|pool| !pool.running),
            SupersededBy::Removal => !all && removed,
            SupersededBy::StopOfAll => all,
            SupersededBy::Cancel => model.cancelled,
            SupersededBy::Scale => model.scaled,
        };
        hold!(holds, "true causes", "pool {id}: superseded by {by:?}");
        Ok(())
    }

    fn master_exits(&mut self, lost: &[WorkerId]) -> Checked {
        let model = &mut self.model;
        hold!(!model.master_exited, "exit", "exited twice");
        hold!(model.stop_at.is_some(), "exit", "exited without a request");
        model.master_exited = true;
        let named: BTreeSet<u64> = lost.iter().map(|id| id.0).collect();
        let there: BTreeSet<u64> = model
            .workers
            .iter()
            .filter(|(_, w)| !w.gone)
            .map(|(id, _)| *id)
            .collect();
        hold!(
            named == there,
            "exit",
            "reported as unkillable {named:?}, still there {there:?}"
        );
        hold!(
            there.iter().all(|id| model.workers[id].lost),
            "exit",
            "exited before the kernel had its time to kill"
        );
        Ok(())
    }

    fn spawn(&mut self, now: Time, id: u64, pool_id: u32, slot: u32, generation: u32) -> Checked {
        let model = &mut self.model;
        hold!(
            id > model.last_id,
            "identity",
            "worker {id} after {}",
            model.last_id
        );
        model.last_id = id;
        hold!(model.stop_at.is_none(), "spawn after stop", "worker {id}");
        let Some(pool) = model.pools.get(&pool_id) else {
            return fail("identity", "unknown pool");
        };
        hold!(
            pool.running && slot < pool.policy.count,
            "spawn unwanted",
            "worker {id} in slot {slot}"
        );
        hold!(
            pool.may_fill_with(generation),
            "generation",
            "generation {generation}, wanted {}",
            pool.base
        );
        let staying: Vec<&Worker> = model
            .of(pool_id)
            .map(|(_, w)| w)
            .filter(|w| w.stays())
            .collect();
        let here = staying.iter().filter(|w| w.slot == slot).count();
        hold!(
            !model.is_held(pool_id),
            "held",
            "worker {id} of pool {pool_id} before the pools that it waits for are up"
        );
        if pool.is_oneshot() {
            hold!(
                !model.has_processes(pool_id),
                "two runs",
                "worker {id} while the run before is still there"
            );
            hold!(
                pool.roll.is_some() || !pool.oneshot_done && !pool.oneshot_failed,
                "oneshot",
                "run again unasked"
            );
        }
        let is_rolls = pool
            .roll
            .as_ref()
            .is_some_and(|roll| roll.generation == generation && !roll.rolling_back);
        if is_rolls && generation != pool.base && !model.has_soaked(pool_id, now.0) {
            let after = pool.roll.as_ref().map_or(0, |roll| roll.newest_before);
            let fresh = model
                .of(pool_id)
                .filter(|(id, w)| w.stays() && w.generation == generation && *id > after)
                .count();
            hold!(
                fresh == 0,
                "canary",
                "a second worker of generation {generation} before the first has soaked"
            );
        }
        let first = pool.roll.as_ref().is_some_and(|roll| {
            roll.generation == generation && !roll.rolling_back && !roll.begun && !roll.to_base
        });
        if first {
            let before = model.rolls_before(pool_id);
            hold!(
                before.is_empty(),
                "roll order",
                "pool {pool_id} is rolled before {before:?}"
            );
        }
        let surge = pool.policy.reload.surge;
        let two = (0..pool.policy.count)
            .filter(|s| staying.iter().filter(|w| w.slot == *s).count() > 1)
            .count();
        if here > 0 && !pool.changed {
            hold!(
                here == 1 && (two as u32) < surge,
                "surge",
                "{two} slots have a successor, surge {surge}"
            );
        }
        if here > 0 && pool.roll.is_none() {
            hold!(
                model.wants_replacement(pool_id, slot),
                "replacements",
                "slot {slot} has a successor that was not requested"
            );
            hold!(two == 0, "replacements", "two replacements at a time");
            hold!(
                generation == pool.base,
                "replacements",
                "generation {generation}, wanted {}",
                pool.base
            );
        }
        if surge == 0 && !pool.changed {
            let two = model
                .of(pool_id)
                .any(|(_, w)| w.slot == slot && w.is_leaving());
            hold!(
                !two,
                "in place",
                "slot {slot} is filled while its old worker is still there"
            );
        }
        if !pool.is_oneshot() && (surge > 0 || pool.roll.is_none()) && !pool.changed {
            model.has_room(pool_id)?;
        }
        let slot_state = &pool.slots[slot as usize];
        if let Some(at) = slot_state.retry_at
            && !is_rolls
            && pool.roll.is_none()
        {
            hold!(
                now.0 >= at || slot_state.reset,
                "backoff early",
                "slot {slot} due at {at}"
            );
        }
        if let Some(since) = pool.crash_loop
            && pool.roll.is_none()
            && !pool.rolled_in_loop
        {
            let alone = |w: &&&Worker| {
                staying
                    .iter()
                    .all(|o| o.slot != w.slot || o.spawned >= w.spawned)
            };
            let trying = staying
                .iter()
                .filter(|w| w.ready.is_none() && w.spawned >= since)
                .filter(alone)
                .count();
            // If workers fail late, the others follow once one has served for a second; a slot's first death does not count.
            let open = staying
                .iter()
                .any(|w| w.ready.is_some_and(|at| at >= since && now.0 >= at + 1000));
            let free = pool.late_ever && (open || slot_state.deaths <= 1 || !slot_state.exact);
            hold!(
                trying == 0 || free,
                "one probe",
                "worker {id} while another one is tried"
            );
        }
        let worker = Worker::new(now.0, pool_id, slot, generation, pool)?;
        model.workers.insert(id, worker);
        if let Some(pool) = model.pools.get_mut(&pool_id) {
            pool.begun = true;
            if let Some(roll) = pool.roll.as_mut().filter(|_| first) {
                roll.begun = true;
            }
        }
        Ok(())
    }

    fn signal(&mut self, now: Time, id: u64, signal: Signal, whole: bool) -> Checked {
        let slack = self.slack;
        let model = &mut self.model;
        let Some(worker) = model.workers.get_mut(&id) else {
            return fail("unknown worker", format!("signal to {id}"));
        };
        hold!(
            worker.lives() && worker.killed.is_none(),
            "unknown worker",
            "signal to {id}, which has ended or was killed"
        );
        let Some(stop_began) = worker.stop_began.filter(|_| worker.stop_reason.is_some()) else {
            return fail(
                "unrequested stop",
                format!("signal to {id} without a cause"),
            );
        };
        let Some((after, expected, to_tree)) = worker.stop_signals.get(worker.signals_sent) else {
            return fail("stop steps", format!("one signal too many to {id}"));
        };
        hold!(
            *expected == signal.0,
            "stop steps",
            "{id} got {signal}, expected {expected}"
        );
        hold!(
            whole == (worker.tree_stopping || *to_tree),
            "stop steps",
            "{signal} to {id}: to the tree: {whole}"
        );
        hold!(
            now.0 >= stop_began + after,
            "stop early",
            "signal {signal} to {id} at {now}, due {}",
            stop_began + after
        );
        hold!(
            worker.extended || now.0 <= stop_began + after + slack,
            "stop late",
            "signal {signal} to {id} at {now}"
        );
        worker.signals_sent += 1;
        Ok(())
    }

    /// The first process has exited in its stop: nothing is killed, and the rest of the tree gets the last signal of the
    /// stop.
    fn signal_remaining(&mut self, now: Time, id: u64, signal: Option<Signal>) -> Checked {
        let Some(worker) = self.model.workers.get_mut(&id) else {
            return fail("unknown worker", format!("rest of the tree of {id}"));
        };
        let ended = worker.exited == Some(now.0)
            && !worker.tree_stopping
            && worker.tree_killed.is_none()
            && !worker.gone;
        hold!(ended, "unknown worker", "{id} has not just exited");
        hold!(
            worker.stop_began.is_some() && worker.killed.is_none(),
            "tree stopping",
            "{id}, though it was not asked to stop"
        );
        let last = worker
            .signals_sent
            .checked_sub(1)
            .and_then(|last| worker.stop_signals.get(last));
        let expected = last
            .filter(|(_, _, to_tree)| !to_tree)
            .map(|(_, signal, _)| *signal);
        hold!(
            signal.map(|signal| signal.0) == expected,
            "stop steps",
            "the rest of the tree of {id} got {signal:?}"
        );
        worker.tree_stopping = true;
        Ok(())
    }

    fn kill_tree(&mut self, now: Time, id: u64) -> Checked {
        let model = &mut self.model;
        let Some(worker) = model.workers.get_mut(&id) else {
            return fail("unknown worker", format!("tree of {id}"));
        };
        hold!(
            worker.exited.is_some() && !worker.gone && worker.tree_killed.is_none(),
            "unknown worker",
            "tree of {id}"
        );
        worker.tree_killed = Some(now.0);
        let stop_began = worker.stop_began.filter(|_| worker.killed.is_none());
        let (Some(stop_began), false) = (stop_began, model.kill_from.is_some_and(|at| now.0 >= at))
        else {
            return Ok(());
        };
        let over = stop_began + worker.stop_time;
        hold!(
            now.0 >= over,
            "stop early",
            "the rest of the tree of {id} is killed at {now}, its waits end at {over}"
        );
        Ok(())
    }

    fn kill(&mut self, now: Time, id: u64) -> Checked {
        let model = &mut self.model;
        let Some(worker) = model.workers.get_mut(&id) else {
            return fail("unknown worker", format!("kill {id}"));
        };
        hold!(
            worker.exited.is_none() && worker.lives() && worker.killed.is_none(),
            "unknown worker",
            "kill of {id}, which has ended or was killed"
        );
        worker.killed = Some(now.0);
        let at_will = model.kill_from.is_some_and(|at| now.0 >= at);
        if worker.overdue || at_will {
            worker.stop_began.get_or_insert(now.0);
            return Ok(());
        }
        let Some(stop_began) = worker.stop_began.filter(|_| worker.stop_reason.is_some()) else {
            return fail("unrequested stop", format!("kill of {id} without a cause"));
        };
        let waits = worker.stop_time;
        hold!(
            now.0 >= stop_began + waits,
            "stop early",
            "{id} killed at {now}, its waits end at {}",
            stop_began + waits
        );
        Ok(())
    }
}

impl Worker {
    fn new(
        now: u64,
        pool_id: u32,
        slot: u32,
        generation: u32,
        pool: &Pool,
    ) -> Result<Self, Violation> {
        let (readiness, timeout) = pool
            .made
            .get(&generation)
            .copied()
            .unwrap_or((rotad_core::Readiness::Reported, 0));
        hold!(
            pool.made.contains_key(&generation),
            "generation",
            "{generation} was never made"
        );
        Ok(Self {
            readiness,
            timeout,
            pool: pool_id as usize,
            slot,
            generation,
            spawned: now,
            ..Self::default()
        })
    }
}
