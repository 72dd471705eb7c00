//! Repairs listening sockets that no longer serve: shut down by a worker, or a unix socket whose file was removed or
//! replaced. Each is repaired when that is noticed, and checked at each reload; until then its pools are degraded, and
//! the status says why.
//!
//! What touches a path runs as a blocking job. Without a request, a socket is replaced at most [`MAX_REPLACEMENTS`]
//! times in [`WINDOW`]: each new socket means that all workers of its pools are replaced.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::listening::ListenerId;
use super::workers::process_table::WorkerProcess;
use crate::event_loop::poller::{Interest, Source};
use crate::listener::{FileCheckResult, ReplacementSocket};
use crate::observe::events::EventKind;
use rotad_core::{Input, Span, Time};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;

const MAX_REPLACEMENTS: usize = 10;
const WINDOW: Span = Span::from_secs(60);
/// Pauses between two attempts while a repair fails.
const FIRST_PAUSE: Span = Span::from_millis(100);
const MAX_PAUSE: Span = Span::from_secs(5);

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

#[derive(Debug, Default)]
pub(super) struct ListenerRepair {
    states: BTreeMap<ListenerId, RepairState>,
}

impl ListenerRepair {
    pub(super) fn forget(&mut self, id: ListenerId) {
        self.states.remove(&id);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.states.values().filter_map(|state| state.retry).min()
    }

    fn due(&mut self, now: Time) -> Vec<ListenerId> {
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
}

impl Supervisor {
    /// A listening socket was shut down.
    pub(super) fn on_listener_hangup(&mut self, number: ListenerId) {
        let Some(listener) = self
            .listening
            .get(number)
            .filter(|listener| listener.is_shut())
        else {
            return;
        };
        // Watched again once it serves: until then it would wake the loop endlessly.
        self.event_loop.poller.unwatch(listener.fd().as_fd());
        self.check_listener(number, false);
    }

    /// The file of a unix socket has changed.
    pub(super) fn on_socket_file_change(&mut self, number: ListenerId) {
        let Some(file_watch) = self
            .listening
            .get(number)
            .and_then(|listener| listener.file_watch())
        else {
            return;
        };
        file_watch.clear();
        self.check_listener(number, false);
    }

    /// Checks all listeners without a pause: called for each request, signal or file change that rolls or reloads.
    pub(super) fn check_all_listeners(&mut self) {
        for number in self.listening.ids() {
            self.check_listener(number, true);
        }
    }

    /// Retries the listeners whose pause is over.
    pub(super) fn retry_listener_repair(&mut self) {
        for number in self.listening.repair.due(self.clock.now()) {
            self.check_listener(number, false);
        }
    }

    fn check_listener(&mut self, number: ListenerId, asked: bool) {
        let now = self.clock.now();
        let Some(listener) = self.listening.get(number) else {
            return;
        };
        let Some(check) = listener.file_check() else {
            return self.relisten(number);
        };
        let state = self.listening.repair.states.entry(number).or_default();
        if state.under_way {
            state.again = true;
            return;
        }
        let may_replace = asked || now >= state.next_allowed();
        state.retry = None;
        match self
            .reload
            .blocking
            .check_listener(number, check, may_replace)
        {
            Ok(()) => state.under_way = true,
            Err(error) => {
                state.try_later(now);
                tracing::warn!("cannot check a listening socket: cannot start a thread: {error}");
            }
        }
    }

    /// Makes a TCP socket that was shut down listen again.
    fn relisten(&mut self, number: ListenerId) {
        let now = self.clock.now();
        let Some(listener) = self.listening.get(number) else {
            return;
        };
        let (name, fd) = (listener.name().to_owned(), listener.fd());
        match listener.relisten() {
            Ok(was_shut) => {
                let problem = self
                    .listening
                    .repair
                    .states
                    .remove(&number)
                    .and_then(|state| state.problem);
                if was_shut || problem.is_some() {
                    // Without effect if it is still watched.
                    self.event_loop
                        .poller
                        .watch(fd.as_fd(), Source::Listener(number), Interest::Hangup)
                        .ok();
                    let text = format!(
                        "{name}: a worker had shut the listening socket down: it listens again"
                    );
                    self.emit(
                        EventBuilder::new(EventKind::Listener, text)
                            .cause("listens-again")
                            .warn(),
                    );
                }
            }
            Err(error) => {
                let state = self.listening.repair.states.entry(number).or_default();
                state.try_later(now);
                self.report_unserved(
                    number,
                    format!("a worker has shut the listening socket down: {error}"),
                    "shut",
                );
            }
        }
    }

    /// Takes the result of a check.
    pub(super) fn on_listener_checked(&mut self, number: ListenerId, result: FileCheckResult) {
        let now = self.clock.now();
        if self.listening.get(number).is_none() {
            if let FileCheckResult::Replaced(_, socket) = result {
                self.reload.blocking.discard(socket);
            }
            return self.listening.repair.forget(number);
        }
        let state = self.listening.repair.states.entry(number).or_default();
        state.under_way = false;
        let again = std::mem::take(&mut state.again);
        match result {
            FileCheckResult::Serving => {
                state.pause = Span::ZERO;
                if state.problem.take().is_some() {
                    let text = format!(
                        "{}: the listening socket serves again",
                        self.listener_name(number)
                    );
                    self.emit(EventBuilder::new(EventKind::Listener, text).cause("well"));
                }
            }
            FileCheckResult::NotServing(loss) => {
                let at = state.next_allowed();
                state.retry = Some(at);
                let text = format!(
                    "{}, as {MAX_REPLACEMENTS} times within {WINDOW} before: a new one is made in {}, or by `rotad reload`",
                    loss.text(),
                    at - now.min(at)
                );
                self.report_unserved(number, text, "lost-again");
            }
            FileCheckResult::Replaced(loss, socket) => {
                state.problem = None;
                state.pause = Span::ZERO;
                state.replaced_at.push_back(now);
                if state.replaced_at.len() > MAX_REPLACEMENTS {
                    state.replaced_at.pop_front();
                }
                self.install_new_socket(number, socket);
                let text = format!(
                    "{}: {}: there is a new one, and the workers that hold the old one are replaced",
                    self.listener_name(number),
                    loss.text()
                );
                self.emit(
                    EventBuilder::new(EventKind::Listener, text)
                        .cause("replaced")
                        .warn(),
                );
                self.replace_holders(number);
            }
            FileCheckResult::Failed(loss, error) => {
                state.try_later(now);
                self.report_unserved(
                    number,
                    format!("{}, and no new one can be made: {error}", loss.text()),
                    "shut",
                );
            }
        }
        if again {
            self.check_listener(number, false);
        }
    }

    /// Reports each reason once; the status shows it for as long as it holds.
    fn report_unserved(&mut self, number: ListenerId, text: String, cause: &'static str) {
        let name = self.listener_name(number);
        let state = self.listening.repair.states.entry(number).or_default();
        let before = state.problem.replace(text.clone());
        // The text contains the remaining time, which differs each time.
        if before.is_none_or(|before| cause != "lost-again" && before != text) {
            let text = format!("{name}: {text}; clients that connect there are not served");
            self.emit(
                EventBuilder::new(EventKind::Listener, text)
                    .cause(cause)
                    .error(),
            );
        }
    }

    fn listener_name(&self, number: ListenerId) -> String {
        self.listening
            .get(number)
            .map(|listener| listener.name().to_owned())
            .unwrap_or_default()
    }

    fn install_new_socket(&mut self, number: ListenerId, socket: ReplacementSocket) {
        let Some(listener) = self.listening.get_mut(number) else {
            return;
        };
        self.event_loop.poller.unwatch(listener.fd().as_fd());
        if let Some(file_watch) = listener.file_watch() {
            self.event_loop.poller.unwatch(file_watch);
        }
        let changed = listener.replace(socket);
        if changed && let Some(ownership) = listener.ownership() {
            self.reload
                .blocking
                .set_file_ownership(listener.name().to_owned(), ownership);
        }
        self.watch_listener(number);
    }

    /// Watches a listener for a shutdown, and the file of a unix socket for changes.
    pub(super) fn watch_listener(&self, number: ListenerId) {
        let Some(listener) = self.listening.get(number) else {
            return;
        };
        let watched = self
            .event_loop
            .poller
            .watch(
                listener.fd().as_fd(),
                Source::Listener(number),
                Interest::Hangup,
            )
            .and_then(|()| {
                listener.file_watch().map_or(Ok(()), |file_watch| {
                    self.event_loop.poller.watch(
                        file_watch,
                        Source::SocketFile(number),
                        Interest::Read,
                    )
                })
            });
        if let Err(error) = watched {
            tracing::error!(
                listen = listener.name(),
                "cannot watch the listening socket: {error}"
            );
        }
    }

    /// The listener is about to be closed.
    pub(super) fn unwatch_listener(&mut self, number: ListenerId) {
        if let Some(listener) = self.listening.get(number) {
            self.event_loop.poller.unwatch(listener.fd());
            if let Some(file_watch) = listener.file_watch() {
                self.event_loop.poller.unwatch(file_watch);
            }
        }
        self.listening.repair.forget(number);
    }

    /// The listener has a new socket: clients no longer reach the workers that hold the old one. A worker that waits
    /// for a port has no socket yet.
    fn replace_holders(&mut self, number: ListenerId) {
        let holds = |process: &WorkerProcess| {
            process.output.is_some() && process.spec.listeners.contains(&number)
        };
        let holders = self
            .workers
            .processes
            .iter()
            .filter(|(_, process)| holds(process))
            .map(|(worker, _)| worker)
            .collect();
        self.engine.push(Input::Unreachable(holders));
    }
}
