//! The master's state in memory that survives it, its death at any point between two commands, and the master that goes
//! on from there: the supervisor's side of `Engine::save`, `restore` and `replay`.

use crate::oracle::{Violation, hold};
use crate::plan::Death;
use crate::rng::Rng;
use crate::world::{Event, World};
use rotad_core::{
    AdoptedWorker, Command, Engine, Entry, Generation, Input, Output, Policy, PoolId, Request,
    Slot, Ticket, Time, WorkerId,
};
use std::cmp::Reverse;
use std::collections::VecDeque;

/// What a master writes down: its engine now and then, and each input before the engine gets it.
pub(crate) struct Memory {
    saved: String,
    /// The inputs since then, each with its time.
    recorded: Vec<String>,
    last: u64,
    /// How many of them the engine has got, and how many commands of the last output have been executed.
    begun: usize,
    executed: usize,
    rng: Rng,
    /// How often the engine is saved after an input, in percent.
    saves: u64,
    /// The deaths that are due after so many more points at which the master can die.
    armed: VecDeque<(u32, Death)>,
    /// The master that dies records what comes, and hands nothing in any more.
    dying: bool,
    /// Recorded, and not handed in yet.
    queue: VecDeque<Input>,
    /// Facts that a dead master had not recorded, and that happen again.
    repeats: Vec<Input>,
}

fn written(engine: &Engine) -> String {
    serde_json::to_string(&engine.save()).unwrap_or_else(|error| panic!("not saved: {error}"))
}

impl Memory {
    pub(crate) fn new(seed: u64, engine: &Engine) -> Self {
        let mut rng = Rng::of(seed, 7 << 56);
        let saves = rng.pick(&[1, 5, 20, 50, 100]);
        Self {
            saved: written(engine),
            recorded: Vec::new(),
            last: 0,
            begun: 0,
            executed: 0,
            rng,
            saves,
            armed: VecDeque::new(),
            dying: false,
            queue: VecDeque::new(),
            repeats: Vec::new(),
        }
    }

    fn record(&mut self, now: u64, input: &Input) {
        let text = serde_json::to_string(&(Time(now), input));
        self.recorded
            .push(text.unwrap_or_else(|error| panic!("not recorded: {error}")));
        self.last = now;
    }
}

impl World<'_> {
    /// A fact or a request arrives.
    pub(crate) fn step(&mut self, input: Input) -> Result<(), Violation> {
        if self.memory.is_none() {
            return self.process(input);
        }
        if self.memory.as_ref().is_some_and(|memory| !memory.dying) && self.may_die(None)?.is_some()
        {
            self.settle()?;
            if self.comes_later(&input) {
                return Ok(());
            }
        }
        let now = self.now;
        if let Some(memory) = &mut self.memory {
            memory.record(now, &input);
            memory.queue.push_back(input);
        }
        self.settle()
    }

    /// Hands in what is recorded.
    fn settle(&mut self) -> Result<(), Violation> {
        while let Some(input) = self
            .memory
            .as_mut()
            .filter(|memory| !memory.dying)
            .and_then(|memory| memory.queue.pop_front())
        {
            // The input that is taken out here is recorded: the next master finds it.
            if self.may_die(None)?.is_none() {
                self.process(input)?;
            }
        }
        Ok(())
    }

    /// The engine is woken beyond what an input says: recorded like any other.
    pub(crate) fn wake_again(&mut self) -> Output {
        if let Some(memory) = &mut self.memory {
            memory.record(self.now, &Input::TimerFired);
            memory.begun += 1;
            memory.executed = 0;
        }
        self.engine.handle(Time(self.now), Input::TimerFired)
    }

    /// One input, and all that follows from it.
    fn process(&mut self, input: Input) -> Result<(), Violation> {
        let now = Time(self.now);
        self.stats.steps += 1;
        self.trace(|| format!("{now} {input:?}"));
        self.oracle.before(now, &input);
        if let Some(memory) = &mut self.memory {
            memory.begun += 1;
            memory.executed = 0;
        }
        let mut entries: VecDeque<Entry> =
            self.engine.handle(now, input.clone()).into_iter().collect();
        while let Some(entry) = entries.pop_front() {
            self.trace(|| match &entry {
                Entry::Command(command) => format!("{now}     {command:?}"),
                Entry::Notice(notice) => format!("{now}     . {notice:?}"),
            });
            self.count(&entry);
            let mut again = false;
            if let Entry::Command(command) = &entry
                && let Some(rest) = self.may_die(Some(command))?
            {
                again = rest.in_doubt;
                let mut left: VecDeque<Entry> = [entry.clone()].into();
                left.append(&mut entries);
                self.goes_on_with(&rest.output, &left)?;
                left.pop_front();
                entries = left;
            }
            self.oracle.entry(now, &entry)?;
            if let Entry::Command(command) = entry {
                self.execute(command, again)?;
                if let Some(memory) = &mut self.memory {
                    memory.executed += 1;
                }
            }
        }
        if let Some(rest) = self.may_die(None)? {
            self.goes_on_with(&rest.output, &VecDeque::new())?;
        }
        self.measure_demand(now.0);
        self.oracle.after(now, &input, &self.engine)?;
        if let Some(memory) = &mut self.memory
            && memory.rng.chance(memory.saves)
        {
            memory.saved = written(&self.engine);
            memory.recorded.drain(..memory.begun);
            memory.begun = 0;
        }
        Ok(())
    }

    /// What is left of an output is what the dead master had not done: the same commands, and notices that may have been
    /// reported.
    fn goes_on_with(&self, rest: &Output, left: &VecDeque<Entry>) -> Result<(), Violation> {
        let rest: Vec<Entry> = rest.clone().into_iter().collect();
        let reported = rest.len().saturating_sub(left.len());
        let same = rest.iter().skip(reported).eq(left);
        let notices = rest.iter().take(reported);
        let notices = notices
            .clone()
            .all(|entry| matches!(entry, Entry::Notice(_)));
        hold!(
            same && notices,
            "restored",
            "what is left is {rest:?}, not {left:?}"
        );
        Ok(())
    }

    pub(crate) fn arm(&mut self, death: Death) -> Result<(), Violation> {
        if let Some(memory) = &mut self.memory {
            memory.armed.push_back((death.points, death));
        }
        if death.points == 0 && self.may_die(None)?.is_some() {
            self.settle()?;
        }
        Ok(())
    }

    /// A point at which the master can die; `next`: the command that is executed next. Returns what is left of the last
    /// output if it has died.
    fn may_die(&mut self, next: Option<&Command>) -> Result<Option<Rest>, Violation> {
        let Some(memory) = self.memory.as_mut().filter(|_| !self.exited) else {
            return Ok(None);
        };
        let Some((points, death)) = memory.armed.front_mut() else {
            return Ok(None);
        };
        if *points > 0 {
            *points -= 1;
            return Ok(None);
        }
        let death = *death;
        memory.armed.pop_front();
        let in_doubt = death.in_doubt && next.is_some();
        if let Some(command) = next.filter(|_| in_doubt) {
            self.trace(|| format!("{}     {command:?}, and dies", Time(death.at)));
            self.execute(command.clone(), false)?;
        }
        let output = self.die(death, in_doubt)?;
        Ok(Some(Rest { output, in_doubt }))
    }

    /// The master dies, and the next one reads what it has left.
    fn die(&mut self, death: Death, in_doubt: bool) -> Result<Output, Violation> {
        if !in_doubt {
            self.record_more(death.queued)?;
        }
        let Some(memory) = &mut self.memory else {
            return Ok(Output::default());
        };
        let failed = |what: &str, error: &dyn std::fmt::Display| Violation {
            oracle: "restored",
            text: format!("{what}: {error}"),
        };
        let saved = serde_json::from_str(&memory.saved).map_err(|e| failed("not read", &e))?;
        let mut engine = Engine::restore(saved).map_err(|e| failed("not restored", &e))?;
        let mut recorded = Vec::new();
        for text in &memory.recorded {
            let input: (Time, Input) =
                serde_json::from_str(text).map_err(|e| failed("not read", &e))?;
            recorded.push(input);
        }
        let waiting = recorded.split_off(memory.begun);
        let replayed = recorded.len();
        let output = engine
            .replay(recorded)
            .map_err(|e| failed("not replayed", &e))?;
        hold!(
            engine == self.engine,
            "restored",
            "another engine than the one that died, after {replayed} inputs from {}: {}",
            memory.saved,
            written(&engine)
        );
        memory.queue = waiting.into_iter().map(|(_, input)| input).collect();
        let (executed, queued) = (memory.executed, memory.queue.len());
        let output = output.rest(executed);
        // The clock stands where the last record stands; the world has gone on since, and during the gap.
        let back = self.now - memory.last;
        self.now = memory.last;
        self.engine = engine;
        let now = Time(self.now);
        self.trace(|| {
            format!(
                "{now} == the master has died; {replayed} replayed, {executed} executed, {queued} queued, {} ms pass",
                back + death.gap
            )
        });
        self.pause(back + death.gap);
        self.find_workers(in_doubt);
        let seen = [
            ("deaths", true),
            (
                "deaths within an output",
                executed > 0 && !output.is_empty(),
            ),
            ("deaths with queued inputs", queued > 0),
            ("commands in doubt", in_doubt),
            ("many inputs replayed", replayed >= 20),
            ("none replayed", replayed == 0),
        ];
        for (what, _) in seen.into_iter().filter(|(_, is)| *is) {
            *self.stats.seen.entry(what).or_default() += 1;
        }
        Ok(output)
    }

    /// The dying master had recorded more than it has handed in.
    fn record_more(&mut self, most: u32) -> Result<(), Violation> {
        if let Some(memory) = &mut self.memory {
            memory.dying = true;
        }
        for _ in 0..most {
            let soon = self.now + 50;
            let next = self
                .heap
                .peek()
                .filter(|Reverse((at, _, event))| *at <= soon && event.is_fact());
            if next.is_none() {
                break;
            }
            if let Some(Reverse((_, _, event))) = self.heap.pop() {
                self.handle(event)?;
            }
        }
        if let Some(memory) = &mut self.memory {
            memory.dying = false;
        }
        Ok(())
    }

    /// A spawn whose result the dead master had not recorded is looked up by its tag: the worker is found, or it is
    /// spawned again.
    fn find_workers(&mut self, in_doubt: bool) {
        let now = self.now;
        let Some(memory) = &mut self.memory else {
            return;
        };
        let mut lost = Vec::new();
        for (id, process) in &self.processes {
            if !process.started && !in_doubt && memory.rng.chance(40) {
                lost.push((*id, memory.rng.range(0, 5)));
            }
        }
        let is_lost = |event: &Event| match event {
            Event::Start(id) | Event::SpawnFails(id) => lost.iter().any(|(other, _)| other == id),
            _ => false,
        };
        let events = std::mem::take(&mut self.heap).into_vec();
        let kept = events.into_iter().filter(|Reverse((_, _, e))| !is_lost(e));
        self.heap = kept.collect();
        for (id, within) in lost {
            self.at(now + within, Event::Start(id));
            *self.stats.seen.entry("spawned again").or_default() += 1;
        }
    }

    /// The dead master had not recorded this; it is seen again, some of it later.
    fn comes_later(&mut self, input: &Input) -> bool {
        let now = self.now;
        let Some(memory) = &mut self.memory else {
            return false;
        };
        let within = match input {
            // A health check fails again, a worker that waits asks again, a client repeats its request.
            Input::Unhealthy(_) => memory.rng.range(0, 5000),
            Input::TimeoutExtended(..) | Input::Requested(..) => memory.rng.range(0, 20),
            Input::Exited(..)
            | Input::TreeGone(_)
            | Input::Ready(_)
            | Input::AgeReached(_)
            | Input::Unreachable(_)
            | Input::Pinned { .. }
            | Input::Daemonized(_)
                if memory.rng.chance(50) =>
            {
                memory.rng.range(0, 20)
            }
            _ => return false,
        };
        let index = memory.repeats.len();
        memory.repeats.push(input.clone());
        self.at(now + within, Event::Again(index));
        true
    }

    /// The master and what survives it are gone. The next one starts from the configuration and adopts the workers that
    /// still run; who has asked for something has lost the connection.
    pub(crate) fn adopt(&mut self, gap: u64) -> Result<(), Violation> {
        if self.exited || self.oracle.model.stop_at.is_some() {
            return Ok(());
        }
        let now = Time(self.now);
        self.trace(|| format!("{now} == all of the master is lost, {gap} ms pass"));
        *self.stats.seen.entry("all lost").or_default() += 1;
        self.pause(gap);
        let mut rng = Rng::of(self.plan.seed, (9 << 56) + self.now);
        let configured: Vec<Policy> = (0..self.plan.pools.len())
            .map(|pool| {
                if rng.chance(50) {
                    self.current_policy(pool)
                } else {
                    self.plan.pools[pool].clone()
                }
            })
            .collect();
        let old = self.oracle.renew();
        let last = WorkerId(old.last_id);
        self.engine = Engine::with_processors(self.plan.processors).numbered_after(last);
        self.memory = Some(Memory {
            repeats: self.memory.take().map(|of| of.repeats).unwrap_or_default(),
            ..Memory::new(self.plan.seed, &self.engine)
        });
        self.processes
            .retain(|_, process| process.started && !process.exited);
        for (id, policy) in configured.into_iter().enumerate() {
            let here = self.processes.iter().filter(|(_, p)| p.pool == id);
            let known = here.filter_map(|(number, _)| Some((number, old.workers.get(number)?)));
            let workers: Vec<AdoptedWorker> = known
                .map(|(number, worker)| AdoptedWorker {
                    worker: WorkerId(*number),
                    slot: Slot(worker.slot),
                    generation: Generation(worker.generation),
                    ready: worker.ready.is_some(),
                })
                .collect();
            let latest = old.pools.get(&(id as u32)).map(|of| of.latest_generation);
            let latest = Generation(latest.filter(|_| rng.chance(50)).unwrap_or(0));
            let ticket = Ticket::new(self.next_ticket());
            if !workers.is_empty() {
                *self.stats.seen.entry("adopted").or_default() += 1;
            }
            let request = Request::Adopt {
                pool: PoolId(id as u32),
                policy,
                latest,
                workers,
            };
            self.step(Input::Requested(Some(ticket), request))?;
        }
        Ok(())
    }

    pub(crate) fn repeat(&mut self, index: usize) -> Result<(), Violation> {
        let known = self
            .memory
            .as_ref()
            .and_then(|memory| memory.repeats.get(index));
        known.cloned().map_or(Ok(()), |input| self.step(input))
    }
}

/// What the next master goes on with.
struct Rest {
    output: Output,
    /// The command that was under execution may have been executed.
    in_doubt: bool,
}
