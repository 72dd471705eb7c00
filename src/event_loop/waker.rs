//! Wakes the main loop from another thread: an eventfd (eventfd(2)) that the loop watches.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A bell with one listener: ringing never blocks, many rings may be heard as one, and ringing again before it was
/// heard costs no system call.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    fd: EventFd,
    rung: AtomicBool,
}

impl Waker {
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn new() -> nix::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Bell { fd, rung: AtomicBool::new(false) })))
    }

    /// To be called after what it is rung for has been put where the listener looks.
    pub fn wake(&self) {
        if !self.0.rung.swap(true, Ordering::SeqCst) {
            // EAGAIN says that the counter is full: the loop has been told often enough.
            self.0.fd.write(1).ok();
        }
    }

    /// Silences the bell; the loop looks for what it was rung for afterwards.
    pub fn clear(&self) {
        // In this order: whoever finds the bell rung between the two is looked for all the same, and whoever comes
        // later rings anew.
        self.0.fd.read().ok();
        self.0.rung.store(false, Ordering::SeqCst);
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
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn is_ringing(wake: &Waker) -> bool {
        poll(&mut [PollFd::new(wake.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|n| n == 1)
    }

    #[test]
    fn rings_once_until_it_is_heard_and_then_anew() {
        let wake = Waker::new().expect("a descriptor");
        assert!(!is_ringing(&wake));
        wake.wake();
        wake.clone().wake();
        assert!(is_ringing(&wake));
        wake.clear();
        assert!(!is_ringing(&wake));
        wake.wake();
        assert!(is_ringing(&wake));
    }
}
