//! The most recent lines of all workers, for `rotad logs`: a ring, and followers that get each new line. A slow
//! follower never delays the writer: it loses lines and learns how many.
//!
//! The ring keeps whole lines in the chunks in which the writer read them; they are split only when a reader asks. Each
//! line has a place: how many bytes all workers had printed when it ended. A follower of the next master begins behind the
//! place that it has come to (`recent_memory`).

use super::pipe_peek::Stream;
use super::recent_memory::{self, RecentMemory};
use crate::event_loop::waker::Waker;
use crate::sys::shared_memory::SharedMemory;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// Maximum size of the ring in bytes, including the overhead of each chunk.
const RING_BYTES: usize = 1 << 20;
/// Maximum bytes queued for one follower.
const MAX_PENDING_BYTES: usize = 256 << 10;
/// How many bytes of one read go into the ring: more than a reader looks at in a flood.
const MAX_CHUNK_TEXT: usize = 16 << 10;
/// Overhead of a chunk beside its text, in bytes.
const CHUNK_OVERHEAD: usize = 96;

/// One line that a worker printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When the writer read it.
    pub at: SystemTime,
    /// The worker's pool.
    pub pool: Arc<str>,
    /// The worker's slot.
    pub slot: u32,
    /// The worker's pid.
    pub pid: i32,
    /// The stream.
    pub stream: Stream,
    /// Its place: how many bytes all workers had printed when it ended.
    pub end: u64,
    /// As printed, without its newline: unsanitized, and not necessarily UTF-8.
    pub line: Vec<u8>,
}

/// Where a follower begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowFrom {
    /// With so many of the last lines.
    Last(usize),
    /// Behind this place in this log, which a follower of an earlier master has come to.
    After {
        /// [`Follower::log`].
        log: u64,
        /// [`LogLine::end`].
        end: u64,
    },
}

/// Which workers' lines match. The default matches all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these pools, of each perhaps only one slot; all if there are none.
    pub workers: Vec<(String, Option<u32>)>,
}

impl Filter {
    fn matches(&self, chunk: &Chunk) -> bool {
        let meant = |(pool, slot): &(String, Option<u32>)| {
            **pool == *chunk.pool && slot.is_none_or(|slot| slot == chunk.slot)
        };
        self.workers.is_empty() || self.workers.iter().any(meant)
    }
}

/// Lines of one worker that were read together.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) at: SystemTime,
    pub(super) pool: Arc<str>,
    pub(super) slot: u32,
    pub(super) pid: i32,
    pub(super) stream: Stream,
    /// The place of its last line.
    pub(super) end: u64,
    /// Lines before it were left out.
    pub(super) cut: bool,
    pub(super) text: Box<[u8]>,
}

impl Chunk {
    fn cost(&self) -> usize {
        CHUNK_OVERHEAD + self.text.len()
    }

    /// The place at which its first line begins.
    fn begin(&self) -> u64 {
        self.end - self.text.len() as u64
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = LogLine> + '_ {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        text.split(|byte| *byte == b'\n').map(|line| {
            let behind = line.as_ptr().addr() - text.as_ptr().addr() + line.len() + 1;
            LogLine {
                at: self.at,
                pool: self.pool.clone(),
                slot: self.slot,
                pid: self.pid,
                stream: self.stream,
                end: self.end.min(self.begin() + behind as u64),
                line: line.to_vec(),
            }
        })
    }
}

/// The ring and its followers.
#[derive(Debug)]
pub(super) struct RecentLines(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Arc<Chunk>>,
    cost: usize,
    followers: Vec<Weak<FollowerQueue>>,
    /// The number of the log that places are in.
    log: u64,
    /// How many bytes all workers have printed.
    end: u64,
    /// A copy of the ring's end, for the next master.
    memory: Option<RecentMemory>,
}

impl Inner {
    fn push(&mut self, chunk: Arc<Chunk>) {
        self.cost += chunk.cost();
        self.end = chunk.end;
        self.ring.push_back(chunk);
        while self.cost > RING_BYTES
            && let Some(old) = self.ring.pop_front()
        {
            self.cost -= old.cost();
        }
    }
}

/// A number for a log that begins now.
fn new_log() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let us = since.unwrap_or_default().as_micros();
    u64::try_from(us).unwrap_or(u64::MAX).max(1)
}

impl RecentLines {
    /// Without any memory of a master before.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Inner {
            log: new_log(),
            ..Inner::default()
        }))
    }

    /// What a dead master has left at the end of this memory, which is to have the next lines as well.
    ///
    /// # Errors
    /// ENOMEM.
    pub(super) fn in_memory(memory: &SharedMemory) -> io::Result<Self> {
        let memory = memory.part(memory.len() - recent_memory::SIZE, recent_memory::SIZE)?;
        let (memory, chunks) = RecentMemory::open(memory, new_log());
        let mut inner = Inner {
            log: memory.log(),
            memory: Some(memory),
            ..Inner::default()
        };
        for chunk in chunks {
            inner.push(Arc::new(chunk));
        }
        Ok(Self(Mutex::new(inner)))
    }

    /// How many bytes all workers have printed.
    pub(super) fn end(&self) -> u64 {
        self.lock().end
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of another thread leaves these lines valid.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds whole lines, each with its newline (the last one may lack it).
    pub(super) fn add(&self, pool: &Arc<str>, slot: u32, pid: i32, stream: Stream, text: &[u8]) {
        let mut kept = text;
        let mut skipped = 0;
        let mut guard = self.lock();
        let inner = &mut *guard;
        if text.len() > MAX_CHUNK_TEXT {
            let cut = text.len() - MAX_CHUNK_TEXT;
            let start = text[cut..]
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(cut, |newline| cut + newline + 1);
            kept = if start < text.len() {
                &text[start..]
            } else {
                &text[cut..]
            };
            if !inner.followers.is_empty() {
                let cut = &text[..text.len() - kept.len()];
                skipped = cut.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
        }
        let at = SystemTime::now();
        let chunk = Arc::new(Chunk {
            at,
            pool: pool.clone(),
            slot,
            pid,
            stream,
            end: inner.end + text.len() as u64,
            cut: kept.len() < text.len(),
            text: kept.into(),
        });
        inner.push(chunk.clone());
        if let Some(memory) = &mut inner.memory {
            memory.add(&chunk);
        }
        inner.followers.retain(|follower| {
            let Some(queue) = follower.upgrade() else {
                return false;
            };
            queue.push(&chunk, skipped);
            true
        });
    }

    /// The last `n` lines that match, oldest first.
    pub(super) fn last(&self, filter: &Filter, n: usize) -> Vec<LogLine> {
        last(&self.lock().ring, filter, n)
    }

    pub(super) fn follow(&self, filter: Filter, from: FollowFrom, waker: Waker) -> Follower {
        let mut inner = self.lock();
        let (before, gap) = match from {
            FollowFrom::Last(n) => (last(&inner.ring, &filter, n), false),
            FollowFrom::After { log, end } if log == inner.log => after(&inner, &filter, end),
            // What another master has read is not known here.
            FollowFrom::After { .. } => (after(&inner, &filter, 0).0, true),
        };
        let begin = match (from, before.first()) {
            (FollowFrom::After { log, end }, _) if log == inner.log => end,
            (_, Some(first)) => first.end.saturating_sub(first.line.len() as u64 + 1),
            (_, None) => inner.end,
        };
        let queue = Arc::new(FollowerQueue {
            filter,
            waker,
            woken: AtomicBool::new(false),
            chunks: Mutex::default(),
        });
        inner.followers.push(Arc::downgrade(&queue));
        let log = inner.log;
        drop(inner);
        Follower {
            before,
            queue,
            log,
            begin,
            gap,
        }
    }
}

/// The lines behind a place, and whether there may have been more of them.
fn after(inner: &Inner, filter: &Filter, end: u64) -> (Vec<LogLine>, bool) {
    let oldest = inner.ring.front().map_or(inner.end, |chunk| chunk.begin());
    let chunks = || {
        let behind = inner.ring.iter().filter(move |chunk| chunk.end > end);
        behind.filter(|chunk| filter.matches(chunk))
    };
    let lines = chunks().flat_map(|chunk| chunk.lines());
    let lines = lines.filter(|line| line.end > end).collect();
    let gap = oldest > end || chunks().any(|chunk| chunk.cut && chunk.begin() > end);
    (lines, gap)
}

fn last(ring: &VecDeque<Arc<Chunk>>, filter: &Filter, n: usize) -> Vec<LogLine> {
    let wanted = ring.iter().rev().filter(|chunk| filter.matches(chunk));
    let mut lines: Vec<LogLine> = wanted
        .flat_map(|chunk| chunk.lines().rev())
        .take(n)
        .collect();
    lines.reverse();
    lines
}

#[derive(Debug)]
struct FollowerQueue {
    filter: Filter,
    waker: Waker,
    /// The waker was woken, and the follower has not taken anything since.
    woken: AtomicBool,
    chunks: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    chunks: VecDeque<Arc<Chunk>>,
    cost: usize,
    skipped: u64,
}

impl FollowerQueue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.chunks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn push(&self, chunk: &Arc<Chunk>, skipped: u64) {
        if !self.filter.matches(chunk) {
            return;
        }
        let mut pending = self.lock();
        pending.skipped += skipped;
        pending.cost += chunk.cost();
        pending.chunks.push_back(chunk.clone());
        while pending.cost > MAX_PENDING_BYTES
            && let Some(old) = pending.chunks.pop_front()
        {
            pending.cost -= old.cost();
            pending.skipped += old.lines().count() as u64;
        }
        drop(pending);
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

/// Receives the lines that workers print from now on, until it is dropped. One thread holds it; the writer wakes that
/// thread.
#[derive(Debug)]
pub struct Follower {
    before: Vec<LogLine>,
    queue: Arc<FollowerQueue>,
    log: u64,
    begin: u64,
    gap: bool,
}

impl Follower {
    /// The number of the log that places are in. The masters that go on with each other's state have the same.
    pub fn log(&self) -> u64 {
        self.log
    }

    /// The place behind which it begins.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// Whether lines may be missing between the place that was asked for and the first line.
    pub fn has_gap(&self) -> bool {
        self.gap
    }

    /// All lines since the last call (at the first call, the requested past lines), and how many were left out before
    /// them because the follower was slow. Does not block; the waker is woken when there is more.
    pub fn take(&mut self) -> (Vec<LogLine>, u64) {
        let mut lines = std::mem::take(&mut self.before);
        // Clear the flag before taking: a chunk that is added in between wakes the follower again.
        self.queue.woken.store(false, Ordering::SeqCst);
        let pending = std::mem::take(&mut *self.queue.lock());
        lines.extend(pending.chunks.iter().flat_map(|chunk| chunk.lines()));
        (lines, pending.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[LogLine]) -> Vec<String> {
        lines
            .iter()
            .map(|line| String::from_utf8_lossy(&line.line).into_owned())
            .collect()
    }

    #[test]
    fn last_lines_can_be_filtered_by_slot() {
        let recent = RecentLines::new();
        let (web, api): (Arc<str>, Arc<str>) = ("web".into(), "api".into());
        recent.add(&web, 0, 7, Stream::Both, b"one\ntwo\n");
        recent.add(&api, 0, 8, Stream::Stderr, b"else\n");
        recent.add(&web, 1, 9, Stream::Both, b"\nunfinished");
        assert_eq!(
            texts(&recent.last(&Filter::default(), 3)),
            ["else", "", "unfinished"]
        );
        let filter = Filter {
            workers: vec![("web".into(), Some(0))],
        };
        assert_eq!(texts(&recent.last(&filter, 9)), ["one", "two"]);
        assert_eq!(recent.last(&filter, 9)[0].pid, 7);
        let filter = Filter {
            workers: vec![("web".into(), Some(1)), ("api".into(), None)],
        };
        assert_eq!(texts(&recent.last(&filter, 9)), ["else", "", "unfinished"]);
    }

    #[test]
    fn the_ring_is_bounded_and_a_slow_follower_learns_its_loss() {
        let recent = RecentLines::new();
        let pool: Arc<str> = "web".into();
        let waker = Waker::new().expect("a descriptor");
        recent.add(&pool, 0, 1, Stream::Both, b"before\n");
        let mut follower = recent.follow(Filter::default(), FollowFrom::Last(5), waker);
        assert_eq!(texts(&follower.take().0), ["before"]);
        let buf = b"123456789\n".repeat(10_000);
        for _ in 0..1000 {
            recent.add(&pool, 0, 1, Stream::Both, &buf);
        }
        assert!(recent.lock().cost <= RING_BYTES);
        let (lines, skipped) = follower.take();
        assert!(
            lines.iter().all(|line| line.line == b"123456789"),
            "a line was cut"
        );
        assert_eq!(lines.len() as u64 + skipped, 10_000_000);
        assert_eq!(follower.take(), (Vec::new(), 0));
        drop(follower);
        recent.add(&pool, 0, 1, Stream::Both, b"on\n");
        assert!(recent.lock().followers.is_empty());
    }

    /// What the next master finds, if the present one dies.
    fn killed(recent: RecentLines, memory: &SharedMemory) -> RecentLines {
        drop(recent);
        RecentLines::in_memory(memory).expect("a mapping")
    }

    #[test]
    fn a_follower_goes_on_with_the_next_master() {
        let memory = SharedMemory::new("test", recent_memory::SIZE + (64 << 10)).expect("memory");
        let recent = RecentLines::in_memory(&memory).expect("a mapping");
        let pool: Arc<str> = "web".into();
        let follow = |recent: &RecentLines, from| {
            let waker = Waker::new().expect("a descriptor");
            recent.follow(Filter::default(), from, waker)
        };
        recent.add(&pool, 3, 7, Stream::Stderr, b"one\ntwo\nthree\n");
        let mut follower = follow(&recent, FollowFrom::Last(2));
        assert_eq!((follower.begin(), recent.end()), (4, 14));
        let (lines, _) = follower.take();
        assert_eq!(texts(&lines), ["two", "three"]);
        let two = FollowFrom::After {
            log: follower.log(),
            end: lines[0].end,
        };
        let recent = killed(recent, &memory);
        recent.add(&pool, 3, 7, Stream::Both, b"four\nunfinished");
        let mut follower = follow(&recent, two);
        let (lines, skipped) = follower.take();
        assert_eq!(texts(&lines), ["three", "four", "unfinished"]);
        assert_eq!((skipped, follower.has_gap()), (0, false));
        let first = &lines[0];
        assert_eq!(
            (first.pid, first.slot, first.stream),
            (7, 3, Stream::Stderr)
        );
        assert_eq!(lines[2].end, recent.end());
        // All that is known, in another log.
        let mut other = follow(&recent, FollowFrom::After { log: 1, end: 9 });
        assert_eq!((other.take().0.len(), other.has_gap()), (5, true));
    }

    #[test]
    fn the_next_master_has_the_last_lines_and_says_what_is_missing() {
        let memory = SharedMemory::new("test", recent_memory::SIZE + (64 << 10)).expect("memory");
        let mut recent = RecentLines::in_memory(&memory).expect("a mapping");
        let mut log = 0;
        for length in [1, 100, 1_000, 40_000] {
            let pool: Arc<str> = format!("pool-{length}").into();
            let text = [&b"x".repeat(length - 1)[..], b"\n"].concat();
            for number in 0..(2 << 20) / (length + 64) {
                recent.add(&pool, number as u32, 1, Stream::Both, &text);
            }
            let before = recent.last(&Filter::default(), 5);
            recent = killed(recent, &memory);
            assert_eq!(recent.last(&Filter::default(), 5), before, "{length}");
            assert_eq!(before.last().map(|line| line.end), Some(recent.end()));
            let waker = Waker::new().expect("a descriptor");
            let from = FollowFrom::After { log, end: 1 };
            let follower = recent.follow(Filter::default(), from, waker);
            assert!(follower.has_gap());
            log = follower.log();
        }
    }
}
