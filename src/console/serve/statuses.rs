//! The status of the master, shared by all who look: it is asked for at most once a second, when something happens and a
//! client is connected that shows it, or when a request comes; every five seconds while nothing happens.

use super::history::{History, SAMPLE_EVERY};
use super::link::{self, Link, Queues};
use rotad::observe::sanitize::sanitize_json;
use rotad::observe::status::{PoolState, SlotState, Status};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Duration, Instant, sleep_until};

/// How old a status may be that is given to a client.
const MAX_AGE: Duration = Duration::from_secs(1);
/// So long after an event it is asked for as often as that.
const BUSY_AFTER_NEWS: Duration = Duration::from_secs(3);
/// For how long after the last look the history goes on.
const HISTORY_AFTER_LOOK: Duration = Duration::from_secs(3600);

/// A status, with its JSON.
#[derive(Debug)]
pub(crate) struct Seen {
    /// As the master gave it.
    pub(crate) status: Status,
    /// As `rotad status --json` prints it, on one line.
    pub(crate) json: String,
    /// As the last sample of the history found them.
    pub(crate) queues: Arc<Queues>,
    /// The same without what time alone changes: to see whether anything else has changed.
    still: String,
}

impl Seen {
    fn new(status: Status, queues: Arc<Queues>) -> Self {
        // Numbers, strings and lists alone: this cannot fail.
        let json =
            |status: &Status| sanitize_json(&serde_json::to_string(status).unwrap_or_default());
        let mut still = status.clone();
        still.master.uptime_s = 0.0;
        for pool in &mut still.pools {
            pool.uptime_s = pool.uptime_s.map(|_| 0.0);
            pool.reload.took_s = 0.0;
            if let Some(deploy) = &mut pool.last_deploy {
                deploy.age_s = 0.0;
            }
            for worker in &mut pool.workers {
                worker.age_s = 0.0;
                worker.retry_in_s = worker.retry_in_s.map(|_| 0.0);
            }
        }
        Self {
            json: json(&status),
            still: json(&still),
            queues,
            status,
        }
    }

    /// Whether more than ages differs.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        self.still != other.still
    }
}

/// A status, or why there is none.
pub(crate) type Found = Result<Arc<Seen>, Arc<str>>;

/// Asks for the status, and keeps the last one and the history.
pub(crate) struct Statuses {
    link: Arc<Link>,
    last: Mutex<Option<(Instant, Found)>>,
    found: watch::Sender<Option<Found>>,
    viewers: Cell<usize>,
    looked: Cell<Option<Instant>>,
    wake: Notify,
    history: RefCell<History>,
}

impl Statuses {
    pub(crate) fn new(link: Arc<Link>) -> Rc<Self> {
        Rc::new(Self {
            link,
            last: Mutex::new(None),
            found: watch::Sender::new(None),
            viewers: Cell::new(0),
            looked: Cell::new(None),
            wake: Notify::new(),
            history: RefCell::new(History::default()),
        })
    }

    /// The status, at most a second old.
    pub(crate) async fn current(&self) -> Found {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < MAX_AGE
        {
            return found.clone();
        }
        let at = Instant::now();
        let link = Arc::clone(&self.link);
        let is_sample = self.history.borrow().is_due();
        let before = match &*last {
            Some((_, Ok(seen))) => Arc::clone(&seen.queues),
            _ => Arc::default(),
        };
        let ask = move || {
            let status = link::status(link.paths())?;
            let queues = is_sample.then(|| link::queues(link.paths()).ok());
            Ok((status, queues.flatten()))
        };
        let asked: Result<Result<_, String>, _> = tokio::task::spawn_blocking(ask).await;
        let found: Found = match asked {
            Ok(Ok((status, queues))) => {
                let queues = queues.map_or(before, Arc::new);
                Ok(Arc::new(Seen::new(status, queues)))
            }
            Ok(Err(why)) => Err(why.into()),
            Err(error) => Err(error.to_string().into()),
        };
        if let Ok(seen) = &found {
            self.history.borrow_mut().sample(&seen.status, &seen.queues);
        }
        *last = Some((at, found.clone()));
        self.found.send_replace(Some(found.clone()));
        found
    }

    /// A client asks for the page or for what it is made of: the history goes on for an hour.
    pub(crate) fn look(&self) {
        self.looked.set(Some(Instant::now()));
        self.wake.notify_one();
    }

    /// Looks as long as the viewer is kept.
    pub(crate) fn view(self: &Rc<Self>) -> Viewer {
        self.viewers.set(self.viewers.get() + 1);
        self.look();
        Viewer(Rc::clone(self))
    }

    /// Told of each status that is asked for.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Found>> {
        self.found.subscribe()
    }

    /// The history as JSON.
    pub(crate) fn history_json(&self) -> String {
        self.history.borrow().json()
    }

    /// Asks again and again while a client is shown it, and waits for the next one. As long as nothing happens, a
    /// sample of the history is all that changes.
    pub(crate) async fn keep_current(self: Rc<Self>) {
        let (_, _, mut news) = self.link.subscribe(None);
        let mut happened = Instant::now();
        loop {
            let shown = self.viewers.get() > 0;
            let pause = match self.looked.get() {
                _ if shown && (happened.elapsed() < BUSY_AFTER_NEWS || !self.is_at_rest()) => {
                    MAX_AGE
                }
                _ if shown => SAMPLE_EVERY,
                Some(at) if at.elapsed() < HISTORY_AFTER_LOOK => SAMPLE_EVERY,
                _ => {
                    self.wake.notified().await;
                    happened = Instant::now();
                    continue;
                }
            };
            self.current().await.ok();
            let asked = Instant::now();
            let mut until = asked + pause;
            while Instant::now() < until {
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = self.wake.notified() => {}
                    // Not even one that has missed some wants to wait.
                    _ = news.recv() => {}
                }
                if Instant::now() < until && self.viewers.get() > 0 {
                    happened = Instant::now();
                    until = until.min(asked + MAX_AGE);
                }
            }
        }
    }

    /// The last status has no pool with something under way.
    fn is_at_rest(&self) -> bool {
        let found = self.found.borrow();
        let Some(Ok(seen)) = &*found else {
            return false;
        };
        let at_rest = [PoolState::Ok, PoolState::Stopped, PoolState::Done];
        seen.status.pools.iter().all(|pool| {
            at_rest.contains(&pool.state)
                && pool
                    .workers
                    .iter()
                    .all(|worker| worker.state == SlotState::Ready)
        })
    }
}

/// A client that is shown each status.
pub(crate) struct Viewer(Rc<Statuses>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.viewers.set(self.0.viewers.get() - 1);
        self.0.look();
    }
}
