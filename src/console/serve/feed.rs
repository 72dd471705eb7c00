//! `/events`: the status, the events and the state of the master as server-sent events.

use super::answer::event;
use super::link::{Link, MasterState, News, Queues};
use super::statuses::{Found, Seen, Statuses};
use hyper::body::Bytes;
use rotad::observe::events::Event;
use rotad::observe::sanitize::sanitize_json;
use serde::Serialize;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until, timeout};

/// Messages that wait for a client.
const MAX_WAITING: usize = 16;
/// How long a client may take to make room for one more.
const SEND_TIME: Duration = Duration::from_secs(10);
/// A comment as often as this keeps proxies from closing the connection.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Ages alone are sent again as often as this.
const REPEAT: Duration = Duration::from_secs(5);
/// Clients come back as soon as this, in milliseconds.
const HELLO: &str = "retry: 1000\n\n";

/// The client is gone, or does not read.
pub(crate) struct Lost;

/// The sending end of a stream.
pub(crate) struct Outlet(mpsc::Sender<Bytes>);

impl Outlet {
    /// A stream: what is sent, and what is to be read.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    /// Sends a message.
    pub(crate) async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Lost> {
        match timeout(SEND_TIME, self.0.send(bytes.into())).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Lost),
        }
    }

    /// Sends a message as JSON.
    pub(crate) async fn send_json(
        &self,
        name: &str,
        id: Option<u64>,
        value: &impl Serialize,
    ) -> Result<(), Lost> {
        // Numbers and strings alone: this cannot fail.
        let json = sanitize_json(&serde_json::to_string(value).unwrap_or_default());
        self.send(event(name, id, &json)).await
    }

    /// Sends a comment.
    pub(crate) async fn keep_alive(&self) -> Result<(), Lost> {
        self.send(":\n\n").await
    }

    /// Waits until the client is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// What a client has been told.
struct Feed {
    outlet: Outlet,
    master: Option<MasterState>,
    status: Option<(Arc<Seen>, Instant)>,
    queues: Arc<Queues>,
}

/// Begins a stream. `after`: events after this one come first.
pub(crate) fn feed(
    link: &Arc<Link>,
    statuses: &Rc<Statuses>,
    after: Option<u64>,
) -> mpsc::Receiver<Bytes> {
    let (outlet, receiver) = Outlet::new();
    let (link, statuses) = (Arc::clone(link), Rc::clone(statuses));
    let feed = Feed {
        outlet,
        master: None,
        status: None,
        queues: Arc::default(),
    };
    tokio::task::spawn_local(feed.run(link, statuses, after));
    receiver
}

impl Feed {
    async fn run(mut self, link: Arc<Link>, statuses: Rc<Statuses>, after: Option<u64>) {
        let _viewer = statuses.view();
        self.tell(&link, &statuses, after).await.ok();
    }

    async fn tell(
        &mut self,
        link: &Arc<Link>,
        statuses: &Rc<Statuses>,
        after: Option<u64>,
    ) -> Result<(), Lost> {
        let (master, before, mut news) = link.subscribe(after);
        let mut found = statuses.subscribe();
        self.outlet.send(HELLO).await?;
        self.tell_master(master).await?;
        for event in before {
            self.tell_event(&event).await?;
        }
        let current = statuses.current().await;
        found.mark_unchanged();
        self.tell_status(link, current).await?;
        let mut keep_alive = Instant::now() + KEEP_ALIVE;
        loop {
            tokio::select! {
                one = news.recv() => match one {
                    Ok(News::Event(event)) => self.tell_event(&event).await?,
                    Ok(News::Master(state)) => self.tell_master(state).await?,
                    // Too far behind: the client comes back and names the last event that it has.
                    Err(_) => return Err(Lost),
                },
                changed = found.changed() => {
                    let now = found.borrow_and_update().clone();
                    if let (Ok(()), Some(now)) = (changed, now) {
                        self.tell_status(link, now).await?;
                    }
                }
                () = sleep_until(keep_alive) => {
                    self.outlet.keep_alive().await?;
                    keep_alive = Instant::now() + KEEP_ALIVE;
                }
                () = self.outlet.closed() => return Err(Lost),
            }
        }
    }

    async fn tell_event(&self, event: &Event) -> Result<(), Lost> {
        self.outlet.send_json("event", Some(event.seq), event).await
    }

    async fn tell_master(&mut self, state: MasterState) -> Result<(), Lost> {
        if self.master.as_ref() != Some(&state) {
            self.outlet.send_json("master", None, &state).await?;
            self.master = Some(state);
        }
        Ok(())
    }

    async fn tell_status(&mut self, link: &Link, found: Found) -> Result<(), Lost> {
        let seen = match found {
            // It holds the connection, but does not answer.
            Err(why) => {
                let why = why.to_string();
                return match self.master {
                    Some(MasterState::Gone { .. }) => Ok(()),
                    _ => {
                        let gone = MasterState::gone(why, self.master.as_ref());
                        self.tell_master(gone).await
                    }
                };
            }
            Ok(seen) => seen,
        };
        self.tell_master(link.master()).await?;
        let now = Instant::now();
        if *seen.queues != *self.queues {
            self.outlet.send_json("queues", None, &*seen.queues).await?;
            self.queues = Arc::clone(&seen.queues);
        }
        let is_news = self
            .status
            .as_ref()
            .is_none_or(|(told, at)| seen.differs(told) || now.duration_since(*at) >= REPEAT);
        if is_news {
            self.outlet.send(event("status", None, &seen.json)).await?;
            self.status = Some((seen, now));
        }
        Ok(())
    }
}
