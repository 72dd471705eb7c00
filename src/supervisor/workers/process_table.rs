//! The process table: the only place that maps a worker's id to its process. `spawning.rs` adds entries,
//! `exits.rs` records exits, `orphans.rs` removes entries once the whole process tree is gone.

use crate::guardian::Link;
use crate::log::{LeftOutput, LogWriter, SavedLeftOutput, WorkerOutput};
use crate::notify_socket::NotifySocket;
use crate::observe::status::LastExit;
use crate::plan::LogPlan;
use crate::process::cgroup::Cgroup;
use crate::process::procfs::Stat;
use crate::process::tree::{ProcessTree, ScanRequest};
use crate::supervisor::listening::ListenerId;
use crate::supervisor::pool_registry::PoolSpec;
use crate::supervisor::workers::exit_report::ExitReport;
use crate::supervisor::workers::trees::Trees;
use crate::supervisor::workers::{address_in_use, cleared_env};
use crate::sys::process::Process;
use crate::sys::reaper;
use rotad_core::{Exit, Generation, PoolId, Signal, Slot, Span, Time, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Pause before the guardian is asked again to reap.
const ASK_AGAIN: Span = Span::from_millis(100);

/// A signal for a worker that is not spawned yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// It was adopted: another master has started it, whose state is lost.
    pub adopted: bool,
    /// Why the master kills it (not ready in time, unhealthy): the exit status does not say that.
    pub end_reason: Option<String>,
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
            hint: match served {
                true => None,
                false => address_in_use::hint(&self.spec, &exit.log)
                    .or_else(|| cleared_env::hint(&self.spec.plan.recipe, &exit.log)),
            },
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

/// How a worker may have changed since it was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// What [`WorkerProcess::saved_state`] returns.
    State,
    /// More than that, or it is new or gone.
    Whole,
}

#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    processes: BTreeMap<WorkerId, WorkerProcess>,
    /// Those that may have changed since they were saved, and how.
    changed: BTreeMap<WorkerId, Change>,
    /// The highest id added so far; ids only grow.
    last: Option<WorkerId>,
    /// The workers by pid, those too that have left the table and are not reaped yet.
    pids: HashMap<i32, WorkerId>,
    /// Exited children that a tracer holds: the kernel lets nobody else reap them.
    unreaped: Vec<Process>,
    /// The parent of the workers of dead masters, if there were any.
    pub guardian: Option<Arc<Link>>,
    /// The parents of adopted workers, to which their orphans go as well.
    foster_parents: BTreeSet<i32>,
    /// Children of the guardian that it is still to be asked to reap.
    for_guardian: Vec<i32>,
    /// When it is asked again, since its queue was full: no event tells that there is room.
    ask_again: Option<Time>,
    /// Workers whose last polite signal the kernel has refused, until that is reported.
    refused: BTreeMap<WorkerId, io::Error>,
    /// The kernel has no pidfds: exits are checked at each SIGCHLD.
    pub without_pidfds: bool,
    /// The output of workers that are not in the table any more, and whether it is saved.
    left_outputs: BTreeMap<WorkerId, (LeftOutput, bool)>,
    /// Those that were added since the last save.
    new_left_outputs: Vec<WorkerId>,
    /// How many pipes the log writer had closed when they were looked at last.
    closed_pipes: u64,
}

impl ProcessTable {
    /// The log writer goes on reading the output of a worker that has left the table.
    pub(crate) fn left_output(&mut self, id: WorkerId, output: &WorkerOutput, log: &LogPlan) {
        if let Some(left) = output.left(log) {
            self.left_outputs.insert(id, (left, false));
            self.new_left_outputs.push(id);
        }
    }

    /// The outputs of workers that have left the table since the last call, and None for those that were read to their
    /// end. `closed`: how many pipes the log writer has closed by now. Unless it has closed one, only those that are new
    /// are looked at.
    pub(crate) fn take_left_outputs(
        &mut self,
        closed: u64,
    ) -> Vec<(WorkerId, Option<SavedLeftOutput>)> {
        let mut changes = Vec::new();
        let new = std::mem::take(&mut self.new_left_outputs);
        if std::mem::replace(&mut self.closed_pipes, closed) == closed {
            for id in new {
                if let Some((output, is_saved)) = self.left_outputs.get_mut(&id)
                    && let Some(saved) = output.saved()
                {
                    changes.push((id, Some(saved.clone())));
                    *is_saved = true;
                }
            }
            return changes;
        }
        self.left_outputs.retain(|id, (output, is_saved)| {
            let saved = output.saved();
            let goes_on = saved.is_some();
            if goes_on != *is_saved {
                changes.push((*id, saved.cloned()));
                *is_saved = true;
            }
            goes_on
        });
        changes
    }

    /// Nothing is saved: no other master goes on with them.
    pub(crate) fn forget_left_outputs(&mut self) {
        self.left_outputs.clear();
        self.new_left_outputs.clear();
    }

    /// All outputs of workers that have left the table and are still read.
    pub(crate) fn all_left_outputs(&mut self) -> Vec<(WorkerId, SavedLeftOutput)> {
        self.new_left_outputs.clear();
        self.left_outputs.retain(|_, (output, is_saved)| {
            *is_saved = true;
            output.saved().is_some()
        });
        let outputs = self.left_outputs.iter();
        outputs
            .filter_map(|(id, (output, _))| Some((*id, output.saved()?.clone())))
            .collect()
    }

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
        self.changed.insert(id, Change::Whole);
        self.processes.insert(id, process);
    }

    pub(crate) fn get(&self, id: WorkerId) -> Option<&WorkerProcess> {
        self.processes.get(&id)
    }

    /// To change what [`WorkerProcess::saved_state`] returns, and nothing else.
    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut WorkerProcess> {
        let process = self.processes.get_mut(&id)?;
        self.changed.entry(id).or_insert(Change::State);
        Some(process)
    }

    /// To change anything of it.
    pub(crate) fn get_whole_mut(&mut self, id: WorkerId) -> Option<&mut WorkerProcess> {
        let process = self.processes.get_mut(&id)?;
        self.changed.insert(id, Change::Whole);
        Some(process)
    }

    /// The workers that may have changed since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeMap<WorkerId, Change> {
        std::mem::take(&mut self.changed)
    }

    /// Adds a worker of a dead master, as it was saved.
    pub(crate) fn restore(&mut self, id: WorkerId, process: WorkerProcess) {
        self.last = self.last.max(Some(id));
        if let Some(pid) = process.pid() {
            self.pids.insert(pid, id);
            self.foster_parents.extend(
                Stat::of(pid)
                    .ok()
                    .map(|stat| stat.parent)
                    .filter(|parent| Some(*parent) != self.guardian_pid()),
            );
        }
        self.processes.insert(id, process);
    }

    pub(crate) fn remove(&mut self, id: WorkerId) -> Option<WorkerProcess> {
        self.changed.insert(id, Change::Whole);
        self.refused.remove(&id);
        self.processes.remove(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &WorkerProcess)> {
        self.processes.iter().map(|(id, process)| (*id, process))
    }

    /// The parent of the workers of dead masters, if there were any.
    pub(crate) fn guardian_pid(&self) -> Option<i32> {
        self.guardian
            .as_ref()
            .map(|guardian| guardian.guardian().pid())
    }

    /// The processes besides this one whose children may be workers.
    pub(crate) fn other_parents(&self) -> Vec<i32> {
        let guardian = self.guardian_pid().into_iter();
        guardian
            .chain(self.foster_parents.iter().copied())
            .collect()
    }

    /// Whether there are workers of a dead master that are not the guardian's children.
    pub(crate) fn has_foster_parents(&self) -> bool {
        !self.foster_parents.is_empty()
    }

    /// Reaps a child of ours or of the guardian that is no worker.
    pub(crate) fn reap_stranger(&mut self, now: Time, pid: i32) {
        reaper::reap_one_of(pid);
        self.for_guardian.push(pid);
        self.ask_to_reap(now);
    }

    /// The pids of workers of dead masters that have ended, and whose exit status is not known.
    pub(crate) fn untold_exits(&self) -> Vec<i32> {
        let children = self.processes.values().filter_map(WorkerProcess::child);
        children
            .filter(|child| child.needs_telling() && child.has_ended())
            .map(Process::pid)
            .collect()
    }

    /// The worker with this pid.
    pub(crate) fn of_pid(&self, pid: i32) -> Option<WorkerId> {
        let id = self.pids.get(&pid)?;
        self.processes.contains_key(id).then_some(*id)
    }

    /// Whether this is the pid of a worker that is not reaped yet.
    pub(crate) fn has_pid(&self, pid: i32) -> bool {
        self.pids.contains_key(&pid)
    }

    pub(crate) fn add_pid(&mut self, pid: i32, id: WorkerId) {
        self.pids.insert(pid, id);
    }

    /// Reaps a worker that has exited, or keeps it for later if a tracer holds it.
    pub(crate) fn reap(&mut self, now: Time, child: Process) {
        if !child.is_child() {
            self.pids.remove(&child.pid());
            self.for_guardian.push(child.pid());
            return self.ask_to_reap(now);
        }
        match child.reap() {
            Ok(None) => self.unreaped.push(child),
            // Reaped, or no longer our child.
            _ => drop(self.pids.remove(&child.pid())),
        }
    }

    /// Asks the guardian to reap what is left to it, as far as its queue has room.
    pub(crate) fn ask_to_reap(&mut self, now: Time) {
        self.ask_again = None;
        let Some(guardian) = &self.guardian else {
            return self.for_guardian.clear();
        };
        while let Some(pid) = self.for_guardian.last()
            && guardian.reap(*pid).is_ok()
        {
            self.for_guardian.pop();
        }
        if !self.for_guardian.is_empty() {
            self.ask_again = Some(now + ASK_AGAIN);
        }
    }

    /// When the guardian is to be asked again.
    pub(crate) fn reaping_deadline(&self) -> Option<Time> {
        self.ask_again
    }

    /// Retries children that could not be reaped. The kernel sends SIGCHLD when a tracer lets go.
    pub(crate) fn retry_unreaped(&mut self, now: Time) {
        for child in std::mem::take(&mut self.unreaped) {
            self.reap(now, child);
        }
        self.ask_to_reap(now);
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
        let lives =
            process.exit.is_none() && matches!(child.peek_exit(), Ok(None)) && !child.has_ended();
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
    pub(super) fn scan_request(&self, tag: &str, trees: &Trees) -> ScanRequest {
        let pid = |(id, process): (&WorkerId, &WorkerProcess)| Some((process.pid()?, *id));
        ScanRequest {
            tag: tag.to_owned(),
            workers: self.processes.iter().filter_map(pid).collect(),
            finishing: trees.finishing().map(|(id, _)| id).collect(),
            signals: trees.signals().collect(),
            living: self
                .processes
                .keys()
                .filter(|id| !trees.is_killing(**id))
                .copied()
                .collect(),
            ended: trees.killing().collect(),
            last: self.last,
            foster_parents: self.foster_parents.iter().copied().collect(),
            unreaped: self.pids.keys().copied().collect(),
            ..ScanRequest::default()
        }
    }

    /// Whether its cgroup, if it has one, still has processes.
    pub(crate) fn cgroup_is_populated(&self, id: WorkerId) -> bool {
        let cgroup = self
            .processes
            .get(&id)
            .and_then(|process| process.tree.as_ref()?.cgroup.as_ref());
        cgroup.is_some_and(|cgroup| matches!(cgroup.is_empty(), Ok(false)))
    }

    /// A polite signal, then SIGCONT: a stopped process would not see it. One that the kernel refuses is told by
    /// [`ProcessTable::take_refusal`].
    pub(crate) fn signal(&mut self, id: WorkerId, signal: Signal) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        match &mut process.stage {
            ProcessStage::Spawning(deferred) => {
                deferred.push(DeferredSignal::Signal(signal));
                self.changed.entry(id).or_insert(Change::State);
            }
            ProcessStage::Alive(child) => match child.signal(signal.0) {
                // It may have ended by that signal.
                Ok(()) => drop(child.signal(nix::libc::SIGCONT)),
                Err(error) => drop(self.refused.insert(id, error)),
            },
        }
    }

    /// Why the last signal to this worker was not sent: ESRCH, it has ended; EPERM, it runs as another user now.
    /// None: it was sent.
    pub(crate) fn take_refusal(&mut self, id: WorkerId) -> Option<io::Error> {
        self.refused.remove(&id)
    }

    /// A signal to these workers, as an operator asks for it. Returns the pids that got it, and the errors of the others.
    pub(crate) fn signal_all(
        &self,
        workers: &[WorkerId],
        signal: i32,
    ) -> (Vec<String>, Vec<String>) {
        let (mut pids, mut failed) = (Vec::new(), Vec::new());
        for child in workers
            .iter()
            .filter_map(|id| self.processes.get(id)?.child())
        {
            match child.signal(signal) {
                Ok(()) => pids.push(child.pid().to_string()),
                Err(error) => failed.push(format!("pid {}: {error}", child.pid())),
            }
        }
        (pids, failed)
    }

    /// SIGKILL to the worker and its process group. One that the kernel refuses is told by [`ProcessTable::take_refusal`].
    pub(crate) fn kill(&mut self, id: WorkerId) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        match &mut process.stage {
            ProcessStage::Spawning(deferred) => {
                deferred.push(DeferredSignal::Kill);
                self.changed.entry(id).or_insert(Change::State);
            }
            ProcessStage::Alive(child) => {
                match child.signal(nix::libc::SIGKILL) {
                    // It has exited by itself, and its exit event follows.
                    Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
                        self.refused.insert(id, error);
                    }
                    _ => {}
                }
                child.signal_group(nix::libc::SIGKILL).ok();
            }
        }
    }
}
