//! The journal of workers (`RUNTIME_DIR/workers`), by which the next start finds those of a killed master. Each change
//! returns an event where a journal that cannot be written has to be reported, or its recovery: once each.

use crate::log::WorkerOutput;
use crate::observe::events::EventKind;
use crate::runtime_dir::stale_workers::{JournalEntry, JournalNotes, WorkerJournal};
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
    /// The versions of what was noted last.
    noted: Option<(u64, u64, u64)>,
    /// No event may have a number above this before a greater one is noted.
    events: u64,
}

/// So many numbers of events are set aside in the journal at a time, once less than half of that are left: more than the
/// events of one turn of the loop. The next master begins behind them if it knows no better.
const EVENTS_SET_ASIDE: u64 = 1 << 14;

impl Journal {
    pub(crate) fn new(file: WorkerJournal, dir: PathBuf) -> Self {
        Self {
            file,
            dir,
            failing: false,
            noted: None,
            events: 0,
        }
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
        let done = self.file.add_worker(&JournalEntry {
            pid: process.pid()?,
            start_time,
            slot: process.slot.0,
            pool: process.spec.plan.name.clone(),
            tag: process.tag.clone(),
            pipes,
            generation: Some(process.generation.0),
            port: process.port,
            ready: false,
        });
        self.report(done)
    }

    /// The worker with this pid is ready.
    pub(crate) fn set_ready(&mut self, pid: i32) -> Option<Action> {
        let done = self.file.set_ready(pid);
        self.report(done)
    }

    /// Whether this is what was noted last.
    pub(crate) fn has_noted(&self, versions: (u64, u64, u64)) -> bool {
        self.noted == Some(versions)
    }

    /// The number of events to be noted. `last`: that of the last event.
    pub(crate) fn events_after(&mut self, last: u64) -> u64 {
        if last + EVENTS_SET_ASIDE / 2 > self.events {
            self.events = last + EVENTS_SET_ASIDE;
        }
        self.events
    }

    /// What the next start has to know beside the workers. `versions`: of what the notes are made from.
    pub(crate) fn set_notes(
        &mut self,
        versions: (u64, u64, u64),
        notes: JournalNotes,
    ) -> Option<Action> {
        self.noted = Some(versions);
        let done = self.file.set_notes(notes);
        self.report(done)
    }

    /// Nothing is left of the worker with this pid.
    pub(crate) fn forget(&mut self, pid: i32) {
        self.file.remove_worker(pid);
    }

    /// Writes which workers were forgotten. Called once a turn of the loop: hundreds may end in one.
    pub(crate) fn write_forgotten(&mut self) -> Option<Action> {
        let done = self.file.write_ended();
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
