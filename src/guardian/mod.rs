//! The guardian: a small process above the master that outlives it. `cli/run.rs` calls [`guard`] before the master
//! opens anything; it returns in each master, and in the guardian once the last master has ended on purpose.
//!
//! The guardian and its masters share one descriptor table (`sys::fork`), so everything that a master has open stays
//! open when it dies, under the same number. They share memory as well ([`SharedState`]), in which the master keeps its
//! state. As the subreaper above the master the guardian becomes the parent of workers whose master has died; it holds
//! their exit status until the next master has asked for it ([`Link`]). It takes the signals that are meant for the
//! master, and passes them on with their sender.
//!
//! It has one thread, allocates nothing after its start but for messages, and sleeps until a signal or a message comes.

mod children;
mod handover;
mod link;
mod manager_socket;
mod page;
mod supervise;

pub use link::{Link, LinkMessage};
pub use manager_socket::ManagerSocket;
pub use page::{Arrivals, Death, MasterDeaths, Setback, SharedState, Succession, is_guardian};
pub use supervise::{Side, guard, resume};
