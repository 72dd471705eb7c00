//! What wakes a thread that waits for descriptors: a socket that another thread makes readable.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Readable once it was rung.
#[derive(Debug)]
pub(super) struct Bell(UnixStream);

/// Rings it.
#[derive(Debug)]
pub(super) struct Ringer(UnixStream);

/// A pair of both.
///
/// # Errors
/// The kernel's: no descriptor is left.
pub(super) fn bell() -> io::Result<(Ringer, Bell)> {
    let (ringer, bell) = UnixStream::pair()?;
    ringer.set_nonblocking(true)?;
    bell.set_nonblocking(true)?;
    Ok((Ringer(ringer), Bell(bell)))
}

impl Ringer {
    pub(super) fn ring(&self) {
        // A full one has been rung, and who does not listen any more has ended.
        (&self.0).write_all(&[0]).ok();
    }
}

impl Bell {
    /// From now on it is not readable, until it is rung.
    pub(super) fn silence(&self) {
        let mut some = [0; 256];
        while matches!((&self.0).read(&mut some), Ok(1..)) {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::PollFlags;
    use rotad::sys::poll::is_ready;

    #[test]
    fn it_is_rung_any_number_of_times_and_silenced_once() {
        let (ringer, bell) = bell().unwrap();
        assert!(!is_ready(&bell, PollFlags::POLLIN));
        for _ in 0..10_000 {
            ringer.ring();
        }
        assert!(is_ready(&bell, PollFlags::POLLIN));
        bell.silence();
        assert!(!is_ready(&bell, PollFlags::POLLIN));
    }
}
