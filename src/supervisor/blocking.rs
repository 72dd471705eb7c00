//! The clerk: threads that do for the main loop what may hang on a foreign path: reading the configuration, opening
//! addresses, dressing and removing socket files, looking what a pool would be made from. A dead mount holds the clerk alone.

use crate::control::wire::Request;
use crate::event_loop::waker::Waker;
use crate::listener::{self, Dress, Fresh, Listener, Look, Looked, SocketError};
use crate::log;
use crate::plan::{ControlPlan, FileAccess, ListenPlan, Plan};
use crate::process::PinnedPaths;
use crate::runtime_dir::{Mended, RuntimeDirError, RuntimeDirRepair};
use crossbeam_channel::{Receiver, Sender, unbounded};
use rotad_core::PoolId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Reads the configuration at a path: the plan with its warnings, or the findings, as text for people.
pub type Reader = Arc<dyn Fn(&Path) -> Result<(Plan, String), String> + Send + Sync>;

/// A parser that descends into tables, and lookups of users, want more than the other threads.
const STACK: usize = 1 << 20;

/// The answer to an errand, with its number where one waits for it.
pub(super) enum JobResult {
    /// The plan and the warnings, or the findings.
    Read(u64, Box<Result<(Plan, String), String>>),
    Bound(u64, Result<Vec<Listener>, Unbound>),
    /// The house was looked after.
    Mended(Result<Mended, RuntimeDirError>),
    /// Where the configuration's path leads by now, for a client whose question names another one.
    Led {
        client: u64,
        question: Box<Request>,
        real: Option<PathBuf>,
    },
    /// Whether what a pool is made from has changed, for this round of looks; or why that cannot be seen.
    Compared {
        round: u64,
        pool: PoolId,
        changed: Result<bool, String>,
    },
    /// A socket file could not get its owner or mode, or not be removed.
    Trouble(String),
    /// A socket file has got its owner and mode.
    Dressed(String),
    /// What became of a listener that was looked at.
    Looked(u64, Looked),
}

/// Why a configuration that reads well cannot be carried out.
pub(super) enum Unbound {
    Socket(SocketError),
    Log(String),
}

pub(super) struct BlockingPool {
    wake: Waker,
    reader: Reader,
    done: Sender<JobResult>,
    told: Receiver<JobResult>,
    /// Of the last errand.
    number: u64,
    /// One at a time opens or removes socket files: a path that is given up may be wanted again at once.
    desk: Arc<Mutex<()>>,
}

impl BlockingPool {
    pub(super) fn new(wake: Waker, reader: Reader) -> Self {
        // Bounded by those who ask: one apply at a time, and each socket is given up once.
        let (done, told) = unbounded();
        Self { wake, reader, done, told, number: 0, desk: Arc::default() }
    }

    fn send(&self, errand: impl FnOnce() -> Option<JobResult> + Send + 'static) -> io::Result<()> {
        let (done, wake) = (self.done.clone(), self.wake.clone());
        let go = move || {
            if let Some(told) = errand() {
                done.send(told).ok();
                wake.wake();
            }
        };
        std::thread::Builder::new().name("clerk".into()).stack_size(STACK).spawn(go).map(drop)
    }

    /// Reads the configuration, once the house was looked after: what is born of it has to find its folder. The number
    /// of the errand: who does not wait for it any more knows a late answer by it.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn read(&mut self, path: PathBuf, house: RuntimeDirRepair, control: ControlPlan) -> io::Result<u64> {
        self.number += 1;
        let (reader, number, done) = (self.reader.clone(), self.number, self.done.clone());
        self.send(move || {
            done.send(JobResult::Mended(house.mend(control.mode, control.group))).ok();
            Some(JobResult::Read(number, Box::new(reader(&path))))
        })?;
        Ok(number)
    }

    /// # Errors
    /// No thread can be had.
    pub(super) fn mend(&self, house: RuntimeDirRepair, mode: u32, group: Option<u32>) -> io::Result<()> {
        self.send(move || Some(JobResult::Mended(house.mend(mode, group))))
    }

    /// # Errors
    /// No thread can be had.
    pub(super) fn follow(&self, path: PathBuf, client: u64, question: Request) -> io::Result<()> {
        let question = Box::new(question);
        self.send(move || Some(JobResult::Led { client, question, real: path.canonicalize().ok() }))
    }

    /// Looks whether a pool would be made from something else now.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn compare(&self, round: u64, pool: PoolId, pinned: Arc<PinnedPaths>) -> io::Result<()> {
        self.send(move || {
            let changed = pinned.has_changed().map_err(|error| error.to_string());
            Some(JobResult::Compared { round, pool, changed })
        })
    }

    /// Opens `plans`, or none of them. `all`: every address of the configuration. `logs`: files that pools are to
    /// write; one that cannot be written is an error.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn bind(
        &mut self,
        plans: Vec<ListenPlan>,
        all: Vec<ListenPlan>,
        logs: Vec<(String, PathBuf, FileAccess)>,
    ) -> io::Result<u64> {
        self.number += 1;
        let (desk, number) = (self.desk.clone(), self.number);
        self.send(move || {
            let _desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            for (pool, path, access) in &logs {
                if let Err(error) = log::check_file(path, *access) {
                    let text = format!("pool {pool}: cannot write its log {}: {error}", path.display());
                    return Some(JobResult::Bound(number, Err(Unbound::Log(text))));
                }
            }
            Some(JobResult::Bound(number, listener::open_some(&plans, &all).map_err(Unbound::Socket)))
        })?;
        Ok(number)
    }

    /// Gives a socket's file another owner or mode.
    pub(super) fn dress(&self, name: String, dress: Dress) {
        let desk = self.desk.clone();
        let errand = move || {
            let _desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            Some(match dress.put_on() {
                Ok(()) => JobResult::Dressed(name),
                Err(error) => {
                    JobResult::Trouble(format!("listener {name}: its file cannot get its owner or mode: {error}"))
                }
            })
        };
        if let Err(error) = self.send(errand) {
            tracing::warn!("the owner and mode of a socket's file are as they were: {error}");
        }
    }

    /// Looks whether a unix socket still has its path, and makes a new one where it has not.
    ///
    /// # Errors
    /// No thread can be had.
    pub(super) fn look(&self, number: u64, look: Look, may_make: bool) -> io::Result<()> {
        let desk = self.desk.clone();
        self.send(move || {
            let _desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            Some(JobResult::Looked(number, look.run(may_make)))
        })
    }

    /// Removes the file of a new socket that nobody wants any more.
    pub(super) fn discard(&self, fresh: Fresh) {
        let desk = self.desk.clone();
        let errand = move || {
            let _desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            fresh.discard();
            None
        };
        if let Err(error) = self.send(errand) {
            tracing::warn!("the file of a closed socket stays: {error}");
        }
    }

    /// Closes a socket and removes its file.
    pub(super) fn close(&self, mut listener: Listener) {
        let desk = self.desk.clone();
        let errand = move || {
            let _desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
            let error = listener.remove_file().err()?;
            Some(JobResult::Trouble(format!("listener {}: its file cannot be removed: {error}", listener.name())))
        };
        if let Err(error) = self.send(errand) {
            tracing::warn!("the file of a closed socket stays: {error}");
        }
    }

    pub(super) fn told(&self) -> Option<JobResult> {
        self.told.try_recv().ok()
    }
}
