//! rotad: a process master. One TOML file describes pools of workers in any language; the master opens the listening
//! sockets, spawns the workers, keeps them alive, and replaces them one after another without losing a request.
//!
//! `docs/architecture.md` tells how the rooms hang together.

pub mod cli;
pub mod config;
pub mod control;
pub mod observe;
pub mod os;
pub mod plan;
