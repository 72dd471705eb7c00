//! What the other parts know a listener by.

/// The number of a listener, which is never reused.
pub(crate) type ListenerId = u64;
