//! Probes of workers for readiness and health: when each worker is probed, and what the results amount to.
//!
//! [`Probes`] is a state machine without a thread, a socket or a clock: `probing.rs` has the probes carried out, gives it
//! what comes of them by [`Probes::handle`], and executes the actions in their order. Stories as text test it
//! (`probes/stories.txt`).
//!
//! | state   | waits for                       | next                                                            |
//! |---------|---------------------------------|-----------------------------------------------------------------|
//! | Waiting | its time                        | Queued                                                          |
//! | Queued  | room for one more of its kind   | Active: `Start`                                                 |
//! | Active  | `Ended`: passed                 | readiness: `Ready`, forgotten; health: Waiting, after `every`   |
//! |         | `Ended`: failed, or its timeout | readiness: Waiting, after a pause that doubles; health: Waiting, after `every`; `Unhealthy`, forgotten, after `failures` in a row |
//! |         | the same after a pause of the master | Waiting, for no time: it does not count                    |
//! |         | `Ended`: could not be made      | Waiting, after a pause; it does not count                       |
//! |         | `Hung` at this probe            | as failed                                                       |
//! |         | `Hung` at another one           | Waiting, for no time                                            |
//!
//! `Begin` and `Forgotten` end whatever is under way for the worker. Each `Start` ends once: by `Ended`, by `Hung`, or by
//! the machine itself with `Cancel`.

use super::spread::spread;
use super::unhealthy::Unhealthy;
use crate::probe::ProbeError;
use rotad_core::{Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// First pause between readiness probes of a worker that is not ready; the pauses double …
const FIRST_PAUSE: Span = Span::from_millis(50);
/// … up to this.
const MAX_PAUSE: Span = Span::from_secs(1);
/// Timeout of one readiness probe.
const READINESS_TIMEOUT: Span = Span::from_secs(10);
/// Maximum connections at once. Other probes wait in the queue, and their timeouts do not run.
const MAX_CONNECTIONS: usize = 256;
/// Maximum commands at once.
const MAX_COMMANDS: usize = 16;

/// What a worker is probed for, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// From now on until it is ready.
    Readiness,
    /// For as long as it serves. The worker is unhealthy after so many failures in a row.
    Health {
        every: Span,
        timeout: Span,
        failures: u32,
    },
}

/// What a worker is probed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Readiness,
    Health,
}

/// What a probe takes: each kind has a maximum of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    Connection,
    Command,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The worker is to be probed like this, and no longer as before.
    Begin {
        worker: WorkerId,
        schedule: Schedule,
        means: Means,
    },
    /// The prober has the probe. `shown`: what it asks, for people.
    Started { number: u64, shown: String },
    /// The probe has ended, or could not be started.
    Ended {
        number: u64,
        result: Result<(), ProbeError>,
    },
    /// The prober hangs at this probe and was abandoned, with all others that it had.
    Hung { number: u64 },
    /// The master was paused: failures of the active probes do not count.
    Paused,
    /// The worker is no longer to be probed.
    Forgotten(WorkerId),
    /// The deadline has come.
    TimerFired,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a probe. Numbers are not reused.
    Start {
        number: u64,
        worker: WorkerId,
        purpose: Purpose,
    },
    /// Cancel a probe that was started.
    Cancel(u64),
    /// The outcome of the worker's last probe. None: it has passed.
    SetError(WorkerId, Option<String>),
    /// The worker is ready.
    Ready(WorkerId),
    /// The worker has failed its health check.
    Unhealthy(Unhealthy),
    /// Tell people that a probe has failed, or could not be made.
    Warn(WorkerId, String),
    /// Tell people that a health check has failed, and count it.
    Failed(WorkerId, String),
}

#[derive(Debug)]
enum State {
    Waiting(Time),
    /// It is due, and waits for room.
    Queued,
    Active(ActiveProbe),
}

#[derive(Debug)]
struct ActiveProbe {
    number: u64,
    began: Time,
    until: Time,
    /// What it asks, for people, once the prober has it.
    shown: Option<String>,
    /// The master was paused meanwhile: a failure does not count.
    excused: bool,
}

/// The probes of one worker.
#[derive(Debug)]
struct ProbedWorker {
    schedule: Schedule,
    means: Means,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// How many probes were started.
    times: u64,
}

/// The active probes of one kind, and those that wait for room.
#[derive(Debug)]
struct Room {
    max: usize,
    active: usize,
    queue: VecDeque<WorkerId>,
}

/// The probes of all workers.
#[derive(Debug)]
pub(crate) struct Probes {
    workers: BTreeMap<WorkerId, ProbedWorker>,
    /// When a waiting worker is probed, and when an active probe has taken too long.
    due: BTreeSet<(Time, WorkerId)>,
    active: BTreeMap<u64, WorkerId>,
    connections: Room,
    commands: Room,
    /// The number of the last probe.
    last: u64,
}

impl Default for Probes {
    fn default() -> Self {
        let room = |max| Room {
            max,
            active: 0,
            queue: VecDeque::new(),
        };
        Self {
            workers: BTreeMap::new(),
            due: BTreeSet::new(),
            active: BTreeMap::new(),
            connections: room(MAX_CONNECTIONS),
            commands: room(MAX_COMMANDS),
            last: 0,
        }
    }
}

impl Probes {
    /// When a probe is due, or takes too long. A worker that is queued has none: there is no room for it, so others are
    /// active.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whether this probe was started and has not ended.
    pub(crate) fn is_active(&self, number: u64) -> bool {
        self.active.contains_key(&number)
    }

    /// What an active probe asks, for people.
    pub(crate) fn shown(&self, number: u64) -> Option<&str> {
        let worker = self.active.get(&number)?;
        match &self.workers.get(worker)?.state {
            State::Active(probe) => probe.shown.as_deref(),
            State::Waiting(_) | State::Queued => None,
        }
    }

    /// Applies one event. What concerns a probe that has ended, or a worker that was forgotten, changes nothing: it
    /// comes too late.
    pub(crate) fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Begin {
                worker,
                schedule,
                means,
            } => self.begin(worker, schedule, means, now, &mut actions),
            Event::Started { number, shown } => {
                if let Some(probe) = self.active_mut(number) {
                    probe.shown = Some(shown);
                }
            }
            Event::Ended { number, result } => {
                if let Some(worker) = self.active.get(&number).copied() {
                    self.record(worker, result, now, &mut actions);
                }
            }
            Event::Hung { number } => self.hung(number, now, &mut actions),
            Event::Paused => self.excuse_active(),
            Event::Forgotten(worker) => self.forget(worker, &mut actions),
            Event::TimerFired => self.run_due(now, &mut actions),
        }
        self.start_queued(now, &mut actions);
        actions
    }

    fn begin(
        &mut self,
        worker: WorkerId,
        schedule: Schedule,
        means: Means,
        now: Time,
        actions: &mut Vec<Action>,
    ) {
        self.forget(worker, actions);
        let probed = ProbedWorker {
            schedule,
            means,
            state: State::Queued,
            failures: 0,
            times: 0,
        };
        self.workers.insert(worker, probed);
        match schedule {
            Schedule::Readiness => self.room(means).queue.push_back(worker),
            Schedule::Health { every, .. } => self.wait(worker, now + spread(worker, 0, every)),
        }
    }

    fn forget(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some(probed) = self.workers.get(&worker) else {
            return;
        };
        let (means, queued) = (probed.means, matches!(probed.state, State::Queued));
        if let Some(number) = self.leave_state(worker) {
            actions.push(Action::Cancel(number));
        } else if queued {
            self.room(means).queue.retain(|other| *other != worker);
        }
        self.workers.remove(&worker);
    }

    /// Queues the waiting workers whose time has come, and ends active probes that have taken too long.
    fn run_due(&mut self, now: Time, actions: &mut Vec<Action>) {
        while let Some((_, worker)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            let Some(probed) = self.workers.get(&worker) else {
                return;
            };
            let (means, timeout) = (probed.means, probed.timeout());
            match &probed.state {
                State::Active(probe) => {
                    actions.push(Action::Cancel(probe.number));
                    let reason = format!("timed out after {timeout}");
                    self.record(worker, Err(ProbeError::Failed(reason)), now, actions);
                }
                State::Waiting(_) | State::Queued => {
                    self.leave_state(worker);
                    self.room(means).queue.push_back(worker);
                }
            }
        }
    }

    /// Starts queued probes of each kind, in order, as many as there is room for.
    fn start_queued(&mut self, now: Time, actions: &mut Vec<Action>) {
        for means in [Means::Connection, Means::Command] {
            while let Some(worker) = self.room(means).take_next() {
                // Always there: a worker that is forgotten leaves the queue.
                let Some(probed) = self.workers.get_mut(&worker) else {
                    return;
                };
                self.last += 1;
                let number = self.last;
                probed.times += 1;
                let until = now + probed.timeout();
                probed.state = State::Active(ActiveProbe {
                    number,
                    began: now,
                    until,
                    shown: None,
                    excused: false,
                });
                self.due.insert((until, worker));
                self.active.insert(number, worker);
                actions.push(Action::Start {
                    number,
                    worker,
                    purpose: probed.purpose(),
                });
            }
        }
    }

    /// Takes the result of the worker's active probe.
    fn record(
        &mut self,
        worker: WorkerId,
        result: Result<(), ProbeError>,
        now: Time,
        actions: &mut Vec<Action>,
    ) {
        let Some(probed) = self.workers.get_mut(&worker) else {
            return;
        };
        let State::Active(probe) = &mut probed.state else {
            return;
        };
        let (began, excused) = (probe.began, probe.excused);
        let shown = probe.shown.take().unwrap_or_else(|| "it".to_owned());
        let (schedule, times) = (probed.schedule, probed.times);
        let error = match result {
            Ok(()) => {
                probed.failures = 0;
                None
            }
            Err(ProbeError::Indeterminate(reason)) => {
                let pause = match schedule {
                    Schedule::Readiness => MAX_PAUSE,
                    Schedule::Health { every, .. } => every,
                };
                self.wait(worker, now + pause);
                let text = format!("cannot be asked how it is, for a lack of our own: {reason}");
                return actions.push(Action::Warn(worker, text));
            }
            Err(ProbeError::Failed(_)) if excused => return self.wait(worker, now),
            Err(ProbeError::Failed(reason)) => {
                probed.failures += 1;
                Some(format!("{shown}: {reason}"))
            }
        };
        let failed = probed.failures;
        match (schedule, error) {
            (Schedule::Readiness, None) => {
                self.end(worker);
                actions.push(Action::SetError(worker, None));
                actions.push(Action::Ready(worker));
            }
            (Schedule::Readiness, Some(error)) => {
                let pause = FIRST_PAUSE.as_millis() << failed.saturating_sub(1).min(10);
                self.wait(worker, now + Span::from_millis(pause).min(MAX_PAUSE));
                actions.push(Action::SetError(worker, Some(error)));
            }
            (Schedule::Health { failures, .. }, Some(error)) if failed >= failures => {
                self.end(worker);
                let row = if failures > 1 {
                    format!(", {failures} times in a row")
                } else {
                    String::new()
                };
                let reason = format!("health: {error}{row}");
                actions.push(Action::Unhealthy(Unhealthy { worker, reason }));
            }
            (
                Schedule::Health {
                    every, failures, ..
                },
                error,
            ) => {
                // From the start of one probe to the next, however long it took.
                self.wait(worker, (began + spread(worker, times, every)).max(now));
                let warning = error
                    .as_ref()
                    .map(|error| format!("health: {error} ({failed} of {failures})"));
                actions.push(Action::SetError(worker, error));
                actions.extend(warning.map(|text| Action::Failed(worker, text)));
            }
        }
    }

    /// Another prober repeats the probes of the one that was abandoned, except for the one at which it hangs.
    fn hung(&mut self, number: u64, now: Time, actions: &mut Vec<Action>) {
        let hung = self.active.get(&number).copied();
        let active: Vec<WorkerId> = self.active.values().copied().collect();
        for worker in active.into_iter().filter(|worker| Some(*worker) != hung) {
            self.wait(worker, now);
        }
        let Some(probe) = self.active_mut(number) else {
            return;
        };
        probe.excused = false;
        if let Some(worker) = hung {
            let reason = "the directory of its socket hangs (a disk?)".to_owned();
            self.record(worker, Err(ProbeError::Failed(reason)), now, actions);
        }
    }

    fn excuse_active(&mut self) {
        for probed in self.workers.values_mut() {
            if let State::Active(probe) = &mut probed.state {
                probe.excused = true;
            }
        }
    }

    fn wait(&mut self, worker: WorkerId, at: Time) {
        self.leave_state(worker);
        if let Some(probed) = self.workers.get_mut(&worker) {
            probed.state = State::Waiting(at);
            self.due.insert((at, worker));
        }
    }

    /// The worker is not probed any more; its probe has ended.
    fn end(&mut self, worker: WorkerId) {
        self.leave_state(worker);
        self.workers.remove(&worker);
    }

    /// Removes what the state has registered, except for the queue. Returns the number of the active probe.
    fn leave_state(&mut self, worker: WorkerId) -> Option<u64> {
        let probed = self.workers.get_mut(&worker)?;
        let means = probed.means;
        match std::mem::replace(&mut probed.state, State::Queued) {
            State::Queued => None,
            State::Waiting(at) => {
                self.due.remove(&(at, worker));
                None
            }
            State::Active(probe) => {
                self.due.remove(&(probe.until, worker));
                self.active.remove(&probe.number);
                self.room(means).active -= 1;
                Some(probe.number)
            }
        }
    }

    fn room(&mut self, means: Means) -> &mut Room {
        match means {
            Means::Connection => &mut self.connections,
            Means::Command => &mut self.commands,
        }
    }

    fn active_mut(&mut self, number: u64) -> Option<&mut ActiveProbe> {
        let worker = self.active.get(&number)?;
        match &mut self.workers.get_mut(worker)?.state {
            State::Active(probe) => Some(probe),
            State::Waiting(_) | State::Queued => None,
        }
    }
}

impl Room {
    /// Takes the next worker of the queue, if there is room for its probe.
    fn take_next(&mut self) -> Option<WorkerId> {
        if self.active >= self.max {
            return None;
        }
        let worker = self.queue.pop_front()?;
        self.active += 1;
        Some(worker)
    }
}

impl ProbedWorker {
    fn timeout(&self) -> Span {
        match self.schedule {
            Schedule::Readiness => READINESS_TIMEOUT,
            Schedule::Health { timeout, .. } => timeout,
        }
    }

    fn purpose(&self) -> Purpose {
        match self.schedule {
            Schedule::Readiness => Purpose::Readiness,
            Schedule::Health { .. } => Purpose::Health,
        }
    }
}

#[cfg(test)]
mod tests;
