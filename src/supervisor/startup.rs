//! From a plan to a standing master, in the order in which things have to stand: the lock, what a dead master left,
//! signal handlers, sockets, the log, the control socket, and only then the pid file.

use super::apply::ReloadQueue;
use super::blocking::{BlockingPool, Reader};
use super::cgroups::WorkerCgroups;
use super::event_log::EventLog;
use super::exit_report::ExitReports;
use super::fd_budget::raise_nofile;
use super::file_watch::FileWatch;
use super::health::Health;
use super::launch::StartWatch;
use super::listening::Listening;
use super::log_clients::LogClients;
use super::on_change::OnChange;
use super::orphans::Orphans;
use super::pool_registry::{PoolRegistry, PoolSpec};
use super::process_table::ProcessTable;
use super::runtime_files::{self, RuntimeFiles};
use super::service_manager::ServiceManager;
use super::spawn_spec::SpawnSpecs;
use super::tickets::Tickets;
use super::waiters::Waiters;
use super::{Failed, Supervisor};
use crate::control::server::Server;
use crate::daemon::StartContext;
use crate::event_loop::clock::Clock;
use crate::event_loop::poller::{Interest, Poller, Source};
use crate::event_loop::signals::{Meaning, Signals};
use crate::event_loop::waker::Waker;
use crate::listener::{self, ActivationSocket, Listener};
use crate::log::{self, LogWriter, MasterLog, Rotation};
use crate::observe::diary;
use crate::plan::{Plan, PoolPlan, Sink};
use crate::probe::accept::AcceptProbe;
use crate::process::orphan_scanner::OrphanScanner;
use crate::process::tree;
use crate::process::{Spawner, SpawnerConfig, shim};
use crate::runtime_dir::stale_workers::{Manner, Nudge, StaleWorker, StaleWorkers, WorkerJournal};
use crate::runtime_dir::{NOTIFY, RuntimeDir, RuntimeDirRepair, make_notify_dir};
use crate::sys;
use rotad_core::{Engine, Span, Time};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While leftovers are being stopped, those that are still there are named this often.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// More of them are not named in one line.
const MOST_NAMES: usize = 20;

impl Failed {
    pub(super) fn at(what: &str, error: impl std::fmt::Display) -> Self {
        Self { code: 1, message: format!("{what}: {error}") }
    }
}

/// What stands before the keeper does.
struct Ground {
    house: RuntimeDir,
    nofile: (u64, u64),
    signals: Signals,
    listeners: Vec<Listener>,
    pen: LogWriter,
    server: Server,
    journal: WorkerJournal,
    tag: String,
    took_over: Option<String>,
    fence: WorkerCgroups,
    managing: ServiceManager,
}

impl Supervisor {
    pub(super) fn start(plan: Plan, mut launch: StartContext, reader: Reader) -> Result<Self, (StartContext, Failed)> {
        let passed = std::mem::take(&mut launch.passed);
        match prepare(&plan, &mut launch, passed).and_then(|ground| Standing::on(&plan, ground)) {
            Ok(standing) => Ok(standing.supervisor(plan, launch, reader)),
            Err(failed) => Err((launch, failed)),
        }
    }
}

fn prepare(plan: &Plan, launch: &mut StartContext, passed: Vec<ActivationSocket>) -> Result<Ground, Failed> {
    let (mut house, signs) = RuntimeDir::enter(plan).map_err(|e| Failed { code: e.code, message: e.message })?;
    let left = leftovers(plan, launch, &house)?;
    sys::reaper::become_subreaper().map_err(|e| Failed::at("cannot become the reaper of orphans", e))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(plan.master.umask));
    let nofile = raise_nofile(plan)?;
    let pen = open_pen(plan, launch)?;
    // Before workers of a killed master are stopped: that may take as long as a stop, and may be stopped itself.
    let mut signals = Signals::install(plan.signals, launch.hup_ignored)
        .map_err(|e| Failed::at("cannot install signal handlers", e))?;
    let mut managing = ServiceManager::begin(launch.started_as);
    let took_over = TakeOver { plan, pen: &pen, launch, signals: &mut signals, managing: &mut managing }.begin(left)?;
    let listeners =
        listener::open_all(&plan.listeners, passed).map_err(|e| Failed { code: 1, message: e.to_string() })?;
    let control = house
        .control_socket(plan.control.mode, plan.control.group)
        .map_err(|e| Failed::at("cannot open the control socket", e))?;
    let mut server = Server::new(control, plan.control.mode);
    server.tell_where(&runtime_files::here(house.path()));
    signs.into_iter().for_each(|sign| server.add_sign(sign.path, sign.listener));
    let notify_dir = house.path().join(NOTIFY);
    make_notify_dir(&notify_dir).map_err(|e| Failed::at(&format!("cannot make {}", notify_dir.display()), e))?;
    let fence = WorkerCgroups::find(&plan.master.name);
    let tag = new_tag();
    // Before the first birth, and not without it: nobody would know the workers of a master that is killed.
    let journal = WorkerJournal::open(house.path(), &tag, fence.base())
        .map_err(|e| Failed::at(&format!("cannot write the list of workers in {}", house.path().display()), e))?;
    house.write_pid().map_err(|e| Failed { code: e.code, message: e.message })?;
    tracing::info!(
        pid = std::process::id(),
        config = %plan.config.display(),
        "rotad {} begins: {}", env!("CARGO_PKG_VERSION"), plan.master.name
    );
    for warning in std::mem::take(&mut house.warnings) {
        tracing::warn!("{warning}");
    }
    if launch.hup_ignored {
        tracing::warn!("HUP was ignored when we were started (nohup), and stays so");
    }
    Ok(Ground { house, nofile, signals, listeners, pen, server, journal, tag, took_over, fence, managing })
}

/// What ROTAD_WORKER of each worker of this master begins with. The moment makes it unique over reboots and reused pids.
fn new_tag() -> String {
    let born = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), born.as_micros())
}

/// What a master killed by -9 left behind: it is to be stopped, unless that was forbidden.
fn leftovers(plan: &Plan, launch: &StartContext, house: &RuntimeDir) -> Result<StaleWorkers, Failed> {
    let left =
        StaleWorkers::find_as_heir(house.path()).map_err(|e| Failed::at("cannot read what a dead master left", e))?;
    if left.found.is_empty() || !launch.no_take_over {
        return Ok(left);
    }
    let message = format!(
        "a master of {} was killed, and these processes of it still run:\n{}\nwithout --no-take-over, `rotad start` and \
         `rotad run` stop them by their stop steps before they start anything",
        plan.config.display(),
        names(&left.found)
    );
    Err(Failed { code: 1, message })
}

/// Stops what a dead master left. What these workers still print is written meanwhile: one that waits for room in its
/// pipe could not end.
struct TakeOver<'a> {
    plan: &'a Plan,
    pen: &'a LogWriter,
    launch: &'a mut StartContext,
    signals: &'a mut Signals,
    managing: &'a mut ServiceManager,
}

impl TakeOver<'_> {
    /// What came of it, in a line; none: there was nothing to stop.
    fn begin(self, left: StaleWorkers) -> Result<Option<String>, Failed> {
        for pid in &left.riddles {
            tracing::warn!(
                pid,
                "started after a master that was killed, and cannot be looked into (its memory is locked, a disk may \
                 hang): if it is a worker of that master, it runs on"
            );
        }
        if left.found.is_empty() {
            return Ok(None);
        }
        let dead = left.master().unwrap_or(0);
        let manners: BTreeMap<String, Manner> =
            self.plan.pools.iter().map(|pool| (pool.name.clone(), manner(pool))).collect();
        let text = format!(
            "a master that was killed (pid {dead}) has left {}; each is stopped by its stop steps before anything is started",
            short(&left.found)
        );
        tracing::warn!("{text}");
        self.launch.report.progress(&text);
        for pipe in left.pipes() {
            let (pool, slot) = (pipe.pool.clone(), pipe.slot);
            let log = self.plan.pools.iter().find(|plan| plan.name == pool).map(|plan| &plan.log);
            if let Err(error) = self.pen.adopt_stale(pipe, log) {
                tracing::warn!(pool, slot, "what a dead master's worker still prints cannot be read: {error}");
            }
        }
        let cap = self.plan.master.stop_timeout.map(|cap| Span::from_millis(cap.as_millis() as u64));
        let bell = self.signals.as_fd().try_clone_to_owned().ok();
        let mut stop = Stop::default();
        let mut said = Instant::now();
        let Self { pen, launch, signals, managing, .. } = self;
        let done = left.take_over(&manners, cap, bell.as_ref().map(AsFd::as_fd), |left| {
            for came in signals.pending() {
                stop.heard(came.meaning, &came.text);
            }
            managing.taking_over(left.len());
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                let text = format!("still being stopped: {}", short(left));
                tracing::info!("{text}");
                launch.report.progress(&text);
            }
            if stop.now { Nudge::KillNow } else { Nudge::None }
        });
        managing.taken_over();
        pen.drain();
        if !done.stubborn.is_empty() {
            let message = format!(
                "these processes of a killed master cannot be ended by the kernel, and nothing is started beside them:\n{}",
                names(&done.stubborn)
            );
            return Err(Failed { code: 1, message });
        }
        let cut = match &done.cut[..] {
            [] => String::new(),
            cut => format!("; killed at the end of their stop steps: {}", cut.join(", ")),
        };
        let text = format!("what a killed master (pid {dead}) had left is stopped ({} processes){cut}", done.found);
        tracing::warn!("{text}");
        if stop.asked {
            // `run` was asked to stop, and has; whoever waits for a start has none.
            let code = if launch.foreground { 0 } else { 1 };
            return Err(Failed { code, message: format!("{text}; stopped before anything was started") });
        }
        launch.report.progress(&text);
        Ok(Some(text))
    }
}

/// A stop that comes while leftovers are being stopped.
#[derive(Default)]
struct Stop {
    asked: bool,
    interrupted: bool,
    now: bool,
}

impl Stop {
    fn heard(&mut self, meaning: Meaning, text: &str) {
        match meaning {
            Meaning::Stop | Meaning::Interrupt => {
                self.now |= meaning == Meaning::Interrupt && self.interrupted;
                self.interrupted |= meaning == Meaning::Interrupt;
                self.asked = true;
                let how = if self.now { "what is left is killed" } else { "nothing will be started" };
                tracing::info!("{text}: {how}");
            }
            // The configuration has just been read, and nothing of ours runs yet.
            Meaning::Act(_) | Meaning::Child | Meaning::Stray | Meaning::Nothing => {}
        }
    }
}

fn manner(pool: &PoolPlan) -> Manner {
    Manner { steps: pool.policy.stop.clone(), after: pool.after.clone() }
}

fn names(left: &[StaleWorker]) -> String {
    left.iter().map(|one| format!("  {}", one.name())).collect::<Vec<_>>().join("\n")
}

fn short(left: &[StaleWorker]) -> String {
    let named: Vec<String> = left.iter().take(MOST_NAMES).map(StaleWorker::name).collect();
    let more = left.len().saturating_sub(MOST_NAMES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

/// Opens the logs: the master's own, and those of pools once, so that one that cannot be written is told now.
fn open_pen(plan: &Plan, launch: &StartContext) -> Result<LogWriter, Failed> {
    let paper = paper(plan, launch)?;
    for pool in &plan.pools {
        for sink in [&pool.log.stdout, &pool.log.stderr] {
            if let Sink::File(path) = sink {
                let what = format!("pool {}: cannot write its log {}", pool.name, path.display());
                log::check_file(path, pool.log.access).map_err(|e| Failed::at(&what, e))?;
            }
        }
    }
    let pen = LogWriter::start(paper).map_err(|e| Failed::at("cannot start the log's thread", e))?;
    let sink = pen.clone();
    diary::open(Arc::new(move |line| sink.line(line)), plan.master.log_format, plan.master.log_level);
    Ok(pen)
}

/// Where the master's log is; none: on its stderr.
fn log_file<'p>(plan: &'p Plan, launch: &StartContext) -> Option<&'p PathBuf> {
    let master = &plan.master;
    master.log_file.as_ref().or_else(|| (!launch.foreground).then_some(&master.default_log_file))
}

fn paper(plan: &Plan, launch: &StartContext) -> Result<MasterLog, Failed> {
    let master = &plan.master;
    let Some(file) = log_file(plan, launch) else { return Ok(MasterLog::stderr(master.log_format)) };
    let rotation = Rotation { max_size: master.log_max_size, keep: master.log_keep, ..Rotation::default() };
    MasterLog::file(file.clone(), master.log_format, rotation)
        .map_err(|e| Failed::at(&format!("cannot open the log {}", file.display()), e))
}

/// All that a keeper needs; from here on nothing fails.
struct Standing {
    ground: Ground,
    reactor: Poller,
    wake: Waker,
    spawner: Spawner,
    scout: AcceptProbe,
    care: Health,
    null: Arc<OwnedFd>,
}

impl Standing {
    fn on(plan: &Plan, ground: Ground) -> Result<Self, Failed> {
        let build = || -> io::Result<(Poller, Waker, Spawner, AcceptProbe, Health, OwnedFd)> {
            let reactor = Poller::new()?;
            let wake = Waker::new()?;
            let settings =
                SpawnerConfig { wake: wake.clone(), original_nofile: ground.nofile, shim: shim::OURSELVES.into() };
            let spawner = Spawner::start(settings.clone())?;
            let scout = AcceptProbe::start(wake.clone())?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            reactor.watch(ground.signals.as_fd(), Source::Signals, Interest::Read)?;
            reactor.watch(wake.as_fd(), Source::Waker, Interest::Read)?;
            for door in ground.server.doors() {
                reactor.watch(door, Source::Control, Interest::Read)?;
            }
            for (number, listener) in ground.listeners.iter().enumerate() {
                // The same numbers as `Listening` gives them.
                reactor.watch(listener.fd().as_fd(), Source::Listener(number as u64), Interest::Hangup)?;
                if let Some(ear) = listener.ear() {
                    reactor.watch(ear, Source::SocketFile(number as u64), Interest::Read)?;
                }
            }
            Ok((reactor, wake, spawner, scout, Health::new(settings), null.into()))
        };
        let (reactor, wake, spawner, scout, care, null) = build().map_err(|e| Failed::at("cannot begin", e))?;
        for listener in &ground.listeners {
            tracing::info!(listen = listener.name(), "listening on {}", listener.addr_text());
            if let Some(most) = listener.clipped() {
                tracing::warn!(
                    listen = listener.name(),
                    "the system clips the backlog to {most} (net.core.somaxconn): {} was asked for",
                    listener.plan().backlog
                );
            }
        }
        tracing::debug!("{} pools", plan.pools.len());
        Ok(Self { ground, reactor, wake, spawner, scout, care, null: Arc::new(null) })
    }

    fn supervisor(self, plan: Plan, launch: StartContext, reader: Reader) -> Supervisor {
        let Self { ground, reactor, wake, spawner, scout, care, null } = self;
        let orphans = Orphans::new(OrphanScanner::new(wake.clone()), tree::preexisting_children());
        let mut listening = Listening::default();
        let ids: Vec<_> = ground.listeners.into_iter().map(|listener| listening.add(listener)).collect();
        let mut posts = PoolRegistry::default();
        for pool in &plan.pools {
            let listeners = pool.recipe.listen.iter().map(|index| ids[*index]).collect();
            let sockets = pool.recipe.listen.iter().map(|index| plan.listeners[*index].clone()).collect();
            posts.add(PoolSpec { plan: pool.clone(), sockets, listeners });
        }
        let log_file = log_file(&plan, &launch).cloned();
        let used: BTreeSet<usize> = plan.pools.iter().flat_map(|pool| pool.recipe.listen.iter().copied()).collect();
        listening.set_lone((0..ids.len()).filter(|index| !used.contains(index)).map(|index| ids[index]).collect());
        let watched: Vec<_> = posts.iter().map(|(id, pool)| (id, pool.name.clone(), patience(pool))).collect();
        let launch = StartWatch::new(launch, watched.into_iter());
        let notify_dir = ground.house.path().join(NOTIFY);
        let house = RuntimeDirRepair::new(ground.house);
        if let Some(ear) = house.ear()
            && let Err(error) = reactor.watch(ear, Source::RuntimeDir, Interest::Read)
        {
            tracing::warn!("what is taken from the runtime directory goes unnoticed until the next HUP: {error}");
        }
        Supervisor {
            engine: Engine::with_processors(processors()),
            clock: Clock::start(),
            last_step: Time(0),
            blocking: BlockingPool::new(wake.clone(), reader),
            reloads: ReloadQueue::default(),
            on_change: OnChange::default(),
            waiters: Waiters::default(),
            reverted: BTreeSet::new(),
            exit_code: None,
            file_watch: FileWatch::new(wake.clone()),
            notify_dir,
            runtime_dir: house,
            runtime_files: RuntimeFiles::default(),
            signals: ground.signals,
            listening,
            pools: posts,
            log: ground.pen,
            pen_hangs: false,
            server: ground.server,
            event_log: EventLog::default(),
            log_clients: LogClients::default(),
            log_file,
            journal: ground.journal,
            journal_torn: false,
            took_over: ground.took_over,
            cgroups: ground.fence,
            service_manager: ground.managing,
            tag: ground.tag,
            poller: reactor,
            waker: wake,
            spawner,
            accept_probe: scout,
            health: care,
            null,
            processes: ProcessTable::default(),
            spawn_specs: SpawnSpecs::new(),
            exit_reports: ExitReports::default(),
            inputs: VecDeque::new(),
            draining: false,
            tickets: Tickets::default(),
            stop_clients: Vec::new(),
            start_watch: launch,
            shutdown: None,
            watched: BTreeSet::new(),
            blind: BTreeSet::new(),
            blind_told: false,
            alive_for: BTreeSet::new(),
            stopping: false,
            interrupted: false,
            orphans,
            gone: std::collections::BTreeMap::new(),
            last_lost: BTreeMap::new(),
            plan,
        }
    }
}

/// How many the master and its workers may use: affinity and the cgroup's cpu.max are obeyed.
fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |processors| u32::try_from(processors.get()).unwrap_or(u32::MAX))
}

/// How long a worker may take until it is ready; none: as long as it takes.
fn patience(pool: &PoolPlan) -> Option<Span> {
    Some(pool.policy.ready_timeout).filter(|timeout| *timeout < Span::FOREVER)
}
