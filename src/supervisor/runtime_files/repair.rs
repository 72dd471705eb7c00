//! When the runtime files are checked and repaired. The pauses between attempts grow, so that repeated removals cannot
//! keep the master busy. It reads no file and no clock; stories as text test it (`stories.txt`).

use rotad_core::{Span, Time};

/// Delay of a repair: a directory is removed file by file, so wait until the removal is complete.
const SETTLE_TIME: Span = Span::from_millis(100);

/// The pause after an attempt; it doubles with each attempt that follows soon.
const PAUSE: Span = Span::from_secs(1);
const LONGEST_PAUSE: Span = Span::from_secs(60);

/// After this long without an attempt, the pause starts over.
const CALM_PERIOD: Span = Span::from_secs(120);

#[derive(Debug, Default)]
pub(super) struct Repair {
    under_way: bool,
    /// Something may be missing: when to check.
    due: Option<Time>,
    /// When the last attempt without a request began, and the pause after it.
    last: Option<(Time, Span)>,
    /// The last error, logged once.
    problem: Option<String>,
}

impl Repair {
    /// When the next attempt is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.due.filter(|_| !self.under_way)
    }

    /// A request or a signal asks for a check. Returns whether it begins now; one that is under way is repeated.
    #[must_use]
    pub(super) fn asked(&mut self, now: Time) -> bool {
        if self.under_way {
            self.want(now);
            return false;
        }
        self.start();
        true
    }

    /// Something was removed or renamed: there is a check soon.
    pub(super) fn want(&mut self, now: Time) {
        let settled = now + SETTLE_TIME;
        let allowed = self
            .last
            .map_or(settled, |(at, pause)| settled.max(at + pause));
        self.due = Some(self.due.map_or(allowed, |due| due.min(allowed)));
    }

    /// Returns whether an attempt begins now.
    #[must_use]
    pub(super) fn run_due(&mut self, now: Time) -> bool {
        if self.deadline().is_none_or(|at| at > now) {
            return false;
        }
        self.count_attempt(now);
        self.start();
        true
    }

    /// All files are in place.
    pub(super) fn succeeded(&mut self) {
        self.under_way = false;
        self.problem = None;
    }

    /// An attempt has failed. It is repeated by the clock: when space is freed, nothing tells us. Returns the error if
    /// it is another one than before.
    #[must_use]
    pub(super) fn failed(&mut self, now: Time, error: String) -> Option<String> {
        self.under_way = false;
        if self.last.is_none() {
            self.count_attempt(now);
        }
        self.want(now);
        if self.problem.as_ref() == Some(&error) {
            return None;
        }
        self.problem = Some(error.clone());
        Some(error)
    }

    /// Nothing tells of removals any more: there is a check by the clock.
    pub(super) fn poll(&mut self, now: Time) {
        self.last.get_or_insert((now, PAUSE));
        self.want(now);
    }

    /// The master exits: nothing is repaired any more.
    pub(super) fn abandon(&mut self) {
        (self.under_way, self.due) = (false, None);
    }

    fn start(&mut self) {
        (self.under_way, self.due) = (true, None);
    }

    fn count_attempt(&mut self, now: Time) {
        let pause = match self.last {
            Some((at, pause)) if now < at + CALM_PERIOD.max(pause + pause) => {
                (pause + pause).min(LONGEST_PAUSE)
            }
            _ => PAUSE,
        };
        self.last = Some((now, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::stories::{self, Machine};

    fn begins(begins: bool) -> Vec<String> {
        begins.then(|| "repair".to_owned()).into_iter().collect()
    }

    /// Events: `asked` `missing` `polled` `succeeded` `failed ERROR` `exiting` `nothing` (only time).
    impl Machine for Repair {
        fn next_deadline(&self) -> Option<Time> {
            self.deadline()
        }

        fn fire(&mut self, now: Time) -> Vec<String> {
            begins(self.run_due(now))
        }

        fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
            match words[0] {
                "asked" => return begins(self.asked(now)),
                "missing" => self.want(now),
                "polled" => self.poll(now),
                "succeeded" => self.succeeded(),
                "failed" => {
                    let told = self.failed(now, words[1].to_owned());
                    return told
                        .map(|error| format!("warn {error}"))
                        .into_iter()
                        .collect();
                }
                "exiting" => self.abandon(),
                what => panic!("unknown event {what}"),
            }
            Vec::new()
        }
    }

    #[test]
    fn stories() {
        stories::check::<Repair>("runtime_files/stories.txt");
    }
}
