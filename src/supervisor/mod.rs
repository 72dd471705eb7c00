//! The supervisor: one event loop on the main thread that owns the engine and executes its commands.
//!
//! `daemon` (for `start`) and the CLI (for `run`) call [`serve`] with a plan; it returns the exit code. Each turn of
//! the loop polls, feeds what the kernel and the threads report into the engine as inputs (`facts.rs`), executes the
//! engine's commands (`effects.rs`), then runs what is due by the clock and tells the service manager what changed.
//!
//! The loop never blocks. What may block runs on threads: spawning (`Spawner`), reading /proc for readiness
//! (`AcceptProbe`), writing logs (`LogWriter`), and work on foreign paths (`BlockingPool`). They send their results
//! through channels and wake the loop. There is no periodic tick: when all workers are ready, the master sleeps until
//! an event arrives.

mod background;
mod blocking;
mod boot_limit;
mod cgroups;
mod commit;
mod control;
mod effects;
mod event_log;
mod exit_report;
mod facts;
mod fd_budget;
mod file_watch;
mod health;
mod journal;
mod launch;
mod listener_repair;
mod listening;
mod log_clients;
mod log_hang;
mod notices;
mod on_change;
mod oneshots;
mod orphans;
mod outcome_text;
mod pool_registry;
mod ports;
mod probes;
mod process_table;
mod readiness;
mod recycling;
mod reload;
mod replies;
mod report;
mod requests;
mod revert;
mod rollback;
mod runtime_files;
mod sd_notify;
mod service_manager;
mod shutdown;
mod spawn_spec;
mod spread;
mod startup;
mod status;
mod tickets;
mod timers;
mod watchdog;

pub use blocking::Reader;

use crate::control::protocol::{ReloadScope, Selector, Wait};
use crate::control::server::Server;
use crate::daemon::StartContext;
use crate::event_loop::clock::LoopClock;
use crate::event_loop::poller::{Poller, Source};
use crate::event_loop::signals::{Meaning, ReceivedSignal, Signals};
use crate::event_loop::waker::Waker;
use crate::log::LogWriter;
use crate::observe::events::EventKind;
use crate::plan::{Kind, Plan, SignalAction};
use crate::process::Spawner;
use crate::runtime_dir::RuntimeDirRepair;

use cgroups::WorkerCgroups;
use crossbeam_channel::Receiver;
use event_log::EventBuilder;
use exit_report::ExitReports;
use file_watch::FileWatch;
use health::Health;
use journal::Journal;
use launch::StartWatch;
use listening::Listening;
use log_hang::LogHang;
use on_change::{Continuation, OnChange};
use orphans::Orphans;
use pool_registry::PoolRegistry;
use process_table::ProcessTable;
use readiness::Readiness;
use reload::{ReloadRequest, ReloadState};
use report::Report;
use rotad_core::{Engine, Input, Policy, PoolId, Request, Span, Time, WorkerId};
use runtime_files::RuntimeFiles;
use service_manager::ServiceManager;
use shutdown::Shutdown;
use spawn_spec::SpawnSpecs;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tickets::{Owner, Tickets};

/// Maximum batches of events handled before deadlines are checked, so that a flood of events cannot hold up timeouts.
const MAX_BATCHES: u32 = 16;

/// The state of the supervisor: the engine, and everything on the operating system's side of it.
struct Supervisor {
    plan: Plan,
    engine: Engine,
    clock: LoopClock,
    /// The time of the last engine call. The engine's clock never goes backwards.
    last_engine_call: Time,
    poller: Poller,
    signals: Signals,
    waker: Waker,
    /// What the threads report.
    reports: Receiver<Report>,
    spawner: Spawner,
    readiness: Readiness,
    health: Health,
    log: LogWriter,
    log_hang: LogHang,
    blocking: blocking::BlockingPool,
    reloads: ReloadState,
    on_change: OnChange,
    /// Pools whose last rolling restart has failed and has reverted a change of the configuration.
    reverted: BTreeSet<PoolId>,
    file_watch: FileWatch,
    runtime_dir: RuntimeDirRepair,
    runtime_files: RuntimeFiles,
    journal: Journal,
    /// Summary of the workers of a killed master that were stopped at startup, if there were any.
    took_over: Option<String>,
    listening: Listening,
    pools: PoolRegistry,
    cgroups: WorkerCgroups,
    processes: ProcessTable,
    spawn_specs: SpawnSpecs,
    exit_reports: ExitReports,
    inputs: VecDeque<Input>,
    /// Inputs are being drained: an input that arrives now is queued, so that the commands of one engine call are all
    /// executed before the next call.
    draining: bool,
    tickets: Tickets,
    server: Server,
    statuses: status::PendingStatuses,
    event_log: event_log::EventLog,
    log_clients: log_clients::LogClients,
    /// The master's log file. None: it logs to stderr.
    log_file: Option<PathBuf>,
    /// Clients that wait for the master to stop.
    stop_clients: Vec<u64>,
    start_watch: StartWatch,
    service_manager: ServiceManager,
    shutdown: Option<Shutdown>,
    /// Prefix of ROTAD_WORKER; unique for each master.
    tag: String,
    notify_dir: PathBuf,
    null: Arc<OwnedFd>,
    stopping: bool,
    /// SIGINT has been received: the next one kills.
    interrupted: bool,
    orphans: Orphans,
    /// Labels of workers that were reaped in this turn, kept until the engine's notices about them have been emitted.
    reaped: BTreeMap<WorkerId, event_log::WorkerLabel>,
    /// What is left at the end, for the exit message; by worker, and under id 0 all orphans.
    unkillable: BTreeMap<WorkerId, String>,
    /// The exit code, where it is not 0.
    exit_code: Option<u8>,
}

/// Why the master could not start.
#[derive(Debug)]
struct Failed {
    code: u8,
    message: String,
}

/// Runs one master until it exits, and returns the exit code. `reader` reads the configuration for a reload; it is
/// called on a thread.
pub fn serve(plan: Plan, context: StartContext, reader: Reader) -> u8 {
    match Supervisor::start(plan, context, reader) {
        Ok(supervisor) => supervisor.run(),
        Err((context, failed)) => {
            context.report.finish(failed.code, &failed.message);
            failed.code
        }
    }
}

impl Supervisor {
    fn run(mut self) -> u8 {
        self.refresh_plan();
        // Before any worker reads the files: a change from then on is noticed.
        self.watch_files();
        let text = format!(
            "rotad {} begins: {}",
            env!("CARGO_PKG_VERSION"),
            self.plan.master.name
        );
        self.emit(EventBuilder::new(EventKind::MasterStarted, text).silent());
        if let Some(text) = self.took_over.take() {
            self.emit(EventBuilder::new(EventKind::TookOver, text).silent());
        }
        // In dependency order, wherever they stand in the file: the engine holds a pool back only for pools that it
        // knows.
        let ids: Vec<PoolId> = self.pools.iter().map(|(id, _)| id).collect();
        let ids = self.pools.in_order(&ids).into_iter();
        let pools: Vec<(PoolId, Policy)> = ids
            .filter_map(|id| Some((id, self.pools.policy(id)?)))
            .collect();
        for (pool, policy) in pools {
            let ticket = self
                .start_watch
                .waits()
                .then(|| self.tickets.of(Owner::Start));
            self.input(Input::Requested(ticket, Request::EnsurePool(pool, policy)));
        }
        let mut sources = Vec::new();
        loop {
            let timeout = self.poll_timeout();
            self.poller.wait(timeout, &mut sources);
            if let Some(pause) = self.clock.wake(timeout) {
                let text = format!(
                    "the master was paused for up to {:.1} s: all deadlines move",
                    pause.as_secs_f64()
                );
                self.emit(EventBuilder::new(EventKind::MasterPaused, text).warn());
                self.service_manager.paused();
                self.health.probing.paused();
            }
            self.drain_poller(&mut sources);
            self.run_due_timers();
            let event = self.log_hang.check(&self.log, self.clock.now());
            self.emit_some(event);
            self.sample_starting();
            self.notify_service_manager();
            if let Some(code) = self.can_exit() {
                return self.finish(code);
            }
        }
    }

    /// Handles all pending events before any deadline: READY=1 counts before the ready timeout, a worker's messages
    /// before its exit.
    fn drain_poller(&mut self, sources: &mut Vec<Source>) {
        for _ in 0..MAX_BATCHES {
            if sources.is_empty() {
                return;
            }
            for source in std::mem::take(sources) {
                self.dispatch(source);
            }
            self.poller.wait(Some(Duration::ZERO), sources);
        }
    }

    fn dispatch(&mut self, source: Source) {
        match source {
            Source::Signals => self.on_signals(),
            Source::Waker => {
                self.waker.clear();
                if self.signals.has_more() {
                    self.on_signals();
                }
                self.on_reports();
            }
            Source::ExecStatus(worker) => self.on_exec_status(worker),
            Source::Notify(worker) => self.on_notify_messages(worker),
            Source::Listener(number) => self.on_listener_hangup(number),
            Source::SocketFile(number) => self.on_socket_file_change(number),
            Source::Control => self.accept_clients(),
            Source::RuntimeDir => self.on_runtime_dir_change(),
            Source::Client(client) => self.on_client_readable(client),
            Source::Exit(worker) => self.on_exit(worker),
        }
    }

    fn on_signals(&mut self) {
        let received = self.signals.pending();
        if self.signals.has_more() {
            self.waker.wake();
        }
        for ReceivedSignal { meaning, text } in received {
            match meaning {
                Meaning::Child => self.on_sigchld(),
                Meaning::Nothing => {}
                Meaning::Stray => self.emit_signal(format!("{text}: has no meaning here, ignored")),
                Meaning::Stop | Meaning::Interrupt if !self.stopping => {
                    self.emit_signal(format!("{text}: stopping"));
                    self.stop(false);
                }
                Meaning::Stop => self.emit_signal(format!("{text}: already stopping")),
                Meaning::Interrupt if self.interrupted => {
                    self.emit_signal(format!("{text}: killing what is left"));
                    self.stop(true);
                }
                Meaning::Interrupt => {
                    self.emit_signal(format!(
                        "{text}: already stopping; once more kills what is left"
                    ));
                }
                Meaning::Act(action) => self.act(action, &text),
            }
            self.interrupted |= meaning == Meaning::Interrupt;
        }
    }

    /// Emits a received signal and what it leads to.
    fn emit_signal(&mut self, text: String) {
        self.emit(EventBuilder::new(EventKind::SignalReceived, text));
    }

    fn act(&mut self, action: SignalAction, text: &str) {
        match action {
            SignalAction::RollWorkers => self.roll_kind(text, Some(Kind::Worker)),
            SignalAction::RollTasks => self.roll_kind(text, Some(Kind::Task)),
            SignalAction::RollAll => self.roll_kind(text, None),
            SignalAction::ApplyConfig => self.apply_by_signal(text, ReloadScope::ConfigOnly),
            SignalAction::Reload => self.apply_by_signal(text, ReloadScope::Everything),
            SignalAction::ReopenLogs => {
                self.emit_signal(format!("{text}: opening the log again"));
                self.log.reopen();
                self.check_all_listeners();
                self.repair_runtime_dir();
            }
            SignalAction::Ignore => self.emit_signal(format!("{text}: ignored, as configured")),
        }
    }

    fn apply_by_signal(&mut self, text: &str, extent: ReloadScope) {
        let (who, which) = (text.to_owned(), Selector::default());
        self.reload(ReloadRequest {
            client: None,
            who,
            extent,
            which,
            wait: Wait::No,
        });
    }

    fn roll_kind(&mut self, text: &str, kind: Option<Kind>) {
        let pools = self.pools.of_kind(kind);
        if pools.is_empty() {
            // `Type=notify-reload` waits for the end of a reload: there is nothing to do, so it ends now.
            self.reloading();
            return self.emit_signal(format!("{text}: there is no pool of that kind to roll"));
        }
        let comparisons = self.comparisons_for_roll(&pools);
        if comparisons.is_empty() {
            self.emit_signal(format!("{text}: rolling {}", self.names(&pools)));
            return self.roll(None, false, &pools);
        }
        let (conditional, certain): (Vec<PoolId>, Vec<PoolId>) = pools
            .iter()
            .partition(|pool| comparisons.iter().any(|(looked, _)| looked == *pool));
        let certain = if certain.is_empty() {
            String::new()
        } else {
            format!("rolling {}; ", self.names(&certain))
        };
        let conditional = self.names(&conditional);
        self.emit_signal(format!(
            "{text}: {certain}only if what it is made from has changed: {conditional}"
        ));
        self.reloading();
        self.start_comparison(
            comparisons,
            Continuation::Roll {
                client: None,
                wait: Wait::No,
                pools,
            },
        );
    }

    fn names(&self, pools: &[PoolId]) -> String {
        pools
            .iter()
            .map(|pool| self.pool_name(*pool))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn pool_name(&self, pool: PoolId) -> &str {
        self.pools.name(pool)
    }

    /// Everything is about to stop, once the engine is asked to.
    fn begin_stop(&mut self) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.emit(EventBuilder::new(EventKind::MasterStopping, "stopping").silent());
        self.tell_stopping();
        self.cancel_reloads();
        self.cancel_comparisons();
    }

    fn stop(&mut self, now: bool) {
        self.begin_stop();
        let cap = self
            .plan
            .master
            .stop_timeout
            .map(|cap| Span::from_millis(cap.as_millis() as u64));
        let request = if now {
            Request::StopNow
        } else {
            Request::Stop { cap }
        };
        self.request(request);
    }
}
