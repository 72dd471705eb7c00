//! Wakes the main loop from another thread: an eventfd (eventfd(2)) that the loop watches.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Wakes one listener: waking never blocks, several wakes may be noticed as one, and a wake before the last one was
/// noticed costs no system call.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    fd: EventFd,
    pending: AtomicBool,
}

impl Waker {
    /// # Errors
    /// EMFILE or ENFILE: no descriptor is left.
    pub fn new() -> nix::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Shared {
            fd,
            pending: AtomicBool::new(false),
        })))
    }

    /// Call it after the work has been put where the listener looks.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::SeqCst) {
            // EAGAIN: the counter is full, so a wake-up is pending already.
            self.0.fd.write(1).ok();
        }
    }

    /// Clears pending wake-ups; the loop looks for work afterwards.
    pub fn clear(&self) {
        // Drain the eventfd before clearing the flag. A wake() between the two sees the flag set and writes nothing,
        // but its work is picked up in this pass; a later one writes again.
        self.0.fd.read().ok();
        self.0.pending.store(false, Ordering::SeqCst);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::is_ready;
    use nix::poll::PollFlags;

    fn is_woken(wake: &Waker) -> bool {
        is_ready(wake, PollFlags::POLLIN)
    }

    #[test]
    fn several_wakes_are_one_until_they_are_cleared() {
        let wake = Waker::new().expect("a descriptor");
        assert!(!is_woken(&wake));
        wake.wake();
        wake.clone().wake();
        assert!(is_woken(&wake));
        wake.clear();
        assert!(!is_woken(&wake));
        wake.wake();
        assert!(is_woken(&wake));
    }
}
