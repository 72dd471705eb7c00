//! How much of the processors starting workers want: the time that they had, and the time that they waited for their
//! turn (proc(5), `schedstat`). A worker that computes on a busy machine wants a whole processor, however little of it
//! it gets; one that waits for a network or a clock wants nothing.

use crate::event_loop::waker::Waker;
use crate::process::procfs;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::unistd::{SysconfVar, sysconf};
use rotad_core::WorkerId;
use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

/// Workers that are looked at in one round; the others have their turn in the next.
const MOST_WORKERS: usize = 32;
/// Processes of one worker that are looked at.
const MOST_PROCESSES: usize = 64;
/// What is wanted is what was wanted over so long: a shorter time says little, a longer one is past.
const SPAN: Duration = Duration::from_millis(40);
/// Until that age a worker that waits for a disk is loading its program: it says nothing about what comes then.
const LOADING: Duration = Duration::from_millis(200);

/// A worker to be looked at: its first process, and how long ago that was ordered.
#[derive(Clone, Copy, Debug)]
pub struct Starter {
    pub worker: WorkerId,
    pub pid: i32,
    pub age: Duration,
}

/// A thread that reads as many files of /proc as there are processes. It sleeps until it is asked, and ends when this
/// is dropped.
#[derive(Debug)]
pub struct Meter {
    tasks: Sender<Vec<Starter>>,
    found: Receiver<Vec<(WorkerId, u32)>>,
}

impl Meter {
    /// `wake` is rung after each answer.
    ///
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(wake: Waker) -> io::Result<Self> {
        let (tasks, inbox) = bounded::<Vec<Starter>>(1);
        let (outbox, found) = bounded(1);
        let thread = std::thread::Builder::new().name("meter".to_owned()).stack_size(128 << 10);
        thread.spawn(move || {
            // Signals for the process are the main thread's.
            nix::sys::signal::SigSet::all().thread_block().ok();
            let mut rounds = Rounds::new();
            for all in inbox {
                outbox.send(rounds.look(all)).ok();
                wake.wake();
            }
        })?;
        Ok(Self { tasks, found })
    }

    /// Looks at these, once; not to be called again before [`Meter::found`] has given the answer.
    pub fn look(&self, all: Vec<Starter>) {
        self.tasks.try_send(all).ok();
    }

    /// The answer, once it is there: what each wants, in percent of a processor. Those of whom nothing can be said yet
    /// are left out.
    pub fn found(&self) -> Option<Vec<(WorkerId, u32)>> {
        self.found.try_recv().ok()
    }
}

/// What a worker's tree has had and waited for so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    wanted: Duration,
    /// Some process computes, or would.
    runs: bool,
    /// Some process waits for a disk.
    loads: bool,
    /// The kernel tells how long it waited for its turn.
    delays: bool,
}

#[derive(Debug)]
struct Rounds {
    tick: Duration,
    /// What was seen at least [`SPAN`] ago, if so long ago there was anything to see.
    before: HashMap<WorkerId, (Instant, Duration)>,
    /// Whose turn it was last.
    last: WorkerId,
}

impl Rounds {
    fn new() -> Self {
        let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|hertz| u32::try_from(hertz).ok());
        let tick = Duration::from_secs(1) / hertz.filter(|hertz| *hertz > 0).unwrap_or(100);
        Self { tick, before: HashMap::new(), last: WorkerId(0) }
    }

    fn look(&mut self, mut all: Vec<Starter>) -> Vec<(WorkerId, u32)> {
        self.before.retain(|worker, _| all.iter().any(|one| one.worker == *worker));
        all.sort_by_key(|one| one.worker);
        let first = all.partition_point(|one| one.worker <= self.last);
        if all.len() > MOST_WORKERS {
            all.rotate_left(first);
        }
        all.truncate(MOST_WORKERS);
        self.last = all.last().map_or(WorkerId(0), |one| one.worker);
        all.into_iter().filter_map(|one| Some((one.worker, self.demand(one)?))).collect()
    }

    fn demand(&mut self, one: Starter) -> Option<u32> {
        let now = Instant::now();
        let sample = sample(one.pid, self.tick)?;
        let (span, wanted) = match self.before.get(&one.worker) {
            Some((at, before)) => (now - *at, sample.wanted.saturating_sub(*before)),
            None => (one.age, sample.wanted),
        };
        if span >= SPAN {
            self.before.insert(one.worker, (now, sample.wanted));
        }
        if sample.loads && one.age < LOADING {
            return None;
        }
        let percent = (wanted.as_micros() * 100 / span.as_micros().max(1)).min(100_000) as u32;
        // One that waits for its turn has that time counted when it gets it.
        let waits = sample.runs && (span < SPAN || wanted.is_zero() || !sample.delays);
        Some(if waits { percent.max(100) } else { percent })
    }
}

/// None: it is gone.
fn sample(pid: i32, tick: Duration) -> Option<Sample> {
    let all = procfs::forest(&[pid]).into_iter().take(MOST_PROCESSES).filter_map(|(pid, _)| process(pid, tick));
    all.reduce(|sum, one| Sample {
        wanted: sum.wanted + one.wanted,
        runs: sum.runs || one.runs,
        loads: sum.loads || one.loads,
        delays: sum.delays || one.delays,
    })
}

/// Neither file waits for the process's locks.
fn process(pid: i32, tick: Duration) -> Option<Sample> {
    let stat = procfs::read(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // utime, stime, and those of children that are gone: fields 14 to 17.
    let ticks: Vec<u32> = fields.skip(10).take(4).filter_map(|field| field.parse().ok()).collect();
    let &[user, system, children_user, children_system] = ticks.as_slice() else { return None };
    let (own, children) = (tick * (user + system), tick * (children_user + children_system));
    // Of its first thread, in nanoseconds: on a processor, waiting for one.
    let text = procfs::read(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let mut fields = text.split_ascii_whitespace().filter_map(|field| field.parse().ok()).map(Duration::from_nanos);
    let (had, waited) = (fields.next(), fields.next());
    Some(Sample {
        wanted: own.max(had.unwrap_or_default()) + children + waited.unwrap_or_default(),
        runs: state == "R",
        loads: state == "D",
        delays: waited.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, killpg};
    use nix::unistd::Pid;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    struct Started(Child, Instant);

    impl Started {
        fn new(words: &[&str]) -> Self {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::null()).process_group(0);
            Self(command.spawn().expect("a child"), Instant::now())
        }

        fn starter(&self, number: u64) -> Starter {
            Starter { worker: WorkerId(number), pid: self.0.id() as i32, age: self.1.elapsed() }
        }
    }

    impl Drop for Started {
        fn drop(&mut self) {
            // Its group: a shell's child would compute for ever.
            killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL).ok();
            self.0.wait().ok();
        }
    }

    /// Until this shows, at most 10 s.
    fn shows(rounds: &mut Rounds, all: &[&Started], is: impl Fn(&[(WorkerId, u32)]) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let starters = all.iter().enumerate().map(|(at, one)| one.starter(at as u64 + 1)).collect();
            let found = rounds.look(starters);
            if is(&found) {
                return;
            }
            assert!(Instant::now() < end, "{found:?}");
            std::thread::sleep(SPAN);
        }
    }

    /// More of them than processors, so that each waits for its turn; one of them as the child of a shell.
    #[test]
    fn computing_is_wanting_a_processor_and_waiting_is_not() {
        let mut all: Vec<Started> = (0..3).map(|_| Started::new(&["sh", "-c", "while :; do :; done"])).collect();
        all.push(Started::new(&["sh", "-c", "sh -c 'while :; do :; done'; true"]));
        all.push(Started::new(&["sleep", "60"]));
        let all: Vec<&Started> = all.iter().collect();
        let is = |found: &[(WorkerId, u32)]| {
            found.len() == 5 && found[..4].iter().all(|(_, wants)| *wants >= 70) && found[4].1 < 20
        };
        shows(&mut Rounds::new(), &all, is);
    }

    #[test]
    fn all_have_their_turn() {
        let one = Started::new(&["sleep", "60"]);
        let mut rounds = Rounds::new();
        let starter = |number| Starter { worker: WorkerId(number), ..one.starter(0) };
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            seen.extend(rounds.look((1..=100).map(starter).collect()).into_iter().map(|(worker, _)| worker));
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn the_dead_want_nothing() {
        let starter = Starter { worker: WorkerId(1), pid: i32::MAX, age: Duration::from_secs(1) };
        assert!(Rounds::new().look(vec![starter]).is_empty());
    }
}
