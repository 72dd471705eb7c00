//! The core of rotad: a fact comes in, orders go out, and the clock is an argument.
//!
//! [`Master::step`] notes one fact about one worker or one wish, then settles every pool that it touched: the pool's
//! wish is compared with what is, and the orders that bring it closer go out. The operating system carries the orders
//! out and reports the next fact. No clock, file, environment or random number can be reached from here: the crate
//! is `no_std` and has no dependencies.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod change;
mod deadline;
mod essential;
mod event;
mod generations;
mod life;
mod master;
mod order;
mod order_of_pools;
mod policy;
mod pool;
mod renew;
mod repair;
mod roll;
mod rolling;
mod settle;
mod starting;
mod step;
mod time;
mod unreachable;
mod view;
mod wish;
mod words;
mod worker;

pub use event::{Event, Exit, Request};
pub use master::Master;
pub use order::{By, Cause, Cut, Failure, Nothing, Order, Outcome, Record, Standing, Why};
pub use policy::{Essential, OnFailure, Policy, PoolKind, Readiness, Reload, Restart, RestartPolicy, Step, To};
pub use roll::RollState;
pub use time::{Span, Time};
pub use view::{EmptySlot, EmptyState, PoolState, PoolView, RollView, View, WorkerState, WorkerView};
pub use words::{Generation, PoolId, Signal, Slot, Ticket, WorkerId};
