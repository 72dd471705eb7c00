//! The only unsafe code of rotad: one kind of system call a file, each a safe wrapper.
#![allow(unsafe_code)]

pub mod message;
pub mod process;
pub mod reaper;
pub mod socket;
pub mod xattr;
