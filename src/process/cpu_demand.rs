//! Measures how much CPU starting workers want: the time they got, plus the time they waited for a CPU (proc(5),
//! `schedstat`). A worker that computes on a busy machine wants a whole CPU, however little of it it gets; one that
//! waits for a network or a timer wants none. The supervisor's boot limit asks before it starts further workers.

use crate::event_loop::clock::Clock;
use crate::event_loop::mailbox::Mailbox;
use crate::process::procfs::{self, Stat};
use crate::sys::thread;
use crossbeam_channel::{Sender, bounded};
use rotad_core::WorkerId;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// Workers measured per round; the others have their turn in the next.
const MAX_WORKERS: usize = 32;
/// Processes measured per worker.
const MAX_PROCESSES: usize = 64;
/// Demand is averaged over at least this time: less says little, more is out of date.
const SPAN: Duration = Duration::from_millis(40);
/// Until this age a worker in disk wait is loading its program, which says nothing about its demand afterwards.
const LOADING: Duration = Duration::from_millis(200);

/// A worker to measure: its first process, and how long ago it was requested.
#[derive(Clone, Copy, Debug)]
pub struct Starter {
    /// The number of the worker.
    pub worker: WorkerId,
    /// Its pid.
    pub pid: i32,
    /// Its age.
    pub age: Duration,
}

/// A thread that reads /proc, as many files as there are processes. It sleeps until asked, and ends when this is
/// dropped.
#[derive(Debug)]
pub struct Meter {
    tasks: Sender<Vec<Starter>>,
}

impl Meter {
    /// Starts the thread. `wake` is woken after each answer.
    ///
    /// # Errors
    /// EAGAIN: no thread can be created.
    pub fn start(results: Mailbox<Vec<(WorkerId, u32)>>, clock: Clock) -> io::Result<Self> {
        let (tasks, inbox) = bounded::<Vec<Starter>>(1);
        thread::spawn("cpu-sampler", 128 << 10, move || {
            let mut meter = CpuMeter::new(clock);
            for all in inbox {
                results.send(meter.measure(all));
            }
        })?;
        Ok(Self { tasks })
    }

    /// Starts a measurement of these workers. Call it again only after the answer has come.
    pub fn measure(&self, all: Vec<Starter>) {
        self.tasks.try_send(all).ok();
    }
}

/// CPU time a worker's tree has got and waited for so far.
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

#[derive(Debug)]
struct CpuMeter {
    clock: Clock,
    /// The last sample that is at least [`SPAN`] old: when, and what was wanted until then.
    before: HashMap<WorkerId, (Duration, Duration)>,
    /// The last worker of the previous round.
    last: WorkerId,
}

impl CpuMeter {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            before: HashMap::new(),
            last: WorkerId(0),
        }
    }

    fn measure(&mut self, mut all: Vec<Starter>) -> Vec<(WorkerId, u32)> {
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

    fn demand(&mut self, one: Starter) -> Option<u32> {
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

/// Neither file takes locks of the process.
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
    let (had, waited) = (fields.next(), fields.next());
    Some(Sample {
        wanted: own.max(had.unwrap_or_default()) + children + waited.unwrap_or_default(),
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

        fn starter(&self, number: u64) -> Starter {
            Starter {
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
    fn shows(meter: &mut CpuMeter, all: &[&Started], is: impl Fn(&[(WorkerId, u32)]) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let starters = all
                .iter()
                .enumerate()
                .map(|(at, one)| one.starter(at as u64 + 1))
                .collect();
            let found = meter.measure(starters);
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
        shows(&mut CpuMeter::new(Clock::start()), &all, is);
    }

    #[test]
    fn every_worker_is_measured_in_turn() {
        let one = Started::new(&["sleep", "60"]);
        let mut meter = CpuMeter::new(Clock::start());
        let starter = |number| Starter {
            worker: WorkerId(number),
            // Its program may still be coming from the disk, and a younger worker is not measured then.
            age: LOADING,
            ..one.starter(0)
        };
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            seen.extend(
                meter
                    .measure((1..=100).map(starter).collect())
                    .into_iter()
                    .map(|(worker, _)| worker),
            );
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn a_dead_process_has_no_demand() {
        let starter = Starter {
            worker: WorkerId(1),
            pid: i32::MAX,
            age: Duration::from_secs(1),
        };
        assert!(
            CpuMeter::new(Clock::start())
                .measure(vec![starter])
                .is_empty()
        );
    }
}
