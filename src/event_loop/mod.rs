//! The parts that every event loop of the master is made of. They know nothing of workers or pools.

pub mod clock;
pub mod poller;
pub mod signal_pipe;
pub mod signals;
pub mod waker;
