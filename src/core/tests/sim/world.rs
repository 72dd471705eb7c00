//! The world around the core: workers that behave as drawn, an operator, a clock; and the shell's contract, that is
//! orders to the unborn wait for the birth, SIGKILL ends what can be ended within milliseconds, a sweep comes later.

use crate::oracle::{Oracle, Violation};
use crate::plan::{Act, CALM_AT, Fault, JUDGED_AT, Plan};
use crate::rng::Rng;
use rotad_core::{Event, Exit, Generation, Master, Order, PoolId, Record, Request, Span, Ticket, Time, WorkerId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// What happens in the world at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Birth(u64),
    BirthFails(u64),
    Ready(u64),
    Asks(u64),
    Death(u64, End),
    Swept(u64),
    Pinned(usize, u32),
    Act(usize),
    Pause(u64),
    Nudge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Code(i32),
    Signal(i32),
}

/// What is wrong with all workers of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    DiesAtOnce,
    NeverReady,
    DiesInSoak,
    DiesLater,
}

struct Body {
    pool: usize,
    born: bool,
    dead: bool,
    termed: bool,
    killed: bool,
    /// SIGKILL works from this moment on.
    killable_at: u64,
    rng: Rng,
}

/// How a life went, to see that the simulator sees something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) steps: u64,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

pub(crate) struct World<'a> {
    plan: &'a Plan,
    master: Master,
    oracle: Oracle,
    now: u64,
    heap: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    ties: Rng,
    bodies: BTreeMap<u64, Body>,
    next_ticket: u64,
    left: bool,
    /// How much later than asked the core may be woken.
    lateness: u64,
    trace: Option<Vec<String>>,
    pub(crate) stats: Stats,
}

/// Plays one plan to its end.
pub(crate) fn play(plan: &Plan, trace: bool) -> (Result<Stats, Violation>, Vec<String>) {
    let mut world = World::new(plan, trace);
    let result = world.live();
    let lines = world.trace.take().unwrap_or_default();
    (result.map(|()| std::mem::take(&mut world.stats)), lines)
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, trace: bool) -> Self {
        let lateness = if plan.rate(Fault::LateWake) > 0 { 40 } else { 0 };
        Self {
            plan,
            master: Master::new(),
            oracle: Oracle::new(lateness),
            now: 0,
            heap: BinaryHeap::new(),
            ties: Rng::of(plan.seed, 1 << 60),
            bodies: BTreeMap::new(),
            next_ticket: 0,
            left: false,
            lateness,
            trace: trace.then(Vec::new),
            stats: Stats::default(),
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        for pool in 0..self.plan.pools.len() {
            self.act(&Act::Keep(pool))?;
        }
        for (i, (at, _)) in self.plan.acts.iter().enumerate() {
            self.at(*at, Happening::Act(i));
        }
        let mut rng = Rng::of(self.plan.seed, 1 << 61);
        for (fault, happening) in [(Fault::Pause, true), (Fault::EarlyWake, false)] {
            for _ in 0..self.plan.rate(fault).div_ceil(4) {
                let at = rng.range(0, CALM_AT);
                let span = rng.range(1, 5000);
                self.at(at, if happening { Happening::Pause(span) } else { Happening::Nudge });
            }
        }
        self.until(JUDGED_AT)?;
        if !self.left {
            self.now = self.now.max(JUDGED_AT);
            self.oracle.judge(Time(self.now), &self.master)?;
            self.act(&Act::Stop(None))?;
            self.until(u64::MAX)?;
        }
        self.oracle.finish(self.left)
    }

    /// Lets the world run up to that moment.
    fn until(&mut self, end: u64) -> Result<(), Violation> {
        loop {
            let next = self.heap.peek().map(|Reverse((at, _, _))| *at);
            let wake = self.master.deadline().map(|at| at.0.max(self.now));
            let late = if self.lateness > 0 { self.ties.range(0, self.lateness) } else { 0 };
            let wake = wake.map(|at| at + late);
            let wake_first = match (wake, next) {
                (None, None) => return Ok(()),
                (Some(wake), Some(next)) => wake < next || wake == next && self.ties.chance(50),
                (wake, _) => wake.is_some(),
            };
            let at = if wake_first { wake } else { next }.unwrap_or(u64::MAX);
            if at >= end || self.left && self.bodies.is_empty() {
                return Ok(());
            }
            self.now = self.now.max(at);
            if wake_first {
                self.wake()?;
            } else if let Some(Reverse((_, _, happening))) = self.heap.pop() {
                self.happen(happening)?;
            }
            if self.stats.steps > 200_000 {
                return Err(Violation { oracle: "spin", text: "200 000 steps in one life".into() });
            }
        }
    }

    fn wake(&mut self) -> Result<(), Violation> {
        self.step(Event::Woke)?;
        // Once is enough: a second one at the same moment finds nothing to do.
        let again = self.master.step(Time(self.now), Event::Woke);
        if !again.is_empty() {
            return Err(Violation { oracle: "idempotence", text: format!("woken again at once: {again:?}") });
        }
        Ok(())
    }

    fn at(&mut self, at: u64, happening: Happening) {
        let tie = self.ties.next();
        self.heap.push(Reverse((at.max(self.now), tie, happening)));
    }

    fn calm(&self) -> bool {
        self.now >= CALM_AT
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        let now = self.now;
        match happening {
            Happening::Birth(id) => self.birth(id),
            Happening::BirthFails(id) => {
                self.bodies.remove(&id);
                self.step(Event::SpawnFailed(WorkerId(id)))
            }
            Happening::Ready(id) => {
                let late = self.plan.rate(Fault::ReadyLate) > 0;
                if late || self.bodies.get(&id).is_some_and(|b| !b.dead) {
                    return self.step(Event::Ready(WorkerId(id)));
                }
                Ok(())
            }
            Happening::Asks(id) => match self.bodies.get_mut(&id) {
                Some(body) if !body.dead => {
                    let by = Span(body.rng.range(100, 6000));
                    self.step(Event::Extended(WorkerId(id), by))
                }
                _ => Ok(()),
            },
            Happening::Death(id, end) => {
                let Some(body) = self.bodies.get_mut(&id) else { return Ok(()) };
                if body.dead {
                    return Ok(());
                }
                body.dead = true;
                let exit = match end {
                    End::Code(code) => Exit::Code(code),
                    End::Signal(signal) => Exit::Signal { signal, core_dumped: false },
                };
                self.step(Event::Exited(WorkerId(id), exit))?;
                if self.plan.rate(Fault::ReadyTwice) > 0 {
                    self.step(Event::Exited(WorkerId(id), exit))?;
                }
                Ok(())
            }
            Happening::Swept(id) => {
                self.bodies.remove(&id);
                self.step(Event::Swept(WorkerId(id)))
            }
            Happening::Pinned(pool, generation) => {
                let same = self.draw_same(pool, generation);
                self.step(Event::Pinned { pool: PoolId(pool as u32), generation: Generation(generation), same })
            }
            Happening::Act(i) => {
                let act = self.plan.acts[i].1.clone();
                self.act(&act)
            }
            Happening::Pause(span) => {
                // The master slept while the world went on: what happened meanwhile lies there in one heap, and the
                // master's clock, which leaves pauses out, stands.
                let moved: Vec<_> = std::mem::take(&mut self.heap).into_vec();
                for Reverse((at, tie, happening)) in moved {
                    self.heap.push(Reverse((at.saturating_sub(span).max(now), tie, happening)));
                }
                Ok(())
            }
            Happening::Nudge => {
                let before = self.master.deadline();
                if before.is_some_and(|at| at.0 <= now) {
                    return self.wake();
                }
                let orders = self.master.step(Time(now), Event::Woke);
                if !orders.is_empty() || self.master.deadline() != before {
                    return Err(Violation { oracle: "useless wake", text: format!("woken early: {orders:?}") });
                }
                Ok(())
            }
        }
    }

    fn draw_same(&self, pool: usize, generation: u32) -> bool {
        let mut rng = Rng::of(self.plan.seed, (2 << 56) + ((pool as u64) << 32) + u64::from(generation));
        rng.chance(self.plan.rate(Fault::SameGeneration))
    }

    fn draw_bad(&self, pool: usize, generation: u32) -> Option<Bad> {
        let mut rng = Rng::of(self.plan.seed, (1 << 56) + ((pool as u64) << 32) + u64::from(generation));
        let bad = generation > 1 && !self.calm() && rng.chance(2 * self.plan.rate(Fault::BadGeneration));
        bad.then(|| rng.pick(&[Bad::DiesAtOnce, Bad::NeverReady, Bad::DiesInSoak, Bad::DiesLater]))
    }

    fn birth(&mut self, id: u64) -> Result<(), Violation> {
        let (now, rates, calm) = (self.now, self.plan.rates, self.calm());
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let Some(body) = self.bodies.get_mut(&id) else { return Ok(()) };
        body.born = true;
        let (pool, termed, killed) = (body.pool, body.termed, body.killed);
        let generation = self.oracle.generation(WorkerId(id)).0;
        let bad = self.draw_bad(pool, generation);
        let Some(body) = self.bodies.get_mut(&id) else { return Ok(()) };
        let rng = &mut body.rng;
        let timeout = self.plan.pools[pool].ready_timeout.0;
        let ready_in = if rng.chance(10) { rng.range(0, timeout * 9 / 10) } else { rng.range(0, 1200) };
        let mut plans: Vec<(u64, Happening)> = Vec::new();
        let hangs = rng.chance(rate(Fault::NeverReady)) || bad == Some(Bad::NeverReady);
        if !hangs {
            // Now and then exactly at the deadline.
            let ready_in = if rng.chance(rate(Fault::NeverReady)) { timeout } else { ready_in };
            plans.push((ready_in, Happening::Ready(id)));
            if rng.chance(rate(Fault::ReadyTwice)) {
                plans.push((ready_in + rng.range(0, 3000), Happening::Ready(id)));
            }
        }
        if rng.chance(rate(Fault::Extends)) {
            plans.push((rng.range(0, timeout), Happening::Asks(id)));
        }
        let end = |rng: &mut Rng| rng.pick(&[End::Code(1), End::Code(0), End::Signal(11), End::Signal(9)]);
        if rng.chance(rate(Fault::DiesEarly)) || bad == Some(Bad::DiesAtOnce) {
            plans.push((
                rng.range(0, ready_in),
                Happening::Death(id, if bad.is_some() { End::Code(7) } else { end(rng) }),
            ));
        }
        if rng.chance(rate(Fault::DiesReady)) {
            plans.push((ready_in + rng.range(0, 15_000), Happening::Death(id, end(rng))));
        }
        if rng.chance(rate(Fault::Ends)) {
            plans.push((ready_in + rng.range(0, 5000), Happening::Death(id, End::Code(0))));
        }
        let soak = self.plan.pools[pool].reload.soak.0;
        if bad == Some(Bad::DiesInSoak) && soak > 0 {
            plans.push((ready_in + soak / 2, Happening::Death(id, End::Code(8))));
        }
        if bad == Some(Bad::DiesLater) {
            plans.push((ready_in + soak + rng.range(0, 3000), Happening::Death(id, End::Code(9))));
        }
        for (within, happening) in plans {
            self.at(now + within, happening);
        }
        self.step(Event::Born(WorkerId(id)))?;
        // The signals that have waited for it.
        if killed {
            self.killed(id);
        } else if termed {
            self.termed(id);
        }
        Ok(())
    }

    fn termed(&mut self, id: u64) {
        let (now, rates, calm) = (self.now, self.plan.rates, self.calm());
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let Some(body) = self.bodies.get_mut(&id) else { return };
        let rng = &mut body.rng;
        let asks = rng.chance(rate(Fault::Extends));
        let (ask_in, deaf) = (rng.range(0, 1500), rng.chance(rate(Fault::Deaf)));
        let slow = rng.chance(rate(Fault::SlowExit));
        let exit_in = if slow { rng.range(0, 6000) } else { rng.range(0, 200) };
        if asks {
            self.at(now + ask_in, Happening::Asks(id));
        }
        if !deaf {
            self.at(now + exit_in, Happening::Death(id, End::Code(0)));
        }
    }

    fn killed(&mut self, id: u64) {
        let Some(body) = self.bodies.get_mut(&id) else { return };
        let at = self.now.max(body.killable_at) + body.rng.range(0, 5);
        self.at(at, Happening::Death(id, End::Signal(9)));
    }

    fn spawned(&mut self, id: u64, pool: usize, generation: u32) {
        let (now, calm) = (self.now, self.calm());
        let rates = self.plan.rates;
        let rate = |fault: Fault| if calm { 0 } else { rates[fault as usize] };
        let mut rng = Rng::of(self.plan.seed, id);
        let late = rng.chance(rate(Fault::BornLate));
        let birth = now + if late { rng.range(0, 4000) } else { rng.range(0, 5) };
        let fails = rng.chance(rate(Fault::SpawnFails));
        let unkillable = rng.chance(rate(Fault::Unkillable));
        let killable_at = if unkillable { birth + rng.range(1000, 40_000) } else { 0 };
        let body = Body { pool, born: false, dead: false, termed: false, killed: false, killable_at, rng };
        self.bodies.insert(id, body);
        self.at(birth, if fails { Happening::BirthFails(id) } else { Happening::Birth(id) });
        if generation > 1 {
            self.at(now, Happening::Pinned(pool, generation));
        }
    }

    fn act(&mut self, act: &Act) -> Result<(), Violation> {
        let pool_of = |pool: &usize| PoolId(*pool as u32);
        let request = match act {
            Act::Roll(pool) => Request::Roll(pool_of(pool)),
            Act::Cancel(pool) => Request::Cancel(pool_of(pool)),
            Act::Scale(pool, count) => Request::Scale(pool_of(pool), *count),
            Act::Drop(pool) => Request::Drop(pool_of(pool)),
            Act::Keep(pool) => {
                let mut policy = self.plan.pools[*pool].clone();
                policy.count = self.oracle.count(PoolId(*pool as u32)).unwrap_or(policy.count);
                Request::Keep(pool_of(pool), policy)
            }
            Act::Change(pool, reload) => {
                let mut policy = self.plan.pools[*pool].clone();
                policy.reload = *reload;
                policy.count = self.oracle.count(PoolId(*pool as u32)).unwrap_or(policy.count);
                Request::Keep(pool_of(pool), policy)
            }
            Act::Stop(cap) => Request::Stop { cap: cap.map(Span) },
            Act::StopNow => Request::StopNow,
        };
        self.next_ticket += 1;
        self.step(Event::Requested(Ticket(self.next_ticket), request))
    }

    fn step(&mut self, event: Event) -> Result<(), Violation> {
        let now = Time(self.now);
        self.stats.steps += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now} {event:?}"));
        }
        self.oracle.before(now, &event);
        let orders = self.master.step(now, event.clone());
        for order in orders {
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{now}     {order:?}"));
            }
            self.count(&order);
            self.oracle.order(now, &order)?;
            self.carry_out(order);
        }
        self.oracle.after(now, &event, &self.master)
    }

    fn carry_out(&mut self, order: Order) {
        let now = self.now;
        match order {
            Order::Spawn { worker, pool, generation, .. } => self.spawned(worker.0, pool.0 as usize, generation.0),
            Order::Signal(id, _) => {
                let first = self.bodies.get_mut(&id.0).is_some_and(|body| !std::mem::replace(&mut body.termed, true));
                if first && self.bodies.get(&id.0).is_some_and(|body| body.born) {
                    self.termed(id.0);
                }
            }
            Order::Kill(id) => {
                if let Some(body) = self.bodies.get_mut(&id.0) {
                    body.killed = true;
                    if body.born {
                        self.killed(id.0);
                    }
                }
            }
            Order::Sweep(id) => {
                let slow = if self.calm() { 0 } else { self.plan.rate(Fault::SlowSweep) };
                let rng = self.bodies.get_mut(&id.0).map(|body| &mut body.rng);
                let within = rng.map_or(0, |rng| if rng.chance(slow) { rng.range(0, 5000) } else { rng.range(0, 3) });
                self.at(now + within, Happening::Swept(id.0));
            }
            Order::Leave { .. } => self.left = true,
            Order::Reply(..) | Order::Record(_) => {}
        }
    }

    fn count(&mut self, order: &Order) {
        let name = match order {
            Order::Spawn { .. } => "spawns",
            Order::Record(Record::RollEnded { outcome, .. }) => match outcome {
                rotad_core::Outcome::Done { .. } => "rolls done",
                rotad_core::Outcome::Aborted { failure, .. } if failure.mixed => "rolls mixed",
                rotad_core::Outcome::Aborted { .. } => "rolls aborted",
                rotad_core::Outcome::RolledBack { .. } => "rolls back",
                rotad_core::Outcome::Superseded => "rolls superseded",
                rotad_core::Outcome::Nothing => "rolls nothing",
            },
            Order::Record(Record::RollWaits { .. }) => "rolls waited",
            Order::Record(Record::CrashLoop { .. }) => "crash loops",
            Order::Record(Record::CrashLoopOver { .. }) => "crash loops over",
            Order::Record(Record::Killed { .. }) => "killed",
            Order::Record(Record::Lost { .. }) => "lost",
            Order::Record(Record::Soaked { .. }) => "soaked",
            _ => return,
        };
        *self.stats.seen.entry(name).or_default() += 1;
    }
}
