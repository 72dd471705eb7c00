//! Signals as a pipe to poll, for commands that wait and must react to Ctrl-C (the master uses `signals`).

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Readable once one of its signals has come.
#[derive(Debug)]
pub struct SignalPipe {
    pipe: UnixStream,
    /// Kept open: with no signal to ring it (all are ignored) its end would look like a ring that never stops.
    _writer: UnixStream,
}

impl SignalPipe {
    /// Ctrl-C. An ignored INT (a shell's `&`) stays ignored: then it never rings.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub fn on_ctrl_c() -> io::Result<Self> {
        Self::on(&[nix::libc::SIGINT])
    }

    /// Any of these signals, but for those that are ignored.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left; a signal that cannot be caught.
    pub fn on(signals: &[i32]) -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        for &signal in signals {
            if !crate::sys::signal::is_ignored(signal) {
                signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
            }
        }
        Ok(Self {
            pipe,
            _writer: writer,
        })
    }

    /// Whether it rang since the last time; it is silent afterwards.
    pub fn take(&self) -> bool {
        matches!((&self.pipe).read(&mut [0; 64]), Ok(1..))
    }
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::poll::is_ready;
    use nix::poll::PollFlags;

    #[test]
    fn without_a_signal_it_is_silent() {
        let interrupt = SignalPipe::on(&[]).unwrap();
        assert!(!is_ready(&interrupt, PollFlags::POLLIN));
        assert!(!interrupt.take());
    }
}
