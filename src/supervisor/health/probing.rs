//! Has the probes of workers carried out: starts the prober with the first probe, replaces it when it hangs, and gives the
//! state machine (`probes.rs`) what comes of them.
//!
//! The supervisor performs [`Action::StartProbe`] by [`Probing::start`], since only it knows what a worker is spawned
//! from; all else is called by `health/mod.rs`.

use super::probes::{self, Event, Means, Probes, Schedule};
use crate::event_loop::mailbox::Mailbox;
use crate::observe::events::EventKind;
use crate::plan::{Check, Health, Ready};
use crate::probe::{AbandonedThread, ProbeError, ProbeRequest, ProbeResult, Prober};
use crate::process::SpawnerConfig;
use crate::supervisor::action::Action;
use crate::supervisor::counters::Count;
use crate::supervisor::event_builder::EventBuilder;
use rotad_core::{Input, Span, Time, WorkerId};

/// If this many probes hang, no probe that has to open a socket file is started.
const MAX_HUNG: usize = 8;

#[derive(Debug)]
pub(crate) struct Probing {
    probes: Probes,
    settings: SpawnerConfig,
    results: Mailbox<ProbeResult>,
    /// Started with the first probe.
    prober: Option<Prober>,
    /// Requests at which abandoned prober threads hang.
    hung: Vec<(String, AbandonedThread)>,
}

impl Probing {
    /// `settings`: how commands are spawned.
    pub(crate) fn new(settings: SpawnerConfig, results: Mailbox<ProbeResult>) -> Self {
        Self {
            probes: Probes::default(),
            settings,
            results,
            prober: None,
            hung: Vec::new(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        self.probes.deadline()
    }

    /// Probes a worker until it is ready, where its pool says so.
    pub(crate) fn probe_readiness(
        &mut self,
        worker: WorkerId,
        ready: &Ready,
        now: Time,
    ) -> Vec<Action> {
        let Ready::Probe(check) = ready else {
            return Vec::new();
        };
        self.handle(
            now,
            Event::Begin {
                worker,
                schedule: Schedule::Readiness,
                means: means(check),
            },
        )
    }

    /// Probes a worker that serves as its pool says, and no longer as before.
    pub(crate) fn probe_health(
        &mut self,
        worker: WorkerId,
        health: Option<&Health>,
        now: Time,
    ) -> Vec<Action> {
        let Some(Health::Probe {
            check,
            every,
            timeout,
            failures,
        }) = health
        else {
            return self.forget(worker, now);
        };
        self.handle(
            now,
            Event::Begin {
                worker,
                schedule: Schedule::Health {
                    every: Span::from(*every),
                    timeout: Span::from(*timeout),
                    failures: *failures,
                },
                means: means(check),
            },
        )
    }

    /// Stops probing a worker.
    pub(crate) fn forget(&mut self, worker: WorkerId, now: Time) -> Vec<Action> {
        self.handle(now, Event::Forgotten(worker))
    }

    /// The master was paused.
    pub(crate) fn paused(&mut self, now: Time) -> Vec<Action> {
        self.handle(now, Event::Paused)
    }

    /// Runs what is due. Before, abandons the prober if it hangs.
    pub(crate) fn run_due(&mut self, now: Time) -> Vec<Action> {
        let hung = self.abandon_hung(now);
        let mut actions =
            hung.map_or_else(Vec::new, |number| self.handle(now, Event::Hung { number }));
        actions.extend(self.handle(now, Event::TimerFired));
        actions
    }

    /// Takes a result.
    pub(crate) fn on_result(
        &mut self,
        ProbeResult { number, result }: ProbeResult,
        now: Time,
    ) -> Vec<Action> {
        self.handle(now, Event::Ended { number, result })
    }

    /// Starts the probe of an [`Action::StartProbe`]. `request`: with what it asks, for people; an error says why it cannot
    /// be asked at all.
    pub(crate) fn start(
        &mut self,
        number: u64,
        request: Result<(ProbeRequest, String), String>,
        now: Time,
    ) -> Vec<Action> {
        if !self.probes.is_active(number) {
            return Vec::new();
        }
        let started = request
            .map_err(ProbeError::Failed)
            .and_then(|(request, shown)| self.start_probe(number, request, shown));
        let event = match started {
            Ok(shown) => Event::Started { number, shown },
            Err(error) => Event::Ended {
                number,
                result: Err(error),
            },
        };
        self.handle(now, event)
    }

    /// Returns what the probe asks, for people.
    fn start_probe(
        &mut self,
        number: u64,
        request: ProbeRequest,
        shown: String,
    ) -> Result<String, ProbeError> {
        if request.names_a_file() {
            self.check_hung(&shown)?;
        }
        let prober = match self.prober.take() {
            Some(prober) => prober,
            None => Prober::start(self.settings.clone(), self.results.clone())
                .map_err(|error| ProbeError::Indeterminate(error.to_string()))?,
        };
        self.prober.insert(prober).start_probe(number, request);
        Ok(shown)
    }

    /// # Errors
    /// A thread already hangs at this request, or too many hang at others: it cannot be made now.
    fn check_hung(&mut self, shown: &str) -> Result<(), ProbeError> {
        self.hung.retain(|(_, thread)| !thread.has_ended());
        if self.hung.iter().any(|(hung, _)| hung == shown) {
            let reason = "the directory of its socket hangs (a disk?)".to_owned();
            return Err(ProbeError::Failed(reason));
        }
        if self.hung.len() >= MAX_HUNG {
            let reason = "too many directories of sockets hang (a disk?)".to_owned();
            return Err(ProbeError::Indeterminate(reason));
        }
        Ok(())
    }

    /// Abandons the prober if it hangs; the next probe starts another one. Returns the probe at which it hangs.
    fn abandon_hung(&mut self, now: Time) -> Option<u64> {
        let number = self.prober.as_ref()?.hangs(now)?;
        let thread = self.prober.take()?.abandon();
        if let Some(shown) = self.probes.shown(number) {
            self.hung.push((shown.to_owned(), thread));
        }
        Some(number)
    }

    /// Gives the machine an event. What it wants of the prober is done here; the rest is returned.
    fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        for action in self.probes.handle(now, event) {
            match action {
                probes::Action::Start {
                    number,
                    worker,
                    purpose,
                } => actions.push(Action::StartProbe {
                    number,
                    worker,
                    purpose,
                }),
                probes::Action::Cancel(number) => {
                    if let Some(prober) = &self.prober {
                        prober.cancel(number);
                    }
                }
                probes::Action::SetError(worker, error) => {
                    actions.push(Action::SetProbeError(worker, error));
                }
                probes::Action::Ready(worker) => actions.push(Action::Input(Input::Ready(worker))),
                probes::Action::Unhealthy(unhealthy) => actions.extend(unhealthy.actions()),
                probes::Action::Warn(worker, text) => {
                    let event = EventBuilder::new(EventKind::ProbeFailed, text);
                    actions.push(Action::Emit(event.worker(worker).warn()));
                }
                probes::Action::Failed(worker, text) => {
                    let event = EventBuilder::new(EventKind::ProbeFailed, text);
                    let event = event.worker(worker).counts(Count::HealthFailure);
                    actions.push(Action::Emit(event.warn()));
                }
            }
        }
        actions
    }
}

fn means(check: &Check) -> Means {
    match check {
        Check::Command(_) => Means::Command,
        Check::Connect(_) | Check::Http(_) => Means::Connection,
    }
}
