//! The master's life: one loop on the main thread, which owns the core and the roster and never blocks.
//!
//! What may block sits on threads of its own: births (`spawner`), looks into /proc (`scout`), the log (`pen`), reading
//! the configuration again (`clerk`). They answer through channels and ring the loop's bell. Nothing ticks: a master
//! whose workers are all ready sleeps until somebody does something.

mod apply;
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
mod launch;
mod listener_repair;
mod listening;
mod log_clients;
mod notices;
mod on_change;
mod oneshots;
mod orphans;
mod pool_registry;
mod ports;
mod probes;
mod process_table;
mod recycling;
mod requests;
mod revert;
mod rollback;
mod runtime_files;
mod service_manager;
mod shutdown;
mod spawn_spec;
mod startup;
mod status;
mod tickets;
mod waiters;
mod watchdog;

pub use blocking::Reader;

use crate::control::server::Server;
use crate::control::wire::{ReloadScope, Selector, Wait};
use crate::daemon::StartContext;
use crate::event_loop::clock::Clock;
use crate::event_loop::poller::{Poller, Source};
use crate::event_loop::signals::{Meaning, ReceivedSignal, Signals};
use crate::event_loop::waker::Waker;
use crate::log::{LogWriter, WorkerOutput};
use crate::observe::events::EventKind;
use crate::plan::{Kind, Plan, SignalAction};
use crate::probe::accept::AcceptProbe;
use crate::process::Spawner;
use crate::runtime_dir::RuntimeDirRepair;
use crate::runtime_dir::stale_workers::WorkerJournal;
use apply::{ReloadQueue, ReloadRequest};
use cgroups::WorkerCgroups;
use event_log::EventBuilder;
use exit_report::ExitReports;
use file_watch::FileWatch;
use health::Health;
use launch::StartWatch;
use listening::Listening;
use on_change::{OnChange, Then};
use orphans::Orphans;
use pool_registry::PoolRegistry;
use process_table::ProcessTable;
use rotad_core::{Engine, Input, Policy, PoolId, Request, Span, Ticket, Time, WorkerId};
use runtime_files::RuntimeFiles;
use service_manager::ServiceManager;
use shutdown::Shutdown;
use spawn_spec::SpawnSpecs;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickets::Tickets;
use waiters::Waiters;

/// How many batches of events are handled before deadlines are looked at: a flood must not stop the clock.
const MOST_BATCHES: u32 = 16;

/// A write of the log that takes longer hangs.
const PEN_HANGS: Duration = Duration::from_secs(5);

/// A ticket nobody waits for.
const NOBODY: Ticket = Ticket(0);

/// All that the master holds beside the core.
struct Supervisor {
    plan: Plan,
    engine: Engine,
    clock: Clock,
    /// The time of the last step.
    last_step: Time,
    poller: Poller,
    signals: Signals,
    waker: Waker,
    spawner: Spawner,
    accept_probe: AcceptProbe,
    health: Health,
    log: LogWriter,
    /// It has been told that the pen hangs.
    pen_hangs: bool,
    blocking: blocking::BlockingPool,
    reloads: ReloadQueue,
    on_change: OnChange,
    waiters: Waiters,
    /// Pools whose change was put back in the present step.
    reverted: BTreeSet<PoolId>,
    file_watch: FileWatch,
    runtime_dir: RuntimeDirRepair,
    runtime_files: RuntimeFiles,
    journal: WorkerJournal,
    /// It has been said that the journal cannot be written.
    journal_torn: bool,
    /// What was stopped at the start, if a killed master had left something.
    took_over: Option<String>,
    listening: Listening,
    pools: PoolRegistry,
    cgroups: WorkerCgroups,
    processes: ProcessTable,
    spawn_specs: SpawnSpecs,
    exit_reports: ExitReports,
    inputs: VecDeque<Input>,
    /// A step's orders are being carried out.
    draining: bool,
    tickets: Tickets,
    server: Server,
    event_log: event_log::EventLog,
    log_clients: log_clients::LogClients,
    /// Where the master's log is; none: on stderr.
    log_file: Option<PathBuf>,
    /// Clients that wait for the end.
    stop_clients: Vec<u64>,
    start_watch: StartWatch,
    service_manager: ServiceManager,
    shutdown: Option<Shutdown>,
    /// The prefix of ROTAD_WORKER: unique for each master.
    tag: String,
    notify_dir: PathBuf,
    null: Arc<OwnedFd>,
    /// Workers that the scout looks at.
    watched: BTreeSet<WorkerId>,
    /// Workers that nobody can look into, and when they have lived long enough.
    blind: BTreeSet<WorkerId>,
    blind_told: bool,
    alive_for: BTreeSet<(Time, WorkerId)>,
    stopping: bool,
    /// INT has come: the next one kills.
    interrupted: bool,
    orphans: Orphans,
    /// Workers that were reaped in the present turn, until the core has told of it.
    gone: BTreeMap<WorkerId, event_log::Who>,
    last_lost: BTreeMap<WorkerId, String>,
    /// What the master leaves with, if not with 0.
    exit_code: Option<u8>,
}

/// Why a master did not come to be.
#[derive(Debug)]
struct Failed {
    code: u8,
    message: String,
}

/// The life of one master, from here to its exit code. `reader`: reads the configuration again, on a thread.
pub fn serve(plan: Plan, launch: StartContext, reader: Reader) -> u8 {
    match Supervisor::start(plan, launch, reader) {
        Ok(supervisor) => supervisor.run(),
        Err((launch, failed)) => {
            launch.report.finish(failed.code, &failed.message);
            failed.code
        }
    }
}

impl Supervisor {
    fn run(mut self) -> u8 {
        self.refresh_plan();
        // Before any worker reads them.
        self.watch_files();
        let text = format!("rotad {} begins: {}", env!("CARGO_PKG_VERSION"), self.plan.master.name);
        self.emit(EventBuilder::new(EventKind::MasterStarted, text).silent());
        if let Some(text) = self.took_over.take() {
            self.emit(EventBuilder::new(EventKind::TookOver, text).silent());
        }
        // Wherever they stand in the file: one that the core does not know yet holds nobody.
        let ids: Vec<PoolId> = self.pools.iter().map(|(id, _)| id).collect();
        let ids = self.pools.in_order(&ids).into_iter();
        let pools: Vec<(PoolId, Policy)> = ids.filter_map(|id| Some((id, self.pools.policy(id)?))).collect();
        for (pool, policy) in pools {
            self.input(Input::Requested(NOBODY, Request::EnsurePool(pool, policy)));
        }
        let mut sources = Vec::new();
        loop {
            let patience = self.poll_timeout();
            self.poller.wait(patience, &mut sources);
            if let Some(pause) = self.clock.wake(patience) {
                let text = format!("the master was paused for up to {:.1} s: all deadlines move", pause.as_secs_f64());
                self.emit(EventBuilder::new(EventKind::MasterPaused, text).warn());
                self.spawner.paused(pause);
                self.orphans.paused(pause);
                self.accept_probe.paused(pause);
                self.reloads.paused(pause);
                self.on_change.paused(pause);
                self.server.paused(pause);
                self.health.probing.paused();
            }
            self.drain_poller(&mut sources);
            self.deadlines();
            self.update_boot_limit();
            self.notify_service_manager();
            if let Some(code) = self.can_exit() {
                return self.finish(code);
            }
        }
    }

    /// All that has come, before any deadline: a worker's READY before its timeout, its messages before its exit.
    fn drain_poller(&mut self, sources: &mut Vec<Source>) {
        for _ in 0..MOST_BATCHES {
            if sources.is_empty() {
                return;
            }
            for source in std::mem::take(sources) {
                self.take(source);
            }
            self.poller.wait(Some(Duration::ZERO), sources);
        }
    }

    fn take(&mut self, source: Source) {
        match source {
            Source::Signals => self.on_signals(),
            Source::Waker => {
                self.waker.clear();
                if self.signals.has_more() {
                    self.on_signals();
                }
                self.on_spawn_results();
                self.on_accept_reports();
                self.on_probe_results();
                self.on_rss_samples();
                self.on_cpu_demand();
                self.on_blocking_results();
                self.on_file_changes();
                self.on_orphan_scan();
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

    /// How long the loop may sleep; none: until something happens.
    fn poll_timeout(&self) -> Option<Duration> {
        let mending = self.listening.mending.deadline();
        let alive = self.alive_for.first().map(|(at, _)| *at);
        let core = [self.engine.deadline(), alive, self.start_watch.deadline(), mending].into_iter().flatten().min();
        let care = self.health.deadline().map(|at| self.clock.until(at));
        let waits =
            [self.clock.patience(core), care, self.shutdown.as_ref().map(|leaving| leaving.patience(&self.clock))];
        let moments = [
            self.spawner.deadline(),
            self.server.deadline(),
            self.processes.sweep_again(),
            self.service_manager.deadline(),
            self.journal.deadline(),
            self.orphans.deadline(),
            self.accept_probe.deadline(),
            self.reloads.deadline(),
            self.on_change.deadline(),
            self.runtime_files.deadline(),
        ];
        let moments = moments.into_iter().flatten().map(|at| at.saturating_duration_since(Instant::now()));
        waits.into_iter().flatten().chain(moments).min()
    }

    fn deadlines(&mut self) {
        let now = Instant::now();
        if self.spawner.deadline().is_some_and(|at| at <= now) {
            self.spawner.check(now);
            self.on_spawn_results();
        }
        self.run_due_runtime_files(now);
        for client in self.server.overdue(now) {
            self.drop_client(client);
        }
        self.clients_again(now);
        let overdue = self.processes.sweep_again().is_some_and(|at| at <= now);
        for worker in self.processes.overdue(now) {
            self.sweep(worker);
        }
        if overdue {
            self.look_at_finishing();
        }
        if self.journal.deadline().is_some_and(|at| at <= now) {
            let done = self.journal.mend();
            self.journal_told(done);
        }
        self.orphans_due();
        self.check_log_writer();
        if self.reloads.deadline().is_some_and(|at| at <= now) {
            self.check_blocking_job();
        }
        if self.on_change.deadline().is_some_and(|at| at <= now) {
            self.looks_overdue(now);
        }
        if self.accept_probe.deadline().is_some_and(|at| at <= now) {
            self.check_accept_probe(now);
        }
        self.drain_inputs();
        self.mark_alive();
        self.retry_listener_repair();
        self.run_due_health();
        if self.engine.deadline().is_some_and(|at| at <= self.clock.now()) {
            self.input(Input::TimerFired);
        }
        if self.start_watch.deadline().is_some_and(|at| at <= self.clock.now()) {
            self.start_overdue();
        }
        self.sample_starting();
    }

    /// A disk that hangs holds the pen alone; here it is told. Nobody wakes for that: whoever asks, or whatever happens,
    /// makes the loop turn.
    fn check_log_writer(&mut self) {
        let busy = self.log.busy_for();
        let hangs = busy >= PEN_HANGS;
        if hangs == self.pen_hangs {
            return;
        }
        self.pen_hangs = hangs;
        let note = match hangs {
            true => EventBuilder::new(
                EventKind::LogHangs,
                format!(
                    "the log has not been written for {} s: a disk hangs? Workers serve on until their pipes are full \
                     (64 KiB to 1 MiB of output each)",
                    busy.as_secs()
                ),
            )
            .cause("hangs")
            .error(),
            false => EventBuilder::new(EventKind::LogHangs, "the log is written again").cause("over").warn(),
        };
        self.emit(note);
    }

    fn on_signals(&mut self) {
        let came = self.signals.pending();
        if self.signals.has_more() {
            self.waker.wake();
        }
        for ReceivedSignal { meaning, text } in came {
            match meaning {
                Meaning::Child => self.children_ended(),
                Meaning::Nothing => {}
                Meaning::Stray => self.received(format!("{text}: means nothing here, passed over")),
                Meaning::Stop | Meaning::Interrupt if !self.stopping => {
                    self.received(format!("{text}: stopping"));
                    self.stop(false);
                }
                Meaning::Stop => self.received(format!("{text}: already stopping")),
                Meaning::Interrupt if self.interrupted => {
                    self.received(format!("{text}: killing what is left"));
                    self.stop(true);
                }
                Meaning::Interrupt => {
                    self.received(format!("{text}: already stopping; once more kills what is left"));
                }
                Meaning::Act(action) => self.act(action, &text),
            }
            self.interrupted |= meaning == Meaning::Interrupt;
        }
    }

    /// A signal, and what comes of it.
    fn received(&mut self, text: String) {
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
                self.received(format!("{text}: opening the log again"));
                self.log.reopen();
                self.look_after_sockets();
                self.keep_house();
            }
            SignalAction::Ignore => self.received(format!("{text}: ignored, as configured")),
        }
    }

    fn apply_by_signal(&mut self, text: &str, extent: ReloadScope) {
        let (who, which) = (text.to_owned(), Selector::default());
        self.apply(ReloadRequest { client: None, who, extent, which, wait: Wait::No });
    }

    fn roll_kind(&mut self, text: &str, kind: Option<Kind>) {
        let pools = self.pools.of_kind(kind);
        if pools.is_empty() {
            // Whoever waits for the end of a reload has it now.
            self.reloading();
            return self.received(format!("{text}: there is no pool of that kind to roll"));
        }
        let looks = self.looks(&pools);
        if looks.is_empty() {
            self.received(format!("{text}: rolling {}", self.names(&pools)));
            return self.roll(None, false, &pools);
        }
        let (perhaps, surely): (Vec<PoolId>, Vec<PoolId>) =
            pools.iter().partition(|pool| looks.iter().any(|(looked, _)| looked == *pool));
        let surely = if surely.is_empty() { String::new() } else { format!("rolling {}; ", self.names(&surely)) };
        let perhaps = self.names(&perhaps);
        self.received(format!("{text}: {surely}only if what it is made from has changed: {perhaps}"));
        self.reloading();
        self.look(looks, Then::Roll { client: None, wait: Wait::No, pools });
    }

    fn names(&self, pools: &[PoolId]) -> String {
        pools.iter().map(|pool| self.pool_name(*pool)).collect::<Vec<_>>().join(", ")
    }

    fn pool_name(&self, pool: PoolId) -> &str {
        self.pools.name(pool)
    }

    fn stop(&mut self, now: bool) {
        if !self.stopping {
            self.stopping = true;
            self.emit(EventBuilder::new(EventKind::MasterStopping, "stopping").silent());
            self.tell_stopping();
            self.give_up_applying();
            self.give_up_looks();
            self.give_up_starts();
        }
        let cap = self.plan.master.stop_timeout.map(|cap| Span::from_millis(cap.as_millis() as u64));
        let request = if now { Request::StopNow } else { Request::Stop { cap } };
        self.input(Input::Requested(NOBODY, request));
    }

    fn journal_born(&mut self, worker: WorkerId, start_time: u64) {
        let Some(body) = self.processes.get(worker) else { return };
        let Some(pid) = body.pid() else { return };
        let (name, pipes) =
            (self.pools.name(body.pool), body.output.as_ref().map(WorkerOutput::inodes).unwrap_or_default());
        let done = self.journal.born(pid, start_time, (name, body.slot.0), &body.tag, &pipes);
        self.journal_told(done);
    }

    fn journal_gone(&mut self, pid: i32) {
        let done = self.journal.gone(pid);
        self.journal_told(done);
    }

    /// Trouble with the journal, and its end, are told once.
    fn journal_told(&mut self, done: io::Result<()>) {
        let note = match done {
            Err(error) if !self.journal_torn => {
                let text = format!(
                    "the list of workers in {} cannot be written: {error}; it is tried again each second, and a start \
                     after a kill -9 goes by the workers' environment meanwhile",
                    self.runtime_dir().display()
                );
                EventBuilder::new(EventKind::Journal, text).cause("torn").warn()
            }
            Ok(()) if self.journal_torn && self.journal.deadline().is_none() => {
                EventBuilder::new(EventKind::Journal, "the list of workers in the runtime directory is whole again")
                    .cause("whole")
            }
            _ => return,
        };
        self.journal_torn = !self.journal_torn;
        self.emit(note);
    }
}
