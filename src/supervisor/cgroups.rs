//! A cgroup for each worker, where they may be made. Trouble with them is told once, and keeps no worker from being
//! born.

use super::process_table::WorkerProcess;
use crate::process::cgroup::{Cgroup, Cgroups};
use rotad_core::WorkerId;
use std::path::Path;

#[derive(Debug)]
pub(super) struct WorkerCgroups {
    cgroups: Option<Cgroups>,
    /// One worker has been seen inside.
    proven: bool,
    told: bool,
}

impl WorkerCgroups {
    /// `name`: the master's.
    pub(super) fn find(name: &str) -> Self {
        let cgroups = Cgroups::find(name);
        if let Some(cgroups) = &cgroups {
            tracing::info!("each worker gets a cgroup of its own in {}", cgroups.base().display());
        }
        Self { cgroups, proven: false, told: false }
    }

    /// Where the workers' cgroups are made.
    pub(super) fn base(&self) -> Option<&Path> {
        self.cgroups.as_ref().map(Cgroups::base)
    }

    /// None: the worker is fenced by its group, its session and its environment alone.
    pub(super) fn make(&mut self, worker: WorkerId) -> Option<Cgroup> {
        match self.cgroups.as_ref()?.make(worker) {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("a worker has no cgroup of its own: it cannot be made: {error}");
                }
                None
            }
        }
    }

    /// Looks once whether workers do get in: the half-born child that is refused has no way to say so. What is refused
    /// to the first is refused to all, so no more are made.
    pub(super) fn prove(&mut self, body: &WorkerProcess) {
        let cgroup = body.family.as_ref().and_then(|family| family.cgroup.as_ref());
        let (false, Some(cgroup), Some(pid)) = (self.proven, cgroup, body.pid()) else { return };
        self.proven = true;
        // It may have ended by now: until it is reaped, it still says where it was.
        if !cgroup.contains(pid) {
            tracing::warn!("workers get no cgroup of their own: the kernel does not let them in");
            self.cgroups = None;
        }
    }
}
