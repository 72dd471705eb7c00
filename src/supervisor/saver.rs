//! Saves the state of the supervisor into the memory that outlives the master (`saved_state`), where there is a guardian.
//!
//! The loop calls [`Supervisor::save`] before the engine gets an input, and after each of its commands: what has changed
//! since the last call is appended as records and committed at once. So an act that cannot be undone comes after the
//! record that it follows from. `startup/restore.rs` reads the records.

use super::Supervisor;
use super::clients::launch::SavedStart;
use super::clients::tickets::Tickets;
use super::counters::SavedCounters;
use super::hooks::queue::HookQueue;
use super::listening::SavedListening;
use super::pool_registry::SavedPools;
use super::reload::ReloadRequest;
use super::reload::file_watch::SeenFiles;
use super::taken_signals::TakenSignals;
use super::upgrade::SavedUpgrade;
use super::workers::SavedCgroups;
use super::workers::exit_report::{ExitReport, ExitReports};
use super::workers::process_table::Change;
use super::workers::saved_worker::{SavedWorker, SavedWorkerState};
use crate::control::server::SavedServer;
use crate::exit_code::ExitCode;
use crate::guardian::SharedState;
use crate::log::SavedLeftOutput;
use crate::observe::events::SavedEvent;
use crate::plan::Plan;
use crate::process::SavedPaths;
use crate::process::tree::Identity;
use crate::runtime_dir::SavedRuntimeDir;
use crate::saved_state::format::READABLE_BY;
use crate::saved_state::store::{Progress, Store};
use rotad_core::{Generation, Input, PoolId, SavedEngine, Time, WorkerId};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// One record. Of all but inputs, events, workers, left outputs, paths, counters and single exit reports, a later one takes the place of an earlier one of its kind.
#[derive(Serialize, Deserialize)]
pub(super) enum Record<'a> {
    /// What stays as it is.
    Master(SavedMaster),
    /// The engine, after so many inputs.
    Engine(u64, Box<SavedEngine<'a>>),
    /// The next input, with its time.
    Input(Time, Cow<'a, Input>),
    /// The configuration in force.
    Plan(Cow<'a, Plan>),
    /// The pools, and what their generations are made from.
    Pools(SavedPools),
    /// A worker; None: nothing is left of it.
    Worker(WorkerId, Option<Box<SavedWorker>>),
    /// What has changed of a worker.
    WorkerState(WorkerId, Box<SavedWorkerState>),
    /// The output of a worker that has left the process table; None: it was read to its end.
    LeftOutput(WorkerId, Option<Box<SavedLeftOutput>>),
    /// What a generation is pinned to.
    Paths(PoolId, Generation, SavedPaths),
    /// The listening sockets.
    Listening(SavedListening),
    /// The control socket and its clients.
    Server(SavedServer),
    /// Who waits for which requests.
    Tickets(Cow<'a, Tickets>),
    /// The reloads that are not in force yet.
    Reloads(Vec<ReloadRequest>),
    /// How far the start has come.
    Start(SavedStart),
    /// How workers have ended.
    ExitReports(Cow<'a, ExitReports>),
    /// How one more worker has ended.
    ExitReport(WorkerId, Cow<'a, ExitReport>),
    /// How far the stop has come.
    Shutdown(SavedShutdown),
    /// The upgrade that is under way.
    Upgrade(Option<SavedUpgrade>),
    /// Which signals were taken.
    Signals(Cow<'a, TakenSignals>),
    /// The next event.
    Event(SavedEvent<'a>),
    /// What watched files were when they were acted on last.
    Watched(Cow<'a, [SeenFiles]>),
    /// What is counted, as far as it has changed.
    Counters(SavedCounters),
    /// Which hooks run, and which events wait for them.
    Hooks(Cow<'a, HookQueue>),
}

/// The kinds of records, as they are written. Versions that replace each other pass over those that they do not know.
pub(super) const RECORD_KINDS: [&str; 23] = [
    "Master",
    "Engine",
    "Input",
    "Plan",
    "Pools",
    "Worker",
    "WorkerState",
    "LeftOutput",
    "Paths",
    "Listening",
    "Server",
    "Tickets",
    "Reloads",
    "Start",
    "ExitReports",
    "ExitReport",
    "Shutdown",
    "Upgrade",
    "Signals",
    "Event",
    "Watched",
    "Counters",
    "Hooks",
];

/// What stays as it is over the life of a master and those after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedMaster {
    /// The version that has written the state.
    pub version: String,
    /// The oldest format that can be gone on with it.
    #[serde(default)]
    pub readable_by: u32,
    /// The path by which the program was started.
    #[serde(default)]
    pub program: Option<PathBuf>,
    /// The prefix of ROTAD_WORKER.
    pub tag: String,
    /// As [`crate::daemon::StartContext`] has it; so are the next two.
    pub foreground: bool,
    pub hup_ignored: bool,
    pub activation_pid: u32,
    /// Soft and hard limit of open files that workers get.
    pub nofile: (u64, u64),
    pub cgroups: Option<SavedCgroups>,
    pub runtime_dir: Option<SavedRuntimeDir>,
    /// Processes that existed before the first master.
    #[serde(default)]
    pub preexisting: Vec<Identity>,
}

/// What is saved of a stop.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedShutdown {
    pub stopping: bool,
    pub interrupted: bool,
    pub exit_code: Option<ExitCode>,
    /// The clients that wait for it.
    pub clients: Vec<u64>,
}

pub(super) struct Saver {
    store: Store,
    progress: Progress,
    master: SavedMaster,
    /// The number of the last event that is saved.
    event: u64,
    /// Reloads were saved as not in force yet.
    reloads: bool,
    /// Another state of the runtime directory is saved with the next commit.
    runtime_dir: bool,
    /// The state cannot be saved any more, which was reported.
    failed: bool,
}

impl Saver {
    pub(super) fn new(store: Store, master: SavedMaster) -> Self {
        let progress = store.progress();
        Self {
            store,
            progress,
            master,
            event: 0,
            reloads: false,
            runtime_dir: false,
            failed: false,
        }
    }

    /// The state is saved, so that another master can go on with it.
    pub(super) fn is_in_use(&self) -> bool {
        !self.failed
    }

    /// The path by which the program was started.
    pub(super) fn program(&self) -> Option<PathBuf> {
        self.master.program.clone()
    }

    /// A copy of the state as it is now.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.store.copy()
    }

    /// The memory, for the numbers that are not the journal's.
    pub(super) fn state(&self) -> &SharedState {
        self.store.shared()
    }
}

impl Supervisor {
    /// The clock has begun, or was moved by a pause.
    pub(super) fn save_clock(&self) {
        if let Some(saver) = &self.saver {
            let began = self.clock.shared().began_ms();
            saver.store.shared().set_clock(began);
        }
    }

    /// Saves what has changed since the last call. Then the workers that it knows now may be spawned.
    pub(super) fn save(&mut self) {
        if self.saver.as_ref().is_some_and(|saver| saver.is_in_use()) {
            self.save_changes();
        } else {
            self.workers.processes.forget_left_outputs();
        }
        self.workers.spawn_prepared();
    }

    fn save_changes(&mut self) {
        let mut saver = self.saver.take();
        if let Some(saver) = &mut saver
            && !saver.failed
        {
            if let Err(error) = self.append_changes(saver) {
                self.report_unsaved(saver, &error.to_string());
            }
            saver.store.commit();
            if std::mem::take(&mut saver.runtime_dir) {
                self.runtime.change_is_saved();
            }
        }
        self.saver = saver;
    }

    /// Writes the whole state anew, where the journal has become long. To be called between two inputs.
    pub(super) fn compact(&mut self, even_if_short: bool) {
        let mut saver = self.saver.take();
        if let Some(saver) = &mut saver
            && !saver.failed
            && (even_if_short || saver.store.is_long())
        {
            let mut result = Ok(());
            let fits = saver
                .store
                .compact(|store| result = self.append_all(&saver.master, store));
            saver.event = self.event_log.last();
            match result {
                Err(error) => self.report_unsaved(saver, &error.to_string()),
                Ok(()) if !fits => self.report_unsaved(saver, "it is too large"),
                Ok(()) if self.runtime.take_change() => self.runtime.change_is_saved(),
                Ok(()) => {}
            }
        }
        self.saver = saver;
    }

    fn report_unsaved(&mut self, saver: &mut Saver, why: &str) {
        saver.failed = true;
        saver.store.forget();
        tracing::error!(
            "the state of the master cannot be saved any more: {why}; if it dies, the next start adopts its workers"
        );
    }

    fn append_changes(&mut self, saver: &mut Saver) -> io::Result<()> {
        let Saver {
            store,
            event,
            reloads,
            master,
            runtime_dir,
            ..
        } = saver;
        if self.plan.take_change() {
            store.append(&Record::Plan(Cow::Borrowed(&self.plan)));
        }
        if self.listening.take_change() {
            store.append(&Record::Listening(self.listening.saved()?));
        }
        if self.pools.take_change() {
            store.append(&Record::Pools(self.pools.saved()));
        }
        for (worker, change) in self.workers.processes.take_changes() {
            let process = self.workers.processes.get(worker);
            store.append(&match (process, change) {
                (None, _) => Record::Worker(worker, None),
                (Some(process), Change::Whole) => {
                    Record::Worker(worker, Some(Box::new(process.saved(&self.pools)?)))
                }
                (Some(process), Change::State) => {
                    Record::WorkerState(worker, Box::new(process.saved_state()?))
                }
            });
        }
        let closed = self.log.writer.closed();
        for (worker, output) in self.workers.processes.take_left_outputs(closed) {
            store.append(&Record::LeftOutput(worker, output.map(Box::new)));
        }
        for (pool, generation, paths) in self.workers.spawn_specs.take_changes() {
            store.append(&Record::Paths(pool, generation, paths));
        }
        if self.runtime.take_change() {
            store.append(&Record::Master(self.saved_master(master)?));
            *runtime_dir = true;
        }
        if let Some(server) = self.clients.take_change() {
            store.append(&Record::Server(server?));
        }
        if self.clients.tickets.take_change() {
            store.append(&Record::Tickets(Cow::Borrowed(&self.clients.tickets)));
        }
        let requests = self.reload.state.requests();
        if *reloads || !requests.is_empty() {
            *reloads = !requests.is_empty();
            store.append(&Record::Reloads(requests));
        }
        if self.clients.start_watch.take_change() {
            store.append(&Record::Start(self.clients.start_watch.saved()?));
        }
        if self.workers.exit_reports.has_changed() {
            let reports = Cow::Borrowed(self.workers.exit_reports.take_all());
            store.append(&Record::ExitReports(reports));
        }
        for (worker, report) in self.workers.exit_reports.take_added() {
            store.append(&Record::ExitReport(*worker, Cow::Borrowed(report)));
        }
        if self.upgrade.take_change() {
            store.append(&Record::Upgrade(self.upgrade.saved()));
        }
        if let Some(seen) = self.reload.file_watch.take_change() {
            store.append(&Record::Watched(Cow::Borrowed(seen)));
        }
        if let Some(hooks) = self.hooks.take_change() {
            store.append(&Record::Hooks(Cow::Borrowed(hooks)));
        }
        if self.shutdown.take_change() {
            store.append(&Record::Shutdown(self.saved_shutdown()));
        }
        if self.taken_signals.take_change() {
            store.append(&Record::Signals(Cow::Borrowed(&*self.taken_signals)));
        }
        if self.counters.has_changed() {
            store.append(&Record::Counters(self.counters.take_changes()));
        }
        if *event != self.event_log.last() {
            for new in self.event_log.after(*event) {
                store.append(&Record::Event(new.saved()));
            }
            *event = self.event_log.last();
        }
        for (at, input) in self.engine.take_time(self.clock.now()) {
            store.append(&Record::Input(at, Cow::Borrowed(input)));
        }
        Ok(())
    }

    fn append_all(&mut self, master: &SavedMaster, store: &mut Store) -> io::Result<()> {
        store.append(&Record::Master(self.saved_master(master)?));
        store.append(&Record::Plan(Cow::Borrowed(&self.plan)));
        store.append(&Record::Listening(self.listening.saved()?));
        store.append(&Record::Pools(self.pools.saved()));
        for (id, process) in self.workers.processes.iter() {
            let saved = Box::new(process.saved(&self.pools)?);
            store.append(&Record::Worker(id, Some(saved)));
        }
        for (worker, output) in self.workers.processes.all_left_outputs() {
            store.append(&Record::LeftOutput(worker, Some(Box::new(output))));
        }
        for (pool, generation, paths) in self.workers.spawn_specs.all_saved() {
            store.append(&Record::Paths(pool, generation, paths));
        }
        store.append(&Record::Server(self.clients.saved()?));
        store.append(&Record::Tickets(Cow::Borrowed(&self.clients.tickets)));
        store.append(&Record::Reloads(self.reload.state.requests()));
        store.append(&Record::Start(self.clients.start_watch.saved()?));
        let reports = Cow::Borrowed(self.workers.exit_reports.take_all());
        store.append(&Record::ExitReports(reports));
        store.append(&Record::Shutdown(self.saved_shutdown()));
        store.append(&Record::Upgrade(self.upgrade.saved()));
        store.append(&Record::Signals(Cow::Borrowed(&*self.taken_signals)));
        let seen = self.reload.file_watch.seen();
        store.append(&Record::Watched(Cow::Borrowed(seen)));
        self.counters.note_output(self.log.writer.counts());
        store.append(&Record::Counters(self.counters.take_all()));
        store.append(&Record::Hooks(Cow::Borrowed(self.hooks.saved())));
        for event in self.event_log.after(0) {
            store.append(&Record::Event(event.saved()));
        }
        let engine = Box::new(self.engine.engine().save());
        store.append(&Record::Engine(self.engine.handled(), engine));
        for (at, input) in self.engine.waiting() {
            store.append(&Record::Input(at, Cow::Borrowed(input)));
        }
        Ok(())
    }

    fn saved_master(&self, master: &SavedMaster) -> io::Result<SavedMaster> {
        let runtime_dir = self.runtime.kept().cloned();
        let unknown = || io::Error::other("the runtime directory cannot be looked at");
        Ok(SavedMaster {
            cgroups: Some(self.workers.saved_cgroups()),
            runtime_dir: Some(runtime_dir.ok_or_else(unknown)?),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            readable_by: READABLE_BY,
            ..master.clone()
        })
    }

    fn saved_shutdown(&self) -> SavedShutdown {
        SavedShutdown {
            stopping: self.shutdown.stopping,
            interrupted: self.shutdown.interrupted,
            exit_code: self.shutdown.exit_code,
            clients: self.clients.stop_clients().to_vec(),
        }
    }

    /// The engine has the next input: nothing of what follows from it was done.
    pub(super) fn output_begins(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.progress = Progress {
                input: self.engine.handled(),
                steps: 0,
            };
            saver.store.set_progress(saver.progress);
        }
    }

    /// A command was executed, or all notices of an output were reported.
    pub(super) fn step_done(&mut self) {
        self.save();
        if let Some(saver) = &mut self.saver {
            saver.progress.steps += 1;
            saver.store.set_progress(saver.progress);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_record_is_known() {
        let error = serde_json::from_str::<Record<'_>>(r#"{"Other": 0}"#).err();
        let names = RECORD_KINDS.map(|kind| format!("`{kind}`")).join(", ");
        let expected = format!("unknown variant `Other`, expected one of {names} at");
        let told = error.expect("there is none of this kind").to_string();
        assert!(told.starts_with(&expected), "{told}");
    }
}
