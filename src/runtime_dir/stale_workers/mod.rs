//! Stale workers: what a master killed by SIGKILL left running, and how it is taken over. Startup calls this before the
//! main loop, so it may block; a process that cannot be examined delays it only briefly.
//!
//! A stale worker's pidfd is opened first and the process checked afterwards: its start time shows whether the pid
//! still means the process that was found. Without pidfds (a seccomp filter: every supported kernel has them) foreign
//! processes cannot be held; then stale workers are named, but never signalled.

mod environments;
mod find;
mod stale_pipes;
mod stop;
mod worker_journal;

pub use stop::{Manner, Nudge, TakenOver};
pub use worker_journal::WorkerJournal;

use crate::sys::process::Process;
use find::Owner;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use worker_journal::Record;

/// How long a master that has given up its lock may take to end.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// A living process that a dead master has left.
#[derive(Debug)]
pub struct StaleWorker {
    pub pid: i32,
    /// In clock ticks since boot.
    pub start_time: u64,
    pub pool: String,
    pub slot: u32,
    /// The worker's own process; else another one of its tree.
    pub is_worker: bool,
    /// `ROTAD_WORKER` of the worker.
    tag: String,
    /// None: no pidfds here.
    process: Option<Process>,
}

/// All leftovers of one runtime directory.
#[derive(Debug, Default)]
pub struct StaleWorkers {
    record: Option<Record>,
    /// Where the journal is.
    dir: PathBuf,
    /// Who stands in it as found by an heir.
    noted: HashSet<(i32, u64)>,
    /// Those that were found to be theirs, by pid and start time: what has told so may be gone by the next look.
    known: HashMap<(i32, u64), Owner>,
    /// The workers themselves, by their tags.
    workers: HashMap<String, (i32, u64)>,
    /// Those that were found to be nobody's of theirs.
    strangers: HashSet<(i32, u64)>,
    pub found: Vec<StaleWorker>,
    /// Started while that master lived, and their memory is locked: nobody can say whose they are.
    pub riddles: Vec<i32>,
}

impl StaleWorkers {
    /// Reads the journal of a dead master and looks who of its workers is still alive, with what is left of their
    /// trees. Nothing where that master lives, or the machine was started anew since. Only processes of our own uid are
    /// taken, or any when we are root.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn find(dir: &Path) -> io::Result<Self> {
        let record = worker_journal::read(dir)?.filter(|record| !record.is_in_use());
        let mut left = Self {
            record,
            dir: dir.to_owned(),
            ..Self::default()
        };
        let members = left
            .record
            .as_ref()
            .map(|record| record.members.clone())
            .unwrap_or_default();
        for member in &members {
            left.noted.insert((member.pid, member.start_time));
            left.known
                .insert((member.pid, member.start_time), Owner::of(member));
        }
        left.found = left.look();
        Ok(left)
    }

    /// The same for who holds the lock of this directory: the master of the journal is on its way out at the most.
    ///
    /// # Errors
    /// As [`StaleWorkers::find`]; EBUSY: a master lives that has lost its lock.
    pub fn find_as_heir(dir: &Path) -> io::Result<Self> {
        let until = Instant::now() + LAST_MOMENTS;
        while let Some(record) = worker_journal::read(dir)?
            && record.is_in_use()
        {
            if Instant::now() >= until {
                let text = format!(
                    "the master with pid {} lives, although the lock of {} is not its own any more; end it first",
                    record.master.0,
                    dir.display()
                );
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self::find(dir)
    }

    /// Writes down who was found, for whoever has to go on should we be killed: a worker that we stop is the only one who
    /// tells whose the others of its session are.
    fn note(&mut self, left: &[StaleWorker]) {
        let new = left
            .iter()
            .filter(|one| !self.noted.contains(&(one.pid, one.start_time)));
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
        match worker_journal::note_found(&self.dir, &lines) {
            Ok(()) => self.noted.extend(lines.iter().map(|line| (line.0, line.1))),
            Err(error) => tracing::debug!("who was found cannot be noted: {error}"),
        }
    }

    /// The pid of the master that left them.
    pub fn master(&self) -> Option<i32> {
        self.record.as_ref().map(|record| record.master.0)
    }
}
