//! Where the descriptors of the next worker are laid out before it is born: low numbers, kept for that purpose.
//!
//! A child copies the table of descriptors up to the highest that it needs. A master of thousands of workers has tens
//! of thousands open, and the newest, which the next worker needs, lie at the end. From the pad, a birth costs the
//! same whatever the size of the table.

use crate::sys::fds;
use nix::fcntl::OFlag;
use nix::unistd::dup3;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Above the targets of any worker with less than sixty listeners.
const FLOOR: RawFd = 64;
/// Standard streams, a shim's two, and eleven listeners.
const SIZE: usize = 16;

/// Descriptors of /dev/null that stand for others during a birth.
#[derive(Debug)]
pub(super) struct ReservedFds(Vec<OwnedFd>);

/// The descriptors of one birth, laid out: none lies where another is to be placed. The pad is empty again when this
/// is dropped, so that it holds no worker's pipe open.
#[derive(Debug)]
pub(super) struct StagedFds<'a> {
    numbers: Vec<RawFd>,
    pad: &'a mut [OwnedFd],
    null: &'a OwnedFd,
    /// Copies for this birth alone, where there are more than the pad holds.
    lifted: Vec<OwnedFd>,
}

impl ReservedFds {
    /// As large as the limit of open files allows: without it all works, only slower.
    pub(super) fn new(null: &OwnedFd) -> Self {
        Self((0..SIZE).map_while(|_| fds::lift(null.as_fd(), FLOOR).ok()).collect())
    }

    /// To become 0, 1, 2, … in this order.
    pub(super) fn lay<'a>(&'a mut self, sources: &[BorrowedFd<'_>], null: &'a OwnedFd) -> io::Result<StagedFds<'a>> {
        let size = if sources.len() <= self.0.len() { sources.len() } else { 0 };
        let mut laid = StagedFds { numbers: Vec::new(), pad: &mut self.0[..size], null, lifted: Vec::new() };
        for (place, source) in laid.pad.iter_mut().zip(sources) {
            dup3(source, place, OFlag::O_CLOEXEC)?;
            laid.numbers.push(place.as_raw_fd());
        }
        let floor = sources.len() as RawFd;
        for source in &sources[size..] {
            laid.numbers.push(if source.as_raw_fd() >= floor {
                source.as_raw_fd()
            } else {
                let copy = fds::lift(*source, floor)?;
                let number = copy.as_raw_fd();
                laid.lifted.push(copy);
                number
            });
        }
        Ok(laid)
    }
}

impl StagedFds<'_> {
    pub(super) fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.numbers.iter().copied()
    }
}

impl Drop for StagedFds<'_> {
    fn drop(&mut self) {
        for place in self.pad.iter_mut() {
            // It fails only where the limit of open files has been set below the pad: then the next birth replaces it.
            dup3(self.null, place, OFlag::O_CLOEXEC).ok();
        }
    }
}
