//! Process trees and orphans: kills what workers leave behind. The main thread sends requests to the orphan scanner's
//! thread and acts on its results. `trees.rs` decides what happens to each tree; this file carries it out.

use crate::event_loop::signals;
use crate::observe::counted::counted;
use crate::observe::events::EventKind;
use crate::observe::sanitize::sanitize;
use crate::process::orphan_scanner::{OrphanScanner, ScanReport};
use crate::process::procfs::Stat;
use crate::process::tree::{Found, Identity, Member, ScanRequest, UnownedProcess, is_hook};
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::exit_report::exit_text;
use crate::supervisor::workers::process_table::TreeState;
use crate::supervisor::workers::trees::{self, Event};
use crate::supervisor::workers::{LoopContext, Workers};
use crate::sys::reaper;
use rotad_core::{Input, PoolId, Signal, Span, Time, WorkerId};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

/// Delay of the scan after a child has exited: one scan for a burst of exits.
const SCAN_DELAY: Span = Span::from_secs(1);
/// During shutdown: maximum delay before the next scan for processes that have not died.
const RESCAN_DELAY: Span = Span::from_millis(50);
/// Maximum children reaped in one turn of the loop.
const MAX_REAPED_PER_TURN: usize = 256;
/// Maximum processes that one message or one scan names.
const MAX_NAMED: usize = 8;

#[derive(Debug)]
pub(crate) struct Orphans {
    scanner: OrphanScanner,
    /// A scan is wanted when the current one is through.
    wanted: bool,
    /// Which processes have received which signal to a whole tree.
    signalled: Arc<Mutex<HashSet<(Identity, u64)>>>,
    /// When a scan is due without another reason.
    at: Option<Time>,
    /// Children that this process had before it became a master, with their descendants. They are never killed.
    preexisting: Arc<HashSet<Identity>>,
    /// Processes of the last scan that belong to no worker; they may be spawns in progress.
    unowned: (Vec<UnownedProcess>, Vec<Identity>),
    /// More children have exited than are reaped in one turn.
    more_to_reap: bool,
    /// How many processes are left of each tree that is being killed, as of the last scan.
    members: BTreeMap<WorkerId, usize>,
    /// The master exits: all that is left is killed.
    everything: bool,
    /// During shutdown: how many were alive at the last scan. None: it has not finished.
    left: Option<usize>,
    /// The runs of hooks that have not ended: what they have started is left alone.
    hooks: BTreeSet<WorkerId>,
}

impl Orphans {
    pub(crate) fn new(scanner: OrphanScanner, preexisting: HashSet<Identity>) -> Self {
        let preexisting = Arc::new(preexisting);
        Self {
            scanner,
            wanted: false,
            signalled: Arc::default(),
            at: None,
            preexisting,
            unowned: Default::default(),
            more_to_reap: false,
            members: BTreeMap::new(),
            everything: false,
            left: None,
            hooks: BTreeSet::new(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Time> {
        let now = self.more_to_reap.then_some(Time(0));
        let due = self.at.filter(|_| !self.scanner.is_busy());
        self.scanner
            .deadline()
            .into_iter()
            .chain(due)
            .chain(now)
            .min()
    }

    /// Why a tree is not gone although its worker has exited, for people.
    fn why_left(&self, worker: WorkerId) -> String {
        match self.members.get(&worker) {
            Some(left) => format!(
                "it has ended, and of what it left behind {left} have not, after SIGKILL: there are many, or the kernel \
                 holds one (state D?)"
            ),
            None => {
                "it has ended, and whether it left something behind is not known yet: there are many orphans to be \
                     looked at"
                    .to_owned()
            }
        }
    }
}

impl Workers {
    /// Tells the trees what has happened, and does what they ask for.
    fn tell_trees(&mut self, context: &LoopContext<'_>, event: Event, actions: &mut Vec<Action>) {
        for action in self.trees.handle(context.now, event) {
            match action {
                trees::Action::KillGroup {
                    worker,
                    unless_orphans,
                } => {
                    let left = match self.kill_group(worker, unless_orphans) {
                        TreeState::None => false,
                        TreeState::Lives => true,
                        // Without orphans there is nothing to scan for.
                        TreeState::Unseen => self.has_orphans(),
                    };
                    self.tell_trees(context, Event::GroupKilled { worker, left }, actions);
                }
                trees::Action::Scan => self.scan_orphans(context.now),
                trees::Action::ScanUnlessAlive => {
                    if !self.all_finishing_alive() {
                        self.scan_orphans(context.now);
                    }
                }
                trees::Action::GoneIfEmpty(worker) => {
                    if !self.processes.cgroup_is_populated(worker) {
                        self.tree_gone(context, worker, actions);
                    }
                }
                trees::Action::GoneIfDead(worker) => {
                    if self.processes.kill_group(worker) != TreeState::Lives {
                        self.tree_gone(context, worker, actions);
                    }
                }
                trees::Action::Gone(worker) => self.tree_gone(context, worker, actions),
                trees::Action::ReportKilled(worker, killed) => {
                    let many = counted(killed, "process");
                    let event = match is_hook(worker) {
                        true => {
                            let text = format!("killed {many} that a hook left behind");
                            EventBuilder::new(EventKind::DescendantsKilled, text)
                        }
                        false => {
                            let text = format!("killed {many} that the worker left behind");
                            EventBuilder::new(EventKind::DescendantsKilled, text).worker(worker)
                        }
                    };
                    actions.push(Action::Emit(event));
                }
                trees::Action::ReportDaemonized(worker) => {
                    self.report_daemonized_worker(worker, actions);
                }
            }
        }
    }

    /// Whether there are orphans. Those of workers of a dead master went to the guardian, or to the parent of adopted
    /// workers, which are not asked: there may be some.
    fn has_orphans(&self) -> bool {
        self.processes.guardian_pid().is_some()
            || self.processes.has_foster_parents()
            || reaper::has_orphans()
    }

    /// `unless_orphans`: the scan kills instead. A child that has not called setsid(2) yet would die with the group,
    /// uncounted.
    fn kill_group(&mut self, worker: WorkerId, unless_orphans: bool) -> TreeState {
        match unless_orphans && self.has_orphans() {
            true => TreeState::Unseen,
            false => self.processes.kill_group(worker),
        }
    }

    /// Kills the tree of a worker that has exited, or what is left of it after a stop.
    pub(crate) fn kill_tree(&mut self, context: &LoopContext<'_>, id: WorkerId) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.processes.get(id).is_some() {
            self.tell_trees(context, Event::Kill(id), &mut actions);
        }
        actions
    }

    /// The first process has exited during its stop: what is left of its tree receives `signal` and may finish. Mostly
    /// nothing is left, and that is known immediately.
    pub(crate) fn signal_remaining(
        &mut self,
        context: &LoopContext<'_>,
        id: WorkerId,
        signal: Option<Signal>,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let has_process = self
            .processes
            .get(id)
            .is_some_and(|process| process.child().is_some());
        let left = has_process && (self.has_orphans() || self.processes.cgroup_is_populated(id));
        let event = Event::Finish {
            worker: id,
            signal,
            left,
        };
        self.tell_trees(context, event, &mut actions);
        actions
    }

    /// Sends a polite signal to every process of a worker's tree; the worker itself gets it immediately, the others
    /// from the next scan.
    pub(crate) fn signal_tree(
        &mut self,
        context: &LoopContext<'_>,
        id: WorkerId,
        signal: Signal,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(process) = self.processes.get(id) else {
            return actions;
        };
        let has_process = process.child().is_some();
        if process.exit.is_none() {
            self.processes.signal(id, signal);
            actions.extend(self.report_signal(id, signal));
        }
        // Before it is spawned there is no tree.
        if has_process {
            self.tell_trees(context, Event::Signal(id, signal), &mut actions);
        }
        actions
    }

    /// Sends SIGKILL to the workers of a pool, and to what is left of those that have exited.
    pub(crate) fn kill_pool(&mut self, context: &LoopContext<'_>, pool: PoolId) -> Vec<Action> {
        let of_pool = self
            .processes
            .iter()
            .filter(|(_, process)| process.pool == pool);
        let all: Vec<WorkerId> = of_pool.map(|(id, _)| id).collect();
        let mut actions = Vec::new();
        for id in all {
            if self.trees.survivors(id).is_some() {
                self.tell_trees(context, Event::KillNow(id), &mut actions);
            } else {
                self.processes.kill(id);
            }
        }
        actions
    }

    /// Whether of each finishing tree at least one process seen earlier still runs: then no scan is needed.
    fn all_finishing_alive(&self) -> bool {
        let runs = |member: &Member| {
            let (pid, start_time) = member.identity;
            Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie())
        };
        self.trees
            .finishing()
            .all(|(_, members)| members.unwrap_or_default().iter().any(runs))
    }

    /// Checks the trees that are due by now.
    pub(crate) fn run_due_trees(&mut self, context: &LoopContext<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.tell_trees(context, Event::CheckDue, &mut actions);
        actions
    }

    /// A child has exited, and all workers among them were checked: it may have been the last process of a tree.
    pub(crate) fn on_child_exited(&mut self, context: &LoopContext<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.processes.retry_unreaped(context.now);
        self.tell_trees(context, Event::ChildExited, &mut actions);
        actions
    }

    /// What was seen of a tree that may finish; None before the first scan. None: it may not.
    pub(crate) fn survivors(&self, id: WorkerId) -> Option<Option<&[Member]>> {
        self.trees.survivors(id)
    }

    fn report_tree_signal(&self, id: WorkerId, members: &[Member]) -> Option<Action> {
        let process = self.processes.get(id)?;
        let name = signals::name(self.trees.signal_of(id)?.signal);
        let event = match process.exit {
            Some(exit) => {
                let text = format!(
                    "its first process has ended ({}), others of its tree have not: SIG{name} was passed on to {}",
                    exit_text(exit),
                    list_members(members)
                );
                EventBuilder::new(EventKind::Signal, text)
            }
            None => EventBuilder::new(
                EventKind::Signal,
                format!("SIG{name} sent to {}", list_members(members)),
            )
            .debug(),
        };
        Some(Action::Emit(event.worker(id).cause("tree")))
    }

    /// Starts a scan, now or after the current one.
    fn scan_orphans(&mut self, now: Time) {
        self.orphans.wanted = true;
        if self.orphans.scanner.is_busy() {
            return;
        }
        self.orphans.wanted = false;
        self.orphans.at = None;
        let request = self.scan_request(now);
        if let Err(error) = self.orphans.scanner.scan(request) {
            tracing::warn!(
                "what workers have left behind cannot be looked for: {error}; tried again"
            );
            self.orphans.at = Some(now + SCAN_DELAY);
        }
    }

    fn scan_request(&self, now: Time) -> ScanRequest {
        let mut request = ScanRequest {
            threads: self.spawner.threads(),
            guardian: self.processes.guardian_pid(),
            delivered: self.orphans.signalled.clone(),
            cgroup_base: self.cgroups.base().map(std::path::Path::to_owned),
            preexisting: self.orphans.preexisting.clone(),
            now,
            everything: self.orphans.everything,
            ..self.processes.scan_request(&self.tag, &self.trees)
        };
        request.living.extend(&self.orphans.hooks);
        request
    }

    /// These runs of hooks have not ended.
    pub(crate) fn set_hooks(&mut self, runs: BTreeSet<WorkerId>) {
        self.orphans.hooks = runs;
    }

    /// A run of a hook has ended: kills what it has left behind.
    pub(crate) fn end_left_by_hooks(&mut self, now: Time) {
        if self.has_orphans() {
            self.scan_orphans(now);
        }
    }

    /// Runs the scans that are due by now, and reaps on.
    pub(crate) fn run_due_orphans(&mut self, now: Time) {
        if self.orphans.scanner.deadline().is_some_and(|at| at <= now) {
            self.orphans.scanner.check(now);
        }
        if self.orphans.more_to_reap {
            self.reap_orphans(now);
        }
        if self
            .processes
            .reaping_deadline()
            .is_some_and(|at| at <= now)
        {
            self.processes.ask_to_reap(now);
        }
        if self.orphans.at.is_some_and(|at| at <= now) && !self.orphans.scanner.is_busy() {
            self.scan_orphans(now);
        }
    }

    /// Children have exited: reaps the orphans among them, and schedules a scan for others.
    pub(crate) fn reap_orphans(&mut self, now: Time) {
        self.orphans.more_to_reap =
            reaper::reap_orphans(MAX_REAPED_PER_TURN).len() == MAX_REAPED_PER_TURN;
        if self.orphans.everything {
            // They were killed and are about to be gone.
            return self.scan_orphans(now);
        }
        self.orphans.at.get_or_insert(now + SCAN_DELAY);
    }

    /// Takes the result of a scan.
    pub(crate) fn on_orphan_scan(
        &mut self,
        context: &LoopContext<'_>,
        report: ScanReport,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(found) = self.orphans.scanner.complete(report) else {
            return actions;
        };
        let Found {
            kills,
            left,
            unowned,
            ended,
            finishing,
            unattributed,
            signalled,
        } = found;
        if self.orphans.everything {
            self.orphans.left = Some(left);
            self.orphans.at = Some(context.now + RESCAN_DELAY);
        }
        let members = kills.iter().filter(|(_, progress)| progress.left > 0);
        self.orphans.members = members.map(|(id, progress)| (*id, progress.left)).collect();
        for (id, members) in signalled {
            actions.extend(self.report_tree_signal(id, &members));
        }
        if self.trees.signals().next().is_none() {
            self.orphans
                .signalled
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clear();
        }
        for (worker, members) in finishing {
            let event = Event::Survivors {
                worker,
                members,
                certain: unattributed == 0,
            };
            self.tell_trees(context, event, &mut actions);
        }
        for (worker, progress) in kills {
            self.tell_trees(context, Event::Swept(worker, progress), &mut actions);
        }
        self.orphans.unowned.0.extend(unowned);
        self.orphans.unowned.1 = ended;
        self.report_unattributed(context.now, &mut actions);
        if std::mem::take(&mut self.orphans.wanted) {
            self.scan_orphans(context.now);
        }
        actions
    }

    fn tree_gone(&mut self, context: &LoopContext<'_>, id: WorkerId, actions: &mut Vec<Action>) {
        if let Some(process) = self.processes.remove(id) {
            self.reaped.insert(id, process.label());
            self.dispose(context, id, process, actions);
        }
        actions.push(Action::Input(Input::TreeGone(id)));
    }

    /// The engine's notices about a worker whose tree is gone have been emitted: its label is not needed any more.
    pub(crate) fn forget_label(&mut self, id: WorkerId) {
        self.reaped.remove(&id);
    }

    /// The master exits: kills all that is left. A scan already running does not count.
    pub(crate) fn end_orphans(&mut self, now: Time) {
        self.orphans.everything = true;
        self.orphans.left = None;
        self.orphans.at = None;
        let request = self.scan_request(now);
        if let Err(error) = self.orphans.scanner.scan(request) {
            tracing::warn!("what workers have left behind cannot be ended: {error}");
        }
    }

    /// How many processes are left while the master exits. None: that is not known yet.
    pub(crate) fn orphans_left(&self) -> Option<usize> {
        self.orphans.left
    }

    /// What is still there when the master exits, for people.
    pub(crate) fn leftovers_text(&self) -> String {
        match self.orphans.left {
            Some(1) => {
                "one process that a worker left behind cannot be ended by the kernel".to_owned()
            }
            Some(many) => {
                format!("{many} processes that workers left behind cannot be ended by the kernel")
            }
            None => "what workers left behind could not be looked for in time".to_owned(),
        }
    }

    /// Why the tree of a worker that has exited is not gone, for people. None: the worker has not exited.
    pub(crate) fn why_left(&self, id: WorkerId) -> Option<String> {
        self.processes.get(id)?.exit?;
        Some(self.orphans.why_left(id))
    }

    /// Reports children of the spawner threads that belong to no worker. A spawn whose result has not arrived looks the
    /// same, so nothing is reported while spawns are in progress.
    fn report_unattributed(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.spawner.outstanding() > 0 {
            self.orphans.at.get_or_insert(now + SCAN_DELAY);
            return;
        }
        let (unowned, ended) = std::mem::take(&mut self.orphans.unowned);
        for (pid, start_time) in ended {
            // Identified by its start time. A child of ours keeps its pid until it is reaped, and nobody else reaps it.
            if !self.processes.has_pid(pid)
                && Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time)
            {
                self.processes.reap_stranger(now, pid);
            }
        }
        let strange = |one: &UnownedProcess| {
            let (pid, start_time) = one.identity;
            let lives =
                Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie());
            lives && !self.processes.has_pid(pid)
        };
        let unowned: Vec<UnownedProcess> = unowned.into_iter().filter(strange).collect();
        for UnownedProcess {
            identity: (pid, _),
            name,
            silent,
        } in unowned.iter().take(MAX_NAMED)
        {
            let name = sanitize(name.as_bytes());
            let why = match silent {
                true => "it hangs in the kernel (a disk?) and cannot be asked whose it is",
                false => "it has left its session, and ROTAD_WORKER is not in its environment",
            };
            let text = format!(
                "pid {pid} ({name}) has lost its parent, and nothing tells which worker started it: {why}; it is ended \
                 when the master stops"
            );
            actions.push(Action::Emit(
                EventBuilder::new(EventKind::Orphan, text).warn(),
            ));
            actions.push(Action::UnownedProcess { pid: *pid, name });
        }
        if unowned.len() > MAX_NAMED {
            let text = match unowned.len() - MAX_NAMED {
                1 => "one more process is like that".to_owned(),
                many => format!("{many} more processes are like that"),
            };
            actions.push(Action::Emit(
                EventBuilder::new(EventKind::Orphan, text).warn(),
            ));
        }
    }
}

/// "2 processes: python3 (pid 12), node (pid 14)".
pub(crate) fn list_members(members: &[Member]) -> String {
    let mut text = counted(members.len(), "process") + ": ";
    let some: Vec<String> = members
        .iter()
        .take(MAX_NAMED)
        .map(|member| {
            format!(
                "{} (pid {})",
                sanitize(member.name.as_bytes()),
                member.identity.0
            )
        })
        .collect();
    text.push_str(&some.join(", "));
    if members.len() > MAX_NAMED {
        text.push_str(", …");
    }
    text
}
