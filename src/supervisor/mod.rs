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
use crate::log::{LogWriter, Output};
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
use rotad_core::{Event, Master, Policy, PoolId, Request, Span, Ticket, Time, WorkerId};
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
    core: Master,
    clock: Clock,
    /// The time of the last step.
    told: Time,
    reactor: Poller,
    signals: Signals,
    wake: Waker,
    spawner: Spawner,
    scout: AcceptProbe,
    care: Health,
    pen: LogWriter,
    /// It has been told that the pen hangs.
    pen_hangs: bool,
    clerk: blocking::BlockingPool,
    applying: ReloadQueue,
    on_change: OnChange,
    vigils: Waiters,
    /// Pools whose change was put back in the present step.
    put_back: BTreeSet<PoolId>,
    watching: FileWatch,
    house: RuntimeDirRepair,
    keeping: RuntimeFiles,
    journal: WorkerJournal,
    /// It has been said that the journal cannot be written.
    journal_torn: bool,
    /// What was stopped at the start, if a killed master had left something.
    took_over: Option<String>,
    listening: Listening,
    posts: PoolRegistry,
    fence: WorkerCgroups,
    roster: ProcessTable,
    recipes: SpawnSpecs,
    obituaries: ExitReports,
    facts: VecDeque<Event>,
    /// A step's orders are being carried out.
    busy: bool,
    tickets: Tickets,
    server: Server,
    chronicle: event_log::EventLog,
    streams: log_clients::LogClients,
    /// Where the master's log is; none: on stderr.
    log_file: Option<PathBuf>,
    /// Clients that wait for the end.
    stop_clients: Vec<u64>,
    launch: StartWatch,
    managing: ServiceManager,
    leaving: Option<Shutdown>,
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
        Ok(keeper) => keeper.run(),
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
        self.note(EventBuilder::new(EventKind::MasterStarted, text).silent());
        if let Some(text) = self.took_over.take() {
            self.note(EventBuilder::new(EventKind::TookOver, text).silent());
        }
        // Wherever they stand in the file: one that the core does not know yet holds nobody.
        let ids: Vec<PoolId> = self.posts.iter().map(|(id, _)| id).collect();
        let ids = self.posts.in_order(&ids).into_iter();
        let pools: Vec<(PoolId, Policy)> = ids.filter_map(|id| Some((id, self.posts.policy(id)?))).collect();
        for (pool, policy) in pools {
            self.fact(Event::Requested(NOBODY, Request::Keep(pool, policy)));
        }
        let mut sources = Vec::new();
        loop {
            let patience = self.patience();
            self.reactor.wait(patience, &mut sources);
            if let Some(pause) = self.clock.wake(patience) {
                let text = format!("the master was paused for up to {:.1} s: all deadlines move", pause.as_secs_f64());
                self.note(EventBuilder::new(EventKind::MasterPaused, text).warn());
                self.spawner.paused(pause);
                self.orphans.paused(pause);
                self.scout.paused(pause);
                self.applying.paused(pause);
                self.on_change.paused(pause);
                self.server.paused(pause);
                self.care.probing.paused();
            }
            self.take_in(&mut sources);
            self.deadlines();
            self.review_starts();
            self.tell_manager();
            if let Some(code) = self.may_leave() {
                return self.farewell(code);
            }
        }
    }

    /// All that has come, before any deadline: a worker's READY before its timeout, its messages before its exit.
    fn take_in(&mut self, sources: &mut Vec<Source>) {
        for _ in 0..MOST_BATCHES {
            if sources.is_empty() {
                return;
            }
            for source in std::mem::take(sources) {
                self.take(source);
            }
            self.reactor.wait(Some(Duration::ZERO), sources);
        }
    }

    fn take(&mut self, source: Source) {
        match source {
            Source::Signals => self.signalled(),
            Source::Waker => {
                self.wake.hush();
                if self.signals.has_more() {
                    self.signalled();
                }
                self.births();
                self.scouted();
                self.probed();
                self.weighed();
                self.looked_at_starts();
                self.clerk_answers();
                self.watched_files();
                self.looked_at_orphans();
            }
            Source::Verdict(worker) => self.verdict(worker),
            Source::Notify(worker) => self.messages(worker),
            Source::Listener(number) => self.listener_shut(number),
            Source::SocketFile(number) => self.socket_file(number),
            Source::Control => self.new_clients(),
            Source::RuntimeDir => self.house_heard(),
            Source::Client(client) => self.hear(client),
            Source::Exit(worker) => self.exited(worker),
        }
    }

    /// How long the loop may sleep; none: until something happens.
    fn patience(&self) -> Option<Duration> {
        let mending = self.listening.mending.deadline();
        let alive = self.alive_for.first().map(|(at, _)| *at);
        let core = [self.core.deadline(), alive, self.launch.deadline(), mending].into_iter().flatten().min();
        let care = self.care.deadline().map(|at| self.clock.until(at));
        let waits =
            [self.clock.patience(core), care, self.leaving.as_ref().map(|leaving| leaving.patience(&self.clock))];
        let moments = [
            self.spawner.deadline(),
            self.server.deadline(),
            self.roster.sweep_again(),
            self.managing.deadline(),
            self.journal.deadline(),
            self.orphans.deadline(),
            self.scout.deadline(),
            self.applying.deadline(),
            self.on_change.deadline(),
            self.keeping.deadline(),
        ];
        let moments = moments.into_iter().flatten().map(|at| at.saturating_duration_since(Instant::now()));
        waits.into_iter().flatten().chain(moments).min()
    }

    fn deadlines(&mut self) {
        let now = Instant::now();
        if self.spawner.deadline().is_some_and(|at| at <= now) {
            self.spawner.check(now);
            self.births();
        }
        self.keep_by_the_clock(now);
        for client in self.server.overdue(now) {
            self.drop_client(client);
        }
        self.clients_again(now);
        let overdue = self.roster.sweep_again().is_some_and(|at| at <= now);
        for worker in self.roster.overdue(now) {
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
        self.look_at_pen();
        if self.applying.deadline().is_some_and(|at| at <= now) {
            self.errand_overdue();
        }
        if self.on_change.deadline().is_some_and(|at| at <= now) {
            self.looks_overdue(now);
        }
        if self.scout.deadline().is_some_and(|at| at <= now) {
            self.scout_overdue(now);
        }
        self.drain_facts();
        self.lived_long_enough();
        self.mend_again();
        self.tend();
        if self.core.deadline().is_some_and(|at| at <= self.clock.now()) {
            self.fact(Event::Woke);
        }
        if self.launch.deadline().is_some_and(|at| at <= self.clock.now()) {
            self.launch_overdue();
        }
        self.watch_starts();
    }

    /// A disk that hangs holds the pen alone; here it is told. Nobody wakes for that: whoever asks, or whatever happens,
    /// makes the loop turn.
    fn look_at_pen(&mut self) {
        let busy = self.pen.busy_for();
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
        self.note(note);
    }

    fn signalled(&mut self) {
        let came = self.signals.pending();
        if self.signals.has_more() {
            self.wake.ring();
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
        self.note(EventBuilder::new(EventKind::SignalReceived, text));
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
                self.pen.reopen();
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
        let pools = self.posts.of_kind(kind);
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
        self.posts.name(pool)
    }

    fn stop(&mut self, now: bool) {
        if !self.stopping {
            self.stopping = true;
            self.note(EventBuilder::new(EventKind::MasterStopping, "stopping").silent());
            self.tell_stopping();
            self.give_up_applying();
            self.give_up_looks();
            self.give_up_starts();
        }
        let cap = self.plan.master.stop_timeout.map(|cap| Span::from_millis(cap.as_millis() as u64));
        let request = if now { Request::StopNow } else { Request::Stop { cap } };
        self.fact(Event::Requested(NOBODY, request));
    }

    fn journal_born(&mut self, worker: WorkerId, start_time: u64) {
        let Some(body) = self.roster.get(worker) else { return };
        let Some(pid) = body.pid() else { return };
        let (name, pipes) = (self.posts.name(body.pool), body.output.as_ref().map(Output::inodes).unwrap_or_default());
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
        self.note(note);
    }
}
