//! Performs the actions that the parts return: with the engine, the event log, and the other parts.

use super::Supervisor;
use super::action::Action;
use super::clients::tickets::Owner;
use super::health::probes::Purpose;
use super::health::readiness::by_accepting;
use super::workers::background::Suspect;
use super::workers::probe_request::probe_request;
use rotad_core::{Input, Request, WorkerId};

impl Supervisor {
    /// Performs the actions of a part, in order. What they lead to follows after them.
    pub(super) fn perform(&mut self, actions: impl IntoIterator<Item = Action>) {
        let mut following = Vec::new();
        for action in actions {
            self.perform_one(action, &mut following);
        }
        while !following.is_empty() {
            for action in std::mem::take(&mut following) {
                self.perform_one(action, &mut following);
            }
        }
    }

    fn perform_one(&mut self, action: Action, following: &mut Vec<Action>) {
        match action {
            Action::Emit(event) => self.emit(event),
            Action::Input(input) => self.engine.push(input),
            Action::SetProbeError(worker, error) => {
                if let Some(process) = self.workers.processes.get_mut(worker) {
                    process.probe_error = error;
                }
            }
            Action::StartProbe {
                number,
                worker,
                purpose,
            } => {
                following.extend(self.start_probe(number, worker, purpose));
            }
            Action::Replace(worker) => {
                if let Some(process) = self.workers.processes.get(worker) {
                    let request = Request::Replace(process.pool, process.slot);
                    let ticket = self.clients.tickets.of(Owner::Recycling(worker));
                    self.engine.request_with(ticket, request);
                }
            }
            Action::Spawn { worker, port } => self.workers.submit(worker, port),
            Action::FailSpawn { worker, error } => {
                let context = self.event_loop.context(&self.log, &self.clock);
                following.extend(self.workers.fail_spawn(&context, worker, error));
            }
            Action::RepairRuntimeDir => {
                let (dir, control) = (self.runtime.dir(), &self.plan.control);
                let job = (dir, control.mode, control.group);
                if self.shutdown.exiting.is_some() {
                    self.runtime.abandon_repair();
                } else if let Err(error) =
                    self.reload.blocking.repair_runtime_dir(job.0, job.1, job.2)
                {
                    self.runtime.not_started(self.clock.now(), &error);
                }
            }
            Action::CheckListener(id, check, may_replace) => {
                let job = self.reload.blocking.check_listener(id, check, may_replace);
                if let Err(error) = job {
                    self.listening
                        .check_not_started(id, &error, self.clock.now());
                }
            }
            Action::DiscardSocket(socket) => self.reload.blocking.discard(socket),
            Action::SetFileOwnership(name, ownership) => {
                self.reload.blocking.set_file_ownership(name, ownership);
            }
            Action::ReplaceHolders(id) => {
                let holders = self.workers.processes.holders_of(id);
                self.engine.push(Input::Unreachable(holders));
            }
            Action::ProgramRuns(worker) => following.extend(self.program_runs(worker)),
            Action::EndHealth(worker) => {
                following.extend(self.health.on_end(worker, self.clock.now()));
            }
            Action::ReleasePort(worker) => following.extend(self.health.ports.release(worker)),
            Action::UnownedProcess { pid, name } => {
                following.extend(self.suspect_daemon(pid, &name));
            }
        }
    }

    /// Checks all listening sockets: for each request, signal or file change that rolls or reloads.
    pub(super) fn check_all_listeners(&mut self) {
        let (now, poller) = (self.clock.now(), &self.event_loop.poller);
        let actions = self.listening.check_all(now, poller);
        self.perform(actions);
    }

    fn start_probe(&mut self, number: u64, worker: WorkerId, purpose: Purpose) -> Vec<Action> {
        let request = match self.workers.processes.get(worker) {
            None => Err("it is gone".to_owned()),
            Some(process) => probe_request(
                worker,
                process,
                purpose,
                &self.listening.of(&process.spec.listeners),
                &mut self.workers.spawn_specs,
                &self.workers.null,
            ),
        };
        self.health.probing.start(number, request, self.clock.now())
    }

    /// Exec has succeeded: starts the checks of readiness and health.
    fn program_runs(&mut self, worker: WorkerId) -> Vec<Action> {
        self.engine.push(Input::Started(worker));
        self.watch_readiness(worker)
    }

    /// Starts the checks of readiness of a worker of a dead master.
    pub(super) fn check_readiness(&mut self, worker: WorkerId) {
        let actions = self.watch_readiness(worker);
        self.perform(actions);
    }

    fn watch_readiness(&mut self, worker: WorkerId) -> Vec<Action> {
        let Some(process) = self.workers.processes.get(worker) else {
            return Vec::new();
        };
        let plan = &process.spec.plan;
        if let (true, Some(pid)) = (by_accepting(plan), process.pid()) {
            let targets = self
                .listening
                .of(&process.spec.listeners)
                .iter()
                .map(|listener| listener.target())
                .collect();
            self.health.readiness.watch(worker, pid, targets);
        }
        self.health.on_running(worker, plan, self.clock.now())
    }

    /// A process belongs to no worker: the pools whose program it may be are warned.
    fn suspect_daemon(&mut self, pid: i32, name: &str) -> Vec<Action> {
        let view = self.engine.view();
        let suspect = |(pool, _)| {
            Some(Suspect {
                pool,
                slots: self.pools.policy(pool)?.count,
                generation: view.fill_generation(pool)?,
            })
        };
        let suspects: Vec<Suspect> = self.pools.iter().filter_map(suspect).collect();
        self.workers.report_daemonized_orphan(pid, name, &suspects)
    }
}
