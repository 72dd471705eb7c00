//! Actions: what a part of the supervisor wants to have done outside of itself.
//!
//! The parts (`workers`, `health`, `reload`, `clients`, …) own their state. Their methods take what they need to know as
//! arguments and return actions; they see neither the engine nor each other. The supervisor performs the actions in
//! their order.

use super::Supervisor;
use super::clients::tickets::Owner;
use super::event_log::EventBuilder;
use super::health::probes::Purpose;
use super::health::readiness::by_accepting;
use super::listening::ListenerId;
use super::workers::background::Suspect;
use super::workers::probe_request::probe_request;
use crate::listener::{FileCheck, FileOwnership, ReplacementSocket};
use rotad_core::{Input, Request, WorkerId};

/// Something to be done outside of the part that returns it.
#[derive(Debug)]
pub(super) enum Action {
    /// Emit an event.
    Emit(EventBuilder),
    /// Queue an input for the engine.
    Input(Input),
    /// Set why a worker is not ready, or unhealthy: the reason given when it is killed for that.
    SetProbeError(WorkerId, Option<String>),
    /// Start a probe of a worker, by `Probing::start`.
    StartProbe {
        number: u64,
        worker: WorkerId,
        purpose: Purpose,
    },
    /// Ask the engine to replace a worker that serves; its reply goes to `Health::on_replace_reply`.
    Replace(WorkerId),
    /// Hand the spawn of a worker to the spawner. `port`: the one that it was given, of its pool's `ports`.
    Spawn { worker: WorkerId, port: Option<u16> },
    /// Report the spawn of a worker as failed; it was not submitted.
    FailSpawn { worker: WorkerId, error: String },
    /// Start the blocking job that checks and repairs the runtime directory; its result goes to `Runtime::repaired`.
    RepairRuntimeDir,
    /// Start the blocking job that checks a listening socket and its file, and may replace it; its result goes to
    /// `Listening::on_checked`.
    CheckListener(ListenerId, FileCheck, bool),
    /// Close a socket that was made for a listener which is gone, and remove its file, in a blocking job.
    DiscardSocket(ReplacementSocket),
    /// Set owner and mode of the file of the listener of this name, in a blocking job.
    SetFileOwnership(String, FileOwnership),
    /// A listener has a new socket: clients no longer reach the workers that hold the old one.
    ReplaceHolders(ListenerId),
    /// The worker's program runs: its readiness and health are looked at from now on, and the engine learns of it.
    ProgramRuns(WorkerId),
    /// The worker has ended, ready or not: nothing looks for its readiness and health any more.
    EndHealth(WorkerId),
    /// Nothing is left of the worker: its port is free for another one.
    ReleasePort(WorkerId),
    /// A process has lost its parent and belongs to no worker: it may be a program that goes into the background.
    UnownedProcess { pid: i32, name: String },
}

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
            Action::Spawn { worker, port } => {
                let context = self.event_loop.context(&self.log, &self.clock);
                following.extend(self.workers.submit(&context, &self.listening, worker, port));
            }
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
        self.engine.push(Input::Started(worker));
        self.health.on_running(worker, plan, self.clock.now())
    }

    /// A process belongs to no worker: the pools whose program it may be are warned.
    fn suspect_daemon(&mut self, pid: i32, name: &str) -> Vec<Action> {
        let view = self.engine.view();
        let suspect = |(pool, _)| {
            Some(Suspect {
                pool,
                slots: self.pools.policy(pool)?.count,
                generation: view.pool(pool)?.fill_generation,
            })
        };
        let suspects: Vec<Suspect> = self.pools.iter().filter_map(suspect).collect();
        self.workers.report_daemonized_orphan(pid, name, &suspects)
    }
}
