//! What the launching command waits for: every pool ready, or the reason why not.

use crate::observe::clip::join_within;
use crate::os::daemon::{Launch, Report};
use rotad_core::PoolId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much a failed start tells, in bytes: many pools, each with its worker's last lines.
const MOST_TOLD: usize = 512 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Ready,
    /// It ran to its end, and that was all that it had to do.
    Ended,
    /// Ready for the age of its workers alone.
    Alive,
    Failed(String),
}

/// How a start goes, as `start` reports it: a pool has failed at its first worker that dies with failure before it is
/// ready, or that is not ready in time.
pub(super) struct LaunchWatch {
    report: Option<Report>,
    pools: BTreeMap<PoolId, Pool>,
    /// The verdict, to be given when everything is gone.
    last_words: Option<(u8, String)>,
}

struct Pool {
    name: String,
    fate: Fate,
    /// Its first worker's time to be ready; none: as long as it takes.
    patience: Option<Duration>,
    /// Workers that end well before they are ever ready would be waited for for ever. None: it waits for others.
    until: Option<Instant>,
}

/// What has to be done once all is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    Told,
    /// Nothing came up: stop everything, then report.
    StopAll,
}

impl LaunchWatch {
    /// The pools with their names and how long they may take.
    pub(super) fn new(launch: Launch, pools: impl Iterator<Item = (PoolId, String, Option<Duration>)>) -> Self {
        let now = Instant::now();
        let pool = |(id, name, patience): (PoolId, String, Option<Duration>)| {
            let until = patience.and_then(|patience| now.checked_add(patience));
            (id, Pool { name, fate: Fate::Pending, patience, until })
        };
        let waits = !launch.foreground;
        let mut watch =
            Self { report: waits.then_some(launch.report), pools: pools.map(pool).collect(), last_words: None };
        if launch.no_wait {
            watch.finish(0, "");
        }
        watch
    }

    /// When patience ends with somebody.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.report.is_none() || self.last_words.is_some() {
            return None;
        }
        self.pools.values().filter(|pool| pool.fate == Fate::Pending).filter_map(|pool| pool.until).min()
    }

    /// The pool waits for others: that is not its time.
    pub(super) fn held(&mut self, pool: PoolId) {
        if let Some(pool) = self.pools.get_mut(&pool) {
            pool.until = None;
        }
    }

    /// A worker of the pool is about to be born: from now on its time counts.
    pub(super) fn begun(&mut self, pool: PoolId) {
        if self.report.is_some()
            && let Some(pool) = self.pools.get_mut(&pool)
            && pool.until.is_none()
        {
            pool.until = pool.patience.and_then(|patience| Instant::now().checked_add(patience));
        }
    }

    /// An essential pool is lost: whoever still waits for the start hears of it at the end.
    pub(super) fn give_up(&mut self, code: u8, why: &str) {
        if self.report.is_some() && self.last_words.is_none() {
            self.last_words = Some((code, format!("{why}; nothing is left running")));
        }
    }

    fn finish(&mut self, code: u8, text: &str) {
        if let Some(report) = self.report.take() {
            report.finish(code, text);
        }
    }

    /// `ended`: it has done what it had to do, and serves nothing; `by_age`: nothing else says that its workers are ready.
    pub(super) fn up(&mut self, pool: PoolId, ended: bool, by_age: bool) -> Verdict {
        let fate = match (ended, by_age) {
            (true, _) => Fate::Ended,
            (false, true) => Fate::Alive,
            (false, false) => Fate::Ready,
        };
        self.note(pool, fate)
    }

    pub(super) fn failed(&mut self, pool: PoolId, why: String) -> Verdict {
        self.note(pool, Fate::Failed(why))
    }

    /// Time is up for somebody.
    pub(super) fn overdue(&mut self) -> Verdict {
        let now = Instant::now();
        for pool in self.pools.values_mut() {
            if pool.fate == Fate::Pending && pool.until.is_some_and(|until| until <= now) {
                pool.fate = Fate::Failed("was not ready in time".to_owned());
            }
        }
        self.decide()
    }

    fn note(&mut self, pool: PoolId, new: Fate) -> Verdict {
        if self.report.is_none() || self.last_words.is_some() {
            return Verdict::Told;
        }
        if let Some(pool) = self.pools.get_mut(&pool)
            && pool.fate == Fate::Pending
        {
            pool.fate = new;
        }
        self.decide()
    }

    fn decide(&mut self) -> Verdict {
        if self.pools.values().any(|pool| pool.fate == Fate::Pending) {
            return Verdict::Wait;
        }
        let of = |fate: &Fate| -> Vec<&str> {
            self.pools.values().filter(|pool| pool.fate == *fate).map(|pool| pool.name.as_str()).collect()
        };
        let (serving, alive, ended) = (of(&Fate::Ready), of(&Fate::Alive), of(&Fate::Ended));
        let only_alive = (!alive.is_empty())
            .then(|| format!("alive: {} (nothing but their age says that their workers are ready)", alive.join(", ")));
        let failed = self.pools.values().filter_map(|pool| match &pool.fate {
            Fate::Failed(why) => Some(format!("{}: {why}", pool.name)),
            Fate::Pending | Fate::Ready | Fate::Alive | Fate::Ended => None,
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() {
            let up = self.pools.values().filter(|pool| matches!(pool.fate, Fate::Ready | Fate::Ended));
            let up: Vec<&str> = up.map(|pool| pool.name.as_str()).collect();
            // A configuration without pools is ready, too.
            let ready = (!up.is_empty() || alive.is_empty()).then(|| format!("ready: {}", up.join(", ")));
            let text = ready.into_iter().chain(only_alive).collect::<Vec<_>>().join("; ");
            self.finish(0, &text);
            return Verdict::Told;
        }
        if serving.is_empty() && alive.is_empty() && ended.is_empty() {
            self.last_words =
                Some((1, format!("{}\nnothing came up; nothing is left running", join_within(&failed, MOST_TOLD))));
            return Verdict::StopAll;
        }
        let mut serve = Vec::new();
        if !serving.is_empty() {
            serve.push(format!("these serve: {}", serving.join(", ")));
        } else if alive.is_empty() {
            serve.push("nobody serves".to_owned());
        }
        serve.extend(only_alive);
        if !ended.is_empty() {
            serve.push(format!("done: {}", ended.join(", ")));
        }
        let serve = serve.join("; ");
        let text = format!("{}\n{serve}; the others are tried on", join_within(&failed, MOST_TOLD));
        self.finish(1, &text);
        Verdict::Told
    }

    /// The master leaves: whoever still waits is told now. Returns the exit code that a failed start asks for.
    pub(super) fn leave(&mut self, lost: Option<&str>) -> Option<u8> {
        let (code, mut text) =
            self.last_words.take().unwrap_or_else(|| (1, "stopped before every pool was ready".to_owned()));
        if let Some(lost) = lost {
            text.push('\n');
            text.push_str(lost);
        }
        let waited = self.report.is_some();
        self.finish(code, &text);
        waited.then_some(code)
    }
}
