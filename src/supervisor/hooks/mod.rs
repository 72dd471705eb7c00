//! Hooks: commands of the configuration that are run when certain events happen (docs/hooks.md).
//!
//! `event_log.rs` notes each event here ([`Hooks::note`]). The loop calls [`Supervisor::run_hooks`] in each turn: it starts
//! what the queue (`queue.rs`) says, by a prober of its own, which is a thread. So a hook that hangs or fails delays nothing,
//! and is an event itself, `hook-failed`, for which no hook can be run.
//!
//! The queue is saved before a run begins. A run that a dead master has left is killed by its ROTAD_WORKER, and its event
//! gets another one: each event is told at least once.

pub(crate) mod queue;
mod request;

use super::Supervisor;
use super::action::Action;
use super::event_builder::EventBuilder;
use crate::event_loop::mailbox::Mailbox;
use crate::observe::events::{Event, EventKind};
use crate::plan::HookPlan;
use crate::probe::{ProbeError, ProbeRequest, ProbeResult, Prober};
use crate::process::SpawnerConfig;
use crate::process::tree::hook_id;
use crate::saved_state::tracked::Tracked;
use queue::{HookQueue, Overdue, Run};
use request::Facts;
use rotad_core::{Span, Time, WorkerId};
use std::collections::BTreeSet;

/// The hooks, and the thread that runs them.
#[derive(Debug)]
pub(crate) struct Hooks {
    queue: Tracked<HookQueue>,
    settings: SpawnerConfig,
    results: Mailbox<ProbeResult>,
    /// Started with the first run.
    prober: Option<Prober>,
    /// The master stops, and nothing else is left to be waited for: no limit of runs holds back the last one.
    closing: bool,
}

impl Hooks {
    /// `settings`: how commands are spawned.
    pub(crate) fn new(settings: SpawnerConfig, results: Mailbox<ProbeResult>) -> Self {
        Self {
            queue: Tracked::default(),
            settings,
            results,
            prober: None,
            closing: false,
        }
    }

    /// An event has happened.
    pub(crate) fn note(&mut self, plans: &[HookPlan], event: &Event) {
        for plan in plans {
            if let Some(on) = plan.meant(event.event, event.cause.as_deref()) {
                self.queue.wait(&plan.name, on, event);
            }
        }
    }

    /// The configuration has these hooks from now on.
    pub(crate) fn keep(&mut self, plans: &[HookPlan]) {
        self.queue.keep(plans);
    }

    /// Goes on with what a dead master has left.
    pub(crate) fn restore(&mut self, queue: HookQueue) {
        self.queue = Tracked::new(queue);
        self.queue.restart();
    }

    /// What is saved.
    pub(crate) fn saved(&self) -> &HookQueue {
        &self.queue
    }

    /// What is saved, if it has changed since the last call.
    pub(crate) fn take_change(&mut self) -> Option<&HookQueue> {
        self.queue.take_change().then_some(&*self.queue)
    }

    /// When something is to be done next.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.queue.deadline(self.closing)
    }

    /// Whether a hook runs, or waits for its run.
    pub(crate) fn is_busy(&self) -> bool {
        self.queue.is_busy()
    }

    /// Nothing but hooks is left to be waited for.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Under which numbers the processes of runs are known to scans for orphans.
    fn ids(&self) -> BTreeSet<WorkerId> {
        self.queue
            .running()
            .map(|run| hook_id(run.number))
            .collect()
    }

    /// Starts a run. Returns what comes of it if it cannot be started.
    fn start(
        &mut self,
        number: u64,
        request: Result<ProbeRequest, String>,
    ) -> Result<(), ProbeError> {
        let request = request.map_err(ProbeError::Failed)?;
        let prober = match self.prober.take() {
            Some(prober) => prober,
            None => Prober::start(self.settings.clone(), self.results.clone())
                .map_err(|error| ProbeError::Indeterminate(error.to_string()))?,
        };
        self.prober.insert(prober).start_probe(number, request);
        Ok(())
    }

    /// Kills what takes too long, and gives up what the kernel does not end. `all`: no run may go on.
    fn end_overdue(&mut self, now: Time, all: bool) -> Vec<(String, Run)> {
        let mut given_up = Vec::new();
        for overdue in self.queue.overdue(now, all) {
            match overdue {
                Overdue::Kill(number) => {
                    if let Some(prober) = &self.prober {
                        prober.cancel(number);
                    }
                }
                Overdue::GivenUp(hook, run) => given_up.push((hook, *run)),
            }
        }
        given_up
    }
}

/// How a run has failed, for people, and in a word.
fn failure(hook: &str, plan: Option<&HookPlan>, run: &Run, error: &ProbeError) -> EventBuilder {
    let (ProbeError::Failed(reason) | ProbeError::Indeterminate(reason)) = error;
    let (cause, reason) = if run.overdue {
        let after = plan.map_or_else(String::new, |plan| {
            format!(" after {}", Span::from(plan.timeout))
        });
        let line = reason
            .strip_prefix("was killed by SIGKILL")
            .unwrap_or_default();
        (
            "timed-out",
            format!("it still ran{after} and was killed{line}"),
        )
    } else {
        ("failed", format!("it {reason}"))
    };
    // What it says may quote its command.
    let words = plan.map_or(&[][..], |plan| &plan.command[..]);
    let reason = words
        .iter()
        .fold(reason, |reason, word| word.hide_values(&reason));
    let (on, seq) = (&run.delivery.on, run.delivery.event.seq);
    let text = format!("hook {hook}, run for {on} (event {seq}): {reason}");
    EventBuilder::new(EventKind::HookFailed, text)
        .cause(cause)
        .warn()
}

impl Supervisor {
    /// When hooks have something to do. During an upgrade nothing begins: the next master would have to begin again.
    pub(super) fn hook_deadline(&self) -> Option<Time> {
        match self.upgrade.is_pending() {
            true => None,
            false => self.hooks.deadline(),
        }
    }

    /// Starts the hooks whose time has come, and ends those that take too long.
    pub(super) fn run_hooks(&mut self) {
        let now = self.clock.now();
        if self.hook_deadline().is_none_or(|at| at > now) {
            return;
        }
        let given_up = self.hooks.end_overdue(now, false);
        self.hooks_given_up(given_up);
        let closing = self.hooks.closing;
        if !self.hooks.queue.can_begin(now, closing) {
            return;
        }
        let begun = self.hooks.queue.begin(&self.plan.hooks, now, closing);
        // From here on they may run: if this master dies, the next one starts them again.
        self.save();
        self.workers.set_hooks(self.hooks.ids());
        for (number, hook) in begun {
            let facts = Facts {
                master: &self.plan.master.name,
                config: &self.plan.config,
                rotad: self.workers.spawn_specs.rotad(),
                tag: &self.workers.tag(hook_id(number)),
                null: &self.workers.null,
            };
            let plan = self.plan.hooks.iter().find(|plan| plan.name == hook);
            let request = plan
                .zip(self.hooks.queue.delivery(number))
                .map(|(plan, delivery)| {
                    request::of(plan, delivery, &facts)
                        .map_err(|error| format!("cannot be told the event: {error}"))
                });
            let Some(request) = request else { continue };
            if let Err(error) = self.hooks.start(number, request) {
                let result = Err(error);
                self.on_hook_result(ProbeResult { number, result });
            }
        }
    }

    /// A run has ended.
    pub(super) fn on_hook_result(&mut self, ProbeResult { number, result }: ProbeResult) {
        let Some((hook, run)) = self.hooks.queue.end(number) else {
            return;
        };
        self.hook_ended(&hook, &run, result);
    }

    fn hook_ended(&mut self, hook: &str, run: &Run, result: Result<(), ProbeError>) {
        let plan = self.plan.hooks.iter().find(|plan| plan.name == hook);
        match result {
            Ok(()) => tracing::debug!("hook {hook}, run for {}: done", run.delivery.on),
            Err(error) => {
                let event = failure(hook, plan, run, &error);
                self.perform([Action::Emit(event)]);
            }
        }
        self.workers.set_hooks(self.hooks.ids());
        self.workers.end_left_by_hooks(self.clock.now());
    }

    fn hooks_given_up(&mut self, runs: Vec<(String, Run)>) {
        for (hook, run) in runs {
            let reason = ": the kernel has not ended it yet".to_owned();
            let reason = format!("was killed by SIGKILL{reason}");
            self.hook_ended(&hook, &run, Err(ProbeError::Failed(reason)));
        }
    }

    /// Runs that a dead master has left are killed; their events wait for another run.
    pub(super) fn restore_hooks(&mut self, queue: HookQueue) {
        let left = queue.running().count() > 0;
        self.hooks.restore(queue);
        self.hooks.keep(&self.plan.hooks);
        if left {
            tracing::warn!("hooks ran when the master died: they are killed, and run again");
            self.workers.end_left_by_hooks(self.clock.now());
        }
    }

    /// The master has waited long enough for its hooks.
    pub(super) fn kill_hooks(&mut self) {
        let given_up = self.hooks.end_overdue(self.clock.now(), true);
        self.hooks_given_up(given_up);
    }
}
