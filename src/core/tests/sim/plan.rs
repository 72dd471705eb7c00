//! The plan of one run, made from its seed: pools, faults and an operator's requests. Plain data, so that it can be
//! shrunk.

use crate::rng::Rng;
use rotad_core::{
    Essential, OnFailure, Policy, PoolId, PoolKind, Readiness, Reload, Restart, RestartPolicy,
    Signal, Span, StopStep, To,
};

/// From this time on there are no faults and no requests, in milliseconds.
pub(crate) const FAULTS_END: u64 = 40_000;
/// An exit code of workers that fail.
const FAILED: i32 = 1;
/// By then everything must be in its desired state; then everything is stopped. In milliseconds.
pub(crate) const CONVERGED_BY: u64 = 400_000;

/// Kinds of faults; [`Plan::rates`] holds the probability of each, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    SpawnFails,
    StartsLate,
    NeverReady,
    DiesEarly,
    DiesReady,
    /// Ends with one of `success_exit_codes`.
    EndsWell,
    IgnoresTerm,
    SlowExit,
    Unkillable,
    ReadyTwice,
    ReadyLate,
    Extends,
    SlowTreeKill,
    /// All workers of a generation have the same defect.
    BadGeneration,
    /// A generation is made from the same files as the one before.
    SameGeneration,
    /// The master is paused; then everything that has happened meanwhile comes together.
    Pause,
    LateWake,
    EarlyWake,
    /// A worker that serves fails its health check.
    Unhealthy,
    /// In a stop the first process exits before the rest of its tree. With `IgnoresTerm`, the rest ignores the stop.
    TreeOutlives,
}

pub(crate) const FAULTS: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Roll(usize),
    Cancel(usize),
    Scale(usize, u32),
    StopPool(usize),
    Ensure(usize),
    Start(usize),
    /// `EnsurePool` with a different `reload`.
    Adjust(usize, Reload),
    /// A changed configuration: `reload`, readiness and `ready_timeout`.
    Reconfigure(usize, Option<Reload>, Readiness, u64),
    /// Back to the generation that was fully rolled out that many generations ago.
    RollBack(usize, usize),
    ReplaceWorker(usize, u32),
    /// A listening socket was replaced: of all workers (true), or of every other one.
    ReplaceListener(usize, bool),
    Remove(usize),
    Stop(Option<u64>),
    StopNow,
    /// The master has died again and again.
    KeepsDying,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) processors: u32,
    pub(crate) pools: Vec<Policy>,
    pub(crate) rates: [u64; FAULTS],
    pub(crate) acts: Vec<(u64, Act)>,
    /// Some workers never report that they are ready.
    pub(crate) silent: bool,
    pub(crate) deaths: Vec<Death>,
}

/// A death of the master.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) at: u64,
    /// How many points at which it can die it passes after that: before it records an input, before the engine gets it,
    /// before each command, after the last one.
    pub(crate) points: u32,
    /// How long there is no master.
    pub(crate) gap: u64,
    /// How many more inputs it has recorded.
    pub(crate) queued: u32,
    /// Before a command: it has been executed, and that was not recorded.
    pub(crate) in_doubt: bool,
    /// What survives a master is lost as well, between two inputs: the next one adopts the workers.
    pub(crate) all_lost: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let pools: Vec<Policy> = (0..rng.pick(&[1, 1, 1, 2, 3]))
            .map(|_| policy(&mut rng))
            .collect();
        let mut rates = [0; FAULTS];
        if !rng.chance(20) {
            // Newer kinds of faults are drawn in `with_more`, so that old seeds keep their plans.
            for rate in &mut rates[..=Fault::Unhealthy as usize] {
                if rng.chance(30) {
                    *rate = rng.pick(&[2, 5, 15, 40]);
                }
            }
        }
        let acts = acts(&mut rng, &pools);
        let processors = Rng::of(seed, 4 << 56).pick(&[1, 1, 2, 4, 64]);
        Self {
            seed,
            processors,
            pools,
            rates,
            acts,
            silent: false,
            deaths: Vec::new(),
        }
    }

    /// Adds more kinds of pools, requests and faults, from random streams of their own.
    pub(crate) fn with_more(mut self) -> Self {
        let mut rng = Rng::of(self.seed, 3 << 56);
        if rng.chance(20) {
            return self;
        }
        for id in 0..self.pools.len() {
            let pool = &mut self.pools[id];
            if rng.chance(50) {
                pool.reload.soak = None;
            }
            if rng.chance(20) {
                pool.readiness = Readiness::Alive(Span(rng.pick(&[0, 200, 1000])));
            }
            pool.after = (0..id as u32)
                .filter(|_| rng.chance(40))
                .map(PoolId)
                .collect();
            if rng.chance(if id == 0 { 10 } else { 20 }) {
                pool.kind = PoolKind::Oneshot;
                pool.count = 1;
            } else if rng.chance(20) {
                pool.essential = Some(Essential::Ready(Span(rng.pick(&[500, 3000, 10_000]))));
            } else if pool.restart.policy != RestartPolicy::Always && rng.chance(50) {
                pool.essential = Some(Essential::Exit);
            }
            if rng.chance(20) {
                pool.restart.never_on = vec![FAILED];
            }
        }
        for pool in &mut self.pools {
            let mut rng = Rng::of(self.seed, (4 << 56) + u64::from(pool.count));
            if rng.chance(30) {
                pool.max_starting = Some(rng.range(1, 4) as u32);
            }
        }
        if rng.chance(30) {
            self.rates[Fault::Unhealthy as usize] = rng.pick(&[2, 15, 40]);
        }
        if rng.chance(40) {
            self.rates[Fault::TreeOutlives as usize] = rng.pick(&[5, 15, 40]);
        }
        for pool in &mut self.pools {
            for step in &mut pool.stop {
                step.to = if rng.chance(20) { To::Tree } else { To::Main };
            }
        }
        more_acts(&mut rng, &self.pools, &mut self.acts);
        let mut rng = Rng::of(self.seed, 4 << 56);
        if rng.chance(25) {
            for _ in 0..rng.pick(&[1, 1, 2, 4]) {
                let pool = rng.range(0, self.pools.len() as u64 - 1) as usize;
                // Usually shortly after another request.
                let near = self
                    .acts
                    .get(rng.range(0, 6) as usize)
                    .map(|(at, _)| *at)
                    .filter(|_| rng.chance(70));
                let (anywhere, later) = (rng.range(0, FAULTS_END - 1), rng.range(0, 4000));
                let at = near.map_or(anywhere, |at| at + later);
                self.acts.push((
                    at.min(FAULTS_END),
                    Act::ReplaceListener(pool, rng.chance(80)),
                ));
            }
            self.acts.sort_by_key(|(at, _)| *at);
        }
        self.silent = true;
        self
    }

    /// Adds deaths of the master, most of them shortly after a request, some of them one after the other.
    pub(crate) fn with_deaths(mut self) -> Self {
        let mut rng = Rng::of(self.seed, 6 << 56);
        for _ in 0..rng.pick(&[1, 1, 2, 4, 8]) {
            let near = self.acts.get(rng.range(0, 8) as usize).map(|(at, _)| *at);
            let (anywhere, later) = (rng.range(0, FAULTS_END), rng.pick(&[0, 0, 200, 1200, 4000]));
            let from = near.filter(|_| rng.chance(70));
            let mut at = from.map_or(anywhere, |at| at + rng.range(0, later));
            for _ in 0..rng.pick(&[1, 1, 1, 2, 3]) {
                self.deaths.push(Death {
                    at: at.min(FAULTS_END),
                    points: rng.pick(&[0, 1, 2, 3, 4, 6, 9, 14, 20]),
                    gap: rng.pick(&[0, 1, 5, 50, 300, 3000]),
                    queued: rng.pick(&[0, 0, 1, 2, 4]),
                    in_doubt: rng.chance(50),
                    all_lost: false,
                });
                at += rng.pick(&[0, 0, 1, 100, 2000]);
            }
        }
        let mut rng = Rng::of(self.seed, 8 << 56);
        if rng.chance(30) {
            for _ in 0..rng.pick(&[1, 1, 2, 3]) {
                let near = self.acts.get(rng.range(0, 8) as usize).map(|(at, _)| *at);
                let (anywhere, later) = (rng.range(0, FAULTS_END), rng.range(0, 4000));
                let at = near.map_or(anywhere, |at| (at + later).min(FAULTS_END));
                if rng.chance(50) {
                    self.acts.push((at, Act::KeepsDying));
                } else {
                    self.deaths.push(Death {
                        at,
                        points: 0,
                        gap: rng.pick(&[0, 5, 300, 3000]),
                        queued: 0,
                        in_doubt: false,
                        all_lost: true,
                    });
                }
            }
            self.acts.sort_by_key(|(at, _)| *at);
        }
        self
    }

    pub(crate) fn rate(&self, fault: Fault) -> u64 {
        self.rates[fault as usize]
    }
}

fn policy(rng: &mut Rng) -> Policy {
    let count = rng.range(1, 6) as u32;
    let wait = |rng: &mut Rng| Span(rng.pick(&[0, 300, 1000, 4000]));
    let signal = |rng: &mut Rng| {
        if rng.chance(80) {
            Some(Signal(rng.pick(&[15, 3])))
        } else {
            None
        }
    };
    let steps = rng.pick(&[0, 1, 1, 1, 2]);
    let delay = rng.pick(&[10, 100, 100, 500]);
    Policy {
        count,
        readiness: if rng.chance(75) {
            Readiness::Reported
        } else {
            Readiness::Alive(Span(rng.pick(&[0, 200, 1000])))
        },
        ready_timeout: Span(rng.range(3000, 8000)),
        stop: (0..steps)
            .map(|_| StopStep {
                signal: signal(rng),
                wait: wait(rng),
                to: To::Main,
            })
            .collect(),
        reload: reload(rng, count),
        restart: Restart {
            policy: rng.pick(&[
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::Always,
                RestartPolicy::OnFailure,
                RestartPolicy::Never,
            ]),
            delay: Span(delay),
            max_delay: Span(rng.pick(&[2000, 8000])),
            stable_after: Span(rng.pick(&[2000, 10_000])),
            success_exit_codes: if rng.chance(60) { vec![0] } else { Vec::new() },
            never_on: Vec::new(),
        },
        kind: PoolKind::Service,
        after: Vec::new(),
        max_starting: None,
        essential: None,
    }
}

pub(crate) fn reload(rng: &mut Rng, count: u32) -> Reload {
    Reload {
        surge: rng.pick(&[0, 1, 1, 2, count]),
        max_draining: rng.pick(&[1, count, count]),
        soak: Some(Span(rng.pick(&[0, 500, 1000, 3000]))),
        on_failure: rng.pick(&[OnFailure::Rollback, OnFailure::Rollback, OnFailure::Abort]),
    }
}

fn more_acts(rng: &mut Rng, pools: &[Policy], acts: &mut Vec<(u64, Act)>) {
    for _ in 0..rng.range(0, 5) {
        let at = rng.range(0, FAULTS_END - 1);
        let pool = rng.range(0, pools.len() as u64 - 1) as usize;
        match rng.range(0, 10) {
            0..=3 => {
                for _ in 0..rng.pick(&[1, 1, 2, 4]) {
                    let later = (at + rng.pick(&[0, 1, 500])).min(FAULTS_END);
                    acts.push((
                        later,
                        Act::ReplaceWorker(pool, rng.range(0, u64::from(pools[pool].count)) as u32),
                    ));
                }
            }
            4..=6 => {
                let other = if rng.chance(50) {
                    Some(reload(rng, pools[pool].count))
                } else {
                    None
                };
                let readiness = rng.pick(&[Readiness::Reported, Readiness::Alive(Span(300))]);
                let timeout = rng.range(3000, 8000);
                acts.push((at, Act::Reconfigure(pool, other, readiness, timeout)));
            }
            7 => acts.push((at, Act::Start(pool))),
            8..=9 => {
                acts.push((at, Act::RollBack(pool, rng.range(0, 2) as usize)));
            }
            _ => {
                let back = (at + rng.pick(&[1, 500, 3000, 20_000])).min(FAULTS_END);
                acts.push((at, Act::Remove(pool)));
                acts.push((back, Act::Ensure(pool)));
            }
        }
        // All pools, usually in the order of `after`.
        if pools.len() > 1 && rng.chance(40) {
            let mut all: Vec<usize> = (0..pools.len()).collect();
            if rng.chance(20) {
                all.reverse();
            }
            acts.extend(all.into_iter().map(|pool| (at, Act::Roll(pool))));
        }
        // Often another request follows.
        if rng.chance(40) {
            let later = (at + rng.pick(&[1, 200, 1500, 3000])).min(FAULTS_END);
            acts.push((
                later,
                if rng.chance(70) {
                    Act::Roll(pool)
                } else {
                    Act::RollBack(pool, 1)
                },
            ));
        }
    }
    acts.sort_by_key(|(at, _)| *at);
}

fn acts(rng: &mut Rng, pools: &[Policy]) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    // Most runs are about rolls; some have all kinds of requests.
    let (rolls, wild) = (rng.range(0, 4), rng.chance(40));
    for _ in 0..rolls {
        let at = rng.range(0, FAULTS_END - 1);
        let pool = rng.range(0, pools.len() as u64 - 1) as usize;
        let burst = rng.pick(&[1, 1, 1, 2, 5]);
        for _ in 0..burst {
            let later = rng.pick(&[0, 1, 100, 2000]);
            acts.push(((at + later).min(FAULTS_END), Act::Roll(pool)));
        }
        if rng.chance(15) {
            acts.push(((at + rng.range(0, 8000)).min(FAULTS_END), Act::Cancel(pool)));
        }
    }
    if wild {
        for _ in 0..rng.range(1, 5) {
            let at = rng.range(0, FAULTS_END - 1);
            let pool = rng.range(0, pools.len() as u64 - 1) as usize;
            let act = match rng.range(0, 9) {
                0..=4 => Act::Scale(pool, rng.range(0, 7) as u32),
                5..=6 => {
                    let back = rng.pick(&[0, 1, 500, 3000]);
                    acts.push(((at + back).min(FAULTS_END), Act::Ensure(pool)));
                    Act::StopPool(pool)
                }
                7 => Act::Ensure(pool),
                _ => Act::Adjust(pool, reload(rng, pools[pool].count)),
            };
            acts.push((at, act));
        }
    }
    if rng.chance(25) {
        let cap = if rng.chance(30) {
            Some(rng.range(0, 3000))
        } else {
            None
        };
        let at = rng.range(0, FAULTS_END - 1);
        acts.push((at, Act::Stop(cap)));
        if rng.chance(30) {
            acts.push((at + rng.range(0, 3000), Act::Stop(None)));
        }
    }
    if rng.chance(10) {
        acts.push((rng.range(0, FAULTS_END - 1), Act::StopNow));
    }
    acts.sort_by_key(|(at, _)| *at); // stable; an Ensure that was pushed before its StopPool at the same time is swapped below
    for i in 1..acts.len() {
        if acts[i - 1].0 == acts[i].0
            && matches!((&acts[i - 1].1, &acts[i].1), (Act::Ensure(a), Act::StopPool(b)) if a == b)
        {
            acts.swap(i - 1, i);
        }
    }
    acts
}
