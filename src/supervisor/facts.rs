//! Facts: turns what the kernel and the threads report (spawn results, notify messages, readiness, exits) into engine
//! inputs. `mod.rs` calls it for each event of the poller.

use super::Supervisor;
use super::event_log::EventBuilder;
use super::health::readiness::by_accepting;
use super::health::watchdogs::WatchdogMessage;
use super::workers::exit_report::last_exit;
use super::workers::process_table::{DeferredSignal, ProcessStage, WorkerProcess};
use crate::event_loop::clock::span;
use crate::event_loop::poller::{Interest, Source};
use crate::log::LogWriter;
use crate::notify_socket::Message;
use crate::observe::events::EventKind;
use crate::observe::sanitize::sanitize;
use crate::process::procfs;
use crate::process::tree::ProcessTree;
use crate::process::{self, Resolved, SpawnResult, SpawnedChild};
use rotad_core::{Exit, Input, Span, WorkerId, WorkerState};
use std::os::fd::AsFd;

/// Maximum notify messages read from one worker before others have their turn.
const MESSAGES_A_TURN: usize = 100;

impl Supervisor {
    pub(super) fn on_spawn_result(&mut self, result: SpawnResult) {
        self.workers.spawner.answered();
        match result {
            SpawnResult::Started { worker, child } => {
                self.process_started(worker, child);
                self.program_running(worker);
            }
            SpawnResult::ExecPending {
                worker,
                child,
                exec_status,
            } => {
                self.process_started(worker, child);
                if let Some(process) = self.workers.processes.get_mut(worker)
                    && self
                        .event_loop
                        .poller
                        .watch(&exec_status, Source::ExecStatus(worker), Interest::Read)
                        .is_ok()
                {
                    process.exec_status = Some(exec_status);
                }
            }
            SpawnResult::Failed {
                worker,
                error,
                pinned,
                repinned,
            } => {
                self.program_missing(worker);
                self.generation_pinned(worker, pinned, repinned);
                if let Some(process) = self.workers.processes.get_mut(worker) {
                    process.error = Some(error.to_string());
                }
                self.spawn_failed(worker);
            }
        }
    }

    fn generation_pinned(&mut self, worker: WorkerId, resolved: Option<Resolved>, repinned: bool) {
        let (Some(process), Some(resolved)) = (self.workers.processes.get(worker), resolved) else {
            return;
        };
        let (pool, generation) = (process.pool, process.generation);
        if repinned {
            let text = format!(
                "the folder or program that it was pinned to is gone; resolved again: {} in {}",
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
        let base = self
            .engine
            .view()
            .pool(pool)
            .map(|view| view.fill_generation);
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
            .pool(pool)
            .map(|view| view.fill_generation)
            .filter(|base| *base != generation)
        else {
            return;
        };
        let specs = self
            .pools
            .spec_of(pool, base)
            .zip(self.pools.spec_of(pool, generation));
        let alike = specs.is_some_and(|(one, other)| one.is_alike(other));
        let folders = self
            .workers
            .spawn_specs
            .resolved(pool, base)
            .zip(self.workers.spawn_specs.folder(pool, generation));
        if alike && folders.is_some_and(|(found, folder)| found.directory == folder) {
            self.engine.push(Input::Pinned {
                pool,
                generation,
                same: true,
            });
        }
    }

    fn process_started(&mut self, worker: WorkerId, spawned: SpawnedChild) {
        let SpawnedChild {
            process: child,
            start_time,
            pinned,
            repinned,
        } = spawned;
        self.generation_pinned(worker, pinned, repinned);
        let pid = child.pid();
        match child.pidfd().map(|fd| {
            self.event_loop
                .poller
                .watch(fd, Source::Exit(worker), Interest::Read)
        }) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(pid, "cannot watch the worker: {error}");
                self.workers.processes.without_pidfds = true;
            }
            None => self.workers.processes.without_pidfds = true,
        }
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return;
        };
        // Only now: a message sent earlier waits in the socket until we know the sender's pid.
        if let Some(notify) = &process.notify
            && let Err(error) =
                self.event_loop
                    .poller
                    .watch(notify.as_fd(), Source::Notify(worker), Interest::Read)
        {
            tracing::error!(pid, "cannot watch its notify socket: {error}");
        }
        process.tree = Some(ProcessTree {
            leader: pid,
            cgroup: process.cgroup.take(),
        });
        let before = std::mem::replace(&mut process.stage, ProcessStage::Alive(child));
        let journal = self.workers.journal.add(process, start_time);
        self.emit(
            EventBuilder::new(EventKind::Spawn, format!("started as pid {pid}"))
                .worker(worker)
                .debug(),
        );
        self.perform(journal);
        self.workers.processes.add_pid(pid);
        let ProcessStage::Spawning(asked) = before else {
            return;
        };
        for asked in asked {
            match asked {
                DeferredSignal::Signal(signal) => self.workers.processes.signal(worker, signal),
                DeferredSignal::Kill => self.workers.processes.kill(worker),
            }
        }
    }

    /// Exec has succeeded: starts the checks of readiness and health.
    fn program_running(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get(worker) else {
            return;
        };
        let pid = process.pid();
        self.workers.cgroups.prove(process);
        let plan = &process.spec.plan;
        if let (true, Some(pid)) = (by_accepting(plan), pid) {
            let targets = self
                .listening
                .of(&process.spec.listeners)
                .iter()
                .map(|listener| listener.target())
                .collect();
            self.health.readiness.watch(worker, pid, targets);
        }
        self.engine.push(Input::Started(worker));
        let actions = self.health.on_running(worker, plan, self.clock.now());
        self.perform(actions);
    }

    pub(super) fn on_exec_status(&mut self, worker: WorkerId) {
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return;
        };
        let Some(pipe) = &process.exec_status else {
            return;
        };
        let result = match process::exec_status(pipe) {
            Ok(None) => return,
            Ok(Some(result)) => result.map_err(|error| error.to_string()),
            Err(error) => Err(format!(
                "cannot read the exec status from the shim: {error}"
            )),
        };
        if let Some(pipe) = process.exec_status.take() {
            self.event_loop.poller.unwatch(&pipe);
        }
        match result {
            Ok(()) => self.program_running(worker),
            // The child exits next; `check_exit` then reports the failed spawn.
            Err(error) => process.error = Some(error),
        }
    }

    /// The spawn has failed and its process, if there was one, is gone: records why and tells the engine.
    pub(super) fn spawn_failed(&mut self, worker: WorkerId) {
        let Some(mut process) = self.workers.processes.remove(worker) else {
            return;
        };
        let log = last_lines(&self.log.writer, &process);
        let exit = last_exit(None, process.error.take(), 0.0, log);
        self.workers
            .exit_reports
            .add(worker, process.exit_report(exit, false));
        self.dispose(process);
        let actions = self.health.ports.release(worker);
        self.perform(actions);
        self.health.readiness.forget(worker);
        self.engine.push(Input::SpawnFailed(worker));
    }

    /// Reads a worker's messages. Returns those that concern its watchdog.
    pub(super) fn on_notify_messages(&mut self, worker: WorkerId) -> Vec<WatchdogMessage> {
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return Vec::new();
        };
        let Some(notify) = &process.notify else {
            return Vec::new();
        };
        let plan = &process.spec.plan;
        let counts = self.health.readiness.by_message(worker, plan);
        let (mut inputs, mut watchdog) = (Vec::new(), Vec::new());
        for message in notify.drain(MESSAGES_A_TURN) {
            if message.watchdog || message.trigger || message.watchdog_interval.is_some() {
                watchdog.push(WatchdogMessage {
                    alive: message.watchdog,
                    broken: message.trigger,
                    interval: message.watchdog_interval.map(span),
                });
            }
            let Message {
                ready,
                extend,
                status,
                stopping,
                ..
            } = message;
            if let Some(status) = status {
                process.status_text = Some(sanitize(status));
            }
            if let Some(by) = extend {
                inputs.push(Input::TimeoutExtended(
                    worker,
                    Span::from_millis(by.as_millis() as u64),
                ));
            }
            if ready {
                process.ready = true;
                if counts {
                    inputs.push(Input::Ready(worker));
                }
            }
            if stopping {
                tracing::debug!(pid = process.pid(), "reports that it is stopping");
            }
        }
        for input in inputs {
            self.engine.push(input);
        }
        watchdog
    }

    /// Takes the exit of a worker's first process. `certain`: the kernel has reported it.
    pub(super) fn check_exit(&mut self, worker: WorkerId, certain: bool) {
        let Some(process) = self.workers.processes.get_mut(worker) else {
            return;
        };
        if process.exit.is_some() {
            return;
        }
        let Some(child) = process.child() else { return };
        let mut unexplained = None;
        let exit = match child.peek_exit() {
            Ok(Some(exit)) => exit,
            Ok(None) if !certain => return,
            // A process under ptrace(2) belongs to its tracer to reap, until the tracer lets go.
            Ok(None) => exit_of_traced(child.pid()).unwrap_or_else(|why| {
                unexplained = Some(why);
                Exit::Unknown
            }),
            Err(error) => {
                tracing::error!(
                    pid = child.pid(),
                    "cannot learn how the worker ended: {error}"
                );
                Exit::Unknown
            }
        };
        if let Some(pidfd) = child.pidfd() {
            self.event_loop.poller.unwatch(pidfd);
        }
        if process.error.is_some() {
            return self.spawn_failed(worker);
        }
        process.exit = Some(exit);
        let log = last_lines(&self.log.writer, process);
        let view = self.engine.view().worker(worker);
        // Processes that outlive it may go on printing; their lines must not be cut in two.
        if view
            .as_ref()
            .is_none_or(|view| view.state != WorkerState::Stopping)
            && let Some(output) = &process.output
        {
            self.log.writer.ended(output);
        }
        let lived = view
            .as_ref()
            .map_or(0.0, |v| (self.clock.now() - v.began).as_secs_f64());
        let starting = view
            .as_ref()
            .is_some_and(|view| view.state == WorkerState::Starting);
        let served = view.is_some_and(|v| v.ready_in.is_some());
        let why = process.end_reason.clone().or(unexplained);
        let policy = &process.spec.plan.policy;
        process.early_exit = starting
            && policy.kind == rotad_core::PoolKind::Service
            && matches!(exit, Exit::Code(code) if policy.restart.success_exit_codes.contains(&code));
        let exit_report = process.exit_report(last_exit(Some(exit), why, lived, log), served);
        self.workers.exit_reports.add(worker, exit_report);
        self.health.readiness.forget(worker);
        self.engine.push(Input::Exited(worker, exit));
    }
}

/// How a child exited that waitid(2) hides from us because another process traces it. /proc/PID/stat has the exit
/// status, for those who may trace the process. The error is the reason, for people.
fn exit_of_traced(pid: i32) -> Result<Exit, String> {
    let tracer = procfs::tracer(pid);
    match tracer {
        Some(tracer) => tracing::warn!(
            pid,
            "has ended, and stays a zombie for as long as pid {tracer} traces it"
        ),
        None => tracing::warn!(
            pid,
            "has ended, and the kernel does not let it be reaped yet"
        ),
    }
    procfs::exit_of_zombie(pid).ok_or_else(|| match tracer {
        Some(tracer) => format!("unknown (it is traced by pid {tracer})"),
        None => "unknown (it cannot be reaped)".to_owned(),
    })
}

/// The last lines that a worker printed.
fn last_lines(log: &LogWriter, process: &WorkerProcess) -> Vec<String> {
    let Some(output) = &process.output else {
        return Vec::new();
    };
    log.tail(output)
}
