//! Goes on where a dead master has stopped: reads the records that it has left (`saver.rs`), takes its descriptors out of
//! the table that all masters of a guardian share, and makes a supervisor that knows what the dead one knew.
//!
//! `serve` calls [`Supervisor::restore`]; [`Supervisor::resume`] then watches and checks the workers again, has the engine
//! repeat what it was given, and executes what is left of its last output.

use super::acquired::Acquired;
use super::assemble::{Parts, Tables};
use super::logs;
use crate::control::server::Server;
use crate::daemon::StartContext;
use crate::event_loop::clock::Clock;
use crate::event_loop::poller::{Interest, Source};
use crate::event_loop::signals::Signals;
use crate::exit_code::ExitCode;
use crate::guardian::{Link, SharedState, Succession};
use crate::log::{SavedLeftOutput, WorkerOutput, WriteRecord};
use crate::observe::counted::counted;
use crate::observe::events::{Event, EventKind};
use crate::plan::{LogPlan, Plan};
use crate::process::{SavedPaths, unreported};
use crate::runtime_dir::RuntimeDir;
use crate::runtime_dir::stale_workers::WorkerJournal;
use crate::saved_state::format::{FORMAT, READABLE_BY};
use crate::saved_state::store::{Progress, Store};
use crate::supervisor::clients::launch::{SavedStart, StartWatch};
use crate::supervisor::clients::tickets::Tickets;
use crate::supervisor::counters::SavedCounters;
use crate::supervisor::effects::in_order;
use crate::supervisor::engine_queue::EngineQueue;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::hooks::queue::HookQueue;
use crate::supervisor::listening::{Listening, SavedListening};
use crate::supervisor::pool_registry::{PoolRegistry, SavedPools};
use crate::supervisor::reload::ReloadRequest;
use crate::supervisor::reload::blocking::Reader;
use crate::supervisor::reload::file_watch::SeenFiles;
use crate::supervisor::saver::{RECORD_KINDS, Record, SavedMaster, SavedShutdown, Saver};
use crate::supervisor::service_manager::ServiceManager;
use crate::supervisor::taken_signals::TakenSignals;
use crate::supervisor::upgrade::SavedUpgrade;
use crate::supervisor::workers::WorkerCgroups;
use crate::supervisor::workers::exit_report::{ExitReports, exit_text};
use crate::supervisor::workers::process_table::{ProcessStage, WorkerProcess};
use crate::supervisor::workers::saved_worker::SavedWorker;
use crate::supervisor::{Failed, Supervisor};
use crate::sys;
use crate::sys::kept_fd::FdTable;
use crate::upgrade::Answer;
use nix::sys::socket::{UnixAddr, getsockname, getsockopt, sockopt};
use nix::sys::stat::fstat;
use rotad_core::{
    Command, Engine, Generation, Input, Notice, PoolId, SavedEngine, Time, WorkerId, WorkerState,
};
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

#[cfg(test)]
mod tests;

/// The first descriptor that is not a standard stream.
const FIRST_FD: i32 = 3;

/// What the records say, each of its kind the last one.
#[derive(Default)]
struct Records {
    master: Option<SavedMaster>,
    engine: Option<(u64, SavedEngine<'static>)>,
    /// Those after the engine was saved.
    inputs: Vec<(Time, Input)>,
    plan: Option<Plan>,
    pools: Option<SavedPools>,
    workers: BTreeMap<WorkerId, SavedWorker>,
    left_outputs: BTreeMap<WorkerId, SavedLeftOutput>,
    paths: Vec<(PoolId, Generation, SavedPaths)>,
    listening: Option<SavedListening>,
    server: Option<crate::control::server::SavedServer>,
    tickets: Tickets,
    reloads: Vec<ReloadRequest>,
    start: Option<SavedStart>,
    exit_reports: ExitReports,
    shutdown: Option<SavedShutdown>,
    signals: Option<TakenSignals>,
    events: Vec<Event>,
    upgrade: Option<SavedUpgrade>,
    watched: Vec<SeenFiles>,
    counters: SavedCounters,
    hooks: HookQueue,
}

/// Whether another version has written this record, which this one may pass over (`saved_state::format`). Whatever is no
/// record is not of an unknown kind.
fn is_of_unknown_kind(line: &str) -> bool {
    let kind = line
        .strip_prefix("{\"")
        .and_then(|rest| rest.split_once('"'));
    kind.is_some_and(|(kind, _)| {
        !RECORD_KINDS.contains(&kind) && serde_json::from_str::<IgnoredAny>(line).is_ok()
    })
}

impl Records {
    fn read(lines: &[String]) -> Result<Self, serde_json::Error> {
        let mut all = Self::default();
        for line in lines {
            if is_of_unknown_kind(line) {
                continue;
            }
            match serde_json::from_str::<Record<'static>>(line)? {
                Record::Master(master) => all.master = Some(master),
                Record::Engine(inputs, engine) => {
                    all.engine = Some((inputs, *engine));
                    all.inputs.clear();
                }
                Record::Input(at, input) => all.inputs.push((at, input.into_owned())),
                Record::Plan(plan) => all.plan = Some(plan.into_owned()),
                Record::Pools(pools) => all.pools = Some(pools),
                Record::Worker(id, Some(worker)) => drop(all.workers.insert(id, *worker)),
                Record::Worker(id, None) => drop(all.workers.remove(&id)),
                Record::WorkerState(id, state) => {
                    if let Some(worker) = all.workers.get_mut(&id) {
                        worker.set_state(*state);
                    }
                }
                Record::LeftOutput(id, Some(output)) => {
                    all.left_outputs.insert(id, *output);
                }
                Record::LeftOutput(id, None) => drop(all.left_outputs.remove(&id)),
                Record::Paths(pool, generation, paths) => {
                    all.paths.push((pool, generation, paths));
                }
                Record::Listening(listening) => all.listening = Some(listening),
                Record::Server(server) => all.server = Some(server),
                Record::Tickets(tickets) => all.tickets = tickets.into_owned(),
                Record::Reloads(reloads) => all.reloads = reloads,
                Record::Start(start) => all.start = Some(start),
                Record::ExitReports(reports) => all.exit_reports = reports.into_owned(),
                Record::ExitReport(worker, report) => {
                    all.exit_reports.restore(worker, report.into_owned());
                }
                Record::Upgrade(upgrade) => all.upgrade = upgrade,
                Record::Shutdown(shutdown) => all.shutdown = Some(shutdown),
                Record::Signals(signals) => all.signals = Some(signals.into_owned()),
                Record::Event(event) => all.events.push(event.into()),
                Record::Watched(seen) => all.watched = seen.into_owned(),
                Record::Counters(later) => all.counters.add(later),
                Record::Hooks(hooks) => all.hooks = hooks.into_owned(),
            }
        }
        Ok(all)
    }
}

/// What is left to be done once the supervisor exists.
pub(in crate::supervisor) struct Resume {
    workers: BTreeMap<WorkerId, WorkerProcess>,
    /// The output of those that are gone, and where it goes.
    left_outputs: Vec<(WorkerId, (WorkerOutput, LogPlan))>,
    paths: Vec<(PoolId, Generation, SavedPaths)>,
    tickets: Tickets,
    reloads: Vec<ReloadRequest>,
    exit_reports: ExitReports,
    shutdown: Option<SavedShutdown>,
    upgrade: Option<SavedUpgrade>,
    watched: Vec<SeenFiles>,
    counters: SavedCounters,
    hooks: HookQueue,
    signals: Option<TakenSignals>,
    events: Vec<Event>,
    rest: Rest,
    /// Inputs that the engine was not given.
    inputs: Vec<(Time, Input)>,
    /// What is missing, for people.
    doubts: Vec<String>,
}

/// The records, with the engine and the pools that they lead to.
struct State {
    records: Records,
    master: SavedMaster,
    plan: Plan,
    pools: PoolRegistry,
    replayed: Replayed,
}

impl State {
    fn read(lines: &[String], progress: Progress) -> Result<Self, Failed> {
        let mut records = Records::read(lines).map_err(|error| unreadable(&error))?;
        let master = records.master.take().ok_or_else(|| missing("master"))?;
        if master.readable_by > FORMAT {
            let version = &master.version;
            return Err(unreadable(&format!(
                "rotad {version} has written it, which is too new"
            )));
        }
        let plan = records
            .plan
            .take()
            .ok_or_else(|| missing("configuration"))?;
        let (inputs, engine) = records.engine.take().ok_or_else(|| missing("engine"))?;
        let recorded = std::mem::take(&mut records.inputs);
        let replayed =
            replay(engine, inputs, recorded, progress).map_err(|error| unreadable(&error))?;
        let pools = records
            .pools
            .take()
            .and_then(PoolRegistry::restore)
            .ok_or_else(|| missing("pools"))?;
        Ok(Self {
            records,
            master,
            plan,
            pools,
            replayed,
        })
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Failed {
    Failed::at("the state of the master before cannot be read", error)
}

fn missing(what: &str) -> Failed {
    unreadable(&format!("it has no {what}"))
}

impl Supervisor {
    /// Whether this program could go on with this state.
    pub(in crate::supervisor) fn check_state(state: std::io::Result<SharedState>) -> Answer {
        let problem = || -> Result<(), String> {
            let state = state.map_err(|error| format!("it is not a state: {error}"))?;
            let store = Store::new(state);
            let lines = store.records().map_err(|error| error.to_string())?;
            let lines = lines.ok_or("it is empty")?;
            State::read(&lines, store.progress())
                .map(drop)
                .map_err(|failed| failed.message)
        };
        Answer {
            rotad: env!("CARGO_PKG_VERSION").to_owned(),
            readable_by: READABLE_BY,
            problem: problem().err(),
        }
    }

    /// A supervisor that goes on with the state in `store`. If there is none that can be read: what a master needs that
    /// starts afresh, and adopts the workers of the dead one.
    pub(in crate::supervisor) fn restore(
        context: StartContext,
        reader: &Reader,
        link: &Arc<Link>,
        mut store: Store,
    ) -> Result<(Self, Resume), Box<(StartContext, Store)>> {
        let Some(lines) = store.records().transpose() else {
            // It had not begun to serve. Whatever it had opened, the lock among it, is closed.
            let others: Vec<RawFd> = link
                .own_fds()
                .iter()
                .copied()
                .chain(context.fds())
                .collect();
            drop(FdTable::of_process(FIRST_FD, &others));
            return Err(Box::new((context, store)));
        };
        // What the dead master had of the context is in the state.
        let context = ManuallyDrop::new(context);
        let mut kept_sockets = Vec::new();
        let begun = FdTable::of_process(FIRST_FD, link.own_fds())
            .map_err(|error| Failed::at("cannot list our descriptors", error))
            .and_then(|table| {
                let sockets = table.copies(is_listening).into_iter();
                kept_sockets = sockets
                    .filter_map(|fd| Some((fstat(&fd).ok()?.st_ino, fd)))
                    .collect();
                let lines = lines.map_err(|error| unreadable(&error))?;
                Self::from_state(&lines, &store, table, reader, link)
            });
        match begun {
            Ok((mut supervisor, resume, master)) => {
                supervisor.saver = Some(Box::new(Saver::new(store, master)));
                Ok((supervisor, resume))
            }
            Err(failed) => {
                store.forget();
                let warning = format!(
                    "{}; its workers serve on and are adopted, rolling restarts and requests that wait are given up",
                    failed.message
                );
                let fresh = context.without_fds(warning, kept_sockets);
                Err(Box::new((fresh, store)))
            }
        }
    }

    fn from_state(
        lines: &[String],
        store: &Store,
        mut table: FdTable,
        reader: &Reader,
        link: &Arc<Link>,
    ) -> Result<(Self, Resume, SavedMaster), Failed> {
        let State {
            records,
            master,
            plan,
            pools,
            replayed,
        } = State::read(lines, store.progress())?;
        let listening = records.listening.ok_or_else(|| missing("listeners"))?;
        let listening = Listening::restored(listening, &mut table)
            .map_err(|error| Failed::at("the listening sockets are not there", error))?;
        let mut doubts = Vec::new();
        let mut workers = BTreeMap::new();
        for (id, worker) in records.workers {
            match worker.restore(&pools, &mut table, &mut doubts) {
                Ok(process) => drop(workers.insert(id, process)),
                Err(error) => doubts.push(format!("worker {id} cannot be taken over: {error}")),
            }
        }
        let log_of = |name: &str| {
            let pool = plan.pools.iter().find(|pool| pool.name == name);
            pool.map(|pool| &pool.log)
        };
        // One that is not there was read to its end.
        let left_outputs = records.left_outputs.into_iter();
        let left_outputs: Vec<(WorkerId, (WorkerOutput, LogPlan))> = left_outputs
            .filter_map(|(id, output)| Some((id, output.restore(&mut table, log_of).ok()?)))
            .collect();
        let start_watch = match records.start {
            Some(saved) => StartWatch::restore(saved, &mut table),
            None => return Err(missing("start")),
        };
        let server = records.server.ok_or_else(|| missing("control socket"))?;
        let mut server = Server::restore(server, &mut table)
            .map_err(|error| Failed::at("the control socket is not there", error))?;
        let clock = Clock::start_at(replayed.last.max(Time(link.died_at())));
        let now = clock.now();
        server.restore_unsaved(&mut table, now);
        let runtime_dir = master
            .runtime_dir
            .clone()
            .ok_or_else(|| missing("runtime directory"))?;
        let mut runtime_dir = RuntimeDir::restore(runtime_dir, &mut table)
            .map_err(|error| Failed::at("the runtime directory is not ours any more", error))?;
        let outputs = workers
            .values()
            .filter_map(|process| process.output.as_ref())
            .chain(left_outputs.iter().map(|(_, (output, _))| output));
        let record = store
            .shared()
            .log_part()
            .and_then(|part| WriteRecord::resume(part, &mut table, outputs))
            .map_err(|error| Failed::at("cannot record what is logged", error))?;
        // Whatever else the dead master had open: its epoll instance, files that it was reading.
        drop(table);
        sys::reaper::become_subreaper()
            .map_err(|error| Failed::at("cannot become the reaper of orphans", error))?;
        // As the dead master had set them for itself.
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(plan.master.umask));
        super::raise_nofile(&plan)?;
        let log_writer = logs::open(&plan, master.foreground, record, clock.clone())?;
        let signals = Signals::install(plan.signals, master.hup_ignored)
            .map_err(|error| Failed::at("cannot install signal handlers", error))?;
        let service_manager =
            ServiceManager::begin(master.activation_pid, clock.clone(), Some(link.clone()));
        let cgroups = match master.cgroups.clone() {
            Some(saved) => WorkerCgroups::restore(saved),
            None => WorkerCgroups::find(&plan.master.name),
        };
        let dir = runtime_dir.path().to_owned();
        let tag = master.tag.clone();
        let journal = WorkerJournal::reopen(&dir, &tag, cgroups.base(), clock.clone())
            .or_else(|_| WorkerJournal::open(&dir, &tag, cgroups.base(), clock.clone()))
            .map_err(|error| Failed::at("cannot write the list of workers", error))?;
        runtime_dir.write_pid().map_err(|error| Failed {
            code: error.code,
            message: error.message,
        })?;
        let log_file = logs::log_file(&plan, master.foreground).cloned();
        let nofile = master.nofile;
        let acquired = Acquired {
            runtime_dir,
            nofile,
            signals,
            clock,
            log_writer,
            server,
            journal,
            tag,
            cgroups,
            service_manager,
            guardian: Some(link.clone()),
            saver: None,
            preexisting: master.preexisting.iter().copied().collect(),
            last_worker: WorkerId(0),
        };
        let tables = Tables {
            plan,
            engine: replayed.engine,
            pools,
            listening,
            start_watch,
            log_file,
        };
        let supervisor = Parts::of(acquired)?.supervisor(tables, reader.clone());
        let resume = Resume {
            workers,
            left_outputs,
            paths: records.paths,
            tickets: records.tickets,
            reloads: records.reloads,
            exit_reports: records.exit_reports,
            shutdown: records.shutdown,
            upgrade: records.upgrade,
            watched: records.watched,
            counters: records.counters,
            hooks: records.hooks,
            signals: records.signals,
            events: records.events,
            rest: replayed.rest,
            inputs: replayed.waiting,
            doubts,
        };
        Ok((supervisor, resume, master))
    }

    /// Goes on with the workers, the clients and the engine's commands.
    pub(in crate::supervisor) fn resume(&mut self, resume: Resume) {
        self.save_clock();
        for event in resume.events {
            self.event_log.restore(event);
        }
        let mut output = self.counters.restore(resume.counters);
        let names: BTreeSet<&str> = self.pools.names().into_iter().collect();
        output.retain(|of| names.contains(of.pool.as_str()));
        self.counters.retain_output(|name| names.contains(name));
        let pools = &self.pools;
        self.counters
            .retain_pools(|pool| pools.plan(pool).is_some());
        self.log.writer.go_on_counting(&output);
        for (pool, generation, paths) in resume.paths {
            self.workers.spawn_specs.restore(pool, generation, paths);
        }
        self.workers.exit_reports = resume.exit_reports;
        self.restore_signals(resume.signals);
        self.workers.processes.guardian = self.guardian.clone();
        let (mut stop_clients, mut stops) = (Vec::new(), false);
        if let Some(shutdown) = resume.shutdown {
            stops = shutdown.stopping;
            self.shutdown.stopping = shutdown.stopping;
            self.shutdown.interrupted = shutdown.interrupted;
            self.shutdown.exit_code = shutdown.exit_code;
            stop_clients = shutdown.clients;
        }
        let count = resume.workers.len();
        for (id, process) in resume.workers {
            self.workers.processes.restore(id, process);
            self.watch_restored(id);
        }
        for (id, (output, log)) in resume.left_outputs {
            self.log.writer.adopt(&output);
            self.workers.processes.left_output(id, &output, &log);
        }
        let tries = self.restore_hooks(resume.hooks);
        let poller = &self.event_loop.poller;
        let again = self.clients.restore(
            resume.tickets,
            stop_clients,
            &resume.reloads,
            &self.event_log,
            poller,
        );
        self.answer_tries(tries);
        let succession = self
            .guardian
            .as_ref()
            .map_or(Succession::Death, |link| link.succession());
        let why = self.why_it_goes_on(succession);
        let doubts = match resume.doubts.len() {
            0 => String::new(),
            _ => format!("; in doubt: {}", resume.doubts.join("; ")),
        };
        let keeps_dying = self
            .guardian
            .as_ref()
            .is_some_and(|link| link.keeps_dying());
        let given_up = if keeps_dying {
            "; three or more have died within ten seconds, so rolling restarts and requests that wait are given up"
        } else {
            ""
        };
        let serve = if count == 1 {
            "was taken over and serves"
        } else {
            "were taken over and serve"
        };
        let workers = counted(count, "worker");
        let text = format!("{why}; {workers} {serve} on{given_up}{doubts}");
        self.emit(EventBuilder::new(EventKind::MasterRestored, text).warn());
        self.refresh_plan();
        self.reload.file_watch.restore(resume.watched);
        self.watch_files();
        self.health_of_restored();
        self.recycle_what_is_left();
        for input in resume.inputs {
            self.engine.push_at(input);
        }
        for request in resume.reloads {
            if keeps_dying {
                let text = "the master died several times in a row: nothing was changed or rolled";
                self.answer_reload(&request, ExitCode::FAILED, text.to_owned());
            } else if !stops {
                self.reload(request);
            }
        }
        if keeps_dying {
            // Before the tickets of its pools are answered: they have not failed, and nothing is stopped.
            let text =
                "the master has died several times in a row; workers that have started serve on";
            self.clients.start_watch.give_up(text);
            self.engine.push(Input::MasterKeepsDying);
        }
        let processes = self.workers.processes.iter();
        let known: BTreeSet<WorkerId> = processes.map(|(id, _)| id).collect();
        self.find_unreported();
        self.execute_rest(resume.rest.first, &known);
        if !resume.rest.notices.is_empty() {
            self.report_all(resume.rest.notices);
            self.step_done();
        }
        self.execute_rest(resume.rest.then, &known);
        // Not before: a snapshot of the engine knows of no command that is still to be executed.
        self.compact(true);
        self.trees_of_restored();
        let upgrades_for = resume.upgrade.as_ref().and_then(SavedUpgrade::client);
        if let Some(upgrade) = resume.upgrade {
            self.resume_upgrade(upgrade, succession);
        }
        // What was asked before comes first: a status shows the pools that are being made.
        self.settle();
        for (client, request) in again {
            if upgrades_for == Some(client) {
                continue;
            }
            self.on_request(client, request);
        }
        self.settle();
        self.take_missed_signals();
    }

    /// Executes commands that the dead master has not executed, but for spawns of workers that are `known`: such a worker
    /// was found, or is spawned again.
    fn execute_rest(&mut self, commands: Vec<Command>, known: &BTreeSet<WorkerId>) {
        for command in commands {
            let is_known =
                matches!(command, Command::Spawn { worker, .. } if known.contains(&worker));
            if let Command::Spawn { worker, .. } = command
                && !is_known
            {
                self.workers.remove_unsaved_socket(worker);
            }
            if !is_known {
                self.execute(command);
            }
            self.step_done();
        }
    }

    /// What has become of the master before this one, for people.
    fn why_it_goes_on(&self, succession: Succession) -> String {
        let death = self.guardian.as_ref().and_then(|link| link.last_death());
        let how = death.map_or_else(String::new, |death| {
            let after = death.after_ms as f64 / 1000.0;
            format!(" ({} after {after:.1} s)", exit_text(death.exit))
        });
        match succession {
            Succession::First | Succession::Death => {
                format!("the master before this one has died{how}")
            }
            Succession::Hung => {
                format!(
                    "the loop of the master before this one did not turn, so it was killed{how}"
                )
            }
            Succession::GuardianDied => {
                "the master before this one has become the guardian, since that had died".to_owned()
            }
            Succession::Upgrade => {
                "the master before this one was replaced by an upgrade".to_owned()
            }
            Succession::WentBack(_) => "an upgrade has failed".to_owned(),
        }
    }

    /// Watches a worker's descriptors as the dead master did.
    pub(super) fn watch_restored(&mut self, id: WorkerId) {
        let Some(process) = self.workers.processes.get(id) else {
            return;
        };
        let poller = &self.event_loop.poller;
        if let Some(output) = &process.output {
            self.log.writer.adopt(output);
        }
        let ProcessStage::Alive(child) = &process.stage else {
            return;
        };
        let mut watched = Ok(());
        if let (Some(pidfd), None) = (child.pidfd(), process.exit) {
            watched = poller.watch(pidfd, Source::Exit(id), Interest::Read);
        }
        if let (Ok(()), Some(notify)) = (&watched, &process.notify) {
            watched = poller.watch(notify, Source::Notify(id), Interest::Read);
        }
        if let (Ok(()), Some(status)) = (&watched, &process.exec_status) {
            watched = poller.watch(status, Source::ExecStatus(id), Interest::Read);
        }
        if let Err(error) = watched {
            tracing::error!("cannot watch a worker: {error}");
        }
    }

    /// The dead master was spawning these workers. Each has its process already, or is spawned again.
    fn find_unreported(&mut self) {
        for (id, process) in self.workers.processes.iter() {
            if let Some(port) = process.port {
                self.health.ports.hold(id, port);
            }
        }
        let Some(guardian) = self.workers.processes.guardian_pid() else {
            return;
        };
        let unreported: Vec<(WorkerId, String, bool)> = self
            .workers
            .processes
            .iter()
            .filter(|(_, process)| process.child().is_none())
            .map(|(id, process)| (id, process.tag.clone(), process.output.is_some()))
            .collect();
        if unreported.is_empty() {
            return;
        }
        let me = std::process::id().cast_signed();
        let known = |pid| pid == me || self.workers.processes.has_pid(pid);
        let found = unreported::by_tag(guardian, &known);
        for (id, tag, was_submitted) in unreported {
            let context = self.event_loop.context(&self.log, &self.clock);
            let actions = match found.get(&tag) {
                Some(identity) => self.workers.found_spawned(&context, id, *identity),
                None if was_submitted => self.workers.spawn_again(&context, id),
                // It waits for a port.
                None => {
                    self.request_spawn(id);
                    continue;
                }
            };
            self.perform(actions);
        }
    }

    /// Begins the checks of the workers that run: those that start are looked at for their readiness, those that serve
    /// for their health.
    fn health_of_restored(&mut self) {
        let view = self.engine.view();
        let states: Vec<(WorkerId, WorkerState)> = view
            .workers()
            .map(|worker| (worker.id, worker.state))
            .collect();
        for (id, state) in states {
            let runs = |process: &WorkerProcess| {
                process.child().is_some() && process.exec_status.is_none() && process.exit.is_none()
            };
            if !self.workers.processes.get(id).is_some_and(runs) {
                continue;
            }
            match state {
                WorkerState::Starting => self.check_readiness(id),
                WorkerState::Ready | WorkerState::Soaking => {
                    self.check_readiness(id);
                    self.execute(Command::StartHealth(id));
                }
                _ => {}
            }
        }
    }

    /// What is left of the trees of workers that have ended is looked for again.
    fn trees_of_restored(&mut self) {
        let ended: Vec<WorkerId> = self
            .workers
            .processes
            .iter()
            .filter(|(_, process)| process.exit.is_some())
            .map(|(id, _)| id)
            .collect();
        for id in ended {
            let finishing = self
                .engine
                .view()
                .worker(id)
                .is_some_and(|worker| worker.state == WorkerState::Stopping);
            let command = if finishing {
                Command::SignalRemaining(id, None)
            } else {
                Command::KillTree(id)
            };
            self.execute(command);
        }
    }
}

/// Whether a descriptor may be a listening socket of workers. Abstract addresses are those of the master itself.
fn is_listening(fd: &OwnedFd) -> bool {
    let is_abstract =
        || getsockname::<UnixAddr>(fd.as_raw_fd()).is_ok_and(|name| name.as_abstract().is_some());
    getsockopt(fd, sockopt::AcceptConn).unwrap_or_default() && !is_abstract()
}

/// What is left to do of the engine's last output, in the order of `settle`: commands, all notices, commands.
#[derive(Default)]
struct Rest {
    first: Vec<Command>,
    notices: Vec<Notice>,
    then: Vec<Command>,
}

impl Rest {
    /// Leaves out what the dead master has done: each command is a step, and all notices together, if there are any.
    fn drop_done(&mut self, mut steps: usize) {
        let done = steps.min(self.first.len());
        self.first.drain(..done);
        steps -= done;
        if steps > 0 && !self.notices.is_empty() {
            self.notices.clear();
            steps -= 1;
        }
        self.then.drain(..steps.min(self.then.len()));
    }
}

/// The engine as the dead master had it.
struct Replayed {
    engine: EngineQueue,
    /// The time of the last input.
    last: Time,
    rest: Rest,
    waiting: Vec<(Time, Input)>,
}

fn replay(
    saved: SavedEngine<'_>,
    inputs: u64,
    mut recorded: Vec<(Time, Input)>,
    progress: Progress,
) -> Result<Replayed, rotad_core::RestoreError> {
    let mut engine = Engine::restore(saved)?;
    let handled = progress.input.saturating_sub(inputs) as usize;
    let waiting = recorded.split_off(handled.min(recorded.len()));
    let last = waiting.iter().chain(&recorded).map(|(at, _)| *at).max();
    let last = last.unwrap_or_default().max(engine.now());
    let given = inputs + recorded.len() as u64;
    let mut rest = Rest::default();
    if !recorded.is_empty() {
        let (commands, notices) = engine.replay(recorded)?.split();
        let (first, then) = in_order(commands);
        rest = Rest {
            first,
            notices,
            then,
        };
        rest.drop_done(progress.steps as usize);
    }
    Ok(Replayed {
        engine: EngineQueue::restored(engine, given, last),
        last,
        rest,
        waiting,
    })
}
