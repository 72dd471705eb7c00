//! One cgroup for each worker, where the master may create them. A failure is logged once, and prevents no spawn.

use crate::process::cgroup::{Cgroup, Cgroups};
use crate::supervisor::workers::process_table::WorkerProcess;
use rotad_core::WorkerId;
use std::path::Path;

#[derive(Debug)]
pub(crate) struct WorkerCgroups {
    cgroups: Option<Cgroups>,
    /// Whether workers can join their cgroup has been checked.
    proven: bool,
    told: bool,
}

impl WorkerCgroups {
    /// `name`: the master's name.
    pub(crate) fn find(name: &str) -> Self {
        let cgroups = Cgroups::find(name);
        if let Some(cgroups) = &cgroups {
            tracing::info!(
                "each worker gets a cgroup of its own in {}",
                cgroups.base().display()
            );
        }
        Self {
            cgroups,
            proven: false,
            told: false,
        }
    }

    /// The directory of the workers' cgroups.
    pub(crate) fn base(&self) -> Option<&Path> {
        self.cgroups.as_ref().map(Cgroups::base)
    }

    /// Creates the worker's cgroup. None: the worker is held together by its process group, session and environment
    /// alone.
    pub(crate) fn make(&mut self, worker: WorkerId) -> Option<Cgroup> {
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

    /// Checks once that workers can join their cgroup: a child that is refused cannot report it before exec. If the
    /// first one could not, cgroups are switched off.
    pub(crate) fn prove(&mut self, process: &WorkerProcess) {
        let cgroup = process.tree.as_ref().and_then(|tree| tree.cgroup.as_ref());
        let (false, Some(cgroup), Some(pid)) = (self.proven, cgroup, process.pid()) else {
            return;
        };
        self.proven = true;
        // Also works if it has exited: until it is reaped, /proc/PID/cgroup still says where it was.
        if !cgroup.contains(pid) {
            tracing::warn!("workers get no cgroup of their own: the kernel does not let them in");
            self.cgroups = None;
        }
    }
}
