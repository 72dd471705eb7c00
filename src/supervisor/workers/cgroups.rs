//! One cgroup for each worker, where the master may create them. A failure is reported once, and prevents no spawn.

use crate::observe::events::EventKind;
use crate::process::cgroup::{Cgroup, Cgroups, SavedCgroup};
use crate::supervisor::action::Action;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::workers::process_table::WorkerProcess;
use rotad_core::WorkerId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct WorkerCgroups {
    cgroups: Option<Cgroups>,
    /// Whether workers can join their cgroup has been checked.
    proven: bool,
    /// That one cannot be created was reported.
    reported: bool,
}

/// What is saved of the cgroups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedCgroups {
    cgroups: Option<SavedCgroup>,
    proven: bool,
    reported: bool,
}

impl WorkerCgroups {
    /// What the next master needs to go on with them.
    pub(crate) fn saved(&self) -> SavedCgroups {
        SavedCgroups {
            cgroups: self.cgroups.as_ref().map(Cgroups::saved),
            proven: self.proven,
            reported: self.reported,
        }
    }

    /// Goes on with the cgroups of a dead master; without, if their directory was removed.
    pub(crate) fn restore(saved: SavedCgroups) -> Self {
        let cgroups = saved.cgroups.map(Cgroups::restore).transpose();
        Self {
            cgroups: cgroups.unwrap_or_else(|error| {
                tracing::warn!("workers get no cgroup of their own any more: {error}");
                None
            }),
            proven: saved.proven,
            reported: saved.reported,
        }
    }
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
            reported: false,
        }
    }

    /// Goes on with the cgroups of a dead master, whose workers are adopted.
    pub(crate) fn adopt(base: PathBuf) -> Self {
        Self {
            cgroups: Some(Cgroups::at(base)),
            proven: false,
            reported: false,
        }
    }

    /// The cgroup of an adopted worker. None: it has none.
    pub(crate) fn existing(&self, worker: WorkerId) -> Option<Cgroup> {
        self.cgroups.as_ref()?.existing(worker)
    }

    /// The directory of the workers' cgroups.
    pub(crate) fn base(&self) -> Option<&Path> {
        self.cgroups.as_ref().map(Cgroups::base)
    }

    /// Creates the worker's cgroup. None: the worker is held together by its process group, session and environment
    /// alone. The action reports a failure.
    pub(crate) fn make(&mut self, worker: WorkerId) -> (Option<Cgroup>, Option<Action>) {
        let Some(cgroups) = &self.cgroups else {
            return (None, None);
        };
        match cgroups.make(worker) {
            Ok(cgroup) => (Some(cgroup), None),
            Err(_) if self.reported => (None, None),
            Err(error) => {
                self.reported = true;
                let text = format!(
                    "it has no cgroup of its own, which cannot be made: {error}; its processes are found by their \
                     group, session and environment, as those of later workers to which that happens"
                );
                (None, Some(failed(worker, "not-made", text)))
            }
        }
    }

    /// Checks once that workers can join their cgroup: a child that is refused cannot report it before exec. If the
    /// first one could not, cgroups are switched off, which the action reports.
    pub(crate) fn prove(&mut self, worker: WorkerId, process: &WorkerProcess) -> Option<Action> {
        let cgroup = process.tree.as_ref().and_then(|tree| tree.cgroup.as_ref());
        let (false, Some(cgroup), Some(pid)) = (self.proven, cgroup, process.pid()) else {
            return None;
        };
        self.proven = true;
        // Also works if it has exited: until it is reaped, /proc/PID/cgroup still says where it was.
        if cgroup.contains(pid) {
            return None;
        }
        self.cgroups = None;
        let text = "workers get no cgroup of their own: the kernel did not let this one in; their processes are found \
                    by their group, session and environment";
        Some(failed(worker, "not-joined", text.to_owned()))
    }
}

fn failed(worker: WorkerId, cause: &'static str, text: String) -> Action {
    let event = EventBuilder::new(EventKind::Cgroup, text).worker(worker);
    Action::Emit(event.cause(cause).warn())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_master_goes_on_with_the_cgroups_and_removes_them() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("rotad-t-1");
        std::fs::create_dir(&base).unwrap();
        let restored = |proven| {
            let text = format!(
                r#"{{"cgroups": {}, "proven": {proven}, "reported": false}}"#,
                serde_json::to_string(&base.to_str()).unwrap()
            );
            let saved: SavedCgroups = serde_json::from_str(&text).unwrap();
            let cgroups = WorkerCgroups::restore(saved.clone());
            (saved, cgroups)
        };
        let (saved, mut cgroups) = restored(true);
        assert_eq!(cgroups.base(), Some(&*base));
        assert_eq!(cgroups.saved(), saved);
        let cgroup = cgroups.make(WorkerId(7)).0.unwrap();
        let text = serde_json::to_string(&cgroup.saved()).unwrap();
        assert!(base.join("7").is_dir());
        let again = Cgroup::restore(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.procs(), cgroup.procs());
        drop(again);
        assert!(Cgroup::restore(cgroup.saved()).is_err());
        drop((cgroup, cgroups));
        assert!(!base.exists());
        assert_eq!(restored(false).1.base(), None);
    }
}
