//! The budget of open files: how many descriptors the master needs, and whether its limit allows them.

use crate::exit_code::ExitCode;
use crate::plan::{Kind, Plan};
use crate::supervisor::Failed;
use crate::supervisor::reload::lookup::Lookup;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rotad_core::PoolId;
use std::io;

/// Descriptors that the master needs for itself, and for each worker: pidfd, notify socket, both output pipes.
const OWN_DESCRIPTORS: u64 = 34;
const PER_WORKER: u64 = 4;
/// For each log file of a pool: the file and its directory.
const PER_LOG: u64 = 2;
/// Reserve for clients of the control socket, draining workers and spawns in progress. A table entry takes 8 bytes.
const CLIENTS_AND_ROLLS: u64 = 256;
const MAX_TABLE: u64 = 1 << 17;

fn need(listeners: usize, pools: usize, workers: u64) -> u64 {
    OWN_DESCRIPTORS + listeners as u64 + PER_LOG * pools as u64 + PER_WORKER * workers
}

fn workers(plan: &Plan) -> u64 {
    plan.pools
        .iter()
        .map(|p| u64::from(p.policy.count) + u64::from(p.policy.reload.surge))
        .sum()
}

fn too_low(workers: u64, need: u64, hard: u64) -> String {
    format!(
        "{workers} workers (surge included) need {need} open files, but the limit is {hard}: raise it (ulimit -n, \
         LimitNOFILE=), or have fewer workers"
    )
}

/// Raises our own soft limit of open files as far as allowed; workers get the original limits. Too low a limit is
/// reported now, not when the hundredth worker fails.
pub(crate) fn raise_nofile(plan: &Plan) -> Result<(u64, u64), Failed> {
    let found = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|e| Failed::at("cannot read the limit of open files", e))?;
    let workers = workers(plan);
    let need = need(plan.listeners.len(), plan.pools.len(), workers);
    let hard = raise(need).map_err(|hard| Failed {
        code: ExitCode::FAILED,
        message: too_low(workers, need, hard),
    })?;
    grow_fd_table(need, hard);
    Ok((found.0, found.1))
}

/// Raises both limits, the hard one to `need` at least. The error is the hard limit that is too low.
fn raise(need: u64) -> Result<u64, u64> {
    let (soft, mut hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|_| 0_u64)?;
    if hard < need && setrlimit(Resource::RLIMIT_NOFILE, need, need).is_ok() {
        hard = need;
    }
    if hard < need {
        return Err(hard);
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
    Ok(hard)
}

/// Grows the descriptor table to its final size while there is only one thread. In a process with threads, the kernel
/// grows the table only after an RCU grace period: up to 20 ms in which nothing is spawned (fs/file.c).
fn grow_fd_table(need: u64, hard: u64) {
    let top = (need + CLIENTS_AND_ROLLS)
        .next_power_of_two()
        .min(hard)
        .min(MAX_TABLE);
    let high = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(top.saturating_sub(1) as i32);
    if let Ok(fd) = nix::fcntl::fcntl(io::stderr(), high) {
        nix::unistd::close(fd).ok();
    }
}

impl Lookup<'_> {
    /// Whether a new configuration's workers fit into the limit, beside those that still drain.
    pub(crate) fn has_room_for(&self, plan: &Plan) -> Result<(), String> {
        let scaled = |name: &str| {
            self.pools
                .find(name)
                .and_then(|pool| self.pools.scaled(pool))
        };
        let count = |name: &str, file: u32| u64::from(scaled(name).unwrap_or(file));
        let workers: u64 = plan
            .pools
            .iter()
            .map(|p| {
                count(&p.name, p.policy.count).max(p.policy.count.into())
                    + u64::from(p.policy.reload.surge)
            })
            .sum();
        let listeners = plan.listeners.len() + self.listening.ids().len();
        let need = need(listeners, plan.pools.len(), workers);
        raise(need)
            .map(drop)
            .map_err(|hard| too_low(workers, need, hard))
    }

    pub(crate) fn has_room_to_scale(&self, pool: PoolId, count: u32) -> Result<(), String> {
        let pools = self
            .pools
            .iter()
            .filter(|(_, plan)| plan.kind != Kind::Oneshot);
        let workers: u64 = pools
            .filter_map(|(id, _)| Some((id, self.pools.policy(id)?)))
            .map(|(id, policy)| {
                u64::from(if id == pool { count } else { policy.count })
                    + u64::from(policy.reload.surge)
            })
            .sum();
        let need = need(
            self.listening.ids().len(),
            self.pools.names().len(),
            workers,
        );
        raise(need)
            .map(drop)
            .map_err(|hard| too_low(workers, need, hard))
    }
}
