//! The open connections: how many there may be, and which one is given up for a new one. So that clients that are slow
//! or silent never keep others out, the one that has waited longest without a whole request is closed first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant};

/// Connections at a time: each takes about 20 KiB.
const MAX_CONNECTIONS: usize = 256;
/// Those of them whose response has no end: a master has room for 16 readers of logs, and a page takes one or two.
const MAX_STREAMS: usize = 64;
/// An answer that takes longer may be given up for a new connection.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It has sent no whole request since the last answer.
    Waiting,
    /// It gets an answer.
    Answering,
    /// It gets an answer without an end.
    Streaming,
}

struct Open {
    doing: Doing,
    since: Instant,
    task: AbortHandle,
}

/// The table of all open connections.
#[derive(Default)]
pub(crate) struct Connections {
    open: RefCell<BTreeMap<u64, Open>>,
    next: RefCell<u64>,
    answered: Notify,
}

impl Connections {
    /// Makes room for one more. False: all are answered at the moment, and a new one is refused.
    pub(crate) fn make_room(&self) -> bool {
        let mut open = self.open.borrow_mut();
        if open.len() < MAX_CONNECTIONS {
            return true;
        }
        let now = Instant::now();
        let surplus = |open: &Open| match open.doing {
            Doing::Waiting => true,
            Doing::Answering => now.duration_since(open.since) > ANSWER_TIME,
            Doing::Streaming => false,
        };
        let longest = open
            .iter()
            .filter(|(_, open)| surplus(open))
            .min_by_key(|(_, open)| open.since)
            .map(|(id, _)| *id);
        match longest.and_then(|id| open.remove(&id)) {
            Some(given_up) => {
                given_up.task.abort();
                true
            }
            None => false,
        }
    }

    /// The number of the next connection.
    pub(crate) fn next_id(&self) -> u64 {
        let mut next = self.next.borrow_mut();
        *next += 1;
        *next
    }

    /// Adds a connection.
    pub(crate) fn add(&self, id: u64, task: AbortHandle) {
        let open = Open {
            doing: Doing::Waiting,
            since: Instant::now(),
            task,
        };
        self.open.borrow_mut().insert(id, open);
    }

    /// The connection has ended.
    pub(crate) fn remove(&self, id: u64) {
        self.open.borrow_mut().remove(&id);
        self.answered.notify_waiters();
    }

    /// Whether one more response without an end may begin.
    pub(crate) fn has_stream_left(&self) -> bool {
        let open = self.open.borrow();
        let streams = open.values().filter(|open| open.doing == Doing::Streaming);
        streams.count() < MAX_STREAMS
    }

    fn set(&self, id: u64, doing: Doing) {
        if let Some(open) = self.open.borrow_mut().get_mut(&id) {
            (open.doing, open.since) = (doing, Instant::now());
        }
        self.answered.notify_waiters();
    }

    /// Waits until no answer is under way; those without an end do not count.
    pub(crate) async fn answered(&self) {
        loop {
            let answered = self.answered.notified();
            let is_answering = |open: &Open| open.doing == Doing::Answering;
            if !self.open.borrow().values().any(is_answering) {
                return;
            }
            answered.await;
        }
    }
}

/// Follows one request to the end of its response.
pub(crate) struct Tracker {
    connections: Rc<Connections>,
    id: u64,
}

impl Tracker {
    /// A request has come.
    pub(crate) fn begin(connections: &Rc<Connections>, id: u64) -> Self {
        connections.set(id, Doing::Answering);
        Self {
            connections: Rc::clone(connections),
            id,
        }
    }

    /// Its response has no end.
    pub(crate) fn streams(&self) {
        self.connections.set(self.id, Doing::Streaming);
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.connections.set(self.id, Doing::Waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_takes_the_place_of_the_one_that_waits_longest() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let connections = Rc::new(Connections::default());
            let task = || tokio::task::spawn_local(std::future::pending::<()>()).abort_handle();
            let mut trackers = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                assert!(connections.make_room());
                let id = connections.next_id();
                connections.add(id, task());
                if id != 7 && id != 9 {
                    trackers.push(Tracker::begin(&connections, id));
                }
            }
            assert!(connections.make_room(), "one that waits");
            let left: Vec<u64> = connections.open.borrow().keys().copied().collect();
            assert!(!left.contains(&7) && left.contains(&9), "the first of them");
            connections.add(connections.next_id(), task());
            assert!(connections.make_room() && !connections.open.borrow().contains_key(&9));
            let newest = connections.next_id();
            connections.add(newest, task());
            trackers.push(Tracker::begin(&connections, newest));
            let waits = connections.open.borrow().len() - trackers.len();
            assert_eq!(waits, 1, "the one before it");
            assert!(connections.make_room());
            connections.add(newest + 1, task());
            trackers.push(Tracker::begin(&connections, newest + 1));
            assert!(!connections.make_room(), "all are answered");
            drop(trackers.pop());
            assert!(connections.make_room());
        });
    }
}
