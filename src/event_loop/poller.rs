//! The main loop's epoll(7) instance. Every entry carries its source and a number that is never reused, so that a late
//! event cannot be attributed to another worker.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rotad_core::WorkerId;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

/// Maximum events returned per wait.
const BATCH: usize = 64;

/// What an entry of the poller belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The pipe of signal handlers.
    Signals,
    /// Another thread has results for the main loop.
    Waker,
    /// A shim reports its exec status.
    ExecStatus(WorkerId),
    /// The notify socket of a worker.
    Notify(WorkerId),
    /// A listening socket, by its number.
    Listener(u64),
    /// Something happened to a unix listener's file.
    SocketFile(u64),
    /// A socket that control clients connect to.
    Control,
    /// A control client, by its number.
    Client(u64),
    /// The pidfd of a worker.
    Exit(WorkerId),
    /// A child of the master has ended. After the exits of workers: what is left are orphans.
    Children,
    /// A file of the runtime directory may have been removed.
    RuntimeDir,
    /// The guardian has said something.
    Guardian,
    /// The pidfd of the guardian.
    GuardianExit,
    /// The timer of `recycle.at`: a moment in wall-clock time has come, or the clock was set.
    WallTimer,
}

const KIND: u64 = 1 << 56;

impl Source {
    fn token(self) -> u64 {
        match self {
            Self::Signals => 0,
            Self::Waker => KIND,
            Self::ExecStatus(id) => (2 * KIND) | id.0,
            Self::Notify(id) => (3 * KIND) | id.0,
            Self::Listener(number) => (4 * KIND) | number,
            Self::Control => 5 * KIND,
            Self::Client(number) => (6 * KIND) | number,
            Self::Exit(id) => (7 * KIND) | id.0,
            Self::SocketFile(number) => (8 * KIND) | number,
            Self::RuntimeDir => 9 * KIND,
            Self::Guardian => 10 * KIND,
            Self::GuardianExit => 11 * KIND,
            Self::WallTimer => 12 * KIND,
            Self::Children => 13 * KIND,
        }
    }

    fn of(token: u64) -> Option<Self> {
        let number = token & (KIND - 1);
        Some(match token / KIND {
            0 => Self::Signals,
            1 => Self::Waker,
            2 => Self::ExecStatus(WorkerId(number)),
            3 => Self::Notify(WorkerId(number)),
            4 => Self::Listener(number),
            5 => Self::Control,
            6 => Self::Client(number),
            7 => Self::Exit(WorkerId(number)),
            8 => Self::SocketFile(number),
            9 => Self::RuntimeDir,
            10 => Self::Guardian,
            11 => Self::GuardianExit,
            12 => Self::WallTimer,
            13 => Self::Children,
            _ => return None,
        })
    }
}

/// What an entry is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable.
    Read,
    /// Readable or writable.
    ReadWrite,
    /// Only whether a listener was shut down: new connections do not wake us.
    Hangup,
}

impl Interest {
    /// The same for epoll_ctl(2).
    pub fn flags(self) -> EpollFlags {
        match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::ReadWrite => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            // EPOLLHUP is always reported; without EPOLLRDHUP a shutdown for reading alone is not.
            Self::Hangup => EpollFlags::EPOLLRDHUP,
        }
    }
}

/// The main loop's epoll instance.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); BATCH],
        })
    }

    /// # Errors
    /// ENOMEM; ENOSPC: more watches than allowed.
    pub fn watch(&self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(interest.flags(), source.token()))?)
    }

    /// # Errors
    /// ENOENT: it was not watched.
    pub fn change(&self, fd: impl AsFd, source: Source, interest: Interest) -> io::Result<()> {
        Ok(self
            .epoll
            .modify(fd, &mut EpollEvent::new(interest.flags(), source.token()))?)
    }

    /// Removes the watch. A descriptor with a duplicate (dup, fork) stays watched when it is closed, so this has to be
    /// called.
    pub fn unwatch(&self, fd: impl AsFd) {
        self.epoll.delete(fd).ok();
    }

    /// Waits for events or until `limit` is over (None: without limit). Returns them in the order in which they must
    /// be handled: signals, messages, requests, exits.
    pub fn wait(&mut self, limit: Option<Duration>, into: &mut Vec<Source>) {
        into.clear();
        let timeout = limit.map_or(EpollTimeout::NONE, |limit| {
            // Rounded up: a wait that ends a little early would spin.
            let ms = limit.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
            EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::ZERO)
        });
        match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => into.extend(
                self.events[..count]
                    .iter()
                    .filter_map(|e| Source::of(e.data())),
            ),
            // EINTR: we were stopped and continued; the caller checks the clock.
            Err(Errno::EINTR) => {}
            Err(error) => tracing::error!("epoll_wait: {error}"),
        }
        into.sort_unstable();
    }
}
