//! What workers leave behind, as the main thread sees it: it asks the sweeper, and takes note of what came of it.

use super::Keeper;
use super::chronicle::Note;
use super::roster::Tree;
use crate::observe::events::What;
use crate::os::lineage::{Found, Identity, Question, Stranger};
use crate::os::proc::Stat;
use crate::os::sweeper::Sweeper;
use crate::os::sys::reaper;
use rotad_core::{Event, WorkerId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long after a death it is looked for what the dead has left beside its tree: one look for a burst of deaths.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// While the master leaves: the next look at those that have not died yet, at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Ended children that are reaped in one turn of the loop.
const MOST_REAPED: usize = 256;
/// So many strangers of one look are named, each in a line of its own.
const MOST_NAMED: usize = 8;

#[derive(Debug)]
pub(super) struct Orphans {
    sweeper: Sweeper,
    /// A look is wanted as soon as the present one is through.
    wanted: bool,
    /// When one is due all the same.
    at: Option<Instant>,
    /// Children that this process had before it became a master, with theirs.
    spared: Arc<HashSet<Identity>>,
    /// Those of the last look that may have been births under way.
    unclear: (Vec<Stranger>, Vec<Identity>),
    /// More of them have ended than one turn takes.
    more_to_reap: bool,
    /// Members of trees that are being ended, as of the last look.
    members: BTreeMap<WorkerId, usize>,
    /// How many were alive at the last look of a master that leaves.
    pub(super) left: Option<usize>,
}

impl Orphans {
    pub(super) fn new(sweeper: Sweeper, spared: HashSet<Identity>) -> Self {
        let spared = Arc::new(spared);
        Self {
            sweeper,
            wanted: false,
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

impl Keeper {
    /// Ends what is left of a worker's tree; once nothing is, reaps it and tells the core.
    pub(super) fn sweep(&mut self, id: WorkerId) {
        if self.roster.get(id).is_none() {
            return;
        }
        match self.roster.end_tree(id) {
            Tree::None => return self.swept(id),
            // Where nobody has lost his parent there is nothing to be looked for.
            Tree::Unseen if !reaper::has_orphans() => return self.swept(id),
            Tree::Unseen | Tree::Lives => {}
        }
        self.roster.sweep_later(id);
        self.look_at_orphans();
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
        if let Err(error) = self.orphans.sweeper.look(question) {
            tracing::warn!("what workers have left behind cannot be looked for: {error}; tried again");
            self.orphans.at = Some(Instant::now() + LOOK_AFTER);
        }
    }

    fn orphans_question(&self) -> Question {
        Question {
            threads: self.spawner.threads(),
            fence: self.fence.base().map(std::path::Path::to_owned),
            spared: self.orphans.spared.clone(),
            everything: self.leaving.is_some(),
            ..self.roster.question(&self.tag)
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
        if self.leaving.is_some() {
            // Those that were killed are about to be gone.
            return self.look_at_orphans();
        }
        self.orphans.at.get_or_insert(Instant::now() + LOOK_AFTER);
    }

    /// What a look has found.
    pub(super) fn looked_at_orphans(&mut self) {
        let Some(found) = self.orphans.sweeper.found() else { return };
        let Found { swept, left, strangers, ended } = found;
        if self.leaving.is_some() {
            self.orphans.left = Some(left);
            self.orphans.at = Some(Instant::now() + LOOK_AGAIN);
        }
        let members = swept.iter().filter(|(_, swept)| swept.left > 0);
        self.orphans.members = members.map(|(id, swept)| (*id, swept.left)).collect();
        for (id, swept) in swept {
            self.swept_so_far(id, swept.killed, swept.left);
        }
        self.orphans.unclear.0.extend(strangers);
        self.orphans.unclear.1 = ended;
        self.clear_up();
        if std::mem::take(&mut self.orphans.wanted) {
            self.look_at_orphans();
        }
        self.drain_facts();
    }

    fn swept_so_far(&mut self, id: WorkerId, killed: usize, left: usize) {
        if killed > 0 {
            let many = if killed == 1 { "one process".to_owned() } else { format!("{killed} processes") };
            self.note(Note::new(What::Swept, format!("swept {many} that the worker left behind")).worker(id));
        }
        if self.roster.get(id).is_none() || !self.roster.is_sweeping(id) {
            return;
        }
        // Whoever was killed may have had children.
        if left == 0 && self.roster.end_tree(id) != Tree::Lives {
            self.swept(id);
        }
    }

    pub(super) fn swept(&mut self, id: WorkerId) {
        if let Some(body) = self.roster.remove(id) {
            self.bury(body);
            self.port_freed(id);
        }
        self.facts.push_back(Event::Swept(id));
    }

    /// The master leaves: whoever is left is ended. A look that is under way does not count.
    pub(super) fn end_orphans(&mut self) {
        self.orphans.at = None;
        let question = self.orphans_question();
        if let Err(error) = self.orphans.sweeper.look(question) {
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
        self.births();
        if self.spawner.outstanding() > 0 {
            self.orphans.at.get_or_insert(Instant::now() + LOOK_AFTER);
            return;
        }
        let (strangers, ended) = std::mem::take(&mut self.orphans.unclear);
        for (pid, start_time) in ended {
            // Held by its start time: our own child keeps its number until it is reaped, and nobody else does that.
            if !self.roster.pids().contains(&pid) && Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time) {
                reaper::reap_one_of(pid);
            }
        }
        let strange = |one: &Stranger| {
            let (pid, start_time) = one.identity;
            let lives = Stat::of(pid).is_ok_and(|stat| stat.start_time == start_time && !stat.is_zombie());
            lives && !self.roster.pids().contains(&pid)
        };
        let strangers: Vec<Stranger> = strangers.into_iter().filter(strange).collect();
        for Stranger { identity: (pid, _), name, silent } in strangers.iter().take(MOST_NAMED) {
            let name = crate::observe::harmless::harmless(name.as_bytes());
            let why = match silent {
                true => "it hangs in the kernel (a disk?) and cannot be asked whose it is",
                false => "it has left its session, and ROTAD_WORKER is not in its environment",
            };
            let text = format!(
                "pid {pid} ({name}) has lost its parent, and nothing tells which worker started it: {why}; it is ended \
                 when the master stops"
            );
            self.note(Note::new(What::Orphan, text).warn());
        }
        if strangers.len() > MOST_NAMED {
            let text = format!("{} more processes are like that", strangers.len() - MOST_NAMED);
            self.note(Note::new(What::Orphan, text).warn());
        }
    }
}
