//! The only unsafe code of rotad: one kind of system call a file, each a safe wrapper.
#![allow(unsafe_code)]

pub mod process;
