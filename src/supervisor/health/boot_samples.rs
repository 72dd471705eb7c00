//! Boot samples: while starting workers hold others back, samples how much CPU time they want. The engine decides from
//! that how many may start at a time. Without workers that wait there are no samples.

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::observe::counted::counted;
use crate::process::cpu_sampler::{CpuSampler, StartingProcess};
use crate::supervisor::action::Action;
use rotad_core::{Input, Span, Time, WorkerId};
use std::time::Duration;

/// Interval of samples while a starting worker is younger than [`YOUNG`] …
const FIRST_INTERVAL: Span = Span::from_millis(10);
/// … and when all are older.
const LATER_INTERVAL: Span = Span::from_millis(50);
const YOUNG: Span = Span::from_millis(100);
/// A sample that takes longer than this is not expected any more.
const SAMPLE_TIMEOUT: Span = Span::from_secs(5);
/// Where sampling is unavailable, a worker holds others back for this long.
const FALLBACK_HOLD: Span = Span::from_secs(1);

/// A worker that starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartingWorker {
    pub worker: WorkerId,
    /// Since its spawn was requested.
    pub age: Span,
    /// None: it has no process yet.
    pub pid: Option<i32>,
}

#[derive(Debug)]
pub(crate) struct BootSamples {
    samples: Mailbox<Vec<(WorkerId, u32)>>,
    clock: Clock,
    sampler: Option<CpuSampler>,
    /// No more samples: no thread could be started, or it does not come back.
    unavailable: bool,
    sample_due: Option<Time>,
    /// When the sample that is being taken was requested.
    sampling_since: Option<Time>,
    /// How many workers were starting when the engine was told last that a deadline has come.
    starting_before: u32,
}

impl BootSamples {
    pub(crate) fn new(samples: Mailbox<Vec<(WorkerId, u32)>>, clock: Clock) -> Self {
        Self {
            samples,
            clock,
            sampler: None,
            unavailable: false,
            sample_due: None,
            sampling_since: None,
            starting_before: 0,
        }
    }

    /// When the next sample is due.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.sample_due
    }

    /// Called at the end of each turn. `held_back`: starting workers hold others back.
    pub(crate) fn schedule(&mut self, held_back: bool, now: Time) {
        if !held_back {
            self.sample_due = None;
        } else if self.sample_due.is_none() {
            self.sample_due = Some(now + FIRST_INTERVAL);
        }
    }

    /// Takes a sample of the workers that start.
    pub(crate) fn run_due(&mut self, starting: &[StartingWorker], now: Time) -> Option<Action> {
        let pause = if starting.iter().any(|one| one.age < YOUNG) {
            FIRST_INTERVAL
        } else {
            LATER_INTERVAL
        };
        self.sample_due = Some(now + pause);
        if self
            .sampling_since
            .is_some_and(|at| now - at >= SAMPLE_TIMEOUT)
        {
            self.give_up(&"/proc does not answer");
        }
        if !self.unavailable && self.sampling_since.is_none() {
            self.sample(starting, now);
        }
        self.unavailable.then(|| {
            let long_enough = starting.iter().filter(|one| one.age >= FALLBACK_HOLD);
            let demand = long_enough.map(|one| (one.worker, 0)).collect();
            Action::Input(Input::Demand(demand))
        })
    }

    fn sample(&mut self, starting: &[StartingWorker], now: Time) {
        let all = starting
            .iter()
            .filter_map(|one| {
                Some(StartingProcess {
                    worker: one.worker,
                    pid: one.pid?,
                    age: one.age.into(),
                })
            })
            .collect();
        let sampler = match self.sampler.take() {
            Some(sampler) => Ok(sampler),
            None => CpuSampler::start(self.samples.clone(), self.clock.clone()),
        };
        match sampler {
            Ok(sampler) => {
                self.sampler.insert(sampler).measure(all);
                self.sampling_since = Some(now);
            }
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&mut self, why: &dyn std::fmt::Display) {
        tracing::warn!("what starting workers want of the processors cannot be seen: {why}");
        self.unavailable = true;
    }

    /// Takes the result of a sample.
    pub(crate) fn on_demand(&mut self, demand: Vec<(WorkerId, u32)>) -> Action {
        self.sampling_since = None;
        Action::Input(Input::Demand(demand))
    }

    /// The engine is about to be told that a deadline has come, while so many workers start: it may end some of them.
    pub(crate) fn before_deadline(&mut self, starting: u32) {
        self.starting_before = starting;
    }

    /// Names the overload if a worker was not ready in time because too many were starting for the number of
    /// processors. `computed`: the CPU time that it has used since its start, `lived` ago.
    pub(crate) fn crowding(
        &self,
        processors: u32,
        lived: Span,
        computed: Duration,
    ) -> Option<String> {
        let starting = self.starting_before;
        // It has used CPU time, so it has not just waited for something else.
        let crowded = starting > processors && computed.as_secs_f64() * 10.0 >= lived.as_secs_f64();
        crowded.then(|| {
            format!(
                "{starting} were booting at once on {}",
                counted(processors, "processor")
            )
        })
    }
}
