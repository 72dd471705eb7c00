//! Printing that never panics, shared with what the launcher of a daemon prints.

pub use crate::observe::print::*;
