//! Stops stale workers: each tree gets the stop steps of its pool, as the killed master would have run them; survivors
//! are killed.
//!
//! A stop applies to the whole tree: when the worker itself has exited, the rest of its tree gets the step's signal
//! once, and the remaining time. A pool is stopped after those that come `after` it are gone. Time in which the master
//! was paused does not count.

use super::{StaleWorker, StaleWorkers};
use crate::event_loop::clock::Clock;
use crate::sys::poll::poll;
use nix::libc::{SIGCONT, SIGKILL, SIGTERM};
use nix::poll::{PollFd, PollFlags};
use rotad_core::{Signal, Span, StopStep, Time, To};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How workers are stopped whose pool the configuration has no more.
const PATIENCE: Span = Span::from_secs(30);
/// How long the kernel may take to end what was killed.
const KILL_WAIT: Span = Span::from_secs(5);
/// Who is left is looked at this often: what a worker started meanwhile rings no bell.
const LOOK_EVERY: Span = Span::from_millis(100);

/// Ends within so much time are looked at together.
const TOGETHER: Duration = Duration::from_millis(5);

/// How the workers of one pool are stopped.
#[derive(Clone, Debug)]
pub struct Manner {
    pub steps: Vec<StopStep>,
    /// The pools that this one comes after: they are asked when this one is gone.
    pub after: Vec<String>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            steps: vec![StopStep {
                signal: Some(Signal(SIGTERM)),
                wait: PATIENCE,
                to: To::Main,
            }],
            after: Vec::new(),
        }
    }
}

/// What may be heard while leftovers are being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nudge {
    /// Nothing: go on.
    None,
    /// No more patience.
    KillNow,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct TakenOver {
    /// Processes that were found.
    pub found: usize,
    /// Workers that were killed at the end of their stop steps, as `pool/slot: pid N`.
    pub cut: Vec<String>,
    /// Those that could not be ended.
    pub stubborn: Vec<StaleWorker>,
}

/// One worker's tree.
#[derive(Debug)]
struct Tree {
    pool: String,
    stage: Stage,
    /// Who has got the signal of the present step.
    told: HashSet<(i32, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Others come first.
    Held,
    /// In this step, until then.
    StopStep(usize, Time),
    Killing(Time),
}

impl StaleWorkers {
    /// Ends them all. `manners`: by the pools' names; `cap`: how long the polite part may take at most; `bell`: a
    /// descriptor that makes `turn` worth calling; `turn`: called again and again with those that are left.
    pub fn take_over(
        mut self,
        manners: &BTreeMap<String, Manner>,
        cap: Option<Span>,
        bell: Option<BorrowedFd<'_>>,
        mut turn: impl FnMut(&[StaleWorker]) -> Nudge,
    ) -> TakenOver {
        let mut clock = Clock::start();
        let end = cap.map(|cap| clock.now() + cap);
        let mut trees: HashMap<String, Tree> = HashMap::new();
        let mut result = TakenOver {
            found: self.found.len(),
            ..TakenOver::default()
        };
        let mut left = std::mem::take(&mut self.found);
        let mut kill = false;
        loop {
            let now = clock.now();
            kill |= turn(&left) == Nudge::KillNow || end.is_some_and(|end| end <= now);
            trees.retain(|tag, _| left.iter().any(|one| one.tag == *tag));
            for one in &left {
                let (pool, told) = (one.pool.clone(), HashSet::new());
                trees.entry(one.tag.clone()).or_insert(Tree {
                    pool,
                    stage: Stage::Held,
                    told,
                });
            }
            if left.is_empty() {
                return result;
            }
            self.note(&left);
            let held_pools = held(&trees, manners);
            for (tag, tree) in &mut trees {
                let members: Vec<&StaleWorker> =
                    left.iter().filter(|one| one.tag == *tag).collect();
                let manner = manners.get(&tree.pool).cloned().unwrap_or_default();
                let holds = held_pools.contains(&tree.pool);
                if tree.advance(&manner.steps, now, holds, kill) {
                    result.cut.extend(
                        members
                            .iter()
                            .filter(|one| one.process.is_some())
                            .map(|one| one.name()),
                    );
                }
                tree.tell(&manner.steps, &members);
            }
            let given_up = |stage: &Stage| matches!(stage, Stage::Killing(until) if *until <= now);
            let hopeless = left.iter().all(|one| one.process.is_none());
            if hopeless || trees.values().all(|tree| given_up(&tree.stage)) {
                result.stubborn = left;
                return result;
            }
            wait(&left, bell, LOOK_EVERY);
            clock.wake(Some(Duration::from_millis(LOOK_EVERY.as_millis())));
            left = self.look();
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

/// The pools that others still come after.
fn held(trees: &HashMap<String, Tree>, manners: &BTreeMap<String, Manner>) -> HashSet<String> {
    let living: HashSet<&str> = trees.values().map(|tree| tree.pool.as_str()).collect();
    let names = living
        .iter()
        .filter_map(|pool| manners.get(*pool))
        .flat_map(|manner| manner.after.iter().cloned());
    names.collect()
}

impl Tree {
    /// Goes on to the stage that it is time for. True: its patience is over, and it is killed now.
    fn advance(&mut self, steps: &[StopStep], now: Time, held: bool, kill: bool) -> bool {
        let before = self.stage;
        let mut next = match self.stage {
            Stage::Held if held && !kill => return false,
            Stage::Held => 0,
            Stage::StopStep(step, until) if until <= now => step + 1,
            Stage::StopStep(step, _) => step,
            Stage::Killing(_) => return false,
        };
        if kill {
            next = steps.len();
        }
        self.stage = match steps.get(next) {
            Some(_) if matches!(before, Stage::StopStep(step, _) if step == next) => before,
            Some(step) => {
                self.told.clear();
                Stage::StopStep(next, now + step.wait)
            }
            None => Stage::Killing(now + KILL_WAIT),
        };
        matches!(self.stage, Stage::Killing(_))
    }

    /// Sends what the stage asks for.
    fn tell(&mut self, steps: &[StopStep], members: &[&StaleWorker]) {
        let (signal, to) = match self.stage {
            Stage::Held => return,
            Stage::Killing(_) => (SIGKILL, To::Tree),
            Stage::StopStep(step, _) => match steps
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
            if signal == SIGKILL || self.told.insert((one.pid, one.start_time)) {
                process.signal(signal).ok();
                // Stopped, it would never see it.
                process.signal(SIGCONT).ok();
            }
        }
    }
}

/// Waits until somebody has ended, the bell rings, or the time is over.
fn wait(left: &[StaleWorker], bell: Option<BorrowedFd<'_>>, time: Span) {
    let pidfds = left.iter().filter_map(|one| one.process.as_ref()?.pidfd());
    let mut fds: Vec<PollFd<'_>> = pidfds
        .chain(bell)
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut fds, Some(Duration::from_millis(time.as_millis()))).ok();
    // Many end together: one look for all of them.
    std::thread::sleep(TOGETHER);
}
