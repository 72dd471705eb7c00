//! Stories of trees as text (`stories.txt`, told by `supervisor/stories.rs`). Workers are numbers, processes words.
//!
//! Events: `early W` `signal W SIGNAL` `finish W SIGNAL` `finish W nothing-left` `kill W` `kill-now W` `killed W left`
//! `killed W nothing` `survivors W PROCESS…` (`unsure`: not all could be attributed) `swept W KILLED LEFT` `child`
//! `forget W`.

use super::{Action, Event, Trees};
use crate::process::tree::{KillProgress, Member};
use crate::supervisor::stories::{self, Machine, Numbers};
use rotad_core::{Signal, Time, WorkerId};
use std::collections::BTreeSet;

fn show(action: &Action) -> String {
    match action {
        Action::KillGroup {
            worker,
            unless_orphans,
        } => {
            let unless = if *unless_orphans {
                ", unless there are orphans"
            } else {
                ""
            };
            format!("kill the group of {worker}{unless}")
        }
        Action::Scan => "scan".to_owned(),
        Action::ScanUnlessAlive => "scan, unless a survivor runs".to_owned(),
        Action::GoneIfEmpty(worker) => format!("{worker} is gone, if its cgroup is empty"),
        Action::GoneIfDead(worker) => format!("{worker} is gone, if its group is dead"),
        Action::Gone(worker) => format!("{worker} is gone"),
        Action::ReportKilled(worker, killed) => format!("report {killed} of {worker} killed"),
        Action::ReportDaemonized(worker) => format!("report that {worker} daemonizes"),
    }
}

fn member(name: &str) -> Member {
    Member {
        identity: (1, 1),
        name: name.to_owned(),
    }
}

fn event(words: &[&str]) -> Event {
    let worker = || WorkerId(words[1].parse().expect("a worker"));
    let number = |at: usize| words[at].parse().expect("a number");
    match words[0] {
        "early" => Event::ExitedEarly(worker()),
        "signal" => Event::Signal(worker(), Signal(number(2) as i32)),
        "finish" => Event::Finish {
            worker: worker(),
            signal: words[2].parse().ok().map(Signal),
            left: words[2] != "nothing-left",
        },
        "kill" => Event::Kill(worker()),
        "kill-now" => Event::KillNow(worker()),
        "killed" => Event::GroupKilled {
            worker: worker(),
            left: words[2] == "left",
        },
        "survivors" => Event::Survivors {
            worker: worker(),
            certain: !words.contains(&"unsure"),
            members: words[2..]
                .iter()
                .filter(|word| **word != "unsure")
                .map(|name| member(name))
                .collect(),
        },
        "swept" => Event::Swept(
            worker(),
            KillProgress {
                killed: number(2),
                left: number(3),
            },
        ),
        "child" => Event::ChildExited,
        "forget" => Event::Forgotten(worker()),
        what => panic!("unknown event {what}"),
    }
}

impl Machine for Trees {
    fn next_deadline(&self) -> Option<Time> {
        self.deadline()
    }

    fn fire(&mut self, now: Time) -> Vec<String> {
        self.handle(now, Event::CheckDue).iter().map(show).collect()
    }

    fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
        self.handle(now, event(words)).iter().map(show).collect()
    }
}

#[test]
fn stories() {
    stories::check::<Trees>("workers/trees/stories.txt");
}

/// In any order of events: a tree is checked as long as it ends and has not gone, only trees that are killed are swept,
/// and when all are forgotten nothing is left to do.
#[test]
fn a_tree_that_ends_is_checked_until_it_is_gone() {
    const EVENTS: [&str; 12] = [
        "early",
        "signal 15",
        "finish 15",
        "finish none",
        "kill",
        "kill-now",
        "killed left",
        "survivors sleep",
        "survivors",
        "survivors unsure",
        "swept 1 1",
        "swept 0 0",
    ];
    let mut numbers = Numbers::seed(7);
    for _ in 0..5_000 {
        let mut trees = Trees::default();
        let mut known = BTreeSet::new();
        for step in 0..30 {
            let worker = WorkerId(numbers.below(3));
            let line = EVENTS[numbers.below(EVENTS.len() as u64) as usize];
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let line = format!("{verb} {worker} {rest}");
            let words: Vec<&str> = line.split_whitespace().collect();
            known.insert(worker);
            for action in trees.handle(Time(step), event(&words)) {
                match action {
                    Action::GoneIfDead(gone) => assert!(trees.is_killing(gone), "{line}"),
                    Action::GoneIfEmpty(gone) => {
                        assert!(trees.survivors(gone).is_some(), "{line}");
                    }
                    Action::KillGroup { worker, .. } => {
                        assert!(trees.survivors(worker).is_none(), "{line}: it may finish");
                    }
                    Action::Scan
                    | Action::ScanUnlessAlive
                    | Action::Gone(_)
                    | Action::ReportKilled(..)
                    | Action::ReportDaemonized(_) => {}
                }
            }
            let ending = trees.killing().count() + trees.finishing().count();
            assert_eq!(trees.deadline().is_some(), ending > 0, "{line}");
        }
        for worker in known {
            trees.handle(Time(30), Event::Forgotten(worker));
        }
        assert_eq!(trees.deadline(), None);
        assert!(trees.handle(Time(31), Event::ChildExited).is_empty());
        assert_eq!(trees.signals().count(), 0);
    }
}
