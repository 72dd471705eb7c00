//! Everything that touches the operating system.

pub mod birth;
pub mod cgroup;
pub mod clock;
pub mod daemon;
pub mod demand;
pub mod house;
pub mod interrupt;
pub mod leftovers;
pub mod lineage;
pub mod notify;
pub mod pen;
pub mod probe;
pub mod proc;
pub mod reactor;
pub mod ready;
pub mod report;
pub mod run;
pub mod signals;
pub mod sockets;
pub mod sweeper;
pub mod sys;
pub mod usage;
pub mod wake;
pub mod watch;
