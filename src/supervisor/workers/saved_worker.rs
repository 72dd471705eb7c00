//! What is saved of a worker's process, and how the next master goes on with it.

use crate::log::SavedOutput;
use crate::log::WorkerOutput;
use crate::notify_socket::{NotifySocket, SavedNotifySocket};
use crate::process::cgroup::{Cgroup, SavedCgroup};
use crate::process::tree::ProcessTree;
use crate::saved_state::is_default;
use crate::supervisor::pool_registry::{PoolRegistry, PoolSpec};
use crate::supervisor::workers::process_table::{DeferredSignal, ProcessStage, WorkerProcess};
use crate::sys::kept_fd::{FdTable, KeptFd};
use crate::sys::process::{Process, SavedProcess};
use rotad_core::{Exit, Generation, PoolId, Slot};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;

/// A worker, from its spawn command on.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedWorker {
    pool: PoolId,
    slot: Slot,
    generation: Generation,
    /// None: that of its generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<Arc<PoolSpec>>,
    tag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<SavedNotifySocket>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<SavedOutput>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup: Option<SavedCgroup>,
    #[serde(default, skip_serializing_if = "is_default")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "is_default")]
    adopted: bool,
    state: SavedWorkerState,
}

/// What of a worker changes in its life; of what has one value at first, nothing is written until it changes.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedWorkerState {
    stage: SavedStage,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec_status: Option<KeptFd>,
    /// Nothing more is expected of its output.
    #[serde(default, skip_serializing_if = "is_default")]
    output_ended: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    status_text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<Exit>,
    #[serde(default, skip_serializing_if = "is_default")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    ready: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    probe_error: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    end_reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
enum SavedStage {
    Spawning(Vec<DeferredSignal>),
    Alive(SavedProcess),
}

impl WorkerProcess {
    /// What the next master needs to go on with it.
    ///
    /// # Errors
    /// Those of fstat(2); none for open descriptors.
    pub(crate) fn saved(&self, pools: &PoolRegistry) -> io::Result<SavedWorker> {
        let of_generation = pools.spec_of(self.pool, self.generation);
        let is_of_generation = of_generation.is_some_and(|spec| Arc::ptr_eq(spec, &self.spec));
        let cgroup = match &self.tree {
            Some(tree) => tree.cgroup.as_ref(),
            None => self.cgroup.as_ref(),
        };
        Ok(SavedWorker {
            pool: self.pool,
            slot: self.slot,
            generation: self.generation,
            spec: (!is_of_generation).then(|| self.spec.clone()),
            tag: self.tag.clone(),
            notify: self.notify.as_ref().map(NotifySocket::saved).transpose()?,
            output: self.output.as_ref().map(WorkerOutput::saved),
            cgroup: cgroup.map(Cgroup::saved),
            port: self.port,
            adopted: self.adopted,
            state: self.saved_state()?,
        })
    }

    /// What of it changes in its life.
    ///
    /// # Errors
    /// As [`WorkerProcess::saved`].
    pub(crate) fn saved_state(&self) -> io::Result<SavedWorkerState> {
        Ok(SavedWorkerState {
            stage: match &self.stage {
                ProcessStage::Spawning(deferred) => SavedStage::Spawning(deferred.clone()),
                ProcessStage::Alive(process) => SavedStage::Alive(process.saved()?),
            },
            exec_status: self.exec_status.as_ref().map(KeptFd::of).transpose()?,
            output_ended: self.output.as_ref().is_some_and(WorkerOutput::has_ended),
            status_text: self.status_text.clone(),
            exit: self.exit,
            error: self.error.clone(),
            ready: self.ready,
            probe_error: self.probe_error.clone(),
            end_reason: self.end_reason.clone(),
        })
    }
}

impl SavedWorker {
    /// It has changed to this.
    pub(crate) fn set_state(&mut self, state: SavedWorkerState) {
        self.state = state;
    }

    /// The worker's process as the dead master knew it. A descriptor that is missing is left out, and said in `doubts`.
    ///
    /// # Errors
    /// `NotFound`: it refers to a spec that was not saved. What [`Process::restore`] says.
    pub(crate) fn restore(
        self,
        pools: &PoolRegistry,
        table: &mut FdTable,
        doubts: &mut Vec<String>,
    ) -> io::Result<WorkerProcess> {
        let spec = self
            .spec
            .or_else(|| pools.spec_of(self.pool, self.generation).cloned())
            .ok_or(io::ErrorKind::NotFound)?;
        let tag = self.tag;
        let mut doubt = |what: &str, error: io::Error| {
            doubts.push(format!("{tag}: its {what} is not there: {error}"));
        };
        let state = self.state;
        let exec_status = state.exec_status.and_then(|kept| {
            let taken = table.take(kept);
            taken.map_err(|error| doubt("exec status", error)).ok()
        });
        let notify = self.notify.and_then(|saved| {
            let restored = NotifySocket::restore(saved, table);
            restored.map_err(|error| doubt("notify socket", error)).ok()
        });
        let pid = match &state.stage {
            SavedStage::Spawning(_) => None,
            SavedStage::Alive(process) => Some(process.pid),
        };
        let output = self.output.and_then(|saved| {
            let worker = (spec.plan.name.as_str(), self.slot.0, pid.unwrap_or(0));
            let (ended, log) = (state.output_ended, &spec.plan.log);
            let restored = WorkerOutput::restore(saved, worker, ended, table, log);
            restored.map_err(|error| doubt("output", error)).ok()
        });
        let cgroup = self.cgroup.and_then(|saved| {
            let restored = Cgroup::restore(saved);
            restored.map_err(|error| doubt("cgroup", error)).ok()
        });
        let stage = match state.stage {
            SavedStage::Spawning(deferred) => ProcessStage::Spawning(deferred),
            SavedStage::Alive(saved) => ProcessStage::Alive(Process::restore(&saved, table)?),
        };
        let (cgroup, tree) = match &stage {
            ProcessStage::Spawning(_) => (cgroup, None),
            ProcessStage::Alive(process) => {
                let leader = process.pid();
                (None, Some(ProcessTree { leader, cgroup }))
            }
        };
        Ok(WorkerProcess {
            pool: self.pool,
            slot: self.slot,
            generation: self.generation,
            spec,
            tag,
            stage,
            exec_status,
            notify,
            output,
            cgroup,
            tree,
            status_text: state.status_text,
            exit: state.exit,
            error: state.error,
            ready: state.ready,
            port: self.port,
            adopted: self.adopted,
            probe_error: state.probe_error,
            end_reason: state.end_reason,
        })
    }
}
