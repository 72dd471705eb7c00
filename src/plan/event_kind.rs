//! The words for what the master does. They are part of the configuration, since hooks name those that they are run for.

use serde::{Deserialize, Serialize};

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

            /// The word for scripts.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

words! {
    /// The master has started.
    MasterStarted = "master-started",
    /// Workers that a killed master had left behind were stopped first.
    TookOver = "took-over",
    /// Workers that a killed master has left were adopted.
    Adopted = "adopted",
    /// The worker journal, which the next start relies on, cannot be written or is complete again.
    Journal = "journal",
    /// The master stops everything.
    MasterStopping = "master-stopping",
    /// The last worker is gone; the master exits.
    MasterStopped = "master-stopped",
    /// A master has died, and another one goes on with its workers.
    MasterRestored = "master-restored",
    /// The guardian has died: the master takes its place, or goes on without one.
    GuardianLost = "guardian-lost",
    /// The master is replaced by another program.
    UpgradeStarted = "upgrade-started",
    /// The master was replaced by another program, which works.
    Upgraded = "upgraded",
    /// The program of an upgrade was refused, or did not work and was given up.
    UpgradeFailed = "upgrade-failed",
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
    /// A worker waits for a free port of its pool's `ports`.
    PortsExhausted = "ports-exhausted",
    /// A worker's process was spawned.
    Spawn = "spawn",
    /// A worker could not be spawned: its program, directory or user cannot be used.
    SpawnFailed = "spawn-failed",
    /// A worker is ready.
    Ready = "ready",
    /// The first worker of a new generation has served for its soak time.
    CanaryPassed = "canary-passed",
    /// A worker was not ready in time.
    NotReady = "not-ready",
    /// A worker exited without having been asked to.
    Exit = "exit",
    /// A health check failed, but not often enough to count; or a worker cannot be probed.
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
    /// A worker has ended, and cannot be reaped yet.
    Zombie = "zombie",
    /// A worker exited after it was asked to stop.
    Stopped = "stopped",
    /// Processes that a worker left behind were killed.
    DescendantsKilled = "descendants-killed",
    /// A process that some worker left behind; which one is unknown.
    Orphan = "orphan",
    /// SIGKILL does not end a worker, or something that workers left behind.
    Unkillable = "unkillable",
    /// All workers of a pool are ready.
    PoolReady = "pool-ready",
    /// The last worker of a stopped pool is gone.
    PoolStopped = "pool-stopped",
    /// The pool is no longer configured, and its last worker is gone.
    PoolRemoved = "pool-removed",
    /// A oneshot has succeeded.
    OneshotDone = "oneshot-done",
    /// A pool failed so often that only one worker is tried at a time.
    CrashLoop = "crash-loop",
    /// The tried worker is ready: the other slots are filled again.
    CrashLoopEases = "crash-loop-eases",
    /// A crash loop has ended.
    CrashLoopOver = "crash-loop-over",
    /// An essential pool had no ready worker for too long: the master stops.
    EssentialLost = "essential-lost",
    /// An essential pool has ended (`essential = "exit"`): the master stops with its code.
    EssentialEnded = "essential-ended",
    /// A program went into the background, where it cannot be supervised.
    Background = "background",
    /// A pool is not rolled with the others, since nothing that it is made from has changed.
    PassedOver = "passed-over",
    /// A rolling restart has begun.
    RollStarted = "roll-started",
    /// A rolling restart has completed one more slot.
    RollStep = "roll-step",
    /// A single worker was replaced.
    WorkerReplaced = "worker-replaced",
    /// A rolling restart was superseded by a newer request, a changed configuration or a rollback.
    RollSuperseded = "roll-superseded",
    /// A rolling restart waits for the running one.
    RollWaits = "roll-waits",
    /// A rolling restart failed: the pool returns to the last generation that served.
    RollingBack = "rolling-back",
    /// A rolling restart has ended; the cause says how.
    RollEnded = "roll-ended",
    /// The paths that a generation had been resolved to are gone: they were resolved again.
    PathsResolvedAgain = "paths-resolved-again",
    /// The log has not been written for a while because its disk hangs, or is written again.
    LogHangs = "log-hangs",
    /// Workers have no cgroup of their own.
    Cgroup = "cgroup",
    /// The master cannot wait for a worker's exit, or for what it sends.
    Unwatched = "unwatched",
    /// A worker shut down a listening socket, or a change of one failed.
    Listener = "listener",
    /// A hook failed, took too long, or could not be run.
    HookFailed = "hook-failed",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_names_in_json() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }
}
