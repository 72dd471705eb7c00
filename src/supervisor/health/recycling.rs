//! Recycling: replaces workers that are healthy but too old (`max_age`) or too large (`max_rss`), or whose daily time has
//! come (`at`). The engine replaces one worker of a pool at a time; the old one serves until its successor does.
//!
//! [`Recycling`] is a state machine without a thread or a clock: the health subsystem gives it events by
//! [`Recycling::handle`] and executes the actions in their order. Stories as text test it (`recycling/stories.txt`).
//!
//! | state     | age or `Scheduled` time reached | sampled above `max_rss` | `Replied`: failed        | `Replied`: otherwise | `LimitsChanged`         |
//! |-----------|---------------------------------|-------------------------|--------------------------|----------------------|-------------------------|
//! | none      | –                               | ignored                 | ignored                  | ignored              | Watched, or none        |
//! | Watched   | Requested                       | Requested               | ignored                  | ignored              | Watched, or none        |
//! | Requested | –                               | ignored                 | Cooling, tells people    | Cooling              | Requested, by new limits |
//! | Cooling   | –                               | ignored                 | ignored                  | ignored              | Cooling, or none        |
//!
//! Cooling is Watched again when its time is over; a worker that is too old, or scheduled, by then is Requested. A worker is known while
//! it serves and has a limit: `Serves` begins it, `Forgotten` ends it from everywhere.
//!
//! Memory is sampled for all workers with `max_rss` together, one sample at a time: `Sample` is answered by `Sampled`,
//! or by `Unavailable`; the next one follows an interval later.

use super::spread::spread;
use crate::observe::counted::counted;
use crate::plan::TimeOfDay;
use crate::process::rss_sampler::TreeMemory;
use rotad_core::{Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// How often the memory of workers with `max_rss` is sampled.
const SAMPLE_INTERVAL: Span = Span::from_secs(5);
/// Minimum delay before a failed replacement is tried again.
const RETRY_DELAY: Span = Span::from_secs(60);

/// What a worker is replaced by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Since it was ready; ± 10 %.
    pub max_age: Option<Span>,
    /// Of all its processes, in bytes.
    pub max_rss: Option<u64>,
    /// The time of day at which it is scheduled: the caller tells when.
    pub at: Option<TimeOfDay>,
}

/// Why a worker is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is older than `max_age`.
    Age,
    /// It is larger than `max_rss`.
    Memory,
    /// Its time of day has come.
    Schedule,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The worker is ready: its age counts from now on.
    Serves {
        worker: WorkerId,
        pid: i32,
        limits: Limits,
    },
    /// The limits of a worker that serves have changed: its age counts from the beginning.
    LimitsChanged {
        worker: WorkerId,
        pid: i32,
        limits: Limits,
        /// When it became ready.
        since: Time,
    },
    /// The daily time of the worker's pool has come: it is replaced at this time.
    Scheduled { worker: WorkerId, at: Time },
    /// The worker no longer serves.
    Forgotten(WorkerId),
    /// The memory of the workers of the last [`Action::Sample`] that still run.
    Sampled(Vec<(WorkerId, TreeMemory)>),
    /// Memory cannot be sampled now.
    Unavailable,
    /// The engine's reply to a replacement.
    Replied {
        worker: WorkerId,
        /// The successor did not come up.
        failed: bool,
        /// The pool's delay after a failure.
        delay: Span,
    },
    /// The deadline has come.
    TimerFired,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Sample the memory of these workers.
    Sample(Vec<(WorkerId, i32)>),
    /// Ask the engine to replace the worker. `text`: why, for people.
    Replace {
        worker: WorkerId,
        reason: Reason,
        text: String,
    },
    /// Tell people that the worker stays, since its successor did not come up. None: it has no limits any more.
    Stays {
        worker: WorkerId,
        retry_in: Option<Span>,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    Watched,
    /// The engine was asked to replace it, for this reason.
    Requested(Reason),
    /// It was replaced in vain, or not at all: it is not requested again before then.
    Cooling(Time),
}

#[derive(Debug)]
struct RecycledWorker {
    pid: i32,
    limits: Limits,
    /// When it is too old.
    old_at: Option<Time>,
    /// When it is replaced for its daily time.
    scheduled_at: Option<Time>,
    /// When its age and its schedule are looked at.
    due: Option<Time>,
    state: State,
}

/// When memory is sampled.
#[derive(Clone, Copy, Debug, Default)]
enum Sampling {
    /// No worker has a limit.
    #[default]
    Off,
    /// The next sample is due then.
    Due(Time),
    /// A sample is being taken.
    UnderWay,
}

/// The workers that serve and have a limit.
#[derive(Debug, Default)]
pub(crate) struct Recycling {
    workers: BTreeMap<WorkerId, RecycledWorker>,
    /// When workers are too old.
    due: BTreeSet<(Time, WorkerId)>,
    sampling: Sampling,
}

impl Recycling {
    /// When a worker is too old, or memory is sampled.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let sample = match self.sampling {
            Sampling::Due(at) => Some(at),
            Sampling::Off | Sampling::UnderWay => None,
        };
        self.due
            .first()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(sample)
            .min()
    }

    /// Why the engine was asked to replace this worker. None: it was not, or not from here.
    pub(crate) fn requested(&self, worker: WorkerId) -> Option<Reason> {
        match self.workers.get(&worker)?.state {
            State::Requested(reason) => Some(reason),
            State::Watched | State::Cooling(_) => None,
        }
    }

    /// Applies one event. What concerns a worker that is not known comes too late, and changes nothing.
    pub(crate) fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        match event {
            Event::Serves {
                worker,
                pid,
                limits,
            } => {
                self.forget(worker);
                self.watch(worker, pid, limits, now, (State::Watched, None), now);
            }
            Event::LimitsChanged {
                worker,
                pid,
                limits,
                since,
            } => {
                let (state, scheduled_at) = self.forget(worker).unwrap_or((State::Watched, None));
                let scheduled_at = scheduled_at.filter(|_| limits.at.is_some());
                self.watch(worker, pid, limits, since, (state, scheduled_at), now);
            }
            Event::Scheduled { worker, at } => self.schedule(worker, at),
            Event::Forgotten(worker) => {
                self.forget(worker);
            }
            Event::Sampled(found) => return self.sampled(found, now),
            Event::Unavailable => self.sample_later(now),
            Event::Replied {
                worker,
                failed,
                delay,
            } => return self.replied(worker, failed, delay, now),
            Event::TimerFired => return self.run_due(now),
        }
        Vec::new()
    }

    fn watch(
        &mut self,
        worker: WorkerId,
        pid: i32,
        limits: Limits,
        since: Time,
        (state, scheduled_at): (State, Option<Time>),
        now: Time,
    ) {
        if limits == Limits::default() && !matches!(state, State::Requested(_)) {
            return;
        }
        let old_at = limits.max_age.map(|age| since + spread(worker, 0, age));
        let mut recycled = RecycledWorker {
            pid,
            limits,
            old_at,
            scheduled_at,
            due: None,
            state,
        };
        recycled.due = recycled.next_due();
        self.due.extend(recycled.due.map(|at| (at, worker)));
        self.workers.insert(worker, recycled);
        if limits.max_rss.is_some() && matches!(self.sampling, Sampling::Off) {
            self.sampling = Sampling::Due(now + SAMPLE_INTERVAL);
        }
    }

    /// A worker that is being replaced, or has no such limit any more, needs no schedule.
    fn schedule(&mut self, worker: WorkerId, at: Time) {
        let Some(recycled) = self.workers.get_mut(&worker) else {
            return;
        };
        if recycled.limits.at.is_none() {
            return;
        }
        if let Some(due) = recycled.due {
            self.due.remove(&(due, worker));
        }
        recycled.scheduled_at = Some(at);
        recycled.due = recycled.next_due();
        self.due.extend(recycled.due.map(|at| (at, worker)));
    }

    /// Its state, and when it is scheduled.
    fn forget(&mut self, worker: WorkerId) -> Option<(State, Option<Time>)> {
        let recycled = self.workers.remove(&worker)?;
        if let Some(at) = recycled.due {
            self.due.remove(&(at, worker));
        }
        if matches!(self.sampling, Sampling::Due(_)) && !self.limits_memory() {
            self.sampling = Sampling::Off;
        }
        Some((recycled.state, recycled.scheduled_at))
    }

    fn limits_memory(&self) -> bool {
        let mut limits = self.workers.values().map(|recycled| recycled.limits);
        limits.any(|limits| limits.max_rss.is_some())
    }

    fn run_due(&mut self, now: Time) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((_, worker)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            if let Some(recycled) = self.workers.get_mut(&worker) {
                recycled.due = None;
                if let State::Cooling(until) = recycled.state
                    && now < until
                {
                    recycled.due = Some(until);
                    self.due.insert((until, worker));
                } else if recycled.scheduled_at.is_some_and(|at| at <= now)
                    && let Some(at) = recycled.limits.at
                {
                    let text = format!("it is recycled daily at {at}");
                    actions.extend(recycled.request(worker, Reason::Schedule, text, now));
                } else if let Some(age) = recycled.limits.max_age {
                    let text = format!(
                        "older than max_age ({})",
                        humantime::format_duration(age.into())
                    );
                    actions.extend(recycled.request(worker, Reason::Age, text, now));
                }
            }
        }
        if let Sampling::Due(at) = self.sampling
            && at <= now
        {
            self.sampling = Sampling::UnderWay;
            let limited = self
                .workers
                .iter()
                .filter(|(_, recycled)| recycled.limits.max_rss.is_some());
            let sample = limited.map(|(worker, recycled)| (*worker, recycled.pid));
            actions.push(Action::Sample(sample.collect()));
        }
        actions
    }

    fn sampled(&mut self, found: Vec<(WorkerId, TreeMemory)>, now: Time) -> Vec<Action> {
        self.sample_later(now);
        let mut actions = Vec::new();
        for (worker, memory) in found {
            // A worker that still serves is not reaped, so the pid was still its own.
            if let Some(recycled) = self.workers.get_mut(&worker)
                && let Some(limit) = recycled.limits.max_rss
                && memory.rss_bytes > limit
            {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let text = format!(
                    "{:.1} MiB in {}, max_rss is {:.1} MiB",
                    mib(memory.rss_bytes),
                    counted(memory.processes, "process"),
                    mib(limit)
                );
                actions.extend(recycled.request(worker, Reason::Memory, text, now));
            }
        }
        actions
    }

    /// The next sample is scheduled when this one is complete, so that slow samples do not pile up.
    fn sample_later(&mut self, now: Time) {
        self.sampling = if self.limits_memory() {
            Sampling::Due(now + SAMPLE_INTERVAL)
        } else {
            Sampling::Off
        };
    }

    /// It still serves, whatever the outcome: it is checked again later.
    fn replied(&mut self, worker: WorkerId, failed: bool, delay: Span, now: Time) -> Vec<Action> {
        let Some(recycled) = self.workers.get_mut(&worker) else {
            return Vec::new();
        };
        if !matches!(recycled.state, State::Requested(_)) {
            return Vec::new();
        }
        let retry_in = RETRY_DELAY.max(delay);
        let at = now + retry_in;
        recycled.state = State::Cooling(at);
        let limited = recycled.limits != Limits::default();
        if recycled.due.is_none() {
            recycled.due = recycled.next_due();
            self.due.extend(recycled.due.map(|at| (at, worker)));
        }
        if !limited {
            self.forget(worker);
        }
        let retry_in = limited.then_some(retry_in);
        let stays = failed.then_some(Action::Stays { worker, retry_in });
        stays.into_iter().collect()
    }
}

impl RecycledWorker {
    /// When its age and its schedule are to be looked at. None: never, or the reply to a request decides.
    fn next_due(&self) -> Option<Time> {
        let wanted = self.old_at.into_iter().chain(self.scheduled_at).min();
        match self.state {
            State::Watched => wanted,
            State::Cooling(until) => wanted.map(|at| at.max(until)),
            State::Requested(_) => None,
        }
    }

    fn request(
        &mut self,
        worker: WorkerId,
        reason: Reason,
        text: String,
        now: Time,
    ) -> Option<Action> {
        match self.state {
            State::Requested(_) => return None,
            State::Cooling(until) if now < until => return None,
            State::Watched | State::Cooling(_) => {}
        }
        self.state = State::Requested(reason);
        Some(Action::Replace {
            worker,
            reason,
            text,
        })
    }
}

#[cfg(test)]
mod tests;
