//! The world around the engine: workers with random behaviour, an operator, a clock, and the supervisor's side of the
//! contract: commands to a worker that is not spawned yet wait for its spawn, SIGKILL ends what can be ended within
//! milliseconds, and a killed tree is reported later.

use crate::behaviour::Process;
use crate::master::Memory;
use crate::oracle::{Oracle, Violation, hold};
use crate::plan::{Act, CONVERGED_BY, FAULTS_END, Fault, Plan};
use crate::rng::Rng;
use rotad_core::{
    Cause, Command, Engine, Entry, Exit, Generation, Input, Notice, Outcome, Policy, PoolId,
    Request, Slot, Span, Ticket, Time, WorkerId,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Something that happens in the world at a given time. Numbers are worker ids unless their variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Start(u64),
    SpawnFails(u64),
    Ready(u64),
    ByAgeReported(u64),
    AsksForTime(u64),
    Unhealthy(u64),
    Exit(u64, End),
    TreeGone(u64),
    Pinned(usize, u32),
    Act(usize),
    Pause(u64),
    EarlyWake,
    /// The processor demand of starting workers is measured.
    MeasureDemand,
    /// The master will die.
    Death(usize),
    /// What a dead master had not recorded is seen again.
    Again(usize),
}

impl Event {
    /// It tells the master something.
    pub(crate) fn is_fact(&self) -> bool {
        !matches!(
            self,
            Self::Pause(_) | Self::EarlyWake | Self::MeasureDemand | Self::Death(_)
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
}

/// Counts what happened in a run, to show that the simulator exercises it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) steps: u64,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

pub(crate) struct World<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) engine: Engine,
    pub(crate) oracle: Oracle,
    /// What survives the master; `None` in runs without deaths.
    pub(crate) memory: Option<Memory>,
    pub(crate) now: u64,
    pub(crate) heap: BinaryHeap<Reverse<(u64, u64, Event)>>,
    ties: Rng,
    pub(crate) processes: BTreeMap<u64, Process>,
    next_ticket: u64,
    answers: BTreeMap<u64, Outcome>,
    pub(crate) exited: bool,
    measuring: bool,
    /// How much later than its deadline the engine may be called, in milliseconds.
    lateness: u64,
    trace: Option<Vec<String>>,
    pub(crate) stats: Stats,
}

/// Plays one plan to its end.
pub(crate) fn play(plan: &Plan, trace: bool) -> (Result<Stats, Violation>, Vec<String>) {
    let mut world = World::new(plan, trace);
    let result = world.run();
    let lines = world.trace.take().unwrap_or_default();
    (result.map(|()| std::mem::take(&mut world.stats)), lines)
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, trace: bool) -> Self {
        let lateness = if plan.rate(Fault::LateWake) > 0 {
            40
        } else {
            0
        };
        let engine = Engine::with_processors(plan.processors);
        let memory = (!plan.deaths.is_empty()).then(|| Memory::new(plan.seed, &engine));
        Self {
            plan,
            engine,
            memory,
            measuring: false,
            oracle: Oracle::new(lateness, plan.processors),
            now: 0,
            heap: BinaryHeap::new(),
            ties: Rng::of(plan.seed, 1 << 60),
            processes: BTreeMap::new(),
            next_ticket: 0,
            answers: BTreeMap::new(),
            exited: false,
            lateness,
            trace: trace.then(Vec::new),
            stats: Stats::default(),
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        for pool in 0..self.plan.pools.len() {
            self.act(&Act::Ensure(pool))?;
        }
        for (i, (at, _)) in self.plan.acts.iter().enumerate() {
            self.at(*at, Event::Act(i));
        }
        for (i, death) in self.plan.deaths.iter().enumerate() {
            self.at(death.at, Event::Death(i));
        }
        let mut rng = Rng::of(self.plan.seed, 1 << 61);
        for (fault, event) in [(Fault::Pause, true), (Fault::EarlyWake, false)] {
            for _ in 0..self.plan.rate(fault).div_ceil(4) {
                let at = rng.range(0, FAULTS_END);
                let span = rng.range(1, 5000);
                self.at(
                    at,
                    if event {
                        Event::Pause(span)
                    } else {
                        Event::EarlyWake
                    },
                );
            }
        }
        self.until(CONVERGED_BY)?;
        if !self.exited {
            self.now = self.now.max(CONVERGED_BY);
            self.oracle.check_converged(Time(self.now), &self.engine)?;
            self.act(&Act::Stop(None))?;
            self.until(u64::MAX)?;
        }
        self.oracle.finish(self.exited)
    }

    /// Runs the world until `end`.
    fn until(&mut self, end: u64) -> Result<(), Violation> {
        loop {
            let next = self.heap.peek().map(|Reverse((at, _, _))| *at);
            let wake = self.engine.deadline().map(|at| at.0.max(self.now));
            let late = if self.lateness > 0 {
                self.ties.range(0, self.lateness)
            } else {
                0
            };
            let wake = wake.map(|at| at + late);
            let wake_first = match (wake, next) {
                (None, None) => return Ok(()),
                (Some(wake), Some(next)) => wake < next || wake == next && self.ties.chance(50),
                (wake, _) => wake.is_some(),
            };
            let at = if wake_first { wake } else { next }.unwrap_or(u64::MAX);
            if at >= end || self.exited && self.processes.is_empty() {
                return Ok(());
            }
            self.now = self.now.max(at);
            if wake_first {
                self.wake()?;
            } else if let Some(Reverse((_, _, event))) = self.heap.pop() {
                self.handle(event)?;
            }
            if self.stats.steps > 200_000 {
                return Err(Violation {
                    oracle: "spin",
                    text: "200 000 steps in one run".into(),
                });
            }
        }
    }

    fn wake(&mut self) -> Result<(), Violation> {
        self.step(Input::TimerFired)?;
        // A second call at the same time must find nothing to do.
        let again = self.wake_again();
        if !again.is_empty() {
            return Err(Violation {
                oracle: "idempotence",
                text: format!("woken again at the same time: {again:?}"),
            });
        }
        Ok(())
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        let tie = self.ties.next();
        self.heap.push(Reverse((at.max(self.now), tie, event)));
    }

    pub(crate) fn faults_over(&self) -> bool {
        self.now >= FAULTS_END
    }

    pub(crate) fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Start(id) => self.on_start(id),
            Event::SpawnFails(id) => {
                self.processes.remove(&id);
                self.step(Input::SpawnFailed(WorkerId(id)))
            }
            Event::Ready(id) => {
                let late = self.plan.rate(Fault::ReadyLate) > 0;
                if late
                    || self
                        .processes
                        .get(&id)
                        .is_some_and(|process| !process.exited)
                {
                    return self.step(Input::Ready(WorkerId(id)));
                }
                Ok(())
            }
            Event::ByAgeReported(id) => self.step(Input::AgeReached(WorkerId(id))),
            Event::Unhealthy(id) => self.step(Input::Unhealthy(WorkerId(id))),
            Event::AsksForTime(id) => match self.processes.get_mut(&id) {
                Some(process) if !process.exited || process.tree_left => {
                    let by = Span(process.rng.range(100, 6000));
                    self.step(Input::TimeoutExtended(WorkerId(id), by))
                }
                _ => Ok(()),
            },
            Event::Exit(id, end) => {
                let Some(process) = self.processes.get_mut(&id) else {
                    return Ok(());
                };
                if process.exited {
                    return Ok(());
                }
                process.exited = true;
                let exit = match end {
                    End::Code(code) => Exit::Code(code),
                    End::Signal(signal) => Exit::Signal {
                        signal,
                        core_dumped: false,
                    },
                };
                self.step(Input::Exited(WorkerId(id), exit))?;
                if self.plan.rate(Fault::ReadyTwice) > 0 {
                    self.step(Input::Exited(WorkerId(id), exit))?;
                }
                Ok(())
            }
            // It may have been reported already: a tree that finishes may also be killed.
            Event::TreeGone(id) if self.processes.remove(&id).is_none() => Ok(()),
            Event::TreeGone(id) => self.step(Input::TreeGone(WorkerId(id))),
            Event::Pinned(pool, generation) => {
                let same = self.draw_same_files(pool, generation);
                self.step(Input::Pinned {
                    pool: PoolId(pool as u32),
                    generation: Generation(generation),
                    same,
                })
            }
            Event::Act(i) => {
                let act = self.plan.acts[i].1.clone();
                self.act(&act)
            }
            Event::Pause(span) => {
                self.pause(span);
                Ok(())
            }
            Event::EarlyWake => self.wake_early(),
            Event::Death(i) if self.plan.deaths[i].all_lost => self.adopt(self.plan.deaths[i].gap),
            Event::Death(i) => self.arm(self.plan.deaths[i]),
            Event::Again(i) => self.repeat(i),
            Event::MeasureDemand => {
                self.measuring = false;
                let mut found = Vec::new();
                for worker in self.engine.view().starting() {
                    let demand = self.ties.pick(&[0, 0, 30, 60, 100, 400]);
                    if self.ties.chance(80) {
                        found.push((worker, demand));
                    }
                }
                self.step(Input::Demand(found))
            }
        }
    }

    /// The master was paused while the world went on: everything that happened meanwhile comes in together, and the
    /// engine's clock, which leaves out pauses, has not advanced.
    pub(crate) fn pause(&mut self, span: u64) {
        let now = self.now;
        for Reverse((at, tie, event)) in std::mem::take(&mut self.heap).into_vec() {
            self.heap
                .push(Reverse((at.saturating_sub(span).max(now), tie, event)));
        }
    }

    fn wake_early(&mut self) -> Result<(), Violation> {
        let before = self.engine.deadline();
        if before.is_some_and(|at| at.0 <= self.now) {
            return self.wake();
        }
        let output = self.wake_again();
        if !output.is_empty() || self.engine.deadline() != before {
            return Err(Violation {
                oracle: "useless wake",
                text: format!("woken early: {output:?}"),
            });
        }
        Ok(())
    }

    fn act(&mut self, act: &Act) -> Result<(), Violation> {
        let pool_of = |pool: &usize| PoolId(*pool as u32);
        if let Act::ReplaceListener(pool, all) = act {
            let known = self
                .processes
                .iter()
                .filter(|(id, process)| process.pool == *pool && (*all || *id % 2 == 0));
            let known = known.map(|(id, _)| WorkerId(*id)).collect();
            return self.step(Input::Unreachable(known));
        }
        if *act == Act::KeepsDying {
            return self.step(Input::MasterKeepsDying);
        }
        let request = match act {
            Act::Roll(pool) => Request::Roll(pool_of(pool)),
            Act::Cancel(pool) => Request::Cancel(pool_of(pool)),
            Act::Scale(pool, count) => Request::Scale(pool_of(pool), *count),
            Act::Start(pool) => Request::Start(pool_of(pool)),
            Act::StopPool(pool) => Request::StopPool(pool_of(pool)),
            Act::Remove(pool) => Request::Remove(pool_of(pool)),
            Act::ReplaceWorker(pool, slot) => Request::Replace(pool_of(pool), Slot(*slot)),
            Act::Ensure(pool) => Request::EnsurePool(pool_of(pool), self.current_policy(*pool)),
            Act::Adjust(pool, reload) => Request::EnsurePool(
                pool_of(pool),
                Policy {
                    reload: *reload,
                    ..self.current_policy(*pool)
                },
            ),
            Act::Reconfigure(pool, reload, readiness, timeout) => {
                let mut policy = Policy {
                    readiness: *readiness,
                    ready_timeout: Span(*timeout),
                    ..self.current_policy(*pool)
                };
                policy.reload = reload.unwrap_or(policy.reload);
                Request::Reconfigure {
                    pool: pool_of(pool),
                    policy,
                }
            }
            Act::RollBack(pool, back) => {
                let (to, readiness, timeout) = self.oracle.served(*pool as u32, *back);
                let policy = Policy {
                    readiness,
                    ready_timeout: Span(timeout),
                    ..self.current_policy(*pool)
                };
                Request::RollBack {
                    pool: pool_of(pool),
                    to: Generation(to),
                    policy,
                }
            }
            Act::Stop(cap) => Request::Stop { cap: cap.map(Span) },
            Act::StopNow | Act::ReplaceListener(..) | Act::KeepsDying => Request::StopNow,
        };
        let number = self.next_ticket();
        let mut rng = Rng::of(self.plan.seed, (5 << 56) + number);
        let is_stop = matches!(request, Request::Stop { .. } | Request::StopNow);
        let without_ticket = matches!(
            request,
            Request::EnsurePool(..) | Request::Scale(..) | Request::Roll(_)
        ) && rng.chance(10);
        let ticket = (!is_stop && !without_ticket).then(|| Ticket {
            number,
            drained: rng.chance(25),
        });
        self.step(Input::Requested(ticket, request))
    }

    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    /// The current policy of a pool, or its first one if the pool does not exist.
    pub(crate) fn current_policy(&self, pool: usize) -> Policy {
        self.oracle
            .policy(pool as u32)
            .unwrap_or_else(|| self.plan.pools[pool].clone())
    }

    /// While starts wait for others, the processor demand of those is measured.
    pub(crate) fn measure_demand(&mut self, now: u64) {
        if self.engine.view().limits_starts() && !std::mem::replace(&mut self.measuring, true) {
            let within = self.ties.range(10, 200);
            self.at(now + within, Event::MeasureDemand);
            *self.stats.seen.entry("starts limited").or_default() += 1;
        }
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// `again`: the master that had begun to execute it has died, and whether it was executed is not known.
    pub(crate) fn execute(&mut self, command: Command, again: bool) -> Result<(), Violation> {
        let now = self.now;
        match command {
            Command::Spawn { worker, .. } if self.processes.contains_key(&worker.0) => {
                hold!(again, "one process", "{worker} is spawned twice");
            }
            Command::Spawn {
                worker,
                pool,
                generation,
                ..
            } => self.on_spawn(worker.0, pool.0 as usize, generation.0),
            Command::SignalRemaining(id, _) => self.on_exit_in_stop(id.0),
            Command::Signal(id, _) | Command::SignalTree(id, _) => {
                let first = self
                    .processes
                    .get_mut(&id.0)
                    .is_some_and(|process| !std::mem::replace(&mut process.got_term, true));
                if first
                    && self
                        .processes
                        .get(&id.0)
                        .is_some_and(|process| process.started)
                {
                    self.on_term(id.0);
                }
            }
            Command::Kill(id) => {
                if let Some(process) = self.processes.get_mut(&id.0) {
                    process.killed = true;
                    if process.started {
                        self.on_kill(id.0);
                    }
                }
            }
            Command::KillTree(id) => {
                let slow = if self.faults_over() {
                    0
                } else {
                    self.plan.rate(Fault::SlowTreeKill)
                };
                let rng = self
                    .processes
                    .get_mut(&id.0)
                    .map(|process| &mut process.rng);
                let within = rng.map_or(0, |rng| {
                    if rng.chance(slow) {
                        rng.range(0, 5000)
                    } else {
                        rng.range(0, 3)
                    }
                });
                self.at(now + within, Event::TreeGone(id.0));
            }
            Command::Exit { .. } => self.exited = true,
            Command::Reply(ticket, _, outcome) => {
                let known = self.answers.insert(ticket.number, outcome.clone());
                hold!(
                    known.is_none_or(|known| again && known == outcome),
                    "one answer",
                    "ticket {ticket} gets a second answer"
                );
            }
            Command::BeginGeneration { .. }
            | Command::RevertConfig(_)
            | Command::EndGeneration { .. }
            | Command::StartHealth(_)
            | Command::StopHealth(_)
            | Command::GiveUp { .. } => {}
        }
        Ok(())
    }

    pub(crate) fn count(&mut self, entry: &Entry) {
        let name = match entry {
            Entry::Command(Command::Spawn { .. }) => "spawns",
            Entry::Command(Command::Reply(_, _, Outcome::Aborted { failure, .. }))
                if failure.cause == Cause::MasterKeepsDying =>
            {
                "all requests ended"
            }
            Entry::Notice(Notice::RollEnded { outcome, .. }) => match outcome {
                Outcome::Done { .. } => "rolls done",
                Outcome::Aborted { failure, .. } if failure.mixed => "rolls mixed",
                Outcome::Aborted { failure, .. } if matches!(failure.cause, Cause::After(_)) => {
                    "rolls untouched"
                }
                Outcome::Aborted { .. } => "rolls aborted",
                Outcome::RolledBack { .. } => "rolls back",
                Outcome::Superseded { .. } => "rolls superseded",
                _ => "rolls otherwise",
            },
            Entry::Command(Command::Reply(_, _, outcome)) => match outcome {
                Outcome::Cancelled { standing, .. } if !standing.others.is_empty() => {
                    "cancelled, mixed"
                }
                Outcome::Cancelled { stuck: true, .. } => "cancelled, stuck",
                Outcome::Cancelled { .. } => "cancelled",
                Outcome::ReplaceFailed { .. } => "not replaced",
                Outcome::HeldUp { .. } => "held up",
                Outcome::Up(_) => "up",
                Outcome::StartFailed(_) => "starts failed",
                Outcome::Stopped => "stopped",
                Outcome::Removed => "removed",
                Outcome::NothingDone(_) => "nothing",
                _ => return,
            },
            Entry::Notice(Notice::BeginsWith { .. }) => "begins",
            Entry::Notice(Notice::RollWaits { .. }) => "rolls waiting",
            Entry::Notice(Notice::RollAfter { .. }) => "rolls after others",
            Entry::Notice(Notice::CrashLoop { .. }) => "crash loops",
            Entry::Notice(Notice::CrashLoopEases { .. }) => "crash loops eased",
            Entry::Notice(Notice::CrashLoopOver { .. }) => "crash loops over",
            Entry::Notice(Notice::Killed { .. }) => "killed",
            Entry::Command(Command::SignalTree(..)) => "signals to trees",
            Entry::Command(Command::KillTree(id))
                if self
                    .processes
                    .get(&id.0)
                    .is_some_and(|process| process.tree_left) =>
            {
                "trees killed in their stop"
            }
            Entry::Notice(Notice::Unkillable { .. }) => "unkillable",
            Entry::Notice(Notice::Waiting { .. }) => "held",
            Entry::Notice(Notice::OneshotDone { .. }) => "oneshots done",
            Entry::Notice(Notice::WorkerReplaced { .. }) => "replaced",
            Entry::Notice(Notice::EssentialLost { .. } | Notice::EssentialEnded { .. }) => {
                "essential"
            }
            Entry::Notice(Notice::Retired {
                why: rotad_core::StopReason::Unhealthy,
                ..
            }) => "unhealthy",
            Entry::Notice(Notice::Retired {
                why: rotad_core::StopReason::Unreachable,
                ..
            }) => "unreachable",
            Entry::Notice(Notice::CanaryPassed { .. }) => "canaries passed",
            Entry::Notice(Notice::Confirmed { .. }) => "confirmed",
            Entry::Notice(Notice::Watched { .. }) => "watched",
            _ => return,
        };
        *self.stats.seen.entry(name).or_default() += 1;
    }
}
