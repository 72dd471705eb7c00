//! Who belongs to which worker: groups, sessions, orphans; and what is done about those whose worker has ended.
//!
//! The master is a subreaper ([`crate::sys::reaper`]). Workers are children of the thread that spawned them, while
//! orphans become children of the main thread; and what a worker has born as its own sibling (clone(2), CLONE_PARENT) is
//! one more child of the spawning thread, which nobody has ordered. A look at all of these kills a generation at a time:
//! the children of what it kills become orphans in turn, hence it is repeated until nothing is left.
//!
//! A look takes time (three files of /proc for each process), and the last thing that it may have to ask for, the
//! environment, waits for a lock of the process that is asked: for ever, if that hangs in the kernel. So it is done by
//! a thread that can be written off ([`crate::process::orphan_scanner`]), and the environment is the last resort: session, group,
//! an ancestor, what is known already are asked first, and none of these can wait.
//!
//! No signal goes to a number that may have changed hands (promise 6): a process is held by a pidfd first and looked
//! at afterwards. Without pidfds only children of our own are signalled: those nobody else can reap.

use crate::process::cgroup::{self, Cgroup};
use crate::process::procfs::{self, Stat};
use crate::sys::process::Process;
use nix::libc::{SIGCONT, SIGKILL};
use rotad_core::WorkerId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The variable that every worker has and its descendants inherit.
pub const TAG: &str = "ROTAD_WORKER";

/// How often the list is read anew while it grows under our eyes; a fork bomb has to be killed, not listed.
const MOST_READINGS: usize = 16;
/// So long sweeps wait for one that nobody can tell whose it is: it is ending, or does not answer.
const RIDDLE: Duration = Duration::from_millis(500);

/// One worker's tree.
#[derive(Debug)]
pub struct ProcessTree {
    /// The worker's pid, which is its session's and its group's number as well.
    pub leader: i32,
    pub cgroup: Option<Cgroup>,
}

/// A process, by what no other one has while the machine runs: its pid and its start in clock ticks since boot.
pub type Identity = (i32, u64);

/// What a look has to know.
#[derive(Debug, Default)]
pub struct Question {
    /// What ROTAD_WORKER of our workers begins with; a dash and the worker's number follow.
    pub tag: String,
    /// All workers that have a process, by pid.
    pub workers: HashMap<i32, WorkerId>,
    /// Workers whose trees may live, the unborn among them.
    pub living: HashSet<WorkerId>,
    /// Workers that have ended, and whose trees are to be ended.
    pub ended: HashSet<WorkerId>,
    /// Workers whose first process has ended in its stop, and whose trees finish: who is left is counted, not touched.
    pub finishing: HashSet<WorkerId>,
    /// Signals for every process of a tree, followed by SIGCONT; who has got one does not get it again.
    pub signals: HashMap<WorkerId, Passed>,
    /// Who has got which.
    pub passed: Arc<Mutex<HashSet<(Identity, u64)>>>,
    /// The last worker that was ordered: of those that come after it nothing is known here. Whoever bears the tag of
    /// an older one that is in neither list has outlived its worker.
    pub last: Option<WorkerId>,
    /// Pids of all workers that are not reaped.
    pub unreaped: HashSet<i32>,
    /// The threads, beside the main one, whose children are looked at: those that spawn workers.
    pub threads: Vec<i32>,
    /// Where cgroups of workers are: whoever lives there belongs to one.
    pub fence: Option<PathBuf>,
    /// Who was there before us (`sh -c 'helper & exec rotad run'`), and is not ours to end; nor what it starts.
    pub spared: Arc<HashSet<Identity>>,
    /// The master leaves: whoever is found is killed, whosever it is.
    pub everything: bool,
    /// Nobody wants the answer any more: what is not done yet is left alone.
    pub given_up: AtomicBool,
}

impl Clone for Question {
    fn clone(&self) -> Self {
        let given_up = AtomicBool::new(self.given_up.load(Ordering::Relaxed));
        let Self { tag, workers, living, ended, finishing, signals, passed, unreaped, threads, fence, spared, .. } =
            self;
        Self {
            tag: tag.clone(),
            workers: workers.clone(),
            living: living.clone(),
            ended: ended.clone(),
            finishing: finishing.clone(),
            signals: signals.clone(),
            passed: passed.clone(),
            last: self.last,
            unreaped: unreaped.clone(),
            threads: threads.clone(),
            fence: fence.clone(),
            spared: spared.clone(),
            everything: self.everything,
            given_up,
        }
    }
}

/// A signal for a whole tree, with a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    pub number: u64,
    pub signal: i32,
}

/// A process of a worker's tree, for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub identity: Identity,
    /// As the kernel has it: at most 15 bytes, any bytes.
    pub name: String,
}

/// What a look has found, and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// For each tree that is to be ended: members that were sent SIGKILL, and all that were still alive.
    pub swept: BTreeMap<WorkerId, Swept>,
    /// For each tree that finishes: who of it is still alive.
    pub finishing: BTreeMap<WorkerId, Vec<Member>>,
    /// Nobody can tell for a moment whose these are.
    pub riddles: usize,
    /// Who has got a signal for a whole tree.
    pub signalled: BTreeMap<WorkerId, Vec<Member>>,
    /// Of all trees, where everything is to be ended: who was still alive.
    pub left: usize,
    /// Seen for the first time, and nothing tells whose they are.
    pub strangers: Vec<Stranger>,
    /// Ended children of the spawning threads that are no worker: nobody else reaps them. One that was being born may
    /// be among them.
    pub ended: Vec<Identity>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub killed: usize,
    /// Look again soon. 0: the tree is gone.
    pub left: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    pub identity: Identity,
    pub name: String,
    /// It does not answer the question: its memory is locked.
    pub silent: bool,
}

/// What ROTAD_WORKER says in the environment that a process was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    Is(String),
    /// Not there, not ours to read, or gone with the memory of a process that is ending.
    None,
    /// There is no answer now.
    Silent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Worker(WorkerId),
    Spared,
    Nobody,
    /// Sweeps wait a moment for it.
    Riddle,
}

/// What former looks have found out. A process that is dying has no environment any more, while its files and sockets
/// are still open: only memory tells whose it is.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    known: HashMap<Identity, Owner>,
    /// Since when there is no answer.
    riddles: HashMap<Identity, Instant>,
    told: HashSet<Identity>,
    killed: HashSet<Identity>,
}

impl Memory {
    /// Takes over whose processes are, as a thread that was late has found out.
    pub fn learn(&mut self, late: Self) {
        let workers = late.known.into_iter().filter(|(_, owner)| matches!(owner, Owner::Worker(_)));
        self.known.extend(workers);
    }

    /// Forgets those that are gone.
    fn keep(&mut self, seen: &HashSet<i32>) {
        self.known.retain(|(pid, _), _| seen.contains(pid));
        self.riddles.retain(|(pid, _), _| seen.contains(pid));
        self.told.retain(|(pid, _)| seen.contains(pid));
        self.killed.retain(|(pid, _)| seen.contains(pid));
    }
}

/// The processes that this one has already, with all that they have started: before it is anybody's master.
pub fn before_us() -> HashSet<Identity> {
    let me = std::process::id() as i32;
    let forest = procfs::forest(&children(me, &[], &HashSet::new()));
    let stats = forest.into_iter().filter_map(|(pid, _)| Stat::of(pid).ok());
    stats.map(|stat| (stat.pid, stat.start_time)).collect()
}

/// Looks at all orphans and at what they have started, and kills what belongs to a worker that has ended. To be called
/// in the process whose main thread is the reaper, from any thread. `ask`: reads the environment of one process, which
/// may take as long as that likes.
pub fn look(question: &Question, memory: &mut Memory, ask: &mut dyn FnMut(&Stat) -> Tag) -> Found {
    let me = std::process::id() as i32;
    let swept = question.ended.iter().map(|worker| (*worker, Swept::default())).collect();
    let finishing = question.finishing.iter().map(|worker| (*worker, Vec::new())).collect();
    let mut found = Found { swept, finishing, ..Found::default() };
    let outlived = |worker: &WorkerId| Some(*worker) <= question.last && !question.living.contains(worker);
    let lists = procfs::lists_children();
    let mut riddles = 0;
    let mut seen: HashSet<i32> = HashSet::new();
    for _ in 0..MOST_READINGS {
        // Whoever lost its parent while we were reading was in neither list: it has come to us by the next reading. The
        // dying parent is either listed as alive, or had ended, and given its children away, before that.
        let mut next: Vec<(i32, Option<Owner>)> =
            children(me, &question.threads, &question.unreaped).into_iter().map(|pid| (pid, None)).collect();
        // While the worker itself lives, what it has started is below it.
        let whole = |(pid, worker): (&i32, &WorkerId)| {
            let wanted = question.signals.contains_key(worker) && !question.finishing.contains(worker);
            let stat = wanted.then(|| Stat::of(*pid).ok()).flatten()?;
            let below = procfs::children_of(&stat);
            Some(below.into_iter().map(|child| (child, Some(Owner::Worker(*worker)))).collect::<Vec<_>>())
        };
        next.extend(question.workers.iter().filter_map(whole).flatten());
        next.retain(|(pid, _)| !seen.contains(pid));
        if next.is_empty() {
            break;
        }
        // From the parents to the children; each is killed as soon as it is judged.
        while let Some((pid, above)) = next.pop() {
            if question.given_up.load(Ordering::Relaxed) {
                return found;
            }
            let Some(stat) = seen.insert(pid).then(|| Stat::of(pid).ok()).flatten() else { continue };
            let identity = (pid, stat.start_time);
            if stat.is_zombie() {
                // Where threads' children are not told apart, somebody else may wait for it.
                if above.is_none() && lists {
                    found.ended.push(identity);
                }
                continue;
            }
            // Before it is killed: its children are somebody else's then.
            let below = procfs::children_of(&stat);
            let owner = owner(&stat, above, question, memory, ask);
            next.extend(below.into_iter().map(|child| (child, Some(owner))));
            match owner {
                Owner::Spared => {}
                _ if question.everything => {
                    found.left += 1;
                    kill(identity);
                }
                Owner::Worker(worker) if outlived(&worker) => {
                    let swept = found.swept.entry(worker).or_default();
                    swept.left += 1;
                    let killed = kill(identity);
                    // One that takes its time to die is told of once.
                    swept.killed += usize::from(killed && memory.killed.insert(identity));
                }
                Owner::Worker(worker) => {
                    let member = Member { identity, name: stat.name };
                    if question.signals.get(&worker).is_some_and(|passed| question.pass(identity, *passed)) {
                        found.signalled.entry(worker).or_default().push(member.clone());
                    }
                    if let Some(rest) = found.finishing.get_mut(&worker) {
                        rest.push(member);
                    }
                }
                Owner::Riddle => riddles += 1,
                Owner::Nobody if above.is_none() && memory.told.insert(identity) => {
                    let silent = memory.riddles.contains_key(&identity);
                    found.strangers.push(Stranger { identity, name: stat.name, silent });
                }
                Owner::Nobody => {}
            }
        }
    }
    memory.keep(&seen);
    found.riddles = riddles;
    for swept in found.swept.values_mut().filter(|swept| swept.left == 0) {
        swept.left = riddles;
    }
    found
}

/// The orphans, and what is born beside the workers: the children of the main thread, and of these threads what is no
/// worker. Kernels that do not list a thread's children (CONFIG_PROC_CHILDREN) list every process.
fn children(me: i32, threads: &[i32], workers: &HashSet<i32>) -> Vec<i32> {
    let mut found = match procfs::children_of_thread(me, me) {
        Some(children) => children,
        None => {
            let stats = procfs::all_stats().into_iter().filter(|stat| stat.parent == me);
            stats.map(|stat| stat.pid).collect()
        }
    };
    found.extend(threads.iter().filter_map(|tid| procfs::children_of_thread(me, *tid)).flatten());
    found.retain(|pid| !workers.contains(pid));
    found
}

/// Whose a process is. The numbers of session and group mean the worker for as long as it is unreaped.
fn owner(
    stat: &Stat,
    above: Option<Owner>,
    question: &Question,
    memory: &mut Memory,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Owner {
    let identity = (stat.pid, stat.start_time);
    if above == Some(Owner::Spared) || question.spared.contains(&identity) {
        return Owner::Spared;
    }
    if question.everything {
        return Owner::Nobody;
    }
    if let Some(known) = memory.known.get(&identity) {
        return *known;
    }
    let by_number = question.workers.get(&stat.session).or_else(|| question.workers.get(&stat.pgrp));
    let owner = match (by_number, above) {
        (Some(worker), _) => Owner::Worker(*worker),
        (None, Some(Owner::Worker(worker))) => Owner::Worker(worker),
        (None, _) => match tagged(stat, question, memory, ask) {
            Ok(owner) => owner,
            Err(for_now) => return for_now,
        },
    };
    memory.known.insert(identity, owner);
    owner
}

/// Whose it is as its environment tells, or else its cgroup; as an error what counts until that is known.
fn tagged(
    stat: &Stat,
    question: &Question,
    memory: &mut Memory,
    ask: &mut dyn FnMut(&Stat) -> Tag,
) -> Result<Owner, Owner> {
    let identity = (stat.pid, stat.start_time);
    let tag = ask(stat);
    if let Tag::Is(tag) = tag {
        memory.riddles.remove(&identity);
        let number = tag.strip_prefix(&question.tag).and_then(|rest| rest.strip_prefix('-'));
        let worker = number.and_then(|number| number.parse().ok()).map(WorkerId);
        return Ok(worker.map_or(Owner::Nobody, Owner::Worker));
    }
    // In this order: where the environment has gone with the memory, the state tells so.
    let exiting = Stat::of(stat.pid).map_or(true, |now| now.exiting || now.start_time != stat.start_time);
    if exiting || tag == Tag::Silent {
        let since = *memory.riddles.entry(identity).or_insert_with(Instant::now);
        // Asked again at each look; but nobody waits for it any longer. What it still starts bears its worker's tag.
        return Err(if since.elapsed() < RIDDLE { Owner::Riddle } else { Owner::Nobody });
    }
    let fenced = || cgroup::of(stat.pid).zip(question.fence.as_ref()).is_some_and(|(own, base)| own.starts_with(base));
    // The cgroup's own end takes it along; here it is enough that it is somebody's.
    Ok(if question.fence.is_some() && fenced() { Owner::Spared } else { Owner::Nobody })
}

impl Question {
    /// Whether it got the signal, now and for the first time.
    fn pass(&self, identity: Identity, Passed { number, signal }: Passed) -> bool {
        let new = self.passed.lock().unwrap_or_else(PoisonError::into_inner).insert((identity, number));
        new && send(identity, &[signal, SIGCONT])
    }
}

fn kill(identity: Identity) -> bool {
    send(identity, &[SIGKILL])
}

/// Holds it, looks whether it is still the one that was meant, and signals it.
fn send((pid, start_time): Identity, signals: &[i32]) -> bool {
    let held = match Process::of_stranger(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return false,
        // Without pidfds: our own child keeps its number until we reap it.
        Err(_) => Process::of_child(pid, None),
    };
    let Ok(stat) = Stat::of(pid) else { return false };
    let same = stat.start_time == start_time && !stat.is_zombie();
    let may = held.pidfd().is_some() || stat.parent == std::process::id() as i32;
    same && may && signals.iter().all(|signal| held.signal(*signal).is_ok())
}
