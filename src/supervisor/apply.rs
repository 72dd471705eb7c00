//! A configuration that changes while it is in force: read, compared with what serves, new addresses opened, oneshots run,
//! and only then carried out (`commit.rs`). One at a time, in the order of asking; until the last moment nothing has
//! been touched, so whatever goes wrong leaves everything as it was.

use super::Supervisor;
use super::blocking::{JobResult, Unbound};
use super::event_log::EventBuilder;
use super::listening::ListenerId;
use super::oneshots::Oneshots;
use super::pool_registry::PoolSpec;
use crate::control::wire::{ReloadScope, Response, Selector, Wait};
use crate::listener::{Listener, SocketError};
use crate::observe::events::EventKind;
use crate::plan::{self, FileAccess, ListenPlan, Plan, PoolPlan, Sink};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the clerk may take to read a configuration, or to open what is new in it.
const LONGEST_ERRAND: Duration = Duration::from_secs(30);

/// Who wants the configuration applied, and how far.
#[derive(Debug)]
pub(super) struct ReloadRequest {
    /// None: a signal, or a client that does not wait any more.
    pub client: Option<u64>,
    /// For the diary.
    pub who: String,
    pub extent: ReloadScope,
    pub which: Selector,
    pub wait: Wait,
}

/// A configuration that has been read, with its sockets.
#[derive(Debug)]
pub(super) struct PendingConfig {
    pub plan: Plan,
    /// The number of each of the plan's listeners; none: not open yet.
    pub sockets: Vec<Option<ListenerId>>,
    /// Those that were opened for it.
    pub opened: Vec<ListenerId>,
}

#[derive(Debug)]
pub(super) enum Stage {
    Reading,
    Binding(Box<PendingConfig>),
    RunningOneshots(Box<PendingConfig>, Oneshots),
    /// The oneshots have run: it is found out which pools need not be rolled.
    Comparing(Box<PendingConfig>, Oneshots),
}

#[derive(Debug, Default)]
pub(super) struct ReloadQueue {
    queue: VecDeque<ReloadRequest>,
    now: Option<(ReloadRequest, Stage)>,
    /// What the clerk does for it, and since when.
    errand: Option<(u64, Instant)>,
    /// The oneshot phase may be able to go on.
    pub(super) stirred: bool,
}

impl ReloadQueue {
    /// Sockets that must not be closed meanwhile.
    pub(super) fn holds(&self, listener: ListenerId) -> bool {
        match &self.now {
            Some((_, Stage::Binding(draft) | Stage::RunningOneshots(draft, _) | Stage::Comparing(draft, _))) => {
                draft.sockets.contains(&Some(listener))
            }
            Some((_, Stage::Reading)) | None => false,
        }
    }

    /// When the clerk has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.errand.map(|(_, since)| since + LONGEST_ERRAND)
    }

    /// The whole process stood still for so long.
    pub(super) fn paused(&mut self, by: Duration) {
        if let Some((_, since)) = &mut self.errand {
            *since += by;
        }
    }

    pub(super) fn oneshots(&mut self) -> Option<&mut Oneshots> {
        match &mut self.now {
            Some((_, Stage::RunningOneshots(_, oneshots))) => Some(oneshots),
            _ => None,
        }
    }

    /// A wish is under way, or waits.
    pub(super) fn is_under_way(&self) -> bool {
        self.now.is_some() || !self.queue.is_empty()
    }

    pub(super) fn take(&mut self) -> Option<(ReloadRequest, Stage)> {
        self.now.take()
    }

    pub(super) fn put(&mut self, wish: ReloadRequest, stage: Stage) {
        self.now = Some((wish, stage));
    }
}

impl PendingConfig {
    pub(super) fn pool(&self, name: &str) -> Option<&PoolPlan> {
        self.plan.pools.iter().find(|pool| pool.name == name)
    }

    /// What the next generation of a pool is made from. None while a socket is missing.
    pub(super) fn pattern(&self, pool: &PoolPlan) -> Option<PoolSpec> {
        let listeners: Option<Vec<ListenerId>> =
            pool.recipe.listen.iter().map(|index| *self.sockets.get(*index)?).collect();
        let sockets = pool.recipe.listen.iter().filter_map(|index| self.plan.listeners.get(*index).cloned()).collect();
        Some(PoolSpec { plan: pool.clone(), sockets, listeners: listeners? })
    }
}

impl Supervisor {
    /// Takes a wish in. A burst of signals is one that runs and one that waits.
    pub(super) fn apply(&mut self, wish: ReloadRequest) {
        if self.stopping {
            return self.answer_wish(&wish, 1, "superseded: everything stops".to_owned());
        }
        let joins = |other: &ReloadRequest| {
            let everything = |wish: &ReloadRequest| wish.which == Selector::default();
            wish.client.is_none()
                && other.client.is_none()
                && other.extent == wish.extent
                && everything(&wish)
                && everything(other)
        };
        if self.reloads.queue.iter().any(joins) {
            return tracing::debug!("{}: joins the one that waits", wish.who);
        }
        self.reloads.queue.push_back(wish);
        self.next_wish();
    }

    pub(super) fn next_wish(&mut self) {
        while self.reloads.now.is_none()
            && let Some(wish) = self.reloads.queue.pop_front()
        {
            match wish.extent {
                ReloadScope::Everything => {
                    self.asked_for("reload", format!("{}: reading the configuration, then rolling", wish.who));
                }
                ReloadScope::ConfigOnly => {
                    self.asked_for("apply-config", format!("{}: reading the configuration again", wish.who));
                }
                ReloadScope::DryRun => self.asked_for("dry-run", format!("{}: what would a reload do?", wish.who)),
            }
            match self.blocking.read(self.plan.config.clone(), self.runtime_dir.clone(), self.plan.control.clone()) {
                Ok(number) => self.reloads.errand = Some((number, Instant::now())),
                Err(error) => {
                    let text = format!("the configuration cannot be read: no thread: {error}\nnothing was changed");
                    self.answer_wish(&wish, 1, text);
                    continue;
                }
            }
            if wish.extent != ReloadScope::DryRun {
                self.reloading();
                self.look_after_sockets();
            }
            self.reloads.put(wish, Stage::Reading);
        }
    }

    pub(super) fn on_blocking_results(&mut self) {
        while let Some(told) = self.blocking.told() {
            let is_awaited = |number: u64| self.reloads.errand.is_some_and(|(errand, _)| errand == number);
            match told {
                JobResult::Trouble(text) => tracing::warn!("{text}"),
                JobResult::Read(number, read) if is_awaited(number) => {
                    self.reloads.errand = None;
                    if let Some((wish, _)) = self.reloads.take() {
                        self.config_read(wish, *read);
                    }
                }
                JobResult::Dressed(name) => tracing::info!("listener {name}: its file has its owner and mode"),
                JobResult::Looked(number, looked) => self.looked(number, looked),
                JobResult::Bound(number, bound) if is_awaited(number) => {
                    self.reloads.errand = None;
                    if let Some((wish, Stage::Binding(draft))) = self.reloads.take() {
                        self.bound(wish, draft, bound);
                    }
                }
                JobResult::Mended(mended) => self.mended(mended),
                JobResult::Compared { round, pool, changed } => self.compared(round, pool, changed),
                JobResult::Led { client, question, real } => self.led(client, *question, real.as_deref()),
                // Too late, or everything stopped meanwhile.
                JobResult::Bound(_, Ok(listeners)) => {
                    listeners.into_iter().for_each(|listener| self.blocking.close(listener))
                }
                JobResult::Read(..) | JobResult::Bound(_, Err(_)) => {}
            }
        }
    }

    /// A path hangs that the clerk has to look at: nobody waits for it any longer, so that the next wish has its turn.
    pub(super) fn check_blocking_job(&mut self) {
        self.reloads.errand = None;
        let Some((wish, stage)) = self.reloads.take() else { return };
        let what = match stage {
            Stage::Reading => "the configuration could not be read",
            Stage::Binding(_) | Stage::RunningOneshots(..) | Stage::Comparing(..) => {
                "the new addresses and logs could not be opened"
            }
        };
        let text = format!("{what} within {} s: a disk hangs?\nnothing was changed", LONGEST_ERRAND.as_secs());
        self.refuse(wish, 1, text);
    }

    fn config_read(&mut self, wish: ReloadRequest, read: Result<(Plan, String), String>) {
        let (plan, warnings) = match read {
            Ok(read) => read,
            Err(findings) => {
                let text = format!("{}\nnothing was changed: the configuration from before holds", findings.trim_end());
                return self.refuse(wish, 78, text);
            }
        };
        for warning in warnings.lines().filter(|line| !line.trim().is_empty()) {
            self.tell_wish(&wish, warning);
        }
        let unknown = wish.which.pools.iter().find(|name| !plan.pools.iter().any(|pool| pool.name == **name));
        if let Some(unknown) = unknown {
            let names: Vec<&str> = plan.pools.iter().map(|pool| pool.name.as_str()).collect();
            let text = format!("no such pool: {unknown}; there are: {}\nnothing was changed", names.join(", "));
            return self.refuse(wish, 4, text);
        }
        if wish.extent == ReloadScope::DryRun {
            let text = self.what_would_be(&wish, &plan);
            return self.refuse(wish, 0, text);
        }
        if let Err(why) = self.has_room_for(&plan) {
            return self.refuse(wish, 1, format!("{why}\nnothing was changed"));
        }
        let sockets: Vec<Option<ListenerId>> =
            plan.listeners.iter().map(|listener| self.listening.find(listener)).collect();
        let missing: Vec<ListenPlan> = plan
            .listeners
            .iter()
            .zip(&sockets)
            .filter(|(_, open)| open.is_none())
            .map(|(listener, _)| listener.clone())
            .collect();
        let all = plan.listeners.clone();
        let logs = self.new_logs(&plan);
        let draft = Box::new(PendingConfig { plan, sockets, opened: Vec::new() });
        if missing.is_empty() && logs.is_empty() {
            return self.start_oneshots(wish, draft);
        }
        match self.blocking.bind(missing, all, logs) {
            Ok(number) => {
                self.reloads.errand = Some((number, Instant::now()));
                self.reloads.put(wish, Stage::Binding(draft));
            }
            Err(error) => self.refuse(wish, 1, format!("no address can be opened: {error}\nnothing was changed")),
        }
    }

    /// Log files that no pool writes yet: the pool and the path.
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
            .flat_map(|pool| files(pool).map(|file| Some((pool.name.clone(), file?, pool.log.access))))
            .flatten();
        all.filter(|(_, file, _)| !known.contains(file)).collect()
    }

    fn bound(&mut self, wish: ReloadRequest, mut draft: Box<PendingConfig>, bound: Result<Vec<Listener>, Unbound>) {
        let opened = match bound {
            Ok(opened) => opened,
            Err(Unbound::Socket(error)) => {
                let text = format!("{error}{}\nnothing was changed", self.own_address(&error));
                return self.refuse(wish, 1, text);
            }
            Err(Unbound::Log(text)) => return self.refuse(wish, 1, format!("{text}\nnothing was changed")),
        };
        let free: Vec<usize> =
            draft.sockets.iter().enumerate().filter(|(_, open)| open.is_none()).map(|(index, _)| index).collect();
        for (listener, index) in opened.into_iter().zip(free) {
            tracing::info!(listen = listener.name(), "listening on {}", listener.addr_text());
            let id = self.listening.add(listener);
            self.watch_listener(id);
            draft.sockets[index] = Some(id);
            draft.opened.push(id);
        }
        self.start_oneshots(wish, draft);
    }

    /// One of our own sockets may be in the way: that of a wildcard address, or one that still drains.
    fn own_address(&self, error: &SocketError) -> String {
        let port = error.address.rsplit_once(':').map(|(_, port)| port);
        let ours = self.listening.ids().into_iter().filter_map(|id| self.listening.get(id)).find(|listener| {
            let own = listener.addr_text();
            own.rsplit_once(':').map(|(_, port)| port) == port && !own.starts_with("unix:")
        });
        match ours {
            Some(listener) => {
                let own = listener.addr_text();
                format!("\nthis master itself listens on {own}: such a change wants `rotad stop` and `rotad start`")
            }
            None => String::new(),
        }
    }

    fn start_oneshots(&mut self, mut wish: ReloadRequest, draft: Box<PendingConfig>) {
        if wish.wait == Wait::No && wish.client.is_some() {
            let lines = plan::diff(&self.plan, &draft.plan).lines();
            let text = if lines.is_empty() { "the configuration has not changed".to_owned() } else { lines.join("\n") };
            self.answer_wish(&wish, 0, text);
            wish.client = None;
        }
        let oneshots = self.oneshots_to_run(&wish, &draft.plan);
        self.reloads.put(wish, Stage::RunningOneshots(draft, oneshots));
        self.continue_oneshots();
    }

    /// The end of an apply that changes nothing.
    pub(super) fn refuse(&mut self, wish: ReloadRequest, code: u8, text: String) {
        self.answer_wish(&wish, code, text);
        self.next_wish();
    }

    pub(super) fn answer_wish(&mut self, wish: &ReloadRequest, code: u8, text: String) {
        match (code, wish.client) {
            (0, Some(_)) => {}
            (0, None) => tracing::info!("{text}"),
            _ => {
                let refused = EventBuilder::new(EventKind::ConfigRefused, format!("{}: {text}", wish.who));
                self.emit(refused.cause(refusal(code)).error());
            }
        }
        if let Some(client) = wish.client {
            self.answer(client, &Response::Done { code, message: text }, true);
        }
    }

    /// A line for the diary and for whoever waits.
    pub(super) fn tell_wish(&mut self, wish: &ReloadRequest, text: &str) {
        tracing::info!("{text}");
        if let Some(client) = wish.client {
            self.answer(client, &Response::Progress { text: text.to_owned() }, false);
        }
    }

    /// Everything stops: nobody's configuration is applied any more.
    pub(super) fn give_up_applying(&mut self) {
        let now = self.reloads.now.take();
        self.reloads.errand = None;
        let waiting: Vec<ReloadRequest> = std::mem::take(&mut self.reloads.queue).into();
        for wish in now.into_iter().map(|(wish, _)| wish).chain(waiting) {
            self.answer_wish(&wish, 1, "superseded: everything stops".to_owned());
        }
    }
}

/// Why nothing came of a configuration, by the exit code of the one who asked.
fn refusal(code: u8) -> &'static str {
    match code {
        78 => "invalid",
        10 => "oneshot-failed",
        4 => "no-such-pool",
        _ => "failed",
    }
}
