//! `--pss`: the proportional memory of workers' trees (proc_pid_smaps(5)). The kernel walks page tables for it and asks for
//! the rights of ptrace(2), so the client that asks for it reads it, and not the master.

use crate::event_loop::clock::Deadline;
use crate::observe::metrics::{Metrics, WorkerMetrics};
use crate::process::procfs::{self, Stat};
use crate::sys::thread;
use crossbeam_channel::bounded;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long all workers may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most processes of one tree that are read.
const MAX_TREE: usize = 4096;
/// A process that began this much earlier or later than the worker is another one, in seconds: the clocks by which both
/// times were computed may have been set in between.
const SAME_START_S: f64 = 2.0;

/// Reads the proportional memory of workers, by a thread that may hang.
#[derive(Debug, Default)]
pub struct PssReader {
    /// The thread has not ended yet.
    reads: Arc<AtomicBool>,
}

/// The first process of a worker.
#[derive(Clone, Copy)]
struct Root {
    pid: i32,
    start_time_s: f64,
}

impl Root {
    fn of(worker: &WorkerMetrics) -> Option<Self> {
        Some(Self {
            pid: worker.pid?,
            start_time_s: worker.process.start_time_s?,
        })
    }
}

/// What is known of a tree: its memory in bytes, or why not, for people. None: it has ended.
type Measured = Option<Result<u64, String>>;

impl PssReader {
    /// Adds the proportional memory of the workers that can be read. Takes five seconds at most. Returns why it could not
    /// be read of all, for people.
    pub fn add_to(&self, metrics: &mut Metrics) -> Option<String> {
        let pools = metrics.pools.iter_mut();
        let workers: Vec<&mut WorkerMetrics> = pools.flat_map(|pool| &mut pool.workers).collect();
        let roots: Vec<Option<Root>> = workers.iter().map(|worker| Root::of(worker)).collect();
        let count = workers.len();
        let mut measured = self.measure(roots).into_iter();
        let mut missing = 0;
        let mut reason = None;
        for worker in workers {
            let late = || Some(Err(format!("it took longer than {TIMEOUT:?}")));
            match measured.next().unwrap_or_else(late) {
                Some(Ok(bytes)) => worker.process.pss_bytes = Some(bytes),
                Some(Err(why)) => {
                    missing += 1;
                    reason.get_or_insert(why);
                }
                None => {}
            }
        }
        let reason = reason?;
        Some(format!(
            "the proportional memory of {missing} of {count} workers cannot be read: {reason}"
        ))
    }

    /// As far as it is there in time.
    fn measure(&self, roots: Vec<Option<Root>>) -> Vec<Measured> {
        // A thread that hangs in the kernel is not joined by others.
        if self.reads.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        let until = Deadline::after(TIMEOUT);
        let (sender, receiver) = bounded(roots.len());
        let reads = Arc::clone(&self.reads);
        let started = thread::spawn("pss", 256 << 10, move || {
            let all = Processes::read();
            for root in roots {
                let measured = root.and_then(|root| all.tree(root));
                if until.has_passed() || sender.send(measured).is_err() {
                    break;
                }
            }
            reads.store(false, Ordering::SeqCst);
        });
        if started.is_err() {
            self.reads.store(false, Ordering::SeqCst);
        }
        let mut measured = Vec::new();
        while let Ok(next) = receiver.recv_timeout(until.left()) {
            measured.push(next);
        }
        measured
    }
}

/// All processes of the machine.
struct Processes {
    booted_s: Option<u64>,
    stats: HashMap<i32, Stat>,
    children: HashMap<i32, Vec<i32>>,
    /// By session: a worker has one of its own, which its orphans stay in.
    sessions: HashMap<i32, Vec<i32>>,
}

impl Processes {
    fn read() -> Self {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        let mut sessions: HashMap<i32, Vec<i32>> = HashMap::new();
        let mut stats = HashMap::new();
        for stat in procfs::all_stats() {
            children.entry(stat.parent).or_default().push(stat.pid);
            sessions.entry(stat.session).or_default().push(stat.pid);
            stats.insert(stat.pid, stat);
        }
        Self {
            booted_s: procfs::boot_time(),
            stats,
            children,
            sessions,
        }
    }

    /// The memory of a worker's tree. A part of it would be no answer.
    fn tree(&self, root: Root) -> Measured {
        let stat = self.stats.get(&root.pid)?;
        let began = self.booted_s? as f64 + procfs::ticks(stat.start_time).as_secs_f64();
        if (began - root.start_time_s).abs() > SAME_START_S {
            return None;
        }
        let mut todo = vec![root.pid];
        let of_session = self.sessions.get(&root.pid).into_iter().flatten();
        todo.extend(of_session.copied().filter(|pid| *pid != root.pid));
        let mut seen: HashSet<i32> = todo.iter().copied().collect();
        let mut sum = 0;
        while let Some(pid) = todo.pop() {
            if seen.len() > MAX_TREE {
                return Some(Err(format!("it has more than {MAX_TREE} processes")));
            }
            match procfs::proportional_memory(pid) {
                Ok(bytes) => sum += bytes,
                // It has ended since.
                Err(_) if Stat::of(pid).is_err() => {}
                Err(error) => return Some(Err(refused(pid, &error))),
            }
            let below = self.children.get(&pid).into_iter().flatten();
            todo.extend(below.copied().filter(|pid| seen.insert(*pid)));
        }
        Some(Ok(sum)).filter(|_| sum > 0)
    }
}

fn refused(pid: i32, error: &std::io::Error) -> String {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            " (its user may read it, unless it has more rights or is protected; CAP_SYS_PTRACE may)"
        }
        _ => "",
    };
    format!("/proc/{pid}/smaps_rollup: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_with_the_pid_of_a_worker_is_not_measured() {
        let pid = std::process::id().cast_signed();
        let all = Processes::read();
        let own = &all.stats[&pid];
        let booted = all.booted_s.unwrap() as f64;
        let start_time_s = booted + procfs::ticks(own.start_time).as_secs_f64();
        let measured = all.tree(Root { pid, start_time_s });
        assert!(matches!(measured, Some(Ok(100_000..))), "{measured:?}");
        let start_time_s = start_time_s - 10.0;
        assert_eq!(all.tree(Root { pid, start_time_s }), None);
    }
}
