//! The memory that the guardian shares with each of its masters: a page of numbers, behind it the saved state, and at its
//! end what the log writer is writing (`log::write_record`).
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
//! | 8..11 | master | see `saved_state::store` |
//! | 16 | guardian | why this master goes on after another one, as [`Succession`] |
//! | 17 | guardian | the descriptor of the program that runs, and 1 |
//! | 18 | guardian | the descriptor of the program before an upgrade that is not settled, and 1; 0: there is none |
//! | 19 | guardian | the pid of the present master |
//! | 20 | guardian | 1: HUP stays ignored, as nohup(1) asked for |
//! | 21 | guardian | the errno with which the new program could not be executed |
//! | 22 | master | how many milliseconds its loop may take for a turn; 0: any time |
//! | 23 | master | how many turns its loop has taken |
//! | 128.. | guardian | how many signals of each number it has passed on |
//! | 256.. | master | how many signals of each number have arrived there, counted by its handlers |

use crate::event_loop::clock::monotonic_ms;
use crate::sys::shared_memory::{SharedMemory, number_of_process};
use rotad_core::Exit;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The size in bytes; only the pages that are written cost memory.
const SIZE: usize = 128 << 20;

/// The size of the page of numbers, in bytes.
const PAGE: usize = 4096;
/// The size of the log writer's part, in bytes.
const LOG_SIZE: usize = 16 << 20;

const PASSED: usize = 128;
const ARRIVED: usize = 256;

const RESTARTS: usize = 1;
const LAST_EXIT: usize = 2;
const LAST_AGE: usize = 3;
const KEEPS_DYING: usize = 4;
const DIED_AT: usize = 5;
const CLOCK: usize = 6;
const GUARDIAN: usize = 7;

/// The name of the memory.
const NAME: &str = "rotad-state";

const SUCCESSION: usize = 16;
const PROGRAM: usize = 17;
const PREVIOUS_PROGRAM: usize = 18;
const MASTER: usize = 19;
const HUP_IGNORED: usize = 20;
const NOT_EXECUTED: usize = 21;
const WATCHDOG: usize = 22;
const TURNS: usize = 23;

/// Why a master goes on after another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Succession {
    /// It does not: it is the first one.
    First,
    /// The one before it has died.
    Death,
    /// The guardian has died, and the one before it has become the guardian.
    GuardianDied,
    /// The one before it was replaced by another program.
    Upgrade,
    /// The program of an upgrade did not settle: the program before it runs again.
    WentBack(Setback),
    /// The one before it was killed by the guardian, since its loop did not turn.
    Hung,
}

/// Why an upgrade was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// The new program could not be executed, with this errno.
    NotExecuted(i32),
    /// The guardian that ran it ended.
    GuardianEnded,
    /// The guardian that ran it did not start a master in time.
    GuardianHung,
    /// The new master ended: [`SharedState::last_death`] says how.
    MasterEnded,
    /// The new master did not settle in time.
    MasterHung,
}

impl Succession {
    const ALL: [Self; 10] = [
        Self::First,
        Self::Death,
        Self::GuardianDied,
        Self::Upgrade,
        Self::WentBack(Setback::NotExecuted(0)),
        Self::WentBack(Setback::GuardianEnded),
        Self::WentBack(Setback::GuardianHung),
        Self::WentBack(Setback::MasterEnded),
        Self::WentBack(Setback::MasterHung),
        Self::Hung,
    ];

    /// Its number, which another version of this program reads. The errno is a number of its own.
    fn number(self) -> u64 {
        let plain = match self {
            Self::WentBack(Setback::NotExecuted(_)) => Self::WentBack(Setback::NotExecuted(0)),
            other => other,
        };
        let position = Self::ALL.iter().position(|one| *one == plain);
        position.unwrap_or_default() as u64
    }
}

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

/// The counters of arrived signals.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals(&'static SharedMemory);

impl Arrivals {
    /// That of this signal.
    pub fn of(self, signal: i32) -> &'static AtomicU64 {
        self.0.number(ARRIVED + signal.unsigned_abs() as usize)
    }
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
        let state = SharedMemory::new(NAME, SIZE).map(Self)?;
        state.set_guardian();
        Ok(state)
    }

    /// The memory of this descriptor, which another process has made.
    ///
    /// # Errors
    /// `InvalidData`: it is another file, or not of this size; ENOMEM.
    pub fn of(fd: OwnedFd) -> io::Result<Self> {
        SharedMemory::open(fd, SIZE).map(Self)
    }

    /// The memory, for `saved_state`.
    pub fn memory(&self) -> &SharedMemory {
        &self.0
    }

    /// The memory, to be written by `saved_state`.
    pub fn memory_mut(&mut self) -> &mut SharedMemory {
        &mut self.0
    }

    /// Where the saved state ends.
    pub fn state_end(&self) -> usize {
        SIZE - LOG_SIZE
    }

    /// The log writer's part.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn log_part(&self) -> io::Result<SharedMemory> {
        self.0.part(SIZE - LOG_SIZE, LOG_SIZE)
    }

    /// One of the numbers.
    pub fn number(&self, index: usize) -> &AtomicU64 {
        self.0.number(index)
    }

    /// Counts a signal before it is passed on to the master, in which it may be lost.
    pub(super) fn count_passed(&self, signal: i32) {
        if let Ok(signal) = usize::try_from(signal)
            && signal < ARRIVED - PASSED
        {
            self.number(PASSED + signal).fetch_add(1, Ordering::AcqRel);
        }
    }

    /// How many signals of this number the guardian has passed on so far, and how many have arrived at a master.
    pub fn signals(&self, signal: i32) -> (u64, u64) {
        let count = |first: usize| {
            let index = first + signal.unsigned_abs() as usize;
            self.number(index).load(Ordering::Acquire)
        };
        (count(PASSED), count(ARRIVED))
    }

    /// The counter of arrived signals of this number, for a handler, which may run as long as the process lives.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn arrivals(&self) -> io::Result<Arrivals> {
        let page = self.0.part(0, PAGE)?;
        Ok(Arrivals(Box::leak(Box::new(page))))
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

    /// Why this master goes on after another one. What a later version has written and this one does not know counts as a
    /// death.
    pub fn succession(&self) -> Succession {
        let number = self.number(SUCCESSION).load(Ordering::Acquire);
        let known = Succession::ALL.get(number as usize).copied();
        match known.unwrap_or(Succession::Death) {
            Succession::WentBack(Setback::NotExecuted(_)) => {
                let errno = self.number(NOT_EXECUTED).load(Ordering::Acquire);
                Succession::WentBack(Setback::NotExecuted(errno as i32))
            }
            other => other,
        }
    }

    pub(super) fn set_succession(&self, why: Succession) {
        if let Succession::WentBack(Setback::NotExecuted(errno)) = why {
            let errno = u64::from(errno.unsigned_abs());
            self.number(NOT_EXECUTED).store(errno, Ordering::Release);
        }
        self.number(SUCCESSION)
            .store(why.number(), Ordering::Release);
    }

    /// The descriptor of the program that runs.
    pub(super) fn program(&self) -> Option<RawFd> {
        self.descriptor(PROGRAM)
    }

    /// The descriptor of the program that an upgrade goes back to.
    pub(super) fn previous_program(&self) -> Option<RawFd> {
        self.descriptor(PREVIOUS_PROGRAM)
    }

    /// The programs that run from now on, and that is gone back to.
    pub(super) fn set_programs(&self, program: Option<RawFd>, previous: Option<RawFd>) {
        let number = |fd: Option<RawFd>| fd.map_or(0, |fd| u64::from(fd.unsigned_abs()) + 1);
        self.number(PREVIOUS_PROGRAM)
            .store(number(previous), Ordering::Release);
        self.number(PROGRAM)
            .store(number(program), Ordering::Release);
    }

    fn descriptor(&self, index: usize) -> Option<RawFd> {
        let number = self.number(index).load(Ordering::Acquire);
        number.checked_sub(1)?.try_into().ok()
    }

    /// The pid of the present master.
    pub(super) fn master(&self) -> i32 {
        self.number(MASTER).load(Ordering::Acquire) as i32
    }

    pub(super) fn set_master(&self, pid: i32) {
        self.number(MASTER)
            .store(u64::from(pid.unsigned_abs()), Ordering::Release);
    }

    /// Whether HUP stays ignored, as nohup(1) asked for.
    pub fn hup_ignored(&self) -> bool {
        self.number(HUP_IGNORED).load(Ordering::Acquire) == 1
    }

    pub(super) fn set_hup_ignored(&self, ignored: bool) {
        self.number(HUP_IGNORED)
            .store(ignored.into(), Ordering::Release);
    }

    /// A turn of the master's loop may take this long; None: any time.
    pub fn set_watchdog(&self, limit: Option<Duration>) {
        let ms = limit.map_or(0, |limit| limit.as_millis().try_into().unwrap_or(u64::MAX));
        self.number(WATCHDOG).store(ms, Ordering::Release);
    }

    /// The master's loop has taken another turn.
    pub fn count_turn(&self) {
        self.number(TURNS).fetch_add(1, Ordering::AcqRel);
    }

    /// How many turns the loop has taken, and how long one may take.
    pub(super) fn turns(&self) -> (u64, Option<Duration>) {
        let ms = self.number(WATCHDOG).load(Ordering::Acquire);
        (
            self.number(TURNS).load(Ordering::Acquire),
            (ms > 0).then(|| Duration::from_millis(ms)),
        )
    }

    /// The present master is dead, or about to be: the next one's clock goes on from now.
    pub(super) fn stop_clock(&self) {
        self.number(DIED_AT)
            .store(monotonic_ms(), Ordering::Release);
    }

    pub(super) fn record_death(&self, death: Death, keeps_dying: bool) {
        self.stop_clock();
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
        self.set_keeps_dying(keeps_dying);
        self.number(RESTARTS).fetch_add(1, Ordering::AcqRel);
        self.set_succession(Succession::Death);
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

    /// This process is the guardian.
    pub(super) fn set_guardian(&self) {
        let pid = std::process::id().into();
        self.number(GUARDIAN).store(pid, Ordering::Release);
    }

    pub(super) fn set_keeps_dying(&self, keeps_dying: bool) {
        self.number(KEEPS_DYING)
            .store(keeps_dying.into(), Ordering::Release);
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
    fn the_next_master_reads_why_it_goes_on() {
        let state = SharedState::new().unwrap();
        assert_eq!(state.succession(), Succession::First);
        for (number, why) in Succession::ALL.into_iter().enumerate() {
            assert_eq!(why.number(), number as u64);
            state.set_succession(why);
            assert_eq!(state.succession(), why);
        }
        let why = Succession::WentBack(Setback::NotExecuted(8));
        state.set_succession(why);
        assert_eq!(state.succession(), why);
        state.number(SUCCESSION).store(77, Ordering::Release);
        assert_eq!(state.succession(), Succession::Death);
    }

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
