//! The roster: the only place that knows both a worker's number and its process.

use super::exit_report::ExitReport;
use super::pool_registry::PoolSpec;
use crate::log::WorkerOutput;
use crate::notify_socket::NotifySocket;
use crate::observe::status::LastExit;
use crate::process::cgroup::Cgroup;
use crate::process::procfs::Stat;
use crate::process::tree::{Member, ProcessTree, ScanRequest, TreeSignal};
use crate::sys::process::Process;
use rotad_core::{Exit, Generation, PoolId, Signal, Slot, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a sweep could not end at once is looked at again after so long; the pauses grow …
const SOON: Duration = Duration::from_millis(20);
/// … up to this: what the kernel cannot end costs no more than one look a second.
const LATER: Duration = Duration::from_secs(1);

/// What is asked of a worker that is not born yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DeferredSignal {
    Signal(Signal),
    Kill,
}

#[derive(Debug)]
pub(super) enum ProcessStage {
    /// The spawner has the order; what was asked meanwhile waits.
    Unborn(Vec<DeferredSignal>),
    Alive(Process),
}

#[derive(Debug)]
pub(super) struct WorkerProcess {
    pub pool: PoolId,
    pub slot: Slot,
    pub generation: Generation,
    /// What it was made from.
    pub pattern: Arc<PoolSpec>,
    /// `ROTAD_WORKER`: unique for each birth of each master.
    pub tag: String,
    pub stage: ProcessStage,
    /// The shim's word about the birth, while it is awaited.
    pub exec_status: Option<OwnedFd>,
    pub notify: Option<NotifySocket>,
    pub output: Option<WorkerOutput>,
    /// Its cgroup until it has a family.
    pub cgroup: Option<Cgroup>,
    pub family: Option<ProcessTree>,
    /// STATUS=, made harmless.
    pub says: Option<String>,
    pub exit: Option<Exit>,
    /// Why there is no program.
    pub error: Option<String>,
    pub ready: bool,
    /// Its own of its pool's `ports`.
    pub port: Option<u16>,
    /// Why it is not ready yet, or not healthy, as the last probe or its watchdog has it.
    pub unwell: Option<String>,
    /// Its first process has ended in its stop, and what is left of its tree may finish: who that is, as of the last
    /// look; none: nobody has looked yet.
    pub outlived: Option<Option<Vec<Member>>>,
    /// The last signal that its whole tree gets.
    pub passed: Option<TreeSignal>,
    /// What is left of its tree was named when it was cut short.
    pub named: bool,
    /// Why the master ends it: not ready in time, or unhealthy. Its exit then tells nothing of that.
    pub ended_for: Option<String>,
    /// It ended by itself, with an end that is no failure, before it was ready.
    pub ended_in_vain: bool,
}

impl WorkerProcess {
    pub(super) fn process(&self) -> Option<&Process> {
        match &self.stage {
            ProcessStage::Unborn(_) => None,
            ProcessStage::Alive(process) => Some(process),
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.process().map(Process::pid)
    }

    pub(super) fn obituary(&self, exit: LastExit, served: bool) -> ExitReport {
        let pid = self.pid().unwrap_or(0);
        ExitReport { pool: self.pool, slot: self.slot, generation: self.generation, pid, exit, served }
    }
}

/// What there is of a worker's tree once it has ended, and its group was sent SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// There never was one.
    None,
    /// The worker itself, or somebody in its cgroup, has not ended yet.
    Lives,
    /// Nobody but perhaps orphans.
    Unseen,
}

#[derive(Debug, Default)]
pub(super) struct ProcessTable {
    bodies: BTreeMap<WorkerId, WorkerProcess>,
    /// The last that was added: their numbers only grow.
    last: Option<WorkerId>,
    /// Those that have exited and still have something of a tree.
    sweeping: BTreeSet<WorkerId>,
    /// Those whose first process has ended in its stop, and whose tree may finish.
    finish: BTreeSet<WorkerId>,
    /// When they are to be swept again, and the pause before: SIGCHLD tells of orphans of ours, but members of a
    /// cgroup may be somebody else's children.
    again: Option<(Instant, Duration)>,
    /// Of all that are not reaped yet.
    pids: HashSet<i32>,
    /// Ended, swept, and still in the process table: somebody traces them, and the kernel lets nobody else reap them.
    late: Vec<Process>,
    /// The kernel gives no pidfds: exits are looked for at each SIGCHLD.
    pub without_pidfds: bool,
}

impl ProcessTable {
    pub(super) fn add(&mut self, id: WorkerId, body: WorkerProcess) {
        self.last = self.last.max(Some(id));
        self.bodies.insert(id, body);
    }

    pub(super) fn get(&self, id: WorkerId) -> Option<&WorkerProcess> {
        self.bodies.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: WorkerId) -> Option<&mut WorkerProcess> {
        self.bodies.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<WorkerProcess> {
        self.sweeping.remove(&id);
        self.finish.remove(&id);
        self.bodies.remove(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &WorkerProcess)> {
        self.bodies.iter().map(|(id, body)| (*id, body))
    }

    pub(super) fn pids(&self) -> &HashSet<i32> {
        &self.pids
    }

    pub(super) fn born(&mut self, pid: i32) {
        self.pids.insert(pid);
    }

    /// Reaps a worker that has ended; later, where a tracer holds it.
    pub(super) fn reap(&mut self, process: Process) {
        match process.reap() {
            Ok(None) => self.late.push(process),
            // Reaped, or no child of ours any more.
            _ => drop(self.pids.remove(&process.pid())),
        }
    }

    /// Reaps those that could not be reaped before. The kernel sends SIGCHLD when a tracer lets go.
    pub(super) fn reap_late(&mut self) {
        for process in std::mem::take(&mut self.late) {
            self.reap(process);
        }
    }

    /// Begins to end what is left of a worker's tree: its group, its session as far as it is that group, its cgroup.
    pub(super) fn end_tree(&mut self, id: WorkerId) -> Tree {
        let Some(body) = self.bodies.get(&id) else { return Tree::None };
        let (ProcessStage::Alive(process), Some(family)) = (&body.stage, &body.family) else { return Tree::None };
        process.signal_group(nix::libc::SIGKILL).ok();
        if let Some(cgroup) = &family.cgroup {
            cgroup.kill().ok();
        }
        // While it lives its children are no orphans yet.
        let lives = matches!(process.peek_exit(), Ok(None)) && !process.has_ended();
        let left = lives || family.cgroup.as_ref().is_some_and(|cgroup| matches!(cgroup.is_empty(), Ok(false)));
        if left { Tree::Lives } else { Tree::Unseen }
    }

    /// What a look at the orphans has to know of the workers.
    pub(super) fn question(&self, tag: &str) -> ScanRequest {
        let pid = |(id, body): (&WorkerId, &WorkerProcess)| Some((body.pid()?, *id));
        ScanRequest {
            tag: tag.to_owned(),
            workers: self.bodies.iter().filter_map(pid).collect(),
            finishing: self.finishing().into_iter().collect(),
            signals: self.bodies.iter().filter_map(|(id, body)| Some((*id, body.passed?))).collect(),
            living: self.bodies.keys().filter(|id| !self.sweeping.contains(id)).copied().collect(),
            ended: self.sweeping.iter().copied().collect(),
            last: self.last,
            unreaped: self.pids.clone(),
            ..ScanRequest::default()
        }
    }

    pub(super) fn sweep_later(&mut self, id: WorkerId) {
        if self.sweeping.insert(id) {
            self.again = Some((Instant::now() + SOON, SOON));
        }
    }

    /// Its tree finishes: it is looked for again.
    pub(super) fn outlive(&mut self, id: WorkerId) {
        if let Some(body) = self.bodies.get_mut(&id) {
            body.outlived = Some(None);
            self.finish.insert(id);
            self.again = Some((Instant::now() + SOON, SOON));
        }
    }

    /// Nobody waits for its tree any more. Whether somebody did.
    pub(super) fn no_more_patience(&mut self, id: WorkerId) -> bool {
        self.finish.remove(&id);
        self.bodies.get_mut(&id).is_some_and(|body| body.outlived.take().is_some())
    }

    pub(super) fn finishing(&self) -> Vec<WorkerId> {
        self.finish.iter().copied().collect()
    }

    /// Somebody of each tree that finishes was seen, and lives: nobody has to be looked for.
    pub(super) fn all_still_finish(&self) -> bool {
        let lives = |id: &WorkerId| {
            let known = self.bodies.get(id).and_then(|body| body.outlived.as_ref()?.as_ref());
            known.into_iter().flatten().any(|member| {
                let (pid, start_time) = member.identity;
                Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie())
            })
        };
        self.finish.iter().all(lives)
    }

    /// Whether its cgroup, if it has one, says that somebody is left.
    pub(super) fn fence_is_populated(&self, id: WorkerId) -> bool {
        let cgroup = self.bodies.get(&id).and_then(|body| body.family.as_ref()?.cgroup.as_ref());
        cgroup.is_some_and(|cgroup| matches!(cgroup.is_empty(), Ok(false)))
    }

    /// When those that are being swept have to be looked at again, whatever happens until then.
    pub(super) fn sweep_again(&self) -> Option<Instant> {
        self.again.filter(|_| !self.sweeping.is_empty() || !self.finish.is_empty()).map(|(at, _)| at)
    }

    /// Those to be swept again by the clock, if their time has come.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<WorkerId> {
        let Some((_, pause)) = self.again.filter(|(at, _)| *at <= now) else { return Vec::new() };
        let pause = (pause * 2).min(LATER);
        self.again = Some((now + pause, pause));
        self.sweeping()
    }

    pub(super) fn is_sweeping(&self, id: WorkerId) -> bool {
        self.sweeping.contains(&id)
    }

    pub(super) fn sweeping(&self) -> Vec<WorkerId> {
        self.sweeping.iter().copied().collect()
    }

    /// Polite signal, then SIGCONT: a stopped process would never see it.
    pub(super) fn signal(&mut self, id: WorkerId, signal: Signal) {
        let Some(body) = self.bodies.get_mut(&id) else { return };
        match &mut body.stage {
            ProcessStage::Unborn(asked) => asked.push(DeferredSignal::Signal(signal)),
            ProcessStage::Alive(process) => {
                if let Err(error) = process.signal(signal.0).and_then(|()| process.signal(nix::libc::SIGCONT)) {
                    tracing::debug!(pid = process.pid(), "signal {signal}: {error}");
                }
            }
        }
    }

    /// SIGKILL to the worker and its group.
    pub(super) fn kill(&mut self, id: WorkerId) {
        let Some(body) = self.bodies.get_mut(&id) else { return };
        match &mut body.stage {
            ProcessStage::Unborn(asked) => asked.push(DeferredSignal::Kill),
            ProcessStage::Alive(process) => {
                // ESRCH: it has gone by itself, and its exit is on its way to us.
                process.signal(nix::libc::SIGKILL).ok();
                process.signal_group(nix::libc::SIGKILL).ok();
            }
        }
    }
}
