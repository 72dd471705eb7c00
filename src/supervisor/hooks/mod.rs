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
use crate::exit_code::ExitCode;
use crate::observe::events::{Event, EventKind};
use crate::plan::HookPlan;
use crate::probe::{ProbeError, ProbeRequest, ProbeResult, Prober};
use crate::process::SpawnerConfig;
use crate::process::tree::hook_id;
use crate::saved_state::tracked::Tracked;
use queue::{Delivery, HookQueue, Overdue, Run};
use request::Facts;
use rotad_core::{Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

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

    /// Goes on with what a dead master has left. Returns the clients that tried a hook.
    pub(crate) fn restore(&mut self, queue: HookQueue) -> Vec<u64> {
        self.queue = Tracked::new(queue);
        self.queue.restart()
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

/// The event of a run that has failed.
fn failure(hook: &str, plan: Option<&HookPlan>, run: &Run, error: &ProbeError) -> EventBuilder {
    let reason = reason(plan, run, error);
    let (on, seq) = (&run.delivery.on, run.delivery.event.seq);
    let text = format!("hook {hook}, run for {on} (event {seq}): {reason}");
    let cause = if run.overdue { "timed-out" } else { "failed" };
    EventBuilder::new(EventKind::HookFailed, text)
        .cause(cause)
        .warn()
}

/// How a run has failed, for people.
fn reason(plan: Option<&HookPlan>, run: &Run, error: &ProbeError) -> String {
    let (ProbeError::Failed(reason) | ProbeError::Indeterminate(reason)) = error;
    let reason = if run.overdue {
        let when = match plan {
            _ if run.cut => " when the master stopped".to_owned(),
            Some(plan) => format!(" after {}", Span::from(plan.timeout)),
            None => String::new(),
        };
        let line = reason
            .strip_prefix("was killed by SIGKILL")
            .unwrap_or_default();
        format!("it still ran{when} and was killed{line}")
    } else {
        format!("it {reason}")
    };
    // What it says may quote its command.
    let words = plan.map_or(&[][..], |plan| &plan.command[..]);
    words
        .iter()
        .fold(reason, |reason, word| word.hide_values(&reason))
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
            self.start_hook(number, &hook);
        }
    }

    fn start_hook(&mut self, number: u64, hook: &str) {
        let facts = Facts {
            master: &self.plan.master.name,
            config: &self.plan.config,
            rotad: self.workers.spawn_specs.rotad(),
            tag: &self.workers.tag(hook_id(number)),
            null: &self.workers.null,
        };
        let plan = self.plan.hooks.iter().find(|plan| plan.name == hook);
        let Some((plan, delivery)) = plan.zip(self.hooks.queue.delivery(number)) else {
            return;
        };
        let request = request::of(plan, delivery, &facts)
            .map_err(|error| format!("cannot be told the event: {error}"));
        if let Err(error) = self.hooks.start(number, request) {
            let result = Err(error);
            self.on_hook_result(ProbeResult { number, result });
        }
    }

    /// `rotad hook NAME`: runs a hook as if the first event that it is for had happened.
    pub(super) fn try_hook(&mut self, client: u64, name: &str) {
        let hooks = &self.plan.hooks;
        let Some(plan) = hooks.iter().find(|plan| plan.name == name) else {
            let names: Vec<&str> = hooks.iter().map(|plan| plan.name.as_str()).collect();
            let known = match names.is_empty() {
                true => "the configuration in force has no [hooks.NAME]".to_owned(),
                false => format!("there are {}", names.join(", ")),
            };
            let text = format!("there is no hook `{name}`: {known}");
            return self.done(client, ExitCode::NOT_FOUND, text);
        };
        if self.upgrade.is_pending() || self.shutdown.stopping {
            let text = "no hook is tried during an upgrade or a stop".to_owned();
            return self.done(client, ExitCode::FAILED, text);
        }
        let (kind, cause) = plan.first_event();
        let text = format!("a try: `rotad hook {name}` was typed, and nothing has happened");
        let event = Event {
            seq: self.event_log.last(),
            time: humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string(),
            event: kind,
            pool: self.plan.pools.first().map(|pool| pool.name.clone()),
            slot: None,
            worker: None,
            generation: None,
            pid: None,
            cause: cause.map(str::to_owned),
            text,
        };
        let delivery = Delivery {
            on: plan.on.first().cloned().unwrap_or_default(),
            event,
            folded: 0,
            folded_events: BTreeMap::new(),
            test: true,
        };
        let begun = self
            .hooks
            .queue
            .try_run(plan, delivery, client, self.clock.now());
        let Some(number) = begun else {
            let text = format!("hook {name} runs at the moment: try again when it has ended");
            return self.done(client, ExitCode::FAILED, text);
        };
        self.save();
        self.workers.set_hooks(self.hooks.ids());
        self.start_hook(number, name);
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
            result if run.client.is_some() => {
                let (code, text) = match result {
                    Ok(()) => (ExitCode::DONE, format!("hook {hook}: done")),
                    Err(error) => {
                        let reason = reason(plan, run, &error);
                        (ExitCode::FAILED, format!("hook {hook}: {reason}"))
                    }
                };
                if let Some(client) = run.client {
                    self.done(client, code, text);
                }
            }
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
    /// Returns the clients that tried a hook.
    pub(super) fn restore_hooks(&mut self, queue: HookQueue) -> Vec<u64> {
        let left = queue.running().count() > 0;
        let clients = self.hooks.restore(queue);
        self.hooks.keep(&self.plan.hooks);
        if left {
            tracing::warn!("hooks ran when the master died: they are killed, and run again");
            self.workers.end_left_by_hooks(self.clock.now());
        }
        clients
    }

    /// Answers the clients that tried a hook when the master died.
    pub(super) fn answer_tries(&mut self, clients: Vec<u64>) {
        for client in clients {
            let text = "the master was replaced while the hook ran, which was killed: try again";
            self.done(client, ExitCode::FAILED, text.to_owned());
        }
    }

    /// The master has waited long enough for its hooks.
    pub(super) fn kill_hooks(&mut self) {
        let given_up = self.hooks.end_overdue(self.clock.now(), true);
        self.hooks_given_up(given_up);
    }
}
