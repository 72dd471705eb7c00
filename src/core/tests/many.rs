//! Ten thousand workers cost ten thousand times as much as one, not the square of it.

use rotad_core::{
    Command, Engine, Exit, Input, OnFailure, Policy, PoolId, PoolKind, Readiness, Reload, Request,
    Restart, RestartPolicy, Signal, Span, StopStep, Ticket, Time, To, WorkerId,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A world in which everything works immediately. Counts the inputs.
struct World {
    engine: Engine,
    now: u64,
    inputs: VecDeque<Input>,
    steps: u64,
    exited: bool,
}

impl World {
    fn handle(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
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
                        self.inputs.push_back(Input::TreeGone(worker))
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
        }
    }
}

/// Start, roll, exit of every worker, roll, stop. Returns how long that took.
fn run(count: u32, surge: u32, max_draining: u32) -> Duration {
    let began = Instant::now();
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
            stable_after: Span::from_secs(10),
            success_exit_codes: vec![0],
            never_on: Vec::new(),
        },
        kind: PoolKind::Service,
        after: Vec::new(),
        max_starting: None,
        essential: None,
    };
    let mut world = World {
        engine: Engine::new(),
        now: 0,
        inputs: VecDeque::new(),
        steps: 0,
        exited: false,
    };
    let pool = PoolId(1);
    world.handle(Input::Requested(
        Some(Ticket::new(1)),
        Request::EnsurePool(pool, policy),
    ));
    world.handle(Input::Requested(Some(Ticket::new(2)), Request::Roll(pool)));
    let workers: Vec<WorkerId> = world
        .engine
        .view()
        .workers()
        .map(|worker| worker.id)
        .collect();
    world.now += 1000;
    for worker in workers {
        world.handle(Input::Exited(worker, Exit::Code(0)));
    }
    world.handle(Input::Requested(Some(Ticket::new(3)), Request::Roll(pool)));
    assert_eq!(
        world.engine.view().pool(pool).map(|pool| pool.last_good.0),
        Some(3)
    );
    world.handle(Input::Requested(
        Some(Ticket::new(4)),
        Request::Stop { cap: None },
    ));
    assert!(world.exited);
    assert!(world.steps < u64::from(count) * 30, "{} steps", world.steps);
    began.elapsed()
}

#[test]
fn the_cost_grows_in_proportion_to_the_number_of_workers() {
    for (surge, max_draining) in [(2500, 10_000), (1, 1), (2500, 1), (0, 1), (10_000, 10_000)] {
        let took = run(10_000, surge, max_draining);
        assert!(
            took < Duration::from_secs(5),
            "surge {surge}, max_draining {max_draining}: {took:?}"
        );
    }
}
