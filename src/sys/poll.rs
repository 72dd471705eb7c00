//! Waits for descriptors (poll(2)).

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Waits until one of the descriptors is ready, or for `timeout` (None: without limit), and returns how many are ready.
/// The full timeout passes before it returns 0, and a signal that comes meanwhile does not end the wait: who waits for
/// signals has a descriptor for them among `fds`.
///
/// # Errors
/// ENOMEM; EINVAL: more descriptors than the process may open.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> nix::Result<usize> {
    let until = timeout.and_then(|timeout| now().checked_add(timeout));
    let mut left = until.and(timeout);
    loop {
        #[expect(clippy::disallowed_methods, reason = "the one place")]
        match ppoll(fds, left.map(TimeSpec::from_duration), None) {
            Ok(count) => return Ok(count.unsigned_abs() as usize),
            Err(Errno::EINTR) => left = until.map(|until| until.saturating_duration_since(now())),
            Err(error) => return Err(error),
        }
    }
}

/// In real time: a pause of the process counts.
#[expect(
    clippy::disallowed_methods,
    reason = "what a signal has left of a timeout"
)]
fn now() -> Instant {
    Instant::now()
}

/// Whether a descriptor shows one of `events`, or an error or hang-up, at this moment.
pub fn is_ready(fd: impl AsFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), events)];
    matches!(poll(&mut fds, Some(Duration::ZERO)), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{SIGWINCH, pthread_kill, pthread_self};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    extern "C" fn nothing(_: i32) {}

    #[test]
    fn what_is_ready_ends_the_wait_and_what_is_not_takes_all_of_its_time() {
        let (read, mut write) = UnixStream::pair().unwrap();
        assert!(!is_ready(&read, PollFlags::POLLIN));
        let began = Instant::now();
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, Some(Duration::from_millis(20))), Ok(0));
        assert!(began.elapsed() >= Duration::from_millis(20));
        write.write_all(b"x").unwrap();
        assert_eq!(poll(&mut fds, None), Ok(1));
        assert!(is_ready(&read, PollFlags::POLLIN));
    }

    #[test]
    fn a_signal_does_not_end_the_wait() {
        let action = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::empty(),
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing.
        unsafe { sigaction(Signal::SIGWINCH, &action) }.unwrap();
        // SAFETY: it takes nothing and cannot fail.
        let waiter = unsafe { pthread_self() };
        let (read, mut write) = UnixStream::pair().unwrap();
        let sender = std::thread::spawn(move || {
            for _ in 0..20 {
                // SAFETY: the waiter is alive: it joins this thread.
                assert_eq!(unsafe { pthread_kill(waiter, SIGWINCH) }, 0);
                std::thread::yield_now();
            }
            write.write_all(b"x").unwrap();
        });
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, Some(Duration::from_secs(60))), Ok(1));
        sender.join().unwrap();
    }
}
