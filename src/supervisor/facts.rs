//! Facts: turns what the kernel and the threads report (spawn results, notify messages, readiness, exits) into engine
//! inputs. `mod.rs` calls it for each event of the poller.

use super::Supervisor;
use super::event_builder::EventBuilder;
use super::health::watchdogs::WatchdogMessage;
use super::workers::Life;
use super::workers::process_table::ProcessStage;
use crate::observe::events::EventKind;
use crate::process::orphan_scanner::ScanReport;
use crate::process::procfs;
use crate::process::{Resolved, SpawnResult};
use rotad_core::{Exit, Input, WorkerId, WorkerState};
use std::io;

impl Supervisor {
    pub(super) fn on_spawn_result(&mut self, result: SpawnResult) {
        match &result {
            SpawnResult::Started { worker, child }
            | SpawnResult::ExecPending { worker, child, .. } => {
                self.generation_pinned(*worker, child.pinned.as_ref(), child.repinned);
            }
            SpawnResult::Failed {
                worker,
                pinned,
                repinned,
                ..
            } => {
                self.program_missing(*worker);
                self.generation_pinned(*worker, pinned.as_ref(), *repinned);
            }
        }
        let context = self.event_loop.context(&self.log, &self.clock);
        let actions = self.workers.on_spawn_result(&context, result);
        self.perform(actions);
    }

    fn generation_pinned(&mut self, worker: WorkerId, resolved: Option<&Resolved>, repinned: bool) {
        let (Some(process), Some(resolved)) = (self.workers.processes.get(worker), resolved) else {
            return;
        };
        let (pool, generation) = (process.pool, process.generation);
        self.workers.spawn_specs.set_resolved(pool, generation);
        if repinned {
            let text = format!(
                "the directory or program that it was pinned to is gone; resolved again: {} in {}",
                resolved.program.display(),
                resolved.directory.display()
            );
            self.emit(
                EventBuilder::new(EventKind::PathsResolvedAgain, text)
                    .pool(pool)
                    .generation(generation)
                    .warn(),
            );
        }
        let base = self.engine.view().fill_generation(pool);
        let same = base.is_some_and(|base| {
            base != generation && self.lookup().same_files(pool, base, generation)
        });
        self.engine.push(Input::Pinned {
            pool,
            generation,
            same,
        });
    }

    /// The program is missing, in the same directory that the generation before uses: that, too, is a directory changed
    /// in place.
    fn program_missing(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let (pool, generation) = (process.pool, process.generation);
        let Some(base) = self
            .engine
            .view()
            .fill_generation(pool)
            .filter(|base| *base != generation)
        else {
            return;
        };
        let specs = self
            .pools
            .spec_of(pool, base)
            .zip(self.pools.spec_of(pool, generation));
        let alike = specs.is_some_and(|(one, other)| one.is_alike(other));
        let directories = self
            .workers
            .spawn_specs
            .resolved(pool, base)
            .zip(self.workers.spawn_specs.directory(pool, generation));
        if alike && directories.is_some_and(|(found, directory)| found.directory == directory) {
            self.engine.push(Input::Pinned {
                pool,
                generation,
                same: true,
            });
        }
    }

    pub(super) fn on_exec_status(&mut self, worker: WorkerId) {
        let context = self.event_loop.context(&self.log, &self.clock);
        let actions = self.workers.on_exec_status(&context, worker);
        self.perform(actions);
    }

    /// A worker's messages. Whether it is ready counts before what it says of its watchdog.
    pub(super) fn read_messages(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let counts = self.health.readiness.by_message(worker, &process.spec.plan);
        let (inputs, watchdog, peeked) = self.workers.read_messages(worker, counts);
        for input in inputs {
            self.engine.push(input);
        }
        if let Some(peeked) = peeked {
            self.save();
            self.workers.consume_messages(worker, peeked);
        }
        self.settle();
        for message in watchdog {
            let message = WatchdogMessage {
                alive: message.watchdog,
                broken: message.trigger,
                interval: message.watchdog_interval.map(Into::into),
            };
            let now = self.clock.now();
            let actions = self.health.on_watchdog_message(worker, message, now);
            self.perform(actions);
        }
    }

    /// A worker has exited. What it sent before counts before that. `certain`: the kernel has reported the exit, which is
    /// final, whatever waitid(2) shows us. Otherwise the process may still run, and is only checked.
    pub(super) fn worker_exited(&mut self, worker: WorkerId, certain: bool) {
        if self.workers.has_messages(worker) {
            self.read_messages(worker);
        }
        self.on_exec_status(worker);
        self.settle();
        if certain && self.asks_guardian(worker) {
            return;
        }
        let now = self.clock.now();
        let view = self.engine.view().worker(worker);
        let life = view.map_or_else(Life::default, |view| Life {
            age: now - view.began,
            starting: view.state == WorkerState::Starting,
            stopping: view.state == WorkerState::Stopping,
            served: view.ready_in.is_some(),
        });
        let context = self.event_loop.context(&self.log, &self.clock);
        let actions = self.workers.check_exit(&context, worker, certain, life);
        self.perform(actions);
        self.settle();
    }

    /// Whether a worker is not our child, and its exit is not known yet: then the guardian is asked, whose answer
    /// comes to [`Supervisor::on_told_exit`].
    fn asks_guardian(&mut self, worker: WorkerId) -> bool {
        let Some(process) = self.workers.processes.get(worker) else {
            return false;
        };
        let Some(child) = process.child().filter(|child| child.needs_telling()) else {
            return false;
        };
        let pid = child.pid();
        let asked = match &self.guardian {
            Some(guardian) => guardian.ask_exit(pid),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match asked {
            Ok(()) => {
                if let Some(pidfd) = child.pidfd() {
                    self.event_loop.poller.unwatch(pidfd);
                }
                true
            }
            // Many have ended at the same moment. It is still watched, so it is asked for again in the next turn.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(_) => {
                self.on_told_exit(pid, None);
                false
            }
        }
    }

    /// None: the guardian does not know it. Then the kernel may, also after the process was reaped.
    pub(super) fn on_told_exit(&mut self, pid: i32, exit: Option<Exit>) {
        let Some(worker) = self.workers.processes.of_pid(pid) else {
            return;
        };
        if let Some(process) = self.workers.processes.get_mut(worker)
            && let ProcessStage::Alive(child) = &mut process.stage
        {
            // A zombie tells it in /proc, and the pidfd once its parent has reaped it.
            let known = exit
                .or_else(|| child.exit_info())
                .or_else(|| procfs::exit_of_zombie(pid))
                .or_else(|| child.exit_info());
            child.set_exit(known.unwrap_or(Exit::Unknown));
        }
        self.worker_exited(worker, true);
    }

    /// SIGCHLD: reaps orphans of our workers, and checks all workers where there are no pidfds.
    pub(super) fn on_sigchld(&mut self) {
        self.workers.reap_orphans(self.clock.now());
        for worker in self.workers.to_check() {
            self.worker_exited(worker, false);
        }
        let context = self.event_loop.context(&self.log, &self.clock);
        let actions = self.workers.on_child_exited(&context);
        self.perform(actions);
    }

    pub(super) fn on_orphan_scan(&mut self, report: ScanReport) {
        let context = self.event_loop.context(&self.log, &self.clock);
        let actions = self.workers.on_orphan_scan(&context, report);
        self.perform(actions);
    }
}
