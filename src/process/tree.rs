//! Finds the processes that belong to a worker, and ends those whose worker has ended.
//!
//! The master is a subreaper ([`crate::sys::reaper`]). Workers are children of the thread that spawned them, while
//! orphans become children of the main thread; a process that a worker created as its own sibling (clone(2),
//! CLONE_PARENT) is one more child of the spawning thread, which was never requested. A scan of all these kills one
//! generation at a time: the children of a killed process become orphans in turn, so it is repeated until nothing is
//! left.
//!
//! A scan takes time (three files of /proc per process), and its last resort, the environment, takes a lock of the
//! process, which it may hold indefinitely if it hangs in the kernel. So a thread that can be abandoned
//! ([`crate::process::orphan_scanner`]) does it, and asks first what cannot block: session, group, an ancestor, and
//! what is known already.
//!
//! No signal goes to a pid that may have been reused (promise 6): a pidfd is opened first, and the process is checked
//! afterwards. Without pidfds only our own children are signalled: only we can reap those.

use crate::process::cgroup::{self, Cgroup};
use crate::process::procfs::{self, Stat};
use crate::sys::process::Process;
use nix::libc::{SIGCONT, SIGKILL};
use rotad_core::{Span, Time, WorkerId};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The variable that every worker has and that its descendants inherit.
pub const TAG: &str = "ROTAD_WORKER";

/// Numbers from here on are those of runs of hooks: no engine counts so far.
const FIRST_HOOK: u64 = 1 << 62;

/// Under which number a run of a hook, with its orphans, is known.
pub fn hook_id(run: u64) -> WorkerId {
    WorkerId(FIRST_HOOK + run)
}

/// Whether a number is that of a run of a hook.
pub fn is_hook(id: WorkerId) -> bool {
    id.0 >= FIRST_HOOK
}

/// How often the list is read again while it grows; a fork bomb has to be killed, not listed.
const MAX_PASSES: usize = 16;
/// How long a scan waits for a process that cannot be attributed: it is exiting, or its environment cannot be read.
const UNATTRIBUTED_GRACE: Span = Span::from_millis(500);

/// One worker's tree.
#[derive(Debug)]
pub struct ProcessTree {
    /// The worker's pid, which is its session and its group as well.
    pub leader: i32,
    /// The worker's cgroup, if it has one.
    pub cgroup: Option<Cgroup>,
}

/// Identifies a process while the machine runs: its pid and its start time in clock ticks since boot.
pub type Identity = (i32, u64);

/// What a scan has to know.
#[derive(Debug, Default)]
pub struct ScanRequest {
    /// The prefix of our workers' ROTAD_WORKER; a dash and the worker's number follow.
    pub tag: String,
    /// All workers that have a process, by pid.
    pub workers: HashMap<i32, WorkerId>,
    /// Workers whose trees may live, including those not spawned yet.
    pub living: HashSet<WorkerId>,
    /// Workers that have ended, and whose trees are to be killed.
    pub ended: HashSet<WorkerId>,
    /// Workers whose first process has exited in its stop, and whose trees may finish: survivors are counted, not
    /// killed.
    pub finishing: HashSet<WorkerId>,
    /// Signals for every process of a tree, each followed by SIGCONT; a process gets each only once.
    pub signals: HashMap<WorkerId, TreeSignal>,
    /// Which process got which signal.
    pub delivered: Arc<Mutex<HashSet<(Identity, u64)>>>,
    /// The last requested worker: nothing is known here of later ones. A process with the tag of an older worker that
    /// is in neither list has outlived its worker.
    pub last: Option<WorkerId>,
    /// Pids of all workers that are not reaped.
    pub unreaped: HashSet<i32>,
    /// The spawner threads, whose children are scanned beside those of the main thread.
    pub threads: Vec<i32>,
    /// The guardian, to which workers of dead masters and their orphans have gone.
    pub guardian: Option<i32>,
    /// The parents of adopted workers, to which their orphans go as well: init, or another subreaper. Most of their
    /// children are not ours.
    pub foster_parents: Vec<i32>,
    /// The directory of the workers' cgroups: a process in there belongs to a worker.
    pub cgroup_base: Option<PathBuf>,
    /// Processes that existed before the master (`sh -c 'helper & exec rotad run'`): neither they nor their descendants
    /// are killed.
    pub preexisting: Arc<HashSet<Identity>>,
    /// When the scan was requested.
    pub now: Time,
    /// The master exits: every process that is found is killed, whatever it belongs to.
    pub everything: bool,
    /// The result is not wanted any more: the scan stops.
    pub cancelled: AtomicBool,
}

impl Clone for ScanRequest {
    fn clone(&self) -> Self {
        let cancelled = AtomicBool::new(self.cancelled.load(Ordering::Relaxed));
        let Self {
            tag,
            workers,
            living,
            ended,
            finishing,
            signals,
            delivered,
            unreaped,
            threads,
            guardian,
            foster_parents,
            cgroup_base,
            preexisting,
            ..
        } = self;
        Self {
            tag: tag.clone(),
            workers: workers.clone(),
            living: living.clone(),
            ended: ended.clone(),
            finishing: finishing.clone(),
            signals: signals.clone(),
            delivered: delivered.clone(),
            last: self.last,
            unreaped: unreaped.clone(),
            threads: threads.clone(),
            guardian: *guardian,
            foster_parents: foster_parents.clone(),
            cgroup_base: cgroup_base.clone(),
            preexisting: preexisting.clone(),
            now: self.now,
            everything: self.everything,
            cancelled,
        }
    }
}

/// A signal for a whole tree, with a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeSignal {
    /// The number of the worker.
    pub number: u64,
    /// The signal.
    pub signal: i32,
}

/// A process of a worker's tree, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Pid and start time of the process.
    pub identity: Identity,
    /// As the kernel has it: at most 15 bytes, any bytes.
    pub name: String,
}

/// What a scan has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// For each tree that is to be killed: how many got SIGKILL, and how many were still alive.
    pub kills: BTreeMap<WorkerId, KillProgress>,
    /// For each tree that may finish: the processes still alive.
    pub finishing: BTreeMap<WorkerId, Vec<Member>>,
    /// Number of processes that cannot be attributed for the moment.
    pub unattributed: usize,
    /// The processes that got a signal for a whole tree.
    pub signalled: BTreeMap<WorkerId, Vec<Member>>,
    /// With `everything`: how many were still alive.
    pub left: usize,
    /// Processes seen for the first time that belong to no worker as far as can be told.
    pub unowned: Vec<UnownedProcess>,
    /// Exited children of the spawner threads that are no worker: no other code reaps them. A worker that is being
    /// spawned may be among them.
    pub ended: Vec<Identity>,
}

/// What a kill of a tree has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KillProgress {
    /// How many processes got SIGKILL.
    pub killed: usize,
    /// Scan again soon. 0: the tree is gone.
    pub left: usize,
}

/// A process that belongs to no known worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnownedProcess {
    /// Its pid and start time.
    pub identity: Identity,
    /// Its name.
    pub name: String,
    /// Its environment cannot be read: its memory is locked.
    pub silent: bool,
}

/// The ROTAD_WORKER in the environment with which a process was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// Its value.
    Is(String),
    /// Not set, not ours to read, or gone with the memory of a process that is exiting.
    None,
    /// It cannot be read now.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Worker(WorkerId),
    Preexisting,
    None,
    /// Kills wait a moment for it.
    Unattributed,
}

/// What earlier scans found. An exiting process has no environment any more while its files and sockets are still open:
/// only this tells to which worker it belongs.
#[derive(Clone, Debug, Default)]
pub struct ScanMemory {
    known: HashMap<Identity, Owner>,
    /// Since when a process could not be attributed.
    unattributed: HashMap<Identity, Time>,
    reported: HashSet<Identity>,
    killed: HashSet<Identity>,
}

impl ScanMemory {
    /// Takes over the attributions of a thread that was late.
    pub fn learn(&mut self, late: Self) {
        let workers = late
            .known
            .into_iter()
            .filter(|(_, owner)| matches!(owner, Owner::Worker(_)));
        self.known.extend(workers);
    }

    /// Drops entries of processes that are gone.
    fn retain_seen(&mut self, seen: &HashSet<i32>) {
        self.known.retain(|(pid, _), _| seen.contains(pid));
        self.unattributed.retain(|(pid, _), _| seen.contains(pid));
        self.reported.retain(|(pid, _)| seen.contains(pid));
        self.killed.retain(|(pid, _)| seen.contains(pid));
    }
}

/// The children that this process has already, with their descendants: to be called before any worker is spawned.
/// `guardian`: the children of that as well.
pub fn preexisting_children(guardian: Option<i32>) -> HashSet<Identity> {
    let me = std::process::id() as i32;
    let forest = procfs::forest(&children(me, &[], guardian, &HashSet::new()));
    let stats = forest.into_iter().filter_map(|(pid, _)| Stat::of(pid).ok());
    stats.map(|stat| (stat.pid, stat.start_time)).collect()
}

/// Scans all orphans and their descendants, and kills those that belong to a worker that has ended. May be called from
/// any thread of the process whose main thread is the subreaper. `ask` reads the tag from the environment of one
/// process and may block.
pub fn scan(
    request: &ScanRequest,
    memory: &mut ScanMemory,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Found {
    let me = std::process::id() as i32;
    let kills = request
        .ended
        .iter()
        .map(|worker| (*worker, KillProgress::default()))
        .collect();
    let finishing = request
        .finishing
        .iter()
        .map(|worker| (*worker, Vec::new()))
        .collect();
    let mut found = Found {
        kills,
        finishing,
        ..Found::default()
    };
    let has_outlived = |worker: &WorkerId| {
        let is_known = Some(*worker) <= request.last || is_hook(*worker);
        is_known && !request.living.contains(worker)
    };
    let lists = procfs::lists_children();
    let mut unattributed = 0;
    let mut seen: HashSet<i32> = HashSet::new();
    for _ in 0..MAX_PASSES {
        // A process whose parent exited during the listing was in neither list: by the next pass it is our child. The
        // exiting parent was either listed as alive, or had ended and given up its children before that.
        let mut next: Vec<(i32, Option<Owner>)> =
            children(me, &request.threads, request.guardian, &request.unreaped)
                .into_iter()
                .map(|pid| (pid, None))
                .collect();
        // While the worker itself lives, its descendants are below it.
        let whole = |(pid, worker): (&i32, &WorkerId)| {
            let wanted =
                request.signals.contains_key(worker) && !request.finishing.contains(worker);
            let stat = wanted.then(|| Stat::of(*pid).ok()).flatten()?;
            let below = procfs::children_of(&stat);
            Some(
                below
                    .into_iter()
                    .map(|child| (child, Some(Owner::Worker(*worker))))
                    .collect::<Vec<_>>(),
            )
        };
        next.extend(request.workers.iter().filter_map(whole).flatten());
        next.extend(foster_children(request, memory, &mut seen, ask));
        next.retain(|(pid, _)| !seen.contains(pid));
        if next.is_empty() {
            break;
        }
        // Parents before children; each is killed as soon as its owner is known.
        while let Some((pid, above)) = next.pop() {
            if request.cancelled.load(Ordering::Relaxed) {
                return found;
            }
            let Some(stat) = seen.insert(pid).then(|| Stat::of(pid).ok()).flatten() else {
                continue;
            };
            let identity = (pid, stat.start_time);
            if stat.is_zombie() {
                // On kernels that do not list the children per thread, another caller may wait for it.
                if above.is_none() && lists {
                    found.ended.push(identity);
                }
                continue;
            }
            // Before it is killed: its children are reparented then.
            let below = procfs::children_of(&stat);
            let owner = owner(&stat, above, request, memory, ask);
            next.extend(below.into_iter().map(|child| (child, Some(owner))));
            match owner {
                Owner::Preexisting => {}
                _ if request.everything => {
                    found.left += 1;
                    kill(identity);
                }
                Owner::Worker(worker) if has_outlived(&worker) => {
                    let progress = found.kills.entry(worker).or_default();
                    progress.left += 1;
                    let killed = kill(identity);
                    // One that is slow to die is counted once.
                    progress.killed += usize::from(killed && memory.killed.insert(identity));
                }
                Owner::Worker(worker) => {
                    let member = Member {
                        identity,
                        name: stat.name,
                    };
                    if request
                        .signals
                        .get(&worker)
                        .is_some_and(|delivered| request.pass(identity, *delivered))
                    {
                        found
                            .signalled
                            .entry(worker)
                            .or_default()
                            .push(member.clone());
                    }
                    if let Some(rest) = found.finishing.get_mut(&worker) {
                        rest.push(member);
                    }
                }
                Owner::Unattributed => unattributed += 1,
                Owner::None if above.is_none() && memory.reported.insert(identity) => {
                    let silent = memory.unattributed.contains_key(&identity);
                    found.unowned.push(UnownedProcess {
                        identity,
                        name: stat.name,
                        silent,
                    });
                }
                Owner::None => {}
            }
        }
    }
    memory.retain_seen(&seen);
    found.unattributed = unattributed;
    for progress in found
        .kills
        .values_mut()
        .filter(|progress| progress.left == 0)
    {
        progress.left = unattributed;
    }
    found
}

/// The orphans and the unrequested siblings of workers: children of the main thread, and those of the given threads
/// that are no worker. Kernels that do not list a thread's children (CONFIG_PROC_CHILDREN) list every process.
fn children(me: i32, threads: &[i32], guardian: Option<i32>, workers: &HashSet<i32>) -> Vec<i32> {
    let mut found = match procfs::children_of_thread(me, me) {
        Some(children) => children,
        None => {
            let stats = procfs::all_stats()
                .into_iter()
                .filter(|stat| stat.parent == me);
            stats.map(|stat| stat.pid).collect()
        }
    };
    found.extend(
        threads
            .iter()
            .filter_map(|tid| procfs::children_of_thread(me, *tid))
            .flatten(),
    );
    found.extend(
        guardian
            .and_then(|pid| procfs::children_of_thread(pid, pid))
            .unwrap_or_default(),
    );
    found.retain(|pid| *pid != me && !workers.contains(pid));
    found
}

/// The orphans of adopted workers: children of processes that have others as well, which are none of our business. Those
/// count as seen.
fn foster_children(
    request: &ScanRequest,
    memory: &mut ScanMemory,
    seen: &mut HashSet<i32>,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Vec<(i32, Option<Owner>)> {
    let mut found = Vec::new();
    let parents = request.foster_parents.iter();
    let children = parents.flat_map(|pid| procfs::children(*pid));
    for pid in children {
        if seen.contains(&pid) || request.unreaped.contains(&pid) {
            continue;
        }
        let Some(stat) = Stat::of(pid).ok().filter(|stat| !stat.is_zombie()) else {
            continue;
        };
        match foster_child(&stat, request, memory, ask) {
            Some(owner) => found.push((pid, Some(owner))),
            None => drop(seen.insert(pid)),
        }
    }
    found
}

/// The worker that such a process belongs to. None: it belongs to none, as far as can be told.
fn foster_child(
    stat: &Stat,
    request: &ScanRequest,
    memory: &mut ScanMemory,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Option<Owner> {
    let identity = (stat.pid, stat.start_time);
    if let Some(known) = memory.known.get(&identity) {
        return matches!(known, Owner::Worker(_)).then_some(*known);
    }
    // Its parent reaps the worker, not this process. A number that is still used as a session is not given out again as
    // a pid, so only the worker can have it while there is a member.
    let of_session = request.workers.get(&stat.session).filter(|worker| {
        let has_ended = request.ended.contains(worker) || request.finishing.contains(worker);
        !has_ended || Stat::of(stat.session).map_or(true, |leader| leader.is_zombie())
    });
    let by_tag = || match tagged(stat, request, memory, ask) {
        Ok(owner) => owner,
        Err(for_now) => for_now,
    };
    let owner = of_session.map_or_else(by_tag, |worker| Owner::Worker(*worker));
    if owner != Owner::Unattributed {
        memory.known.insert(identity, owner);
    }
    matches!(owner, Owner::Worker(_)).then_some(owner)
}

/// The owner of a process. Session and group numbers identify the worker as long as it is not reaped.
fn owner(
    stat: &Stat,
    above: Option<Owner>,
    request: &ScanRequest,
    memory: &mut ScanMemory,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Owner {
    let identity = (stat.pid, stat.start_time);
    if above == Some(Owner::Preexisting) || request.preexisting.contains(&identity) {
        return Owner::Preexisting;
    }
    if request.everything {
        return Owner::None;
    }
    if let Some(known) = memory.known.get(&identity) {
        return *known;
    }
    let by_number = request
        .workers
        .get(&stat.session)
        .or_else(|| request.workers.get(&stat.pgrp));
    let owner = match (by_number, above) {
        (Some(worker), _) => Owner::Worker(*worker),
        (None, Some(Owner::Worker(worker))) => Owner::Worker(worker),
        (None, _) => match tagged(stat, request, memory, ask) {
            Ok(owner) => owner,
            Err(for_now) => return for_now,
        },
    };
    memory.known.insert(identity, owner);
    owner
}

/// The owner by its environment, or else its cgroup. As an error: the owner to assume until that is known.
fn tagged(
    stat: &Stat,
    request: &ScanRequest,
    memory: &mut ScanMemory,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Result<Owner, Owner> {
    let identity = (stat.pid, stat.start_time);
    let tag = ask(stat);
    if let Tag::Is(tag) = tag {
        memory.unattributed.remove(&identity);
        let number = tag
            .strip_prefix(&request.tag)
            .and_then(|rest| rest.strip_prefix('-'));
        let worker = number.and_then(|number| number.parse().ok()).map(WorkerId);
        return Ok(worker.map_or(Owner::None, Owner::Worker));
    }
    // After reading the tag: if the environment was already gone, the state shows that it is exiting.
    let exiting =
        Stat::of(stat.pid).map_or(true, |now| now.exiting || now.start_time != stat.start_time);
    if exiting || tag == Tag::Silent {
        let since = *memory.unattributed.entry(identity).or_insert(request.now);
        // Tried again at each scan, but nothing waits for it any longer. Its descendants carry the worker's tag.
        return Err(if request.now < since + UNATTRIBUTED_GRACE {
            Owner::Unattributed
        } else {
            Owner::None
        });
    }
    let in_cgroup = || {
        cgroup::of(stat.pid)
            .zip(request.cgroup_base.as_ref())
            .is_some_and(|(own, base)| own.starts_with(base))
    };
    // The cgroup is killed as a whole; here it is enough that it belongs to some worker.
    Ok(if request.cgroup_base.is_some() && in_cgroup() {
        Owner::Preexisting
    } else {
        Owner::None
    })
}

impl ScanRequest {
    /// Signals the process unless it has got this signal before; true if it was signalled now.
    fn pass(&self, identity: Identity, TreeSignal { number, signal }: TreeSignal) -> bool {
        let new = self
            .delivered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((identity, number));
        new && send(identity, &[signal, SIGCONT])
    }
}

fn kill(identity: Identity) -> bool {
    send(identity, &[SIGKILL])
}

/// Opens a pidfd, checks that the process is still the one that was meant, and signals it.
fn send((pid, start_time): Identity, signals: &[i32]) -> bool {
    let held = match Process::open_pid(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return false,
        // Without pidfds: our own child keeps its pid until we reap it.
        Err(_) => Process::of_child(pid, None),
    };
    let Ok(stat) = Stat::of(pid) else {
        return false;
    };
    let same = stat.start_time == start_time && !stat.is_zombie();
    let may = held.pidfd().is_some() || stat.parent == std::process::id() as i32;
    same && may && signals.iter().all(|signal| held.signal(*signal).is_ok())
}
