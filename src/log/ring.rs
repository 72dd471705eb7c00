//! The most recent lines of all workers, for `rotad logs`: a ring, and followers that get each new line. A slow
//! follower never delays the writer: it loses lines and learns how many.
//!
//! The ring keeps whole lines in the chunks in which the writer read them; they are split only when a reader asks.

use super::pipe_peek::Stream;
use crate::event_loop::waker::Waker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;

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
    /// As printed, without its newline: unsanitized, and not necessarily UTF-8.
    pub line: Vec<u8>,
}

/// Which workers' lines match. The default matches all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this pool.
    pub pool: Option<String>,
    /// Only this slot of the pool.
    pub slot: Option<u32>,
}

impl Filter {
    fn matches(&self, chunk: &Chunk) -> bool {
        self.pool.as_deref().is_none_or(|pool| pool == &*chunk.pool)
            && self.slot.is_none_or(|slot| slot == chunk.slot)
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
    text: Box<[u8]>,
}

impl Chunk {
    fn cost(&self) -> usize {
        CHUNK_OVERHEAD + self.text.len()
    }

    fn lines(&self) -> impl DoubleEndedIterator<Item = LogLine> + '_ {
        let text = self.text.strip_suffix(b"\n").unwrap_or(&self.text);
        text.split(|byte| *byte == b'\n').map(|line| LogLine {
            at: self.at,
            pool: self.pool.clone(),
            slot: self.slot,
            pid: self.pid,
            stream: self.stream,
            line: line.to_vec(),
        })
    }
}

/// The ring and its followers.
#[derive(Debug, Default)]
pub(super) struct RecentLines(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Arc<Chunk>>,
    cost: usize,
    followers: Vec<Weak<FollowerQueue>>,
}

impl RecentLines {
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
        let mut inner = self.lock();
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
            text: kept.into(),
        });
        inner.cost += chunk.cost();
        inner.ring.push_back(chunk.clone());
        while inner.cost > RING_BYTES
            && let Some(old) = inner.ring.pop_front()
        {
            inner.cost -= old.cost();
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

    pub(super) fn follow(&self, filter: Filter, n: usize, waker: Waker) -> Follower {
        let mut inner = self.lock();
        let before = last(&inner.ring, &filter, n);
        let queue = Arc::new(FollowerQueue {
            filter,
            waker,
            woken: AtomicBool::new(false),
            chunks: Mutex::default(),
        });
        inner.followers.push(Arc::downgrade(&queue));
        Follower { before, queue }
    }
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
}

impl Follower {
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
        let recent = RecentLines::default();
        let (web, api): (Arc<str>, Arc<str>) = ("web".into(), "api".into());
        recent.add(&web, 0, 7, Stream::Both, b"one\ntwo\n");
        recent.add(&api, 0, 8, Stream::Stderr, b"else\n");
        recent.add(&web, 1, 9, Stream::Both, b"\nunfinished");
        assert_eq!(
            texts(&recent.last(&Filter::default(), 3)),
            ["else", "", "unfinished"]
        );
        let filter = Filter {
            pool: Some("web".into()),
            slot: Some(0),
        };
        assert_eq!(texts(&recent.last(&filter, 9)), ["one", "two"]);
        assert_eq!(recent.last(&filter, 9)[0].pid, 7);
    }

    #[test]
    fn the_ring_is_bounded_and_a_slow_follower_learns_its_loss() {
        let recent = RecentLines::default();
        let pool: Arc<str> = "web".into();
        let waker = Waker::new().expect("a descriptor");
        recent.add(&pool, 0, 1, Stream::Both, b"before\n");
        let mut follower = recent.follow(Filter::default(), 5, waker);
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
}
