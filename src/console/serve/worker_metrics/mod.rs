//! The workers' own metrics, summed over slots and over workers that are gone, so that no roll resets a counter.
//!
//! Workers are asked when a client asks for metrics. A worker that begins to stop is asked at once, and again and again
//! until it is gone: what it counts is lost only from its last answer to its end.

mod saved;
mod scrape;
mod sums;
mod text;

use super::link::{self, Link, MasterState, News};
use rotad::control::protocol::{Method, Response};
use rotad::observe::events::{Event, EventKind};
use rotad::observe::metrics::Format;
use rotad::observe::print;
use rotad::observe::scrape::{ScrapePool, ScrapeWorker};
use rotad::observe::status::SlotState;
use saved::SumsFile;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use sums::Sums;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Duration, sleep, timeout};

/// Workers that are asked at a time.
const MAX_ASKED: usize = 64;
/// How long all of them may take.
const SCRAPE_TIME: Duration = Duration::from_secs(5);
/// How soon a worker that stops is asked again: at first, and at the most; each pause is a tenth longer than the one
/// before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long what was counted may wait to be written down.
const SAVE_PAUSE: Duration = Duration::from_secs(2);

/// The workers' metrics.
pub(crate) struct WorkerMetrics {
    link: Arc<Link>,
    /// As the master said last, without those that are gone since.
    pools: RefCell<Vec<ScrapePool>>,
    sums: RefCell<Sums>,
    /// One question to a worker after another: what is taken over later must not be older.
    turns: RefCell<BTreeMap<String, Rc<Mutex<()>>>>,
    file: OnceCell<SumsFile>,
    is_saving: Cell<bool>,
    /// Workers that stop, which are asked until they are gone.
    attended: RefCell<BTreeSet<String>>,
    /// Pools of which it was said that workers do not answer.
    reported: RefCell<BTreeSet<String>>,
}

impl WorkerMetrics {
    pub(crate) fn new(link: Arc<Link>) -> Rc<Self> {
        Rc::new(Self {
            link,
            pools: RefCell::default(),
            sums: RefCell::default(),
            turns: RefCell::default(),
            file: OnceCell::new(),
            is_saving: Cell::new(false),
            attended: RefCell::default(),
            reported: RefCell::default(),
        })
    }

    /// Follows which workers begin to stop and which are gone.
    pub(crate) async fn follow(self: Rc<Self>) {
        let (master, _, mut news) = self.link.subscribe(None);
        if master == MasterState::Connected {
            self.refresh().await;
        }
        loop {
            match news.recv().await {
                Ok(News::Event(event)) => self.on_event(&event).await,
                Ok(News::Master(MasterState::Gone { .. })) => {}
                Ok(News::Master(MasterState::Connected)) | Err(RecvError::Lagged(_)) => {
                    self.refresh().await;
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn on_event(self: &Rc<Self>, event: &Event) {
        if matches!(
            event.event,
            EventKind::ConfigApplied | EventKind::ConfigPutBack
        ) {
            self.refresh().await;
        }
        let (Some(pool), Some(worker)) = (&event.pool, &event.worker) else {
            return;
        };
        if !self.pools.borrow().iter().any(|known| known.pool == *pool) {
            return;
        }
        let own = Rc::clone(self);
        let (pool, worker) = (pool.clone(), worker.clone());
        match event.event {
            // So that it is known where it is when it begins to stop.
            EventKind::Ready => {
                spawn_local(async move { own.refresh().await });
            }
            EventKind::Retired => self.attend(pool, worker),
            EventKind::Stopped | EventKind::Exit => self.end(&pool, &worker),
            _ => {}
        }
    }

    /// Asks a worker that stops until it is gone.
    fn attend(self: &Rc<Self>, pool: String, worker: String) {
        if !self.attended.borrow_mut().insert(worker.clone()) {
            return;
        }
        let own = Rc::clone(self);
        spawn_local(async move {
            if own.find(&pool, &worker).is_none() {
                own.refresh().await;
            }
            let mut pause = FIRST_PAUSE;
            while let Some(target) = own.find(&pool, &worker) {
                own.ask(&pool, &target).await;
                sleep(pause).await;
                pause = (pause * 11 / 10).min(LONGEST_PAUSE);
            }
            own.attended.borrow_mut().remove(&worker);
        });
    }

    /// The families of all pools, after their workers were asked.
    pub(crate) async fn page(self: &Rc<Self>, format: Format) -> String {
        if self.refresh().await {
            self.ask_all().await;
            self.save_soon();
        }
        self.sums.borrow().render(format)
    }

    /// Writes down what was counted.
    pub(crate) fn save(&self) {
        if let Some(file) = self.file.get() {
            file.save(&self.sums.borrow().saved());
        }
    }

    fn save_soon(self: &Rc<Self>) {
        if self.file.get().is_some() && !self.is_saving.replace(true) {
            let own = Rc::clone(self);
            spawn_local(async move {
                sleep(SAVE_PAUSE).await;
                own.is_saving.set(false);
                own.save();
            });
        }
    }

    /// Asks the master which workers there are. Whether there are pools to ask.
    async fn refresh(self: &Rc<Self>) -> bool {
        let link = Arc::clone(&self.link);
        let asked = tokio::task::spawn_blocking(move || {
            link::ask(
                link.paths(),
                Method::ScrapeTargets,
                |response| match response {
                    Response::ScrapeTargets(pools) => Some(pools),
                    _ => None,
                },
            )
        });
        let Ok(Ok(pools)) = asked.await else {
            return false;
        };
        if !pools.is_empty() && self.file.get().is_none() {
            let (file, saved) = SumsFile::open(&self.link.paths().runtime_dir);
            if self.file.set(file).is_ok() {
                *self.sums.borrow_mut() = Sums::restored(saved);
            }
        }
        let names = pools.iter().map(|pool| (pool.pool.as_str(), pool.gauges));
        self.sums.borrow_mut().set_pools(names);
        let is_there = |pool: &str, worker: &str| find(&pools, pool, worker).is_some();
        let known = self.sums.borrow().workers();
        let gone = known
            .into_iter()
            .filter(|(pool, worker)| !is_there(pool, worker));
        let gone: Vec<(String, String)> = gone.collect();
        let are_pools = !pools.is_empty();
        *self.pools.borrow_mut() = pools;
        for (pool, worker) in gone {
            self.end(&pool, &worker);
        }
        // It began to stop when nothing followed its master.
        for (pool, worker) in self.stopping() {
            self.attend(pool, worker);
        }
        are_pools
    }

    fn stopping(&self) -> Vec<(String, String)> {
        let of = |pool: &ScrapePool| {
            let stops = |worker: &&ScrapeWorker| worker.state == SlotState::Stopping;
            let workers = pool.workers.iter().filter(stops);
            workers
                .map(|worker| (pool.pool.clone(), worker.worker.clone()))
                .collect::<Vec<_>>()
        };
        self.pools.borrow().iter().flat_map(of).collect()
    }

    /// A worker is gone. An answer of it that is on its way still counts.
    fn end(self: &Rc<Self>, pool: &str, worker: &str) {
        for known in self
            .pools
            .borrow_mut()
            .iter_mut()
            .filter(|known| known.pool == pool)
        {
            known.workers.retain(|known| known.worker != worker);
        }
        let own = Rc::clone(self);
        let (pool, worker) = (pool.to_owned(), worker.to_owned());
        let turn = self.turn(&worker);
        spawn_local(async move {
            let _turn = turn.lock().await;
            own.turns.borrow_mut().remove(&worker);
            if own.sums.borrow_mut().end(&pool, &worker) {
                own.save_soon();
            }
        });
    }

    fn turn(&self, worker: &str) -> Rc<Mutex<()>> {
        let mut turns = self.turns.borrow_mut();
        Rc::clone(turns.entry(worker.to_owned()).or_default())
    }

    /// Asks all workers at once, as far as they may be.
    async fn ask_all(self: &Rc<Self>) {
        let pools = self.pools.borrow().clone();
        let places = Rc::new(Semaphore::new(MAX_ASKED));
        let mut questions = JoinSet::new();
        for pool in pools {
            for worker in &pool.workers {
                if !can_be_asked(worker, &pool.workers) {
                    continue;
                }
                let (own, name, worker) = (Rc::clone(self), pool.pool.clone(), worker.clone());
                let places = Rc::clone(&places);
                questions.spawn_local(async move {
                    let _place = places.acquire().await;
                    own.ask(&name, &worker).await;
                });
            }
        }
        let all = async { while questions.join_next().await.is_some() {} };
        timeout(SCRAPE_TIME, all).await.ok();
    }

    /// Asks one worker, unless it is gone.
    async fn ask(&self, pool: &str, worker: &ScrapeWorker) {
        let turn = self.turn(&worker.worker);
        let _turn = turn.lock().await;
        if find(&self.pools.borrow(), pool, &worker.worker).is_none() {
            return;
        }
        let page = scrape::page(&worker.address).await;
        let reserved = self.sums.borrow().reserved(pool);
        match page.and_then(|page| text::read(&page, reserved)) {
            Ok(families) => {
                let mut sums = self.sums.borrow_mut();
                sums.see(pool, &worker.worker, worker.slot, families);
                self.reported.borrow_mut().remove(pool);
            }
            // It closes what it listens on before it ends.
            Err(_) if worker.state == SlotState::Stopping => {}
            Err(why) => {
                self.sums.borrow_mut().fail(pool, &worker.worker);
                if self.reported.borrow_mut().insert(pool.to_owned()) {
                    print::warning(&format!(
                        "the metrics of {pool}/{} cannot be read from {}: {why}",
                        worker.slot, worker.address
                    ));
                }
            }
        }
    }

    /// A worker that stops, if it can be asked.
    fn find(&self, pool: &str, worker: &str) -> Option<ScrapeWorker> {
        let pools = self.pools.borrow();
        let (worker, others) = find(&pools, pool, worker)?;
        let stops = ScrapeWorker {
            state: SlotState::Stopping,
            ..worker.clone()
        };
        can_be_asked(&stops, others).then_some(stops)
    }
}

fn find<'a>(
    pools: &'a [ScrapePool],
    pool: &str,
    worker: &str,
) -> Option<(&'a ScrapeWorker, &'a [ScrapeWorker])> {
    let pool = pools.iter().find(|known| known.pool == pool)?;
    let found = pool.workers.iter().find(|known| known.worker == worker)?;
    Some((found, &pool.workers))
}

/// Whether a worker answers, and no other one in its place.
fn can_be_asked(worker: &ScrapeWorker, all: &[ScrapeWorker]) -> bool {
    use SlotState::{Ready, Soaking, Starting, Stopping};
    let answers_for_it = |other: &ScrapeWorker| {
        other.worker != worker.worker
            && other.address == worker.address
            && (other.generation > worker.generation
                || other.state == Starting
                || worker.state == Stopping)
    };
    matches!(worker.state, Ready | Soaking | Stopping) && !all.iter().any(answers_for_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, generation: u32, state: SlotState, address: &str) -> ScrapeWorker {
        ScrapeWorker {
            worker: id.to_owned(),
            slot: 0,
            generation,
            state,
            address: address.to_owned(),
        }
    }

    #[test]
    fn an_address_that_two_workers_have_is_asked_for_the_newer_one() {
        use SlotState::{Ready, Starting, Stopping};
        let asked = |one: &ScrapeWorker, other: &ScrapeWorker| {
            let all = [one.clone(), other.clone()];
            (can_be_asked(one, &all), can_be_asked(other, &all))
        };
        let old = worker("old", 1, Ready, "unix:/a");
        let old_stops = worker("old", 1, Stopping, "unix:/a");
        let starts = worker("new", 2, Starting, "unix:/a");
        let new = worker("new", 2, Ready, "unix:/a");
        assert_eq!(asked(&old, &starts), (false, false));
        assert_eq!(asked(&old, &new), (false, true));
        assert_eq!(asked(&old_stops, &new), (false, true));
        let recycled = worker("new", 1, Ready, "unix:/a");
        assert_eq!(asked(&old_stops, &recycled), (false, true));
        let elsewhere = worker("new", 2, Ready, "unix:/b");
        assert_eq!(asked(&old_stops, &elsewhere), (true, true));
    }
}
