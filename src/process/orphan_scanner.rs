//! The thread that scans orphans ([`crate::process::tree`]), and what happens when it hangs: reading the environment of
//! a process takes a lock of that process, which a dead disk may hold indefinitely. The supervisor owns it.

use crate::event_loop::waker::Waker;
use crate::process::procfs::{self, Stat};
use crate::process::tree::{self, Found, ScanMemory, ScanRequest, TAG, Tag};
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long reading one process may take.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// How many threads may hang; beyond that no environment is read any more.
const MAX_ABANDONED: usize = 8;

/// Scans orphans without blocking its owner. One scan at a time.
#[derive(Debug)]
pub struct OrphanScanner {
    wake: Waker,
    /// Shared by all threads, one after the other.
    memory: Arc<Mutex<ScanMemory>>,
    reports: (Sender<Report>, Receiver<Report>),
    thread: Option<ScanThread>,
    /// The current scan, and its number.
    current: Option<Arc<ScanRequest>>,
    number: u64,
    /// The states of abandoned threads.
    hung: Vec<Arc<Mutex<ScanState>>>,
}

/// The number of a scan and its result.
type Report = (u64, Found);

#[derive(Debug)]
struct ScanThread {
    requests: Sender<(u64, Arc<ScanRequest>, bool)>,
    state: Arc<Mutex<ScanState>>,
}

/// What a thread is doing.
#[derive(Debug, Default)]
struct ScanState {
    /// The process whose environment it reads, and since when.
    reading: Option<(i32, Instant)>,
    /// Processes at which other threads hang: not read.
    silent: Vec<i32>,
    abandoned: bool,
    /// It has returned after being abandoned, and has ended.
    returned: bool,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OrphanScanner {
    /// `wake` is woken after each scan. The thread starts with the first one.
    pub fn new(wake: Waker) -> Self {
        Self {
            wake,
            memory: Arc::default(),
            reports: unbounded(),
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

    /// The result of the scan, once it is complete.
    pub fn found(&mut self) -> Option<Found> {
        let report = self
            .reports
            .1
            .try_iter()
            .find(|(number, _)| *number == self.number);
        let (_, found) = report.filter(|_| self.current.is_some())?;
        self.current = None;
        Some(found)
    }

    /// When [`OrphanScanner::check`] has to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.current.as_ref()?;
        let reading = self
            .thread
            .as_ref()
            .and_then(|thread| lock(&thread.state).reading);
        Some(reading.map_or_else(Instant::now, |(_, since)| since) + READ_TIMEOUT)
    }

    /// The whole process was paused: that time does not count.
    pub fn paused(&self, by: Duration) {
        if let Some(thread) = &self.thread
            && let Some((_, since)) = &mut lock(&thread.state).reading
        {
            *since += by;
        }
    }

    /// Abandons a thread that hangs; another one repeats its scan without the process at which it hangs.
    pub fn check(&mut self, now: Instant) {
        let hangs = self.thread.as_ref().is_some_and(|thread| {
            lock(&thread.state)
                .reading
                .is_some_and(|(_, since)| now >= since + READ_TIMEOUT)
                && self.current.is_some()
        });
        if hangs {
            self.abandon();
            // If the kernel refuses a thread, the next check tries again.
            self.start().ok();
        } else if self.current.is_some() && self.thread.is_none() {
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
        lock(&thread.state).abandoned = true;
        self.hung.push(thread.state);
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
        self.hung.retain(|state| !lock(state).returned);
        let skip_environments = self.hung.len() >= MAX_ABANDONED;
        // Processes at which other threads still hang are not read by one more.
        let silent: Vec<i32> = self
            .hung
            .iter()
            .filter_map(|state| lock(state).reading.map(|(pid, _)| pid))
            .collect();
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => self.start_thread()?,
        };
        lock(&thread.state).silent = silent;
        self.number += 1;
        thread
            .requests
            .send((self.number, request, skip_environments))
            .ok();
        self.thread = Some(thread);
        Ok(())
    }

    fn start_thread(&self) -> io::Result<ScanThread> {
        let (requests, inbox) = bounded::<(u64, Arc<ScanRequest>, bool)>(1);
        let state: Arc<Mutex<ScanState>> = Arc::default();
        let (taken, memory, reports, wake) = (
            Arc::clone(&state),
            Arc::clone(&self.memory),
            self.reports.0.clone(),
            self.wake.clone(),
        );
        thread::spawn("orphan-scanner", 256 << 10, move || {
            for (number, request, skip_environments) in inbox {
                // A copy, so that a hanging thread holds no lock.
                let mut known = lock(&memory).clone();
                let found = tree::scan(&request, &mut known, &mut |stat| {
                    tag_of(stat, &taken, skip_environments)
                });
                let mut state = lock(&taken);
                if state.abandoned {
                    state.returned = true;
                    lock(&memory).learn(known);
                    return;
                }
                *lock(&memory) = known;
                drop(state);
                reports.send((number, found)).ok();
                wake.wake();
            }
        })?;
        Ok(ScanThread { requests, state })
    }
}

/// Reads the tag of one process, unless it hangs in the kernel or has not answered another thread.
fn tag_of(stat: &Stat, state: &Mutex<ScanState>, skip_environments: bool) -> Tag {
    let pid = stat.pid;
    {
        let state = lock(state);
        if skip_environments || state.abandoned || state.silent.contains(&pid) {
            return Tag::Silent;
        }
    }
    if if stat.threads == 1 {
        stat.state == b'D'
    } else {
        procfs::hangs(pid)
    } {
        return Tag::Silent;
    }
    lock(state).reading = Some((pid, Instant::now()));
    let tag = procfs::environment_value(pid, TAG);
    lock(state).reading = None;
    tag.map_or(Tag::None, Tag::Is)
}
