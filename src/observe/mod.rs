//! What the master shows to the outside: status, events, and how text is made safe to print. The supervisor fills the
//! types in, the control socket carries them, the commands print them.

pub mod clip;
pub mod counted;
pub mod events;
pub mod metrics;
pub mod print;
pub mod sanitize;
pub mod scrape;
pub mod status;
pub mod worker_output;
