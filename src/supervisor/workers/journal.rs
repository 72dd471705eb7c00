//! The journal of workers (`RUNTIME_DIR/workers`), by which the next start finds those of a killed master. Each change
//! returns an event where a journal that cannot be written has to be reported, or its recovery: once each.

use crate::log::WorkerOutput;
use crate::observe::events::EventKind;
use crate::runtime_dir::stale_workers::WorkerJournal;
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::process_table::WorkerProcess;
use rotad_core::Time;
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
    pub(crate) fn rewrite(&mut self) -> Option<Action> {
        let done = self.file.rewrite();
        self.report(done)
    }

    /// The runtime directory is another one now.
    pub(crate) fn move_to(&mut self, dir: &Path) -> Option<Action> {
        self.dir = dir.to_owned();
        let done = self.file.move_to(dir);
        self.report(done)
    }

    /// No process is left that the next start has to find.
    pub(crate) fn remove(&self) {
        self.file.remove().ok();
    }

    /// The worker's process exists.
    pub(crate) fn add(&mut self, process: &WorkerProcess, start_time: u64) -> Option<Action> {
        let pipes = process
            .output
            .as_ref()
            .map(WorkerOutput::inodes)
            .unwrap_or_default();
        let slot = (process.spec.plan.name.as_str(), process.slot.0);
        let done = self
            .file
            .add_worker(process.pid()?, start_time, slot, &process.tag, &pipes);
        self.report(done)
    }

    /// Nothing is left of the worker with this pid.
    pub(crate) fn forget(&mut self, pid: i32) -> Option<Action> {
        let done = self.file.remove_worker(pid);
        self.report(done)
    }

    fn report(&mut self, done: io::Result<()>) -> Option<Action> {
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
        Some(Action::Emit(event))
    }
}
