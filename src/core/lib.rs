//! The engine of rotad: one pure state machine. An input comes in, commands and notices go out, and the clock is an
//! argument.
//!
//! [`Engine::handle`] applies one [`Input`] (a fact about one worker, or one request), which marks slots and pools as
//! dirty. It then reconciles each of them: the desired state is compared with the actual state, and commands that
//! close the gap are emitted. The supervisor executes the commands and reports what comes of them as later inputs.
//! The crate is `no_std` and has no dependencies, so no clock, file, environment or random number can be reached from
//! here. With the feature `serde`, which the master turns on, its state and its inputs can be written and read again
//! (`state.rs`).
//!
//! State tables stand above the state machines: `worker.rs` (one worker), `pool.rs` (one pool), `roll.rs` (one
//! rolling restart).
#![no_std]
#![forbid(unsafe_code)]
// No input may panic the master: impossible states are kept out by the types.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used,
        clippy::use_self
    )
)]

extern crate alloc;

mod abandon;
mod activity;
mod adopt;
mod dependencies;
mod engine;
mod essential;
mod generations;
mod ids;
mod input;
mod lifecycle;
mod oneshot;
mod output;
mod policy;
mod pool;
mod reconcile;
mod reconfigure;
mod replace;
mod requests;
mod restart;
mod roll;
mod rolling;
mod slot;
mod slot_queue;
mod starting;
#[cfg(feature = "serde")]
mod state;
mod time;
mod timers;
mod unreachable;
mod view;
mod waiters;
mod worker;

pub use engine::Engine;
pub use ids::{Generation, PoolId, Signal, Slot, Ticket, WorkerId};
pub use input::{AdoptedWorker, Exit, Input, Request};
pub use output::{
    Cause, Command, Entry, EssentialLoss, Failure, KillReason, NothingDone, Notice, Outcome,
    Output, Standing, StartFailure, StopReason, SupersededBy, Up,
};
pub use policy::{
    Essential, OnFailure, Policy, PoolKind, Readiness, Reload, Restart, RestartPolicy, StopStep, To,
};
pub use roll::RollState;
#[cfg(feature = "serde")]
pub use state::{RestoreError, SavedEngine};
pub use time::{Span, Time};
pub use view::{
    EmptySlot, EmptyState, PoolState, PoolView, RollView, View, WorkerState, WorkerView,
};
