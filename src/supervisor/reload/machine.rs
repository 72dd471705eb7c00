//! The reload's state machine: which request is under way, in which stage, and what ends it. It reads no clock, file or
//! plan; the configuration is a payload that it keeps for the supervisor. `mod.rs` gives it events by
//! [`Reloads::handle`] and executes the actions in their order. Stories as text test it (`stories/`).
//!
//! One reload runs at a time, in the order of the requests. Until `Commit` nothing has been touched, so every other end
//! leaves everything as it was.
//!
//! | stage    | waits for                     | next                | ends early by                                      |
//! |----------|-------------------------------|---------------------|----------------------------------------------------|
//! | Reading  | `Read`                        | Opening or Oneshots | `Ended` (also for a dry run), time, `Stopping`     |
//! | Opening  | `Opened`                      | Oneshots            | `Ended`, time, `Stopping`                          |
//! | Oneshots | `OneshotEnded`, in their order | Comparing          | a failed oneshot (exit 10), `Stopping`             |
//! | Comparing| `Compared`                    | committed           | `Stopping`                                         |

use crate::exit_code::ExitCode;
use rotad_core::{Span, Time};
use std::collections::{BTreeSet, VecDeque};

/// How long a blocking job may take to read a configuration, or to open its new addresses and logs.
pub(super) const JOB_TIMEOUT: Span = Span::from_secs(30);

/// A oneshot that a reload runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Oneshot {
    pub name: String,
    /// All pools that it comes after, directly and indirectly.
    pub after: BTreeSet<String>,
}

/// What happened. `R`: a request, `C`: a configuration with what was opened for it, `P`: the pools that are passed over.
#[derive(Debug)]
pub(crate) enum Event<R, C, P> {
    Requested(R),
    /// The configuration is valid. `opens`: addresses or log files have to be opened for it.
    Read {
        config: C,
        opens: bool,
    },
    /// They are open, and are part of the configuration.
    Opened,
    /// The oneshots that the reload runs.
    Oneshots(Vec<Oneshot>),
    /// A oneshot has ended. `Some`: why it failed.
    OneshotEnded(String, Option<String>),
    /// It is known which pools are passed over.
    Compared(P),
    /// The stage ends the reload, which changes nothing.
    Ended {
        code: ExitCode,
        text: String,
    },
    /// The master stops.
    Stopping,
    /// The deadline has come.
    TimerFired,
}

/// What the supervisor has to do.
#[derive(Debug)]
pub(crate) enum Action<R, C, P> {
    /// The request joins one that waits.
    Joined(R),
    /// The current request begins: read and check the configuration.
    Read,
    /// Open what the configuration needs.
    Open,
    /// Find out which oneshots have to run; a client that does not wait is answered.
    ListOneshots,
    /// Start one.
    RunOneshot(String),
    /// Give the oneshots that were started their old configuration back.
    UndoOneshots(C),
    /// Find out which pools need not be rolled.
    Compare,
    /// Put the configuration into force.
    Commit {
        request: R,
        config: C,
        passed_over: P,
    },
    /// Answer a request that has changed nothing.
    Answer {
        request: R,
        code: ExitCode,
        text: String,
    },
}

#[derive(Debug)]
enum Stage<C> {
    Reading,
    Opening(C),
    Oneshots {
        config: C,
        /// Those that have not started yet.
        waiting: Vec<Oneshot>,
        running: BTreeSet<String>,
    },
    Comparing(C),
}

#[derive(Debug)]
struct Current<R, C> {
    request: R,
    stage: Stage<C>,
    /// When the stage began.
    since: Time,
}

/// What the machine has to know of a request.
pub(crate) trait Joins {
    /// Both are the same, and nobody waits for either of them: one is enough.
    fn joins(&self, other: &Self) -> bool;
}

/// The requests for a reload: the one under way and those that wait.
#[derive(Debug)]
pub(crate) struct Reloads<R, C> {
    queue: VecDeque<R>,
    current: Option<Current<R, C>>,
    stopping: bool,
}

impl<R, C> Default for Reloads<R, C> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            current: None,
            stopping: false,
        }
    }
}

impl<R: Joins, C> Reloads<R, C> {
    /// A reload is running or waiting.
    pub(crate) fn is_active(&self) -> bool {
        self.current.is_some() || !self.queue.is_empty()
    }

    /// When the blocking job has taken too long.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let current = self.current.as_ref()?;
        match current.stage {
            Stage::Reading | Stage::Opening(_) => Some(current.since + JOB_TIMEOUT),
            Stage::Oneshots { .. } | Stage::Comparing(_) => None,
        }
    }

    /// The request that is under way and those that wait, in their order.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &R> {
        self.request().into_iter().chain(&self.queue)
    }

    pub(crate) fn request(&self) -> Option<&R> {
        self.current.as_ref().map(|current| &current.request)
    }

    pub(crate) fn request_mut(&mut self) -> Option<&mut R> {
        self.current.as_mut().map(|current| &mut current.request)
    }

    pub(crate) fn config(&self) -> Option<&C> {
        match &self.current.as_ref()?.stage {
            Stage::Reading => None,
            Stage::Opening(config) | Stage::Oneshots { config, .. } | Stage::Comparing(config) => {
                Some(config)
            }
        }
    }

    pub(crate) fn config_mut(&mut self) -> Option<&mut C> {
        match &mut self.current.as_mut()?.stage {
            Stage::Reading => None,
            Stage::Opening(config) | Stage::Oneshots { config, .. } | Stage::Comparing(config) => {
                Some(config)
            }
        }
    }

    /// Applies one event. An event that the present stage does not wait for changes nothing: it comes from a job or a
    /// oneshot of a reload that has ended meanwhile.
    pub(crate) fn handle<P>(&mut self, now: Time, event: Event<R, C, P>) -> Vec<Action<R, C, P>> {
        match event {
            Event::Requested(request) => self.requested(now, request),
            Event::Read { config, opens } => self.read(now, config, opens),
            Event::Opened => self.opened(now),
            Event::Oneshots(found) => self.found(found),
            Event::OneshotEnded(name, why) => self.oneshot_ended(now, &name, why),
            Event::Compared(passed_over) => self.compared(now, passed_over),
            Event::Ended { code, text } => self.end(now, code, text),
            Event::Stopping => self.stop(),
            Event::TimerFired => self.timed_out(now),
        }
    }

    fn requested<P>(&mut self, now: Time, request: R) -> Vec<Action<R, C, P>> {
        if self.stopping {
            return vec![superseded(request)];
        }
        if self.queue.iter().any(|other| other.joins(&request)) {
            return vec![Action::Joined(request)];
        }
        self.queue.push_back(request);
        self.next(now)
    }

    /// Begins the next request, if none is under way.
    fn next<P>(&mut self, now: Time) -> Vec<Action<R, C, P>> {
        if self.current.is_some() {
            return Vec::new();
        }
        let Some(request) = self.queue.pop_front() else {
            return Vec::new();
        };
        self.current = Some(Current {
            request,
            stage: Stage::Reading,
            since: now,
        });
        vec![Action::Read]
    }

    fn read<P>(&mut self, now: Time, config: C, opens: bool) -> Vec<Action<R, C, P>> {
        let Some(current) = self
            .current
            .as_mut()
            .filter(|current| matches!(current.stage, Stage::Reading))
        else {
            return Vec::new();
        };
        if opens {
            current.since = now;
            current.stage = Stage::Opening(config);
            vec![Action::Open]
        } else {
            current.stage = Stage::oneshots(config);
            vec![Action::ListOneshots]
        }
    }

    fn opened<P>(&mut self, now: Time) -> Vec<Action<R, C, P>> {
        match self.current.take() {
            Some(Current {
                request,
                stage: Stage::Opening(config),
                ..
            }) => {
                let stage = Stage::oneshots(config);
                self.current = Some(Current {
                    request,
                    stage,
                    since: now,
                });
                vec![Action::ListOneshots]
            }
            other => {
                self.current = other;
                Vec::new()
            }
        }
    }

    fn found<P>(&mut self, found: Vec<Oneshot>) -> Vec<Action<R, C, P>> {
        if let Some(Current {
            stage: Stage::Oneshots { waiting, .. },
            ..
        }) = &mut self.current
        {
            *waiting = found;
            return self.run_oneshots();
        }
        Vec::new()
    }

    /// Starts those whose turn it is. After the last one, pools are compared.
    fn run_oneshots<P>(&mut self) -> Vec<Action<R, C, P>> {
        let Some(Current {
            stage: Stage::Oneshots {
                waiting, running, ..
            },
            ..
        }) = &mut self.current
        else {
            return Vec::new();
        };
        if waiting.is_empty() && running.is_empty() {
            if let Some(current) = self.current.as_mut() {
                current.stage.compare();
            }
            return vec![Action::Compare];
        }
        let names: BTreeSet<String> = waiting.iter().map(|other| other.name.clone()).collect();
        let waits = |oneshot: &Oneshot| {
            let mut others = names.iter().chain(running.iter());
            others.any(|other| *other != oneshot.name && oneshot.after.contains(other))
        };
        let (later, mut first): (Vec<Oneshot>, Vec<Oneshot>) =
            std::mem::take(waiting).into_iter().partition(waits);
        *waiting = later;
        if first.is_empty() && running.is_empty() {
            // The configuration refuses cycles; this keeps one from waiting without end.
            first = std::mem::take(waiting);
        }
        running.extend(first.iter().map(|oneshot| oneshot.name.clone()));
        first
            .into_iter()
            .map(|oneshot| Action::RunOneshot(oneshot.name))
            .collect()
    }

    fn oneshot_ended<P>(
        &mut self,
        now: Time,
        name: &str,
        why: Option<String>,
    ) -> Vec<Action<R, C, P>> {
        let Some(Current {
            stage: Stage::Oneshots { running, .. },
            ..
        }) = &mut self.current
        else {
            return Vec::new();
        };
        if !running.remove(name) {
            return Vec::new();
        }
        match why {
            None => self.run_oneshots(),
            Some(why) => {
                let text = format!(
                    "{name} failed: {why}\nnothing was changed or rolled: everything is as it was"
                );
                self.end(now, ExitCode::OLD_SERVE, text)
            }
        }
    }

    fn compared<P>(&mut self, now: Time, passed_over: P) -> Vec<Action<R, C, P>> {
        match self.current.take() {
            Some(Current {
                request,
                stage: Stage::Comparing(config),
                ..
            }) => {
                let mut actions = vec![Action::Commit {
                    request,
                    config,
                    passed_over,
                }];
                actions.extend(self.next(now));
                actions
            }
            other => {
                self.current = other;
                Vec::new()
            }
        }
    }

    /// Ends the reload under way without a change, and begins the next one.
    fn end<P>(&mut self, now: Time, code: ExitCode, text: String) -> Vec<Action<R, C, P>> {
        let Some(Current { request, stage, .. }) = self.current.take() else {
            return Vec::new();
        };
        let mut actions: Vec<Action<R, C, P>> = stage.undo().into_iter().collect();
        actions.push(Action::Answer {
            request,
            code,
            text,
        });
        actions.extend(self.next(now));
        actions
    }

    /// The blocking job hangs on some path: gives it up, so that the next request has its turn.
    fn timed_out<P>(&mut self, now: Time) -> Vec<Action<R, C, P>> {
        if self.deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let what = match self.current.as_ref().map(|current| &current.stage) {
            Some(Stage::Reading) => "the configuration could not be read",
            _ => "the new addresses and logs could not be opened",
        };
        let text = format!(
            "{what} within {} s: a disk hangs?\nnothing was changed",
            JOB_TIMEOUT.as_millis() / 1000
        );
        self.end(now, ExitCode::FAILED, text)
    }

    fn stop<P>(&mut self) -> Vec<Action<R, C, P>> {
        self.stopping = true;
        let current = self.current.take().map(|current| current.request);
        let waiting = std::mem::take(&mut self.queue);
        current.into_iter().chain(waiting).map(superseded).collect()
    }
}

fn superseded<R, C, P>(request: R) -> Action<R, C, P> {
    Action::Answer {
        request,
        code: ExitCode::FAILED,
        text: "superseded: everything stops".to_owned(),
    }
}

impl<C> Stage<C> {
    fn oneshots(config: C) -> Self {
        Self::Oneshots {
            config,
            waiting: Vec::new(),
            running: BTreeSet::new(),
        }
    }

    fn compare(&mut self) {
        let before = std::mem::replace(self, Self::Reading);
        *self = match before {
            Self::Oneshots { config, .. } => Self::Comparing(config),
            other => other,
        };
    }

    /// What has to be undone when the reload ends here. What was opened is closed once nothing uses it.
    fn undo<R, P>(self) -> Option<Action<R, C, P>> {
        match self {
            Self::Reading => None,
            Self::Opening(config) | Self::Oneshots { config, .. } | Self::Comparing(config) => {
                Some(Action::UndoOneshots(config))
            }
        }
    }
}

#[cfg(test)]
mod tests;
