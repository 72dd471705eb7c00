//! Memory and CPU time of processes (proc(5)), for the status; and the thread that measures whole trees for recycling.

use crate::event_loop::waker::Waker;
use crate::process::procfs;
use crate::sys::thread;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::unistd::{SysconfVar, sysconf};
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

/// None if the process is gone. Neither file takes locks of the process.
pub fn of(pid: i32) -> Option<Usage> {
    let statm = procfs::read(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let stat = procfs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .unwrap_or(4096) as u64;
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    Some(Usage {
        rss_bytes: pages * page,
        cpu_s: ticks as f64 / hertz,
    })
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

/// A thread that reads /proc, as many files as there are processes. It sleeps until asked, and ends when this is
/// dropped.
#[derive(Debug)]
pub struct RssSampler {
    tasks: Sender<Vec<(WorkerId, i32)>>,
    found: Receiver<Vec<(WorkerId, TreeMemory)>>,
}

impl RssSampler {
    /// Starts the thread; `wake` is woken after each answer.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created.
    pub fn start(wake: Waker) -> io::Result<Self> {
        let (tasks, inbox) = bounded::<Vec<(WorkerId, i32)>>(1);
        let (outbox, found) = bounded(1);
        thread::spawn("rss-sampler", 128 << 10, move || {
            for all in inbox {
                outbox
                    .send(
                        all.into_iter()
                            .map(|(worker, pid)| (worker, measure(pid)))
                            .collect(),
                    )
                    .ok();
                wake.wake();
            }
        })?;
        Ok(Self { tasks, found })
    }

    /// Starts a measurement of these workers. Call it again only after [`RssSampler::found`] has returned the answer.
    pub fn measure(&self, all: Vec<(WorkerId, i32)>) {
        self.tasks.try_send(all).ok();
    }

    /// The answer, once it is there.
    pub fn found(&self) -> Option<Vec<(WorkerId, TreeMemory)>> {
        self.found.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_live_process_has_usage_and_a_dead_one_none() {
        let usage = super::of(std::process::id() as i32).expect("we live");
        assert!(usage.rss_bytes > 100_000);
        assert_eq!(super::of(0), None);
    }
}
