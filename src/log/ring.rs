//! What workers printed last, for whoever looks on: a ring of the most recent lines, and followers that get each new
//! one. Nobody who looks on ever delays the pen: a follower that is slow loses lines and is told how many.
//!
//! The ring keeps whole lines in the chunks in which the pen read them, and cuts them up only for those who ask.

use super::pipe_peek::Stream;
use crate::event_loop::waker::Waker;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;

/// What the ring holds at most, in bytes, with what each chunk costs beside its text.
const RING: usize = 1 << 20;
/// What waits for one follower at most, in bytes.
const WAITING: usize = 256 << 10;
/// How much of one gulp goes into the ring at most, in bytes: more than anybody reads of a flood.
const MOST_OF_A_GULP: usize = 16 << 10;
/// The cost of a chunk beside its text, in bytes.
const CHUNK: usize = 96;

/// One line that a worker printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When the pen read it.
    pub at: SystemTime,
    pub pool: Arc<str>,
    pub slot: u32,
    pub pid: i32,
    pub stream: Stream,
    /// As it was printed, without its newline: neither harmless nor UTF-8.
    pub line: Vec<u8>,
}

/// Whose lines are wanted. The default wants all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub pool: Option<String>,
    pub slot: Option<u32>,
}

impl Filter {
    fn wants(&self, chunk: &Chunk) -> bool {
        self.pool.as_deref().is_none_or(|pool| pool == &*chunk.pool) && self.slot.is_none_or(|slot| slot == chunk.slot)
    }
}

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
        CHUNK + self.text.len()
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

/// The ring and those who follow.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    ring: VecDeque<Arc<Chunk>>,
    cost: usize,
    followers: Vec<Weak<Queue>>,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere does not make these lines wrong.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes in whole lines, each with its newline (the last one may lack it).
    pub(super) fn add(&self, pool: &Arc<str>, slot: u32, pid: i32, stream: Stream, text: &[u8]) {
        let mut kept = text;
        let mut skipped = 0;
        let mut inner = self.lock();
        if text.len() > MOST_OF_A_GULP {
            let cut = text.len() - MOST_OF_A_GULP;
            let start = text[cut..].iter().position(|byte| *byte == b'\n').map_or(cut, |newline| cut + newline + 1);
            kept = if start < text.len() { &text[start..] } else { &text[cut..] };
            if !inner.followers.is_empty() {
                let cut = &text[..text.len() - kept.len()];
                skipped = cut.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
        }
        let at = SystemTime::now();
        let chunk = Arc::new(Chunk { at, pool: pool.clone(), slot, pid, stream, text: kept.into() });
        inner.cost += chunk.cost();
        inner.ring.push_back(chunk.clone());
        while inner.cost > RING
            && let Some(old) = inner.ring.pop_front()
        {
            inner.cost -= old.cost();
        }
        inner.followers.retain(|follower| {
            let Some(queue) = follower.upgrade() else { return false };
            queue.offer(&chunk, skipped);
            true
        });
    }

    /// The last `n` of the lines that are wanted, oldest first.
    pub(super) fn last(&self, filter: &Filter, n: usize) -> Vec<LogLine> {
        last(&self.lock().ring, filter, n)
    }

    pub(super) fn follow(&self, filter: Filter, n: usize, bell: Waker) -> Follower {
        let mut inner = self.lock();
        let before = last(&inner.ring, &filter, n);
        let queue = Arc::new(Queue { filter, bell, waits: AtomicBool::new(false), chunks: Mutex::default() });
        inner.followers.push(Arc::downgrade(&queue));
        Follower { before, queue }
    }
}

fn last(ring: &VecDeque<Arc<Chunk>>, filter: &Filter, n: usize) -> Vec<LogLine> {
    let wanted = ring.iter().rev().filter(|chunk| filter.wants(chunk));
    let mut lines: Vec<LogLine> = wanted.flat_map(|chunk| chunk.lines().rev()).take(n).collect();
    lines.reverse();
    lines
}

#[derive(Debug)]
struct Queue {
    filter: Filter,
    bell: Waker,
    /// The bell was rung, and nobody has come since.
    waits: AtomicBool,
    chunks: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<Arc<Chunk>>,
    cost: usize,
    skipped: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.chunks.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn offer(&self, chunk: &Arc<Chunk>, skipped: u64) {
        if !self.filter.wants(chunk) {
            return;
        }
        let mut waiting = self.lock();
        waiting.skipped += skipped;
        waiting.cost += chunk.cost();
        waiting.chunks.push_back(chunk.clone());
        while waiting.cost > WAITING
            && let Some(old) = waiting.chunks.pop_front()
        {
            waiting.cost -= old.cost();
            waiting.skipped += old.lines().count() as u64;
        }
        drop(waiting);
        if !self.waits.swap(true, Ordering::SeqCst) {
            self.bell.wake();
        }
    }
}

/// Gets the lines that workers print from now on; dropped, it gets no more. Held by one thread, rung for by the pen.
#[derive(Debug)]
pub struct Follower {
    before: Vec<LogLine>,
    queue: Arc<Queue>,
}

impl Follower {
    /// All lines that have come since it was asked last (the first time, those that were asked for of the past), and
    /// how many were left out before them because nobody came to take them. Does not block; the bell rings when there
    /// is more.
    pub fn take(&mut self) -> (Vec<LogLine>, u64) {
        let mut lines = std::mem::take(&mut self.before);
        // In this order: what comes from here on rings anew.
        self.queue.waits.store(false, Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.queue.lock());
        lines.extend(waiting.chunks.iter().flat_map(|chunk| chunk.lines()));
        (lines, waiting.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[LogLine]) -> Vec<String> {
        lines.iter().map(|line| String::from_utf8_lossy(&line.line).into_owned()).collect()
    }

    #[test]
    fn the_last_lines_of_a_slot() {
        let recent = Recent::default();
        let (web, api): (Arc<str>, Arc<str>) = ("web".into(), "api".into());
        recent.add(&web, 0, 7, Stream::Both, b"one\ntwo\n");
        recent.add(&api, 0, 8, Stream::Stderr, b"else\n");
        recent.add(&web, 1, 9, Stream::Both, b"\nunfinished");
        assert_eq!(texts(&recent.last(&Filter::default(), 3)), ["else", "", "unfinished"]);
        let filter = Filter { pool: Some("web".into()), slot: Some(0) };
        assert_eq!(texts(&recent.last(&filter, 9)), ["one", "two"]);
        assert_eq!(recent.last(&filter, 9)[0].pid, 7);
    }

    #[test]
    fn it_stays_within_its_bounds_and_a_slow_follower_is_told() {
        let recent = Recent::default();
        let pool: Arc<str> = "web".into();
        let bell = Waker::new().expect("a descriptor");
        recent.add(&pool, 0, 1, Stream::Both, b"before\n");
        let mut follower = recent.follow(Filter::default(), 5, bell);
        assert_eq!(texts(&follower.take().0), ["before"]);
        let gulp = b"123456789\n".repeat(10_000);
        for _ in 0..1000 {
            recent.add(&pool, 0, 1, Stream::Both, &gulp);
        }
        assert!(recent.lock().cost <= RING);
        let (lines, skipped) = follower.take();
        assert!(lines.iter().all(|line| line.line == b"123456789"), "a line was cut");
        assert_eq!(lines.len() as u64 + skipped, 10_000_000);
        assert_eq!(follower.take(), (Vec::new(), 0));
        drop(follower);
        recent.add(&pool, 0, 1, Stream::Both, b"on\n");
        assert!(recent.lock().followers.is_empty());
    }
}
