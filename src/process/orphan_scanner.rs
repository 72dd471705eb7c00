//! The thread that scans orphans ([`crate::process::tree`]), and what happens when it hangs: reading the environment of
//! a process takes a lock of that process, which a dead disk may hold indefinitely. The supervisor owns it.

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::event_loop::progress::Progress;
use crate::process::procfs::{self, Stat};
use crate::process::tree::{self, Found, ScanMemory, ScanRequest, TAG, Tag};
use crate::sys::thread;
use crossbeam_channel::{Sender, bounded};
use rotad_core::{Span, Time};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How long reading one process may take.
const READ_TIMEOUT: Span = Span::from_millis(500);
/// How many threads may hang; beyond that no environment is read any more.
const MAX_ABANDONED: usize = 8;

/// Scans orphans without blocking its owner. One scan at a time.
#[derive(Debug)]
pub struct OrphanScanner {
    reports: Mailbox<ScanReport>,
    clock: Clock,
    /// Shared by all threads, one after the other.
    memory: Arc<Mutex<ScanMemory>>,
    thread: Option<ScanThread>,
    /// The current scan, and its number.
    current: Option<Arc<ScanRequest>>,
    number: u64,
    /// Abandoned threads.
    hung: Vec<Progress<i32>>,
}

/// A scan that is complete.
#[derive(Debug)]
pub struct ScanReport {
    number: u64,
    found: Found,
}

#[derive(Debug)]
struct ScanThread {
    requests: Sender<ThreadRequest>,
    /// The process whose environment it reads.
    progress: Progress<i32>,
}

/// One scan for a thread.
#[derive(Debug)]
struct ThreadRequest {
    number: u64,
    request: Arc<ScanRequest>,
    /// Processes at which other threads hang: their environments are not read. None: nor is any other.
    silent: Option<Vec<i32>>,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OrphanScanner {
    /// Each scan is reported to `reports`. The thread starts with the first one.
    pub fn new(reports: Mailbox<ScanReport>, clock: Clock) -> Self {
        Self {
            reports,
            clock,
            memory: Arc::default(),
            thread: None,
            current: None,
            number: 0,
            hung: Vec::new(),
        }
    }

    /// Whether a scan is running.
    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// Starts a scan; a running one is cancelled and not reported. Never blocks.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created.
    pub fn scan(&mut self, request: ScanRequest) -> io::Result<()> {
        if self.current.is_some() {
            self.abandon();
        }
        self.current = Some(Arc::new(request));
        let started = self.start();
        if started.is_err() {
            self.current = None;
        }
        started
    }

    /// What was found, if it is the current scan that has been reported.
    pub fn complete(&mut self, report: ScanReport) -> Option<Found> {
        if report.number != self.number {
            return None;
        }
        self.current.take().map(|_| report.found)
    }

    /// When [`OrphanScanner::check`] has to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        self.current.as_ref()?;
        Some(match &self.thread {
            Some(thread) => thread.progress.deadline(READ_TIMEOUT),
            None => self.clock.now() + READ_TIMEOUT,
        })
    }

    /// Abandons a thread that hangs; another one repeats its scan without the process at which it hangs.
    pub fn check(&mut self, now: Time) {
        if self.current.is_none() {
            return;
        }
        let hangs = |thread: &ScanThread| thread.progress.hangs(now, READ_TIMEOUT).is_some();
        if self.thread.as_ref().is_some_and(hangs) {
            self.abandon();
        }
        // If the kernel refuses a thread, the next check tries again.
        if self.thread.is_none() {
            self.start().ok();
        }
    }

    fn abandon(&mut self) {
        if let Some(request) = &self.current {
            request.cancelled.store(true, Ordering::Relaxed);
        }
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.progress.abandon();
        self.hung.push(thread.progress);
    }

    fn start(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else {
            return Ok(());
        };
        // A cancelled scan stays cancelled, so the repetition needs its own flag.
        let request = Arc::new(ScanRequest {
            cancelled: AtomicBool::new(false),
            ..ScanRequest::clone(current)
        });
        self.current = Some(request.clone());
        self.hung.retain(|progress| !progress.has_ended());
        let silent = (self.hung.len() < MAX_ABANDONED)
            .then(|| self.hung.iter().filter_map(Progress::current).collect());
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => self.start_thread()?,
        };
        self.number += 1;
        let request = ThreadRequest {
            number: self.number,
            request,
            silent,
        };
        thread.requests.send(request).ok();
        self.thread = Some(thread);
        Ok(())
    }

    fn start_thread(&self) -> io::Result<ScanThread> {
        let (requests, inbox) = bounded::<ThreadRequest>(1);
        let progress = Progress::new(self.clock.clone());
        let (own, memory, reports) = (
            progress.clone(),
            Arc::clone(&self.memory),
            self.reports.clone(),
        );
        thread::spawn("orphan-scanner", 256 << 10, move || {
            for task in inbox {
                // A copy, so that a hanging thread holds no lock.
                let mut known = lock(&memory).clone();
                let found = tree::scan(&task.request, &mut known, &mut |stat| {
                    tag_of(stat, &own, task.silent.as_deref())
                });
                let abandoned = own.finish(|abandoned| match abandoned {
                    true => lock(&memory).learn(known),
                    false => *lock(&memory) = known,
                });
                if abandoned {
                    return own.end();
                }
                let number = task.number;
                reports.send(ScanReport { number, found });
            }
        })?;
        Ok(ScanThread { requests, progress })
    }
}

/// Reads the tag of one process, unless it hangs in the kernel or has not answered another thread.
fn tag_of(stat: &Stat, progress: &Progress<i32>, silent: Option<&[i32]>) -> Tag {
    let pid = stat.pid;
    if progress.is_abandoned() || silent.is_none_or(|silent| silent.contains(&pid)) {
        return Tag::Silent;
    }
    if if stat.threads == 1 {
        stat.state == b'D'
    } else {
        procfs::hangs(pid)
    } {
        return Tag::Silent;
    }
    progress.begin(pid);
    let tag = procfs::environment_value(pid, TAG);
    progress.finish(|_| {});
    tag.map_or(Tag::None, Tag::Is)
}
