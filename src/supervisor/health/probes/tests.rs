//! Events of the stories: `readiness W… [command]` `health W… EVERY TIMEOUT FAILURES [command]` `started N TEXT`
//! `passed N` `failed N TEXT` `indeterminate N TEXT` `hung N` `paused` `forgotten W`. `W` may be `1-20`.

use super::{Action, Event, MAX_COMMANDS, MAX_CONNECTIONS, Means, Probes, Purpose, Schedule};
use crate::probe::ProbeError;
use crate::supervisor::health::Unhealthy;
use crate::supervisor::stories::{self, Machine, Numbers, span};
use rotad_core::{Span, Time, WorkerId};
use std::collections::BTreeMap;

fn show(actions: Vec<Action>) -> Vec<String> {
    let line = |action| match action {
        Action::Start {
            number,
            worker,
            purpose,
        } => format!("start {number}: {purpose:?} of {worker}"),
        Action::Cancel(number) => format!("cancel {number}"),
        Action::SetError(worker, Some(error)) => format!("error of {worker}: {error}"),
        Action::SetError(worker, None) => format!("no error of {worker}"),
        Action::Ready(worker) => format!("ready {worker}"),
        Action::Unhealthy(Unhealthy { worker, reason }) => format!("unhealthy {worker}: {reason}"),
        Action::Warn(worker, text) | Action::Failed(worker, text) => {
            format!("warn of {worker}: {text}")
        }
    };
    actions.into_iter().map(line).collect()
}

impl Machine for Probes {
    fn next_deadline(&self) -> Option<Time> {
        self.deadline()
    }

    fn fire(&mut self, now: Time) -> Vec<String> {
        show(self.handle(now, Event::TimerFired))
    }

    fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
        let number = |word: &str| word.parse::<u64>().expect("a number");
        let text = || words[2..].join(" ");
        let means = match words.last() {
            Some(&"command") => Means::Command,
            _ => Means::Connection,
        };
        let begin = |schedule| {
            let (first, last) = words[1].split_once('-').unwrap_or((words[1], words[1]));
            let all = (number(first)..=number(last)).map(|worker| Event::Begin {
                worker: WorkerId(worker),
                schedule,
                means,
            });
            all.collect()
        };
        let ended = |result| {
            let number = number(words[1]);
            vec![Event::Ended { number, result }]
        };
        let events: Vec<Event> = match words[0] {
            "readiness" => begin(Schedule::Readiness),
            "health" => begin(Schedule::Health {
                every: span(words[2]),
                timeout: span(words[3]),
                failures: words[4].parse().expect("a number"),
            }),
            "started" => vec![Event::Started {
                number: number(words[1]),
                shown: text(),
            }],
            "passed" => ended(Ok(())),
            "failed" => ended(Err(ProbeError::Failed(text()))),
            "indeterminate" => ended(Err(ProbeError::Indeterminate(text()))),
            "hung" => vec![Event::Hung {
                number: number(words[1]),
            }],
            "paused" => vec![Event::Paused],
            "forgotten" => vec![Event::Forgotten(WorkerId(number(words[1])))],
            what => panic!("unknown event {what}"),
        };
        let actions = events.into_iter().flat_map(|event| self.handle(now, event));
        show(actions.collect())
    }
}

#[test]
fn stories() {
    stories::check::<Probes>("health/probes/stories.txt");
}

/// What the test knows of a worker.
#[derive(Clone, Copy, Debug)]
struct Known {
    schedule: Schedule,
    means: Means,
    /// Its next probe must not begin before.
    not_before: Time,
    /// Its active probe, with when it began and whether a failure is excused.
    active: Option<(u64, Time, bool)>,
    /// Failures in a row.
    failures: u32,
    probed: u32,
}

/// Watches the machine, and checks what it does.
#[derive(Default)]
struct Checked {
    probes: Probes,
    known: BTreeMap<WorkerId, Known>,
    last: u64,
    starts: u32,
    reports: u32,
}

impl Checked {
    fn active(&self) -> BTreeMap<u64, WorkerId> {
        let active = |(worker, known): (&WorkerId, &Known)| Some((known.active?.0, *worker));
        self.known.iter().filter_map(active).collect()
    }

    fn begin(&mut self, now: Time, worker: WorkerId, schedule: Schedule, means: Means) {
        let before = self.known.get(&worker).and_then(|known| known.active);
        let not_before = match schedule {
            Schedule::Readiness => now,
            Schedule::Health { every, .. } => now + shortest(every),
        };
        let known = Known {
            schedule,
            means,
            not_before,
            active: None,
            failures: 0,
            probed: 0,
        };
        self.known.insert(worker, known);
        let event = Event::Begin {
            worker,
            schedule,
            means,
        };
        self.handle(now, event, before.map(|(number, ..)| number));
    }

    fn forget(&mut self, now: Time, worker: WorkerId) {
        let before = self.known.remove(&worker).and_then(|known| known.active);
        let cancelled = before.map(|(number, ..)| number);
        self.handle(now, Event::Forgotten(worker), cancelled);
    }

    fn hung(&mut self, now: Time, number: u64) {
        for (other, worker) in self.active() {
            if other == number {
                self.expect_failure(now, worker, false);
            } else if let Some(known) = self.known.get_mut(&worker) {
                (known.active, known.not_before) = (None, now);
            }
        }
        self.handle(now, Event::Hung { number }, None);
    }

    fn end(&mut self, now: Time, number: u64, result: Result<(), ProbeError>) {
        if let Some(worker) = self.active().get(&number) {
            match &result {
                Ok(()) => self.expect_next(now, *worker, true),
                Err(ProbeError::Failed(_)) => self.expect_failure(now, *worker, true),
                Err(ProbeError::Indeterminate(_)) => {
                    let known = self.known.get_mut(worker).expect("known");
                    known.active = None;
                    known.not_before = match known.schedule {
                        Schedule::Readiness => now + Span::from_secs(1),
                        Schedule::Health { every, .. } => now + every,
                    };
                }
            }
        }
        self.handle(now, Event::Ended { number, result }, None);
    }

    fn expect_failure(&mut self, now: Time, worker: WorkerId, may_be_excused: bool) {
        let known = self.known.get_mut(&worker).expect("known");
        if may_be_excused && known.active.is_some_and(|(.., excused)| excused) {
            (known.active, known.not_before) = (None, now);
        } else {
            known.failures += 1;
            self.expect_next(now, worker, false);
        }
    }

    fn expect_next(&mut self, now: Time, worker: WorkerId, passed: bool) {
        let known = self.known.get_mut(&worker).expect("known");
        if passed {
            known.failures = 0;
        }
        let (_, began, _) = known.active.take().expect("active");
        known.not_before = match known.schedule {
            Schedule::Readiness => now + Span((50 << (known.failures.max(1) - 1)).min(1000)),
            Schedule::Health { every, .. } => (began + shortest(every)).max(now),
        };
    }

    /// `cancelled`: the probe that the event ends.
    fn handle(&mut self, now: Time, event: Event, mut cancelled: Option<u64>) {
        let fired = matches!(event, Event::TimerFired);
        for action in self.probes.handle(now, event) {
            match action {
                Action::Start {
                    number,
                    worker,
                    purpose,
                } => {
                    assert!(number > self.last, "numbers are not reused");
                    self.last = number;
                    let known = self.known.get_mut(&worker).expect("a worker to probe");
                    assert!(known.active.is_none(), "{worker} is probed already");
                    assert!(now >= known.not_before, "{worker} too early: {known:?}");
                    let readiness = known.schedule == Schedule::Readiness;
                    assert_eq!(readiness, purpose == Purpose::Readiness);
                    known.active = Some((number, now, false));
                    known.probed += 1;
                    self.starts += 1;
                }
                Action::Cancel(number) => {
                    if cancelled == Some(number) {
                        cancelled = None;
                        continue;
                    }
                    let worker = *self.active().get(&number).expect("a probe to cancel");
                    let known = &self.known[&worker];
                    let timeout = match known.schedule {
                        Schedule::Readiness => Span::from_secs(10),
                        Schedule::Health { timeout, .. } => timeout,
                    };
                    let began = known.active.map(|(_, began, _)| began);
                    assert!(fired && began.is_some_and(|at| at + timeout <= now));
                    self.expect_failure(now, worker, true);
                }
                Action::SetError(worker, error) => {
                    let known = self.known.get(&worker).expect("a worker to probe");
                    assert_eq!(error.is_some(), known.failures > 0, "{known:?}");
                }
                Action::Warn(worker, _) | Action::Failed(worker, _) => {
                    assert!(self.known.contains_key(&worker))
                }
                Action::Ready(worker) => {
                    let known = self.known.remove(&worker).expect("a worker to probe");
                    assert!(known.schedule == Schedule::Readiness && known.failures == 0);
                    assert!(known.active.is_none());
                    self.reports += 1;
                }
                Action::Unhealthy(Unhealthy { worker, .. }) => {
                    let known = self.known.remove(&worker).expect("a worker to probe");
                    assert!(
                        matches!(known.schedule, Schedule::Health { failures, .. } if known.failures == failures),
                        "{known:?}"
                    );
                    self.reports += 1;
                }
            }
        }
        assert_eq!(cancelled, None, "a probe that nobody ends");
        for (means, max) in [
            (Means::Connection, MAX_CONNECTIONS),
            (Means::Command, MAX_COMMANDS),
        ] {
            let of = self.known.values().filter(|known| known.means == means);
            let active = of.filter(|known| known.active.is_some()).count();
            assert!(active <= max, "{active} of {means:?}");
        }
        let too_many = |known: &Known| match known.schedule {
            Schedule::Readiness => false,
            Schedule::Health { failures, .. } => known.failures >= failures,
        };
        assert!(!self.known.values().any(too_many), "one is unhealthy");
        let deadline = self.probes.deadline();
        assert_eq!(deadline.is_some(), !self.known.is_empty(), "a deadline");
        assert!(!fired || deadline.is_none_or(|at| at > now), "it gets on");
    }
}

/// The earliest that a health check of this interval may follow.
fn shortest(every: Span) -> Span {
    Span(every.as_millis() - every.as_millis() / 10)
}

fn any_schedule(numbers: &mut Numbers) -> Schedule {
    match numbers.below(3) {
        0 => Schedule::Readiness,
        1 => Schedule::Health {
            every: Span(100),
            timeout: Span(30),
            failures: 1,
        },
        _ => Schedule::Health {
            every: Span(2_000),
            timeout: Span(2_000),
            failures: 3,
        },
    }
}

/// Whatever comes in whatever order: each probe that was started ends once, no more run than the maxima say, a worker is
/// not probed too early nor reported after it was forgotten, and something is due while any worker is to be probed. In
/// the end each of them is probed.
#[test]
fn every_probe_ends_once_in_any_order_of_events() {
    let (mut starts, mut reports) = (0, 0);
    for seed in 0..1_500 {
        let mut numbers = Numbers::seed(seed);
        let mut checked = Checked::default();
        let mut now = Time(0);
        for _ in 0..120 {
            now = now + Span(numbers.below(60));
            let worker = WorkerId(numbers.below(40));
            let number = checked.last.saturating_sub(numbers.below(20));
            match numbers.below(12) {
                0..=2 => {
                    let schedule = any_schedule(&mut numbers);
                    // More commands than there is room for.
                    let means = match numbers.below(4) {
                        0 => Means::Connection,
                        _ => Means::Command,
                    };
                    checked.begin(now, worker, schedule, means);
                }
                3 => checked.forget(now, worker),
                4 => checked.end(now, number, Ok(())),
                5 => checked.end(now, number, Err(ProbeError::Failed("no".to_owned()))),
                6 => {
                    let error = ProbeError::Indeterminate("no descriptor".to_owned());
                    checked.end(now, number, Err(error));
                }
                7 if numbers.below(6) == 0 => checked.hung(now, number),
                8 if numbers.below(4) == 0 => {
                    for known in checked.known.values_mut() {
                        if let Some((.., excused)) = &mut known.active {
                            *excused = true;
                        }
                    }
                    checked.handle(now, Event::Paused, None);
                }
                9 => {
                    let shown = "connect".to_owned();
                    checked.handle(now, Event::Started { number, shown }, None);
                }
                _ => checked.handle(now, Event::TimerFired, None),
            }
        }
        for known in checked.known.values_mut() {
            known.probed = 0;
        }
        // Each active probe passes; all that wait have their turn.
        let end = now + Span::from_secs(5);
        while let Some(at) = checked.probes.deadline().filter(|at| *at <= end) {
            now = now.max(at);
            checked.handle(now, Event::TimerFired, None);
            for number in checked.active().into_keys() {
                checked.end(now, number, Ok(()));
            }
        }
        let all = checked.known.values().all(|known| known.probed > 0);
        assert!(all, "seed {seed}: one is never probed");
        (starts, reports) = (starts + checked.starts, reports + checked.reports);
    }
    assert!(starts > 10_000 && reports > 1_000, "{starts}, {reports}");
}

#[test]
fn no_more_connections_at_once_than_the_maximum() {
    let mut checked = Checked::default();
    for worker in 0..600 {
        let means = Means::Connection;
        checked.begin(Time(0), WorkerId(worker), Schedule::Readiness, means);
    }
    assert_eq!(checked.active().len(), MAX_CONNECTIONS);
    checked.begin(Time(0), WorkerId(1000), Schedule::Readiness, Means::Command);
    assert_eq!(checked.active().len(), MAX_CONNECTIONS + 1, "another kind");
    // Each that is ready makes room for the next, in order.
    for number in 1..=600 {
        let next = checked.active().into_keys().next();
        let next = next.expect("a probe");
        assert!(next <= number + 1);
        checked.end(Time(1), next, Ok(()));
    }
    assert_eq!(checked.reports, 600);
}
