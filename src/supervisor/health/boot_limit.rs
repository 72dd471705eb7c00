//! Boot limit: while starting workers hold others back, samples how much CPU time they want. The engine decides from
//! that how many may start at a time. Without workers that wait there are no samples.

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::process::cpu_demand::{Meter, Starter};
use crate::supervisor::Supervisor;
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

#[derive(Debug)]
pub(crate) struct Starts {
    samples: Mailbox<Vec<(WorkerId, u32)>>,
    clock: Clock,
    meter: Option<Meter>,
    /// No more samples: no thread could be started, or it does not come back.
    unavailable: bool,
    sample_due: Option<Time>,
    /// When the sample that is being taken was requested.
    sampling_since: Option<Time>,
    /// How many workers were starting before the current engine call.
    pub(crate) starting_before: usize,
}

impl Starts {
    pub(crate) fn new(samples: Mailbox<Vec<(WorkerId, u32)>>, clock: Clock) -> Self {
        Self {
            samples,
            clock,
            meter: None,
            unavailable: false,
            sample_due: None,
            sampling_since: None,
            starting_before: 0,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.sample_due
    }
}

impl Supervisor {
    /// Called at the end of each turn: schedules samples while workers are held back.
    pub(crate) fn sample_starting(&mut self) {
        let waits = self.engine.view().limits_starts();
        let starts = &mut self.health.starts;
        if !waits {
            starts.sample_due = None;
        } else if starts.sample_due.is_none() {
            starts.sample_due = Some(self.clock.now() + FIRST_INTERVAL);
        }
    }

    pub(crate) fn run_due_cpu_samples(&mut self) {
        let now = self.clock.now();
        if self.health.starts.sample_due.is_none_or(|at| at > now) {
            return;
        }
        let view = self.engine.view();
        let age = |worker: WorkerId| {
            view.worker(worker)
                .map_or(Span::ZERO, |worker| now - worker.began)
        };
        let starting = view.starting();
        let pause = if starting.iter().any(|worker| age(*worker) < YOUNG) {
            FIRST_INTERVAL
        } else {
            LATER_INTERVAL
        };
        let all: Vec<Starter> = starting
            .iter()
            .filter_map(|worker| {
                let age = Duration::from_millis(age(*worker).as_millis());
                Some(Starter {
                    worker: *worker,
                    pid: self.workers.processes.get(*worker)?.pid()?,
                    age,
                })
            })
            .collect();
        let long_enough: Vec<(WorkerId, u32)> = starting
            .iter()
            .filter(|worker| age(**worker) >= FALLBACK_HOLD)
            .map(|worker| (*worker, 0))
            .collect();
        let starts = &mut self.health.starts;
        starts.sample_due = Some(now + pause);
        if starts
            .sampling_since
            .is_some_and(|at| now - at >= SAMPLE_TIMEOUT)
        {
            tracing::warn!(
                "what starting workers want of the processors cannot be seen: /proc does not answer"
            );
            starts.unavailable = true;
        }
        if starts.unavailable {
            return self.engine.push(Input::Demand(long_enough));
        }
        if starts.sampling_since.is_some() {
            return;
        }
        let meter = starts.meter.take().map_or_else(
            || Meter::start(starts.samples.clone(), starts.clock.clone()),
            Ok,
        );
        match meter {
            Ok(meter) => {
                starts.meter.insert(meter).measure(all);
                starts.sampling_since = Some(now);
            }
            Err(error) => {
                tracing::warn!(
                    "what starting workers want of the processors cannot be seen: {error}"
                );
                starts.unavailable = true;
            }
        }
    }

    /// Takes the result of a sample.
    pub(crate) fn on_cpu_demand(&mut self, demand: Vec<(WorkerId, u32)>) {
        self.health.starts.sampling_since = None;
        self.engine.push(Input::Demand(demand));
    }

    /// Names the overload if a worker was not ready in time because too many were starting for the number of
    /// processors.
    pub(crate) fn crowding(&self, worker: WorkerId) -> Option<String> {
        let (starting, processors) = (
            self.health.starts.starting_before,
            self.engine.view().processors(),
        );
        let lived = (self.clock.now() - self.engine.view().worker(worker)?.began).as_secs_f64();
        let computed = self.workers.processes.get(worker)?.child()?.cpu_time()?;
        // It has used CPU time, so it has not just waited for something else.
        (starting > processors as usize && computed.as_secs_f64() * 10.0 >= lived).then(|| {
            let processors = if processors == 1 {
                "1 processor".to_owned()
            } else {
                format!("{processors} processors")
            };
            format!("{starting} were booting at once on {processors}")
        })
    }
}
