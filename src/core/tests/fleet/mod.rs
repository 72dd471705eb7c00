//! One pool of many workers in a world in which everything works immediately, and how long the engine takes for each
//! input of a phase of their lives. `many.rs` compares that between small and large pools; the benchmark in
//! `bench/engine` measures it.

use rotad_core::{
    Command, Engine, Exit, Input, OnFailure, Policy, PoolId, PoolKind, Readiness, Reload, Request,
    Restart, RestartPolicy, Signal, Slot, Span, StopStep, Ticket, Time, To, WorkerId,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The pool.
const POOL: PoolId = PoolId(1);
/// Longer than `stable_after`: no death counts with another one.
const APART: u64 = 11_000;
/// How many workers exit in [`Phase::Respawn`].
const RESPAWNED: usize = 100;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A start that a request waits for: the request, and the start and readiness of every worker.
    Start,
    /// Only the readiness of every worker, while a request waits for the start.
    Ready,
    /// A hundred workers exit, each some time after the one before, and are replaced.
    Respawn,
    /// Every worker has exited before it was ready: a crash loop.
    CrashLoop,
    /// Every ready worker exits, while the pool is in a crash loop.
    DeathsInALoop,
    /// A rolling restart, a quarter at a time; the request waits until the old workers are gone.
    Roll,
    /// The same, but only one old worker may be stopping: the successors queue.
    RollOneByOne,
    /// Every worker is to be replaced by a request of its own.
    Recycle,
    /// Everything stops.
    Stop,
    /// Every worker has a deadline of its own, which comes.
    Deadlines,
}

impl Phase {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::Start,
        Self::Ready,
        Self::Respawn,
        Self::CrashLoop,
        Self::DeathsInALoop,
        Self::Roll,
        Self::RollOneByOne,
        Self::Recycle,
        Self::Stop,
        Self::Deadlines,
    ];

    /// Its name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Respawn => "exit and respawn",
            Self::CrashLoop => "crash loop",
            Self::DeathsInALoop => "deaths in a loop",
            Self::Roll => "roll",
            Self::RollOneByOne => "roll, one draining",
            Self::Recycle => "recycle",
            Self::Stop => "stop",
            Self::Deadlines => "deadline",
        }
    }
}

/// The time that inputs took, and their number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) took: Duration,
    pub(crate) inputs: u64,
}

impl Cost {
    /// Time for each input, in nanoseconds.
    pub(crate) fn each(self) -> f64 {
        self.took.as_nanos() as f64 / self.inputs as f64
    }
}

/// An engine with one pool, and what has happened that it was not told yet.
pub(crate) struct Fleet {
    pub(crate) engine: Engine,
    policy: Policy,
    now: u64,
    inputs: VecDeque<Input>,
    steps: u64,
    tickets: u64,
    pub(crate) exited: bool,
}

impl Fleet {
    pub(crate) fn new(count: u32, surge: u32, max_draining: u32) -> Self {
        let policy = Policy {
            count,
            readiness: Readiness::Reported,
            ready_timeout: Span::from_secs(600),
            stop: vec![StopStep {
                signal: Some(Signal::TERM),
                wait: Span::from_secs(600),
                to: To::Main,
            }],
            reload: Reload {
                surge,
                max_draining,
                soak: Some(Span::ZERO),
                on_failure: OnFailure::Rollback,
            },
            restart: Restart {
                policy: RestartPolicy::Always,
                delay: Span(100),
                max_delay: Span::from_secs(30),
                stable_after: Span(APART - 1000),
                success_exit_codes: vec![0],
                never_on: Vec::new(),
            },
            kind: PoolKind::Service,
            after: Vec::new(),
            max_starting: None,
            essential: None,
        };
        Self {
            engine: Engine::with_processors(1 << 16),
            policy,
            now: 0,
            inputs: VecDeque::new(),
            steps: 0,
            tickets: 0,
            exited: false,
        }
    }

    /// How many inputs the engine was given.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now += ms;
    }

    pub(crate) fn workers(&self) -> Vec<WorkerId> {
        let view = self.engine.view();
        view.workers().map(|worker| worker.id).collect()
    }

    /// The generation that was rolled out last.
    pub(crate) fn last_good(&self) -> Option<u32> {
        Some(self.engine.view().pool(POOL)?.last_good.0)
    }

    /// A request that waits for its outcome.
    fn request(&mut self, request: Request, drained: bool) {
        self.tickets += 1;
        let ticket = Ticket {
            number: self.tickets,
            drained,
        };
        self.inputs
            .push_back(Input::Requested(Some(ticket), request));
    }

    /// Gives the engine one input, as the supervisor does, and does at once what it commands.
    fn step(&mut self) -> bool {
        let Some(input) = self.inputs.pop_front() else {
            return false;
        };
        self.now += 1;
        self.steps += 1;
        let (commands, _) = self.engine.handle(Time(self.now), input).split();
        for command in commands {
            match command {
                Command::Spawn { worker, .. } => {
                    self.inputs.push_back(Input::Started(worker));
                    self.inputs.push_back(Input::Ready(worker));
                }
                Command::Signal(worker, _)
                | Command::SignalTree(worker, _)
                | Command::Kill(worker) => {
                    self.inputs.push_back(Input::Exited(worker, Exit::Code(0)));
                }
                Command::KillTree(worker) | Command::SignalRemaining(worker, _) => {
                    self.inputs.push_back(Input::TreeGone(worker));
                }
                Command::Exit { .. } => self.exited = true,
                Command::Reply(..)
                | Command::BeginGeneration { .. }
                | Command::RevertConfig(_)
                | Command::EndGeneration { .. }
                | Command::StartHealth(_)
                | Command::StopHealth(_)
                | Command::GiveUp { .. } => {}
            }
        }
        std::hint::black_box(self.engine.deadline());
        true
    }

    /// Handles all inputs and what follows from them.
    pub(crate) fn settle(&mut self) -> Cost {
        let (began, before) = (Instant::now(), self.steps());
        while self.step() {}
        Cost {
            took: began.elapsed(),
            inputs: self.steps() - before,
        }
    }

    /// Handles these inputs, and nothing that follows from them.
    fn handle_only(&mut self, inputs: impl IntoIterator<Item = Input>) -> Cost {
        let inputs: Vec<Input> = inputs.into_iter().collect();
        let count = inputs.len();
        self.inputs = inputs.into();
        let (began, before) = (Instant::now(), self.steps());
        for _ in 0..count {
            self.step();
        }
        let took = began.elapsed();
        self.inputs.clear();
        let inputs = self.steps() - before;
        Cost { took, inputs }
    }

    pub(crate) fn start(&mut self) -> Cost {
        self.request(Request::EnsurePool(POOL, self.policy.clone()), false);
        self.settle()
    }

    /// All workers are spawned, and none is ready.
    fn spawn(&mut self) {
        self.request(Request::EnsurePool(POOL, self.policy.clone()), false);
        let requests = std::mem::take(&mut self.inputs);
        self.handle_only(requests);
        let workers = self.workers();
        assert_eq!(workers.len(), self.policy.count as usize);
        self.handle_only(workers.into_iter().map(Input::Started));
    }

    pub(crate) fn roll(&mut self) -> Cost {
        self.request(Request::Roll(POOL), true);
        self.settle()
    }

    pub(crate) fn stop(&mut self) -> Cost {
        self.request(Request::Stop { cap: None }, false);
        self.settle()
    }

    /// A worker exits with this code, and what follows from it.
    pub(crate) fn exit(&mut self, worker: WorkerId, code: i32) -> Cost {
        self.inputs
            .push_back(Input::Exited(worker, Exit::Code(code)));
        self.settle()
    }

    /// These workers exit with this code, and what is left of them is gone; nothing that follows from it.
    fn exit_only(&mut self, workers: &[WorkerId], code: i32) -> Cost {
        let exits = workers.iter().flat_map(|worker| {
            [
                Input::Exited(*worker, Exit::Code(code)),
                Input::TreeGone(*worker),
            ]
        });
        self.handle_only(exits)
    }
}

/// Brings a pool of this size to where the phase begins, and measures the phase.
pub(crate) fn measure(phase: Phase, count: u32) -> Cost {
    let surge = (count / 4).max(1);
    let max_draining = if phase == Phase::RollOneByOne {
        1
    } else {
        count
    };
    let mut fleet = Fleet::new(count, surge, max_draining);
    match phase {
        Phase::Start => fleet.start(),
        Phase::Ready => {
            fleet.spawn();
            let workers = fleet.workers();
            let cost = fleet.handle_only(workers.into_iter().map(Input::Ready));
            assert_eq!(fleet.last_good(), Some(1));
            cost
        }
        Phase::Respawn => {
            fleet.start();
            let workers = fleet.workers();
            let mut cost = Cost::default();
            for number in 0..RESPAWNED.min(workers.len()) {
                // Spread over the pool, so that neighbours in memory do not help.
                let worker = workers[number * 7919 % workers.len()];
                fleet.pass(APART);
                let life = fleet.exit(worker, 1);
                cost.took += life.took;
                cost.inputs += life.inputs;
            }
            cost
        }
        Phase::CrashLoop => {
            fleet.spawn();
            let workers = fleet.workers();
            fleet.exit_only(&workers, 1)
        }
        Phase::DeathsInALoop => {
            fleet.spawn();
            let workers = fleet.workers();
            let (failing, rest) = workers.split_at(workers.len() / 2 + 1);
            fleet.handle_only(rest.iter().copied().map(Input::Ready));
            fleet.exit_only(failing, 1);
            fleet.pass(APART);
            fleet.exit_only(rest, 1)
        }
        Phase::Roll | Phase::RollOneByOne => {
            fleet.start();
            let cost = fleet.roll();
            assert_eq!(fleet.last_good(), Some(2));
            cost
        }
        Phase::Recycle => {
            fleet.start();
            for slot in (0..count).map(Slot) {
                fleet.request(Request::Replace(POOL, slot), false);
            }
            fleet.settle()
        }
        Phase::Stop => {
            fleet.start();
            let cost = fleet.stop();
            assert!(fleet.exited);
            cost
        }
        Phase::Deadlines => {
            fleet.policy.readiness = Readiness::Alive(Span::from_secs(60));
            fleet.spawn();
            // Each was started a millisecond after the one before.
            fleet.pass(60_000 - u64::from(count));
            let cost = fleet.handle_only((0..count).map(|_| Input::TimerFired));
            assert_eq!(fleet.last_good(), Some(1));
            cost
        }
    }
}
