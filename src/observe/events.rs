//! What the master did and why: the words for it, one event, and the ring that keeps the latest.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::SystemTime;

/// How many events are kept, and how many bytes they may take together.
const MOST: usize = 1000;
const MOST_BYTES: usize = 256 * 1024;
/// A longer text is cut, in bytes.
const LONGEST_TEXT: usize = 4 * 1024;

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What happened, by the words of docs/events.md: scripts rely on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $word)] $name,)*
        }

        impl EventKind {
            /// All there are.
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
    /// What a killed master left was stopped first.
    TookOver = "took-over",
    /// The list of workers that the next start goes by cannot be written, or is whole again.
    Journal = "journal",
    MasterStopping = "master-stopping",
    MasterStopped = "master-stopped",
    /// It did not run for a while: every deadline moves by that.
    MasterPaused = "master-paused",
    /// A signal to the master.
    SignalReceived = "signal-received",
    /// A wish of a command.
    Request = "request",
    /// The configuration was read again, and is in force.
    ConfigApplied = "config-applied",
    /// It was read again and nothing came of it.
    ConfigRefused = "config-refused",
    /// What a changed configuration made of a pool did not come up: the one before holds again.
    ConfigPutBack = "config-put-back",
    /// Files of the master's own that were not in their place any more are there again.
    Restored = "restored",
    /// Another number of workers is wanted.
    Scaled = "scaled",
    /// Files that are watched hold something else now.
    FilesChanged = "files-changed",
    /// Files are watched from now on, or cannot be.
    Watch = "watch",
    /// A pool waits for those that it comes after.
    Waiting = "waiting",
    /// A worker's process exists.
    Spawn = "spawn",
    /// There is no process: its program, folder or user cannot be used.
    SpawnFailed = "spawn-failed",
    Ready = "ready",
    CanaryPassed = "canary-passed",
    /// It was not ready in time.
    NotReady = "not-ready",
    /// It ended, and nobody had asked it to.
    Exit = "exit",
    /// A health check failed, fewer times than it takes.
    ProbeFailed = "probe-failed",
    /// Its time has come, or it uses too much memory: it is replaced.
    Recycled = "recycled",
    /// It failed its health check.
    Unhealthy = "unhealthy",
    /// It is asked to stop.
    Retired = "retired",
    /// A signal was sent to it.
    Signal = "signal",
    /// SIGKILL was sent to it and its group.
    Kill = "kill",
    /// It ended after it had been asked to.
    Stopped = "stopped",
    /// What it left behind was killed.
    DescendantsKilled = "descendants-killed",
    /// A process that some worker left behind, and nothing tells which one.
    Orphan = "orphan",
    /// SIGKILL does not end it.
    Unkillable = "unkillable",
    PoolReady = "pool-ready",
    PoolStopped = "pool-stopped",
    /// The configuration has it no more, and its last worker is gone.
    PoolRemoved = "pool-removed",
    /// A oneshot has ended well.
    OneshotDone = "oneshot-done",
    CrashLoop = "crash-loop",
    CrashLoopEases = "crash-loop-eases",
    CrashLoopOver = "crash-loop-over",
    /// An essential pool had no worker ready for too long: the master stops.
    EssentialLost = "essential-lost",
    /// An essential pool has ended (`essential = "exit"`): the master stops with its code.
    EssentialEnded = "essential-ended",
    /// A program goes into the background, where nobody supervises it.
    Background = "background",
    /// A pool is not rolled with the others: what it is made from has not changed.
    PassedOver = "passed-over",
    RollStarted = "roll-started",
    /// One more slot is done.
    RollStep = "roll-step",
    /// A single worker was replaced.
    WorkerReplaced = "worker-replaced",
    /// Something else takes over: a newer wish, a changed configuration, the way to another generation.
    RollSuperseded = "roll-superseded",
    /// It waits for the running one.
    RollWaits = "roll-waits",
    RollingBack = "rolling-back",
    RollEnded = "roll-ended",
    /// What a generation was pinned to is gone: it was resolved again.
    PathsResolvedAgain = "paths-resolved-again",
    /// The log has not been written for a while, or is written again: its disk hangs.
    LogHangs = "log-hangs",
    /// A listening socket was shut down by a worker.
    Listener = "listener",
}

/// One event, as `rotad events --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 as long as the master lives; a gap says that some are missing.
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
    /// Why, in one word.
    pub cause: Option<String>,
    /// The whole story, for people.
    pub text: String,
}

impl Event {
    fn bytes(&self) -> usize {
        let texts = [&self.pool, &self.worker, &self.cause].into_iter().flatten().map(String::len).sum::<usize>();
        size_of::<Self>() + self.time.len() + self.text.len() + texts
    }
}

/// The latest events: bounded by their number and by their bytes.
#[derive(Debug, Default)]
pub struct Ring {
    events: VecDeque<Event>,
    bytes: usize,
    last: u64,
}

impl Ring {
    /// Adds an event; its number and time are set here.
    pub fn push(&mut self, mut event: Event) -> &Event {
        self.last += 1;
        event.seq = self.last;
        event.time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if event.text.len() > LONGEST_TEXT {
            let end = (0..=LONGEST_TEXT).rev().find(|end| event.text.is_char_boundary(*end)).unwrap_or(0);
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
        self.events.iter().skip(self.events.len().saturating_sub(most))
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
            assert!(ring.bytes <= MOST_BYTES && ring.bytes == ring.events.iter().map(Event::bytes).sum::<usize>());
        }
        assert!(ring.latest(usize::MAX).all(|event| event.text.len() <= LONGEST_TEXT + 3));
    }

    #[test]
    fn the_words_are_those_of_the_json() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
