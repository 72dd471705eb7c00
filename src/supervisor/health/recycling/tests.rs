//! Events of the stories: `serves W LIMIT…` `limits W SINCE LIMIT…` (`age=60s`, `rss=100`: MiB) `forgotten W`
//! (`at`: 04:00), `scheduled W TIME`, `sampled W=MIB…` `unavailable` `replaced W` (or not at all, but it has not failed) `failed W [DELAY]`. The pid of a
//! worker is its number plus 1000.

use super::{Action, Event, Limits, RETRY_DELAY, Recycling};
use crate::plan::TimeOfDay;
use crate::process::rss_sampler::TreeMemory;
use crate::supervisor::stories::{self, Machine, Numbers, span};
use rotad_core::{Span, Time, WorkerId};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

fn show(actions: Vec<Action>) -> Vec<String> {
    let line = |action| match action {
        Action::Sample(all) => {
            let all: Vec<String> = all
                .into_iter()
                .map(|(worker, pid)| format!("{worker} (pid {pid})"))
                .collect();
            format!("sample {}", all.join(", "))
        }
        Action::Replace {
            worker,
            reason,
            text,
        } => format!("replace {worker} for its {reason:?}: {text}"),
        Action::Stays { worker, retry_in } => match retry_in {
            Some(span) => format!("{worker} stays; again in {span}"),
            None => format!("{worker} stays"),
        },
    };
    actions.into_iter().map(line).collect()
}

fn limits(words: &[&str]) -> Limits {
    let value = |key| words.iter().find_map(|word| word.strip_prefix(key));
    Limits {
        max_age: value("age=").map(span),
        max_rss: value("rss=").map(|mib: &str| mib.parse::<u64>().expect("MiB") * MIB),
        at: words.contains(&"at").then_some(TimeOfDay(4 * 3600)),
    }
}

fn memory(mib: u64) -> TreeMemory {
    TreeMemory {
        rss_bytes: mib * MIB,
        processes: 2,
    }
}

impl Machine for Recycling {
    fn next_deadline(&self) -> Option<Time> {
        self.deadline()
    }

    fn fire(&mut self, now: Time) -> Vec<String> {
        show(self.handle(now, Event::TimerFired))
    }

    fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
        let number = |word: &str| word.parse::<u64>().expect("a number");
        let worker = || WorkerId(number(words[1]));
        let pid = || 1000 + number(words[1]) as i32;
        let event = match words[0] {
            "serves" => Event::Serves {
                worker: worker(),
                pid: pid(),
                limits: limits(words),
            },
            "limits" => Event::LimitsChanged {
                worker: worker(),
                pid: pid(),
                limits: limits(words),
                since: Time(number(words[2])),
            },
            "scheduled" => Event::Scheduled {
                worker: worker(),
                at: Time(number(words[2])),
            },
            "forgotten" => Event::Forgotten(worker()),
            "sampled" => {
                let one = |word: &&str| {
                    let (worker, mib) = word.split_once('=').expect("W=MIB");
                    (WorkerId(number(worker)), memory(number(mib)))
                };
                Event::Sampled(words[1..].iter().map(one).collect())
            }
            "unavailable" => Event::Unavailable,
            "replaced" => Event::Replied {
                worker: worker(),
                failed: false,
                delay: Span::ZERO,
            },
            "failed" => Event::Replied {
                worker: worker(),
                failed: true,
                delay: words.get(2).map_or(Span::ZERO, |word| span(word)),
            },
            what => panic!("unknown event {what}"),
        };
        show(self.handle(now, event))
    }
}

#[test]
fn stories() {
    stories::check::<Recycling>("health/recycling/stories.txt");
}

/// What the test knows of a worker.
#[derive(Clone, Copy)]
struct Known {
    limits: Limits,
    scheduled_at: Option<Time>,
    since: Time,
    requested: bool,
    not_before: Time,
}

/// Whatever comes in whatever order: a worker is requested only while it serves, once at a time, not too early, and for a
/// limit that it exceeds; one sample at a time; one that is too old is requested in time.
#[test]
fn a_worker_is_replaced_for_a_limit_that_it_exceeds_and_once() {
    let (mut replaced, mut sampled, mut scheduled) = (0, 0, 0);
    for seed in 0..3_000 {
        let mut numbers = Numbers::seed(seed);
        let mut recycling = Recycling::default();
        let mut known: BTreeMap<WorkerId, Known> = BTreeMap::new();
        let (mut now, mut next) = (Time(0), 0);
        let mut sample: Option<Vec<WorkerId>> = None;
        for _ in 0..60 {
            now = now + Span(numbers.below(20_000));
            let worker = WorkerId(numbers.below(next + 1));
            let limits = Limits {
                max_age: [None, Some(Span(1_000)), Some(Span(100_000))][numbers.below(3) as usize],
                max_rss: [None, Some(50 * MIB), Some(90 * MIB)][numbers.below(3) as usize],
                at: [None, Some(TimeOfDay(4 * 3600))][numbers.below(2) as usize],
            };
            let pid = worker.0 as i32;
            let mut found = Vec::new();
            let event = match numbers.below(8) {
                0 => {
                    let worker = WorkerId(next);
                    next += 1;
                    known.insert(
                        worker,
                        Known {
                            limits,
                            scheduled_at: None,
                            since: now,
                            requested: false,
                            not_before: Time(0),
                        },
                    );
                    Event::Serves {
                        worker,
                        pid: worker.0 as i32,
                        limits,
                    }
                }
                1 => {
                    let Some(one) = known.get_mut(&worker) else {
                        continue; // the supervisor changes the limits of those that serve
                    };
                    one.limits = limits;
                    one.scheduled_at = one.scheduled_at.filter(|_| limits.at.is_some());
                    // One without limits is not known to the machine, and nothing is remembered of it.
                    if limits == Limits::default() && !one.requested {
                        one.not_before = Time(0);
                    }
                    Event::LimitsChanged {
                        worker,
                        pid,
                        limits,
                        since: one.since,
                    }
                }
                2 => {
                    known.remove(&worker);
                    Event::Forgotten(worker)
                }
                3 | 4 => match sample.take() {
                    Some(_) if numbers.below(8) == 0 => Event::Unavailable,
                    Some(all) => {
                        let size = |worker| (worker, memory(numbers.below(120)));
                        found = all.into_iter().map(size).collect();
                        Event::Sampled(found.clone())
                    }
                    None => Event::TimerFired,
                },
                5 => {
                    let delay = Span::from_secs(numbers.below(90));
                    let failed = numbers.below(2) == 0;
                    if let Some(one) = known.get_mut(&worker).filter(|one| one.requested) {
                        one.requested = false;
                        let limited = one.limits != Limits::default();
                        let retry_at = now + RETRY_DELAY.max(delay);
                        one.not_before = if limited { retry_at } else { Time(0) };
                    }
                    Event::Replied {
                        worker,
                        failed,
                        delay,
                    }
                }
                6 => {
                    let at = now + Span(numbers.below(40_000));
                    if let Some(one) = known.get_mut(&worker).filter(|one| one.limits.at.is_some())
                    {
                        one.scheduled_at = Some(at);
                    }
                    Event::Scheduled { worker, at }
                }
                _ => Event::TimerFired,
            };
            let fired = matches!(event, Event::TimerFired);
            for action in recycling.handle(now, event) {
                match action {
                    Action::Sample(all) => {
                        assert!(fired && sample.is_none(), "one sample at a time");
                        let wanted = known.iter().filter(|(_, one)| one.limits.max_rss.is_some());
                        let wanted: Vec<_> = wanted.map(|(id, _)| (*id, id.0 as i32)).collect();
                        assert_eq!(all, wanted);
                        sample = Some(all.into_iter().map(|(worker, _)| worker).collect());
                        sampled += 1;
                    }
                    Action::Replace { worker, reason, .. } => {
                        let one = known.get_mut(&worker).expect("a worker that serves");
                        assert!(!one.requested, "{worker} twice");
                        assert!(now >= one.not_before, "{worker} too early");
                        match reason {
                            super::Reason::Age => {
                                let age = one.limits.max_age.expect("a limit").as_millis();
                                assert!((now - one.since).as_millis() >= age - age / 10);
                            }
                            super::Reason::Schedule => {
                                assert!(one.limits.at.is_some());
                                assert!(one.scheduled_at.is_some_and(|at| at <= now));
                                scheduled += 1;
                            }
                            super::Reason::Memory => {
                                let size = found.iter().find(|(id, _)| *id == worker);
                                let (_, size) = size.expect("sampled");
                                assert!(one.limits.max_rss.is_some_and(|max| size.rss_bytes > max));
                            }
                        }
                        one.requested = true;
                        replaced += 1;
                    }
                    Action::Stays { worker, .. } => {
                        assert!(known.contains_key(&worker), "{worker} is gone");
                    }
                }
            }
            if known.values().any(|one| one.limits.max_rss.is_some()) && sample.is_none() {
                assert!(recycling.deadline().is_some(), "seed {seed}: no sample");
            }
            let late = |one: &Known| {
                let age = one
                    .limits
                    .max_age
                    .map(|age| age + Span(age.as_millis() / 10));
                let at = age
                    .map(|age| one.since + age)
                    .into_iter()
                    .chain(one.scheduled_at);
                let at = at.min().map(|at| at.max(one.not_before));
                !one.requested && at.is_some_and(|at| at <= now)
            };
            if fired {
                assert!(!known.values().any(late), "seed {seed}: one is too old");
                assert!(recycling.deadline().is_none_or(|at| at > now));
            } else if known.values().any(late) {
                assert!(recycling.deadline().is_some_and(|at| at <= now));
            }
        }
    }
    assert!(
        replaced > 3_000 && sampled > 3_000 && scheduled > 300,
        "{replaced}, {sampled}, {scheduled}"
    );
}
