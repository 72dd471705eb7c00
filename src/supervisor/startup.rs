//! Startup: from a plan to a running supervisor. The order matters: the lock, the open-file limit and the log, signal
//! handlers, the workers of a killed master, sockets, the control socket, the journal, and only then the pid file.

use super::clients::launch::StartWatch;
use super::clients::{self, Clients};
use super::engine_queue::EngineQueue;
use super::event_log::EventLog;
use super::health::Health;
use super::listening::Listening;
use super::log_hang::LogHang;
use super::pool_registry::{PoolRegistry, PoolSpec};
use super::reload::ReloadState;
use super::reload::blocking::{BlockingPool, Reader};
use super::reload::fd_budget::raise_nofile;
use super::reload::file_watch::FileWatch;
use super::reload::on_change::OnChange;
use super::report::Report;
use super::runtime_files::Runtime;
use super::service_manager::ServiceManager;
use super::workers::{Journal, Orphans, WorkerCgroups, WorkerParts, Workers};
use super::{EventLoop, Log, Reload, Shutdown};
use super::{Failed, Supervisor};
use crate::control::server::Server;
use crate::daemon::StartContext;
use crate::event_loop::clock::{Clock, Deadline, LoopClock};
use crate::event_loop::mailbox::{self, Mailbox};
use crate::event_loop::poller::{Interest, Poller, Source};
use crate::event_loop::signals::{Meaning, Signals};
use crate::event_loop::waker::Waker;
use crate::exit_code::ExitCode;
use crate::listener::{self, ActivationSocket, Listener};
use crate::log::tracing_setup;
use crate::log::{self, LogWriter, MasterLog, Rotation};
use crate::plan::{Plan, PoolPlan, Sink};
use crate::probe::accept::AcceptProbe;
use crate::process::orphan_scanner::OrphanScanner;
use crate::process::tree;
use crate::process::{Spawner, SpawnerConfig, shim};
use crate::runtime_dir::stale_workers::{
    StaleWorker, StaleWorkers, StopPlan, TakeOverStep, WorkerJournal,
};
use crate::runtime_dir::{NOTIFY_DIR, RuntimeDir, RuntimeDirRepair, make_notify_dir};
use crate::sys;
use crossbeam_channel::Receiver;
use rotad_core::{Engine, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How often the processes that are still being stopped are reported.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Maximum processes named in one line.
const MAX_NAMES: usize = 20;

impl Failed {
    pub(super) fn at(what: &str, error: impl std::fmt::Display) -> Self {
        Self {
            code: ExitCode::FAILED,
            message: format!("{what}: {error}"),
        }
    }
}

/// What is acquired before the supervisor exists.
struct Acquired {
    runtime_dir: RuntimeDir,
    nofile: (u64, u64),
    signals: Signals,
    listeners: Vec<Listener>,
    clock: Clock,
    log_writer: LogWriter,
    server: Server,
    journal: WorkerJournal,
    tag: String,
    took_over: Option<String>,
    cgroups: WorkerCgroups,
    service_manager: ServiceManager,
}

impl Supervisor {
    /// The supervisor, and a summary of the workers of a killed master that were stopped, if there were any.
    pub(super) fn start(
        plan: Plan,
        mut context: StartContext,
        reader: Reader,
    ) -> Result<(Self, Option<String>), (StartContext, Failed)> {
        let passed = std::mem::take(&mut context.activation_sockets);
        match prepare(&plan, &mut context, passed).and_then(|acquired| Parts::on(&plan, acquired)) {
            Ok(parts) => Ok(parts.supervisor(plan, context, reader)),
            Err(failed) => Err((context, failed)),
        }
    }
}

fn prepare(
    plan: &Plan,
    context: &mut StartContext,
    passed: Vec<ActivationSocket>,
) -> Result<Acquired, Failed> {
    let (mut runtime_dir, signs) = RuntimeDir::enter(plan).map_err(|e| Failed {
        code: e.code,
        message: e.message,
    })?;
    let left = find_stale_workers(plan, context, &runtime_dir)?;
    sys::reaper::become_subreaper()
        .map_err(|e| Failed::at("cannot become the reaper of orphans", e))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(plan.master.umask));
    let nofile = raise_nofile(plan)?;
    let clock = Clock::start();
    let log_writer = open_logs(plan, context, clock.clone())?;
    // Before the workers of a killed master are stopped: that may take as long as a stop, and a signal has to interrupt
    // it.
    let mut signals = Signals::install(plan.signals, context.hup_ignored)
        .map_err(|e| Failed::at("cannot install signal handlers", e))?;
    let mut service_manager = ServiceManager::begin(context.activation_pid, clock.clone());
    let took_over = TakeOver {
        plan,
        log_writer: &log_writer,
        context,
        signals: &mut signals,
        service_manager: &mut service_manager,
    }
    .begin(left)?;
    let listeners = listener::open_all(&plan.listeners, passed).map_err(|e| Failed {
        code: ExitCode::FAILED,
        message: e.to_string(),
    })?;
    let control = runtime_dir
        .control_socket(plan.control.mode, plan.control.group)
        .map_err(|e| Failed::at("cannot open the control socket", e))?;
    let mut server = Server::new(control, plan.control.mode);
    server.set_location(&clients::here(runtime_dir.path()));
    signs
        .into_iter()
        .for_each(|sign| server.add_presence_socket(sign.path, sign.listener));
    let notify_dir = runtime_dir.path().join(NOTIFY_DIR);
    make_notify_dir(&notify_dir)
        .map_err(|e| Failed::at(&format!("cannot make {}", notify_dir.display()), e))?;
    let cgroups = WorkerCgroups::find(&plan.master.name);
    let tag = new_tag();
    // Before the first spawn, and required: without it, nobody could find the workers of this master after a SIGKILL.
    let journal = WorkerJournal::open(runtime_dir.path(), &tag, cgroups.base(), clock.clone())
        .map_err(|e| {
            Failed::at(
                &format!(
                    "cannot write the list of workers in {}",
                    runtime_dir.path().display()
                ),
                e,
            )
        })?;
    runtime_dir.write_pid().map_err(|e| Failed {
        code: e.code,
        message: e.message,
    })?;
    tracing::info!(
        pid = std::process::id(),
        config = %plan.config.display(),
        "rotad {} begins: {}", env!("CARGO_PKG_VERSION"), plan.master.name
    );
    for warning in std::mem::take(&mut runtime_dir.warnings) {
        tracing::warn!("{warning}");
    }
    if context.hup_ignored {
        tracing::warn!("HUP was ignored when we were started (nohup), and stays so");
    }
    Ok(Acquired {
        clock,
        runtime_dir,
        nofile,
        signals,
        listeners,
        log_writer,
        server,
        journal,
        tag,
        took_over,
        cgroups,
        service_manager,
    })
}

/// The prefix of ROTAD_WORKER for the workers of this master. The time makes it unique across reboots and reused pids.
fn new_tag() -> String {
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), started.as_micros())
}

/// Finds the workers that a killed master left. An error if there are any and --no-take-over forbids stopping them.
fn find_stale_workers(
    plan: &Plan,
    context: &StartContext,
    runtime_dir: &RuntimeDir,
) -> Result<StaleWorkers, Failed> {
    let left = StaleWorkers::find_under_lock(runtime_dir.path())
        .map_err(|e| Failed::at("cannot read what a dead master left", e))?;
    if left.found.is_empty() || !context.no_take_over {
        return Ok(left);
    }
    let message = format!(
        "a master of {} was killed, and these processes of it still run:\n{}\nwithout --no-take-over, `rotad start` and \
         `rotad run` stop them by their stop steps before they start anything",
        plan.config.display(),
        list_names(&left.found)
    );
    Err(Failed {
        code: ExitCode::FAILED,
        message,
    })
}

/// Stops the workers that a killed master left. Their output is logged meanwhile, because a worker that blocks on a
/// full pipe could not exit.
struct TakeOver<'a> {
    plan: &'a Plan,
    log_writer: &'a LogWriter,
    context: &'a mut StartContext,
    signals: &'a mut Signals,
    service_manager: &'a mut ServiceManager,
}

impl TakeOver<'_> {
    /// Stops them and returns a summary. None: there was nothing to stop.
    fn begin(self, left: StaleWorkers) -> Result<Option<String>, Failed> {
        for pid in &left.unattributed {
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
        let stop_plans: BTreeMap<String, StopPlan> = self
            .plan
            .pools
            .iter()
            .map(|pool| (pool.name.clone(), stop_plan(pool)))
            .collect();
        let text = format!(
            "a master that was killed (pid {dead}) has left {}; each is stopped by its stop steps before anything is started",
            summary(&left.found)
        );
        tracing::warn!("{text}");
        self.context.report.progress(&text);
        for pipe in left.pipes() {
            let (pool, slot) = (pipe.pool.clone(), pipe.slot);
            let log = self
                .plan
                .pools
                .iter()
                .find(|plan| plan.name == pool)
                .map(|plan| &plan.log);
            if let Err(error) = self.log_writer.adopt_stale(pipe, log) {
                tracing::warn!(
                    pool,
                    slot,
                    "what a dead master's worker still prints cannot be read: {error}"
                );
            }
        }
        let cap = self.plan.master.stop_timeout.map(Span::from);
        let signal_fd = self.signals.as_fd().try_clone_to_owned().ok();
        let mut stop = Stop::default();
        let mut next_report = Deadline::after(PROGRESS_INTERVAL);
        let Self {
            log_writer,
            context,
            signals,
            service_manager,
            ..
        } = self;
        let done = left.take_over(
            &stop_plans,
            cap,
            signal_fd.as_ref().map(AsFd::as_fd),
            |left| {
                for came in signals.pending() {
                    stop.on_signal(came.meaning, &came.text);
                }
                service_manager.report_take_over(left.len());
                if next_report.has_passed() {
                    next_report = Deadline::after(PROGRESS_INTERVAL);
                    let text = format!("still being stopped: {}", summary(left));
                    tracing::info!("{text}");
                    context.report.progress(&text);
                }
                if stop.now {
                    TakeOverStep::KillNow
                } else {
                    TakeOverStep::Continue
                }
            },
        );
        service_manager.take_over_done();
        log_writer.drain();
        if !done.unkillable.is_empty() {
            let message = format!(
                "these processes of a killed master cannot be ended by the kernel, and nothing is started beside them:\n{}",
                list_names(&done.unkillable)
            );
            return Err(Failed {
                code: ExitCode::FAILED,
                message,
            });
        }
        let killed = match &done.killed[..] {
            [] => String::new(),
            killed => format!(
                "; killed at the end of their stop steps: {}",
                killed.join(", ")
            ),
        };
        let text = format!(
            "what a killed master (pid {dead}) had left is stopped ({} processes){killed}",
            done.found
        );
        tracing::warn!("{text}");
        if stop.asked {
            // `run` was asked to stop and has stopped; for `start` that is a failure.
            let code = if context.foreground {
                ExitCode::DONE
            } else {
                ExitCode::FAILED
            };
            return Err(Failed {
                code,
                message: format!("{text}; stopped before anything was started"),
            });
        }
        context.report.progress(&text);
        Ok(Some(text))
    }
}

/// A stop signal that arrives while the workers of a killed master are being stopped.
#[derive(Default)]
struct Stop {
    asked: bool,
    interrupted: bool,
    now: bool,
}

impl Stop {
    fn on_signal(&mut self, meaning: Meaning, text: &str) {
        match meaning {
            Meaning::Stop | Meaning::Interrupt => {
                self.now |= meaning == Meaning::Interrupt && self.interrupted;
                self.interrupted |= meaning == Meaning::Interrupt;
                self.asked = true;
                let how = if self.now {
                    "what is left is killed"
                } else {
                    "nothing will be started"
                };
                tracing::info!("{text}: {how}");
            }
            // The configuration has just been read, and nothing of ours runs yet.
            Meaning::Act(_) | Meaning::Child | Meaning::Stray | Meaning::Nothing => {}
        }
    }
}

fn stop_plan(pool: &PoolPlan) -> StopPlan {
    StopPlan {
        steps: pool.policy.stop.clone(),
        after: pool.after.clone(),
    }
}

fn list_names(left: &[StaleWorker]) -> String {
    left.iter()
        .map(|one| format!("  {}", one.name()))
        .collect::<Vec<_>>()
        .join("\n")
}

fn summary(left: &[StaleWorker]) -> String {
    let named: Vec<String> = left.iter().take(MAX_NAMES).map(StaleWorker::name).collect();
    let more = left.len().saturating_sub(MAX_NAMES);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", named.join(", "))
}

/// Opens the master's log, and each pool's log once to check it, so that one that cannot be written is reported now.
fn open_logs(plan: &Plan, context: &StartContext, clock: Clock) -> Result<LogWriter, Failed> {
    let master_log = master_log(plan, context)?;
    for pool in &plan.pools {
        for sink in [&pool.log.stdout, &pool.log.stderr] {
            if let Sink::File(path) = sink {
                let what = format!(
                    "pool {}: cannot write its log {}",
                    pool.name,
                    path.display()
                );
                log::check_file(path, pool.log.access).map_err(|e| Failed::at(&what, e))?;
            }
        }
    }
    let log_writer = LogWriter::start(master_log, clock)
        .map_err(|e| Failed::at("cannot start the log's thread", e))?;
    let sink = log_writer.clone();
    tracing_setup::open(
        Arc::new(move |line| sink.line(line)),
        plan.master.log_format,
        plan.master.log_level,
    );
    Ok(log_writer)
}

/// The master's log file. None: it logs to stderr.
fn log_file<'p>(plan: &'p Plan, context: &StartContext) -> Option<&'p PathBuf> {
    let master = &plan.master;
    master
        .log_file
        .as_ref()
        .or_else(|| (!context.foreground).then_some(&master.default_log_file))
}

fn master_log(plan: &Plan, context: &StartContext) -> Result<MasterLog, Failed> {
    let master = &plan.master;
    let Some(file) = log_file(plan, context) else {
        return Ok(MasterLog::stderr(master.log_format));
    };
    let rotation = Rotation {
        max_size: master.log_max_size,
        keep: master.log_keep,
        ..Rotation::default()
    };
    MasterLog::file(file.clone(), master.log_format, rotation)
        .map_err(|e| Failed::at(&format!("cannot open the log {}", file.display()), e))
}

/// The main loop's mailbox, and where its reports come out.
type Reports = (Mailbox<Report>, Receiver<Report>);

/// What the supervisor is made of; from here on nothing fails.
struct Parts {
    acquired: Acquired,
    poller: Poller,
    waker: Waker,
    mailbox: Mailbox<Report>,
    reports: Receiver<Report>,
    spawner: Spawner,
    health: Health,
    null: Arc<OwnedFd>,
}

impl Parts {
    fn on(plan: &Plan, acquired: Acquired) -> Result<Self, Failed> {
        let build = || -> io::Result<(Poller, Waker, Spawner, Health, Reports, OwnedFd)> {
            let poller = Poller::new()?;
            let waker = Waker::new()?;
            let (mailbox, reports) = mailbox::channel(waker.clone());
            let settings = SpawnerConfig {
                clock: acquired.clock.clone(),
                original_nofile: acquired.nofile,
                shim: shim::OURSELVES.into(),
            };
            let spawner = Spawner::start(settings.clone(), mailbox.of(Report::Spawn))?;
            let accept_probe =
                AcceptProbe::start(mailbox.of(Report::Accept), acquired.clock.clone())?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            poller.watch(acquired.signals.as_fd(), Source::Signals, Interest::Read)?;
            poller.watch(waker.as_fd(), Source::Waker, Interest::Read)?;
            for listener_fd in acquired.server.listeners() {
                poller.watch(listener_fd, Source::Control, Interest::Read)?;
            }
            for (number, listener) in acquired.listeners.iter().enumerate() {
                // `Listening` assigns the same numbers.
                poller.watch(
                    listener.fd().as_fd(),
                    Source::Listener(number as u64),
                    Interest::Hangup,
                )?;
                if let Some(file_watch) = listener.file_watch() {
                    poller.watch(
                        file_watch,
                        Source::SocketFile(number as u64),
                        Interest::Read,
                    )?;
                }
            }
            Ok((
                poller,
                waker,
                spawner,
                Health::new(settings, accept_probe, &mailbox),
                (mailbox, reports),
                null.into(),
            ))
        };
        let (poller, waker, spawner, health, (mailbox, reports), null) =
            build().map_err(|e| Failed::at("cannot begin", e))?;
        for listener in &acquired.listeners {
            tracing::info!(
                listen = listener.name(),
                "listening on {}",
                listener.addr_text()
            );
            if let Some(most) = listener.effective_backlog() {
                tracing::warn!(
                    listen = listener.name(),
                    "the system clips the backlog to {most} (net.core.somaxconn): {} was asked for",
                    listener.plan().backlog
                );
            }
        }
        tracing::debug!("{} pools", plan.pools.len());
        Ok(Self {
            acquired,
            poller,
            waker,
            mailbox,
            reports,
            spawner,
            health,
            null: Arc::new(null),
        })
    }

    fn supervisor(
        self,
        plan: Plan,
        context: StartContext,
        reader: Reader,
    ) -> (Supervisor, Option<String>) {
        let Self {
            acquired,
            poller,
            waker,
            mailbox,
            reports,
            spawner,
            health,
            null,
        } = self;
        let orphans = Orphans::new(
            OrphanScanner::new(mailbox.of(Report::Orphans), acquired.clock.clone()),
            tree::preexisting_children(),
        );
        let mut listening = Listening::default();
        let ids: Vec<_> = acquired
            .listeners
            .into_iter()
            .map(|listener| listening.add(listener))
            .collect();
        let mut pools = PoolRegistry::default();
        for pool in &plan.pools {
            let listeners = pool.recipe.listen.iter().map(|index| ids[*index]).collect();
            let sockets = pool
                .recipe
                .listen
                .iter()
                .map(|index| plan.listeners[*index].clone())
                .collect();
            pools.add(PoolSpec {
                plan: pool.clone(),
                sockets,
                listeners,
            });
        }
        let log_file = log_file(&plan, &context).cloned();
        let used: BTreeSet<usize> = plan
            .pools
            .iter()
            .flat_map(|pool| pool.recipe.listen.iter().copied())
            .collect();
        listening.set_lone(
            (0..ids.len())
                .filter(|index| !used.contains(index))
                .map(|index| ids[index])
                .collect(),
        );
        let watched: Vec<_> = pools
            .iter()
            .map(|(id, pool)| (id, pool.name.clone()))
            .collect();
        let start_watch = StartWatch::new(context, watched.into_iter());
        let runtime_path = acquired.runtime_dir.path().to_owned();
        let notify_dir = runtime_path.join(NOTIFY_DIR);
        let journal_dir = acquired.runtime_dir.path().to_owned();
        let runtime_dir = RuntimeDirRepair::new(acquired.runtime_dir);
        if let Some(inotify) = runtime_dir.inotify()
            && let Err(error) = poller.watch(inotify, Source::RuntimeDir, Interest::Read)
        {
            tracing::warn!(
                "what is taken from the runtime directory goes unnoticed until the next HUP: {error}"
            );
        }
        let supervisor = Supervisor {
            engine: EngineQueue::new(Engine::with_processors(processors())),
            clock: LoopClock::new(acquired.clock.clone()),
            event_loop: EventLoop {
                poller,
                signals: acquired.signals,
                waker,
                reports,
            },
            pools,
            listening,
            workers: Workers::new(WorkerParts {
                spawner,
                cgroups: acquired.cgroups,
                journal: Journal::new(acquired.journal, journal_dir),
                orphans,
                tag: acquired.tag,
                notify_dir,
                null,
            }),
            health,
            reload: Reload {
                state: ReloadState::default(),
                blocking: BlockingPool::new(mailbox.of(Report::Job), reader),
                on_change: OnChange::default(),
                file_watch: FileWatch::new(mailbox.of(Report::Files), acquired.clock),
            },
            clients: Clients::new(acquired.server, start_watch),
            event_log: EventLog::default(),
            log: Log {
                writer: acquired.log_writer,
                hang: LogHang::default(),
                file: log_file,
            },
            runtime: Runtime::new(runtime_dir, runtime_path),
            service_manager: acquired.service_manager,
            shutdown: Shutdown::default(),
            plan,
        };
        (supervisor, acquired.took_over)
    }
}

/// How many processors the master and its workers may use; affinity and the cgroup's cpu.max count.
fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |processors| {
        u32::try_from(processors.get()).unwrap_or(u32::MAX)
    })
}
