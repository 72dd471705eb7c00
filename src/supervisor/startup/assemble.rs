//! Makes the supervisor from what was acquired at startup: its poller and threads, and the tables of pools and listeners.

use super::acquired::Acquired;
use super::logs;
use crate::daemon::StartContext;
use crate::event_loop::clock::LoopClock;
use crate::event_loop::mailbox::{self, Mailbox};
use crate::event_loop::poller::{Interest, Poller, Source};
use crate::event_loop::waker::Waker;
use crate::listener::Listener;
use crate::plan::Plan;
use crate::probe::accept::AcceptProbe;
use crate::process::orphan_scanner::OrphanScanner;
use crate::process::{Spawner, SpawnerConfig, shim};
use crate::runtime_dir::{NOTIFY_DIR, RuntimeDirRepair};
use crate::saved_state::tracked::Tracked;
use crate::supervisor::clients::Clients;
use crate::supervisor::clients::launch::StartWatch;
use crate::supervisor::clients::served_at;
use crate::supervisor::counters::Counters;
use crate::supervisor::daily_recycling::DailyRecycling;
use crate::supervisor::engine_queue::EngineQueue;
use crate::supervisor::event_log::EventLog;
use crate::supervisor::health::Health;
use crate::supervisor::heartbeat::Heartbeat;
use crate::supervisor::hooks::Hooks;
use crate::supervisor::listening::Listening;
use crate::supervisor::log_hang::LogHang;
use crate::supervisor::memory_release::MemoryRelease;
use crate::supervisor::pool_registry::{PoolRegistry, PoolSpec};
use crate::supervisor::reload::ReloadState;
use crate::supervisor::reload::blocking::{BlockingPool, Reader};
use crate::supervisor::reload::file_watch::FileWatch;
use crate::supervisor::reload::on_change::OnChange;
use crate::supervisor::report::Report;
use crate::supervisor::runtime_files::Runtime;
use crate::supervisor::workers::{Journal, Orphans, WorkerParts, Workers};
use crate::supervisor::{EventLoop, Failed, Log, Reload, Supervisor};
use crossbeam_channel::Receiver;
use rotad_core::{Engine, WorkerId};
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// The main loop's mailbox, and where its reports come out.
type Reports = (Mailbox<Report>, Receiver<Report>);

/// What the supervisor is made of; from here on nothing fails.
pub(super) struct Parts {
    acquired: Acquired,
    poller: Poller,
    waker: Waker,
    mailbox: Mailbox<Report>,
    reports: Receiver<Report>,
    spawner: Spawner,
    health: Health,
    hooks: Hooks,
    null: Arc<OwnedFd>,
}

impl Parts {
    pub(super) fn of(acquired: Acquired) -> Result<Self, Failed> {
        let settings = SpawnerConfig {
            clock: acquired.clock.clone(),
            original_nofile: acquired.nofile,
            shim: shim::OURSELVES.into(),
        };
        let build = || -> io::Result<(Poller, Waker, Spawner, Health, Reports, OwnedFd)> {
            let poller = Poller::new()?;
            let waker = Waker::new()?;
            let (mailbox, reports) = mailbox::channel(waker.clone());
            let spawner = Spawner::start(settings.clone(), mailbox.of(Report::Spawn))?;
            let accept_probe =
                AcceptProbe::start(mailbox.of(Report::Accept), acquired.clock.clone())?;
            let null = File::options().read(true).write(true).open("/dev/null")?;
            poller.watch(acquired.signals.as_fd(), Source::Signals, Interest::Read)?;
            poller.watch(
                acquired.signals.children(),
                Source::Children,
                Interest::Read,
            )?;
            poller.watch(waker.as_fd(), Source::Waker, Interest::Read)?;
            if let Some(guardian) = &acquired.guardian {
                poller.watch(guardian.as_fd(), Source::Guardian, Interest::Read)?;
                if let Some(pidfd) = guardian.guardian().pidfd() {
                    poller.watch(pidfd, Source::GuardianExit, Interest::Read)?;
                }
            }
            for listener_fd in acquired.server.listeners() {
                poller.watch(listener_fd, Source::Control, Interest::Read)?;
            }
            Ok((
                poller,
                waker,
                spawner,
                Health::new(settings.clone(), accept_probe, &mailbox),
                (mailbox, reports),
                null.into(),
            ))
        };
        let (poller, waker, spawner, health, (mailbox, reports), null) =
            build().map_err(|e| Failed::at("cannot begin", e))?;
        let hooks = Hooks::new(settings, mailbox.of(Report::Hook));
        Ok(Self {
            acquired,
            poller,
            waker,
            mailbox,
            reports,
            spawner,
            health,
            hooks,
            null: Arc::new(null),
        })
    }

    /// The supervisor of these tables.
    pub(super) fn supervisor(self, tables: Tables, reader: Reader) -> Supervisor {
        let Self {
            acquired,
            poller,
            waker,
            mailbox,
            reports,
            spawner,
            health,
            hooks,
            null,
        } = self;
        let orphans = Orphans::new(
            OrphanScanner::new(mailbox.of(Report::Orphans), acquired.clock.clone()),
            acquired.preexisting,
        );
        for id in tables.listening.ids() {
            tables.listening.watch(id, &poller);
        }
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
        Supervisor {
            engine: tables.engine,
            clock: LoopClock::new(acquired.clock.clone()),
            event_loop: EventLoop {
                poller,
                signals: acquired.signals,
                waker,
                reports,
            },
            pools: Tracked::new(tables.pools),
            listening: tables.listening,
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
            clients: Clients::new(acquired.server, tables.start_watch),
            event_log: EventLog::default(),
            counters: Counters::new(),
            hooks,
            log: Log {
                writer: acquired.log_writer,
                hang: LogHang::default(),
                file: tables.log_file,
            },
            runtime: Runtime::new(runtime_dir, runtime_path),
            service_manager: acquired.service_manager,
            master_deaths: acquired
                .guardian
                .as_ref()
                .map(|link| link.master_deaths())
                .unwrap_or_default(),
            guardian: acquired.guardian,
            shutdown: Tracked::default(),
            upgrade: Tracked::default(),
            heartbeat: Heartbeat::default(),
            daily_recycling: DailyRecycling::load(),
            memory_release: MemoryRelease::default(),
            taken_signals: Tracked::default(),
            saver: acquired.saver,
            plan: Tracked::new(tables.plan),
        }
    }
}

/// What the supervisor knows when it begins.
pub(super) struct Tables {
    pub(super) plan: Plan,
    pub(super) engine: EngineQueue,
    pub(super) pools: PoolRegistry,
    pub(super) listening: Listening,
    pub(super) start_watch: StartWatch,
    /// The master's log file. None: it logs to stderr.
    pub(super) log_file: Option<PathBuf>,
}

impl Tables {
    /// Those of a master that has not started anything yet.
    pub(super) fn of_plan(
        plan: Plan,
        listeners: Vec<Listener>,
        context: StartContext,
        last_worker: WorkerId,
    ) -> Self {
        for listener in &listeners {
            report_listener(listener);
        }
        let mut listening = Listening::default();
        let ids: Vec<_> = listeners
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
        let log_file = logs::log_file(&plan, context.foreground).cloned();
        let log_line = log_file
            .as_deref()
            .map(|file| served_at::log_line(file, &plan));
        Self {
            plan,
            engine: EngineQueue::new(
                Engine::with_processors(processors()).numbered_after(last_worker),
            ),
            pools,
            listening,
            start_watch: StartWatch::new(
                context,
                watched.into_iter(),
                log_line.unwrap_or_default(),
            ),
            log_file,
        }
    }
}

fn report_listener(listener: &Listener) {
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

/// How many processors the master and its workers may use; affinity and the cgroup's cpu.max count.
fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |processors| {
        u32::try_from(processors.get()).unwrap_or(u32::MAX)
    })
}
