//! rotad: a process master. One TOML file describes pools of workers in any language; the master opens the listening
//! sockets, spawns the workers, keeps them alive, and replaces them one after another without losing a request.
//!
//! `docs/architecture.md` describes the modules and how they depend on each other.

// No user input and no failure of the system may end the master: what cannot happen is expressed in types.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used,
        clippy::use_self,
        clippy::disallowed_methods
    )
)]

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod event_loop;
pub mod exit_code;
pub mod guardian;
pub mod import;
pub mod listener;
pub mod log;
pub mod notify_socket;
pub mod observe;
pub mod plan;
pub mod probe;
pub mod process;
pub mod runtime_dir;
pub mod saved_state;
pub mod supervisor;
pub mod sys;
pub mod upgrade;
pub mod watch;
