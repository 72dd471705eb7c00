//! Which hook is to be run for which event, and when: a state machine without I/O. The master saves it, so that the next
//! one goes on with it.
//!
//! | state     | an event that it is for                       | its time has come       | its run ends |
//! |-----------|-----------------------------------------------|-------------------------|--------------|
//! | idle      | waits                                         |                         |              |
//! | waits     | waits for the new event; the old one is folded | runs                    |              |
//! | runs      | runs, and waits                               | overdue: to be killed   | idle         |
//! | overdue   | the same                                      | given up: idle          | idle         |
//!
//! A hook has at most one run at a time, and [`MAX_RUNS`] in any [`WINDOW`]: its time has come once both allow one more.

use crate::observe::events::Event;
use crate::plan::HookPlan;
use rotad_core::{Span, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// How many runs of a hook may begin within [`WINDOW`]: enough for each step of a deploy, few enough for a chat.
pub(super) const MAX_RUNS: usize = 10;
/// See [`MAX_RUNS`].
pub(super) const WINDOW: Span = Span::from_secs(60);
/// How long a killed run may take to end before nothing waits for it any more: the kernel holds it.
const KILL_TIMEOUT: Span = Span::from_secs(2);

/// What a run of a hook is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delivery {
    /// The name by which the hook means the event.
    pub on: String,
    pub event: Event,
    /// How many events before it got no run of their own, …
    pub folded: u64,
    /// … by the names by which the hook means them.
    pub folded_events: BTreeMap<String, u64>,
    /// Nothing has happened: the hook is tried.
    #[serde(default)]
    pub test: bool,
}

/// A run that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub number: u64,
    pub delivery: Delivery,
    /// When it is killed, or given up.
    deadline: Time,
    /// It took too long, or the master stops: it is being killed.
    pub overdue: bool,
    /// It is killed before its time, since the master stops.
    #[serde(default)]
    pub cut: bool,
    /// The client that tries the hook and waits for the end.
    #[serde(default)]
    pub client: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct HookState {
    waiting: Option<Delivery>,
    running: Option<Run>,
    /// When the latest runs have begun.
    begun: VecDeque<Time>,
}

/// The hooks that have something to do, by name, and those that had in the last minute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct HookQueue {
    /// The number of the last run.
    last: u64,
    hooks: BTreeMap<String, HookState>,
}

/// A run whose deadline has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It is to be killed.
    Kill(u64),
    /// It was killed, and has not ended.
    GivenUp(String, Box<Run>),
}

impl HookState {
    /// When a run may begin. `None`: one runs, or nothing waits.
    fn begins_at(&self, unlimited: bool) -> Option<Time> {
        if self.waiting.is_none() || self.running.is_some() {
            return None;
        }
        match self.begun.front() {
            Some(first) if !unlimited && self.begun.len() >= MAX_RUNS => Some(*first + WINDOW),
            _ => Some(Time(0)),
        }
    }

    fn wait_for(&mut self, mut delivery: Delivery) {
        if let Some(before) = self.waiting.take() {
            delivery.fold(before);
        }
        self.waiting = Some(delivery);
    }
}

impl Delivery {
    /// Counts what another one would have told.
    fn fold(&mut self, other: Self) {
        self.folded += other.folded + 1;
        *self.folded_events.entry(other.on).or_default() += 1;
        for (name, count) in other.folded_events {
            *self.folded_events.entry(name).or_default() += count;
        }
    }
}

impl HookQueue {
    /// An event has happened that this hook is for. `on`: the name by which it means it.
    pub(super) fn wait(&mut self, hook: &str, on: &str, event: &Event) {
        let state = self.hooks.entry(hook.to_owned()).or_default();
        state.wait_for(Delivery {
            on: on.to_owned(),
            event: event.clone(),
            folded: 0,
            folded_events: BTreeMap::new(),
            test: false,
        });
    }

    /// The plan has other hooks: events wait only for those that are there. Runs go on.
    pub(super) fn keep(&mut self, plans: &[HookPlan]) {
        self.hooks.retain(|name, state| {
            if !plans.iter().any(|plan| plan.name == *name) {
                state.waiting = None;
            }
            state.waiting.is_some() || state.running.is_some() || !state.begun.is_empty()
        });
    }

    /// The runs of a dead master: their events wait for another run. Returns the clients that tried a hook.
    pub(super) fn restart(&mut self) -> Vec<u64> {
        let mut clients = Vec::new();
        for state in self.hooks.values_mut() {
            let Some(run) = state.running.take() else {
                continue;
            };
            if let Some(client) = run.client {
                clients.push(client);
                continue;
            }
            match &mut state.waiting {
                Some(waiting) => waiting.fold(run.delivery),
                None => state.waiting = Some(run.delivery),
            }
        }
        clients
    }

    /// Begins a run that a client asks for, whatever waits and however many there were. `None`: one runs.
    pub(super) fn try_run(
        &mut self,
        plan: &HookPlan,
        delivery: Delivery,
        client: u64,
        now: Time,
    ) -> Option<u64> {
        let state = self.hooks.entry(plan.name.clone()).or_default();
        if state.running.is_some() {
            return None;
        }
        self.last += 1;
        state.running = Some(Run {
            number: self.last,
            delivery,
            deadline: now + Span::from(plan.timeout),
            overdue: false,
            cut: false,
            client: Some(client),
        });
        Some(self.last)
    }

    /// Whether a run could begin now. `unlimited`: however many there were.
    pub(super) fn can_begin(&self, now: Time, unlimited: bool) -> bool {
        let mut hooks = self.hooks.values();
        hooks.any(|state| state.begins_at(unlimited).is_some_and(|at| at <= now))
    }

    /// Begins the runs whose time has come, and returns their numbers, each with its hook.
    pub(super) fn begin(
        &mut self,
        plans: &[HookPlan],
        now: Time,
        unlimited: bool,
    ) -> Vec<(u64, String)> {
        let mut begun = Vec::new();
        for (name, state) in &mut self.hooks {
            let Some(plan) = plans.iter().find(|plan| plan.name == *name) else {
                continue;
            };
            if state.begins_at(unlimited).is_none_or(|at| at > now) {
                continue;
            }
            let Some(delivery) = state.waiting.take() else {
                continue;
            };
            self.last += 1;
            state.begun.push_back(now);
            if state.begun.len() > MAX_RUNS {
                state.begun.pop_front();
            }
            state.running = Some(Run {
                number: self.last,
                delivery,
                deadline: now + Span::from(plan.timeout),
                overdue: false,
                cut: false,
                client: None,
            });
            begun.push((self.last, name.clone()));
        }
        begun
    }

    /// What a run is told.
    pub(super) fn delivery(&self, number: u64) -> Option<&Delivery> {
        let runs = self.running();
        let mut found = runs.filter(|run| run.number == number);
        found.next().map(|run| &run.delivery)
    }

    /// A run has ended. Returns it with its hook; `None`: it was given up before.
    pub(super) fn end(&mut self, number: u64) -> Option<(String, Run)> {
        let (name, state) = self.hooks.iter_mut().find(|(_, state)| {
            let running = state.running.as_ref();
            running.is_some_and(|run| run.number == number)
        })?;
        Some((name.clone(), state.running.take()?))
    }

    /// The runs whose deadlines have come. `all`: no run may go on.
    pub(super) fn overdue(&mut self, now: Time, all: bool) -> Vec<Overdue> {
        let mut found = Vec::new();
        for (name, state) in &mut self.hooks {
            let Some(run) = &mut state.running else {
                continue;
            };
            if run.overdue && run.deadline <= now {
                found.extend(
                    state
                        .running
                        .take()
                        .map(|run| Overdue::GivenUp(name.clone(), Box::new(run))),
                );
            } else if !run.overdue && (all || run.deadline <= now) {
                run.overdue = true;
                run.cut = run.deadline > now;
                run.deadline = now + KILL_TIMEOUT;
                found.push(Overdue::Kill(run.number));
            }
        }
        found
    }

    /// When something is to be done next.
    pub(super) fn deadline(&self, unlimited: bool) -> Option<Time> {
        let of = |state: &HookState| {
            let kill = state.running.as_ref().map(|run| run.deadline);
            kill.into_iter().chain(state.begins_at(unlimited)).min()
        };
        self.hooks.values().filter_map(of).min()
    }

    /// The runs that have not ended.
    pub(super) fn running(&self) -> impl Iterator<Item = &Run> {
        self.hooks
            .values()
            .filter_map(|state| state.running.as_ref())
    }

    /// Whether a hook runs, or waits for its run.
    pub(super) fn is_busy(&self) -> bool {
        let mut hooks = self.hooks.values();
        hooks.any(|state| state.running.is_some() || state.waiting.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::events::EventKind;
    use std::path::PathBuf;
    use std::time::Duration;

    fn plans() -> Vec<HookPlan> {
        let plan = |name: &str| HookPlan {
            name: name.to_owned(),
            on: vec!["exit".to_owned()],
            command: Vec::new(),
            timeout: Duration::from_secs(10),
            directory: PathBuf::new(),
        };
        vec![plan("mail"), plan("slack")]
    }

    fn event(seq: u64) -> Event {
        Event {
            seq,
            time: String::new(),
            event: EventKind::Exit,
            pool: None,
            slot: None,
            worker: None,
            generation: None,
            pid: None,
            cause: None,
            text: String::new(),
        }
    }

    const NOW: Time = Time(1_000_000);

    fn begin(queue: &mut HookQueue, now: Time) -> Vec<u64> {
        let begun = queue.begin(&plans(), now, false).into_iter();
        begun.map(|(number, _)| number).collect()
    }

    #[test]
    fn events_during_a_run_are_folded_into_the_next_one() {
        let mut queue = HookQueue::default();
        queue.wait("slack", "exit", &event(1));
        assert_eq!(queue.deadline(false), Some(Time(0)));
        assert_eq!(begin(&mut queue, NOW), [1]);
        for (seq, on) in [(2, "exit"), (3, "crash-loop"), (4, "exit"), (5, "exit")] {
            queue.wait("slack", on, &event(seq));
        }
        assert!(begin(&mut queue, NOW).is_empty(), "it runs already");
        assert_eq!(queue.deadline(false), Some(NOW + Span::from_secs(10)));
        let (hook, run) = queue.end(1).unwrap();
        assert_eq!((hook.as_str(), run.delivery.event.seq), ("slack", 1));
        assert_eq!((run.delivery.folded, queue.end(1)), (0, None));
        assert_eq!(begin(&mut queue, NOW), [2]);
        let delivery = queue.delivery(2).unwrap();
        assert_eq!((delivery.event.seq, delivery.folded), (5, 3));
        let expected = [("crash-loop".to_owned(), 1), ("exit".to_owned(), 2)];
        assert_eq!(delivery.folded_events, BTreeMap::from(expected));
        queue.end(2);
        assert!(!queue.is_busy() && queue.deadline(false).is_none());
    }

    #[test]
    fn runs_are_limited_in_any_minute_but_for_the_last() {
        let mut queue = HookQueue::default();
        for run in 0..MAX_RUNS as u64 {
            queue.wait("slack", "exit", &event(run));
            let now = NOW + Span(run);
            assert_eq!(begin(&mut queue, now).len(), 1);
            queue.end(queue.last);
        }
        let now = NOW + Span::from_secs(30);
        queue.wait("slack", "exit", &event(98));
        queue.wait("slack", "exit", &event(99));
        queue.wait("mail", "exit", &event(99));
        assert_eq!(begin(&mut queue, now), [11], "mail has a limit of its own");
        assert_eq!(queue.end(11).unwrap().0, "mail");
        assert!(!queue.can_begin(now, false) && queue.can_begin(now, true));
        assert_eq!(queue.deadline(false), Some(NOW + WINDOW));
        assert_eq!(begin(&mut queue, NOW + WINDOW), [12]);
        assert_eq!(queue.delivery(12).unwrap().folded, 1);
    }

    #[test]
    fn a_run_that_takes_too_long_is_killed_and_then_given_up() {
        let mut queue = HookQueue::default();
        queue.wait("slack", "exit", &event(1));
        begin(&mut queue, NOW);
        let end = NOW + Span::from_secs(10);
        assert_eq!(queue.overdue(end, false), [Overdue::Kill(1)]);
        assert!(queue.overdue(end, false).is_empty(), "it is being killed");
        let gone = queue.overdue(end + KILL_TIMEOUT, false);
        assert!(matches!(&gone[..], [Overdue::GivenUp(hook, _)] if hook == "slack"));
        assert!(!queue.is_busy() && queue.end(1).is_none());
        queue.wait("slack", "exit", &event(2));
        begin(&mut queue, end);
        assert_eq!(queue.overdue(end, true), [Overdue::Kill(2)]);
    }

    #[test]
    fn the_next_master_repeats_what_ran() {
        let mut queue = HookQueue::default();
        for hook in ["slack", "mail"] {
            queue.wait(hook, "exit", &event(1));
        }
        begin(&mut queue, NOW);
        queue.wait("slack", "exit", &event(2));
        let text = serde_json::to_string(&queue).unwrap();
        let mut queue: HookQueue = serde_json::from_str(&text).unwrap();
        assert!(queue.restart().is_empty());
        assert_eq!(begin(&mut queue, NOW), [3, 4]);
        let folded = |number| {
            queue
                .delivery(number)
                .map(|one| (one.event.seq, one.folded))
        };
        assert_eq!((folded(3), folded(4)), (Some((1, 0)), Some((2, 1))));
        queue.end(3);
        let plan = &plans()[0];
        let trial = queue.delivery(4).unwrap().clone();
        let number = queue.try_run(plan, trial.clone(), 7, NOW);
        assert_eq!(number, Some(5), "mail is idle");
        assert_eq!(queue.try_run(plan, trial, 8, NOW), None, "it runs");
        assert_eq!(
            queue.restart(),
            [7],
            "its client is told; nothing is tried again"
        );
    }

    #[test]
    fn events_do_not_wait_for_a_hook_that_is_gone() {
        let mut queue = HookQueue::default();
        queue.wait("slack", "exit", &event(1));
        begin(&mut queue, NOW);
        queue.wait("slack", "exit", &event(2));
        queue.wait("mail", "exit", &event(2));
        queue.keep(&[]);
        assert_eq!(queue.running().count(), 1, "what runs goes on");
        queue.end(1);
        queue.keep(&plans()[..1]);
        assert!(!queue.is_busy());
    }
}
