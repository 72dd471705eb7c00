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

mod action;
mod bug;
mod clients;
mod counters;
mod daily_recycling;
mod deploys;
mod effects;
mod engine_queue;
mod event_builder;
mod event_log;
mod facts;
mod fd_table;
mod guardian;
mod health;
mod heartbeat;
mod hooks;
mod listening;
mod log_hang;
mod memory_release;
mod notices;
mod perform;
mod pool_registry;
mod reload;
mod report;
mod runtime_files;
mod saver;
mod sd_notify;
mod service_manager;
mod shutdown;
mod signal_actions;
mod startup;
#[cfg(test)]
mod stories;
mod taken_signals;
mod timers;
mod upgrade;
mod workers;

pub use fd_table::{prepare_fd_table, workers_within};
pub use reload::blocking::Reader;

use crate::daemon::StartContext;
use crate::event_loop::clock::LoopClock;
use crate::event_loop::poller::{Poller, Source};
use crate::event_loop::signals::Signals;
use crate::event_loop::waker::Waker;
use crate::exit_code::ExitCode;
use crate::guardian::{Link, MasterDeaths, SharedState, Succession};
use crate::log::LogWriter;
use crate::observe::events::EventKind;
use crate::plan::Plan;
use crate::runtime_dir::stale_workers::{Adoption, JournalNotes, ListenerNote, PoolNote};
use crate::saved_state::store::Store;
use crate::saved_state::tracked::Tracked;
use crate::sys::title;

use action::Action;
use clients::Clients;
use clients::tickets::Owner;
use counters::Counters;
use crossbeam_channel::Receiver;
use engine_queue::EngineQueue;
use event_builder::EventBuilder;
use reload::Reload;
use workers::{LoopContext, Workers};

use crate::upgrade::Answer;
use daily_recycling::DailyRecycling;
use health::Health;
use heartbeat::Heartbeat;
use hooks::Hooks;
use listening::Listening;
use log_hang::LogHang;
use memory_release::MemoryRelease;
use pool_registry::PoolRegistry;
use report::Report;
use rotad_core::{Input, Request};
use runtime_files::Runtime;
use saver::Saver;
use service_manager::ServiceManager;
use shutdown::Shutdown;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use taken_signals::TakenSignals;
use upgrade::Upgrade;

/// Maximum batches of events handled before deadlines are checked, so that a flood of events cannot hold up timeouts.
const MAX_BATCHES: u32 = 16;

/// The supervisor: the engine, and each part that acts for it.
struct Supervisor {
    plan: Tracked<Plan>,
    clock: LoopClock,
    event_loop: EventLoop,
    engine: EngineQueue,
    pools: Tracked<PoolRegistry>,
    listening: Listening,
    workers: Workers,
    health: Health,
    reload: Reload,
    clients: Clients,
    event_log: event_log::EventLog,
    counters: Counters,
    hooks: Hooks,
    log: Log,
    runtime: Runtime,
    service_manager: ServiceManager,
    guardian: Option<Arc<Link>>,
    /// Known also after the guardian has died.
    master_deaths: MasterDeaths,
    saver: Option<Box<Saver>>,
    shutdown: Tracked<Shutdown>,
    taken_signals: Tracked<TakenSignals>,
    upgrade: Tracked<Upgrade>,
    heartbeat: Heartbeat,
    daily_recycling: DailyRecycling,
    memory_release: MemoryRelease,
}

/// What the main thread waits for.
struct EventLoop {
    poller: Poller,
    signals: Signals,
    waker: Waker,
    /// What the threads report.
    reports: Receiver<Report>,
}

impl EventLoop {
    /// What the workers need of the main loop.
    fn context<'a>(&'a self, log: &'a Log, clock: &LoopClock) -> LoopContext<'a> {
        LoopContext {
            poller: &self.poller,
            log: &log.writer,
            now: clock.now(),
        }
    }
}

/// The log writer, and what is known about it.
struct Log {
    writer: LogWriter,
    hang: LogHang,
    /// The master's log file. None: it logs to stderr.
    file: Option<PathBuf>,
}

/// Why the master could not start.
#[derive(Debug)]
struct Failed {
    code: ExitCode,
    message: String,
}

/// Runs one master until it exits, and returns the exit code. `reader` reads the configuration for a reload; it is
/// called on a thread.
pub fn serve(
    plan: Plan,
    context: StartContext,
    reader: Reader,
    guardian: Option<(Arc<Link>, SharedState)>,
) -> ExitCode {
    memory_release::keep_until_released();
    match guardian {
        Some((link, state)) if link.succession() != Succession::First => {
            resume(|| Ok(plan), context, reader, (link, state))
        }
        guardian => {
            let guardian = guardian.map(|(link, state)| (link, Store::new(state)));
            start(plan, context, reader, guardian)
        }
    }
}

/// Runs a master that goes on after another one until it exits, and returns the exit code. `plan`: what is started where
/// the state cannot be read.
pub fn resume(
    plan: impl FnOnce() -> Result<Plan, ExitCode>,
    context: StartContext,
    reader: Reader,
    (link, state): (Arc<Link>, SharedState),
) -> ExitCode {
    memory_release::keep_until_released();
    match Supervisor::restore(context, &reader, &link, Store::new(state)) {
        Ok((mut supervisor, resume)) => {
            supervisor.resume(resume);
            supervisor.turn()
        }
        Err(afresh) => {
            let (context, store) = *afresh;
            match plan() {
                Ok(plan) => start(plan, context, reader, Some((link, store))),
                Err(code) => code,
            }
        }
    }
}

/// Whether this program could go on with this state of a master.
pub fn check_state(state: std::io::Result<SharedState>) -> Answer {
    Supervisor::check_state(state)
}

fn start(
    plan: Plan,
    context: StartContext,
    reader: Reader,
    guardian: Option<(Arc<Link>, Store)>,
) -> ExitCode {
    if guardian.is_none() {
        // A kernel that cannot change it leaves the command line as it was.
        title::set("master", &plan.master.name).ok();
    }
    match Supervisor::start(plan, context, reader, guardian) {
        Ok((supervisor, (events, adoption))) => supervisor.run(events, adoption),
        Err((context, failed)) => {
            context.report.finish(failed.code, &failed.message);
            failed.code
        }
    }
}

impl Supervisor {
    /// `events`: what has happened to the workers of a killed master, if there were any; `adoption`: those that are
    /// adopted.
    fn run(mut self, events: Vec<EventBuilder>, adoption: Option<Adoption>) -> ExitCode {
        // A next master may have to go on from the first record.
        self.save_clock();
        self.refresh_plan();
        if let Some(adoption) = &adoption {
            self.event_log.begin_after(adoption.events);
        }
        let text = format!(
            "rotad {} begins: {}",
            env!("CARGO_PKG_VERSION"),
            self.plan.master.name
        );
        self.emit(EventBuilder::new(EventKind::MasterStarted, text).silent());
        for event in events {
            self.emit(event);
        }
        self.restore_signals(None);
        // Before any worker reads the files: a change from then on is noticed.
        self.watch_files();
        for request in self.first_requests(adoption) {
            let waits = matches!(request, Request::EnsurePool(..) | Request::Adopt { .. })
                && self.clients.start_watch.waits();
            let ticket = waits.then(|| self.clients.tickets.of(Owner::Start));
            self.engine.push(Input::Requested(ticket, request));
        }
        self.note_in_journal();
        self.compact(true);
        self.settle();
        self.turn()
    }

    /// The main loop.
    fn turn(mut self) -> ExitCode {
        self.save_clock();
        let mut sources = Vec::new();
        loop {
            let releases_memory = self.memory_release.take_due(self.clock.now());
            let timeout = self.poll_timeout();
            if releases_memory {
                memory_release::release();
            }
            self.wait(timeout, &mut sources);
            if let Some(pause) = self.clock.wake(timeout) {
                self.save_clock();
                let text = format!(
                    "the master was paused for up to {:.1} s: all deadlines move",
                    pause.as_secs_f64()
                );
                self.emit(EventBuilder::new(EventKind::MasterPaused, text).warn());
                self.service_manager.paused();
                let actions = self.health.probing.paused(self.clock.now());
                self.perform(actions);
            }
            self.drain_poller(&mut sources);
            self.run_due_timers();
            self.note_in_journal();
            let event = self.log.hang.check(&self.log.writer, self.clock.now());
            self.perform(event.map(Action::Emit));
            let held_back = self.engine.view().limits_starts();
            self.health
                .boot_samples
                .schedule(held_back, self.clock.now());
            self.notify_service_manager();
            self.run_hooks();
            // What was emitted since the last input: the next one may be far away.
            self.save();
            self.tell_events();
            self.beat();
            if let Some(code) = self.can_exit() {
                self.end_heartbeat();
                return self.finish(code);
            }
        }
    }

    /// Notes in the journal of workers what the next start has to know beside them, if this master is killed.
    fn note_in_journal(&mut self) {
        let failed = self.workers.journal.write_forgotten();
        self.perform(failed);
        let events = self.workers.journal.events_after(self.event_log.last());
        let versions = (self.listening.version(), self.pools.version(), events);
        if self.workers.journal.has_noted(versions) {
            return;
        }
        let ids = self.listening.ids().into_iter();
        let listeners = ids.filter_map(|id| self.listening.get(id));
        let listeners = listeners.map(|listener| ListenerNote {
            name: listener.name().to_owned(),
            inode: listener.inode(),
            file: listener.file_id(),
        });
        let pools = self.pools.iter().filter_map(|(id, plan)| {
            let (scaled, stopped) = (self.pools.scaled(id), self.pools.stopped_by_operator(id));
            let name = plan.name.clone();
            (scaled.is_some() || stopped).then_some(PoolNote {
                name,
                scaled,
                stopped,
            })
        });
        let notes = JournalNotes {
            listeners: listeners.collect(),
            pools: pools.collect(),
            events,
        };
        let action = self.workers.journal.set_notes(versions, notes);
        self.perform(action);
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
                self.settle();
            }
            self.wait(Some(Duration::ZERO), sources);
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, sources: &mut Vec<Source>) {
        self.log.writer.announce();
        self.event_loop.poller.wait(timeout, sources);
    }

    fn dispatch(&mut self, source: Source) {
        match source {
            Source::Signals => self.on_signals(),
            Source::Children => {
                self.event_loop.signals.take_child();
                self.on_sigchld();
            }
            Source::Waker => {
                self.event_loop.waker.clear();
                if self.event_loop.signals.has_more() {
                    self.on_signals();
                }
                self.on_reports();
            }
            Source::ExecStatus(worker) => self.on_exec_status(worker),
            Source::Notify(worker) => self.read_messages(worker),
            Source::Listener(number) => {
                let (now, poller) = (self.clock.now(), &self.event_loop.poller);
                let actions = self.listening.on_hangup(number, now, poller);
                self.perform(actions);
            }
            Source::SocketFile(number) => {
                let (now, poller) = (self.clock.now(), &self.event_loop.poller);
                let actions = self.listening.on_file_change(number, now, poller);
                self.perform(actions);
            }
            Source::Control => self
                .clients
                .accept(self.clock.now(), &self.event_loop.poller),
            Source::RuntimeDir => {
                let lives = |worker| self.workers.processes.get(worker).is_some();
                self.runtime.on_change(self.clock.now(), lives);
            }
            Source::Guardian => self.on_guardian(),
            Source::GuardianExit => self.on_guardian_exit(),
            Source::WallTimer => self.on_wall_timer(),
            Source::Client(client) => self.on_client_readable(client),
            Source::Exit(worker) => self.worker_exited(worker, true),
        }
    }
}
