//! The core of rotad: a fact comes in, orders go out, and the clock is an argument.
//!
//! [`Engine::step`] notes one fact about one worker or one wish, then settles every pool that it touched: the pool's
//! wish is compared with what is, and the orders that bring it closer go out. The operating system carries the orders
//! out and reports the next fact. No clock, file, environment or random number can be reached from here: the crate
//! is `no_std` and has no dependencies.
#![no_std]
#![forbid(unsafe_code)]
// No event may end the master: what cannot happen is expressed in types.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::panic, clippy::unreachable, clippy::unwrap_used, clippy::use_self)
)]

extern crate alloc;

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
mod starting;
mod time;
mod timers;
mod unreachable;
mod view;
mod worker;

pub use engine::Engine;
pub use ids::{Generation, PoolId, Signal, Slot, Ticket, WorkerId};
pub use input::{Exit, Input, Request};
pub use output::{
    Cause, Command, Failure, KillReason, NothingDone, Notice, Outcome, Standing, StopReason, SupersededBy,
};
pub use policy::{Essential, OnFailure, Policy, PoolKind, Readiness, Reload, Restart, RestartPolicy, StopStep, To};
pub use roll::RollState;
pub use time::{Span, Time};
pub use view::{EmptySlot, EmptyState, PoolState, PoolView, RollView, View, WorkerState, WorkerView};
