//! The log writer's thread. It sleeps until a worker or the master prints. When output is frequent it pauses for a
//! moment between two reads: a wake-up for each line costs five times as much as the writing (measured; so does
//! consuming lines one by one).

use super::counts::{Counts, OutputCounts};
use super::output::LogTarget;
use super::pipe_peek::{MAX_CAPACITY, Pipe, PipePeek, Seen};
use super::sink::SinkState;
use super::sinks::Sinks;
use super::write_record::WriteRecord;
use super::{LogWriter, MasterLog, Rotation};
use crate::event_loop::clock::Clock;
use crate::event_loop::progress::Progress;
use crate::event_loop::waker::Waker;
use crate::plan::LogPlan;
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rotad_core::{Span, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// After reading less than this, in bytes, the thread pauses to let more accumulate.
const BUSY_BYTES: usize = 32 << 10;
/// The length of that pause.
const BATCH_DELAY: Duration = Duration::from_millis(1);
/// An unfinished line longer than this, in bytes, is written in pieces.
const MAX_LINE: usize = 16 << 10;
/// How many bytes are read per pass for the master's log.
const MAX_FORMATTED: usize = 128 << 10;
/// How often a failed log is tried again while something is queued for it.
const RETRY_INTERVAL: Span = Span::from_secs(1);
/// Epoll keys of the waker and of stderr; pipes have higher ones.
const WAKER: u64 = 0;
const STDERR: u64 = 1;

/// What a [`LogWriter`] asks of the thread.
pub(super) enum Command {
    Adopt(Arc<Pipe>, LogTarget),
    /// The worker of the pipe with this inode has exited.
    Ended(u64),
    Reopen,
    Rotation(Rotation),
    Retarget(String, Box<LogPlan>),
    /// Answer when everything is written.
    Drain(Sender<()>),
}

struct PipeReader {
    pipe: Arc<Pipe>,
    target: LogTarget,
    capacity: usize,
    /// The pipe is as large as allowed.
    grown: bool,
    /// The pipe has no other writer, or its worker has exited: an unfinished line is written as it is.
    finished: bool,
    counts: Arc<Counts>,
}

/// The state of the thread.
pub(super) struct WriterThread {
    lines: Receiver<Vec<u8>>,
    commands: Receiver<Command>,
    wake: Waker,
    dropped: Arc<AtomicU64>,
    progress: Arc<AtomicU64>,
    closed: Arc<AtomicU64>,
    work: Progress<()>,
    clock: Clock,
    epoll: Epoll,
    readers: BTreeMap<u64, PipeReader>,
    /// The readers by the inodes of their pipes.
    by_inode: BTreeMap<u64, u64>,
    last_id: u64,
    /// Pipes to read in this pass.
    pending: BTreeSet<u64>,
    /// Pipes that hold something that the sink did not accept.
    backlogs: BTreeSet<u64>,
    sinks: Sinks,
    pipe_peek: PipePeek,
    buf: Vec<u8>,
    drains: Vec<Sender<()>>,
    retry_at: Option<Time>,
    counts: OutputCounts,
}

impl WriterThread {
    pub(super) fn new(
        master_log: MasterLog,
        record: WriteRecord,
        lines: Receiver<Vec<u8>>,
        commands: Receiver<Command>,
        handle: &LogWriter,
        clock: Clock,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            handle.wake.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN, WAKER),
        )?;
        // EPERM: a regular file, which never blocks.
        epoll
            .add(
                io::stderr(),
                EpollEvent::new(EpollFlags::EPOLLONESHOT, STDERR),
            )
            .ok();
        Ok(Self {
            lines,
            commands,
            wake: handle.wake.clone(),
            dropped: handle.dropped.clone(),
            progress: handle.progress.clone(),
            closed: handle.closed.clone(),
            work: handle.work.clone(),
            clock,
            epoll,
            readers: BTreeMap::new(),
            by_inode: BTreeMap::new(),
            last_id: STDERR,
            pending: BTreeSet::new(),
            backlogs: BTreeSet::new(),
            sinks: Sinks::new(master_log, record),
            pipe_peek: PipePeek::new()?,
            // Untouched memory costs nothing.
            buf: vec![0; MAX_CAPACITY],
            drains: Vec::new(),
            retry_at: None,
            counts: handle.counts.clone(),
        })
    }

    pub(super) fn work(mut self) {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.work.finish(|_| {});
            let count = self
                .epoll
                .wait(&mut events, self.poll_timeout())
                .unwrap_or(0);
            self.work.begin(());
            let mut woken = false;
            for event in &events[..count] {
                match event.data() {
                    WAKER => woken = true,
                    STDERR => self.retry(),
                    id => self.on_pipe_event(id, event.events()),
                }
            }
            if woken {
                // Lines come in bursts: after a short pause they are written together, which leaves the processor to
                // the workers.
                std::thread::sleep(BATCH_DELAY);
                self.wake.clear();
                if !self.run_commands() {
                    return;
                }
            }
            let pending = std::mem::take(&mut self.pending);
            let had_pending = !pending.is_empty();
            let read: usize = pending.into_iter().map(|id| self.read(id)).sum();
            self.sinks.flush_own();
            self.schedule_work();
            if had_pending && read < BUSY_BYTES && self.drains.is_empty() {
                std::thread::sleep(BATCH_DELAY);
            }
        }
    }

    fn poll_timeout(&self) -> EpollTimeout {
        if !self.pending.is_empty() {
            return EpollTimeout::ZERO;
        }
        let Some(retry_at) = self.retry_at else {
            return EpollTimeout::NONE;
        };
        let ms = self.clock.until(retry_at).as_millis() as u16 + 1;
        EpollTimeout::from(ms)
    }

    fn on_pipe_event(&mut self, id: u64, flags: EpollFlags) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.finished |= flags.contains(EpollFlags::EPOLLHUP);
            self.pending.insert(id);
        }
    }

    /// False when all handles are gone.
    fn run_commands(&mut self) -> bool {
        self.sinks
            .count_dropped(self.dropped.swap(0, Ordering::Relaxed));
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.handle(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        while let Ok(line) = self.lines.try_recv() {
            self.sinks.queue_line(&line);
        }
        true
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Adopt(pipe, target) => self.adopt(pipe, target),
            Command::Ended(inode) => {
                if let Some(id) = self.by_inode.get(&inode)
                    && let Some(reader) = self.readers.get_mut(id)
                    && !std::mem::replace(&mut reader.finished, true)
                {
                    self.pending.insert(*id);
                }
            }
            Command::Reopen => {
                self.sinks.reopen();
                self.pending.extend(&self.backlogs);
            }
            Command::Rotation(rotation) => self.sinks.set_rotation(rotation),
            Command::Retarget(pool, log) => self.retarget(&pool, &log),
            Command::Drain(done) => {
                self.drains.push(done);
                self.pending.extend(self.readers.keys());
            }
        }
    }

    fn adopt(&mut self, pipe: Arc<Pipe>, target: LogTarget) {
        self.last_id += 1;
        let id = self.last_id;
        // Edge-triggered: an unfinished line stays in the pipe and must not keep us awake.
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        if let Err(error) = self.epoll.add(&pipe, EpollEvent::new(flags, id)) {
            let (pool, slot) = (&pipe.source.pool, pipe.source.slot);
            tracing::error!(
                "the output of {pool}/{slot} is lost: its pipe cannot be watched: {error}"
            );
            return;
        }
        self.sinks.begin(&target);
        let counts = self.counts.of(&pipe.source.pool);
        let capacity = pipe.capacity();
        let finished = pipe.source.has_ended();
        self.by_inode.insert(pipe.inode(), id);
        let reader = PipeReader {
            pipe,
            target,
            capacity,
            grown: capacity >= MAX_CAPACITY,
            finished,
            counts,
        };
        self.readers.insert(id, reader);
        self.pending.insert(id);
    }

    fn retarget(&mut self, pool: &str, log: &LogPlan) {
        for (id, reader) in &mut self.readers {
            if &*reader.pipe.source.pool != pool {
                continue;
            }
            let target = LogTarget::of_stream(reader.pipe.stream, log, reader.pipe.source.slot);
            if target == reader.target {
                self.sinks.open(&target);
            } else {
                self.sinks.begin(&target);
                self.sinks.end(&reader.target, &reader.pipe);
                reader.target = target;
                self.pending.insert(*id);
            }
        }
    }

    /// Peeks into a pipe once, writes what can be written, and consumes that. Returns how many bytes that were.
    fn read(&mut self, id: u64) -> usize {
        let Some(reader) = self.readers.get_mut(&id) else {
            return 0;
        };
        let whole = self.pipe_peek.fits(reader.capacity);
        let slow = reader.target == LogTarget::Master
            && !self.sinks.master_is_blocked_by(SinkState::Failing);
        let limit = if slow { MAX_FORMATTED } else { self.buf.len() };
        let seen = match self.pipe_peek.peek(&reader.pipe, &mut self.buf[..limit]) {
            Seen::Bytes(seen) => seen,
            Seen::Nothing => {
                self.backlogs.remove(&id);
                return 0;
            }
            Seen::End => {
                self.close(id);
                return 0;
            }
        };
        let text = &self.buf[..seen];
        let mut lines = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |newline| newline + 1);
        // Short writes may leave half of each page unused. A worker may have made the pipe smaller, or write each byte
        // as a packet of its own (pipe(7), O_DIRECT): then only the kernel knows that it is full.
        let full = seen >= reader.capacity / 2 || lines == 0 && reader.pipe.is_full();
        let finished = reader.finished || !self.drains.is_empty();
        if lines == 0 && (finished || seen >= MAX_LINE || full) {
            lines = seen;
        }
        let mut taken = self
            .sinks
            .write(&reader.target, &reader.pipe, &text[..lines]);
        let mut has_backlog = taken < lines;
        let mut lost = 0;
        if has_backlog {
            if full
                && self.sinks.blocked(&reader.target) == Some(SinkState::Failing)
                && !grow(reader)
            {
                // The worker would block because of a disk: drop the oldest quarter to make room.
                let quarter = (reader.capacity / 4).max(taken).min(lines);
                let end = text[quarter..lines].iter().position(|byte| *byte == b'\n');
                let given_up = end.map_or(lines, |end| quarter + end + 1);
                self.sinks.drop_bytes(&reader.target, given_up - taken);
                reader.counts.lost(given_up - taken);
                lost = given_up - taken;
                taken = given_up;
                has_backlog = taken < lines;
            }
        } else if full || seen == limit {
            grow(reader);
        }
        if has_backlog {
            self.backlogs.insert(id);
        } else {
            self.backlogs.remove(&id);
        }
        if taken > 0 {
            let (pipe, text) = (&reader.pipe, &text[..taken]);
            let mut tail = pipe.source.tail();
            self.sinks.record.consume(pipe, text, &self.pipe_peek);
            tail.push(text);
            drop(tail);
            reader.counts.written(taken - lost);
            self.progress.fetch_add(taken as u64, Ordering::Relaxed);
            if taken >= BUSY_BYTES || !whole || finished || full {
                self.pending.insert(id);
            }
        } else {
            self.sinks.record.end();
        }
        taken
    }

    fn close(&mut self, id: u64) {
        let Some(reader) = self.readers.remove(&id) else {
            return;
        };
        self.by_inode.remove(&reader.pipe.inode());
        self.backlogs.remove(&id);
        self.epoll.delete(&reader.pipe).ok();
        self.sinks.end(&reader.target, &reader.pipe);
        drop(reader);
        self.closed.fetch_add(1, Ordering::Release);
    }

    fn retry(&mut self) {
        self.sinks.retry();
        self.pending.extend(&self.backlogs);
    }

    /// Decides what wakes the thread next: a retry, a slow reader with room again; and answers drains.
    fn schedule_work(&mut self) {
        let has_backlog = self.sinks.has_queued_lines() || !self.backlogs.is_empty();
        if has_backlog && self.sinks.master_is_blocked_by(SinkState::Slow) {
            let flags = EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT;
            self.epoll
                .modify(io::stderr(), &mut EpollEvent::new(flags, STDERR))
                .ok();
        }
        if has_backlog && self.sinks.is_failing() {
            let now = self.clock.now();
            if self.retry_at.is_some_and(|at| at <= now) {
                self.retry_at = None;
                self.retry();
                self.sinks.flush_own();
            }
            self.retry_at.get_or_insert(now + RETRY_INTERVAL);
        } else {
            self.retry_at = None;
        }
        if !self.drains.is_empty()
            && self.pending.is_empty()
            && !has_backlog
            && self.lines.is_empty()
        {
            for done in self.drains.drain(..) {
                done.try_send(()).ok();
            }
        }
    }
}

/// Makes a pipe as large as allowed; false if it already was.
fn grow(reader: &mut PipeReader) -> bool {
    if std::mem::replace(&mut reader.grown, true) {
        return false;
    }
    let before = reader.capacity;
    reader.capacity = reader.pipe.grow();
    reader.capacity > before
}
