//! Health: what the master does for workers beyond starting and stopping them. It finds out when they are ready and
//! whether they stay healthy, replaces those that are too old or too large, assigns ports, and samples what starting
//! workers want of the processors.
//!
//! [`Health`] sees neither the engine nor the process table: the supervisor tells it what it has to know, and performs
//! the actions that it returns. A worker passes through [`Health::on_running`] (its program runs), [`Health::on_ready`],
//! [`Health::stop`] (it no longer serves) and [`Health::on_end`], in this order; one that is asked to stop while it is
//! spawned is stopped first. Each part has its own deadline in `timers.rs`.
//!
//! Three parts decide by state machines, which stories as text test: `watchdogs.rs`, `probes.rs` (carried out by
//! `probing.rs`) and `recycling.rs`.

pub(crate) mod boot_samples;
pub(crate) mod daily;
pub(crate) mod ports;
pub(crate) mod probes;
pub(crate) mod probing;
pub(crate) mod readiness;
pub(crate) mod recycling;
mod spread;
mod unhealthy;
pub(crate) mod watchdogs;

use super::action::Action;
use super::event_builder::EventBuilder;
use super::report::Report;
use crate::event_loop::mailbox::Mailbox;
use crate::observe::events::EventKind;
use crate::observe::metrics::RecycleCause;
use crate::plan::{self, PoolPlan, Recycle};
use crate::probe::accept::AcceptProbe;
use crate::process::SpawnerConfig;
use crate::process::rss_sampler::{RssSampler, TreeMemory};
use boot_samples::BootSamples;
use ports::PortAllocator;
use probing::Probing;
use readiness::Readiness;
use recycling::{Limits, Reason, Recycling};
use rotad_core::{Input, Outcome, Span, Time, WorkerId};
use std::collections::BTreeSet;
use unhealthy::Unhealthy;
use watchdogs::{WatchdogMessage, Watchdogs};

pub(crate) struct Health {
    pub(crate) probing: Probing,
    pub(crate) ports: PortAllocator,
    pub(crate) boot_samples: BootSamples,
    pub(crate) readiness: Readiness,
    watchdogs: Watchdogs,
    recycling: Recycling,
    /// Started with the first worker that has `max_rss`.
    rss_sampler: Option<RssSampler>,
    rss_samples: Mailbox<Vec<(WorkerId, TreeMemory)>>,
    /// Workers that are ready (or soaking) and have not been asked to stop.
    serving: BTreeSet<WorkerId>,
}

impl Unhealthy {
    fn actions(self) -> [Action; 2] {
        let Self { worker, reason } = self;
        [
            Action::SetProbeError(worker, Some(reason)),
            Action::Input(Input::Unhealthy(worker)),
        ]
    }
}

impl Health {
    /// `settings`: how commands of probes are spawned; `reports`: the main loop's mailbox.
    pub(crate) fn new(
        settings: SpawnerConfig,
        accept_probe: AcceptProbe,
        reports: &Mailbox<Report>,
    ) -> Self {
        Self {
            boot_samples: BootSamples::new(reports.of(Report::CpuDemand), settings.clock.clone()),
            probing: Probing::new(settings, reports.of(Report::Probe)),
            ports: PortAllocator::default(),
            readiness: Readiness::new(accept_probe),
            watchdogs: Watchdogs::default(),
            recycling: Recycling::default(),
            rss_sampler: None,
            rss_samples: reports.of(Report::Memory),
            serving: BTreeSet::new(),
        }
    }

    /// Whether a worker is ready and has not been asked to stop.
    pub(crate) fn serves(&self, worker: WorkerId) -> bool {
        self.serving.contains(&worker)
    }

    /// The worker's program runs: expects its watchdog, and probes whether it is ready.
    pub(crate) fn on_running(
        &mut self,
        worker: WorkerId,
        plan: &PoolPlan,
        now: Time,
    ) -> Vec<Action> {
        if let Some(plan::Health::Watchdog(interval)) = plan.health {
            let interval = Span::from(interval);
            let event = watchdogs::Event::Running { worker, interval };
            self.watchdogs.handle(now, event);
        }
        self.probing.probe_readiness(worker, &plan.ready, now)
    }

    /// The worker is ready: begins its health checks, watchdog and recycling.
    pub(crate) fn on_ready(
        &mut self,
        worker: WorkerId,
        pid: i32,
        plan: &PoolPlan,
        now: Time,
    ) -> Vec<Action> {
        self.serving.insert(worker);
        self.readiness.stop_probe(worker);
        self.watchdogs.handle(now, watchdogs::Event::Ready(worker));
        let limits = limits(plan.recycle);
        let event = recycling::Event::Serves {
            worker,
            pid,
            limits,
        };
        let mut actions = self.recycle(now, event);
        actions.extend(self.probing.probe_health(worker, plan.health.as_ref(), now));
        actions
    }

    /// The worker no longer serves.
    pub(crate) fn stop(&mut self, worker: WorkerId, now: Time) -> Vec<Action> {
        self.serving.remove(&worker);
        self.watchdogs
            .handle(now, watchdogs::Event::Forgotten(worker));
        self.recycling
            .handle(now, recycling::Event::Forgotten(worker));
        self.probing.forget(worker, now)
    }

    /// The worker has ended, and may never have been ready: its probe, and a watchdog that was expected, end as well.
    pub(crate) fn on_end(&mut self, worker: WorkerId, now: Time) -> Vec<Action> {
        self.readiness.forget(worker);
        self.stop(worker, now)
    }

    /// The health check of a worker's pool has changed.
    pub(crate) fn check_changed(
        &mut self,
        worker: WorkerId,
        health: Option<&plan::Health>,
        now: Time,
    ) -> Vec<Action> {
        if !self.serves(worker) {
            return Vec::new();
        }
        self.probing.probe_health(worker, health, now)
    }

    /// What a worker is recycled by has changed. `since`: when it became ready.
    pub(crate) fn limits_changed(
        &mut self,
        worker: WorkerId,
        pid: i32,
        recycle: Recycle,
        since: Time,
        now: Time,
    ) -> Vec<Action> {
        if !self.serves(worker) {
            return Vec::new();
        }
        let event = recycling::Event::LimitsChanged {
            worker,
            pid,
            limits: limits(recycle),
            since,
        };
        self.recycle(now, event)
    }

    /// The daily time of a worker's pool has come: it is replaced at this time.
    pub(crate) fn schedule_recycling(&mut self, worker: WorkerId, at: Time, now: Time) {
        let event = recycling::Event::Scheduled { worker, at };
        self.recycling.handle(now, event);
    }

    /// When a watchdog's interval ends.
    pub(crate) fn watchdog_deadline(&self) -> Option<Time> {
        self.watchdogs.deadline()
    }

    /// Reports the workers whose watchdog interval has ended.
    pub(crate) fn run_due_watchdogs(&mut self, now: Time) -> Vec<Action> {
        self.watch(now, watchdogs::Event::TimerFired)
    }

    /// A worker has sent a message about its watchdog.
    pub(crate) fn on_watchdog_message(
        &mut self,
        worker: WorkerId,
        message: WatchdogMessage,
        now: Time,
    ) -> Vec<Action> {
        let event = watchdogs::Event::Message {
            worker,
            serves: self.serves(worker),
            message,
        };
        self.watch(now, event)
    }

    fn watch(&mut self, now: Time, event: watchdogs::Event) -> Vec<Action> {
        let unhealthy = self.watchdogs.handle(now, event);
        unhealthy.into_iter().flat_map(Unhealthy::actions).collect()
    }

    /// When a worker is too old, or memory is sampled.
    pub(crate) fn recycling_deadline(&self) -> Option<Time> {
        self.recycling.deadline()
    }

    /// Recycles the workers that are too old, and samples memory if that is due.
    pub(crate) fn run_due_recycling(&mut self, now: Time) -> Vec<Action> {
        self.recycle(now, recycling::Event::TimerFired)
    }

    /// Takes a sample of the workers' memory.
    pub(crate) fn on_rss_sample(
        &mut self,
        sample: Vec<(WorkerId, TreeMemory)>,
        now: Time,
    ) -> Vec<Action> {
        self.recycle(now, recycling::Event::Sampled(sample))
    }

    /// Takes the engine's reply to an [`Action::Replace`]. `delay`: the pool's restart delay.
    pub(crate) fn on_replace_reply(
        &mut self,
        worker: WorkerId,
        outcome: &Outcome,
        delay: Span,
        now: Time,
    ) -> Vec<Action> {
        let failed = matches!(
            outcome,
            Outcome::ReplaceFailed { .. } | Outcome::Aborted { .. } | Outcome::RolledBack { .. }
        );
        let event = recycling::Event::Replied {
            worker,
            failed,
            delay,
        };
        self.recycle(now, event)
    }

    /// Why a worker that serves is being replaced by one of its generation.
    pub(crate) fn recycle_cause(&self, worker: WorkerId) -> RecycleCause {
        match self.recycling.requested(worker) {
            Some(Reason::Age) => RecycleCause::MaxAge,
            Some(Reason::Memory) => RecycleCause::MaxRss,
            Some(Reason::Schedule) => RecycleCause::At,
            None => RecycleCause::Request,
        }
    }

    fn recycle(&mut self, now: Time, event: recycling::Event) -> Vec<Action> {
        let mut actions = Vec::new();
        for action in self.recycling.handle(now, event) {
            match action {
                recycling::Action::Sample(all) => self.sample_rss(all, now),
                recycling::Action::Replace {
                    worker,
                    reason,
                    text,
                } => {
                    let cause = match reason {
                        Reason::Age => "max-age",
                        Reason::Memory => "max-rss",
                        Reason::Schedule => "at",
                    };
                    let text = format!("{text}: it is replaced");
                    let event = EventBuilder::new(EventKind::Recycled, text);
                    actions.push(Action::Emit(event.worker(worker).cause(cause)));
                    actions.push(Action::Replace(worker));
                }
                recycling::Action::Stays { worker, retry_in } => {
                    let next = retry_in.map(|span| format!(", and is replaced again in {span}"));
                    let text = format!(
                        "its successor did not come up: it stays{}",
                        next.unwrap_or_default()
                    );
                    let event = EventBuilder::new(EventKind::Recycled, text);
                    actions.push(Action::Emit(event.worker(worker).cause("failed").error()));
                }
            }
        }
        actions
    }

    /// Has the memory of these workers sampled. The result comes back as a [`Report::Memory`].
    fn sample_rss(&mut self, all: Vec<(WorkerId, i32)>, now: Time) {
        let sampler = match self.rss_sampler.take() {
            Some(sampler) => Ok(sampler),
            None => RssSampler::start(self.rss_samples.clone()),
        };
        match sampler {
            Ok(sampler) => self.rss_sampler.insert(sampler).measure(all),
            Err(error) => {
                tracing::warn!("the memory of workers cannot be looked at: {error}");
                self.recycling.handle(now, recycling::Event::Unavailable);
            }
        }
    }
}

fn limits(recycle: Recycle) -> Limits {
    Limits {
        max_age: recycle.max_age.map(Span::from),
        max_rss: recycle.max_rss,
        at: recycle.at,
    }
}

#[cfg(test)]
mod tests;
