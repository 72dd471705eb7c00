//! What the workers use of the main loop, for one call.

use crate::event_loop::poller::Poller;
use crate::log::LogWriter;
use rotad_core::Time;

/// What the workers need of the main loop.
#[derive(Clone, Copy)]
pub(crate) struct LoopContext<'a> {
    pub poller: &'a Poller,
    pub log: &'a LogWriter,
    pub now: Time,
}
