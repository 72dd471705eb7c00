//! A copy of the most recent lines in memory that outlives the master: the next one goes on with `rotad logs` where this
//! one has stopped. `ring` writes and reads it.
//!
//! | number | what |
//! |---|---|
//! | 0 | the number of the log ([`RecentMemory::log`]); 0: nothing was ever written |
//! | 1 | where the oldest chunk begins |
//! | 2 | where the next one will begin |
//!
//! These places only grow: a byte lies behind the numbers, at its place modulo the size of what is there. The oldest chunks
//! are given up before they are overwritten, and a chunk counts once the number 2 says so. So all between the two is whole,
//! whenever the master dies.

use super::pipe_peek::Stream;
use super::ring::Chunk;
use crate::sys::shared_memory::SharedMemory;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The size in bytes of the memory; what has not been written takes none.
pub(super) const SIZE: usize = 512 << 10;
const LOG: usize = 0;
const FIRST: usize = 1;
const NEXT: usize = 2;
/// Where the chunks begin, in bytes.
const BEGIN: usize = 64;
/// The fields before the name of the pool, in bytes.
const HEADER: usize = 40;

#[derive(Debug)]
pub(super) struct RecentMemory {
    memory: SharedMemory,
    /// The lengths of the chunks, the oldest first.
    lengths: VecDeque<usize>,
    first: u64,
    next: u64,
    buffer: Vec<u8>,
}

impl RecentMemory {
    /// The memory, and the chunks in it that a dead master has left. `log`: the number of the log, if it begins here.
    pub(super) fn open(memory: SharedMemory, log: u64) -> (Self, Vec<Chunk>) {
        let mut this = Self {
            memory,
            lengths: VecDeque::new(),
            first: 0,
            next: 0,
            buffer: Vec::new(),
        };
        let mut chunks = Vec::new();
        if this.log() == 0 {
            this.begin(log);
            return (this, chunks);
        }
        let (mut at, end) = (this.load(FIRST), this.load(NEXT));
        (this.first, this.next) = (at, at);
        while at < end {
            let Some((chunk, length)) = this.read(at, end) else {
                // Not what this version writes.
                this.begin(log);
                return (this, Vec::new());
            };
            chunks.push(chunk);
            this.lengths.push_back(length);
            at += length as u64;
        }
        this.next = at;
        (this, chunks)
    }

    fn begin(&mut self, log: u64) {
        self.lengths.clear();
        (self.first, self.next) = (0, 0);
        self.store(FIRST, 0);
        self.store(NEXT, 0);
        self.store(LOG, log);
    }

    /// The number of the log that the chunks are of. It stays the same as long as masters go on with each other's state.
    pub(super) fn log(&self) -> u64 {
        self.load(LOG)
    }

    fn load(&self, index: usize) -> u64 {
        self.memory.number(index).load(Ordering::Acquire)
    }

    fn store(&self, index: usize, number: u64) {
        self.memory.number(index).store(number, Ordering::Release);
    }

    fn size(&self) -> usize {
        self.memory.len() - BEGIN
    }

    pub(super) fn add(&mut self, chunk: &Chunk) {
        let mut buffer = std::mem::take(&mut self.buffer);
        encode(chunk, &mut buffer);
        if buffer.len() <= self.size() {
            let first = self.first;
            while (self.next - self.first) as usize + buffer.len() > self.size()
                && let Some(oldest) = self.lengths.pop_front()
            {
                self.first += oldest as u64;
            }
            if self.first != first {
                self.store(FIRST, self.first);
            }
            let at = (self.next % self.size() as u64) as usize;
            let (before, behind) = buffer.split_at(buffer.len().min(self.size() - at));
            self.memory.write(BEGIN + at, before);
            self.memory.write(BEGIN, behind);
            self.next += buffer.len() as u64;
            self.lengths.push_back(buffer.len());
            self.store(NEXT, self.next);
        }
        self.buffer = buffer;
    }

    fn bytes(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let at = (at % self.size() as u64) as usize;
        let before = length.min(self.size() - at);
        let mut bytes = self.memory.read(BEGIN + at, before)?;
        bytes.extend(self.memory.read(BEGIN, length - before)?);
        Some(bytes)
    }

    /// The chunk at this place, and how many bytes it takes.
    fn read(&self, at: u64, end: u64) -> Option<(Chunk, usize)> {
        let left = usize::try_from(end - at).ok()?;
        let header = self.bytes(at, HEADER.min(left).min(self.size()))?;
        let length = usize::try_from(number(&header, 0)?).ok()?;
        if length > left || length > self.size() {
            return None;
        }
        let whole = self.bytes(at, length)?;
        Some((decode(&whole)?, length))
    }
}

/// The number in the eight bytes from `at` on.
fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size_of::<u64>())?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn encode(chunk: &Chunk, buffer: &mut Vec<u8>) {
    let since = chunk.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ns = u64::try_from(since.as_nanos()).unwrap_or_default();
    let worker = u64::from(chunk.slot) << 32 | u64::from(chunk.pid.cast_unsigned());
    let stream = match chunk.stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
        Stream::Both => 2,
    };
    let pool = chunk.pool.len() as u64;
    let kind = pool << 8 | u64::from(chunk.cut) << 4 | stream;
    let length = HEADER + chunk.pool.len() + chunk.text.len();
    buffer.clear();
    for number in [length as u64, ns, chunk.end, worker, kind] {
        buffer.extend(number.to_le_bytes());
    }
    buffer.extend(chunk.pool.as_bytes());
    buffer.extend(&*chunk.text);
}

fn decode(bytes: &[u8]) -> Option<Chunk> {
    let [ns, end, worker, kind] = [8, 16, 24, 32].map(|at| number(bytes, at));
    let (worker, kind) = (worker?, kind?);
    let stream = match kind & 15 {
        0 => Stream::Stdout,
        1 => Stream::Stderr,
        2 => Stream::Both,
        _ => return None,
    };
    let text = HEADER.checked_add(usize::try_from(kind >> 8).ok()?)?;
    let pool = std::str::from_utf8(bytes.get(HEADER..text)?).ok()?;
    let at: SystemTime = UNIX_EPOCH.checked_add(Duration::from_nanos(ns?))?;
    Some(Chunk {
        at,
        pool: pool.into(),
        slot: (worker >> 32) as u32,
        pid: (worker as u32).cast_signed(),
        stream,
        end: end?,
        cut: kind >> 4 & 1 == 1,
        text: bytes.get(text..)?.into(),
    })
}
