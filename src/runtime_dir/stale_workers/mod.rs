//! Stale workers: the processes that a master killed by SIGKILL left running, and how they are adopted or stopped. Startup
//! calls [`StaleWorkers::find_under_lock`], [`StaleWorkers::adopt`] and [`StaleWorkers::take_over`] before the main loop,
//! so they may block; a process that cannot be examined delays them only briefly.
//!
//! A stale worker's pidfd is opened first and the process checked afterwards: its start time shows whether the pid
//! still means the process that was found. Without pidfds (every supported kernel has them, a seccomp filter may forbid
//! them) stale workers are named, but never signalled.

mod adopt;
mod environments;
mod find;
mod stale_pipes;
mod stop;
mod worker_journal;

pub use adopt::{AdoptedProcess, AdoptedSocket, Adoption};
pub use stop::{StopPlan, TakeOverResult, TakeOverStep};
pub use worker_journal::{JournalEntry, JournalNotes, ListenerNote, PoolNote, WorkerJournal};

use crate::event_loop::clock::Deadline;
use crate::sys::process::Process;
use find::Owner;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use worker_journal::JournalContent;

/// How long a master that has released its lock may take to exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A running process that a dead master has left.
#[derive(Debug)]
pub struct StaleWorker {
    /// Its pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// The pool of its worker.
    pub pool: String,
    /// The slot of its worker.
    pub slot: u32,
    /// Whether it is the worker's first process, not another one of its tree.
    pub is_worker: bool,
    /// `ROTAD_WORKER` of the worker.
    tag: String,
    /// None without pidfds.
    process: Option<Process>,
}

/// The stale workers of one runtime directory.
#[derive(Debug, Default)]
pub struct StaleWorkers {
    journal: Option<JournalContent>,
    /// The directory of the journal.
    dir: PathBuf,
    /// Processes that the journal already has as found by a new master.
    recorded: HashSet<(i32, u64)>,
    /// Processes that belong to them, by pid and start time: the evidence may be gone at the next scan.
    known: HashMap<(i32, u64), Owner>,
    /// The workers' first processes, by their tags.
    workers: HashMap<String, (i32, u64)>,
    /// The workers that are adopted, by their tags: nothing of theirs is found any more.
    spared: HashSet<String>,
    /// Processes that do not belong to them.
    unrelated: HashSet<(i32, u64)>,
    /// The processes that were found.
    pub found: Vec<StaleWorker>,
    /// Processes that started while that master ran and whose memory is locked: they may belong to a worker.
    pub unattributed: Vec<i32>,
}

impl StaleWorkers {
    /// Reads the journal of a dead master and finds its workers that still run, with their process trees. Empty if the
    /// master is alive or the machine was rebooted since. Finds processes of our own uid only, or of any if we are root.
    ///
    /// # Errors
    /// The journal cannot be read (EACCES, EIO), or is not a regular file.
    pub fn find(dir: &Path) -> io::Result<Self> {
        let journal = worker_journal::read(dir)?.filter(|journal| !journal.master_is_alive());
        let mut stale = Self {
            journal,
            dir: dir.to_owned(),
            ..Self::default()
        };
        let members = stale
            .journal
            .as_ref()
            .map(|journal| journal.members.clone())
            .unwrap_or_default();
        for member in &members {
            stale.recorded.insert((member.pid, member.start_time));
            stale
                .known
                .insert((member.pid, member.start_time), Owner::of(member));
        }
        stale.found = stale.scan();
        Ok(stale)
    }

    /// The same for the owner of this directory's lock: the master of the journal has ended or is exiting, which is waited
    /// for.
    ///
    /// # Errors
    /// As [`StaleWorkers::find`]; EBUSY: that master runs although it has lost its lock.
    pub fn find_under_lock(dir: &Path) -> io::Result<Self> {
        let until = Deadline::after(EXIT_TIMEOUT);
        while let Some(journal) = worker_journal::read(dir)?
            && journal.master_is_alive()
        {
            if until.has_passed() {
                let text = format!(
                    "the master with pid {} still runs, although it has lost the lock of {}; stop it first",
                    journal.master.0,
                    dir.display()
                );
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self::find(dir)
    }

    /// Writes the found processes to the journal, in case this master is killed too: once a worker is stopped, nothing else
    /// may show to whom the other processes of its session belong.
    fn record_found(&mut self, remaining: &[StaleWorker]) {
        let new = remaining
            .iter()
            .filter(|one| !self.recorded.contains(&(one.pid, one.start_time)));
        let lines: Vec<_> = new
            .map(|one| {
                (
                    one.pid,
                    one.start_time,
                    one.slot,
                    one.pool.as_str(),
                    one.tag.as_str(),
                )
            })
            .collect();
        if lines.is_empty() {
            return;
        }
        match worker_journal::append_found(&self.dir, &lines) {
            Ok(()) => self
                .recorded
                .extend(lines.iter().map(|line| (line.0, line.1))),
            Err(error) => {
                tracing::debug!("cannot write the found processes to the journal: {error}")
            }
        }
    }

    /// The pid of the master that left them.
    pub fn master(&self) -> Option<i32> {
        self.journal.as_ref().map(|journal| journal.master.0)
    }
}
