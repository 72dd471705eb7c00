//! The memory that the guardian shares with each of its masters: a page of numbers, and behind it the saved state.
//!
//! | number | written by | what |
//! |---|---|---|
//! | 1 | guardian | how many masters have died so far |
//! | 2 | guardian | how the last of them ended, as [`Death`] |
//! | 3 | guardian | how long it had lived, in milliseconds |
//! | 4 | guardian | 1: masters die so often that the next one gives up rolling restarts and requests that wait |
//! | 5 | guardian | when it was found dead, in the time of `clock::monotonic_ms` |
//! | 6 | master | when its clock began, in the same time ([`SharedState::set_clock`]) |
//! | 7 | guardian | its pid, for commands that find it without a master ([`is_guardian`]) |
//! | 8.. | master | see `saved_state::store` |

use crate::event_loop::clock::monotonic_ms;
use crate::sys::shared_memory::{SharedMemory, number_of_process};
use rotad_core::Exit;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The size in bytes; only the pages that are written cost memory.
const SIZE: usize = 128 << 20;

const RESTARTS: usize = 1;
const LAST_EXIT: usize = 2;
const LAST_AGE: usize = 3;
const KEEPS_DYING: usize = 4;
const DIED_AT: usize = 5;
const CLOCK: usize = 6;
const GUARDIAN: usize = 7;

/// The name of the memory.
const NAME: &str = "rotad-state";

/// The end of a master that nothing had asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// How it ended.
    pub exit: Exit,
    /// How long it had lived, in milliseconds.
    pub after_ms: u64,
}

/// The masters before this one that have died, each replaced by the guardian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MasterDeaths {
    /// How many.
    pub count: u64,
    /// How the last of them ended.
    pub last: Option<Death>,
}

/// Whether this process is a guardian, and not another one that has what it keeps open, such as a child of a dead master.
pub fn is_guardian(pid: i32) -> bool {
    number_of_process(pid, NAME, GUARDIAN) == u64::try_from(pid).ok()
}

/// The shared memory.
#[derive(Debug)]
pub struct SharedState(SharedMemory);

impl SharedState {
    /// New memory, without a state, made by the guardian.
    ///
    /// # Errors
    /// As [`SharedMemory::new`].
    pub fn new() -> io::Result<Self> {
        let memory = SharedMemory::new(NAME, SIZE)?;
        memory
            .number(GUARDIAN)
            .store(std::process::id().into(), Ordering::Release);
        Ok(Self(memory))
    }

    /// The memory, for `saved_state`.
    pub fn memory(&self) -> &SharedMemory {
        &self.0
    }

    /// The memory, to be written by `saved_state`.
    pub fn memory_mut(&mut self) -> &mut SharedMemory {
        &mut self.0
    }

    /// One of the numbers.
    pub fn number(&self, index: usize) -> &AtomicU64 {
        self.0.number(index)
    }

    /// How many masters have died so far.
    pub fn restarts(&self) -> u64 {
        self.number(RESTARTS).load(Ordering::Acquire)
    }

    /// The master's clock has begun then ([`crate::event_loop::clock::Clock::began_ms`]): so the next master knows the time
    /// of its death on it.
    pub fn set_clock(&self, began_ms: u64) {
        self.number(CLOCK).store(began_ms, Ordering::Release);
    }

    /// The time of its own clock at which the last master died, in milliseconds.
    pub fn died_at(&self) -> u64 {
        let died = self.number(DIED_AT).load(Ordering::Acquire);
        died.saturating_sub(self.number(CLOCK).load(Ordering::Acquire))
    }

    pub(super) fn record_death(&self, death: Death, keeps_dying: bool) {
        self.number(DIED_AT)
            .store(monotonic_ms(), Ordering::Release);
        let exit = match death.exit {
            Exit::Code(code) => u64::from(code.unsigned_abs()),
            Exit::Signal {
                signal,
                core_dumped,
            } => 1 << 32 | u64::from(core_dumped) << 33 | u64::from(signal.unsigned_abs()),
            Exit::Unknown => 1 << 34,
        };
        self.number(LAST_EXIT).store(exit, Ordering::Release);
        self.number(LAST_AGE)
            .store(death.after_ms, Ordering::Release);
        self.number(KEEPS_DYING)
            .store(keeps_dying.into(), Ordering::Release);
        self.number(RESTARTS).fetch_add(1, Ordering::AcqRel);
    }

    /// How the last master ended that did so by itself. None: none has.
    pub fn last_death(&self) -> Option<Death> {
        if self.restarts() == 0 {
            return None;
        }
        let exit = self.number(LAST_EXIT).load(Ordering::Acquire);
        let number = exit as u32 as i32;
        let exit = match exit >> 32 {
            0 => Exit::Code(number),
            1 | 3 => Exit::Signal {
                signal: number,
                core_dumped: exit >> 33 & 1 == 1,
            },
            _ => Exit::Unknown,
        };
        let after_ms = self.number(LAST_AGE).load(Ordering::Acquire);
        Some(Death { exit, after_ms })
    }

    /// Whether masters die so often that this one is to give up rolling restarts and requests that wait.
    pub(super) fn keeps_dying(&self) -> bool {
        self.number(KEEPS_DYING).load(Ordering::Acquire) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_master_reads_how_the_last_one_died() {
        let state = SharedState::new().unwrap();
        assert_eq!(state.last_death(), None);
        let signal = |signal, core_dumped| Exit::Signal {
            signal,
            core_dumped,
        };
        for exit in [
            signal(9, false),
            signal(11, true),
            Exit::Code(101),
            Exit::Unknown,
        ] {
            let death = Death { exit, after_ms: 40 };
            state.record_death(death, false);
            assert_eq!(state.last_death(), Some(death));
        }
        assert_eq!(state.restarts(), 4);
    }
}
