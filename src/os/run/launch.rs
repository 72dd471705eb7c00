//! What the launching command waits for: every pool ready, or the reason why not.

use crate::os::daemon::{Launch, Report};
use rotad_core::PoolId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Pending,
    Ready,
    Failed(String),
}

/// How a start goes, as `start` reports it: a pool has failed at its first worker that dies with failure before it is
/// ready, or that is not ready in time.
pub(super) struct LaunchWatch {
    report: Option<Report>,
    pools: BTreeMap<PoolId, (String, Fate)>,
    /// Pools whose workers end well before they are ever ready would be waited for for ever.
    until: Option<Instant>,
    /// The verdict, to be given when everything is gone.
    last_words: Option<(u8, String)>,
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
    pub(super) fn new(launch: Launch, pools: impl Iterator<Item = (PoolId, String)>, patience: Duration) -> Self {
        let pools = pools.map(|(id, name)| (id, (name, Fate::Pending))).collect();
        let waits = !launch.foreground;
        let mut watch = Self {
            report: waits.then_some(launch.report),
            pools,
            until: waits.then(|| Instant::now() + patience),
            last_words: None,
        };
        if launch.no_wait {
            watch.finish(0, "");
        }
        watch
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    fn finish(&mut self, code: u8, text: &str) {
        self.until = None;
        if let Some(report) = self.report.take() {
            report.finish(code, text);
        }
    }

    pub(super) fn ready(&mut self, pool: PoolId) -> Verdict {
        self.note(pool, Fate::Ready)
    }

    pub(super) fn failed(&mut self, pool: PoolId, why: String) -> Verdict {
        self.note(pool, Fate::Failed(why))
    }

    /// Time is up for whatever is still undecided.
    pub(super) fn overdue(&mut self) -> Verdict {
        for (_, fate) in self.pools.values_mut().filter(|(_, fate)| *fate == Fate::Pending) {
            *fate = Fate::Failed("was not ready in time".to_owned());
        }
        self.decide()
    }

    fn note(&mut self, pool: PoolId, new: Fate) -> Verdict {
        if self.report.is_none() || self.last_words.is_some() {
            return Verdict::Told;
        }
        if let Some((_, fate)) = self.pools.get_mut(&pool)
            && *fate == Fate::Pending
        {
            *fate = new;
        }
        self.decide()
    }

    fn decide(&mut self) -> Verdict {
        if self.pools.values().any(|(_, fate)| *fate == Fate::Pending) {
            return Verdict::Wait;
        }
        let up: Vec<&str> =
            self.pools.values().filter(|(_, fate)| *fate == Fate::Ready).map(|(name, _)| name.as_str()).collect();
        let failed = self.pools.values().filter_map(|(name, fate)| match fate {
            Fate::Failed(why) => Some(format!("{name}: {why}")),
            Fate::Pending | Fate::Ready => None,
        });
        let failed: Vec<String> = failed.collect();
        if failed.is_empty() {
            let text = format!("ready: {}", up.join(", "));
            self.finish(0, &text);
            return Verdict::Told;
        }
        self.until = None;
        if up.is_empty() {
            self.last_words = Some((1, format!("{}\nnothing came up; nothing is left running", failed.join("\n"))));
            return Verdict::StopAll;
        }
        let text = format!("{}\nthese serve: {}; the others are tried on", failed.join("\n"), up.join(", "));
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
