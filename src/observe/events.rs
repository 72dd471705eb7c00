//! Events: what the master did and why. The words for it, one event, and the ring buffer that keeps the latest ones.
//! The supervisor's event log adds them; `rotad events` shows them.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::SystemTime;

/// How many events are kept, and how many bytes they may take in total.
const MOST: usize = 1000;
const MOST_BYTES: usize = 256 * 1024;
/// The longest text of an event, in bytes; longer ones are cut.
const LONGEST_TEXT: usize = 4 * 1024;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What happened. The words are those of docs/events.md: scripts rely on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl EventKind {
            /// All event kinds.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

words! {
    MasterStarted = "master-started",
    /// Workers that a killed master had left behind were stopped first.
    TookOver = "took-over",
    /// The worker journal, which the next start relies on, cannot be written or is complete again.
    Journal = "journal",
    MasterStopping = "master-stopping",
    MasterStopped = "master-stopped",
    /// The master did not run for a while; every deadline moves by that time.
    MasterPaused = "master-paused",
    /// A signal reached the master.
    SignalReceived = "signal-received",
    /// A command requested something.
    Request = "request",
    /// The configuration was read again and is in force.
    ConfigApplied = "config-applied",
    /// The configuration was read again, but nothing was applied.
    ConfigRefused = "config-refused",
    /// A pool failed with its changed configuration: the previous one is in force again.
    ConfigPutBack = "config-put-back",
    /// Missing files of the master are in place again.
    Restored = "restored",
    /// A different number of workers was requested.
    Scaled = "scaled",
    /// The content of watched files has changed.
    FilesChanged = "files-changed",
    /// Files are watched from now on, or cannot be watched.
    Watch = "watch",
    /// A pool waits for those that it comes after.
    Waiting = "waiting",
    /// A worker's process was spawned.
    Spawn = "spawn",
    /// A worker could not be spawned: its program, directory or user cannot be used.
    SpawnFailed = "spawn-failed",
    Ready = "ready",
    CanaryPassed = "canary-passed",
    /// A worker was not ready in time.
    NotReady = "not-ready",
    /// A worker exited without having been asked to.
    Exit = "exit",
    /// A health check failed, but not often enough to count.
    ProbeFailed = "probe-failed",
    /// A worker is replaced because of its age or its memory.
    Recycled = "recycled",
    /// A worker failed its health check.
    Unhealthy = "unhealthy",
    /// A worker is asked to stop.
    Retired = "retired",
    /// A signal was sent to a worker.
    Signal = "signal",
    /// SIGKILL was sent to a worker and its group.
    Kill = "kill",
    /// A worker exited after it was asked to stop.
    Stopped = "stopped",
    /// Processes that a worker left behind were killed.
    DescendantsKilled = "descendants-killed",
    /// A process that some worker left behind; which one is unknown.
    Orphan = "orphan",
    /// SIGKILL does not end a worker.
    Unkillable = "unkillable",
    PoolReady = "pool-ready",
    PoolStopped = "pool-stopped",
    /// The pool is no longer configured, and its last worker is gone.
    PoolRemoved = "pool-removed",
    /// A oneshot has succeeded.
    OneshotDone = "oneshot-done",
    CrashLoop = "crash-loop",
    CrashLoopEases = "crash-loop-eases",
    CrashLoopOver = "crash-loop-over",
    /// An essential pool had no ready worker for too long: the master stops.
    EssentialLost = "essential-lost",
    /// An essential pool has ended (`essential = "exit"`): the master stops with its code.
    EssentialEnded = "essential-ended",
    /// A program went into the background, where it cannot be supervised.
    Background = "background",
    /// A pool is not rolled with the others, since nothing that it is made from has changed.
    PassedOver = "passed-over",
    RollStarted = "roll-started",
    /// A rolling restart has completed one more slot.
    RollStep = "roll-step",
    /// A single worker was replaced.
    WorkerReplaced = "worker-replaced",
    /// A rolling restart was superseded by a newer request, a changed configuration or a rollback.
    RollSuperseded = "roll-superseded",
    /// A rolling restart waits for the running one.
    RollWaits = "roll-waits",
    RollingBack = "rolling-back",
    RollEnded = "roll-ended",
    /// The paths that a generation had been resolved to are gone: they were resolved again.
    PathsResolvedAgain = "paths-resolved-again",
    /// The log has not been written for a while because its disk hangs, or is written again.
    LogHangs = "log-hangs",
    /// A worker shut down a listening socket.
    Listener = "listener",
}

/// One event, as `rotad events --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 as long as the master runs; a gap shows that events are missing.
    pub seq: u64,
    /// RFC 3339, UTC, with milliseconds.
    pub time: String,
    pub event: EventKind,
    pub pool: Option<String>,
    pub slot: Option<u32>,
    /// The worker's `ROTAD_WORKER`.
    pub worker: Option<String>,
    pub generation: Option<u32>,
    pub pid: Option<i32>,
    /// The reason, in one word.
    pub cause: Option<String>,
    /// The whole message, for people.
    pub text: String,
}

impl Event {
    fn bytes(&self) -> usize {
        let texts = [&self.pool, &self.worker, &self.cause]
            .into_iter()
            .flatten()
            .map(String::len)
            .sum::<usize>();
        size_of::<Self>() + self.time.len() + self.text.len() + texts
    }
}

/// The latest events, bounded in number and in bytes.
#[derive(Debug, Default)]
pub struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    last: u64,
}

impl Ring {
    /// Adds an event, and sets its number and time.
    pub fn push(&mut self, mut event: Event) -> &Event {
        self.last += 1;
        event.seq = self.last;
        event.time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if event.text.len() > LONGEST_TEXT {
            let end = (0..=LONGEST_TEXT)
                .rev()
                .find(|end| event.text.is_char_boundary(*end))
                .unwrap_or(0);
            event.text.truncate(end);
            event.text.push('…');
        }
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > MOST || (self.bytes > MOST_BYTES && self.events.len() > 1) {
            self.bytes -= self.events.pop_front().map_or(0, |old| old.bytes());
        }
        &self.events[self.events.len() - 1]
    }

    /// The last `most` events, the oldest first.
    pub fn latest(&self, most: usize) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .skip(self.events.len().saturating_sub(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: String) -> Event {
        Event {
            seq: 0,
            time: String::new(),
            event: EventKind::Exit,
            pool: Some("web".into()),
            slot: Some(0),
            worker: None,
            generation: None,
            pid: None,
            cause: None,
            text,
        }
    }

    #[test]
    fn the_ring_is_bounded_by_number_and_by_bytes() {
        let mut ring = Ring::default();
        for n in 0..3 * MOST {
            ring.push(event(n.to_string()));
        }
        let kept: Vec<u64> = ring.latest(usize::MAX).map(|event| event.seq).collect();
        assert!(kept.len() <= MOST && kept.last() == Some(&(3 * MOST as u64)));
        assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert_eq!(ring.latest(10).count(), 10);
        for _ in 0..1000 {
            ring.push(event("ü".repeat(100_000)));
            assert!(
                ring.bytes <= MOST_BYTES
                    && ring.bytes == ring.events.iter().map(Event::bytes).sum::<usize>()
            );
        }
        assert!(
            ring.latest(usize::MAX)
                .all(|event| event.text.len() <= LONGEST_TEXT + 3)
        );
    }

    #[test]
    fn the_words_are_those_of_the_json() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
