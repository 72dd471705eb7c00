//! The budget of open files: how many descriptors the master needs, and whether its limit allows them.

use crate::exit_code::ExitCode;
use crate::observe::counted::counted;
use crate::plan::{Kind, Plan};
use crate::supervisor::Failed;
use crate::supervisor::fd_table::{grow_fd_table, need, workers};
use crate::supervisor::reload::lookup::Lookup;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rotad_core::PoolId;

fn too_low(workers: u64, need: u64, hard: u64) -> String {
    let needs = if workers == 1 { "needs" } else { "need" };
    let workers = counted(workers, "worker");
    format!(
        "{workers} (surge included) {needs} {need} open files, but the limit is {hard}: raise it (ulimit -n, \
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
