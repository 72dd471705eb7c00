//! The state of the master in the memory that outlives it: what is written ([`store::Store`]), and how a part is known
//! to have changed ([`tracked::Tracked`]). The supervisor writes it before each act that cannot be undone, and the next
//! master reads it.

pub mod format;
pub mod os_text;
pub mod pairs;
pub mod store;
pub mod tracked;
