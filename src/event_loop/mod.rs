//! The building blocks of the master's event loops: clock, poller, signals, waker, mailbox,
//! progress of threads. They know nothing of workers or
//! pools.

pub mod clock;
pub mod mailbox;
pub mod poller;
pub mod progress;
pub mod signal_pipe;
pub mod signals;
pub mod waker;
