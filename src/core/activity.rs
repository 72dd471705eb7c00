//! Whether a pool runs. What each request does in each activity: the table at the top of `pool.rs`.

/// Whether the pool's workers should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) enum Activity {
    Running,
    /// Everything stops, and this pool serves until the pools that depend on it have stopped. No new worker is
    /// started.
    AwaitingDependents,
    Stopping,
    Stopped,
}
