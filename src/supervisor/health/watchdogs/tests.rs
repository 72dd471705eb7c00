//! Events of the stories: `running W INTERVAL` `ready W` `message W WORD…` (`alive`, `broken`, an interval; `early`: the
//! worker does not serve) `forgotten W`.

use super::{Event, Unhealthy, WatchdogMessage, Watchdogs};
use crate::supervisor::stories::{self, Machine, Numbers, span};
use rotad_core::{Span, Time, WorkerId};
use std::collections::BTreeMap;

fn show(unhealthy: Vec<Unhealthy>) -> Vec<String> {
    let line = |Unhealthy { worker, reason }| format!("unhealthy {worker}: {reason}");
    unhealthy.into_iter().map(line).collect()
}

impl Machine for Watchdogs {
    fn next_deadline(&self) -> Option<Time> {
        self.deadline()
    }

    fn fire(&mut self, now: Time) -> Vec<String> {
        show(self.handle(now, Event::TimerFired))
    }

    fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
        let worker = WorkerId(words[1].parse().expect("a worker"));
        let event = match words[0] {
            "running" => Event::Running {
                worker,
                interval: span(words[2]),
            },
            "ready" => Event::Ready(worker),
            "message" => {
                let interval = words[2..].iter().find(|word| word.ends_with('s'));
                Event::Message {
                    worker,
                    serves: !words.contains(&"early"),
                    message: WatchdogMessage {
                        alive: words.contains(&"alive"),
                        broken: words.contains(&"broken"),
                        interval: interval.map(|word| span(word)),
                    },
                }
            }
            "forgotten" => Event::Forgotten(worker),
            what => panic!("unknown event {what}"),
        };
        show(self.handle(now, event))
    }
}

#[test]
fn stories() {
    stories::check::<Watchdogs>("health/watchdogs/stories.txt");
}

/// Whatever comes in whatever order: only workers that serve are reported, for lateness never before their interval is
/// over and at the first deadline after that; an armed watchdog has a deadline.
#[test]
fn only_a_worker_that_serves_and_is_late_is_reported() {
    /// What is known of a worker.
    #[derive(Clone, Copy)]
    struct Known {
        interval: Option<Span>,
        serves: bool,
        /// None: disabled, or not ready.
        until: Option<Time>,
    }
    const INTERVALS: [Span; 3] = [Span::ZERO, Span(20), Span(100)];
    let mut reported = 0;
    for seed in 0..3_000 {
        let mut numbers = Numbers::seed(seed);
        let mut watchdogs = Watchdogs::default();
        let mut known: BTreeMap<WorkerId, Known> = BTreeMap::new();
        let (mut now, mut next) = (Time(0), 0);
        for _ in 0..60 {
            now = now + Span(numbers.below(30));
            let worker = WorkerId(numbers.below(next + 1));
            let interval = INTERVALS[numbers.below(3) as usize];
            let event = match numbers.below(6) {
                0 => {
                    let worker = WorkerId(next);
                    next += 1;
                    // Not all pools have a watchdog.
                    let has = numbers.below(4) > 0;
                    known.insert(
                        worker,
                        Known {
                            interval: has.then_some(interval),
                            serves: false,
                            until: None,
                        },
                    );
                    if !has {
                        continue;
                    }
                    Event::Running { worker, interval }
                }
                1 => {
                    // The supervisor says it once.
                    let Some(one) = known.get_mut(&worker).filter(|one| !one.serves) else {
                        continue;
                    };
                    one.serves = true;
                    one.until = one
                        .interval
                        .filter(|interval| *interval > Span::ZERO)
                        .map(|interval| now + interval);
                    Event::Ready(worker)
                }
                2 => {
                    known.remove(&worker);
                    Event::Forgotten(worker)
                }
                3 => Event::TimerFired,
                _ => {
                    let message = WatchdogMessage {
                        alive: numbers.below(2) == 0,
                        broken: numbers.below(20) == 0,
                        interval: (numbers.below(4) == 0).then_some(interval),
                    };
                    let one = known.get_mut(&worker);
                    let serves = one.as_ref().is_some_and(|one| one.serves);
                    if let Some(one) = one {
                        if one.interval.is_some() {
                            one.interval = message.interval.or(one.interval);
                        }
                        if serves && (message.alive || message.interval.is_some()) {
                            let interval = one.interval.filter(|interval| *interval > Span::ZERO);
                            one.until = interval.map(|interval| now + interval);
                        }
                    }
                    Event::Message {
                        worker,
                        serves,
                        message,
                    }
                }
            };
            let broken = match event {
                Event::Message {
                    worker, message, ..
                } if message.broken => Some(worker),
                _ => None,
            };
            let fired = matches!(event, Event::TimerFired);
            for Unhealthy { worker, .. } in watchdogs.handle(now, event) {
                let one = known.remove(&worker).expect("a worker that is known");
                assert!(one.serves, "{worker} does not serve");
                if broken != Some(worker) {
                    assert!(fired && one.until.is_some_and(|at| at <= now), "{worker}");
                }
                reported += 1;
            }
            let first = known.values().filter_map(|one| one.until).min();
            assert_eq!(watchdogs.deadline(), first, "seed {seed}");
            if fired {
                assert!(first.is_none_or(|at| at > now), "one is late");
            }
        }
    }
    assert!(reported > 1_000, "{reported} reported");
}
