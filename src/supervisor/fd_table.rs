//! The size of the descriptor table: how many descriptors a plan needs, and a table that has room for them from the start.

use crate::plan::Plan;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Descriptors that the master needs for itself, and for each worker: pidfd, notify socket, both output pipes.
const OWN_DESCRIPTORS: u64 = 34;
const PER_WORKER: u64 = 4;
/// For each log file of a pool: the file and its directory.
const PER_LOG: u64 = 2;
/// Reserve for clients of the control socket, draining workers and spawns in progress. A table entry takes 8 bytes.
const CLIENTS_AND_ROLLS: u64 = 256;
const MAX_TABLE: u64 = 1 << 17;

/// How many descriptors the master needs.
pub(super) fn need(listeners: usize, pools: usize, workers: u64) -> u64 {
    OWN_DESCRIPTORS + listeners as u64 + PER_LOG * pools as u64 + PER_WORKER * workers
}

/// For how many workers of one pool this many descriptors are enough, while nothing drains.
pub fn workers_within(descriptors: u64) -> u64 {
    descriptors.saturating_sub(need(1, 1, 0) + CLIENTS_AND_ROLLS) / PER_WORKER
}

/// How many workers run at most, while nothing drains.
pub(super) fn workers(plan: &Plan) -> u64 {
    plan.pools
        .iter()
        .map(|p| u64::from(p.policy.count) + u64::from(p.policy.reload.surge))
        .sum()
}

/// Grows the descriptor table for this plan, in a process that is about to fork one that shares it. The limits
/// stay as they are.
pub fn prepare_fd_table(plan: &Plan) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    let need = need(plan.listeners.len(), plan.pools.len(), workers(plan));
    grow_fd_table(need, hard);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).ok();
}

/// Grows the descriptor table to its final size while only one thread of one process has it. One that several have, the
/// kernel grows only after an RCU grace period: up to 20 ms in which nothing is spawned (fs/file.c).
pub(super) fn grow_fd_table(need: u64, hard: u64) {
    let top = (need + CLIENTS_AND_ROLLS)
        .next_power_of_two()
        .min(hard)
        .min(MAX_TABLE);
    let high = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(top.saturating_sub(1) as i32);
    if let Ok(fd) = nix::fcntl::fcntl(io::stderr(), high) {
        nix::unistd::close(fd).ok();
    }
}
