//! What the decisions of a reload, a rollback, a roll and a start read of the other parts. It changes nothing, and needs no
//! supervisor: `Supervisor::lookup` makes one for each decision.

use crate::plan::Plan;
use crate::supervisor::Supervisor;
use crate::supervisor::listening::Listening;
use crate::supervisor::pool_registry::PoolRegistry;
use crate::supervisor::workers::process_table::ProcessTable;
use crate::supervisor::workers::spawn_spec::SpawnSpecs;
use rotad_core::View;

/// Read-only access to the configuration in force, the pools and what they run.
pub(crate) struct Lookup<'a> {
    pub plan: &'a Plan,
    pub engine: View<'a>,
    pub pools: &'a PoolRegistry,
    pub specs: &'a SpawnSpecs,
    pub listening: &'a Listening,
    pub processes: &'a ProcessTable,
    /// Everything stops.
    pub stopping: bool,
}

impl Supervisor {
    pub(crate) fn lookup(&self) -> Lookup<'_> {
        Lookup {
            plan: &self.plan,
            engine: self.engine.view(),
            pools: &self.pools,
            specs: &self.workers.spawn_specs,
            listening: &self.listening,
            processes: &self.workers.processes,
            stopping: self.shutdown.stopping,
        }
    }
}

#[cfg(test)]
mod tests;
