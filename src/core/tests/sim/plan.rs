//! What one seed stands for: pools, faults and an operator's requests. Plain data, so that it can be shrunk.

use crate::rng::Rng;
use rotad_core::{
    Essential, OnFailure, Policy, PoolId, PoolKind, Readiness, Reload, Restart, RestartPolicy,
    Signal, Span, StopStep, To,
};

/// The world stops faulting and the operator stops acting here.
pub(crate) const CALM_AT: u64 = 40_000;
/// One of the codes that workers which fail by themselves exit with.
const FAILED: i32 = 1;
/// By then everything has to be well again; then everything is stopped.
pub(crate) const JUDGED_AT: u64 = 400_000;

/// Kinds of faults; the plan holds how likely each is, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    SpawnFails,
    StartsLate,
    NeverReady,
    DiesEarly,
    DiesReady,
    /// Ends with one of `success_exit_codes`.
    Ends,
    IgnoresTerm,
    SlowExit,
    Unkillable,
    ReadyTwice,
    ReadyLate,
    Extends,
    SlowSweep,
    /// A whole generation is bad.
    BadGeneration,
    /// Unlike the one before it, a generation is made from the same files.
    SameGeneration,
    /// Everything of a moment comes in one heap.
    Pause,
    LateWake,
    EarlyWake,
    /// A worker that serves fails its health check.
    Unhealthy,
    /// In its stop the first process ends before the rest of its tree does; of these, the deaf have a deaf tree.
    TreeOutlives,
}

pub(crate) const FAULTS: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Roll(usize),
    Cancel(usize),
    Scale(usize, u32),
    Drop(usize),
    Keep(usize),
    Start(usize),
    /// Kept with another way to reload.
    Adjust(usize, Reload),
    /// A changed configuration: with another way to reload, and other times.
    Change(usize, Option<Reload>, Readiness, u64),
    /// Back to what served so many generations ago.
    Return(usize, usize),
    Renew(usize, u32),
    /// A listening socket was replaced: that of all, or of every other worker.
    Replace(usize, bool),
    Remove(usize),
    Stop(Option<u64>),
    StopNow,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) processors: u32,
    pub(crate) pools: Vec<Policy>,
    pub(crate) rates: [u64; FAULTS],
    pub(crate) acts: Vec<(u64, Act)>,
    /// Some workers never say that they are ready: only their age speaks for them.
    pub(crate) silent: bool,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let pools: Vec<Policy> = (0..rng.pick(&[1, 1, 1, 2, 3]))
            .map(|_| policy(&mut rng))
            .collect();
        let mut rates = [0; FAULTS];
        if !rng.chance(20) {
            // Later kinds of faults are drawn in `with_more`: what a seed stands for stays what it was.
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
        }
    }

    /// With more kinds of pools, requests and faults, drawn apart from the rest.
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
                // In the midst of something, where there is something.
                let near = self
                    .acts
                    .get(rng.range(0, 6) as usize)
                    .map(|(at, _)| *at)
                    .filter(|_| rng.chance(70));
                let (anywhere, later) = (rng.range(0, CALM_AT - 1), rng.range(0, 4000));
                let at = near.map_or(anywhere, |at| at + later);
                self.acts
                    .push((at.min(CALM_AT), Act::Replace(pool, rng.chance(80))));
            }
            self.acts.sort_by_key(|(at, _)| *at);
        }
        self.silent = true;
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
        let at = rng.range(0, CALM_AT - 1);
        let pool = rng.range(0, pools.len() as u64 - 1) as usize;
        match rng.range(0, 10) {
            0..=3 => {
                for _ in 0..rng.pick(&[1, 1, 2, 4]) {
                    let later = (at + rng.pick(&[0, 1, 500])).min(CALM_AT);
                    acts.push((
                        later,
                        Act::Renew(pool, rng.range(0, u64::from(pools[pool].count)) as u32),
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
                acts.push((at, Act::Change(pool, other, readiness, timeout)));
            }
            7 => acts.push((at, Act::Start(pool))),
            8..=9 => {
                acts.push((at, Act::Return(pool, rng.range(0, 2) as usize)));
            }
            _ => {
                let back = (at + rng.pick(&[1, 500, 3000, 20_000])).min(CALM_AT);
                acts.push((at, Act::Remove(pool)));
                acts.push((back, Act::Keep(pool)));
            }
        }
        // Everybody, mostly in the order in which they come after each other.
        if pools.len() > 1 && rng.chance(40) {
            let mut all: Vec<usize> = (0..pools.len()).collect();
            if rng.chance(20) {
                all.reverse();
            }
            acts.extend(all.into_iter().map(|pool| (at, Act::Roll(pool))));
        }
        // Wishes like company.
        if rng.chance(40) {
            let later = (at + rng.pick(&[1, 200, 1500, 3000])).min(CALM_AT);
            acts.push((
                later,
                if rng.chance(70) {
                    Act::Roll(pool)
                } else {
                    Act::Return(pool, 1)
                },
            ));
        }
    }
    acts.sort_by_key(|(at, _)| *at);
}

fn acts(rng: &mut Rng, pools: &[Policy]) -> Vec<(u64, Act)> {
    let mut acts = Vec::new();
    // Most lives are about rolls; some have everything.
    let (rolls, wild) = (rng.range(0, 4), rng.chance(40));
    for _ in 0..rolls {
        let at = rng.range(0, CALM_AT - 1);
        let pool = rng.range(0, pools.len() as u64 - 1) as usize;
        let burst = rng.pick(&[1, 1, 1, 2, 5]);
        for _ in 0..burst {
            let later = rng.pick(&[0, 1, 100, 2000]);
            acts.push(((at + later).min(CALM_AT), Act::Roll(pool)));
        }
        if rng.chance(15) {
            acts.push(((at + rng.range(0, 8000)).min(CALM_AT), Act::Cancel(pool)));
        }
    }
    if wild {
        for _ in 0..rng.range(1, 5) {
            let at = rng.range(0, CALM_AT - 1);
            let pool = rng.range(0, pools.len() as u64 - 1) as usize;
            let act = match rng.range(0, 9) {
                0..=4 => Act::Scale(pool, rng.range(0, 7) as u32),
                5..=6 => {
                    let back = rng.pick(&[0, 1, 500, 3000]);
                    acts.push(((at + back).min(CALM_AT), Act::Keep(pool)));
                    Act::Drop(pool)
                }
                7 => Act::Keep(pool),
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
        let at = rng.range(0, CALM_AT - 1);
        acts.push((at, Act::Stop(cap)));
        if rng.chance(30) {
            acts.push((at + rng.range(0, 3000), Act::Stop(None)));
        }
    }
    if rng.chance(10) {
        acts.push((rng.range(0, CALM_AT - 1), Act::StopNow));
    }
    acts.sort_by_key(|(at, _)| *at); // stable: a Keep pushed before its Drop at the same time is sorted out below
    for i in 1..acts.len() {
        if acts[i - 1].0 == acts[i].0
            && matches!((&acts[i - 1].1, &acts[i].1), (Act::Keep(a), Act::Drop(b)) if a == b)
        {
            acts.swap(i - 1, i);
        }
    }
    acts
}
