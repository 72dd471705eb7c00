//! Reload: applies a changed configuration while the master runs. Reads it, opens new addresses, runs its oneshots,
//! finds out which pools need not be rolled, and only then commits it (`commit.rs`).
//!
//! `reload/machine.rs` decides what comes next; this file executes its actions and gives it what they lead to as events.
//! Signals, clients (`control.rs`) and changed files call [`Supervisor::reload`].

pub(crate) mod blocking;
pub(crate) mod commit;
mod dry_run;
pub(crate) mod fd_budget;
pub(crate) mod file_watch;
pub(crate) mod lookup;
mod machine;
pub(crate) mod on_change;
pub(crate) mod oneshots;
pub(crate) mod plan_in_force;
mod request;
pub(crate) mod revert;
pub(crate) mod roll;
pub(crate) mod rollback;

use crate::control::protocol::{ReloadScope, Response, Wait};
use crate::exit_code::ExitCode;
use crate::listener::{Listener, SocketError};
use crate::observe::events::EventKind;
use crate::plan::{self, FileAccess, ListenPlan, LogFile, Plan, PoolPlan, Sink};
use crate::supervisor::Supervisor;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::listening::ListenerId;
use crate::supervisor::pool_registry::{self, PoolSpec};
use crate::supervisor::reload::blocking::BindError;
use crate::supervisor::reload::on_change::{Continuation, PassedOver};
use blocking::BlockingPool;
use file_watch::FileWatch;
use lookup::Lookup;
use machine::{Action, Event, Reloads};
use on_change::OnChange;
use rotad_core::{PoolId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub(crate) use machine::Oneshot;
pub(crate) use request::ReloadRequest;

/// A configuration that has been read, with its sockets.
#[derive(Debug)]
pub(crate) struct PendingConfig {
    pub plan: Plan,
    /// The id of each of the plan's listeners. None: not open yet.
    pub sockets: Vec<Option<ListenerId>>,
    /// The oneshots that were started for it, each with its spec before. None: it is new.
    pub oneshots: BTreeMap<PoolId, Option<Arc<PoolSpec>>>,
    /// Pools of another kind whose names are oneshots now: removed by the commit.
    pub replaced: Vec<PoolId>,
}

/// The state of the reload, and what it works with.
pub(crate) struct Reload {
    pub(crate) state: ReloadState,
    pub(crate) blocking: BlockingPool,
    pub(crate) on_change: OnChange,
    pub(crate) file_watch: FileWatch,
}

type ReloadEvent = Event<ReloadRequest, Box<PendingConfig>, PassedOver>;
pub(crate) type ReloadAction = Action<ReloadRequest, Box<PendingConfig>, PassedOver>;

/// The state machine, and what it has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct ReloadState {
    machine: Reloads<ReloadRequest, Box<PendingConfig>>,
    events: VecDeque<ReloadEvent>,
    /// The number of the blocking job that it waits for.
    job: Option<u64>,
}

impl ReloadState {
    /// Whether the reload needs this socket, so that it must not be closed.
    pub(crate) fn holds(&self, listener: ListenerId) -> bool {
        self.machine
            .config()
            .is_some_and(|pending| pending.sockets.contains(&Some(listener)))
    }

    /// When the blocking job has taken too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.machine.deadline()
    }

    /// The request that is under way and those that wait, in their order.
    pub(crate) fn requests(&self) -> Vec<ReloadRequest> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::Requested(request) => Some(request),
            _ => None,
        });
        self.machine.requests().chain(told).cloned().collect()
    }

    /// A reload is running or waiting.
    pub(crate) fn is_active(&self) -> bool {
        self.machine.is_active()
    }

    /// Queues something that has happened for the machine.
    pub(crate) fn tell(&mut self, event: ReloadEvent) {
        self.events.push_back(event);
    }

    pub(crate) fn config(&self) -> Option<&PendingConfig> {
        self.machine.config().map(|config| &**config)
    }

    /// Tells the machine one of the things that have happened. Returns what is to be done for it; None: it knows all.
    pub(crate) fn next_actions(&mut self, now: Time) -> Option<Vec<ReloadAction>> {
        let event = self.events.pop_front()?;
        Some(self.machine.handle(now, event))
    }

    pub(crate) fn pending(&mut self) -> Option<&mut PendingConfig> {
        self.machine.config_mut().map(|config| &mut **config)
    }

    /// Whether the current reload waits for this blocking job; if so, it does not any more.
    fn take_job(&mut self, number: u64) -> bool {
        self.job.take_if(|job| *job == number).is_some()
    }
}

impl PendingConfig {
    pub(crate) fn pool(&self, name: &str) -> Option<&PoolPlan> {
        self.plan.pools.iter().find(|pool| pool.name == name)
    }

    /// The spec of a pool's next generation. None while one of its sockets is not open.
    pub(crate) fn spec(&self, pool: &PoolPlan) -> Option<PoolSpec> {
        let listeners: Option<Vec<ListenerId>> = pool
            .recipe
            .listen
            .iter()
            .map(|index| *self.sockets.get(*index)?)
            .collect();
        let sockets = pool
            .recipe
            .listen
            .iter()
            .filter_map(|index| self.plan.listeners.get(*index).cloned())
            .collect();
        Some(PoolSpec {
            plan: pool.clone(),
            sockets,
            listeners: listeners?,
        })
    }
}

impl Lookup<'_> {
    /// Log files that no pool writes yet: pool, file and access.
    fn new_logs(&self, plan: &Plan) -> Vec<(String, LogFile, FileAccess)> {
        let files = |pool: &PoolPlan| {
            [&pool.log.stdout, &pool.log.stderr].map(|sink| match sink {
                Sink::File(file) => Some(file.clone()),
                Sink::Master | Sink::Inherit | Sink::Null | Sink::Stdout => None,
            })
        };
        let known: Vec<LogFile> = self.plan.pools.iter().flat_map(files).flatten().collect();
        let all = plan
            .pools
            .iter()
            .flat_map(|pool| {
                files(pool).map(|file| Some((pool.name.clone(), file?, pool.log.access)))
            })
            .flatten();
        all.filter(|(_, file, _)| !known.contains(file)).collect()
    }

    /// Names one of our own sockets that may be in the way: one on a wildcard address, or one that still drains.
    fn own_address(&self, error: &SocketError) -> String {
        let port = error.address.rsplit_once(':').map(|(_, port)| port);
        let ours = self
            .listening
            .ids()
            .into_iter()
            .filter_map(|id| self.listening.get(id))
            .find(|listener| {
                let own = listener.addr_text();
                own.rsplit_once(':').map(|(_, port)| port) == port && !own.starts_with("unix:")
            });
        match ours {
            Some(listener) => {
                let own = listener.addr_text();
                format!(
                    "\nthis master itself listens on {own}: such a change wants `rotad stop` and `rotad start`"
                )
            }
            None => String::new(),
        }
    }
}

impl Supervisor {
    /// Queues a request. A burst of equal signals becomes one reload that runs and one that waits.
    pub(crate) fn reload(&mut self, request: ReloadRequest) {
        self.reload.state.tell(Event::Requested(request));
    }

    pub(crate) fn execute_reload(&mut self, action: ReloadAction) {
        match action {
            Action::Joined(request) => {
                tracing::debug!("{}: joins the reload that waits", request.who);
            }
            Action::Read => self.read_config(),
            Action::Open => self.open_addresses(),
            Action::ListOneshots => self.list_oneshots(),
            Action::RunOneshot(name) => {
                self.report_reload_progress(&format!("{name}: running"));
                self.run_oneshot(&name);
            }
            Action::UndoOneshots(config) => self.undo_oneshots(*config),
            Action::Compare => {
                let machine = &self.reload.state.machine;
                let comparisons = match (machine.request(), machine.config()) {
                    (Some(request), Some(config)) => {
                        self.lookup().comparisons_for_reload(request, &config.plan)
                    }
                    _ => Vec::new(),
                };
                if comparisons.is_empty() {
                    self.reload.state.tell(Event::Compared(PassedOver::new()));
                } else {
                    self.start_comparison(comparisons, Continuation::Commit);
                }
            }
            Action::Commit {
                request,
                config,
                passed_over,
            } => self.commit(request, *config, &passed_over),
            Action::Answer {
                request,
                code,
                text,
            } => self.answer_reload(&request, code, text),
        }
    }

    /// The stage ends the reload, and nothing was changed.
    fn end_reload(&mut self, code: ExitCode, text: String) {
        self.reload.state.tell(Event::Ended { code, text });
    }

    fn read_config(&mut self) {
        let Some(request) = self.reload.state.machine.request() else {
            return;
        };
        let (extent, who) = (request.extent, request.who.clone());
        let (cause, text) = match extent {
            ReloadScope::Everything => ("reload", "reading the configuration, then rolling"),
            ReloadScope::ConfigOnly => ("apply-config", "reading the configuration again"),
            ReloadScope::DryRun | ReloadScope::DryRunJson => ("dry-run", "what would a reload do?"),
        };
        self.emit_request(cause, format!("{who}: {text}"));
        match self.reload.blocking.read(
            self.plan.config.clone(),
            self.runtime.dir(),
            self.plan.control.clone(),
        ) {
            Ok(number) => self.reload.state.job = Some(number),
            Err(error) => {
                let text = format!(
                    "the configuration cannot be read: no thread: {error}\nnothing was changed"
                );
                return self.end_reload(ExitCode::FAILED, text);
            }
        }
        if !extent.is_dry_run() {
            self.service_manager.reloading();
            self.check_all_listeners();
        }
    }

    /// The configuration has been read, by the blocking job `number`.
    pub(crate) fn on_config_read(&mut self, number: u64, read: Result<(Plan, String), String>) {
        if self.reload.state.take_job(number) {
            self.config_read(read);
        }
    }

    /// The addresses and log files of the new configuration have been opened, by the blocking job `number`.
    pub(crate) fn on_addresses_bound(
        &mut self,
        number: u64,
        bound: Result<Vec<Listener>, BindError>,
    ) {
        if self.reload.state.take_job(number) {
            self.addresses_bound(bound);
        } else if let Ok(listeners) = bound {
            // Too late: the reload was abandoned meanwhile.
            for listener in listeners {
                self.reload.blocking.close(listener);
            }
        }
    }

    /// The blocking job may hang on some path: the machine gives it up.
    pub(crate) fn check_blocking_job(&mut self) {
        self.reload.state.job = None;
        self.reload.state.tell(Event::TimerFired);
    }

    fn config_read(&mut self, read: Result<(Plan, String), String>) {
        let (plan, warnings) = match read {
            Ok(read) => read,
            Err(findings) => {
                let text = format!(
                    "{}\nnothing was changed: the configuration from before holds",
                    findings.trim_end()
                );
                return self.end_reload(ExitCode::CONFIG, text);
            }
        };
        for warning in warnings.lines().filter(|line| !line.trim().is_empty()) {
            self.report_reload_progress(warning);
        }
        let Some(request) = self.reload.state.machine.request_mut() else {
            return;
        };
        let plans: Vec<&PoolPlan> = plan.pools.iter().collect();
        match pool_registry::expand(&request.which, &plans, true) {
            Ok(which) => request.which = which,
            Err(why) => {
                let text = format!("{why}\nnothing was changed");
                return self.end_reload(ExitCode::NOT_FOUND, text);
            }
        }
        let Some(request) = self.reload.state.machine.request() else {
            return;
        };
        if request.extent.is_dry_run() {
            let run = self.lookup().dry_run(request, &plan);
            let text = match request.extent {
                ReloadScope::DryRunJson => run.to_json(),
                _ => run.to_text(),
            };
            return self.end_reload(ExitCode::DONE, text);
        }
        if let Err(why) = self.lookup().has_room_for(&plan) {
            return self.end_reload(ExitCode::FAILED, format!("{why}\nnothing was changed"));
        }
        let sockets: Vec<Option<ListenerId>> = plan
            .listeners
            .iter()
            .map(|listener| self.listening.find(listener))
            .collect();
        let opens = sockets.contains(&None) || !self.lookup().new_logs(&plan).is_empty();
        let config = Box::new(PendingConfig {
            plan,
            sockets,
            oneshots: BTreeMap::new(),
            replaced: Vec::new(),
        });
        self.reload.state.tell(Event::Read { config, opens });
    }

    fn open_addresses(&mut self) {
        let Some(pending) = self.reload.state.machine.config() else {
            return;
        };
        let all = pending.plan.listeners.clone();
        let missing: Vec<ListenPlan> = all
            .iter()
            .zip(&pending.sockets)
            .filter(|(_, open)| open.is_none())
            .map(|(listener, _)| listener.clone())
            .collect();
        let logs = self.lookup().new_logs(&pending.plan);
        match self.reload.blocking.bind(missing, all, logs) {
            Ok(number) => self.reload.state.job = Some(number),
            Err(error) => self.end_reload(
                ExitCode::FAILED,
                format!("no address can be opened: {error}\nnothing was changed"),
            ),
        }
    }

    fn addresses_bound(&mut self, bound: Result<Vec<Listener>, BindError>) {
        let opened = match bound {
            Ok(opened) => opened,
            Err(BindError::Socket(error)) => {
                let text = format!(
                    "{error}{}\nnothing was changed",
                    self.lookup().own_address(&error)
                );
                return self.end_reload(ExitCode::FAILED, text);
            }
            Err(BindError::Log(text)) => {
                return self.end_reload(ExitCode::FAILED, format!("{text}\nnothing was changed"));
            }
        };
        let mut ids = Vec::new();
        for listener in opened {
            tracing::info!(
                listen = listener.name(),
                "listening on {}",
                listener.addr_text()
            );
            let id = self.listening.add(listener);
            let failure = self.listening.watch(id, &self.event_loop.poller);
            self.perform(failure);
            ids.push(id);
        }
        if let Some(pending) = self.reload.state.pending() {
            let free = pending.sockets.iter_mut().filter(|open| open.is_none());
            for (open, id) in free.zip(ids) {
                *open = Some(id);
            }
        }
        self.reload.state.tell(Event::Opened);
    }

    /// A client that does not wait is answered: what could be refused was not.
    fn list_oneshots(&mut self) {
        let (Some(request), Some(pending)) = (
            self.reload.state.machine.request(),
            self.reload.state.machine.config(),
        ) else {
            return;
        };
        let oneshots = self.lookup().oneshots_to_run(request, &pending.plan);
        if request.wait == Wait::No
            && let Some(client) = request.client
        {
            let lines = plan::diff(&self.plan, &pending.plan).lines();
            let text = if lines.is_empty() {
                "the configuration has not changed".to_owned()
            } else {
                lines.join("\n")
            };
            self.done(client, ExitCode::DONE, text);
            if let Some(request) = self.reload.state.machine.request_mut() {
                request.client = None;
            }
        }
        self.reload.state.tell(Event::Oneshots(oneshots));
    }

    pub(crate) fn answer_reload(&mut self, request: &ReloadRequest, code: ExitCode, text: String) {
        match (code, request.client) {
            (ExitCode::DONE, Some(_)) => {}
            (ExitCode::DONE, None) => tracing::info!("{text}"),
            _ => {
                let refused =
                    EventBuilder::new(EventKind::ConfigRefused, format!("{}: {text}", request.who));
                self.emit(refused.cause(refusal_cause(code)).error());
                // What a reload would do was asked for, or a pool that is not there.
                if !request.extent.is_dry_run() && code != ExitCode::NOT_FOUND {
                    self.counters.config_read(false);
                }
            }
        }
        if let Some(client) = request.client {
            self.answer(
                client,
                &Response::Done {
                    code,
                    message: text,
                },
                true,
            );
        }
    }

    /// Logs a line of progress of the reload under way and sends it to its client.
    fn report_reload_progress(&mut self, text: &str) {
        let client = self.reload.state.machine.request().and_then(|of| of.client);
        self.report_progress(client, text);
    }

    /// Everything stops: refuses all reloads.
    pub(crate) fn cancel_reloads(&mut self) {
        self.reload.state.job = None;
        self.reload.state.tell(Event::Stopping);
    }
}

/// The cause of a `config-refused` event, by the exit code of its client.
fn refusal_cause(code: ExitCode) -> &'static str {
    match code {
        ExitCode::CONFIG => "invalid",
        ExitCode::OLD_SERVE => "oneshot-failed",
        ExitCode::NOT_FOUND => "no-such-pool",
        _ => "failed",
    }
}
