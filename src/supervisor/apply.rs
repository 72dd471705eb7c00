//! Applying a changed configuration while the master runs: read it, compare it with what serves, open new addresses,
//! run its oneshots, and only then commit it (`commit.rs`).
//!
//! One reload runs at a time, in the order of the requests. Until the commit nothing has been touched, so any failure
//! leaves everything as it was.

use super::Supervisor;
use super::blocking::{BindError, JobResult};
use super::event_log::EventBuilder;
use super::listening::ListenerId;
use super::oneshots::Oneshots;
use super::pool_registry::PoolSpec;
use crate::control::protocol::{ReloadScope, Response, Selector, Wait};
use crate::listener::{Listener, SocketError};
use crate::observe::events::EventKind;
use crate::plan::{self, FileAccess, ListenPlan, Plan, PoolPlan, Sink};
use rotad_core::{Span, Time};
use std::collections::VecDeque;
use std::path::PathBuf;

/// How long a blocking job may take to read a configuration, or to open its new addresses and logs.
const JOB_TIMEOUT: Span = Span::from_secs(30);

/// Who asked for the configuration to be applied, and how far.
#[derive(Debug)]
pub(super) struct ReloadRequest {
    /// None: a signal, or a client that no longer waits.
    pub client: Option<u64>,
    /// Who asked, for the log.
    pub who: String,
    pub extent: ReloadScope,
    pub which: Selector,
    pub wait: Wait,
}

/// A configuration that has been read, with its sockets.
#[derive(Debug)]
pub(super) struct PendingConfig {
    pub plan: Plan,
    /// The id of each of the plan's listeners. None: not open yet.
    pub sockets: Vec<Option<ListenerId>>,
    /// The sockets that were opened for it.
    pub opened: Vec<ListenerId>,
}

#[derive(Debug)]
pub(super) enum ReloadStage {
    Reading,
    Binding(Box<PendingConfig>),
    RunningOneshots(Box<PendingConfig>, Oneshots),
    /// The oneshots have run; finding out which pools need not be rolled.
    Comparing(Box<PendingConfig>, Oneshots),
}

#[derive(Debug, Default)]
pub(super) struct ReloadQueue {
    queue: VecDeque<ReloadRequest>,
    current: Option<(ReloadRequest, ReloadStage)>,
    /// Number and start of the blocking job that it waits for.
    job: Option<(u64, Time)>,
    /// A oneshot has ended: the phase may go on once the inputs are drained.
    pub(super) resume_pending: bool,
}

impl ReloadQueue {
    /// Whether the reload needs this socket, so that it must not be closed.
    pub(super) fn holds(&self, listener: ListenerId) -> bool {
        match &self.current {
            Some((
                _,
                ReloadStage::Binding(pending)
                | ReloadStage::RunningOneshots(pending, _)
                | ReloadStage::Comparing(pending, _),
            )) => pending.sockets.contains(&Some(listener)),
            Some((_, ReloadStage::Reading)) | None => false,
        }
    }

    /// When the blocking job has taken too long.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.job.map(|(_, since)| since + JOB_TIMEOUT)
    }

    pub(super) fn oneshots(&mut self) -> Option<&mut Oneshots> {
        match &mut self.current {
            Some((_, ReloadStage::RunningOneshots(_, oneshots))) => Some(oneshots),
            _ => None,
        }
    }

    /// A reload is running or waiting.
    pub(super) fn is_active(&self) -> bool {
        self.current.is_some() || !self.queue.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<(ReloadRequest, ReloadStage)> {
        self.current.take()
    }

    pub(super) fn put(&mut self, request: ReloadRequest, stage: ReloadStage) {
        self.current = Some((request, stage));
    }
}

impl PendingConfig {
    pub(super) fn pool(&self, name: &str) -> Option<&PoolPlan> {
        self.plan.pools.iter().find(|pool| pool.name == name)
    }

    /// The spec of a pool's next generation. None while one of its sockets is not open.
    pub(super) fn spec(&self, pool: &PoolPlan) -> Option<PoolSpec> {
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

impl Supervisor {
    /// Queues a request. A burst of equal signals becomes one reload that runs and one that waits.
    pub(super) fn apply(&mut self, request: ReloadRequest) {
        if self.stopping {
            return self.answer_reload(&request, 1, "superseded: everything stops".to_owned());
        }
        let joins = |other: &ReloadRequest| {
            let everything = |request: &ReloadRequest| request.which == Selector::default();
            request.client.is_none()
                && other.client.is_none()
                && other.extent == request.extent
                && everything(&request)
                && everything(other)
        };
        if self.reloads.queue.iter().any(joins) {
            return tracing::debug!("{}: joins the reload that waits", request.who);
        }
        self.reloads.queue.push_back(request);
        self.start_next_reload();
    }

    pub(super) fn start_next_reload(&mut self) {
        while self.reloads.current.is_none()
            && let Some(request) = self.reloads.queue.pop_front()
        {
            match request.extent {
                ReloadScope::Everything => {
                    self.emit_request(
                        "reload",
                        format!("{}: reading the configuration, then rolling", request.who),
                    );
                }
                ReloadScope::ConfigOnly => {
                    self.emit_request(
                        "apply-config",
                        format!("{}: reading the configuration again", request.who),
                    );
                }
                ReloadScope::DryRun => self.emit_request(
                    "dry-run",
                    format!("{}: what would a reload do?", request.who),
                ),
            }
            match self.blocking.read(
                self.plan.config.clone(),
                self.runtime_dir.clone(),
                self.plan.control.clone(),
            ) {
                Ok(number) => self.reloads.job = Some((number, self.clock.now())),
                Err(error) => {
                    let text = format!(
                        "the configuration cannot be read: no thread: {error}\nnothing was changed"
                    );
                    self.answer_reload(&request, 1, text);
                    continue;
                }
            }
            if request.extent != ReloadScope::DryRun {
                self.reloading();
                self.check_all_listeners();
            }
            self.reloads.put(request, ReloadStage::Reading);
        }
    }

    pub(super) fn on_blocking_results(&mut self) {
        while let Some(result) = self.blocking.next_result() {
            let is_awaited = |number: u64| self.reloads.job.is_some_and(|(job, _)| job == number);
            match result {
                JobResult::Failed(text) => tracing::warn!("{text}"),
                JobResult::ConfigRead(number, read) if is_awaited(number) => {
                    self.reloads.job = None;
                    if let Some((request, _)) = self.reloads.take() {
                        self.config_read(request, *read);
                    }
                }
                JobResult::FileOwnershipSet(name) => {
                    tracing::info!("listener {name}: its file has its owner and mode")
                }
                JobResult::ListenerChecked(number, checked) => {
                    self.on_listener_checked(number, checked)
                }
                JobResult::Bound(number, bound) if is_awaited(number) => {
                    self.reloads.job = None;
                    if let Some((request, ReloadStage::Binding(pending))) = self.reloads.take() {
                        self.addresses_bound(request, pending, bound);
                    }
                }
                JobResult::RuntimeDirRepaired(repaired) => self.on_runtime_dir_repaired(repaired),
                JobResult::Compared {
                    round,
                    pool,
                    changed,
                } => self.on_compared(round, pool, changed),
                JobResult::Usage { client, found } => self.on_usage(client, found),
                JobResult::ConfigResolved {
                    client,
                    request,
                    real,
                } => self.on_config_resolved(client, *request, real.as_deref()),
                // Too late: the reload was abandoned meanwhile.
                JobResult::Bound(_, Ok(listeners)) => listeners
                    .into_iter()
                    .for_each(|listener| self.blocking.close(listener)),
                JobResult::ConfigRead(..) | JobResult::Bound(_, Err(_)) => {}
            }
        }
    }

    /// The blocking job hangs on some path: gives up on it, so that the next request has its turn.
    pub(super) fn check_blocking_job(&mut self) {
        self.reloads.job = None;
        let Some((request, stage)) = self.reloads.take() else {
            return;
        };
        let what = match stage {
            ReloadStage::Reading => "the configuration could not be read",
            ReloadStage::Binding(_)
            | ReloadStage::RunningOneshots(..)
            | ReloadStage::Comparing(..) => "the new addresses and logs could not be opened",
        };
        let text = format!(
            "{what} within {} s: a disk hangs?\nnothing was changed",
            JOB_TIMEOUT.as_millis() / 1000
        );
        self.finish_unchanged(request, 1, text);
    }

    fn config_read(&mut self, request: ReloadRequest, read: Result<(Plan, String), String>) {
        let (plan, warnings) = match read {
            Ok(read) => read,
            Err(findings) => {
                let text = format!(
                    "{}\nnothing was changed: the configuration from before holds",
                    findings.trim_end()
                );
                return self.finish_unchanged(request, 78, text);
            }
        };
        for warning in warnings.lines().filter(|line| !line.trim().is_empty()) {
            self.report_reload_progress(&request, warning);
        }
        let unknown = request
            .which
            .pools
            .iter()
            .find(|name| !plan.pools.iter().any(|pool| pool.name == **name));
        if let Some(unknown) = unknown {
            let names: Vec<&str> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
            let text = format!(
                "no such pool: {unknown}; there are: {}\nnothing was changed",
                names.join(", ")
            );
            return self.finish_unchanged(request, 4, text);
        }
        if request.extent == ReloadScope::DryRun {
            let text = self.dry_run_text(&request, &plan);
            return self.finish_unchanged(request, 0, text);
        }
        if let Err(why) = self.has_room_for(&plan) {
            return self.finish_unchanged(request, 1, format!("{why}\nnothing was changed"));
        }
        let sockets: Vec<Option<ListenerId>> = plan
            .listeners
            .iter()
            .map(|listener| self.listening.find(listener))
            .collect();
        let missing: Vec<ListenPlan> = plan
            .listeners
            .iter()
            .zip(&sockets)
            .filter(|(_, open)| open.is_none())
            .map(|(listener, _)| listener.clone())
            .collect();
        let all = plan.listeners.clone();
        let logs = self.new_logs(&plan);
        let pending = Box::new(PendingConfig {
            plan,
            sockets,
            opened: Vec::new(),
        });
        if missing.is_empty() && logs.is_empty() {
            return self.start_oneshots(request, pending);
        }
        match self.blocking.bind(missing, all, logs) {
            Ok(number) => {
                self.reloads.job = Some((number, self.clock.now()));
                self.reloads.put(request, ReloadStage::Binding(pending));
            }
            Err(error) => self.finish_unchanged(
                request,
                1,
                format!("no address can be opened: {error}\nnothing was changed"),
            ),
        }
    }

    /// Log files that no pool writes yet: pool, path and access.
    fn new_logs(&self, plan: &Plan) -> Vec<(String, PathBuf, FileAccess)> {
        let files = |pool: &PoolPlan| {
            [&pool.log.stdout, &pool.log.stderr].map(|sink| match sink {
                Sink::File(path) => Some(path.clone()),
                Sink::Master | Sink::Inherit | Sink::Null | Sink::Stdout => None,
            })
        };
        let known: Vec<PathBuf> = self.plan.pools.iter().flat_map(files).flatten().collect();
        let all = plan
            .pools
            .iter()
            .flat_map(|pool| {
                files(pool).map(|file| Some((pool.name.clone(), file?, pool.log.access)))
            })
            .flatten();
        all.filter(|(_, file, _)| !known.contains(file)).collect()
    }

    fn addresses_bound(
        &mut self,
        request: ReloadRequest,
        mut pending: Box<PendingConfig>,
        bound: Result<Vec<Listener>, BindError>,
    ) {
        let opened = match bound {
            Ok(opened) => opened,
            Err(BindError::Socket(error)) => {
                let text = format!("{error}{}\nnothing was changed", self.own_address(&error));
                return self.finish_unchanged(request, 1, text);
            }
            Err(BindError::Log(text)) => {
                return self.finish_unchanged(request, 1, format!("{text}\nnothing was changed"));
            }
        };
        let free: Vec<usize> = pending
            .sockets
            .iter()
            .enumerate()
            .filter(|(_, open)| open.is_none())
            .map(|(index, _)| index)
            .collect();
        for (listener, index) in opened.into_iter().zip(free) {
            tracing::info!(
                listen = listener.name(),
                "listening on {}",
                listener.addr_text()
            );
            let id = self.listening.add(listener);
            self.watch_listener(id);
            pending.sockets[index] = Some(id);
            pending.opened.push(id);
        }
        self.start_oneshots(request, pending);
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

    fn start_oneshots(&mut self, mut request: ReloadRequest, pending: Box<PendingConfig>) {
        if request.wait == Wait::No && request.client.is_some() {
            let lines = plan::diff(&self.plan, &pending.plan).lines();
            let text = if lines.is_empty() {
                "the configuration has not changed".to_owned()
            } else {
                lines.join("\n")
            };
            self.answer_reload(&request, 0, text);
            request.client = None;
        }
        let oneshots = self.oneshots_to_run(&request, &pending.plan);
        self.reloads
            .put(request, ReloadStage::RunningOneshots(pending, oneshots));
        self.continue_oneshots();
    }

    /// Ends a reload that changes nothing, and starts the next one.
    pub(super) fn finish_unchanged(&mut self, request: ReloadRequest, code: u8, text: String) {
        self.answer_reload(&request, code, text);
        self.start_next_reload();
    }

    pub(super) fn answer_reload(&mut self, request: &ReloadRequest, code: u8, text: String) {
        match (code, request.client) {
            (0, Some(_)) => {}
            (0, None) => tracing::info!("{text}"),
            _ => {
                let refused =
                    EventBuilder::new(EventKind::ConfigRefused, format!("{}: {text}", request.who));
                self.emit(refused.cause(refusal_cause(code)).error());
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

    /// Logs a line of progress and sends it to the client.
    pub(super) fn report_reload_progress(&mut self, request: &ReloadRequest, text: &str) {
        tracing::info!("{text}");
        if let Some(client) = request.client {
            self.answer(
                client,
                &Response::Progress {
                    text: text.to_owned(),
                },
                false,
            );
        }
    }

    /// Everything stops: refuses all reloads.
    pub(super) fn cancel_reloads(&mut self) {
        let now = self.reloads.current.take();
        self.reloads.job = None;
        let waiting: Vec<ReloadRequest> = std::mem::take(&mut self.reloads.queue).into();
        for request in now.into_iter().map(|(request, _)| request).chain(waiting) {
            self.answer_reload(&request, 1, "superseded: everything stops".to_owned());
        }
    }
}

/// The cause of a `config-refused` event, by the exit code of its client.
fn refusal_cause(code: u8) -> &'static str {
    match code {
        78 => "invalid",
        10 => "oneshot-failed",
        4 => "no-such-pool",
        _ => "failed",
    }
}
