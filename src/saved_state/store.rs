//! The journal of records in shared memory: lines of JSON, in the order in which they were written.
//!
//! Records are appended to a *tail*, and count once [`Store::commit`] has stored its new length. When a tail is full, it is
//! compressed into a *block* (LZ4) behind the blocks that are there, and the records go on in another tail. When the blocks
//! have grown too long, what still counts is written again ([`Store::compact`]). A thousand workers make records of a
//! megabyte, which are much alike: as blocks they take a sixth of it.
//!
//! Behind the page of numbers there are two tails and two regions for blocks. One number says which of them are in use and
//! how long the blocks are, so one store makes all that is new count. So a master that is killed at any instruction leaves
//! records that are whole.
//!
//! | number | what |
//! |---|---|
//! | 8 | what is in use (`InUse`); 0: nothing was committed yet |
//! | 9, 10 | the lengths of the two tails in bytes |
//! | 11 | which input the engine has handled last, and how many of its steps were done ([`Progress`]) |

use crate::guardian::SharedState;
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use serde::Serialize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Memory is given back in parts of this many bytes (`SharedMemory::discard`).
const PART: usize = 64 << 10;
/// Where the first tail begins.
const TAILS: usize = PART;
/// The size of a tail, and of what a block is made from.
const TAIL: usize = 32 << 10;
/// Where the first region for blocks begins.
const REGIONS: usize = TAILS + 2 * TAIL;
/// In front of each block: its length, and that of what it was made from, each in four bytes.
const BLOCK_HEAD: usize = 8;

/// The size of the page of numbers.
const NUMBERS: usize = 4096;

const IN_USE: usize = 8;
const LENGTHS: [usize; 2] = [9, 10];
const PROGRESS: usize = 11;

/// The blocks are compacted when they are this many times as long as right after the last time …
const GROWTH: usize = 3;
/// … and at least this long, in bytes.
const LONG: usize = 64 << 10;

/// The bits of the number of steps in [`Progress`], as it is stored.
const STEP_BITS: u32 = 24;
const MOST_STEPS: u64 = (1 << STEP_BITS) - 1;

/// How far the engine has come with what the journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of the input whose handling has begun last; inputs are counted from 1.
    pub input: u64,
    /// How many steps of its output were done: each command is one, and all notices together, if there are any.
    /// At most 2^24: what is beyond is done once more.
    pub steps: u32,
}

/// Where the records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InUse {
    /// Which region has the blocks: 0 or 1.
    region: usize,
    /// Which tail follows them: 0 or 1.
    tail: usize,
    /// The length of the blocks in bytes.
    blocks: usize,
}

impl InUse {
    /// The lowest byte of its number. It changes with the layout of this memory.
    const LAYOUT: u64 = 0x4c;

    fn number(self) -> u64 {
        Self::LAYOUT
            | (self.region as u64) << 8
            | (self.tail as u64) << 9
            | (self.blocks as u64) << 10
    }

    /// None: another version has laid it out in another way.
    fn of(number: u64) -> Option<Self> {
        (number & 0xff == Self::LAYOUT).then_some(Self {
            region: (number >> 8 & 1) as usize,
            tail: (number >> 9 & 1) as usize,
            blocks: (number >> 10) as usize,
        })
    }
}

/// The journal, as the living master writes it.
#[derive(Debug)]
pub struct Store {
    shared: SharedState,
    /// What counts.
    committed: InUse,
    /// What counts after the next commit.
    next: InUse,
    /// The length of the records in the next tail.
    tail_len: usize,
    /// What was appended and is not in the tail yet.
    appended: Vec<u8>,
    /// The length of the blocks after the last compaction.
    compacted: usize,
    /// A record did not fit: what is committed from then on would have a hole.
    full: bool,
}

impl Store {
    /// The journal in this memory. What a dead master has written there is read by [`Store::records`].
    pub fn new(shared: SharedState) -> Self {
        let in_use = shared.number(IN_USE).load(Ordering::Acquire);
        let found = InUse::of(in_use);
        let committed = found.unwrap_or_default();
        let tail_len = match found {
            None => 0,
            Some(_) => shared
                .number(LENGTHS[committed.tail])
                .load(Ordering::Acquire) as usize,
        };
        Self {
            shared,
            committed,
            next: committed,
            tail_len,
            appended: Vec::new(),
            compacted: committed.blocks,
            full: false,
        }
    }

    /// The memory, for the numbers that are not the journal's.
    pub fn shared(&self) -> &SharedState {
        &self.shared
    }

    /// The committed records, each a line without its end. None: nothing was ever committed.
    ///
    /// # Errors
    /// `InvalidData`: they are damaged, or another version has written them in a way that this one does not know.
    pub fn records(&self) -> io::Result<Option<Vec<String>>> {
        let number = self.shared.number(IN_USE).load(Ordering::Acquire);
        if number == 0 {
            return Ok(None);
        }
        let in_use = InUse::of(number).ok_or_else(|| invalid("it is laid out in another way"))?;
        let [blocks, tail] = self.places(in_use);
        let read = |(at, len)| self.shared.memory().read(at, len);
        let blocks = read(blocks).ok_or_else(|| invalid("its blocks are too long"))?;
        let tail = read(tail).filter(|tail| tail.len() <= TAIL);
        let mut text = unpack(&blocks)?;
        text.extend(tail.ok_or_else(|| invalid("its tail is too long"))?);
        let text = String::from_utf8_lossy(&text);
        Ok(Some(text.lines().map(str::to_owned).collect()))
    }

    /// Where the blocks and the tail begin that are in use, and how long they are.
    fn places(&self, in_use: InUse) -> [(usize, usize); 2] {
        let length = self.shared.number(LENGTHS[in_use.tail]);
        let length = length.load(Ordering::Acquire) as usize;
        [
            (self.region(in_use.region), in_use.blocks),
            (tail(in_use.tail), length),
        ]
    }

    /// The size of a region.
    fn size(&self) -> usize {
        (self.shared.state_end() - REGIONS) / 2 / PART * PART
    }

    /// Where this region begins.
    fn region(&self, region: usize) -> usize {
        REGIONS + region * self.size()
    }

    /// A copy of what counts, for another process.
    ///
    /// # Errors
    /// As [`SharedState::new`]; ENOMEM.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        let mut copy = SharedState::new()?;
        let number = self.shared.number(IN_USE).load(Ordering::Acquire);
        if let Some(in_use) = InUse::of(number) {
            let [blocks, tail] = self.places(in_use);
            for (at, len) in [(0, NUMBERS), blocks, tail] {
                let bytes = self.shared.memory().read(at, len);
                let bytes = bytes.ok_or(io::ErrorKind::InvalidData)?;
                if !copy.memory_mut().write(at, &bytes) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
        }
        copy.memory().as_fd().try_clone_to_owned()
    }

    /// Appends a record. It counts from the next [`Store::commit`] on.
    pub fn append(&mut self, record: &impl Serialize) {
        if let Err(error) = serde_json::to_writer(Appending(self), record) {
            tracing::error!("a part of the state cannot be saved: {error}");
            self.full = true;
        }
        self.appended.push(b'\n');
    }

    /// What was appended counts from now on, all of it at once.
    pub fn commit(&mut self) {
        if self.tail_len + self.appended.len() > TAIL {
            self.pack();
        }
        let at = tail(self.next.tail) + self.tail_len;
        if self.full || !self.shared.memory_mut().write(at, &self.appended) {
            return;
        }
        self.tail_len += self.appended.len();
        self.appended.clear();
        let length = self.shared.number(LENGTHS[self.next.tail]);
        length.store(self.tail_len as u64, Ordering::Release);
        if self.next != self.committed {
            self.committed = self.next;
            let in_use = self.shared.number(IN_USE);
            in_use.store(self.committed.number(), Ordering::Release);
        }
    }

    /// Makes blocks of the tail and of what was appended, but for the rest that fits into the next tail.
    fn pack(&mut self) {
        let mut text = Vec::new();
        if self.next.tail == self.committed.tail {
            let written = self
                .shared
                .memory()
                .read(tail(self.next.tail), self.tail_len);
            text = written.unwrap_or_default();
            // What is committed stays where it is until the blocks count.
            self.next.tail = 1 - self.committed.tail;
            self.tail_len = 0;
        }
        text.append(&mut self.appended);
        let mut packed = vec![0; BLOCK_HEAD + get_maximum_output_size(TAIL)];
        let pieces = text.chunks_exact(TAIL);
        self.appended = pieces.remainder().to_vec();
        for piece in pieces {
            let Ok(len) = compress_into(piece, &mut packed[BLOCK_HEAD..]) else {
                self.full = true;
                return;
            };
            packed[..4].copy_from_slice(&(len as u32).to_ne_bytes());
            packed[4..BLOCK_HEAD].copy_from_slice(&(piece.len() as u32).to_ne_bytes());
            let block = &packed[..BLOCK_HEAD + len];
            let at = self.region(self.next.region) + self.next.blocks;
            let fits = self.next.blocks + block.len() <= self.size();
            if !fits || !self.shared.memory_mut().write(at, block) {
                self.full = true;
                return;
            }
            self.next.blocks += block.len();
        }
    }

    /// Whether it is time to compact it.
    pub fn is_long(&self) -> bool {
        self.full || self.next.blocks > LONG.max(self.compacted * GROWTH)
    }

    /// Writes the journal again: `write` appends all that counts. Until it has returned, the old one counts; then its
    /// memory is given back. False: it does not fit, and the state of this master is not saved from now on.
    pub fn compact(&mut self, write: impl FnOnce(&mut Self)) -> bool {
        let begin = self.region(self.committed.region);
        let used = self.committed.blocks.max(self.next.blocks);
        self.next = InUse {
            region: 1 - self.committed.region,
            tail: 1 - self.committed.tail,
            blocks: 0,
        };
        self.tail_len = 0;
        self.appended.clear();
        self.full = false;
        write(self);
        self.commit();
        if self.full {
            // Nothing rather than something that is no longer true.
            self.forget();
            return false;
        }
        self.compacted = self.committed.blocks;
        let old = begin..begin + used.next_multiple_of(PART);
        self.shared.memory_mut().discard(old);
        true
    }

    /// Nothing that was written counts any more.
    pub fn forget(&mut self) {
        self.shared.number(IN_USE).store(0, Ordering::Release);
    }

    /// How far the engine has come.
    pub fn progress(&self) -> Progress {
        let number = self.shared.number(PROGRESS).load(Ordering::Acquire);
        Progress {
            input: number >> STEP_BITS,
            steps: (number & MOST_STEPS) as u32,
        }
    }

    /// Stores how far the engine has come. Takes effect immediately, without a commit.
    pub fn set_progress(&self, progress: Progress) {
        let steps = u64::from(progress.steps).min(MOST_STEPS);
        let number = progress.input << STEP_BITS | steps;
        self.shared
            .number(PROGRESS)
            .store(number, Ordering::Release);
    }
}

/// Serializes into what was appended. A long record is packed piece by piece.
struct Appending<'a>(&'a mut Store);

impl io::Write for Appending<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.appended.extend_from_slice(bytes);
        if self.0.appended.len() > 2 * TAIL {
            self.0.pack();
        }
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where this tail begins.
fn tail(tail: usize) -> usize {
    TAILS + tail * TAIL
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What the blocks were made from.
fn unpack(mut blocks: &[u8]) -> io::Result<Vec<u8>> {
    let damaged = || invalid("a block of it is damaged");
    let mut text = Vec::new();
    while let Some((head, rest)) = blocks.split_first_chunk::<BLOCK_HEAD>() {
        let [a, b, c, d, e, f, g, h] = *head;
        let packed = u32::from_ne_bytes([a, b, c, d]) as usize;
        let len = u32::from_ne_bytes([e, f, g, h]) as usize;
        let (packed, rest) = rest.split_at_checked(packed).ok_or_else(damaged)?;
        let at = text.len();
        text.resize(at + len.min(TAIL), 0);
        if len > TAIL || decompress_into(packed, &mut text[at..]).ok() != Some(len) {
            return Err(damaged());
        }
        blocks = rest;
    }
    match blocks.is_empty() {
        true => Ok(text),
        false => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn store() -> Store {
        Store::new(SharedState::new().unwrap())
    }

    /// What the next master finds.
    fn next(store: Store) -> Store {
        Store::new(store.shared)
    }

    /// What a master finds that goes on now.
    fn records_in(shared: &SharedState) -> Vec<String> {
        let fd = shared.memory().as_fd().try_clone_to_owned().unwrap();
        let store = Store::new(SharedState::of(fd).unwrap());
        store.records().unwrap().unwrap()
    }

    /// In bytes.
    fn in_memory(store: &Store) -> u64 {
        let stat = nix::sys::stat::fstat(store.shared.memory()).unwrap();
        stat.st_blocks.cast_unsigned() * 512
    }

    #[test]
    fn the_next_master_finds_what_was_committed_and_nothing_else() {
        let mut store = store();
        assert_eq!(store.records().unwrap(), None);
        assert!(store.compact(|store| store.append(&"first")));
        store.append(&"second");
        store.append(&"third");
        store.commit();
        store.append(&"lost");
        let next = next(store);
        let found = next.records().unwrap().unwrap();
        assert_eq!(found, [r#""first""#, r#""second""#, r#""third""#]);
    }

    #[test]
    fn the_next_master_writes_on_behind_what_it_has_found() {
        let mut store = store();
        store.compact(|store| store.append(&1));
        store.append(&"lost");
        let mut second = next(store);
        second.append(&2);
        second.commit();
        assert_eq!(next(second).records().unwrap().unwrap(), ["1", "2"]);
    }

    #[test]
    fn a_master_that_dies_while_it_compacts_leaves_the_old_journal() {
        let mut store = store();
        store.compact(|store| store.append(&"old"));
        let state = Cell::new(None);
        store.compact(|store| {
            store.append(&"x".repeat(10 * TAIL));
            state.set(Some(records_in(&store.shared)));
        });
        assert_eq!(state.take().unwrap(), [r#""old""#]);
    }

    #[test]
    fn records_of_any_length_are_found_at_each_moment() {
        let mut store = store();
        store.compact(|store| store.append(&0));
        let mut expected = vec!["0".to_owned()];
        for count in 0..60 {
            // From a few bytes to several blocks, which do not end where a record ends.
            let numbers: Vec<u64> = (count..count + count % 7 * 777 + count).collect();
            store.append(&numbers);
            assert_eq!(records_in(&store.shared), expected, "not committed yet");
            store.append(&count);
            store.commit();
            expected.push(serde_json::to_string(&numbers).unwrap());
            expected.push(count.to_string());
            assert_eq!(records_in(&store.shared), expected);
            if count % 20 == 19 {
                store = next(store);
            }
        }
        let raw: usize = expected.iter().map(|record| record.len() + 1).sum();
        assert!(store.committed.blocks > 0 && store.committed.blocks < raw);
    }

    #[test]
    fn a_long_journal_is_compacted() {
        let mut store = store();
        store.compact(|store| store.append(&"all"));
        assert!(!store.is_long());
        let mut count = 0_u64;
        while !store.is_long() {
            count += 1;
            store.append(&count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            store.commit();
        }
        let size = store.committed.blocks as u64;
        assert!(in_memory(&store) >= size);
        assert!(store.compact(|store| store.append(&"all")));
        assert!(!store.is_long());
        assert!(in_memory(&store) < size, "the old region is given back");
        assert_eq!(records_in(&store.shared), [r#""all""#]);
    }

    #[test]
    fn a_journal_that_does_not_fit_counts_no_more() {
        let mut store = store();
        store.compact(|store| store.append(&"all"));
        let too_much = |store: &mut Store| {
            store.next.blocks = store.size();
            store.append(&"x".repeat(2 * TAIL));
        };
        too_much(&mut store);
        store.commit();
        assert!(store.is_long());
        store.append(&"behind the hole");
        store.commit();
        let found = records_in(&store.shared);
        assert_eq!(found, [r#""all""#], "whole, up to where it was full");
        assert!(
            store.compact(|store| store.append(&"all")),
            "there is room again"
        );
        assert_eq!(records_in(&store.shared), [r#""all""#]);
        assert!(!store.compact(too_much));
        assert_eq!(next(store).records().unwrap(), None);
    }

    #[test]
    fn damaged_blocks_are_an_error() {
        let mut store = store();
        store.compact(|store| store.append(&"x".repeat(3 * TAIL)));
        assert_eq!(records_in(&store.shared)[0].len(), 3 * TAIL + 2);
        let (at, _) = store.places(store.committed)[0];
        for (offset, bytes) in [(0, [0xff; 4]), (4, [0xff; 4]), (BLOCK_HEAD, [0xff; 4])] {
            let whole = store.shared.memory().read(at + offset, 4).unwrap();
            store.shared.memory_mut().write(at + offset, &bytes);
            let error = store.records().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            store.shared.memory_mut().write(at + offset, &whole);
            assert!(store.records().is_ok());
        }
        store.shared.number(IN_USE).store(1, Ordering::Release);
        assert!(store.records().is_err(), "another layout");
    }

    #[test]
    fn a_copy_has_what_counts() {
        let mut store = store();
        store.compact(|store| store.append(&1));
        store.append(&2);
        store.commit();
        store.append(&"not committed");
        store.set_progress(Progress { input: 5, steps: 1 });
        let copy = Store::new(SharedState::of(store.copy().unwrap()).unwrap());
        assert_eq!(copy.records().unwrap().unwrap(), ["1", "2"]);
        assert_eq!(copy.progress(), store.progress());
    }

    #[test]
    fn the_progress_is_stored_at_once() {
        let store = store();
        assert_eq!(store.progress(), Progress::default());
        let progress = Progress {
            input: 1 << 39,
            steps: 77,
        };
        store.set_progress(progress);
        assert_eq!(next(store).progress(), progress);
    }
}
