//! What is asked before something is stopped or replaced.

use super::target::Target;
use rotad::control::protocol::{Method, ReloadScope, ScaleTo};
use rotad::observe::status::Status;

/// A question, until it is answered.
#[derive(Debug)]
pub(super) struct Question {
    /// The command as it would be typed in a shell.
    pub(super) command: String,
    pub(super) text: String,
    pub(super) methods: Vec<Method>,
}

/// What is asked before these requests. None: they stop and replace nothing.
pub(super) fn text(methods: &[Method], status: &Status) -> Option<String> {
    let asked = methods.iter().filter_map(|method| of(method, status));
    let asked: Vec<String> = asked.collect();
    match asked.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(several.join(" ")),
    }
}

fn of(method: &Method, status: &Status) -> Option<String> {
    let pools = |names: &[String], all: &str| match names {
        [] => all.to_owned(),
        names => names.join(", "),
    };
    let workers = |name: &str| {
        let pool = status.pools.iter().find(|pool| pool.name == *name)?;
        Some(match pool.alive {
            1 => "the worker".to_owned(),
            alive => format!("the {alive} workers"),
        })
    };
    let of_pools = |names: &[String], all: &str| match names {
        [one] => match workers(one) {
            Some(workers) => format!("{workers} of {one}"),
            None => one.clone(),
        },
        names => pools(names, all),
    };
    match method {
        Method::Stop { pools, now } => {
            let how = if *now { "Kill" } else { "Stop" };
            Some(match pools.as_slice() {
                [] => format!("{how} every worker, and the master?"),
                names => format!(
                    "{how} {}? Stopped until `rotad start {}`.",
                    of_pools(names, ""),
                    names.join(" ")
                ),
            })
        }
        Method::Roll { which, .. } => Some(match (which.workers, which.tasks) {
            (false, false) => format!(
                "Replace {}, one after another?",
                of_pools(&which.pools, "the workers of every pool")
            ),
            (workers, _) => {
                let kind = if workers { "worker" } else { "task" };
                format!("Replace the workers of every pool of kind {kind}, one after another?")
            }
        }),
        Method::Replace { pool, slot, .. } => {
            let target = Target::slot(pool, *slot);
            Some(format!("Replace worker {target} by a new one?"))
        }
        Method::Reload { extent, which, .. } => match extent {
            ReloadScope::DryRun | ReloadScope::DryRunJson => None,
            ReloadScope::ConfigOnly => {
                Some("Read the configuration again, and apply what changed?".to_owned())
            }
            ReloadScope::Everything => Some(format!(
                "Read the configuration again, and roll {}?",
                pools(&which.pools, "every pool")
            )),
        },
        Method::Rollback { dry_run: true, .. } => None,
        Method::Rollback {
            pools: names, to, ..
        } => {
            let to = to.map_or("the generation before".to_owned(), |to| {
                format!("generation {to}")
            });
            Some(format!("Roll {} back to {to}?", pools(names, "every pool")))
        }
        Method::Cancel { pools: names } => Some(format!(
            "Cancel the rolling restart of {}?",
            pools(names, "every pool")
        )),
        Method::Scale { pool, to } => {
            let wanted = status.pools.iter().find(|one| one.name == *pool)?.wanted;
            let new = match to {
                ScaleTo::Exactly(new) => i64::from(*new),
                ScaleTo::By(more) => i64::from(wanted) + more,
            };
            // The master has the last word on what is possible.
            (new < i64::from(wanted)).then(|| {
                format!(
                    "Stop {} of the {wanted} workers of {pool}?",
                    i64::from(wanted) - new
                )
            })
        }
        Method::Signal { pool, slot, signal } => {
            let slot = *slot;
            let pool = pool.clone();
            Some(format!(
                "Send signal {signal} to {}?",
                Target { pool, slot }
            ))
        }
        Method::Upgrade { .. } => Some("Replace the running master by this program?".to_owned()),
        Method::Start { .. }
        | Method::Where
        | Method::Status
        | Method::Metrics
        | Method::ScrapeTargets
        | Method::InProgress { .. }
        | Method::Logs { .. }
        | Method::Hook { .. }
        | Method::Events { .. } => None,
    }
}
