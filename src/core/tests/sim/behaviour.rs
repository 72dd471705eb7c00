//! How simulated workers behave: when they become ready, exit, hang or fail.

use crate::oracle::Violation;
use crate::plan::Fault;
use crate::rng::Rng;
use crate::world::{End, Event, World};
use rotad_core::{Input, PoolKind, Readiness, WorkerId};

/// A defect of all workers of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    ExitsEarly,
    NeverReady,
    ExitsInSoak,
    ExitsLater,
}

/// What shows that a worker is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadyBy {
    Ready,
    /// Its age, reported as an input.
    ByAgeReported,
    /// Its age, by the engine's own timer.
    ByAge,
}

pub(crate) struct Process {
    pub(crate) pool: usize,
    pub(crate) started: bool,
    pub(crate) exited: bool,
    pub(crate) got_term: bool,
    pub(crate) killed: bool,
    /// Its first process has exited in its stop, and others of its tree have not.
    pub(crate) tree_left: bool,
    /// SIGKILL has no effect before this time.
    pub(crate) killable_at: u64,
    pub(crate) rng: Rng,
}

impl World<'_> {
    pub(crate) fn draw_same_files(&self, pool: usize, generation: u32) -> bool {
        let mut rng = Rng::of(
            self.plan.seed,
            (2 << 56) + ((pool as u64) << 32) + u64::from(generation),
        );
        rng.chance(self.plan.rate(Fault::SameGeneration))
    }

    fn draw_defect(&self, pool: usize, generation: u32) -> Option<Defect> {
        let mut rng = Rng::of(
            self.plan.seed,
            (1 << 56) + ((pool as u64) << 32) + u64::from(generation),
        );
        let defect = generation > 1
            && !self.faults_over()
            && rng.chance(2 * self.plan.rate(Fault::BadGeneration));
        defect.then(|| {
            rng.pick(&[
                Defect::ExitsEarly,
                Defect::NeverReady,
                Defect::ExitsInSoak,
                Defect::ExitsLater,
            ])
        })
    }

    pub(crate) fn on_start(&mut self, id: u64) -> Result<(), Violation> {
        let (now, rates, faults_over) = (self.now, self.plan.rates, self.faults_over());
        let rate = |fault: Fault| {
            if faults_over {
                0
            } else {
                rates[fault as usize]
            }
        };
        let Some(process) = self.processes.get_mut(&id) else {
            return Ok(());
        };
        process.started = true;
        let (pool, got_term, killed) = (process.pool, process.got_term, process.killed);
        let generation = self.oracle.generation(WorkerId(id)).0;
        let defect = self.draw_defect(pool, generation);
        let Some(process) = self.processes.get_mut(&id) else {
            return Ok(());
        };
        let rng = &mut process.rng;
        let is_oneshot = self.plan.pools[pool].kind == PoolKind::Oneshot;
        let readiness = self
            .oracle
            .model
            .workers
            .get(&id)
            .map_or(Readiness::Reported, |worker| worker.readiness);
        let age = if self.plan.silent {
            Rng::of(self.plan.seed, (4 << 56) + id).range(0, 99)
        } else {
            100
        };
        let timeout = self
            .oracle
            .model
            .workers
            .get(&id)
            .map_or(5000, |worker| worker.timeout);
        let ready_in = if rng.chance(10) {
            rng.range(0, timeout * 9 / 10)
        } else {
            rng.range(0, 1200)
        };
        let (ready_in, ready_by) = match readiness {
            Readiness::Alive(span) if age < 70 => (span.0, ReadyBy::ByAge),
            Readiness::Reported if age < 5 => (ready_in, ReadyBy::ByAgeReported),
            _ => (ready_in, ReadyBy::Ready),
        };
        let mut events: Vec<(u64, Event)> = Vec::new();
        let hangs = rng.chance(rate(Fault::NeverReady)) || defect == Some(Defect::NeverReady);
        if !hangs {
            // Sometimes exactly at the deadline.
            let ready_in = if rng.chance(rate(Fault::NeverReady)) {
                timeout
            } else {
                ready_in
            };
            match ready_by {
                ReadyBy::Ready => events.push((ready_in, Event::Ready(id))),
                ReadyBy::ByAgeReported => events.push((ready_in, Event::ByAgeReported(id))),
                ReadyBy::ByAge => {}
            }
            if rng.chance(rate(Fault::ReadyTwice)) {
                events.push((ready_in + rng.range(0, 3000), Event::Ready(id)));
            }
        }
        if rng.chance(rate(Fault::Extends)) {
            events.push((rng.range(0, timeout), Event::AsksForTime(id)));
        }
        if is_oneshot && !hangs {
            events.push((
                rng.range(0, timeout * 9 / 10),
                Event::Exit(id, End::Code(0)),
            ));
        }
        if rng.chance(rate(Fault::Unhealthy)) {
            events.push((rng.range(0, 15_000), Event::Unhealthy(id)));
        }
        let end = |rng: &mut Rng| {
            rng.pick(&[End::Code(1), End::Code(0), End::Signal(11), End::Signal(9)])
        };
        if rng.chance(rate(Fault::DiesEarly)) || defect == Some(Defect::ExitsEarly) {
            events.push((
                rng.range(0, ready_in),
                Event::Exit(
                    id,
                    if defect.is_some() {
                        End::Code(7)
                    } else {
                        end(rng)
                    },
                ),
            ));
        }
        if rng.chance(rate(Fault::DiesReady)) {
            events.push((ready_in + rng.range(0, 15_000), Event::Exit(id, end(rng))));
        }
        if rng.chance(rate(Fault::EndsWell)) {
            events.push((ready_in + rng.range(0, 5000), Event::Exit(id, End::Code(0))));
        }
        let soak = self.plan.pools[pool].soak(ready_by != ReadyBy::Ready).0;
        if defect == Some(Defect::ExitsInSoak) && soak > 0 {
            events.push((ready_in + soak / 2, Event::Exit(id, End::Code(8))));
        }
        if defect == Some(Defect::ExitsLater) {
            events.push((
                ready_in + soak + rng.range(0, 3000),
                Event::Exit(id, End::Code(9)),
            ));
        }
        for (within, event) in events {
            self.at(now + within, event);
        }
        self.step(Input::Started(WorkerId(id)))?;
        // Signals that were sent before it was spawned.
        if killed {
            self.on_kill(id);
        } else if got_term {
            self.on_term(id);
        }
        Ok(())
    }

    pub(crate) fn on_term(&mut self, id: u64) {
        let (now, rates, faults_over) = (self.now, self.plan.rates, self.faults_over());
        let rate = |fault: Fault| {
            if faults_over {
                0
            } else {
                rates[fault as usize]
            }
        };
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let rng = &mut process.rng;
        let asks = rng.chance(rate(Fault::Extends));
        let (ask_in, ignores_term) = (rng.range(0, 1500), rng.chance(rate(Fault::IgnoresTerm)));
        let slow = rng.chance(rate(Fault::SlowExit));
        let exit_in = if slow {
            rng.range(0, 6000)
        } else {
            rng.range(0, 200)
        };
        if asks {
            self.at(now + ask_in, Event::AsksForTime(id));
        }
        if !ignores_term {
            self.at(now + exit_in, Event::Exit(id, End::Code(0)));
        }
    }

    /// The first process has exited in its stop. Usually nothing is left of its tree; otherwise the rest finishes some
    /// time later, or ignores the stop.
    pub(crate) fn on_exit_in_stop(&mut self, id: u64) {
        let (now, rates, faults_over) = (self.now, self.plan.rates, self.faults_over());
        let rate = |fault: Fault| {
            if faults_over {
                0
            } else {
                rates[fault as usize]
            }
        };
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let rng = &mut process.rng;
        process.tree_left = rng.chance(rate(Fault::TreeOutlives));
        let (asks, ask_in) = (rng.chance(rate(Fault::Extends)), rng.range(0, 1500));
        let ignores_term = rng.chance(rate(Fault::IgnoresTerm));
        let within = if process.tree_left {
            rng.range(0, 6000)
        } else {
            rng.range(0, 3)
        };
        if process.tree_left && asks {
            self.at(now + ask_in, Event::AsksForTime(id));
        }
        if !self.processes[&id].tree_left || !ignores_term {
            self.at(now + within, Event::TreeGone(id));
        }
    }

    pub(crate) fn on_kill(&mut self, id: u64) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        let at = self.now.max(process.killable_at) + process.rng.range(0, 5);
        self.at(at, Event::Exit(id, End::Signal(9)));
    }

    pub(crate) fn on_spawn(&mut self, id: u64, pool: usize, generation: u32) {
        let (now, faults_over) = (self.now, self.faults_over());
        let rates = self.plan.rates;
        let rate = |fault: Fault| {
            if faults_over {
                0
            } else {
                rates[fault as usize]
            }
        };
        let mut rng = Rng::of(self.plan.seed, id);
        let late = rng.chance(rate(Fault::StartsLate));
        let start_at = now
            + if late {
                rng.range(0, 4000)
            } else {
                rng.range(0, 5)
            };
        let fails = rng.chance(rate(Fault::SpawnFails));
        let unkillable = rng.chance(rate(Fault::Unkillable));
        let killable_at = if unkillable {
            start_at + rng.range(1000, 40_000)
        } else {
            0
        };
        let process = Process {
            pool,
            started: false,
            exited: false,
            got_term: false,
            killed: false,
            tree_left: false,
            killable_at,
            rng,
        };
        self.processes.insert(id, process);
        self.at(
            start_at,
            if fails {
                Event::SpawnFails(id)
            } else {
                Event::Start(id)
            },
        );
        if generation > 1 {
            self.at(now, Event::Pinned(pool, generation));
        }
    }
}
