//! Starts threads (pthread_create(3)). Every thread of the master and of its commands starts here, so that none of them
//! takes a signal: signals are for the main thread, whose wait they end, and no handler may run in a child that shares
//! memory with the thread that spawns it.

use nix::sys::signal::{SigSet, SigmaskHow};
use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread with all signals blocked, from its first instruction on. `name`: at most 15 bytes are shown (comm in
/// proc(5)). `stack`: its size in bytes; only touched pages cost memory.
///
/// # Errors
/// EAGAIN: the limit of processes or the memory is used up.
pub fn spawn<T: Send + 'static>(
    name: &str,
    stack: usize,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    debug_assert!(name.len() <= 15, "the kernel would cut {name}");
    // A thread inherits the mask of the one that starts it. Neither call can fail: the sets are valid.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    #[expect(clippy::disallowed_methods, reason = "the one place")]
    let thread = Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(f);
    if let Ok(before) = before {
        before.thread_set_mask().ok();
    }
    thread
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    #[test]
    fn a_thread_has_its_name_and_takes_no_signal_and_its_starter_does() {
        let mut ours = SigSet::empty();
        ours.add(Signal::SIGUSR2);
        ours.thread_block().unwrap();
        let before = SigSet::thread_get_mask().unwrap();
        let thread = spawn("some-thread", 64 << 10, || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            (name, SigSet::thread_get_mask().unwrap())
        });
        let (name, mask) = thread.unwrap().join().unwrap();
        assert_eq!(name, "some-thread\n");
        for signal in [Signal::SIGTERM, Signal::SIGCHLD, Signal::SIGUSR1] {
            assert!(mask.contains(signal), "{signal}");
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
