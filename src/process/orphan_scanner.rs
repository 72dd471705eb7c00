//! The thread that looks at orphans ([`crate::process::tree`]), and what happens when it hangs: the environment of a
//! process is read under a lock of that process, which a dead disk may hold for ever.

use crate::event_loop::waker::Waker;
use crate::process::procfs::{self, Stat};
use crate::process::tree::{self, Found, Memory, Question, TAG, Tag};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The answer of one process is waited for so long.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many threads may hang; then no environment is read any more.
const MOST_WRITTEN_OFF: usize = 8;

/// Looks at orphans without ever holding up its owner. One look at a time.
#[derive(Debug)]
pub struct OrphanScanner {
    wake: Waker,
    /// Shared by all threads, one after the other.
    memory: Arc<Mutex<Memory>>,
    reports: (Sender<Report>, Receiver<Report>),
    seat: Option<Seat>,
    /// The look that is under way, and its number.
    asked: Option<Arc<Question>>,
    number: u64,
    /// Where those are that have been written off.
    gone: Vec<Arc<Mutex<At>>>,
}

/// The number of a look, and what it has found.
type Report = (u64, Found);

#[derive(Debug)]
struct Seat {
    orders: Sender<(u64, Arc<Question>, bool)>,
    at: Arc<Mutex<At>>,
}

/// What a thread is at.
#[derive(Debug, Default)]
struct At {
    /// Since when it reads the environment of one process.
    reading: Option<(i32, Instant)>,
    /// Processes that have not answered a thread: not asked again.
    silent: Vec<i32>,
    written_off: bool,
    /// It has come back after that, and has ended.
    back: bool,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OrphanScanner {
    /// `wake`: rung after each look. The thread begins with the first one.
    pub fn new(wake: Waker) -> Self {
        Self {
            wake,
            memory: Arc::default(),
            reports: unbounded(),
            seat: None,
            asked: None,
            number: 0,
            gone: Vec::new(),
        }
    }

    pub fn is_busy(&self) -> bool {
        self.asked.is_some()
    }

    /// Begins a look; one that is under way is given up, and not reported. Never blocks.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn look(&mut self, question: Question) -> io::Result<()> {
        if self.asked.is_some() {
            self.write_off();
        }
        self.asked = Some(Arc::new(question));
        let begun = self.begin();
        if begun.is_err() {
            self.asked = None;
        }
        begun
    }

    /// What the look has found, once it is through.
    pub fn found(&mut self) -> Option<Found> {
        let report = self.reports.1.try_iter().find(|(number, _)| *number == self.number);
        let (_, found) = report.filter(|_| self.asked.is_some())?;
        self.asked = None;
        Some(found)
    }

    /// When [`OrphanScanner::check`] wants to be called, at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.asked.as_ref()?;
        let reading = self.seat.as_ref().and_then(|seat| lock(&seat.at).reading);
        Some(reading.map_or_else(Instant::now, |(_, since)| since) + PATIENCE)
    }

    /// The whole process stood still for so long: nobody is to blame for that.
    pub fn paused(&self, by: Duration) {
        if let Some(seat) = &self.seat
            && let Some((_, since)) = &mut lock(&seat.at).reading
        {
            *since += by;
        }
    }

    /// Writes a thread off that hangs; another one does its work again, and leaves out what it hangs at.
    pub fn check(&mut self, now: Instant) {
        let hangs = self.seat.as_ref().is_some_and(|seat| {
            lock(&seat.at).reading.is_some_and(|(_, since)| now >= since + PATIENCE) && self.asked.is_some()
        });
        if hangs {
            self.write_off();
            // Refused: the next check tries again.
            self.begin().ok();
        } else if self.asked.is_some() && self.seat.is_none() {
            self.begin().ok();
        }
    }

    fn write_off(&mut self) {
        if let Some(question) = &self.asked {
            question.given_up.store(true, Ordering::Relaxed);
        }
        let Some(seat) = self.seat.take() else { return };
        lock(&seat.at).written_off = true;
        self.gone.push(seat.at);
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(asked) = &self.asked else { return Ok(()) };
        // A look that was given up stays so.
        let question = Arc::new(Question { given_up: AtomicBool::new(false), ..Question::clone(asked) });
        self.asked = Some(question.clone());
        self.gone.retain(|at| !lock(at).back);
        let deaf = self.gone.len() >= MOST_WRITTEN_OFF;
        // What others still hang at is not read by one more.
        let silent: Vec<i32> = self.gone.iter().filter_map(|at| lock(at).reading.map(|(pid, _)| pid)).collect();
        let seat = match self.seat.take() {
            Some(seat) => seat,
            None => self.seat_one()?,
        };
        lock(&seat.at).silent = silent;
        self.number += 1;
        seat.orders.send((self.number, question, deaf)).ok();
        self.seat = Some(seat);
        Ok(())
    }

    fn seat_one(&self) -> io::Result<Seat> {
        let (orders, inbox) = bounded::<(u64, Arc<Question>, bool)>(1);
        let at: Arc<Mutex<At>> = Arc::default();
        let (taken, memory, reports, wake) =
            (Arc::clone(&at), Arc::clone(&self.memory), self.reports.0.clone(), self.wake.clone());
        let thread = std::thread::Builder::new().name("sweeper".to_owned()).stack_size(256 << 10);
        thread.spawn(move || {
            // Signals for the process are the main thread's.
            nix::sys::signal::SigSet::all().thread_block().ok();
            for (number, question, deaf) in inbox {
                // A copy, so that a thread that hangs holds no lock.
                let mut known = lock(&memory).clone();
                let found = tree::look(&question, &mut known, &mut |stat| tag_of(stat, &taken, deaf));
                let mut at = lock(&taken);
                if at.written_off {
                    at.back = true;
                    lock(&memory).learn(known);
                    return;
                }
                *lock(&memory) = known;
                drop(at);
                reports.send((number, found)).ok();
                wake.wake();
            }
        })?;
        Ok(Seat { orders, at })
    }
}

/// Asks one process. Who hangs in the kernel, or has not answered another thread, is not asked.
fn tag_of(stat: &Stat, at: &Mutex<At>, deaf: bool) -> Tag {
    let pid = stat.pid;
    {
        let at = lock(at);
        if deaf || at.written_off || at.silent.contains(&pid) {
            return Tag::Silent;
        }
    }
    if if stat.threads == 1 { stat.state == b'D' } else { procfs::hangs(pid) } {
        return Tag::Silent;
    }
    lock(at).reading = Some((pid, Instant::now()));
    let tag = procfs::environment_value(pid, TAG);
    lock(at).reading = None;
    tag.map_or(Tag::None, Tag::Is)
}
