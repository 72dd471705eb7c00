//! Simulates starts on a machine with a few processors: workers that compute slow each other down, workers that wait
//! do not. Checks that the engine's start limit lets every pool come up in time.

use crate::rng::Rng;
use rotad_core::{
    Cause, Command, Engine, Exit, Input, Notice, OnFailure, Policy, PoolId, PoolKind, Readiness,
    Reload, Request, Restart, RestartPolicy, Span, Ticket, Time, WorkerId,
};
use std::collections::BTreeMap;

/// What all workers of a pool do before they are ready.
#[derive(Clone, Copy, Debug)]
struct Boot {
    /// Milliseconds of waiting, before it computes.
    waits: u64,
    /// Milliseconds of processor time.
    computes: u64,
    ends: Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Ready,
    /// It is never ready.
    Hangs,
    /// It exits with a failure.
    Dies,
}

struct Process {
    pool: usize,
    computes_from: f64,
    work_left: f64,
    done: bool,
}

struct Machine {
    processors: u32,
    boots: Vec<Boot>,
    engine: Engine,
    now: f64,
    processes: BTreeMap<u64, Process>,
    pending: Vec<(f64, Input)>,
    ready: Vec<u32>,
    measure_at: Option<f64>,
    replies: u32,
    /// Healthy workers that were not ready in time.
    late: u32,
    most_computing: usize,
}

fn policy(count: u32, timeout: u64, max_starting: Option<u32>) -> Policy {
    Policy {
        kind: PoolKind::Service,
        count,
        readiness: Readiness::Reported,
        ready_timeout: Span(timeout),
        stop: Vec::new(),
        reload: Reload {
            surge: count.div_ceil(4),
            max_draining: count,
            soak: Some(Span::ZERO),
            on_failure: OnFailure::Abort,
        },
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Span(100),
            max_delay: Span(30_000),
            stable_after: Span(10_000),
            success_exit_codes: Vec::new(),
            never_on: Vec::new(),
        },
        after: Vec::new(),
        max_starting,
        essential: None,
    }
}

impl Machine {
    fn new(processors: u32, boots: Vec<Boot>) -> Self {
        Self {
            processors,
            ready: vec![0; boots.len()],
            boots,
            engine: Engine::with_processors(processors),
            now: 0.0,
            processes: BTreeMap::new(),
            pending: Vec::new(),
            measure_at: None,
            replies: 0,
            late: 0,
            most_computing: 0,
        }
    }

    fn computing(&self) -> impl Iterator<Item = (&u64, &Process)> {
        self.processes.iter().filter(|(_, process)| {
            !process.done && process.computes_from <= self.now && process.work_left > 0.0
        })
    }

    /// Lets time pass until something happens, or until `until`. Workers that compute share the processors equally.
    fn advance(&mut self, until: f64) {
        while self.now < until {
            let computing: Vec<u64> = self.computing().map(|(id, _)| *id).collect();
            let speed = (f64::from(self.processors) / computing.len() as f64).min(1.0);
            let ends = self
                .computing()
                .map(|(_, process)| self.now + process.work_left / speed);
            let wakes = self
                .processes
                .values()
                .filter(|process| !process.done && process.computes_from > self.now)
                .map(|process| process.computes_from);
            let next = ends.chain(wakes).fold(until, f64::min);
            let passed = next - self.now;
            self.now = next;
            for id in computing {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.work_left -= passed * speed;
                    if process.work_left < 1e-6 {
                        process.work_left = 0.0;
                    }
                }
            }
            let done = |process: &&mut Process| {
                !process.done && process.computes_from <= next && process.work_left <= 0.0
            };
            let mut inputs = Vec::new();
            for (id, process) in &mut self.processes {
                if done(&process) {
                    process.done = true;
                    match self.boots[process.pool].ends {
                        Ends::Ready => inputs.push(Input::Ready(WorkerId(*id))),
                        Ends::Hangs => {}
                        Ends::Dies => inputs.push(Input::Exited(WorkerId(*id), Exit::Code(1))),
                    }
                }
            }
            if !inputs.is_empty() {
                self.pending
                    .extend(inputs.into_iter().map(|input| (next, input)));
                return;
            }
        }
    }

    fn count(&mut self, notice: &Notice) {
        if let Notice::Ready { worker, .. } = notice {
            self.ready[self.processes[&worker.0].pool] += 1;
        } else if let Notice::Died {
            worker,
            cause: Cause::NotReadyInTime,
            ..
        } = notice
        {
            let pool = self.processes[&worker.0].pool;
            self.late += u32::from(self.boots[pool].ends == Ends::Ready);
        }
    }

    fn step(&mut self, input: Input) {
        let output = self.engine.handle(Time(self.now.ceil() as u64), input);
        let (commands, notices) = output.split();
        for notice in &notices {
            self.count(notice);
        }
        for command in commands {
            match command {
                Command::Spawn { worker, pool, .. } => {
                    let boot = self.boots[pool.0 as usize];
                    let process = Process {
                        pool: pool.0 as usize,
                        computes_from: self.now + boot.waits as f64,
                        work_left: boot.computes as f64,
                        done: false,
                    };
                    self.processes.insert(worker.0, process);
                    self.pending.push((self.now, Input::Started(worker)));
                }
                Command::Signal(worker, _)
                | Command::SignalTree(worker, _)
                | Command::Kill(worker) => {
                    if let Some(process) = self.processes.get_mut(&worker.0) {
                        process.done = true;
                    }
                    let exit = Exit::Signal {
                        signal: 9,
                        core_dumped: false,
                    };
                    self.pending
                        .push((self.now + 1.0, Input::Exited(worker, exit)));
                }
                Command::KillTree(worker) | Command::SignalRemaining(worker, _) => {
                    self.processes.remove(&worker.0);
                    self.pending.push((self.now, Input::TreeGone(worker)));
                }
                Command::Reply(..) => self.replies += 1,
                Command::Exit { .. }
                | Command::BeginGeneration { .. }
                | Command::RevertConfig(_)
                | Command::EndGeneration { .. }
                | Command::StartHealth(_)
                | Command::StopHealth(_)
                | Command::GiveUp { .. } => {}
            }
        }
        self.most_computing = self.most_computing.max(self.computing().count());
        if self.engine.view().limits_starts() {
            self.measure_at.get_or_insert(self.now + 10.0);
        }
    }

    /// Runs until `is` holds, or until `end`. Returns whether it holds.
    fn until(&mut self, end: f64, is: impl Fn(&Self) -> bool) -> bool {
        while !is(self) {
            let deadline = self.engine.deadline().map(|at| at.0 as f64);
            let pending = self.pending.iter().map(|(at, _)| *at).reduce(f64::min);
            let next = [deadline, pending, self.measure_at]
                .into_iter()
                .flatten()
                .fold(end, f64::min)
                .max(self.now);
            self.advance(next);
            if self.now >= end {
                return false;
            }
            let at = self.pending.iter().position(|(at, _)| *at <= self.now);
            if let Some(at) = at {
                let (_, input) = self.pending.remove(at);
                self.step(input);
            } else if self.measure_at.is_some_and(|at| at <= self.now) {
                self.measure_at = None;
                let computing: Vec<u64> = self.computing().map(|(id, _)| *id).collect();
                let demand = |id: &WorkerId| (*id, if computing.contains(&id.0) { 100 } else { 0 });
                let found = self
                    .engine
                    .view()
                    .starting()
                    .iter()
                    .take(32)
                    .map(demand)
                    .collect();
                self.step(Input::Demand(found));
            } else if deadline.is_some_and(|at| at <= self.now) {
                self.step(Input::TimerFired);
            }
        }
        true
    }

    fn is_up(&self) -> bool {
        let well = |(id, pool): (PoolId, rotad_core::PoolView)| {
            self.boots[id.0 as usize].ends != Ends::Ready || pool.ready >= pool.wanted
        };
        self.engine.view().pools().all(well)
    }
}

/// The least time in which the healthy workers can all start: their processor time, or the longest boot.
fn work(processors: u32, boots: &[Boot], counts: &[u32]) -> f64 {
    let healthy = || {
        boots
            .iter()
            .zip(counts)
            .filter(|(boot, _)| boot.ends != Ends::Hangs)
    };
    let all: u64 = healthy()
        .map(|(boot, count)| boot.computes * u64::from(*count))
        .sum();
    let longest = healthy()
        .map(|(boot, _)| boot.waits + boot.computes)
        .max()
        .unwrap_or(0);
    (all as f64 / f64::from(processors)).max(longest as f64)
}

fn run(seed: u64) {
    let mut rng = Rng::of(seed, 5 << 56);
    let processors = rng.pick(&[1, 2, 2, 4, 16]);
    let mut boots: Vec<Boot> = Vec::new();
    let mut counts = Vec::new();
    for _ in 0..rng.pick(&[1, 1, 2, 4]) {
        let (waits, computes) = match rng.range(0, 3) {
            0 => (0, rng.pick(&[1, 5, 20, 40])),
            1 => (0, rng.pick(&[60, 200, 800, 3000])),
            2 => (rng.pick(&[2, 30, 500, 2000]), 0),
            _ => (1, rng.pick(&[100, 800])),
        };
        boots.push(Boot {
            waits,
            computes,
            ends: Ends::Ready,
        });
        counts.push(rng.pick(&[1, 3, 8, 16, 40, 100]) as u32);
    }
    if rng.chance(30) {
        boots.push(Boot {
            waits: 5,
            computes: 3,
            ends: rng.pick(&[Ends::Hangs, Ends::Dies]),
        });
        counts.push(rng.pick(&[1, 8, 40]) as u32);
    }
    let mut machine = Machine::new(processors, boots.clone());
    let about = format!("seed {seed}: {processors} processors, {boots:?}, {counts:?}");
    for (id, (boot, count)) in boots.iter().zip(&counts).enumerate() {
        // Four times what a boot alone on the machine takes, and a little more.
        let timeout = boot.waits + 4 * boot.computes + 700;
        let keep = Request::EnsurePool(PoolId(id as u32), policy(*count, timeout, None));
        machine.step(Input::Requested(Some(Ticket::new(0)), keep));
    }
    let bound = 2.0 * work(processors, &boots, &counts) + 400.0;
    assert!(
        machine.until(bound, Machine::is_up),
        "{about}: not up after {bound} ms: {:?}",
        machine.ready
    );
    assert_eq!(machine.late, 0, "{about}: they starved each other");

    // All workers exit at the same time.
    let end = machine.now + 20_000.0;
    machine.until(end, |_| false);
    let serving: Vec<WorkerId> = machine
        .engine
        .view()
        .workers()
        .filter(|w| w.ready_in.is_some())
        .map(|w| w.id)
        .collect();
    for worker in serving {
        machine.step(Input::Exited(
            worker,
            Exit::Signal {
                signal: 9,
                core_dumped: false,
            },
        ));
    }
    assert!(
        machine.until(machine.now + bound, Machine::is_up),
        "{about}: not up again after {bound} ms"
    );
    assert_eq!(
        machine.late, 0,
        "{about}: they starved each other after all had exited"
    );

    // Then all are replaced, a quarter at a time.
    let healthy: Vec<u32> = (0..boots.len())
        .filter(|id| boots[*id].ends == Ends::Ready)
        .map(|id| id as u32)
        .collect();
    for pool in &healthy {
        machine.step(Input::Requested(
            Some(Ticket::new(1)),
            Request::Roll(PoolId(*pool)),
        ));
    }
    let (wanted, bound) = (
        machine.replies + healthy.len() as u32,
        10.0 * bound + 60_000.0,
    );
    assert!(
        machine.until(machine.now + bound, |m| m.replies >= wanted),
        "{about}: the rolling restarts do not end"
    );
    assert_eq!(
        machine.late, 0,
        "{about}: they starved each other in a roll"
    );
}

#[test]
fn every_healthy_pool_comes_up_within_twice_the_work() {
    for seed in 0..200 {
        run(seed);
    }
}

/// Sixteen workers with 0.8 s of work each, two processors, and a `ready_timeout` of 4 s.
#[test]
fn heavy_boots_do_not_starve_each_other() {
    let mut machine = Machine::new(
        2,
        vec![Boot {
            waits: 0,
            computes: 800,
            ends: Ends::Ready,
        }],
    );
    machine.step(Input::Requested(
        Some(Ticket::new(0)),
        Request::EnsurePool(PoolId(0), policy(16, 4000, None)),
    ));
    assert!(
        machine.until(7000.0, Machine::is_up),
        "{:?} ready",
        machine.ready
    );
    assert_eq!(machine.late, 0);
    assert!(
        machine.most_computing <= 4,
        "{} computed at the same time",
        machine.most_computing
    );
}

#[test]
fn waiting_boots_are_not_held_up() {
    let mut machine = Machine::new(
        2,
        vec![Boot {
            waits: 2000,
            computes: 0,
            ends: Ends::Ready,
        }],
    );
    machine.step(Input::Requested(
        Some(Ticket::new(0)),
        Request::EnsurePool(PoolId(0), policy(100, 60_000, None)),
    ));
    assert!(
        machine.until(2200.0, Machine::is_up),
        "{:?} ready",
        machine.ready
    );
}

/// Beside a pool that keeps every processor busy for half a minute.
#[test]
fn waiting_boots_are_not_held_up_by_heavy_ones() {
    let heavy = Boot {
        waits: 0,
        computes: 1000,
        ends: Ends::Ready,
    };
    let light = Boot {
        waits: 500,
        computes: 0,
        ends: Ends::Ready,
    };
    let mut machine = Machine::new(2, vec![heavy, light]);
    machine.step(Input::Requested(
        Some(Ticket::new(0)),
        Request::EnsurePool(PoolId(0), policy(60, 20_000, None)),
    ));
    machine.until(3000.0, |_| false);
    machine.step(Input::Requested(
        Some(Ticket::new(0)),
        Request::EnsurePool(PoolId(1), policy(50, 20_000, None)),
    ));
    assert!(
        machine.until(4500.0, |m| m.ready[1] == 50),
        "{:?} ready",
        machine.ready
    );
}

/// `max_starting` is kept, whatever the workers do.
#[test]
fn a_fixed_number_is_kept() {
    let mut machine = Machine::new(
        8,
        vec![Boot {
            waits: 300,
            computes: 10,
            ends: Ends::Ready,
        }],
    );
    machine.step(Input::Requested(
        Some(Ticket::new(0)),
        Request::EnsurePool(PoolId(0), policy(12, 20_000, Some(3))),
    ));
    let mut most = 0;
    while !machine.is_up() {
        let next = machine.now + 10.0;
        machine.until(next, |_| false);
        most = most.max(machine.engine.view().starting().len());
        assert!(machine.now < 2000.0, "{:?} ready", machine.ready);
    }
    assert_eq!(most, 3);
    assert!(
        machine.now >= 1200.0,
        "four times three, at {}",
        machine.now
    );
}
