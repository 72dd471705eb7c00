//! The trees of workers that end, as a state machine: what is left of a tree after its first process has exited, whether
//! it may finish or is killed, and when it is gone. It kills, scans and reaps nothing itself: `orphans.rs` gives it
//! events by [`Trees::handle`] and executes the actions in their order. Stories as text test it (`trees/stories.txt`).
//!
//! | stage       | event            | then                                                                            |
//! |-------------|------------------|---------------------------------------------------------------------------------|
//! | `Whole`     | `Finish`         | nothing left: gone. Otherwise `Finishing`: it gets the signal, and is scanned   |
//! | any         | `Kill`           | its group is killed; from `Finishing`, the kill has been reported with names    |
//! | any         | `GroupKilled`    | nothing left: gone. Otherwise `Killing`, and scanned                            |
//! | `Finishing` | `Survivors`      | none: gone, unless its cgroup has processes                                     |
//! | `Killing`   | `Swept`          | none left: gone, unless its group lives (a killed process may have had children) |
//! | `Killing`   | `CheckDue`, `ChildExited` | its group is killed again                                              |
//!
//! Only what is in `Killing` is killed by a scan. A worker that has exited early, before it was ready and not with a
//! failure, is not killed by its group while there are orphans: the scan kills, since it counts what was left, and that
//! tells a program that goes into the background from one that has ended.

use crate::process::tree::{KillProgress, Member, TreeSignal};
use rotad_core::{Signal, Span, Time, WorkerId};
use std::collections::BTreeMap;

/// First pause before a tree that is not gone yet is checked again; the pauses double …
const FIRST_PAUSE: Span = Span::from_millis(20);
/// … up to this: a process that the kernel cannot end costs one check a second.
const MAX_PAUSE: Span = Span::from_secs(1);

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The first process has exited by itself before it was ready, and not with a failure.
    ExitedEarly(WorkerId),
    /// Every process of the tree is to get a signal.
    Signal(WorkerId, Signal),
    /// The first process has exited during its stop: the others get the signal and may finish. `left`: there may be
    /// others.
    Finish {
        worker: WorkerId,
        signal: Option<Signal>,
        left: bool,
    },
    /// What is left of the tree is to be killed.
    Kill(WorkerId),
    /// What is left of a tree that may finish is to be killed, and no notice of the engine names it.
    KillNow(WorkerId),
    /// As asked by [`Action::KillGroup`]. `left`: something of it may be left.
    GroupKilled { worker: WorkerId, left: bool },
    /// A scan has seen these processes of a tree that may finish. `certain`: it could attribute all processes.
    Survivors {
        worker: WorkerId,
        members: Vec<Member>,
        certain: bool,
    },
    /// A scan has killed.
    Swept(WorkerId, KillProgress),
    /// A child of the master has exited.
    ChildExited,
    /// The deadline has come.
    CheckDue,
    /// The worker is reaped.
    Forgotten(WorkerId),
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send SIGKILL to its process group and cgroup, and report that as [`Event::GroupKilled`]. `unless_orphans`: only
    /// if there are no orphans.
    KillGroup {
        worker: WorkerId,
        unless_orphans: bool,
    },
    /// Start a scan, now or after the current one.
    Scan,
    /// Start a scan if none of the survivors seen last still runs in some tree that may finish.
    ScanUnlessAlive,
    /// It is gone unless its cgroup has processes.
    GoneIfEmpty(WorkerId),
    /// Send SIGKILL to its process group and cgroup once more: it is gone unless one of its processes lives.
    GoneIfDead(WorkerId),
    /// Nothing is left of it.
    Gone(WorkerId),
    /// Report that so many processes that the worker left behind were killed.
    ReportKilled(WorkerId, usize),
    /// The program goes into the background: report that.
    ReportDaemonized(WorkerId),
}

#[derive(Debug, Default)]
enum Stage {
    /// Its first process runs, or nothing was decided about the rest.
    #[default]
    Whole,
    /// The rest may finish: the processes that the last scan has seen, None before the first.
    Finishing(Option<Vec<Member>>),
    /// The rest is being killed.
    Killing,
}

#[derive(Debug, Default)]
struct Tree {
    stage: Stage,
    /// The last signal that is sent to all its processes.
    signal: Option<TreeSignal>,
    /// Its first process has exited early; cleared once a scan has seen what it left behind.
    early_exit: bool,
    /// That it is killed was reported with names.
    reported: bool,
}

/// The trees of which something is to be done or known.
#[derive(Debug, Default)]
pub(super) struct Trees {
    of: BTreeMap<WorkerId, Tree>,
    /// How many trees are not `Whole`.
    ending: usize,
    /// When they are checked next, and the pause before that. SIGCHLD announces orphans of ours, but members of a
    /// cgroup may be children of other processes.
    timer: Option<(Time, Span)>,
    /// The number of the last signal.
    signals: u64,
}

impl Trees {
    /// When trees that are not gone are checked next.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.timer.filter(|_| self.ending > 0).map(|(at, _)| at)
    }

    pub(super) fn handle(&mut self, now: Time, event: Event) -> Vec<Action> {
        match event {
            Event::ExitedEarly(worker) => {
                self.of.entry(worker).or_default().early_exit = true;
                Vec::new()
            }
            Event::Signal(worker, signal) => {
                self.send(worker, signal);
                vec![Action::Scan]
            }
            Event::Finish {
                worker,
                left: false,
                ..
            } => vec![Action::Gone(worker)],
            Event::Finish { worker, signal, .. } => {
                self.set_stage(worker, Stage::Finishing(None));
                self.restart_timer(now);
                if let Some(signal) = signal {
                    self.send(worker, signal);
                }
                vec![Action::Scan]
            }
            Event::Kill(worker) => {
                if let Some(tree) = self.of.get_mut(&worker) {
                    tree.reported = matches!(tree.stage, Stage::Finishing(_));
                    tree.signal = None;
                }
                self.set_stage_if_known(worker, Stage::Whole);
                vec![self.kill_group(worker)]
            }
            Event::KillNow(worker) => {
                self.set_stage_if_known(worker, Stage::Whole);
                vec![self.kill_group(worker)]
            }
            Event::GroupKilled {
                worker,
                left: false,
            } => vec![Action::Gone(worker)],
            Event::GroupKilled { worker, .. } => {
                if !self.is_killing(worker) {
                    self.set_stage(worker, Stage::Killing);
                    self.restart_timer(now);
                }
                vec![Action::Scan]
            }
            Event::Survivors {
                worker,
                members,
                certain,
            } => self.on_survivors(worker, members, certain),
            Event::Swept(worker, progress) => self.on_swept(worker, progress),
            Event::ChildExited => self.check(),
            Event::CheckDue => {
                let Some((_, pause)) = self.timer.filter(|(at, _)| *at <= now) else {
                    return Vec::new();
                };
                let pause = (pause + pause).min(MAX_PAUSE);
                self.timer = Some((now + pause, pause));
                self.check()
            }
            Event::Forgotten(worker) => {
                self.set_stage_if_known(worker, Stage::Whole);
                self.of.remove(&worker);
                Vec::new()
            }
        }
    }

    fn on_survivors(
        &mut self,
        worker: WorkerId,
        members: Vec<Member>,
        certain: bool,
    ) -> Vec<Action> {
        let Some(Tree {
            stage: Stage::Finishing(known),
            ..
        }) = self.of.get_mut(&worker)
        else {
            return Vec::new();
        };
        let gone = members.is_empty() && certain;
        *known = Some(members);
        gone.then_some(Action::GoneIfEmpty(worker))
            .into_iter()
            .collect()
    }

    fn on_swept(
        &mut self,
        worker: WorkerId,
        KillProgress { killed, left }: KillProgress,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(tree) = self.of.get_mut(&worker) else {
            // Processes of a worker that was reaped long ago.
            if killed > 0 {
                actions.push(Action::ReportKilled(worker, killed));
            }
            return actions;
        };
        if killed > 0 && !tree.reported {
            actions.push(Action::ReportKilled(worker, killed));
            // Once for each worker, however many scans it takes to kill its processes.
            if std::mem::take(&mut tree.early_exit) {
                actions.push(Action::ReportDaemonized(worker));
            }
        }
        if matches!(tree.stage, Stage::Killing) {
            tree.early_exit = false;
            if left == 0 {
                actions.push(Action::GoneIfDead(worker));
            }
        }
        actions
    }

    /// Kills again what is being killed, and looks for the end of what may finish.
    fn check(&mut self) -> Vec<Action> {
        if self.ending == 0 {
            return Vec::new();
        }
        let killing: Vec<WorkerId> = self.killing().collect();
        let mut actions: Vec<Action> = killing
            .into_iter()
            .map(|worker| self.kill_group(worker))
            .collect();
        if self.finishing().next().is_some() {
            actions.push(Action::ScanUnlessAlive);
        }
        actions
    }

    fn kill_group(&self, worker: WorkerId) -> Action {
        Action::KillGroup {
            worker,
            unless_orphans: self.of.get(&worker).is_some_and(|tree| tree.early_exit),
        }
    }

    fn send(&mut self, worker: WorkerId, signal: Signal) {
        self.signals += 1;
        self.of.entry(worker).or_default().signal = Some(TreeSignal {
            number: self.signals,
            signal: signal.0,
        });
    }

    fn restart_timer(&mut self, now: Time) {
        self.timer = Some((now + FIRST_PAUSE, FIRST_PAUSE));
    }

    fn set_stage(&mut self, worker: WorkerId, stage: Stage) {
        let tree = self.of.entry(worker).or_default();
        self.ending -= usize::from(!matches!(tree.stage, Stage::Whole));
        self.ending += usize::from(!matches!(stage, Stage::Whole));
        tree.stage = stage;
    }

    fn set_stage_if_known(&mut self, worker: WorkerId, stage: Stage) {
        if self.of.contains_key(&worker) {
            self.set_stage(worker, stage);
        }
    }

    /// The trees that are being killed.
    pub(super) fn killing(&self) -> impl Iterator<Item = WorkerId> {
        let killing = |(_, tree): &(&WorkerId, &Tree)| matches!(tree.stage, Stage::Killing);
        self.of.iter().filter(killing).map(|(worker, _)| *worker)
    }

    pub(super) fn is_killing(&self, worker: WorkerId) -> bool {
        self.of
            .get(&worker)
            .is_some_and(|tree| matches!(tree.stage, Stage::Killing))
    }

    /// The trees that may finish, with the processes that the last scan has seen; None before the first.
    pub(super) fn finishing(&self) -> impl Iterator<Item = (WorkerId, Option<&[Member]>)> {
        self.of
            .iter()
            .filter_map(|(worker, tree)| match &tree.stage {
                Stage::Finishing(members) => Some((*worker, members.as_deref())),
                Stage::Whole | Stage::Killing => None,
            })
    }

    /// What was seen of a tree that may finish. None: it is none.
    pub(super) fn survivors(&self, worker: WorkerId) -> Option<Option<&[Member]>> {
        match &self.of.get(&worker)?.stage {
            Stage::Finishing(members) => Some(members.as_deref()),
            Stage::Whole | Stage::Killing => None,
        }
    }

    /// The signals that all processes of a tree are to get.
    pub(super) fn signals(&self) -> impl Iterator<Item = (WorkerId, TreeSignal)> {
        self.of
            .iter()
            .filter_map(|(worker, tree)| Some((*worker, tree.signal?)))
    }

    pub(super) fn signal_of(&self, worker: WorkerId) -> Option<TreeSignal> {
        self.of.get(&worker)?.signal
    }
}

#[cfg(test)]
mod tests;
