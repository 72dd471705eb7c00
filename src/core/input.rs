//! Facts, and the wishes among them.

use crate::{Generation, Policy, PoolId, Slot, Span, Ticket, WorkerId};
use alloc::vec::Vec;

/// A fact. A fact about a worker that is gone is expected and changes nothing.
#[allow(clippy::large_enum_variant, reason = "an event lives for one step; wishes are rare")]
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one is handed in at a time, and a wish is rare")]
pub enum Input {
    /// The worker's program runs: exec succeeded.
    Started(WorkerId),
    /// No worker came of the order: fork refused, no such program, no such directory.
    SpawnFailed(WorkerId),
    /// Something says that the worker is ready: itself, a check, or what can be seen of it. One that was called alive
    /// for its age alone is ready from now on.
    Ready(WorkerId),
    /// Nothing can say whether this worker is ready, and it has lived for as long as has to do instead.
    AgeReached(WorkerId),
    /// The worker serves, but its health check has failed for good.
    Unhealthy(WorkerId),
    /// A listening socket that these workers hold was replaced by a new one: no new connection reaches them.
    Unreachable(Vec<WorkerId>),
    /// What these workers, which are starting, have wanted of processors lately: had or waited for, in percent of one.
    /// Asked for while [`crate::View::limits_starts`].
    Demand(Vec<(WorkerId, u32)>),
    /// The worker asked for that much more time, from now on, for what it is doing (starting or stopping).
    TimeoutExtended(WorkerId, Span),
    /// The worker's first process has ended; the rest of its tree may still live.
    Exited(WorkerId, Exit),
    /// Nothing of the worker's tree is left.
    TreeGone(WorkerId),
    /// The generation's folder and program have been resolved. `same`: it is made from exactly what the generation
    /// before was made from, so going back to that one would change nothing.
    Pinned {
        pool: PoolId,
        generation: Generation,
        same: bool,
    },
    Requested(Ticket, Request),
    /// The deadline that the core asked for has come.
    TimerFired,
}

/// How a process ended (wait(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal {
        signal: i32,
        core_dumped: bool,
    },
    /// It has ended, and nobody can say how. Counts as a failure.
    Unknown,
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Have this pool, with this policy: a new pool starts with generation 1; an old one keeps its workers.
    EnsurePool(PoolId, Policy),
    /// A person starts this pool: slots that stay empty until somebody acts are filled again, and one that was stopped
    /// is wanted again.
    Start(PoolId),
    /// Stop this pool's workers; the pool stays, stopped, until it is kept again.
    StopPool(PoolId),
    /// Stop this pool's workers; once nothing of them is left, forget the pool.
    Remove(PoolId),
    /// Replace every worker by one of a new generation.
    Roll(PoolId),
    /// The pool's configuration has changed: this policy, and every worker replaced by one of a new generation. It
    /// supersedes any rolling restart. A stopped pool only gets the policy; an unknown one is kept.
    Reconfigure {
        pool: PoolId,
        policy: Policy,
    },
    /// Replace every worker by one of an older generation, with the policy of that time.
    RollBack {
        pool: PoolId,
        to: Generation,
        policy: Policy,
    },
    /// Replace the worker of one slot by a new one of the same generation.
    Replace(PoolId, Slot),
    /// End the running rolling restart, back to the last generation that served in full.
    Cancel(PoolId),
    Scale(PoolId, u32),
    /// Stop everything politely, at the latest within `cap`, then leave.
    Stop {
        cap: Option<Span>,
    },
    /// Kill everything, then leave.
    StopNow,
}
