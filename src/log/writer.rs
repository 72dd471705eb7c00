//! The pen's thread. It sleeps until somebody prints; where much is printed it waits a moment between two looks, since
//! a wake-up for each line costs five times as much as the writing (measured; so does taking lines out one by one).

use super::output::LogTarget;
use super::pipe_peek::{LARGE, Pipe, PipePeek, Seen};
use super::ring::Recent;
use super::sink::SinkState;
use super::sinks::Sinks;
use super::{LogWriter, MasterLog, Rotation};
use crate::event_loop::waker::Waker;
use crate::plan::LogPlan;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::SigSet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After less than this, in bytes, the pen waits a moment for more.
const MUCH: usize = 32 << 10;
/// The moment.
const LAZY: Duration = Duration::from_millis(1);
/// A line without an end that is longer than this, in bytes, is written in pieces.
const LONGEST_LINE: usize = 16 << 10;
/// How much is formatted at once for the master's log, in bytes.
const MOST_LINES: usize = 128 << 10;
/// How often a log that cannot be written is tried again while something waits for it.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// What epoll says of the bell and of our own stderr; pipes have higher numbers.
const BELL: u64 = 0;
const STDERR: u64 = 1;

/// What the pen is told.
pub(super) enum Command {
    Adopt(Arc<Pipe>, LogTarget),
    /// Some worker has ended.
    Ended,
    Reopen,
    Rotation(Rotation),
    Retarget(String, Box<LogPlan>),
    /// Answer when everything is written.
    Drain(Sender<()>),
}

struct Reader {
    pipe: Arc<Pipe>,
    target: LogTarget,
    capacity: usize,
    /// It is as large as it may be.
    grown: bool,
    /// Nobody else has the pipe, or its worker has ended: an unfinished line is written as it is.
    over: bool,
    /// Something in it could not be written.
    waits: bool,
}

/// The thread's own things.
pub(super) struct WriterThread {
    lines: Receiver<Vec<u8>>,
    words: Receiver<Command>,
    wake: Waker,
    dropped: Arc<AtomicU64>,
    recent: Arc<Recent>,
    progress: Arc<AtomicU64>,
    at: Arc<AtomicU64>,
    begun: Instant,
    epoll: Epoll,
    readers: BTreeMap<u64, Reader>,
    last: u64,
    /// Those that have more to read.
    todo: BTreeSet<u64>,
    sheets: Sinks,
    glass: PipePeek,
    gulp: Vec<u8>,
    drains: Vec<Sender<()>>,
    again: Option<Instant>,
}

impl WriterThread {
    pub(super) fn new(
        paper: MasterLog,
        lines: Receiver<Vec<u8>>,
        words: Receiver<Command>,
        pen: &LogWriter,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(pen.wake.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        // EPERM: a plain file, which never makes us wait.
        epoll.add(io::stderr(), EpollEvent::new(EpollFlags::EPOLLONESHOT, STDERR)).ok();
        Ok(Self {
            lines,
            words,
            wake: pen.wake.clone(),
            dropped: pen.dropped.clone(),
            recent: pen.recent.clone(),
            progress: pen.progress.clone(),
            at: pen.at.clone(),
            begun: pen.begun,
            epoll,
            readers: BTreeMap::new(),
            last: STDERR,
            todo: BTreeSet::new(),
            sheets: Sinks::new(paper),
            glass: PipePeek::new()?,
            // Memory that is never touched costs nothing.
            gulp: vec![0; LARGE],
            drains: Vec::new(),
            again: None,
        })
    }

    pub(super) fn work(mut self) {
        // Signals for the process reach the main thread, which waits for them, and do not wake this one.
        SigSet::all().thread_block().ok();
        let mut events = [EpollEvent::empty(); 64];
        loop {
            LogWriter::note_work(&self.at, self.begun, false);
            let count = self.epoll.wait(&mut events, self.patience()).unwrap_or(0);
            LogWriter::note_work(&self.at, self.begun, true);
            let mut rung = false;
            for event in &events[..count] {
                match event.data() {
                    BELL => rung = true,
                    STDERR => self.try_again(),
                    id => self.heard(id, event.events()),
                }
            }
            if rung {
                // Lines come in bursts: a moment's patience writes them all at once, and leaves the processor to the
                // workers.
                std::thread::sleep(LAZY);
                self.wake.clear();
                if !self.listen() {
                    return;
                }
            }
            let todo = std::mem::take(&mut self.todo);
            let looked = !todo.is_empty();
            let read: usize = todo.into_iter().map(|id| self.read(id)).sum();
            self.sheets.write_own();
            self.settle();
            if looked && read < MUCH && self.drains.is_empty() {
                std::thread::sleep(LAZY);
            }
        }
    }

    fn patience(&self) -> EpollTimeout {
        if !self.todo.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(again) = self.again else { return EpollTimeout::NONE };
        let ms = again.saturating_duration_since(Instant::now()).as_millis() as u16 + 1;
        EpollTimeout::from(ms)
    }

    fn heard(&mut self, id: u64, flags: EpollFlags) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.over |= flags.contains(EpollFlags::EPOLLHUP);
            self.todo.insert(id);
        }
    }

    /// False when nobody is left who could say anything.
    fn listen(&mut self) -> bool {
        self.sheets.own_lines_lost(self.dropped.swap(0, Ordering::Relaxed));
        loop {
            match self.words.try_recv() {
                Ok(word) => self.obey(word),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        while let Ok(line) = self.lines.try_recv() {
            self.sheets.own_line(&line);
        }
        true
    }

    fn obey(&mut self, word: Command) {
        match word {
            Command::Adopt(pipe, target) => self.adopt(pipe, target),
            Command::Ended => {
                for (id, reader) in self.readers.iter_mut().filter(|(_, reader)| !reader.over) {
                    if reader.pipe.speaker.has_ended() {
                        reader.over = true;
                        self.todo.insert(*id);
                    }
                }
            }
            Command::Reopen => {
                self.sheets.reopen();
                self.todo_waiting();
            }
            Command::Rotation(rotation) => self.sheets.set_rotation(rotation),
            Command::Retarget(pool, log) => self.retarget(&pool, &log),
            Command::Drain(done) => {
                self.drains.push(done);
                self.todo.extend(self.readers.keys());
            }
        }
    }

    fn adopt(&mut self, pipe: Arc<Pipe>, target: LogTarget) {
        self.last += 1;
        let id = self.last;
        // Edges: a line without an end stays in the pipe and must not keep us awake.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        if let Err(error) = self.epoll.add(&pipe, EpollEvent::new(flags, id)) {
            let (pool, slot) = (&pipe.speaker.pool, pipe.speaker.slot);
            tracing::error!("what {pool}/{slot} prints is lost: its pipe cannot be watched: {error}");
            return;
        }
        self.sheets.need(&target);
        let capacity = pipe.capacity();
        let over = pipe.speaker.has_ended();
        let reader = Reader { pipe, target, capacity, grown: capacity >= LARGE, over, waits: false };
        self.readers.insert(id, reader);
        self.todo.insert(id);
    }

    fn retarget(&mut self, pool: &str, log: &LogPlan) {
        for (id, reader) in &mut self.readers {
            if &*reader.pipe.speaker.pool != pool {
                continue;
            }
            let target = LogTarget::of_stream(reader.pipe.stream, log);
            self.sheets.need(&target);
            if target != reader.target {
                self.sheets.forget(&reader.target, *id);
                reader.target = target;
                self.todo.insert(*id);
            }
        }
        self.close_unused();
    }

    fn close_unused(&mut self) {
        let used: BTreeSet<&Path> = self
            .readers
            .values()
            .filter_map(|reader| match &reader.target {
                LogTarget::File { path, .. } => Some(path.as_path()),
                _ => None,
            })
            .collect();
        self.sheets.keep(|path| used.contains(path));
    }

    /// Looks into a pipe once, writes what can be written, and takes that out. Says how many bytes that were.
    fn read(&mut self, id: u64) -> usize {
        let Some(reader) = self.readers.get_mut(&id) else { return 0 };
        let whole = self.glass.fits(reader.capacity);
        let slow = reader.target == LogTarget::Master && !self.sheets.masters_is(SinkState::Trouble);
        let most = if slow { MOST_LINES } else { self.gulp.len() };
        let seen = match self.glass.look(&reader.pipe, &mut self.gulp[..most]) {
            Seen::Bytes(seen) => seen,
            Seen::Nothing => {
                reader.waits = false;
                return 0;
            }
            Seen::End => {
                self.close(id);
                return 0;
            }
        };
        let text = &self.gulp[..seen];
        let mut lines = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        // Short writes may leave half of each page unused. A worker may have made the pipe smaller, or write each byte
        // as a packet of its own (pipe(7), O_DIRECT): then the kernel alone knows that it is full.
        let full = seen >= reader.capacity / 2 || lines == 0 && reader.pipe.is_full();
        let over = reader.over || !self.drains.is_empty();
        if lines == 0 && (over || seen >= LONGEST_LINE || full) {
            lines = seen;
        }
        let mut taken = self.sheets.put(&reader.target, id, &reader.pipe, &text[..lines]);
        reader.waits = taken < lines;
        if reader.waits {
            if full && self.sheets.shut(&reader.target) == Some(SinkState::Trouble) && !grow(reader) {
                // The worker would hang because of a disk: the oldest quarter makes room.
                let quarter = (reader.capacity / 4).max(taken).min(lines);
                let end = text[quarter..lines].iter().position(|byte| *byte == b'\n');
                let given_up = end.map_or(lines, |end| quarter + end + 1);
                self.sheets.lose(&reader.target, given_up - taken);
                taken = given_up;
                reader.waits = taken < lines;
            }
        } else if full || seen == most {
            grow(reader);
        }
        if taken > 0 {
            let (pipe, text) = (&reader.pipe, &text[..taken]);
            let mut words = pipe.speaker.words();
            self.glass.take_out(pipe, taken);
            words.hear(text);
            drop(words);
            self.recent.add(&pipe.speaker.pool, pipe.speaker.slot, pipe.speaker.pid(), pipe.stream, text);
            self.progress.fetch_add(taken as u64, Ordering::Relaxed);
            if taken >= MUCH || !whole || over || full {
                self.todo.insert(id);
            }
        }
        taken
    }

    fn close(&mut self, id: u64) {
        let Some(reader) = self.readers.remove(&id) else { return };
        self.epoll.delete(&reader.pipe).ok();
        self.sheets.forget(&reader.target, id);
        if matches!(reader.target, LogTarget::File { .. }) {
            self.close_unused();
        }
    }

    fn todo_waiting(&mut self) {
        self.todo.extend(self.readers.iter().filter(|(_, reader)| reader.waits).map(|(id, _)| *id));
    }

    fn try_again(&mut self) {
        self.sheets.try_again();
        self.todo_waiting();
    }

    /// What is left to do: another try after a while, a slow reader to wait for, somebody to be told.
    fn settle(&mut self) {
        let waits = self.sheets.own_wait() || self.readers.values().any(|reader| reader.waits);
        if waits && self.sheets.masters_is(SinkState::Slow) {
            let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT;
            self.epoll.modify(io::stderr(), &mut EpollEvent::new(flags, STDERR)).ok();
        }
        if waits && self.sheets.in_trouble() {
            let now = Instant::now();
            if self.again.is_some_and(|at| at <= now) {
                self.again = None;
                self.try_again();
                self.sheets.write_own();
            }
            self.again.get_or_insert(now + TRY_AGAIN);
        } else {
            self.again = None;
        }
        if !self.drains.is_empty() && self.todo.is_empty() && !waits && self.lines.is_empty() {
            for done in self.drains.drain(..) {
                done.try_send(()).ok();
            }
        }
    }
}

/// Makes a pipe as large as it may be; false: it is so already.
fn grow(reader: &mut Reader) -> bool {
    if std::mem::replace(&mut reader.grown, true) {
        return false;
    }
    let before = reader.capacity;
    reader.capacity = reader.pipe.grow();
    reader.capacity > before
}
