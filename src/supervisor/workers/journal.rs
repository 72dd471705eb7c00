//! The journal of workers (`RUNTIME_DIR/workers`), by which the next start finds those of a killed master. Each change
//! returns an event where a journal that cannot be written has to be reported, or its recovery: once each.

use crate::log::WorkerOutput;
use crate::observe::events::EventKind;
use crate::runtime_dir::stale_workers::WorkerJournal;
use crate::supervisor::Supervisor;
use crate::supervisor::action::Action;
use crate::supervisor::event_log::EventBuilder;
use rotad_core::{Time, WorkerId};
use std::io;
use std::path::{Path, PathBuf};

pub(crate) struct Journal {
    file: WorkerJournal,
    /// Its directory, for people.
    dir: PathBuf,
    /// That it cannot be written was reported.
    failing: bool,
}

impl Journal {
    pub(crate) fn new(file: WorkerJournal, dir: PathBuf) -> Self {
        let failing = false;
        Self { file, dir, failing }
    }

    /// When a journal that could not be written is tried again.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.file.deadline()
    }

    /// Writes what could not be written.
    pub(crate) fn rewrite(&mut self) -> Option<EventBuilder> {
        let done = self.file.rewrite();
        self.report(done)
    }

    /// The runtime directory is another one now.
    pub(crate) fn move_to(&mut self, dir: &Path) -> Option<EventBuilder> {
        self.dir = dir.to_owned();
        let done = self.file.move_to(dir);
        self.report(done)
    }

    /// No process is left that the next start has to find.
    pub(crate) fn remove(&self) {
        self.file.remove().ok();
    }

    fn report(&mut self, done: io::Result<()>) -> Option<EventBuilder> {
        let event = match done {
            Err(error) if !self.failing => {
                let text = format!(
                    "the list of workers in {} cannot be written: {error}; it is tried again each second, and a start \
                     after a kill -9 goes by the workers' environment meanwhile",
                    self.dir.display()
                );
                EventBuilder::new(EventKind::Journal, text)
                    .cause("torn")
                    .warn()
            }
            Ok(()) if self.failing && self.file.deadline().is_none() => {
                let text = "the list of workers in the runtime directory is whole again";
                EventBuilder::new(EventKind::Journal, text).cause("whole")
            }
            _ => return None,
        };
        self.failing = !self.failing;
        Some(event)
    }
}

impl Supervisor {
    /// The worker's process exists.
    pub(crate) fn journal_add(&mut self, worker: WorkerId, start_time: u64) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let Some(pid) = process.pid() else { return };
        let pipes = process
            .output
            .as_ref()
            .map(WorkerOutput::inodes)
            .unwrap_or_default();
        let slot = (self.pools.name(process.pool), process.slot.0);
        let journal = &mut self.workers.journal;
        let done = journal
            .file
            .add_worker(pid, start_time, slot, &process.tag, &pipes);
        let event = journal.report(done);
        self.perform(event.map(Action::Emit));
    }

    /// Nothing of the worker is left.
    pub(crate) fn journal_remove(&mut self, pid: i32) {
        let done = self.workers.journal.file.remove_worker(pid);
        let event = self.workers.journal.report(done);
        self.perform(event.map(Action::Emit));
    }
}
