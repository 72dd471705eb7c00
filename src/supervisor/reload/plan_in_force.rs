//! The plan in force: the configuration as it was applied, pool by pool. A pool whose change was put back, or that is
//! rolled back, has another one than the file.

use super::file_watch::own_files;
use crate::plan::{ListenPlan, Plan};
use crate::supervisor::Supervisor;
use crate::supervisor::listening::Listening;
use crate::supervisor::pool_registry::PoolRegistry;

/// Rebuilds the pools and listeners of the plan from the pools' next specs.
fn rebuild(plan: &mut Plan, pools: &PoolRegistry, listening: &Listening) {
    let mut listeners = Vec::new();
    let mut number = |socket: &ListenPlan, own: Option<&ListenPlan>| {
        // The open socket's own plan has the current backlog and mode; the name is the spec's.
        let socket = ListenPlan {
            name: socket.name.clone(),
            ..own.unwrap_or(socket).clone()
        };
        listeners
            .iter()
            .position(|known| *known == socket)
            .unwrap_or_else(|| {
                listeners.push(socket);
                listeners.len() - 1
            })
    };
    plan.pools.clear();
    for (id, pool) in pools.iter() {
        let Some(next_spec) = pools.next_spec(id) else {
            continue;
        };
        let mut pool = pool.clone();
        let sockets = next_spec.sockets.iter().zip(&next_spec.listeners);
        pool.recipe.listen = sockets
            .map(|(socket, id)| number(socket, listening.get(*id).map(|own| own.plan())))
            .collect();
        plan.pools.push(pool);
    }
    for listener in listening.lone().iter().filter_map(|id| listening.get(*id)) {
        number(listener.plan(), None);
    }
    plan.listeners = listeners;
}

impl Supervisor {
    /// Rebuilds the plan in force after the pools' specs have changed.
    pub(crate) fn refresh_plan(&mut self) {
        rebuild(&mut self.plan, &self.pools, &self.listening);
        self.schedule_daily();
    }

    /// Watches what the plan in force says.
    pub(crate) fn watch_files(&mut self) {
        let own = own_files(
            &self.plan,
            &self.pools,
            self.log.file.as_deref(),
            self.runtime.path(),
        );
        let program = self.plan.master.watch_program;
        let program = self.saver.as_ref().filter(|_| program);
        let program = program.and_then(|saver| saver.program());
        let files = &mut self.reload.file_watch;
        let event = files.follow(&self.plan, &self.pools, &own, program.as_deref());
        if let Some(event) = event {
            self.emit(event);
        }
    }
}
