//! Memory of workers' trees (proc(5)), for recycling. It is read on a thread other than the main thread: a thousand
//! processes are a thousand files.

use crate::event_loop::mailbox::Mailbox;
use crate::process::procfs::{self, Stat};
use crate::sys::thread;
use crossbeam_channel::{Sender, bounded};
use rotad_core::WorkerId;
use std::io;

/// The memory of a worker's tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeMemory {
    /// The sum over its processes. Shared pages (after a fork, until they are written to) count for each.
    pub rss_bytes: u64,
    /// Number of processes.
    pub processes: usize,
}

/// Measures a process and all its descendants.
fn measure(pid: i32) -> TreeMemory {
    let all = procfs::forest(&[pid])
        .into_iter()
        .filter_map(|(pid, _)| Stat::of(pid).ok());
    all.fold(TreeMemory::default(), |sum, one| TreeMemory {
        rss_bytes: sum.rss_bytes + procfs::pages(one.rss_pages),
        processes: sum.processes + 1,
    })
}

/// The handle of the thread that reads /proc: one thread, since there are as many files as processes. It sleeps until
/// asked, and ends when this is dropped.
#[derive(Debug)]
pub struct RssSampler {
    requests: Sender<Vec<(WorkerId, i32)>>,
}

impl RssSampler {
    /// Starts the thread, which sends each answer to `results`.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created.
    pub fn start(results: Mailbox<Vec<(WorkerId, TreeMemory)>>) -> io::Result<Self> {
        let (requests, received) = bounded::<Vec<(WorkerId, i32)>>(1);
        thread::spawn("rss-sampler", 128 << 10, move || {
            for all in received {
                results.send(
                    all.into_iter()
                        .map(|(worker, pid)| (worker, measure(pid)))
                        .collect(),
                );
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a measurement of these workers. Call it again only after the answer has come.
    pub fn measure(&self, all: Vec<(WorkerId, i32)>) {
        self.requests.try_send(all).ok();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_live_process_has_memory_and_a_dead_one_none() {
        let own = super::measure(std::process::id() as i32);
        assert!(own.rss_bytes > 100_000 && own.processes >= 1);
        assert_eq!(super::measure(0), super::TreeMemory::default());
    }
}
