//! Measures the processor demand of starting workers: the time that they ran, plus the time that they waited for a CPU
//! (proc(5), `schedstat`). A worker that computes on a busy machine demands a whole CPU, however little of it it gets;
//! one that waits for a network or a timer demands none. The supervisor's boot limit asks before it starts further
//! workers.

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::process::procfs::{self, Stat};
use crate::sys::thread;
use crossbeam_channel::{Sender, bounded};
use rotad_core::WorkerId;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// Workers measured per call; the others have their turn in the next.
const MAX_WORKERS: usize = 32;
/// Processes measured per worker.
const MAX_PROCESSES: usize = 64;
/// Demand is averaged over at least this time. Over less it is noise, over much more it is out of date.
const SPAN: Duration = Duration::from_millis(40);
/// Until this age a worker in disk wait is loading its program, which says nothing about its demand afterwards.
const LOADING: Duration = Duration::from_millis(200);

/// A worker to measure.
#[derive(Clone, Copy, Debug)]
pub struct StartingProcess {
    /// Its id.
    pub worker: WorkerId,
    /// The pid of its first process.
    pub pid: i32,
    /// How long ago its spawn was requested.
    pub age: Duration,
}

/// The handle of the thread that reads /proc: one thread, since there are as many files as processes. It sleeps until
/// asked, and ends when this is dropped.
#[derive(Debug)]
pub struct CpuSampler {
    requests: Sender<Vec<StartingProcess>>,
}

impl CpuSampler {
    /// Starts the thread, which sends each answer to `results`: workers with their demand in percent of one CPU.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created.
    pub fn start(results: Mailbox<Vec<(WorkerId, u32)>>, clock: Clock) -> io::Result<Self> {
        let (requests, received) = bounded::<Vec<StartingProcess>>(1);
        thread::spawn("cpu-sampler", 128 << 10, move || {
            let mut demands = Demands::new(clock);
            for all in received {
                results.send(demands.measure(all));
            }
        })?;
        Ok(Self { requests })
    }

    /// Starts a measurement of these workers. Call it again only after the answer has come.
    pub fn measure(&self, all: Vec<StartingProcess>) {
        self.requests.try_send(all).ok();
    }
}

/// The CPU time that a worker's tree has used and waited for so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    wanted: Duration,
    /// Some process is runnable.
    runnable: bool,
    /// Some process is in disk wait.
    in_disk_wait: bool,
    /// The kernel reports the time waited for a CPU.
    has_delays: bool,
}

/// The state of the thread: what it measured before.
#[derive(Debug)]
struct Demands {
    clock: Clock,
    /// The last sample that is at least [`SPAN`] old: when, and what was wanted until then.
    before: HashMap<WorkerId, (Duration, Duration)>,
    /// The last worker of the previous call.
    last: WorkerId,
}

impl Demands {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            before: HashMap::new(),
            last: WorkerId(0),
        }
    }

    fn measure(&mut self, mut all: Vec<StartingProcess>) -> Vec<(WorkerId, u32)> {
        self.before
            .retain(|worker, _| all.iter().any(|one| one.worker == *worker));
        all.sort_by_key(|one| one.worker);
        let first = all.partition_point(|one| one.worker <= self.last);
        if all.len() > MAX_WORKERS {
            all.rotate_left(first);
        }
        all.truncate(MAX_WORKERS);
        self.last = all.last().map_or(WorkerId(0), |one| one.worker);
        all.into_iter()
            .filter_map(|one| Some((one.worker, self.demand(one)?)))
            .collect()
    }

    fn demand(&mut self, one: StartingProcess) -> Option<u32> {
        let now = self.clock.elapsed();
        let sample = sample(one.pid)?;
        let (span, wanted) = match self.before.get(&one.worker) {
            Some((at, before)) => (
                now.saturating_sub(*at),
                sample.wanted.saturating_sub(*before),
            ),
            None => (one.age, sample.wanted),
        };
        if span >= SPAN {
            self.before.insert(one.worker, (now, sample.wanted));
        }
        if sample.in_disk_wait && one.age < LOADING {
            return None;
        }
        let percent = (wanted.as_micros() * 100 / span.as_micros().max(1)).min(100_000) as u32;
        // The kernel adds the waiting time only when the process gets a CPU.
        let waits = sample.runnable && (span < SPAN || wanted.is_zero() || !sample.has_delays);
        Some(if waits { percent.max(100) } else { percent })
    }
}

/// None: the process is gone.
fn sample(pid: i32) -> Option<Sample> {
    let all = procfs::forest(&[pid])
        .into_iter()
        .take(MAX_PROCESSES)
        .filter_map(|(pid, _)| process(pid));
    all.reduce(|sum, one| Sample {
        wanted: sum.wanted + one.wanted,
        runnable: sum.runnable || one.runnable,
        in_disk_wait: sum.in_disk_wait || one.in_disk_wait,
        has_delays: sum.has_delays || one.has_delays,
    })
}

/// One process. Reading neither file takes a lock of the process.
fn process(pid: i32) -> Option<Sample> {
    let stat = Stat::of(pid).ok()?;
    let (own, children) = (
        procfs::ticks(stat.cpu_ticks),
        procfs::ticks(stat.children_cpu_ticks),
    );
    // For its first thread, in nanoseconds: on a CPU, and waiting for one.
    let text = procfs::read(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let mut fields = text
        .split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .map(Duration::from_nanos);
    let (ran, waited) = (fields.next(), fields.next());
    Some(Sample {
        wanted: own.max(ran.unwrap_or_default()) + children + waited.unwrap_or_default(),
        runnable: stat.state == b'R',
        in_disk_wait: stat.state == b'D',
        has_delays: waited.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};
    use std::time::Instant;

    struct Started(Child, Instant);

    impl Started {
        fn new(words: &[&str]) -> Self {
            let mut command = Command::new(words[0]);
            command
                .args(&words[1..])
                .stdin(Stdio::null())
                .process_group(0);
            Self(command.spawn().expect("a child"), Instant::now())
        }

        fn starting_process(&self, number: u64) -> StartingProcess {
            StartingProcess {
                worker: WorkerId(number),
                pid: self.0.id() as i32,
                age: self.1.elapsed(),
            }
        }
    }

    impl Drop for Started {
        fn drop(&mut self) {
            // Its group: a child of the shell would keep computing.
            killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL).ok();
            self.0.wait().ok();
        }
    }

    /// Measures until `is` holds, at most 10 s.
    fn shows(demands: &mut Demands, all: &[&Started], is: impl Fn(&[(WorkerId, u32)]) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let starting = all
                .iter()
                .enumerate()
                .map(|(at, one)| one.starting_process(at as u64 + 1))
                .collect();
            let found = demands.measure(starting);
            if is(&found) {
                return;
            }
            assert!(Instant::now() < end, "{found:?}");
            std::thread::sleep(SPAN);
        }
    }

    /// More busy loops than CPUs, so that each waits for its turn; one of them as the child of a shell.
    #[test]
    fn busy_loops_demand_a_cpu_and_sleepers_none() {
        let mut all: Vec<Started> = (0..3)
            .map(|_| Started::new(&["sh", "-c", "while :; do :; done"]))
            .collect();
        all.push(Started::new(&[
            "sh",
            "-c",
            "sh -c 'while :; do :; done'; true",
        ]));
        all.push(Started::new(&["sleep", "60"]));
        let all: Vec<&Started> = all.iter().collect();
        let is = |found: &[(WorkerId, u32)]| {
            found.len() == 5 && found[..4].iter().all(|(_, wants)| *wants >= 70) && found[4].1 < 20
        };
        shows(&mut Demands::new(Clock::start()), &all, is);
    }

    #[test]
    fn every_worker_is_measured_in_turn() {
        let one = Started::new(&["sleep", "60"]);
        let mut demands = Demands::new(Clock::start());
        let starting_process = |number| StartingProcess {
            worker: WorkerId(number),
            // Its program may still be coming from the disk, and a younger worker is not measured then.
            age: LOADING,
            ..one.starting_process(0)
        };
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            seen.extend(
                demands
                    .measure((1..=100).map(starting_process).collect())
                    .into_iter()
                    .map(|(worker, _)| worker),
            );
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn a_dead_process_has_no_demand() {
        let starting_process = StartingProcess {
            worker: WorkerId(1),
            pid: i32::MAX,
            age: Duration::from_secs(1),
        };
        assert!(
            Demands::new(Clock::start())
                .measure(vec![starting_process])
                .is_empty()
        );
    }
}
