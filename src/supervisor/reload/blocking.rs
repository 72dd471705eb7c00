//! Blocking jobs: work that may hang on a foreign path runs on a thread of its own, one per job: reading the
//! configuration, opening addresses, changing and removing socket files, comparing what a pool is made from, reading the
//! memory of many workers. A dead mount holds that thread alone. Results come back
//! through the main loop's mailbox.

use crate::control::protocol::Request;
use crate::event_loop::mailbox::Mailbox;
use crate::listener::{
    self, FileCheck, FileCheckResult, FileOwnership, Listener, ReplacementSocket, SocketError,
};
use crate::log;
use crate::plan::{ControlPlan, FileAccess, ListenPlan, LogFile, Plan};
use crate::process::PinnedPaths;
use crate::process::usage::{self, Detail, Root, WorkerUsage};
use crate::runtime_dir::{Repaired, RuntimeDirError, RuntimeDirRepair};
use crate::sys::sock_diag::UnixDiag;
use crate::sys::socket::Queue;
use crate::sys::thread;
use crate::upgrade::Candidate;
use nix::sys::inotify::Inotify;
use rotad_core::PoolId;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Reads the configuration at a path. Returns the plan with its warnings, or the findings, as text for people.
pub type Reader = Arc<dyn Fn(&Path) -> Result<(Plan, String), String> + Send + Sync>;

/// Stack size in bytes. A parser that descends into tables, and lookups of users, need more than our other threads.
const STACK: usize = 1 << 20;

/// The result of a job; with its number, where the caller waits for this one.
pub(crate) enum JobResult {
    /// The plan and the warnings, or the findings.
    ConfigRead(u64, Box<Result<(Plan, String), String>>),
    Bound(u64, Result<Vec<Listener>, BindError>),
    /// The runtime directory was checked and repaired.
    RuntimeDirRepaired(Result<Repaired, RuntimeDirError>),
    /// Where the configuration's path leads now, for a client whose request names another path.
    ConfigResolved {
        client: u64,
        request: Box<Request>,
        real: Option<PathBuf>,
    },
    /// What was measured for a client's status or metrics.
    Usage {
        client: u64,
        found: Measured,
    },
    /// Whether what a pool is made from has changed, for this round of comparisons; or why that is unknown.
    Compared {
        round: u64,
        pool: PoolId,
        changed: Result<bool, String>,
    },
    /// The owner or mode of the file of the listener of this name could not be set, or the file not be removed: why.
    ListenerFailed(String, String),
    /// The owner and mode of a socket file were set.
    FileOwnershipSet(String),
    /// Whether a program can replace the running one; or why it cannot.
    CandidateChecked(Result<Candidate, String>),
    /// The result of checking a listener.
    ListenerChecked(u64, FileCheckResult),
}

/// What is measured for a status or for metrics, but for what the main thread knows.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// The resources of those workers whose first processes are children of ours, by pid.
    pub workers: Vec<(i32, WorkerUsage)>,
    /// For metrics: of the master.
    pub master: Option<WorkerUsage>,
    /// For metrics: the queues of listening unix sockets, by inode.
    pub queues: Vec<(u64, Queue)>,
}

/// Why a valid configuration cannot be applied.
pub(crate) enum BindError {
    Socket(SocketError),
    Log(String),
}

pub(crate) struct BlockingPool {
    reader: Reader,
    results: Mailbox<JobResult>,
    /// The number of the last job.
    last_number: u64,
    /// One job at a time opens or removes socket files: a path that is given up may be wanted again immediately.
    file_lock: Arc<Mutex<()>>,
}

impl BlockingPool {
    pub(crate) fn new(results: Mailbox<JobResult>, reader: Reader) -> Self {
        // Bounded by the callers: one reload at a time, and each socket is closed once.
        Self {
            reader,
            results,
            last_number: 0,
            file_lock: Arc::default(),
        }
    }

    fn spawn_job(
        &self,
        job: impl FnOnce() -> Option<JobResult> + Send + 'static,
    ) -> io::Result<()> {
        let results = self.results.clone();
        let go = move || {
            if let Some(result) = job() {
                results.send(result);
            }
        };
        thread::spawn("blocking", STACK, go).map(drop)
    }

    /// Reads the configuration, after a repair of the runtime directory, which workers spawned from it need. Returns
    /// the number of the job: a caller that has given up recognizes a late result by it.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn read(
        &mut self,
        path: PathBuf,
        runtime_dir: RuntimeDirRepair,
        control: ControlPlan,
    ) -> io::Result<u64> {
        self.last_number += 1;
        let (reader, number, results) =
            (self.reader.clone(), self.last_number, self.results.clone());
        self.spawn_job(move || {
            results.send(JobResult::RuntimeDirRepaired(
                runtime_dir.repair(control.mode, control.group),
            ));
            Some(JobResult::ConfigRead(number, Box::new(reader(&path))))
        })?;
        Ok(number)
    }

    /// Checks and repairs the runtime directory and what lies in it.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn repair_runtime_dir(
        &self,
        runtime_dir: RuntimeDirRepair,
        mode: u32,
        group: Option<u32>,
    ) -> io::Result<()> {
        self.spawn_job(move || {
            Some(JobResult::RuntimeDirRepaired(
                runtime_dir.repair(mode, group),
            ))
        })
    }

    /// Resolves the symlinks of the configuration's path.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn resolve_config(
        &self,
        path: PathBuf,
        client: u64,
        request: Request,
    ) -> io::Result<()> {
        let request = Box::new(request);
        self.spawn_job(move || {
            Some(JobResult::ConfigResolved {
                client,
                request,
                real: path.canonicalize().ok(),
            })
        })
    }

    /// Reads how much memory and CPU time the workers with these first processes use.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn read_usage(
        &self,
        client: u64,
        roots: Vec<Root>,
        parents: Vec<i32>,
    ) -> io::Result<()> {
        self.spawn_job(move || {
            let workers = usage::of_workers(&roots, &parents, Detail::Usage);
            let found = Measured {
                workers,
                ..Measured::default()
            };
            Some(JobResult::Usage { client, found })
        })
    }

    /// Reads what metrics have of workers, of the master, and of the listening unix sockets with these inodes.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn measure(
        &self,
        client: u64,
        roots: Vec<Root>,
        parents: Vec<i32>,
        unix_sockets: Vec<u64>,
    ) -> io::Result<()> {
        self.spawn_job(move || {
            let found = Measured {
                workers: usage::of_workers(&roots, &parents, Detail::All),
                master: usage::of_myself().ok(),
                queues: unix_queues(&unix_sockets),
            };
            Some(JobResult::Usage { client, found })
        })
    }

    /// Checks a program that is to replace the running one. `state` and `format`: as [`Candidate::check`] takes them.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn check_candidate(
        &self,
        path: PathBuf,
        state: OwnedFd,
        format: u32,
        unattended: bool,
    ) -> io::Result<()> {
        self.spawn_job(move || {
            let checked = Candidate::check(path, state, format, unattended);
            Some(JobResult::CandidateChecked(checked))
        })
    }

    /// Compares the program and directory of a pool with what they resolve to now.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn compare(
        &self,
        round: u64,
        pool: PoolId,
        pinned: Arc<PinnedPaths>,
    ) -> io::Result<()> {
        self.spawn_job(move || {
            let changed = pinned.has_changed().map_err(|error| error.to_string());
            Some(JobResult::Compared {
                round,
                pool,
                changed,
            })
        })
    }

    /// Opens `plans`, or none of them. `all`: every address of the configuration. `logs`: files that pools are to
    /// write; one that cannot be written is an error.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn bind(
        &mut self,
        plans: Vec<ListenPlan>,
        all: Vec<ListenPlan>,
        logs: Vec<(String, LogFile, FileAccess)>,
    ) -> io::Result<u64> {
        self.last_number += 1;
        let (file_lock, number) = (self.file_lock.clone(), self.last_number);
        self.spawn_job(move || {
            let _file_lock = file_lock.lock().unwrap_or_else(PoisonError::into_inner);
            for (pool, file, access) in &logs {
                // The files of a pool's slots are alike.
                if let Err(error) = log::check_file(&file.path(0), *access) {
                    let shown = file.shown(Some(0));
                    let text = format!("pool {pool}: cannot write its log {shown}: {error}");
                    return Some(JobResult::Bound(number, Err(BindError::Log(text))));
                }
            }
            Some(JobResult::Bound(
                number,
                listener::open_some(&plans, &all).map_err(BindError::Socket),
            ))
        })?;
        Ok(number)
    }

    /// Sets the owner and mode of a socket file.
    pub(crate) fn set_file_ownership(&self, name: String, ownership: FileOwnership) {
        let (file_lock, listener) = (self.file_lock.clone(), name.clone());
        let job = move || {
            let _file_lock = file_lock.lock().unwrap_or_else(PoisonError::into_inner);
            Some(match ownership.apply() {
                Ok(()) => JobResult::FileOwnershipSet(name),
                Err(error) => {
                    let text = format!("its file cannot get its owner or mode: {error}");
                    JobResult::ListenerFailed(name, text)
                }
            })
        };
        if let Err(error) = self.spawn_job(job) {
            let text = format!("the owner and mode of its file are as they were: {error}");
            self.results.send(JobResult::ListenerFailed(listener, text));
        }
    }

    /// Checks that a unix socket still has its path, and makes a new one where it has not.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn check_listener(
        &self,
        number: u64,
        check: FileCheck,
        may_replace: bool,
    ) -> io::Result<()> {
        let file_lock = self.file_lock.clone();
        self.spawn_job(move || {
            let _file_lock = file_lock.lock().unwrap_or_else(PoisonError::into_inner);
            Some(JobResult::ListenerChecked(number, check.run(may_replace)))
        })
    }

    /// Removes the file of a new socket that is no longer wanted.
    pub(crate) fn discard(&self, socket: ReplacementSocket) {
        let file_lock = self.file_lock.clone();
        let job = move || {
            let _file_lock = file_lock.lock().unwrap_or_else(PoisonError::into_inner);
            socket.discard();
            None
        };
        if let Err(error) = self.spawn_job(job) {
            tracing::warn!("the file of a closed socket stays: {error}");
        }
    }

    /// Closes what watches the runtime directory, which may take 20 ms.
    pub(crate) fn close_inotify(&self, inotify: Arc<Inotify>) {
        let job = move || {
            drop(inotify);
            None
        };
        // Without a thread the job was dropped here.
        self.spawn_job(job).ok();
    }

    /// Closes a socket and removes its file.
    pub(crate) fn close(&self, mut listener: Listener) {
        let (file_lock, name) = (self.file_lock.clone(), listener.name().to_owned());
        let job = move || {
            let _file_lock = file_lock.lock().unwrap_or_else(PoisonError::into_inner);
            let error = listener.remove_file().err()?;
            let text = format!("its file cannot be removed: {error}");
            Some(JobResult::ListenerFailed(listener.name().to_owned(), text))
        };
        if let Err(error) = self.spawn_job(job) {
            let text = format!("it is closed, and its file stays: {error}");
            self.results.send(JobResult::ListenerFailed(name, text));
        }
    }
}

/// Those that the kernel tells.
fn unix_queues(inodes: &[u64]) -> Vec<(u64, Queue)> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let Ok(diag) = UnixDiag::open() else {
        return Vec::new();
    };
    let queues = inodes.iter();
    queues
        .filter_map(|inode| Some((*inode, diag.queue(*inode).ok()?)))
        .collect()
}
