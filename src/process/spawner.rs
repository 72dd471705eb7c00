//! The thread that workers are born from, and what happens when it hangs.
//!
//! Workers are children of this thread; orphans, which the kernel hands to the master as the subreaper, become
//! children of its main thread: /proc/PID/task/TID/children tells the two apart. So the thread lives for ever, and one
//! that was written off and comes back goes on taking orders.

use super::spawn::{Tools, deliver};
use super::thread_state::{Ending, ThreadState, ThreadStatus};
use super::{SpawnError, SpawnRequest, SpawnResult, SpawnStage, SpawnedChild};
use crate::event_loop::waker::Waker;
use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::signal::SigSet;
use rotad_core::WorkerId;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// So many threads may hang before orders fail at once.
const MOST_WRITTEN_OFF: usize = 8;
/// A thread that the kernel refused is asked for again after this.
const RETRY: Duration = Duration::from_secs(1);

/// What all births have in common.
#[derive(Clone, Debug)]
pub struct SpawnerConfig {
    /// Rung after each report.
    pub wake: Waker,
    /// Soft and hard limit of open files as the master found them, before it raised its own.
    pub original_nofile: (u64, u64),
    /// The program that calls [`super::shim::intercept`] first: [`super::shim::OURSELVES`], except in tests.
    pub shim: PathBuf,
}

/// Gives birth to workers, one at a time, without ever holding up its owner.
#[derive(Debug)]
pub struct Spawner {
    orders: Sender<Ordered>,
    reports: Receiver<SpawnResult>,
    hall: Arc<Shared>,
    seats: Vec<Arc<ThreadState>>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    settings: SpawnerConfig,
    orders: Receiver<Ordered>,
    reports: Sender<SpawnResult>,
    /// Orders without a report.
    open: AtomicUsize,
}

#[derive(Debug)]
struct Ordered {
    at: Instant,
    order: SpawnRequest,
}

impl Spawner {
    /// # Errors
    /// No thread, no memory for its stack, no /dev/null.
    pub fn start(settings: SpawnerConfig) -> io::Result<Self> {
        let (orders, queue) = unbounded();
        let (answers, reports) = unbounded();
        let hall = Shared { settings, orders: queue, reports: answers, open: AtomicUsize::new(0) };
        let mut spawner = Self { orders, reports, hall: Arc::new(hall), seats: Vec::new() };
        spawner.seat_one()?;
        Ok(spawner)
    }

    /// Never blocks. Exactly one report will follow, provided that [`Spawner::check`] is called when it is due.
    pub fn order(&self, order: SpawnRequest) {
        self.hall.open.fetch_add(1, Ordering::Relaxed);
        // It cannot fail: the hall keeps a receiver.
        self.orders.send(Ordered { at: Instant::now(), order }).ok();
    }

    /// The threads whose children the workers are.
    pub fn threads(&self) -> Vec<i32> {
        self.seats.iter().filter_map(|seat| seat.thread()).collect()
    }

    /// Where the reports come out; the bell of [`SpawnerConfig::wake`] is rung after each.
    pub fn reports(&self) -> &Receiver<SpawnResult> {
        &self.reports
    }

    /// Orders that have no report yet.
    pub fn outstanding(&self) -> usize {
        self.hall.open.load(Ordering::Relaxed)
    }

    /// When [`Spawner::check`] wants to be called, at the latest; none while nothing is to be born. To be asked again
    /// after each order and each report.
    pub fn deadline(&self) -> Option<Instant> {
        if self.outstanding() == 0 {
            return None;
        }
        let mut earliest: Option<Instant> = None;
        let mut idle = false;
        for seat in &self.seats {
            match seat.look() {
                ThreadStatus::Idle => idle = true,
                ThreadStatus::Busy(until) => earliest = Some(earliest.map_or(until, |other| other.min(until))),
                ThreadStatus::Gone => {}
            }
        }
        // Idle: the order is on its way to the thread, and its time begins now. Nobody at all: one has to be seated.
        let otherwise = if idle { super::thread_state::PATIENCE } else { RETRY };
        earliest.or_else(|| Some(Instant::now() + otherwise))
    }

    /// The process was paused (SIGSTOP, a suspended machine): births under way get that time back.
    pub fn paused(&self, by: Duration) {
        self.seats.iter().for_each(|seat| seat.paused(by));
    }

    /// Ends births that take too long: after 5 s the child is killed; 1 s later its thread is written off, the birth
    /// is reported as hung, and another thread takes over.
    pub fn check(&mut self, now: Instant) {
        for seat in &self.seats {
            if let Some((worker, error)) = seat.check(now) {
                self.hall.report(failed(worker, error));
            }
        }
        if self.seats.iter().any(|seat| seat.look() != ThreadStatus::Gone) {
            return;
        }
        if self.seats.len() <= MOST_WRITTEN_OFF {
            // Refused: the orders wait, and the next check tries again.
            self.seat_one().ok();
            return;
        }
        for Ordered { order, .. } in self.hall.orders.try_iter() {
            self.hall.report(failed(order.worker, SpawnError::hung(SpawnStage::Queue, "")));
        }
    }

    fn seat_one(&mut self) -> io::Result<()> {
        let tools = Tools::new(&self.hall.settings)?;
        let seat = Arc::new(ThreadState::default());
        let (hall, taken) = (Arc::clone(&self.hall), Arc::clone(&seat));
        std::thread::Builder::new().name("spawner".into()).spawn(move || serve(&hall, &taken, tools))?;
        self.seats.push(seat);
        Ok(())
    }
}

impl Shared {
    fn report(&self, report: SpawnResult) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        // It fails if the owner is gone, who then wants no reports.
        self.reports.send(report).ok();
        self.settings.wake.wake();
    }
}

fn serve(hall: &Shared, seat: &ThreadState, mut tools: Tools) {
    // No handler may run in a child that shares our memory. It cannot fail with a valid set.
    SigSet::all().thread_block().ok();
    seat.taken();
    while let Ok(Ordered { at, order }) = hall.orders.recv() {
        if let Some(error) = order.pinned.hopeless(at) {
            hall.report(failed(order.worker, error));
            continue;
        }
        seat.begin(order.worker, Arc::clone(&order.pinned));
        let report = deliver(&order, &mut tools, seat);
        let ending = seat.end();
        let (worker, pinned) = (order.worker, Arc::clone(&order.pinned));
        // Before the report: whoever hears of it finds no pipe and no listener held open by us.
        drop(order);
        match ending {
            Ending::InTime => hall.report(report),
            Ending::Killed => {
                let error = undo(report).unwrap_or_else(|| seat.hung(&pinned));
                hall.report(failed(worker, error));
            }
            Ending::WrittenOff => drop(undo(report)),
        }
    }
}

fn failed(worker: WorkerId, error: SpawnError) -> SpawnResult {
    SpawnResult::Failed { worker, error, pinned: None, repinned: false }
}

/// Makes a birth that came too late not have happened; gives back its error, if it had one of its own.
fn undo(report: SpawnResult) -> Option<SpawnError> {
    match report {
        SpawnResult::Born { born: SpawnedChild { process, .. }, .. }
        | SpawnResult::Underway { born: SpawnedChild { process, .. }, .. } => {
            process.signal(nix::libc::SIGKILL).ok();
            super::spawn::bury(process.pid());
            None
        }
        SpawnResult::Failed { error, .. } => Some(error),
    }
}
