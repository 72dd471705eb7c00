//! Everything that touches the operating system.

pub mod birth;
pub mod cgroup;
pub mod daemon;
pub mod house;
pub mod leftovers;
pub mod lineage;
pub mod notify;
pub mod proc;
pub mod ready;
pub mod sockets;
pub mod sys;
pub mod wake;
