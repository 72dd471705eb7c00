//! Stops stale workers: each tree gets the stop steps of its pool, as the killed master would have run them; survivors
//! are killed.
//!
//! A stop applies to the whole tree: when the worker itself has exited, the rest of its tree gets the step's signal
//! once, and the remaining time. A pool is stopped after those that come `after` it are gone. Time in which the master
//! was paused does not count.

use super::{StaleWorker, StaleWorkers};
use crate::event_loop::clock::{Clock, LoopClock};
use crate::sys::poll::poll;
use nix::libc::{SIGCONT, SIGKILL, SIGTERM};
use nix::poll::{PollFd, PollFlags};
use rotad_core::{Signal, Span, StopStep, Time, To};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How long workers of a pool that is no longer configured may take to stop.
const DEFAULT_WAIT: Span = Span::from_secs(30);
/// How long the kernel may take to end killed processes.
const KILL_WAIT: Span = Span::from_secs(5);
/// The interval of scans: processes that a worker starts meanwhile are found by nothing else.
const SCAN_INTERVAL: Span = Span::from_millis(100);

/// Processes that end within this time are handled in one scan.
const BATCH_PAUSE: Duration = Duration::from_millis(5);

/// How the workers of one pool are stopped.
#[derive(Clone, Debug)]
pub struct StopPlan {
    /// The stop steps.
    pub steps: Vec<StopStep>,
    /// The pools that this one comes after: they are stopped when this one is gone.
    pub after: Vec<String>,
}

impl Default for StopPlan {
    fn default() -> Self {
        Self {
            steps: vec![StopStep {
                signal: Some(Signal(SIGTERM)),
                wait: DEFAULT_WAIT,
                to: To::Main,
            }],
            after: Vec::new(),
        }
    }
}

/// What the caller of [`StaleWorkers::take_over`] wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOverStep {
    /// Go on with the stop steps.
    Continue,
    /// Kill all that are left.
    KillNow,
}

/// The result of [`StaleWorkers::take_over`].
#[derive(Debug, Default)]
pub struct TakeOverResult {
    /// The number of processes that were found.
    pub found: usize,
    /// Workers that were killed at the end of their stop steps, as `pool/slot: pid N`.
    pub killed: Vec<String>,
    /// Processes that could not be ended.
    pub unkillable: Vec<StaleWorker>,
}

/// The process tree of one worker.
#[derive(Debug)]
struct Tree {
    pool: String,
    state: TreeState,
    /// Processes that got the signal of the current step, by pid and start time.
    signalled: HashSet<(i32, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TreeState {
    /// Waits until the pools that come after it are gone.
    Held,
    /// In this step, until this time.
    StopStep(usize, Time),
    /// Got SIGKILL; given up at this time.
    Killing(Time),
}

impl StaleWorkers {
    /// Stops all of them. `stop_plans`: by pool name; `cap`: the longest time before the remaining ones are killed;
    /// `wake_fd`: a descriptor that ends a wait when it is readable; `on_turn`: called at each scan with the remaining
    /// ones.
    pub fn take_over(
        mut self,
        stop_plans: &BTreeMap<String, StopPlan>,
        cap: Option<Span>,
        wake_fd: Option<BorrowedFd<'_>>,
        mut on_turn: impl FnMut(&[StaleWorker]) -> TakeOverStep,
    ) -> TakeOverResult {
        let mut clock = LoopClock::new(Clock::start());
        let end = cap.map(|cap| clock.now() + cap);
        let mut trees: HashMap<String, Tree> = HashMap::new();
        let mut result = TakeOverResult {
            found: self.found.len(),
            ..TakeOverResult::default()
        };
        let mut remaining = std::mem::take(&mut self.found);
        let mut kill = false;
        loop {
            let now = clock.now();
            kill |=
                on_turn(&remaining) == TakeOverStep::KillNow || end.is_some_and(|end| end <= now);
            trees.retain(|tag, _| remaining.iter().any(|one| one.tag == *tag));
            for one in &remaining {
                let (pool, signalled) = (one.pool.clone(), HashSet::new());
                trees.entry(one.tag.clone()).or_insert(Tree {
                    pool,
                    state: TreeState::Held,
                    signalled,
                });
            }
            if remaining.is_empty() {
                return result;
            }
            self.record_found(&remaining);
            let held_pools = held_pools(&trees, stop_plans);
            for (tag, tree) in &mut trees {
                let members: Vec<&StaleWorker> =
                    remaining.iter().filter(|one| one.tag == *tag).collect();
                let stop_plan = stop_plans.get(&tree.pool).cloned().unwrap_or_default();
                let holds = held_pools.contains(&tree.pool);
                if tree.advance(&stop_plan.steps, now, holds, kill) {
                    result.killed.extend(
                        members
                            .iter()
                            .filter(|one| one.process.is_some())
                            .map(|one| one.name()),
                    );
                }
                tree.send_signal(&stop_plan.steps, &members);
            }
            let given_up =
                |state: &TreeState| matches!(state, TreeState::Killing(until) if *until <= now);
            let hopeless = remaining.iter().all(|one| one.process.is_none());
            if hopeless || trees.values().all(|tree| given_up(&tree.state)) {
                result.unkillable = remaining;
                return result;
            }
            wait(&remaining, wake_fd, SCAN_INTERVAL);
            clock.wake(Some(SCAN_INTERVAL.into()));
            remaining = self.scan();
        }
    }
}

impl StaleWorker {
    /// `web/0: pid 4711`.
    pub fn name(&self) -> String {
        let what = if self.is_worker {
            ""
        } else {
            " (left behind by it)"
        };
        format!("{}/{}: pid {}{what}", self.pool, self.slot, self.pid)
    }
}

/// The pools that have to wait because pools after them still run.
fn held_pools(
    trees: &HashMap<String, Tree>,
    stop_plans: &BTreeMap<String, StopPlan>,
) -> HashSet<String> {
    let living: HashSet<&str> = trees.values().map(|tree| tree.pool.as_str()).collect();
    let names = living
        .iter()
        .filter_map(|pool| stop_plans.get(*pool))
        .flat_map(|stop_plan| stop_plan.after.iter().cloned());
    names.collect()
}

impl Tree {
    /// Enters the state that is due. True if the tree is to be killed now.
    fn advance(&mut self, steps: &[StopStep], now: Time, held: bool, kill: bool) -> bool {
        let before = self.state;
        let mut next = match self.state {
            TreeState::Held if held && !kill => return false,
            TreeState::Held => 0,
            TreeState::StopStep(step, until) if until <= now => step + 1,
            TreeState::StopStep(step, _) => step,
            TreeState::Killing(_) => return false,
        };
        if kill {
            next = steps.len();
        }
        self.state = match steps.get(next) {
            Some(_) if matches!(before, TreeState::StopStep(step, _) if step == next) => before,
            Some(step) => {
                self.signalled.clear();
                TreeState::StopStep(next, now + step.wait)
            }
            None => TreeState::Killing(now + KILL_WAIT),
        };
        matches!(self.state, TreeState::Killing(_))
    }

    /// Sends the signal of the state to those that have not got it.
    fn send_signal(&mut self, steps: &[StopStep], members: &[&StaleWorker]) {
        let (signal, to) = match self.state {
            TreeState::Held => return,
            TreeState::Killing(_) => (SIGKILL, To::Tree),
            TreeState::StopStep(step, _) => match steps
                .get(step)
                .and_then(|step| Some((step.signal?, step.to)))
            {
                Some((signal, to)) => (signal.0, to),
                None => return,
            },
        };
        let whole = to == To::Tree || !members.iter().any(|one| one.is_worker);
        for one in members.iter().filter(|one| whole || one.is_worker) {
            let Some(process) = &one.process else {
                continue;
            };
            if signal == SIGKILL || self.signalled.insert((one.pid, one.start_time)) {
                process.signal(signal).ok();
                // A stopped process would not handle the signal.
                process.signal(SIGCONT).ok();
            }
        }
    }
}

/// Waits until a process has ended, `wake_fd` is readable, or the time is over.
fn wait(remaining: &[StaleWorker], wake_fd: Option<BorrowedFd<'_>>, time: Span) {
    let pidfds = remaining
        .iter()
        .filter_map(|one| one.process.as_ref()?.pidfd());
    let mut fds: Vec<PollFd<'_>> = pidfds
        .chain(wake_fd)
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut fds, Some(time.into())).ok();
    // Many end together: one scan for all of them.
    std::thread::sleep(BATCH_PAUSE);
}
