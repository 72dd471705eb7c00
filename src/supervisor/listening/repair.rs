//! When listening sockets that no longer serve are checked and replaced, and what is said about that: those that a
//! worker has shut down, and unix sockets whose file was removed or replaced. Each is checked when that is noticed, and
//! at each reload; until it serves again its pools are degraded, and the status says why.
//!
//! Without a request, a socket is replaced at most [`MAX_REPLACEMENTS`] times in [`WINDOW`]: each new socket means that
//! all workers of its pools are replaced. It touches no socket and reads no clock; stories as text test it
//! (`stories.txt`).

use super::id::ListenerId;
use crate::observe::events::EventKind;
use crate::supervisor::event_builder::EventBuilder;
use rotad_core::{Span, Time};
use std::collections::{BTreeMap, VecDeque};

const MAX_REPLACEMENTS: usize = 10;
const WINDOW: Span = Span::from_secs(60);
/// Pauses between two attempts while a repair fails.
const FIRST_PAUSE: Span = Span::from_millis(100);
const MAX_PAUSE: Span = Span::from_secs(5);

/// A check of a socket and its file that is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// A socket that does not serve may be replaced now.
    pub(super) may_replace: bool,
}

/// What a check has found. The text of a loss says why the socket does not serve.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    Serves,
    /// It does not serve, and was not to be replaced.
    Lost(&'static str),
    /// It did not serve: there is a new one.
    Replaced(&'static str),
    /// It does not serve, and no new one can be made: the error.
    Failed(&'static str, String),
}

/// What is said about a listener: the word of its cause, and the text without its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    cause: &'static str,
    level: Level,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Info,
    Warn,
    Error,
}

impl Note {
    /// The event about the listener of this name.
    pub(super) fn event(self, name: &str) -> EventBuilder {
        let text = format!("{name}: {}", self.text);
        let event = EventBuilder::new(EventKind::Listener, text).cause(self.cause);
        match self.level {
            Level::Info => event,
            Level::Warn => event.warn(),
            Level::Error => event.error(),
        }
    }
}

/// The repair state of one listener.
#[derive(Debug, Default)]
struct RepairState {
    /// A job checks it; `again`: something happened meanwhile.
    under_way: bool,
    again: bool,
    /// Why it serves nobody.
    problem: Option<String>,
    retry: Option<Time>,
    pause: Span,
    /// When it was replaced, the last times.
    replaced_at: VecDeque<Time>,
}

/// The repair state of all listeners that have needed one.
#[derive(Debug, Default)]
pub(super) struct ListenerRepair {
    states: BTreeMap<ListenerId, RepairState>,
}

impl ListenerRepair {
    pub(super) fn forget(&mut self, id: ListenerId) {
        self.states.remove(&id);
    }

    /// When a listener is tried again.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.states.values().filter_map(|state| state.retry).min()
    }

    /// Takes the listeners that are to be tried again.
    pub(super) fn due(&mut self, now: Time) -> Vec<ListenerId> {
        let due = |state: &mut RepairState| state.retry.take_if(|at| *at <= now).is_some();
        self.states
            .iter_mut()
            .filter_map(|(id, state)| due(state).then_some(*id))
            .collect()
    }

    /// Why this listener serves nobody.
    pub(super) fn problem(&self, id: ListenerId) -> Option<&str> {
        self.states.get(&id)?.problem.as_deref()
    }

    /// A check of a socket with a file is wanted. `asked`: by a request, which needs no pause. None: one is under way,
    /// and is repeated.
    pub(super) fn check(&mut self, id: ListenerId, asked: bool, now: Time) -> Option<Check> {
        let state = self.states.entry(id).or_default();
        if state.under_way {
            state.again = true;
            return None;
        }
        state.retry = None;
        state.under_way = true;
        let may_replace = asked || now >= state.next_allowed();
        Some(Check { may_replace })
    }

    /// The check could not begin.
    pub(super) fn not_started(&mut self, id: ListenerId, now: Time) {
        let state = self.states.entry(id).or_default();
        state.under_way = false;
        state.try_later(now);
    }

    /// A check has ended. Returns what is to be said about it, and whether another one is wanted.
    pub(super) fn checked(
        &mut self,
        id: ListenerId,
        finding: Finding,
        now: Time,
    ) -> (Option<Note>, bool) {
        let state = self.states.entry(id).or_default();
        state.under_way = false;
        let again = std::mem::take(&mut state.again);
        let note = match finding {
            Finding::Serves => {
                state.pause = Span::ZERO;
                state.problem.take().map(|_| Note {
                    cause: "well",
                    level: Level::Info,
                    text: "the listening socket serves again".to_owned(),
                })
            }
            Finding::Lost(loss) => {
                let at = state.next_allowed();
                state.retry = Some(at);
                let text = format!(
                    "{loss}, as {MAX_REPLACEMENTS} times within {WINDOW} before: a new one is made in {}, or by `rotad \
                     reload`",
                    at - now.min(at)
                );
                state.lost(text, "lost-again")
            }
            Finding::Replaced(loss) => {
                state.problem = None;
                state.pause = Span::ZERO;
                state.replaced_at.push_back(now);
                if state.replaced_at.len() > MAX_REPLACEMENTS {
                    state.replaced_at.pop_front();
                }
                Some(Note {
                    cause: "replaced",
                    level: Level::Warn,
                    text: format!(
                        "{loss}: there is a new one, and the workers that hold the old one are replaced"
                    ),
                })
            }
            Finding::Failed(loss, error) => {
                state.try_later(now);
                let text = format!("{loss}, and no new one can be made: {error}");
                state.lost(text, "shut")
            }
        };
        (note, again)
    }

    /// A TCP socket was made to listen again; it needs no new one. `was_shut`: a worker had shut it down.
    pub(super) fn relistened(&mut self, id: ListenerId, was_shut: bool) -> Option<Note> {
        let before = self.states.remove(&id).and_then(|state| state.problem);
        (was_shut || before.is_some()).then(|| Note {
            cause: "listens-again",
            level: Level::Warn,
            text: "a worker had shut the listening socket down: it listens again".to_owned(),
        })
    }

    /// A TCP socket could not be made to listen again.
    pub(super) fn relisten_failed(
        &mut self,
        id: ListenerId,
        error: &str,
        now: Time,
    ) -> Option<Note> {
        let state = self.states.entry(id).or_default();
        state.try_later(now);
        let text = format!("a worker has shut the listening socket down: {error}");
        state.lost(text, "shut")
    }
}

impl RepairState {
    /// When it may be replaced next without a request.
    fn next_allowed(&self) -> Time {
        if self.replaced_at.len() < MAX_REPLACEMENTS {
            Time(0)
        } else {
            self.replaced_at.front().map_or(Time(0), |at| *at + WINDOW)
        }
    }

    /// Schedules another attempt, with the pause doubled.
    fn try_later(&mut self, now: Time) {
        self.pause = Span((self.pause.0 * 2).clamp(FIRST_PAUSE.0, MAX_PAUSE.0));
        self.retry = Some(now + self.pause);
    }

    /// It serves nobody. Each reason is said once; the status shows it for as long as it holds.
    fn lost(&mut self, text: String, cause: &'static str) -> Option<Note> {
        let before = self.problem.replace(text.clone());
        // The text contains the remaining time, which differs each time.
        let new = before.is_none_or(|before| cause != "lost-again" && before != text);
        new.then(|| Note {
            cause,
            level: Level::Error,
            text: format!("{text}; clients that connect there are not served"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::stories::{self, Machine};

    const ID: ListenerId = 0;

    fn check(repair: &mut ListenerRepair, asked: bool, now: Time) -> Vec<String> {
        let check = repair.check(ID, asked, now);
        let text = check.map(|check| match check.may_replace {
            true => "check, may replace it",
            false => "check only",
        });
        text.into_iter().map(str::to_owned).collect()
    }

    fn show(note: Option<Note>) -> Vec<String> {
        let text = |note: Note| format!("{:?} {}: {}", note.level, note.cause, note.text);
        note.map(text).into_iter().collect()
    }

    /// Events: `changed` (it was shut down, or its file has changed) `asked` `cannot-start` `serves` `lost` `replaced`
    /// `failed ERROR`; of a TCP socket: `relistened` `relistened was-shut` `shut ERROR`; `nothing` (only time). What is
    /// said about the repair comes before the next check.
    impl Machine for ListenerRepair {
        fn next_deadline(&self) -> Option<Time> {
            self.deadline()
        }

        fn fire(&mut self, now: Time) -> Vec<String> {
            let due = self.due(now);
            due.iter().flat_map(|_| check(self, false, now)).collect()
        }

        fn tell(&mut self, now: Time, words: &[&str]) -> Vec<String> {
            let loss = "its file is gone";
            let finding = match words[0] {
                "changed" => return check(self, false, now),
                "asked" => return check(self, true, now),
                "cannot-start" => {
                    self.not_started(ID, now);
                    return Vec::new();
                }
                "relistened" => return show(self.relistened(ID, words.len() > 1)),
                "shut" => return show(self.relisten_failed(ID, words[1], now)),
                "serves" => Finding::Serves,
                "lost" => Finding::Lost(loss),
                "replaced" => Finding::Replaced(loss),
                "failed" => Finding::Failed(loss, words[1].to_owned()),
                what => panic!("unknown event {what}"),
            };
            let (note, again) = self.checked(ID, finding, now);
            let mut done = show(note);
            if again {
                done.extend(check(self, false, now));
            }
            done
        }
    }

    #[test]
    fn stories() {
        stories::check::<ListenerRepair>("listening/stories.txt");
    }
}
