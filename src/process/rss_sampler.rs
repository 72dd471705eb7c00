//! Memory and CPU time of processes (proc(5)): of workers for the status, and of whole trees for recycling. Both are read
//! on threads other than the main thread: a thousand processes are a thousand files.

use crate::event_loop::mailbox::Mailbox;
use crate::process::procfs::{self, Stat};
use crate::sys::thread;
use crossbeam_channel::{Sender, bounded};
use rotad_core::WorkerId;
use std::io;

/// Resources of one process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Resident memory, shared pages included.
    pub rss_bytes: u64,
    /// User and system time of all its threads, in seconds; children not included.
    pub cpu_s: f64,
}

/// None if the process is gone.
fn of(pid: i32) -> Option<Usage> {
    Stat::of(pid).ok().map(|stat| usage(&stat))
}

fn usage(stat: &Stat) -> Usage {
    Usage {
        rss_bytes: procfs::pages(stat.rss_pages),
        cpu_s: procfs::ticks(stat.cpu_ticks).as_secs_f64(),
    }
}

/// The resources of those processes that are still children of this one, or of `parents`, which have got the workers of
/// dead masters. A pid that was reaped meanwhile may belong to an unrelated process.
pub fn of_children(pids: &[i32], parents: &[i32]) -> Vec<(i32, Usage)> {
    let me = std::process::id().cast_signed();
    let child = |pid: &i32| {
        let stat = Stat::of(*pid).ok()?;
        (stat.parent == me || parents.contains(&stat.parent)).then(|| (*pid, usage(&stat)))
    };
    pids.iter().filter_map(child).collect()
}

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
        .filter_map(|(pid, _)| of(pid));
    all.fold(TreeMemory::default(), |sum, one| TreeMemory {
        rss_bytes: sum.rss_bytes + one.rss_bytes,
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
    fn a_live_process_has_usage_and_a_dead_one_none() {
        let usage = super::of(std::process::id() as i32).expect("we live");
        assert!(usage.rss_bytes > 100_000);
        assert_eq!(super::of(0), None);
        assert_eq!(super::of_children(&[std::process::id() as i32, 1], &[]), []);
    }
}
