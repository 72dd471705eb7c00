//! The process table: the only place that maps a worker's id to its process. `spawning.rs` adds entries,
//! `exits.rs` records exits, `orphans.rs` removes entries once the whole process tree is gone.

use crate::log::{LogWriter, WorkerOutput};
use crate::notify_socket::NotifySocket;
use crate::observe::status::LastExit;
use crate::process::cgroup::Cgroup;
use crate::process::procfs::Stat;
use crate::process::tree::{Member, ProcessTree, ScanRequest, TreeSignal};
use crate::supervisor::listening::ListenerId;
use crate::supervisor::pool_registry::PoolSpec;
use crate::supervisor::workers::exit_report::ExitReport;
use crate::sys::process::Process;
use rotad_core::{Exit, Generation, PoolId, Signal, Slot, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// First pause before a process tree that is not gone yet is checked again; the pauses double …
const FIRST_PAUSE: Span = Span::from_millis(20);
/// … up to this: a process that the kernel cannot end costs one check a second.
const MAX_PAUSE: Span = Span::from_secs(1);

/// A signal for a worker that is not spawned yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeferredSignal {
    Signal(Signal),
    Kill,
}

#[derive(Debug)]
pub(crate) enum ProcessStage {
    /// The spawner has the request; signals wait until there is a process.
    Spawning(Vec<DeferredSignal>),
    Alive(Process),
}

#[derive(Debug)]
pub(crate) struct WorkerProcess {
    pub pool: PoolId,
    pub slot: Slot,
    pub generation: Generation,
    /// The spec that it was spawned from.
    pub spec: Arc<PoolSpec>,
    /// `ROTAD_WORKER`: unique for each spawn of each master.
    pub tag: String,
    pub stage: ProcessStage,
    /// The pipe on which the shim reports whether exec succeeded; until it has.
    pub exec_status: Option<OwnedFd>,
    pub notify: Option<NotifySocket>,
    pub output: Option<WorkerOutput>,
    /// Its cgroup, until it is part of `tree`.
    pub cgroup: Option<Cgroup>,
    pub tree: Option<ProcessTree>,
    /// STATUS= of the last notify message, sanitized.
    pub status_text: Option<String>,
    pub exit: Option<Exit>,
    /// Why the program could not be started.
    pub error: Option<String>,
    pub ready: bool,
    /// The port assigned from its pool's `ports`.
    pub port: Option<u16>,
    /// The last error of its probe or watchdog: why it is not ready, or unhealthy.
    pub probe_error: Option<String>,
    /// Set once the first process has exited during a stop and others of its tree may finish: their list as of the last
    /// scan, or None before the first scan.
    pub survivors: Option<Option<Vec<Member>>>,
    /// The last signal that is sent to its whole tree.
    pub tree_signal: Option<TreeSignal>,
    /// The kill of what is left of its tree has been logged with names.
    pub survivors_logged: bool,
    /// Why the master kills it (not ready in time, unhealthy): the exit status does not say that.
    pub end_reason: Option<String>,
    /// It exited by itself before it was ready, and not with a failure; cleared once a scan has seen what it left
    /// behind.
    pub early_exit: bool,
}

impl WorkerProcess {
    pub(crate) fn child(&self) -> Option<&Process> {
        match &self.stage {
            ProcessStage::Spawning(_) => None,
            ProcessStage::Alive(child) => Some(child),
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.child().map(Process::pid)
    }

    /// The last lines that it printed, including those that are still in its pipes.
    pub(crate) fn last_lines(&self, log: &LogWriter) -> Vec<String> {
        self.output
            .as_ref()
            .map(|output| log.tail(output))
            .unwrap_or_default()
    }

    pub(crate) fn exit_report(&self, exit: LastExit, served: bool) -> ExitReport {
        let pid = self.pid().unwrap_or(0);
        ExitReport {
            pool: self.pool,
            slot: self.slot,
            generation: self.generation,
            pid,
            exit,
            served,
        }
    }
}

/// The state of a worker's tree after its group was sent SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TreeState {
    /// It never had a process.
    None,
    /// The worker itself, or a process in its cgroup, still runs.
    Lives,
    /// Neither runs; only orphans may be left, which a scan finds.
    Unseen,
}

#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    processes: BTreeMap<WorkerId, WorkerProcess>,
    /// The highest id added so far; ids only grow.
    last: Option<WorkerId>,
    /// Workers that have exited while part of their tree may be left.
    sweeping: BTreeSet<WorkerId>,
    /// Workers whose first process has exited during a stop and whose tree may finish.
    finishing: BTreeSet<WorkerId>,
    /// When they are checked next, and the pause before that. SIGCHLD announces orphans of ours, but members of a
    /// cgroup may be children of other processes.
    sweep_timer: Option<(Time, Span)>,
    /// Pids of all children that are not reaped yet.
    pids: HashSet<i32>,
    /// Exited children that a tracer holds: the kernel lets nobody else reap them.
    unreaped: Vec<Process>,
    /// The kernel has no pidfds: exits are checked at each SIGCHLD.
    pub without_pidfds: bool,
}

impl ProcessTable {
    /// The workers that hold a socket. One that waits for a port has none yet.
    pub(crate) fn holders_of(&self, listener: ListenerId) -> Vec<WorkerId> {
        let holds = |process: &WorkerProcess| {
            process.output.is_some() && process.spec.listeners.contains(&listener)
        };
        self.iter()
            .filter(|(_, process)| holds(process))
            .map(|(worker, _)| worker)
            .collect()
    }

    pub(crate) fn add(&mut self, id: WorkerId, process: WorkerProcess) {
        self.last = self.last.max(Some(id));
        self.processes.insert(id, process);
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&WorkerProcess> {
        self.processes.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut WorkerProcess> {
        self.processes.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<WorkerProcess> {
        self.sweeping.remove(&id);
        self.finishing.remove(&id);
        self.processes.remove(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &WorkerProcess)> {
        self.processes.iter().map(|(id, process)| (*id, process))
    }

    pub(crate) fn pids(&self) -> &HashSet<i32> {
        &self.pids
    }

    pub(crate) fn add_pid(&mut self, pid: i32) {
        self.pids.insert(pid);
    }

    /// Reaps a worker that has exited, or keeps it for later if a tracer holds it.
    pub(crate) fn reap(&mut self, child: Process) {
        match child.reap() {
            Ok(None) => self.unreaped.push(child),
            // Reaped, or no longer our child.
            _ => drop(self.pids.remove(&child.pid())),
        }
    }

    /// Retries children that could not be reaped. The kernel sends SIGCHLD when a tracer lets go.
    pub(crate) fn retry_unreaped(&mut self) {
        for child in std::mem::take(&mut self.unreaped) {
            self.reap(child);
        }
    }

    /// Sends SIGKILL to what is left of a worker's tree: its process group and its cgroup.
    pub(crate) fn kill_group(&mut self, id: WorkerId) -> TreeState {
        let Some(process) = self.processes.get(&id) else {
            return TreeState::None;
        };
        let (ProcessStage::Alive(child), Some(tree)) = (&process.stage, &process.tree) else {
            return TreeState::None;
        };
        child.signal_group(nix::libc::SIGKILL).ok();
        if let Some(cgroup) = &tree.cgroup {
            cgroup.kill().ok();
        }
        // While it runs, its children are not orphans yet.
        let lives = matches!(child.peek_exit(), Ok(None)) && !child.has_ended();
        let left = lives
            || tree
                .cgroup
                .as_ref()
                .is_some_and(|cgroup| matches!(cgroup.is_empty(), Ok(false)));
        if left {
            TreeState::Lives
        } else {
            TreeState::Unseen
        }
    }

    /// What the orphan scanner has to know about the workers.
    pub(crate) fn scan_request(&self, tag: &str) -> ScanRequest {
        let pid = |(id, process): (&WorkerId, &WorkerProcess)| Some((process.pid()?, *id));
        ScanRequest {
            tag: tag.to_owned(),
            workers: self.processes.iter().filter_map(pid).collect(),
            finishing: self.finishing().into_iter().collect(),
            signals: self
                .processes
                .iter()
                .filter_map(|(id, process)| Some((*id, process.tree_signal?)))
                .collect(),
            living: self
                .processes
                .keys()
                .filter(|id| !self.sweeping.contains(id))
                .copied()
                .collect(),
            ended: self.sweeping.iter().copied().collect(),
            last: self.last,
            unreaped: self.pids.clone(),
            ..ScanRequest::default()
        }
    }

    pub(crate) fn add_sweeping(&mut self, id: WorkerId, now: Time) {
        if self.sweeping.insert(id) {
            self.sweep_timer = Some((now + FIRST_PAUSE, FIRST_PAUSE));
        }
    }

    /// Marks a tree as finishing, and schedules checks of it.
    pub(crate) fn start_finishing(&mut self, id: WorkerId, now: Time) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.survivors = Some(None);
            self.finishing.insert(id);
            self.sweep_timer = Some((now + FIRST_PAUSE, FIRST_PAUSE));
        }
    }

    /// Stops waiting for a tree to finish. Returns whether it was being waited for.
    pub(crate) fn cancel_finishing(&mut self, id: WorkerId) -> bool {
        self.finishing.remove(&id);
        self.processes
            .get_mut(&id)
            .is_some_and(|process| process.survivors.take().is_some())
    }

    pub(crate) fn finishing(&self) -> Vec<WorkerId> {
        self.finishing.iter().copied().collect()
    }

    /// Whether of each finishing tree at least one process seen earlier still runs: then no scan is needed.
    pub(crate) fn all_finishing_alive(&self) -> bool {
        let lives = |id: &WorkerId| {
            let known = self
                .processes
                .get(id)
                .and_then(|process| process.survivors.as_ref()?.as_ref());
            known.into_iter().flatten().any(|member| {
                let (pid, start_time) = member.identity;
                Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie())
            })
        };
        self.finishing.iter().all(lives)
    }

    /// Whether its cgroup, if it has one, still has processes.
    pub(crate) fn cgroup_is_populated(&self, id: WorkerId) -> bool {
        let cgroup = self
            .processes
            .get(&id)
            .and_then(|process| process.tree.as_ref()?.cgroup.as_ref());
        cgroup.is_some_and(|cgroup| matches!(cgroup.is_empty(), Ok(false)))
    }

    /// When trees that are not gone are checked next.
    pub(crate) fn next_sweep(&self) -> Option<Time> {
        self.sweep_timer
            .filter(|_| !self.sweeping.is_empty() || !self.finishing.is_empty())
            .map(|(at, _)| at)
    }

    /// The trees to be checked by `now`; advances the timer.
    pub(crate) fn overdue(&mut self, now: Time) -> Vec<WorkerId> {
        let Some((_, pause)) = self.sweep_timer.filter(|(at, _)| *at <= now) else {
            return Vec::new();
        };
        let pause = (pause + pause).min(MAX_PAUSE);
        self.sweep_timer = Some((now + pause, pause));
        self.sweeping()
    }

    pub(crate) fn is_sweeping(&self, id: WorkerId) -> bool {
        self.sweeping.contains(&id)
    }

    pub(crate) fn sweeping(&self) -> Vec<WorkerId> {
        self.sweeping.iter().copied().collect()
    }

    /// A polite signal, then SIGCONT: a stopped process would not see it.
    pub(crate) fn signal(&mut self, id: WorkerId, signal: Signal) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        match &mut process.stage {
            ProcessStage::Spawning(deferred) => deferred.push(DeferredSignal::Signal(signal)),
            ProcessStage::Alive(child) => {
                if let Err(error) = child
                    .signal(signal.0)
                    .and_then(|()| child.signal(nix::libc::SIGCONT))
                {
                    tracing::debug!(pid = child.pid(), "signal {signal}: {error}");
                }
            }
        }
    }

    /// SIGKILL to the worker and its process group.
    pub(crate) fn kill(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        match &mut process.stage {
            ProcessStage::Spawning(deferred) => deferred.push(DeferredSignal::Kill),
            ProcessStage::Alive(child) => {
                // ESRCH: it has exited by itself, and its exit event follows.
                child.signal(nix::libc::SIGKILL).ok();
                child.signal_group(nix::libc::SIGKILL).ok();
            }
        }
    }
}
