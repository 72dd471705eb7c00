//! Recycling: workers that are well, and are replaced all the same for their age or their memory; one at a time in a
//! pool, as the core sees to it. The old one serves until its successor does.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::health::spread;
use super::watchdog::span;
use crate::event_loop::waker::Waker;
use crate::observe::events::EventKind;
use crate::process::rss_sampler::RssSampler;
use rotad_core::{Input, Outcome, Request, Span, Ticket, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// How often the memory of workers with `max_rss` is looked at.
const LOOK: Span = Span::from_secs(5);
/// A replacement that failed is tried again after at least this.
const AGAIN: Span = Span::from_secs(60);
/// Tickets of recycling carry this mark, and the worker's number.
const MARK: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Age,
    Memory,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Age => "max-age",
            Self::Memory => "max-rss",
        }
    }
}

#[derive(Debug)]
pub(super) struct Recycling {
    /// When workers are too old.
    due: BTreeSet<(Time, WorkerId)>,
    /// Workers with `max_rss`.
    heavy: BTreeSet<WorkerId>,
    weigher: Option<RssSampler>,
    wake: Waker,
    /// None: nobody is to be weighed, or they are being weighed.
    weigh_at: Option<Time>,
    weighing: bool,
    /// Replacements that the core has been asked for.
    asked: BTreeMap<WorkerId, Reason>,
    /// Not before then, after a failure.
    not_before: BTreeMap<WorkerId, Time>,
}

impl Recycling {
    pub(super) fn new(wake: Waker) -> Self {
        Self {
            due: BTreeSet::new(),
            heavy: BTreeSet::new(),
            weigher: None,
            wake,
            weigh_at: None,
            weighing: false,
            asked: BTreeMap::new(),
            not_before: BTreeMap::new(),
        }
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at).into_iter().chain(self.weigh_at).min()
    }

    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.due.retain(|(_, due)| *due != worker);
        self.heavy.remove(&worker);
        self.asked.remove(&worker);
        self.not_before.remove(&worker);
        if self.heavy.is_empty() {
            self.weigh_at = None;
        }
    }
}

impl Supervisor {
    /// It has become ready: its age counts from now on.
    pub(super) fn recycle_later(&mut self, worker: WorkerId) {
        self.recycle_since(worker, self.clock.now());
    }

    /// Its limits have changed while it serves: its age has counted all the time.
    pub(super) fn recycle_anew(&mut self, worker: WorkerId) {
        let Some(view) = self.engine.view().worker(worker) else { return };
        let recycling = &mut self.health.recycling;
        if recycling.asked.contains_key(&worker) {
            return;
        }
        recycling.due.retain(|(_, due)| *due != worker);
        recycling.heavy.remove(&worker);
        if recycling.heavy.is_empty() {
            recycling.weigh_at = None;
        }
        self.recycle_since(worker, view.began + view.ready_in.unwrap_or_default());
    }

    fn recycle_since(&mut self, worker: WorkerId, since: Time) {
        let Some(body) = self.processes.get(worker) else { return };
        let (now, recycle) = (self.clock.now(), body.pattern.plan.recycle);
        let recycling = &mut self.health.recycling;
        if let Some(age) = recycle.max_age {
            recycling.due.insert((since + spread(worker, 0, span(age)), worker));
        }
        if recycle.max_rss.is_some() {
            recycling.heavy.insert(worker);
            if !recycling.weighing {
                recycling.weigh_at.get_or_insert(now + LOOK);
            }
        }
    }

    pub(super) fn recycling_due(&mut self) {
        let now = self.clock.now();
        while let Some((_, worker)) = self.health.recycling.due.first().copied().filter(|(at, _)| *at <= now) {
            self.health.recycling.due.pop_first();
            let age = self.processes.get(worker).and_then(|body| body.pattern.plan.recycle.max_age);
            let text =
                age.map_or_else(String::new, |age| format!("older than max_age ({})", humantime::format_duration(age)));
            self.recycle_overdue(worker, Reason::Age, &text);
        }
        if self.health.recycling.weigh_at.is_some_and(|at| at <= now) {
            self.weigh();
        }
    }

    fn weigh(&mut self) {
        let pid = |worker: &WorkerId| Some((*worker, self.processes.get(*worker)?.pid()?));
        let all: Vec<(WorkerId, i32)> = self.health.recycling.heavy.iter().filter_map(pid).collect();
        let recycling = &mut self.health.recycling;
        recycling.weigh_at = Some(self.clock.now() + LOOK);
        let weigher = match recycling.weigher.take().map_or_else(|| RssSampler::start(recycling.wake.clone()), Ok) {
            Ok(weigher) => recycling.weigher.insert(weigher),
            Err(error) => return tracing::warn!("the memory of workers cannot be looked at: {error}"),
        };
        // The next look comes when this one is through: one that takes long does not pile up.
        recycling.weighing = true;
        recycling.weigh_at = None;
        weigher.measure(all);
    }

    /// What the last look has found.
    pub(super) fn on_rss_samples(&mut self) {
        let Some(found) = self.health.recycling.weigher.as_ref().and_then(RssSampler::found) else { return };
        let recycling = &mut self.health.recycling;
        recycling.weighing = false;
        if !recycling.heavy.is_empty() {
            recycling.weigh_at = Some(self.clock.now() + LOOK);
        }
        for (worker, weight) in found {
            // A worker that still serves has had its pid to itself all the time.
            let limit = self.processes.get(worker).and_then(|body| body.pattern.plan.recycle.max_rss);
            if self.health.serves(worker) && limit.is_some_and(|limit| weight.rss_bytes > limit) {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let (is, most, of) = (mib(weight.rss_bytes), mib(limit.unwrap_or(0)), weight.processes);
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
        let early = recycling.not_before.get(&worker).is_some_and(|at| now < *at);
        let Some(body) = self.processes.get(worker) else { return };
        if !serves || early || recycling.asked.contains_key(&worker) {
            return;
        }
        recycling.asked.insert(worker, reason);
        let (pool, slot) = (body.pool, body.slot);
        self.emit(
            EventBuilder::new(EventKind::Recycled, format!("{text}: it is replaced"))
                .worker(worker)
                .cause(reason.word()),
        );
        self.input(Input::Requested(Ticket(MARK | worker.0), Request::Replace(pool, slot)));
    }

    /// The answer to such a request. True: it was one.
    pub(super) fn recycled(&mut self, ticket: Ticket, outcome: &Outcome) -> bool {
        if ticket.0 & MARK == 0 {
            return false;
        }
        let worker = WorkerId(ticket.0 & !MARK);
        let Some(reason) = self.health.recycling.asked.remove(&worker) else { return true };
        let Some(body) = self.processes.get(worker).filter(|_| self.health.serves(worker)) else { return true };
        // It still serves: whatever came between, it is looked at again.
        let again = AGAIN.max(body.pattern.plan.policy.restart.delay);
        let at = self.clock.now() + again;
        if let Outcome::ReplaceFailed { .. } | Outcome::Aborted { .. } | Outcome::RolledBack { .. } = outcome {
            let text = format!("its successor did not come up: it stays, and is replaced again in {again}");
            self.emit(EventBuilder::new(EventKind::Recycled, text).worker(worker).cause("failed").error());
        }
        self.health.recycling.not_before.insert(worker, at);
        if reason == Reason::Age {
            self.health.recycling.due.insert((at, worker));
        }
        true
    }
}
