//! A block of reserved low descriptors in which the next child's descriptors are staged.
//!
//! A child copies the descriptor table up to the highest number that it needs, in steps of 64 (the kernel's
//! `dup_fd`). A master of thousands of workers has tens of thousands open, and those of the next worker are the newest, at
//! the end. With staging, a spawn costs the same whatever the size of the table.

use crate::sys::fds;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::dup3;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// From here on lie the blocks: above the target numbers of those that fit, and low enough for those of two threads below 64.
const FLOOR: RawFd = 32;
/// A limit of open files below this is one that a master may reach: soft limits are 1024 and more (systemd.exec(5)).
const SCARCE: u64 = 256;
/// Standard streams, the two of a shim, and eleven listeners.
const SIZE: usize = 16;

/// Descriptors of /dev/null, replaced by others during a spawn.
#[derive(Debug)]
pub(super) struct ReservedFds(Vec<OwnedFd>);

/// The blocks of this process, each the first and the last number of a part without gaps.
static BLOCKS: Mutex<Vec<(RawFd, RawFd)>> = Mutex::new(Vec::new());

/// What a child must not keep: another thread may just have staged something there for its own child.
pub(super) fn blocks() -> Vec<(RawFd, RawFd)> {
    lock_blocks().clone()
}

fn lock_blocks() -> MutexGuard<'static, Vec<(RawFd, RawFd)>> {
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The descriptors of one spawn: none has a number that another is to get. Dropping it restores /dev/null, so that no
/// worker's pipe stays open.
#[derive(Debug)]
pub(super) struct StagedFds<'a> {
    numbers: Vec<RawFd>,
    reserved: &'a mut [OwnedFd],
    /// Which of them are not /dev/null.
    replaced: Vec<usize>,
    null: &'a OwnedFd,
    /// Copies for this spawn alone, where there are more than the reserved ones.
    lifted: Vec<OwnedFd>,
}

impl ReservedFds {
    /// As many as the limit of open files allows, and none where descriptors are scarce: with fewer, spawning only gets
    /// slower.
    pub(super) fn new(null: &OwnedFd) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let size = if limit < SCARCE { 0 } else { SIZE };
        let reserved: Vec<OwnedFd> = (0..size)
            .map_while(|_| fds::lift(null.as_fd(), FLOOR).ok())
            .collect();
        let by_gaps = reserved.chunk_by(|one, next| one.as_raw_fd() + 1 == next.as_raw_fd());
        let parts = by_gaps.filter_map(|part| {
            let (first, last) = (part.first()?, part.last()?);
            Some((first.as_raw_fd(), last.as_raw_fd()))
        });
        lock_blocks().extend(parts);
        Self(reserved)
    }

    /// Stages `sources`, which are to become 0, 1, 2, … in this order.
    ///
    /// # Errors
    /// EMFILE: the limit of open files.
    pub(super) fn stage<'a>(
        &'a mut self,
        sources: &[BorrowedFd<'_>],
        null: &'a OwnedFd,
    ) -> io::Result<StagedFds<'a>> {
        let size = if sources.len() <= self.0.len() {
            sources.len()
        } else {
            0
        };
        let mut staged = StagedFds {
            numbers: Vec::new(),
            reserved: &mut self.0[..size],
            replaced: Vec::new(),
            null,
            lifted: Vec::new(),
        };
        for (index, source) in sources[..size].iter().enumerate() {
            let source = source.as_raw_fd();
            let place = &mut staged.reserved[index];
            let earlier = sources[..index]
                .iter()
                .position(|earlier| earlier.as_raw_fd() == source);
            staged.numbers.push(if let Some(earlier) = earlier {
                staged.numbers[earlier]
            } else {
                dup3(sources[index], place, OFlag::O_CLOEXEC)?;
                staged.replaced.push(index);
                place.as_raw_fd()
            });
        }
        let floor = sources.len() as RawFd;
        for source in &sources[size..] {
            staged.numbers.push(if source.as_raw_fd() >= floor {
                source.as_raw_fd()
            } else {
                let copy = fds::lift(*source, floor)?;
                let number = copy.as_raw_fd();
                staged.lifted.push(copy);
                number
            });
        }
        Ok(staged)
    }
}

impl Drop for ReservedFds {
    fn drop(&mut self) {
        let own = |number: RawFd| self.0.iter().any(|fd| fd.as_raw_fd() == number);
        lock_blocks().retain(|(first, _)| !own(*first));
    }
}

impl StagedFds<'_> {
    pub(super) fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.numbers.iter().copied()
    }
}

impl Drop for StagedFds<'_> {
    fn drop(&mut self) {
        for &index in &self.replaced {
            // Fails only if the limit of open files was set below the reserved numbers: the next spawn replaces it
            // then.
            dup3(self.null, &mut self.reserved[index], OFlag::O_CLOEXEC).ok();
        }
    }
}
