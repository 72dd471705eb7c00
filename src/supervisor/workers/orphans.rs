//! Process trees and orphans: kills what workers leave behind. The main thread sends requests to the orphan scanner's
//! thread and acts on its results; `process_table.rs` holds the state of each tree.

use crate::event_loop::signals;
use crate::observe::events::EventKind;
use crate::observe::sanitize::sanitize;
use crate::process::orphan_scanner::{OrphanScanner, ScanReport};
use crate::process::procfs::Stat;
use crate::process::tree::{Found, Identity, Member, ScanRequest, TreeSignal, UnownedProcess};
use crate::supervisor::Supervisor;
use crate::supervisor::event_log::EventBuilder;
use crate::supervisor::workers::exit_report::exit_text;
use crate::supervisor::workers::process_table::TreeState;
use crate::sys::reaper;
use rotad_core::{Input, Signal, Span, Time, WorkerId};
use std::collections::{BTreeMap, HashSet};
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
    /// The last number of a signal to a whole tree, and which processes have received which.
    number: u64,
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
    /// During shutdown: how many were alive at the last scan.
    pub(crate) left: Option<usize>,
}

impl Orphans {
    pub(crate) fn new(scanner: OrphanScanner, preexisting: HashSet<Identity>) -> Self {
        let preexisting = Arc::new(preexisting);
        Self {
            scanner,
            wanted: false,
            number: 0,
            signalled: Arc::default(),
            at: None,
            preexisting,
            unowned: Default::default(),
            more_to_reap: false,
            members: BTreeMap::new(),
            left: None,
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
    pub(crate) fn why_left(&self, worker: WorkerId) -> String {
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

impl Supervisor {
    /// Kills what is left of a worker's tree. Once nothing is left, reaps the worker and tells the engine.
    pub(crate) fn kill_tree(&mut self, id: WorkerId) {
        if self.workers.processes.get(id).is_none() {
            return;
        }
        // After an early exit the scan does the killing, because it counts what was left: that tells a program that
        // daemonizes from one that ended. A child that has not called setsid(2) yet would die with the group, uncounted.
        let counted = self
            .workers
            .processes
            .get(id)
            .is_some_and(|process| process.early_exit);
        let state = match counted && reaper::has_orphans() {
            true => TreeState::Unseen,
            false => self.workers.processes.kill_group(id),
        };
        match state {
            TreeState::None => return self.tree_gone(id),
            // Without orphans there is nothing to scan for.
            TreeState::Unseen if !reaper::has_orphans() => return self.tree_gone(id),
            TreeState::Unseen | TreeState::Lives => {}
        }
        self.workers.processes.add_sweeping(id, self.clock.now());
        self.scan_orphans();
    }

    /// The first process has exited during its stop: what is left of its tree receives `signal` and may finish. Mostly
    /// nothing is left, and that is known immediately.
    pub(crate) fn signal_remaining(&mut self, id: WorkerId, signal: Option<Signal>) {
        if self
            .workers
            .processes
            .get(id)
            .is_none_or(|process| process.child().is_none())
        {
            return self.tree_gone(id);
        }
        if !reaper::has_orphans() && !self.workers.processes.cgroup_is_populated(id) {
            return self.tree_gone(id);
        }
        self.workers.processes.start_finishing(id, self.clock.now());
        if let Some(signal) = signal {
            self.send_tree_signal(id, signal);
        }
        self.scan_orphans();
    }

    /// Sends a polite signal to every process of a worker's tree; the worker itself gets it immediately, the others
    /// from the next scan.
    pub(crate) fn signal_tree(&mut self, id: WorkerId, signal: Signal) {
        let Some(process) = self.workers.processes.get(id) else {
            return;
        };
        let has_process = process.child().is_some();
        if process.exit.is_none() {
            self.workers.processes.signal(id, signal);
            let action = self.workers.report_signal(id, signal);
            self.perform(action);
        }
        // Before it is spawned there is no tree.
        if has_process {
            self.send_tree_signal(id, signal);
            self.scan_orphans();
        }
    }

    fn send_tree_signal(&mut self, id: WorkerId, signal: Signal) {
        self.workers.orphans.number += 1;
        let number = self.workers.orphans.number;
        if let Some(process) = self.workers.processes.get_mut(id) {
            process.tree_signal = Some(TreeSignal {
                number,
                signal: signal.0,
            });
        }
    }

    /// SIGKILL to a worker, or to what is left of it.
    pub(crate) fn kill_now(&mut self, id: WorkerId) {
        if self.workers.processes.cancel_finishing(id) {
            self.kill_tree(id);
        } else {
            self.workers.processes.kill(id);
        }
    }

    /// A child has exited: perhaps the last process of a finishing tree.
    pub(crate) fn check_finishing(&mut self) {
        if !self.workers.processes.all_finishing_alive() {
            self.scan_orphans();
        }
    }

    fn on_finishing_progress(&mut self, id: WorkerId, rest: Vec<Member>, unowned: bool) {
        let Some(process) = self.workers.processes.get_mut(id) else {
            return;
        };
        let Some(known) = &mut process.survivors else {
            return;
        };
        let gone = rest.is_empty() && !unowned;
        *known = Some(rest);
        if gone && !self.workers.processes.cgroup_is_populated(id) {
            self.tree_gone(id);
        }
    }

    fn log_tree_signal(&mut self, id: WorkerId, members: &[Member]) {
        let Some(process) = self.workers.processes.get(id) else {
            return;
        };
        let Some(passed) = process.tree_signal else {
            return;
        };
        let name = signals::name(passed.signal);
        let note = match process.exit {
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
        self.emit(note.worker(id).cause("tree"));
    }

    /// Starts a scan, now or after the current one.
    fn scan_orphans(&mut self) {
        self.workers.orphans.wanted = true;
        if self.workers.orphans.scanner.is_busy() {
            return;
        }
        self.workers.orphans.wanted = false;
        self.workers.orphans.at = None;
        let question = self.scan_request();
        if let Err(error) = self.workers.orphans.scanner.scan(question) {
            tracing::warn!(
                "what workers have left behind cannot be looked for: {error}; tried again"
            );
            self.workers.orphans.at = Some(self.clock.now() + SCAN_DELAY);
        }
    }

    fn scan_request(&self) -> ScanRequest {
        ScanRequest {
            threads: self.workers.spawner.threads(),
            delivered: self.workers.orphans.signalled.clone(),
            cgroup_base: self.workers.cgroups.base().map(std::path::Path::to_owned),
            preexisting: self.workers.orphans.preexisting.clone(),
            now: self.clock.now(),
            everything: self.shutdown.exiting.is_some(),
            ..self.workers.processes.scan_request(&self.workers.tag)
        }
    }

    /// Runs what is due by now.
    pub(crate) fn run_due_orphans(&mut self) {
        let now = self.clock.now();
        if self
            .workers
            .orphans
            .scanner
            .deadline()
            .is_some_and(|at| at <= now)
        {
            self.workers.orphans.scanner.check(now);
        }
        if self.workers.orphans.more_to_reap {
            self.reap_orphans();
        }
        if self.workers.orphans.at.is_some_and(|at| at <= now)
            && !self.workers.orphans.scanner.is_busy()
        {
            self.scan_orphans();
        }
    }

    /// Children have exited: reaps the orphans among them, and schedules a scan for others.
    pub(crate) fn reap_orphans(&mut self) {
        self.workers.orphans.more_to_reap =
            reaper::reap_orphans(MAX_REAPED_PER_TURN).len() == MAX_REAPED_PER_TURN;
        if self.shutdown.exiting.is_some() {
            // They were killed and are about to be gone.
            return self.scan_orphans();
        }
        self.workers
            .orphans
            .at
            .get_or_insert(self.clock.now() + SCAN_DELAY);
    }

    /// Takes the result of a scan.
    pub(crate) fn on_orphan_scan(&mut self, report: ScanReport) {
        let Some(found) = self.workers.orphans.scanner.complete(report) else {
            return;
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
        if self.shutdown.exiting.is_some() {
            self.workers.orphans.left = Some(left);
            self.workers.orphans.at = Some(self.clock.now() + RESCAN_DELAY);
        }
        let members = kills.iter().filter(|(_, progress)| progress.left > 0);
        self.workers.orphans.members = members.map(|(id, progress)| (*id, progress.left)).collect();
        for (id, members) in signalled {
            self.log_tree_signal(id, &members);
        }
        if self
            .workers
            .processes
            .iter()
            .all(|(_, process)| process.tree_signal.is_none())
        {
            self.workers
                .orphans
                .signalled
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .clear();
        }
        for (id, rest) in finishing {
            self.on_finishing_progress(id, rest, unattributed > 0);
        }
        for (id, progress) in kills {
            self.on_tree_progress(id, progress.killed, progress.left);
        }
        self.workers.orphans.unowned.0.extend(unowned);
        self.workers.orphans.unowned.1 = ended;
        self.report_unattributed();
        if std::mem::take(&mut self.workers.orphans.wanted) {
            self.scan_orphans();
        }
    }

    fn on_tree_progress(&mut self, id: WorkerId, killed: usize, left: usize) {
        let logged = self
            .workers
            .processes
            .get(id)
            .is_some_and(|process| process.survivors_logged);
        if killed > 0 && !logged {
            let many = if killed == 1 {
                "one process".to_owned()
            } else {
                format!("{killed} processes")
            };
            self.emit(
                EventBuilder::new(
                    EventKind::DescendantsKilled,
                    format!("killed {many} that the worker left behind"),
                )
                .worker(id),
            );
            self.report_daemonized_worker(id);
        }
        if !self.workers.processes.is_sweeping(id) {
            return;
        }
        let Some(process) = self.workers.processes.get_mut(id) else {
            return;
        };
        process.early_exit = false;
        // A process that was killed may have had children.
        if left == 0 && self.workers.processes.kill_group(id) != TreeState::Lives {
            self.tree_gone(id);
        }
    }

    pub(crate) fn tree_gone(&mut self, id: WorkerId) {
        if self.workers.processes.get(id).is_some() {
            let who = self.workers.label(id);
            self.workers.reaped.insert(id, who);
        }
        if let Some(process) = self.workers.processes.remove(id) {
            self.dispose(process);
            let actions = self.health.ports.release(id);
            self.perform(actions);
        }
        self.engine.push(Input::TreeGone(id));
    }

    /// The master exits: kills all that is left. A scan already running does not count.
    pub(crate) fn end_orphans(&mut self) {
        self.workers.orphans.at = None;
        let question = self.scan_request();
        if let Err(error) = self.workers.orphans.scanner.scan(question) {
            tracing::warn!("what workers have left behind cannot be ended: {error}");
        }
    }

    /// What is still there when the master exits, for people.
    pub(crate) fn leftovers_text(&self) -> String {
        match self.workers.orphans.left {
            Some(1) => {
                "one process that a worker left behind cannot be ended by the kernel".to_owned()
            }
            Some(many) => {
                format!("{many} processes that workers left behind cannot be ended by the kernel")
            }
            None => "what workers left behind could not be looked for in time".to_owned(),
        }
    }

    /// Reports children of the spawner threads that belong to no worker. A spawn whose result has not arrived looks the
    /// same, so nothing is reported while spawns are in progress.
    fn report_unattributed(&mut self) {
        if self.workers.spawner.outstanding() > 0 {
            self.workers
                .orphans
                .at
                .get_or_insert(self.clock.now() + SCAN_DELAY);
            return;
        }
        let (unowned, ended) = std::mem::take(&mut self.workers.orphans.unowned);
        for (pid, start_time) in ended {
            // Identified by its start time. A child of ours keeps its pid until it is reaped, and nobody else reaps it.
            if !self.workers.processes.pids().contains(&pid)
                && Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time)
            {
                reaper::reap_one_of(pid);
            }
        }
        let strange = |one: &UnownedProcess| {
            let (pid, start_time) = one.identity;
            let lives =
                Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie());
            lives && !self.workers.processes.pids().contains(&pid)
        };
        let unowned: Vec<UnownedProcess> = unowned.into_iter().filter(strange).collect();
        for UnownedProcess {
            identity: (pid, _),
            name,
            silent,
        } in unowned.iter().take(MAX_NAMED)
        {
            let name = crate::observe::sanitize::sanitize(name.as_bytes());
            let why = match silent {
                true => "it hangs in the kernel (a disk?) and cannot be asked whose it is",
                false => "it has left its session, and ROTAD_WORKER is not in its environment",
            };
            let text = format!(
                "pid {pid} ({name}) has lost its parent, and nothing tells which worker started it: {why}; it is ended \
                 when the master stops"
            );
            self.emit(EventBuilder::new(EventKind::Orphan, text).warn());
            self.report_daemonized_orphan(*pid, &name);
        }
        if unowned.len() > MAX_NAMED {
            let text = format!("{} more processes are like that", unowned.len() - MAX_NAMED);
            self.emit(EventBuilder::new(EventKind::Orphan, text).warn());
        }
    }
}

/// "2 processes: python3 (pid 12), node (pid 14)".
pub(crate) fn list_members(members: &[Member]) -> String {
    let mut text = match members.len() {
        1 => "1 process: ".to_owned(),
        many => format!("{many} processes: "),
    };
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
