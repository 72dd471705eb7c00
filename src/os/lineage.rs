//! Who belongs to which worker: groups, sessions, orphans; and the sweep.
//!
//! The master is a subreaper ([`crate::os::sys::reaper`]). Workers are children of the thread that spawned them, while
//! orphans become children of the main thread; so the main thread's list of children is the list of orphans, and one
//! read of an empty file says that there are none. A sweep kills a generation at a time: the children of what it kills
//! become orphans in turn, hence it is called again until nothing is left.
//!
//! No signal goes to a number that may have changed hands (promise 6): a process is held by a pidfd first and looked
//! at afterwards. Without pidfds only children of our own are signalled: those nobody else can reap.

use crate::os::cgroup::Cgroup;
use crate::os::proc::{self, Stat};
use crate::os::sys::process::Process;
use nix::libc::SIGKILL;
use std::collections::HashSet;

/// The variable that every worker has and its descendants inherit.
pub const TAG: &str = "ROTAD_WORKER";

/// How often the list is read anew while it grows under our eyes; a fork bomb has to be killed, not listed.
const MOST_READINGS: usize = 16;

/// A process whose parent has died, or a descendant of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub pid: i32,
    pub session: i32,
    pub pgrp: i32,
    /// In clock ticks since boot.
    pub start_time: u64,
    /// ROTAD_WORKER in the environment that it was started with. None: not there, or not ours to read.
    pub tag: Option<String>,
    /// On its way out: its environment may be gone, while its children are not orphans yet.
    pub exiting: bool,
    /// Place of its parent in the list, when that is an orphan's descendant or an orphan itself.
    pub parent: Option<usize>,
}

/// One worker's tree.
#[derive(Debug)]
pub struct Family {
    /// The worker's pid, which is its session's and its group's number as well.
    pub leader: i32,
    /// What its ROTAD_WORKER says.
    pub tag: String,
    pub cgroup: Option<Cgroup>,
    /// Orphans that a sweep has found, by pid and start time. A process that is dying has no environment any more,
    /// while its files and sockets are still open: only memory tells whose it is.
    known: HashSet<(i32, u64)>,
}

impl Family {
    pub fn new(leader: i32, tag: String, cgroup: Option<Cgroup>) -> Self {
        Self { leader, tag, cgroup, known: HashSet::new() }
    }
}

/// What one sweep has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepResult {
    /// Orphans that were sent SIGKILL.
    pub killed: Vec<i32>,
    /// Members that were still alive: sweep again soon. 0: the tree is gone.
    pub left: usize,
}

/// Lists the orphans. `workers`: the pids of all unreaped workers, to tell them apart on kernels that do not list a
/// thread's children (CONFIG_PROC_CHILDREN). To be called in the process whose main thread is the reaper, from any thread.
pub fn orphans(workers: &HashSet<i32>) -> Vec<Orphan> {
    let me = std::process::id() as i32;
    let mut found = Vec::new();
    let mut roots = children_of_main(me, workers);
    for _ in 0..MOST_READINGS {
        if roots.is_empty() {
            return Vec::new();
        }
        let forest = proc::forest(&roots);
        found = describe(&forest, roots.len());
        // Whoever lost its parent while we were reading was in neither list: it has come to us by now. The dying parent
        // is either listed as alive, or had ended, and given its children away, before this reading.
        let seen: HashSet<i32> = forest.iter().map(|&(pid, _)| pid).collect();
        roots = children_of_main(me, workers);
        if roots.iter().all(|pid| seen.contains(pid)) {
            break;
        }
    }
    found
}

/// What the living of a forest are like. Places shift where one has ended meanwhile.
fn describe(forest: &[(i32, usize)], roots: usize) -> Vec<Orphan> {
    let mut places = vec![None; forest.len()];
    let mut found = Vec::with_capacity(forest.len());
    for (at, &(pid, parent)) in forest.iter().enumerate() {
        let Some(mut orphan) = Orphan::of(pid) else { continue };
        orphan.parent = if at < roots { None } else { places[parent] };
        places[at] = Some(found.len());
        found.push(orphan);
    }
    found
}

fn children_of_main(me: i32, workers: &HashSet<i32>) -> Vec<i32> {
    match proc::children_of_thread(me, me) {
        Some(children) => children,
        None => {
            let ours = proc::all_stats().into_iter().filter(|stat| stat.parent == me && !workers.contains(&stat.pid));
            ours.map(|stat| stat.pid).collect()
        }
    }
}

impl Orphan {
    /// None: it has ended.
    fn of(pid: i32) -> Option<Self> {
        // In this order: where the environment has gone with the memory, the state tells so.
        let tag = proc::environment_value(pid, TAG);
        let stat = Stat::of(pid).ok().filter(|stat| !stat.is_zombie())?;
        let Stat { session, pgrp, start_time, exiting, .. } = stat;
        Some(Self { pid, session, pgrp, start_time, tag, exiting, parent: None })
    }
}

/// Whether an orphan is of a worker's tree, by itself: its session or group, its environment, or its cgroup. The
/// numbers of session and group mean the worker for as long as it is unreaped, or anybody of them lives.
pub fn belongs(orphan: &Orphan, family: &Family) -> bool {
    orphan.session == family.leader
        || orphan.pgrp == family.leader
        || orphan.tag.as_ref().is_some_and(|tag| *tag == family.tag)
        || family.known.contains(&(orphan.pid, orphan.start_time))
        || family.cgroup.as_ref().is_some_and(|cgroup| cgroup.contains(orphan.pid))
}

/// Those that belong by themselves or by an ancestor, as places in the list.
fn members(orphans: &[Orphan], family: &Family) -> Vec<usize> {
    let mut member = vec![false; orphans.len()];
    for (at, orphan) in orphans.iter().enumerate() {
        // Parents stand before their children.
        member[at] = orphan.parent.is_some_and(|parent| member[parent]) || belongs(orphan, family);
    }
    (0..orphans.len()).filter(|&at| member[at]).collect()
}

/// Whether nobody can say whose it is, for a moment: it is ending, has no environment any more, and is of nobody's
/// session. Its children may be ours to sweep as soon as it has ended, so a sweep waits for it.
fn is_riddle(orphan: &Orphan, workers: &HashSet<i32>) -> bool {
    let known = workers.contains(&orphan.session) || workers.contains(&orphan.pgrp);
    orphan.exiting && orphan.tag.is_none() && !known
}

/// Kills what is left of a worker's tree, and counts what still lives. `process`: the worker's own process, alive or a
/// zombie, but unreaped. Call it again (after the orphans' deaths, or some milliseconds) until `left` is 0, then reap
/// the worker. `workers`: the pids of all unreaped workers. Without orphans it costs one killpg(2) and one read.
pub fn sweep(process: &Process, family: &mut Family, workers: &HashSet<i32>) -> SweepResult {
    process.signal_group(SIGKILL).ok();
    let mut result = SweepResult::default();
    if let Some(cgroup) = &family.cgroup {
        cgroup.kill().ok();
    }
    if matches!(process.peek_exit(), Ok(None)) {
        // Its children are not orphans yet.
        result.left += 1;
    }
    let orphans = orphans(workers);
    let members = members(&orphans, family);
    if members.is_empty() {
        result.left += orphans.iter().filter(|orphan| is_riddle(orphan, workers)).count();
    }
    for at in members {
        let orphan = &orphans[at];
        result.left += 1;
        family.known.insert((orphan.pid, orphan.start_time));
        if kill(orphan) {
            result.killed.push(orphan.pid);
        }
    }
    if result.left == 0 && family.cgroup.as_ref().is_some_and(|cgroup| matches!(cgroup.is_empty(), Ok(false))) {
        // Members that are no orphans of ours: children of a thread that still lives somewhere.
        result.left = 1;
    }
    result
}

/// Kills every orphan, whosever it is: when the master itself stops. To be called until it gives 0.
/// `spared`: what was there before us (`sh -c 'helper & exec rotad run'`), and is not ours to end.
pub fn sweep_all(workers: &HashSet<i32>, spared: &[Orphan]) -> usize {
    let mut orphans = orphans(workers);
    orphans.retain(|one| !spared.iter().any(|known| known.pid == one.pid && known.start_time == one.start_time));
    orphans.iter().filter(|orphan| kill(orphan)).count();
    orphans.len()
}

/// Holds it, looks whether it is still the one that was meant, and kills it.
fn kill(orphan: &Orphan) -> bool {
    let held = match Process::of_stranger(orphan.pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return false,
        // Without pidfds: our own child keeps its number until we reap it, which this thread does not do meanwhile.
        Err(_) => Process::of_child(orphan.pid, None),
    };
    let Ok(stat) = Stat::of(orphan.pid) else { return false };
    let same = stat.start_time == orphan.start_time && !stat.is_zombie();
    let may = held.pidfd().is_some() || stat.parent == std::process::id() as i32;
    same && may && held.signal(SIGKILL).is_ok()
}
