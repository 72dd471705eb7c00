//! The only unsafe code of rotad: one kind of system call per file, each in a safe wrapper.
#![allow(unsafe_code, reason = "only here, each block with its reason")]

pub mod child_setup;
pub mod clone;
pub mod descriptors;
pub mod exec;
pub mod fds;
pub mod fork;
pub mod kept_fd;
pub mod local_time;
pub mod message;
pub mod poll;
pub mod process;
pub mod reaper;
pub mod resident_pages;
pub mod shared_memory;
pub mod signal;
pub mod sock_diag;
pub mod socket;
pub mod terminal;
pub mod thread;
pub mod title;
pub mod xattr;
