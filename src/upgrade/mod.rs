//! Upgrades: what can be known of a program before it replaces the running one. `supervisor/upgrade.rs` has the rest.

mod candidate;

pub use candidate::{Answer, CHECK_VERB, Candidate, FileId};
