//! What the launching command waits for: every pool ready, or the reason why not.

use crate::daemon::{Report, StartContext};
use crate::observe::clip::join_within;
use rotad_core::{PoolId, Slot, Span, Time};
use std::collections::{BTreeMap, BTreeSet};

/// What the core decides about a worker's time comes first.
const SLACK: Span = Span::from_secs(1);

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
pub(super) struct StartWatch {
    report: Option<Report>,
    pools: BTreeMap<PoolId, Pool>,
    /// The verdict, to be given when everything is gone.
    last_words: Option<(u8, String)>,
}

struct Pool {
    name: String,
    fate: Fate,
    /// A worker's time to be ready; none: as long as it takes.
    patience: Option<Span>,
    /// Slots that have had a worker.
    tried: BTreeSet<Slot>,
    /// Workers that end well before they are ever ready would be waited for for ever. In the core's time, so that a
    /// pause of the master moves it. None: no worker has been ordered yet.
    until: Option<Time>,
}

/// What has to be done once all is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    JobResult,
    /// Nothing came up: stop everything, then report.
    StopAll,
}

impl StartWatch {
    /// The pools with their names and how long they may take.
    pub(super) fn new(launch: StartContext, pools: impl Iterator<Item = (PoolId, String, Option<Span>)>) -> Self {
        let pool = |(id, name, patience): (PoolId, String, Option<Span>)| {
            (id, Pool { name, fate: Fate::Pending, patience, tried: BTreeSet::new(), until: None })
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
    pub(super) fn deadline(&self) -> Option<Time> {
        if self.report.is_none() || self.last_words.is_some() {
            return None;
        }
        self.pools.values().filter(|pool| pool.fate == Fate::Pending).filter_map(|pool| pool.until).min()
    }

    /// A worker is about to be born. The first one of a slot has its whole time before it, whenever that is: its pool
    /// may have waited for others, and the slot for its turn.
    pub(super) fn begun(&mut self, pool: PoolId, slot: Slot, now: Time) {
        if self.report.is_some()
            && let Some(pool) = self.pools.get_mut(&pool)
            && pool.tried.insert(slot)
            && let Some(patience) = pool.patience
        {
            pool.until = Some(now + patience + SLACK);
        }
    }

    /// A worker has asked for more time.
    pub(super) fn extended(&mut self, pool: PoolId, until: Time) {
        if let Some(Pool { until: Some(before), .. }) = self.pools.get_mut(&pool) {
            *before = (*before).max(until + SLACK);
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
    pub(super) fn overdue(&mut self, now: Time) -> Verdict {
        for pool in self.pools.values_mut() {
            if pool.fate == Fate::Pending && pool.until.is_some_and(|until| until <= now) {
                pool.fate = Fate::Failed("was not ready in time".to_owned());
            }
        }
        self.decide()
    }

    fn note(&mut self, pool: PoolId, new: Fate) -> Verdict {
        if self.report.is_none() || self.last_words.is_some() {
            return Verdict::JobResult;
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
            return Verdict::JobResult;
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
        Verdict::JobResult
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
