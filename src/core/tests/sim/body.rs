//! How simulated workers behave: when they become ready, exit, hang or fail.

use crate::oracle::Violation;
use crate::plan::Fault;
use crate::rng::Rng;
use crate::world::{End, Happening, World};
use rotad_core::{Input, PoolKind, Readiness, WorkerId};

/// What is wrong with all workers of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    DiesAtOnce,
    NeverReady,
    DiesInSoak,
    DiesLater,
}

/// What speaks for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Ready,
    /// Its age, as somebody outside of the core has it.
    Lived,
    /// Its age, as the core has it.
    NothingDone,
}

pub(crate) struct Body {
    pub(crate) pool: usize,
    pub(crate) born: bool,
    pub(crate) dead: bool,
    pub(crate) termed: bool,
    pub(crate) killed: bool,
    /// What is left of its tree, since its first process has ended in its stop.
    pub(crate) rest: bool,
    /// SIGKILL works from this moment on.
    pub(crate) killable_at: u64,
    pub(crate) rng: Rng,
}

impl World<'_> {
    pub(crate) fn draw_same(&self, pool: usize, generation: u32) -> bool {
        let mut rng = Rng::of(
            self.plan.seed,
            (2 << 56) + ((pool as u64) << 32) + u64::from(generation),
        );
        rng.chance(self.plan.rate(Fault::SameGeneration))
    }

    fn draw_bad(&self, pool: usize, generation: u32) -> Option<Bad> {
        let mut rng = Rng::of(
            self.plan.seed,
            (1 << 56) + ((pool as u64) << 32) + u64::from(generation),
        );
        let bad =
            generation > 1 && !self.calm() && rng.chance(2 * self.plan.rate(Fault::BadGeneration));
        bad.then(|| {
            rng.pick(&[
                Bad::DiesAtOnce,
                Bad::NeverReady,
                Bad::DiesInSoak,
                Bad::DiesLater,
            ])
        })
    }

    pub(crate) fn birth(&mut self, id: u64) -> Result<(), Violation> {
        let (now, rates, calm) = (self.now, self.plan.rates, self.calm());
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let Some(body) = self.bodies.get_mut(&id) else {
            return Ok(());
        };
        body.born = true;
        let (pool, termed, killed) = (body.pool, body.termed, body.killed);
        let generation = self.oracle.generation(WorkerId(id)).0;
        let bad = self.draw_bad(pool, generation);
        let Some(body) = self.bodies.get_mut(&id) else {
            return Ok(());
        };
        let rng = &mut body.rng;
        let is_oneshot = self.plan.pools[pool].kind == PoolKind::Oneshot;
        let readiness = self
            .oracle
            .books
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
            .books
            .workers
            .get(&id)
            .map_or(5000, |worker| worker.timeout);
        let ready_in = if rng.chance(10) {
            rng.range(0, timeout * 9 / 10)
        } else {
            rng.range(0, 1200)
        };
        let (ready_in, says) = match readiness {
            Readiness::Alive(span) if age < 70 => (span.0, Says::NothingDone),
            Readiness::Reported if age < 5 => (ready_in, Says::Lived),
            _ => (ready_in, Says::Ready),
        };
        let mut plans: Vec<(u64, Happening)> = Vec::new();
        let hangs = rng.chance(rate(Fault::NeverReady)) || bad == Some(Bad::NeverReady);
        if !hangs {
            // Now and then exactly at the deadline.
            let ready_in = if rng.chance(rate(Fault::NeverReady)) {
                timeout
            } else {
                ready_in
            };
            match says {
                Says::Ready => plans.push((ready_in, Happening::Ready(id))),
                Says::Lived => plans.push((ready_in, Happening::Lived(id))),
                Says::NothingDone => {}
            }
            if rng.chance(rate(Fault::ReadyTwice)) {
                plans.push((ready_in + rng.range(0, 3000), Happening::Ready(id)));
            }
        }
        if rng.chance(rate(Fault::Extends)) {
            plans.push((rng.range(0, timeout), Happening::Asks(id)));
        }
        if is_oneshot && !hangs {
            plans.push((
                rng.range(0, timeout * 9 / 10),
                Happening::Death(id, End::Code(0)),
            ));
        }
        if rng.chance(rate(Fault::Sick)) {
            plans.push((rng.range(0, 15_000), Happening::Sick(id)));
        }
        let end = |rng: &mut Rng| {
            rng.pick(&[End::Code(1), End::Code(0), End::Signal(11), End::Signal(9)])
        };
        if rng.chance(rate(Fault::DiesEarly)) || bad == Some(Bad::DiesAtOnce) {
            plans.push((
                rng.range(0, ready_in),
                Happening::Death(
                    id,
                    if bad.is_some() {
                        End::Code(7)
                    } else {
                        end(rng)
                    },
                ),
            ));
        }
        if rng.chance(rate(Fault::DiesReady)) {
            plans.push((
                ready_in + rng.range(0, 15_000),
                Happening::Death(id, end(rng)),
            ));
        }
        if rng.chance(rate(Fault::Ends)) {
            plans.push((
                ready_in + rng.range(0, 5000),
                Happening::Death(id, End::Code(0)),
            ));
        }
        let soak = self.plan.pools[pool].soak(says != Says::Ready).0;
        if bad == Some(Bad::DiesInSoak) && soak > 0 {
            plans.push((ready_in + soak / 2, Happening::Death(id, End::Code(8))));
        }
        if bad == Some(Bad::DiesLater) {
            plans.push((
                ready_in + soak + rng.range(0, 3000),
                Happening::Death(id, End::Code(9)),
            ));
        }
        for (within, happening) in plans {
            self.at(now + within, happening);
        }
        self.step(Input::Started(WorkerId(id)))?;
        // The signals that have waited for it.
        if killed {
            self.killed(id);
        } else if termed {
            self.termed(id);
        }
        Ok(())
    }

    pub(crate) fn termed(&mut self, id: u64) {
        let (now, rates, calm) = (self.now, self.plan.rates, self.calm());
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let Some(body) = self.bodies.get_mut(&id) else {
            return;
        };
        let rng = &mut body.rng;
        let asks = rng.chance(rate(Fault::Extends));
        let (ask_in, deaf) = (rng.range(0, 1500), rng.chance(rate(Fault::Deaf)));
        let slow = rng.chance(rate(Fault::SlowExit));
        let exit_in = if slow {
            rng.range(0, 6000)
        } else {
            rng.range(0, 200)
        };
        if asks {
            self.at(now + ask_in, Happening::Asks(id));
        }
        if !deaf {
            self.at(now + exit_in, Happening::Death(id, End::Code(0)));
        }
    }

    /// The first process has ended in its stop: mostly nothing is left; else it finishes in its time, or is deaf.
    pub(crate) fn outlived(&mut self, id: u64) {
        let (now, rates, calm) = (self.now, self.plan.rates, self.calm());
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let Some(body) = self.bodies.get_mut(&id) else {
            return;
        };
        let rng = &mut body.rng;
        body.rest = rng.chance(rate(Fault::Outlived));
        let (asks, ask_in) = (rng.chance(rate(Fault::Extends)), rng.range(0, 1500));
        let deaf = rng.chance(rate(Fault::Deaf));
        let within = if body.rest {
            rng.range(0, 6000)
        } else {
            rng.range(0, 3)
        };
        if body.rest && asks {
            self.at(now + ask_in, Happening::Asks(id));
        }
        if !self.bodies[&id].rest || !deaf {
            self.at(now + within, Happening::Swept(id));
        }
    }

    pub(crate) fn killed(&mut self, id: u64) {
        let Some(body) = self.bodies.get_mut(&id) else {
            return;
        };
        let at = self.now.max(body.killable_at) + body.rng.range(0, 5);
        self.at(at, Happening::Death(id, End::Signal(9)));
    }

    pub(crate) fn spawned(&mut self, id: u64, pool: usize, generation: u32) {
        let (now, calm) = (self.now, self.calm());
        let rates = self.plan.rates;
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let mut rng = Rng::of(self.plan.seed, id);
        let late = rng.chance(rate(Fault::BornLate));
        let birth = now
            + if late {
                rng.range(0, 4000)
            } else {
                rng.range(0, 5)
            };
        let fails = rng.chance(rate(Fault::SpawnFails));
        let unkillable = rng.chance(rate(Fault::Unkillable));
        let killable_at = if unkillable {
            birth + rng.range(1000, 40_000)
        } else {
            0
        };
        let body = Body {
            pool,
            born: false,
            dead: false,
            termed: false,
            killed: false,
            rest: false,
            killable_at,
            rng,
        };
        self.bodies.insert(id, body);
        self.at(
            birth,
            if fails {
                Happening::BirthFails(id)
            } else {
                Happening::Birth(id)
            },
        );
        if generation > 1 {
            self.at(now, Happening::Pinned(pool, generation));
        }
    }
}
