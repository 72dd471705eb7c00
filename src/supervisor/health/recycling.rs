//! Recycling: replaces workers that are healthy but too old (`max_age`) or too large (`max_rss`). The engine replaces
//! one worker of a pool at a time; the old one serves until its successor does.

use crate::event_loop::clock::span;
use crate::event_loop::mailbox::Mailbox;
use crate::observe::events::EventKind;
use crate::process::rss_sampler::{RssSampler, TreeMemory};
use crate::supervisor::Supervisor;
use crate::supervisor::clients::tickets::Owner;
use crate::supervisor::event_log::EventBuilder;
use crate::supervisor::health::spread::spread;
use rotad_core::{Outcome, Request, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// How often the memory of workers with `max_rss` is sampled.
const SAMPLE_INTERVAL: Span = Span::from_secs(5);
/// Minimum delay before a failed replacement is tried again.
const RETRY_DELAY: Span = Span::from_secs(60);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Age,
    Memory,
}

impl Reason {
    fn cause(self) -> &'static str {
        match self {
            Self::Age => "max-age",
            Self::Memory => "max-rss",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Recycling {
    /// When workers reach `max_age`.
    due: BTreeSet<(Time, WorkerId)>,
    /// Workers with `max_rss`.
    rss_limited: BTreeSet<WorkerId>,
    rss_sampler: Option<RssSampler>,
    samples: Mailbox<Vec<(WorkerId, TreeMemory)>>,
    /// When memory is sampled next. None: no worker has a limit, or a sample is being taken.
    sample_due: Option<Time>,
    sampling: bool,
    /// Workers whose replacement was requested from the engine.
    requested: BTreeMap<WorkerId, Reason>,
    /// Workers whose replacement has failed, and when it may be requested again.
    not_before: BTreeMap<WorkerId, Time>,
}

impl Recycling {
    pub(crate) fn new(samples: Mailbox<Vec<(WorkerId, TreeMemory)>>) -> Self {
        Self {
            due: BTreeSet::new(),
            rss_limited: BTreeSet::new(),
            rss_sampler: None,
            samples,
            sample_due: None,
            sampling: false,
            requested: BTreeMap::new(),
            not_before: BTreeMap::new(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due
            .first()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(self.sample_due)
            .min()
    }

    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.due.retain(|(_, due)| *due != worker);
        self.rss_limited.remove(&worker);
        self.requested.remove(&worker);
        self.not_before.remove(&worker);
        if self.rss_limited.is_empty() {
            self.sample_due = None;
        }
    }
}

impl Supervisor {
    /// The worker is ready: its age counts from now on.
    pub(crate) fn start_recycling(&mut self, worker: WorkerId) {
        self.recycle_since(worker, self.clock.now());
    }

    /// Its limits have changed while it serves: its age counts from the beginning.
    pub(crate) fn restart_recycling(&mut self, worker: WorkerId) {
        let Some(view) = self.engine.view().worker(worker) else {
            return;
        };
        let recycling = &mut self.health.recycling;
        if recycling.requested.contains_key(&worker) {
            return;
        }
        recycling.due.retain(|(_, due)| *due != worker);
        recycling.rss_limited.remove(&worker);
        if recycling.rss_limited.is_empty() {
            recycling.sample_due = None;
        }
        self.recycle_since(worker, view.began + view.ready_in.unwrap_or_default());
    }

    fn recycle_since(&mut self, worker: WorkerId, since: Time) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let (now, recycle) = (self.clock.now(), process.spec.plan.recycle);
        let recycling = &mut self.health.recycling;
        if let Some(age) = recycle.max_age {
            recycling
                .due
                .insert((since + spread(worker, 0, span(age)), worker));
        }
        if recycle.max_rss.is_some() {
            recycling.rss_limited.insert(worker);
            if !recycling.sampling {
                recycling.sample_due.get_or_insert(now + SAMPLE_INTERVAL);
            }
        }
    }

    pub(crate) fn run_due_recycling(&mut self) {
        let now = self.clock.now();
        while let Some((_, worker)) = self
            .health
            .recycling
            .due
            .first()
            .copied()
            .filter(|(at, _)| *at <= now)
        {
            self.health.recycling.due.pop_first();
            let age = self
                .workers
                .processes
                .get(worker)
                .and_then(|process| process.spec.plan.recycle.max_age);
            let text = age.map_or_else(String::new, |age| {
                format!("older than max_age ({})", humantime::format_duration(age))
            });
            self.recycle_overdue(worker, Reason::Age, &text);
        }
        if self.health.recycling.sample_due.is_some_and(|at| at <= now) {
            self.sample_rss();
        }
    }

    fn sample_rss(&mut self) {
        let pid = |worker: &WorkerId| Some((*worker, self.workers.processes.get(*worker)?.pid()?));
        let all: Vec<(WorkerId, i32)> = self
            .health
            .recycling
            .rss_limited
            .iter()
            .filter_map(pid)
            .collect();
        let recycling = &mut self.health.recycling;
        recycling.sample_due = Some(self.clock.now() + SAMPLE_INTERVAL);
        let rss_sampler = match recycling
            .rss_sampler
            .take()
            .map_or_else(|| RssSampler::start(recycling.samples.clone()), Ok)
        {
            Ok(rss_sampler) => recycling.rss_sampler.insert(rss_sampler),
            Err(error) => {
                return tracing::warn!("the memory of workers cannot be looked at: {error}");
            }
        };
        // The next sample is scheduled when this one is complete, so that slow samples do not pile up.
        recycling.sampling = true;
        recycling.sample_due = None;
        rss_sampler.measure(all);
    }

    /// Takes the latest sample.
    pub(crate) fn on_rss_sample(&mut self, found: Vec<(WorkerId, TreeMemory)>) {
        let recycling = &mut self.health.recycling;
        recycling.sampling = false;
        if !recycling.rss_limited.is_empty() {
            recycling.sample_due = Some(self.clock.now() + SAMPLE_INTERVAL);
        }
        for (worker, memory) in found {
            // A worker that still serves is not reaped, so the pid is still its own.
            let limit = self
                .workers
                .processes
                .get(worker)
                .and_then(|process| process.spec.plan.recycle.max_rss);
            if self.health.serves(worker) && limit.is_some_and(|limit| memory.rss_bytes > limit) {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let (is, most, of) = (
                    mib(memory.rss_bytes),
                    mib(limit.unwrap_or(0)),
                    memory.processes,
                );
                self.recycle_overdue(
                    worker,
                    Reason::Memory,
                    &format!("{is:.1} MiB in {of} processes, max_rss is {most:.1} MiB"),
                );
            }
        }
    }

    fn recycle_overdue(&mut self, worker: WorkerId, reason: Reason, text: &str) {
        let now = self.clock.now();
        let serves = self.health.serves(worker);
        let recycling = &mut self.health.recycling;
        let too_early = recycling
            .not_before
            .get(&worker)
            .is_some_and(|at| now < *at);
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        if !serves || too_early || recycling.requested.contains_key(&worker) {
            return;
        }
        recycling.requested.insert(worker, reason);
        let (pool, slot) = (process.pool, process.slot);
        self.emit(
            EventBuilder::new(EventKind::Recycled, format!("{text}: it is replaced"))
                .worker(worker)
                .cause(reason.cause()),
        );
        let ticket = self.clients.tickets.of(Owner::Recycling(worker));
        self.engine
            .request_with(ticket, Request::Replace(pool, slot));
    }

    /// Takes the engine's reply to a recycling request.
    pub(crate) fn recycling_replied(&mut self, worker: WorkerId, outcome: &Outcome) {
        let Some(reason) = self.health.recycling.requested.remove(&worker) else {
            return;
        };
        let Some(process) = self
            .workers
            .processes
            .get(worker)
            .filter(|_| self.health.serves(worker))
        else {
            return;
        };
        // It still serves, whatever the outcome: check it again later.
        let retry_in = RETRY_DELAY.max(process.spec.plan.policy.restart.delay);
        let at = self.clock.now() + retry_in;
        if let Outcome::ReplaceFailed { .. }
        | Outcome::Aborted { .. }
        | Outcome::RolledBack { .. } = outcome
        {
            let text = format!(
                "its successor did not come up: it stays, and is replaced again in {retry_in}"
            );
            self.emit(
                EventBuilder::new(EventKind::Recycled, text)
                    .worker(worker)
                    .cause("failed")
                    .error(),
            );
        }
        self.health.recycling.not_before.insert(worker, at);
        if reason == Reason::Age {
            self.health.recycling.due.insert((at, worker));
        }
    }
}
