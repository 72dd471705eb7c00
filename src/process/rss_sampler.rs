//! What a process costs (proc(5)): memory and time.

use crate::event_loop::waker::Waker;
use crate::process::procfs;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::unistd::{SysconfVar, sysconf};
use rotad_core::WorkerId;
use std::io;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Resident memory, shared pages included.
    pub rss_bytes: u64,
    /// User and system time of all its threads, in seconds; children not included.
    pub cpu_s: f64,
}

/// None when the process is gone. Neither file waits for the process's locks.
pub fn of(pid: i32) -> Option<Usage> {
    let statm = procfs::read(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let stat = procfs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    Some(Usage { rss_bytes: pages * page, cpu_s: ticks as f64 / hertz })
}

/// The memory of a worker's tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeMemory {
    /// The sum over its processes. What they share (after a fork, until it is written to) counts for each.
    pub rss_bytes: u64,
    pub processes: usize,
}

/// A process and all its descendants.
fn weigh(pid: i32) -> TreeMemory {
    let all = procfs::forest(&[pid]).into_iter().filter_map(|(pid, _)| of(pid));
    all.fold(TreeMemory::default(), |sum, one| TreeMemory {
        rss_bytes: sum.rss_bytes + one.rss_bytes,
        processes: sum.processes + 1,
    })
}

/// A thread that reads as many files of /proc as there are processes. It sleeps until it is asked, and ends when this
/// is dropped.
#[derive(Debug)]
pub struct RssSampler {
    tasks: Sender<Vec<(WorkerId, i32)>>,
    found: Receiver<Vec<(WorkerId, TreeMemory)>>,
}

impl RssSampler {
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(wake: Waker) -> io::Result<Self> {
        let (tasks, inbox) = bounded::<Vec<(WorkerId, i32)>>(1);
        let (outbox, found) = bounded(1);
        let thread = std::thread::Builder::new().name("weigher".to_owned()).stack_size(128 << 10);
        thread.spawn(move || {
            // Signals for the process are the main thread's.
            nix::sys::signal::SigSet::all().thread_block().ok();
            for all in inbox {
                outbox.send(all.into_iter().map(|(worker, pid)| (worker, weigh(pid))).collect()).ok();
                wake.wake();
            }
        })?;
        Ok(Self { tasks, found })
    }

    /// Weighs these, once; not to be called again before [`RssSampler::found`] has given the answer.
    pub fn weigh(&self, all: Vec<(WorkerId, i32)>) {
        self.tasks.try_send(all).ok();
    }

    /// The answer, once it is there; the bell is rung then.
    pub fn found(&self) -> Option<Vec<(WorkerId, TreeMemory)>> {
        self.found.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn we_cost_something_and_the_dead_nothing() {
        let usage = super::of(std::process::id() as i32).expect("we live");
        assert!(usage.rss_bytes > 100_000);
        assert_eq!(super::of(0), None);
    }
}
