//! Listening sockets whose serving has ended: shut down by a worker, or a unix socket whose file was removed or replaced.
//! They are put right at once, and at each reload; as long as one is not, its pools are degraded, and say why.
//!
//! What touches a path is done by the clerk. A socket that is lost again and again is made at most [`MOST`] times in
//! [`WINDOW`] by itself: each new one costs its pools all their workers.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::listening::ListenerId;
use super::process_table::WorkerProcess;
use crate::event_loop::poller::{Interest, Source};
use crate::listener::{Fresh, Looked};
use crate::observe::events::EventKind;
use rotad_core::{Input, PoolId, Span, Time};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;

const MOST: usize = 10;
const WINDOW: Span = Span::from_secs(60);
/// The pauses between two tries where somebody is in the way.
const SOON: Span = Span::from_millis(100);
const LATER: Span = Span::from_secs(5);

/// What is known of one listener that had to be looked after.
#[derive(Debug, Default)]
struct Case {
    /// The clerk looks at it; something happened meanwhile.
    under_way: bool,
    again: bool,
    /// Why nobody can be served by it.
    trouble: Option<String>,
    retry: Option<Time>,
    pause: Span,
    /// When new sockets were made, the last ones.
    made: VecDeque<Time>,
}

#[derive(Debug, Default)]
pub(super) struct ListenerRepair {
    cases: BTreeMap<ListenerId, Case>,
}

impl ListenerRepair {
    pub(super) fn forget(&mut self, id: ListenerId) {
        self.cases.remove(&id);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.cases.values().filter_map(|case| case.retry).min()
    }

    fn due(&mut self, now: Time) -> Vec<ListenerId> {
        let due = |case: &mut Case| case.retry.take_if(|at| *at <= now).is_some();
        self.cases.iter_mut().filter_map(|(id, case)| due(case).then_some(*id)).collect()
    }

    /// Why nobody is served by this one.
    pub(super) fn trouble(&self, id: ListenerId) -> Option<&str> {
        self.cases.get(&id)?.trouble.as_deref()
    }
}

impl Case {
    /// From when on a new one may be made without being asked for.
    fn free_at(&self) -> Time {
        if self.made.len() < MOST { Time(0) } else { self.made.front().map_or(Time(0), |at| *at + WINDOW) }
    }

    /// Tries again after a pause, twice as long as the one before.
    fn try_later(&mut self, now: Time) {
        self.pause = Span((self.pause.0 * 2).clamp(SOON.0, LATER.0));
        self.retry = Some(now + self.pause);
    }
}

impl Supervisor {
    /// Somebody has shut a listening socket down.
    pub(super) fn on_listener_hangup(&mut self, number: ListenerId) {
        let Some(listener) = self.listening.get(number).filter(|listener| listener.is_shut()) else { return };
        // Watched again once it serves: until then it would wake us for ever.
        self.poller.unwatch(listener.fd().as_fd());
        self.look_after(number, false);
    }

    /// Something happened to the file of a unix socket.
    pub(super) fn on_socket_file_change(&mut self, number: ListenerId) {
        let Some(ear) = self.listening.get(number).and_then(|listener| listener.ear()) else { return };
        ear.hush();
        self.look_after(number, false);
    }

    /// A person, a signal or a change of files asks for something: no pause counts.
    pub(super) fn look_after_sockets(&mut self) {
        for number in self.listening.ids() {
            self.look_after(number, true);
        }
    }

    /// Those whose pause is over.
    pub(super) fn retry_listener_repair(&mut self) {
        for number in self.listening.mending.due(self.clock.now()) {
            self.look_after(number, false);
        }
    }

    fn look_after(&mut self, number: ListenerId, asked: bool) {
        let now = self.clock.now();
        let Some(listener) = self.listening.get(number) else { return };
        let Some(look) = listener.look() else { return self.relisten(number) };
        let case = self.listening.mending.cases.entry(number).or_default();
        if case.under_way {
            case.again = true;
            return;
        }
        let may_make = asked || now >= case.free_at();
        case.retry = None;
        match self.blocking.look(number, look, may_make) {
            Ok(()) => case.under_way = true,
            Err(error) => {
                case.try_later(now);
                tracing::warn!("a listening socket cannot be looked after: no thread: {error}");
            }
        }
    }

    /// A TCP socket that was shut listens again as it is.
    fn relisten(&mut self, number: ListenerId) {
        let now = self.clock.now();
        let Some(listener) = self.listening.get(number) else { return };
        let (name, fd) = (listener.name().to_owned(), listener.fd());
        match listener.relisten() {
            Ok(was_shut) => {
                let trouble = self.listening.mending.cases.remove(&number).and_then(|case| case.trouble);
                if was_shut || trouble.is_some() {
                    // Where it is watched still, this changes nothing.
                    self.poller.watch(fd.as_fd(), Source::Listener(number), Interest::Hangup).ok();
                    let text = format!("{name}: a worker had shut the listening socket down: it listens again");
                    self.emit(EventBuilder::new(EventKind::Listener, text).cause("listens-again").warn());
                }
            }
            Err(error) => {
                let case = self.listening.mending.cases.entry(number).or_default();
                case.try_later(now);
                self.unserved(number, format!("a worker has shut the listening socket down: {error}"), "shut");
            }
        }
    }

    /// What the clerk has found.
    pub(super) fn looked(&mut self, number: ListenerId, looked: Looked) {
        let now = self.clock.now();
        if self.listening.get(number).is_none() {
            if let Looked::Made(_, fresh) = looked {
                self.blocking.discard(fresh);
            }
            return self.listening.mending.forget(number);
        }
        let case = self.listening.mending.cases.entry(number).or_default();
        case.under_way = false;
        let again = std::mem::take(&mut case.again);
        match looked {
            Looked::Well => {
                case.pause = Span::ZERO;
                if case.trouble.take().is_some() {
                    let text = format!("{}: the listening socket serves again", self.listener_name(number));
                    self.emit(EventBuilder::new(EventKind::Listener, text).cause("well"));
                }
            }
            Looked::Lost(lost) => {
                let at = case.free_at();
                case.retry = Some(at);
                let text = format!(
                    "{}, as {MOST} times within {WINDOW} before: a new one is made in {}, or by `rotad reload`",
                    lost.text(),
                    at - now.min(at)
                );
                self.unserved(number, text, "lost-again");
            }
            Looked::Made(lost, fresh) => {
                case.trouble = None;
                case.pause = Span::ZERO;
                case.made.push_back(now);
                if case.made.len() > MOST {
                    case.made.pop_front();
                }
                self.made_anew(number, fresh);
                let text = format!(
                    "{}: {}: there is a new one, and the workers that hold the old one are replaced",
                    self.listener_name(number),
                    lost.text()
                );
                self.emit(EventBuilder::new(EventKind::Listener, text).cause("replaced").warn());
                self.unreachable(number);
            }
            Looked::Failed(lost, error) => {
                case.try_later(now);
                self.unserved(number, format!("{}, and no new one can be made: {error}", lost.text()), "shut");
            }
        }
        if again {
            self.look_after(number, false);
        }
    }

    /// Said once for each reason; the status says it for as long as it holds.
    fn unserved(&mut self, number: ListenerId, text: String, cause: &'static str) {
        let name = self.listener_name(number);
        let case = self.listening.mending.cases.entry(number).or_default();
        let before = case.trouble.replace(text.clone());
        // The time that is left differs each time.
        if before.is_none_or(|before| cause != "lost-again" && before != text) {
            let text = format!("{name}: {text}; who connects there is not served");
            self.emit(EventBuilder::new(EventKind::Listener, text).cause(cause).error());
        }
    }

    fn listener_name(&self, number: ListenerId) -> String {
        self.listening.get(number).map(|listener| listener.name().to_owned()).unwrap_or_default()
    }

    fn made_anew(&mut self, number: ListenerId, fresh: Fresh) {
        let Some(listener) = self.listening.get_mut(number) else { return };
        self.poller.unwatch(listener.fd().as_fd());
        if let Some(ear) = listener.ear() {
            self.poller.unwatch(ear);
        }
        let changed = listener.replace(fresh);
        if changed && let Some(dress) = listener.dress() {
            self.blocking.dress(listener.name().to_owned(), dress);
        }
        self.watch_listener(number);
    }

    /// Hears when it is shut, and what happens to its file.
    pub(super) fn watch_listener(&self, number: ListenerId) {
        let Some(listener) = self.listening.get(number) else { return };
        let heard =
            self.poller.watch(listener.fd().as_fd(), Source::Listener(number), Interest::Hangup).and_then(|()| {
                listener.ear().map_or(Ok(()), |ear| self.poller.watch(ear, Source::SocketFile(number), Interest::Read))
            });
        if let Err(error) = heard {
            tracing::error!(listen = listener.name(), "cannot watch the listening socket: {error}");
        }
    }

    /// It is about to be closed.
    pub(super) fn unwatch_listener(&mut self, number: ListenerId) {
        if let Some(listener) = self.listening.get(number) {
            self.poller.unwatch(listener.fd());
            if let Some(ear) = listener.ear() {
                self.poller.unwatch(ear);
            }
        }
        self.listening.mending.forget(number);
    }

    /// The listening socket of that number is a new one: nobody reaches those who hold the old one. Whoever still waits
    /// for a port has none yet.
    fn unreachable(&mut self, number: ListenerId) {
        let holds = |body: &WorkerProcess| body.output.is_some() && body.pattern.listeners.contains(&number);
        let holders = self.processes.iter().filter(|(_, body)| holds(body)).map(|(worker, _)| worker).collect();
        self.input(Input::Unreachable(holders));
    }

    /// Why this pool's listeners serve nobody, and whether none of them does.
    pub(super) fn unserved_by(&self, pool: PoolId) -> (Vec<String>, bool) {
        let listeners = self.pools.draft(pool).map(|draft| draft.listeners.clone()).unwrap_or_default();
        let troubles: Vec<String> = listeners
            .iter()
            .filter_map(|id| {
                Some(format!("listener {}: {}", self.listener_name(*id), self.listening.mending.trouble(*id)?))
            })
            .collect();
        let all = !listeners.is_empty() && troubles.len() == listeners.len();
        (troubles, all)
    }
}
