//! What is saved of a worker's process, and how the next master goes on with it.

use crate::log::SavedOutput;
use crate::log::WorkerOutput;
use crate::notify_socket::{NotifySocket, SavedNotifySocket};
use crate::process::cgroup::{Cgroup, SavedCgroup};
use crate::process::tree::ProcessTree;
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
    spec: Option<Arc<PoolSpec>>,
    tag: String,
    stage: SavedStage,
    exec_status: Option<KeptFd>,
    notify: Option<SavedNotifySocket>,
    output: Option<SavedOutput>,
    cgroup: Option<SavedCgroup>,
    status_text: Option<String>,
    exit: Option<Exit>,
    error: Option<String>,
    ready: bool,
    port: Option<u16>,
    probe_error: Option<String>,
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
            stage: match &self.stage {
                ProcessStage::Spawning(deferred) => SavedStage::Spawning(deferred.clone()),
                ProcessStage::Alive(process) => SavedStage::Alive(process.saved()?),
            },
            exec_status: self.exec_status.as_ref().map(KeptFd::of).transpose()?,
            notify: self.notify.as_ref().map(NotifySocket::saved).transpose()?,
            output: self.output.as_ref().map(WorkerOutput::saved).transpose()?,
            cgroup: cgroup.map(Cgroup::saved),
            status_text: self.status_text.clone(),
            exit: self.exit,
            error: self.error.clone(),
            ready: self.ready,
            port: self.port,
            probe_error: self.probe_error.clone(),
            end_reason: self.end_reason.clone(),
        })
    }
}

impl SavedWorker {
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
        let exec_status = self.exec_status.and_then(|kept| {
            let taken = table.take(kept);
            taken.map_err(|error| doubt("exec status", error)).ok()
        });
        let notify = self.notify.and_then(|saved| {
            let restored = NotifySocket::restore(saved, table);
            restored.map_err(|error| doubt("notify socket", error)).ok()
        });
        let output = self.output.and_then(|saved| {
            let restored = WorkerOutput::restore(saved, table, &spec.plan.log);
            restored.map_err(|error| doubt("output", error)).ok()
        });
        let cgroup = self.cgroup.and_then(|saved| {
            let restored = Cgroup::restore(saved);
            restored.map_err(|error| doubt("cgroup", error)).ok()
        });
        let stage = match self.stage {
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
            status_text: self.status_text,
            exit: self.exit,
            error: self.error,
            ready: self.ready,
            port: self.port,
            probe_error: self.probe_error,
            end_reason: self.end_reason,
        })
    }
}
