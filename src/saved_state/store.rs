//! The journal of records in shared memory: lines of JSON, in the order in which they were written.
//!
//! The memory behind the page of numbers has two regions. One is in use: records are appended to it, and count once
//! [`Store::commit`] has stored the new length. When it has grown too long, what still counts is written into the other
//! one ([`Store::compact`]), and one store makes that the region in use. So a master that is killed at any instruction
//! leaves a region whose records are whole.
//!
//! | number | what |
//! |---|---|
//! | 8 | the region in use: 0 (none yet), 1 or 2 |
//! | 9, 10 | the lengths of the two regions in bytes |
//! | 11 | which input the engine has handled last, and how many of its commands were executed ([`Progress`]) |

use crate::guardian::SharedState;
use serde::Serialize;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

/// Where the first region begins; before it lie the numbers.
const FIRST: usize = 4096;

const IN_USE: usize = 8;
const LENGTHS: [usize; 2] = [9, 10];
const PROGRESS: usize = 11;

/// A region is compacted when it is this many times as long as right after the last time …
const GROWTH: usize = 3;
/// … and at least this long, in bytes.
const LONG: usize = 256 << 10;

/// The bits of the number of commands in [`Progress`], as it is stored.
const COMMAND_BITS: u32 = 24;
const MOST_COMMANDS: u64 = (1 << COMMAND_BITS) - 1;

/// How far the engine has come with what the journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The number of the input whose handling has begun last; inputs are counted from 1.
    pub input: u64,
    /// How many of its commands were executed.
    /// At most 2^24: what is beyond is executed once more.
    pub commands: u32,
}

/// The journal, as the living master writes it.
#[derive(Debug)]
pub struct Store {
    shared: SharedState,
    /// 0 or 1.
    region: usize,
    /// The end of what was appended; beyond the stored length nothing counts yet.
    end: usize,
    /// The length after the last compaction.
    compacted: usize,
    /// A record did not fit: what is committed from then on would have a hole.
    full: bool,
    buffer: Vec<u8>,
}

impl Store {
    /// The journal in this memory. What a dead master has written there is read by [`Store::records`].
    pub fn new(shared: SharedState) -> Self {
        let in_use = shared.number(IN_USE).load(Ordering::Acquire);
        let region = usize::from(in_use == 2);
        let end = match in_use {
            0 => 0,
            _ => shared.number(LENGTHS[region]).load(Ordering::Acquire) as usize,
        };
        Self {
            shared,
            region,
            end,
            compacted: end,
            full: false,
            buffer: Vec::new(),
        }
    }

    /// The memory, for the numbers that are not the journal's.
    pub fn shared(&self) -> &SharedState {
        &self.shared
    }

    /// The committed records, each a line without its end. None: nothing was ever committed.
    pub fn records(&self) -> Option<Vec<String>> {
        let in_use = self.shared.number(IN_USE).load(Ordering::Acquire);
        if in_use == 0 {
            return None;
        }
        let length = self.shared.number(LENGTHS[self.region]);
        let length = length.load(Ordering::Acquire) as usize;
        let bytes = self.shared.memory().read(self.begin(), length)?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.lines().map(str::to_owned).collect())
    }

    fn size(&self) -> usize {
        (self.shared.state_end() - FIRST) / 2
    }

    fn begin(&self) -> usize {
        FIRST + self.region * self.size()
    }

    /// A copy of what counts, for another process.
    ///
    /// # Errors
    /// As [`SharedState::new`]; ENOMEM.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        let mut copy = SharedState::new()?;
        let in_use = self.shared.number(IN_USE).load(Ordering::Acquire);
        let length = self.shared.number(LENGTHS[self.region]);
        let length = length.load(Ordering::Acquire) as usize;
        for (at, len) in [(0, FIRST), (self.begin(), length)] {
            let bytes = self.shared.memory().read(at, len);
            let bytes = bytes.ok_or(io::ErrorKind::InvalidData)?;
            if in_use != 0 && !copy.memory_mut().write(at, &bytes) {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        copy.memory().as_fd().try_clone_to_owned()
    }

    /// Appends a record. It counts from the next [`Store::commit`] on.
    pub fn append(&mut self, record: &impl Serialize) {
        self.buffer.clear();
        if let Err(error) = serde_json::to_writer(&mut self.buffer, record) {
            tracing::error!("a part of the state cannot be saved: {error}");
            self.full = true;
            return;
        }
        self.buffer.push(b'\n');
        let at = self.begin() + self.end;
        let fits = self.end + self.buffer.len() <= self.size();
        if fits && self.shared.memory_mut().write(at, &self.buffer) {
            self.end += self.buffer.len();
        } else {
            self.full = true;
        }
    }

    /// What was appended counts from now on, all of it at once.
    pub fn commit(&mut self) {
        if self.full {
            return;
        }
        let length = self.shared.number(LENGTHS[self.region]);
        length.store(self.end as u64, Ordering::Release);
    }

    /// Whether it is time to compact it.
    pub fn is_long(&self) -> bool {
        self.full || self.end > LONG.max(self.compacted * GROWTH)
    }

    /// Writes the journal anew: `write` appends all that counts. Until it has returned, the old one counts; then its
    /// memory is given back. False: it does not fit, and the state of this master is not saved from now on.
    pub fn compact(&mut self, write: impl FnOnce(&mut Self)) -> bool {
        let old = self.begin()..self.begin() + self.end;
        self.region = 1 - self.region;
        self.end = 0;
        self.full = false;
        write(self);
        let in_use = self.shared.number(IN_USE);
        if self.full {
            // Nothing rather than something that is no longer true.
            in_use.store(0, Ordering::Release);
            return false;
        }
        self.compacted = self.end;
        let length = self.shared.number(LENGTHS[self.region]);
        length.store(self.end as u64, Ordering::Release);
        in_use.store(self.region as u64 + 1, Ordering::Release);
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
            input: number >> COMMAND_BITS,
            commands: (number & MOST_COMMANDS) as u32,
        }
    }

    /// Stores how far the engine has come. Takes effect immediately, without a commit.
    pub fn set_progress(&self, progress: Progress) {
        let commands = u64::from(progress.commands).min(MOST_COMMANDS);
        let number = progress.input << COMMAND_BITS | commands;
        self.shared
            .number(PROGRESS)
            .store(number, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store::new(SharedState::new().unwrap())
    }

    /// What the next master finds.
    fn next(store: Store) -> Store {
        Store::new(store.shared)
    }

    /// In bytes.
    fn in_memory(store: &Store) -> u64 {
        let stat = nix::sys::stat::fstat(store.shared.memory()).unwrap();
        stat.st_blocks.cast_unsigned() * 512
    }

    #[test]
    fn the_next_master_finds_what_was_committed_and_nothing_else() {
        let mut store = store();
        assert_eq!(store.records(), None);
        assert!(store.compact(|store| store.append(&"first")));
        store.append(&"second");
        store.append(&"third");
        store.commit();
        store.append(&"lost");
        let next = next(store);
        let found = next.records().unwrap();
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
        assert_eq!(next(second).records().unwrap(), ["1", "2"]);
    }

    #[test]
    fn a_master_that_dies_while_it_compacts_leaves_the_old_journal() {
        let mut store = store();
        store.compact(|store| store.append(&"old"));
        store.region = 1 - store.region;
        store.end = 0;
        store.append(&"new");
        assert_eq!(next(store).records().unwrap(), [r#""old""#]);
    }

    #[test]
    fn a_long_journal_is_compacted() {
        let mut store = store();
        store.compact(|store| store.append(&"all"));
        assert!(!store.is_long());
        let record = "x".repeat(1000);
        while !store.is_long() {
            store.append(&record);
            store.commit();
        }
        let size = store.end as u64;
        assert!(in_memory(&store) >= size);
        assert!(store.compact(|store| store.append(&"all")));
        assert!(!store.is_long());
        assert!(in_memory(&store) < size, "the old region is given back");
        assert_eq!(next(store).records().unwrap(), [r#""all""#]);
    }

    #[test]
    fn a_journal_that_does_not_fit_counts_no_more() {
        let mut store = store();
        store.compact(|store| store.append(&"all"));
        let record = "x".repeat(1 << 20);
        while !store.full {
            store.append(&record);
            store.commit();
        }
        assert!(store.records().is_some(), "whole, up to where it was full");
        assert!(
            store.compact(|store| store.append(&"all")),
            "there is room again"
        );
        let too_much = "x".repeat(store.size());
        assert!(!store.compact(|store| store.append(&too_much)));
        assert_eq!(next(store).records(), None);
    }

    #[test]
    fn a_copy_has_what_counts() {
        let mut store = store();
        store.compact(|store| store.append(&1));
        store.append(&2);
        store.commit();
        store.append(&"not committed");
        store.set_progress(Progress {
            input: 5,
            commands: 1,
        });
        let copy = Store::new(SharedState::of(store.copy().unwrap()).unwrap());
        assert_eq!(copy.records().unwrap(), ["1", "2"]);
        assert_eq!(copy.progress(), store.progress());
    }

    #[test]
    fn the_progress_is_stored_at_once() {
        let store = store();
        assert_eq!(store.progress(), Progress::default());
        let progress = Progress {
            input: 1 << 39,
            commands: 77,
        };
        store.set_progress(progress);
        assert_eq!(next(store).progress(), progress);
    }
}
