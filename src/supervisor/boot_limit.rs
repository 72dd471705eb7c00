//! Those that start, looked at while somebody waits until they are ready: what they want of the processors decides how
//! many may start at a time. Nobody is looked at while nobody waits.

use super::Supervisor;
use crate::event_loop::waker::Waker;
use crate::process::cpu_demand::{Meter, Starter};
use crate::process::rss_sampler;
use rotad_core::{Input, Span, Time, WorkerId};
use std::time::Duration;

/// How often, while somebody has just been ordered …
const SOON: Span = Span::from_millis(10);
/// … and when those that start are older than that.
const LATER: Span = Span::from_millis(50);
const JUST: Span = Span::from_millis(100);
/// An answer that takes so long does not come.
const LONGEST: Span = Span::from_secs(5);
/// Where nobody can be looked at, a worker holds others up for so long.
const UNSEEN: Span = Span::from_secs(1);

#[derive(Debug)]
pub(super) struct Starts {
    wake: Waker,
    meter: Option<Meter>,
    /// No more looks: there is no thread for them, or it does not come back.
    blind: bool,
    look_at: Option<Time>,
    /// Since when an answer is awaited.
    asked: Option<Time>,
    /// How many were starting before the present step.
    pub(super) before: usize,
}

impl Starts {
    pub(super) fn new(wake: Waker) -> Self {
        Self { wake, meter: None, blind: false, look_at: None, asked: None, before: 0 }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.look_at
    }
}

impl Supervisor {
    /// At the end of each turn: somebody may wait since.
    pub(super) fn sample_starting(&mut self) {
        let waits = self.engine.view().limits_starts();
        let starts = &mut self.health.starts;
        if !waits {
            starts.look_at = None;
        } else if starts.look_at.is_none() {
            starts.look_at = Some(self.clock.now() + SOON);
        }
    }

    pub(super) fn starts_due(&mut self) {
        let now = self.clock.now();
        if self.health.starts.look_at.is_none_or(|at| at > now) {
            return;
        }
        let view = self.engine.view();
        let age = |worker: WorkerId| view.worker(worker).map_or(Span::ZERO, |worker| now - worker.began);
        let starting = view.starting();
        let pause = if starting.iter().any(|worker| age(*worker) < JUST) { SOON } else { LATER };
        let all: Vec<Starter> = starting
            .iter()
            .filter_map(|worker| {
                let age = Duration::from_millis(age(*worker).as_millis());
                Some(Starter { worker: *worker, pid: self.processes.get(*worker)?.pid()?, age })
            })
            .collect();
        let long_enough: Vec<(WorkerId, u32)> =
            starting.iter().filter(|worker| age(**worker) >= UNSEEN).map(|worker| (*worker, 0)).collect();
        let starts = &mut self.health.starts;
        starts.look_at = Some(now + pause);
        if starts.asked.is_some_and(|at| now - at >= LONGEST) {
            tracing::warn!("what starting workers want of the processors cannot be seen: /proc does not answer");
            starts.blind = true;
        }
        if starts.blind {
            return self.input(Input::Demand(long_enough));
        }
        if starts.asked.is_some() {
            return;
        }
        let meter = starts.meter.take().map_or_else(|| Meter::start(starts.wake.clone()), Ok);
        match meter {
            Ok(meter) => {
                starts.meter.insert(meter).measure(all);
                starts.asked = Some(now);
            }
            Err(error) => {
                tracing::warn!("what starting workers want of the processors cannot be seen: {error}");
                starts.blind = true;
            }
        }
    }

    /// Those that start have been looked at.
    pub(super) fn on_cpu_demand(&mut self) {
        let starts = &mut self.health.starts;
        let Some(found) = starts.meter.as_ref().and_then(Meter::found) else { return };
        starts.asked = None;
        self.input(Input::Demand(found));
    }

    /// A worker was not ready in time: whether the processors were too few for all that started beside it.
    pub(super) fn crowd(&self, worker: WorkerId) -> Option<String> {
        let (starting, processors) = (self.health.starts.before, self.engine.view().processors());
        let lived = (self.clock.now() - self.engine.view().worker(worker)?.began).as_secs_f64();
        let computed = rss_sampler::of(self.processes.get(worker)?.pid()?)?.cpu_s;
        // It has not just waited for something else.
        (starting > processors as usize && computed * 10.0 >= lived).then(|| {
            let processors =
                if processors == 1 { "1 processor".to_owned() } else { format!("{processors} processors") };
            format!("{starting} were booting at once on {processors}")
        })
    }
}
