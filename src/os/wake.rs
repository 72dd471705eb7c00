//! Wakes the main loop from another thread: an eventfd (eventfd(2)) that the loop watches.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A bell with one listener: ringing never blocks, and many rings may be heard as one.
#[derive(Clone, Debug)]
pub struct Wake(Arc<EventFd>);

impl Wake {
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn new() -> nix::Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(|fd| Self(Arc::new(fd)))
    }

    pub fn ring(&self) {
        // EAGAIN says that the counter is full: the loop has been told often enough.
        self.0.write(1).ok();
    }

    /// Silences the bell; the loop looks for what it was rung for afterwards.
    pub fn hush(&self) {
        self.0.read().ok();
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
