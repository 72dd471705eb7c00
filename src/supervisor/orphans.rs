//! What workers leave behind, as the main thread sees it: it asks the sweeper, and takes note of what came of it.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::exit_report::exit_text;
use super::process_table::Tree;
use crate::event_loop::signals;
use crate::observe::events::EventKind;
use crate::observe::harmless::harmless;
use crate::process::orphan_scanner::OrphanScanner;
use crate::process::procfs::Stat;
use crate::process::tree::{Found, Identity, Member, ScanRequest, TreeSignal, UnownedProcess};
use crate::sys::reaper;
use rotad_core::{Input, Signal, WorkerId};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// So long after a death it is looked for what the dead has left beside its tree: one look for a burst of deaths.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// While the master leaves: the next look at those that have not died yet, at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Ended children that are reaped in one turn of the loop.
const MOST_REAPED: usize = 256;
/// So many unowned of one look are named, each in a line of its own.
const MOST_NAMED: usize = 8;

#[derive(Debug)]
pub(super) struct Orphans {
    sweeper: OrphanScanner,
    /// A look is wanted as soon as the present one is through.
    wanted: bool,
    /// Signals for whole trees: how many there were, and who has got which.
    number: u64,
    passed: Arc<Mutex<HashSet<(Identity, u64)>>>,
    /// When one is due all the same.
    at: Option<Instant>,
    /// Children that this process had before it became a master, with theirs.
    spared: Arc<HashSet<Identity>>,
    /// Those of the last look that may have been births under way.
    unclear: (Vec<UnownedProcess>, Vec<Identity>),
    /// More of them have ended than one turn takes.
    more_to_reap: bool,
    /// Members of trees that are being ended, as of the last look.
    members: BTreeMap<WorkerId, usize>,
    /// How many were alive at the last look of a master that leaves.
    pub(super) left: Option<usize>,
}

impl Orphans {
    pub(super) fn new(sweeper: OrphanScanner, spared: HashSet<Identity>) -> Self {
        let spared = Arc::new(spared);
        Self {
            sweeper,
            wanted: false,
            number: 0,
            passed: Arc::default(),
            at: None,
            spared,
            unclear: Default::default(),
            more_to_reap: false,
            members: BTreeMap::new(),
            left: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let now = self.more_to_reap.then(Instant::now);
        let due = self.at.filter(|_| !self.sweeper.is_busy());
        self.sweeper.deadline().into_iter().chain(due).chain(now).min()
    }

    /// What is known of a tree that is not gone though its worker has ended, for people.
    pub(super) fn why_left(&self, worker: WorkerId) -> String {
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

    pub(super) fn paused(&self, by: Duration) {
        self.sweeper.paused(by);
    }
}

impl Supervisor {
    /// Ends what is left of a worker's tree; once nothing is, reaps it and tells the core.
    pub(super) fn sweep(&mut self, id: WorkerId) {
        if self.processes.get(id).is_none() {
            return;
        }
        match self.processes.end_tree(id) {
            Tree::None => return self.swept(id),
            // Where nobody has lost his parent there is nothing to be looked for.
            Tree::Unseen if !reaper::has_orphans() => return self.swept(id),
            Tree::Unseen | Tree::Lives => {}
        }
        self.processes.sweep_later(id);
        self.look_at_orphans();
    }

    /// The first process has ended in its stop: what is left of its tree gets this signal, and may finish. Mostly nothing
    /// is left, and that is known at once.
    pub(super) fn outlive(&mut self, id: WorkerId, signal: Option<Signal>) {
        if self.processes.get(id).is_none_or(|body| body.process().is_none()) {
            return self.swept(id);
        }
        if !reaper::has_orphans() && !self.processes.fence_is_populated(id) {
            return self.swept(id);
        }
        self.processes.outlive(id);
        if let Some(signal) = signal {
            self.pass(id, signal);
        }
        self.look_at_orphans();
    }

    /// A polite signal to every process of a worker's tree: to the worker itself at once.
    pub(super) fn signal_tree(&mut self, id: WorkerId, signal: Signal) {
        let Some(body) = self.processes.get(id) else { return };
        let born = body.process().is_some();
        if body.exit.is_none() {
            self.processes.signal(id, signal);
            self.note_sent(id, signal);
        }
        // Until it is born it is alone.
        if born {
            self.pass(id, signal);
            self.look_at_orphans();
        }
    }

    fn pass(&mut self, id: WorkerId, signal: Signal) {
        self.orphans.number += 1;
        let number = self.orphans.number;
        if let Some(body) = self.processes.get_mut(id) {
            body.passed = Some(TreeSignal { number, signal: signal.0 });
        }
    }

    /// SIGKILL to a worker, or to what is left of it.
    pub(super) fn end_now(&mut self, id: WorkerId) {
        if self.processes.no_more_patience(id) {
            self.sweep(id);
        } else {
            self.processes.kill(id);
        }
    }

    /// Somebody has ended: perhaps the last one of a tree that finishes.
    pub(super) fn look_at_finishing(&mut self) {
        if !self.processes.all_still_finish() {
            self.look_at_orphans();
        }
    }

    fn finishing_so_far(&mut self, id: WorkerId, rest: Vec<Member>, unclear: bool) {
        let Some(body) = self.processes.get_mut(id) else { return };
        let Some(known) = &mut body.outlived else { return };
        let gone = rest.is_empty() && !unclear;
        *known = Some(rest);
        if gone && !self.processes.fence_is_populated(id) {
            self.swept(id);
        }
    }

    fn signal_passed(&mut self, id: WorkerId, members: &[Member]) {
        let Some(body) = self.processes.get(id) else { return };
        let Some(passed) = body.passed else { return };
        let name = signals::name(passed.signal);
        let note = match body.exit {
            Some(exit) => {
                let text = format!(
                    "its first process has ended ({}), others of its tree have not: SIG{name} was passed on to {}",
                    exit_text(exit),
                    named(members)
                );
                EventBuilder::new(EventKind::Signal, text)
            }
            None => EventBuilder::new(EventKind::Signal, format!("SIG{name} sent to {}", named(members))).debug(),
        };
        self.emit(note.worker(id).cause("tree"));
    }

    /// Begins a look, now or after the present one.
    fn look_at_orphans(&mut self) {
        self.orphans.wanted = true;
        if self.orphans.sweeper.is_busy() {
            return;
        }
        self.orphans.wanted = false;
        self.orphans.at = None;
        let question = self.orphans_question();
        if let Err(error) = self.orphans.sweeper.scan(question) {
            tracing::warn!("what workers have left behind cannot be looked for: {error}; tried again");
            self.orphans.at = Some(Instant::now() + LOOK_AFTER);
        }
    }

    fn orphans_question(&self) -> ScanRequest {
        ScanRequest {
            threads: self.spawner.threads(),
            delivered: self.orphans.passed.clone(),
            cgroup_base: self.cgroups.base().map(std::path::Path::to_owned),
            preexisting: self.orphans.spared.clone(),
            everything: self.shutdown.is_some(),
            ..self.processes.question(&self.tag)
        }
    }

    /// What is due by now.
    pub(super) fn orphans_due(&mut self) {
        let now = Instant::now();
        if self.orphans.sweeper.deadline().is_some_and(|at| at <= now) {
            self.orphans.sweeper.check(now);
        }
        if self.orphans.more_to_reap {
            self.reap_orphans();
        }
        if self.orphans.at.is_some_and(|at| at <= now) && !self.orphans.sweeper.is_busy() {
            self.look_at_orphans();
        }
    }

    /// Somebody has ended: it is reaped, if it is an orphan, and its siblings are looked for before long.
    pub(super) fn reap_orphans(&mut self) {
        self.orphans.more_to_reap = reaper::reap_orphans(MOST_REAPED).len() == MOST_REAPED;
        if self.shutdown.is_some() {
            // Those that were killed are about to be gone.
            return self.look_at_orphans();
        }
        self.orphans.at.get_or_insert(Instant::now() + LOOK_AFTER);
    }

    /// What a look has found.
    pub(super) fn on_orphan_scan(&mut self) {
        let Some(found) = self.orphans.sweeper.found() else { return };
        let Found { swept, left, unowned, ended, finishing, unattributed, signalled } = found;
        if self.shutdown.is_some() {
            self.orphans.left = Some(left);
            self.orphans.at = Some(Instant::now() + LOOK_AGAIN);
        }
        let members = swept.iter().filter(|(_, swept)| swept.left > 0);
        self.orphans.members = members.map(|(id, swept)| (*id, swept.left)).collect();
        for (id, members) in signalled {
            self.signal_passed(id, &members);
        }
        if self.processes.iter().all(|(_, body)| body.passed.is_none()) {
            self.orphans.passed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        }
        for (id, rest) in finishing {
            self.finishing_so_far(id, rest, unattributed > 0);
        }
        for (id, swept) in swept {
            self.swept_so_far(id, swept.killed, swept.left);
        }
        self.orphans.unclear.0.extend(unowned);
        self.orphans.unclear.1 = ended;
        self.clear_up();
        if std::mem::take(&mut self.orphans.wanted) {
            self.look_at_orphans();
        }
        self.drain_inputs();
    }

    fn swept_so_far(&mut self, id: WorkerId, killed: usize, left: usize) {
        let named = self.processes.get(id).is_some_and(|body| body.named);
        if killed > 0 && !named {
            let many = if killed == 1 { "one process".to_owned() } else { format!("{killed} processes") };
            self.emit(
                EventBuilder::new(EventKind::DescendantsKilled, format!("killed {many} that the worker left behind"))
                    .worker(id),
            );
            self.went_into_the_background(id);
        }
        if self.processes.get(id).is_none() || !self.processes.is_sweeping(id) {
            return;
        }
        // Whoever was killed may have had children.
        if left == 0 && self.processes.end_tree(id) != Tree::Lives {
            self.swept(id);
        }
    }

    pub(super) fn swept(&mut self, id: WorkerId) {
        if self.processes.get(id).is_some() {
            let who = self.who(id);
            self.gone.insert(id, who);
        }
        if let Some(body) = self.processes.remove(id) {
            self.bury(body);
            self.port_freed(id);
        }
        self.inputs.push_back(Input::TreeGone(id));
    }

    /// The master leaves: whoever is left is ended. A look that is under way does not count.
    pub(super) fn end_orphans(&mut self) {
        self.orphans.at = None;
        let question = self.orphans_question();
        if let Err(error) = self.orphans.sweeper.scan(question) {
            tracing::warn!("what workers have left behind cannot be ended: {error}");
        }
    }

    /// Who is still there when the master leaves, for people.
    pub(super) fn left_behind(&self) -> String {
        match self.orphans.left {
            Some(1) => "one process that a worker left behind cannot be ended by the kernel".to_owned(),
            Some(many) => format!("{many} processes that workers left behind cannot be ended by the kernel"),
            None => "what workers left behind could not be looked for in time".to_owned(),
        }
    }

    /// Children of the spawning threads that are no worker. One that has been born and is not told of yet looks the
    /// same, so while births are under way nobody is called a stranger.
    fn clear_up(&mut self) {
        self.on_spawn_results();
        if self.spawner.outstanding() > 0 {
            self.orphans.at.get_or_insert(Instant::now() + LOOK_AFTER);
            return;
        }
        let (unowned, ended) = std::mem::take(&mut self.orphans.unclear);
        for (pid, start_time) in ended {
            // Held by its start time: our own child keeps its number until it is reaped, and nobody else does that.
            if !self.processes.pids().contains(&pid) && Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time) {
                reaper::reap_one_of(pid);
            }
        }
        let strange = |one: &UnownedProcess| {
            let (pid, start_time) = one.identity;
            let lives = Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie());
            lives && !self.processes.pids().contains(&pid)
        };
        let unowned: Vec<UnownedProcess> = unowned.into_iter().filter(strange).collect();
        for UnownedProcess { identity: (pid, _), name, silent } in unowned.iter().take(MOST_NAMED) {
            let name = crate::observe::harmless::harmless(name.as_bytes());
            let why = match silent {
                true => "it hangs in the kernel (a disk?) and cannot be asked whose it is",
                false => "it has left its session, and ROTAD_WORKER is not in its environment",
            };
            let text = format!(
                "pid {pid} ({name}) has lost its parent, and nothing tells which worker started it: {why}; it is ended \
                 when the master stops"
            );
            self.emit(EventBuilder::new(EventKind::Orphan, text).warn());
            self.may_be_in_the_background(*pid, &name);
        }
        if unowned.len() > MOST_NAMED {
            let text = format!("{} more processes are like that", unowned.len() - MOST_NAMED);
            self.emit(EventBuilder::new(EventKind::Orphan, text).warn());
        }
    }
}

/// "2 processes: python3 (pid 12), node (pid 14)".
pub(super) fn named(members: &[Member]) -> String {
    let mut text = match members.len() {
        1 => "1 process: ".to_owned(),
        many => format!("{many} processes: "),
    };
    let some: Vec<String> = members
        .iter()
        .take(MOST_NAMED)
        .map(|member| format!("{} (pid {})", harmless(member.name.as_bytes()), member.identity.0))
        .collect();
    text.push_str(&some.join(", "));
    if members.len() > MOST_NAMED {
        text.push_str(", …");
    }
    text
}
