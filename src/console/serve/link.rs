//! The link to the master: a thread follows its events, over every restart and upgrade of it. It waits in a read, so it
//! costs an idle master nothing.

use rotad::cli::client::{Client, ClientError, WaitLimits};
use rotad::config::MasterPaths;
use rotad::control::protocol::{Method, Response};
use rotad::event_loop::clock::Deadline;
use rotad::exit_code::ExitCode;
use rotad::observe::events::{Event, Ring};
use rotad::observe::metrics::Metrics;
use rotad::observe::status::Status;
use rotad::sys::poll::poll;
use rotad::sys::thread;
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast;

/// How long after a failure the next connection is tried; doubled up to [`MAX_RETRY`].
const MIN_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(1);
/// Events that a reader may be behind; then it is given up.
const MAX_BEHIND: usize = 1024;
/// How long a master may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// Whether a master answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum MasterState {
    /// Its events are followed.
    Connected,
    /// It is not there, or does not answer.
    Gone {
        /// The reason, for people.
        why: String,
        /// Since when, in seconds since 1970. None: its end was not seen.
        since_s: Option<u64>,
    },
}

impl MasterState {
    /// No master answers any more, after what was known before.
    pub(crate) fn gone(why: String, before: Option<&Self>) -> Self {
        let since_s = match before {
            Some(Self::Connected) => Some(now_s()),
            Some(Self::Gone { since_s, .. }) => *since_s,
            None => None,
        };
        Self::Gone { why, since_s }
    }
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What the link tells.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// The master did something.
    Event(Arc<Event>),
    /// It came or went.
    Master(MasterState),
}

/// What is known of the master.
pub(crate) struct Link {
    paths: MasterPaths,
    known: Mutex<Known>,
    news: broadcast::Sender<News>,
}

struct Known {
    events: Ring,
    master: MasterState,
}

impl Link {
    /// Begins to follow.
    ///
    /// # Errors
    /// EAGAIN: no thread can be started.
    pub(crate) fn start(paths: MasterPaths) -> io::Result<Arc<Self>> {
        let link = Arc::new(Self {
            paths,
            known: Mutex::new(Known {
                events: Ring::default(),
                master: MasterState::Gone {
                    why: "the connection to it is being made".to_owned(),
                    since_s: None,
                },
            }),
            news: broadcast::Sender::new(MAX_BEHIND),
        });
        let own = Arc::clone(&link);
        thread::spawn("follow", 512 << 10, move || own.follow_for_ever())?;
        Ok(link)
    }

    /// The master's places.
    pub(crate) fn paths(&self) -> &MasterPaths {
        &self.paths
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn follow_for_ever(&self) {
        let mut retry = MIN_RETRY;
        loop {
            let mut answered = false;
            let Err(error) = self.follow(&mut answered);
            let gone = MasterState::gone(error.to_string(), Some(&self.master()));
            self.tell_master(gone);
            retry = if answered { MIN_RETRY } else { retry };
            poll(&mut [], Some(retry)).ok();
            retry = (retry * 2).min(MAX_RETRY);
        }
    }

    /// Follows until the master is gone.
    fn follow(&self, answered: &mut bool) -> Result<Infallible, ClientError> {
        let limits = WaitLimits::default();
        let mut client = Client::connect(&self.paths, &limits)?;
        client.send(Method::Events { follow: true })?;
        // This connection gives the latest few of the events before: another one all that are kept.
        let before = latest_events(&self.paths)?;
        *answered = true;
        self.tell_master(MasterState::Connected);
        self.catch_up(before);
        loop {
            match client.next_response(&limits)? {
                Response::Event(event) => self.add(*event),
                Response::Done { message, .. } if message.is_empty() => {
                    return Err(ClientError::Lost("the master has stopped".to_owned()));
                }
                Response::Done { message, .. } => return Err(ClientError::Failed(message)),
                _ => {}
            }
        }
    }

    /// Adds the events of a master that were not seen. One that has not gone on after the last one begins at 1: what the
    /// last one did is forgotten then.
    fn catch_up(&self, events: Vec<Event>) {
        let mut known = self.known();
        let last = known.events.last();
        let goes_on = match events.iter().find(|event| event.seq == last) {
            Some(same) => known.events.after(last - 1).any(|event| event == same),
            None => events.first().is_none_or(|first| first.seq > last),
        };
        if !goes_on || events.is_empty() {
            known.events = Ring::default();
        }
        for event in events {
            self.publish(&mut known, event);
        }
    }

    fn add(&self, event: Event) {
        let mut known = self.known();
        self.publish(&mut known, event);
    }

    /// Under the lock, so that who subscribes misses none and gets none twice.
    fn publish(&self, known: &mut Known, event: Event) {
        if event.seq > known.events.last() {
            self.news.send(News::Event(Arc::new(event.clone()))).ok();
            known.events.restore(event);
        }
    }

    fn tell_master(&self, state: MasterState) {
        let mut known = self.known();
        if known.master != state {
            known.master = state.clone();
            self.news.send(News::Master(state)).ok();
        }
    }

    /// The state of the master, the events after this one, and all that follows. None: no events from before. A number
    /// that is not known yet is that of a master before this one: all are new then.
    pub(crate) fn subscribe(
        &self,
        after: Option<u64>,
    ) -> (MasterState, Vec<Event>, broadcast::Receiver<News>) {
        let known = self.known();
        let after = after.map(|after| {
            if after > known.events.last() {
                0
            } else {
                after
            }
        });
        let before = after.map_or_else(Vec::new, |after| {
            known.events.after(after).cloned().collect()
        });
        (known.master.clone(), before, self.news.subscribe())
    }

    /// Whether the master's events are followed now.
    pub(crate) fn master(&self) -> MasterState {
        self.known().master.clone()
    }

    /// The last events, the oldest first.
    pub(crate) fn latest(&self, most: usize) -> Vec<Event> {
        self.known().events.latest(most).cloned().collect()
    }
}

/// All events that the master keeps.
fn latest_events(paths: &MasterPaths) -> Result<Vec<Event>, ClientError> {
    let limits = answer_limits();
    let mut client = Client::connect(paths, &limits)?;
    client.send(Method::Events { follow: false })?;
    let mut events = Vec::new();
    loop {
        match client.next_response(&limits)? {
            Response::Event(event) => events.push(*event),
            Response::Done { code, .. } if code == ExitCode::DONE => return Ok(events),
            Response::Done { message, .. } => return Err(ClientError::Failed(message)),
            _ => {}
        }
    }
}

fn answer_limits() -> WaitLimits {
    WaitLimits {
        until: Some(Deadline::after(ANSWER_TIME)),
        ..WaitLimits::default()
    }
}

/// Sends a request that one response answers. May block for a few seconds.
///
/// # Errors
/// Why there is no such answer, for people.
pub(crate) fn ask<T>(
    paths: &MasterPaths,
    method: Method,
    take: impl Fn(Response) -> Option<T>,
) -> Result<T, String> {
    let limits = answer_limits();
    let asked = Client::connect(paths, &limits).and_then(|mut client| {
        client.send(method)?;
        loop {
            match client.next_response(&limits)? {
                Response::Done { message, .. } => return Err(ClientError::Failed(message)),
                response => {
                    if let Some(taken) = take(response) {
                        return Ok(taken);
                    }
                }
            }
        }
    });
    asked.map_err(|error| match error {
        ClientError::TimedOut => format!("the master did not answer within {ANSWER_TIME:?}"),
        error => error.to_string(),
    })
}

/// By the address of each listening socket: the connections that wait for accept(2), where that is known.
pub(crate) type Queues = BTreeMap<String, u32>;

/// The queues of the listening sockets. May block for a few seconds.
///
/// # Errors
/// As [`ask`].
pub(crate) fn queues(paths: &MasterPaths) -> Result<Queues, String> {
    let listeners = metrics(paths)?.listeners.into_iter();
    Ok(listeners
        .filter_map(|listener| Some((listener.address, listener.queue?)))
        .collect())
}

/// The numbers of the master. May block for a few seconds.
///
/// # Errors
/// As [`ask`].
pub(crate) fn metrics(paths: &MasterPaths) -> Result<Metrics, String> {
    ask(paths, Method::Metrics, |response| match response {
        Response::Metrics(metrics) => Some(*metrics),
        _ => None,
    })
}

/// The status. May block for a few seconds.
///
/// # Errors
/// As [`ask`].
pub(crate) fn status(paths: &MasterPaths) -> Result<Status, String> {
    ask(paths, Method::Status, |response| match response {
        Response::Status(status) => Some(*status),
        _ => None,
    })
}
