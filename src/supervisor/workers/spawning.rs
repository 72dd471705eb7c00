//! From the engine's `Spawn` to a running program, or to the reason why there is none.
//!
//! Order: [`Workers::add`], then [`Workers::submit`] once the worker has its port, [`Workers::prepare_next`] once the spawner
//! has room for it, [`Workers::spawn_prepared`] once it is saved, then [`Workers::on_spawn_result`] exactly once. Where the program still has to be executed, [`Workers::on_exec_status`] tells whether it was.

use crate::event_loop::poller::{Interest, Source};
use crate::log::WorkerOutput;
use crate::notify_socket::NotifySocket;
use crate::observe::events::EventKind;
use crate::process::cgroup::Cgroup;
use crate::process::tree::{Identity, ProcessTree};
use crate::process::{self, SpawnResult, SpawnedChild};
use crate::supervisor::action::Action;
use crate::supervisor::counters::Count;
use crate::supervisor::event_builder::EventBuilder;
use crate::supervisor::listening::Listening;
use crate::supervisor::pool_registry::PoolSpec;
use crate::supervisor::workers::exit_report::last_exit;
use crate::supervisor::workers::process_table::{DeferredSignal, ProcessStage, WorkerProcess};
use crate::supervisor::workers::spawn_spec::SpawnParams;
use crate::supervisor::workers::trees::Event;
use crate::supervisor::workers::{LoopContext, Workers};
use crate::sys::process::Process;
use rotad_core::{Generation, Input, PoolId, Slot, WorkerId};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// So many spawns are prepared at a time: each has an environment, a pipe and a socket, and the threads of the spawner must not
/// run out of them.
const MAX_PREPARED: usize = 16;

impl Workers {
    /// Adds a worker that is to be spawned from `spec`.
    pub(crate) fn add(
        &mut self,
        worker: WorkerId,
        (pool, slot): (PoolId, Slot),
        generation: Generation,
        spec: Arc<PoolSpec>,
    ) {
        let tag = self.tag(worker);
        let process = WorkerProcess {
            pool,
            slot,
            generation,
            spec,
            tag,
            stage: ProcessStage::Spawning(Vec::new()),
            exec_status: None,
            notify: None,
            output: None,
            cgroup: None,
            tree: None,
            status_text: None,
            exit: None,
            error: None,
            ready: false,
            port: None,
            adopted: false,
            probe_error: None,
            end_reason: None,
        };
        self.processes.add(worker, process);
    }

    /// Queues the worker to be spawned. `port`: the one assigned to it, if its pool has ports.
    pub(crate) fn submit(&mut self, worker: WorkerId, port: Option<u16>) {
        if let Some(process) = self.processes.get_whole_mut(worker) {
            process.port = port;
        }
        self.to_spawn.push_back(worker);
    }

    /// Prepares as many requests as the spawner has room for.
    pub(crate) fn prepare_next(
        &mut self,
        context: &LoopContext<'_>,
        listening: &Listening,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.spawner.outstanding() + self.prepared.len() < MAX_PREPARED
            && let Some(worker) = self.to_spawn.pop_front()
        {
            match self.prepare(context, listening, worker) {
                Ok(report) => actions.extend(report),
                Err(error) => {
                    let error = format!("cannot prepare it: {error}");
                    actions.extend(self.fail_spawn(context, worker, error));
                }
            }
        }
        actions
    }

    /// Hands over what was prepared. To be called once the workers are saved: a master that goes on after this one
    /// has to know of each process that there may be.
    pub(crate) fn spawn_prepared(&mut self) {
        for request in std::mem::take(&mut self.prepared) {
            self.spawner.request(request);
        }
    }

    /// Returns what has to be reported.
    fn prepare(
        &mut self,
        context: &LoopContext<'_>,
        listening: &Listening,
        worker: WorkerId,
    ) -> io::Result<Option<Action>> {
        let Some(process) = self.processes.get_whole_mut(worker) else {
            return Ok(None);
        };
        let (slot, spec) = (process.slot, process.spec.clone());
        let plan = &spec.plan;
        let owner = plan.recipe.account.as_ref().map(|account| account.uid);
        self.spawn_specs.node_preload_mut().provide(&plan.recipe)?;
        let notify = NotifySocket::open(&self.notify_dir, worker, owner)?;
        let (output, (stdout, stderr)) =
            WorkerOutput::open(&plan.name, slot.0, &plan.log, owner, &self.null)?;
        context.log.adopt(&output);
        let value = notify.env_value();
        let pid = output.pid();
        process.notify = Some(notify);
        process.output = Some(output);
        let (cgroup, report) = self.cgroups.make(worker);
        process.cgroup = cgroup;
        let params = SpawnParams {
            worker,
            pool: process.pool,
            slot,
            generation: process.generation,
            tag: &process.tag,
            port: process.port,
            notify: Some(value),
            stdout,
            stderr,
            cgroup: process.cgroup.as_ref().map(Cgroup::procs),
            pid,
        };
        let listeners = listening.of(&spec.listeners);
        let request = self.spawn_specs.request(&spec, &listeners, &params);
        self.prepared.push(request);
        Ok(report)
    }

    /// The worker was spawned by a dead master, which had not recorded its process.
    pub(crate) fn found_spawned(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
        (pid, start_time): Identity,
    ) -> Vec<Action> {
        let Ok(process) = Process::open_pid(pid) else {
            return self.spawn_again(context, worker);
        };
        let child = SpawnedChild {
            process,
            start_time,
            pinned: None,
            repinned: false,
        };
        // The process has stored it for the dead master.
        let output = self
            .processes
            .get(worker)
            .and_then(|process| process.output.as_ref());
        if let Some(output) = output {
            output.pid().store(pid, Ordering::Relaxed);
        }
        let mut actions = self.process_started(context, worker, child);
        actions.extend(self.program_runs(worker));
        actions
    }

    /// A dead master was about to spawn the worker, and there is no process of it.
    pub(crate) fn spawn_again(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
    ) -> Vec<Action> {
        let Some(process) = self.processes.get_whole_mut(worker) else {
            return Vec::new();
        };
        // They are made again, the socket under the same name.
        process.notify = None;
        process.cgroup = None;
        if let Some(output) = process.output.take() {
            context.log.ended(&output);
        }
        let port = process.port;
        vec![Action::Spawn { worker, port }]
    }

    /// A dead master may have made the notify socket of a worker that it had not spawned, and not have saved it.
    pub(crate) fn remove_unsaved_socket(&self, worker: WorkerId) {
        std::fs::remove_file(self.notify_dir.join(worker.to_string())).ok();
    }

    /// Takes the result of a spawn.
    pub(crate) fn on_spawn_result(
        &mut self,
        context: &LoopContext<'_>,
        result: SpawnResult,
    ) -> Vec<Action> {
        self.spawner.answered();
        match result {
            SpawnResult::Started { worker, child } => {
                let mut actions = self.process_started(context, worker, child);
                actions.extend(self.program_runs(worker));
                actions
            }
            SpawnResult::ExecPending {
                worker,
                child,
                exec_status,
            } => {
                let actions = self.process_started(context, worker, child);
                if let Some(process) = self.processes.get_mut(worker)
                    && context
                        .poller
                        .watch(&exec_status, Source::ExecStatus(worker), Interest::Read)
                        .is_ok()
                {
                    process.exec_status = Some(exec_status);
                }
                actions
            }
            SpawnResult::Failed { worker, error, .. } => {
                self.fail_spawn(context, worker, error.to_string())
            }
        }
    }

    fn process_started(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
        child: SpawnedChild,
    ) -> Vec<Action> {
        let SpawnedChild {
            process: child,
            start_time,
            ..
        } = child;
        let pid = child.pid();
        let mut failures = Vec::new();
        match child.pidfd().map(|fd| {
            context
                .poller
                .watch(fd, Source::Exit(worker), Interest::Read)
        }) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                failures.push(unwatched(worker, Unwatched::Exit, &error));
                self.processes.without_pidfds = true;
            }
            None => self.processes.without_pidfds = true,
        }
        let Some(process) = self.processes.get_mut(worker) else {
            return Vec::new();
        };
        // Only now: a message sent earlier waits in the socket until we know the sender's pid.
        if let Some(notify) = &process.notify
            && let Err(error) =
                context
                    .poller
                    .watch(notify.as_fd(), Source::Notify(worker), Interest::Read)
        {
            failures.push(unwatched(worker, Unwatched::Messages, &error));
        }
        process.tree = Some(ProcessTree {
            leader: pid,
            cgroup: process.cgroup.take(),
        });
        let before = std::mem::replace(&mut process.stage, ProcessStage::Alive(child));
        let event = EventBuilder::new(EventKind::Spawn, format!("started as pid {pid}"));
        let mut actions = vec![Action::Emit(
            event.worker(worker).counts(Count::Start).debug(),
        )];
        actions.extend(failures);
        actions.extend(self.journal.add(process, start_time));
        self.processes.add_pid(pid, worker);
        if let ProcessStage::Spawning(deferred) = before {
            for signal in deferred {
                match signal {
                    DeferredSignal::Signal(signal) => self.processes.signal(worker, signal),
                    DeferredSignal::Kill => self.processes.kill(worker),
                }
            }
        }
        actions
    }

    /// Exec has succeeded.
    fn program_runs(&mut self, worker: WorkerId) -> Vec<Action> {
        let Some(process) = self.processes.get(worker) else {
            return Vec::new();
        };
        let report = self.cgroups.prove(worker, process);
        let mut actions: Vec<Action> = report.into_iter().collect();
        actions.push(Action::ProgramRuns(worker));
        actions
    }

    /// The shim has reported whether exec succeeded, or has ended.
    pub(crate) fn on_exec_status(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
    ) -> Vec<Action> {
        let process = self.processes.get(worker);
        let Some(exec_status) = process.and_then(|process| process.exec_status.as_ref()) else {
            return Vec::new();
        };
        let result = match process::exec_status(exec_status) {
            Ok(None) => return Vec::new(),
            Ok(Some(result)) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!(
                "cannot read the exec status from the shim: {error}"
            )),
        };
        let Some(process) = self.processes.get_mut(worker) else {
            return Vec::new();
        };
        if let Some(pipe) = process.exec_status.take() {
            context.poller.unwatch(&pipe);
        }
        match result {
            Ok(()) => self.program_runs(worker),
            Err(error) => {
                // The child exits next, and with that the spawn has failed.
                process.error = Some(error);
                Vec::new()
            }
        }
    }

    /// The worker cannot be spawned, or is not to be any more. It has no process.
    pub(crate) fn fail_spawn(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
        error: String,
    ) -> Vec<Action> {
        if let Some(process) = self.processes.get_mut(worker) {
            process.error = Some(error);
        }
        self.spawn_failed(context, worker)
    }

    /// The spawn has failed and its process, if there was one, is gone: records why and tells the engine.
    pub(super) fn spawn_failed(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
    ) -> Vec<Action> {
        let Some(mut process) = self.processes.remove(worker) else {
            return Vec::new();
        };
        // The path of its program may have values of variables.
        let program = process.spec.plan.recipe.command.first().cloned();
        let error = process.error.take();
        let error = error.map(|text| program.map_or(text.clone(), |name| name.hide_values(&text)));
        let exit = last_exit(None, error, 0.0, process.last_lines(context.log));
        self.exit_reports
            .add(worker, process.exit_report(exit, false));
        let mut actions = Vec::new();
        self.dispose(context, worker, process, &mut actions);
        actions.push(Action::EndHealth(worker));
        actions.push(Action::Input(Input::SpawnFailed(worker)));
        actions
    }

    /// Releases what is left of a worker: poller entries, log pipe, journal entry, the zombie, and its port.
    pub(super) fn dispose(
        &mut self,
        context: &LoopContext<'_>,
        worker: WorkerId,
        process: WorkerProcess,
        actions: &mut Vec<Action>,
    ) {
        self.trees.handle(context.now, Event::Forgotten(worker));
        if let Some(notify) = &process.notify {
            context.poller.unwatch(notify.as_fd());
        }
        if let Some(output) = &process.output {
            context.log.ended(output);
            let log = &process.spec.plan.log;
            self.processes.left_output(worker, output, log);
        }
        if let ProcessStage::Alive(child) = process.stage {
            if let Some(pidfd) = child.pidfd()
                && process.exit.is_none()
            {
                context.poller.unwatch(pidfd);
            }
            self.journal.forget(child.pid());
            self.processes.reap(context.now, child);
        }
        if process.port.is_some() {
            actions.push(Action::ReleasePort(worker));
        }
    }
}

/// What of a worker the main loop waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unwatched {
    Exit,
    Messages,
}

/// Reports that epoll refuses a descriptor of a worker: a lack of memory, or fs.epoll.max_user_watches (epoll_ctl(2)).
pub(super) fn unwatched(worker: WorkerId, what: Unwatched, error: &io::Error) -> Action {
    let (cause, text) = match what {
        Unwatched::Exit => (
            "exit",
            format!("cannot wait for its exit ({error}): it is looked for at each SIGCHLD instead"),
        ),
        Unwatched::Messages => (
            "messages",
            format!(
                "cannot hear what it sends ({error}): READY=1, STATUS= and WATCHDOG=1 do not arrive until it is \
                 replaced"
            ),
        ),
    };
    let event = EventBuilder::new(EventKind::Unwatched, text).worker(worker);
    Action::Emit(event.cause(cause).error())
}
